"""What the tests of archives share: quick settings, and units of work that are quick to do."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from pathlib import Path

from fasr_video.archive.batch import Batch, Job, Note, Tick
from fasr_video.archive.ledger import Ledger, Unit
from fasr_video.archive.scan import scan
from fasr_video.archive.schedulers import Local, Scheduler
from fasr_video.archive.unit import End, Order, Outcome, Tell, Work
from fasr_video.configs import settings as configs

QUICK = (
    *("detect.backend=haar", "restore.method=none", "sampling.fps=2", "sampling.start=2", "case.segment_frames=2"),
    *("track.min_sightings=2", "track.max_gap=2"),
)
SETTINGS = configs.load("cpu", QUICK)


def copy_content(order: Order, tell: Tell) -> Outcome:
    """Writes what the file holds into its case; a file that says `bad` is no footage, `poor` fails each time, and
    `killer` takes its worker down the first time."""
    text = order.path.read_text()
    order.case.mkdir(parents=True, exist_ok=True)
    tries = order.case / "tries"
    tries.write_text(tries.read_text() + "x" if tries.exists() else "x")
    if text == "killer" and tries.read_text() == "x":
        os.kill(os.getpid(), signal.SIGKILL)
    if text == "slow":
        time.sleep(60)
    if text in {"bad", "poor"}:
        return Outcome(End.BAD if text == "bad" else End.FAILED, f"{order.path}: no good; give another")
    (order.case / "content").write_text(text)
    return Outcome(End.DONE, facts={"frames": len(text), "tracks": 0})


def change_once(order: Order, tell: Tell) -> Outcome:
    """A file that says `early` grows while it is read."""
    if order.path.read_text() == "early":
        order.path.write_text("late, and longer")
        return Outcome(End.CHANGED, f"{order.path}: it changed while it was read; it is read again")
    return copy_content(order, tell)


def just_done(order: Order, tell: Tell) -> Outcome:
    return Outcome(End.DONE)


def change_always(order: Order, tell: Tell) -> Outcome:
    order.path.write_text(order.path.read_text() + "x")
    return Outcome(End.CHANGED, f"{order.path}: it changed while it was read; it is read again")


def files(folder: Path, **contents: str) -> Path:
    """Files by their names, __ for / and _ for nothing else; each ends in .mp4."""
    for name, content in contents.items():
        path = folder / (name.replace("__", "/") + ".mp4")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


class Told:
    """What a batch said."""

    def __init__(self) -> None:
        self.notes: list[Note] = []
        self.ticks: list[Tick] = []

    def __call__(self, event: Tick | Note) -> None:
        (self.notes if isinstance(event, Note) else self.ticks).append(event)  # type: ignore[arg-type]

    def about(self, event: str) -> list[str]:
        return [Path(n.about).stem for n in self.notes if n.event == event]


def work_off(
    archive: Path, cases: Path, do: Work = copy_content, scheduler: Scheduler | None = None, **more: object
) -> tuple[Told, list[Unit]]:
    """A whole batch; returns what it said, and the units after it."""
    told, job = Told(), Job(cases, SETTINGS, **more)  # type: ignore[arg-type]
    with Ledger.open(cases) as ledger:
        found = scan(archive, None, cases)
        ledger.put_unread(found.unread)
        batch = Batch(ledger, scheduler or Local(do, lambda order, share: None), job, told)
        batch.feed(found.files)
        while batch.open:
            batch.step(0.1)
        return told, ledger.units()


def ledger_says(cases: Path, query: str) -> list[tuple[object, ...]]:
    if not (cases / "ledger.sqlite").exists():
        return []
    with sqlite3.connect(f"file:{cases / 'ledger.sqlite'}?mode=ro", uri=True, timeout=10) as db:
        try:
            return db.execute(query).fetchall()
        except sqlite3.OperationalError:  # just being made
            return []


def environment(order: Order, tell: Tell) -> Outcome:
    """Tells what its process was given."""
    tell(0.5)
    facts = {name: os.environ.get(name, "") for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")}
    return Outcome(End.DONE, facts=facts)


def hoard(order: Order, tell: Tell) -> Outcome:
    """Takes memory without end, but for a file that says `modest`."""
    if order.path.read_text() == "modest":
        return Outcome(End.DONE)
    held = []
    while True:
        held.append(bytearray(b"x" * 20_000_000))
        time.sleep(0.02)


def never_fit(order: Order, tell: Tell) -> Outcome:
    return Outcome(End.UNFIT, "detector.safetensors: missing; put the box back")
