"""Commands of custody: each reads its arguments, calls one function, and shows what came back."""

from __future__ import annotations

from pathlib import Path

import click

FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command("pictures")
@click.argument("case", type=FOLDER)
@click.argument("tracks", nargs=-1)
@click.option("--out", type=FOLDER, required=True, help="Folder for the pictures.")
@click.option("--redact", is_flag=True, help="Pixelate every face but the track's own.")
def pictures_command(case: Path, tracks: tuple[str, ...], out: Path, redact: bool) -> None:
    """Write the pictures of TRACKS of CASE, or of all, as files that say where they are from."""
    from fasr_video.custody.pictures import export_pictures
    from fasr_video.pipeline.case import Case

    with Case.open(case, read_only=True) as opened:
        written = export_pictures(opened, tracks, out, redact)
    click.echo(f"{out}: {len(written)} pictures, each with its facts beside it")


@click.command("keygen")
@click.argument("file", type=FILE)
def keygen_command(file: Path) -> None:
    """Make a pair of Ed25519 keys: FILE to sign with, FILE.pub for those who check."""
    from fasr_video.custody.keys import make_signing_keys

    public, fingerprint = make_signing_keys(file)
    click.echo(f"{file}: keep it to yourself; hand out {public}")
    click.echo(f"fingerprint {fingerprint}")


@click.command("sign")
@click.argument("target", type=click.Path(path_type=Path), metavar="FILE_OR_FOLDER")
@click.option("--key", type=FILE, required=True, help="Private Ed25519 key, as `keygen` makes it.")
def sign_command(target: Path, key: Path) -> None:
    """Sign an export: a manifest of SHA-256 and its signature are written beside FILE_OR_FOLDER."""
    from fasr_video.custody.signing import sign

    signed = sign(target, key)
    click.echo(f"{signed.manifest}: {signed.files} files signed with key {signed.fingerprint}")


@click.command("check-signature")
@click.argument("target", type=click.Path(path_type=Path), metavar="FILE_OR_FOLDER")
@click.option("--key", type=FILE, required=True, help="Public key of the one who signed, from a source that you trust.")
def check_signature_command(target: Path, key: Path) -> None:
    """Check that FILE_OR_FOLDER is what was signed with that key: no file altered, missing or added; 4 if it is not."""
    from fasr_video.custody.signing import check_signature

    signed = check_signature(target, key)
    click.echo(f"intact  {target}: {signed.files} files as signed at {signed.at} with key {signed.fingerprint}")


COMMANDS = (pictures_command, keygen_command, sign_command, check_signature_command)
