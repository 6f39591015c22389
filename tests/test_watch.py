"""A folder that keeps filling: files are taken when they are whole, and stopping loses nothing."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from fasr_video.archive.scan import Found
from fasr_video.archive.watch import Still
from tests.archives import QUICK, files, ledger_says


def growing(size: int) -> Found:
    return Found(Path("/in/clip.mp4"), "clip.mp4", size, size)


def test_a_file_is_taken_when_it_has_not_changed_for_a_while() -> None:
    still = Still(30)
    assert still.new([growing(1)], now=0) == []
    assert still.new([growing(1)], now=29) == []
    assert still.new([growing(1)], now=30) == [growing(1)]


def test_a_file_that_grows_is_waited_for() -> None:
    still = Still(30)
    assert still.new([growing(1)], now=0) == []
    assert still.new([growing(2)], now=30) == []
    assert still.new([growing(2)], now=60) == [growing(2)]


def test_a_file_is_given_out_once_until_it_is_another() -> None:
    still = Still(0)
    assert still.new([growing(1)], now=0) == [growing(1)]
    assert still.new([growing(1)], now=99) == []
    assert still.new([growing(2)], now=100) == [growing(2)]


def test_a_file_that_was_away_is_given_out_again() -> None:
    still = Still(0)
    assert still.new([growing(1)], now=0) == [growing(1)]
    assert still.new([], now=1) == []
    assert still.new([growing(1)], now=2) == [growing(1)]


def test_a_folder_that_is_away_is_waited_for(tmp_path: Path) -> None:
    folder, cases = tmp_path / "in", tmp_path / "cases"
    folder.mkdir()
    process = start(folder, cases)
    while not (cases / "ledger.sqlite").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    folder.rename(tmp_path / "away")
    assert process.stderr is not None
    assert "it is away; waiting for it" in process.stderr.readline()
    files(tmp_path / "away", b="no film")
    (tmp_path / "away").rename(folder)
    assert "it is back" in process.stderr.readline()
    wait_for(cases, "failed", 1, process)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 3


def start(folder: Path, cases: Path) -> subprocess.Popen[str]:
    overrides = [part for o in QUICK for part in ("--set", o)]
    command = [
        sys.executable,
        "-m",
        "fasr_video",
        "watch",
        str(folder),
        "--out",
        str(cases),
        "--scheduler",
        "local",
    ]
    return subprocess.Popen(
        [*command, "--still", "0.2", "--every", "0.1", *overrides],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder.parent,
    )


def wait_for(cases: Path, state: str, count: int, process: subprocess.Popen[str]) -> None:
    while len(ledger_says(cases, f"SELECT id FROM unit WHERE state = '{state}'")) < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def test_it_takes_what_comes_stops_cleanly_and_goes_on(entrance: Path, tmp_path: Path) -> None:
    folder, cases = tmp_path / "in", tmp_path / "cases"
    folder.mkdir()
    process = start(folder, cases)
    shutil.copy(entrance, folder / "a.mp4")
    wait_for(cases, "done", 1, process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "1 done" in out and "Traceback" not in err
    files(folder, b="no film")
    process = start(folder, cases)
    wait_for(cases, "failed", 1, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 3 and "1 done, 1 failed" in out
    assert sorted(ledger_says(cases, "SELECT substr(folder, 1, 1), tries FROM unit")) == [
        ("a", 1),
        ("b", 1),
    ]
