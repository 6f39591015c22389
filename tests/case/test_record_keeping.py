"""The four things that Art. 12(3) of the EU AI Act asks a remote biometric system to record: a case
holds each.
"""

from __future__ import annotations

import json
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from fasr_video.case import decisions, document
from fasr_video.case.case import Case
from fasr_video.case.store import GALLERY
from fasr_video.case.verify import verify
from fasr_video.clock import now
from fasr_video.configs import settings as configs
from fasr_video.files import sha256_file
from fasr_video.gallery.gallery import Gallery
from fasr_video.pipeline.run import redo, run
from fasr_video.review.signoff import sign_off
from tests.support.paths import PORTRAITS

QUICK = (
    *("sampling.fps=2", "sampling.start=2", "sampling.end=5", "track.min_sightings=2"),
    *("select.auxiliaries=2", "search.mode=identification", "search.fpir=0.3"),
)


@pytest.fixture(scope="module")
def whole(entrance: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A case that was run, searched, decided by two and signed off; with when it was begun and when
    it was run.
    """
    folder = tmp_path_factory.mktemp("whole") / "case"
    begun = now()
    settings = configs.load("cpu", QUICK)
    run([entrance], folder, settings, PORTRAITS / "mugshots", by="Olga Ost", role="operator")
    ended = now()
    with Case.open(folder) as case:
        for by, role in (("Anna Amt", "examiner"), ("Ben Beck", "reviewer")):
            decisions.decide(case, 1, "rejected", "other ear", by=by, role=role)
        sign_off(case, "Cleo Chef", role="supervisor")
    return {"folder": folder, "begun": begun, "ended": ended}


@pytest.fixture
def case(whole: dict[str, Any]) -> Any:
    with Case.open(whole["folder"], read_only=True) as opened:
        assert not [problem for check in verify(opened) for problem in check.problems]
        yield opened


def lines(case: Case, event: str) -> list[dict[str, Any]]:
    rows = case.db.execute(
        "SELECT details FROM log WHERE event = ? ORDER BY id", (event,)
    ).fetchall()
    return [json.loads(row["details"]) for row in rows]


def test_a_the_period_of_each_use_is_recorded(case: Case, whole: dict[str, Any]) -> None:
    (use,) = document.runs(case)
    times = [whole["begun"], use.begun, use.ended, whole["ended"]]
    assert (
        use.finished
        and times == sorted(times)
        and datetime.fromisoformat(use.begun).tzinfo is not None
    )
    assert (use.by, use.role) == ("Olga Ost", "operator")


def test_b_the_reference_database_is_recorded(case: Case) -> None:
    (searched,) = lines(case, "searched")
    with Gallery.open(case.folder / GALLERY, read_only=True) as gallery:
        assert (
            searched["gallery"]["id"] == gallery.id
            and searched["gallery"]["state"] == gallery.state
        )
    held = {
        r["sha256"]: r["subject"]
        for r in case.db.execute("SELECT sha256, subject FROM gallery_photo")
    }
    mugshots = (PORTRAITS / "mugshots").glob("*.jpg")
    assert held == {sha256_file(photo): photo.stem for photo in mugshots}, (
        "each photograph, by its own hash"
    )


def test_c_the_input_that_led_to_a_candidate_is_recorded(case: Case, entrance: Path) -> None:
    (searched,) = lines(case, "searched")
    assert searched["leads"], "the settings of this test make it so"
    for track in searched["leads"]:
        (track_row,) = document.tracks(case, track)
        assert track_row.answer is not None and track_row.answer.verdict == "candidates"
        assert (
            track_row.source_sha256
            == sha256_file(entrance)
            == lines(case, "source added")[0]["sha256"]
        )
        assert (
            track_row.shown is not None
            and track_row.shown.native is not None
            and len(case.picture_bytes(Path(track_row.shown.native).stem)) > 0
        )


def test_c_stays_in_the_log_when_the_case_is_searched_anew(
    whole: dict[str, Any], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(whole["folder"], tmp_path / "case"))
    strict = configs.load("cpu", (*QUICK[:-1], "search.fpir=0.003"))
    assert redo(copy, "search", strict)
    with Case.open(copy, read_only=True) as case:
        first, _ = lines(case, "searched")
        assert first["leads"] and first["answers"]
        assert not [problem for check in verify(case) for problem in check.problems]


def test_d_the_people_who_verified_are_recorded(case: Case) -> None:
    assert [(d["by"], d["role"]) for d in lines(case, "decided")] == [
        ("Anna Amt", "examiner"),
        ("Ben Beck", "reviewer"),
    ]
    (signed,) = lines(case, "signed off")
    assert (signed["by"], signed["role"]) == ("Cleo Chef", "supervisor")
