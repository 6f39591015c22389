"""What the tests of archives share: quick settings, files, and a whole batch in one call."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from fasr_video.archive.batch import Batch, Job, Note, Tick
from fasr_video.archive.ledger import Ledger, Unit
from fasr_video.archive.orders import Work
from fasr_video.archive.scan import scan
from fasr_video.archive.schedulers import Local, Scheduler
from fasr_video.configs import settings as configs
from fasr_video.configs.settings import Settings
from tests.units import copy_content

QUICK = (
    *(
        "detect.backend=haar",
        "restore.method=none",
        "sampling.fps=2",
        "sampling.start=2",
        "case.segment_frames=2",
    ),
    *("track.min_sightings=2", "track.max_gap=2"),
)
SETTINGS = configs.load("cpu", QUICK)


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
    archive: Path,
    cases: Path,
    do: Work = copy_content,
    scheduler: Scheduler | None = None,
    settings: Settings = SETTINGS,
    **more: object,
) -> tuple[Told, list[Unit]]:
    """A whole batch; returns what it said, and the units after it."""
    told, job = Told(), Job(cases, settings, **more)  # type: ignore[arg-type]
    with Ledger.open(cases) as ledger:
        found = scan(archive, None, cases)
        ledger.put_unread(archive, found)
        ledger.put_gone(archive, found)
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
