"""What /proc says about a process and those that it started."""

from __future__ import annotations

from pathlib import Path


def process_tree(pid: int) -> list[int]:
    """Return a process and all that it started."""
    found = [pid]
    try:
        for file in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in file.read_text().split():
                found += process_tree(int(child))
    except OSError:  # it has ended
        pass
    return found


def read_status(pid: int) -> dict[str, str]:
    """Return the lines of a process's status by name; nothing if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def resident_mib(pid: int) -> float:
    """Return the resident memory of a process and those that it started, in MiB."""
    return (
        sum(int(read_status(p).get("VmRSS", "0 kB").split()[0]) for p in process_tree(pid)) / 1024
    )
