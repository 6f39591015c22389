"""`fasr-video run`: reads its arguments, runs or does a stage again, and shows how far it is."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from fasr_video.case import recording
from fasr_video.case.case import Case
from fasr_video.commands import screen
from fasr_video.commands.options import KEY_FILE, ROLE
from fasr_video.configs import settings as configs
from fasr_video.console import cell, say
from fasr_video.errors import FasrError, UsageError
from fasr_video.pipeline.run import Stage, StageName, own_settings, redo, run
from fasr_video.report.write import refresh

PLAIN_EVERY = 5.0  # seconds between progress lines when the output is no terminal


@click.command("run")
@click.argument("footage", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--gallery",
    type=click.Path(path_type=Path),
    help="Whom to search for: a gallery, a folder of photographs (one file, or one folder, a person) or a CSV.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="The case folder. [default: cases/NAME-HASH of the first file]",
)
@click.option(
    "--preset",
    help="Settings to start from: cpu, gpu or a YAML file. [default: cpu; with --stage, the case's]",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change one setting, as detect.backend=haar.",
)
@click.option("--every", type=int, help="Look at every Nth frame.")
@click.option("--fps", type=float, help="Look at no more than this many frames a second.")
@click.option(
    "--start", metavar="TIME", help="Begin there: seconds or HH:MM:SS after the first frame."
)
@click.option("--end", metavar="TIME", help="Stop there.")
@click.option(
    "--stage",
    type=click.Choice(["restore", "search", "link"]),
    help="Do this again in the finished case --out, and what depends on it; no footage is read.",
)
@click.option(
    "--no-report",
    is_flag=True,
    help="Leave out the report that is written into the case at the end.",
)
@click.option("--camera", help="The camera's name, for one file; the case keeps it.")
@click.option(
    "--clock", metavar="ISO8601", help="Wall time of the first frame, with its zone, for one file."
)
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
    if stage is None and not footage:
        raise click.UsageError("Missing argument 'FOOTAGE...'.")
    if stage is not None and (footage or out is None):
        raise UsageError(
            f"--stage {stage}", "it works on a finished case", "give --out CASE and no footage"
        )
    if stage is not None and (camera is not None or clock is not None):
        raise UsageError(
            f"--stage {stage}", "it places no footage", "leave --camera and --clock out"
        )
    if stage is not None and out is not None:
        with Case.open(out, read_only=True):  # says it, where there is none
            pass
    sampling = {
        "every": every,
        "fps": fps,
        "start": _seconds("--start", start),
        "end": _seconds("--end", end),
    }
    overrides += tuple(f"sampling.{k}={v}" for k, v in sampling.items() if v is not None)
    told = recording.from_options(camera, clock, clock_uncertainty)
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
                bar.update(
                    tasks[p.what][0],
                    total=p.total,
                    completed=p.done,
                    state=f"{p.done} of {p.total}",
                )
                return
            if p.source not in tasks:
                tasks[p.source] = (
                    bar.add_task(cell(p.source.name), total=None, state=""),
                    time.monotonic(),
                )
            task, began = tasks[p.source]
            rate = p.frames / max(time.monotonic() - began, 1e-9)
            state = f"{rate:.0f} frames/s · {p.faces} faces · {p.tracks} tracks"
            bar.update(
                task, total=None if p.share is None else 1.0, completed=p.share or 0.0, state=state
            )

        yield listen


class _PlainProgress:
    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._last = time.monotonic()
        self._began: dict[Path, float] = {}

    def __call__(self, p: Any) -> None:
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
            line = {
                "event": "progress",
                "source": str(p.source),
                "frames": p.frames,
                "share": p.share,
            }
            line |= {
                "faces": p.faces,
                "tracks": p.tracks,
                "frames_per_second": rate,
                "seconds_left": left,
            }
            click.echo(json.dumps(line))
        else:
            done = "" if p.share is None else f", {p.share:.0%}"
            rest = "" if left is None else f", {left:.0f} s left"
            text = f"{p.source.name}: {p.frames} frames ({rate:.1f}/s{done}), {p.faces} faces, {p.tracks} tracks{rest}"
            say(text, err=True)
