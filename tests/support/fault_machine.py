"""A machine that fails before a chosen step that writes, or whose clock jumps."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

from fasr_video.sqlite import LimitedConnection

# Sends a message to the parent process.
Send = Callable[[dict[str, Any]], None]


class Disk:
    """Counts the steps of this process that write below a folder, and causes a fault before one."""

    def __init__(self, folder: Path, fault: str | None, fault_step: int, send: Send) -> None:
        self.folder = str(folder)
        self.fault = fault
        self.fault_step = fault_step
        self.send = send
        self.steps = 0
        self.is_paused = False
        self.databases: list[_Connection] = []
        self._unsynced: set[str] = set()
        self._undo: list[tuple[str, str, bytes | None, str | None]] = []
        """Unsynced changes of names: the folder, the path, its content before (None where it did
        not exist), and the path that a renamed file had.
        """
        self._fsync = os.fsync
        self._synced_files: set[str] = set()

    def watch(self) -> None:
        connect = sqlite3.connect

        def watched_connect(database: Any, *args: Any, **options: Any) -> sqlite3.Connection:
            connection: _Connection = connect(database, *args, **options | {"factory": _Connection})
            connection.file = Path(str(database))
            path = str(database).removeprefix("file:").partition("?")[0]
            if path.startswith(self.folder):
                connection.disk = self
                connection.path = path
                self.databases.append(connection)
            return connection

        sqlite3.connect = watched_connect  # type: ignore[assignment]
        os.fsync = self._sync
        sys.addaudithook(self._audit)

    def step(self, what: str) -> None:
        """Count a step that is about to be taken, or cause the fault before it."""
        if self.is_paused:
            return
        self.steps += 1
        if self.fault is None:
            self.send({"step": what})
        elif self.steps == self.fault_step:
            self._cause_fault(what)
        elif self.fault == "full" and self.steps > self.fault_step:
            self._refuse(what)

    def _cause_fault(self, what: str) -> None:
        self.send({"cut": what})
        if self.fault == "full":
            self._refuse(what)
            return
        if self.fault == "memory":
            if not what.startswith("close"):
                raise MemoryError
            return
        if self.fault == "locked":
            if what.startswith("BEGIN"):
                raise sqlite3.OperationalError("database is locked")
            return
        self.is_paused = True
        if self.fault != "kill":
            self._lose_power()
        os.kill(os.getpid(), signal.SIGKILL)

    def _refuse(self, what: str) -> None:
        """Raise as on a full disk, where a step takes space."""
        if what.startswith(("remove", "rmdir", "rename", "ROLLBACK", "close")):
            return
        if what.startswith(("BEGIN", "sql")):
            raise sqlite3.OperationalError("database or disk is full")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _lose_power(self) -> None:
        for database in self.databases:
            database.lose_unsynced_data()
        if self.fault == "power, data":
            for path in self._unsynced:
                if os.path.exists(path):
                    os.truncate(path, 0)
            return
        for _, path, before, source in reversed(self._undo):
            if source is not None and os.path.exists(path):
                os.replace(path, source)
            if before is not None:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                Path(path).write_bytes(before)
            elif os.path.isdir(path):
                shutil.rmtree(path)
            else:
                Path(path).unlink(missing_ok=True)

    # Files.

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if (
            self.is_paused
            or event not in _EVENTS
            or not isinstance(arguments[0], str | os.PathLike)
        ):
            return
        path = os.path.abspath(os.fspath(arguments[0]))
        if not path.startswith(self.folder):
            return
        if event == "open":
            _, mode, flags = arguments
            if mode is not None and not set(mode) & set("wax+"):
                return
            if not flags & (os.O_WRONLY | os.O_RDWR):
                return
            self.step(f"open {_short(path)}")
            self._opened(path)
        elif event == "os.rename":
            to = os.path.abspath(os.fspath(arguments[1]))
            self.step(f"rename {_short(to)}")
            self._renamed(path, to)
        elif event == "os.remove":
            self.step(f"remove {_short(path)}")
            self._removed(path)
        elif event == "os.rmdir":
            self.step(f"rmdir {_short(path)}")
        else:
            self.step(f"mkdir {_short(path)}")
            if not os.path.exists(path):
                self._undo.append((os.path.dirname(path), path, None, None))

    def _opened(self, path: str) -> None:
        if not os.path.exists(path):
            self._undo.append((os.path.dirname(path), path, None, None))
        self._unsynced.add(path)

    def _renamed(self, path: str, to: str) -> None:
        before = self._bytes(to)
        self._undo = [undo for undo in self._undo if undo[1] != path]
        self._undo.append((os.path.dirname(to), to, before, path))
        # Libraries write files that Python did not open: FAISS syncs nothing, SQLite everything.
        if path in self._unsynced or (path not in self._synced_files and "sqlite" not in path):
            self._unsynced.add(to)
        else:
            self._synced_files.add(to)
        self._unsynced.discard(path)

    def _removed(self, path: str) -> None:
        is_new = any(undo[1] == path and undo[2] is None for undo in self._undo)
        self._unsynced.discard(path)
        if is_new:
            self._undo = [undo for undo in self._undo if undo[1] != path]
            return
        before = self._bytes(path)
        if before is not None:
            self._undo.append((os.path.dirname(path), path, before, None))

    def _bytes(self, path: str) -> bytes | None:
        self.is_paused = True
        try:
            return Path(path).read_bytes() if os.path.isfile(path) else None
        finally:
            self.is_paused = False

    def _sync(self, fd: Any) -> None:
        number = fd if isinstance(fd, int) else fd.fileno()
        path = os.readlink(f"/proc/self/fd/{number}")
        if not path.startswith(self.folder):
            self._fsync(number)
            return
        self.step(f"fsync {_short(path)}")
        if os.path.isdir(path):
            self._undo = [undo for undo in self._undo if not _is_durable(undo[0], path)]
        else:
            self._unsynced.discard(path)
            self._synced_files.add(path)


def _is_durable(folder: str, synced: str) -> bool:
    """Return whether changes in a folder survive a power cut after this one is synced.

    It is the same folder, or lay below a folder that is gone from it.
    """
    below = os.path.relpath(folder, synced).split(os.sep)[0]
    return folder == synced or (below != ".." and not os.path.exists(os.path.join(synced, below)))


_EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"}
_READING = ("select", "pragma", "with", "explain")


class _Connection(LimitedConnection):
    """Reports each statement that writes, and after each commit a hash of the database."""

    disk: Disk | None = None
    path = ""

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        return self._step(sql, lambda: super(_Connection, self).execute(sql, *values))

    def executemany(self, sql: str, *values: Any) -> sqlite3.Cursor:
        return self._step(sql, lambda: super(_Connection, self).executemany(sql, *values))

    def executescript(self, sql: str) -> sqlite3.Cursor:
        return self._step(sql, lambda: super(_Connection, self).executescript(sql))

    def close(self) -> None:
        if self.disk is not None:
            self.disk.step(f"close {_short(self.path)}")
            self.disk.databases.remove(self)
            self.disk = None
        super().close()

    def _step(self, sql: str, execute: Callable[[], sqlite3.Cursor]) -> sqlite3.Cursor:
        word = sql.split(None, 1)[0].lower().rstrip(";")
        disk = self.disk
        if disk is None or disk.is_paused or word in _READING or "temp table" in sql.lower():
            return execute()
        if word == "begin":
            disk.step(f"BEGIN {_short(self.path)}")
        elif word == "rollback":
            disk.step("ROLLBACK")
        else:
            disk.step(f"sql {word} {_short(self.path)}")
        cursor = execute()
        if not self.in_transaction:
            disk.is_paused = True
            disk.send({"holds": self.path.removesuffix(".new"), "content": database_hash(self)})
            disk.is_paused = False
        return cursor

    def lose_unsynced_data(self) -> None:
        """Empty a write-ahead log that is not synced at each commit."""
        execute = super().execute
        mode = execute("PRAGMA journal_mode").fetchone()[0]
        synchronous = execute("PRAGMA synchronous").fetchone()[0]
        if mode == "wal" and synchronous < 2:
            with suppress(FileNotFoundError):
                os.truncate(f"{self.path}-wal", 0)


def _short(path: str) -> str:
    name = os.path.basename(path)
    return name if len(name) < 40 else f"…{name[-8:]}"


def database_hash(database: sqlite3.Connection) -> str:
    """Return a hash of all rows."""
    tables = [
        row[0]
        for row in database.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1"
        )
    ]
    digest = hashlib.sha256()
    for table in tables:
        order = " ORDER BY rowid" if table.startswith("sqlite_") else ""
        for row in database.execute(f"SELECT * FROM {table}{order}"):
            digest.update(repr((table, tuple(row))).encode())
    return digest.hexdigest()


class JumpingClock(datetime):
    """A clock that is a day ahead and two days behind in turn, each time it is read."""

    times_read = 0

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> JumpingClock:
        JumpingClock.times_read += 1
        return super().now(tz) + timedelta(days=1 if JumpingClock.times_read % 2 else -2)


def jump_clock() -> None:
    for name in ("case.store", "gallery.store", "archive.ledger", "archive.summary"):
        module = sys.modules.get(f"fasr_video.{name}")
        if module is not None:
            module.datetime = JumpingClock  # type: ignore[attr-defined]
