"""`fasr-video keygen`, `sign` and `check-signature`. Their help does not import cryptography."""

from __future__ import annotations

from pathlib import Path

import click

from fasr_video.actors import login_name
from fasr_video.commands.options import FILE, ROLE
from fasr_video.console import count, print_lines
from fasr_video.encryption import fingerprint as key_fingerprint
from fasr_video.encryption import new_key, read_key


@click.command("keygen")
@click.argument("file", type=FILE)
@click.option(
    "--for",
    "purpose",
    type=click.Choice(["signing", "encryption"]),
    default="signing",
    show_default=True,
    help="What the key is for: a pair to sign exports, or one key to encrypt cases.",
)
def keygen_command(file: Path, purpose: str) -> None:
    """Create a pair of Ed25519 keys (FILE to sign with, FILE.pub to check with), or a key that
    encrypts cases.
    """
    from fasr_video.custody.keys import make_signing_keys, write_secret

    if purpose == "encryption":
        write_secret(file, new_key())
        print_lines(
            f"{file}: keep it secret and keep a copy: without it nobody can read what it encrypts"
        )
        print_lines(f"fingerprint {key_fingerprint(read_key(file))}")
        return
    public, fingerprint = make_signing_keys(file)
    print_lines(f"Wrote {file} (keep it secret) and {public} (give this to others).")
    print_lines(f"fingerprint {fingerprint}")


@click.command("sign")
@click.argument("target", type=click.Path(path_type=Path), metavar="FILE_OR_FOLDER")
@click.option(
    "--key", type=FILE, required=True, help="The private Ed25519 key, as `keygen` creates it."
)
@click.option("--by", help="Who signs, written into the manifest. [default: your login name]")
@ROLE
def sign_command(target: Path, key: Path, by: str | None, role: str) -> None:
    """Sign an export: write a SHA-256 manifest and its signature beside FILE_OR_FOLDER."""
    from fasr_video.custody.signing import sign

    signed = sign(target, key, by or login_name(), role)
    print_lines(
        f"{signed.manifest}: {count(signed.files, 'file')} signed by {signed.by} with key "
        f"{signed.fingerprint}"
    )
    if signed.replaced:
        print_lines("the earlier signature was replaced")


@click.command("check-signature")
@click.argument("target", type=click.Path(path_type=Path), metavar="FILE_OR_FOLDER")
@click.option(
    "--key",
    type=FILE,
    required=True,
    help="The signer's public key, from a source that you trust.",
)
def check_signature_command(target: Path, key: Path) -> None:
    """Check a signed FILE_OR_FOLDER: no file altered, missing or added.

    Exit code 4: it is not what was signed with that key.
    """
    from fasr_video.custody.signing import check_signature

    signed = check_signature(target, key)
    signer = f"signed at {signed.at} by {signed.by} with key {signed.fingerprint}"
    print_lines(f"intact  {target}: {count(signed.files, 'file')}, {signer}")
