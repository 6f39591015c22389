"""Run the program as a test needs it: in this process, or in one of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fasr_video import cli


def run_command(
    capsys: pytest.CaptureFixture[str], *arguments: object, columns: int = 200
) -> tuple[int, str, str]:
    """Run a command in this process; return its exit code, standard output and standard error."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", ["fasr-video", *map(str, arguments)])
        patch.setenv("COLUMNS", str(columns))
        cli.main()
    out, err = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, out, err


def start_command(*arguments: object, cwd: Path) -> subprocess.Popen[str]:
    """Start a command in a process of its own, with pipes for what it prints."""
    command = [sys.executable, "-m", "fasr_video", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd
    )
