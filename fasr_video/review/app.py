"""The Flask app: its pages, what guards them, and how errors are told."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flask import Flask, render_template, session
from werkzeug.exceptions import HTTPException

from fasr_video.actors import USUAL
from fasr_video.case.document import certainty_note, picture_name
from fasr_video.console import clock
from fasr_video.errors import FasrError
from fasr_video.pipeline.evidence import explain
from fasr_video.review import actions, pages
from fasr_video.review.cards import ratio
from fasr_video.review.guard import Key, now, protect

# For which a key opens the pages.
HOURS = 12.0


def make_app(
    cases: Mapping[str, Path],
    token: str,
    port: int,
    hours: float = HOURS,
    sign_key: Path | None = None,
) -> Flask:
    """Return pages about these cases (by id), for whoever holds the token, for so many hours.

    What is signed off is signed with `sign_key`.
    """
    app = Flask(__name__)
    key = Key(token, now() + 3600 * hours)
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
    def known() -> dict[str, Any]:
        own = {
            "csrf": session.get("csrf", ""),
            "by": session.get("by", ""),
            "role": actions.role_of_session(),
        }
        return {**own, "roles": USUAL, "cases": cases}

    @app.errorhandler(FasrError)
    def told(error: FasrError) -> tuple[str, int]:
        return render_template(
            "message.html", title="That did not work", told=str(error)
        ), actions.status(error)

    @app.errorhandler(HTTPException)
    def not_there(error: HTTPException) -> tuple[str, int]:
        return render_template(
            "message.html", title=error.name, told=error.description
        ), error.code or 500

    @app.errorhandler(OverflowError)
    def no_such_number(error: OverflowError) -> tuple[str, int]:
        """A number in an address or a form that is larger than any that the case can hold."""
        return render_template(
            "message.html", title="Not Found", told="No such page, track or link."
        ), 404

    return app
