"""Files: told apart by their SHA-256, and written whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path, PurePath
from typing import IO

from fasr_video.errors import IntegrityError

# Endings of picture files.
PICTURES = frozenset(
    {
        *(
            ".png",
            ".jpg",
            ".jpeg",
            ".jpe",
            ".jfif",
            ".bmp",
            ".tif",
            ".tiff",
            ".webp",
            ".gif",
            ".avif",
            ".jp2",
            ".j2k",
        ),
        *(".heic", ".heif"),  # which cannot be decoded here, and count as pictures that were lost
    }
)
# Bytes of a file that is read as a whole: nothing of ours comes near, and a file with holes can
# claim any size.
LARGEST = 1 << 30


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading. Raises OSError, at once, for what is none: a pipe would be waited for without an end,
    and a device read."""
    with named(path):
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise OSError(errno.EINVAL, "not a regular file", str(path))
            return os.fdopen(handle, "rb")
        except BaseException:
            os.close(handle)
            raise


def read_file(path: Path) -> bytes:
    """Return what a regular file holds. Raises OSError, before anything is read, for one of more than LARGEST."""
    with open_regular(path) as handle, named(path):
        if os.fstat(handle.fileno()).st_size > LARGEST:
            raise OSError(errno.EFBIG, f"larger than {LARGEST >> 20} MiB", str(path))
        return handle.read()


def sha256_file(path: Path) -> str:
    with open_regular(path) as handle, named(path):
        return hashlib.file_digest(handle, "sha256").hexdigest()


def readable_name(path: str | PurePath) -> str:
    """Return a path as text that can be stored and shown, whatever bytes are in it."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def is_utf8(path: str | PurePath) -> bool:
    """Return whether a path is text as it is: Linux takes other bytes, too, and no database does."""
    return readable_name(path) == str(path)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """An error of the system says of which file it is, which errors of reading do not."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def atomic_write(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, then put it in its place: one sees the old file or the new one, also after
    a power cut."""
    partial = path.with_name(path.name + ".part")
    try:
        with suppress(FileNotFoundError):
            os.unlink(partial)  # of a kill; or a link of somebody's, which is never written through
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666))
        write(partial)
        with partial.open("rb+") as handle:
            os.fsync(handle.fileno())
        put_in_place(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def atomic_write_text(path: Path, text: str) -> None:
    """Write a text to `path`, whole or not at all."""
    atomic_write(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def put_in_place(partial: Path, path: Path) -> None:
    """Give a file that is whole on the disk its name, and that name, too, is on the disk then."""
    os.replace(partial, path)
    sync_folder(path.parent)


def is_gone(path: str | Path) -> bool:
    """False where nobody can tell, as in a folder that may not be looked into."""
    try:
        os.stat(path)
    except (
        FileNotFoundError,
        NotADirectoryError,
        ValueError,
    ):  # no file has a zero byte in its name
        return True
    except OSError:
        return False
    return False


def open_lock(path: Path) -> IO[str]:
    """The file that a lock is held by. Nothing is written to it, and a link in its place is refused."""
    refuse_link(path)
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+")


def take_lock(path: Path) -> IO[str]:
    """Return a file that is locked until it is closed; raises BlockingIOError where it is already."""
    handle = open_lock(path)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        raise
    return handle


def make_folder(folder: Path, mode: int = 0o777) -> None:
    """With those above it, each on the disk before anything is put into it."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(mode, exist_ok=True)
        sync_folder(folder.parent)


def make_private_folder(folder: Path) -> None:
    """One that only its owner may enter, where it is new: what is in it needs no modes of its own."""
    make_folder(folder, 0o700)


def is_plain(name: str) -> bool:
    """Return whether it names something in a folder, and leads nowhere else."""
    return name not in {"", ".", ".."} and "/" not in name and "\0" not in name


def inside(folder: Path, *parts: str) -> Path:
    """Return the path of these parts below a folder; raises where one is no plain name, and so might lead out of it."""
    for part in parts:
        if not is_plain(part):
            reason = f"{part!r} is no plain name of a file, and nothing is written there"
            raise IntegrityError(
                folder, reason, "do not use what it comes from: it was not made by this program"
            )
    return folder.joinpath(*parts)


def refuse_links(folder: Path) -> None:
    """A folder of ours, where it is there, holds no links: one that came with it leads what is written anywhere."""
    for path in folder.iterdir() if folder.is_dir() else ():
        refuse_link(path)


def refuse_link(path: Path) -> None:
    if path.is_symlink():
        reason = f"a link to {os.readlink(path)}, and what belongs here would be written there"
        raise IntegrityError(path, reason, "remove it, or put what it leads to in its place")


def sync_folder(folder: Path) -> None:
    """What was made, renamed or removed in it stays so after a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
