"""The ledger of an archive: which files there are, what is done of them, and what went wrong.

    CASES/ledger.sqlite
      file     path, size, time of change, SHA-256, and what is known of its camera and clock
      unit     one content under one set of settings: its case folder, its state, its tries
      unread   folders and files that could not be looked at
      event    what happened, in order

A unit is waiting, running, done, failed, or missing (no file with its content is there any more). One process holds a
ledger; what is "running" when it opens one was left behind by an owner that died, and waits again.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from fasr_video.archive.cameras import Known
from fasr_video.archive.scan import Found, Scan
from fasr_video.case.recording import Recording
from fasr_video.case.store import DATABASE as CASE_DATABASE
from fasr_video.case.values import is_clock
from fasr_video.errors import CaseError, IntegrityError
from fasr_video.files import (
    is_gone,
    is_plain,
    make_private_folder,
    open_lock,
    put_in_place,
    refuse_link,
)
from fasr_video.schema import Shape, has_our_meta, is_number, misfit, refuse_others, refuse_values
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
# Folder of what was found in the parts of long files.
PARTS = "parts"
SCHEMA_VERSION = 1
STATES = ("waiting", "running", "done", "failed", "missing")

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE file (
    path TEXT PRIMARY KEY, name TEXT NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, sha256 TEXT,
    camera TEXT, clock TEXT, priority INTEGER NOT NULL DEFAULT 0, problem TEXT,
    changes INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE INDEX file_by_content ON file (sha256);
CREATE TABLE unit (
    id INTEGER PRIMARY KEY, sha256 TEXT NOT NULL, settings TEXT NOT NULL, folder TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL CHECK (state IN ('waiting', 'running', 'done', 'failed', 'missing')),
    tries INTEGER NOT NULL DEFAULT 0, error TEXT, size INTEGER NOT NULL, facts TEXT, seconds REAL,
    UNIQUE (sha256, settings));
CREATE TABLE unread (path TEXT PRIMARY KEY, reason TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE event (
    id INTEGER PRIMARY KEY, at TEXT NOT NULL, event TEXT NOT NULL, unit INTEGER, path TEXT, details TEXT);
"""
# What is known of a case that is done.
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
# What this process was asked for: a ledger may hold units of other folders, windows and settings.
_PLANNED = "CREATE TEMP TABLE planned (unit INTEGER PRIMARY KEY)"


@dataclass(frozen=True, slots=True)
class File:
    """One that holds a unit's content."""

    path: Path
    name: str
    size: int
    mtime_ns: int
    place: Recording
    problem: str | None


@dataclass(frozen=True, slots=True)
class Unit:
    id: int
    sha256: str
    folder: str
    """Of its case, within the cases' folder."""
    state: str
    tries: int
    error: str | None
    size: int
    facts: dict[str, Any]
    """What its case holds, in numbers; empty until it is done."""
    seconds: float | None


class Ledger:
    """An open ledger. Use `Ledger.open` or `Ledger.read`, in a with statement."""

    def __init__(self, cases: Path, database: sqlite3.Connection, lock: IO[str] | None) -> None:
        self.cases = cases
        self.db = database
        self._lock = lock

    @classmethod
    def open(cls, cases: Path) -> Ledger:
        if (cases / CASE_DATABASE).exists():
            raise CaseError(cases, "it is a case itself", "give a folder for many cases")
        with explain_errors(cases):
            make_private_folder(cases)
            for name in (DATABASE, PARTS):
                refuse_link(cases / name)
            lock = open_lock(cases / LOCK)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                lock.close()
                reason = "another batch or watch is working on these cases"
                raise CaseError(cases, reason, "wait for it, or stop it") from error
            # No write-ahead log: its shared memory does not work over a network, where cases may lie.
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
            ledger.give_back()
        return ledger

    @classmethod
    def read(cls, cases: Path) -> Ledger:
        """Without a lock, and without writing: while a batch is at work, too."""
        if not (cases / DATABASE).is_file():
            raise CaseError(
                cases,
                f"no ledger here (it holds no {DATABASE})",
                "give the folder that `batch` made",
            )
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

    # What there is.

    def hash_of(self, found: Found) -> str | None:
        """The SHA-256 of a file that has the size and time of change that it had when it was hashed."""
        row = self.db.execute(
            "SELECT size, mtime_ns, sha256 FROM file WHERE path = ?", (str(found.path),)
        ).fetchone()
        same = row is not None and (row["size"], row["mtime_ns"]) == (found.size, found.mtime_ns)
        return row["sha256"] if same else None

    def put_file(self, found: Found, sha256: str, known: Known) -> None:
        """A file and its content; paths that it had before it was renamed are forgotten."""
        clock = None if known.place.clock is None else json.dumps(known.place.clock, sort_keys=True)
        row = (
            str(found.path),
            found.name,
            found.size,
            found.mtime_ns,
            sha256,
            known.place.camera,
            clock,
        )
        with self.transaction():
            self.db.execute(
                "INSERT INTO file (path, name, size, mtime_ns, sha256, camera, clock, priority, problem)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (path) DO UPDATE SET name = excluded.name,"
                " size = excluded.size, mtime_ns = excluded.mtime_ns, sha256 = excluded.sha256,"
                # What was said of it before holds until something else is said.
                " camera = ifnull(excluded.camera, camera), clock = ifnull(excluded.clock, clock),"
                " priority = excluded.priority,"
                " problem = excluded.problem",
                (*row, known.priority, known.problem),
            )
            others = self.db.execute(
                "SELECT path FROM file WHERE sha256 = ? AND path <> ?", (sha256, str(found.path))
            )
            renamed = [(other["path"],) for other in others.fetchall() if is_gone(other["path"])]
            self.db.executemany("DELETE FROM file WHERE path = ?", renamed)

    def put_job(self, sha256: str, settings: str, folder: str, size: int, again: bool) -> Unit:
        """The unit of a content under these settings; a new one waits, as does one whose file is back, or (`again`)
        one that failed."""
        with self.transaction():
            self.db.execute(
                "INSERT INTO unit (sha256, settings, folder, state, size) VALUES (?, ?, ?, 'waiting', ?)"
                " ON CONFLICT (sha256, settings) DO NOTHING",
                (sha256, settings, folder, size),
            )
            key = "WHERE sha256 = ? AND settings = ?"
            self.db.execute(
                f"UPDATE unit SET state = 'waiting' {key} AND state = 'missing'", (sha256, settings)
            )
            if again:
                self.db.execute(
                    f"UPDATE unit SET state = 'waiting', tries = 0 {key} AND state = 'failed'",
                    (sha256, settings),
                )
            unit = _unit(
                self.db.execute(f"SELECT * FROM unit {key}", (sha256, settings)).fetchone()
            )
            self.db.execute("INSERT OR IGNORE INTO planned VALUES (?)", (unit.id,))
        return unit

    def free_folder(self, sha256: str, settings: str, names: Iterable[str]) -> str:
        """The first of these names that is no other unit's."""
        query = "SELECT 1 FROM unit WHERE folder = ? AND (sha256, settings) <> (?, ?)"
        return next(
            n for n in names if self.db.execute(query, (n, sha256, settings)).fetchone() is None
        )

    def put_unread(self, archive: Path, found: Scan) -> None:
        """What could not be looked at below `archive` this time. What was so before is forgotten, but for files that
        are there: whether they can be read is for `put_problem` and `put_readable` to say."""
        below, there = _below(archive), {str(f.path) for f in found.files}
        before = dict(self.db.execute("SELECT path, reason FROM unread").fetchall())
        stay = {
            path: why
            for path, why in before.items()
            if path in there or not f"{path}/".startswith(below)
        }
        now = stay | found.unread
        if now == before:
            return
        with self.transaction():
            self.db.execute("DELETE FROM unread")
            self.db.executemany("INSERT INTO unread VALUES (?, ?)", now.items())

    def put_problem(self, path: Path, why: str) -> None:
        """A file that is there and cannot be taken; what is known of it from before stays."""
        with self.transaction():
            self.db.execute("UPDATE file SET problem = NULL WHERE path = ?", (str(path),))
            self.db.execute("INSERT OR REPLACE INTO unread VALUES (?, ?)", (str(path), why))

    def put_readable(self, files: Iterable[Found]) -> None:
        """Files that had a problem, perhaps, and are tried anew."""
        with self.transaction():
            self.db.executemany(
                "DELETE FROM unread WHERE path = ?", [(str(f.path),) for f in files]
            )

    def put_gone(self, archive: Path, found: Scan) -> None:
        """Files that were below `archive` and are not any more.

        One that lies elsewhere, or never was in a unit, is forgotten. One that a finished case was made of is kept in
        mind: its disk may only be away. A unit that never got done is missing.
        """
        below, there = _below(archive), {str(f.path) for f in found.files}
        known = dict(self.db.execute("SELECT path, sha256 FROM file").fetchall())
        gone = {
            p: sha
            for p, sha in known.items()
            if p.startswith(below) and p not in there and is_gone(p)
        }
        kept = {sha for path, sha in known.items() if path not in gone}
        with self.transaction():
            forgotten = [(path,) for path, sha in gone.items() if sha is None or sha in kept]
            self.db.executemany("DELETE FROM file WHERE path = ?", forgotten)
        for sha in {sha for sha in gone.values() if sha is not None} - kept:
            query = "SELECT id FROM unit WHERE sha256 = ? AND state IN ('waiting', 'failed')"
            for row in self.db.execute(query, (sha,)).fetchall():
                self.failed(row["id"], "missing", GONE)

    # What is to be done, and what became of it.

    def take(self) -> Unit | None:
        """The next of those that were put; one that failed comes after those that nobody tried."""
        row = self.db.execute(
            "SELECT id FROM unit WHERE state = 'waiting' AND id IN (SELECT unit FROM planned)"
            " ORDER BY tries, id LIMIT 1"
        ).fetchone()
        if row is None:
            return None
        with self.transaction():
            self.db.execute(
                "UPDATE unit SET state = 'running', tries = tries + 1 WHERE id = ?", (row["id"],)
            )
        return self.unit(row["id"])

    def files(self, unit: Unit) -> list[File]:
        rows = self.db.execute(
            "SELECT * FROM file WHERE sha256 = ? ORDER BY name, path", (unit.sha256,)
        ).fetchall()
        return [_file(row) for row in rows]

    def name_of(self, path: Path) -> str:
        return str(
            self.db.execute("SELECT name FROM file WHERE path = ?", (str(path),)).fetchone()["name"]
        )

    def done(self, unit: int, facts: Mapping[str, Any], seconds: float) -> None:
        with self.transaction():
            self.db.execute(
                "UPDATE unit SET state = 'done', error = NULL, facts = ?, seconds = ifnull(seconds, 0) + ?"
                " WHERE id = ?",
                (json.dumps(facts), seconds, unit),
            )
            self.db.execute(
                "UPDATE file SET changes = 0 WHERE sha256 = (SELECT sha256 FROM unit WHERE id = ?)",
                (unit,),
            )
            self._event("done", unit)

    def failed(self, unit: int, state: str, why: str) -> None:
        """`state` is failed, missing, or waiting for another try."""
        with self.transaction():
            self.db.execute("UPDATE unit SET state = ?, error = ? WHERE id = ?", (state, why, unit))
            self._event("failed" if state == "failed" else f"failed, {state}", unit, details=why)

    def put_back(self, unit: int, why: str) -> None:
        """It waits again, and that was no try."""
        with self.transaction():
            self.db.execute(
                "UPDATE unit SET state = 'waiting', tries = tries - 1 WHERE id = ?", (unit,)
            )
            self._event("put back", unit, details=why)

    def changed(self, unit: Unit, path: Path, why: str) -> int:
        """A file is not what it was when it was hashed: its content is unknown again. Returns how often that was."""
        with self.transaction():
            self.db.execute(
                "UPDATE file SET sha256 = NULL, changes = changes + 1, problem = ? WHERE path = ?",
                (why, str(path)),
            )
            left = self.db.execute(
                "SELECT count(*) FROM file WHERE sha256 = ?", (unit.sha256,)
            ).fetchone()[0]
            state = "waiting" if left else "missing"
            self.db.execute(
                "UPDATE unit SET state = ?, tries = tries - 1, error = ? WHERE id = ?",
                (state, why, unit.id),
            )
            self._event("changed while it was read", unit.id, path)
        row = self.db.execute("SELECT changes FROM file WHERE path = ?", (str(path),)).fetchone()
        return int(row["changes"])

    def give_back(self) -> int:
        """Units that an owner left running wait again: no try of theirs."""
        with self.transaction():
            left = self.db.execute("SELECT id FROM unit WHERE state = 'running'").fetchall()
            self.db.execute(
                "UPDATE unit SET state = 'waiting', tries = tries - 1 WHERE state = 'running'"
            )
            for row in left:
                self._event("taken up again", row["id"])
        return len(left)

    # To look at.

    def unit(self, number: int) -> Unit:
        return _unit(self.db.execute("SELECT * FROM unit WHERE id = ?", (number,)).fetchone())

    def units(self) -> list[Unit]:
        return [
            _unit(row) for row in self.db.execute("SELECT * FROM unit ORDER BY folder").fetchall()
        ]

    def sizes(self) -> dict[str, tuple[int, int]]:
        """Count and bytes of the units that were put, by state."""
        query = "SELECT state, count(*), sum(size) FROM unit WHERE id IN (SELECT unit FROM planned) GROUP BY state"
        found = {row[0]: (row[1], row[2]) for row in self.db.execute(query).fetchall()}
        return {state: found.get(state, (0, 0)) for state in STATES}

    def asked(self) -> set[str]:
        """Folders of the units that were put."""
        query = "SELECT folder FROM unit WHERE id IN (SELECT unit FROM planned)"
        return {row["folder"] for row in self.db.execute(query).fetchall()}

    def problems(self) -> list[tuple[str, str]]:
        """Files and folders that could not be read, each with the reason."""
        rows = self.db.execute(
            "SELECT path, problem FROM file WHERE sha256 IS NULL AND problem IS NOT NULL"
            " UNION ALL SELECT path, reason FROM unread ORDER BY 1"
        )
        return [(row[0], row[1]) for row in rows.fetchall()]

    def _damage(self) -> str | None:
        """The first thing in it that is not as it was written."""
        return misfit(self.db, SHAPE)

    def _event(
        self,
        event: str,
        unit: int | None = None,
        path: Path | None = None,
        details: str | None = None,
    ) -> None:
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        row = (at, event, unit, None if path is None else str(path), details)
        self.db.execute(
            "INSERT INTO event (at, event, unit, path, details) VALUES (?, ?, ?, ?, ?)", row
        )

    def _check(self) -> None:
        """Raise unless it is a ledger of this version, as this program makes them."""
        place = self.cases / DATABASE
        if not has_our_meta(self.db, SHAPE):
            refuse_others(self.db, SHAPE, place)
        row = self.db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
        made = "unknown" if row is None else row[0]
        if made != str(SCHEMA_VERSION):
            reason = f"made by another version of fasr-video (ledger format {made}, this one writes {SCHEMA_VERSION})"
            raise IntegrityError(place, reason, "go on with that version, or give another --out")
        refuse_others(self.db, SHAPE, place)
        refuse_values(self.db, SHAPE, place)


def _create(database: Path) -> None:
    """Whole or not at all: one that a kill left without its tables could not be told from a damaged one."""
    if database.exists():
        return
    new = database.with_name(database.name + ".new")
    for left in (new, new.with_name(new.name + "-journal")):
        left.unlink(missing_ok=True)
    version = f"INSERT INTO meta VALUES ('schema', '{SCHEMA_VERSION}');"
    with closing(sqlite3.connect(new, isolation_level=None)) as made:
        made.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} {version} COMMIT;")
    put_in_place(new, database)


def _below(folder: Path) -> str:
    """What the paths of all that lies in it begin with."""
    return os.path.join(folder.absolute(), "")


def _unit(row: sqlite3.Row) -> Unit:
    facts = {} if row["facts"] is None else json.loads(row["facts"])
    if row["folder"] in {"", ".", ".."} or "/" in row["folder"] or "\0" in row["folder"]:
        reason = f"the folder of unit {row['id']} is {row['folder']!r}, outside of these cases"
        raise IntegrityError(DATABASE, reason, "restore it from a copy, or give another --out")
    kept = ("id", "sha256", "folder", "state", "tries", "error", "size", "seconds")
    return Unit(**{k: row[k] for k in kept}, facts=facts)


def _file(row: sqlite3.Row) -> File:
    clock = None if row["clock"] is None else json.loads(row["clock"])
    place = Recording(row["camera"], clock)
    return File(Path(row["path"]), row["name"], row["size"], row["mtime_ns"], place, row["problem"])


def _is_unit(row: Mapping[str, Any]) -> bool:
    known = json.loads(row["facts"] or "{}")
    numbers = all(known.get(name) is None or is_number(known[name]) for name in NUMBERS)
    return is_plain(row["folder"]) and numbers and _is_clock(known.get("clock"))


def _is_file(row: Mapping[str, Any]) -> bool:
    return _is_clock(None if row["clock"] is None else json.loads(row["clock"]))


def _is_clock(clock: Any) -> bool:
    return clock is None or is_clock(clock)


SHAPE = Shape(_SCHEMA, {"unit": _is_unit, "file": _is_file}, {}, frozenset())
