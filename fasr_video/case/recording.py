"""The camera that recorded footage and the state of its clock, as people state them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fasr_video.errors import UsageError


@dataclass(frozen=True, slots=True)
class Recording:
    """What people state about a recording; None is unknown. Times in the file are never changed."""

    camera: str | None = None
    clock: dict[str, Any] | None = None
    """`start` (wall time of the first frame, ISO 8601 with a time zone), `uncertainty_seconds`,
    `from` (given, csv or path), and what a correction was computed from."""


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
    clock = {"start": at.isoformat(), "uncertainty_seconds": seconds, "from": "given"}
    return Recording(camera, clock)


def clock_correction(clock: Mapping[str, Any]) -> str:
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
