"""The web server: on the loopback address only, for one person's browser at a time or a few."""

from __future__ import annotations

import errno
import logging
import secrets
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import waitress
from flask import Flask
from waitress.channel import HTTPChannel

from fasr_video.archive.again import cases_in
from fasr_video.case.case import Case
from fasr_video.errors import UsageError
from fasr_video.review.app import make_app
from fasr_video.review.guard import MOST_SENT

HOST = "127.0.0.1"
THREADS = 6


# Open at a time. One more, and the one that was silent the longest is closed: nobody is kept out by
# idle ones.
CONNECTIONS = 64
# Seconds after which an idle connection is closed.
SILENT = 15
# Bytes.
LARGEST_HEADERS = 16 * 1024


def serve_cases(
    folders: Sequence[Path],
    port: int,
    tell: Callable[[str], None],
    hours: float,
    sign_key: Path | None = None,
) -> None:
    cases = by_id(cases_in(folders))
    with claim(port) as claimed:
        port = claimed.getsockname()[1]
        token = secrets.token_urlsafe(32)
        server = make_server(make_app(cases, token, port, hours, sign_key), claimed)
        tell(f"http://{HOST}:{port}/?token={token}")
        try:
            server.run()
        finally:
            server.close()


def make_server(app: Flask, claimed: socket.socket) -> Any:
    """Return what answers for the app at that socket. It writes no file: what is sent and answered stays in memory."""
    logging.getLogger("waitress.queue").setLevel(
        logging.ERROR
    )  # a browser that asks for ten pictures is no news
    server = waitress.create_server(
        app,
        sockets=[claimed],
        threads=THREADS,
        ident=None,
        max_request_body_size=MOST_SENT,
        max_request_header_size=LARGEST_HEADERS,
        inbuf_overflow=sys.maxsize,
        outbuf_overflow=sys.maxsize,
        connection_limit=4 * CONNECTIONS,
        channel_timeout=SILENT,
        cleanup_interval=SILENT // 3,
    )
    server.channel_class = _Connection
    return server


class _Connection(HTTPChannel):  # type: ignore[misc]
    """One that takes the place of the one that was silent the longest, where there are too many."""

    def __init__(self, server: Any, *rest: Any, **named: Any) -> None:
        super().__init__(server, *rest, **named)
        others = [c for c in server.active_channels.values() if c is not self and not c.will_close]
        idle = [c for c in others if not c.requests]
        if len(others) >= CONNECTIONS and idle:
            min(idle, key=lambda c: c.last_activity).will_close = True


def by_id(folders: Sequence[Path]) -> dict[str, Path]:
    """The cases by their ids, in the order given."""
    found: dict[str, Path] = {}
    for folder in folders:
        with Case.open(folder, read_only=True) as case:
            _ = (
                case.vault
            )  # an encrypted case whose key was not given is told before anybody decides unseen
            first = found.setdefault(case.meta("case_id"), folder)
        if first is not folder:
            raise UsageError(
                folder, f"the same case as {first}, or a copy of it", "give one of them"
            )
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
        reasons = {
            errno.EADDRINUSE: "another program listens there",
            errno.EACCES: "only root may listen there",
        }
        reason = reasons.get(error.errno or 0, f"cannot listen there ({error.strerror})")
        raise UsageError(f"--port {port}", reason, "give another, or 0 for a free one") from error
    return claimed
