"""What in a case's folder is the case's: files named as ours are, and of the bytes that the case says they are.

The end of a case removes these and nothing else. Whatever else lies in the folder stops it: a case within the case,
somebody's notes, footage, a link, a picture that was changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fasr_video.case import log
from fasr_video.case.case import Case
from fasr_video.case.store import LOCK, TOMBSTONE
from fasr_video.case.verify import REPORT, SIGNED_OFF, SUMS, UNFINISHED
from fasr_video.errors import IntegrityError
from fasr_video.files import read_file, sha256_file

# SHA-256 and size of each file, by its path in the folder.
Facts = dict[str, dict[str, Any]]
_BESIDE = r"(-wal|-shm|-journal)?"
_NAMES = re.compile(
    rf"case\.sqlite(\.new)?{_BESIDE}|settings\.yaml(\.part)?|purged\.json\.part|report\.sha256(\.sig)?"
    r"|crops/(?P<two>[0-9a-f]{2})/(?P=two)[0-9a-f]{62}\.((png|aes)(\.part)?|new)"
    rf"|gallery/(\.lock|gallery\.sqlite(\.new)?{_BESIDE}|vectors\.(faiss|json)(\.part)?)"
    r"|signed-off/[^/]+\.(json|html)(\.sha256(\.sig)?)?(\.new)?(\.part)?"
    r"|report/(SHA256SUMS|\.unfinished|index\.html|report\.json|tracks\.csv|report\.pdf|README\.txt"
    r"|(S\d+-)?T\d+\.html|pictures/[^/]+\.png)(\.part)?"
)
_FOLDERS = re.compile(r"crops(/[0-9a-f]{2})?|gallery|signed-off|report(/pictures)?")
# Files that SQLite makes, changes and removes while a database is read, and a tombstone that is
# half written.
_CHANGING = re.compile(r"(gallery/gallery|case)\.sqlite(-wal|-shm|-journal)|purged\.json\.part")


def contents(case: Case) -> Facts:
    """Return what is to be removed with the case; raise where anything else lies in its folder."""
    found = named_as_ours(case.folder)
    known = _known_hashes(case)
    for name, facts in found.items():
        expected = known.get(name, _own_hash(name))
        if expected is not None and facts["sha256"] != expected:
            raise strange(case.folder / name, "not what this case wrote")
    return found


def named_as_ours(folder: Path) -> Facts:
    """Return all files of the folder but lock and tombstone; raise where one is not named as ours are."""
    found: Facts = {}
    for path in _all(folder):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise strange(path, "a link")
        if path.is_dir():
            if _FOLDERS.fullmatch(name) is None:
                raise strange(path, "a folder that no case has")
        elif not path.is_file() or _NAMES.fullmatch(name) is None:
            raise strange(path, "not a file of this case")
        else:
            found[name] = {"sha256": sha256_file(path), "size": path.stat().st_size}
    return found


def same(found: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
    """Whether these are the same files, but for those that come and go."""
    kept = [
        {n: f["sha256"] for n, f in files.items() if not _CHANGING.fullmatch(n)}
        for files in (found, known)
    ]
    return kept[0] == kept[1]


def may_change(name: str) -> bool:
    return _CHANGING.fullmatch(name) is not None


def strange(path: Path, what: str) -> IntegrityError:
    return IntegrityError(
        path,
        f"{what}; nothing was removed",
        "see what it is, and move it elsewhere if it is to stay",
    )


def _known_hashes(case: Case) -> dict[str, str]:
    """SHA-256 of each file that the case knows by it; empty for one that it should know and does not."""
    known: dict[str, str] = {}
    for line in log.entries(case, "signed off"):
        known |= {f"{SIGNED_OFF}/{name}": hashed for name, hashed in line.details["files"].items()}
    for path in (case.folder / SIGNED_OFF).glob("*.*"):
        if path.suffix in {".json", ".html"}:
            known.setdefault(f"{SIGNED_OFF}/{path.name}", "")
    report = case.folder / REPORT
    if (report / SUMS).is_file() and not (report / UNFINISHED).exists():
        lines = read_file(report / SUMS).decode().splitlines()
        listed = {name: hashed for hashed, _, name in (line.partition("  ") for line in lines)}
        there = {p.relative_to(report).as_posix() for p in report.rglob("*") if p.is_file()} - {
            SUMS
        }
        known |= {f"{REPORT}/{name}": listed.get(name, "") for name in there}
    return known


def _own_hash(name: str) -> str | None:
    """Of a picture, which is named by it; None of what is not, or is encrypted."""
    return Path(name).stem if name.startswith("crops/") and name.endswith(".png") else None


def _all(folder: Path) -> Iterator[Path]:
    kept = {folder / LOCK, folder / TOMBSTONE}
    yield from (path for path in sorted(folder.rglob("*")) if path not in kept)
