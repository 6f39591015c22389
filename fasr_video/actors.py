"""Names and roles of the people who do something, as they state them. Neither is checked."""

from __future__ import annotations

import getpass
import os

from fasr_video.errors import UsageError

# The environment variable with the role, if no option gives one: for a shell or a service.
ROLE_VARIABLE = "FASR_VIDEO_ROLE"
# Roles that the review pages propose; any other text is a role as well.
USUAL_ROLES = ("examiner", "reviewer", "supervisor", "administrator")
MAX_ROLE_LENGTH = 100


def role(text: str) -> str:
    """Return a role as one line; empty if none is stated. Raise if it is too long."""
    text = one_line("role", text)
    if len(text) > MAX_ROLE_LENGTH:
        reason = f"it has {len(text)} characters"
        raise UsageError("role", reason, f"give at most {MAX_ROLE_LENGTH}")
    return text


def one_line(what: str, text: str) -> str:
    """Return the text as one line; raise for invisible characters.

    With them two different names could look the same.
    """
    text = " ".join(text.split())
    if not text.isprintable():
        raise UsageError(
            what,
            "it has characters that cannot be displayed",
            "use letters, digits and punctuation only",
        )
    return text


def role_from_environment() -> str:
    return role(os.environ.get(ROLE_VARIABLE, ""))


def login_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container the user may have a number but no name
        return f"user {os.getuid()}"


def name_with_role(name: str, role: str) -> str:
    return f"{name} ({role})" if role else name
