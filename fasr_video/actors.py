"""Who does something, and as what: both as somebody says it. Nobody checks either."""

from __future__ import annotations

import getpass
import os

from fasr_video.errors import UsageError

# Names the role where no option does: for a shell, or for a service that runs by itself.
VARIABLE = "FASR_VIDEO_ROLE"
# What pages propose; any other word will do.
USUAL = ("examiner", "reviewer", "supervisor", "administrator")
LONGEST = 100


def role(text: str) -> str:
    """A role on one line; empty where none is stated."""
    text = one_line("role", text)
    if len(text) > LONGEST:
        raise UsageError("role", f"{len(text)} characters", f"say it in at most {LONGEST}")
    return text


def one_line(what: str, text: str) -> str:
    """Without what no reader could see: it would be another name that looks the same."""
    text = " ".join(text.split())
    if not text.isprintable():
        raise UsageError(
            what,
            "it holds characters that cannot be shown",
            "write it with letters, digits and marks",
        )
    return text


def stated() -> str:
    return role(os.environ.get(VARIABLE, ""))


def login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may know the number alone
        return f"user {os.getuid()}"


def shown(name: str, role: str) -> str:
    return f"{name} ({role})" if role else name
