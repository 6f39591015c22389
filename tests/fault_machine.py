"""A machine that fails: before one chosen step that writes below a folder, or with a clock that jumps."""

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


class Disk:
    """Sees each step of this process below a folder, and lets the fault come before step `at`."""

    def __init__(
        self, folder: Path, fault: str | None, at: int, tell: Callable[[dict[str, Any]], None]
    ) -> None:
        self.folder, self.fault, self.at, self.tell = str(folder), fault, at, tell
        self.steps, self.asleep = 0, False
        self.databases: list[_Connection] = []
        self._unsynced: set[str] = set()
        self._undo: list[tuple[str, str, bytes | None, str | None]] = []
        """Folder, name in it, what it held before the change that is not synced (None: nothing), and the name that a
        renamed file had."""
        self._fsync = os.fsync
        self._synced_files: set[str] = set()

    def watch(self) -> None:
        connect = sqlite3.connect

        def connected(database: Any, *args: Any, **more: Any) -> sqlite3.Connection:
            made: _Connection = connect(database, *args, **more | {"factory": _Connection})
            made.file = Path(str(database))
            path = str(database).removeprefix("file:").partition("?")[0]
            if path.startswith(self.folder):
                made.disk, made.path = self, path
                self.databases.append(made)
            return made

        sqlite3.connect = connected  # type: ignore[assignment]
        os.fsync = self._synced
        sys.addaudithook(self._seen)

    def step(self, what: str) -> None:
        """One is about to be taken."""
        if self.asleep:
            return
        self.steps += 1
        if self.fault is None:
            self.tell({"step": what})
        elif self.steps == self.at:
            self._strike(what)
        elif self.fault == "full" and self.steps > self.at:
            self._refuse(what)

    def _strike(self, what: str) -> None:
        self.tell({"cut": what})
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
        self.asleep = True
        if self.fault != "kill":
            self._lose_power()
        os.kill(os.getpid(), signal.SIGKILL)

    def _refuse(self, what: str) -> None:
        """A full disk: what takes no space goes on."""
        if what.startswith(("remove", "rmdir", "rename", "ROLLBACK", "close")):
            return
        if what.startswith(("BEGIN", "sql")):
            raise sqlite3.OperationalError("database or disk is full")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _lose_power(self) -> None:
        for database in self.databases:
            database.lose_what_is_not_synced()
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

    def _seen(self, event: str, given: tuple[Any, ...]) -> None:
        if self.asleep or event not in _EVENTS or not isinstance(given[0], str | os.PathLike):
            return
        path = os.path.abspath(os.fspath(given[0]))
        if not path.startswith(self.folder):
            return
        if event == "open":
            mode, flags = given[1], given[2]
            if mode is not None and not set(mode) & set("wax+"):
                return
            if not flags & (os.O_WRONLY | os.O_RDWR):
                return
            self.step(f"open {_short(path)}")
            self._opened(path)
        elif event == "os.rename":
            to = os.path.abspath(os.fspath(given[1]))
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
        self._undo = [u for u in self._undo if u[1] != path]
        self._undo.append((os.path.dirname(to), to, before, path))
        # A file that Python did not open was written by a library: FAISS syncs nothing, SQLite all.
        if path in self._unsynced or (path not in self._synced_files and "sqlite" not in path):
            self._unsynced.add(to)
        else:
            self._synced_files.add(to)
        self._unsynced.discard(path)

    def _removed(self, path: str) -> None:
        fresh = [u for u in self._undo if u[1] == path and u[2] is None]
        self._unsynced.discard(path)
        if fresh:
            self._undo = [u for u in self._undo if u[1] != path]
        elif (before := self._bytes(path)) is not None:
            self._undo.append((os.path.dirname(path), path, before, None))

    def _bytes(self, path: str) -> bytes | None:
        self.asleep = True
        try:
            return Path(path).read_bytes() if os.path.isfile(path) else None
        finally:
            self.asleep = False

    def _synced(self, handle: Any) -> None:
        number = handle if isinstance(handle, int) else handle.fileno()
        path = os.readlink(f"/proc/self/fd/{number}")
        if not path.startswith(self.folder):
            self._fsync(number)
            return
        self.step(f"fsync {_short(path)}")
        if os.path.isdir(path):
            self._undo = [u for u in self._undo if not _is_settled(u[0], path)]
        else:
            self._unsynced.discard(path)
            self._synced_files.add(path)


def _is_settled(folder: str, synced: str) -> bool:
    """Whether what happened in a folder is for good once this one is synced: it is the same, or below one that is
    gone from it."""
    below = os.path.relpath(folder, synced).split(os.sep)[0]
    return folder == synced or (below != ".." and not os.path.exists(os.path.join(synced, below)))


_EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"}
_READING = ("select", "pragma", "with", "explain")


class _Connection(LimitedConnection):
    """Tells of each statement that writes, and after each commit what the database then holds."""

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

    def _step(self, sql: str, do: Callable[[], sqlite3.Cursor]) -> sqlite3.Cursor:
        word = sql.split(None, 1)[0].lower().rstrip(";")
        disk = self.disk
        if disk is None or disk.asleep or word in _READING or "temp table" in sql.lower():
            return do()
        disk.step(
            f"BEGIN {_short(self.path)}"
            if word == "begin"
            else f"sql {word} {_short(self.path)}"
            if word != "rollback"
            else "ROLLBACK"
        )
        result = do()
        if not self.in_transaction:
            disk.asleep = True
            disk.tell({"holds": self.path.removesuffix(".new"), "content": content(self)})
            disk.asleep = False
        return result

    def lose_what_is_not_synced(self) -> None:
        """Of a write-ahead log nothing is on the disk before it is synced: at each commit, or only now and then."""
        ask = super().execute
        if (
            ask("PRAGMA journal_mode").fetchone()[0] == "wal"
            and ask("PRAGMA synchronous").fetchone()[0] < 2
        ):
            with suppress(FileNotFoundError):
                os.truncate(f"{self.path}-wal", 0)


def _short(path: str) -> str:
    name = os.path.basename(path)
    return name if len(name) < 40 else f"…{name[-8:]}"


def content(database: sqlite3.Connection) -> str:
    """A hash of every row."""
    tables = [
        r[0]
        for r in database.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1")
    ]
    digest = hashlib.sha256()
    for table in tables:
        for row in database.execute(
            f"SELECT * FROM {table} ORDER BY rowid"
            if table.startswith("sqlite_")
            else f"SELECT * FROM {table}"
        ):
            digest.update(repr((table, tuple(row))).encode())
    return digest.hexdigest()


class Jumping(datetime):
    """A clock that goes forwards by a day, and backwards by two, from one look to the next."""

    looks = 0

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Jumping:
        Jumping.looks += 1
        return super().now(tz) + timedelta(days=1 if Jumping.looks % 2 else -2)


def jump_clock() -> None:
    for name in ("case.store", "gallery.store", "archive.ledger", "archive.summary"):
        module = sys.modules.get(f"fasr_video.{name}")
        if module is not None:
            module.datetime = Jumping  # type: ignore[attr-defined]
