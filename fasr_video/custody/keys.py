"""Key files: an Ed25519 pair for signing, and the key that encrypts cases."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from fasr_video.encryption import warn_of_readers
from fasr_video.errors import InputError, MissingExtra, UsageError
from fasr_video.sqlite import explain_errors

try:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
        load_pem_private_key,
        load_pem_public_key,
    )
except ImportError as missing:
    raise MissingExtra("cryptography", "custody", "signing") from missing


def make_signing_keys(private: Path) -> tuple[Path, str]:
    """Write FILE, readable by its owner only, and FILE.pub; return FILE.pub and the fingerprint.

    Where FILE.pub cannot be written, FILE is removed.
    """
    key = Ed25519PrivateKey.generate()
    public = private.with_name(private.name + ".pub")
    _refuse_existing(public)
    write_secret(private, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    try:
        _write_new(
            public,
            key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
            0o666,
        )
    except BaseException:
        private.unlink()  # nothing was signed with it
        raise
    return public, fingerprint(key.public_key())


def write_secret(path: Path, secret: bytes) -> None:
    """Write a new file that only its owner may read; raise where it exists."""
    _write_new(path, secret, 0o600)


def _write_new(path: Path, data: bytes, mode: int) -> None:
    _refuse_existing(path)
    with (
        explain_errors(path),
        os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as handle,
    ):
        handle.write(data)


def _refuse_existing(path: Path) -> None:
    if os.path.lexists(path):
        raise UsageError(
            path,
            "it exists already",
            "give another name: an overwritten key cannot be recovered",
        )


def read_private(path: Path) -> Ed25519PrivateKey:
    remedy = "`fasr-video keygen FILE` makes one"
    key = read_any_private(path, remedy)
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(path, "not an Ed25519 key", remedy)
    return key


def read_any_private(path: Path, remedy: str) -> PrivateKeyTypes:
    try:
        key = load_pem_private_key(read_pem(path), None)
    except TypeError as error:
        raise InputError(
            path,
            "it is protected by a password",
            "give an unencrypted copy of the key, and keep that copy safe",
        ) from error
    except ValueError as error:
        raise InputError(path, "not a private key in PEM", remedy) from error
    warn_of_readers(path)
    return key


def read_public(path: Path) -> Ed25519PublicKey:
    data = read_pem(path)
    try:
        key = load_pem_public_key(data)
    except ValueError as error:
        reason = "a private key" if b"PRIVATE KEY" in data else "not a public key in PEM"
        raise InputError(path, reason, "give the signer's .pub file") from error
    if not isinstance(key, Ed25519PublicKey):
        raise InputError(path, "not an Ed25519 key", "give the signer's .pub file")
    return key


def fingerprint(key: Ed25519PublicKey) -> str:
    """Return the SHA-256 of the public key as DER.

    `openssl pkey -pubin -in FILE -outform DER | sha256sum` prints the same.
    """
    return hashlib.sha256(
        key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    ).hexdigest()


def is_signed_by(key: Ed25519PublicKey, signature: bytes, text: bytes) -> bool:
    try:
        key.verify(signature, text)
    except InvalidSignature:
        return False
    return True


def read_pem(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            path, f"cannot be read ({error.strerror})", "give a file with a key or certificate"
        ) from error
