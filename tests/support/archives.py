"""What the tests of archives share: quick settings, files, and a batch in one call."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from fasr_video.archive.batch import Batch, BatchPlan, BatchProgress, Note
from fasr_video.archive.ledger import Job, Ledger
from fasr_video.archive.scan import scan
from fasr_video.archive.schedulers import Local, Scheduler
from fasr_video.archive.tasks import RunTask
from fasr_video.configs import settings as configs
from fasr_video.configs.settings import Settings
from tests.support.quick_tasks import copy_content

QUICK = (
    "detect.backend=haar",
    "restore.method=none",
    "sampling.fps=2",
    "sampling.start=2",
    "case.segment_frames=2",
    "track.min_sightings=2",
    "track.max_gap=2",
)
SETTINGS = configs.load("cpu", QUICK)


def write_files(folder: Path, **contents: str) -> Path:
    """Write files, and return their folder. In a name __ stands for /, and .mp4 is appended."""
    for name, content in contents.items():
        path = folder / (name.replace("__", "/") + ".mp4")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


class Events:
    """The events that a batch passed to its listener."""

    def __init__(self) -> None:
        self.notes: list[Note] = []
        self.progress: list[BatchProgress] = []

    def __call__(self, event: BatchProgress | Note) -> None:
        if isinstance(event, Note):
            self.notes.append(event)
        else:
            self.progress.append(event)

    def about(self, event: str) -> list[str]:
        """Return the files or cases that notes of one kind are about."""
        return [Path(note.about).stem for note in self.notes if note.event == event]


def run_batch(
    archive: Path,
    cases: Path,
    run_task: RunTask = copy_content,
    scheduler: Scheduler | None = None,
    *,
    settings: Settings = SETTINGS,
    **options: object,
) -> tuple[Events, list[Job]]:
    """Run a batch to its end; returns its events, and the jobs afterwards."""
    events = Events()
    plan = BatchPlan(cases, settings, **options)  # type: ignore[arg-type]
    if scheduler is None:
        scheduler = Local(run_task, lambda task, share: None)
    with Ledger.open(cases) as ledger:
        scanned = scan(archive, None, cases)
        ledger.put_unread(archive, scanned)
        ledger.put_gone(archive, scanned)
        batch = Batch(ledger, scheduler, plan, events)
        batch.add_files(scanned.files)
        while not batch.is_finished:
            batch.step(0.1)
        return events, ledger.jobs()


def query_ledger(cases: Path, query: str) -> list[tuple[Any, ...]]:
    """Return rows of a ledger that another process may be writing; none while it is created."""
    if not (cases / "ledger.sqlite").exists():
        return []
    with sqlite3.connect(f"file:{cases / 'ledger.sqlite'}?mode=ro", uri=True, timeout=10) as db:
        try:
            return db.execute(query).fetchall()
        except sqlite3.OperationalError:  # just being created
            return []
