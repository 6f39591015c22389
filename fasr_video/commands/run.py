"""`fasr-video run`: read the arguments, run or repeat a stage, and show the progress."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar

from fasr_video.case import recording
from fasr_video.case.case import Case
from fasr_video.commands import screen
from fasr_video.commands.options import KEY_FILE, ROLE
from fasr_video.configs import settings as configs
from fasr_video.configs.settings import Settings
from fasr_video.console import count, print_lines, table_cell
from fasr_video.errors import FasrError, UsageError
from fasr_video.pipeline.run import (
    Listener,
    Progress,
    Stage,
    StageName,
    own_settings,
    redo,
    run,
)
from fasr_video.report.write import refresh

PLAIN_EVERY = 5.0  # seconds between progress lines when the output is no terminal


@click.command("run")
@click.argument("footage", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--gallery",
    type=click.Path(path_type=Path),
    help="Whom to search for: a gallery, a folder of photographs (one file or folder for each "
    "person) or a CSV.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="The case folder. [default: cases/NAME-HASH of the first file]",
)
@click.option(
    "--preset",
    help="Settings to start from: cpu, gpu or a YAML file. "
    "[default: cpu; with --stage, those of the case]",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change one setting, for example detect.backend=haar.",
)
@click.option("--every", type=int, help="Use every Nth frame.")
@click.option("--fps", type=float, help="Use at most this many frames a second.")
@click.option(
    "--start", metavar="TIME", help="Begin at this time after the first frame: seconds or HH:MM:SS."
)
@click.option("--end", metavar="TIME", help="Stop at this time.")
@click.option(
    "--stage",
    type=click.Choice(["restore", "search", "link"]),
    help="Repeat this stage of the finished case --out, and what depends on it, without footage.",
)
@click.option(
    "--no-report",
    is_flag=True,
    help="Do not write the report into the case at the end.",
)
@click.option("--camera", help="Name of the camera, stored in the case; for one file only.")
@click.option(
    "--clock",
    metavar="ISO8601",
    help="Wall time of the first frame, with its zone; for one file only.",
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
@click.option("--json", "as_json", is_flag=True, help="Print progress and result as JSON lines.")
def run_command(
    footage: tuple[Path, ...],
    gallery: Path | None,
    out: Path | None,
    preset: str | None,
    *,
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
    """Find the people in FOOTAGE: video files, or folders of numbered pictures (one folder is one
    video).

    If it is stopped or killed, the same command resumes it. It ends with 3 if parts of the footage
    could not be read; the case counts them.
    """
    if stage is None and not footage:
        raise click.UsageError("Missing argument 'FOOTAGE...': only --stage goes without footage.")
    if stage is not None:
        _check_stage(stage, footage, out, [camera, clock])
    overrides += _sampling(every, fps, start, end)
    recorded = recording.from_options(camera, clock, clock_uncertainty)
    settings = _settings(stage, out, preset, overrides)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = time.monotonic()
    with _progress(as_json) as listen:
        if stage is None or out is None:
            folder, worked = run(
                footage,
                out,
                settings,
                gallery,
                listen=listen,
                recording=recorded,
                by=by,
                role=role,
            )
        else:
            folder = out
            worked = redo(out, stage, settings, gallery, listen=listen, by=by, role=role)
    report, problem = (None, None) if no_report else _written_report(folder)
    code = screen.summary(
        folder, worked, time.monotonic() - began, as_json, report=report, footage=footage
    )
    if problem is not None:
        raise problem
    return code


def _written_report(folder: Path) -> tuple[Path | None, FasrError | None]:
    """Write the case's report where it is out of date; return its first page, or the problem."""
    try:
        return refresh(folder), None
    except FasrError as error:
        return None, error


def _settings(
    stage: StageName | None, out: Path | None, preset: str | None, overrides: tuple[str, ...]
) -> Settings:
    """Return the settings of the preset; where a stage is repeated without one, the case's own."""
    if stage is None or out is None or preset is not None:
        return configs.load(preset or "cpu", overrides)
    return own_settings(out, stage, overrides)


def _sampling(
    every: int | None, fps: float | None, start: str | None, end: str | None
) -> tuple[str, ...]:
    """Return the given options as overrides of the settings."""
    values = {
        "every": every,
        "fps": fps,
        "start": _seconds("--start", start),
        "end": _seconds("--end", end),
    }
    return tuple(f"sampling.{name}={v}" for name, v in values.items() if v is not None)


def _check_stage(
    stage: StageName, footage: Sequence[Path], out: Path | None, recorded: Sequence[str | None]
) -> None:
    """Raise unless --stage has a case, no footage, and neither --camera nor --clock."""
    option = f"--stage {stage}"
    if footage or out is None:
        raise UsageError(option, "it works on a finished case", "give --out CASE and no footage")
    if any(text is not None for text in recorded):
        reason = "it is not for camera and clock of the footage"
        raise UsageError(option, reason, "leave out --camera and --clock")
    with Case.open(out, read_only=True):  # raises if there is no case
        pass


def _seconds(option: str, text: str | None) -> float | None:
    """Return 12.5, 1:30 or 01:02:03.250 in seconds."""
    if text is None:
        return None
    remedy = "give seconds or HH:MM:SS"
    try:
        parts = [Fraction(part) for part in text.split(":")]
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise UsageError(f"{option} {text}", "not a time", remedy) from error
    if len(parts) > 3 or any(part < 0 for part in parts):
        raise UsageError(f"{option} {text}", "not a time", remedy)
    seconds = sum(part * 60**i for i, part in enumerate(reversed(parts)))
    if seconds > 10**9:
        raise UsageError(f"{option} {text}", "longer than any footage", remedy)
    return float(seconds)


@contextmanager
def _progress(as_json: bool) -> Iterator[Listener]:
    """Yield a function that shows progress: a bar in a terminal, else lines of text or JSON."""
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
    with ProgressBar(*columns, console=console) as bar:
        yield _BarProgress(bar)


class _BarProgress:
    """Shows progress as bars, one for each source and stage."""

    def __init__(self, bar: ProgressBar) -> None:
        self._bar = bar
        self._tasks: dict[Path | str, TaskID] = {}
        self._began: dict[Path | str, float] = {}

    def __call__(self, event: Progress | Stage) -> None:
        if isinstance(event, Stage):
            task = self._task(event.what, event.what)
            state = f"{event.done} of {event.total}"
            self._bar.update(task, total=event.total, completed=event.done, state=state)
            return
        task = self._task(event.source, table_cell(event.source.name))
        rate = event.frames / max(time.monotonic() - self._began[event.source], 1e-9)
        state = (
            f"{rate:.0f} frames/s · {count(event.faces, 'face')} · {count(event.tracks, 'track')}"
        )
        total = None if event.share is None else 1.0
        self._bar.update(task, total=total, completed=event.share or 0.0, state=state)

    def _task(self, key: Path | str, name: str) -> TaskID:
        """Return the bar of a source or a stage; begin it if it is new."""
        if key not in self._tasks:
            self._tasks[key] = self._bar.add_task(name, total=None, state="")
            self._began[key] = time.monotonic()
        return self._tasks[key]


class _PlainProgress:
    """Prints a line every PLAIN_EVERY seconds."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._last = time.monotonic()
        self._began: dict[Path, float] = {}

    def __call__(self, event: Progress | Stage) -> None:
        now = time.monotonic()
        seconds = 0.0
        if isinstance(event, Progress):
            seconds = now - self._began.setdefault(event.source, now)
            if not seconds:
                return
        if now - self._last < PLAIN_EVERY:
            return
        self._last = now
        if isinstance(event, Progress):
            self._show_source(event, seconds)
        else:
            self._show_stage(event)

    def _show_stage(self, stage: Stage) -> None:
        if self._as_json:
            facts = {"stage": stage.what, "done": stage.done, "total": stage.total}
            print_lines(json.dumps({"event": "progress", **facts}))
        else:
            print_lines(f"{stage.what}: {stage.done} of {stage.total}", err=True)

    def _show_source(self, progress: Progress, seconds: float) -> None:
        rate = progress.frames / seconds
        share = progress.share
        seconds_left = None if not share else seconds * (1 - share) / share
        if self._as_json:
            line = {
                "event": "progress",
                "source": str(progress.source),
                "frames": progress.frames,
                "share": share,
                "faces": progress.faces,
                "tracks": progress.tracks,
                "frames_per_second": rate,
                "seconds_left": seconds_left,
            }
            click.echo(json.dumps(line))
            return
        percent = "" if share is None else f", {share:.0%}"
        rest = "" if seconds_left is None else f", {seconds_left:.0f} s left"
        text = (
            f"{progress.source.name}: {count(progress.frames, 'frame')} ({rate:.1f}/s{percent}), "
            f"{count(progress.faces, 'face')}, {count(progress.tracks, 'track')}{rest}"
        )
        print_lines(text, err=True)
