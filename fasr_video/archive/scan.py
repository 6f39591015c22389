"""What lies in an archive: files that may be footage, and folders that could not be read."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from fasr_video.errors import InputError
from fasr_video.files import is_utf8, readable_name

ENDINGS = frozenset(
    {
        *(
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
        ),
        *(
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
        ),
        *(".mjpg", ".ivf"),
    }
)


@dataclass(frozen=True, slots=True)
class Found:
    path: Path
    name: str
    """Within the archive, with /."""
    size: int
    mtime_ns: int


@dataclass(slots=True)
class Scan:
    files: list[Found] = field(default_factory=list)
    unread: dict[str, str] = field(default_factory=dict)
    """Folders and files that could not be looked at, and why."""


def check_folder(archive: Path) -> None:
    if not os.path.isdir(archive):
        raise InputError(archive, "no such folder", "give the folder that the footage is in")


def scan(archive: Path, glob: str | None, leave_out: Path) -> Scan:
    """Files below `archive` whose path within it fits `glob` (`*` goes through folders), or whose ending is known.

    `leave_out` is a folder that is no part of it: the cases, where they lie inside.
    """
    check_folder(archive)
    archive, result = archive.absolute(), Scan()
    skip = leave_out.resolve()

    def refused(error: OSError) -> None:
        result.unread[str(error.filename)] = error.strerror or str(error)

    for folder, below, names in os.walk(archive, onerror=refused):
        here = Path(folder)
        for link in [b for b in below if (here / b).is_symlink()]:
            result.unread[str(here / link)] = "a link to a folder is not followed"
        below[:] = sorted(b for b in below if (here / b).resolve() != skip)
        for name in sorted(names):
            path = here / name
            within = path.relative_to(archive).as_posix()
            if fnmatchcase(within, glob) if glob else path.suffix.lower() in ENDINGS:
                _add(result, path, within)
    return result


def _add(result: Scan, path: Path, within: str) -> None:
    if not is_utf8(within):
        result.unread[readable_name(path)] = "its name is not UTF-8"
        return
    try:
        facts = path.stat()
    except OSError as error:
        result.unread[str(path)] = error.strerror or str(error)
    else:
        if stat.S_ISREG(facts.st_mode):
            result.files.append(Found(path, within, facts.st_size, facts.st_mtime_ns))
        else:  # reading a pipe would wait for ever
            result.unread[str(path)] = "no regular file, but a pipe, socket or device"
