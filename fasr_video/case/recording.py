"""Where and when footage was recorded, as far as somebody says so: a camera's name, and its clock."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fasr_video.errors import UsageError


@dataclass(frozen=True, slots=True)
class Recording:
    """What is known of a recording from outside of it. Times in the video stay those of the file. None was not said."""

    camera: str | None = None
    clock: dict[str, Any] | None = None
    """`start` (ISO 8601, with its zone: the first frame's wall time), `uncertainty_seconds`, `from` (given, csv, path),
    and what a correction was made from."""


def recording_from_options(
    camera: str | None, start: str | None, uncertainty: float | None
) -> Recording | None:
    """As the command line names it; None where it says nothing."""
    if start is None:
        if uncertainty is not None:
            raise UsageError(
                "--clock-uncertainty", "it says how far --clock may be off", "give --clock, too"
            )
        return None if camera is None else Recording(camera)
    at = read_time("--clock", start)
    doubt = uncertainty or 0.0
    if not math.isfinite(doubt) or doubt < 0:
        raise UsageError(
            "--clock-uncertainty", f"{doubt} is not a length of time", "give seconds, 0 or more"
        )
    return Recording(
        camera, {"start": at.isoformat(), "uncertainty_seconds": doubt, "from": "given"}
    )


def clock_correction(clock: Mapping[str, Any]) -> str:
    """What the camera showed, where its clock was put right; empty where it was not."""
    if "shown" not in clock:
        return ""
    ahead = (
        datetime.fromisoformat(clock["shown"]) - datetime.fromisoformat(clock["start"])
    ).total_seconds()
    return (
        f"the camera showed {clock['shown']}, {abs(ahead):g} s {'ahead' if ahead > 0 else 'behind'}"
    )


def read_time(what: str, text: str) -> datetime:
    """ISO 8601 with its zone: a time of day without one is no time."""
    remedy = "write it as 2024-05-01T13:00:00+02:00"
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"{what} {text}", "not a time in ISO 8601", remedy) from error
    if at.tzinfo is None:
        raise UsageError(f"{what} {text}", "it names no zone", remedy)
    return at
