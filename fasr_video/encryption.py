"""Encryption at rest: what a case keeps of faces, pictures and vectors, sealed with AES-256-GCM.

A key file serves many cases; each seals with a key of its own, made from it and the case's id. What is sealed is bound
to its place: a picture cannot take another one's. Files keep the SHA-256 of the picture as their name.
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

from fasr_video.console import say
from fasr_video.errors import InputError, UsageError

if TYPE_CHECKING:
    from fasr_video.aes import Vault

# Of the environment: the path of the key file. `--key-file` sets it, and processes that a run
# starts inherit it.
VARIABLE = "FASR_VIDEO_KEY"
CIPHER = "AES-256-GCM"
_HEAD = "fasr-video-key/1"


def given_key() -> Path | None:
    """The key file that was given, by option or environment."""
    path = os.environ.get(VARIABLE)
    return Path(path) if path else None


def new_key() -> bytes:
    """What a new key file holds."""
    return f"{_HEAD} {secrets.token_hex(32)}\n".encode()


def read_key(path: Path) -> bytes:
    try:
        text = path.read_text("ascii", "replace")
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})", "give the key file") from error
    found = re.fullmatch(rf"{re.escape(_HEAD)} ([0-9a-f]{{64}})\s*", text)
    if found is None:
        raise InputError(
            path, "not a key for cases", "`fasr-video keygen FILE --for encryption` makes one"
        )
    warn_of_readers(path)
    return bytes.fromhex(found[1])


@cache  # once a process
def warn_of_readers(path: Path) -> None:
    """Of a secret that others on this machine can read."""
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        say(
            f"fasr-video: {path}: others on this machine can read this key; chmod 600 {path}",
            err=True,
        )


def fingerprint(key: bytes) -> str:
    """Tells keys apart and says nothing of them."""
    return hashlib.sha256(b"fasr-video key fingerprint" + key).hexdigest()[:16]


def make_vault(key: bytes, case_id: str) -> Vault:
    from fasr_video.aes import vault_of  # only here: most cases need no cryptography

    return vault_of(key, case_id)


def open_vault(folder: Path, case_id: str, wanted: str) -> Vault:
    """With the key that was given, if it is the one with this fingerprint."""
    path = given_key()
    if path is None:
        reason = f"its pictures and vectors are encrypted (key {wanted}), and no key was given"
        raise UsageError(folder, reason, f"give --key-file FILE, or set {VARIABLE}")
    key = read_key(path)
    if fingerprint(key) != wanted:
        raise UsageError(
            path,
            f"key {fingerprint(key)} is not that of {folder}",
            f"give the file of key {wanted}",
        )
    return make_vault(key, case_id)
