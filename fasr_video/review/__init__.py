"""`fasr-video serve`: cases looked at, and decided on, in a browser on this machine. No other machine can reach it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from fasr_video.errors import MissingExtra


def serve(
    folders: Sequence[Path],
    port: int,
    tell: Callable[[str], None],
    hours: float | None = None,
    sign_key: Path | None = None,
) -> None:
    """Serve these cases until Ctrl-C, to one key for so many hours; `tell` is given the address to open.

    What is signed off is signed with `sign_key`.
    """
    for package in ("flask", "waitress"):
        if find_spec(package) is None:
            raise MissingExtra(package, "serve", "`fasr-video serve`")
    from fasr_video.review import app, server

    if sign_key is not None:
        from fasr_video.custody.keys import read_private

        read_private(sign_key)  # one that cannot be used is told before anybody signs off
    server.serve_cases(folders, port, tell, app.HOURS if hours is None else hours, sign_key)
