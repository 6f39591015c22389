"""The case: one folder that holds all that a run found, written as it goes.

    CASE/
      case.sqlite        the truth: sources, segments, tracks, faces, probes, candidates, links, settings, log
      settings.yaml      the settings in force, for people
      crops/ab/….png     lossless pictures, named by the SHA-256 of their bytes; reconstructions say so inside
                         (….aes where the case is encrypted; its vectors are then too)
      gallery/           the gallery made from a folder of photographs that `run --gallery` was given
      signed-off/        reports that reviewers signed off
      report/            what is handed on of all that, made anew when the case went on

A segment of frames is one transaction: after a kill, a power cut or a full disk the case holds whole segments and
nothing else. Pictures are written before the rows that name them and deleted after; one without a row is harmless
and swept when a source is done.

A case may come from anybody: one that holds links is not written to, and none is followed. A new one is its owner's
alone. Its log is a chain, which shows what was changed by whoever does not make the whole chain anew: an end that was
noted elsewhere, or signed, shows that too (docs/custody.md).
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import io
import json
import platform
import re
import secrets
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from PIL import Image as PilImage
from PIL.PngImagePlugin import PngInfo

from fasr_video import __version__
from fasr_video.case import values
from fasr_video.encryption import CIPHER, fingerprint, given_key, make_vault, open_vault, read_key
from fasr_video.errors import CaseError, IntegrityError
from fasr_video.files import (
    atomic_write,
    atomic_write_text,
    make_folder,
    make_private_folder,
    open_lock,
    put_in_place,
    read_file,
    refuse_links,
    sync_folder,
)
from fasr_video.pictures import UNREADABLE, decoded, opened
from fasr_video.schema import Shape, check_schema, check_values, find_problem, has_known_meta
from fasr_video.sqlite import (
    BUSY_SECONDS,
    close_checkpointed,
    connect,
    connect_to_read,
    explain_errors,
    transaction,
)
from fasr_video.types import Image

if TYPE_CHECKING:
    from fasr_video.aes import Vault

SCHEMA_VERSION = 4
DATABASE = "case.sqlite"
LOCK = ".lock"
SETTINGS = "settings.yaml"
# The gallery of the folder of photographs that it was given.
GALLERY = "gallery"
# What is left of a case that was purged.
TOMBSTONE = "purged.json"
# Names of pictures, whole or half written; earlier versions called these .new.
_PICTURE = re.compile(r"[0-9a-f]{64}\.(png|aes)(\.part)?|[0-9a-f]{64}\.new")

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE source (
    id INTEGER PRIMARY KEY, path TEXT NOT NULL, sha256 TEXT NOT NULL UNIQUE, info TEXT NOT NULL, detector TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('running', 'done')),
    camera TEXT, clock TEXT, losses TEXT NOT NULL, tracker TEXT, last_index INTEGER, last_pts INTEGER,
    frames INTEGER NOT NULL DEFAULT 0, skipped_damaged INTEGER NOT NULL DEFAULT 0, seconds REAL NOT NULL DEFAULT 0);
CREATE TABLE segment (
    id INTEGER PRIMARY KEY, source INTEGER NOT NULL REFERENCES source, first_index INTEGER NOT NULL,
    last_index INTEGER NOT NULL, frames INTEGER NOT NULL, faces INTEGER NOT NULL, at TEXT NOT NULL);
CREATE TABLE track (
    id INTEGER PRIMARY KEY, source INTEGER NOT NULL REFERENCES source, tracker_id INTEGER NOT NULL,
    number INTEGER, state TEXT NOT NULL CHECK (state IN ('live', 'done')),
    verdict TEXT CHECK (verdict IN ('usable', 'insufficient')), verdict_reason TEXT, mean_score REAL, norm REAL,
    shown_face INTEGER,
    UNIQUE (source, tracker_id));
CREATE TABLE face (
    id INTEGER PRIMARY KEY, source INTEGER NOT NULL REFERENCES source, track INTEGER REFERENCES track,
    frame_index INTEGER NOT NULL, pts INTEGER NOT NULL,
    x1 REAL NOT NULL, y1 REAL NOT NULL, x2 REAL NOT NULL, y2 REAL NOT NULL, landmarks TEXT,
    score REAL NOT NULL, eye_px REAL NOT NULL, sharpness REAL NOT NULL, turn REAL, exposure REAL NOT NULL,
    contrast REAL NOT NULL, inside REAL NOT NULL, clear REAL NOT NULL, total REAL NOT NULL, reason TEXT,
    aligned TEXT, native TEXT, native_x INTEGER, native_y INTEGER);
CREATE INDEX face_by_track ON face (track, frame_index);
CREATE INDEX face_by_source ON face (source, frame_index);
CREATE TABLE link (
    id INTEGER PRIMARY KEY AUTOINCREMENT, a INTEGER NOT NULL REFERENCES track, b INTEGER NOT NULL REFERENCES track,
    score REAL NOT NULL, evidence TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('proposed', 'accepted', 'refused')), decided_by TEXT, decided_at TEXT,
    UNIQUE (a, b));
CREATE TABLE probe (
    track INTEGER NOT NULL REFERENCES track, kind TEXT NOT NULL CHECK (kind IN ('best', 'pooled', 'sr')),
    feature BLOB NOT NULL, PRIMARY KEY (track, kind)) WITHOUT ROWID;
CREATE TABLE encoding (track INTEGER PRIMARY KEY REFERENCES track, models TEXT NOT NULL, side INTEGER NOT NULL);
CREATE TABLE restoration (
    track INTEGER PRIMARY KEY REFERENCES track, picture TEXT NOT NULL, samples TEXT NOT NULL, spread TEXT,
    provenance TEXT NOT NULL);
CREATE TABLE answer (
    track INTEGER PRIMARY KEY REFERENCES track, verdict TEXT NOT NULL CHECK (verdict IN ('candidates', 'unknown')),
    threshold REAL, extrapolated INTEGER NOT NULL, remark TEXT);
CREATE TABLE candidate (
    track INTEGER NOT NULL REFERENCES track, list TEXT NOT NULL CHECK (list IN ('best', 'pooled', 'sr', 'joined')),
    rank INTEGER NOT NULL, subject TEXT NOT NULL, cosine REAL, ratio REAL, score REAL, cosines TEXT, support TEXT,
    passes INTEGER, at_bound INTEGER, PRIMARY KEY (track, list, rank)) WITHOUT ROWID;
CREATE TABLE decision (
    id INTEGER PRIMARY KEY AUTOINCREMENT, track INTEGER NOT NULL REFERENCES track, subject TEXT,
    verdict TEXT NOT NULL CHECK (verdict IN ('accepted', 'rejected', 'insufficient')), reason TEXT NOT NULL,
    by TEXT NOT NULL, at TEXT NOT NULL, undone_by TEXT, undone_at TEXT);
CREATE TABLE gallery_photo (
    id INTEGER PRIMARY KEY, path TEXT NOT NULL, subject TEXT NOT NULL, sha256 TEXT, problem TEXT);
CREATE TABLE log (
    id INTEGER PRIMARY KEY, at TEXT NOT NULL, event TEXT NOT NULL, details TEXT NOT NULL,
    previous TEXT NOT NULL, hash TEXT NOT NULL);
"""

SHAPE = Shape(_SCHEMA, values.TESTS, values.QUERIES, values.LARGE)


class CaseBusy(CaseError):
    """Another process is writing it."""


class CaseStore:
    """The folder and database of an open case; `Case` is what to open."""

    def __init__(self, folder: Path, database: sqlite3.Connection) -> None:
        self.folder = folder
        self.db = database
        self._waiting: list[Mapping[str, object]] = []
        """The begin of a run that has logged nothing yet."""

    @classmethod
    def create(cls, folder: Path, settings: Mapping[str, object], settings_text: str) -> Self:
        """With a key given, an encrypted one."""
        case_id = secrets.token_hex(8)
        sealed = _encryption(case_id)
        with explain_errors(folder):
            make_private_folder(folder)
            partial = folder / f"{DATABASE}.new"
            refuse_foreign(folder)
            for leftover in folder.glob(
                f"{partial.name}*"
            ):  # a run that was killed while it made the case
                leftover.unlink()
            make_folder(folder / "crops")
            atomic_write_text(folder / "settings.yaml", settings_text)
            # The database appears under its name only when it is whole.
            database = _connect(partial)
            with database:
                database.executescript(_SCHEMA)
            case = cls(folder, database)
            with case.transaction():
                for key, value in {
                    "schema": str(SCHEMA_VERSION),
                    "case_id": case_id,
                    "version": __version__,
                    "versions": json.dumps(package_versions()),
                    "linked_tracks": "",
                    "searched": "null",
                    "log_head": "",
                    "settings": json.dumps(settings, sort_keys=True),
                    **{k: json.dumps(v) for k, v in sealed.items()},
                }.items():
                    database.execute("INSERT INTO meta VALUES (?, ?)", (key, value))
                made = {"case_id": case_id, "version": __version__, "versions": package_versions()}
                case.log("created", {**made, "settings": settings, **sealed})
            close_checkpointed(database)
            put_in_place(partial, folder / DATABASE)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path, read_only: bool = False) -> Self:
        path = folder / DATABASE
        if not path.is_file() and (folder / TOMBSTONE).is_file():
            raise CaseError(
                folder,
                f"it was purged ({TOMBSTONE} says when and what)",
                "give a case that is kept",
            )
        if not path.is_file():
            raise CaseError(
                folder, f"no case here (it holds no {DATABASE})", "give the folder that `run` made"
            )
        with explain_errors(folder):
            if not read_only:
                refuse_links(folder)
                refuse_links(folder / "crops")
            try:
                database = connect_to_read(path) if read_only else _connect(path)
                database.row_factory = sqlite3.Row
                if not has_known_meta(database, SHAPE):
                    check_schema(database, SHAPE, path)
                found = database.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError) and "no such table" not in str(
                    error
                ):
                    raise
                raise IntegrityError(
                    path, f"damaged ({error})", "restore it from a copy; nothing was written"
                ) from error
        if found is None or found[0] != str(SCHEMA_VERSION):
            database.close()
            made = found[0] if found else "unknown"
            reason = f"made by another version of fasr-video (case format {made}, this one writes {SCHEMA_VERSION})"
            raise CaseError(
                folder,
                reason,
                "open it with that version, or run the footage again into a new case",
            )
        try:
            with explain_errors(folder):
                check_schema(database, SHAPE, path)
                check_values(database, SHAPE, path)
        except BaseException:
            database.close()
            raise
        return cls(folder, database)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: object = None, error: BaseException | None = None, __: object = None
    ) -> None:
        self.db.close()

    def transaction(self) -> AbstractContextManager[None]:
        return transaction(self.db, self.folder)

    @contextmanager
    def one_moment(self) -> Iterator[None]:
        """What is read within is one state of the case, whatever others write meanwhile; nothing is written within."""
        already = (
            self.db.in_transaction
        )  # in such a moment, or in the transaction of whoever writes
        if already:
            yield
            return
        with explain_errors(self.folder):
            self.db.execute("BEGIN")
        try:
            yield
        finally:
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")

    def meta(self, key: str) -> str:
        value = self.find_meta(key)
        if value is None:
            raise IntegrityError(
                self.folder, f"its {key} is missing", "restore the case from a copy"
            )
        return value

    def find_meta(self, key: str) -> str | None:
        """Return what is said under this key; None where nothing is."""
        row = self.db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def set_meta(self, key: str, value: str) -> None:
        self.db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    @cached_property
    def encryption(self) -> dict[str, str] | None:
        """Cipher and fingerprint of the key; None where pictures and vectors are kept as they are."""
        stored = self.find_meta("encryption")
        return None if stored is None else read_json(stored)

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """Return the settings that it was made with, or a stage redone with, by their groups."""
        return read_json(self.meta("settings"))

    @cached_property
    def vault(self) -> Vault | None:
        """None where the case is not encrypted; an error where it is and its key was not given."""
        sealed = self.encryption
        return (
            None if sealed is None else open_vault(self.folder, self.meta("case_id"), sealed["key"])
        )

    def check_key(self) -> None:
        """Before anything is written: the key that was given is the case's, and none was where it has none."""
        if self.vault is None and given_key() is not None:
            reason = "it was made without a key: its pictures and vectors are not encrypted"
            raise CaseError(
                self.folder, reason, "leave the key out, or run the footage into a new case"
            )

    def seal(self, data: bytes, place: str) -> bytes:
        """As it may lie on the disk, bound to its place in the case."""
        return data if self.vault is None else self.vault.seal(data, place)

    def unseal(self, stored: bytes, place: str) -> bytes:
        return stored if self.vault is None else self.vault.open(stored, place)

    def searched(self) -> dict[str, Any] | None:
        """What was asked when the tracks were searched for last; None when they never were."""
        stored = self.meta("searched")
        return None if stored == "null" else read_json(stored)

    def log(self, event: str, details: Mapping[str, object]) -> None:
        """Add a line to the log, chained to the one before by its hash. Call it inside a transaction."""
        if self._waiting:
            self.log("run begun", self._waiting.pop())
        last = self.db.execute("SELECT hash FROM log ORDER BY id DESC LIMIT 1").fetchone()
        previous = str(last[0]) if last else ""
        if previous != self.meta("log_head"):  # or this line would hide that others were cut off
            reason = "the end of its log is missing"
            raise IntegrityError(
                self.folder, reason, "see `fasr-video verify`; nothing was written"
            )
        at = now()
        text = json.dumps(details, sort_keys=True, default=str)
        digest = chain_hash(previous, at, event, text)
        self.db.execute(
            "INSERT INTO log (at, event, details, previous, hash) VALUES (?, ?, ?, ?, ?)",
            (at, event, text, previous, digest),
        )
        self.set_meta("log_head", digest)

    def table(self, name: str) -> list[dict[str, Any]]:
        """Return all rows of a table as they are stored, ordered by all their columns."""
        columns = len(self.db.execute(f"SELECT * FROM {name} LIMIT 0").description)
        order = ", ".join(str(place) for place in range(1, columns + 1))
        return [dict(row) for row in self.db.execute(f"SELECT * FROM {name} ORDER BY {order}")]

    def hash_rows(self, *queries: str, of: int | None = None) -> str:
        """Return one hash over what these queries find, of a source or track, so that the log's chain covers it."""
        hasher = hashlib.sha256()
        for query in queries:
            for row in self.db.execute(query, () if of is None else (of,)):
                hasher.update(json.dumps(tuple(row)).encode())
        return hasher.hexdigest()

    def problems(self) -> list[str]:
        """Return what SQLite, or our own schema, has to say against the database."""
        try:
            rows = [str(row[0]) for row in self.db.execute("PRAGMA integrity_check")]
        except sqlite3.DatabaseError as error:
            return [str(error)]
        found = [row for row in rows if row != "ok"]
        strays = self.db.execute("PRAGMA foreign_key_check").fetchall()
        found += sorted(
            {f"a row of {row[0]} points at a row of {row[2]} that is gone" for row in strays}
        )
        wrong = find_problem(self.db, SHAPE)
        return found if wrong is None else [*found, wrong]

    @contextmanager
    def in_a_run(self, details: Mapping[str, object]) -> Iterator[None]:
        """The log says where a run begins, with these details, and where it ends, if it has anything else to log."""
        self._waiting = [details]
        yield
        if not self._waiting:
            with self.transaction():
                self.log("run ended", {})
        self._waiting = []

    def write_picture(self, image: Image, note: PngInfo | None = None) -> str:
        """Store a picture losslessly; returns its name, the SHA-256 of the file. `note` is kept inside it."""
        buffer = io.BytesIO()
        PilImage.fromarray(image).save(buffer, "PNG", compress_level=1, pnginfo=note)
        data = buffer.getvalue()
        name = hashlib.sha256(data).hexdigest()
        path = self.picture_path(name)
        if not path.exists():
            make_folder(path.parent)
            atomic_write(path, lambda partial: partial.write_bytes(self.seal(data, name)))
        return name

    def picture_path(self, name: str) -> Path:
        return (
            self.folder
            / "crops"
            / name[:2]
            / f"{name}.{'png' if self.encryption is None else 'aes'}"
        )

    def picture_bytes(self, name: str) -> bytes:
        """The picture as a PNG file, which is what its name says."""
        path, remedy = self.picture_path(name), "restore it from a copy of the case"
        try:
            data = self.unseal(read_file(path), name)
        except OSError as error:
            raise IntegrityError(path, f"cannot be read ({error})", remedy) from error
        if hashlib.sha256(data).hexdigest() != name:
            raise IntegrityError(path, "it was changed", remedy)
        with self._sound(name), opened(data):
            return data

    def read_picture(self, name: str) -> Image:
        data = self.picture_bytes(name)
        with self._sound(name):
            return decoded(data)

    @contextmanager
    def _sound(self, name: str) -> Iterator[None]:
        """A file that is named as a picture of the case, and is none, or one of a size that no run writes, is told."""
        try:
            yield
        except UNREADABLE as error:
            remedy = "do not use this case: no run made it as it is"
            raise IntegrityError(
                self.picture_path(name), f"no picture that a case has ({error})", remedy
            ) from error

    def picture_names(self) -> list[str]:
        """Of every picture that the case refers to."""
        faces = (
            "SELECT aligned FROM face WHERE aligned IS NOT NULL"
            " UNION SELECT native FROM face WHERE native IS NOT NULL"
        )
        names = [str(row[0]) for row in self.db.execute(faces).fetchall()]
        for row in self.db.execute("SELECT picture, samples, spread FROM restoration").fetchall():
            names += [
                row["picture"],
                *json.loads(row["samples"]),
                *([row["spread"]] if row["spread"] else []),
            ]
        return names

    def sweep_pictures(self) -> int:
        """Delete pictures that no row names: left behind by a kill, or given up while a track ran.

        Only files that are named as ours are, in folders of the case: whoever made the case may have put others there.
        """
        named = {self.picture_path(name) for name in self.picture_names()}
        with explain_errors(self.folder):
            left = [
                p for p in self.pictures_there() if p not in named and _PICTURE.fullmatch(p.name)
            ]
            for path in left:
                path.unlink()
            for folder in {path.parent for path in left}:
                sync_folder(folder)
        return len(left)

    def pictures_there(self) -> Iterator[Path]:
        """All files where the case keeps its pictures; links are not followed."""
        crops = self.folder / "crops"
        folders = [] if crops.is_symlink() or not crops.is_dir() else sorted(crops.iterdir())
        for folder in folders:
            if folder.is_dir() and not folder.is_symlink():
                yield from (
                    path
                    for path in sorted(folder.iterdir())
                    if path.is_file() and not path.is_symlink()
                )


def refuse_foreign(folder: Path) -> None:
    """Raise when a folder that is no case holds anything but what a run killed at its very start left behind."""
    if not folder.is_dir() or (folder / DATABASE).exists():
        return
    if (folder / TOMBSTONE).is_file():
        raise CaseError(
            folder, f"it was purged ({TOMBSTONE} says when and what)", "give another --out"
        )
    new = f"{DATABASE}.new"
    begun = {LOCK, "crops", "settings.yaml", "settings.yaml.part"}
    begun |= {new, *(f"{new}-{end}" for end in ("wal", "shm", "journal"))}
    if {p.name for p in folder.iterdir()} - begun:
        raise CaseError(folder, "not empty and no case", "give another --out or empty it")


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold the case for one run; another one at the same time is told so."""
    with explain_errors(folder):
        refuse_foreign(folder)
        make_private_folder(folder)
    with locked(folder):
        yield


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    with explain_errors(folder):
        handle = open_lock(folder / LOCK)
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CaseBusy(
                folder, "another run is writing this case", "wait for it, or stop it"
            ) from error
        yield


def _encryption(case_id: str) -> dict[str, object]:
    """What a new case says of its encryption; nothing where no key was given."""
    path = given_key()
    if path is None:
        return {}
    key = read_key(path)
    make_vault(key, case_id)  # a package that is missing is told before there is a case
    return {"encryption": {"cipher": CIPHER, "key": fingerprint(key)}}


def read_json(text: str) -> dict[str, Any]:
    """Return what is in a column that holds a JSON object."""
    read: dict[str, Any] = json.loads(text)
    return read


def package_versions() -> dict[str, str]:
    packages = ("av", "decord", "filterpy", "numpy", "opencv-python", "scipy", "torch")
    found = {"python": platform.python_version()}
    for package in packages:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _connect(path: Path) -> sqlite3.Connection:
    database = connect(path, timeout=BUSY_SECONDS)
    database.row_factory = sqlite3.Row
    database.execute("PRAGMA journal_mode = WAL")
    database.execute(
        "PRAGMA synchronous = FULL"
    )  # what was told to be done is done, also after a power cut
    database.execute("PRAGMA foreign_keys = ON")
    database.execute(
        "PRAGMA secure_delete = ON"
    )  # a name that is taken out leaves no trace in free pages
    return database


def chain_hash(previous: str, at: str, event: str, details: str) -> str:
    return hashlib.sha256("\n".join((previous, at, event, details)).encode()).hexdigest()


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
