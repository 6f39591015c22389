"""Find the files of an archive that may be footage, and list the folders that could not be read."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from fasr_video.errors import InputError
from fasr_video.files import VIDEOS, is_utf8, readable_name


@dataclass(frozen=True, slots=True)
class FoundFile:
    path: Path
    name: str
    """The path within the archive, with /."""
    size: int
    mtime_ns: int


@dataclass(slots=True)
class Scan:
    files: list[FoundFile] = field(default_factory=list)
    unread: dict[str, str] = field(default_factory=dict)
    """Folders and files that could not be read, and why."""


def check_folder(archive: Path) -> None:
    """Raise where there is no such folder."""
    if os.path.isfile(archive):
        remedy = f"for one file use fasr-video run {archive}, or give the folder it is in"
        raise InputError(archive, "a file", remedy)
    if not os.path.isdir(archive):
        raise InputError(archive, "no such folder", "give the folder that the footage is in")


def scan(archive: Path, glob: str | None, leave_out: Path) -> Scan:
    """Return the files below `archive` whose path within it fits `glob`, or whose ending is known.

    In the glob, `*` also matches /. `leave_out` is a folder to skip: the cases, where they lie
    inside the archive.
    """
    check_folder(archive)
    archive = archive.absolute()
    result = Scan()
    skip = leave_out.resolve()

    def add_unread(error: OSError) -> None:
        result.unread[str(error.filename)] = error.strerror or str(error)

    for folder, subfolders, names in os.walk(archive, onerror=add_unread):
        here = Path(folder)
        for link in [name for name in subfolders if (here / name).is_symlink()]:
            result.unread[str(here / link)] = "links to folders are not followed"
        subfolders[:] = sorted(name for name in subfolders if (here / name).resolve() != skip)
        for name in sorted(names):
            path = here / name
            within = path.relative_to(archive).as_posix()
            if fnmatchcase(within, glob) if glob else path.suffix.lower() in VIDEOS:
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
        return
    if stat.S_ISREG(facts.st_mode):
        result.files.append(FoundFile(path, within, facts.st_size, facts.st_mtime_ns))
    else:  # reading a pipe would block for ever
        result.unread[str(path)] = "not a regular file, but a pipe, socket or device"
