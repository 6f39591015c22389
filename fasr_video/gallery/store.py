"""The gallery: one folder that holds the people one looks for, bound to the embedder that made their vectors.

    GALLERY/
      gallery.sqlite                 the truth: subjects, images, templates, problems, removals, log
      vectors.faiss, vectors.json    the index and what it was made from: disposable, made anew from the truth

Each batch of photographs is one transaction. What is removed leaves the rows, the free pages, the write-ahead log and
the index, and the files are then searched for pieces of it. Several photographs of a subject make one more template,
their mean weighted by the embedder's norms.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import secrets
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PilImage

from fasr_video.actors import login, stated
from fasr_video.errors import EnvironmentFailure, FasrError, IntegrityError, UsageError
from fasr_video.files import make_private_folder, put_in_place, refuse_links, sync_folder, take_lock
from fasr_video.gallery import traces, values
from fasr_video.gallery.records import (
    LONGEST_ID,
    EnrolledPhoto,
    GalleryError,
    GalleryImage,
    Kind,
    PhotoOfAnother,
    Problem,
    Removal,
    Subject,
    Template,
    Vectors,
    WrongEmbedder,
)
from fasr_video.pictures import MOST_OF_A_FACE, UNREADABLE, decoded
from fasr_video.recognition.combiner import Source, weighted_mean
from fasr_video.recognition.embedder import Embedder
from fasr_video.schema import Shape, check_schema, check_values, find_problem, has_known_meta
from fasr_video.sqlite import (
    close_checkpointed,
    connect_to_read,
    connect_to_write,
    explain_errors,
    transaction,
)
from fasr_video.types import AlignedFace, Image

SCHEMA_VERSION = 1
DATABASE = "gallery.sqlite"
# The index, and what it was made from.
FILE, STAMP = "vectors.faiss", "vectors.json"
LOCK = ".lock"
PAGE = 16384  # bytes: a page holds seven vectors of 512 numbers, where one of 4096 bytes would hold one and half of air
CHUNK = 8192  # rows at a time
ASKED = 900  # values in one SQL list
FINISH = "run: fasr-video gallery check --finish GALLERY"
HEADER = 64  # bytes that all our PNG files begin with, more or less

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE subject (id TEXT PRIMARY KEY, note TEXT NOT NULL, created TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE image (
    id INTEGER PRIMARY KEY AUTOINCREMENT, subject TEXT NOT NULL REFERENCES subject, sha256 TEXT NOT NULL UNIQUE,
    path TEXT NOT NULL, source TEXT NOT NULL, authority TEXT NOT NULL, eye_px REAL NOT NULL, score REAL NOT NULL,
    norm REAL NOT NULL, landmarks TEXT, added_at TEXT NOT NULL, picture_sha256 BLOB, picture BLOB);
CREATE INDEX image_by_subject ON image (subject);
CREATE TABLE template (
    id INTEGER PRIMARY KEY AUTOINCREMENT, subject TEXT NOT NULL REFERENCES subject,
    image INTEGER UNIQUE REFERENCES image, kind TEXT NOT NULL CHECK (kind IN ('single', 'pooled')),
    sha256 BLOB NOT NULL, vector BLOB NOT NULL, CHECK ((kind = 'pooled') = (image IS NULL)));
CREATE INDEX template_by_subject ON template (subject, kind, image);
CREATE TABLE problem (
    path TEXT PRIMARY KEY, subject TEXT NOT NULL, sha256 TEXT, reason TEXT NOT NULL, detector TEXT) WITHOUT ROWID;
CREATE TABLE removal (
    id INTEGER PRIMARY KEY, at TEXT NOT NULL, why TEXT NOT NULL, subjects TEXT NOT NULL, images TEXT NOT NULL,
    templates INTEGER NOT NULL);
CREATE TABLE log (id INTEGER PRIMARY KEY, at TEXT NOT NULL, event TEXT NOT NULL, details TEXT NOT NULL);
"""

# Rows that do not belong together.
_ORPHANS = {
    "subjects without a photograph": "SELECT id FROM subject WHERE id NOT IN (SELECT subject FROM image)",
    "photographs without a template": "SELECT sha256 FROM image WHERE id NOT IN "
    "(SELECT image FROM template WHERE image IS NOT NULL)",
    "templates filed under another subject than their photograph": "SELECT t.id FROM template t "
    "JOIN image i ON i.id = t.image WHERE i.subject <> t.subject",
    "subjects with several photographs and not one pooled template, or the other way round": "SELECT s.id "
    "FROM subject s WHERE (SELECT count(*) FROM image WHERE subject = s.id) > 1 <> "
    "(SELECT count(*) FROM template WHERE subject = s.id AND kind = 'pooled')",
}

SHAPE = Shape(_SCHEMA, values.TESTS, values.QUERIES, values.LARGE)


class GalleryStore:
    """The folder and database of an open gallery; `Gallery` is what to open."""

    def __init__(self, folder: Path, database: sqlite3.Connection, lock: IO[str] | None) -> None:
        self.folder, self.read_only = folder, lock is None
        self._db, self._lock = database, lock
        self._touched: set[str] = set()
        self.id = self._meta("gallery")

    @classmethod
    def create(cls, folder: Path, embedder_name: str, embedder_sha256: str, length: int) -> Self:
        with explain_errors(folder):
            new = folder / f"{DATABASE}.new"
            begun = {LOCK, *(new.name + end for end in ("", "-wal", "-shm", "-journal"))}
            if folder.is_dir() and (strange := {p.name for p in folder.iterdir()} - begun):
                what = "already a gallery" if DATABASE in strange else "not empty"
                raise GalleryError(folder, what, "give a new folder")
            make_private_folder(folder)
            with _lock(folder):
                for leftover in folder.glob(f"{new.name}*"):  # of a kill just here
                    leftover.unlink()
                # The database appears under its name only when it is whole.
                database = connect_to_write(new, PAGE)
                with database:
                    database.executescript(_SCHEMA)
                    facts = {
                        "schema": SCHEMA_VERSION,
                        "gallery": secrets.token_hex(8),
                        "generation": 0,
                        "purge": 0,
                    }
                    facts |= {"state": secrets.token_hex(8), "length": length, "created": now()}
                    facts |= {"embedder": embedder_name, "embedder_sha256": embedder_sha256}
                    database.executemany(
                        "INSERT INTO meta VALUES (?, ?)", [(k, str(v)) for k, v in facts.items()]
                    )
                close_checkpointed(database)
                put_in_place(new, folder / DATABASE)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path, read_only: bool = False) -> Self:
        path = folder / DATABASE
        if not path.is_file():
            remedy = "give the folder of a gallery, or make one: fasr-video gallery create"
            raise GalleryError(folder, f"no gallery here (it holds no {DATABASE})", remedy)
        lock = None if read_only else _lock(folder)
        database: sqlite3.Connection | None = None
        try:
            with explain_errors(folder):
                if not read_only:
                    refuse_links(folder)
                database = connect_to_read(path) if read_only else connect_to_write(path)
                if not has_known_meta(database, SHAPE):
                    check_schema(database, SHAPE, path)
                made = database.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
                if made is None or made[0] != str(SCHEMA_VERSION):
                    made_by = f"gallery format {made[0] if made else 'unknown'}, this one writes {SCHEMA_VERSION}"
                    reason = f"made by another version of fasr-video ({made_by})"
                    raise GalleryError(
                        folder,
                        reason,
                        "open it with that version, or enrol again into a new gallery",
                    )
                check_schema(database, SHAPE, path)
                check_values(database, SHAPE, path)
                gallery = cls(folder, database, lock)
                if not read_only:
                    gallery._finish_removal()
                return gallery
        except BaseException:
            if database is not None:
                database.close()
            if lock is not None:
                lock.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: object = None, error: BaseException | None = None, __: object = None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()
        if self._lock is not None:
            self._lock.close()

    # What it is.

    @property
    def embedder(self) -> Source:
        return Source(self._meta("embedder"), self._meta("embedder_sha256"))

    @property
    def length(self) -> int:
        """Of each vector."""
        return int(self._meta("length"))

    @property
    def generation(self) -> int:
        """Raised by every transaction that changes templates."""
        return int(self._meta("generation"))

    @property
    def state(self) -> str:
        """A new random word for each generation: two copies of a gallery that went apart are told apart by it."""
        return self._meta("state")

    @property
    def index_stamp(self) -> str:
        """SHA-256 of what is said beside the index on disk; empty where none was written."""
        rows = self.query("SELECT value FROM meta WHERE key = 'index_stamp'")
        return str(rows[0][0]) if rows else ""

    def note_index_stamp(self, digest: str) -> None:
        """Also of a gallery that is open for reading, by whoever is its only writer."""
        database = connect_to_write(self.folder / DATABASE)
        try:
            with transaction(database, self.folder):
                database.execute("INSERT OR REPLACE INTO meta VALUES ('index_stamp', ?)", (digest,))
        finally:
            database.close()

    def require(self, embedder: Embedder) -> None:
        own = self.embedder
        if (own.sha256, self.length) != (embedder.sha256, embedder.length):
            reason = (
                f"made with embedder {own.embedder} (sha256 {own.sha256}), not with {embedder.name} "
                f"(sha256 {embedder.sha256})"
            )
            remedy = f"use that embedder, or bring the gallery over: fasr-video gallery migrate {self.folder}"
            raise WrongEmbedder(self.folder, reason, remedy)

    # What is in it.

    def subjects(self) -> list[Subject]:
        sql = """SELECT s.id, s.note, count(i.id), s.created FROM subject s LEFT JOIN image i ON i.subject = s.id
                 GROUP BY s.id ORDER BY s.id"""
        return [Subject(*row) for row in self.query(sql)]

    def subject(self, name: str) -> Subject:
        """One that has photographs enrolled."""
        found = next((s for s in self.subjects() if s.id == name), None)
        if found is None:
            raise self._no_subject(name)
        return found

    def images(self, subject: str | None = None) -> list[GalleryImage]:
        """Those of a subject, or all."""
        return self._images("") if subject is None else self._images("WHERE subject = ?", subject)

    def image(self, sha256: str) -> GalleryImage | None:
        """The one with that hash."""
        return next(iter(self._images("WHERE sha256 = ?", sha256)), None)

    def _images(self, where: str, *values: str) -> list[GalleryImage]:
        sql = f"""SELECT id, subject, sha256, path, source, authority, eye_px, score, norm, added_at,
                  picture_sha256 IS NOT NULL FROM image {where} ORDER BY id"""
        return [GalleryImage(*(*row[:-1], bool(row[-1]))) for row in self.query(sql, values)]

    def chosen(self, subjects: Sequence[str], images: Sequence[str]) -> list[GalleryImage]:
        """All photographs of these subjects, and these by hash; each has to be known, if only from a problem."""
        whole = [i for s in dict.fromkeys(subjects) for i in self.images(self._known_subject(s))]
        single = {
            i.sha256: i for h in images for i in self.images(self._known_image(h)) if i.sha256 == h
        }
        return [*whole, *(i for i in single.values() if i.subject not in subjects)]

    def face(self, image: GalleryImage) -> AlignedFace | None:
        """The aligned face, if it was kept."""
        rows = self.query(
            "SELECT picture, landmarks, picture_sha256 FROM image WHERE id = ?", (image.id,)
        )
        if not rows or rows[0][0] is None:
            return None
        data, landmarks, digest = rows[0]
        if hashlib.sha256(data).digest() != digest:
            remedy = "restore the gallery from a copy, or remove this photograph and add it again"
            raise IntegrityError(
                self.folder, f"the stored picture of {image.path} was changed", remedy
            )
        try:
            picture = decoded(data, MOST_OF_A_FACE)
        except UNREADABLE as error:
            reason = f"the stored picture of {image.path} is none ({error})"
            raise IntegrityError(
                self.folder, reason, "remove this photograph and add it again"
            ) from error
        try:
            return AlignedFace(
                picture, None if landmarks is None else np.array(json.loads(landmarks), np.float32)
            )
        except (ValueError, TypeError) as error:
            remedy = "restore the gallery from a copy, or remove this photograph and add it again"
            raise IntegrityError(
                self.folder, f"the landmarks of {image.path} were changed", remedy
            ) from error

    def count(self, kind: Kind | None = None) -> int:
        """Of templates, or of those of a kind."""
        chosen, values = ("", ()) if kind is None else (" WHERE kind = ?", (kind,))
        return int(self.query(f"SELECT count(*) FROM template{chosen}", values)[0][0])

    def templates_by_subject(self) -> dict[str, int]:
        """How many each has: its photographs', and one more, pooled, if there are several."""
        return dict(self.query("SELECT subject, count(*) FROM template GROUP BY subject"))

    def ids(self) -> NDArray[np.int64]:
        """Of all templates, in order."""
        with explain_errors(self.folder):
            rows = self._db.execute("SELECT id FROM template ORDER BY id")
            return np.fromiter((row[0] for row in rows), np.int64)

    def vectors(self) -> Vectors:
        """Of all templates, in the order of their ids."""
        with self.snapshot():
            ids, features = (
                np.empty(self.count(), np.int64),
                np.empty((self.count(), self.length), np.float32),
            )
            done = 0
            for chunk in self.vector_chunks():
                ids[done : done + len(chunk.ids)] = chunk.ids
                features[done : done + len(chunk.ids)] = chunk.features
                done += len(chunk.ids)
        return Vectors(ids, features)

    def vector_chunks(self) -> Iterator[Vectors]:
        """The same, some thousand at a time: a million vectors need their own memory once, not thrice."""
        with explain_errors(self.folder):
            cursor = self._db.execute("SELECT id, vector FROM template ORDER BY id")
            length = self.length
            while rows := cursor.fetchmany(CHUNK):
                joined = b"".join([vector for _, vector in rows])
                if len(joined) != 4 * length * len(rows):
                    raise IntegrityError(
                        self.folder, "a vector has the wrong length", "restore it from a copy"
                    )
                ids = np.fromiter((i for i, _ in rows), np.int64, len(rows))
                yield Vectors(ids, np.frombuffer(joined, "<f4").reshape(len(rows), length))

    def templates(self, ids: Iterable[int]) -> dict[int, Template]:
        asked, found = [int(i) for i in ids], {}
        for start in range(0, len(asked), ASKED):
            part = asked[start : start + ASKED]
            sql = f"""SELECT t.id, t.subject, t.kind, i.sha256 FROM template t LEFT JOIN image i ON i.id = t.image
                      WHERE t.id IN ({_placeholders(part)})"""
            found.update({row[0]: Template(*row) for row in self.query(sql, part)})
        return found

    def features_of(self, subjects: Iterable[str]) -> dict[str, NDArray[np.float32]]:
        """All vectors of each of these subjects, K×length."""
        found = {}
        for subject in subjects:
            rows = self.query(
                "SELECT vector FROM template WHERE subject = ? ORDER BY id", (subject,)
            )
            found[subject] = np.frombuffer(b"".join(row[0] for row in rows), "<f4").reshape(
                -1, self.length
            )
        return found

    def stored_vectors(self, image: GalleryImage) -> list[bytes]:
        """Return, as they lie on the disk, the vector of a photograph and those that are pooled of its subject."""
        sql = "SELECT vector FROM template WHERE image = ? OR (subject = ? AND kind = 'pooled')"
        return [vector for (vector,) in self.query(sql, (image.id, image.subject))]

    def stored_picture(self, image: GalleryImage) -> bytes | None:
        """Return the picture of a photograph as it lies on the disk; None where none was kept."""
        rows = self.query("SELECT picture FROM image WHERE id = ?", (image.id,))
        return rows[0][0] if rows else None

    def problems(self) -> list[Problem]:
        return [
            Problem(*r)
            for r in self.query("SELECT path, subject, sha256, reason, detector FROM problem")
        ]

    def problems_about(self, subjects: Collection[str], images: Collection[str]) -> list[Problem]:
        """Those of these subjects, of these photographs, and those that name one of these subjects."""
        # What a detector says names nobody.
        names = "|".join(
            re.escape(s) for s in subjects if s
        )  # a line of a manifest may lack its subject
        naming = re.compile(rf"(?<!\w)({names})(?!\w)") if names else None
        return [
            p
            for p in self.problems()
            if p.subject in subjects
            or p.sha256 in images
            or (naming is not None and p.detector is None and naming.search(p.reason))
        ]

    def removals(self) -> list[dict[str, Any]]:
        """What was removed, when and why. Subjects are told by the SHA-256 of their ids."""
        rows = self.query("SELECT at, why, subjects, images, templates FROM removal ORDER BY id")
        keys = ("at", "why", "subjects_sha256", "images_sha256", "templates")
        return [
            dict(zip(keys, (a, w, json.loads(s), json.loads(i), t), strict=True))
            for a, w, s, i, t in rows
        ]

    def log_lines(self) -> list[tuple[str, str, dict[str, Any]]]:
        rows = self.query("SELECT at, event, details FROM log ORDER BY id")
        return [(at, event, json.loads(details)) for at, event, details in rows]

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """What is read within is of one moment, whatever another process writes meanwhile."""
        if self._db.in_transaction:
            yield
            return
        with explain_errors(self.folder):
            self._db.execute("BEGIN")
            try:
                yield
            finally:
                self._db.execute("ROLLBACK")

    # Changing it.

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing. One within another is part of it."""
        if self.read_only:
            raise GalleryError(self.folder, "opened to be read only", "open it for writing")
        if self._db.in_transaction:
            yield
            return
        try:
            with transaction(self._db, self.folder):
                yield
                self._settle()
        finally:
            self._touched.clear()

    def add(self, subject: str, photo: EnrolledPhoto, note: str = "") -> bool:
        """Enrol a photograph; False when this subject has it already."""
        feature = self._checked(photo.feature, photo.norm)
        _check_id(subject)
        with self.transaction():
            whose = self.whose(photo.sha256)
            if whose is not None and whose != subject:
                raise PhotoOfAnother(
                    photo.path,
                    f"the same photograph is enrolled as {whose}, not {subject}",
                    "remove one of the two",
                )
            if whose == subject:
                return False
            at = now()
            self._db.execute("INSERT OR IGNORE INTO subject VALUES (?, ?, ?)", (subject, note, at))
            picture = None if photo.face is None else _png(photo.face.picture)
            landmarks = (
                None
                if photo.face is None or photo.face.landmarks is None
                else photo.face.landmarks.tolist()
            )
            row: dict[str, object] = {
                "subject": subject,
                "sha256": photo.sha256,
                "path": photo.path,
                "source": photo.source,
                "authority": photo.authority,
                "eye_px": photo.eye_px,
                "score": photo.score,
                "norm": photo.norm,
                "landmarks": None if landmarks is None else json.dumps(landmarks),
                "added_at": at,
                "picture_sha256": None if picture is None else hashlib.sha256(picture).digest(),
                "picture": picture,
            }
            sql = f"INSERT INTO image ({', '.join(row)}) VALUES ({_placeholders(row)})"
            self._insert_template(
                subject, self._db.execute(sql, tuple(row.values())).lastrowid, feature
            )
            self._db.execute("DELETE FROM problem WHERE path = ?", (photo.path,))
            return True

    def whose(self, sha256: str) -> str | None:
        """The subject that this photograph is enrolled for."""
        rows = self.query("SELECT subject FROM image WHERE sha256 = ?", (sha256,))
        return str(rows[0][0]) if rows else None

    def move(self, sha256: str, subject: str, note: str = "") -> None:
        """File a photograph under another subject; its vector stays what it is."""
        _check_id(subject)
        with self.transaction():
            before = self._known_image(sha256)
            self._db.execute(
                "INSERT OR IGNORE INTO subject VALUES (?, ?, ?)", (subject, note, now())
            )
            template = "image = (SELECT id FROM image WHERE sha256 = ?)"
            self._db.execute(f"UPDATE template SET subject = ? WHERE {template}", (subject, sha256))
            self._db.execute("UPDATE image SET subject = ? WHERE sha256 = ?", (subject, sha256))
            self._touched |= {before, subject}

    def describe(self, sha256: str, path: str, source: str, authority: str) -> None:
        """Change what is told about a photograph; empty texts leave what was told before."""
        sql = """UPDATE image SET path = ?, source = coalesce(nullif(?, ''), source),
                 authority = coalesce(nullif(?, ''), authority) WHERE sha256 = ?"""
        with self.transaction():
            self._db.execute(sql, (path, source, authority, sha256))

    def set_note(self, subject: str, note: str) -> None:
        with self.transaction():
            self._db.execute("UPDATE subject SET note = ? WHERE id = ?", (note, subject))

    def set_problems(self, problems: Iterable[Problem], forget: Iterable[str] = ()) -> None:
        """Note photographs that could not be enrolled; problems of the paths in `forget` are no more."""
        rows = [(p.path, p.subject, p.sha256, p.reason, p.detector) for p in problems]
        with self.transaction():
            self._db.executemany("DELETE FROM problem WHERE path = ?", [(path,) for path in forget])
            self._db.executemany("INSERT OR REPLACE INTO problem VALUES (?, ?, ?, ?, ?)", rows)

    def log(self, event: str, details: Mapping[str, object], by: str = "", role: str = "") -> None:
        """A line of the log, with who did it. It outlives what it tells of: no names of subjects."""
        with self.transaction():
            who = {"by": by or login(), "role": role or stated()}
            text = json.dumps({**details, **who}, sort_keys=True)
            self._db.execute(
                "INSERT INTO log (at, event, details) VALUES (?, ?, ?)", (now(), event, text)
            )

    def replace_vectors(
        self,
        embedder: Embedder,
        vectors: Iterable[tuple[int, NDArray[np.float32], float]],
        drop: Sequence[str],
        why: str,
    ) -> Removal | None:
        """Take another embedder's features: (image id, unit vector, norm) for every image but those in `drop`."""
        with self.transaction():
            gone = self._delete(drop, why) if drop else None
            self._db.execute("DELETE FROM template")
            rows = {
                "embedder": embedder.name,
                "embedder_sha256": embedder.sha256,
                "length": str(embedder.length),
            }
            for key, value in rows.items():
                self._db.execute("UPDATE meta SET value = ? WHERE key = ?", (value, key))
            subjects = dict(self.query("SELECT id, subject FROM image"))
            for image, feature, norm in vectors:
                self._db.execute("UPDATE image SET norm = ? WHERE id = ?", (norm, image))
                self._insert_template(subjects.pop(image), image, self._checked(feature, norm))
            if subjects:
                raise GalleryError(
                    self.folder, f"{len(subjects)} images have no new vector", "embed each of them"
                )
            self._db.execute("UPDATE meta SET value = '1' WHERE key = 'purge'")
        drop_index(self.folder)
        self._purge()
        return None if gone is None else self._proven(gone)

    # Removing.

    def _delete(self, images: Sequence[str], why: str, never_enrolled: Sequence[str] = ()) -> _Gone:
        subjects = {self._known_image(sha256) for sha256 in images}
        gone: list[bytes] = []
        templates = 0
        before = {
            s: {t for (t,) in self.query("SELECT id FROM template WHERE subject = ?", (s,))}
            for s in subjects
        }
        pooled = "SELECT vector FROM template WHERE subject = ? AND kind = 'pooled'"
        gone += [vector for s in sorted(subjects) for (vector,) in self.query(pooled, (s,))]
        for start in range(0, len(images), ASKED):
            part = images[start : start + ASKED]
            chosen = f"SELECT id FROM image WHERE sha256 IN ({_placeholders(part)})"
            gone += [
                r[0]
                for r in self.query(f"SELECT vector FROM template WHERE image IN ({chosen})", part)
            ]
            pictures = self.query(
                f"SELECT picture FROM image WHERE id IN ({chosen}) AND picture IS NOT NULL", part
            )
            gone += [picture[HEADER:] for (picture,) in pictures]
            self._db.execute(f"DELETE FROM template WHERE image IN ({chosen})", part)
            self._db.execute(f"DELETE FROM image WHERE sha256 IN ({_placeholders(part)})", part)
        self._touched |= subjects
        emptied = self._settle()
        for subject in subjects:
            after = {
                t for (t,) in self.query("SELECT id FROM template WHERE subject = ?", (subject,))
            }
            templates += len(before[subject] - after)
        left = {s for (s,) in self.query("SELECT id FROM subject")}
        emptied = sorted({*emptied, *never_enrolled} - left)
        problems = self.problems_about(set(emptied), set(images))
        self.set_problems((), [p.path for p in problems])
        at = now()
        names = json.dumps([hashlib.sha256(s.encode()).hexdigest() for s in emptied])
        sql = "INSERT INTO removal (at, why, subjects, images, templates) VALUES (?, ?, ?, ?, ?)"
        self._db.execute(sql, (at, why, names, json.dumps(sorted(images)), templates))
        self._db.execute("UPDATE meta SET value = '1' WHERE key = 'purge'")
        return _Gone(at, why, tuple(emptied), tuple(images), templates, len(problems), tuple(gone))

    def _purge(self) -> None:
        """Write the database anew without what was removed, and empty the write-ahead log."""
        with explain_errors(self.folder):
            # secure_delete has zeroed the cells themselves; pages that were split or merged may still hold copies.
            self._db.execute("VACUUM")
            busy = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if busy:
            reason = "removed, but another process still reads the gallery, so old bytes may stay in its log"
            raise EnvironmentFailure(self.folder, reason, f"end that process, then {FINISH}")
        with self.transaction():
            self._db.execute("UPDATE meta SET value = '0' WHERE key = 'purge'")

    def _finish_removal(self) -> None:
        for leftover in self.folder.glob("*.part"):  # of a kill: it may hold anybody
            leftover.unlink()
            sync_folder(self.folder)
        if self._meta("purge") == "1":
            drop_index(self.folder)
            self._purge()

    def _proven(self, gone: _Gone) -> Removal:
        found = traces.search(self.files(), gone.secrets)
        # What photographs that stay have in common with the removed ones, such as the same picture saved twice, stays.
        stays = {p for p in set(found.found) if self._holds(p)}
        shared = sum(p in stays for p in found.found)
        return Removal(
            gone.at,
            gone.why,
            gone.subjects,
            gone.images,
            gone.templates,
            gone.problems,
            found.files,
            found.size,
            len(found.found) - shared,
            shared,
        )

    def _holds(self, piece: bytes) -> bool:
        tables = (("template", "vector"), ("image", "picture"))
        return any(
            self.query(f"SELECT 1 FROM {t} WHERE instr({c}, ?) LIMIT 1", (piece,))
            for t, c in tables
        )

    def files(self) -> list[Path]:
        return sorted(p for p in self.folder.rglob("*") if p.is_file())

    # Below the rest.

    def _settle(self) -> list[str]:
        """Bring what depends on photographs up to them: pooled templates, empty subjects, the generation."""
        emptied = [s for s in sorted(self._touched) if not self._pool(s)]
        if self._touched:
            self._touched.clear()
            self._db.execute("UPDATE meta SET value = value + 1 WHERE key = 'generation'")
            self._db.execute(
                "UPDATE meta SET value = ? WHERE key = 'state'", (secrets.token_hex(8),)
            )
        return emptied

    def _pool(self, subject: str) -> bool:
        """The subject's one weighted template, if it has several photographs; False when it has none and is gone."""
        sql = """SELECT t.vector, i.norm FROM template t JOIN image i ON i.id = t.image WHERE i.subject = ?
                 ORDER BY i.id"""
        rows = self.query(sql, (subject,))
        self._db.execute("DELETE FROM template WHERE subject = ? AND kind = 'pooled'", (subject,))
        if len(rows) > 1:
            features = np.frombuffer(b"".join([v for v, _ in rows]), "<f4").reshape(
                len(rows), self.length
            )
            weights = torch.tensor([n for _, n in rows])
            pooled = weighted_mean(torch.from_numpy(features.copy()), weights).numpy()
            self._insert_template(subject, None, pooled)
        if not rows:
            self._db.execute("DELETE FROM subject WHERE id = ?", (subject,))
        return bool(rows)

    def _insert_template(
        self, subject: str, image: int | None, feature: NDArray[np.float32]
    ) -> None:
        data = feature.astype("<f4").tobytes()
        kind = "pooled" if image is None else "single"
        values = (subject, image, kind, hashlib.sha256(data).digest(), data)
        self._db.execute(
            "INSERT INTO template (subject, image, kind, sha256, vector) VALUES (?, ?, ?, ?, ?)",
            values,
        )
        if image is not None:
            self._touched.add(subject)

    def _checked(self, feature: NDArray[np.float32], norm: float) -> NDArray[np.float32]:
        feature = np.asarray(feature, np.float32)
        if (
            feature.shape != (self.length,)
            or not abs(float(feature @ feature) - 1) < 1e-3
            or not 0 <= norm < np.inf
        ):
            reason = f"a unit vector of {self.length} and a norm wanted"
            raise UsageError("feature", reason, "give what the gallery's embedder gives")
        return feature

    def _known_subject(self, subject: str) -> str:
        told = (
            "SELECT 1 FROM subject WHERE id = ? UNION ALL SELECT 1 FROM problem WHERE subject = ?"
        )
        if not self.query(told, (subject, subject)):
            raise self._no_subject(subject)
        return subject

    def _no_subject(self, name: str) -> GalleryError:
        return GalleryError(
            self.folder, f"no subject {name!r} in it", f"see: fasr-video gallery list {self.folder}"
        )

    def _known_image(self, sha256: str) -> str:
        whose = self.whose(sha256)
        if whose is None:
            remedy = f"see: fasr-video gallery show {self.folder} SUBJECT"
            raise GalleryError(self.folder, f"no photograph {sha256} in it", remedy)
        return whose

    def _meta(self, key: str) -> str:
        rows = self.query("SELECT value FROM meta WHERE key = ?", (key,))
        if not rows:
            raise IntegrityError(
                self.folder, f"its {key} is missing", "restore the gallery from a copy"
            )
        return str(rows[0][0])

    def query(self, sql: str, values: Sequence[object] = ()) -> list[Any]:
        with explain_errors(self.folder):
            return self._db.execute(sql, tuple(values)).fetchall()

    def unfinished(self) -> bool:
        """Whether a removal was begun and not finished: what was removed may still be in the files."""
        return self._meta("purge") != "0"

    def structure_problems(self) -> list[str]:
        """Return what SQLite has to say against the database, and the first value that no version of ours writes."""
        found = [str(row[0]) for row in self.query("PRAGMA integrity_check(20)") if row[0] != "ok"]
        wrong = find_problem(self._db, SHAPE)
        return found if wrong is None else [*found, wrong]

    def stray_rows(self) -> list[str]:
        """Return which rows do not belong together."""
        strays = self.query("PRAGMA foreign_key_check")
        found = [
            f"a row of {table} points at a {target} that is gone" for table, _, target, _ in strays
        ]
        for what, sql in _ORPHANS.items():
            rows = [str(row[0]) for row in self.query(sql)]
            if rows:
                found.append(f"{what}: {', '.join(rows[:5])}{', …' if len(rows) > 5 else ''}")
        return found

    def stored_templates(self) -> Iterator[tuple[int, bytes, bytes]]:
        """Give number, hash and vector of each template, one by one: they need not fit into memory."""
        with explain_errors(self.folder):
            yield from self._db.execute("SELECT id, sha256, vector FROM template ORDER BY id")

    def stored_pictures(self) -> Iterator[tuple[str, bytes | None, bytes | None]]:
        """Give path, hash and picture of each photograph, one by one."""
        with explain_errors(self.folder):
            yield from self._db.execute(
                "SELECT path, picture_sha256, picture FROM image ORDER BY id"
            )

    @contextmanager
    def sole_writer(self) -> Iterator[bool]:
        """Whether this process may write files beside the database: nobody else is changing it, the folder can be."""
        if not self.read_only:
            yield True
            return
        try:
            lock = _lock(self.folder)
        except FasrError:
            yield False
            return
        with lock:
            yield True


@dataclass(frozen=True, slots=True)
class _Gone:
    at: str
    why: str
    subjects: tuple[str, ...]
    images: tuple[str, ...]
    templates: int
    problems: int
    secrets: tuple[bytes, ...]


def _check_id(subject: str) -> None:
    if not subject or "\0" in subject or len(subject) > LONGEST_ID:
        shown = (
            subject
            if len(subject) <= LONGEST_ID
            else f"{subject[:20]}… of {len(subject)} characters"
        )
        raise UsageError(
            "subject",
            f"{shown!r} is no id",
            f"give each subject an id of 1 to {LONGEST_ID} characters",
        )


def _placeholders(values: Collection[object]) -> str:
    return ", ".join("?" * len(values))


def _png(picture: Image) -> bytes:
    buffer = io.BytesIO()
    PilImage.fromarray(picture).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _lock(folder: Path) -> IO[str]:
    try:
        with explain_errors(folder):
            return take_lock(folder / LOCK)
    except BlockingIOError as error:
        raise GalleryError(
            folder, "another process is writing this gallery", "wait for it, or stop it"
        ) from error


def drop_index(folder: Path) -> None:
    """For good: nobody who is removed from the store next comes back with it after a power cut."""
    with explain_errors(folder):
        for path in folder.glob("vectors.*"):
            path.unlink()
        sync_folder(folder)
