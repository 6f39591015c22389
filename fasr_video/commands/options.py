"""Options that several commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fasr_video.actors import ROLE_VARIABLE
from fasr_video.encryption import VARIABLE
from fasr_video.errors import UsageError

if TYPE_CHECKING:
    from fasr_video.detection.photograph import Which

FOLDER = click.Path(path_type=Path, file_okay=False)


class _CaseFolder(click.Path):
    """The folder of a case, or of cases."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if os.path.isfile(value):
            raise UsageError(value, "a file", "give the folder of a case")
        return super().convert(value, param, ctx)


CASE = _CaseFolder(path_type=Path, file_okay=False)
FILE = click.Path(path_type=Path, dir_okay=False)
ROLE = click.option(
    "--role",
    envvar=ROLE_VARIABLE,
    default="",
    help=f"That person's role, such as examiner or reviewer; any text is allowed. [default: ${ROLE_VARIABLE}]",
)


def _take_key(context: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Set the environment variable while the command runs, so that child processes inherit it."""
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
    help=f"The key file of an encrypted case. [default: ${VARIABLE}]",
)

DEVICE = click.option(
    "--device", default="cpu", show_default=True, help="Where to compute: cpu, cuda or cuda:1."
)


def _which(context: click.Context, option: click.Parameter, text: str | None) -> Which:
    """Return the face's number or "largest", as given with `--face`."""
    if text is None or text == "largest":
        return "largest" if text else None
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise UsageError(
            f"--face {text}", "neither a number from 1 nor the word largest", "write, say, --face 2"
        )
    return int(text)


FACE = click.option(
    "--face",
    callback=_which,
    metavar="N|largest",
    help="If a picture has several faces, take the Nth from the left (one photograph only) or the "
    "largest. "
    "[default: refuse]",
)
