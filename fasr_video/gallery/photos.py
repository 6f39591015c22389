"""List photographs for a gallery, with their subjects, and read the face of each."""

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

NOT_READABLE = "not a picture that can be read: save it again as JPEG or PNG, or remove it"
OTHER_FILE = "not a picture file"
MIN_EYE_PX = 20  # least distance between the eyes in a gallery photograph
COLUMNS = {"path", "subject", "note", "source", "authority"}


@dataclass(frozen=True, slots=True)
class Entry:
    """A listed photograph and its details."""

    file: Path
    path: str
    """Path below the folder, or as in the manifest."""
    subject: str
    note: str = ""
    source: str = ""
    authority: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    entries: tuple[Entry, ...]
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]
    unreachable: frozenset[PurePath]
    """Files and folders that cannot be read now; photographs enrolled from there may still
    exist."""


@dataclass(frozen=True, slots=True)
class Face:
    """The usable face of a photograph."""

    aligned: AlignedFace
    eye_px: float
    score: float


@dataclass(frozen=True, slots=True)
class NoFace:
    """Why a photograph is unusable, and its number of faces, where that is known."""

    reason: str
    faces: int | None


def read_face(file: Path, detector: Detector, choice: Choice) -> Face | NoFace:
    """Read a photograph and return its face, or why it is unusable."""
    try:
        image = read_picture(file)
    except UNREADABLE:
        return NoFace(NOT_READABLE if _may_be_picture(file) else OTHER_FILE, None)
    return find_face(image, detector, choice)


def find_face(image: Image, detector: Detector, choice: Choice) -> Face | NoFace:
    """Return the chosen, aligned face of an image, or why there is none."""
    detection = choose_face(image, detector, choice)
    if isinstance(detection, Unclear):
        return NoFace(f"{detection.reason}: {detection.remedy}", detection.faces)
    landmarks = None if detection.landmarks is None else detection.landmarks[0]
    points = three_points(detection.boxes[0], landmarks)
    eye_px = float(((points[1] - points[0]) ** 2).sum() ** 0.5)
    if eye_px < MIN_EYE_PX:
        return NoFace(f"{eye_px:.0f} px between the eyes, {MIN_EYE_PX} needed", 1)
    return Face(align(image, detection.boxes[0], landmarks), eye_px, float(detection.scores[0]))


def read_listing(path: Path) -> Listing:
    """Return the photographs of a folder, of a CSV manifest, or a single photograph.

    In a folder, each file or each subfolder is a subject.
    """
    if is_picture(path) and not is_utf8(path.name):
        return Listing((), (_bad_name_problem(path, Path(path.name)),), (), frozenset())
    if is_picture(path):
        return Listing((Entry(path, path.name, path.stem),), (), (), frozenset())
    listing = _manifest(path) if os.path.isfile(path) else _folder(path)
    if not listing.entries and not listing.problems:
        raise InputError(path, "it lists no photographs", "add a line for each photograph")
    spellings: dict[str, set[str]] = defaultdict(set)
    for entry in listing.entries:
        spellings[unicodedata.normalize("NFC", entry.subject).casefold()].add(entry.subject)
    warnings = [
        f"{' and '.join(sorted(ids))} are enrolled as different subjects,"
        " though their ids differ only in spelling"
        for ids in spellings.values()
        if len(ids) > 1
    ]
    return replace(listing, warnings=(*listing.warnings, *warnings))


def is_picture(path: Path) -> bool:
    """Return whether this is a single photograph, by the ending of its name."""
    return path.suffix.lower() in PICTURES and os.path.isfile(path)


def _subject(path: Path) -> str:
    return path.parts[0] if len(path.parts) > 1 else path.stem


def is_within(path: str, folders: Collection[PurePath]) -> bool:
    """Return whether a path is one of these files or folders, or lies below one."""
    pure = PurePath(path)
    return bool(folders) and any(parent in folders for parent in (pure, *pure.parents))


def _may_be_picture(file: Path) -> bool:
    """Return whether a file may hold a picture, by the ending of its name, or for lack of one."""
    return not file.suffix or file.suffix.lower() in PICTURES


def _folder(folder: Path) -> Listing:
    files, folders, failed = _walk(folder)
    database = next((path for path in files if path.suffix == ".sqlite"), None)
    if database is not None:
        why = f"it holds a database ({database}), so it is not a folder of photographs"
        raise InputError(folder, why, "give a gallery, or a folder of photographs")
    if files and not any(_may_be_picture(path) for path in files):
        why = f"none of its {len(files)} files is a picture"
        remedy = "give a folder with one photograph, or one subfolder, per person"
        raise InputError(folder, why, remedy)
    entries: list[Entry] = []
    problems = [_unreadable_folder(path, error) for path, error in failed]
    unreachable = {path for path, _ in failed}
    first_of_id = dict[str, Path]()
    for path in files:
        if not is_utf8(path):
            problems.append(_bad_name_problem(folder / path, path))
            continue
        subject = _subject(path)
        no_access = _access_problem(folder / path)
        if no_access is not None:
            unreachable.add(path)
        reason = no_access or _length_problem(subject)
        reason = reason or _id_clash(path, subject, folders, first_of_id)
        if reason is None:
            entries.append(Entry(folder / path, str(path), subject))
        else:
            digest = None if no_access else _hash(folder / path)
            problems.append(Problem(str(path), subject[:LONGEST_ID], digest, reason))
    return Listing(tuple(entries), tuple(problems), (), frozenset(unreachable))


def _bad_name_problem(file: Path, path: Path) -> Problem:
    """Return the problem of a photograph whose path is not valid UTF-8; the database needs text."""
    name, subject = readable_name(path), readable_name(_subject(path))
    digest = None if _access_problem(file) else _hash(file)
    return Problem(
        name, subject, digest, "its name, or that of its folder, is not UTF-8: rename it"
    )


def _unreadable_folder(path: Path, error: OSError) -> Problem:
    reason = f"a folder that cannot be read ({error.strerror})"
    return Problem(readable_name(path), readable_name(path.parts[0]), None, reason)


def _walk(folder: Path) -> tuple[list[Path], set[str], list[tuple[Path, OSError]]]:
    """Return all files below a folder, the names of its subfolders, and what could not be read."""
    if not os.path.isdir(folder):
        remedy = "give a photograph, a folder of them, or a CSV"
        raise InputError(folder, "no such file or folder", remedy)
    errors: list[OSError] = []
    walked = list(os.walk(folder, onerror=errors.append))
    if not walked:
        raise InputError(folder, f"cannot be read ({errors[0].strerror})", "check its permissions")
    files = sorted(
        Path(parent, name).relative_to(folder) for parent, _, names in walked for name in names
    )
    subfolders = (Path(parent, name) for parent, names, _ in walked for name in names)
    errors += [
        OSError(errno.ELOOP, "a link, which is not followed", str(path))
        for path in subfolders
        if path.is_symlink()
    ]
    if not files and not errors:
        raise InputError(
            folder,
            "the folder contains no files",
            "put one photograph, or one subfolder, per person in it",
        )
    return files, set(walked[0][1]), [(Path(e.filename).relative_to(folder), e) for e in errors]


def _id_clash(
    path: Path, subject: str, folders: set[str], first_of_id: dict[str, Path]
) -> str | None:
    """Return why this file cannot have its subject id, or None; then it is added to
    `first_of_id`."""
    if len(path.parts) > 1:
        return None
    if subject in folders:
        clash = f"the subject id {subject} is also that of a folder"
        return f"{clash}: put the photograph into it, or rename it"
    if first_of_id.setdefault(subject, path) != path:
        clash = f"the subject id {subject} is also that of {first_of_id[subject]}"
        return f"{clash}: put both into a folder {subject}"
    return None


def _length_problem(subject: str) -> str | None:
    if len(subject) <= LONGEST_ID:
        return None
    return f"a subject id of {len(subject)} characters: at most {LONGEST_ID} are allowed"


def _access_problem(file: Path) -> str | None:
    """Return why a file cannot be read now, or None."""
    try:
        return None if stat.S_ISREG(file.stat().st_mode) else "not a file"
    except FileNotFoundError:
        return "a link to nothing" if file.is_symlink() else "no such file"
    except OSError as error:
        return f"cannot be reached ({error.strerror})"
    except ValueError:  # the path contains a zero byte
        return "not a path"


def _hash(file: Path) -> str | None:
    try:
        return sha256_file(file)
    except OSError:
        return None


def _manifest(file: Path) -> Listing:
    remedy = (
        "give a gallery, a folder of photographs, or a CSV file with the columns path, subject"
        " and, if you like, note, source, authority"
    )
    entries = []
    problems = []
    unreachable = set[PurePath]()
    line_of = dict[Path, int]()
    table = read_csv(file, ("path", "subject"), remedy)
    for number, row in table.rows.items():
        path, subject = row["path"], row["subject"]
        target = file.parent / path
        reason = _row_problem(number in table.uneven, path, subject, target)
        if reason is not None and path:
            unreachable.add(PurePath(path))
        if reason is None and line_of.setdefault(target.resolve(), number) != number:
            reason = f"the same file as in line {line_of[target.resolve()]}"
        if reason is not None:
            line = f"{file.name}, line {number}"
            reason = f"{path}: {reason}" if path else reason
            problems.append(Problem(line, subject[:LONGEST_ID], None, reason))
            continue
        details = {key: row.get(key, "") for key in ("note", "source", "authority")}
        entries.append(Entry(target, path, subject, **details))
    unknown = sorted(set(table.columns) - COLUMNS)
    warnings = (f"these columns are ignored: {', '.join(unknown)}",) if unknown else ()
    return Listing(tuple(entries), tuple(problems), warnings, frozenset(unreachable))


def _row_problem(uneven: bool, path: str, subject: str, target: Path) -> str | None:
    if uneven:
        return "the row has another number of fields than the header"
    if not path or not subject:
        return "path or subject is empty"
    return _length_problem(subject) or _access_problem(target)
