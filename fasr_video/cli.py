"""The command line. Each command reads its arguments, calls one function of the library, and shows what came back."""

from __future__ import annotations

import errno
import json
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from fasr_video import __version__
from fasr_video.actors import login
from fasr_video.commands.archive import batch_command, search_command, watch_command
from fasr_video.commands.calibrate import calibrate_command
from fasr_video.commands.custody import COMMANDS as custody_commands
from fasr_video.commands.custody import FILE, KEY_FILE, ROLE
from fasr_video.commands.evaluate import eval_group
from fasr_video.commands.gallery import FACE, gallery_group
from fasr_video.commands.train import train_group
from fasr_video.configs import settings as configs
from fasr_video.console import cell, readable_json, say
from fasr_video.errors import ExitCode, FasrError, UsageError, exhausted
from fasr_video.weights import manifest

if TYPE_CHECKING:
    from fasr_video.pipeline.run import StageName

FOLDER = click.Path(path_type=Path, file_okay=False)
WEIGHTS = click.Path(path_type=Path, dir_okay=False)
GAVE_UP = {errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE}
"""Errors of the system that are about the machine; others are about a file."""
PLAIN_EVERY = 5.0  # seconds between progress lines when the output is no terminal


def main() -> None:
    """Run the command line: errors are one line, never a traceback."""
    # Before torch is loaded: its threads would wait by spinning, and two busy programs on one machine would all but
    # stop each other (measured: 21 s in place of 4.5 s for two runs side by side on two cores).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        code = cli(standalone_mode=False)
    except FasrError as error:
        say(f"fasr-video: {error}", err=True)
        code = error.exit_code
    except click.UsageError as error:
        error.show()
        code = ExitCode.USAGE
    except click.ClickException as error:
        say(f"fasr-video: {error.format_message()}", err=True)
        code = ExitCode.USAGE
    except (KeyboardInterrupt, click.Abort):
        say("fasr-video: stopped; the same command goes on where it was", err=True)
        code = ExitCode.STOPPED
    except sqlite3.DatabaseError as error:
        say(f"fasr-video: the case's database is damaged ({error}); restore it from a copy", err=True)
        code = ExitCode.INTEGRITY
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        say(f"fasr-video: {what}; change its permissions, or look after the disk that it is on", err=True)
        code = ExitCode.FAILED if error.errno in GAVE_UP else ExitCode.USAGE
    except Exception as error:
        reason = exhausted(error)
        if reason is None:
            raise
        say(f"fasr-video: {reason}; what was finished is safe: the same command goes on where it was", err=True)
        code = ExitCode.FAILED
    sys.exit(int(code or 0))


class Commands(click.Group):
    """`sr fit` is `fit`: who looks for it among what restores faces finds it there. A still named fit is `./fit`."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        return super().resolve_command(ctx, args[1:] if args[:2] == ["sr", "fit"] else args)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="fasr-video")
def cli() -> None:
    """Camera footage in; a case of face tracklets out.

    What it shows are leads for people to examine, never proof of who somebody is.
    """


@cli.command("run")
@click.argument("footage", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--gallery",
    type=click.Path(path_type=Path),
    help="Whom to search for: a gallery, a folder of photographs (one file, or one folder, a person) or a CSV.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="The case folder. [default: cases/NAME-HASH of the first file]"
)
@click.option(
    "--preset", help="Settings to start from: cpu, gpu or a YAML file. [default: cpu; with --stage, the case's]"
)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one setting, as detect.backend=haar."
)
@click.option("--every", type=int, help="Look at every Nth frame.")
@click.option("--fps", type=float, help="Look at no more than this many frames a second.")
@click.option("--start", metavar="TIME", help="Begin there: seconds or HH:MM:SS after the first frame.")
@click.option("--end", metavar="TIME", help="Stop there.")
@click.option(
    "--stage",
    type=click.Choice(["restore", "search", "link"]),
    help="Do this again in the finished case --out, and what depends on it; no footage is read.",
)
@click.option("--no-report", is_flag=True, help="Leave out the report that is written into the case at the end.")
@click.option("--camera", help="The camera's name, for one file; the case keeps it.")
@click.option("--clock", metavar="ISO8601", help="Wall time of the first frame, with its zone, for one file.")
@click.option(
    "--clock-uncertainty",
    type=float,
    metavar="SECONDS",
    help="How far --clock may be off. [default: 0]",
)
@click.option("--by", default="", help="Who runs it, for the log. [default: your login name]")
@ROLE
@KEY_FILE
@click.option("--json", "as_json", is_flag=True, help="Progress and result as JSON lines.")
def run_command(
    footage: tuple[Path, ...],
    gallery: Path | None,
    out: Path | None,
    preset: str | None,
    overrides: tuple[str, ...],
    every: int | None,
    fps: float | None,
    start: str | None,
    end: str | None,
    stage: StageName | None,
    no_report: bool,
    camera: str | None,
    clock: str | None,
    clock_uncertainty: float | None,
    by: str,
    role: str,
    as_json: bool,
) -> int:
    """Find the people in FOOTAGE: files, or folders of pictures.

    Stopped or killed, the same command goes on where it was. Ends with 3 when parts of the footage could not be
    read; the case counts them.
    """
    from fasr_video.case import recording
    from fasr_video.case.case import Case
    from fasr_video.commands import screen
    from fasr_video.pipeline.run import own_settings, redo, run
    from fasr_video.report.write import refresh

    if stage is None and not footage:
        raise click.UsageError("Missing argument 'FOOTAGE...'.")
    if stage is not None and (footage or out is None):
        raise UsageError(f"--stage {stage}", "it works on a finished case", "give --out CASE and no footage")
    if stage is not None and (camera is not None or clock is not None):
        raise UsageError(f"--stage {stage}", "it places no footage", "leave --camera and --clock out")
    if stage is not None and out is not None:
        Case.open(out, read_only=True).db.close()  # says it, where there is none
    sampling = {"every": every, "fps": fps, "start": _seconds("--start", start), "end": _seconds("--end", end)}
    overrides += tuple(f"sampling.{k}={v}" for k, v in sampling.items() if v is not None)
    told = recording.given(camera, clock, clock_uncertainty)
    if stage is None or out is None or preset is not None:
        chosen = configs.load(preset or "cpu", overrides)
    else:
        chosen = own_settings(out, stage, overrides)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = time.monotonic()
    with _progress(as_json) as listen:
        if stage is None or out is None:
            folder, worked = run(footage, out, chosen, gallery, listen, told, by=by, role=role)
        else:
            folder, worked = out, redo(out, stage, chosen, gallery, listen, by, role)
    report, failed = None, None
    try:
        report = None if no_report else refresh(folder)
    except FasrError as error:
        failed = error
    code = screen.summary(folder, worked, time.monotonic() - began, as_json, report)
    if failed is not None:
        raise failed
    return code


@cli.command("show")
@click.argument("case", type=FOLDER)
@click.option("--json", "as_json", is_flag=True, help="The whole case as JSON.")
def show_command(case: Path, as_json: bool) -> None:
    """Show what is in CASE: sources, losses, tracks, proposed links, gallery."""
    from fasr_video.case.case import Case
    from fasr_video.case.document import as_document
    from fasr_video.commands import screen

    with Case.open(case, read_only=True) as opened:
        document = as_document(opened)
        if as_json:
            click.echo(readable_json(document))
        else:
            screen.show(document)


@cli.command("export")
@click.argument("case", type=FOLDER)
@click.option("--format", "kind", type=click.Choice(["csv", "json"]), required=True, help="The form of the output.")
@click.option(
    "--rows", type=click.Choice(["tracks", "faces"]), default="tracks", show_default=True, help="CSV: a line for each."
)
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="File to write. [default: standard output]"
)
def export_command(case: Path, kind: str, rows: str, out: Path | None) -> None:
    """Write CASE as CSV (a line a track, or a line a face seen) or JSON."""
    from fasr_video.case import document as export
    from fasr_video.case.case import Case
    from fasr_video.sqlite import environment

    with Case.open(case, read_only=True) as opened:
        text = export.as_json(opened) if kind == "json" else export.as_csv(opened, rows)
    if out is None:
        click.echo(text, nl=False)
    else:
        with environment(out):
            out.write_text(text, encoding="utf-8")


@cli.command("report")
@click.argument("case", type=FOLDER)
@click.option("--out", type=FOLDER, help="Folder for it. [default: report in the case]")
@click.option(
    "--format",
    "formats",
    multiple=True,
    type=click.Choice(["html", "json", "csv", "pdf", "folder"]),
    help="What to write; repeat it for more. [default: html, json, csv]",
)
@click.option("--no-photos", is_flag=True, help="Leave out the photographs of candidates.")
@click.option("--redact", is_flag=True, help="Pixelate bystanders and the photographs of candidates; needs --out.")
@KEY_FILE
def report_command(case: Path, out: Path | None, formats: tuple[str, ...], no_photos: bool, redact: bool) -> None:
    """Write what CASE has to tell: pages, JSON, tables, PDF, or a folder of pictures to import elsewhere."""
    from fasr_video.report.write import USUAL, write_report

    folder = write_report(case, out, formats or USUAL, not no_photos, redact)
    say(f"{folder}: report written")


@cli.command("link")
@click.argument("case", type=FOLDER)
@click.argument("link", type=int)
@click.argument("decision", type=click.Choice(["accept", "refuse", "reopen"]))
@click.option("--by", default=None, help="Who decides. [default: your login name]")
@ROLE
def link_command(case: Path, link: int, decision: str, by: str | None, role: str) -> None:
    """Accept, refuse or reopen a proposed LINK between two tracks of CASE. The log keeps every decision."""
    from fasr_video.case.case import Case
    from fasr_video.case.links import decide

    states = {"accept": "accepted", "refuse": "refused", "reopen": "proposed"}
    with Case.open(case) as opened:
        decide(opened, link, states[decision], by or login(), role)
    say(f"link {link}: {states[decision]}")


@cli.command("decide")
@click.argument("case", type=FOLDER)
@click.argument("track")
@click.argument("verdict", type=click.Choice(["accepted", "rejected", "insufficient"]))
@click.option("--subject", help="The candidate that it is about; without one it is about the track.")
@click.option("--reason", required=True, help="Why: kept with it.")
@click.option("--by", required=True, help="Who decides.")
@ROLE
def decide_command(case: Path, track: str, verdict: str, subject: str | None, reason: str, by: str, role: str) -> None:
    """Record what a reviewer says of TRACK (as `show` names it). The same person's former decision is undone by it."""
    from fasr_video.case.case import Case
    from fasr_video.case.decisions import decide
    from fasr_video.case.document import track_number

    with Case.open(case) as opened:
        made = decide(opened, track_number(opened, track), verdict, reason, by, subject, role)
    say(f"decision {made.id}: {track} {verdict}")


@cli.command("undo")
@click.argument("case", type=FOLDER)
@click.argument("decision", type=int)
@click.option("--by", required=True, help="Who takes it back.")
@ROLE
def undo_command(case: Path, decision: int, by: str, role: str) -> None:
    """Take a DECISION on a track back. It stays in CASE, marked as undone."""
    from fasr_video.case.case import Case
    from fasr_video.case.decisions import undo

    with Case.open(case) as opened:
        undo(opened, decision, by, role)
    say(f"decision {decision}: undone")


@cli.command("serve")
@click.argument("cases", metavar="CASE...", nargs=-1, required=True, type=FOLDER)
@KEY_FILE
@click.option("--port", type=click.IntRange(0, 65535), default=0, show_default=True, help="0 takes a free one.")
@click.option("--sign-key", type=FILE, help="Private key, as `keygen` makes it: what is signed off is signed with it.")
@click.option(
    "--hours", type=click.FloatRange(min=0, min_open=True), help="How long the address opens the pages. [default: 12]"
)
def serve_command(cases: tuple[Path, ...], port: int, sign_key: Path | None, hours: float | None) -> None:
    """Review cases, or all in folders of them, in a browser on this machine, by the address that it prints.

    Ctrl-C ends it.
    """
    from fasr_video.review import serve

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    serve(cases, port, lambda address: say(f"open {address}", "Ctrl-C ends it"), hours, sign_key)


@cli.command("verify")
@click.argument("case", type=FOLDER)
@click.option(
    "--rerun",
    "count",
    type=click.IntRange(min=1),
    help="Probe and restore so many tracks again, always the same ones, and compare.",
)
@click.option("--head", metavar="HASH", help="An end of the log, noted elsewhere: the log has to hold it.")
@KEY_FILE
@click.option("--json", "as_json", is_flag=True, help="The checks as JSON.")
def verify_command(case: Path, count: int | None, head: str | None, as_json: bool) -> int:
    """Check that CASE is what the run left: footage, pictures, findings and log against their hashes."""
    from fasr_video.case.case import Case
    from fasr_video.case.verify import verify
    from fasr_video.custody.rerun import rerun

    with Case.open(case, read_only=True) as opened:
        checks = verify(opened, head)
        if count is not None:
            checks.append(rerun(opened, count))
    bad = any(c.problems for c in checks)
    if as_json:
        rows = [{"check": c.what, **{k: v for k, v in asdict(c).items() if k != "what"}} for c in checks]
        click.echo(json.dumps({"intact": not bad, "checks": rows}, indent=2))
    else:
        for c in checks:
            say(f"{'FAILED' if c.problems else 'intact'}  {c.what} ({c.checked} checked)")
            for line in c.problems:
                say(f"        {line}")
            for line in c.unchecked:
                say(f"        not checked: {line}")
            for line in c.notes:
                say(f"        {line}")
    return ExitCode.INTEGRITY if bad else ExitCode.DONE


@cli.command("sr")
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--aux", type=FOLDER, help="Folder of other faces of the same person: what they tell is merged.")
@click.option("--method", default="fasr++", show_default=True, help="How: see docs/cli.md for the list.")
@click.option("--samples", type=int, help="Pictures to draw of each face. [default: the method's own]")
@click.option("--seed", default=0, show_default=True, help="The same seed draws the same pictures.")
@click.option("--sampler", help="KIND-STEPS, as dpmpp-10 or pc-2000. [default: the method's own]")
@click.option("--feature-only", is_flag=True, help="Draw from the merged feature alone, without the LR face (y = 0).")
@click.option(
    "--align", is_flag=True, help="Find the face in each picture first, in place of taking it as a face crop."
)
@FACE
@click.option("--model", type=WEIGHTS, help="SR network: ours, or a published checkpoint. [default: builtin]")
@click.option("--embedder", type=WEIGHTS, help="Weights of the builtin embedder's kind. [default: builtin]")
@click.option("--combiner", type=WEIGHTS, help="Feature Combiner. [default: builtin]")
@click.option("--identity", type=WEIGHTS, help="What `fasr-video fit` wrote of the person, for --method idfsr.")
@click.option(
    "--attr",
    multiple=True,
    metavar="NAME=yes|no[:CONFIDENCE]",
    help="Draw towards it: male, glasses, beard; or read, for what a classifier reads. Repeat it for more.",
)
@click.option("--guidance", type=float, metavar="H", help="How hard attributes draw. [default: 50]")
@click.option(
    "--classifier",
    multiple=True,
    metavar="FILE",
    help="Of attributes: ours, or NAME=FILE for each published one. [default: builtin]",
)
@click.option("--out", type=FOLDER, default=Path("sr"), show_default=True, help="Folder for the pictures.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1 …")
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Of the network.",
)
@click.option("--json", "as_json", is_flag=True, help="A JSON line for each picture.")
def sr_command(
    images: tuple[Path, ...], aux: Path | None, align: bool, out: Path, as_json: bool, **options: Any
) -> int:
    """Super-resolve face stills. What it draws is a synthetic reconstruction: a lead, never proof."""
    from fasr_video.pipeline import stills

    job = stills.Job(images, aux, align, out, **options)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    failed = 0
    with _sr_progress(len(images), as_json) as tick:
        for done in stills.run(job):
            failed += done.problem is not None
            tick(done)
    return ExitCode.LOSSES if failed else ExitCode.DONE


@contextmanager
def _sr_progress(total: int, as_json: bool) -> Iterator[Any]:
    """A function that shows one finished still: JSON, or a line, with a bar below in a terminal."""
    console = Console(stderr=True)
    with Progress(console=console, disable=as_json or not console.is_terminal, transient=True) as bar:
        task = bar.add_task("super-resolving", total=total)

        def tick(done: Any) -> None:
            bar.advance(task)
            if as_json:
                click.echo(json.dumps(done.as_json()))
            elif done.problem is not None:
                say(f"fasr-video: {done.problem}", err=True)
            else:
                for warning in done.warnings:
                    say(f"{done.path}: warning: {warning}", err=True)
                say(f"{done.path}: {done.state} {done.sheet}")

        yield tick


@cli.command("fit")
@click.option("--refs", required=True, type=FOLDER, help="Folder with 2 to 10 photographs of one person's face.")
@click.option("--model", type=WEIGHTS, help="Weights that `train idfsr` wrote. [default: builtin]")
@click.option("--out", required=True, type=WEIGHTS, help="The identity file to write, as person.id.")
@click.option("--embedder", type=WEIGHTS, help="Weights of the builtin embedder's kind. [default: builtin]")
@click.option("--align", is_flag=True, help="Find the face in each photograph first.")
@click.option("--steps", default=200, type=click.IntRange(min=1), show_default=True, help="Of fitting.")
@click.option("--seed", default=0, type=click.IntRange(0, 2**31), show_default=True, help="Of everything random.")
@click.option("--force", is_flag=True, help="Fit although the photographs seem to be of different people.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1 …")
def fit_command(**options: Any) -> int:
    """Fit one vector of IDFSR to a person's photographs, for `fasr-video sr --method idfsr --identity`."""
    from fasr_video.pipeline.identity import Job, fit_person

    job = Job(**options)
    console = Console(stderr=True)
    try:
        with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
            task = bar.add_task("fitting", total=job.steps)
            fitted = fit_person(job, lambda p: bar.update(task, completed=p.step))
    except KeyboardInterrupt:
        say("fasr-video: stopped, nothing was written; the same command begins again", err=True)
        return ExitCode.STOPPED
    for warning in fitted.warnings:
        say(f"{job.refs}: warning: {warning}", err=True)
    a = fitted.about
    say(f"{job.out}: {len(a.references)} references, loss {a.loss_before:.4f} before, {a.loss_after:.4f} after")
    return ExitCode.DONE


@cli.command("models")
@click.option("--json", "as_json", is_flag=True, help="The manifest's entries and their states as JSON.")
def models_command(as_json: bool) -> int:
    """Show the models in the box: contract, data, licence, hash, and whether each file is what it should be.

    Ends with 4 when one is missing or altered.
    """
    states = {entry: entry.state for entry in manifest.read_manifest().values()}
    if as_json:
        click.echo(json.dumps([{**asdict(e), "state": state} for e, state in states.items()], indent=2))
    else:
        Console().print(_models_table(states), highlight=False)
    if all(state is manifest.State.OK for state in states.values()):
        return ExitCode.DONE
    say(f"fasr-video: the box is not whole; {manifest.REMEDY}", err=True)
    return ExitCode.INTEGRITY


def _models_table(states: dict[manifest.Entry, manifest.State]) -> Table:
    table = Table(box=None, padding=(0, 2, 1, 0))
    for name in ("model", "contract"):
        table.add_column(name)
    for name in ("MB", "sha256", "state"):
        table.add_column(name, no_wrap=True)
    for e, state in states.items():
        size = f"{e.path.stat().st_size / 1e6:.1f}" if e.path.is_file() else "–"
        colour = "green" if state is manifest.State.OK else "red"
        told = escape(f"{e.contract}\ndata: {e.data}\nlicence: {e.licence}")
        table.add_row(escape(f"{e.file}\n{e.what}"), told, size, e.sha256[:12], f"[{colour}]{state}[/]")
    return table


@cli.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="The findings as JSON.")
def doctor_command(as_json: bool) -> None:
    """Show what is installed, which device would be used, and which models are at hand."""
    from fasr_video.commands.doctor import examine

    findings = examine()
    if as_json:
        click.echo(json.dumps([{"what": f.what, "state": f.state, "remedy": f.remedy} for f in findings], indent=2))
        return
    table = Table(box=None, show_header=False)
    for f in findings:
        table.add_row(f.what, cell(f.state), f"[yellow]{cell(f.remedy)}[/]")
    Console().print(table)


def _seconds(option: str, text: str | None) -> float | None:
    """12.5, 1:30 or 01:02:03.250 as seconds."""
    if text is None:
        return None
    try:
        parts = [Fraction(p) for p in text.split(":")]
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise UsageError(f"{option} {text}", "not a time", "give seconds or HH:MM:SS") from error
    if len(parts) > 3 or any(p < 0 for p in parts):
        raise UsageError(f"{option} {text}", "not a time", "give seconds or HH:MM:SS")
    seconds = sum(p * 60**i for i, p in enumerate(reversed(parts)))
    if seconds > 10**9:
        raise UsageError(f"{option} {text}", "longer than any footage", "give seconds or HH:MM:SS")
    return float(seconds)


@contextmanager
def _progress(as_json: bool) -> Iterator[Any]:
    """A function that shows progress: a bar in a terminal, a line now and then elsewhere, or JSON lines."""
    from fasr_video.pipeline.run import Stage

    console = Console(stderr=True)
    if as_json or not console.is_terminal:
        yield _PlainProgress(as_json)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[state]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        tasks: dict[Path | str, tuple[TaskID, float]] = {}

        def listen(p: Any) -> None:
            if isinstance(p, Stage):
                if p.what not in tasks:
                    tasks[p.what] = bar.add_task(p.what, total=p.total, state=""), time.monotonic()
                bar.update(tasks[p.what][0], total=p.total, completed=p.done, state=f"{p.done} of {p.total}")
                return
            if p.source not in tasks:
                tasks[p.source] = bar.add_task(cell(p.source.name), total=None, state=""), time.monotonic()
            task, began = tasks[p.source]
            rate = p.frames / max(time.monotonic() - began, 1e-9)
            state = f"{rate:.0f} frames/s · {p.faces} faces · {p.tracks} tracks"
            bar.update(task, total=None if p.share is None else 1.0, completed=p.share or 0.0, state=state)

        yield listen


class _PlainProgress:
    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._last = time.monotonic()
        self._began: dict[Path, float] = {}

    def __call__(self, p: Any) -> None:
        from fasr_video.pipeline.run import Stage

        now = time.monotonic()
        if isinstance(p, Stage):
            if now - self._last >= PLAIN_EVERY:
                self._last = now
                line = {"event": "progress", "stage": p.what, "done": p.done, "total": p.total}
                text = f"{p.what}: {p.done} of {p.total}"
                say(json.dumps(line) if self._as_json else text, err=not self._as_json)
            return
        spent = now - self._began.setdefault(p.source, now)
        if now - self._last < PLAIN_EVERY or not spent:
            return
        self._last = now
        rate = p.frames / spent
        left = None if not p.share else spent * (1 - p.share) / p.share
        if self._as_json:
            line = {"event": "progress", "source": str(p.source), "frames": p.frames, "share": p.share}
            line |= {"faces": p.faces, "tracks": p.tracks, "frames_per_second": rate, "seconds_left": left}
            click.echo(json.dumps(line))
        else:
            done = "" if p.share is None else f", {p.share:.0%}"
            rest = "" if left is None else f", {left:.0f} s left"
            text = f"{p.source.name}: {p.frames} frames ({rate:.1f}/s{done}), {p.faces} faces, {p.tracks} tracks{rest}"
            say(text, err=True)


cli.add_command(batch_command)
cli.add_command(watch_command)
cli.add_command(search_command)
cli.add_command(gallery_group)
cli.add_command(train_group)
cli.add_command(calibrate_command)
cli.add_command(eval_group)
for command in custody_commands:
    cli.add_command(command)
