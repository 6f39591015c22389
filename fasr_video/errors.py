"""Errors as one line: what it is about, what went wrong, and what to do about it.

    FasrError                        exit code
    ├── UsageError                   2   the command line asks for something that is not possible
    │   ├── SettingsError            2   an unknown key, a value out of range
    │   ├── MissingExtra             2   a package that this option needs is not installed
    │   ├── InputError               2   a file that cannot be used
    │   │   ├── MediaError           2   footage
    │   │   └── ModelError           2   weights
    │   ├── GalleryError             2   an unusable gallery (gallery/store.py, as the next two)
    │   ├── WrongEmbedder            2   the gallery's vectors come from another embedder
    │   └── PhotoOfAnother           2   one photograph was given for two people
    ├── CaseError                    2   the command cannot use the case folder
    │   └── CaseBusy                 2   another process is writing the case (case/store.py)
    ├── EnvironmentFailure           1   the machine failed (disk full); resumable
    └── IntegrityError               4   stored data was changed or damaged

Exit code 0 means done, 3 done with losses (the case counts them), 130 stopped by Ctrl-C
(resumable).
"""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path

from fasr_video.console import plain

# Texts in errors of other packages.
GPU_LOST = "CUDA error"
_OUT_OF_MEMORY = ("can't allocate memory", "Insufficient memory", "CUDA out of memory")


class ExitCode(IntEnum):
    DONE = 0
    FAILED = 1
    USAGE = 2
    LOSSES = 3
    INTEGRITY = 4
    STOPPED = 130


class FasrError(Exception):
    """An error whose text is `subject: reason; remedy`, on one line."""

    exit_code = ExitCode.FAILED

    def __init__(self, subject: str | Path, reason: str, remedy: str) -> None:
        self.subject = str(subject)
        self.reason = reason
        self.remedy = remedy
        super().__init__(plain(f"{subject}: {reason}; {remedy}"))


def exhausted_resource(error: Exception) -> str | None:
    """Return what the machine ran out of, or lost, if an error of another package says so."""
    text = str(error)
    if isinstance(error, MemoryError) or any(sign in text for sign in _OUT_OF_MEMORY):
        return "out of memory"
    if isinstance(error, RuntimeError) and GPU_LOST in text:
        return "the GPU was lost"
    return None


class UsageError(FasrError):
    exit_code = ExitCode.USAGE


class SettingsError(UsageError):
    pass


class MissingExtra(UsageError):
    """A package of an optional extra is not installed."""

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
