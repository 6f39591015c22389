"""The web server: on the loopback address only, for one or a few browsers."""

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

from fasr_video.archive.search_again import cases_in
from fasr_video.case.case import Case
from fasr_video.errors import UsageError
from fasr_video.review.app import make_app
from fasr_video.review.guard import MOST_BODY_BYTES

HOST = "127.0.0.1"
THREADS = 6
# Open connections. Where there are more, the one that was idle the longest is closed, so that idle
# connections keep nobody out.
MOST_CONNECTIONS = 64
# Seconds after which an idle connection is closed.
IDLE_SECONDS = 15
MOST_HEADER_BYTES = 16 * 1024


def serve_cases(
    folders: Sequence[Path],
    port: int,
    announce: Callable[[str], None],
    hours: float,
    *,
    sign_key: Path | None = None,
) -> None:
    cases = by_id(cases_in(folders))
    with listen(port) as listening:
        port = listening.getsockname()[1]
        token = secrets.token_urlsafe(32)
        server = make_server(make_app(cases, token, port, hours, sign_key=sign_key), listening)
        announce(f"http://{HOST}:{port}/?token={token}")
        try:
            server.run()
        finally:
            server.close()


def make_server(app: Flask, listening: socket.socket) -> Any:
    """Return the server of the app at this socket. It writes no file, all data stays in memory."""
    # Waitress would warn whenever a browser loads many pictures at a time.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    server = waitress.create_server(
        app,
        sockets=[listening],
        threads=THREADS,
        ident=None,
        max_request_body_size=MOST_BODY_BYTES,
        max_request_header_size=MOST_HEADER_BYTES,
        inbuf_overflow=sys.maxsize,
        outbuf_overflow=sys.maxsize,
        connection_limit=4 * MOST_CONNECTIONS,
        channel_timeout=IDLE_SECONDS,
        cleanup_interval=IDLE_SECONDS // 3,
    )
    server.channel_class = _Connection
    return server


class _Connection(HTTPChannel):  # type: ignore[misc]
    """A connection that closes the one idle the longest, where there are too many."""

    def __init__(self, server: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(server, *arguments, **options)
        others = [c for c in server.active_channels.values() if c is not self and not c.will_close]
        idle = [c for c in others if not c.requests]
        if len(others) >= MOST_CONNECTIONS and idle:
            min(idle, key=lambda c: c.last_activity).will_close = True


def by_id(folders: Sequence[Path]) -> dict[str, Path]:
    """Return the cases' folders by their ids, in the order given."""
    by_case_id: dict[str, Path] = {}
    for folder in folders:
        with Case.open(folder, read_only=True) as case:
            _ = case.vault  # raises where an encrypted case has no key: nobody decides unseen
            first = by_case_id.setdefault(case.meta("case_id"), folder)
        if first is not folder:
            raise UsageError(
                folder, f"the same case as {first}, or a copy of it", "give only one of them"
            )
    return by_case_id


def listen(port: int) -> socket.socket:
    """Return a socket that listens on the loopback address; port 0 takes a free one."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((HOST, port))
        listening.listen()
    except OSError as error:
        listening.close()
        reasons = {
            errno.EADDRINUSE: "another program listens there",
            errno.EACCES: "only root may listen there",
        }
        reason = reasons.get(error.errno or 0, f"cannot listen there ({error.strerror})")
        raise UsageError(f"--port {port}", reason, "give another, or 0 for a free one") from error
    return listening
