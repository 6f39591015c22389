"""What `verify` reports about a case, as a list."""

from __future__ import annotations

from pathlib import Path

from fasr_video.case.case import Case
from fasr_video.case.verify import verify


def problems_of(case: Case) -> list[str]:
    """Return all problems of an open case."""
    return [problem for check in verify(case) for problem in check.problems]


def problems_in(folder: Path) -> list[str]:
    """Return all problems of the case in a folder."""
    with Case.open(folder, read_only=True) as case:
        return problems_of(case)
