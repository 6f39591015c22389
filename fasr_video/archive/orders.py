"""What a batch asks of a worker, and what it hears back. Light to import: schedulers pass these on, and do no work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from fasr_video import __version__
from fasr_video.case.recording import Recording

# Is told what share of the footage is done, now and then.
Tell = Callable[[float], None]


class End(StrEnum):
    """How a unit ended."""

    DONE = "done"
    # What is wrong will be wrong again: a file that is no footage.
    BAD = "bad"
    # It may go better another time.
    FAILED = "failed"
    # The file is not, or did not stay, what was hashed.
    CHANGED = "changed"
    # Somebody else is writing its case: a worker that lost its scheduler, and ends in its own time.
    BUSY = "busy"
    # This worker cannot do any unit: no models, or another version.
    UNFIT = "unfit"
    # The machine gave up: the disk is full.
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of a long file, to be looked at beside the others."""

    start: float
    end: float
    file: Path
    """Where to write what was found."""


@dataclass(frozen=True, slots=True)
class Order:
    """All that a worker needs to know; paths mean the same file on every machine."""

    unit: int
    path: Path
    sha256: str
    size: int
    mtime_ns: int
    case: Path
    settings: str
    """As JSON."""
    gallery: Path | None
    place: Recording
    looks: Path | None = None
    """Folder of what was found in parts of it."""
    part: Part | None = None
    report: bool = True
    """Whether the case gets one."""
    version: str = __version__


@dataclass(frozen=True, slots=True)
class Outcome:
    end: End
    text: str = ""
    """One line: why it is not done, or what is wrong with it all the same."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


Work = Callable[[Order, Tell], Outcome]
