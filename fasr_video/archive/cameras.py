"""Cameras, clocks and priorities of files: from their paths by a pattern, and from a CSV that people keep.

The pattern is a regular expression over the path within the archive, with named groups: `camera`, `date` (YYYYMMDD,
with or without marks in it) and `time` (HHMMSS, or HHMM). What they leave open is uncertainty: a date alone a day.
The CSV has a line for some files (`glob`) or for a camera that the pattern found (`camera` alone); the first line that
fits counts.

    glob, camera, start, offset, offset_at, drift, uncertainty, zone, priority

`offset` are the seconds by which the camera's clock is ahead of true time, as measured at `offset_at`; `drift` the
seconds that it gains a day. `start` is the wall time of a file's first frame, for those whose name does not say it.
"""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from fnmatch import fnmatchcase
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from fasr_video.case.recording import Recording
from fasr_video.errors import InputError, UsageError

COLUMNS = (
    "glob",
    "camera",
    "start",
    "offset",
    "offset_at",
    "drift",
    "uncertainty",
    "zone",
    "priority",
)
GROUPS = {"camera", "date", "time"}
DAY = 86_400
# Seconds that a time of so many digits leaves open; of a date alone the longest day, on which
# clocks are set back.
RESOLUTIONS = {0: DAY + 3600, 2: 3600, 4: 60, 6: 1}
CENTURIES = 1e10  # seconds: no offset of a clock is larger
MOST_PRIORITY = 1_000_000


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the CSV."""

    glob: str
    camera: str
    start: str
    offset: float
    offset_at: str
    drift: float
    uncertainty: float
    zone: str
    priority: int


@dataclass(frozen=True, slots=True)
class Cameras:
    """What a user says of the files of an archive."""

    names: re.Pattern[str] | None = None
    lines: tuple[Line, ...] = ()
    zone: str = "UTC"
    """Of clocks whose line names none."""

    def of(self, path: str) -> Known:
        """What is known of the file at `path` (within the archive, with /)."""
        found = self.names.search(path) if self.names else None
        said = {k: v for k, v in found.groupdict().items() if v} if found else {}
        line = next((x for x in self.lines if _fits(x, path, said.get("camera", ""))), None)
        camera = (line.camera if line else "") or said.get("camera")
        priority = line.priority if line else 0
        try:
            return Known(Recording(camera, self._clock(said, line)), priority)
        except (ValueError, OverflowError) as error:
            return Known(Recording(camera), priority, f"its time cannot be read: {error}")

    def _clock(self, said: dict[str, str], line: Line | None) -> dict[str, object] | None:
        if line and line.start:
            shown, left_open, origin = datetime.fromisoformat(line.start), 0, "csv"
        elif "date" in said:
            shown, left_open = _from_name(said["date"], said.get("time", ""))
            origin = "path"
        else:
            return None
        shown, doubt = _in_zone(shown, _zone((line.zone if line else "") or self.zone))
        doubt += left_open
        if line is None:
            return {"start": shown.isoformat(), "uncertainty_seconds": doubt, "from": origin}
        ahead = line.offset
        if line.drift:
            measured, _ = _in_zone(datetime.fromisoformat(line.offset_at), shown.tzinfo)
            # In UTC: Python's difference of two times of one zone forgets that clocks were set back in between.
            ahead += (
                line.drift
                * (shown.astimezone(UTC) - measured.astimezone(UTC)).total_seconds()
                / DAY
            )
        true = (shown.astimezone(UTC) - timedelta(seconds=ahead)).astimezone(shown.tzinfo)
        clock: dict[str, object] = {"start": true.isoformat()}
        clock |= {"uncertainty_seconds": line.uncertainty + doubt, "from": origin}
        if ahead:
            clock |= {
                "shown": shown.isoformat(),
                "offset_seconds": line.offset,
                "drift_seconds_a_day": line.drift,
            }
        return clock


@dataclass(frozen=True, slots=True)
class Known:
    place: Recording = field(default_factory=Recording)
    priority: int = 0
    problem: str | None = None

    @property
    def span(self) -> tuple[datetime, datetime] | None:
        """The earliest and latest that its first frame may have been recorded, in UTC."""
        clock = self.place.clock
        if clock is None:
            return None
        start = datetime.fromisoformat(clock["start"]).astimezone(UTC)
        doubt = timedelta(seconds=clock["uncertainty_seconds"])
        return start - doubt, start + doubt


def read_cameras(names: str | None, file: Path | None, zone: str) -> Cameras:
    """Whatever is wrong with them is told before a file is touched."""
    try:
        _zone(zone)
    except ValueError as error:
        raise UsageError(
            f"--zone {zone}", str(error), "write it as Europe/Berlin or +02:00"
        ) from error
    return Cameras(_pattern(names), () if file is None else _lines(file), zone)


def _pattern(names: str | None) -> re.Pattern[str] | None:
    if names is None:
        return None
    try:
        pattern = re.compile(names)
    except re.error as error:
        raise UsageError(
            f"--names {names}", f"not a regular expression ({error})", "see docs/cli.md"
        ) from error
    unknown = set(pattern.groupindex) - GROUPS
    if unknown or not pattern.groupindex:
        reason = f"no such group {sorted(unknown)[0]}" if unknown else "it has no named group"
        raise UsageError(
            f"--names {names}", reason, "name groups camera, date and time, as (?P<camera>[^/]+)"
        )
    return pattern


def _lines(file: Path) -> tuple[Line, ...]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(file, f"cannot be read ({error})", "give a CSV file in UTF-8") from error
    try:
        return _read_lines(file, csv.DictReader(io.StringIO(text)))
    except csv.Error as error:
        raise InputError(
            file, f"not a CSV file that can be read ({error})", "save it again"
        ) from error


def _read_lines(file: Path, reader: csv.DictReader[str]) -> tuple[Line, ...]:
    columns = [(c or "").strip() for c in reader.fieldnames or ()]
    reader.fieldnames = columns
    unknown = sorted(set(columns) - set(COLUMNS))
    if unknown or not {"glob", "camera"} & set(columns):
        reason = (
            f"no such column {unknown[0]!r}"
            if unknown
            else "it has neither a column glob nor camera"
        )
        raise InputError(file, reason, f"use {', '.join(COLUMNS)}")
    return tuple(_line(file, number, row) for number, row in enumerate(reader, 2))


def _line(file: Path, number: int, row: dict[str, str | None]) -> Line:
    said = {c: (row.get(c) or "").strip() for c in COLUMNS}
    try:
        numbers = {c: float(said[c] or 0) for c in ("offset", "drift", "uncertainty")}
        line = Line(**{**said, **numbers, "priority": int(said["priority"] or 0)})  # type: ignore[arg-type]
        if not all(abs(n) < CENTURIES for n in numbers.values()) or line.uncertainty < 0:
            raise ValueError("a number of seconds is not one")
        if abs(line.priority) > MOST_PRIORITY:
            raise ValueError(f"a priority is at most {MOST_PRIORITY}")
        if line.drift and not line.offset_at:
            raise ValueError("a drift needs the time that the offset was measured at (offset_at)")
        for text in filter(None, (line.start, line.offset_at)):
            datetime.fromisoformat(text)
        if line.zone:
            _zone(line.zone)
        if not (line.glob or line.camera):
            raise ValueError("neither glob nor camera says which files it is about")
    except ValueError as error:
        raise InputError(f"{file}, line {number}", str(error), "correct it") from error
    return line


def _fits(line: Line, path: str, camera: str) -> bool:
    return fnmatchcase(path, line.glob) if line.glob else line.camera == camera


def _from_name(date: str, time: str) -> tuple[datetime, int]:
    """The earliest time that it says, and how many seconds later it may be."""
    day, digits = re.sub(r"\D", "", date), re.sub(r"\D", "", time)
    if len(day) != 8:  # strptime would take what is missing from the digits of the time
        raise ValueError(f"{date} is not YYYYMMDD")
    if len(digits) not in RESOLUTIONS:
        raise ValueError(f"{time} is not HHMM or HHMMSS")
    return datetime.strptime(day + digits.ljust(6, "0"), "%Y%m%d%H%M%S"), RESOLUTIONS[len(digits)]


def _zone(name: str) -> tzinfo:
    if re.fullmatch(r"[+-]\d\d:\d\d", name):
        zone = datetime.fromisoformat(f"2000-01-01T00:00:00{name}").tzinfo
        assert zone is not None
        return zone
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"no time zone {name} on this machine") from error


def _in_zone(at: datetime, zone: tzinfo | None) -> tuple[datetime, float]:
    """A time of day with its zone, and the seconds that this leaves in doubt: the hour in which clocks are set back
    comes twice, and the first is taken."""
    if at.tzinfo is not None:
        return at, 0.0
    early, late = at.replace(tzinfo=zone, fold=0), at.replace(tzinfo=zone, fold=1)
    doubt = ((early.utcoffset() or timedelta()) - (late.utcoffset() or timedelta())).total_seconds()
    return early, abs(doubt)
