"""`fasr-video link`, `decide`, `undo` and `serve`: decisions of people about a case."""

from __future__ import annotations

import signal
from pathlib import Path

import click

from fasr_video.actors import login_name
from fasr_video.case.case import Case
from fasr_video.case.decisions import decide, is_same_reviewer, undo
from fasr_video.case.links import decide as decide_link
from fasr_video.case.tracks import finished_track, track_number
from fasr_video.commands.options import CASE, FILE, KEY_FILE, ROLE
from fasr_video.console import print_lines
from fasr_video.errors import UsageError
from fasr_video.review import serve


def _name(_: click.Context, __: click.Parameter, name: str | None) -> str | None:
    """Return the name of `--by`; raise where it is empty."""
    if name is not None and not name.strip():
        raise UsageError("--by", "it is empty", "give your name")
    return name


BY = click.option(
    "--by",
    callback=_name,
    help="The name of the person who decides. [default: your login name]",
)


@click.command("link")
@click.argument("case", type=CASE)
@click.argument("link", type=int)
@click.argument("decision", type=click.Choice(["accept", "refuse", "reopen"]))
@BY
@ROLE
def link_command(case: Path, link: int, decision: str, by: str | None, *, role: str) -> None:
    """Accept, refuse or reopen a proposed LINK between two tracks of CASE.

    The log keeps every decision.
    """
    states = {"accept": "accepted", "refuse": "refused", "reopen": "proposed"}
    with Case.open(case) as opened:
        decide_link(opened, link, states[decision], by or login_name(), role=role)
    print_lines(f"link {link}: {states[decision]}")


@click.command("decide")
@click.argument("case", type=CASE)
@click.argument("track")
@click.argument("verdict", type=click.Choice(["accepted", "rejected", "insufficient"]))
@click.option(
    "--subject",
    help="The candidate that the decision is about. [default: none, it is about the track]",
)
@click.option("--reason", required=True, help="The reason; the case keeps it with the decision.")
@BY
@ROLE
def decide_command(
    case: Path,
    track: str,
    verdict: str,
    subject: str | None,
    *,
    reason: str,
    by: str | None,
    role: str,
) -> None:
    """Record a reviewer's decision on TRACK (named as in `show`).

    accepted: the track shows the candidate of --subject. rejected: it does not; without --subject,
    it shows no candidate (whole list). insufficient: its pictures are not good enough to say.

    It takes the place of your earlier decision, which stays in the case.
    """
    with Case.open(case) as opened:
        number = track_number(opened, track)
        decision = decide(
            opened, number, verdict, reason, by=by or login_name(), subject=subject, role=role
        )
    print_lines(f"decision {decision.id}: {track} {verdict}")


@click.command("undo")
@click.argument("case", type=CASE)
@click.argument("decision", type=int)
@BY
@ROLE
def undo_command(case: Path, decision: int, by: str | None, role: str) -> None:
    """Undo a DECISION on a track. It stays in CASE, marked as undone."""
    by = by or login_name()
    with Case.open(case) as opened:
        undone = undo(opened, decision, by, role)
        track = finished_track(opened, undone.track).name
    about = f"{track} {undone.verdict} {undone.subject or ''}".strip()
    print_lines(f"decision {decision} ({about}, by {undone.by}): undone by {undone.undone_by}")
    if not is_same_reviewer(undone.by, by):
        print_lines(f"note: it was a decision of {undone.by}")


@click.command("serve")
@click.argument("cases", metavar="CASE...", nargs=-1, required=True, type=CASE)
@KEY_FILE
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    show_default=True,
    help="The port to listen on; 0 takes a free one.",
)
@click.option(
    "--sign-key",
    type=FILE,
    help="Sign signed-off reports with this private key, as `keygen` creates it.",
)
@click.option(
    "--hours",
    type=click.FloatRange(min=0, min_open=True),
    help="For how many hours the address opens the pages. [default: 12]",
)
def serve_command(
    cases: tuple[Path, ...], port: int, sign_key: Path | None, hours: float | None
) -> None:
    """Review cases, or all cases in folders, in a browser on this machine.

    The command prints the address to open. Ctrl-C ends it.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print_lines("starting …", err=True)
    serve(
        cases,
        port,
        lambda address: print_lines(f"open {address}", "Ctrl-C ends it"),
        hours,
        sign_key=sign_key,
    )
