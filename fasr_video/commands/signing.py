"""`fasr-video keygen`, `sign` and `check-signature`; their help needs no cryptography."""

from __future__ import annotations

from pathlib import Path

import click

from fasr_video.actors import login_name
from fasr_video.commands.options import FILE, ROLE
from fasr_video.console import say
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
    help="A pair to sign exports with, or a key to encrypt cases with.",
)
def keygen_command(file: Path, purpose: str) -> None:
    """Make a pair of Ed25519 keys, FILE to sign with and FILE.pub for those who check; or a key for cases."""
    from fasr_video.custody.keys import make_signing_keys, write_secret

    if purpose == "encryption":
        write_secret(file, new_key())
        say(
            f"{file}: keep it to yourself, with a copy: without it nobody can read what it encrypts"
        )
        say(f"fingerprint {key_fingerprint(read_key(file))}")
        return
    public, fingerprint = make_signing_keys(file)
    say(f"{file}: keep it to yourself; hand out {public}")
    say(f"fingerprint {fingerprint}")


@click.command("sign")
@click.argument("target", type=click.Path(path_type=Path), metavar="FILE_OR_FOLDER")
@click.option("--key", type=FILE, required=True, help="Private Ed25519 key, as `keygen` makes it.")
@click.option("--by", help="Who signs, for the manifest. [default: your login name]")
@ROLE
def sign_command(target: Path, key: Path, by: str | None, role: str) -> None:
    """Sign an export: a manifest of SHA-256 and its signature are written beside FILE_OR_FOLDER."""
    from fasr_video.custody.signing import sign

    signed = sign(target, key, by or login_name(), role)
    say(
        f"{signed.manifest}: {signed.files} files signed by {signed.by} with key {signed.fingerprint}"
    )


@click.command("check-signature")
@click.argument("target", type=click.Path(path_type=Path), metavar="FILE_OR_FOLDER")
@click.option(
    "--key",
    type=FILE,
    required=True,
    help="Public key of the one who signed, from a source that you trust.",
)
def check_signature_command(target: Path, key: Path) -> None:
    """Check that FILE_OR_FOLDER is what was signed with that key: no file altered, missing or added; 4 if it is not."""
    from fasr_video.custody.signing import check_signature

    signed = check_signature(target, key)
    told = f"as signed at {signed.at} by {signed.by} with key {signed.fingerprint}"
    say(f"intact  {target}: {signed.files} files {told}")
