"""The class through which all code opens a case; it reports a damaged database as such."""

from __future__ import annotations

from fasr_video.case.damage import first_problem
from fasr_video.case.store import CaseStore
from fasr_video.sqlite import raise_if_damaged


class Case(CaseStore):
    """An open case. Use `Case.create`, `Case.open` or, in a with statement, either."""

    def __exit__(
        self, _: object = None, error: BaseException | None = None, __: object = None
    ) -> None:
        remedy = "restore it from a copy; `fasr-video verify` lists all problems"
        try:
            raise_if_damaged(error, lambda: first_problem(self), self.folder, remedy)
        finally:
            super().__exit__(_, error, __)
