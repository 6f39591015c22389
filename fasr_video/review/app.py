"""The Flask app: pages, access control, and error pages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from flask import Flask, render_template, session
from werkzeug.exceptions import HTTPException, NotFound

from fasr_video.actors import USUAL_ROLES
from fasr_video.case.entries import certainty_note, picture_name
from fasr_video.clock import seconds_since_boot
from fasr_video.console import clock
from fasr_video.errors import FasrError
from fasr_video.pipeline.evidence import explain
from fasr_video.review import actions, pages
from fasr_video.review.cards import ratio
from fasr_video.review.guard import Key, protect

# Hours for which a key opens the pages.
HOURS = 12.0


def make_app(
    cases: Mapping[str, Path],
    token: str,
    port: int,
    hours: float = HOURS,
    *,
    sign_key: Path | None = None,
) -> Flask:
    """Return the app for these cases (folders by case id).

    Whoever holds the token can open it for `hours`. Signed-off reports are signed with
    `sign_key`.
    """
    app = Flask(__name__)
    key = Key(token, seconds_since_boot() + 3600 * hours)
    app.config.update(CASES=dict(cases), KEY=key, SIGN_KEY=sign_key)
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.jinja_env.filters.update(
        clock=clock,
        ratio=ratio,
        explain=explain,
        picture_name=picture_name,
        certainty=certainty_note,
    )
    protect(app, key, port)
    app.register_blueprint(pages.pages)
    app.register_blueprint(actions.actions)

    @app.context_processor
    def template_values() -> dict[str, object]:
        return {
            "csrf": session.get("csrf", ""),
            "by": session.get("by", ""),
            "role": actions.role_of_session(),
            "roles": USUAL_ROLES,
            "cases": cases,
        }

    _add_error_pages(app)
    return app


def _add_error_pages(app: Flask) -> None:
    @app.errorhandler(FasrError)
    def failed(error: FasrError) -> tuple[str, int]:
        page = render_template("message.html", title="That did not work", message=str(error))
        return page, actions.status(error)

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> tuple[str, int]:
        message = error.description
        if isinstance(error, NotFound) and message == NotFound.description:
            message = "No such page; go back to the list of tracks."
        page = render_template("message.html", title=error.name, message=message)
        return page, error.code or 500

    @app.errorhandler(OverflowError)
    def number_too_large(error: OverflowError) -> tuple[str, int]:
        """Answer an address or a form with a number larger than any that the case can hold."""
        message = "No such page, track or link."
        return render_template("message.html", title="Not Found", message=message), 404
