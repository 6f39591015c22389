"""`fasr-video pictures` and `purge`: each calls one function, and shows what came back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fasr_video.actors import login_name
from fasr_video.actors import role as as_role
from fasr_video.archive.summary import rewrite
from fasr_video.case.case import Case
from fasr_video.commands.options import FILE, FOLDER, KEY_FILE, ROLE
from fasr_video.console import readable_json, say
from fasr_video.custody.pictures import export_pictures
from fasr_video.custody.purge import (
    Due,
    Ended,
    Search,
    cases_in,
    copies,
    left,
    purge_all,
    tombstones_in,
)
from fasr_video.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from fasr_video.custody.credentials import Signatory


@click.command("pictures")
@click.argument("case", type=FOLDER)
@click.argument("tracks", nargs=-1)
@click.option("--out", type=FOLDER, required=True, help="Folder for the pictures.")
@KEY_FILE
@click.option("--redact", is_flag=True, help="Pixelate every face but the track's own.")
@click.option(
    "--c2pa-cert",
    type=FILE,
    help="Certificate chain (PEM, the signing one first): signs a C2PA manifest.",
)
@click.option("--c2pa-key", type=FILE, help="Private key (PEM) of the chain's first certificate.")
def pictures_command(
    case: Path,
    tracks: tuple[str, ...],
    out: Path,
    redact: bool,
    c2pa_cert: Path | None,
    c2pa_key: Path | None,
) -> None:
    """Write the pictures of TRACKS of CASE, or of all, as files that say where they are from."""
    signatory = _signatory(c2pa_cert, c2pa_key)
    with Case.open(case, read_only=True) as opened:
        written = export_pictures(opened, tracks, out, redact, signatory)
    say(f"{out}: {len(written)} pictures, each with its facts beside it")


def _signatory(chain: Path | None, key: Path | None) -> Signatory | None:
    if chain is None and key is None:
        return None
    if chain is None or key is None:
        raise UsageError(
            "--c2pa-cert and --c2pa-key",
            "a manifest needs both",
            "give the certificate and its key",
        )
    from fasr_video.custody.credentials import open_signatory

    return open_signatory(chain, key)


@click.command("purge")
@click.argument("cases", nargs=-1, required=True, type=FOLDER)
@click.option(
    "--now",
    "anyway",
    is_flag=True,
    help="Remove the named cases although their time is not over. Needs --why.",
)
@click.option("--why", help="The reason, for the tombstone. [default: its time is over]")
@click.option("--by", help="Who removes it. [default: your login name]")
@ROLE
@click.option(
    "--search",
    "places",
    multiple=True,
    type=FOLDER,
    help="Look there for copies. [default: where each case lies]",
)
@KEY_FILE
@click.option(
    "--dry-run",
    is_flag=True,
    help="Show what would be removed. That is what happens without --yes, too.",
)
@click.option("--yes", is_flag=True, help="Remove it.")
@click.option("--json", "as_json", is_flag=True, help="The plan, or the tombstones, as JSON.")
def purge_command(
    cases: tuple[Path, ...],
    anyway: bool,
    why: str | None,
    by: str | None,
    role: str,
    places: tuple[Path, ...],
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> int:
    """Remove those CASES whose time (case.retention_days) is over, and leave a tombstone that proves it.

    CASES are cases, or folders that hold some. Ends with 4 if copies of their pictures or vectors are left elsewhere,
    with 3 if a case could not be opened or removed.
    """
    if dry_run and yes:
        raise UsageError("--dry-run --yes", "one shows, the other removes", "give one of them")
    role = as_role(role)
    if anyway and not why:
        raise UsageError("--now", "nobody will know why these cases are gone", "give --why TEXT")
    at = datetime.now(UTC)
    found = cases_in(cases)
    doubts = (
        {}
        if anyway
        else {d.folder: doubt for d in found if not d.problem and (doubt := d.doubt(at))}
    )
    problems = [*(d.problem for d in found if d.problem), *doubts.values()]
    _tell(problems)
    chosen = [
        d for d in found if not d.problem and d.folder not in doubts and (anyway or d.over(at))
    ]
    if not yes:
        _show_plan(found, chosen, at, as_json)
        return ExitCode.LOSSES if problems else ExitCode.DONE
    search = copies(
        chosen, places or tuple(dict.fromkeys(d.folder.resolve().parent for d in chosen))
    )
    try:
        ended = list(purge_all(chosen, search, by or login_name(), why or "its time is over", role))
    finally:  # also of cases that a purge that was killed removed: a summary's faces must not outlive them
        stale = rewrite(tombstones_in(cases))
        _tell(stale)
    gone = [e for e in ended if not e.problem]
    stay = [e.problem for e in ended if e.problem]
    _tell(stay)
    copied = left(e.told for e in gone)
    if as_json:
        click.echo(readable_json([e.told for e in gone]))
    else:
        _show_removed(gone, len(found), search, copied)
    if copied:
        return ExitCode.INTEGRITY
    return ExitCode.LOSSES if problems or stay or stale else ExitCode.DONE


def _tell(problems: Iterable[str]) -> None:
    for problem in problems:
        say(f"fasr-video: {problem}", err=True)


def _show_removed(gone: Sequence[Ended], among: int, search: Search, copied: Sequence[str]) -> None:
    for ended in gone:
        size = sum(file.get("size", 0) for file in ended.told["removed"].values())
        say(f"{ended.folder}: {len(ended.told['removed'])} files removed, {size} bytes")
    searched = f"{search.files} files, {search.size} bytes searched for copies"
    say(f"{len(gone)} of {among} cases removed; {searched}")
    for what, files in (("copies are left in", copied), ("could not be searched:", search.unread)):
        for file in files:
            say(f"{what} {file}")


def _show_plan(found: Sequence[Due], chosen: Sequence[Due], at: datetime, as_json: bool) -> None:
    if as_json:
        rows = [
            {"case": str(d.folder), "time": _time_of(d, at), "would_be_removed": d in chosen}
            for d in found
        ]
        click.echo(json.dumps(rows, indent=2))
        return
    for due in found:
        say(
            f"{'would be removed' if due in chosen else 'stays'}  {due.folder}: {_time_of(due, at)}"
        )
    say("nothing was removed: that takes --yes")


def _time_of(due: Due, at: datetime) -> str:
    if due.problem:
        return "it cannot be opened"
    if due.begun:
        return "its purge was begun"
    if due.until is None:
        return f"made {due.made_at[:10]}, no end was set"
    return f"made {due.made_at[:10]}, its time {'ended' if due.over(at) else 'ends'} {due.until:%Y-%m-%d %H:%M} UTC"
