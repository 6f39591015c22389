"""Finished cases against a gallery that grew: their footage is not needed, and what changed is told."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from fasr_video import cli
from fasr_video.archive.again import cases_in, is_answered, search_again
from fasr_video.archive.ledger import Ledger
from fasr_video.archive.summary import write_summary
from fasr_video.archive.unit import work
from fasr_video.case.case import Case
from fasr_video.case.results import digest
from fasr_video.case.verify import verify
from fasr_video.configs import settings as configs
from fasr_video.errors import CaseError
from fasr_video.gallery import enrol as enrolling
from fasr_video.gallery.gallery import Gallery
from fasr_video.pipeline.run import open_models
from tests.archives import SETTINGS, work_off
from tests.conftest import PORTRAITS

# Opened once.
MODELS = open_models(SETTINGS)


def enrol(gallery: Path, *people: str) -> None:
    photographs = gallery.parent / "photographs"
    photographs.mkdir(exist_ok=True)
    for person in people:
        shutil.copy(PORTRAITS / "mugshots" / f"{person}.jpg", photographs)
    embedder = MODELS.encoder.embedder
    opened = (
        Gallery.open(gallery)
        if gallery.exists()
        else Gallery.create(gallery, embedder.name, embedder.sha256, embedder.length)
    )
    with opened:
        enrolling.enrol(opened, photographs, MODELS.detector, embedder)


@pytest.fixture(scope="module")
def archive(entrance: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `cases` of one clip under two names (so two cameras), its footage deleted, and a `gallery` of
    somebody who is not in it."""
    place = tmp_path_factory.mktemp("again")
    (place / "in").mkdir()
    shutil.copy(entrance, place / "in" / "a.mp4")
    enrol(place / "gallery", "eileen_collins")
    work_off(place / "in", place / "cases", work, gallery=place / "gallery")
    shutil.rmtree(place / "in")
    return place


@pytest.fixture
def again(archive: Path, tmp_path: Path) -> Path:
    """A copy of it, to change."""
    return Path(shutil.copytree(archive, tmp_path / "again"))


def test_the_same_question_is_not_asked_twice(again: Path) -> None:
    first = list(search_again(cases_in([again / "cases"]), again / "gallery"))
    second = list(search_again(cases_in([again / "cases"]), again / "gallery"))
    assert [s.problem for s in first + second] == [None, None]
    assert [s.asked for s in second] == [False]


def test_who_was_enrolled_since_is_a_new_candidate_without_the_footage(again: Path) -> None:
    enrol(again / "gallery", "grace_hopper")
    (result,) = search_again(cases_in([again / "cases"]), again / "gallery")
    assert result.asked and result.problem is None
    assert [(c.track, c.new, c.gone) for c in result.changes] == [("T1", ("grace_hopper",), ())]
    with Case.open(result.case, read_only=True) as case:
        assert not [p for c in verify(case) for p in c.problems]
    with Ledger.read(again / "cases") as ledger:
        assert write_summary(ledger)["leads"][0]["candidates"][0]["subject"] == "grace_hopper"


def test_an_answer_about_probes_of_before_answers_nothing(again: Path) -> None:
    (folder,) = cases_in([again / "cases"])
    with Case.open(folder) as case, Gallery.open(again / "gallery", read_only=True) as gallery:
        assert is_answered(case, gallery, SETTINGS.search)
        with case.transaction():
            case.log("encoded", {"models": {}, "digests": {"1": digest(case, 1)}})
        assert not is_answered(case, gallery, SETTINGS.search)
    (result,) = search_again([folder], again / "gallery")
    assert result.asked and result.problem is None
    with Case.open(folder, read_only=True) as case:
        assert not [p for c in verify(case) for p in c.problems]


def test_features_of_other_models_are_not_compared(again: Path) -> None:
    (folder,) = cases_in([again / "cases"])
    with Case.open(folder) as case, case.transaction():
        case.db.execute("UPDATE encoding SET models = json_set(models, '$.pooled_by', 'another')")
    (result,) = search_again([folder], again / "gallery")
    assert result.problem is not None and "other models" in result.problem


def test_a_folder_without_cases_is_named(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match="no case here, nor"):
        cases_in([tmp_path])


def test_the_command_tells_changes_and_ends_with_three_when_a_case_could_not_be_searched(
    again: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    enrol(again / "gallery", "grace_hopper")
    (again / "cases" / "broken").mkdir()
    (again / "cases" / "broken" / "case.sqlite").write_text(
        "no database at all, but long enough to be one" * 50
    )
    command = [
        "fasr-video",
        "search",
        str(again / "cases"),
        "--gallery",
        str(again / "gallery"),
        "--json",
    ]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert ended.value.code == 3
    assert {"tracks_changed": 1, "failed": 1}.items() <= lines[-1].items()
    assert any("damaged" in (line.get("problem") or "") for line in lines)


def test_settings_of_a_search_are_those_that_were_asked_last(again: Path) -> None:
    (folder,) = cases_in([again / "cases"])
    other = configs.load("cpu", ("search.fpir=0.1",)).search
    with Case.open(folder) as case, case.transaction():
        asked = case.searched() or {}
        case.set_meta("searched", json.dumps({**asked, "question": other.model_dump(mode="json")}))
    list(search_again([folder], again / "gallery"))
    with Case.open(folder, read_only=True) as case:
        assert (case.searched() or {})["question"]["fpir"] == 0.1


def test_what_a_search_found_is_told_when_its_report_cannot_be_written(again: Path) -> None:
    enrol(again / "gallery", "grace_hopper")
    (folder,) = cases_in([again / "cases"])
    (
        folder / "report" / "SHA256SUMS"
    ).unlink()  # a folder of somebody else's, as far as one can see
    (result,) = search_again([folder], again / "gallery")
    assert result.asked and [c.new for c in result.changes] == [("grace_hopper",)]
    assert result.problem is not None and "its report was not written" in result.problem


def footage_is_back(again: Path, entrance: Path) -> Path:
    (again / "in").mkdir()
    shutil.copy(entrance, again / "in" / "a.mp4")
    return again / "in"


def test_a_batch_asks_finished_cases_again_when_gallery_or_search_are_others(
    again: Path, entrance: Path
) -> None:
    footage = footage_is_back(again, entrance)
    told, _ = work_off(footage, again / "cases", work, gallery=again / "gallery")
    assert told.notes == [], "nothing changed"
    enrol(again / "gallery", "grace_hopper")
    told, _ = work_off(footage, again / "cases", work, gallery=again / "gallery")
    assert [n.text for n in told.notes] == ["searched again: T1 new candidate grace_hopper"]
    strict = SETTINGS.model_copy(
        update={"search": SETTINGS.search.model_copy(update={"fpir": 0.005})}
    )
    told, _ = work_off(footage, again / "cases", work, gallery=again / "gallery", settings=strict)
    assert [n.text for n in told.notes] == ["searched again: the same candidates"]
    told, _ = work_off(footage, again / "cases", work)
    assert told.notes == [], "no gallery is no question"
    (folder,) = cases_in([again / "cases"])
    with Case.open(folder, read_only=True) as case:
        assert (case.searched() or {})["question"]["fpir"] == 0.005
        assert not [p for c in verify(case) for p in c.problems]
        assert case.meta("log_head") in (folder / "report" / "index.html").read_text()


def test_a_report_that_was_left_out_or_damaged_is_written_by_the_next_batch(
    again: Path, entrance: Path
) -> None:
    footage = footage_is_back(again, entrance)
    (folder,) = cases_in([again / "cases"])
    (folder / "report" / "T1.html").unlink()
    work_off(footage, again / "cases", work, reports=False)
    assert not (folder / "report" / "T1.html").exists()
    work_off(footage, again / "cases", work)
    assert (folder / "report" / "T1.html").is_file()
    shutil.rmtree(folder / "report")
    with Ledger.read(again / "cases") as ledger:
        document = write_summary(ledger)
    assert (
        document["units"][0]["report"] is None
        and document["units"][0]["with_candidates"] is not None
    )
    assert "report/" not in (again / "cases" / "summary.html").read_text()
    work_off(footage, again / "cases", work)
    assert (folder / "report" / "index.html").is_file()


def test_the_search_of_an_archive_may_be_asked_otherwise(
    again: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder,) = cases_in([again / "cases"])
    command = ["fasr-video", "search", str(folder), "--gallery", str(again / "gallery"), "--set"]

    def ended_with(setting: str) -> object:
        monkeypatch.setattr(sys, "argv", [*command, setting])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code

    assert ended_with("search.fpir=0.3") == 0
    with Case.open(folder, read_only=True) as case:
        assert (case.searched() or {})["question"]["fpir"] == 0.3
    assert (again / "cases" / "summary.html").is_file(), "the archive's summary is not left stale"
    assert ended_with("detect.every=2") == 2
    assert "finished cases are only searched" in capsys.readouterr().err


def searched(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    gallery: Path,
    *places: Path,
) -> tuple[object, str]:
    monkeypatch.setattr(
        sys, "argv", ["fasr-video", "search", *map(str, places), "--gallery", str(gallery)]
    )
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code, capsys.readouterr().err


def test_the_summary_of_an_archive_below_the_given_folder_is_made_anew(
    again: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    enrol(again / "gallery", "grace_hopper")
    assert searched(capsys, monkeypatch, again / "gallery", again)[0] == 0
    assert "grace_hopper" in (again / "cases" / "summary.html").read_text()


def test_a_summary_that_cannot_be_written_is_one_line_and_the_search_is_told(
    again: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (again / "cases" / "summary.html").mkdir()
    code, err = searched(capsys, monkeypatch, again / "gallery", again / "cases")
    assert code == 3 and err.count("\n") == 1 and "cannot be written" in err


def test_a_place_that_is_not_there_is_an_error_also_beside_a_ledger(
    again: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder,) = cases_in([again / "cases"])
    code, err = searched(capsys, monkeypatch, again / "gallery", folder, again / "cases" / "typo")
    assert code == 2 and err.count("\n") == 1 and "typo: no such folder" in err
