"""Removing a person from a gallery also searches other folders for copies."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fasr_video.gallery.store import DATABASE as GALLERY_DATABASE
from fasr_video.report.write import write_report
from tests.support.cases import LEAD, make_synthetic_case
from tests.support.commands import run_command

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a gallery, and a folder `around` with a case that has a copy of it, and a report."""
    folder = tmp_path_factory.mktemp("copies")
    case = make_synthetic_case(folder / "around" / "case")
    write_report(case, folder / "around" / "report", ["html"])
    shutil.copytree(case / "gallery", folder / "gallery")
    (folder / "around" / "notes.txt").write_text("nobody here " * 99)
    return folder


@pytest.fixture
def folder(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "copies"))


def remove_lead(capsys: Capture, folder: Path, code: int = 4) -> dict[str, Any]:
    """Remove LEAD from the gallery and return what is found around it."""
    options = ("--why", "order", "--search", folder / "around", "--json")
    ended, out, err = run_command(capsys, "gallery", "remove", folder / "gallery", LEAD, *options)
    assert ended == code, err
    proof = json.loads(out)
    assert proof["subjects"] == [LEAD] and proof["occurrences"] == 0
    found: dict[str, Any] = proof["elsewhere"]
    return found


def test_galleries_and_reports_with_copies_are_listed(folder: Path, capsys: Capture) -> None:
    found = remove_lead(capsys, folder)
    copies = {Path(p).relative_to(folder / "around").as_posix() for p in found["copies"]}
    assert any(p.startswith(f"case/gallery/{GALLERY_DATABASE}") for p in copies), (
        "the vector, and the face"
    )
    assert any(p.startswith("report/") for p in copies), "the face, as pages hold it"
    assert "notes.txt" not in copies and not [p for p in copies if "crops" in p], (
        "the camera's faces are others"
    )


def test_cases_that_name_the_removed_person_are_listed_with_where(
    folder: Path, capsys: Capture
) -> None:
    ((case, where),) = remove_lead(capsys, folder)["named"].items()
    assert case == str(folder / "around" / "case")
    assert {"candidates", "a reconstruction drawn from their photographs"} <= set(where)


def test_without_copies_the_search_reports_none(folder: Path, capsys: Capture) -> None:
    for name in ("case", "report"):
        shutil.rmtree(folder / "around" / name)
    found = remove_lead(capsys, folder, 0)
    assert (found["files"], found["copies"], found["named"], found["unread"]) == (1, [], {}, [])


def test_the_gallerys_own_files_do_not_count_as_copies(folder: Path, capsys: Capture) -> None:
    shutil.move(folder / "around" / "case", folder / "away")
    shutil.rmtree(folder / "around" / "report")
    options = ("--why", "order", "--search", folder / "around", "--search", folder / "gallery")
    code, out, _ = run_command(capsys, "gallery", "remove", folder / "gallery", LEAD, *options)
    assert code == 0 and "in 0 of 1 file elsewhere" in out


def test_a_missing_search_folder_stops_the_removal(folder: Path, capsys: Capture) -> None:
    before = (folder / "gallery" / GALLERY_DATABASE).read_bytes()
    options = ("--why", "order", "--search", folder / "nowhere")
    code, _, err = run_command(capsys, "gallery", "remove", folder / "gallery", LEAD, *options)
    assert code == 2 and "no such folder to search" in err
    assert (folder / "gallery" / GALLERY_DATABASE).read_bytes() == before


def test_without_a_folder_to_search_it_says_that_nothing_was_searched(
    folder: Path, capsys: Capture
) -> None:
    code, out, _ = run_command(
        capsys, "gallery", "remove", folder / "gallery", LEAD, "--why", "order"
    )
    assert (
        code == 0
        and "copies in cases, reports, other galleries and backups were not searched for" in out
    )
