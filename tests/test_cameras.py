"""Which camera, and when: from paths, and from what people wrote down of their clocks."""

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


def test_camera_and_time_are_in_the_path(tmp_path: Path) -> None:
    known = cameras(tmp_path, zone="+02:00").of("door/2024-05-01/130559.mp4")
    assert known.place.camera == "door"
    assert known.place.clock == {
        "start": "2024-05-01T13:05:59+02:00",
        "uncertainty_seconds": 1.0,
        "from": "path",
    }


@pytest.mark.parametrize(
    ("name", "seconds"), [("20240501", 90_000), ("20240501_13", 3600), ("20240501_1305", 60)]
)
def test_what_the_path_leaves_open_is_uncertainty(
    name: str, seconds: float, tmp_path: Path
) -> None:
    names = r"(?P<date>\d{8})_?(?P<time>\d+)?"
    known = cameras(tmp_path, names=names).of(f"{name}.mp4")
    assert known.place.clock is not None and known.place.clock["uncertainty_seconds"] == seconds
    assert known.span is not None
    midnight = datetime(2024, 5, 1, tzinfo=UTC)
    assert seconds < 90_000 or known.span[0] < midnight < midnight.replace(hour=23) < known.span[1]


def test_a_time_of_seven_digits_is_none(tmp_path: Path) -> None:
    assert "is not HHMM" in (cameras(tmp_path).of("door/2024-05-01/1305591.mp4").problem or "")


@pytest.mark.parametrize(
    ("date", "time"), [("260301", "140500"), ("2026-1-12", "0830"), ("202603011", "1405")]
)
def test_a_date_of_other_than_eight_digits_is_none(date: str, time: str, tmp_path: Path) -> None:
    """It would be filled up from the digits of the time: 260301 140500 as 2603-01-14 05:00."""
    known = cameras(tmp_path).of(f"door/{date}/{time}.mp4")
    assert known.place.camera == "door" and known.place.clock is None
    assert known.problem == f"its time cannot be read: {date} is not YYYYMMDD"


def test_what_the_path_does_not_say_is_not_known(tmp_path: Path) -> None:
    known = cameras(tmp_path).of("clip.mp4")
    assert known.place.camera is None and known.place.clock is None and known.problem is None


def test_a_time_that_is_none_is_a_problem_and_the_camera_stays(tmp_path: Path) -> None:
    known = cameras(tmp_path).of("door/20249901/130559.mp4")
    assert known.place.camera == "door" and known.place.clock is None
    assert known.problem is not None and "cannot be read" in known.problem


def test_a_clock_that_is_ahead_is_put_back_and_both_times_are_kept(tmp_path: Path) -> None:
    table = cameras(tmp_path, "camera,offset,uncertainty,zone,priority", "door,90,2,+00:00,7")
    known = table.of("door/20240501/130130.mp4")
    assert known.priority == 7
    assert known.place.clock is not None
    assert known.place.clock["start"] == "2024-05-01T13:00:00+00:00"
    assert known.place.clock["shown"] == "2024-05-01T13:01:30+00:00"
    assert known.place.clock["uncertainty_seconds"] == 3, (
        "the second that the path leaves open is added"
    )


def test_drift_counts_from_when_the_offset_was_measured(tmp_path: Path) -> None:
    table = cameras(tmp_path, "camera,offset,offset_at,drift", "door,10,2024-05-01T00:00:00,5")
    clock = table.of("door/20240503/000020.mp4").place.clock
    assert clock is not None
    ahead = datetime(2024, 5, 3, 0, 0, 20, tzinfo=UTC) - datetime.fromisoformat(clock["start"])
    assert ahead.total_seconds() == pytest.approx(20, abs=0.01)


def test_the_first_line_that_fits_counts_and_a_glob_goes_through_folders(tmp_path: Path) -> None:
    table = cameras(tmp_path, "glob,camera,start", "*/yard/*,Yard,2024-05-01T08:00:00", "*,Rest,")
    assert table.of("2024/yard/a/b.mp4").place.camera == "Yard"
    assert table.of("2024/yard/a/b.mp4").place.clock is not None
    assert table.of("b.mp4").place.camera == "Rest"


def test_the_hour_that_comes_twice_is_an_hour_of_doubt(tmp_path: Path) -> None:
    table = cameras(tmp_path, zone="Europe/Berlin")
    twice = table.of("door/20241027/023000.mp4").place.clock
    once = table.of("door/20241027/043000.mp4").place.clock
    assert (
        twice is not None
        and twice["uncertainty_seconds"] == 3601
        and twice["start"].endswith("+02:00")
    )
    assert (
        once is not None and once["uncertainty_seconds"] == 1 and once["start"].endswith("+01:00")
    )


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["who,camera"], "no such column 'who'"),
        (["priority", "1"], "neither a column"),
        (["camera,offset", "door,soon"], "line 2: could not convert"),
        (["camera,offset", "door,nan"], "line 2: a number"),
        (["camera,drift", "door,3"], "offset_at"),
        (["camera,start", "door,noon"], "line 2: Invalid isoformat"),
        (["camera,zone", "door,Mars/Olympus"], "no time zone Mars/Olympus"),
        (["camera,zone", ",UTC"], "neither glob nor camera"),
    ],
)
def test_a_faulty_table_is_one_line_that_names_the_fault(
    lines: list[str], says: str, tmp_path: Path
) -> None:
    with pytest.raises(FasrError, match=says) as told:
        cameras(tmp_path, *lines)
    assert "\n" not in str(told.value) and "cameras.csv" in str(told.value)


@pytest.mark.parametrize("names", ["(", "(?P<who>.*)", ".*"])
def test_a_pattern_that_is_none_is_refused(names: str) -> None:
    with pytest.raises(FasrError, match="--names"):
        read_cameras(names, None, "UTC")
