"""Tables that benchmarks print and write to docs/results/."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "docs" / "results"


class Table:
    def __init__(self, file: str, title: str, command: str, columns: Sequence[str]) -> None:
        self._file, self._columns = file, list(columns)
        self._head = f"# {title}\n\nMade by {command} on {datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, "
        self._head += f"{_cores()} cores, Python {platform.python_version()}.\n"
        self._rows: list[list[str]] = []
        self._notes: list[str] = []

    def row(self, values: Sequence[object]) -> None:
        assert len(values) == len(self._columns)
        self._rows.append([str(v) for v in values])
        print("  ".join(self._rows[-1]), flush=True)

    def note(self, text: str) -> None:
        self._notes.append(text)

    def text(self) -> str:
        lines = [self._columns, ["---"] * len(self._columns), *self._rows]
        body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return "\n".join([self._head, body, *(f"\n{note}" for note in self._notes), ""])

    def write(self) -> None:
        RESULTS.mkdir(parents=True, exist_ok=True)
        path = RESULTS / f"{self._file}.md"
        path.write_text(self.text())
        print(f"written: {path}")


def _cores() -> int:
    import os

    return os.cpu_count() or 1
