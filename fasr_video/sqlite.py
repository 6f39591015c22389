"""Cases and galleries are folders around a SQLite file: reading one, and a clear line for what the machine refuses."""

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

from fasr_video.errors import EnvironmentFailure, IntegrityError
from fasr_video.files import open_regular

BUSY_SECONDS = 10.0
_REFUSALS = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.ENOENT,
    errno.EEXIST,
    errno.ENAMETOOLONG,
}
_REFUSALS |= {errno.EISDIR, errno.ELOOP}
# What reading a value ends with that no version of ours has written.
MISREAD = (
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    sqlite3.Error,
)
STEP = 100_000
# Of SQLite's machine, that a statement may take: so many, and so many more for each byte of the
# file.
STEPS, STEPS_A_BYTE = 100_000_000, 100
_ENDLESS = "interrupted"
# Ends a rollback journal that names another file, which SQLite removes once it has rolled back.
_NAMES_ANOTHER = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"
_DAMAGE = (
    "malformed",
    "not a database",
    "no such table",
    "no such column",
    "unsupported file format",
)


@contextmanager
def explain_errors(folder: Path) -> Iterator[None]:
    """Turn what the machine refuses, and damage, into one clear line."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _full(folder) from error
        if error.errno in _REFUSALS:
            reason = f"cannot be written ({error.strerror})"
            raise EnvironmentFailure(
                folder, reason, "change its permissions, or give another folder"
            ) from error
        raise
    except sqlite3.DatabaseError as error:
        text = str(error)
        if _ENDLESS in text:
            raise _endless(folder) from error
        if "full" in text or "disk I/O" in text:
            raise _full(folder) from error
        if "locked" in text:
            remedy = "wait for it, or stop it"
            raise EnvironmentFailure(folder, "another process is writing to it", remedy) from error
        if "readonly" in text or "unable to open" in text:
            raise EnvironmentFailure(
                folder, f"cannot be written ({text})", "change its permissions"
            ) from error
        if any(sign in text for sign in _DAMAGE):
            remedy = "restore it from a copy; nothing was written"
            raise IntegrityError(folder, f"its database is damaged ({text})", remedy) from error
        raise


@contextmanager
def transaction(database: sqlite3.Connection, folder: Path) -> Iterator[None]:
    """All or nothing; a full disk leaves everything as it was."""
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
    error: BaseException | None, damage: Callable[[], str | None], place: Path, remedy: str
) -> None:
    """Raise that the database is damaged where that explains the error; any other error stays what it is."""
    if isinstance(error, sqlite3.Error) and _ENDLESS in str(error):
        raise _endless(place) from error
    if isinstance(error, MISREAD) and (found := damage()) is not None:
        raise IntegrityError(place, f"its database is damaged ({found})", remedy) from error


class Guarded(sqlite3.Connection):
    """A connection whose statements end, whatever the file holds."""

    file: Path

    def execute(self, *given: Any) -> sqlite3.Cursor:
        size = sum(size_of(self.file.with_name(self.file.name + end)) for end in ("", "-wal"))
        steps = (STEPS + STEPS_A_BYTE * size) // STEP
        # Not a function of ours: Ctrl-C that arrives while one runs would be lost.
        self.set_progress_handler(chain(repeat(0, steps), repeat(1)).__next__, STEP)
        return super().execute(*given)

    def executemany(self, *given: Any) -> sqlite3.Cursor:
        self.set_progress_handler(None, 0)  # many statements, each of a step or two
        return super().executemany(*given)


def connect(path: Path, address: str | None = None, **more: Any) -> Guarded:
    """Open a database without trusting it; `address` is its URI, where it has to be opened by one."""
    refuse_beside(path)
    uri = address is not None
    database: Guarded = sqlite3.connect(
        address or path, factory=Guarded, isolation_level=None, uri=uri, **more
    )
    database.file = path
    database.execute("PRAGMA trusted_schema = OFF")
    return database


def connect_to_write(path: Path, page_size: int | None = None) -> Guarded:
    """Open a database of ours, or begin one with pages of that many bytes.

    What was said to be done is done, also after a power cut; what is taken out leaves no trace in
    free pages.
    """
    database = connect(path, timeout=BUSY_SECONDS)
    if page_size is not None:
        database.execute(f"PRAGMA page_size = {page_size}")
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute("PRAGMA foreign_keys = ON")
    database.execute("PRAGMA secure_delete = ON")
    return database


def refuse_beside(path: Path) -> None:
    """Raise where what lies beside a database is nothing that SQLite leaves beside ours.

    A pipe would be waited for without an end. A journal that names another file would have that file removed,
    wherever it lies: SQLite writes such names for transactions over several databases, which ours never are.
    """
    for end in ("-journal", "-wal", "-shm"):
        with suppress(
            FileNotFoundError
        ):  # there is none, or whoever wrote the database has just removed it
            _refuse_file(path.with_name(path.name + end), end == "-journal")


def _refuse_file(beside: Path, is_journal: bool) -> None:
    if not stat.S_ISREG(os.lstat(beside).st_mode):
        raise IntegrityError(
            beside, "not a regular file", "remove it: no run of this program made it"
        )
    if is_journal and _last_bytes(beside, len(_NAMES_ANOTHER)) == _NAMES_ANOTHER:
        reason = "a journal that has SQLite remove another file"
        raise IntegrityError(
            beside, reason, "do not use what lies beside it: no run of this program made it"
        )


def _last_bytes(path: Path, count: int) -> bytes:
    with open_regular(path) as handle:
        handle.seek(max(0, os.fstat(handle.fileno()).st_size - count))
        return handle.read(count)


def size_of(path: Path) -> int:
    """Bytes of a file; 0 where there is none."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def connect_to_read(path: Path) -> sqlite3.Connection:
    """Without writing a byte of data; also from read-only media."""
    place = quote(os.fsencode(path.absolute()))
    try:
        database = connect(path, f"file:{place}?mode=ro", timeout=BUSY_SECONDS)
        database.execute("SELECT count(*) FROM sqlite_master")
    except UnicodeDecodeError as error:  # SQLite's message quotes what it cannot read
        raise sqlite3.DatabaseError("malformed schema") from error
    except sqlite3.OperationalError as error:
        log = path.with_name(f"{path.name}-wal")
        if "locked" in str(error):
            raise
        if log.is_file() and log.stat().st_size:  # without it the database is an older one, or none
            reason = "its last changes cannot be read where nothing can be written beside them"
            remedy = "free some space there, or copy its folder to where it may be written"
            raise EnvironmentFailure(path, reason, remedy) from error
        database = connect(path, f"file:{place}?immutable=1")
    return database


def close_checkpointed(database: sqlite3.Connection) -> None:
    """Everything into its one file, so that it can be renamed; closing alone says nothing of a full disk."""
    try:
        if database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
            raise sqlite3.OperationalError("database is locked")
    finally:
        database.close()


def _endless(folder: Path) -> IntegrityError:
    reason = (
        "its database is damaged (a question takes longer than a whole database of its size would)"
    )
    return IntegrityError(folder, reason, "restore it from a copy; nothing was written")


def _full(folder: Path) -> EnvironmentFailure:
    remedy = "free some space and run the same command again: it goes on where it stopped"
    return EnvironmentFailure(folder, "the disk is full; what was finished is safe", remedy)
