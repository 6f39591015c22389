"""Make an archive into cases: one job per content, in order, each tried until done or given up."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import av

from fasr_video.archive.cameras import Cameras, FileInfo
from fasr_video.archive.ledger import CHUNKS, GONE, Job, Ledger
from fasr_video.archive.scan import FoundFile
from fasr_video.archive.schedulers import Scheduler
from fasr_video.archive.search_again import is_up_to_date, search_case
from fasr_video.archive.tasks import Chunk, Outcome, Status, Task
from fasr_video.case.case import Case
from fasr_video.case.recording import Recording
from fasr_video.case.sources import set_recording
from fasr_video.case.store import DATABASE as CASE_DATABASE
from fasr_video.case.store import only_writer
from fasr_video.configs.settings import Settings
from fasr_video.errors import EnvironmentFailure, FasrError
from fasr_video.files import sha256_file
from fasr_video.gallery.enrol import sync
from fasr_video.gallery.gallery import Gallery
from fasr_video.gallery.index import Index
from fasr_video.gallery.store import DATABASE as GALLERY_DATABASE
from fasr_video.pipeline.run import open_models
from fasr_video.pipeline.search import check_search, enrolment_defaults, usable_calibration
from fasr_video.report.write import refresh

# Seconds until the next try of a case that another process is writing.
BUSY_WAIT = 5.0
# A file is cut into chunks only if it is this many times longer than one chunk.
MIN_CHUNKS = 1.5
# Folder within the cases for the gallery made of a folder of photographs.
GALLERY = "gallery"
NO_CAMERAS = Cameras()


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """What a batch shall do."""

    cases: Path
    settings: Settings
    gallery: Path | None = None
    cameras: Cameras = NO_CAMERAS
    after: datetime | None = None
    before: datetime | None = None
    retries: int = 2
    retry_failed: bool = False
    """Whether to try jobs that failed in an earlier batch, too."""
    cut: float | None = None
    """Length of a long file's chunks in seconds; None to process each file in one go."""
    reports: bool = True
    """Whether to write a report into each case."""


@dataclass(frozen=True, slots=True)
class BatchProgress:
    done: int
    failed: int
    running: int
    waiting: int
    seconds_left: float | None


@dataclass(frozen=True, slots=True)
class Note:
    """One line about a file or a case."""

    event: str
    """done, failed, retry, changed, skipped, warning"""
    about: str
    text: str


Listener = Callable[[BatchProgress | Note], None]


class Batch:
    """A batch at work: add files, then call `step` until `is_finished`."""

    def __init__(
        self, ledger: Ledger, scheduler: Scheduler, plan: BatchPlan, listen: Listener
    ) -> None:
        self._ledger = ledger
        self._scheduler = scheduler
        self._plan = plan
        self._listen = listen
        self._settings = plan.settings.model_dump_json()
        self._key = settings_key(plan.settings)
        self._files: deque[tuple[FoundFile, FileInfo]] = deque()
        """Files that are not hashed yet."""
        self._ready: list[tuple[float, Task]] = []
        """Tasks that can be submitted, each with the earliest time for that."""
        self._chunk_tasks: deque[Task] = deque()
        self._held: dict[int, tuple[Task, int]] = {}
        """By job: the task that follows its chunks, and how many chunks are not finished."""
        self._running: dict[int, tuple[int, float]] = {}
        """By running job: its bytes, and the share of them that is done."""
        self._index: tuple[str, Index] | None = None
        """The index for searching finished cases again, and the state of the gallery it is of."""
        self._began = time.monotonic()
        self._bytes_done = 0
        self.outside_window = 0
        """How many files lie outside of the time window."""
        self.reported_failures: set[str] = set()
        """Case folders of the jobs whose failure was passed to the listener."""

    def add_files(self, files: Iterable[FoundFile]) -> None:
        """Queue files: by priority, then by wall time (unknown times last), then by name."""
        files = list(files)
        self._ledger.clear_problems(files)
        for file in files:
            info = self._plan.cameras.info_of(file.name)
            if self._cannot_place(info):
                self._set_problem(
                    file, info.problem or "its time is not known, but a window is set"
                )
            elif self._is_outside(file.path, info):
                self.outside_window += 1
            else:
                self._files.append((file, info))
        self._files = deque(sorted(self._files, key=_sort_key))

    @property
    def is_finished(self) -> bool:
        at_work = self._running or self._ready or self._chunk_tasks or self._held
        waiting, _ = self._ledger.planned_sizes()["waiting"]
        return not (self._files or at_work or waiting)

    def step(self, seconds: float) -> None:
        """Submit as many tasks as the scheduler has room for, then handle those that ended."""
        while self._scheduler.room() > 0:
            task = self._next_task()
            if task is None:
                break
            self._running.setdefault(task.job, (task.size, 0.0))
            self._scheduler.submit(task)
        for task, outcome in self._scheduler.wait(seconds):
            self._handle(task, outcome)
        self._listen(self.progress())

    def set_progress(self, task: Task, share: float) -> None:
        """Take note of the share of a task that is done."""
        self._running[task.job] = (task.size, share)
        self._listen(self.progress())

    def progress(self) -> BatchProgress:
        sizes = self._ledger.planned_sizes()
        waiting, bytes_left = sizes["waiting"]
        waiting += len(self._files)
        bytes_left += sum(file.size for file, _ in self._files)
        bytes_left += sum(round(size * (1 - share)) for size, share in self._running.values())
        bytes_done = self._bytes_done + sum(size * share for size, share in self._running.values())
        seconds = time.monotonic() - self._began
        rate = bytes_done / seconds if seconds > 0 else 0.0
        return BatchProgress(
            done=sizes["done"][0],
            failed=sizes["failed"][0],
            running=sizes["running"][0],
            waiting=waiting,
            seconds_left=bytes_left / rate if rate and bytes_left else None,
        )

    # What comes next.

    def _next_task(self) -> Task | None:
        now = time.monotonic()
        for k, (earliest, task) in enumerate(self._ready):
            if earliest <= now:
                del self._ready[k]
                return task
        while not self._chunk_tasks:
            job = self._ledger.take_job()
            if job is not None:
                self._begin(job)
            elif self._files:
                self._put(*self._files.popleft())
            else:
                return None
            if self._ready and self._ready[-1][0] == 0.0:
                return self._ready.pop()[1]
        return self._chunk_tasks.popleft()

    def _begin(self, job: Job) -> None:
        """Make the tasks of a job."""
        task = self._task_of(job)
        if task is None:
            return
        chunks = self._cut(task)
        if chunks:
            self._held[job.id] = (replace(task, chunks=chunks[0].chunks), len(chunks))
            self._chunk_tasks.extend(chunks)
        else:
            self._ready.append((0.0, task))

    def _put(self, file: FoundFile, info: FileInfo) -> None:
        """Put a file into the ledger, and plan the job of its content."""
        try:
            file, sha256 = self._hash(file)
        except OSError as error:
            self._set_problem(file, f"cannot be read ({error.strerror})")
            return
        if sha256 is None:
            self._set_problem(file, "it changes while it is read")
            return
        self._ledger.put_file(file, sha256, info)
        if info.problem:
            self._listen(Note("warning", str(file.path), info.problem))
        folder = self._folder(file, sha256)
        retry_failed = self._plan.retry_failed
        job = self._ledger.put_job(sha256, self._key, folder, file.size, retry_failed=retry_failed)
        first = self._ledger.files(job)[0]
        if first.path != file.path:
            self._listen(Note("skipped", str(file.path), f"the same footage as {first.path}"))
        if job.state != "done":
            return
        if (self._plan.cases / job.folder).is_dir():
            self._update(job, first.recording)
        else:
            self._ledger.set_failed(job.id, "waiting", "its case is not there any more")

    def _set_problem(self, file: FoundFile, reason: str) -> None:
        self._ledger.put_problem(file.path, reason)
        self._listen(Note("failed", str(file.path), reason))

    def _hash(self, file: FoundFile) -> tuple[FoundFile, str | None]:
        """Return the file as it is now and its hash; None where it changes at every try."""
        known = self._ledger.known_hash(file)
        if known is not None:
            return file, known
        for _ in range(self._plan.retries + 1):
            sha256 = sha256_file(file.path)
            stat = file.path.stat()
            if (stat.st_size, stat.st_mtime_ns) == (file.size, file.mtime_ns):
                return file, sha256
            file = replace(file, size=stat.st_size, mtime_ns=stat.st_mtime_ns)
        return file, None

    def _folder(self, file: FoundFile, sha256: str) -> str:
        """Return the name of the case's folder: the file's name and as much of a hash as needed."""
        key = hashlib.sha256(f"{sha256} {self._key}".encode()).hexdigest()
        names = (f"{file.path.stem[:40]}-{key[:digits]}" for digits in (8, 16, 64))
        return self._ledger.free_folder(sha256, self._key, names)

    def _task_of(self, job: Job) -> Task | None:
        """Return the task that makes the case of a job; None where its files are gone."""
        # Not Path.exists, which raises in a folder that may not be entered.
        present = [file for file in self._ledger.files(job) if os.path.exists(file.path)]
        if not present:
            self._ledger.set_failed(job.id, "missing", GONE)
            return None
        file = present[0]
        cases = self._plan.cases.absolute()
        gallery = self._plan.gallery
        chunks = cases / CHUNKS / job.folder
        return Task(
            job=job.id,
            path=file.path,
            sha256=job.sha256,
            size=file.size,
            mtime_ns=file.mtime_ns,
            case=cases / job.folder,
            settings=self._settings,
            gallery=None if gallery is None else gallery.absolute(),
            recording=file.recording,
            chunks=chunks if chunks.is_dir() else None,
            report=self._plan.reports,
        )

    def _cut(self, task: Task) -> list[Task]:
        """Return the tasks for the chunks of a long file that have no detections yet."""
        seconds = self._plan.cut
        if seconds is None or self._plan.settings.detect.every > 1:
            # With detect.every the run detects in few whole frames: detecting in all of them
            # beforehand would take longer.
            return []
        length = length_of(task.path)
        if length is None or length < MIN_CHUNKS * seconds:
            return []
        if (task.case / CASE_DATABASE).exists():
            return []
        folder = self._plan.cases.absolute() / CHUNKS / task.case.name
        sampling = self._plan.settings.sampling
        start = sampling.start or 0.0
        end = min(length + seconds, sampling.end or float("inf"))
        tasks = []
        while start < min(end, length):
            file = folder / f"{round(start * 1000):012d}.sqlite"
            chunk = Chunk(start, min(start + seconds, end), file)
            if not file.exists():
                tasks.append(replace(task, chunks=folder, chunk=chunk))
            start += seconds
        return tasks

    # What came of it.

    def _handle(self, task: Task, outcome: Outcome) -> None:
        if outcome.status is Status.STOPPED:
            reason = f"the machine failed ({outcome.message})"
            remedy = "correct that and run the same command to continue"
            raise EnvironmentFailure(self._plan.cases, reason, remedy)
        if task.chunk is not None:
            self._handle_chunk(task, outcome)
            return
        if outcome.status is Status.BUSY:
            self._ready.append((time.monotonic() + BUSY_WAIT, task))
            return
        self._running.pop(task.job, None)
        job = self._ledger.job(task.job)
        if outcome.status is Status.DONE:
            self._handle_done(job, task, outcome)
        elif outcome.status is Status.CHANGED:
            self._handle_changed(job, task, outcome)
        else:
            retry = job.tries <= self._plan.retries and outcome.status is not Status.BAD
            self._ledger.set_failed(job.id, "waiting" if retry else "failed", outcome.message)
            self.reported_failures.add(job.folder)
            self._listen(Note("retry" if retry else "failed", str(task.path), outcome.message))

    def _handle_done(self, job: Job, task: Task, outcome: Outcome) -> None:
        self._bytes_done += task.size
        summary = {**outcome.summary, **_recording_summary(task.recording)}
        self._ledger.set_done(job.id, summary, outcome.seconds)
        self._listen(Note("done", str(task.path), f"{task.case} ({outcome.seconds:.1f} s)"))
        if outcome.message:
            self._listen(Note("warning", str(task.case), outcome.message))

    def _handle_chunk(self, task: Task, outcome: Outcome) -> None:
        """Release the job's own task after the last chunk; it repeats what failed chunks left."""
        if outcome.status is not Status.DONE:
            text = f"faces in one of its chunks were not detected beforehand: {outcome.message}"
            self._listen(Note("warning", str(task.path), text))
        following, chunks = self._held.pop(task.job)
        if chunks > 1:
            self._held[task.job] = (following, chunks - 1)
        else:
            self._ready.append((0.0, following))

    def _handle_changed(self, job: Job, task: Task, outcome: Outcome) -> None:
        times = self._ledger.set_changed(job, task.path, outcome.message)
        if times > self._plan.retries:
            text = f"{outcome.message.partition(';')[0]}, {times} times"
            self._listen(Note("failed", str(task.path), text))
            return
        self._listen(Note("changed", str(task.path), outcome.message))
        try:
            stat = task.path.stat()
        except OSError:
            return  # gone: its job is missing
        name = self._ledger.name_of(task.path)
        file = FoundFile(task.path, name, stat.st_size, stat.st_mtime_ns)
        self._files.append((file, self._plan.cameras.info_of(file.name)))

    # Cases that are done.

    def _update(self, job: Job, recording: Recording) -> None:
        """Update camera and clock, search and report of a finished case, without its footage."""
        folder = self._plan.cases / job.folder
        if not (folder / CASE_DATABASE).is_file():
            return  # purged
        try:
            messages = [*self._correct(job, folder, recording), *self._search_again(folder)]
            if self._plan.reports:
                refresh(folder)
        except FasrError as error:  # a case that is damaged or locked must not stop the others
            self._listen(Note("warning", str(folder), f"not updated: {error}"))
            return
        for message in messages:
            self._listen(Note("done", str(folder), message))

    def _correct(self, job: Job, folder: Path, recording: Recording) -> list[str]:
        """Store camera and clock in a case, if others are given now."""
        given = _recording_summary(recording)
        stored = {key: job.summary.get(key) for key in given}
        if recording == Recording() or stored == given:
            return []
        with only_writer(folder), Case.open(folder) as case:
            set_recording(case, 1, recording)
        self._ledger.set_done(job.id, {**job.summary, **given}, 0.0)
        return ["camera and clock corrected"]

    def _search_again(self, folder: Path) -> list[str]:
        """Search a case again if the gallery or the search settings changed since."""
        if self._plan.gallery is None:
            return []
        search = self._plan.settings.search
        with Gallery.open(self._plan.gallery, read_only=True) as gallery:
            with Case.open(folder, read_only=True) as case:
                if is_up_to_date(case, gallery, search):
                    return []
            if self._index is None or self._index[0] != gallery.state:
                self._index = (gallery.state, Index.open(gallery))
            index = self._index[1]
            result = search_case(folder, gallery, index, lambda last: search, reports=False)
        if not result.was_searched:
            return []
        lines = [f"{change.track} {line}" for change in result.changes for line in change.lines]
        return [f"searched again: {'; '.join(lines) or 'the same candidates'}"]

    # The time window.

    def _cannot_place(self, info: FileInfo) -> bool:
        """Return whether there is a time window, but no time of the file."""
        has_window = self._plan.after is not None or self._plan.before is not None
        return has_window and info.span is None

    def _is_outside(self, path: Path, info: FileInfo) -> bool:
        """Return whether a file surely lies outside of the time window."""
        if info.span is None:
            return False
        first, last = info.span
        after = self._plan.after
        before = self._plan.before
        if before is not None and first >= before.astimezone(UTC):
            return True
        if after is not None and last < after.astimezone(UTC):
            length = length_of(path)
            if length is not None:
                return last + timedelta(seconds=length) < after.astimezone(UTC)
        return False


def settings_key(settings: Settings) -> str:
    """Return a hash of the settings that a case cannot change later. Search settings can change."""
    fixed = settings.model_dump(mode="json", exclude={"search": True, "restore": {"subjects"}})
    return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()[:16]


def length_of(path: Path) -> float | None:
    """Return how many seconds of footage a file declares; None where it declares no length."""
    try:
        with av.open(str(path)) as container:
            return None if container.duration is None else container.duration / av.time_base
    except (av.error.FFmpegError, OSError, ValueError):
        return None


def prepare_gallery(given: Path | None, cases: Path, settings: Settings) -> Path | None:
    """Return the gallery for all jobs. A folder of photographs is first enrolled into one.

    Raise where no search could succeed: that is no fault of any file.
    """
    if given is None and settings.search.calibration is None:
        return None
    models = open_models(settings)
    if given is None:
        usable_calibration(settings.search, models.encoder.provenance())
        return None
    check_search(cases, given, models.encoder, settings.search)
    if (given / GALLERY_DATABASE).is_file():
        return given
    folder = cases / GALLERY
    embedder = models.encoder.embedder
    if (folder / GALLERY_DATABASE).is_file():
        gallery = Gallery.open(folder)
    else:
        gallery = Gallery.create(folder, embedder.name, embedder.sha256, embedder.length)
    with gallery:
        sync(
            gallery, given, models.detector, embedder, defaults=enrolment_defaults(settings.search)
        )
        Index.open(gallery)  # builds it now, so that not every worker does
    return folder


def _sort_key(queued: tuple[FoundFile, FileInfo]) -> tuple[int, bool, datetime, str]:
    file, info = queued
    start = datetime.max.replace(tzinfo=UTC) if info.span is None else info.span[0]
    return -info.priority, info.span is None, start, file.name


def _recording_summary(recording: Recording) -> dict[str, object]:
    return {"camera": recording.camera, "clock": recording.clock}
