"""Who may ask this server for anything: the one browser that was given the token, on this machine.

The token comes in the address that `serve` prints. It opens these pages to whoever has it, as often as they like, until
its time is over, it is ended with a signing off, or the server ends; browsers keep addresses in their history. From the
first visit on a signed cookie speaks for the browser, which no other site can make it send (SameSite=Strict) and no
script can read (HttpOnly). What changes anything is a POST with a word of the session in it. The Host header has to be
ours: a name that somebody points at 127.0.0.1 is refused.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from hmac import compare_digest

from flask import Flask, Response, redirect, render_template, request, session, url_for
from werkzeug.wrappers import Response as AnyResponse

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


# Bytes of a form.
MOST_SENT = 256 * 1024


@dataclass(slots=True)
class Key:
    """What the address holds: it opens the pages until its time is over, or somebody ends it."""

    token: str
    until: float
    """By the clock that `now` reads."""

    @property
    def ended(self) -> bool:
        return now() >= self.until

    def end(self) -> None:
        self.until = now()


def now() -> float:
    """Return seconds of a clock that nobody sets, and that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def protect(app: Flask, key: Key, port: int) -> None:
    """Every answer of `app` passes here, also those of pages that come later."""
    suffix = "" if port == 80 else f":{port}"
    hosts = {f"127.0.0.1{suffix}", f"localhost{suffix}"}
    app.secret_key = secrets.token_bytes(32)
    app.config.update(
        SESSION_COOKIE_NAME=f"fasr-video-{port}",  # cookies know no ports: two servers must not take each other's
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Strict",
        MAX_CONTENT_LENGTH=MOST_SENT,
    )

    @app.before_request
    def check() -> AnyResponse | tuple[str, int] | None:
        if request.headers.get("Host") not in hosts:
            return "This server answers to 127.0.0.1 and localhost only.", 421
        if request.endpoint == "static":
            return None
        if key.ended:
            return _refused(
                "The key to these pages has ended. Start fasr-video serve again: it prints a new address."
            )
        if "token" in request.args:
            return _let_in(key.token)
        if not session.get("open"):
            return _refused(
                "Open the address that fasr-video serve printed: it holds the key to these pages."
            )
        if request.method == "POST" and not _same(request.form.get("csrf", ""), session["csrf"]):
            return _refused(
                "This form is from another session. Open the page again, and send it anew."
            )
        return None

    @app.after_request
    def harden(response: Response) -> Response:
        response.headers.update(HEADERS)
        return response


def _let_in(token: str) -> AnyResponse | tuple[str, int]:
    """The first visit: the key goes from the address into the session."""
    if not _same(request.args["token"], token):
        return _refused(
            "This key is not this server's. Open the address that it printed when it was started last."
        )
    session.clear()
    session.update(open=True, csrf=secrets.token_urlsafe(16))
    return redirect(url_for("pages.overview"))


def _refused(why: str) -> tuple[str, int]:
    return render_template("message.html", title="Not open to you", told=why), 403


def _same(given: str, known: str) -> bool:
    return compare_digest(given.encode(), known.encode())
