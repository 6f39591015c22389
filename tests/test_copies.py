"""Somebody who is removed from a gallery is looked for everywhere else: nothing is left untold."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fasr_video.gallery.store import DATABASE as GALLERY_DATABASE
from fasr_video.report.write import write_report
from tests.cases import LEAD, synthetic
from tests.test_cli import called

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gallery, and beside it `around` with a case that has its own copy of it, and that case's report."""
    folder = tmp_path_factory.mktemp("copies")
    case = synthetic(folder / "around" / "case")
    write_report(case, folder / "around" / "report", ["html"])
    shutil.copytree(case / "gallery", folder / "gallery")
    (folder / "around" / "notes.txt").write_text("nobody here " * 99)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copies"))


def removed(capsys: Capture, folder: Path, code: int = 4) -> dict[str, Any]:
    """What the removal of LEAD finds around its gallery."""
    options = ("--why", "order", "--search", folder / "around", "--json")
    ended, out, err = called(capsys, "gallery", "remove", folder / "gallery", LEAD, *options)
    assert ended == code, err
    proof = json.loads(out)
    assert proof["subjects"] == [LEAD] and proof["occurrences"] == 0
    found: dict[str, Any] = proof["elsewhere"]
    return found


def test_other_galleries_and_reports_that_hold_them_are_named(
    folder: Path, capsys: Capture
) -> None:
    found = removed(capsys, folder)
    copies = {Path(p).relative_to(folder / "around").as_posix() for p in found["copies"]}
    assert any(p.startswith(f"case/gallery/{GALLERY_DATABASE}") for p in copies), (
        "the vector, and the face"
    )
    assert any(p.startswith("report/") for p in copies), "the face, as pages hold it"
    assert "notes.txt" not in copies and not [p for p in copies if "crops" in p], (
        "the camera's faces are others"
    )


def test_cases_that_name_them_are_named_with_where(folder: Path, capsys: Capture) -> None:
    ((case, where),) = removed(capsys, folder)["named"].items()
    assert case == str(folder / "around" / "case")
    assert {"candidates", "a reconstruction drawn from their photographs"} <= set(where)


def test_where_nothing_is_left_it_says_so(folder: Path, capsys: Capture) -> None:
    for place in ("case", "report"):
        shutil.rmtree(folder / "around" / place)
    found = removed(capsys, folder, 0)
    assert (found["files"], found["copies"], found["named"], found["unread"]) == (1, [], {}, [])


def test_the_gallery_itself_is_not_elsewhere(folder: Path, capsys: Capture) -> None:
    shutil.move(folder / "around" / "case", folder / "away")
    shutil.rmtree(folder / "around" / "report")
    options = ("--why", "order", "--search", folder / "around", "--search", folder / "gallery")
    code, out, _ = called(capsys, "gallery", "remove", folder / "gallery", LEAD, *options)
    assert code == 0 and "0 of 1 files elsewhere" in out


def test_a_place_that_is_not_there_is_told_before_anything_is_removed(
    folder: Path, capsys: Capture
) -> None:
    before = (folder / "gallery" / GALLERY_DATABASE).read_bytes()
    options = ("--why", "order", "--search", folder / "nowhere")
    code, _, err = called(capsys, "gallery", "remove", folder / "gallery", LEAD, *options)
    assert code == 2 and "no such folder to search" in err
    assert (folder / "gallery" / GALLERY_DATABASE).read_bytes() == before


def test_without_a_place_to_search_it_says_what_was_not_looked_at(
    folder: Path, capsys: Capture
) -> None:
    code, out, _ = called(capsys, "gallery", "remove", folder / "gallery", LEAD, "--why", "order")
    assert (
        code == 0
        and "copies in cases, reports, other galleries and backups were not searched for" in out
    )
