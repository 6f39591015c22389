"""AES-256-GCM, by the package cryptography."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from fasr_video.errors import IntegrityError, MissingExtra

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF
except ImportError as missing:
    raise MissingExtra("cryptography", "custody", "an encrypted case") from missing

_NONCE = 12


@dataclass(frozen=True, slots=True)
class Vault:
    """Seals and opens for one case."""

    _key: bytes

    def seal(self, data: bytes, place: str) -> bytes:
        nonce = secrets.token_bytes(_NONCE)
        return nonce + AESGCM(self._key).encrypt(nonce, data, place.encode())

    def open(self, sealed: bytes, place: str) -> bytes:
        try:
            return AESGCM(self._key).decrypt(sealed[:_NONCE], sealed[_NONCE:], place.encode())
        except (InvalidTag, ValueError) as error:
            raise IntegrityError(
                place, "it was changed", "restore it from a copy of the case"
            ) from error


def vault_of(key: bytes, case_id: str) -> Vault:
    """Return the vault of a case: each has a key of its own, made from the key of many."""
    return Vault(HKDF(SHA256(), 32, case_id.encode(), b"fasr-video case").derive(key))
