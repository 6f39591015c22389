"""After a fault of the machine nothing committed is lost, and the same command finishes the work.

benchmarks/reliability.py tries the same faults at every step; here it is a sample of the steps.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from fasr_video.archive.schedulers import Processes
from fasr_video.archive.tasks import Outcome, Status, Task
from fasr_video.case.case import Case
from fasr_video.case.recording import Recording
from fasr_video.case.store import DATABASE
from fasr_video.case.verify import verify
from fasr_video.configs import settings as configs
from fasr_video.errors import EnvironmentFailure
from fasr_video.gallery.gallery import Gallery
from fasr_video.pipeline.run import run
from tests.support.paths import ROOT
from tests.support.quick_tasks import lose_gpu
from tests.support.small_disk import mount_small_disk

QUICK = (
    "detect.backend=haar",
    "restore.method=none",
    "sampling.fps=2",
    "sampling.start=4",
    "track.min_sightings=2",
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("jobs", "faults", "every"),
    [
        ("enrol", "kill,power, names", 25),
        ("removal", "power, names,full", 17),
        ("review", "kill,power, data,clock", 40),
        ("signoff", "kill,power, names,full", 9),
        ("links", "kill,power, data,full", 30),
        ("pictures", "kill,power, names", 30),
        ("stage", "kill,power, data", 60),
        ("purge", "kill,power, names", 15),
        ("migration", "kill,power, names", 15),
        ("sealed", "kill", 60),
    ],
)
def test_after_a_fault_nothing_is_lost_and_the_same_command_gives_the_same_result(
    jobs: str, faults: str, every: int
) -> None:
    command = [
        sys.executable,
        "-m",
        "tests.support.faults",
        jobs,
        "--faults",
        faults,
        "--every",
        str(every),
        "--first",
        "5",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    tries = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(tries) >= 3 and [t for t in tries if t["wrong"]] == []
    assert {t["ended"] for t in tries} <= {"killed", "reported", "done"} and any(
        t["what"] for t in tries
    )


@pytest.mark.parametrize("size", ["256k", "420k"])  # full before there is a case, and after
def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_space(
    size: str, entrance: Path, tmp_path: Path
) -> None:
    settings = configs.load("cpu", (*QUICK, "case.segment_frames=1"))
    run([entrance], tmp_path / "undisturbed", settings)
    with mount_small_disk(tmp_path / "disk", size) as disk:
        with pytest.raises(EnvironmentFailure, match="disk is full"):
            run([entrance], disk / "case", settings)
        subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
        if (disk / "case" / DATABASE).exists():
            with Case.open(disk / "case", read_only=True) as case:
                assert not [p for c in verify(case) for p in c.problems]
        run([entrance], disk / "case", settings)
        with Case.open(disk / "case") as case, Case.open(tmp_path / "undisturbed") as other:
            assert [tuple(r) for r in case.db.execute("SELECT * FROM face")] == [
                tuple(r) for r in other.db.execute("SELECT * FROM face")
            ]


def test_a_read_only_case_can_be_read_and_writing_it_is_one_line(
    copied_case: Path, tmp_path: Path
) -> None:
    with mount_small_disk(tmp_path / "disk", "20m") as disk:
        shutil.copytree(copied_case, disk / "case")
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with Case.open(disk / "case", read_only=True) as case:
            assert not [p for c in verify(case) for p in c.problems]
        # Where a write-ahead log came along with the copy, the case opens, and the write is refused.
        with (
            pytest.raises(EnvironmentFailure, match="cannot be written"),
            Case.open(disk / "case") as case,
            case.transaction(),
        ):
            case.log("opened", {})
        with pytest.raises(EnvironmentFailure, match="cannot be written"):
            Gallery.create(disk / "gallery", "builtin", "e" * 64, 512)


def test_a_case_whose_write_ahead_log_cannot_be_read_is_an_error(
    copied_case: Path, tmp_path: Path
) -> None:
    with Case.open(copied_case) as case, mount_small_disk(tmp_path / "disk", "20m") as disk:
        with case.transaction():
            case.log("looked", {})
        for end in ("", "-wal"):
            shutil.copy(copied_case / f"{DATABASE}{end}", disk)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with pytest.raises(EnvironmentFailure, match="last changes cannot be read"):
            Case.open(disk, read_only=True)


def test_a_locked_database_is_an_error_after_some_time(
    copied_case: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fasr_video.sqlite.BUSY_SECONDS", 0.2)
    other = sqlite3.connect(copied_case / DATABASE, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with Case.open(copied_case) as case:
        with (
            pytest.raises(EnvironmentFailure, match="another process is writing"),
            case.transaction(),
        ):
            raise AssertionError("the database is locked")
        other.execute("ROLLBACK")
        with case.transaction():
            case.log("looked", {})
        assert not [p for c in verify(case) for p in c.problems]


def test_a_worker_whose_gpu_is_lost_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("x")
    task = Task(1, tmp_path / "a.mp4", "0", 1, 0, tmp_path / "case", "{}", None, Recording())
    workers = Processes(lose_gpu, lambda task, share: None, 1)
    try:
        outcomes = []
        for _ in range(2):
            workers.submit(task)
            ended: list[tuple[Task, Outcome]] = []
            while not ended:
                ended = workers.wait(1.0)
            outcomes.append(ended[0][1])
    finally:
        workers.close()
    assert [outcome.status for outcome in outcomes] == [Status.FAILED, Status.FAILED]
    assert "CUDA error" in outcomes[0].message
    assert outcomes[0].message != outcomes[1].message, "another process did the second try"


def test_pictures_without_a_row_are_removed_by_the_next_run(entrance: Path, tmp_path: Path) -> None:
    settings = configs.load("cpu", QUICK)
    run([entrance], tmp_path / "case", settings)
    stray = tmp_path / "case" / "crops" / "ab" / f"{'ab' * 32}.png"
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(b"of a run that was killed")
    run([entrance], tmp_path / "case", settings)
    assert not stray.exists() and os.listdir(tmp_path / "case" / "crops")
