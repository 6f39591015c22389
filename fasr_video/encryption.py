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
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from fasr_video.console import say
from fasr_video.errors import InputError, IntegrityError, MissingExtra, UsageError

VARIABLE = "FASR_VIDEO_KEY"
"""Of the environment: the path of the key file. `--key-file` sets it, and processes that a run starts inherit it."""
CIPHER = "AES-256-GCM"
_HEAD = "fasr-video-key/1"
_NONCE = 12


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
        raise InputError(path, "not a key for cases", "`fasr-video keygen FILE --for encryption` makes one")
    warn_of_readers(path)
    return bytes.fromhex(found[1])


@cache  # once a process
def warn_of_readers(path: Path) -> None:
    """Of a secret that others on this machine can read."""
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        say(f"fasr-video: {path}: others on this machine can read this key; chmod 600 {path}", err=True)


def fingerprint(key: bytes) -> str:
    """Tells keys apart and says nothing of them."""
    return hashlib.sha256(b"fasr-video key fingerprint" + key).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Vault:
    """Seals and opens for one case."""

    _key: bytes

    def seal(self, data: bytes, place: str) -> bytes:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        nonce = secrets.token_bytes(_NONCE)
        return nonce + AESGCM(self._key).encrypt(nonce, data, place.encode())

    def open(self, sealed: bytes, place: str) -> bytes:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        try:
            return AESGCM(self._key).decrypt(sealed[:_NONCE], sealed[_NONCE:], place.encode())
        except (InvalidTag, ValueError) as error:
            raise IntegrityError(place, "it was changed", "restore it from a copy of the case") from error


def make_vault(key: bytes, case_id: str) -> Vault:
    try:
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF
    except ImportError as error:
        raise MissingExtra("cryptography", "custody", "an encrypted case") from error
    return Vault(HKDF(SHA256(), 32, case_id.encode(), b"fasr-video case").derive(key))


def open_vault(folder: Path, case_id: str, wanted: str) -> Vault:
    """With the key that was given, if it is the one with this fingerprint."""
    path = given_key()
    if path is None:
        reason = f"its pictures and vectors are encrypted (key {wanted}), and no key was given"
        raise UsageError(folder, reason, f"give --key-file FILE, or set {VARIABLE}")
    key = read_key(path)
    if fingerprint(key) != wanted:
        raise UsageError(path, f"key {fingerprint(key)} is not that of {folder}", f"give the file of key {wanted}")
    return make_vault(key, case_id)
