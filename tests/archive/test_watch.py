"""`watch` processes complete files of a folder, and loses nothing when it is stopped."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from fasr_video.archive.scan import FoundFile
from fasr_video.archive.watch import StableFiles
from tests.support.archives import QUICK, query_ledger, write_files
from tests.support.commands import start_command


def grow_file(size: int) -> FoundFile:
    return FoundFile(Path("/in/clip.mp4"), "clip.mp4", size, size)


def test_a_file_is_new_when_it_has_not_changed_for_a_while() -> None:
    stable = StableFiles(30)
    assert stable.new([grow_file(1)], now=0) == []
    assert stable.new([grow_file(1)], now=29) == []
    assert stable.new([grow_file(1)], now=30) == [grow_file(1)]


def test_a_file_that_grows_is_not_returned() -> None:
    stable = StableFiles(30)
    assert stable.new([grow_file(1)], now=0) == []
    assert stable.new([grow_file(2)], now=30) == []
    assert stable.new([grow_file(2)], now=60) == [grow_file(2)]


def test_a_file_is_returned_one_time_until_it_changes() -> None:
    stable = StableFiles(0)
    assert stable.new([grow_file(1)], now=0) == [grow_file(1)]
    assert stable.new([grow_file(1)], now=99) == []
    assert stable.new([grow_file(2)], now=100) == [grow_file(2)]


def test_a_file_that_was_gone_is_returned_again() -> None:
    stable = StableFiles(0)
    assert stable.new([grow_file(1)], now=0) == [grow_file(1)]
    assert stable.new([], now=1) == []
    assert stable.new([grow_file(1)], now=2) == [grow_file(1)]


def test_watch_waits_for_a_folder_that_disappeared(tmp_path: Path) -> None:
    folder, cases = tmp_path / "in", tmp_path / "cases"
    folder.mkdir()
    process = start_watch(folder, cases)
    while not (cases / "ledger.sqlite").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    folder.rename(tmp_path / "away")
    assert process.stderr is not None
    assert "it is not there; waiting for it" in process.stderr.readline()
    write_files(tmp_path / "away", b="no film")
    (tmp_path / "away").rename(folder)
    assert "it is back" in process.stderr.readline()
    wait_for_jobs(cases, "failed", 1, process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 3


def start_watch(folder: Path, cases: Path) -> subprocess.Popen[str]:
    """Start the command in a process of its own."""
    overrides = [part for o in QUICK for part in ("--set", o)]
    options = ["--out", cases, "--scheduler", "local", "--still", 0.2, "--interval", 0.1]
    return start_command("watch", folder, *options, *overrides, cwd=folder.parent)


def wait_for_jobs(cases: Path, state: str, count: int, process: subprocess.Popen[str]) -> None:
    while len(query_ledger(cases, f"SELECT id FROM job WHERE state = '{state}'")) < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


@pytest.mark.slow
def test_watch_processes_new_files_stops_cleanly_and_goes_on(
    entrance: Path, tmp_path: Path
) -> None:
    folder, cases = tmp_path / "in", tmp_path / "cases"
    folder.mkdir()
    process = start_watch(folder, cases)
    shutil.copy(entrance, folder / "a.mp4")
    wait_for_jobs(cases, "done", 1, process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "1 done" in out and "Traceback" not in err
    write_files(folder, b="no film")
    process = start_watch(folder, cases)
    wait_for_jobs(cases, "failed", 1, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 3 and "1 done, 1 failed" in out
    assert sorted(query_ledger(cases, "SELECT substr(folder, 1, 1), tries FROM job")) == [
        ("a", 1),
        ("b", 1),
    ]
