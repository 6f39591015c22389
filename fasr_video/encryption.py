"""Encryption at rest: the pictures and vectors of a case are sealed with AES-256-GCM.

One key file serves many cases. Each case has a key of its own, derived from the key file and the
case's id. Sealed data is bound to its name, so one picture cannot stand in for another. Files are
named by the SHA-256 of the plain picture.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import stat
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from fasr_video.console import print_lines
from fasr_video.errors import InputError, UsageError

if TYPE_CHECKING:
    from fasr_video.aes import Vault

# Environment variable with the path of the key file. `--key-file` sets it, and the processes that
# a run starts inherit it.
VARIABLE = "FASR_VIDEO_KEY"
CIPHER = "AES-256-GCM"
_HEAD = "fasr-video-key/1"


def given_key() -> Path | None:
    """Return the key file given by option or environment, if any."""
    path = os.environ.get(VARIABLE)
    return Path(path) if path else None


def new_key() -> bytes:
    """Return the content of a new key file."""
    return f"{_HEAD} {secrets.token_hex(32)}\n".encode()


def read_key(path: Path) -> bytes:
    try:
        text = path.read_text("ascii", "replace")
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})", "give the key file") from error
    content = re.fullmatch(rf"{re.escape(_HEAD)} ([0-9a-f]{{64}})\s*", text)
    if content is None:
        raise InputError(
            path, "not a key for cases", "create one: `fasr-video keygen FILE --for encryption`"
        )
    warn_of_readers(path)
    return bytes.fromhex(content[1])


@cache  # one warning a process
def warn_of_readers(path: Path) -> None:
    """Warn where other users of this machine can read a secret."""
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        print_lines(
            f"fasr-video: {path}: other users can read this key; run: chmod 600 {path}",
            err=True,
        )


def fingerprint(key: bytes) -> str:
    """Return digits that tell keys apart and reveal nothing about them."""
    return hashlib.sha256(b"fasr-video key fingerprint" + key).hexdigest()[:16]


def make_vault(key: bytes, case_id: str) -> Vault:
    from fasr_video.aes import vault_of  # most cases need no cryptography

    return vault_of(key, case_id)


def open_vault(folder: Path, case_id: str, wanted: str) -> Vault:
    """Open the case with the given key; raise unless its fingerprint is `wanted`."""
    path = given_key()
    if path is None:
        reason = f"its pictures and vectors are encrypted (key {wanted}), but no key was given"
        raise UsageError(folder, reason, f"give --key-file FILE, or set {VARIABLE}")
    key = read_key(path)
    if fingerprint(key) != wanted:
        raise UsageError(
            path,
            f"key {fingerprint(key)} is not that of {folder}",
            f"give the file of key {wanted}",
        )
    return make_vault(key, case_id)
