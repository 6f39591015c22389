"""Photographs of known people: which there are, whose they are said to be, and which of them cannot be used."""

from __future__ import annotations

import errno
import os
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from fasr_video.csv_file import read_csv
from fasr_video.detection import Detector
from fasr_video.detection.photograph import Choice, Unclear, choose_face
from fasr_video.errors import InputError
from fasr_video.files import PICTURES, is_utf8, readable_name, sha256_file
from fasr_video.gallery.records import LONGEST_ID, Problem
from fasr_video.media import UNREADABLE, read_picture
from fasr_video.recognition.align import align, three_points
from fasr_video.types import AlignedFace, Image

MIN_EYE_PX = 20  # between the eyes of a gallery photograph
COLUMNS = {"path", "subject", "note", "source", "authority"}


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, and what is said about it."""

    file: Path
    path: str
    """As given: below the folder, or as in the manifest."""
    subject: str
    note: str = ""
    source: str = ""
    authority: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    entries: tuple[Entry, ...]
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]
    unreached: frozenset[PurePath]
    """Files, and folders, that are named but not to be had now: what was enrolled from there may still be there."""


@dataclass(frozen=True, slots=True)
class Face:
    """The usable face of a photograph that is meant."""

    aligned: AlignedFace
    eye_px: float
    score: float


@dataclass(frozen=True, slots=True)
class NoFace:
    """Why a photograph cannot be used, and the number of faces in it as far as it is known."""

    reason: str
    faces: int | None


def look(file: Path, detector: Detector, choice: Choice) -> Face | NoFace:
    try:
        image = read_picture(file)
    except UNREADABLE:
        return NoFace("not a picture that can be read", None)
    return find(image, detector, choice)


def find(image: Image, detector: Detector, choice: Choice) -> Face | NoFace:
    found = choose_face(image, detector, choice)
    if isinstance(found, Unclear):
        return NoFace(f"{found.reason}: {found.remedy}", found.faces)
    landmarks = None if found.landmarks is None else found.landmarks[0]
    points = three_points(found.boxes[0], landmarks)
    eye_px = float(((points[1] - points[0]) ** 2).sum() ** 0.5)
    if eye_px < MIN_EYE_PX:
        return NoFace(f"{eye_px:.0f} px between the eyes, {MIN_EYE_PX} needed", 1)
    return Face(align(image, found.boxes[0], landmarks), eye_px, float(found.scores[0]))


def read_listing(given: Path) -> Listing:
    """A folder with a file, or a folder, a subject; a CSV manifest; or one picture, as if it lay alone in a folder."""
    if is_picture(given) and not is_utf8(given.name):
        return Listing((), (_unnamed(given, Path(given.name)),), (), frozenset())
    if is_picture(given):
        return Listing((Entry(given, given.name, given.stem),), (), (), frozenset())
    listing = _manifest(given) if os.path.isfile(given) else _folder(given)
    if not listing.entries and not listing.problems:
        raise InputError(given, "it names no photographs", "give a line a photograph")
    spellings: dict[str, set[str]] = defaultdict(set)
    for entry in listing.entries:
        spellings[unicodedata.normalize("NFC", entry.subject).casefold()].add(entry.subject)
    warnings = [
        f"{' and '.join(sorted(ids))} are enrolled as different subjects, though their ids differ only in spelling"
        for ids in spellings.values()
        if len(ids) > 1
    ]
    return replace(listing, warnings=(*listing.warnings, *warnings))


def is_picture(given: Path) -> bool:
    """Return whether that is a single photograph, by the ending of its name."""
    return given.suffix.lower() in PICTURES and os.path.isfile(given)


def _subject(path: Path) -> str:
    return path.parts[0] if len(path.parts) > 1 else path.stem


def lies_in(path: str, places: Collection[PurePath]) -> bool:
    """At one of these places, or below it."""
    return bool(places) and any(p in places for p in (PurePath(path), *PurePath(path).parents))


def _folder(folder: Path) -> Listing:
    files, folders, failed = _walk(folder)
    entries: list[Entry] = []
    problems = [_unread(p, e) for p, e in failed]
    unreached, first = {p for p, _ in failed}, dict[str, Path]()
    for path in files:
        if not is_utf8(path):
            problems.append(_unnamed(folder / path, path))
            continue
        subject, lost = _subject(path), _out_of_reach(folder / path)
        reason = lost or _too_long(subject) or _clash(path, subject, folders, first)
        if lost is not None:
            unreached.add(path)
        if reason is None:
            entries.append(Entry(folder / path, str(path), subject))
        else:
            digest = None if lost else _hash(folder / path)
            problems.append(Problem(str(path), subject[:LONGEST_ID], digest, reason))
    return Listing(tuple(entries), tuple(problems), (), frozenset(unreached))


def _unnamed(file: Path, path: Path) -> Problem:
    """A photograph, or one in a folder, whose name is no text: no gallery can hold it."""
    name, subject = readable_name(path), readable_name(_subject(path))
    digest = None if _out_of_reach(file) else _hash(file)
    return Problem(
        name, subject, digest, "its name, or that of its folder, is not UTF-8: rename it"
    )


def _unread(path: Path, error: OSError) -> Problem:
    reason = f"a folder that cannot be read ({error.strerror})"
    return Problem(readable_name(path), readable_name(path.parts[0]), None, reason)


def _walk(folder: Path) -> tuple[list[Path], set[str], list[tuple[Path, OSError]]]:
    """All files, and the folders that cannot be read, each by its path below this one; and the folders just in it."""
    if not os.path.isdir(folder):
        remedy = "give a folder with one photograph, or one folder, a person"
        raise InputError(folder, "no such gallery folder", remedy)
    errors: list[OSError] = []
    walked = list(os.walk(folder, onerror=errors.append))
    if not walked:
        raise InputError(folder, f"cannot be read ({errors[0].strerror})", "check its permissions")
    files = sorted(
        Path(place, name).relative_to(folder) for place, _, names in walked for name in names
    )
    links = (
        str(p)
        for place, below, _ in walked
        for name in below
        if (p := Path(place, name)).is_symlink()
    )
    errors += [OSError(errno.ELOOP, "a link, which is not followed", link) for link in links]
    if not files and not errors:
        raise InputError(
            folder,
            "the gallery holds no files",
            "put one photograph, or one folder, a person in it",
        )
    return files, set(walked[0][1]), [(Path(e.filename).relative_to(folder), e) for e in errors]


def _clash(path: Path, subject: str, folders: set[str], first: dict[str, Path]) -> str | None:
    """Why this file cannot have its subject id. `first` gets the files that have theirs."""
    if len(path.parts) > 1:
        return None
    if subject in folders:
        return f"the subject id {subject} is also that of a folder: put the photograph into it, or rename it"
    if first.setdefault(subject, path) != path:
        return f"the subject id {subject} is also that of {first[subject]}: put both into a folder {subject}"
    return None


def _too_long(subject: str) -> str | None:
    if len(subject) <= LONGEST_ID:
        return None
    return f"a subject id of {len(subject)} characters: at most {LONGEST_ID} are allowed"


def _out_of_reach(file: Path) -> str | None:
    """Why nothing can be said about its content now."""
    try:
        return None if stat.S_ISREG(file.stat().st_mode) else "not a file"
    except FileNotFoundError:
        return "a link to nothing" if file.is_symlink() else "no such file"
    except OSError as error:
        return f"cannot be reached ({error.strerror})"
    except ValueError:  # a zero byte in it
        return "not a path"


def _hash(file: Path) -> str | None:
    try:
        return sha256_file(file)
    except OSError:
        return None


def _manifest(file: Path) -> Listing:
    remedy = (
        "give a CSV file with the columns path, subject and, if wanted, note, source, authority"
    )
    entries, problems, unreached, seen = [], [], set[PurePath](), dict[Path, int]()
    table = read_csv(file, ("path", "subject"), remedy)
    for number, row in table.rows.items():
        path, subject = row["path"], row["subject"]
        target = file.parent / path
        reason = _bad_row(number in table.uneven, path, subject, target)
        if reason is not None and path:
            unreached.add(PurePath(path))
        if reason is None and seen.setdefault(target.resolve(), number) != number:
            reason = f"the same file as in line {seen[target.resolve()]}"
        if reason is not None:
            told = f"{path}: {reason}" if path else reason
            problems.append(
                Problem(f"{file.name}, line {number}", subject[:LONGEST_ID], None, told)
            )
            continue
        about = {key: row.get(key, "") for key in ("note", "source", "authority")}
        entries.append(Entry(target, path, subject, **about))
    unknown = sorted(set(table.columns) - COLUMNS)
    warnings = (f"columns that are not read: {', '.join(unknown)}",) if unknown else ()
    return Listing(tuple(entries), tuple(problems), warnings, frozenset(unreached))


def _bad_row(uneven: bool, path: str, subject: str, target: Path) -> str | None:
    if uneven:
        return "the row has another number of fields than the header"
    if not path or not subject:
        return "path or subject is empty"
    return _too_long(subject) or _out_of_reach(target)
