"""Signed exports: a manifest of SHA-256 beside a file or a folder, and an Ed25519 signature of the manifest.

    EXPORT/
    EXPORT.sha256        what `sha256sum` writes
    EXPORT.sha256.sig    64 bytes

Both can be checked without this program: by `sha256sum --check` and `openssl pkeyutl -verify -rawin`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fasr_video.actors import login, shown
from fasr_video.actors import role as as_role
from fasr_video.case.decisions import reviewer_name
from fasr_video.case.store import DATABASE, now
from fasr_video.custody.keys import fingerprint, is_signed_by, read_private, read_public
from fasr_video.errors import InputError, IntegrityError
from fasr_video.files import atomic_write, read_file, sha256_file
from fasr_video.sqlite import explain_errors

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


@dataclass(frozen=True, slots=True)
class Signed:
    files: int
    manifest: Path
    at: str
    by: str
    """Name, and role where one is stated: the signer's word."""
    fingerprint: str
    """Of the public key."""


def sign(target: Path, key: Path, by: str = "", role: str = "") -> Signed:
    """Write manifest and signature beside the target, in place of earlier ones."""
    target, private = target.absolute(), read_private(key)
    found, at, who = _hashes(target), now(), shown(reviewer_name(by or login()), as_role(role))
    text, signed = signed_manifest(found, private, who, at)
    manifest, signature = _beside(target)
    with explain_errors(manifest):
        atomic_write(manifest, lambda partial: partial.write_bytes(text))
        atomic_write(signature, lambda partial: partial.write_bytes(signed))
    return Signed(len(found), manifest, at, who, fingerprint(private.public_key()))


def signed_manifest(
    found: Mapping[str, str], private: Ed25519PrivateKey, who: str, at: str
) -> tuple[bytes, bytes]:
    """Return a manifest of these files (name → SHA-256), and its signature."""
    head = f"# signed {at} by Ed25519 key {fingerprint(private.public_key())}, {who}"
    text = "".join(
        f"{line}\n" for line in (head, *(f"{digest}  {name}" for name, digest in found.items()))
    ).encode()
    return text, private.sign(text)


def check_signature(target: Path, key: Path) -> Signed:
    """Raise unless the manifest was signed with this key and each file is as it says, with none more or less."""
    target, public = target.absolute(), read_public(key)
    manifest, signature = _beside(target)
    try:
        text, signed = read_file(manifest), read_file(signature)
    except OSError as error:
        reason = f"no signature beside it ({error.filename}: {error.strerror})"
        raise InputError(target, reason, "keep its .sha256 and .sha256.sig beside it") from error
    mark = fingerprint(public)
    if not is_signed_by(public, signed, text):
        reason = f"it was altered, or not signed with key {mark[:16]}…"
        raise IntegrityError(
            manifest, reason, "do not rely on it; ask the one who signed for another copy"
        )
    head, *lines = text.decode().splitlines()
    said = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    found = _hashes(target)
    wrong = [f"{name} is missing" for name in said.keys() - found.keys()]
    wrong += [f"{name} was added" for name in found.keys() - said.keys()]
    wrong += [
        f"{name} was altered" for name in said.keys() & found.keys() if said[name] != found[name]
    ]
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise IntegrityError(
            target, f"not as it was signed: {sorted(wrong)[0]}{more}", "ask for another copy"
        )
    return Signed(len(found), manifest, head.split()[2], head.partition(", ")[2], mark)


def _beside(target: Path) -> tuple[Path, Path]:
    return target.with_name(f"{target.name}.sha256"), target.with_name(f"{target.name}.sha256.sig")


def _hashes(target: Path) -> dict[str, str]:
    """SHA-256 of the file, or of all files in the folder, by their names in it."""
    if not target.exists():
        raise InputError(target, "no such file or folder", "give what was exported")
    if target.is_dir() and next(target.rglob(DATABASE), None) is not None:
        reason = "a case, which changes while people work on it and proves itself by its log"
        raise InputError(
            target, reason, "sign what `pictures` or `export` wrote of it; `verify` checks the case"
        )
    names = (
        {path.relative_to(target).as_posix(): path for path in _files(target)}
        if target.is_dir()
        else {target.name: target}
    )
    if not names:
        raise InputError(target, "it holds no files", "give what was exported")
    with explain_errors(target):
        return {name: sha256_file(names[name]) for name in sorted(names)}


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise InputError(
                path, "a link, or no plain file, which a manifest cannot vouch for", "take it out"
            )
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            if "\\" in name or not name.isprintable():
                raise InputError(
                    folder, f"it holds a file with an unprintable name ({name!r})", "rename it"
                )
            yield path
