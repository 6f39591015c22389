"""The ledger of an archive: what is done stays done, whichever process dies."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from fasr_video.archive.cameras import FileInfo
from fasr_video.archive.ledger import DATABASE, Ledger
from fasr_video.archive.scan import FoundFile
from fasr_video.errors import CaseError, FasrError

CLIP = FoundFile(Path("/footage/clip.mp4"), "clip.mp4", 100, 1)


def test_jobs_that_a_dead_process_left_running_wait_again_without_counting_a_try(
    tmp_path: Path,
) -> None:
    pid = os.fork()
    if pid == 0:
        ledger = Ledger.open(tmp_path)
        ledger.put_job("aa", "s", "clip-1", 100, retry_failed=False)
        ledger.take_job()
        os.kill(os.getpid(), 9)
    os.waitpid(pid, 0)
    with Ledger.read(tmp_path) as left:
        assert [(job.state, job.tries) for job in left.jobs()] == [("running", 1)]
    with Ledger.open(tmp_path) as ledger:
        assert [(job.state, job.tries) for job in ledger.jobs()] == [("waiting", 0)]


def test_a_second_process_cannot_open_a_ledger_for_writing(tmp_path: Path) -> None:
    with Ledger.open(tmp_path), pytest.raises(CaseError, match="another batch or watch"):
        Ledger.open(tmp_path)
    Ledger.open(tmp_path).__exit__()


def test_a_file_is_hashed_again_when_its_size_or_time_of_change_differs(tmp_path: Path) -> None:
    with Ledger.open(tmp_path) as ledger:
        ledger.put_file(CLIP, "aa", FileInfo())
        assert ledger.known_hash(CLIP) == "aa"
        assert ledger.known_hash(FoundFile(CLIP.path, CLIP.name, 101, 1)) is None
        assert ledger.known_hash(FoundFile(CLIP.path, CLIP.name, 100, 2)) is None


def test_the_same_content_under_other_settings_is_another_job(tmp_path: Path) -> None:
    with Ledger.open(tmp_path) as ledger:
        first = ledger.put_job("aa", "s", "clip-1", 100, retry_failed=False)
        assert ledger.put_job("aa", "s", "clip-1", 100, retry_failed=False).id == first.id
        assert ledger.put_job("aa", "other", "clip-2", 100, retry_failed=False).id != first.id
        assert ledger.free_folder("bb", "s", ["clip-1", "clip-2", "clip-3"]) == "clip-3"


def test_only_jobs_planned_this_time_are_taken_and_failed_ones_come_last(tmp_path: Path) -> None:
    with Ledger.open(tmp_path) as ledger:
        ledger.put_job("of another folder", "s", "x", 1, retry_failed=False)
    with Ledger.open(tmp_path) as ledger:
        assert ledger.take_job() is None
        a, b = (ledger.put_job(sha, "s", sha, 1, retry_failed=False) for sha in ("a", "b"))
        taken = ledger.take_job()
        assert taken is not None and taken.id == a.id
        ledger.set_failed(a.id, "waiting", "died")
        assert [job.id for job in (ledger.take_job(), ledger.take_job()) if job] == [b.id, a.id]


@pytest.mark.parametrize(
    ("state", "retry_failed", "after"), [("failed", False, "failed"), ("failed", True, "waiting")]
)
def test_failed_jobs_wait_again_only_with_retry_failed(
    state: str, retry_failed: bool, after: str, tmp_path: Path
) -> None:
    with Ledger.open(tmp_path) as ledger:
        job = ledger.put_job("aa", "s", "clip", 1, retry_failed=False)
        ledger.set_failed(job.id, state, "no footage")
        assert ledger.put_job("aa", "s", "clip", 1, retry_failed=retry_failed).state == after


def test_a_missing_job_whose_file_is_back_waits_again(tmp_path: Path) -> None:
    with Ledger.open(tmp_path) as ledger:
        job = ledger.put_job("aa", "s", "clip", 1, retry_failed=False)
        ledger.set_failed(job.id, "missing", "gone")
        assert ledger.put_job("aa", "s", "clip", 1, retry_failed=False).state == "waiting"


def test_a_ledger_of_another_version_is_refused(tmp_path: Path) -> None:
    Ledger.open(tmp_path).__exit__()
    with sqlite3.connect(tmp_path / DATABASE) as db:
        db.execute("UPDATE meta SET value = '99'")
    with pytest.raises(FasrError, match="ledger format 99"):
        Ledger.open(tmp_path)


def test_a_case_cannot_be_the_folder_of_cases(tmp_path: Path) -> None:
    (tmp_path / "case.sqlite").touch()
    with pytest.raises(CaseError, match="it is a case itself"):
        Ledger.open(tmp_path)
