"""An archive into cases: files in their order, each content once, each unit until it is done or given up."""

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

from fasr_video.archive.again import is_answered, search_one
from fasr_video.archive.cameras import Cameras, Known
from fasr_video.archive.ledger import GONE, PARTS, File, Ledger, Unit
from fasr_video.archive.orders import End, Order, Outcome, Part
from fasr_video.archive.scan import Found
from fasr_video.archive.schedulers import Scheduler
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
from fasr_video.pipeline.search import check_search, enrolment_defaults
from fasr_video.report.write import refresh

# Seconds after which a case that somebody else is writing is tried again.
BUSY_WAIT = 5.0
# A file is cut when it is so many times longer than its parts would be: else there is nothing to
# spread.
LONG = 1.5
GALLERY = "gallery"
NO_CAMERAS = Cameras()


@dataclass(frozen=True, slots=True)
class Job:
    """What is asked of a batch."""

    cases: Path
    settings: Settings
    gallery: Path | None = None
    cameras: Cameras = NO_CAMERAS
    after: datetime | None = None
    before: datetime | None = None
    retries: int = 2
    again: bool = False
    """Try what failed before, too."""
    cut: float | None = None
    """Seconds of the parts that a long file is looked at in."""
    reports: bool = True
    """Whether each case gets one."""


@dataclass(frozen=True, slots=True)
class Tick:
    """How far it all is."""

    done: int
    failed: int
    running: int
    waiting: int
    seconds_left: float | None


@dataclass(frozen=True, slots=True)
class Note:
    """One line about one thing."""

    event: str
    """done, failed, again, changed, skipped, warning"""
    about: str
    text: str


Listener = Callable[[Tick | Note], None]


class Batch:
    """Feed it files; take steps until nothing is open."""

    def __init__(self, ledger: Ledger, scheduler: Scheduler, job: Job, listen: Listener) -> None:
        self._ledger, self._scheduler, self._job, self._listen = ledger, scheduler, job, listen
        self._settings = job.settings.model_dump_json()
        self._key = settings_key(job.settings)
        self._feed: deque[tuple[Found, Known]] = deque()
        self._ready: list[tuple[float, Order]] = []
        """Orders of units that are taken, and when they may be given out."""
        self._parts: deque[Order] = deque()
        self._held: dict[int, tuple[Order, int]] = {}
        """Units of which parts are looked at: the order that follows, and how many parts are open."""
        self._running: dict[int, tuple[int, float]] = {}
        """Bytes of each unit at work, and the share of them that is done."""
        self._index: tuple[str, Index] | None = None
        """Of the gallery that finished cases are asked anew with, and of which state of it."""
        self._began, self._worked = time.monotonic(), 0
        self.outside = 0
        """Files outside of the window."""
        self.told: set[str] = set()
        """Folders of the units whose failure was told."""

    def feed(self, files: Iterable[Found]) -> None:
        """Files to be worked off: by priority, then by wall time (unknown ones last), then by name."""
        files = list(files)
        self._ledger.put_readable(files)
        for found in files:
            known = self._job.cameras.of(found.name)
            reason = self._out_of_window(found.path, known)
            if reason is None:
                self._feed.append((found, known))
            elif reason:
                self._problem(found, reason)
            else:
                self.outside += 1
        self._feed = deque(sorted(self._feed, key=lambda x: _order(*x)))

    @property
    def open(self) -> bool:
        at_work = self._running or self._ready or self._parts or self._held
        return bool(self._feed or at_work or self._ledger.sizes()["waiting"][0])

    def step(self, seconds: float) -> None:
        """Give out what there is room for, and note what has ended."""
        while self._scheduler.room() > 0 and (order := self._next()) is not None:
            self._running.setdefault(order.unit, (order.size, 0.0))
            self._scheduler.submit(order)
        for order, outcome in self._scheduler.wait(seconds):
            self._note(order, outcome)
        self._listen(self.tick())

    def share(self, order: Order, share: float) -> None:
        """A worker says how far it is."""
        self._running[order.unit] = (order.size, share)
        self._listen(self.tick())

    def tick(self) -> Tick:
        sizes = self._ledger.sizes()
        waiting = len(self._feed) + sizes["waiting"][0]
        left = sum(found.size for found, _ in self._feed) + sizes["waiting"][1]
        left += sum(round(size * (1 - share)) for size, share in self._running.values())
        worked = self._worked + sum(size * share for size, share in self._running.values())
        spent = time.monotonic() - self._began
        rate = worked / spent if spent > 0 else 0.0
        left_over = left / rate if rate and left else None
        return Tick(sizes["done"][0], sizes["failed"][0], sizes["running"][0], waiting, left_over)

    # What comes next.

    def _next(self) -> Order | None:
        now = time.monotonic()
        for k, (when, order) in enumerate(self._ready):
            if when <= now:
                del self._ready[k]
                return order
        while not self._parts:
            unit = self._ledger.take()
            if unit is not None:
                self._begin(unit)
            elif self._feed:
                self._put(*self._feed.popleft())
            else:
                return None
            if self._ready and self._ready[-1][0] == 0.0:
                return self._ready.pop()[1]
        return self._parts.popleft()

    def _begin(self, unit: Unit) -> None:
        order = self._order_of(unit)
        if order is None:
            return
        parts = self._cut(order)
        if parts:
            self._held[unit.id] = (replace(order, looks=parts[0].looks), len(parts))
            self._parts.extend(parts)
        else:
            self._ready.append((0.0, order))

    def _put(self, found: Found, known: Known) -> None:
        """A file into the ledger, and its content among the units."""
        try:
            found, sha256 = self._hash(found)
        except OSError as error:
            self._problem(found, f"cannot be read ({error.strerror})")
            return
        if sha256 is None:
            self._problem(found, "it changes while it is read")
            return
        self._ledger.put_file(found, sha256, known)
        if known.problem:
            self._listen(Note("warning", str(found.path), known.problem))
        unit = self._ledger.put_job(
            sha256, self._key, self._folder(found, sha256), found.size, self._job.again
        )
        first = self._ledger.files(unit)[0]
        if first.path != found.path:
            self._listen(Note("skipped", str(found.path), f"the same footage as {first.path}"))
        if unit.state == "done" and not (self._job.cases / unit.folder).is_dir():
            self._ledger.failed(unit.id, "waiting", "its case is not there any more")
        elif unit.state == "done":
            self._bring_up(unit, first.place)

    def _problem(self, found: Found, why: str) -> None:
        self._ledger.put_problem(found.path, why)
        self._listen(Note("failed", str(found.path), why))

    def _hash(self, found: Found) -> tuple[Found, str | None]:
        """Of a file that is the same before and after; None when it never is."""
        known = self._ledger.hash_of(found)
        if known is not None:
            return found, known
        for _ in range(self._job.retries + 1):
            sha256, facts = sha256_file(found.path), found.path.stat()
            if (facts.st_size, facts.st_mtime_ns) == (found.size, found.mtime_ns):
                return found, sha256
            found = replace(found, size=facts.st_size, mtime_ns=facts.st_mtime_ns)
        return found, None

    def _folder(self, found: Found, sha256: str) -> str:
        key = hashlib.sha256(f"{sha256} {self._key}".encode()).hexdigest()
        names = (f"{found.path.stem[:40]}-{key[:digits]}" for digits in (8, 16, 64))
        return self._ledger.free_folder(sha256, self._key, names)

    def _order_of(self, unit: Unit) -> Order | None:
        there = [
            f for f in self._ledger.files(unit) if os.path.exists(f.path)
        ]  # Path.exists raises in a closed folder
        if not there:
            self._ledger.failed(unit.id, "missing", GONE)
            return None
        f: File = there[0]
        cases, gallery = self._job.cases.absolute(), self._job.gallery
        looks = cases / PARTS / unit.folder
        return Order(
            *(
                unit.id,
                f.path,
                unit.sha256,
                f.size,
                f.mtime_ns,
                cases / unit.folder,
                self._settings,
            ),
            gallery=None if gallery is None else gallery.absolute(),
            place=f.place,
            looks=looks if looks.is_dir() else None,
            report=self._job.reports,
        )

    def _cut(self, order: Order) -> list[Order]:
        """The parts of a long file that nobody has looked at."""
        if self._job.settings.detect.every > 1:
            return []  # the run asks for few whole pictures then: looking at all of them beforehand would cost more
        length, seconds = None if self._job.cut is None else length_of(order.path), self._job.cut
        if (
            length is None
            or seconds is None
            or length < LONG * seconds
            or (order.case / CASE_DATABASE).exists()
        ):
            return []
        folder = self._job.cases.absolute() / PARTS / order.case.name
        sampling = self._job.settings.sampling
        at, stop = sampling.start or 0.0, min(length + seconds, sampling.end or float("inf"))
        orders = []
        while at < min(stop, length):
            part = Part(at, min(at + seconds, stop), folder / f"{round(at * 1000):012d}.sqlite")
            if not part.file.exists():
                orders.append(replace(order, looks=folder, part=part))
            at += seconds
        return orders

    # What became of it.

    def _note(self, order: Order, outcome: Outcome) -> None:
        if outcome.end is End.STOPPED:
            reason, remedy = (
                f"the machine gave up ({outcome.text})",
                "put it right and give the same command: it goes on",
            )
            raise EnvironmentFailure(self._job.cases, reason, remedy)
        if order.part is not None:
            self._note_part(order, outcome)
            return
        if outcome.end is End.BUSY:
            self._ready.append((time.monotonic() + BUSY_WAIT, order))
            return
        self._running.pop(order.unit, None)
        unit = self._ledger.unit(order.unit)
        if outcome.end is End.DONE:
            self._worked += order.size
            self._ledger.done(unit.id, {**outcome.facts, **_placed(order.place)}, outcome.seconds)
            self._listen(Note("done", str(order.path), f"{order.case} ({outcome.seconds:.1f} s)"))
            if outcome.text:
                self._listen(Note("warning", str(order.case), outcome.text))
        elif outcome.end is End.CHANGED:
            self._note_change(unit, order, outcome)
        else:
            tried = unit.tries <= self._job.retries and outcome.end is not End.BAD
            self._ledger.failed(unit.id, "waiting" if tried else "failed", outcome.text)
            self.told.add(unit.folder)
            self._listen(Note("again" if tried else "failed", str(order.path), outcome.text))

    def _note_part(self, order: Order, outcome: Outcome) -> None:
        """Whatever a part does not bring, the run looks at itself."""
        whole, parts = self._held.pop(order.unit)
        if outcome.end is not End.DONE:
            self._listen(
                Note(
                    "warning",
                    str(order.path),
                    f"a part of it was not looked at beforehand: {outcome.text}",
                )
            )
        if parts > 1:
            self._held[order.unit] = (whole, parts - 1)
        else:
            self._ready.append((0.0, whole))

    def _note_change(self, unit: Unit, order: Order, outcome: Outcome) -> None:
        times = self._ledger.changed(unit, order.path, outcome.text)
        if times > self._job.retries:
            self._listen(
                Note("failed", str(order.path), f"{outcome.text.partition(';')[0]}, {times} times")
            )
            return
        self._listen(Note("changed", str(order.path), outcome.text))
        try:
            facts = order.path.stat()
        except OSError:
            return  # gone: its unit is missing
        found = Found(
            order.path, self._ledger.name_of(order.path), facts.st_size, facts.st_mtime_ns
        )
        self._feed.append((found, self._job.cameras.of(found.name)))

    def _bring_up(self, unit: Unit, place: Recording) -> None:
        """What was said or asked otherwise since a case was done, and its report: no footage is needed for them."""
        folder = self._job.cases / unit.folder
        if not (folder / CASE_DATABASE).is_file():
            return  # purged
        try:
            done = [*self._correct(unit, folder, place), *self._ask(folder)]
            if self._job.reports:
                refresh(folder)
        except FasrError as error:  # one case that is damaged or held by somebody stops no archive
            self._listen(Note("warning", str(folder), f"not brought up to date: {error}"))
            return
        for text in done:
            self._listen(Note("done", str(folder), text))

    def _correct(self, unit: Unit, folder: Path, place: Recording) -> list[str]:
        """Camera and clock, where they were said otherwise."""
        said = {k: unit.facts.get(k) for k in ("camera", "clock")}
        if place == Recording() or said == _placed(place):
            return []
        with only_writer(folder), Case.open(folder) as case:
            set_recording(case, 1, place)
        self._ledger.done(unit.id, {**unit.facts, **_placed(place)}, 0.0)
        return ["camera and clock corrected"]

    def _ask(self, folder: Path) -> list[str]:
        """The gallery, where it or the settings of the search are others than those that the case was asked with."""
        if self._job.gallery is None:
            return []
        search = self._job.settings.search
        with Gallery.open(self._job.gallery, read_only=True) as gallery:
            with Case.open(folder, read_only=True) as case:
                if is_answered(case, gallery, search):
                    return []
            if self._index is None or self._index[0] != gallery.state:
                self._index = gallery.state, Index.open(gallery)
            found = search_one(folder, gallery, self._index[1], lambda last: search, reports=False)
        changes = [f"{c.track} {change}" for c in found.changes for change in c.told]
        return (
            [f"searched again: {'; '.join(changes) or 'the same candidates'}"]
            if found.asked
            else []
        )

    def _out_of_window(self, path: Path, known: Known) -> str | None:
        """None within it, "" outside of it, and a reason where nobody can say."""
        after, before = self._job.after, self._job.before
        if after is None and before is None:
            return None
        if known.span is None:
            return known.problem or "no time is known of it, and a window was asked for"
        first, last = known.span
        if before is not None and first >= before.astimezone(UTC):
            return ""
        if after is not None and last < after.astimezone(UTC):
            length = length_of(path)
            if length is not None and last + timedelta(seconds=length) < after.astimezone(UTC):
                return ""
        return None


def settings_key(settings: Settings) -> str:
    """Of all settings that a case is fixed with; whom to search for may be asked anew."""
    chosen = settings.model_dump(mode="json", exclude={"search": True, "restore": {"subjects"}})
    chosen["track"]["appearance_weight"] = (
        0.5  # as in ledgers of before: what they hold as done stays done
    )
    return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()[:16]


def length_of(path: Path) -> float | None:
    """Seconds, as the file declares; None when it does not."""
    try:
        with av.open(str(path)) as container:
            return None if container.duration is None else container.duration / av.time_base
    except (av.error.FFmpegError, OSError, ValueError):
        return None


def prepare_gallery(given: Path | None, cases: Path, settings: Settings) -> Path | None:
    """The gallery for all units: as it is, or a folder of photographs enrolled once into the cases' folder.

    What would stop each search is told here: it is no fault of any file.
    """
    if given is None:
        return None
    models, own = open_models(settings), cases / GALLERY
    check_search(cases, given, models.encoder, settings.search)
    if (given / GALLERY_DATABASE).is_file():
        return given
    embedder = models.encoder.embedder
    if (own / GALLERY_DATABASE).is_file():
        gallery = Gallery.open(own)
    else:
        gallery = Gallery.create(own, embedder.name, embedder.sha256, embedder.length)
    with gallery:
        sync(
            gallery, given, models.detector, embedder, defaults=enrolment_defaults(settings.search)
        )
        Index.open(gallery)  # made once, for all workers
    return own


def _order(found: Found, known: Known) -> tuple[int, bool, datetime, str]:
    start = datetime.max.replace(tzinfo=UTC) if known.span is None else known.span[0]
    return -known.priority, known.span is None, start, found.name


def _placed(place: Recording) -> dict[str, object]:
    return {"camera": place.camera, "clock": place.clock}
