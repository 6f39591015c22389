"""`fasr-video batch`, `watch` and `search`: read arguments, call the library, print results."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from fasr_video.archive.batch import (
    Batch,
    BatchPlan,
    BatchProgress,
    Listener,
    Note,
    prepare_gallery,
)
from fasr_video.archive.cameras import read_cameras
from fasr_video.archive.ledger import Ledger
from fasr_video.archive.scan import Scan, check_folder, scan
from fasr_video.archive.schedulers import (
    Dask,
    Local,
    OnTaskProgress,
    Processes,
    Scheduler,
    machine_memory,
)
from fasr_video.archive.search_again import SearchResult, cases_in, search_again, with_overrides
from fasr_video.archive.summary import Summary, SummaryJob, rewrite_summaries, write_summary
from fasr_video.archive.tasks import Task
from fasr_video.archive.watch import StableFiles
from fasr_video.archive.worker import run_task
from fasr_video.case.recording import read_time
from fasr_video.commands.options import CASE, FOLDER, KEY_FILE
from fasr_video.configs import settings as configs
from fasr_video.console import count, print_lines, table_cell
from fasr_video.errors import ExitCode, InputError, UsageError
from fasr_video.pipeline.run import sampling_of

PROGRESS_INTERVAL = 5.0  # seconds between progress lines when the output is no terminal
STEP_SECONDS = 1.0  # that a step waits for a task to end
WHAT_IS_FOOTAGE = "(files with the ending of a video, or those that --glob fits)"
NO_REPORT = click.option("--no-report", is_flag=True, help="Do not write a report into each case.")
OPTIONS = (
    click.option(
        "--gallery",
        type=click.Path(path_type=Path),
        help="Whom to search for: a gallery, a folder of photographs or a CSV, as for `run`.",
    ),
    click.option(
        "--out", "cases", type=FOLDER, required=True, help="The folder of cases and their ledger."
    ),
    KEY_FILE,
    click.option(
        "--glob",
        help="Process only files whose path within the folder fits this, such as '*/cam3/*.mp4'.",
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
        help="Where jobs run: local, processes, or dask=ADDRESS of a scheduler.",
    ),
    click.option(
        "--workers", type=click.IntRange(min=1), help="Worker processes. [default: one per core]"
    ),
    click.option(
        "--memory",
        type=click.IntRange(min=1),
        metavar="MB",
        help="Memory that a worker may use. [default: an equal share of the machine's]",
    ),
    click.option("--gpus", help="GPUs that the workers take in turn, such as 0,1."),
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
        help="How often to retry a job that failed.",
    ),
    click.option(
        "--retry-failed", is_flag=True, help="Also retry jobs that failed in an earlier run."
    ),
    click.option(
        "--cut",
        type=click.FloatRange(min=1),
        metavar="SECONDS",
        help="Detect faces in long files in chunks of this length, in parallel.",
    ),
    NO_REPORT,
    click.option(
        "--json", "as_json", is_flag=True, help="Print progress and result as JSON lines."
    ),
)


@dataclass(frozen=True, slots=True)
class BatchOptions:
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
    retry_failed: bool
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
    help="Process only footage that ends after this wall time. Give its time zone.",
)
@click.option(
    "--before",
    metavar="ISO8601",
    help="Process only footage that begins before this wall time. Give its time zone.",
)
def batch_command(archive: Path, after: str | None, before: str | None, **values: Any) -> int:
    """Make a case of every file below ARCHIVE. Files with the same content share one case.

    If it is stopped or killed, the same command resumes it. Exit code 3 means that files or
    folders could not be read, or that parts of the footage are lost. The ledger lists them.
    """
    options = BatchOptions(**values)
    check_folder(archive)
    with _open_batch(options, after, before) as batch_run:
        files = batch_run.scan(archive).files
        if not files:
            print_lines(f"{archive}: no footage found {WHAT_IS_FOOTAGE}", err=True)
        batch_run.batch.add_files(files)
        while not batch_run.batch.is_finished:
            batch_run.batch.step(STEP_SECONDS)
        return batch_run.finish()


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
    help="Process a file when it has not changed for this long.",
)
@click.option(
    "--interval",
    type=click.FloatRange(min=0.1),
    callback=_finite,
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="How often to look for new files.",
)
def watch_command(folder: Path, still: float, interval: float, **values: Any) -> int:
    """Make cases of the files that come into FOLDER, until stopped by Ctrl-C or SIGTERM.

    If it is stopped, the same command resumes it. Exit code 0 means that it was stopped, 3 that some
    files could not be read.
    """
    options = BatchOptions(**values)
    check_folder(folder)
    with _open_batch(options) as batch_run:
        try:
            _watch(batch_run, folder, StableFiles(still), interval)
        except KeyboardInterrupt:
            return batch_run.finish()


def _watch(batch_run: _BatchRun, folder: Path, stable: StableFiles, interval: float) -> NoReturn:
    """Process the files of a folder until KeyboardInterrupt; write the summary after each pause."""
    batch = batch_run.batch
    scanned_at = float("-inf")
    is_there = True
    summary_is_old = False
    while True:
        if time.monotonic() - scanned_at >= interval:
            scanned_at = time.monotonic()
            was_there = is_there
            try:
                files = batch_run.scan(folder).files
                is_there = True
            except InputError:
                files = []
                is_there = False
            if is_there != was_there:
                text = "it is back" if is_there else "it is not there; waiting for it"
                batch_run.show(Note("warning", str(folder), text))
            batch.add_files(stable.new(files))
        if not batch.is_finished:
            summary_is_old = True
        batch.step(min(STEP_SECONDS, interval))
        if summary_is_old and batch.is_finished:
            summary_is_old = False
            batch_run.write_summary()


@click.command("search")
@click.argument("cases", nargs=-1, required=True, type=CASE)
@click.option(
    "--gallery",
    required=True,
    type=FOLDER,
    help="A gallery made by `gallery create` or `batch`; not a folder of photographs.",
)
@KEY_FILE
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="search.KEY=VALUE",
    help="Change a setting of each case's last search.",
)
@NO_REPORT
@click.option("--json", "as_json", is_flag=True, help="Print a JSON line for each case.")
def search_command(
    cases: tuple[Path, ...],
    gallery: Path,
    overrides: tuple[str, ...],
    no_report: bool,
    *,
    as_json: bool,
) -> int:
    """Search finished CASES (or folders of them) again, without their footage, and show changes.

    Use it after people were added to a gallery. Exit code 3 means that a case could not be
    searched, or an archive's summary could not be written.
    """
    choose_settings = with_overrides(overrides)
    folders = cases_in(cases)
    results = []
    for result in search_again(folders, gallery, not no_report, choose_settings):
        results.append(result)
        _show_search(result, as_json)
    summary_problems = rewrite_summaries(folders)
    for problem in summary_problems:
        print_lines(f"fasr-video: {problem}", err=True)
    failed = sum(result.problem is not None for result in results)
    searched = sum(result.was_searched for result in results)
    tracks_changed = sum(len(result.changes) for result in results)
    code = ExitCode.LOSSES if failed or summary_problems else ExitCode.DONE
    if as_json:
        counts = {"searched": searched, "tracks_changed": tracks_changed, "failed": failed}
        click.echo(json.dumps({"event": "done", **counts, "exit_code": int(code)}))
    else:
        print_lines(
            f"cases searched: {searched}; tracks with changes: {tracks_changed};"
            f" not searched: {failed}"
        )
    return code


def _show_search(result: SearchResult, as_json: bool) -> None:
    if as_json:
        line = {
            "event": "searched",
            "case": str(result.case),
            "problem": result.problem,
            "searched": result.was_searched,
            "tracks": result.tracks,
            "changes": [asdict(change) for change in result.changes],
        }
        click.echo(json.dumps(line))
        return
    if result.problem is not None:
        print_lines(f"fasr-video: {result.problem}", err=True)
    for change in result.changes:
        print_lines(f"{result.case} {change.track}: {', '.join(change.lines)}")


class _BatchRun:
    """A batch at work, and what is printed about it."""

    def __init__(
        self,
        ledger: Ledger,
        scheduler: Scheduler,
        batch: Batch,
        options: BatchOptions,
        *,
        show: Listener,
    ) -> None:
        self.batch = batch
        self.show = show
        self._ledger = ledger
        self._scheduler = scheduler
        self._options = options
        self._archive: Path | None = None
        """The folder that was scanned."""

    def scan(self, folder: Path) -> Scan:
        scanned = scan(folder, self._options.glob, self._options.cases)
        self._ledger.put_unread(folder, scanned)
        # One time is enough for `watch`, which scans its folder every few seconds.
        if self._archive is None:
            self._archive = folder.absolute()
            self._ledger.put_gone(folder, scanned)
        return scanned

    def write_summary(self) -> Summary:
        return write_summary(self._ledger)

    def finish(self) -> int:
        """Stop what is running, write and print the summary; returns the exit code of this run."""
        self._scheduler.close()
        self._ledger.reset_running()
        document = self.write_summary()
        planned = self._ledger.planned_folders()
        jobs = [job for job in document.jobs if job.case in planned]
        not_done = [job for job in jobs if job.state in ("failed", "missing")]
        with_losses = sum(bool(job.losses) for job in jobs)
        not_read = sum(
            entry.path in planned or self._is_in_archive(entry.path) for entry in document.not_read
        )
        is_lossy = bool(not_done) or with_losses > 0 or not_read > 0
        code = ExitCode.LOSSES if is_lossy else ExitCode.DONE
        if self._options.as_json:
            self._print_json(document, with_losses, not_read, code)
        else:
            self._print_text(document, not_done, with_losses, not_read)
        return code

    def _print_json(
        self, document: Summary, with_losses: int, not_read: int, code: ExitCode
    ) -> None:
        line = {
            "event": "done",
            "cases": str(self._options.cases),
            "jobs": document.jobs_by_state,
            "with_losses": with_losses,
            "not_read": not_read,
            "outside_of_window": self.batch.outside_window,
            "tracks": document.totals["tracks"],
            "with_candidates": document.totals["with_candidates"],
            "subjects_proposed": len(document.subjects),
            "exit_code": int(code),
        }
        click.echo(json.dumps(line))

    def _print_text(
        self,
        document: Summary,
        not_done: Sequence[SummaryJob],
        with_losses: int,
        not_read: int,
    ) -> None:
        cases = self._options.cases
        totals = document.totals
        by_state = document.jobs_by_state.items()
        states = [f"{number} {state}" for state, number in by_state if number]
        print_lines(
            f"{cases}: {', '.join(states) or 'nothing to do'};"
            f" {count(int(totals['tracks']), 'track')}, {totals['with_candidates']} with candidates"
        )
        for job in not_done:
            if job.case not in self.batch.reported_failures:
                remedy = "; --retry-failed tries it again" if job.state == "failed" else ""
                print_lines(f"not done: {', '.join(job.files)}: {job.error}{remedy}")
        if with_losses:
            print_lines(f"jobs with losses: {with_losses}")
        if not_read:
            print_lines(f"files or folders not read: {not_read}")
        if self.batch.outside_window:
            print_lines(f"files outside of the window: {self.batch.outside_window}")
        print_lines(f"look at it: {cases / 'summary.html'}")

    def _is_in_archive(self, path: str) -> bool:
        return self._archive is not None and Path(path).is_relative_to(self._archive)


@contextmanager
def _open_batch(
    options: BatchOptions, after: str | None = None, before: str | None = None
) -> Iterator[_BatchRun]:
    """Check the options, open all that a batch needs, and close it whatever happens."""
    plan = _plan(options, after, before)
    start = _scheduler(options)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with Ledger.open(options.cases) as ledger, _display(options.as_json) as show:
        batch: Batch | None = None

        def on_progress(task: Task, share: float) -> None:
            if batch is not None:
                batch.set_progress(task, share)

        scheduler = start(on_progress, show)
        try:
            gallery = prepare_gallery(plan.gallery, plan.cases, plan.settings)
            batch = Batch(ledger, scheduler, replace(plan, gallery=gallery), show)
            yield _BatchRun(ledger, scheduler, batch, options, show=show)
        finally:
            scheduler.close()
            ledger.reset_running()


def _plan(options: BatchOptions, after: str | None, before: str | None) -> BatchPlan:
    settings = configs.load(options.preset, options.overrides)
    sampling_of(settings)  # raises here, so that the files are not blamed
    if settings.restore.subjects:
        reason = "it names tracks of one case, and a batch makes many"
        raise UsageError("restore.subjects", reason, "give it to `run` on that case")
    return BatchPlan(
        cases=options.cases,
        settings=settings,
        gallery=options.gallery,
        cameras=read_cameras(options.names, options.cameras, options.zone),
        after=None if after is None else read_time("--after", after),
        before=None if before is None else read_time("--before", before),
        retries=options.retries,
        retry_failed=options.retry_failed,
        cut=options.cut,
        reports=not options.no_report,
    )


def _scheduler(options: BatchOptions) -> Callable[[OnTaskProgress, Listener], Scheduler]:
    """Return a function that starts the scheduler; raise at once where its options are wrong."""
    kind, equals, address = options.scheduler.partition("=")
    only_processes = ("workers", "memory", "gpus")
    given = [name for name in only_processes if getattr(options, name) is not None]
    if kind != "processes" and given:
        reason = f"it is for --scheduler processes, not {kind}"
        remedy = "leave it out: the workers of a cluster get theirs when they are started"
        raise UsageError(f"--{given[0]}", reason, remedy)
    gpus = [] if options.gpus is None else [gpu.strip() for gpu in options.gpus.split(",")]
    if not all(gpus):
        raise UsageError(
            f"--gpus {options.gpus}", "a GPU without a name", "give their numbers, such as 0,1"
        )
    if kind == "dask" and address:
        return lambda on_progress, show: Dask(
            run_task, address, lambda text: show(Note("warning", f"dask={address}", text))
        )
    if kind == "local" and not equals:
        return lambda on_progress, show: Local(run_task, on_progress)
    if kind == "processes" and not equals:
        count = options.workers or len(os.sched_getaffinity(0))
        memory = options.memory or _share_of_memory(count)
        return lambda on_progress, show: Processes(run_task, on_progress, count, memory, gpus=gpus)
    remedy = "give local, processes, or dask=tcp://HOST:8786"
    raise UsageError(f"--scheduler {options.scheduler}", "no such scheduler", remedy)


def _share_of_memory(workers: int) -> int | None:
    memory = machine_memory()
    return None if memory is None else memory // workers


@contextmanager
def _display(as_json: bool) -> Iterator[Listener]:
    """Yield a function that prints what happens: lines, with a bar in a terminal, or JSON lines."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"))
    with Progress(
        *columns, console=console, disable=as_json or not console.is_terminal, transient=True
    ) as bar:
        bar_task = bar.add_task("jobs", total=None, state="")
        printed_at = time.monotonic()

        def show(event: BatchProgress | Note) -> None:
            nonlocal printed_at
            if isinstance(event, Note):
                _show_note(event, as_json)
                return
            completed = event.done + event.failed
            bar.update(
                bar_task,
                total=completed + event.running + event.waiting,
                completed=completed,
                state=table_cell(_progress_text(event)),
            )
            is_due = time.monotonic() - printed_at >= PROGRESS_INTERVAL
            if bar.disable and is_due and event.running:
                printed_at = time.monotonic()
                if as_json:
                    click.echo(json.dumps({"event": "progress", **asdict(event)}))
                else:
                    click.echo(_progress_text(event), err=True)

        yield show


def _show_note(note: Note, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"event": note.event, "about": note.about, "text": note.text}))
    elif note.event == "done":
        print_lines(f"{note.about}: done, {note.text}")
    else:
        text = note.text if note.text.startswith(note.about) else f"{note.about}: {note.text}"
        print_lines(f"fasr-video: {note.event}: {text}", err=True)


def _progress_text(progress: BatchProgress) -> str:
    failed = f", {progress.failed} failed" if progress.failed else ""
    seconds = progress.seconds_left
    left = "" if seconds is None else f", {_duration(seconds)} left"
    return (
        f"{progress.done} done{failed}, {progress.running} running,"
        f" {progress.waiting} waiting{left}"
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d} h" if hours else f"{minutes}:{rest:02d} min"
