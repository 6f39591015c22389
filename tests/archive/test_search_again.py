"""Finished cases are searched again without their footage, and the changes are reported."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from fasr_video import cli
from fasr_video.archive.ledger import Ledger
from fasr_video.archive.search_again import cases_in, is_up_to_date, search_again
from fasr_video.archive.summary import write_summary
from fasr_video.archive.worker import run_task
from fasr_video.case.case import Case
from fasr_video.case.results import digest
from fasr_video.case.verify import verify
from fasr_video.configs import settings as configs
from fasr_video.errors import CaseError
from fasr_video.gallery import enrol as enrolling
from fasr_video.gallery.gallery import Gallery
from fasr_video.pipeline.run import open_models
from tests.support.archives import SETTINGS, run_batch
from tests.support.paths import PORTRAITS

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
    """Return a folder with the `cases` of one clip, whose file is deleted, and a `gallery`.

    The gallery holds somebody who is not in the clip.
    """
    folder = tmp_path_factory.mktemp("archive")
    (folder / "in").mkdir()
    shutil.copy(entrance, folder / "in" / "a.mp4")
    enrol(folder / "gallery", "eileen_collins")
    run_batch(folder / "in", folder / "cases", run_task, gallery=folder / "gallery")
    shutil.rmtree(folder / "in")
    return folder


@pytest.fixture
def archive_copy(archive: Path, tmp_path: Path) -> Path:
    """Return a copy of the archive, to change."""
    return Path(shutil.copytree(archive, tmp_path / "copied"))


def test_the_same_search_is_not_done_a_second_time(archive_copy: Path) -> None:
    first = list(search_again(cases_in([archive_copy / "cases"]), archive_copy / "gallery"))
    second = list(search_again(cases_in([archive_copy / "cases"]), archive_copy / "gallery"))
    assert [result.problem for result in first + second] == [None, None]
    assert [result.was_searched for result in second] == [False]


def test_a_person_enrolled_since_is_a_new_candidate_without_the_footage(archive_copy: Path) -> None:
    enrol(archive_copy / "gallery", "grace_hopper")
    (result,) = search_again(cases_in([archive_copy / "cases"]), archive_copy / "gallery")
    assert result.was_searched and result.problem is None
    assert [(change.track, change.new, change.gone) for change in result.changes] == [
        ("T1", ("grace_hopper",), ())
    ]
    with Case.open(result.case, read_only=True) as case:
        assert not [p for c in verify(case) for p in c.problems]
    with Ledger.read(archive_copy / "cases") as ledger:
        assert write_summary(ledger).leads[0].candidates[0].subject == "grace_hopper"


def test_a_case_whose_probes_were_made_anew_is_not_up_to_date(archive_copy: Path) -> None:
    (folder,) = cases_in([archive_copy / "cases"])
    with (
        Case.open(folder) as case,
        Gallery.open(archive_copy / "gallery", read_only=True) as gallery,
    ):
        assert is_up_to_date(case, gallery, SETTINGS.search)
        with case.transaction():
            case.log("encoded", {"models": {}, "digests": {"1": digest(case, 1)}})
        assert not is_up_to_date(case, gallery, SETTINGS.search)
    (result,) = search_again([folder], archive_copy / "gallery")
    assert result.was_searched and result.problem is None
    with Case.open(folder, read_only=True) as case:
        assert not [p for c in verify(case) for p in c.problems]


def test_features_of_other_models_are_not_compared(archive_copy: Path) -> None:
    (folder,) = cases_in([archive_copy / "cases"])
    with Case.open(folder) as case, case.transaction():
        case.db.execute("UPDATE encoding SET models = json_set(models, '$.pooled_by', 'another')")
    (result,) = search_again([folder], archive_copy / "gallery")
    assert result.problem is not None and "other models" in result.problem


def test_a_folder_without_cases_is_named(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match="there is no case here, nor"):
        cases_in([tmp_path])
    (tmp_path / "b" / "one").mkdir(parents=True)
    (tmp_path / "b" / "one" / "case.sqlite").touch()
    with pytest.raises(CaseError, match=r"no case here .*; give one of the cases in it: one$"):
        Case.open(tmp_path / "b")


def test_search_prints_changes_and_ends_with_three_when_a_case_could_not_be_searched(
    archive_copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    enrol(archive_copy / "gallery", "grace_hopper")
    (archive_copy / "cases" / "broken").mkdir()
    (archive_copy / "cases" / "broken" / "case.sqlite").write_text(
        "no database at all, but long enough to be one" * 50
    )
    command = [
        "fasr-video",
        "search",
        str(archive_copy / "cases"),
        "--gallery",
        str(archive_copy / "gallery"),
        "--json",
    ]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert ended.value.code == 3
    assert {"tracks_changed": 1, "failed": 1}.items() <= lines[-1].items()
    assert any("damaged" in (line.get("problem") or "") for line in lines)


def test_a_search_uses_the_settings_of_the_last_one(archive_copy: Path) -> None:
    (folder,) = cases_in([archive_copy / "cases"])
    other = configs.load("cpu", ("search.fpir=0.1",)).search
    with Case.open(folder) as case, case.transaction():
        last = json.loads(case.meta("searched"))
        case.set_meta("searched", json.dumps({**last, "settings": other.model_dump(mode="json")}))
    list(search_again([folder], archive_copy / "gallery"))
    with Case.open(folder, read_only=True) as case:
        assert json.loads(case.meta("searched"))["settings"]["fpir"] == 0.1


def test_changes_are_reported_also_when_the_report_cannot_be_written(archive_copy: Path) -> None:
    enrol(archive_copy / "gallery", "grace_hopper")
    (folder,) = cases_in([archive_copy / "cases"])
    (
        folder / "report" / "SHA256SUMS"
    ).unlink()  # a folder of somebody else's, as far as one can see
    (result,) = search_again([folder], archive_copy / "gallery")
    assert result.was_searched and [c.new for c in result.changes] == [("grace_hopper",)]
    assert result.problem is not None and "its report was not written" in result.problem


def footage_is_back(archive_copy: Path, entrance: Path) -> Path:
    (archive_copy / "in").mkdir()
    shutil.copy(entrance, archive_copy / "in" / "a.mp4")
    return archive_copy / "in"


def test_a_batch_searches_finished_cases_again_when_gallery_or_settings_differ(
    archive_copy: Path, entrance: Path
) -> None:
    footage = footage_is_back(archive_copy, entrance)
    events, _ = run_batch(
        footage, archive_copy / "cases", run_task, gallery=archive_copy / "gallery"
    )
    assert events.notes == [], "nothing changed"
    enrol(archive_copy / "gallery", "grace_hopper")
    events, _ = run_batch(
        footage, archive_copy / "cases", run_task, gallery=archive_copy / "gallery"
    )
    assert [n.text for n in events.notes] == ["searched again: T1 new candidate grace_hopper"]
    strict = SETTINGS.model_copy(
        update={"search": SETTINGS.search.model_copy(update={"fpir": 0.005})}
    )
    events, _ = run_batch(
        footage, archive_copy / "cases", run_task, gallery=archive_copy / "gallery", settings=strict
    )
    assert [n.text for n in events.notes] == ["searched again: the same candidates"]
    events, _ = run_batch(footage, archive_copy / "cases", run_task)
    assert events.notes == [], "without a gallery there is no search"
    (folder,) = cases_in([archive_copy / "cases"])
    with Case.open(folder, read_only=True) as case:
        assert json.loads(case.meta("searched"))["settings"]["fpir"] == 0.005
        assert not [p for c in verify(case) for p in c.problems]
        assert case.meta("log_head") in (folder / "report" / "index.html").read_text()


def test_a_missing_or_damaged_report_is_written_by_the_next_batch(
    archive_copy: Path, entrance: Path
) -> None:
    footage = footage_is_back(archive_copy, entrance)
    (folder,) = cases_in([archive_copy / "cases"])
    (folder / "report" / "T1.html").unlink()
    run_batch(footage, archive_copy / "cases", run_task, reports=False)
    assert not (folder / "report" / "T1.html").exists()
    run_batch(footage, archive_copy / "cases", run_task)
    assert (folder / "report" / "T1.html").is_file()
    shutil.rmtree(folder / "report")
    with Ledger.read(archive_copy / "cases") as ledger:
        document = write_summary(ledger)
    assert document.jobs[0].report is None and document.jobs[0].with_candidates is not None
    assert "report/" not in (archive_copy / "cases" / "summary.html").read_text()
    run_batch(footage, archive_copy / "cases", run_task)
    assert (folder / "report" / "index.html").is_file()


def test_search_settings_can_be_overridden_for_an_archive(
    archive_copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder,) = cases_in([archive_copy / "cases"])
    command = [
        "fasr-video",
        "search",
        str(folder),
        "--gallery",
        str(archive_copy / "gallery"),
        "--set",
    ]

    def ended_with(setting: str) -> object:
        monkeypatch.setattr(sys, "argv", [*command, setting])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code

    assert ended_with("search.fpir=0.3") == 0
    with Case.open(folder, read_only=True) as case:
        assert json.loads(case.meta("searched"))["settings"]["fpir"] == 0.3
    assert (archive_copy / "cases" / "summary.html").is_file(), (
        "the archive's summary is not left stale"
    )
    assert ended_with("detect.every=2") == 2
    assert "changes only settings of the group search" in capsys.readouterr().err


def run_search(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    gallery: Path,
    *folders: Path,
) -> tuple[object, str]:
    monkeypatch.setattr(
        sys, "argv", ["fasr-video", "search", *map(str, folders), "--gallery", str(gallery)]
    )
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code, capsys.readouterr().err


def test_the_summary_of_an_archive_below_the_given_folder_is_written(
    archive_copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    enrol(archive_copy / "gallery", "grace_hopper")
    assert run_search(capsys, monkeypatch, archive_copy / "gallery", archive_copy)[0] == 0
    assert "grace_hopper" in (archive_copy / "cases" / "summary.html").read_text()


def test_a_summary_that_cannot_be_written_is_one_line_and_exit_code_three(
    archive_copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (archive_copy / "cases" / "summary.html").mkdir()
    code, err = run_search(capsys, monkeypatch, archive_copy / "gallery", archive_copy / "cases")
    assert code == 3 and err.count("\n") == 1 and "cannot be written" in err


def test_a_missing_folder_is_an_error_also_beside_a_ledger(
    archive_copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder,) = cases_in([archive_copy / "cases"])
    code, err = run_search(
        capsys, monkeypatch, archive_copy / "gallery", folder, archive_copy / "cases" / "typo"
    )
    assert code == 2 and err.count("\n") == 1 and "typo: no such folder" in err
