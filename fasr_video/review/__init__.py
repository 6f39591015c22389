"""`fasr-video serve`: review of cases in a browser, on this machine only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from fasr_video.errors import MissingExtra


def serve(
    folders: Sequence[Path],
    port: int,
    announce: Callable[[str], None],
    hours: float | None = None,
    *,
    sign_key: Path | None = None,
) -> None:
    """Serve these cases until Ctrl-C. `announce` is called with the address to open.

    The address opens the pages for `hours`. Signed-off reports are signed with `sign_key`.
    """
    for package in ("flask", "waitress"):
        if find_spec(package) is None:
            raise MissingExtra(package, "serve", "`fasr-video serve`")
    from fasr_video.review import app, server

    if sign_key is not None:
        from fasr_video.custody.keys import read_private

        read_private(sign_key)  # an unusable key is reported before anybody signs off
    server.serve_cases(
        folders, port, announce, app.HOURS if hours is None else hours, sign_key=sign_key
    )
