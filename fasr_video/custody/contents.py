"""Which files in a case's folder belong to the case, by their names and hashes.

A purge removes these files and nothing else. Any other file in the folder stops the purge: another
case, somebody's notes, footage, a link, or a picture that was changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fasr_video.case import log
from fasr_video.case.case import Case
from fasr_video.case.store import LOCK, TOMBSTONE
from fasr_video.case.verify import REPORT, SIGNED_OFF, SUMS, UNFINISHED
from fasr_video.errors import IntegrityError
from fasr_video.files import read_file, sha256_file

_BESIDE = r"(-wal|-shm|-journal)?"
_FILE_NAMES = re.compile(
    rf"case\.sqlite(\.new)?{_BESIDE}|settings\.yaml(\.part)?|purged\.json\.part"
    r"|report\.sha256(\.sig)?"
    r"|crops/(?P<two>[0-9a-f]{2})/(?P=two)[0-9a-f]{62}\.((png|aes)(\.part)?|new)"
    rf"|gallery/(\.lock|gallery\.sqlite(\.new)?{_BESIDE}|vectors\.(faiss|json)(\.part)?)"
    r"|signed-off/[^/]+\.(json|html)(\.sha256(\.sig)?)?(\.new)?(\.part)?"
    r"|report/(SHA256SUMS|\.unfinished|index\.html|report\.json|tracks\.csv|report\.pdf|README\.txt"
    r"|(S\d+-)?T\d+\.html|pictures/[^/]+\.png)(\.part)?"
)
_FOLDER_NAMES = re.compile(r"crops(/[0-9a-f]{2})?|gallery|signed-off|report(/pictures)?")
# Files that SQLite creates, changes and removes while a database is read, and a tombstone that is
# half written.
_CHANGING = re.compile(r"(gallery/gallery|case)\.sqlite(-wal|-shm|-journal)|purged\.json\.part")


@dataclass(frozen=True, slots=True)
class CaseFile:
    sha256: str
    size: int


def files_of_case(case: Case) -> dict[str, CaseFile]:
    """Return the files to remove with the case, by their paths in its folder.

    Raise where the folder holds any other file.
    """
    files = files_named_as_in_a_case(case.folder)
    hashes = _known_hashes(case)
    for name, file in files.items():
        expected = hashes.get(name, _hash_in_name(name))
        if expected is not None and file.sha256 != expected:
            raise foreign_file(case.folder / name, "not what this case wrote")
    return files


def files_named_as_in_a_case(folder: Path) -> dict[str, CaseFile]:
    """Return all files of the folder but lock and tombstone; raise where a name is not a case's."""
    files: dict[str, CaseFile] = {}
    for path in _all_paths(folder):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise foreign_file(path, "a link")
        if path.is_dir():
            if _FOLDER_NAMES.fullmatch(name) is None:
                raise foreign_file(path, "a folder that no case has")
        elif not path.is_file() or _FILE_NAMES.fullmatch(name) is None:
            raise foreign_file(path, "not a file of this case")
        else:
            files[name] = CaseFile(sha256_file(path), path.stat().st_size)
    return files


def are_the_same_files(first: Mapping[str, CaseFile], second: Mapping[str, CaseFile]) -> bool:
    """Return whether two tombstones list the same files, apart from files that `may_change`."""
    return _lasting_hashes(first) == _lasting_hashes(second)


def may_change(name: str) -> bool:
    """Return whether this file comes and goes while a database is read."""
    return _CHANGING.fullmatch(name) is not None


def foreign_file(path: Path, what: str) -> IntegrityError:
    """Return the error for a file that stops a purge."""
    return IntegrityError(
        path,
        f"{what}; nothing was removed",
        "look at it, and move it elsewhere if you want to keep it",
    )


def _lasting_hashes(files: Mapping[str, CaseFile]) -> dict[str, str]:
    return {name: file.sha256 for name, file in files.items() if not may_change(name)}


def _known_hashes(case: Case) -> dict[str, str]:
    """Return the SHA-256 that the case states for its files; empty where it should and does not."""
    hashes: dict[str, str] = {}
    for line in log.entries(case, "signed off"):
        for name, sha256 in line.details["files"].items():
            hashes[f"{SIGNED_OFF}/{name}"] = sha256
    for path in (case.folder / SIGNED_OFF).glob("*.*"):
        if path.suffix in {".json", ".html"}:
            hashes.setdefault(f"{SIGNED_OFF}/{path.name}", "")
    return hashes | _known_hashes_of_report(case.folder / REPORT)


def _known_hashes_of_report(report: Path) -> dict[str, str]:
    """Return the hashes in the report's SHA256SUMS, if the report was written to its end."""
    if not (report / SUMS).is_file() or (report / UNFINISHED).exists():
        return {}
    listed = {}
    for line in read_file(report / SUMS).decode().splitlines():
        sha256, _, name = line.partition("  ")
        listed[name] = sha256
    names = {p.relative_to(report).as_posix() for p in report.rglob("*") if p.is_file()}
    return {f"{REPORT}/{name}": listed.get(name, "") for name in names - {SUMS}}


def _hash_in_name(name: str) -> str | None:
    """Return the hash that names a plain picture; None for any other file."""
    return Path(name).stem if name.startswith("crops/") and name.endswith(".png") else None


def _all_paths(folder: Path) -> Iterator[Path]:
    excluded = {folder / LOCK, folder / TOMBSTONE}
    yield from (path for path in sorted(folder.rglob("*")) if path not in excluded)
