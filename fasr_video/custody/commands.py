"""Commands of custody: each reads its arguments, calls one function, and shows what came back."""

from __future__ import annotations

from pathlib import Path

import click

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


COMMANDS = (pictures_command,)
