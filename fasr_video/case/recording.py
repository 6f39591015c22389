"""The camera that recorded footage and the state of its clock, as people state them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from typing import NotRequired, TypedDict

from fasr_video.errors import UsageError

# A dictionary, because a field of a dataclass cannot be called `from`.
StatedClock = TypedDict(
    "StatedClock",
    {
        # The wall time of the first frame, in ISO 8601 with a time zone.
        "start": str,
        "uncertainty_seconds": float,
        # How it is known: given, csv, path or container.
        "from": str,
        # What a correction was computed from: what the camera showed, and how far it was off.
        "shown": NotRequired[str],
        "offset_seconds": NotRequired[float],
        "drift_seconds_a_day": NotRequired[float],
    },
)


@dataclass(frozen=True, slots=True)
class Recording:
    """What people state about a recording; None is unknown. Times in the file are never changed."""

    camera: str | None = None
    clock: StatedClock | None = None


def from_options(
    camera: str | None, start: str | None, uncertainty: float | None
) -> Recording | None:
    """Return the recording that these options describe, or None where none is given."""
    if start is None:
        if uncertainty is not None:
            raise UsageError(
                "--clock-uncertainty", "it states how far --clock may be off", "give --clock, too"
            )
        return None if camera is None else Recording(camera)
    at = read_time("--clock", start)
    seconds = uncertainty or 0.0
    if not math.isfinite(seconds) or seconds < 0:
        raise UsageError(
            "--clock-uncertainty", f"{seconds} is not a length of time", "give seconds, 0 or more"
        )
    clock: StatedClock = {"start": at.isoformat(), "uncertainty_seconds": seconds, "from": "given"}
    return Recording(camera, clock)


def clock_correction(clock: StatedClock) -> str:
    """Return what the camera's clock showed where it was corrected, else an empty text."""
    if "shown" not in clock:
        return ""
    shown = datetime.fromisoformat(clock["shown"])
    seconds = (shown - datetime.fromisoformat(clock["start"])).total_seconds()
    side = "ahead" if seconds > 0 else "behind"
    return f"the camera showed {clock['shown']}, {abs(seconds):g} s {side}"


def read_time(what: str, text: str) -> datetime:
    """Return an ISO 8601 time; raise where it is invalid or has no time zone."""
    remedy = "write it as 2024-05-01T13:00:00+02:00"
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"{what} {text}", "not a time in ISO 8601", remedy) from error
    if at.tzinfo is None:
        raise UsageError(f"{what} {text}", "it has no time zone", remedy)
    return at
