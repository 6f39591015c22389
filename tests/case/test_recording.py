"""Camera and clock of footage are stored in the case, and corrections are logged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from fasr_video import cli
from fasr_video.case.case import Case
from fasr_video.case.recording import Recording, from_options
from fasr_video.case.verify import verify
from fasr_video.errors import UsageError
from fasr_video.pipeline.run import run
from tests.support.archives import SETTINGS


@pytest.mark.parametrize(
    ("start", "uncertainty", "says"),
    [
        (None, 5.0, "give --clock, too"),
        (None, -5.0, "give --clock, too"),
        ("noon", 0.0, "not a time in ISO 8601"),
        ("2024-05-01T12:00:00", 0.0, "no time zone"),
        ("2024-05-01T12:00:00+00:00", -1.0, "0 or more"),
        ("2024-05-01T12:00:00+00:00", float("nan"), "0 or more"),
    ],
)
def test_an_invalid_clock_is_refused(start: str | None, uncertainty: float, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        from_options("door", start, uncertainty)


@pytest.fixture(scope="module")
def case(entrance: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("place") / "case"
    run(
        [entrance],
        out,
        SETTINGS,
        recording=from_options("door", "2024-05-01T12:00:00+02:00", 1.5),
    )
    return out


def stored_recording(folder: Path) -> tuple[str | None, dict[str, object] | None]:
    with Case.open(folder, read_only=True) as opened:
        camera, clock = opened.db.execute("SELECT camera, clock FROM source").fetchone()
        assert not [p for c in verify(opened) for p in c.problems]
        return camera, None if clock is None else json.loads(clock)


def test_the_case_stores_camera_and_clock(case: Path) -> None:
    clock = {"start": "2024-05-01T12:00:00+02:00", "uncertainty_seconds": 1.5, "from": "given"}
    assert stored_recording(case) == ("door", clock)


def test_a_correction_is_logged_and_an_empty_recording_changes_nothing(
    case: Path, entrance: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(case, tmp_path / "case"))
    before = stored_recording(copy)
    run([entrance], copy, SETTINGS)
    assert stored_recording(copy) == before
    run([entrance], copy, SETTINGS, recording=Recording("yard"))
    assert stored_recording(copy) == ("yard", before[1]), "what was not said stays"
    run(
        [entrance],
        copy,
        SETTINGS,
        recording=from_options(None, "2024-05-01T13:00:00+02:00", None),
    )
    clock = {"start": "2024-05-01T13:00:00+02:00", "uncertainty_seconds": 0.0, "from": "given"}
    assert stored_recording(copy) == ("yard", clock)
    with Case.open(copy, read_only=True) as opened:
        events = [r[0] for r in opened.db.execute("SELECT event FROM log ORDER BY id")]
    assert events.count("camera and clock") == 3


def test_an_uncertainty_without_a_clock_is_one_line(
    entrance: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = [
        "fasr-video",
        "run",
        str(entrance),
        "--out",
        str(tmp_path / "case"),
        "--clock-uncertainty",
        "5",
    ]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2 and "--clock-uncertainty" in capsys.readouterr().err
    assert not (tmp_path / "case").exists()


def test_a_camera_that_is_not_in_the_log_is_detected(case: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(case, tmp_path / "case"))
    with Case.open(copy) as opened:
        opened.db.execute("UPDATE source SET camera = 'elsewhere'")
        assert any("camera or clock" in p for c in verify(opened) for p in c.problems)


def test_one_camera_for_several_files_is_refused(
    entrance: Path, corridor: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="describe one recording"):
        run([entrance, corridor], tmp_path / "case", SETTINGS, recording=Recording("door"))
    assert not (tmp_path / "case").exists()
