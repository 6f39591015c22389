"""Options that several commands have."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fasr_video.actors import ROLE_VARIABLE
from fasr_video.encryption import VARIABLE
from fasr_video.errors import UsageError

if TYPE_CHECKING:
    from fasr_video.detection.photograph import Which

FOLDER = click.Path(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)
ROLE = click.option(
    "--role",
    envvar=ROLE_VARIABLE,
    default="",
    help=f"As what: examiner, reviewer, … [default: {ROLE_VARIABLE}]",
)


def _take_key(context: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Into the environment while the command runs, where processes that it starts find it too."""
    if path is not None:
        before = os.environ.get(VARIABLE, "")
        context.call_on_close(lambda: os.environ.update({VARIABLE: before}))
        os.environ[VARIABLE] = str(path.absolute())


# For every command that reads or writes pictures or vectors.
KEY_FILE = click.option(
    "--key-file",
    type=FILE,
    expose_value=False,
    callback=_take_key,
    help=f"Key of an encrypted case. [default: what {VARIABLE} names]",
)

DEVICE = click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1 …")


def _which(context: click.Context, option: click.Parameter, text: str | None) -> Which:
    """Return a face's number, or "largest", as `--face` takes them."""
    if text is None or text == "largest":
        return "largest" if text else None
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise UsageError(
            f"--face {text}", "neither a number from 1 nor the word largest", "write --face 2, say"
        )
    return int(text)


FACE = click.option(
    "--face",
    callback=_which,
    metavar="N|largest",
    help="Of several faces take the Nth from the left (of one photograph), or the largest. [default: refuse them]",
)
