"""The ledger of an archive: which files there are, which cases are done, and what went wrong.

    CASES/ledger.sqlite
      file     path, size, time of change, SHA-256, and what is known of its camera and clock
      job      one content under one set of settings: its case folder, its state, its tries
      unread   folders and files that could not be read
      event    what happened, in order

A job is waiting, running, done, failed, or missing (no file with its content is left). One process
holds a ledger. Jobs that are "running" when it opens one were left by a process that died; they
wait again.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from fasr_video.archive.cameras import FileInfo
from fasr_video.archive.scan import FoundFile, Scan
from fasr_video.case.recording import Recording
from fasr_video.case.store import DATABASE as CASE_DATABASE
from fasr_video.case.values import is_clock
from fasr_video.clock import now
from fasr_video.errors import CaseError, IntegrityError
from fasr_video.files import (
    is_gone,
    is_plain_name,
    make_private_folder,
    put_in_place,
    refuse_link,
    take_lock,
)
from fasr_video.schema import (
    Row,
    Shape,
    check_schema,
    check_values,
    find_problem,
    has_known_meta,
    is_number,
)
from fasr_video.sqlite import (
    BUSY_SECONDS,
    connect,
    connect_to_read,
    explain_errors,
    raise_if_damaged,
    transaction,
)

DATABASE = "ledger.sqlite"
LOCK = ".ledger.lock"
# Folder with the detections of long files' chunks.
CHUNKS = "chunks"
SCHEMA_VERSION = 2
STATES = ("waiting", "running", "done", "failed", "missing")

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE file (
    path TEXT PRIMARY KEY, name TEXT NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    sha256 TEXT, camera TEXT, clock TEXT, priority INTEGER NOT NULL DEFAULT 0, problem TEXT,
    changes INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE INDEX file_by_content ON file (sha256);
CREATE TABLE job (
    id INTEGER PRIMARY KEY, sha256 TEXT NOT NULL, settings TEXT NOT NULL,
    folder TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL CHECK (state IN ('waiting', 'running', 'done', 'failed', 'missing')),
    tries INTEGER NOT NULL DEFAULT 0, error TEXT, size INTEGER NOT NULL, summary TEXT, seconds REAL,
    UNIQUE (sha256, settings));
CREATE TABLE unread (path TEXT PRIMARY KEY, reason TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE event (
    id INTEGER PRIMARY KEY, at TEXT NOT NULL, event TEXT NOT NULL, job INTEGER, path TEXT,
    details TEXT);
"""
# The numbers in the summary of a case that is done.
NUMBERS = (
    "frames",
    "faces",
    "tracks",
    "usable",
    "with_candidates",
    "unknown",
    "losses",
    "footage_seconds",
)
GONE = "its file is not there any more"
# The jobs of this process: a ledger may also hold jobs of other folders, time windows and settings.
_PLANNED = "CREATE TEMP TABLE planned (job INTEGER PRIMARY KEY)"


@dataclass(frozen=True, slots=True)
class File:
    """A file that holds the content of a job."""

    path: Path
    name: str
    size: int
    mtime_ns: int
    recording: Recording
    problem: str | None


@dataclass(frozen=True, slots=True)
class Job:
    """One content, to be made a case under one set of settings."""

    id: int
    sha256: str
    folder: str
    """Of its case, within the cases' folder."""
    state: str
    tries: int
    error: str | None
    size: int
    summary: dict[str, Any]
    """The case's NUMBERS, camera and clock; empty until the job is done."""
    seconds: float | None


class Ledger:
    """An open ledger. Use `Ledger.open` or `Ledger.read`, in a with statement."""

    def __init__(self, cases: Path, database: sqlite3.Connection, lock: IO[str] | None) -> None:
        self.cases = cases
        self.db = database
        self._lock = lock

    @classmethod
    def open(cls, cases: Path) -> Ledger:
        """Open the ledger of a folder of cases to write it, or create it."""
        if (cases / CASE_DATABASE).exists():
            raise CaseError(cases, "it is a case itself", "give a folder for many cases")
        with explain_errors(cases):
            make_private_folder(cases)
            for name in (DATABASE, CHUNKS):
                refuse_link(cases / name)
            try:
                lock = take_lock(cases / LOCK)
            except BlockingIOError as error:
                reason = "another batch or watch is working on these cases"
                raise CaseError(cases, reason, "wait for it, or stop it") from error
            # No write-ahead log: it needs shared memory, which does not work over a network.
            _create(cases / DATABASE)
            database = connect(cases / DATABASE, timeout=BUSY_SECONDS)
            database.row_factory = sqlite3.Row
            ledger = cls(cases, database, lock)
            try:
                ledger._check()
            except BaseException:
                ledger.close()
                raise
            database.execute(_PLANNED)
            ledger.reset_running()
        return ledger

    @classmethod
    def read(cls, cases: Path) -> Ledger:
        """Open a ledger only to read it, without a lock. A batch may be working on it."""
        if not (cases / DATABASE).is_file():
            reason = f"no ledger here (it holds no {DATABASE})"
            raise CaseError(cases, reason, "give the folder that `batch` made")
        with explain_errors(cases):
            database = connect_to_read(cases / DATABASE)
        database.row_factory = sqlite3.Row
        ledger = cls(cases, database, None)
        try:
            with explain_errors(cases):
                ledger._check()
        except BaseException:
            ledger.close()
            raise
        return ledger

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, _: object = None, error: BaseException | None = None, __: object = None
    ) -> None:
        remedy = "restore it from a copy; the cases themselves are not touched"
        try:
            raise_if_damaged(error, self._damage, self.cases / DATABASE, remedy)
        finally:
            self.close()

    def close(self) -> None:
        self.db.close()
        if self._lock is not None:
            self._lock.close()

    def transaction(self) -> AbstractContextManager[None]:
        return transaction(self.db, self.cases)

    # Files.

    def known_hash(self, file: FoundFile) -> str | None:
        """Return a file's stored SHA-256, if its size and time of change are still the same."""
        row = self.db.execute(
            "SELECT size, mtime_ns, sha256 FROM file WHERE path = ?", (str(file.path),)
        ).fetchone()
        same = row is not None and (row["size"], row["mtime_ns"]) == (file.size, file.mtime_ns)
        return row["sha256"] if same else None

    def put_file(self, file: FoundFile, sha256: str, info: FileInfo) -> None:
        """Store a file and its content; forget the paths that it had before it was renamed."""
        clock = info.recording.clock
        row = (
            str(file.path),
            file.name,
            file.size,
            file.mtime_ns,
            sha256,
            info.recording.camera,
            None if clock is None else json.dumps(clock, sort_keys=True),
            info.priority,
            info.problem,
        )
        with self.transaction():
            self.db.execute(
                "INSERT INTO file (path, name, size, mtime_ns, sha256, camera, clock, priority,"
                " problem) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (path) DO UPDATE SET name = excluded.name, size = excluded.size,"
                " mtime_ns = excluded.mtime_ns, sha256 = excluded.sha256,"
                # Camera and clock stay as they were until new ones are given.
                " camera = ifnull(excluded.camera, camera), clock = ifnull(excluded.clock, clock),"
                " priority = excluded.priority, problem = excluded.problem",
                row,
            )
            others = self.db.execute(
                "SELECT path FROM file WHERE sha256 = ? AND path <> ?", (sha256, str(file.path))
            )
            renamed = [(other["path"],) for other in others.fetchall() if is_gone(other["path"])]
            self.db.executemany("DELETE FROM file WHERE path = ?", renamed)

    def put_unread(self, archive: Path, scanned: Scan) -> None:
        """Store what could not be read below `archive`, in place of what was stored before.

        Entries of files that are there stay: `put_problem` and `clear_problems` are for those.
        """
        prefix = _prefix(archive)
        present = {str(file.path) for file in scanned.files}
        before = dict(self.db.execute("SELECT path, reason FROM unread").fetchall())
        unchanged = {
            path: reason
            for path, reason in before.items()
            if path in present or not f"{path}/".startswith(prefix)
        }
        after = unchanged | scanned.unread
        if after == before:
            return
        with self.transaction():
            self.db.execute("DELETE FROM unread")
            self.db.executemany("INSERT INTO unread VALUES (?, ?)", after.items())

    def put_problem(self, path: Path, reason: str) -> None:
        """Store why a file cannot be used now; what is known of it from before stays."""
        with self.transaction():
            self.db.execute("UPDATE file SET problem = NULL WHERE path = ?", (str(path),))
            self.db.execute("INSERT OR REPLACE INTO unread VALUES (?, ?)", (str(path), reason))

    def clear_problems(self, files: Iterable[FoundFile]) -> None:
        """Forget the problems of files that are about to be tried."""
        with self.transaction():
            self.db.executemany(
                "DELETE FROM unread WHERE path = ?", [(str(file.path),) for file in files]
            )

    def put_gone(self, archive: Path, scanned: Scan) -> None:
        """Update the ledger for files that were below `archive` and are not any more.

        A file whose content is also elsewhere, or that never had a job, is forgotten. The file of a
        finished case stays: its disk may be detached. Jobs that are not done become missing.
        """
        prefix = _prefix(archive)
        present = {str(file.path) for file in scanned.files}
        stored = dict(self.db.execute("SELECT path, sha256 FROM file").fetchall())
        gone = {
            path: sha256
            for path, sha256 in stored.items()
            if path.startswith(prefix) and path not in present and is_gone(path)
        }
        elsewhere = {sha256 for path, sha256 in stored.items() if path not in gone}
        with self.transaction():
            forgotten = [
                (path,) for path, sha256 in gone.items() if sha256 is None or sha256 in elsewhere
            ]
            self.db.executemany("DELETE FROM file WHERE path = ?", forgotten)
        for lost in {sha256 for sha256 in gone.values() if sha256 is not None} - elsewhere:
            query = "SELECT id FROM job WHERE sha256 = ? AND state IN ('waiting', 'failed')"
            for row in self.db.execute(query, (lost,)).fetchall():
                self.set_failed(row["id"], "missing", GONE)

    def files(self, job: Job) -> list[File]:
        """Return the files that hold the content of a job."""
        rows = self.db.execute(
            "SELECT * FROM file WHERE sha256 = ? ORDER BY name, path", (job.sha256,)
        ).fetchall()
        return [_file(row) for row in rows]

    def name_of(self, path: Path) -> str:
        """Return the name of a stored file within its archive."""
        row = self.db.execute("SELECT name FROM file WHERE path = ?", (str(path),)).fetchone()
        return str(row["name"])

    # Jobs.

    def put_job(
        self, sha256: str, settings: str, folder: str, size: int, *, retry_failed: bool
    ) -> Job:
        """Plan the job of a content under these settings, and return it.

        It waits if it is new, if its file is back, or if it failed and `retry_failed` is given.
        """
        key = "WHERE sha256 = ? AND settings = ?"
        with self.transaction():
            self.db.execute(
                "INSERT INTO job (sha256, settings, folder, state, size)"
                " VALUES (?, ?, ?, 'waiting', ?) ON CONFLICT (sha256, settings) DO NOTHING",
                (sha256, settings, folder, size),
            )
            self.db.execute(
                f"UPDATE job SET state = 'waiting' {key} AND state = 'missing'", (sha256, settings)
            )
            if retry_failed:
                self.db.execute(
                    f"UPDATE job SET state = 'waiting', tries = 0 {key} AND state = 'failed'",
                    (sha256, settings),
                )
            row = self.db.execute(f"SELECT * FROM job {key}", (sha256, settings)).fetchone()
            job = _job(row)
            self.db.execute("INSERT OR IGNORE INTO planned VALUES (?)", (job.id,))
        return job

    def free_folder(self, sha256: str, settings: str, names: Iterable[str]) -> str:
        """Return the first of these names that no other job has."""
        query = "SELECT 1 FROM job WHERE folder = ? AND (sha256, settings) <> (?, ?)"
        for name in names:
            if self.db.execute(query, (name, sha256, settings)).fetchone() is None:
                return name
        raise AssertionError("the last name is the whole hash, which no other job has")

    def take_job(self) -> Job | None:
        """Mark the next planned job as running and return it; jobs that failed come last."""
        row = self.db.execute(
            "SELECT id FROM job WHERE state = 'waiting' AND id IN (SELECT job FROM planned)"
            " ORDER BY tries, id LIMIT 1"
        ).fetchone()
        if row is None:
            return None
        with self.transaction():
            self.db.execute(
                "UPDATE job SET state = 'running', tries = tries + 1 WHERE id = ?", (row["id"],)
            )
        return self.job(row["id"])

    def set_done(self, job: int, summary: Mapping[str, object], seconds: float) -> None:
        with self.transaction():
            self.db.execute(
                "UPDATE job SET state = 'done', error = NULL, summary = ?,"
                " seconds = ifnull(seconds, 0) + ? WHERE id = ?",
                (json.dumps(summary), seconds, job),
            )
            self.db.execute(
                "UPDATE file SET changes = 0 WHERE sha256 = (SELECT sha256 FROM job WHERE id = ?)",
                (job,),
            )
            self._log("done", job)

    def set_failed(self, job: int, state: str, reason: str) -> None:
        """Store why a job is not done; `state` is failed, missing, or waiting for another try."""
        with self.transaction():
            self.db.execute(
                "UPDATE job SET state = ?, error = ? WHERE id = ?", (state, reason, job)
            )
            event = "failed" if state == "failed" else f"failed, {state}"
            self._log(event, job, details=reason)

    def set_changed(self, job: Job, path: Path, reason: str) -> int:
        """Forget the content of a file that is not what was hashed, without counting it as a try.

        Returns how often that happened to the file.
        """
        with self.transaction():
            self.db.execute(
                "UPDATE file SET sha256 = NULL, changes = changes + 1, problem = ? WHERE path = ?",
                (reason, str(path)),
            )
            copies = self.db.execute(
                "SELECT count(*) FROM file WHERE sha256 = ?", (job.sha256,)
            ).fetchone()[0]
            state = "waiting" if copies else "missing"
            self.db.execute(
                "UPDATE job SET state = ?, tries = tries - 1, error = ? WHERE id = ?",
                (state, reason, job.id),
            )
            self._log("changed while it was read", job.id, path)
        row = self.db.execute("SELECT changes FROM file WHERE path = ?", (str(path),)).fetchone()
        return int(row["changes"])

    def reset_running(self) -> int:
        """Let jobs that are marked as running wait again, without counting that as a try."""
        with self.transaction():
            running = self.db.execute("SELECT id FROM job WHERE state = 'running'").fetchall()
            self.db.execute(
                "UPDATE job SET state = 'waiting', tries = tries - 1 WHERE state = 'running'"
            )
            for row in running:
                self._log("waits again", row["id"])
        return len(running)

    # Queries.

    def job(self, number: int) -> Job:
        return _job(self.db.execute("SELECT * FROM job WHERE id = ?", (number,)).fetchone())

    def jobs(self) -> list[Job]:
        return [_job(row) for row in self.db.execute("SELECT * FROM job ORDER BY folder")]

    def planned_sizes(self) -> dict[str, tuple[int, int]]:
        """Return how many jobs are planned and their bytes, by state."""
        query = (
            "SELECT state, count(*), sum(size) FROM job"
            " WHERE id IN (SELECT job FROM planned) GROUP BY state"
        )
        sizes = {row[0]: (row[1], row[2]) for row in self.db.execute(query).fetchall()}
        return {state: sizes.get(state, (0, 0)) for state in STATES}

    def planned_folders(self) -> set[str]:
        """Return the case folders of the jobs that are planned."""
        query = "SELECT folder FROM job WHERE id IN (SELECT job FROM planned)"
        return {row["folder"] for row in self.db.execute(query).fetchall()}

    def problems(self) -> list[tuple[str, str]]:
        """Return the files and folders that could not be read, each with the reason."""
        rows = self.db.execute(
            "SELECT path, problem FROM file WHERE sha256 IS NULL AND problem IS NOT NULL"
            " UNION ALL SELECT path, reason FROM unread ORDER BY 1"
        )
        return [(row[0], row[1]) for row in rows.fetchall()]

    def _damage(self) -> str | None:
        """Return the first thing in the database that is not as it was written."""
        return find_problem(self.db, SHAPE)

    def _log(
        self,
        event: str,
        job: int | None = None,
        path: Path | None = None,
        details: str | None = None,
    ) -> None:
        at = now()
        row = (at, event, job, None if path is None else str(path), details)
        self.db.execute(
            "INSERT INTO event (at, event, job, path, details) VALUES (?, ?, ?, ?, ?)", row
        )

    def _check(self) -> None:
        """Raise unless it is a ledger of this version, and everything in it can be right."""
        path = self.cases / DATABASE
        if not has_known_meta(self.db, SHAPE):
            check_schema(self.db, SHAPE, path)
        row = self.db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
        version = "unknown" if row is None else row[0]
        if version != str(SCHEMA_VERSION):
            reason = (
                "made by another version of fasr-video"
                f" (ledger format {version}, this version writes {SCHEMA_VERSION})"
            )
            remedy = "use that version, or give another --out"
            raise IntegrityError(path, reason, remedy)
        check_schema(self.db, SHAPE, path)
        check_values(self.db, SHAPE, path)


def _create(database: Path) -> None:
    """Create the database atomically: one without its tables would look damaged after a kill."""
    if database.exists():
        return
    new = database.with_name(database.name + ".new")
    for leftover in (new, new.with_name(new.name + "-journal")):
        leftover.unlink(missing_ok=True)
    version = f"INSERT INTO meta VALUES ('schema', '{SCHEMA_VERSION}');"
    with closing(sqlite3.connect(new, isolation_level=None)) as connection:
        connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} {version} COMMIT;")
    put_in_place(new, database)


def _prefix(folder: Path) -> str:
    """Return what the paths of everything in a folder begin with."""
    return os.path.join(folder.absolute(), "")


def _job(row: sqlite3.Row) -> Job:
    summary = {} if row["summary"] is None else json.loads(row["summary"])
    if not is_plain_name(row["folder"]):
        reason = f"the folder of job {row['id']} is {row['folder']!r}, outside of these cases"
        raise IntegrityError(DATABASE, reason, "restore it from a copy, or give another --out")
    columns = ("id", "sha256", "folder", "state", "tries", "error", "size", "seconds")
    return Job(**{name: row[name] for name in columns}, summary=summary)


def _file(row: sqlite3.Row) -> File:
    clock = None if row["clock"] is None else json.loads(row["clock"])
    return File(
        Path(row["path"]),
        row["name"],
        row["size"],
        row["mtime_ns"],
        Recording(row["camera"], clock),
        row["problem"],
    )


def _is_job(row: Row) -> bool:
    summary = json.loads(row["summary"] or "{}")
    numbers = all(summary.get(name) is None or is_number(summary[name]) for name in NUMBERS)
    return is_plain_name(row["folder"]) and numbers and _is_clock(summary.get("clock"))


def _is_file(row: Row) -> bool:
    return _is_clock(None if row["clock"] is None else json.loads(row["clock"]))


def _is_clock(clock: Any) -> bool:
    return clock is None or is_clock(clock)


SHAPE = Shape(_SCHEMA, {"job": _is_job, "file": _is_file}, {}, frozenset())
