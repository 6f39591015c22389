"""Verify a case by computing all its stored hashes again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import yaml

from fasr_video.case import log
from fasr_video.case.case import Case
from fasr_video.case.damage import IN_DATABASE, Check, error_text
from fasr_video.case.sources import sources
from fasr_video.case.store import SETTINGS
from fasr_video.encryption import given_key
from fasr_video.errors import IntegrityError, MediaError
from fasr_video.files import read_file, sha256_file
from fasr_video.media import hash_folder
from fasr_video.sqlite import READ_ERRORS

# The folder of signed-off reports in a case.
SIGNED_OFF = "signed-off"
# The folder of the report in a case; in it, the list of file hashes, and a marker file that is
# there while the report is being written.
REPORT, SUMS, UNFINISHED = "report", "SHA256SUMS", ".unfinished"
# Suffix of a signed-off report whose hash is not in the log yet.
NEW = ".new"


def verify(case: Case, head: str | None = None) -> list[Check]:
    """Return the results of all checks of a case.

    `head` is the hash of an earlier head of the log, noted elsewhere: the log has to contain it.
    Another process may write the case meanwhile. The checks of the database share one snapshot.
    Files may be newer than that, so each check of files reads the database after the files.
    """
    with case.snapshot():
        checks = [_run_check(case, check) for check in IN_DATABASE]
    file_checks: tuple[Callable[[Case], Check], ...] = (
        _settings,
        _signed_off,
        _report,
        partial(_heads, given=head),
        _pictures,
        _sources,
    )
    return checks + [_run_check(case, check) for check in file_checks]


def _run_check(case: Case, check: Callable[[Case], Check]) -> Check:
    """Return the result of a check; what makes it fail is reported as a problem."""
    name = getattr(check, "__name__", "_heads").strip("_")
    try:
        return check(case)
    except READ_ERRORS as error:
        return Check(name, 0, [f"the database is damaged ({error_text(error)})"], [])
    except OSError as error:
        path = error.filename or case.folder
        return Check(name, 0, [f"{path} cannot be read ({error.strerror or error})"], [])


def _settings(case: Case) -> Check:
    """Check the settings file, which `run --stage` reads, against the settings in the database."""
    path = case.folder / SETTINGS
    try:
        same = yaml.safe_load(read_file(path)) == case.settings
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        same = False
    if same:
        return Check("settings", 1, [], [])
    last = log.entries(case, "stage redone", "run ended")[-1:]
    difference = f"{path} differs from the settings in the database"
    if last and last[0].event == "stage redone":
        notes = (f"{difference}: a run was interrupted; run the same command again to continue it",)
        return Check("settings", 1, [], [], notes)
    return Check("settings", 1, [difference], [])


def _signed_off(case: Case) -> Check:
    """Check signed-off reports against the hashes in the log."""
    folder = case.folder / SIGNED_OFF
    stored = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    problems = list[str]()
    logged = dict[str, str]()
    for line in log.entries(case, "signed off"):
        logged |= line.details["files"]
    for name, sha256 in logged.items():
        path = folder / name
        new = folder / (name + NEW)
        # The report may be without its final name, or get it between these two lines.
        if not os.path.lexists(path) and _sha256(new) == sha256:
            continue
        path = path if os.path.lexists(path) or not os.path.lexists(new) else new
        if not os.path.lexists(path):
            problems.append(f"{path} is missing")
        elif _sha256(path) != sha256:
            problems.append(f"{path} was changed")
    unknown = sorted(stored - logged.keys() - {name + NEW for name in logged})
    unfinished = [name for name in unknown if name.endswith((NEW, f"{NEW}.part"))]
    problems += [f"{folder / name} is not in the log" for name in unknown if name not in unfinished]
    notes = tuple(
        f"{folder / name}: left by an interrupted sign-off; it is not a report"
        for name in unfinished
    )
    return Check("signed-off reports", len(logged), problems, [], notes)


def _report(case: Case) -> Check:
    """Check the report in the case against its own list of hashes.

    Only a signature reveals a change of both.
    """
    folder = case.folder / REPORT
    if not (folder / SUMS).is_file():
        return Check("report", 0, [], [])
    lines = (line.partition("  ") for line in read_file(folder / SUMS).decode().splitlines())
    listed = {name: sha256 for sha256, _, name in lines}
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()}
    files -= {SUMS}
    if UNFINISHED in files:
        note = "its writing was interrupted: `fasr-video report` writes it again"
        return Check("report", 0, [], [], (note,))
    problems = [
        f"{folder / name} was changed or removed; `fasr-video report` writes it again"
        for name, sha256 in sorted(listed.items())
        if name not in files or _sha256(folder / name) != sha256
    ]
    notes = tuple(
        f"{folder / name}: not part of the report" for name in sorted(files - listed.keys())
    )
    return Check("report", len(listed), problems, [], notes)


def _heads(case: Case, given: str | None) -> Check:
    """Check that the log contains the earlier ends that files of the case and the user name."""
    problems = []
    noted = {} if given is None else {"the head that was given": given.strip().lower()}
    for path in (
        case.folder / REPORT / "report.json",
        *sorted((case.folder / SIGNED_OFF).glob("*.json")),
    ):
        try:
            noted[str(path)] = str(json.loads(read_file(path))["log_head"])
        except FileNotFoundError:
            continue
        except (OSError, *READ_ERRORS):
            problems.append(f"{path} names no head of the log")
    lines = {line.hash for line in log.entries(case)}
    problems += [
        f"{source}: the log has no line with the hash {head[:16]}…: its end was cut off, "
        "or this is the head of another case"
        for source, head in noted.items()
        if head not in lines
    ]
    return Check("noted log heads", len(noted), problems, [])


def _pictures(case: Case) -> Check:
    """Check each picture against its name, which is its hash."""
    problems = dict[str, str]()
    names = sorted(set(case.picture_names()))
    readable = case.encryption is None or given_key() is not None
    for name in names:
        path = case.picture_path(name)
        if not os.path.isfile(path):  # Path.is_file raises where a forged name is too long
            problems[name] = f"{path} is missing"
        elif readable and _was_changed(case, name):
            problems[name] = f"{path} was changed"
    # A run may have replaced pictures meanwhile, so only those still named count.
    named = set(case.picture_names()) if problems else set[str]()
    unchecked = [] if readable else [f"{len(names)} pictures are encrypted, and no key was given"]
    strays = set(case.picture_files()) - {case.picture_path(name) for name in names}
    notes = tuple(
        f"{path} is not a picture of the case (left by a killed run, or added by a person)"
        for path in sorted(strays)[:20]
    )
    remaining = [problem for name, problem in problems.items() if name in named]
    return Check("pictures", len(names) if readable else 0, remaining, unchecked, notes)


def _was_changed(case: Case, name: str) -> bool:
    try:
        case.picture_bytes(name)
    except IntegrityError:
        return True
    return False


def _sources(case: Case) -> Check:
    """Check the footage against the hashes in the database."""
    problems, unchecked = [], []
    all_sources = sources(case)
    for source in all_sources:
        path = Path(source.path)
        try:
            if not path.exists():
                unchecked.append(f"{path} is not there")
            elif _hash_of(path) != source.sha256:
                problems.append(f"{path} is not the footage that was processed")
        except MediaError as error:
            unchecked.append(str(error))
        except OSError as error:
            unchecked.append(f"{path} cannot be read ({error.strerror or error})")
    return Check("sources", len(all_sources) - len(unchecked), problems, unchecked)


def _sha256(path: Path) -> str:
    """Return the hash of a regular file, or an empty text for anything else, such as a link."""
    return sha256_file(path) if path.is_file() and not path.is_symlink() else ""


def _hash_of(path: Path) -> str:
    return hash_folder(path) if path.is_dir() else sha256_file(path)
