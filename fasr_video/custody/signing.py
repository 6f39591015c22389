"""Signed exports: a SHA-256 manifest beside a file or folder, and its Ed25519 signature.

    EXPORT/
    EXPORT.sha256        what `sha256sum` writes
    EXPORT.sha256.sig    64 bytes

Both can be checked without this program: `sha256sum --check`, `openssl pkeyutl -verify -rawin`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fasr_video.actors import login_name, name_with_role
from fasr_video.actors import role as as_role
from fasr_video.case.decisions import reviewer_name
from fasr_video.case.store import DATABASE
from fasr_video.clock import now
from fasr_video.custody.keys import fingerprint, is_signed_by, read_private, read_public
from fasr_video.errors import InputError, IntegrityError
from fasr_video.files import atomic_write, manifest_beside, read_file, sha256_file
from fasr_video.sqlite import explain_errors

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


@dataclass(frozen=True, slots=True)
class Signed:
    files: int
    manifest: Path
    at: str
    by: str
    """Name, and role if one is stated, as the signer gave them."""
    fingerprint: str
    """Fingerprint of the public key."""
    replaced: bool = False
    """Whether signing replaced an earlier signature."""


def sign(target: Path, key: Path, by: str = "", role: str = "") -> Signed:
    """Write manifest and signature beside the target, replacing earlier ones."""
    target = target.absolute()
    private = read_private(key)
    hashes = _hashes(target)
    at = now()
    who = name_with_role(reviewer_name(by or login_name()), as_role(role))
    text, signature = signed_manifest(hashes, private, who, at)
    manifest_path, signature_path = _paths_beside(target)
    replaced = signature_path.exists()
    with explain_errors(manifest_path):
        atomic_write(manifest_path, lambda partial: partial.write_bytes(text))
        atomic_write(signature_path, lambda partial: partial.write_bytes(signature))
    return Signed(len(hashes), manifest_path, at, who, fingerprint(private.public_key()), replaced)


def signed_manifest(
    hashes: Mapping[str, str], private: Ed25519PrivateKey, who: str, at: str
) -> tuple[bytes, bytes]:
    """Return a manifest of these files (name → SHA-256) and its signature."""
    head = f"# signed {at} by Ed25519 key {fingerprint(private.public_key())}, {who}"
    lines = [head, *(f"{digest}  {name}" for name, digest in hashes.items())]
    text = "".join(f"{line}\n" for line in lines).encode()
    return text, private.sign(text)


def check_signature(target: Path, key: Path) -> Signed:
    """Raise unless this key signed the manifest and the files are exactly those that it lists."""
    target = target.absolute()
    public = read_public(key)
    manifest, signature_path = _paths_beside(target)
    try:
        text, signature = read_file(manifest), read_file(signature_path)
    except OSError as error:
        reason = f"no signature beside it ({error.filename}: {error.strerror})"
        raise InputError(target, reason, "keep its .sha256 and .sha256.sig beside it") from error
    key_fingerprint = fingerprint(public)
    if not is_signed_by(public, signature, text):
        reason = f"it was altered, or not signed with key {key_fingerprint[:16]}…"
        raise IntegrityError(manifest, reason, "do not rely on it; ask the signer for another copy")
    head, *lines = text.decode().splitlines()
    signed = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    present = _hashes(target)
    problems = [f"{name} is missing" for name in signed.keys() - present.keys()]
    problems += [f"{name} was added" for name in present.keys() - signed.keys()]
    for name in signed.keys() & present.keys():
        if signed[name] != present[name]:
            problems.append(f"{name} was altered")
    if problems:
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise IntegrityError(
            target, f"not as it was signed: {sorted(problems)[0]}{more}", "ask for another copy"
        )
    at, who = head.split()[2], head.partition(", ")[2]
    return Signed(len(present), manifest, at, who, key_fingerprint)


def _paths_beside(target: Path) -> tuple[Path, Path]:
    manifest = manifest_beside(target)
    return manifest, manifest.with_name(f"{manifest.name}.sig")


def _hashes(target: Path) -> dict[str, str]:
    """Return the SHA-256 of the file, or of all files in the folder, by name."""
    if not target.exists():
        raise InputError(target, "no such file or folder", "give the file or folder to sign")
    if target.is_dir() and next(target.rglob(DATABASE), None) is not None:
        reason = "a case: it changes while people work on it, and its own log protects it"
        raise InputError(
            target, reason, "sign what `pictures` or `export` wrote; `verify` checks the case"
        )
    paths = {target.name: target}
    if target.is_dir():
        paths = {path.relative_to(target).as_posix(): path for path in _files(target)}
    if not paths:
        raise InputError(target, "it holds no files", "give a folder with files")
    with explain_errors(target):
        return {name: sha256_file(paths[name]) for name in sorted(paths)}


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise InputError(
                path, "a link or no regular file, which a manifest cannot cover", "take it out"
            )
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            if "\\" in name or not name.isprintable():
                raise InputError(
                    folder, f"it holds a file with an unprintable name ({name!r})", "rename it"
                )
            yield path
