"""Files: read safely, identified by their SHA-256, and written atomically."""

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
        # These cannot be decoded here. They count as pictures that were lost.
        ".heic",
        ".heif",
    }
)
# Endings of video files.
VIDEOS = frozenset(
    {
        ".mp4",
        ".m4v",
        ".mov",
        ".3gp",
        ".mkv",
        ".webm",
        ".avi",
        ".ts",
        ".mts",
        ".m2ts",
        ".mpg",
        ".mpeg",
        ".vob",
        ".h264",
        ".264",
        ".h265",
        ".265",
        ".hevc",
        ".flv",
        ".asf",
        ".wmv",
        ".mxf",
        ".dav",
        ".ogv",
        ".dv",
        ".mjpeg",
        ".mjpg",
        ".ivf",
    }
)
# The most bytes to read of a file at once. None of our files comes near, and a sparse file can
# claim any size.
MAX_READ_BYTES = 1 << 30


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading. Raise OSError for others: a pipe would block for ever."""
    with name_in_errors(path):
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise OSError(errno.EINVAL, "not a regular file", str(path))
            return os.fdopen(handle, "rb")
        except BaseException:
            os.close(handle)
            raise


def read_file(path: Path) -> bytes:
    """Return the content of a regular file. Raise OSError, before reading, above MAX_READ_BYTES."""
    with open_regular(path) as handle, name_in_errors(path):
        if os.fstat(handle.fileno()).st_size > MAX_READ_BYTES:
            raise OSError(errno.EFBIG, f"larger than {MAX_READ_BYTES >> 20} MiB", str(path))
        return handle.read()


def sha256_file(path: Path) -> str:
    with open_regular(path) as handle, name_in_errors(path):
        return hashlib.file_digest(handle, "sha256").hexdigest()


def readable_name(path: str | PurePath) -> str:
    """Return a path as text that can be stored and printed, whatever bytes are in it."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def is_utf8(path: str | PurePath) -> bool:
    """Return whether a path is valid text. Linux allows other bytes, too, but databases do not."""
    return readable_name(path) == str(path)


@contextmanager
def name_in_errors(path: Path) -> Iterator[None]:
    """Put the path into an OSError: those of reading do not name their file."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def atomic_write(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, then rename it to `path`.

    Everybody sees the old file or the new one, also after a power cut.
    """
    partial = path.with_name(path.name + ".part")
    try:
        with suppress(FileNotFoundError):
            os.unlink(partial)  # left by a kill; or a foreign link, which must not be followed
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666))
        write(partial)
        with partial.open("rb+") as handle:
            os.fsync(handle.fileno())
        put_in_place(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def atomic_write_text(path: Path, text: str) -> None:
    """Write a text to `path` atomically."""
    atomic_write(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def manifest_beside(target: Path) -> Path:
    """Return where the signed manifest of a file or folder is, if it is signed."""
    target = target.absolute()
    return target.with_name(f"{target.name}.sha256")


def put_in_place(partial: Path, path: Path) -> None:
    """Rename a file that is on the disk; then its new name is on the disk, too."""
    os.replace(partial, path)
    sync_folder(path.parent)


def is_gone(path: str | Path) -> bool:
    """Return whether a file does not exist; False where that is unknown, as in a closed folder."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except ValueError:  # a zero byte in the name, which no file has
        return True
    except OSError:
        return False
    return False


def open_lock(path: Path) -> IO[str]:
    """Open the file of a lock. Nothing is written to it; raise where it is a link."""
    refuse_link(path)
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+")


def take_lock(path: Path) -> IO[str]:
    """Return a file that is locked until it is closed. Raise BlockingIOError if it is already."""
    handle = open_lock(path)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.close()
        raise
    return handle


def make_folder(folder: Path, mode: int = 0o777) -> None:
    """Make a folder and its parents, each on the disk before anything is put into it."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(mode, exist_ok=True)
        sync_folder(folder.parent)


def make_private_folder(folder: Path) -> None:
    """Make a folder that only its owner may enter. One that exists stays as it is."""
    make_folder(folder, 0o700)


def is_plain_name(name: str) -> bool:
    """Return whether a name means something in a folder, and cannot lead out of it."""
    return name not in {"", ".", ".."} and "/" not in name and "\0" not in name


def inside(folder: Path, *parts: str) -> Path:
    """Return the path of these parts below a folder. Raise where one could lead out of it."""
    for part in parts:
        if not is_plain_name(part):
            reason = f"{part!r} is not a plain file name, so nothing is written there"
            remedy = "do not use the data that it comes from: this program did not make it"
            raise IntegrityError(folder, reason, remedy)
    return folder.joinpath(*parts)


def refuse_links(folder: Path) -> None:
    """Raise where a folder holds links: what is written to a link may end up anywhere."""
    for path in folder.iterdir() if folder.is_dir() else ():
        refuse_link(path)


def refuse_link(path: Path) -> None:
    if path.is_symlink():
        reason = f"it is a link to {os.readlink(path)}, so data would be written there"
        raise IntegrityError(path, reason, "remove it, or put the file or folder itself here")


def sync_folder(folder: Path) -> None:
    """Make sure that files created, renamed or removed in a folder stay so after a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
