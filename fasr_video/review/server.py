"""The web server: on the loopback address only, for one person's browser at a time or a few."""

from __future__ import annotations

import errno
import logging
import secrets
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import waitress

from fasr_video.archive.again import cases_in
from fasr_video.errors import UsageError
from fasr_video.pipeline.case import Case
from fasr_video.review.app import make_app

HOST = "127.0.0.1"
THREADS = 6


def serve_cases(folders: Sequence[Path], port: int, tell: Callable[[str], None], sign_key: Path | None = None) -> None:
    cases = by_id(cases_in(folders))
    with claim(port) as claimed:
        port = claimed.getsockname()[1]
        token = secrets.token_urlsafe(32)
        app = make_app(cases, token, port, sign_key)
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # a browser that asks for ten pictures is no news
        server = waitress.create_server(app, sockets=[claimed], threads=THREADS, ident=None)
        tell(f"http://{HOST}:{port}/?token={token}")
        try:
            server.run()
        finally:
            server.close()


def by_id(folders: Sequence[Path]) -> dict[str, Path]:
    """The cases by their ids, in the order given."""
    found: dict[str, Path] = {}
    for folder in folders:
        with Case.open(folder, read_only=True) as case:
            _ = case.vault  # an encrypted case whose key was not given is told before anybody decides unseen
            first = found.setdefault(case.meta("case_id"), folder)
        if first is not folder:
            raise UsageError(folder, f"the same case as {first}, or a copy of it", "give one of them")
    return found


def claim(port: int) -> socket.socket:
    """A socket that listens on the loopback address; 0 takes a free port."""
    claimed = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        claimed.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        claimed.bind((HOST, port))
        claimed.listen()
    except OSError as error:
        claimed.close()
        reasons = {errno.EADDRINUSE: "another program listens there", errno.EACCES: "only root may listen there"}
        reason = reasons.get(error.errno or 0, f"cannot listen there ({error.strerror})")
        raise UsageError(f"--port {port}", reason, "give another, or 0 for a free one") from error
    return claimed
