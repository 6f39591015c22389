"""`fasr-video batch`, `watch` and `search`: each reads its arguments, calls the library, and shows what came back."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from fasr_video.archive.again import cases_in, changed, search_again
from fasr_video.archive.batch import Batch, Job, Listener, Note, Tick, prepare_gallery
from fasr_video.archive.cameras import read_cameras
from fasr_video.archive.ledger import Ledger
from fasr_video.archive.orders import Order
from fasr_video.archive.scan import Scan, check_folder, scan
from fasr_video.archive.schedulers import Dask, Local, Processes, Scheduler, machine_memory
from fasr_video.archive.summary import rewrite, write_summary
from fasr_video.archive.unit import work
from fasr_video.archive.watch import Still
from fasr_video.case.recording import read_time
from fasr_video.commands.options import FOLDER, KEY_FILE
from fasr_video.configs import settings as configs
from fasr_video.console import cell, say
from fasr_video.errors import ExitCode, InputError, UsageError
from fasr_video.pipeline.run import sampling_of

PLAIN_EVERY = 5.0  # seconds between progress lines when the output is no terminal
POLL = 1.0  # seconds that a step waits for a unit to end
NO_REPORT = click.option(
    "--no-report", is_flag=True, help="Leave out the report that is written into each case."
)
OPTIONS = (
    click.option(
        "--gallery", type=click.Path(path_type=Path), help="Whom to search for, as for `run`."
    ),
    click.option(
        "--out", "cases", type=FOLDER, required=True, help="The folder of cases, with their ledger."
    ),
    KEY_FILE,
    click.option(
        "--glob", help="Only files whose path within the folder fits this, as '*/cam3/*.mp4'."
    ),
    click.option(
        "--preset", default="cpu", show_default=True, help="Settings to start from, as for `run`."
    ),
    click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Change one setting, as for `run`.",
    ),
    click.option(
        "--scheduler",
        default="processes",
        show_default=True,
        help="local, processes, or dask=ADDRESS of a scheduler.",
    ),
    click.option("--workers", type=click.IntRange(min=1), help="Processes. [default: one a core]"),
    click.option(
        "--memory",
        type=click.IntRange(min=1),
        metavar="MB",
        help="What a worker may hold. [default: its share of the machine's]",
    ),
    click.option("--gpus", help="GPUs that processes take in turn, as 0,1."),
    click.option(
        "--cameras",
        type=click.Path(path_type=Path, dir_okay=False),
        help="CSV of cameras, clocks and priorities.",
    ),
    click.option(
        "--names", metavar="REGEX", help="Pattern of paths with groups camera, date and time."
    ),
    click.option(
        "--zone", default="UTC", show_default=True, help="Time zone of clocks that name none."
    ),
    click.option(
        "--retries",
        type=click.IntRange(min=0),
        default=2,
        show_default=True,
        help="Further tries of what failed.",
    ),
    click.option("--again", is_flag=True, help="Try units that failed in an earlier run, too."),
    click.option(
        "--cut",
        type=click.FloatRange(min=1),
        metavar="SECONDS",
        help="Look at long files in such parts.",
    ),
    NO_REPORT,
    click.option("--json", "as_json", is_flag=True, help="Progress and result as JSON lines."),
)


@dataclass(frozen=True, slots=True)
class Asked:
    """The options that batch and watch share."""

    gallery: Path | None
    cases: Path
    glob: str | None
    preset: str
    overrides: tuple[str, ...]
    scheduler: str
    workers: int | None
    memory: int | None
    gpus: str | None
    cameras: Path | None
    names: str | None
    zone: str
    retries: int
    again: bool
    cut: float | None
    no_report: bool
    as_json: bool


def _finite(_: click.Context, option: click.Parameter, value: float) -> float:
    if not math.isfinite(value):
        raise UsageError(f"--{option.name} {value}", "not a length of time", "give seconds")
    return value


def _options(command: Callable[..., int]) -> Callable[..., int]:
    for option in reversed(OPTIONS):
        command = option(command)
    return command


@click.command("batch")
@click.argument("archive", type=click.Path(path_type=Path))
@_options
@click.option(
    "--after",
    metavar="ISO8601",
    help="Only footage that goes on after this wall time, with its zone.",
)
@click.option("--before", metavar="ISO8601", help="Only footage that begins before this wall time.")
def batch_command(archive: Path, after: str | None, before: str | None, **options: Any) -> int:
    """Make a case of every file below ARCHIVE, once for each content.

    Stopped or killed, the same command goes on where it was. Ends with 3 when files or folders could not be read, or
    lost parts; the ledger says which, and why.
    """
    asked = Asked(**options)
    check_folder(archive)
    with _opened(asked, after, before) as opened:
        found = opened.scan(archive)
        opened.batch.feed(found.files)
        while opened.batch.open:
            opened.batch.step(POLL)
        return opened.finish()


@click.command("watch")
@click.argument("folder", type=click.Path(path_type=Path))
@_options
@click.option(
    "--still",
    type=click.FloatRange(min=0),
    callback=_finite,
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="A file is taken when it has not changed for so long.",
)
@click.option(
    "--every",
    type=click.FloatRange(min=0.1),
    callback=_finite,
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="How often to look for files.",
)
def watch_command(folder: Path, still: float, every: float, **options: Any) -> int:
    """Make cases of the files that come into FOLDER, until it is stopped by Ctrl-C or SIGTERM.

    Started again, it goes on where it was. Ends with 0 when it was stopped, with 3 when there were files that could not
    be read.
    """
    asked = Asked(**options)
    waiting = Still(still)
    check_folder(folder)
    with _opened(asked) as opened:
        try:
            looked, changed, there = float("-inf"), False, True
            while True:
                if time.monotonic() - looked >= every:
                    looked, before = time.monotonic(), there
                    try:
                        files, there = opened.scan(folder).files, True
                    except InputError:
                        files, there = [], False
                    if there != before:
                        told = "it is back" if there else "it is away; waiting for it"
                        opened.show(Note("warning", str(folder), told))
                    opened.batch.feed(waiting.new(files))
                changed |= opened.batch.open
                opened.batch.step(min(POLL, every))
                if changed and not opened.batch.open:
                    changed = False
                    opened.summary()
        except KeyboardInterrupt:
            return opened.finish()


@click.command("search")
@click.argument("cases", nargs=-1, required=True, type=FOLDER)
@click.option(
    "--gallery",
    required=True,
    type=FOLDER,
    help="A gallery that `gallery create`, or `batch`, made.",
)
@KEY_FILE
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="search.KEY=VALUE",
    help="Ask otherwise than each was last.",
)
@NO_REPORT
@click.option("--json", "as_json", is_flag=True, help="A JSON line for each case.")
def search_command(
    cases: tuple[Path, ...],
    gallery: Path,
    overrides: tuple[str, ...],
    no_report: bool,
    as_json: bool,
) -> int:
    """Search finished CASES (or folders of them) again, without their footage, and tell what changed.

    For a gallery that somebody was enrolled into since. Ends with 3 when a case could not be searched, or an archive's
    summary not be made anew.
    """
    questions = changed(overrides)
    failed = searched = tracks_changed = 0
    found = cases_in(cases)
    for result in search_again(found, gallery, not no_report, questions):
        failed += result.problem is not None
        searched += result.asked
        tracks_changed += len(result.changes)
        if as_json:
            click.echo(
                json.dumps({"event": "searched", **asdict(result), "case": str(result.case)})
            )
        else:
            if result.problem is not None:
                say(f"fasr-video: {result.problem}", err=True)
            for c in result.changes:
                say(f"{result.case} {c.track}: {', '.join(c.told)}")
    stale = rewrite(found)
    for problem in stale:
        say(f"fasr-video: {problem}", err=True)
    code = ExitCode.LOSSES if failed or stale else ExitCode.DONE
    if as_json:
        facts = {"searched": searched, "tracks_changed": tracks_changed, "failed": failed}
        click.echo(json.dumps({"event": "done", **facts, "exit_code": int(code)}))
    else:
        say(
            f"cases searched: {searched}; tracks with changes: {tracks_changed}; not searched: {failed}"
        )
    return code


class _Opened:
    """A batch at work, and what is shown of it."""

    def __init__(
        self, ledger: Ledger, scheduler: Scheduler, batch: Batch, asked: Asked, show: Listener
    ) -> None:
        self.batch, self.show = batch, show
        self._ledger, self._scheduler, self._asked = ledger, scheduler, asked
        self._archive: Path | None = None
        """What was looked through."""

    def scan(self, folder: Path) -> Scan:
        found = scan(folder, self._asked.glob, self._asked.cases)
        self._ledger.put_unread(folder, found)
        if (
            self._archive is None
        ):  # once is enough for a watch: its folder is looked at every few seconds
            self._archive = folder.absolute()
            self._ledger.put_gone(folder, found)
        return found

    def summary(self) -> dict[str, Any]:
        return write_summary(self._ledger)

    def finish(self) -> int:
        """Stop whatever is at work; the summary, and the exit code that what was asked for this time leads to."""
        self._scheduler.close()
        self._ledger.give_back()
        document = self.summary()
        states, totals = document["units_by_state"], document["totals"]
        asked = self._ledger.asked()
        units = [u for u in document["units"] if u["case"] in asked]
        not_done = [u for u in units if u["state"] in ("failed", "missing")]
        lossy = sum(bool(u["losses"]) for u in units)
        not_read = sum(
            p["path"] in asked or self._is_below(p["path"]) for p in document["not_read"]
        )
        bad = len(not_done) + lossy + not_read
        code = ExitCode.LOSSES if bad else ExitCode.DONE
        facts = {
            "units": states,
            "with_losses": lossy,
            "not_read": not_read,
            "outside_of_window": self.batch.outside,
            "tracks": totals["tracks"],
            "with_candidates": totals["with_candidates"],
            "subjects_proposed": len(document["subjects"]),
        }
        if self._asked.as_json:
            click.echo(
                json.dumps(
                    {
                        "event": "done",
                        "cases": str(self._asked.cases),
                        **facts,
                        "exit_code": int(code),
                    }
                )
            )
            return code
        told = (
            ", ".join(f"{count} {state}" for state, count in states.items() if count)
            or "nothing to do"
        )
        say(
            f"{self._asked.cases}: {told}; {totals['tracks']} tracks, {totals['with_candidates']} with candidates"
        )
        for unit in not_done:
            if unit["case"] not in self.batch.told:
                remedy = "; --again tries it again" if unit["state"] == "failed" else ""
                say(f"not done: {', '.join(unit['files'])}: {unit['error']}{remedy}")
        for what, count in (("units with losses", lossy), ("files or folders not read", not_read)):
            if count:
                say(f"{what}: {count}")
        if self.batch.outside:
            say(f"files outside of the window: {self.batch.outside}")
        say(f"look at it: {self._asked.cases / 'summary.html'}")
        return code

    def _is_below(self, path: str) -> bool:
        return self._archive is not None and Path(path).is_relative_to(self._archive)


@contextmanager
def _opened(asked: Asked, after: str | None = None, before: str | None = None) -> Iterator[_Opened]:
    """Everything that a batch needs, checked first and closed whatever happens; nothing done is lost."""
    job = _job(asked, after, before)
    start = _scheduler(asked)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with Ledger.open(asked.cases) as ledger, _shown(asked.as_json) as show:
        shares: list[Callable[[Order, float], None]] = []
        scheduler = start(lambda order, share: shares[0](order, share), show)
        try:
            batch = Batch(ledger, scheduler, _with_gallery(job), show)
            shares.append(batch.share)
            yield _Opened(ledger, scheduler, batch, asked, show)
        finally:
            scheduler.close()
            ledger.give_back()


def _job(asked: Asked, after: str | None, before: str | None) -> Job:
    settings = configs.load(asked.preset, asked.overrides)
    sampling_of(settings)  # what is wrong with it is no fault of any file
    if settings.restore.subjects:
        reason = "it names tracks of one case, and a batch makes many"
        raise UsageError("restore.subjects", reason, "give it to `run` on that case")
    return Job(
        *(asked.cases, settings, asked.gallery),
        cameras=read_cameras(asked.names, asked.cameras, asked.zone),
        after=None if after is None else read_time("--after", after),
        before=None if before is None else read_time("--before", before),
        retries=asked.retries,
        again=asked.again,
        cut=asked.cut,
        reports=not asked.no_report,
    )


def _with_gallery(job: Job) -> Job:
    return replace(job, gallery=prepare_gallery(job.gallery, job.cases, job.settings))


def _scheduler(asked: Asked) -> Callable[[Callable[[Order, float], None], Listener], Scheduler]:
    """What starts it; whatever is wrong with how it was asked for is told before that."""
    kind, equals, address = asked.scheduler.partition("=")
    given = [name for name in ("workers", "memory", "gpus") if getattr(asked, name) is not None]
    if kind != "processes" and given:
        remedy = "leave it out: a cluster's workers are given theirs when they are started"
        raise UsageError(f"--{given[0]}", f"it is for --scheduler processes, not {kind}", remedy)
    gpus = [] if asked.gpus is None else [gpu.strip() for gpu in asked.gpus.split(",")]
    if asked.gpus is not None and not all(gpus):
        raise UsageError(
            f"--gpus {asked.gpus}", "a GPU without a name", "give their numbers, as 0,1"
        )
    if kind == "dask" and address:
        return lambda share, show: Dask(
            work, address, lambda text: show(Note("warning", f"dask={address}", text))
        )
    if kind == "local" and not equals:
        return lambda share, show: Local(work, share)
    if kind == "processes" and not equals:
        count = asked.workers or len(os.sched_getaffinity(0))
        memory = asked.memory or ((whole := machine_memory()) and whole // count)
        return lambda share, show: Processes(work, share, count, memory, gpus)
    remedy = "give local, processes, or dask=tcp://HOST:8786"
    raise UsageError(f"--scheduler {asked.scheduler}", "no such scheduler", remedy)


@contextmanager
def _shown(as_json: bool) -> Iterator[Callable[[Any], None]]:
    """A function that shows what happens: lines, with a bar below in a terminal, or JSON lines."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"))
    with Progress(
        *columns, console=console, disable=as_json or not console.is_terminal, transient=True
    ) as bar:
        task = bar.add_task("units", total=None, state="")
        last = [time.monotonic()]

        def show(event: Tick | Note) -> None:
            if not isinstance(event, Tick):
                _show_note(event, as_json)
                return
            total = event.done + event.failed + event.running + event.waiting
            bar.update(
                task, total=total, completed=event.done + event.failed, state=cell(_told(event))
            )
            if bar.disable and time.monotonic() - last[0] >= PLAIN_EVERY and event.running:
                last[0] = time.monotonic()
                line = (
                    json.dumps({"event": "progress", **asdict(event)}) if as_json else _told(event)
                )
                click.echo(line, err=not as_json)

        yield show


def _show_note(note: Note, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"event": note.event, "about": note.about, "text": note.text}))
    elif note.event == "done":
        say(f"{note.about}: done, {note.text}")
    else:
        text = note.text if note.text.startswith(note.about) else f"{note.about}: {note.text}"
        say(f"fasr-video: {note.event}: {text}", err=True)


def _told(tick: Tick) -> str:
    left = "" if tick.seconds_left is None else f", {_span(tick.seconds_left)} left"
    failed = f", {tick.failed} failed" if tick.failed else ""
    return f"{tick.done} done{failed}, {tick.running} at work, {tick.waiting} waiting{left}"


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d} h" if hours else f"{minutes}:{rest:02d} min"
