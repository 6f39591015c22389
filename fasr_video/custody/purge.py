"""The end of a case: what is past its time is removed; a tombstone says what it was and where copies were looked for.

Copies are looked for first, while there is something to compare with. Then the tombstone is written, then the files go,
the database before all others: a case is whole, or it cannot be opened. Killed in between, the next purge goes on.

While the database is there, it alone says whether the case's time is over: a tombstone beside it is nobody's word. What
goes is what the case wrote, by its names and hashes (`contents`); anything else in the folder stops it before.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from fasr_video import __version__
from fasr_video.actors import role as as_role
from fasr_video.case import log
from fasr_video.case.case import Case
from fasr_video.case.damage import first_problem
from fasr_video.case.results import stored_features
from fasr_video.case.sources import sources
from fasr_video.case.store import DATABASE, LOCK, TOMBSTONE, hold_lock, now
from fasr_video.custody.contents import contents, may_change, named_as_ours, same, strange
from fasr_video.encryption import given_key
from fasr_video.errors import CaseError, FasrError, IntegrityError, UsageError
from fasr_video.files import atomic_write_text, is_gone, read_file, refuse_link, sync_folder
from fasr_video.gallery import traces
from fasr_video.sqlite import MISREAD, explain_errors

SCHEMA = "fasr-video/purged/1"
# How long after its time a case is removed by the clock alone, and how far a clock may be behind
# its log.
FAR, BACK = timedelta(days=31), timedelta(days=1)
# Bytes of a picture that are looked for, and their base64, as pages hold pictures: a multiple of
# three.
PIECE = 48


@dataclass(frozen=True, slots=True)
class Due:
    folder: Path
    made_at: str
    until: datetime | None
    """When its time is over; None where no time was set."""
    begun: bool
    """A purge of it was begun and not finished: its database is gone."""
    newest: datetime | None = None
    """When the last line of its log was written."""
    problem: str = ""
    """Why it cannot be opened: such a case is never removed."""

    def over(self, at: datetime) -> bool:
        return self.begun or (self.until is not None and self.until <= at)

    def doubt(self, at: datetime) -> str:
        """Why this time, by the machine's clock, ends nothing by itself; empty where it may."""
        if self.begun or self.until is None or self.newest is None:
            return ""
        sure = self.newest - BACK <= at <= max(self.until, self.newest) + FAR
        if sure or self.until > at:
            return ""
        told = f"the clock says {at:%Y-%m-%d}, its log ends on {self.newest:%Y-%m-%d}, its time {self.until:%Y-%m-%d}"
        remedy = (
            "see that the clock is right, then remove the cases that you name with --now and --why"
        )
        return str(CaseError(self.folder, f"{told}: too far apart to remove it by itself", remedy))


@dataclass(frozen=True, slots=True)
class Search:
    """Where copies were looked for, and the files that hold some."""

    folders: list[str]
    files: int
    size: int
    unread: list[str]
    found: list[str]
    refused: dict[Path, str]
    """Cases whose pictures and vectors could not be read, each with the reason: without those no copy is found."""


@dataclass(frozen=True, slots=True)
class Ended:
    folder: Path
    told: dict[str, Any]
    """What its tombstone says; empty where it stays."""
    problem: str = ""
    """Why it stays."""


def cases_in(places: Sequence[Path]) -> list[Due]:
    """The cases that these folders are, or hold at any depth, the oldest first; those that are gone are left out."""
    folders: dict[Path, None] = {}
    for place in places:
        inside = {p.parent for name in (DATABASE, TOMBSTONE) for p in place.rglob(name)}
        if not inside:
            raise CaseError(place, "no case here", "give cases, or a folder that holds some")
        folders |= dict.fromkeys(sorted(inside))
    return sorted(
        (due for folder in folders if (due := _due(folder)) is not None), key=lambda d: d.made_at
    )


def copies(cases: Sequence[Due], places: Sequence[Path]) -> Search:
    """Every file in these places, but for the cases themselves, that holds pictures or vectors of the cases."""
    for place in places:
        if not place.is_dir():
            raise UsageError(place, "no such folder to search", "give a folder that is there")
    own = {d.folder.resolve() for d in cases}
    files = {
        p.resolve()
        for place in places
        for p in place.rglob("*")
        if p.is_file() and not p.is_symlink()
    }
    files = {f for f in files if not own & set(f.parents)}
    readable = sorted(f for f in files if os.access(f, os.R_OK))
    pieces: list[bytes] = []
    refused: dict[Path, str] = {}
    for due in cases:
        try:
            pieces += [] if due.begun else _telling(due.folder)
        except FasrError as error:
            refused[due.folder] = str(error)
    looked = traces.find_traces(readable, pieces)
    unread, found = sorted(map(str, files - set(readable))), sorted({str(f) for f in looked.paths})
    return Search(
        [str(p.resolve()) for p in places], looked.files, looked.size, unread, found, refused
    )


def purge_all(
    cases: Sequence[Due], search: Search, by: str, why: str, role: str = ""
) -> Iterator[Ended]:
    """One after another; a case that cannot be removed is told of, and the rest goes on."""
    for due in cases:
        problem = search.refused.get(due.folder, "")
        told: dict[str, Any] = {}
        try:
            if not problem:
                told = purge(due, search, by, why, role)
        except FasrError as error:
            problem = str(error)
        yield Ended(due.folder, told, problem)


def left(told: Iterable[dict[str, Any]]) -> list[str]:
    """Copies that these tombstones name and that are still there, also of a purge that was killed after its search."""
    return sorted(
        {path for stone in told for path in stone["copies"]["found"] if not is_gone(path)}
    )


def tombstones_in(places: Sequence[Path]) -> list[Path]:
    """Cases that were purged, or begun to be."""
    return sorted({p.parent for place in places for p in place.rglob(TOMBSTONE)})


def is_purged(folder: Path) -> bool:
    return (folder / TOMBSTONE).is_file() and not (folder / DATABASE).is_file()


def tombstone(folder: Path) -> dict[str, Any]:
    """What it says."""
    path = folder / TOMBSTONE
    try:
        refuse_link(path)
        with explain_errors(folder):
            told: dict[str, Any] = json.loads(read_file(path))
        texts = (
            told["state"],
            told["made_at"],
            told["begun_at"],
            told["why"],
            *told["copies"]["found"],
        )
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("something else where text belongs")
        sum(file.get("size", 0) for file in told["removed"].values())
    except (OSError, *MISREAD) as error:
        raise CaseError(
            path, f"not a whole tombstone ({error})", "look at the folder yourself"
        ) from error
    return told


def purge(due: Due, search: Search, by: str, why: str, role: str = "") -> dict[str, Any]:
    """Remove all files of the case but its tombstone; returns what the tombstone says."""
    folder = due.folder
    with explain_errors(folder), hold_lock(folder):
        if not due.begun:
            _begin(folder, _tombstone(folder, search, by, why, as_role(role)))
        told = tombstone(folder)
        left = named_as_ours(folder)
        for name, facts in left.items():
            if (
                not may_change(name)
                and told["removed"].get(name, {}).get("sha256") != facts["sha256"]
            ):
                raise strange(folder / name, "not what the tombstone tells of")
        for name in sorted(left, key=lambda n: (not n.startswith(DATABASE), n)):
            (folder / name).unlink(missing_ok=may_change(name))
            if name == DATABASE:
                sync_folder(folder)  # or a power cut could bring it back, and not what it tells of
        for path in sorted((p for p in folder.rglob("*") if p.is_dir()), reverse=True):
            path.rmdir()
        sync_folder(folder)
        told |= {"state": "removed", "removed_at": now()}
        _write(folder, told)
        (folder / LOCK).unlink()
    return told


def _due(folder: Path) -> Due | None:
    """None where it is gone."""
    try:
        told = tombstone(folder) if os.path.lexists(folder / TOMBSTONE) else {}
        if told and is_purged(folder):
            return (
                None
                if told["state"] == "removed"
                else Due(folder, told["made_at"], None, begun=True)
            )
        with explain_errors(folder), Case.open(folder, read_only=True) as case:
            made_at = _made_at(case)
            days = case.settings["case"].get("retention_days")
            newest = log.newest_entries(case, 1)[0].at
            if told and (told["state"], told.get("log_head")) != (
                "removing",
                case.meta("log_head"),
            ):
                raise strange(folder / TOMBSTONE, "a tombstone, and the case is there")
        made = datetime.fromisoformat(made_at)
        until = None if days is None else made + timedelta(days=days)
        return Due(folder, made_at, until, begun=False, newest=datetime.fromisoformat(newest))
    except FasrError as error:
        return Due(folder, "", None, begun=False, problem=str(error))
    except OverflowError:  # a time that no calendar has is never over
        return Due(folder, made_at, None, begun=False)


def _made_at(case: Case) -> str:
    lines = log.entries(case, "created")
    if not lines:
        raise IntegrityError(
            case.folder, "its log is empty", "restore the case from a copy, or remove it by hand"
        )
    return lines[0].at


def _begin(folder: Path, told: dict[str, Any]) -> None:
    """Write the tombstone; one that a killed purge of this very state wrote stays, with who began it and why."""
    path = folder / TOMBSTONE
    if os.path.lexists(path):
        before = tombstone(folder)
        if (
            not same(told["removed"], before["removed"])
            or before.get("log_head") != told["log_head"]
        ):
            raise strange(path, "a tombstone of another case, or of another state of it")
        return
    _write(folder, told)


def _tombstone(folder: Path, search: Search, by: str, why: str, role: str) -> dict[str, Any]:
    with Case.open(folder, read_only=True) as case:
        if (found := first_problem(case)) is not None:
            raise IntegrityError(
                folder, f"not what its log says ({found})", "see `fasr-video verify`; it stays"
            )
        removed = contents(case)
        told: dict[str, Any] = {
            "schema": SCHEMA,
            "version": __version__,
            "state": "removing",
            "case_id": case.meta("case_id"),
            "made_at": _made_at(case),
            "begun_at": now(),
            "by": by,
            "role": role,
            "why": why,
            "log_head": case.meta("log_head"),
            "log_lines": log.entry_count(case),
            "encryption": case.encryption,
            "plain_pictures_searched_for": case.encryption is None or given_key() is not None,
            "sources": [source.sha256 for source in sources(case)],
        }
    looked_in = {k: getattr(search, k) for k in ("folders", "files", "size", "unread", "found")}
    return told | {"removed": removed, "copies": looked_in}


def _telling(folder: Path) -> list[bytes]:
    """A piece of each picture, as it is and in base64, and each vector."""
    with explain_errors(folder), Case.open(folder, read_only=True) as case:
        return list(_pieces(case))


def _pieces(case: Case) -> Iterator[bytes]:
    for name in sorted(set(case.picture_names())):
        if (path := case.picture_path(name)).is_file():
            yield from pieces_of_picture(read_file(path))
            if case.encryption is not None and given_key() is not None:
                with suppress(IntegrityError):  # of one that was changed there is no plain picture
                    yield from pieces_of_picture(case.picture_bytes(name))
    yield from stored_features(case)


def pieces_of_picture(picture: bytes) -> Iterator[bytes]:
    """A piece from its middle, as it is and as pages hold it."""
    start = len(picture) // 2 // 3 * 3  # in the compressed pixels: heads are alike
    yield picture[start : start + PIECE]
    yield base64.b64encode(picture[start : start + PIECE])


def _write(folder: Path, told: Mapping[str, object]) -> None:
    """On the disk before anything else happens."""
    text = json.dumps(told, indent=2, ensure_ascii=False)
    atomic_write_text(folder / TOMBSTONE, text)
