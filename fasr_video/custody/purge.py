"""The end of a case: `purge` removes an expired case and leaves a tombstone.

The tombstone says what the case was and where copies were searched for. The order is fixed: search
for copies while there is something to compare with, write the tombstone, remove the files, the
database first. So a case is complete or cannot be opened. The next purge finishes one that was
killed.

While the database exists, it alone says whether the case has expired; a tombstone beside it counts
for nothing. Only files that the case wrote are removed, by name and hash (`contents`). Any other
file in the folder stops the purge before it begins.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from fasr_video import __version__
from fasr_video.actors import role as as_role
from fasr_video.case import log
from fasr_video.case.case import Case
from fasr_video.case.damage import first_problem
from fasr_video.case.results import stored_features
from fasr_video.case.sources import sources
from fasr_video.case.store import DATABASE, LOCK, TOMBSTONE, hold_lock
from fasr_video.clock import now
from fasr_video.custody.contents import (
    CaseFile,
    are_the_same_files,
    files_named_as_in_a_case,
    files_of_case,
    foreign_file,
    may_change,
)
from fasr_video.encryption import given_key
from fasr_video.errors import CaseError, FasrError, IntegrityError, UsageError
from fasr_video.files import atomic_write_text, is_gone, read_file, refuse_link, sync_folder
from fasr_video.gallery import traces
from fasr_video.sqlite import READ_ERRORS, explain_errors

SCHEMA = "fasr-video/purged/1"
# The clock alone removes a case at most this long after it expired.
PURGE_WINDOW = timedelta(days=31)
# The clock may be this far behind the log.
CLOCK_TOLERANCE = timedelta(days=1)
# Length of the piece of a picture that is searched for, also in base64, as pages hold pictures. A
# multiple of three, so that base64 needs no padding.
PIECE_BYTES = 48


@dataclass(frozen=True, slots=True)
class RetainedCase:
    folder: Path
    made_at: str
    expires_at: datetime | None
    """None where no retention time was set."""
    purge_begun: bool
    """A purge was begun and not finished: the database is gone."""
    last_logged: datetime | None = None
    """When the last line of its log was written."""
    problem: str = ""
    """Why it cannot be opened. Such a case is never removed."""

    def has_expired(self, at: datetime) -> bool:
        if self.purge_begun:
            return True
        return self.expires_at is not None and self.expires_at <= at

    def clock_problem(self, at: datetime) -> str:
        """Return why the clock's time `at` must not remove this case; empty where it may."""
        if self.purge_begun or self.expires_at is None or self.last_logged is None:
            return ""
        earliest = self.last_logged - CLOCK_TOLERANCE
        latest = max(self.expires_at, self.last_logged) + PURGE_WINDOW
        if earliest <= at <= latest or self.expires_at > at:
            return ""
        dates = (
            f"the clock says {at:%Y-%m-%d}, the case's log ends on {self.last_logged:%Y-%m-%d} "
            f"and its time on {self.expires_at:%Y-%m-%d}"
        )
        reason = f"{dates}: too far apart to remove it by the clock alone"
        remedy = "check the clock, then remove the cases with --now and --why"
        return str(CaseError(self.folder, reason, remedy))


@dataclass(frozen=True, slots=True)
class Copies:
    """Where copies were searched for, and the files that hold one."""

    folders: list[str]
    files: int
    size: int
    unread: list[str]
    found: list[str]


@dataclass(frozen=True, slots=True)
class CopySearch:
    copies: Copies
    refused: dict[Path, str]
    """Cases whose pictures and vectors could not be read, with the reason. Their copies cannot be
    found."""


@dataclass(frozen=True, slots=True)
class Tombstone:
    """The content of purged.json."""

    schema: str
    version: str
    state: str
    """`removing`, or `removed`."""
    case_id: str
    made_at: str
    begun_at: str
    by: str
    role: str
    why: str
    log_head: str
    log_lines: int
    encryption: dict[str, str] | None
    plain_pictures_searched_for: bool
    sources: list[str]
    """SHA-256 of the footage."""
    removed: dict[str, CaseFile]
    copies: Copies
    removed_at: str | None = None

    def as_json(self) -> dict[str, object]:
        values = asdict(self)
        if self.removed_at is None:
            del values["removed_at"]
        return values


@dataclass(frozen=True, slots=True)
class PurgeResult:
    folder: Path
    tombstone: Tombstone | None
    """None where the case was not removed."""
    problem: str = ""
    """Why the case was not removed."""


def retained_cases(folders: Sequence[Path]) -> list[RetainedCase]:
    """Return the cases at or below these folders, the oldest first, without purged ones."""
    case_folders: dict[Path, None] = {}
    for folder in folders:
        below = {path.parent for name in (DATABASE, TOMBSTONE) for path in folder.rglob(name)}
        if not below:
            raise CaseError(folder, "no case here", "give cases, or a folder that holds cases")
        case_folders |= dict.fromkeys(sorted(below))
    cases = [_retained_case(folder) for folder in case_folders]
    return sorted((case for case in cases if case is not None), key=lambda case: case.made_at)


def search_copies(cases: Sequence[RetainedCase], folders: Sequence[Path]) -> CopySearch:
    """Search all files in these folders, except the cases' own, for their pictures and vectors."""
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(folder, "no such folder to search", "give a folder that exists")
    files = _files_outside(cases, folders)
    readable = sorted(file for file in files if os.access(file, os.R_OK))
    pieces: list[bytes] = []
    refused: dict[Path, str] = {}
    for case in cases:
        if case.purge_begun:
            continue
        try:
            pieces += identifying_bytes(case.folder)
        except FasrError as error:
            refused[case.folder] = str(error)
    hits = traces.find_traces(readable, pieces)
    copies = Copies(
        folders=[str(folder.resolve()) for folder in folders],
        files=hits.files,
        size=hits.size,
        unread=sorted(map(str, files - set(readable))),
        found=sorted({str(file) for file in hits.paths}),
    )
    return CopySearch(copies, refused)


def _files_outside(cases: Sequence[RetainedCase], folders: Sequence[Path]) -> set[Path]:
    excluded = {case.folder.resolve() for case in cases}
    paths = (path for folder in folders for path in folder.rglob("*"))
    files = {path.resolve() for path in paths if path.is_file() and not path.is_symlink()}
    return {file for file in files if not excluded & set(file.parents)}


def purge_all(
    cases: Sequence[RetainedCase], search: CopySearch, by: str, why: str, *, role: str = ""
) -> Iterator[PurgeResult]:
    """Purge the cases one by one. A case that cannot be removed does not stop the others."""
    for case in cases:
        problem = search.refused.get(case.folder, "")
        tombstone = None
        try:
            if not problem:
                tombstone = purge(case, search, by, why, role=role)
        except FasrError as error:
            problem = str(error)
        yield PurgeResult(case.folder, tombstone, problem)


def remaining_copies(tombstones: Iterable[Tombstone]) -> list[str]:
    """Return the copies that these tombstones list and that still exist.

    This includes copies that a purge found which was killed after its search.
    """
    listed = {path for tombstone in tombstones for path in tombstone.copies.found}
    return sorted(path for path in listed if not is_gone(path))


def purged_folders(folders: Sequence[Path]) -> list[Path]:
    """Return the folders of cases whose purge was begun or finished."""
    return sorted({path.parent for folder in folders for path in folder.rglob(TOMBSTONE)})


def is_purged(folder: Path) -> bool:
    return (folder / TOMBSTONE).is_file() and not (folder / DATABASE).is_file()


def read_tombstone(folder: Path) -> Tombstone:
    """Return the folder's tombstone; raise where it is damaged."""
    path = folder / TOMBSTONE
    try:
        refuse_link(path)
        with explain_errors(folder):
            content = json.loads(read_file(path))
        content["removed"] = {n: CaseFile(**file) for n, file in content["removed"].items()}
        content["copies"] = Copies(**content["copies"])
        stone = Tombstone(**content)
        texts = [stone.state, stone.made_at, stone.begun_at, stone.why, *stone.copies.found]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("a value that should be text is not")
        sum(file.size for file in stone.removed.values())
    except (OSError, *READ_ERRORS) as error:
        raise CaseError(
            path, f"a damaged tombstone ({error})", "look at the folder yourself"
        ) from error
    return stone


def purge(
    case: RetainedCase, search: CopySearch, by: str, why: str, *, role: str = ""
) -> Tombstone:
    """Remove all files of the case and return the tombstone that is left in its folder."""
    folder = case.folder
    with explain_errors(folder), hold_lock(folder):
        if not case.purge_begun:
            _begin(folder, _new_tombstone(folder, search.copies, by, why, role=as_role(role)))
        tombstone = read_tombstone(folder)
        _remove_files(folder, tombstone)
        tombstone = replace(tombstone, state="removed", removed_at=now())
        _write(folder, tombstone)
        (folder / LOCK).unlink()
    return tombstone


def _remove_files(folder: Path, tombstone: Tombstone) -> None:
    """Remove the files that the tombstone lists, the database first, and the empty folders."""
    files = files_named_as_in_a_case(folder)
    for name, file in files.items():
        listed = tombstone.removed.get(name)
        if not may_change(name) and (listed is None or listed.sha256 != file.sha256):
            raise foreign_file(folder / name, "not what the tombstone lists")
    for name in sorted(files, key=lambda name: (not name.startswith(DATABASE), name)):
        (folder / name).unlink(missing_ok=may_change(name))
        if name == DATABASE:
            # A power cut could otherwise bring the database back without its pictures.
            sync_folder(folder)
    for path in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
        path.rmdir()
    sync_folder(folder)


def _retained_case(folder: Path) -> RetainedCase | None:
    """Return the case in this folder; None where it was purged."""
    try:
        tombstone = read_tombstone(folder) if os.path.lexists(folder / TOMBSTONE) else None
        if tombstone is not None and is_purged(folder):
            if tombstone.state == "removed":
                return None
            return RetainedCase(folder, tombstone.made_at, None, purge_begun=True)
        with explain_errors(folder), Case.open(folder, read_only=True) as case:
            made_at = _made_at(case)
            days = case.settings["case"].get("retention_days")
            last_logged = datetime.fromisoformat(log.newest_entries(case, 1)[0].at)
            if tombstone is not None:
                _check_tombstone_beside_database(case, tombstone)
        made = datetime.fromisoformat(made_at)
        expires_at = None if days is None else made + timedelta(days=days)
        return RetainedCase(folder, made_at, expires_at, purge_begun=False, last_logged=last_logged)
    except FasrError as error:
        return RetainedCase(folder, "", None, purge_begun=False, problem=str(error))
    except OverflowError:  # a date past the end of the calendar never comes
        return RetainedCase(folder, made_at, None, purge_begun=False)


def _check_tombstone_beside_database(case: Case, tombstone: Tombstone) -> None:
    """Raise unless a purge of this very state of the case wrote the tombstone."""
    if tombstone.state != "removing" or tombstone.log_head != case.meta("log_head"):
        raise foreign_file(case.folder / TOMBSTONE, "a tombstone, although the case still exists")


def _made_at(case: Case) -> str:
    lines = log.entries(case, "created")
    if not lines:
        raise IntegrityError(
            case.folder, "its log is empty", "restore the case from a copy, or remove it by hand"
        )
    return lines[0].at


def _begin(folder: Path, tombstone: Tombstone) -> None:
    """Write the tombstone, unless a killed purge of this very state wrote one.

    The earlier tombstone keeps who began the purge and why.
    """
    path = folder / TOMBSTONE
    if not os.path.lexists(path):
        _write(folder, tombstone)
        return
    earlier = read_tombstone(folder)
    same_files = are_the_same_files(tombstone.removed, earlier.removed)
    if not same_files or earlier.log_head != tombstone.log_head:
        raise foreign_file(path, "a tombstone of another case, or of another state of this one")


def _new_tombstone(folder: Path, copies: Copies, by: str, why: str, *, role: str) -> Tombstone:
    with Case.open(folder, read_only=True) as case:
        problem = first_problem(case)
        if problem is not None:
            raise IntegrityError(
                folder,
                f"it does not agree with its log ({problem}), so it was not removed",
                "see `fasr-video verify`",
            )
        return Tombstone(
            schema=SCHEMA,
            version=__version__,
            state="removing",
            case_id=case.meta("case_id"),
            made_at=_made_at(case),
            begun_at=now(),
            by=by,
            role=role,
            why=why,
            log_head=case.meta("log_head"),
            log_lines=log.entry_count(case),
            encryption=case.encryption,
            plain_pictures_searched_for=case.encryption is None or given_key() is not None,
            sources=[source.sha256 for source in sources(case)],
            removed=files_of_case(case),
            copies=copies,
        )


def identifying_bytes(folder: Path) -> list[bytes]:
    """Return byte strings that give a copy of the case away: its vectors, a piece of each picture.

    Pieces of pictures are returned as they are and in base64.
    """
    with explain_errors(folder), Case.open(folder, read_only=True) as case:
        return list(_pieces(case))


def _pieces(case: Case) -> Iterator[bytes]:
    has_key = case.encryption is not None and given_key() is not None
    for name in sorted(set(case.picture_names())):
        path = case.picture_path(name)
        if not path.is_file():
            continue
        yield from pieces_of_picture(read_file(path))
        if has_key:
            with suppress(IntegrityError):  # an altered file does not decrypt
                yield from pieces_of_picture(case.picture_bytes(name))
    yield from stored_features(case)


def pieces_of_picture(picture: bytes) -> Iterator[bytes]:
    """Yield a piece from the middle of the file, as it is and in base64."""
    # The middle lies in the compressed pixels: the beginnings of files are alike. Base64 encodes
    # three bytes at a time, so the piece starts at a multiple of three.
    start = len(picture) // 2 // 3 * 3
    piece = picture[start : start + PIECE_BYTES]
    yield piece
    yield base64.b64encode(piece)


def _write(folder: Path, tombstone: Tombstone) -> None:
    """Write the tombstone; it is on the disk when this returns."""
    text = json.dumps(tombstone.as_json(), indent=2, ensure_ascii=False)
    atomic_write_text(folder / TOMBSTONE, text)
