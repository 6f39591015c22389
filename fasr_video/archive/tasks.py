"""What a batch hands to a worker, and what comes back. Imports no models, so it loads quickly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from fasr_video import __version__
from fasr_video.case.recording import Recording

# Called now and then with the share of the footage that is done, from 0 to 1.
OnProgress = Callable[[float], None]


class Status(StrEnum):
    """How a task ended."""

    DONE = "done"
    # Another try would end the same way: the file is not a video.
    BAD = "bad"
    # Another try may succeed.
    FAILED = "failed"
    # The file is not the one that was hashed, or changed while it was read.
    CHANGED = "changed"
    # Another process is writing the case: a worker that lost its scheduler and is still finishing.
    BUSY = "busy"
    # This worker cannot do any task: its models are missing, or it runs another version.
    UNFIT = "unfit"
    # The machine failed: the disk is full.
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Chunk:
    """A stretch of a long file. Faces are detected in several of them at the same time."""

    start: float
    end: float
    file: Path
    """Where to write the detections."""


@dataclass(frozen=True, slots=True)
class Task:
    """All that a worker needs to know. Each path must name the same file on every machine."""

    job: int
    path: Path
    sha256: str
    size: int
    mtime_ns: int
    case: Path
    settings: str
    """As JSON."""
    gallery: Path | None
    recording: Recording
    chunks: Path | None = None
    """The folder with the detections of the file's chunks."""
    chunk: Chunk | None = None
    """Set where the task is to detect in one chunk, not to make the case."""
    report: bool = True
    """Whether to write a report into the case."""
    version: str = __version__


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a task."""

    status: Status
    message: str = ""
    """One line: why the task is not done, or what went wrong although it is."""
    summary: Mapping[str, object] = field(default_factory=dict)
    """The numbers of the finished case, as the ledger stores them."""
    seconds: float = 0.0


RunTask = Callable[[Task, OnProgress], Outcome]
