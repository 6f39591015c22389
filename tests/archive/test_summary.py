"""The summary of an archive: what was done, and who may be one person across cameras."""

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
    CaseTrack,
    NotRead,
    StandingDecision,
    Subject,
    Summary,
    SummaryTrack,
    as_csv,
    as_html,
    propose_subjects,
    summary,
    write_summary,
)
from fasr_video.archive.worker import run_task
from fasr_video.case.case import Case
from fasr_video.case.decisions import decide
from fasr_video.errors import EnvironmentFailure
from fasr_video.trackers.linking import Tracklet
from tests.support.archives import run_batch, write_files
from tests.support.commands import run_command
from tests.support.small_disk import mount_small_disk

NAMES = r"(?P<camera>[a-z]+)_(?P<date>\d{8})_(?P<time>\d{6})"


def case_track(
    number: int,
    feature: tuple[float, float],
    camera: str,
    embedder: str = "e",
    *,
    refused: Any = (),
) -> CaseTrack:
    """Return the only track of a case."""
    normalized = np.array(feature, np.float32) / np.hypot(*feature)
    entry = SummaryTrack(
        f"case{number}", "T1", None, camera, 0.0, 1.0, None, None, [], [], thumbnail=None
    )
    tracklet = Tracklet(number, number, 0.0, 1.0, normalized)
    return CaseTrack(tracklet, embedder, 0.5, frozenset(refused), entry)


def cases_of(subjects: list[Subject]) -> list[list[str]]:
    return [[track.case for track in subject.tracks] for subject in subjects]


def test_tracks_with_similar_faces_are_proposed_as_one_subject_across_cameras() -> None:
    subjects = propose_subjects(
        [
            case_track(0, (1, 0), "door"),
            case_track(1, (0, 1), "door"),
            case_track(2, (0.9, 0.1), "yard"),
        ]
    )
    assert cases_of(subjects) == [["case0", "case2"]]
    assert subjects[0].subject == "P1" and subjects[0].weakest_score == pytest.approx(
        0.994, abs=1e-3
    )


def test_features_of_two_embedders_are_never_compared() -> None:
    assert (
        propose_subjects(
            [case_track(0, (1, 0), "door"), case_track(1, (1, 0), "yard", embedder="other")]
        )
        == []
    )


def test_tracks_that_a_person_set_apart_stay_apart() -> None:
    assert (
        propose_subjects(
            [case_track(0, (1, 0), "door", refused=[1]), case_track(1, (1, 0), "yard")]
        )
        == []
    )


def test_tracks_that_a_person_joined_are_one_subject_whatever_the_faces_look_like() -> None:
    tracks = [
        case_track(0, (1, 0), "door"),
        case_track(1, (0, 1), "yard"),
        case_track(2, (0, 1), "gate"),
    ]
    tracks[0] = replace(tracks[0], accepted=frozenset({1}))
    (subject,) = propose_subjects(tracks)
    assert cases_of([subject]) == [["case0", "case1", "case2"]] and subject.joined_by_people
    tracks[0] = replace(tracks[0], refused=frozenset({2}))
    assert cases_of(propose_subjects(tracks)) == [["case0", "case1"]], (
        "the third track is refused by one of them"
    )
    assert propose_subjects(tracks)[0].weakest_score is None


def test_two_tracks_of_one_camera_at_the_same_time_are_never_one_subject() -> None:
    def cases_at(number: int, camera: str, start: float) -> CaseTrack:
        return replace(
            case_track(number, (1, 0), camera), surely_visible=(camera, start, start + 10)
        )

    assert propose_subjects([cases_at(0, "door", 0), cases_at(1, "door", 5)]) == []
    assert len(propose_subjects([cases_at(0, "door", 0), cases_at(1, "yard", 5)])) == 1
    assert len(propose_subjects([cases_at(0, "door", 0), cases_at(1, "door", 11)])) == 1


def test_several_tracks_of_one_person_are_one_subject() -> None:
    subjects = propose_subjects([case_track(k, (1, 0.05 * k), f"camera{k}") for k in range(4)])
    assert cases_of(subjects) == [["case0", "case1", "case2", "case3"]]


@pytest.fixture(scope="module")
def cases(entrance: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("summary")
    archive = write_files(folder / "in", door_20240501_130000="no film")
    shutil.copy(entrance, archive / "yard_20240501_120000.mp4")
    (archive / "link").symlink_to(archive.parent)
    run_batch(archive, folder / "cases", run_task, cameras=read_cameras(NAMES, None, "UTC"))
    return folder / "cases"


@pytest.fixture(scope="module")
def document(cases: Path) -> Summary:
    with Ledger.read(cases) as ledger:
        return summary(ledger)


def test_every_job_and_every_unread_file_is_listed(document: Summary) -> None:
    states = {job.files[0]: job.state for job in document.jobs}
    assert states == {"door_20240501_130000.mp4": "failed", "yard_20240501_120000.mp4": "done"}
    assert document.jobs_by_state["failed"] == 1 and document.totals["tracks"] == 1
    assert ["links to folders" in p.reason for p in document.not_read] == [True]


def test_the_table_has_a_row_per_job(document: Summary) -> None:
    rows = list(csv.DictReader(io.StringIO(as_csv(document))))
    assert list(rows[0]) == list(COLUMNS)
    assert [(r["camera"], r["state"]) for r in rows] == [("door", "failed"), ("yard", "done")]


def test_the_page_needs_no_other_files_and_escapes_names(document: Summary) -> None:
    evil = NotRead("<script>alert(1)</script>", "no")
    page = as_html(replace(document, not_read=[evil]))
    assert "<script" not in page and "&lt;script&gt;" in page
    assert 'http-equiv="Content-Security-Policy" content="default-src \'none\'' in page
    assert 'src="http' not in page and 'href="http' not in page
    for word in ("match", "identified", "recovered", "enhanced likeness"):
        assert word not in page.lower()


def test_the_links_of_the_page_work(cases: Path, document: Summary) -> None:
    links = re.findall(r'href="([^"]+)"', as_html(document))
    assert any(link.endswith("/report/index.html") for link in links)
    assert all(
        (cases / unquote(link)).exists() for link in links if not link.startswith(("#", "data:"))
    )


def test_footage_under_two_settings_is_counted_one_time(cases: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(cases, tmp_path / "cases"))
    with sqlite3.connect(copy / "ledger.sqlite") as db:
        (old,) = db.execute("SELECT folder FROM job WHERE state = 'done'").fetchone()
        shutil.copytree(copy / old, copy / "newer")
        db.execute(
            "INSERT INTO job (sha256, settings, folder, state, size, summary)"
            " SELECT sha256, 'others', 'newer', 'done', size, summary FROM job WHERE folder = ?",
            (old,),
        )
        db.execute(
            "INSERT INTO job (sha256, settings, folder, state, size)"
            " SELECT sha256, 'third', 'third', 'failed', size FROM job WHERE folder = ?",
            (old,),
        )
    with Ledger.read(copy) as ledger:
        document = write_summary(ledger)
    counted = {
        job.case: job.counted
        for job in document.jobs
        if job.sha256 and job.case in (old, "newer", "third")
    }
    assert counted == {old: False, "newer": True, "third": False}
    assert document.totals["tracks"] == 1 and document.subjects == []
    assert "under newer settings" in (copy / "summary.html").read_text()


def test_decisions_of_reviewers_are_in_the_summary(cases: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(cases, tmp_path / "cases"))
    with Ledger.read(copy) as ledger:
        (job,) = [job for job in ledger.jobs() if job.state == "done"]
        with Case.open(copy / job.folder) as case:
            decide(case, 1, "rejected", "another ear", by="Ann", role="examiner")
        (lead,) = write_summary(ledger).leads
    assert lead.decisions == [StandingDecision("rejected", None, "Ann", "examiner")]
    assert "rejected by Ann (examiner)" in (copy / "summary.html").read_text()


def test_a_purged_case_is_removed_from_the_summary(
    cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(cases, tmp_path / "cases"))
    with Ledger.read(copy) as ledger:
        write_summary(ledger)
        (job,) = [job for job in ledger.jobs() if job.state == "done"]
    code, _, err = run_command(
        capsys, "purge", copy / job.folder, "--now", "--why", "its people asked", "--yes"
    )
    assert code == 0, err
    page, document = (
        (copy / "summary.html").read_text(),
        json.loads((copy / "summary.json").read_text()),
    )
    assert "data:image/jpeg" not in page and document["leads"] == []
    (purge,) = document["purged"]
    assert purge["case"] == job.folder and purge["why"] == "its people asked"
    assert (
        not any(p["path"] == job.folder for p in document["not_read"])
        and document["totals"]["tracks"] == 0
    )
    assert document["jobs_by_state"]["purged"] == 1 and "its people asked" in page


def test_a_case_of_older_settings_is_counted_when_the_newer_one_is_purged(
    cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(cases, tmp_path / "cases"))
    with sqlite3.connect(copy / "ledger.sqlite") as db:
        (old,) = db.execute("SELECT folder FROM job WHERE state = 'done'").fetchone()
        shutil.copytree(copy / old, copy / "newer")
        db.execute(
            "INSERT INTO job (sha256, settings, folder, state, size, summary)"
            " SELECT sha256, 'others', 'newer', 'done', size, summary FROM job WHERE folder = ?",
            (old,),
        )
    assert run_command(capsys, "purge", copy / "newer", "--now", "--why", "order", "--yes")[0] in (
        0,
        4,
    )
    document = json.loads((copy / "summary.json").read_text())
    assert {
        job["case"]: job["counted"] for job in document["jobs"] if job["state"] != "failed"
    } == {
        old: True,
        "newer": False,
    }
    assert document["totals"]["tracks"] == 1


def test_wall_times_have_the_precision_of_the_footage(cases: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(cases, tmp_path / "cases"))
    clock = {
        "start": "2026-03-01T14:03:00.250000+01:00",
        "uncertainty_seconds": 0.0,
        "from": "given",
    }
    with Ledger.open(copy) as ledger:
        (job,) = [job for job in ledger.jobs() if job.state == "done"]
        ledger.set_done(job.id, {**job.summary, "clock": clock}, 0.0)
        with Case.open(copy / job.folder) as case:
            decide(case, 1, "rejected", "another ear", by="Ann")
        (lead,) = write_summary(ledger).leads
    start = datetime.fromisoformat("2026-03-01T14:03:00.250000+01:00")
    wall = str(lead.wall)
    assert lead.wall_uncertainty == 0.0
    off = abs((datetime.fromisoformat(wall) - start).total_seconds() - lead.start_seconds)
    assert off < 0.001 and wall.endswith("+01:00") and "." in wall
    assert wall.replace("T", " ") in (copy / "summary.html").read_text()


def test_a_summary_that_cannot_be_written_is_one_line(
    cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(cases, tmp_path / "cases"))
    (copy / "summary.csv").unlink(missing_ok=True)
    (copy / "summary.csv").mkdir()
    (tmp_path / "empty").mkdir()
    code, _, err = run_command(
        capsys, "batch", tmp_path / "empty", "--out", copy, "--scheduler", "local"
    )
    nothing_found, not_written = err.splitlines()
    assert code == 1 and "no footage found" in nothing_found
    assert "cannot be written" in not_written and str(copy) in not_written


def test_a_summary_on_a_full_disk_is_one_line(cases: Path, tmp_path: Path) -> None:
    with mount_small_disk(tmp_path / "disk", "20m") as disk:
        copy = Path(shutil.copytree(cases, disk / "cases"))
        with suppress(OSError), (disk / "rest").open("wb", buffering=0) as rest:
            while True:
                rest.write(bytes(4096))
        with (
            Ledger.read(copy) as ledger,
            pytest.raises(EnvironmentFailure, match="the disk is full"),
        ):
            write_summary(ledger)
