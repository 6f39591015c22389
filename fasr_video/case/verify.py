"""Is a case still what the run left? Every stored hash is computed again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import yaml

from fasr_video.case import log
from fasr_video.case.case import Case
from fasr_video.case.damage import IN_DATABASE, Check, message_of
from fasr_video.case.sources import sources
from fasr_video.case.store import SETTINGS
from fasr_video.encryption import given_key
from fasr_video.errors import IntegrityError, MediaError
from fasr_video.files import read_file, sha256_file
from fasr_video.media import hash_folder
from fasr_video.sqlite import READ_ERRORS

# In the case: the reports that reviewers signed off.
SIGNED_OFF = "signed-off"
# In the case: the report; in that the list of its files' hashes, and a mark while it is being
# written.
REPORT, SUMS, UNFINISHED = "report", "SHA256SUMS", ".unfinished"
# Ends the name of a signed-off report until the log holds its hash.
NEW = ".new"


def verify(case: Case, head: str | None = None) -> list[Check]:
    """With the hash of a line that the log ended with once, noted elsewhere: does the log still hold that line?

    Somebody may write the case meanwhile. What is in its database is one moment of it; files beside it may be newer
    than that, so each check of them asks the database after it has looked at them.
    """
    with case.one_moment():
        checks = [_checked(case, check) for check in IN_DATABASE]
    beside: tuple[Callable[[Case], Check], ...] = (
        _settings,
        _signed_off,
        _report,
        partial(_heads, given=head),
        _pictures,
        _sources,
    )
    return checks + [_checked(case, check) for check in beside]


def _checked(case: Case, check: Callable[[Case], Check]) -> Check:
    name = getattr(check, "__name__", "_heads").strip("_")
    try:
        return check(case)
    except READ_ERRORS as error:
        return Check(name, 0, [f"the database is damaged ({message_of(error)})"], [])
    except OSError as error:
        return Check(
            name,
            0,
            [f"{error.filename or case.folder} cannot be read ({error.strerror or error})"],
            [],
        )


def _settings(case: Case) -> Check:
    """The settings that people read, and `run --stage` goes on with, against those in the database."""
    path = case.folder / SETTINGS
    try:
        same = yaml.safe_load(read_file(path)) == case.settings
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        same = False
    if same:
        return Check("settings", 1, [], [])
    last = log.entries(case, "stage redone", "run ended")[-1:]
    told = f"{path} does not say what the database does"
    if last and last[0].event == "stage redone":
        notes = (f"{told}: a run was cut short; the same command goes on",)
        return Check("settings", 1, [], [], notes)
    return Check("settings", 1, [told], [])


def _signed_off(case: Case) -> Check:
    """Signed-off reports against the hashes that the log holds."""
    folder = case.folder / SIGNED_OFF
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    problems, said = list[str](), dict[str, str]()
    for line in log.entries(case, "signed off"):
        said |= line.details["files"]
    for name, sha256 in said.items():
        path, new = folder / name, folder / (name + NEW)
        if not os.path.lexists(path) and _sha256(new) == sha256:
            continue  # it has no name yet; one that it gets in this very moment is looked at
        path = path if os.path.lexists(path) or not os.path.lexists(new) else new
        if not os.path.lexists(path):
            problems.append(f"{path} is not there any more")
        elif _sha256(path) != sha256:
            problems.append(f"{path} was changed")
    strange = sorted(there - said.keys() - {name + NEW for name in said})
    cut = [name for name in strange if name.endswith((NEW, f"{NEW}.part"))]
    problems += [f"{folder / name} is unknown to the log" for name in strange if name not in cut]
    notes = tuple(f"{folder / name}: a signing off that was cut short; no report" for name in cut)
    return Check("signed-off reports", len(said), problems, [], notes)


def _report(case: Case) -> Check:
    """The report in the case against its own list of hashes. Whoever changes both is found by a signature alone."""
    folder = case.folder / REPORT
    if not (folder / SUMS).is_file():
        return Check("report", 0, [], [])
    lines = (line.partition("  ") for line in read_file(folder / SUMS).decode().splitlines())
    said = {name: sha256 for sha256, _, name in lines}
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()} - {SUMS}
    if UNFINISHED in there:
        return Check(
            "report", 0, [], [], ("its writing was cut short: `fasr-video report` writes it anew",)
        )
    bad = {name for name in said if name not in there or _sha256(folder / name) != said[name]}
    why = "is not as the report was written; `fasr-video report` writes it anew"
    notes = tuple(f"{folder / name}: no report wrote it" for name in sorted(there - said.keys()))
    return Check("report", len(said), [f"{folder / name} {why}" for name in sorted(bad)], [], notes)


def _heads(case: Case, given: str | None) -> Check:
    """Ends that the log once had, as files of the case and a person say: the log has to hold them still."""
    problems, noted = (
        [],
        {} if given is None else {"the head that was given": given.strip().lower()},
    )
    for path in (
        case.folder / REPORT / "report.json",
        *sorted((case.folder / SIGNED_OFF).glob("*.json")),
    ):
        try:
            noted[str(path)] = str(json.loads(read_file(path))["log_head"])
        except FileNotFoundError:
            continue
        except (OSError, *READ_ERRORS):
            problems.append(f"{path} names no end of the log")
    lines = {line.hash for line in log.entries(case)}
    problems += [
        f"{who}: the log holds no line {h[:16]}… (cut off?)"
        for who, h in noted.items()
        if h not in lines
    ]
    return Check("ends of the log that were noted", len(noted), problems, [])


def _pictures(case: Case) -> Check:
    problems = dict[str, str]()
    names = sorted(set(case.picture_names()))
    readable = case.encryption is None or given_key() is not None
    for name in names:
        path = case.picture_path(name)
        if not os.path.isfile(path):  # Path.is_file raises where a forged name is too long
            problems[name] = f"{path} is missing"
        elif readable and _was_changed(case, name):
            problems[name] = f"{path} was changed"
    named = (
        set(case.picture_names()) if problems else set[str]()
    )  # a run may have put others in their place
    unchecked = [] if readable else [f"{len(names)} pictures are encrypted, and no key was given"]
    strays = set(case.pictures_there()) - {case.picture_path(name) for name in names}
    notes = tuple(
        f"{path} is no picture of the case (left by a kill, or put there)"
        for path in sorted(strays)[:20]
    )
    still = [problem for name, problem in problems.items() if name in named]
    return Check("pictures", len(names) if readable else 0, still, unchecked, notes)


def _was_changed(case: Case, name: str) -> bool:
    try:
        case.picture_bytes(name)
    except IntegrityError:
        return True
    return False


def _sources(case: Case) -> Check:
    problems, unchecked = [], []
    known = sources(case)
    for source in known:
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
    return Check("sources", len(known) - len(unchecked), problems, unchecked)


def _sha256(path: Path) -> str:
    """Of a file; of what is none, such as a link in its place, nothing that anything else has."""
    return sha256_file(path) if path.is_file() and not path.is_symlink() else ""


def _hash_of(path: Path) -> str:
    return hash_folder(path) if path.is_dir() else sha256_file(path)
