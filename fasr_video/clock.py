"""The clocks: the time of day that is written down, and one that nobody can set."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def now() -> str:
    """Return the time of day in UTC, as ISO 8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def seconds_since_boot() -> float:
    """Return the seconds of a clock that nobody can set and that runs while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
