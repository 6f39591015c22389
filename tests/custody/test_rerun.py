"""`verify --rerun`: tracks computed again equal the stored ones, or the difference is reported."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from fasr_video.case.case import Case
from fasr_video.case.damage import Check
from fasr_video.case.store import DATABASE
from fasr_video.custody.rerun import _chosen, rerun
from tests.support.commands import run_command


def rerun_case(folder: Path, count: int = 1) -> Check:
    with Case.open(folder, read_only=True) as case:
        return rerun(case, count)


def test_tracks_computed_again_equal_the_stored_ones(corridor_case: Path) -> None:
    check = rerun_case(corridor_case, 2)
    assert (check.checked, check.problems, check.unchecked) == (2, [], [])
    assert check.notes[-1].startswith("the case's own versions")


def test_the_same_tracks_are_chosen_each_time(corridor_case: Path, copied_case: Path) -> None:
    assert rerun_case(corridor_case).notes == rerun_case(copied_case).notes
    chosen = set()
    for salt in range(12):
        with sqlite3.connect(copied_case / DATABASE) as db:
            db.execute("UPDATE meta SET value = ? WHERE key = 'case_id'", (str(salt),))
        with Case.open(copied_case) as case:
            chosen |= {track.id for tracks in _chosen(case, 1).values() for track in tracks}
    assert len(chosen) == 2, "other cases, other tracks"


def test_a_changed_feature_is_detected(copied_case: Path) -> None:
    with sqlite3.connect(copied_case / DATABASE) as db:
        other = np.full(512, 512**-0.5, np.float32)
        db.execute("UPDATE probe SET feature = ? WHERE kind = 'best'", (other.tobytes(),))
    assert "features differ by up to" in rerun_case(copied_case).problems[0]


def test_pictures_of_another_track_are_detected(copied_case: Path) -> None:
    with sqlite3.connect(copied_case / DATABASE) as db:
        first, second = (r[0] for r in db.execute("SELECT picture FROM restoration ORDER BY track"))
        db.execute("UPDATE restoration SET picture = ? WHERE picture = ?", (first, second))
    assert any("grey levels" in p for p in rerun_case(copied_case, 2).problems)


def test_a_model_that_is_no_longer_available_is_named(copied_case: Path) -> None:
    with sqlite3.connect(copied_case / DATABASE) as db:
        models = json.loads(db.execute("SELECT models FROM encoding").fetchone()[0])
        models["restorer"]["network"] = "ab" * 32
        db.execute("UPDATE encoding SET models = ?", (json.dumps(models),))
    check = rerun_case(copied_case)
    assert check.checked == 0 and not check.problems
    assert "restorer.network: abababababab… in the case" in check.unchecked[0]


def test_missing_weights_are_named(copied_case: Path) -> None:
    with sqlite3.connect(copied_case / DATABASE) as db:
        gone = (
            "UPDATE meta SET value = json_set(value, '$.restore.weights', '/gone.safetensors')"
            " WHERE key = 'settings'"
        )
        db.execute(gone)
    assert "/gone.safetensors: no such file" in rerun_case(copied_case).unchecked[0]


def test_rerun_works_from_the_command_line(
    corridor_case: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run_command(capsys, "verify", corridor_case, "--rerun", 1, "--json")
    done = json.loads(out)["checks"][-1]
    assert code == 0
    assert (
        done["check"] == "tracks done again"
        and done["checked"] == 1
        and done["notes"][0].startswith("track ")
    )
