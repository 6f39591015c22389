"""The ledger of an archive: what is done stays done, whoever dies."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from fasr_video.archive.cameras import Known
from fasr_video.archive.ledger import DATABASE, Ledger
from fasr_video.archive.scan import Found
from fasr_video.errors import CaseError, FasrError

CLIP = Found(Path("/footage/clip.mp4"), "clip.mp4", 100, 1)


def test_what_a_dead_owner_left_running_waits_again_and_that_was_no_try(tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:
        ledger = Ledger.open(tmp_path)
        ledger.put_job("aa", "s", "clip-1", 100, again=False)
        ledger.take()
        os.kill(os.getpid(), 9)
    os.waitpid(pid, 0)
    with Ledger.read(tmp_path) as left:
        assert [(u.state, u.tries) for u in left.units()] == [("running", 1)]
    with Ledger.open(tmp_path) as ledger:
        assert [(u.state, u.tries) for u in ledger.units()] == [("waiting", 0)]


def test_one_process_holds_it_and_another_is_told(tmp_path: Path) -> None:
    with Ledger.open(tmp_path), pytest.raises(CaseError, match="another batch or watch"):
        Ledger.open(tmp_path)
    Ledger.open(tmp_path).__exit__()


def test_a_file_is_hashed_again_when_its_size_or_time_is_another(tmp_path: Path) -> None:
    with Ledger.open(tmp_path) as ledger:
        ledger.put_file(CLIP, "aa", Known())
        assert ledger.hash_of(CLIP) == "aa"
        assert ledger.hash_of(Found(CLIP.path, CLIP.name, 101, 1)) is None
        assert ledger.hash_of(Found(CLIP.path, CLIP.name, 100, 2)) is None


def test_one_content_under_other_settings_is_another_unit(tmp_path: Path) -> None:
    with Ledger.open(tmp_path) as ledger:
        first = ledger.put_job("aa", "s", "clip-1", 100, again=False)
        assert ledger.put_job("aa", "s", "clip-1", 100, again=False).id == first.id
        assert ledger.put_job("aa", "other", "clip-2", 100, again=False).id != first.id
        assert ledger.free_folder("bb", "s", ["clip-1", "clip-2", "clip-3"]) == "clip-3"


def test_only_what_was_put_this_time_is_taken_and_failures_come_last(tmp_path: Path) -> None:
    with Ledger.open(tmp_path) as ledger:
        ledger.put_job("of another folder", "s", "x", 1, again=False)
    with Ledger.open(tmp_path) as ledger:
        assert ledger.take() is None
        a, b = (ledger.put_job(sha, "s", sha, 1, again=False) for sha in ("a", "b"))
        taken = ledger.take()
        assert taken is not None and taken.id == a.id
        ledger.failed(a.id, "waiting", "died")
        assert [u.id for u in (ledger.take(), ledger.take()) if u] == [b.id, a.id]


@pytest.mark.parametrize(
    ("state", "again", "after"), [("failed", False, "failed"), ("failed", True, "waiting")]
)
def test_what_failed_is_tried_again_when_that_is_asked_for(
    state: str, again: bool, after: str, tmp_path: Path
) -> None:
    with Ledger.open(tmp_path) as ledger:
        unit = ledger.put_job("aa", "s", "clip", 1, again=False)
        ledger.failed(unit.id, state, "no footage")
        assert ledger.put_job("aa", "s", "clip", 1, again=again).state == after


def test_a_unit_whose_file_is_back_waits_again(tmp_path: Path) -> None:
    with Ledger.open(tmp_path) as ledger:
        unit = ledger.put_job("aa", "s", "clip", 1, again=False)
        ledger.failed(unit.id, "missing", "gone")
        assert ledger.put_job("aa", "s", "clip", 1, again=False).state == "waiting"


def test_a_ledger_of_another_version_is_refused_by_name(tmp_path: Path) -> None:
    Ledger.open(tmp_path).__exit__()
    with sqlite3.connect(tmp_path / DATABASE) as db:
        db.execute("UPDATE meta SET value = '99'")
    with pytest.raises(FasrError, match="ledger format 99"):
        Ledger.open(tmp_path)


def test_a_case_is_no_folder_for_cases(tmp_path: Path) -> None:
    (tmp_path / "case.sqlite").touch()
    with pytest.raises(CaseError, match="it is a case itself"):
        Ledger.open(tmp_path)
