"""Cameras, clocks and priorities of files, read from their paths and from a CSV file.

The pattern is a regular expression over the path within the archive, with named groups: `camera`,
`date` (YYYYMMDD, with or without separators) and `time` (HHMMSS, HHMM or HH). What they leave open
is uncertainty: a date alone means a day. The CSV has a row for some files (`glob`), or for a camera
that the pattern gave (`camera` alone); the first row that fits a file counts.

    glob, camera, start, offset, offset_at, drift, uncertainty, zone, priority

`offset` is how many seconds the camera's clock is ahead of true time, as measured at `offset_at`;
`drift`, how many seconds it gains a day. `start` is the wall time of a file's first frame, for
files whose path does not say it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from fnmatch import fnmatchcase
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from fasr_video.case.recording import Recording, StatedClock
from fasr_video.csv_file import read_csv
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
# Seconds that a time leaves open, by its number of digits. A date alone leaves open the longest day,
# on which clocks are set back.
RESOLUTIONS = {0: DAY + 3600, 2: 3600, 4: 60, 6: 1}
CENTURIES = 1e10  # seconds: no offset of a clock is larger
MOST_PRIORITY = 1_000_000


@dataclass(frozen=True, slots=True)
class CameraRow:
    """One row of the CSV."""

    glob: str
    camera: str
    start: str
    offset: float
    offset_at: str
    drift: float
    uncertainty: float
    zone: str
    priority: int

    def fits(self, path: str, camera: str) -> bool:
        """Return whether the row is about this file, whose path gives this camera."""
        return fnmatchcase(path, self.glob) if self.glob else self.camera == camera


@dataclass(frozen=True, slots=True)
class FileInfo:
    """What is known of a file before it is opened."""

    recording: Recording = field(default_factory=Recording)
    priority: int = 0
    problem: str | None = None

    @property
    def span(self) -> tuple[datetime, datetime] | None:
        """The earliest and the latest time at which its first frame was recorded, in UTC."""
        clock = self.recording.clock
        if clock is None:
            return None
        start = datetime.fromisoformat(clock["start"]).astimezone(UTC)
        uncertainty = timedelta(seconds=clock["uncertainty_seconds"])
        return start - uncertainty, start + uncertainty


@dataclass(frozen=True, slots=True)
class Cameras:
    """What the user says about the files of an archive."""

    names: re.Pattern[str] | None = None
    rows: tuple[CameraRow, ...] = ()
    zone: str = "UTC"
    """The time zone of clocks whose row names none."""

    def info_of(self, path: str) -> FileInfo:
        """Return what is known of the file at `path` (within the archive, with /)."""
        groups = self._groups(path)
        row = next((row for row in self.rows if row.fits(path, groups.get("camera", ""))), None)
        camera = (row.camera if row else "") or groups.get("camera")
        priority = row.priority if row else 0
        try:
            return FileInfo(Recording(camera, self._clock(groups, row)), priority)
        except (ValueError, OverflowError) as error:
            return FileInfo(Recording(camera), priority, f"its time cannot be read: {error}")

    def _groups(self, path: str) -> dict[str, str]:
        """Return what the pattern's groups matched in a path, without empty ones."""
        match = self.names.search(path) if self.names else None
        if match is None:
            return {}
        return {name: text for name, text in match.groupdict().items() if text}

    def _clock(self, groups: dict[str, str], row: CameraRow | None) -> StatedClock | None:
        """Return the clock of a recording, as a case stores it."""
        if row and row.start:
            displayed = datetime.fromisoformat(row.start)
            resolution = 0
            origin = "csv"
        elif "date" in groups:
            displayed, resolution = _parse_time(groups["date"], groups.get("time", ""))
            origin = "path"
        else:
            return None
        zone = _zone((row.zone if row else "") or self.zone)
        displayed, uncertainty = _localize(displayed, zone)
        uncertainty += resolution
        if row is None:
            return {
                "start": displayed.isoformat(),
                "uncertainty_seconds": uncertainty,
                "from": origin,
            }
        ahead = _seconds_ahead(displayed, row)
        true = displayed.astimezone(UTC) - timedelta(seconds=ahead)
        clock: StatedClock = {
            "start": true.astimezone(displayed.tzinfo).isoformat(),
            "uncertainty_seconds": row.uncertainty + uncertainty,
            "from": origin,
        }
        if ahead:
            clock |= {
                "shown": displayed.isoformat(),
                "offset_seconds": row.offset,
                "drift_seconds_a_day": row.drift,
            }
        return clock


def _seconds_ahead(displayed: datetime, row: CameraRow) -> float:
    """Return how far the camera's clock is ahead of true time when it displays this time."""
    if not row.drift:
        return row.offset
    measured, _ = _localize(datetime.fromisoformat(row.offset_at), displayed.tzinfo)
    # In UTC: Python's difference of two times in one zone ignores that clocks are set back.
    since = displayed.astimezone(UTC) - measured.astimezone(UTC)
    return row.offset + row.drift * since.total_seconds() / DAY


def read_cameras(names: str | None, file: Path | None, zone: str) -> Cameras:
    """Return the cameras by the options --names, --cameras and --zone; raise where one is wrong."""
    try:
        _zone(zone)
    except ValueError as error:
        remedy = "write it as Europe/Berlin or +02:00"
        raise UsageError(f"--zone {zone}", str(error), remedy) from error
    rows = () if file is None else _read_rows(file)
    return Cameras(_pattern(names), rows, zone)


def _pattern(names: str | None) -> re.Pattern[str] | None:
    if names is None:
        return None
    try:
        pattern = re.compile(names)
    except re.error as error:
        reason = f"not a regular expression ({error})"
        raise UsageError(f"--names {names}", reason, "see docs/cli.md") from error
    unknown = set(pattern.groupindex) - GROUPS
    if unknown or not pattern.groupindex:
        reason = f"no such group {sorted(unknown)[0]}" if unknown else "it has no named group"
        remedy = "name groups camera, date and time, as (?P<camera>[^/]+)"
        raise UsageError(f"--names {names}", reason, remedy)
    return pattern


def _read_rows(file: Path) -> tuple[CameraRow, ...]:
    table = read_csv(file, (), "give a CSV file in UTF-8")
    remedy = f"use {', '.join(COLUMNS)}"
    unknown = sorted(set(table.columns) - set(COLUMNS))
    if unknown:
        raise InputError(file, f"no such column {unknown[0]!r}", remedy)
    if not {"glob", "camera"} & set(table.columns):
        raise InputError(file, "it has neither a column glob nor camera", remedy)
    return tuple(_row(file, number, values) for number, values in table.rows.items())


def _row(file: Path, number: int, values: dict[str, str]) -> CameraRow:
    values = dict.fromkeys(COLUMNS, "") | values
    try:
        row = CameraRow(
            glob=values["glob"],
            camera=values["camera"],
            start=values["start"],
            offset=float(values["offset"] or 0),
            offset_at=values["offset_at"],
            drift=float(values["drift"] or 0),
            uncertainty=float(values["uncertainty"] or 0),
            zone=values["zone"],
            priority=int(values["priority"] or 0),
        )
        _check_row(row)
    except ValueError as error:
        raise InputError(f"{file}, line {number}", str(error), "correct it") from error
    return row


def _check_row(row: CameraRow) -> None:
    """Raise ValueError where a value of a row cannot be right."""
    for name in ("offset", "drift", "uncertainty"):
        seconds = getattr(row, name)
        if not abs(seconds) < CENTURIES:
            raise ValueError(f"{name} is not a number of seconds, or too large")
    if row.uncertainty < 0:
        raise ValueError("uncertainty is negative")
    if abs(row.priority) > MOST_PRIORITY:
        raise ValueError(f"a priority is at most {MOST_PRIORITY}")
    if row.drift and not row.offset_at:
        raise ValueError("a drift needs the time at which the offset was measured (offset_at)")
    for time in (row.start, row.offset_at):
        if time:
            datetime.fromisoformat(time)
    if row.zone:
        _zone(row.zone)
    if not (row.glob or row.camera):
        raise ValueError("neither glob nor camera says which files it is about")


def _parse_time(date: str, time: str) -> tuple[datetime, int]:
    """Return the earliest time that a path can mean, and how many seconds later it may be."""
    day = re.sub(r"\D", "", date)
    digits = re.sub(r"\D", "", time)
    if len(day) != 8:  # strptime would fill it up with digits of the time
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


def _localize(at: datetime, zone: tzinfo | None) -> tuple[datetime, float]:
    """Return a time of day with its zone, and how many seconds that leaves uncertain.

    When clocks are set back, an hour comes two times. The first one is taken.
    """
    if at.tzinfo is not None:
        return at, 0.0
    early = at.replace(tzinfo=zone, fold=0)
    late = at.replace(tzinfo=zone, fold=1)
    difference = (early.utcoffset() or timedelta()) - (late.utcoffset() or timedelta())
    return early, abs(difference.total_seconds())
