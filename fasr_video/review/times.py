"""Times as people read and write them: of the footage, and of the day where a source's clock is known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from fasr_video.case.recording import clock_correction
from fasr_video.errors import UsageError

_REMEDY = "give H:MM:SS of the footage, or a date with a time, as 2026-03-01 14:05"


@dataclass(frozen=True, slots=True)
class Clock:
    """What is known of the wall time of a source."""

    start: datetime
    """Of the first frame, with its zone."""
    uncertainty: float
    """In seconds."""
    said_by: str
    clock_correction: str = ""
    """What the camera showed, where its clock was put right."""

    @classmethod
    def read(cls, known: Mapping[str, Any] | None) -> Clock | None:
        if known is None:
            return None
        return cls(
            datetime.fromisoformat(known["start"]),
            float(known["uncertainty_seconds"]),
            str(known["from"]),
            clock_correction(known),
        )

    def at(self, seconds: float) -> datetime:
        return self.start + timedelta(seconds=seconds)

    def shown(self, seconds: float) -> str:
        """2026-03-01 14:00:03.480+01:00 ± 2 s"""
        return f"{self.at(seconds).isoformat(' ', 'milliseconds')} ± {self.uncertainty:g} s"


def parse(text: str) -> float | datetime:
    """Seconds of the footage, or a time of the day (without a zone: that of each source's own clock)."""
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
