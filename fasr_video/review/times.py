"""Times as people read and write them: times of the footage, and times of day."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta

from fasr_video.case.recording import StatedClock, clock_correction
from fasr_video.errors import UsageError

_REMEDY = "give H:MM:SS of the footage, or date and time, such as 2026-03-01 14:05"


@dataclass(frozen=True, slots=True)
class Clock:
    """The wall-clock time of a source, as far as it is known."""

    start: datetime
    """Time of the first frame, with its zone."""
    uncertainty: float
    """In seconds."""
    origin: str
    """How the time is known, such as `csv`."""
    correction: str = ""
    """What the camera showed, where its clock was corrected."""

    @classmethod
    def read(cls, stored: StatedClock | None) -> Clock | None:
        if stored is None:
            return None
        return cls(
            datetime.fromisoformat(stored["start"]),
            float(stored["uncertainty_seconds"]),
            str(stored["from"]),
            clock_correction(stored),
        )

    def at(self, seconds: float) -> datetime:
        return self.start + timedelta(seconds=seconds)

    def text(self, seconds: float) -> str:
        """Return for example 2026-03-01 14:00:03.480+01:00 ± 2 s."""
        return f"{self.at(seconds).isoformat(' ', 'milliseconds')} ± {self.uncertainty:g} s"


def parse(text: str) -> float | datetime:
    """Return seconds of the footage, or date and time.

    A time without a zone is in the zone of each source's own clock.
    """
    text = text.strip()
    try:
        if "-" in text or "T" in text:
            return datetime.fromisoformat(text)
        parts = [float(part) for part in text.split(":")]
    except ValueError as error:
        raise UsageError(f"time {text!r}", "not a time", _REMEDY) from error
    if len(parts) > 3 or not all(math.isfinite(p) and p >= 0 for p in parts):
        raise UsageError(f"time {text!r}", "not a time", _REMEDY)
    return float(sum(part * 60**i for i, part in enumerate(reversed(parts))))
