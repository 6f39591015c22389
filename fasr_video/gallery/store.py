"""The gallery folder: enrolled people and the database of their vectors, made by one embedder.

    GALLERY/
      gallery.sqlite                 subjects, images, templates, problems, removals, log
      vectors.faiss, vectors.json    the index and what it was built from; rebuilt when needed

Each batch of photographs is stored in one transaction. Removing data clears the rows, the free
pages, the write-ahead log and the index; then all files are searched for pieces of it. A subject
with several photographs has one more template: their mean, weighted by the norms of the embedder.
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
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PilImage

from fasr_video.actors import login_name, role_from_environment
from fasr_video.clock import now
from fasr_video.errors import EnvironmentFailure, FasrError, IntegrityError, UsageError
from fasr_video.files import (
    PICTURES,
    make_private_folder,
    put_in_place,
    refuse_links,
    sync_folder,
    take_lock,
)
from fasr_video.gallery import traces, values
from fasr_video.gallery.records import (
    LONGEST_ID,
    EnrolledPhoto,
    GalleryError,
    GalleryImage,
    GalleryLogLine,
    Kind,
    PhotoOfAnother,
    Problem,
    Removal,
    RemovalLine,
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
INDEX_FILE = "vectors.faiss"
# Describes what the index was built from.
INDEX_STAMP = "vectors.json"
LOCK = ".lock"
PAGE_BYTES = 16384  # holds seven vectors of 512 elements; a page of 4096 would hold one
ROWS_PER_CHUNK = 8192
VALUES_PER_STATEMENT = 900  # most values in one SQL list
FINISH_COMMAND = "run: fasr-video gallery check --finish GALLERY"
SHORTEST_HASH = 8  # characters of a hash that stand for all of it
PNG_HEADER_BYTES = 64  # nearly the same in all our PNG files

# A database is compared with this text, line breaks included.
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

# Queries for rows that do not fit together.
_ORPHANS = {
    "subjects without a photograph": (
        "SELECT id FROM subject WHERE id NOT IN (SELECT subject FROM image)"
    ),
    "photographs without a template": "SELECT sha256 FROM image WHERE id NOT IN "
    "(SELECT image FROM template WHERE image IS NOT NULL)",
    "templates of another subject than their photograph": "SELECT t.id FROM template t "
    "JOIN image i ON i.id = t.image WHERE i.subject <> t.subject",
    "subjects whose pooled template is missing or superfluous": "SELECT s.id "
    "FROM subject s WHERE (SELECT count(*) FROM image WHERE subject = s.id) > 1 <> "
    "(SELECT count(*) FROM template WHERE subject = s.id AND kind = 'pooled')",
}

SHAPE = Shape(_SCHEMA, values.TESTS, values.QUERIES, values.LARGE)


class GalleryStore:
    """The folder and database of an open gallery. Open galleries through `Gallery`."""

    def __init__(self, folder: Path, database: sqlite3.Connection, lock: IO[str] | None) -> None:
        self.folder = folder
        self.read_only = lock is None
        self._db = database
        self._lock = lock
        self._changed_subjects: set[str] = set()
        self.id = self._meta("gallery")

    @classmethod
    def create(cls, folder: Path, embedder_name: str, embedder_sha256: str, length: int) -> Self:
        """Create an empty gallery in `folder`, bound to an embedder, and open it."""
        with explain_errors(folder):
            new = folder / f"{DATABASE}.new"
            unfinished = {LOCK, *(new.name + end for end in ("", "-wal", "-shm", "-journal"))}
            names = {path.name for path in folder.iterdir()} if folder.is_dir() else set[str]()
            if names - unfinished:
                reason = "already a gallery" if DATABASE in names else "not empty"
                raise GalleryError(folder, reason, "give a new folder")
            make_private_folder(folder)
            with _lock(folder):
                # A process that was killed at this point may have left these.
                for leftover in folder.glob(f"{new.name}*"):
                    leftover.unlink()
                # The database gets its final name only once it is complete.
                database = connect_to_write(new, PAGE_BYTES)
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
        """Open the gallery in `folder`; raise where there is none or it cannot be trusted.

        Opening for writing takes the lock, and finishes a removal that was interrupted.
        """
        path = folder / DATABASE
        if not path.is_file():
            raise _no_gallery(folder)
        lock = None if read_only else _lock(folder)
        database: sqlite3.Connection | None = None
        try:
            with explain_errors(folder):
                if not read_only:
                    refuse_links(folder)
                database = connect_to_read(path) if read_only else connect_to_write(path)
                if not has_known_meta(database, SHAPE):
                    check_schema(database, SHAPE, path)
                schema = database.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
                if schema is None or schema[0] != str(SCHEMA_VERSION):
                    stored = schema[0] if schema else "unknown"
                    formats = f"gallery format {stored}, this one writes {SCHEMA_VERSION}"
                    raise GalleryError(
                        folder,
                        f"made by another version of fasr-video ({formats})",
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

    # Facts about the gallery.

    @property
    def embedder(self) -> Source:
        return Source(self._meta("embedder"), self._meta("embedder_sha256"))

    @property
    def length(self) -> int:
        """Return the number of elements of each vector."""
        return int(self._meta("length"))

    @property
    def generation(self) -> int:
        """Return a counter that every transaction on templates increases."""
        return int(self._meta("generation"))

    @property
    def state(self) -> str:
        """Return a random word, new in each generation; it distinguishes copies that have
        diverged."""
        return self._meta("state")

    @property
    def index_stamp(self) -> str:
        """Return the SHA-256 of the index stamp on disk, or an empty text where none was
        written."""
        rows = self.query("SELECT value FROM meta WHERE key = 'index_stamp'")
        return str(rows[0][0]) if rows else ""

    def note_index_stamp(self, digest: str) -> None:
        """Store the SHA-256 of the index stamp.

        Allowed with a gallery that is open for reading, within `sole_writer`.
        """
        database = connect_to_write(self.folder / DATABASE)
        try:
            with transaction(database, self.folder):
                database.execute("INSERT OR REPLACE INTO meta VALUES ('index_stamp', ?)", (digest,))
        finally:
            database.close()

    def require_embedder(self, embedder: Embedder) -> None:
        """Raise where this is not the embedder that made the gallery's vectors."""
        own = self.embedder
        if (own.sha256, self.length) != (embedder.sha256, embedder.length):
            reason = (
                f"made with embedder {own.embedder} (sha256 {own.sha256}), "
                f"not with {embedder.name} (sha256 {embedder.sha256})"
            )
            migrate = f"fasr-video gallery migrate {self.folder}"
            remedy = f"use that embedder, or migrate the gallery: {migrate}"
            raise WrongEmbedder(self.folder, reason, remedy)

    # Reading.

    def subjects(self) -> list[Subject]:
        sql = """SELECT s.id, s.note, count(i.id), s.created
            FROM subject s LEFT JOIN image i ON i.subject = s.id
            GROUP BY s.id ORDER BY s.id"""
        return [Subject(*row) for row in self.query(sql)]

    def subject(self, name: str) -> Subject:
        """Return an enrolled subject; raise where there is none of this id."""
        subject = next((s for s in self.subjects() if s.id == name), None)
        if subject is None:
            raise self._no_subject(name)
        return subject

    def images(self, subject: str | None = None) -> list[GalleryImage]:
        """Return the photographs of a subject, or all."""
        return self._images("") if subject is None else self._images("WHERE subject = ?", subject)

    def image(self, sha256: str) -> GalleryImage | None:
        """Return the photograph with this hash, or None."""
        return next(iter(self._images("WHERE sha256 = ?", sha256)), None)

    def _images(self, where: str, *values: str) -> list[GalleryImage]:
        sql = f"""SELECT id, subject, sha256, path, source, authority, eye_px, score, norm,
            added_at, picture_sha256 IS NOT NULL FROM image {where} ORDER BY id"""
        return [GalleryImage(*(*row[:-1], bool(row[-1]))) for row in self.query(sql, values)]

    def select_images(self, subjects: Sequence[str], images: Sequence[str]) -> list[GalleryImage]:
        """Return all photographs of these subjects, and these by hash, each a single time.

        At least 8 first characters of a hash are enough where no other begins with them. Raise for
        a subject that is neither enrolled nor named by a problem, and for an unknown hash.
        """
        selected: dict[str, GalleryImage] = {}
        for subject in subjects:
            self._require_subject(subject)
            selected |= {image.sha256: image for image in self.images(subject)}
        for given in images:
            sha256 = self._full_hash(given)
            self._require_subject_of(sha256)
            image = self.image(sha256)
            if image is not None:
                selected.setdefault(sha256, image)
        return list(selected.values())

    def face(self, image: GalleryImage) -> AlignedFace | None:
        """Return the aligned face of a photograph, or None where none is stored."""
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
            reason = f"the stored picture of {image.path} cannot be read ({error})"
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
        """Return the number of templates, or of those of a kind."""
        chosen, values = ("", ()) if kind is None else (" WHERE kind = ?", (kind,))
        return int(self.query(f"SELECT count(*) FROM template{chosen}", values)[0][0])

    def templates_by_subject(self) -> dict[str, int]:
        """Return the number of templates of each subject, the pooled one included."""
        return dict(self.query("SELECT subject, count(*) FROM template GROUP BY subject"))

    def ids(self) -> NDArray[np.int64]:
        """Return the ids of all templates in increasing order."""
        with explain_errors(self.folder):
            rows = self._db.execute("SELECT id FROM template ORDER BY id")
            return np.fromiter((row[0] for row in rows), np.int64)

    def vectors(self) -> Vectors:
        """Return the vectors of all templates in the order of their ids."""
        with self.snapshot():
            count = self.count()
            ids = np.empty(count, np.int64)
            features = np.empty((count, self.length), np.float32)
            done = 0
            for chunk in self.vector_chunks():
                ids[done : done + len(chunk.ids)] = chunk.ids
                features[done : done + len(chunk.ids)] = chunk.features
                done += len(chunk.ids)
        return Vectors(ids, features)

    def vector_chunks(self) -> Iterator[Vectors]:
        """Yield the vectors of all templates in chunks, which keeps the memory low."""
        with explain_errors(self.folder):
            cursor = self._db.execute("SELECT id, vector FROM template ORDER BY id")
            length = self.length
            while rows := cursor.fetchmany(ROWS_PER_CHUNK):
                joined = b"".join([vector for _, vector in rows])
                if len(joined) != 4 * length * len(rows):
                    raise IntegrityError(
                        self.folder, "a vector has the wrong length", "restore it from a copy"
                    )
                ids = np.fromiter((i for i, _ in rows), np.int64, len(rows))
                yield Vectors(ids, np.frombuffer(joined, "<f4").reshape(len(rows), length))

    def templates(self, ids: Iterable[int]) -> dict[int, Template]:
        """Return these templates by id; unknown ids are left out."""
        all_ids = [int(i) for i in ids]
        templates = {}
        for start in range(0, len(all_ids), VALUES_PER_STATEMENT):
            part = all_ids[start : start + VALUES_PER_STATEMENT]
            sql = f"""SELECT t.id, t.subject, t.kind, i.sha256
                FROM template t LEFT JOIN image i ON i.id = t.image
                WHERE t.id IN ({_placeholders(part)})"""
            templates.update({row[0]: Template(*row) for row in self.query(sql, part)})
        return templates

    def features_of(self, subjects: Iterable[str]) -> dict[str, NDArray[np.float32]]:
        """Return the vectors of each of these subjects as an array of K×length."""
        features = {}
        for subject in subjects:
            rows = self.query(
                "SELECT vector FROM template WHERE subject = ? ORDER BY id", (subject,)
            )
            joined = b"".join(row[0] for row in rows)
            features[subject] = np.frombuffer(joined, "<f4").reshape(-1, self.length)
        return features

    def stored_vectors(self, image: GalleryImage) -> list[bytes]:
        """Return the stored bytes of a photograph's vector and of its subject's pooled vector."""
        sql = "SELECT vector FROM template WHERE image = ? OR (subject = ? AND kind = 'pooled')"
        return [vector for (vector,) in self.query(sql, (image.id, image.subject))]

    def stored_picture(self, image: GalleryImage) -> bytes | None:
        """Return the stored bytes of a photograph's picture, or None where none is stored."""
        rows = self.query("SELECT picture FROM image WHERE id = ?", (image.id,))
        return rows[0][0] if rows else None

    def problems(self) -> list[Problem]:
        """Return the photographs that could not be enrolled."""
        return [
            Problem(*r)
            for r in self.query("SELECT path, subject, sha256, reason, detector FROM problem")
        ]

    def problems_about(self, subjects: Collection[str], images: Collection[str]) -> list[Problem]:
        """Return the problems of these subjects or photographs, or whose reason names such a
        subject."""
        # A line of a manifest may lack its subject.
        names = "|".join(re.escape(subject) for subject in subjects if subject)
        pattern = re.compile(rf"(?<!\w)({names})(?!\w)") if names else None

        def is_about(problem: Problem) -> bool:
            if problem.subject in subjects or problem.sha256 in images:
                return True
            # The reasons of detectors never name a subject.
            if pattern is None or problem.detector is not None:
                return False
            return pattern.search(problem.reason) is not None

        return [problem for problem in self.problems() if is_about(problem)]

    def removals(self) -> list[RemovalLine]:
        """Return what was removed, when and why."""
        rows = self.query("SELECT at, why, subjects, images, templates FROM removal ORDER BY id")
        return [
            RemovalLine(at, why, json.loads(subjects), json.loads(images), count)
            for at, why, subjects, images, count in rows
        ]

    def log_lines(self) -> list[GalleryLogLine]:
        """Return all lines of the log, from the oldest to the newest."""
        rows = self.query("SELECT at, event, details FROM log ORDER BY id")
        return [GalleryLogLine(at, event, json.loads(details)) for at, event, details in rows]

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Read one consistent state of the gallery, whatever other processes write meanwhile."""
        if self._db.in_transaction:
            yield
            return
        with explain_errors(self.folder):
            self._db.execute("BEGIN")
            try:
                yield
            finally:
                self._db.execute("ROLLBACK")

    # Writing.

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit all changes made within, or none. A nested transaction is part of the
        outer one."""
        if self.read_only:
            raise GalleryError(self.folder, "opened for reading only", "open it for writing")
        if self._db.in_transaction:
            yield
            return
        try:
            with transaction(self._db, self.folder):
                yield
                self._update_dependents()
        finally:
            self._changed_subjects.clear()

    def add(self, subject: str, photo: EnrolledPhoto, note: str = "") -> bool:
        """Enrol a photograph; return False where the subject has it already."""
        feature = self._checked(photo.feature, photo.norm)
        _check_id(subject)
        with self.transaction():
            enrolled = self.subject_of(photo.sha256)
            if enrolled is not None and enrolled != subject:
                raise PhotoOfAnother(
                    photo.path,
                    f"the same photograph is enrolled as {enrolled}, not {subject}",
                    "remove one of the two",
                )
            if enrolled == subject:
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

    def subject_of(self, sha256: str) -> str | None:
        """Return the subject that a photograph is enrolled for, or None."""
        rows = self.query("SELECT subject FROM image WHERE sha256 = ?", (sha256,))
        return str(rows[0][0]) if rows else None

    def move(self, sha256: str, subject: str, note: str = "") -> None:
        """Move a photograph to another subject; its vector stays the same."""
        _check_id(subject)
        with self.transaction():
            before = self._require_subject_of(sha256)
            self._db.execute(
                "INSERT OR IGNORE INTO subject VALUES (?, ?, ?)", (subject, note, now())
            )
            template = "image = (SELECT id FROM image WHERE sha256 = ?)"
            self._db.execute(f"UPDATE template SET subject = ? WHERE {template}", (subject, sha256))
            self._db.execute("UPDATE image SET subject = ? WHERE sha256 = ?", (subject, sha256))
            self._changed_subjects |= {before, subject}

    def describe(self, sha256: str, path: str, source: str, authority: str) -> None:
        """Change the path, source and authority of a photograph; empty texts leave the old
        values."""
        sql = """UPDATE image SET path = ?, source = coalesce(nullif(?, ''), source),
                 authority = coalesce(nullif(?, ''), authority) WHERE sha256 = ?"""
        with self.transaction():
            self._db.execute(sql, (path, source, authority, sha256))

    def set_note(self, subject: str, note: str) -> None:
        with self.transaction():
            self._db.execute("UPDATE subject SET note = ? WHERE id = ?", (note, subject))

    def set_problems(self, problems: Iterable[Problem], forget: Iterable[str] = ()) -> None:
        """Store photographs that could not be enrolled, and delete the problems of paths in
        `forget`."""
        rows = [(p.path, p.subject, p.sha256, p.reason, p.detector) for p in problems]
        with self.transaction():
            self._db.executemany("DELETE FROM problem WHERE path = ?", [(path,) for path in forget])
            self._db.executemany("INSERT OR REPLACE INTO problem VALUES (?, ?, ?, ?, ?)", rows)

    def log(self, event: str, details: Mapping[str, object], by: str = "", role: str = "") -> None:
        """Append a log line with the person responsible. It must not name subjects: it is never
        deleted."""
        with self.transaction():
            who = {"by": by or login_name(), "role": role or role_from_environment()}
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
        """Replace all vectors by another embedder's, and remove the images in `drop`.

        `vectors` has (image id, unit vector, norm) for all other images.
        """
        with self.transaction():
            removed = self._delete(drop, why) if drop else None
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
        delete_index(self.folder)
        self._purge()
        return None if removed is None else self._prove_removal(removed)

    # Removing.

    def _delete(
        self, images: Sequence[str], why: str, never_enrolled: Sequence[str] = ()
    ) -> _RemovedRows:
        """Delete photographs and what depends on them, in a transaction; return what was removed.

        `never_enrolled` are subjects to report as removed although they had no photograph.
        """
        subjects = {self._require_subject_of(sha256) for sha256 in images}
        templates_before = {subject: self._template_ids(subject) for subject in subjects}
        secrets = self._pooled_vectors(subjects)
        for start in range(0, len(images), VALUES_PER_STATEMENT):
            secrets += self._delete_images(images[start : start + VALUES_PER_STATEMENT])
        self._changed_subjects |= subjects
        emptied = self._update_dependents()
        templates = 0
        for subject in subjects:
            templates += len(templates_before[subject] - self._template_ids(subject))
        remaining = {subject for (subject,) in self.query("SELECT id FROM subject")}
        emptied = sorted({*emptied, *never_enrolled} - remaining)
        problems = self.problems_about(set(emptied), set(images))
        self.set_problems((), [problem.path for problem in problems])
        at = now()
        names = json.dumps([hashlib.sha256(s.encode()).hexdigest() for s in emptied])
        sql = "INSERT INTO removal (at, why, subjects, images, templates) VALUES (?, ?, ?, ?, ?)"
        self._db.execute(sql, (at, why, names, json.dumps(sorted(images)), templates))
        self._db.execute("UPDATE meta SET value = '1' WHERE key = 'purge'")
        return _RemovedRows(
            at, why, tuple(emptied), tuple(images), templates, len(problems), tuple(secrets)
        )

    def _template_ids(self, subject: str) -> set[int]:
        rows = self.query("SELECT id FROM template WHERE subject = ?", (subject,))
        return {number for (number,) in rows}

    def _pooled_vectors(self, subjects: Collection[str]) -> list[bytes]:
        """Return the stored bytes of the pooled vectors of these subjects."""
        query = "SELECT vector FROM template WHERE subject = ? AND kind = 'pooled'"
        return [
            vector for subject in sorted(subjects) for (vector,) in self.query(query, (subject,))
        ]

    def _delete_images(self, hashes: Sequence[str]) -> list[bytes]:
        """Delete photographs and their templates; return their vectors and pictures as bytes."""
        chosen = f"SELECT id FROM image WHERE sha256 IN ({_placeholders(hashes)})"
        vectors = self.query(f"SELECT vector FROM template WHERE image IN ({chosen})", hashes)
        pictures = self.query(
            f"SELECT picture FROM image WHERE id IN ({chosen}) AND picture IS NOT NULL", hashes
        )
        self._db.execute(f"DELETE FROM template WHERE image IN ({chosen})", hashes)
        self._db.execute(f"DELETE FROM image WHERE sha256 IN ({_placeholders(hashes)})", hashes)
        secrets = [vector for (vector,) in vectors]
        secrets += [picture[PNG_HEADER_BYTES:] for (picture,) in pictures]
        return secrets

    def _purge(self) -> None:
        """Rewrite the database without what was removed, and empty the write-ahead log."""
        with explain_errors(self.folder):
            # secure_delete zeroes deleted cells, but split or merged pages may still hold copies.
            self._db.execute("VACUUM")
            busy = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if busy:
            reason = (
                "removed, but another process is still reading the gallery,"
                " so removed data may remain in its log"
            )
            raise EnvironmentFailure(
                self.folder, reason, f"end that process, then {FINISH_COMMAND}"
            )
        with self.transaction():
            self._db.execute("UPDATE meta SET value = '0' WHERE key = 'purge'")

    def _finish_removal(self) -> None:
        """Finish a removal that was interrupted, if there is one."""
        # A killed process may have left partial files with anybody's data.
        for leftover in self.folder.glob("*.part"):
            leftover.unlink()
            sync_folder(self.folder)
        if self._meta("purge") == "1":
            delete_index(self.folder)
            self._purge()

    def _prove_removal(self, removed: _RemovedRows) -> Removal:
        """Search all files for pieces of the removed data, and return the result."""
        search = traces.find_traces(self.files(), removed.secrets)
        # A photograph that stays may share pieces, for example where a picture was saved twice.
        staying = {piece for piece in set(search.pieces) if self._contains(piece)}
        shared = sum(piece in staying for piece in search.pieces)
        return Removal(
            at=removed.at,
            why=removed.why,
            subjects=removed.subjects,
            images=removed.images,
            templates=removed.templates,
            problems=removed.problems,
            files_scanned=search.files,
            bytes_scanned=search.size,
            occurrences=len(search.pieces) - shared,
            shared=shared,
        )

    def _contains(self, piece: bytes) -> bool:
        """Return whether a stored vector or picture contains these bytes."""
        columns = (("template", "vector"), ("image", "picture"))
        return any(
            self.query(f"SELECT 1 FROM {table} WHERE instr({column}, ?) LIMIT 1", (piece,))
            for table, column in columns
        )

    def files(self) -> list[Path]:
        """Return all files in the folder of the gallery."""
        return sorted(p for p in self.folder.rglob("*") if p.is_file())

    # Helpers.

    def _update_dependents(self) -> list[str]:
        """Update pooled templates, subjects and generation after changes of photographs.

        Return the subjects that have no photograph left; they are deleted.
        """
        emptied = [s for s in sorted(self._changed_subjects) if not self._pool(s)]
        if self._changed_subjects:
            self._changed_subjects.clear()
            self._db.execute("UPDATE meta SET value = value + 1 WHERE key = 'generation'")
            self._db.execute(
                "UPDATE meta SET value = ? WHERE key = 'state'", (secrets.token_hex(8),)
            )
        return emptied

    def _pool(self, subject: str) -> bool:
        """Update a subject's pooled template; delete a subject without photographs and return
        False."""
        sql = """SELECT t.vector, i.norm
            FROM template t JOIN image i ON i.id = t.image WHERE i.subject = ?
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
            self._changed_subjects.add(subject)

    def _checked(self, feature: NDArray[np.float32], norm: float) -> NDArray[np.float32]:
        """Return the feature; raise unless it is a unit vector of the right length."""
        feature = np.asarray(feature, np.float32)
        if (
            feature.shape != (self.length,)
            or not abs(float(feature @ feature) - 1) < 1e-3
            or not 0 <= norm < np.inf
        ):
            reason = f"not a unit vector of {self.length} elements with a norm"
            raise UsageError("feature", reason, "use the gallery's embedder")
        return feature

    def _require_subject(self, subject: str) -> None:
        """Raise where a subject is neither enrolled nor named by a problem."""
        query = (
            "SELECT 1 FROM subject WHERE id = ? UNION ALL SELECT 1 FROM problem WHERE subject = ?"
        )
        if not self.query(query, (subject, subject)):
            raise self._no_subject(subject)

    def _no_subject(self, name: str) -> GalleryError:
        return GalleryError(
            self.folder, f"no subject {name!r} in it", f"see: fasr-video gallery list {self.folder}"
        )

    def _full_hash(self, given: str) -> str:
        """Return the hash of the photograph that begins with this, or the same text for others."""
        if len(given) < SHORTEST_HASH:
            return given
        sql = "SELECT sha256 FROM image WHERE substr(sha256, 1, ?) = ?"
        found = [sha256 for (sha256,) in self.query(sql, (len(given), given))]
        return found[0] if len(found) == 1 else given

    def _require_subject_of(self, sha256: str) -> str:
        """Return the subject of a photograph; raise where the gallery does not have it."""
        subject = self.subject_of(sha256)
        if subject is None:
            remedy = f"see: fasr-video gallery show {self.folder} SUBJECT"
            raise GalleryError(self.folder, f"no photograph {sha256} in it", remedy)
        return subject

    def _meta(self, key: str) -> str:
        rows = self.query("SELECT value FROM meta WHERE key = ?", (key,))
        if not rows:
            raise IntegrityError(
                self.folder, f"its {key} is missing", "restore the gallery from a copy"
            )
        return str(rows[0][0])

    def query(self, sql: str, values: Sequence[object] = ()) -> list[Any]:
        """Return all rows of a query."""
        with explain_errors(self.folder):
            return self._db.execute(sql, tuple(values)).fetchall()

    def has_unfinished_removal(self) -> bool:
        """Return whether a removal was interrupted; removed data may still be in the files."""
        return self._meta("purge") != "0"

    def structure_problems(self) -> list[str]:
        """Return the problems that SQLite and the checks of our own schema report."""
        rows = self.query("PRAGMA integrity_check(20)")
        problems = [str(row[0]) for row in rows if row[0] != "ok"]
        invalid = find_problem(self._db, SHAPE)
        return problems if invalid is None else [*problems, invalid]

    def row_problems(self) -> list[str]:
        """Return which rows do not fit together."""
        dangling = self.query("PRAGMA foreign_key_check")
        problems = [
            f"a row of {table} refers to a missing row of {target}"
            for table, _, target, _ in dangling
        ]
        for problem, sql in _ORPHANS.items():
            rows = [str(row[0]) for row in self.query(sql)]
            if rows:
                more = ", …" if len(rows) > 5 else ""
                problems.append(f"{problem}: {', '.join(rows[:5])}{more}")
        return problems

    def stored_templates(self) -> Iterator[tuple[int, bytes, bytes]]:
        """Yield id, hash and vector of each template; they may not fit into memory together."""
        with explain_errors(self.folder):
            yield from self._db.execute("SELECT id, sha256, vector FROM template ORDER BY id")

    def stored_pictures(self) -> Iterator[tuple[str, bytes | None, bytes | None]]:
        """Yield path, hash and picture of each photograph."""
        with explain_errors(self.folder):
            yield from self._db.execute(
                "SELECT path, picture_sha256, picture FROM image ORDER BY id"
            )

    @contextmanager
    def sole_writer(self) -> Iterator[bool]:
        """Yield whether this process may write files beside the database, and hold the lock
        for it."""
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
class _RemovedRows:
    """What a transaction removed; `secrets` are the removed vectors and pictures."""

    at: str
    why: str
    subjects: tuple[str, ...]
    images: tuple[str, ...]
    templates: int
    problems: int
    secrets: tuple[bytes, ...]


def _no_gallery(folder: Path) -> GalleryError:
    files = (*folder.glob("*"), *folder.glob("*/*"))
    if any(file.suffix.lower() in PICTURES for file in files):
        create = f"fasr-video gallery create {folder}.gallery"
        add = f"fasr-video gallery add {folder}.gallery {folder}"
        remedy = f"make one: {create}, then {add}"
        return GalleryError(folder, "a folder of photographs, not a gallery", remedy)
    remedy = "give the folder of a gallery, or make one: fasr-video gallery create"
    return GalleryError(folder, f"no gallery here (it contains no {DATABASE})", remedy)


def _check_id(subject: str) -> None:
    if not subject or "\0" in subject or len(subject) > LONGEST_ID:
        abbreviated = (
            subject
            if len(subject) <= LONGEST_ID
            else f"{subject[:20]}… of {len(subject)} characters"
        )
        raise UsageError(
            "subject",
            f"{abbreviated!r} is not a valid id",
            f"give each subject an id of 1 to {LONGEST_ID} characters",
        )


def _placeholders(values: Collection[object]) -> str:
    return ", ".join("?" * len(values))


def _png(picture: Image) -> bytes:
    buffer = io.BytesIO()
    PilImage.fromarray(picture).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _lock(folder: Path) -> IO[str]:
    try:
        with explain_errors(folder):
            return take_lock(folder / LOCK)
    except BlockingIOError as error:
        raise GalleryError(
            folder, "another process is writing this gallery", "wait for it, or stop it"
        ) from error


def delete_index(folder: Path) -> None:
    """Delete the index files, and make that permanent before anything is removed from the
    database."""
    with explain_errors(folder):
        for path in folder.glob("vectors.*"):
            path.unlink()
        sync_folder(folder)
