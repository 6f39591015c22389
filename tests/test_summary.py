"""One page over all cases: what was done and what not, and who may be one person across cameras."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import sqlite3
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest

from fasr_video.archive.cameras import read_cameras
from fasr_video.archive.ledger import Ledger
from fasr_video.archive.summary import (
    COLUMNS,
    Seen,
    as_csv,
    as_html,
    subjects,
    summary,
    write_summary,
)
from fasr_video.archive.unit import work
from fasr_video.case.case import Case
from fasr_video.case.decisions import decide
from fasr_video.errors import EnvironmentFailure
from fasr_video.trackers.linking import Tracklet
from tests.archives import files, work_off
from tests.test_cli import called
from tests.test_faults import small_disk

NAMES = r"(?P<camera>[a-z]+)_(?P<date>\d{8})_(?P<time>\d{6})"


def seen(
    number: int, look: tuple[float, float], camera: str, embedder: str = "e", refused: Any = ()
) -> Seen:
    """A track of a case of its own."""
    unit = np.array(look, np.float32) / np.hypot(*look)
    facts = {"case": f"case{number}", "track": "T1", "camera": camera}
    return Seen(Tracklet(number, number, 0.0, 1.0, unit), embedder, 0.5, frozenset(refused), facts)


def who(found: list[dict[str, Any]]) -> list[list[str]]:
    return [[t["case"] for t in s["tracks"]] for s in found]


def test_tracks_with_like_faces_are_proposed_as_one_subject_across_cameras() -> None:
    found = subjects(
        [seen(0, (1, 0), "door"), seen(1, (0, 1), "door"), seen(2, (0.9, 0.1), "yard")]
    )
    assert who(found) == [["case0", "case2"]]
    assert found[0]["subject"] == "P1" and found[0]["weakest_score"] == pytest.approx(
        0.994, abs=1e-3
    )


def test_features_of_two_embedders_are_never_compared() -> None:
    assert subjects([seen(0, (1, 0), "door"), seen(1, (1, 0), "yard", embedder="other")]) == []


def test_what_a_person_set_apart_stays_apart() -> None:
    assert subjects([seen(0, (1, 0), "door", refused=[1]), seen(1, (1, 0), "yard")]) == []


def test_what_a_person_joined_is_one_subject_however_the_faces_look() -> None:
    tracks = [seen(0, (1, 0), "door"), seen(1, (0, 1), "yard"), seen(2, (0, 1), "gate")]
    tracks[0] = replace(tracks[0], accepted=frozenset({1}))
    (found,) = subjects(tracks)
    assert who([found]) == [["case0", "case1", "case2"]] and found["joined_by_people"]
    tracks[0] = replace(tracks[0], refused=frozenset({2}))
    assert who(subjects(tracks)) == [["case0", "case1"]], "the third is apart from one of them"
    assert subjects(tracks)[0]["weakest_score"] is None


def test_two_tracks_that_one_camera_saw_at_one_moment_are_never_one_subject() -> None:
    def at(number: int, camera: str, start: float) -> Seen:
        return replace(seen(number, (1, 0), camera), surely=(camera, start, start + 10))

    assert subjects([at(0, "door", 0), at(1, "door", 5)]) == []
    assert len(subjects([at(0, "door", 0), at(1, "yard", 5)])) == 1
    assert len(subjects([at(0, "door", 0), at(1, "door", 11)])) == 1


def test_several_tracks_of_one_person_are_one_subject() -> None:
    found = subjects([seen(k, (1, 0.05 * k), f"camera{k}") for k in range(4)])
    assert who(found) == [["case0", "case1", "case2", "case3"]]


@pytest.fixture(scope="module")
def cases(entrance: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("summary")
    archive = files(place / "in", door_20240501_130000="no film")
    shutil.copy(entrance, archive / "yard_20240501_120000.mp4")
    (archive / "link").symlink_to(archive.parent)
    work_off(archive, place / "cases", work, cameras=read_cameras(NAMES, None, "UTC"))
    return place / "cases"


@pytest.fixture(scope="module")
def document(cases: Path) -> dict[str, Any]:
    with Ledger.read(cases) as ledger:
        return summary(ledger)


def test_every_unit_and_everything_that_was_not_read_is_listed(document: dict[str, Any]) -> None:
    states = {u["files"][0]: u["state"] for u in document["units"]}
    assert states == {"door_20240501_130000.mp4": "failed", "yard_20240501_120000.mp4": "done"}
    assert document["units_by_state"]["failed"] == 1 and document["totals"]["tracks"] == 1
    assert ["link to a folder" in p["reason"] for p in document["not_read"]] == [True]


def test_the_table_has_a_line_a_unit(document: dict[str, Any]) -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(document))))
    assert list(rows[0]) == list(COLUMNS)
    assert [(r["camera"], r["state"]) for r in rows] == [("door", "failed"), ("yard", "done")]


def test_the_page_stands_alone_and_its_names_are_only_text(document: dict[str, Any]) -> None:
    evil = {"path": "<script>alert(1)</script>", "reason": "no"}
    page = as_html({**document, "not_read": [evil]})
    assert "<script" not in page and "&lt;script&gt;" in page
    assert 'http-equiv="Content-Security-Policy" content="default-src \'none\'' in page
    assert 'src="http' not in page and 'href="http' not in page
    for word in ("match", "identified", "recovered", "enhanced likeness"):
        assert word not in page.lower()


def test_what_the_page_links_to_is_there(cases: Path, document: dict[str, Any]) -> None:
    links = re.findall(r'href="([^"]+)"', as_html(document))
    assert any(link.endswith("/report/index.html") for link in links)
    assert all(
        (cases / unquote(link)).exists() for link in links if not link.startswith(("#", "data:"))
    )


def test_footage_under_two_settings_is_counted_once(cases: Path, tmp_path: Path) -> None:
    there = Path(shutil.copytree(cases, tmp_path / "cases"))
    with sqlite3.connect(there / "ledger.sqlite") as db:
        (old,) = db.execute("SELECT folder FROM unit WHERE state = 'done'").fetchone()
        shutil.copytree(there / old, there / "newer")
        db.execute(
            "INSERT INTO unit (sha256, settings, folder, state, size, facts)"
            " SELECT sha256, 'others', 'newer', 'done', size, facts FROM unit WHERE folder = ?",
            (old,),
        )
        db.execute(
            "INSERT INTO unit (sha256, settings, folder, state, size)"
            " SELECT sha256, 'third', 'third', 'failed', size FROM unit WHERE folder = ?",
            (old,),
        )
    with Ledger.read(there) as ledger:
        found = write_summary(ledger)
    counted = {
        u["case"]: u["counted"]
        for u in found["units"]
        if u["sha256"] and u["case"] in (old, "newer", "third")
    }
    assert counted == {old: False, "newer": True, "third": False}
    assert found["totals"]["tracks"] == 1 and found["subjects"] == []
    assert "under newer settings" in (there / "summary.html").read_text()


def test_what_reviewers_decided_stands_in_the_summary(cases: Path, tmp_path: Path) -> None:
    there = Path(shutil.copytree(cases, tmp_path / "cases"))
    with Ledger.read(there) as ledger:
        (unit,) = [u for u in ledger.units() if u.state == "done"]
        with Case.open(there / unit.folder) as case:
            decide(case, 1, "rejected", "another ear", "Ann", role="examiner")
        (lead,) = write_summary(ledger)["leads"]
    said = {"verdict": "rejected", "subject": None, "by": "Ann", "role": "examiner"}
    assert lead["decisions"] == [said]
    assert "rejected by Ann (examiner)" in (there / "summary.html").read_text()


def test_a_purged_case_leaves_the_summary(
    cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = Path(shutil.copytree(cases, tmp_path / "cases"))
    with Ledger.read(there) as ledger:
        write_summary(ledger)
        (unit,) = [u for u in ledger.units() if u.state == "done"]
    done = called(
        capsys, "purge", there / unit.folder, "--now", "--why", "its people asked", "--yes"
    )
    assert done[0] == 0, done[2]
    page, table = (
        (there / "summary.html").read_text(),
        json.loads((there / "summary.json").read_text()),
    )
    assert "data:image/jpeg" not in page and table["leads"] == []
    (stone,) = table["purged"]
    assert stone["case"] == unit.folder and stone["why"] == "its people asked"
    assert (
        not any(p["path"] == unit.folder for p in table["not_read"])
        and table["totals"]["tracks"] == 0
    )
    assert table["units_by_state"]["purged"] == 1 and "its people asked" in page


def test_a_case_of_older_settings_that_is_kept_is_counted_when_the_newer_one_is_purged(
    cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = Path(shutil.copytree(cases, tmp_path / "cases"))
    with sqlite3.connect(there / "ledger.sqlite") as db:
        (old,) = db.execute("SELECT folder FROM unit WHERE state = 'done'").fetchone()
        shutil.copytree(there / old, there / "newer")
        db.execute(
            "INSERT INTO unit (sha256, settings, folder, state, size, facts)"
            " SELECT sha256, 'others', 'newer', 'done', size, facts FROM unit WHERE folder = ?",
            (old,),
        )
    assert called(capsys, "purge", there / "newer", "--now", "--why", "order", "--yes")[0] in (0, 4)
    table = json.loads((there / "summary.json").read_text())
    assert {u["case"]: u["counted"] for u in table["units"] if u["state"] != "failed"} == {
        old: True,
        "newer": False,
    }
    assert table["totals"]["tracks"] == 1


def test_wall_times_are_as_fine_as_the_footage_tells_them(cases: Path, tmp_path: Path) -> None:
    there = Path(shutil.copytree(cases, tmp_path / "cases"))
    clock = {
        "start": "2026-03-01T14:03:00.250000+01:00",
        "uncertainty_seconds": 0.0,
        "from": "given",
    }
    with Ledger.open(there) as ledger:
        (unit,) = [u for u in ledger.units() if u.state == "done"]
        ledger.done(unit.id, {**unit.facts, "clock": clock}, 0.0)
        with Case.open(there / unit.folder) as case:
            decide(case, 1, "rejected", "another ear", "Ann")
        (lead,) = write_summary(ledger)["leads"]
    start = datetime.fromisoformat(clock["start"])
    assert lead["wall_uncertainty"] == 0.0
    off = abs(
        (datetime.fromisoformat(lead["wall"]) - start).total_seconds() - lead["start_seconds"]
    )
    assert off < 0.001 and lead["wall"].endswith("+01:00") and "." in lead["wall"]
    assert lead["wall"].replace("T", " ") in (there / "summary.html").read_text()


def test_a_summary_that_cannot_be_written_is_one_line(
    cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = Path(shutil.copytree(cases, tmp_path / "cases"))
    (there / "summary.csv").unlink(missing_ok=True)
    (there / "summary.csv").mkdir()
    (tmp_path / "empty").mkdir()
    code, _, err = called(
        capsys, "batch", tmp_path / "empty", "--out", there, "--scheduler", "local"
    )
    assert code == 1 and err.count("\n") == 1 and "cannot be written" in err and str(there) in err


def test_a_summary_on_a_full_disk_is_one_line(cases: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "20m") as disk:
        there = Path(shutil.copytree(cases, disk / "cases"))
        with suppress(OSError), (disk / "rest").open("wb", buffering=0) as rest:
            while True:
                rest.write(bytes(4096))
        with (
            Ledger.read(there) as ledger,
            pytest.raises(EnvironmentFailure, match="the disk is full"),
        ):
            write_summary(ledger)
