"""Commands of custody: each reads its arguments, calls one function, and shows what came back."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from fasr_video.actors import VARIABLE as ROLE_VARIABLE
from fasr_video.actors import login
from fasr_video.actors import role as as_role
from fasr_video.console import cell, readable_json, say
from fasr_video.encryption import VARIABLE, new_key, read_key
from fasr_video.encryption import fingerprint as key_fingerprint
from fasr_video.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from fasr_video.custody.credentials import Signatory
    from fasr_video.custody.purge import Due, Ended, Search

FILE = click.Path(path_type=Path, dir_okay=False)
ROLE = click.option(
    "--role", envvar=ROLE_VARIABLE, default="", help=f"As what: examiner, reviewer, … [default: {ROLE_VARIABLE}]"
)
FOLDER = click.Path(path_type=Path, file_okay=False)


def _take_key(context: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Into the environment while the command runs, where processes that it starts find it too."""
    if path is not None:
        before = os.environ.get(VARIABLE, "")
        context.call_on_close(lambda: os.environ.update({VARIABLE: before}))
        os.environ[VARIABLE] = str(path.absolute())


KEY_FILE = click.option(
    "--key-file",
    type=FILE,
    expose_value=False,
    callback=_take_key,
    help=f"Key of an encrypted case. [default: what {VARIABLE} names]",
)
"""For every command that reads or writes pictures or vectors."""


@click.command("pictures")
@click.argument("case", type=FOLDER)
@click.argument("tracks", nargs=-1)
@click.option("--out", type=FOLDER, required=True, help="Folder for the pictures.")
@KEY_FILE
@click.option("--redact", is_flag=True, help="Pixelate every face but the track's own.")
@click.option("--c2pa-cert", type=FILE, help="Certificate chain (PEM, the signing one first): signs a C2PA manifest.")
@click.option("--c2pa-key", type=FILE, help="Private key (PEM) of the chain's first certificate.")
def pictures_command(
    case: Path, tracks: tuple[str, ...], out: Path, redact: bool, c2pa_cert: Path | None, c2pa_key: Path | None
) -> None:
    """Write the pictures of TRACKS of CASE, or of all, as files that say where they are from."""
    from fasr_video.case.case import Case
    from fasr_video.custody.pictures import export_pictures

    signatory = _signatory(c2pa_cert, c2pa_key)
    with Case.open(case, read_only=True) as opened:
        written = export_pictures(opened, tracks, out, redact, signatory)
    say(f"{out}: {len(written)} pictures, each with its facts beside it")


def _signatory(chain: Path | None, key: Path | None) -> Signatory | None:
    if chain is None and key is None:
        return None
    if chain is None or key is None:
        raise UsageError("--c2pa-cert and --c2pa-key", "a manifest needs both", "give the certificate and its key")
    from fasr_video.custody.credentials import open_signatory

    return open_signatory(chain, key)


@click.command("keygen")
@click.argument("file", type=FILE)
@click.option(
    "--for",
    "purpose",
    type=click.Choice(["signing", "encryption"]),
    default="signing",
    show_default=True,
    help="A pair to sign exports with, or a key to encrypt cases with.",
)
def keygen_command(file: Path, purpose: str) -> None:
    """Make a pair of Ed25519 keys, FILE to sign with and FILE.pub for those who check; or a key for cases."""
    from fasr_video.custody.keys import make_signing_keys, write_secret

    if purpose == "encryption":
        write_secret(file, new_key())
        say(f"{file}: keep it to yourself, with a copy: without it nobody can read what it encrypts")
        say(f"fingerprint {key_fingerprint(read_key(file))}")
        return
    public, fingerprint = make_signing_keys(file)
    say(f"{file}: keep it to yourself; hand out {public}")
    say(f"fingerprint {fingerprint}")


@click.command("sign")
@click.argument("target", type=click.Path(path_type=Path), metavar="FILE_OR_FOLDER")
@click.option("--key", type=FILE, required=True, help="Private Ed25519 key, as `keygen` makes it.")
@click.option("--by", help="Who signs, for the manifest. [default: your login name]")
@ROLE
def sign_command(target: Path, key: Path, by: str | None, role: str) -> None:
    """Sign an export: a manifest of SHA-256 and its signature are written beside FILE_OR_FOLDER."""
    from fasr_video.custody.signing import sign

    signed = sign(target, key, by or login(), role)
    say(f"{signed.manifest}: {signed.files} files signed by {signed.by} with key {signed.fingerprint}")


@click.command("check-signature")
@click.argument("target", type=click.Path(path_type=Path), metavar="FILE_OR_FOLDER")
@click.option("--key", type=FILE, required=True, help="Public key of the one who signed, from a source that you trust.")
def check_signature_command(target: Path, key: Path) -> None:
    """Check that FILE_OR_FOLDER is what was signed with that key: no file altered, missing or added; 4 if it is not."""
    from fasr_video.custody.signing import check_signature

    signed = check_signature(target, key)
    told = f"as signed at {signed.at} by {signed.by} with key {signed.fingerprint}"
    say(f"intact  {target}: {signed.files} files {told}")


@click.command("purge")
@click.argument("cases", nargs=-1, required=True, type=FOLDER)
@click.option(
    "--now", "anyway", is_flag=True, help="Remove the named cases although their time is not over. Needs --why."
)
@click.option("--why", help="The reason, for the tombstone. [default: its time is over]")
@click.option("--by", help="Who removes it. [default: your login name]")
@ROLE
@click.option(
    "--search", "places", multiple=True, type=FOLDER, help="Look there for copies. [default: where each case lies]"
)
@KEY_FILE
@click.option("--dry-run", is_flag=True, help="Show what would be removed. That is what happens without --yes, too.")
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
    from fasr_video.archive.summary import rewrite
    from fasr_video.custody.purge import cases_in, copies, left, purge_all, tombstones_in

    if dry_run and yes:
        raise UsageError("--dry-run --yes", "one shows, the other removes", "give one of them")
    role = as_role(role)
    if anyway and not why:
        raise UsageError("--now", "nobody will know why these cases are gone", "give --why TEXT")
    at = datetime.now(UTC)
    found = cases_in(cases)
    doubts = {} if anyway else {d.folder: doubt for d in found if not d.problem and (doubt := d.doubt(at))}
    problems = [*(d.problem for d in found if d.problem), *doubts.values()]
    _tell(problems)
    chosen = [d for d in found if not d.problem and d.folder not in doubts and (anyway or d.over(at))]
    if not yes:
        _show_plan(found, chosen, at, as_json)
        return ExitCode.LOSSES if problems else ExitCode.DONE
    search = copies(chosen, places or tuple(dict.fromkeys(d.folder.resolve().parent for d in chosen)))
    try:
        ended = list(purge_all(chosen, search, by or login(), why or "its time is over", role))
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
        rows = [{"case": str(d.folder), "time": _time_of(d, at), "would_be_removed": d in chosen} for d in found]
        click.echo(json.dumps(rows, indent=2))
        return
    for due in found:
        say(f"{'would be removed' if due in chosen else 'stays'}  {due.folder}: {_time_of(due, at)}")
    say("nothing was removed: that takes --yes")


def _time_of(due: Due, at: datetime) -> str:
    if due.problem:
        return "it cannot be opened"
    if due.begun:
        return "its purge was begun"
    if due.until is None:
        return f"made {due.made_at[:10]}, no end was set"
    return f"made {due.made_at[:10]}, its time {'ended' if due.over(at) else 'ends'} {due.until:%Y-%m-%d %H:%M} UTC"


@click.command("licences")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def licences_command(as_json: bool) -> None:
    """Show the licences of fasr-video, of the packages that it needs as they are installed here, and of its weights."""
    from fasr_video.custody.licences import packages, weights

    code, models = packages(), weights()
    if as_json:
        rows = {"packages": [asdict(row) for row in code], "weights": [asdict(row) for row in models]}
        click.echo(readable_json(rows))
        return
    for title, rows_of in (("package", code), ("weights", models)):
        table = Table(
            title, "version" if rows_of is code else "sha256", "licence", "for", box=None, padding=(0, 2, 0, 0)
        )
        for row in rows_of:
            table.add_row(*(cell(value) for value in astuple(row)))
        Console().print(table, highlight=False)


COMMANDS = (pictures_command, keygen_command, sign_command, check_signature_command, purge_command, licences_command)
