"""SQLite databases in folders that may come from anybody: opened with care, with clear errors."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain, repeat
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fasr_video.errors import EnvironmentFailure, IntegrityError, UsageError
from fasr_video.files import open_regular

BUSY_SECONDS = 10.0
_NOT_WRITABLE = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.ENOENT,
    errno.EEXIST,
    errno.ENAMETOOLONG,
    errno.EISDIR,
    errno.ELOOP,
}
# Errors of making a folder where a file is.
_IN_THE_WAY = {errno.EEXIST, errno.ENOTDIR}
# Errors of reading a stored value that no version of this program has written.
READ_ERRORS = (
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    sqlite3.Error,
)
# The most steps of SQLite's virtual machine that a statement may take, and how many more for each
# byte of the file. Each CHECK_STEPS of them are checked.
MAX_STEPS = 100_000_000
MAX_STEPS_PER_BYTE = 100
CHECK_STEPS = 100_000
_TOO_MANY_STEPS = "interrupted"
# The end of a rollback journal that names another file. SQLite would remove that file.
_NAMES_ANOTHER = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"
# Texts in SQLite's errors about damaged databases.
_DAMAGE = (
    "malformed",
    "not a database",
    "no such table",
    "no such column",
    "unsupported file format",
)


@contextmanager
def explain_errors(folder: Path) -> Iterator[None]:
    """Turn errors of the file system, and of damaged databases, into one clear line."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _disk_full(folder) from error
        if error.errno in _IN_THE_WAY and folder.is_file():
            raise UsageError(folder, "a file, not a folder", "give another folder") from error
        if error.errno in _NOT_WRITABLE:
            reason = f"cannot be written ({error.strerror})"
            remedy = "change its permissions, or give another folder"
            raise EnvironmentFailure(folder, reason, remedy) from error
        raise
    except sqlite3.DatabaseError as error:
        explained = _explain(folder, str(error))
        if explained is None:
            raise
        raise explained from error


def _explain(folder: Path, text: str) -> EnvironmentFailure | IntegrityError | None:
    """Return the error to raise for this text of SQLite; None for one that is not known."""
    if _TOO_MANY_STEPS in text:
        return _too_slow(folder)
    if "full" in text or "disk I/O" in text:
        return _disk_full(folder)
    if "locked" in text:
        reason = "another process is writing to it"
        return EnvironmentFailure(folder, reason, "wait for it, or stop it")
    if "readonly" in text or "unable to open" in text:
        return EnvironmentFailure(folder, f"cannot be written ({text})", "change its permissions")
    if any(sign in text for sign in _DAMAGE):
        remedy = "restore it from a copy; nothing was written"
        return IntegrityError(folder, f"its database is damaged ({text})", remedy)
    return None


@contextmanager
def transaction(database: sqlite3.Connection, folder: Path) -> Iterator[None]:
    """Commit all changes or, after an error, none of them."""
    with explain_errors(folder):
        database.execute("BEGIN IMMEDIATE")
        try:
            yield
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise


def raise_if_damaged(
    error: BaseException | None, damage: Callable[[], str | None], path: Path, remedy: str
) -> None:
    """Raise that a database is damaged if that explains an error; otherwise do nothing."""
    if isinstance(error, sqlite3.Error) and _TOO_MANY_STEPS in str(error):
        raise _too_slow(path) from error
    if isinstance(error, READ_ERRORS):
        problem = damage()
        if problem is not None:
            reason = f"its database is damaged ({problem})"
            raise IntegrityError(path, reason, remedy) from error


class LimitedConnection(sqlite3.Connection):
    """A connection whose statements always end, whatever the file holds."""

    file: Path

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        size = sum(size_of(self.file.with_name(self.file.name + end)) for end in ("", "-wal"))
        checks = (MAX_STEPS + MAX_STEPS_PER_BYTE * size) // CHECK_STEPS
        # The handler is called at each check, and interrupts the statement when it returns 1.
        # It is not a Python function: Ctrl-C that arrives while one runs would be lost.
        self.set_progress_handler(chain(repeat(0, checks), repeat(1)).__next__, CHECK_STEPS)
        return super().execute(*arguments)

    def executemany(self, *arguments: Any) -> sqlite3.Cursor:
        self.set_progress_handler(None, 0)  # many statements, each of a step or two
        return super().executemany(*arguments)


def connect(path: Path, address: str | None = None, **options: Any) -> LimitedConnection:
    """Open a database without trusting it. `address` is its URI, where one is needed."""
    check_side_files(path)
    database: LimitedConnection = sqlite3.connect(
        address or path,
        factory=LimitedConnection,
        isolation_level=None,
        uri=address is not None,
        **options,
    )
    database.file = path
    database.execute("PRAGMA trusted_schema = OFF")
    return database


def connect_to_write(path: Path, page_size: int | None = None) -> LimitedConnection:
    """Open a database of ours for writing, or create one with pages of this size in bytes.

    What is committed is safe from a power cut. What is deleted leaves no trace in free pages.
    """
    database = connect(path, timeout=BUSY_SECONDS)
    if page_size is not None:
        database.execute(f"PRAGMA page_size = {page_size}")
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute("PRAGMA foreign_keys = ON")
    database.execute("PRAGMA secure_delete = ON")
    return database


def check_side_files(path: Path) -> None:
    """Raise where a file beside a database is not one that SQLite leaves beside ours.

    A pipe would block for ever. A journal that names another file would make SQLite remove that
    file, wherever it is: SQLite writes such names for transactions over several databases, which we
    do not use.
    """
    for end in ("-journal", "-wal", "-shm"):
        # There may be none, or another process may have removed it just now.
        with suppress(FileNotFoundError):
            _check_side_file(path.with_name(path.name + end), end == "-journal")


def _check_side_file(path: Path, is_journal: bool) -> None:
    if not stat.S_ISREG(os.lstat(path).st_mode):
        remedy = "remove it: no run of this program made it"
        raise IntegrityError(path, "not a regular file", remedy)
    if is_journal and _last_bytes(path, len(_NAMES_ANOTHER)) == _NAMES_ANOTHER:
        reason = "a journal that has SQLite remove another file"
        remedy = "do not use the database beside it: no run of this program made the journal"
        raise IntegrityError(path, reason, remedy)


def _last_bytes(path: Path, count: int) -> bytes:
    with open_regular(path) as handle:
        handle.seek(max(0, os.fstat(handle.fileno()).st_size - count))
        return handle.read(count)


def size_of(path: Path) -> int:
    """Return the bytes of a file; 0 where there is none."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def connect_to_read(path: Path) -> sqlite3.Connection:
    """Open a database without writing any data, also on read-only media."""
    address = f"file:{quote(os.fsencode(path.absolute()))}"
    try:
        database = connect(path, f"{address}?mode=ro", timeout=BUSY_SECONDS)
        database.execute("SELECT count(*) FROM sqlite_master")
    except UnicodeDecodeError as error:  # SQLite's message quotes what it cannot read
        raise sqlite3.DatabaseError("malformed schema") from error
    except sqlite3.OperationalError as error:
        log = path.with_name(f"{path.name}-wal")
        if "locked" in str(error):
            raise
        # Without its log, the database would be an older one, or none.
        if log.is_file() and log.stat().st_size:
            reason = "its last changes cannot be read where nothing can be written beside them"
            remedy = "free some space there, or copy its folder to where it may be written"
            raise EnvironmentFailure(path, reason, remedy) from error
        database = connect(path, f"{address}?immutable=1")
    return database


def close_checkpointed(database: sqlite3.Connection) -> None:
    """Move the write-ahead log into the database and close it, so that its file can be renamed.

    Raise where that fails: closing alone would not report a full disk.
    """
    try:
        if database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
            raise sqlite3.OperationalError("database is locked")
    finally:
        database.close()


def _too_slow(folder: Path) -> IntegrityError:
    reason = "its database is damaged (a query takes longer than it can on a database of its size)"
    return IntegrityError(folder, reason, "restore it from a copy; nothing was written")


def _disk_full(folder: Path) -> EnvironmentFailure:
    remedy = "free some space and run the same command to continue"
    return EnvironmentFailure(folder, "the disk is full; finished work is kept", remedy)
