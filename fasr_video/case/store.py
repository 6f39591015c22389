"""The case folder: its database, its pictures and its log.

    CASE/
      case.sqlite        sources, segments, tracks, faces, probes, candidates, links, settings, log;
                         all else is derived from it
      settings.yaml      the current settings, for people to read
      crops/ab/….png     lossless pictures, named by their SHA-256; a reconstruction says inside
                         the file that it is one (….aes in an encrypted case, which also encrypts
                         vectors)
      gallery/           the gallery that `run --gallery` built from a folder of photographs
      signed-off/        reports that reviewers signed off
      report/            the report; it is written again after the case has changed

Each segment of frames is stored in one transaction. After a kill, a power cut or a full disk the
case holds complete segments only. Pictures are written before the rows that name them and deleted
after those rows. A picture without a row does no harm; it is deleted when its source is done.

A case may come from an untrusted person. Symbolic links in it are never followed, and a folder that
contains any is not written to. A new case folder is readable by its owner only. The log is a hash
chain, so it reveals any change that does not recompute the chain. Comparing its end with a hash
noted elsewhere, or with a signed one, reveals a recomputed chain as well (docs/custody.md).
"""

from __future__ import annotations

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
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from PIL import Image as PilImage
from PIL.PngImagePlugin import PngInfo

from fasr_video import __version__
from fasr_video.case import values
from fasr_video.clock import now
from fasr_video.encryption import CIPHER, fingerprint, given_key, make_vault, open_vault, read_key
from fasr_video.errors import CaseError, IntegrityError
from fasr_video.files import (
    atomic_write,
    atomic_write_text,
    make_folder,
    make_private_folder,
    put_in_place,
    read_file,
    refuse_links,
    sync_folder,
    take_lock,
)
from fasr_video.pictures import UNREADABLE, decoded, opened
from fasr_video.schema import Shape, check_schema, check_values, find_problem, has_known_meta
from fasr_video.sqlite import (
    close_checkpointed,
    connect_to_read,
    connect_to_write,
    explain_errors,
    transaction,
)
from fasr_video.types import Image

if TYPE_CHECKING:
    from fasr_video.aes import Vault

# The most cases, or candidates, that an error names.
MOST_NAMED = 5
SCHEMA_VERSION = 4
DATABASE = "case.sqlite"
LOCK = ".lock"
SETTINGS = "settings.yaml"
# The folder of the gallery that `run --gallery` built from photographs.
GALLERY = "gallery"
# The only file that remains of a purged case.
TOMBSTONE = "purged.json"
# Names of picture files, complete (.png, .aes) or partly written (.part; .new in earlier versions).
_PICTURE = re.compile(r"[0-9a-f]{64}\.(png|aes)(\.part)?|[0-9a-f]{64}\.new")

# A database is compared with this text, line breaks included.
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
    """Another process is writing the case."""


class CaseStore:
    """The folder and database of an open case. Open cases through `Case`, not through this
    class."""

    def __init__(self, folder: Path, database: sqlite3.Connection) -> None:
        self.folder = folder
        self.db = database
        self._unlogged_runs: list[Mapping[str, object]] = []
        """Holds the details of the current run until it logs something; then they are
        logged first."""

    @classmethod
    def create(cls, folder: Path, settings: Mapping[str, object], settings_text: str) -> Self:
        """Create a case in `folder` and open it; it is encrypted where a key was given."""
        case_id = secrets.token_hex(8)
        encryption = _new_encryption(case_id)
        with explain_errors(folder):
            make_private_folder(folder)
            partial = folder / f"{DATABASE}.new"
            refuse_foreign(folder)
            # A run that was killed while it created the case may have left these.
            for leftover in folder.glob(f"{partial.name}*"):
                leftover.unlink()
            make_folder(folder / "crops")
            atomic_write_text(folder / "settings.yaml", settings_text)
            # The database gets its final name only once it is complete.
            database = _connect(partial)
            with database:
                database.executescript(_SCHEMA)
            case = cls(folder, database)
            versions = package_versions()
            meta = {
                "schema": str(SCHEMA_VERSION),
                "case_id": case_id,
                "version": __version__,
                "versions": json.dumps(versions),
                "linked_tracks": "",
                "searched": "null",
                "log_head": "",
                "settings": json.dumps(settings, sort_keys=True),
                **{key: json.dumps(value) for key, value in encryption.items()},
            }
            origin = {"case_id": case_id, "version": __version__, "versions": versions}
            with case.transaction():
                for key, value in meta.items():
                    database.execute("INSERT INTO meta VALUES (?, ?)", (key, value))
                case.log("created", {**origin, "settings": settings, **encryption})
            close_checkpointed(database)
            put_in_place(partial, folder / DATABASE)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path, read_only: bool = False) -> Self:
        """Open the case in `folder`; raise where there is none or its database cannot be
        trusted."""
        path = folder / DATABASE
        if not path.is_file():
            raise no_case(folder)
        with explain_errors(folder):
            if not read_only:
                refuse_links(folder)
                refuse_links(folder / "crops")
            database, stored = _open_database(path, read_only)
        if stored != str(SCHEMA_VERSION):
            database.close()
            formats = f"case format {stored}, this one writes {SCHEMA_VERSION}"
            raise CaseError(
                folder,
                f"made by another version of fasr-video ({formats})",
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
        """Return a context that commits all changes made within it, or none of them."""
        return transaction(self.db, self.folder)

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Read one consistent state of the case, whatever other processes write meanwhile.

        Write nothing within it. Within another snapshot or a transaction this does nothing.
        """
        is_nested = self.db.in_transaction
        if is_nested:
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
        """Return the value stored under `key`; raise where there is none."""
        value = self.find_meta(key)
        if value is None:
            raise IntegrityError(
                self.folder, f"its {key} is missing", "restore the case from a copy"
            )
        return value

    def find_meta(self, key: str) -> str | None:
        """Return the value stored under `key`, or None."""
        row = self.db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def set_meta(self, key: str, value: str) -> None:
        self.db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    @cached_property
    def encryption(self) -> dict[str, str] | None:
        """Return the cipher and the fingerprint of the key, or None for a case that is not
        encrypted."""
        stored = self.find_meta("encryption")
        return None if stored is None else read_json(stored)

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """Return the settings of the last run or redone stage, by group."""
        return read_json(self.meta("settings"))

    @cached_property
    def vault(self) -> Vault | None:
        """Return the vault of an encrypted case, or None; raise where its key was not given."""
        encryption = self.encryption
        if encryption is None:
            return None
        return open_vault(self.folder, self.meta("case_id"), encryption["key"])

    def check_key(self) -> None:
        """Raise where the given key is not the case's, or the case has no key. Call before
        writing."""
        if self.vault is None and given_key() is not None:
            reason = "this case has no key: its pictures and vectors are not encrypted"
            raise CaseError(
                self.folder, reason, "leave the key out, or run the footage into a new case"
            )

    def encrypt(self, data: bytes, name: str) -> bytes:
        """Return `data` encrypted under its name in the case, or unchanged in an
        unencrypted case."""
        return data if self.vault is None else self.vault.seal(data, name)

    def decrypt(self, stored: bytes, name: str) -> bytes:
        """Return the data that `encrypt` was given under this name; raise where it was changed."""
        return stored if self.vault is None else self.vault.open(stored, name)

    def log(self, event: str, details: Mapping[str, object]) -> None:
        """Append a line to the log, chained to the previous one by its hash.

        Call it inside a transaction.
        """
        if self._unlogged_runs:
            self.log("run begun", self._unlogged_runs.pop())
        last = self.db.execute("SELECT hash FROM log ORDER BY id DESC LIMIT 1").fetchone()
        previous = str(last[0]) if last else ""
        # A new line after a truncated log would hide the truncation.
        if previous != self.meta("log_head"):
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
        """Return all rows of a table, ordered by all their columns."""
        columns = len(self.db.execute(f"SELECT * FROM {name} LIMIT 0").description)
        order = ", ".join(str(column) for column in range(1, columns + 1))
        return [dict(row) for row in self.db.execute(f"SELECT * FROM {name} ORDER BY {order}")]

    def hash_rows(self, *queries: str, of: int | None = None) -> str:
        """Return one hash over the rows of these queries, which may take a source or track id."""
        hasher = hashlib.sha256()
        for query in queries:
            for row in self.db.execute(query, () if of is None else (of,)):
                hasher.update(json.dumps(tuple(row)).encode())
        return hasher.hexdigest()

    def database_problems(self) -> list[str]:
        """Return the problems that SQLite and the checks of our own schema report."""
        try:
            rows = [str(row[0]) for row in self.db.execute("PRAGMA integrity_check")]
        except sqlite3.DatabaseError as error:
            return [str(error)]
        problems = [row for row in rows if row != "ok"]
        dangling = self.db.execute("PRAGMA foreign_key_check").fetchall()
        problems += sorted(
            {f"a row of {row[0]} refers to a missing row of {row[2]}" for row in dangling}
        )
        invalid = find_problem(self.db, SHAPE)
        return problems if invalid is None else [*problems, invalid]

    @contextmanager
    def logged_run(self, details: Mapping[str, object]) -> Iterator[None]:
        """Log that a run begins, with these details, and that it ends. A run that logs nothing else
        leaves no lines."""
        self._unlogged_runs = [details]
        yield
        if not self._unlogged_runs:
            with self.transaction():
                self.log("run ended", {})
        self._unlogged_runs = []

    def write_picture(self, image: Image, note: PngInfo | None = None) -> str:
        """Store a picture losslessly, with `note` inside; return its name, the SHA-256 of
        the file."""
        buffer = io.BytesIO()
        PilImage.fromarray(image).save(buffer, "PNG", compress_level=1, pnginfo=note)
        data = buffer.getvalue()
        name = hashlib.sha256(data).hexdigest()
        path = self.picture_path(name)
        if not path.exists():
            make_folder(path.parent)
            atomic_write(path, lambda partial: partial.write_bytes(self.encrypt(data, name)))
        return name

    def picture_path(self, name: str) -> Path:
        ending = "png" if self.encryption is None else "aes"
        return self.folder / "crops" / name[:2] / f"{name}.{ending}"

    def picture_bytes(self, name: str) -> bytes:
        """Return a picture as a PNG file; raise where its hash is not its name."""
        path = self.picture_path(name)
        remedy = "restore it from a copy of the case"
        try:
            data = self.decrypt(read_file(path), name)
        except OSError as error:
            raise IntegrityError(path, f"cannot be read ({error})", remedy) from error
        if hashlib.sha256(data).hexdigest() != name:
            raise IntegrityError(path, "it was changed", remedy)
        with self._explain_unreadable(name), opened(data):
            return data

    def read_picture(self, name: str) -> Image:
        data = self.picture_bytes(name)
        with self._explain_unreadable(name):
            return decoded(data)

    @contextmanager
    def _explain_unreadable(self, name: str) -> Iterator[None]:
        """Raise an IntegrityError where a picture cannot be decoded or has a size no run writes."""
        try:
            yield
        except UNREADABLE as error:
            remedy = "do not use this case: fasr-video did not write this file"
            raise IntegrityError(
                self.picture_path(name), f"not a picture of a case ({error})", remedy
            ) from error

    def picture_names(self) -> list[str]:
        """Return the names of all pictures that the case refers to."""
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
        """Delete pictures that no row names, and return how many.

        A killed run leaves such files, and so does a track that drops faces while it runs. Only
        files with names of our pictures are deleted: others may have been put there by a person.
        """
        named = {self.picture_path(name) for name in self.picture_names()}
        with explain_errors(self.folder):
            unnamed = [
                path
                for path in self.picture_files()
                if path not in named and _PICTURE.fullmatch(path.name)
            ]
            for path in unnamed:
                path.unlink()
            for folder in {path.parent for path in unnamed}:
                sync_folder(folder)
        return len(unnamed)

    def picture_files(self) -> Iterator[Path]:
        """Yield all files in the picture folders of the case; symbolic links are not followed."""
        crops = self.folder / "crops"
        folders = [] if crops.is_symlink() or not crops.is_dir() else sorted(crops.iterdir())
        for folder in folders:
            if folder.is_dir() and not folder.is_symlink():
                yield from (
                    path
                    for path in sorted(folder.iterdir())
                    if path.is_file() and not path.is_symlink()
                )


def no_case(folder: Path) -> CaseError:
    """Return the error that a folder is no case: it was purged, holds cases, or neither."""
    if (folder / TOMBSTONE).is_file():
        reason = f"it was purged ({TOMBSTONE} says when and what)"
        return CaseError(folder, reason, "give the folder of another case")
    remedy = "give the folder that `run` wrote"
    names = sorted(path.parent.name for path in folder.glob(f"*/{DATABASE}"))
    if names:
        more = ", …" if len(names) > MOST_NAMED else ""
        remedy = f"give one of the cases in it: {', '.join(names[:MOST_NAMED])}{more}"
    return CaseError(folder, f"no case here (it contains no {DATABASE})", remedy)


def refuse_foreign(folder: Path) -> None:
    """Raise where a folder is not a case and holds more than a run killed at its start leaves."""
    if not folder.is_dir() or (folder / DATABASE).exists():
        return
    if (folder / TOMBSTONE).is_file():
        raise CaseError(
            folder, f"it was purged ({TOMBSTONE} says when and what)", "give another --out"
        )
    new = f"{DATABASE}.new"
    unfinished = {LOCK, "crops", "settings.yaml", "settings.yaml.part"}
    unfinished |= {new, *(f"{new}-{end}" for end in ("wal", "shm", "journal"))}
    if {path.name for path in folder.iterdir()} - unfinished:
        raise CaseError(folder, "not empty and not a case", "give another --out or empty it")


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Make the folder and lock it for one run; raise CaseBusy while another run holds the lock."""
    with explain_errors(folder):
        refuse_foreign(folder)
        make_private_folder(folder)
    with hold_lock(folder):
        yield


@contextmanager
def hold_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a case; raise CaseBusy while another process holds it."""
    try:
        with explain_errors(folder):
            lock = take_lock(folder / LOCK)
    except BlockingIOError as error:
        raise CaseBusy(
            folder, "another run is writing this case", "wait for it, or stop it"
        ) from error
    with lock:
        yield


def _new_encryption(case_id: str) -> dict[str, object]:
    """Return the `encryption` entry of a new case, or nothing where no key was given."""
    path = given_key()
    if path is None:
        return {}
    key = read_key(path)
    make_vault(key, case_id)  # raises for a missing package before anything is written
    return {"encryption": {"cipher": CIPHER, "key": fingerprint(key)}}


def read_json(text: str) -> dict[str, Any]:
    """Return the JSON object in a text column."""
    value: dict[str, Any] = json.loads(text)
    return value


def package_versions() -> dict[str, str]:
    packages = ("av", "decord", "filterpy", "numpy", "opencv-python", "scipy", "torch")
    versions = {"python": platform.python_version()}
    for package in packages:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def _open_database(path: Path, read_only: bool) -> tuple[sqlite3.Connection, str]:
    """Return a connection, and the schema version that the database names."""
    try:
        database = connect_to_read(path) if read_only else _connect(path)
        database.row_factory = sqlite3.Row
        if not has_known_meta(database, SHAPE):
            check_schema(database, SHAPE, path)
        schema = database.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
    except sqlite3.DatabaseError as error:
        is_operational = isinstance(error, sqlite3.OperationalError)
        if is_operational and "no such table" not in str(error):
            raise
        raise IntegrityError(
            path, f"damaged ({error})", "restore it from a copy; nothing was written"
        ) from error
    return database, schema[0] if schema else "unknown"


def _connect(path: Path) -> sqlite3.Connection:
    database = connect_to_write(path)
    database.row_factory = sqlite3.Row
    return database


def chain_hash(previous: str, at: str, event: str, details: str) -> str:
    return hashlib.sha256("\n".join((previous, at, event, details)).encode()).hexdigest()
