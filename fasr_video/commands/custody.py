"""`fasr-video pictures` and `fasr-video purge`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fasr_video.actors import login_name
from fasr_video.actors import role as as_role
from fasr_video.archive.summary import rewrite_summaries
from fasr_video.case.case import Case
from fasr_video.commands.options import CASE, FILE, FOLDER, KEY_FILE, ROLE
from fasr_video.commands.screen import copies_left
from fasr_video.console import count, megabytes, print_lines, readable_json
from fasr_video.custody.pictures import export_pictures
from fasr_video.custody.purge import (
    Copies,
    RetainedCase,
    Tombstone,
    is_purged,
    purge_all,
    purged_folders,
    remaining_copies,
    retained_cases,
    search_copies,
)
from fasr_video.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from fasr_video.custody.credentials import Signatory


@click.command("pictures")
@click.argument("case", type=CASE)
@click.argument("tracks", nargs=-1)
@click.option("--out", type=FOLDER, required=True, help="The folder to write the pictures to.")
@KEY_FILE
@click.option("--redact", is_flag=True, help="Pixelate every face except the track's own.")
@click.option(
    "--c2pa-cert",
    type=FILE,
    help="Sign a C2PA manifest with this certificate chain (PEM, signing certificate first).",
)
@click.option(
    "--c2pa-key", type=FILE, help="The private key (PEM) of the chain's first certificate."
)
def pictures_command(
    case: Path,
    tracks: tuple[str, ...],
    out: Path,
    redact: bool,
    *,
    c2pa_cert: Path | None,
    c2pa_key: Path | None,
) -> None:
    """Write the pictures of TRACKS of CASE, or of all tracks, as files that say where they come
    from.
    """
    signatory = _signatory(c2pa_cert, c2pa_key)
    with Case.open(case, read_only=True) as opened:
        written = export_pictures(opened, tracks, out, redact, signatory=signatory)
    print_lines(
        f"{out}: {count(len(written), 'picture')}, each with its metadata in a file beside it"
    )


def _signatory(chain: Path | None, key: Path | None) -> Signatory | None:
    if chain is None and key is None:
        return None
    if chain is None or key is None:
        raise UsageError(
            "--c2pa-cert and --c2pa-key",
            "a manifest needs both",
            "give the certificate chain and its key",
        )
    from fasr_video.custody.credentials import open_signatory

    return open_signatory(chain, key)


@click.command("purge")
@click.argument("cases", nargs=-1, required=True, type=CASE)
@click.option(
    "--now",
    "anyway",
    is_flag=True,
    help="Remove every case given, and every case in the folders given, even if its time is not "
    "over. Needs --why.",
)
@click.option(
    "--all", "whole_folders", is_flag=True, help="Let --now remove all cases in the folders given."
)
@click.option("--why", help="The reason, written into the tombstone. [default: its time is over]")
@click.option("--by", help="Who removes the cases. [default: your login name]")
@ROLE
@click.option(
    "--search",
    "folders",
    multiple=True,
    type=FOLDER,
    help="Search this folder for copies. Repeatable. [default: the folder around each case]",
)
@KEY_FILE
@click.option(
    "--dry-run",
    is_flag=True,
    help="Show what would be removed. This is also what happens without --yes.",
)
@click.option("--yes", is_flag=True, help="Remove the cases.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan, or the tombstones, as JSON.")
def purge_command(
    cases: tuple[Path, ...],
    anyway: bool,
    whole_folders: bool,
    why: str | None,
    *,
    by: str | None,
    role: str,
    folders: tuple[Path, ...],
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> int:
    """Remove the CASES whose time (case.retention_days) is over, and leave a tombstone as proof.

    CASES are cases, or folders that hold cases. Exit code 4: copies of their pictures or vectors
    remain elsewhere. Exit code 3: a case could not be opened or removed.
    """
    _check_options(dry_run, yes, anyway, whole_folders, why=why)
    role = as_role(role)
    at = datetime.now(UTC)
    all_cases = retained_cases(cases)
    purged = [f for f in cases if is_purged(f) and f not in {c.folder for c in all_cases}]
    chosen, problems = _choose(all_cases, at, anyway)
    _report(problems)
    if not yes:
        _show_plan(all_cases, chosen, at, as_json)
        if not as_json:
            _show_nothing_removed(purged, bool(all_cases), dry_run)
        return ExitCode.LOSSES if problems else ExitCode.DONE
    if anyway and not whole_folders and any(case.folder not in cases for case in chosen):
        _show_plan(all_cases, chosen, at, as_json)
        raise UsageError(
            "--now --yes",
            f"it would remove all {len(chosen)} cases of a folder",
            "add --all to remove them, or give cases by name; nothing was removed",
        )
    around = tuple(dict.fromkeys(case.folder.resolve().parent for case in chosen))
    search = search_copies(chosen, folders or around)
    why = why or "its time is over"
    try:
        results = list(purge_all(chosen, search, by or login_name(), why, role=role))
    finally:
        # No summary may show a removed case, nor one that a killed purge removed.
        not_written = rewrite_summaries(purged_folders(cases))
        _report(not_written)
    removed = {r.folder: r.tombstone for r in results if r.tombstone is not None}
    _report(result.problem for result in results if result.problem)
    left = remaining_copies(removed.values())
    if as_json:
        click.echo(readable_json([tombstone.as_json() for tombstone in removed.values()]))
    else:
        _show_kept(purged, [c for c in all_cases if c.folder in cases and c not in chosen], at)
        if all_cases or not purged:
            _show_removed(removed, len(all_cases), search.copies, left)
    if left:
        return ExitCode.INTEGRITY
    is_complete = not problems and not not_written and len(removed) == len(results)
    return ExitCode.DONE if is_complete else ExitCode.LOSSES


def _check_options(
    dry_run: bool, yes: bool, anyway: bool, whole_folders: bool, *, why: str | None
) -> None:
    if dry_run and yes:
        raise UsageError("--dry-run --yes", "one shows, the other removes", "give only one of them")
    if anyway and not why:
        raise UsageError("--now", "it needs a reason for the tombstone", "give --why TEXT")
    if whole_folders and not anyway:
        raise UsageError("--all", "it is for --now only", "add --now, or leave --all out")


def _choose(
    cases: Sequence[RetainedCase], at: datetime, anyway: bool
) -> tuple[list[RetainedCase], list[str]]:
    """Return the cases to remove, and the problems of the others.

    With `anyway`, neither the cases' time nor the clock matters.
    """
    readable = [case for case in cases if not case.problem]
    problems = [case.problem for case in cases if case.problem]
    if anyway:
        return readable, problems
    chosen = []
    for case in readable:
        clock_problem = case.clock_problem(at)
        if clock_problem:
            problems.append(clock_problem)
        elif case.has_expired(at):
            chosen.append(case)
    return chosen, problems


def _report(problems: Iterable[str]) -> None:
    for problem in problems:
        print_lines(f"fasr-video: {problem}", err=True)


def _show_removed(
    removed: Mapping[Path, Tombstone], among: int, search: Copies, left: Sequence[str]
) -> None:
    for folder, tombstone in removed.items():
        size = sum(file.size for file in tombstone.removed.values())
        files = count(len(tombstone.removed), "file")
        print_lines(f"{folder}: {files} removed, {megabytes(size)}")
    searched = f"{count(search.files, 'file')}, {megabytes(search.size)} searched for copies"
    print_lines(f"{len(removed)} of {count(among, 'case')} removed; {searched}")
    for line in copies_left(left):
        print_lines(line)
    for file in search.unread:
        print_lines(f"could not be searched: {file}")


def _show_plan(
    cases: Sequence[RetainedCase], chosen: Sequence[RetainedCase], at: datetime, as_json: bool
) -> None:
    if as_json:
        rows = []
        for case in cases:
            row = {"case": str(case.folder), "time": _time_of(case, at)}
            rows.append(row | {"would_be_removed": case in chosen})
        click.echo(json.dumps(rows, indent=2))
        return
    for case in cases:
        plan = "would be removed" if case in chosen else "would be kept"
        print_lines(f"{plan}: {case.folder}: {_time_of(case, at)}")


def _show_nothing_removed(purged: Sequence[Path], any_left: bool, dry_run: bool) -> None:
    for folder in purged:
        print_lines(f"{folder}: already purged")
    if dry_run:
        print_lines("dry run: nothing was removed")
    elif any_left:
        print_lines("nothing was removed: add --yes to remove")


def _show_kept(purged: Sequence[Path], kept: Iterable[RetainedCase], at: datetime) -> None:
    """Say why named cases were not removed. The problems of others are reported already."""
    for folder in purged:
        print_lines(f"{folder}: already purged")
    for case in kept:
        if not case.problem and not case.clock_problem(at):
            remedy = "to remove it now: --now --why TEXT"
            print_lines(f"kept: {case.folder}: {_time_of(case, at)}; {remedy}")


def _time_of(case: RetainedCase, at: datetime) -> str:
    if case.problem:
        return "it cannot be opened"
    if case.purge_begun:
        return "its purge was begun and not finished"
    if case.expires_at is None:
        return f"made {case.made_at[:10]}; it has no retention time"
    verb = "ended" if case.has_expired(at) else "ends"
    return f"made {case.made_at[:10]}; its retention {verb} {case.expires_at:%Y-%m-%d %H:%M} UTC"
