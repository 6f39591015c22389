"""Cameras and times come from paths, and from a table of clocks that people write."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from fasr_video.archive.cameras import Cameras, read_cameras
from fasr_video.errors import FasrError

NAMES = r"(?P<camera>[^/]+)/(?P<date>[\d-]+)/(?P<time>\d+)"


def cameras(tmp_path: Path, *lines: str, names: str | None = NAMES, zone: str = "UTC") -> Cameras:
    file = tmp_path / "cameras.csv"
    file.write_text("\n".join(lines))
    return read_cameras(names, file if lines else None, zone)


def test_camera_and_time_are_read_from_the_path(tmp_path: Path) -> None:
    info = cameras(tmp_path, zone="+02:00").info_of("door/2024-05-01/130559.mp4")
    assert info.recording.camera == "door"
    assert info.recording.clock == {
        "start": "2024-05-01T13:05:59+02:00",
        "uncertainty_seconds": 1.0,
        "from": "path",
    }


@pytest.mark.parametrize(
    ("name", "seconds"), [("20240501", 90_000), ("20240501_13", 3600), ("20240501_1305", 60)]
)
def test_digits_missing_from_the_path_are_uncertainty(
    name: str, seconds: float, tmp_path: Path
) -> None:
    names = r"(?P<date>\d{8})_?(?P<time>\d+)?"
    info = cameras(tmp_path, names=names).info_of(f"{name}.mp4")
    assert (
        info.recording.clock is not None and info.recording.clock["uncertainty_seconds"] == seconds
    )
    assert info.span is not None
    midnight = datetime(2024, 5, 1, tzinfo=UTC)
    assert seconds < 90_000 or info.span[0] < midnight < midnight.replace(hour=23) < info.span[1]


def test_a_time_of_seven_digits_is_a_problem(tmp_path: Path) -> None:
    assert "is not HHMM" in (cameras(tmp_path).info_of("door/2024-05-01/1305591.mp4").problem or "")


@pytest.mark.parametrize(
    ("date", "time"), [("260301", "140500"), ("2026-1-12", "0830"), ("202603011", "1405")]
)
def test_a_date_without_eight_digits_is_a_problem(date: str, time: str, tmp_path: Path) -> None:
    """It would be filled up from the digits of the time: 260301 140500 as 2603-01-14 05:00."""
    info = cameras(tmp_path).info_of(f"door/{date}/{time}.mp4")
    assert info.recording.camera == "door" and info.recording.clock is None
    assert info.problem == f"its time cannot be read: {date} is not YYYYMMDD"


def test_without_a_matching_path_nothing_is_known(tmp_path: Path) -> None:
    info = cameras(tmp_path).info_of("clip.mp4")
    assert info.recording.camera is None and info.recording.clock is None and info.problem is None


def test_an_impossible_time_is_a_problem_but_the_camera_is_still_known(tmp_path: Path) -> None:
    info = cameras(tmp_path).info_of("door/20249901/130559.mp4")
    assert info.recording.camera == "door" and info.recording.clock is None
    assert info.problem is not None and "cannot be read" in info.problem


def test_the_offset_of_a_clock_is_subtracted_and_both_times_are_stored(tmp_path: Path) -> None:
    table = cameras(tmp_path, "camera,offset,uncertainty,zone,priority", "door,90,2,+00:00,7")
    info = table.info_of("door/20240501/130130.mp4")
    assert info.priority == 7
    assert info.recording.clock is not None
    assert info.recording.clock["start"] == "2024-05-01T13:00:00+00:00"
    assert info.recording.clock["shown"] == "2024-05-01T13:01:30+00:00"
    assert info.recording.clock["uncertainty_seconds"] == 3, (
        "the second that the path leaves open is added"
    )


def test_drift_counts_from_when_the_offset_was_measured(tmp_path: Path) -> None:
    table = cameras(tmp_path, "camera,offset,offset_at,drift", "door,10,2024-05-01T00:00:00,5")
    clock = table.info_of("door/20240503/000020.mp4").recording.clock
    assert clock is not None
    ahead = datetime(2024, 5, 3, 0, 0, 20, tzinfo=UTC) - datetime.fromisoformat(clock["start"])
    assert ahead.total_seconds() == pytest.approx(20, abs=0.01)


def test_the_first_row_that_fits_counts_and_globs_match_across_folders(tmp_path: Path) -> None:
    table = cameras(tmp_path, "glob,camera,start", "*/yard/*,Yard,2024-05-01T08:00:00", "*,Rest,")
    assert table.info_of("2024/yard/a/b.mp4").recording.camera == "Yard"
    assert table.info_of("2024/yard/a/b.mp4").recording.clock is not None
    assert table.info_of("b.mp4").recording.camera == "Rest"


def test_the_repeated_hour_when_clocks_are_set_back_is_uncertainty(tmp_path: Path) -> None:
    table = cameras(tmp_path, zone="Europe/Berlin")
    repeated = table.info_of("door/20241027/023000.mp4").recording.clock
    later = table.info_of("door/20241027/043000.mp4").recording.clock
    assert (
        repeated is not None
        and repeated["uncertainty_seconds"] == 3601
        and repeated["start"].endswith("+02:00")
    )
    assert (
        later is not None
        and later["uncertainty_seconds"] == 1
        and later["start"].endswith("+01:00")
    )


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["who,camera"], "no such column 'who'"),
        (["priority", "1"], "neither a column"),
        (["camera,offset", "door,soon"], "line 2: could not convert"),
        (["camera,offset", "door,nan"], "line 2: offset is not a number"),
        (["camera,drift", "door,3"], "offset_at"),
        (["camera,start", "door,noon"], "line 2: Invalid isoformat"),
        (["camera,zone", "door,Mars/Olympus"], "no time zone Mars/Olympus"),
        (["camera,zone", ",UTC"], "neither glob nor camera"),
    ],
)
def test_a_faulty_table_is_one_line_that_names_the_fault(
    lines: list[str], expected: str, tmp_path: Path
) -> None:
    with pytest.raises(FasrError, match=expected) as raised:
        cameras(tmp_path, *lines)
    assert "\n" not in str(raised.value) and "cameras.csv" in str(raised.value)


@pytest.mark.parametrize("names", ["(", "(?P<who>.*)", ".*"])
def test_an_unusable_pattern_is_refused(names: str) -> None:
    with pytest.raises(FasrError, match="--names"):
        read_cameras(names, None, "UTC")
