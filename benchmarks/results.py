"""Tables that benchmarks print and write to docs/results/."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

RESULTS = Path(__file__).parents[1] / "docs" / "results"


class Table:
    """A table with notes; prints each row when it is added."""

    def __init__(self, file: str, title: str, command: str, columns: Sequence[str]) -> None:
        self._file, self._title, self._columns = file, title, list(columns)
        self._made_by = (
            f"Made by {command} on {datetime.now(UTC):%Y-%m-%d}, {describe_machine()}, Python "
        )
        self._made_by += f"{platform.python_version()}.\n"
        self._rows: list[list[str]] = []
        self._notes: list[str] = []

    def add_row(self, values: Sequence[object]) -> None:
        assert len(values) == len(self._columns)
        self._rows.append([str(v) for v in values])
        print("  ".join(self._rows[-1]), flush=True)

    def add_note(self, text: str) -> None:
        self._notes.append(text)

    def text(self, *further: Table) -> str:
        """Return the page: this table under its title, then each further table under its own."""
        parts = [f"# {self._title}\n", self._made_by, self._body()]
        for table in further:
            parts += [f"\n## {table._title}\n", table._body()]
        return "\n".join([*parts, ""])

    def _body(self) -> str:
        return "\n".join(
            [
                format_markdown(self._columns, self._rows),
                *(f"\n{add_note}" for add_note in self._notes),
            ]
        )

    def write(self, *further: Table) -> None:
        """Write the page, with further tables below this one."""
        RESULTS.mkdir(parents=True, exist_ok=True)
        path = RESULTS / f"{self._file}.md"
        path.write_text(self.text(*further))
        print(f"written: {path}")


def format_markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def format_share(hits: NDArray[np.bool_]) -> str:
    """Return the share of hits with its 95 % band (Wilson): 0.912 (0.880–0.936)."""
    if not len(hits):
        return "too few"
    found = binomtest(int(hits.sum()), len(hits))
    low, high = found.proportion_ci(method="wilson")
    return f"{found.statistic:.3f} ({low:.3f}–{high:.3f})"


def command_line() -> str:
    """Return the command that makes the page, as it was typed."""
    return f"`{' '.join(['python', f'benchmarks/{Path(sys.argv[0]).name}', *sys.argv[1:]])}`"


def describe_machine() -> str:
    """Return the processor in words: AMD EPYC (x86_64), 2 cores."""
    facts = Path("/proc/cpuinfo")
    models = facts.read_text().splitlines() if facts.is_file() else []
    name = next(
        (line.partition(":")[2].strip() for line in models if line.startswith("model name")),
        "unknown",
    )
    return f"{name} ({platform.machine()}), {os.cpu_count() or 1} cores"
