"""Access control: this server answers only to browsers on this machine that have the token.

The token is in the address that `serve` prints. It opens the pages to whoever has it, any number of
times, until its time is over, a sign-off ends it, or the server ends. Browsers keep addresses in
their history. After the first visit a signed cookie identifies the browser. No other site can make
the browser send it (SameSite=Strict), and no script can read it (HttpOnly). Only a POST with the
session's CSRF token changes anything. The Host header must be ours: another name that points at
127.0.0.1 is refused.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from hmac import compare_digest

from flask import Flask, Response, redirect, render_template, request, session, url_for
from werkzeug.wrappers import Response as AnyResponse

from fasr_video.clock import seconds_since_boot

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'self'; "
    "script-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

MOST_BODY_BYTES = 256 * 1024


@dataclass(slots=True)
class Key:
    """The token of the address. It opens the pages until its time is over or somebody ends it."""

    token: str
    until: float
    """Seconds on the clock that `seconds_since_boot` reads."""

    @property
    def ended(self) -> bool:
        return seconds_since_boot() >= self.until

    def end(self) -> None:
        self.until = seconds_since_boot()


def protect(app: Flask, key: Key, port: int) -> None:
    """Check every request to `app` and set the security headers of every response."""
    suffix = "" if port == 80 else f":{port}"
    hosts = {f"127.0.0.1{suffix}", f"localhost{suffix}"}
    app.secret_key = secrets.token_bytes(32)
    app.config.update(
        # Browsers send cookies to all ports: two servers must not take each other's.
        SESSION_COOKIE_NAME=f"fasr-video-{port}",
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Strict",
        MAX_CONTENT_LENGTH=MOST_BODY_BYTES,
    )

    @app.before_request
    def check() -> AnyResponse | tuple[str, int] | None:
        if request.headers.get("Host") not in hosts:
            return "This server answers to 127.0.0.1 and localhost only.", 421
        if request.endpoint == "static":
            return None
        if key.ended:
            return _refused(
                "The key to these pages has ended. Start fasr-video serve again: it prints a "
                "new address."
            )
        if "token" in request.args:
            return _open_session(key.token)
        if not session.get("open"):
            return _refused(
                "Open the address that fasr-video serve printed: it holds the key to these pages."
            )
        if request.method == "POST" and not _is_equal(
            request.form.get("csrf", ""), session["csrf"]
        ):
            return _refused(
                "This form is from another session. Open the page again and send the form from "
                "there."
            )
        return None

    @app.after_request
    def harden(response: Response) -> Response:
        response.headers.update(HEADERS)
        return response


def _open_session(token: str) -> AnyResponse | tuple[str, int]:
    """Open a session on the first visit, and redirect to an address without the token."""
    if not _is_equal(request.args["token"], token):
        return _refused(
            "This key is not valid. Open the address that fasr-video serve printed at its last "
            "start."
        )
    session.clear()
    session.update(open=True, csrf=secrets.token_urlsafe(16))
    return redirect(url_for("pages.overview"))


def _refused(why: str) -> tuple[str, int]:
    return render_template("message.html", title="Not open to you", message=why), 403


def _is_equal(given: str, known: str) -> bool:
    return compare_digest(given.encode(), known.encode())
