"""What a process and those it started hold, as /proc has it."""

from __future__ import annotations

from pathlib import Path


def family(pid: int) -> list[int]:
    """Return a process, and all that it started."""
    found = [pid]
    try:
        for file in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in file.read_text().split():
                found += family(int(child))
    except OSError:  # it has ended
        pass
    return found


def status(pid: int) -> dict[str, str]:
    """Return the lines of a process's status by their names; nothing when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def resident(pid: int) -> float:
    """Return the MiB that a process and those it started hold; 0 when it is gone."""
    return sum(int(status(p).get("VmRSS", "0 kB").split()[0]) for p in family(pid)) / 1024
