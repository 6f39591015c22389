"""What can go wrong, told in one line: what, why, and what to do about it.

    FasrError                        exit code
    ├── UsageError                   2   the command line asks for something that cannot be
    │   ├── SettingsError            2   an unknown key, a value out of range
    │   ├── MissingExtra             2   a package that this option needs is not installed
    │   ├── InputError               2   a file that cannot be used
    │   │   ├── MediaError           2   footage
    │   │   └── ModelError           2   weights
    │   ├── GalleryError             2   not the gallery that the command needs (gallery/store.py, with the next two)
    │   ├── WrongEmbedder            2   a gallery, and an embedder that did not make its vectors
    │   └── PhotoOfAnother           2   one photograph, said to be of two people
    ├── CaseError                    2   the case folder is not what the command needs
    │   └── CaseBusy                 2   another process is writing it (case/store.py)
    ├── EnvironmentFailure           1   the machine gave up: disk full, folder unwritable; resumable
    └── IntegrityError               4   something stored is not what it was when it was stored

Exit code 0 is done, 3 is done with losses (each counted in the case), 130 is stopped by Ctrl-C (resumable).
"""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path

from fasr_video.console import plain


class ExitCode(IntEnum):
    DONE = 0
    FAILED = 1
    USAGE = 2
    LOSSES = 3
    INTEGRITY = 4
    STOPPED = 130


class FasrError(Exception):
    """`subject: reason; remedy`, on one line."""

    exit_code = ExitCode.FAILED

    def __init__(self, subject: str | Path, reason: str, remedy: str) -> None:
        self.subject, self.reason, self.remedy = str(subject), reason, remedy
        super().__init__(plain(f"{subject}: {reason}; {remedy}"))


def exhausted(error: Exception) -> str | None:
    """What the machine ran out of, or lost, where an error of another package says so."""
    text = str(error)
    if isinstance(error, MemoryError) or any(sign in text for sign in _OUT_OF_MEMORY):
        return "out of memory"
    if isinstance(error, RuntimeError) and GPU_LOST in text:
        return "the GPU was lost"
    return None


GPU_LOST = "CUDA error"
_OUT_OF_MEMORY = ("can't allocate memory", "Insufficient memory", "CUDA out of memory")


class UsageError(FasrError):
    exit_code = ExitCode.USAGE


class SettingsError(UsageError):
    pass


class MissingExtra(UsageError):
    """A package of an optional part is missing; the remedy is the command that installs it."""

    def __init__(self, package: str, extra: str, needed_for: str) -> None:
        super().__init__(
            package,
            f"not installed, but {needed_for} needs it",
            f"run: pip install 'fasr-video[{extra}]'",
        )


class InputError(UsageError):
    pass


class MediaError(InputError):
    pass


class ModelError(InputError):
    pass


class CaseError(FasrError):
    exit_code = ExitCode.USAGE


class EnvironmentFailure(FasrError):
    exit_code = ExitCode.FAILED


class IntegrityError(FasrError):
    exit_code = ExitCode.INTEGRITY
