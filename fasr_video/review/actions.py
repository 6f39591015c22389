"""What changes a case: each is a form that is sent, one transaction, and a line of the log.

What cannot be done is told on the page that the form stands on, with all that was written into it.
"""

from __future__ import annotations

from collections.abc import Callable

from flask import (
    Blueprint,
    current_app,
    flash,
    redirect,
    render_template,
    request,
    session,
    url_for,
)
from werkzeug.wrappers import Response

from fasr_video.actors import MAX_ROLE_LENGTH, role_from_environment
from fasr_video.case import decisions, links
from fasr_video.case.case import Case
from fasr_video.case.tracks import track_number
from fasr_video.case.verify import SIGNED_OFF
from fasr_video.errors import CaseError, EnvironmentFailure, FasrError, IntegrityError
from fasr_video.review import signoff
from fasr_video.review.pages import folder_of, sign_off_page, subjects_page, track_page

actions = Blueprint("actions", __name__)
Answer = Response | tuple[str, int]
STATES = {"accept": "accepted", "refuse": "refused", "reopen": "proposed"}


@actions.post("/case/<case_id>/track/<name>/decide")
def decide(case_id: str, name: str) -> Answer:
    form = request.form
    verdict = form.get("verdict", "")
    subject = None if verdict == "insufficient" else form.get("subject") or None

    def change(case: Case) -> str:
        number, (by, role) = track_number(case, name), _who()
        made = decisions.decide(case, number, verdict, form.get("reason", ""), by, subject, role)
        about = f" {made.subject}" if made.subject else ""
        return f"Recorded: {made.verdict}{about}, by {made.by}."

    return _done(
        case_id,
        change,
        lambda e: track_page(case_id, name, e),
        url_for("pages.track", case_id=case_id, name=name),
    )


@actions.post("/case/<case_id>/track/<name>/undo/<int:decision>")
def undo(case_id: str, name: str, decision: int) -> Answer:
    def change(case: Case) -> str:
        if all(d.id != decision for d in decisions.decisions(case, track_number(case, name))):
            raise CaseError(
                f"decision {decision}", f"not one on track {name}", "look at that track's history"
            )
        undone = decisions.undo(case, decision, *_who())
        return f"Undone: {undone.verdict}, by {undone.by}. It stays in the history."

    return _done(
        case_id,
        change,
        lambda e: track_page(case_id, name, e),
        url_for("pages.track", case_id=case_id, name=name),
    )


@actions.post("/case/<case_id>/join")
def join(case_id: str) -> Answer:
    def change(case: Case) -> str:
        made = links.join(case, request.form.getlist("track", type=int), *_who())
        return f"Joined, by {_count(made)}."

    return _of_subjects(case_id, change)


@actions.post("/case/<case_id>/split")
def split(case_id: str) -> Answer:
    def change(case: Case) -> str:
        refused = links.split(case, request.form.getlist("track", type=int), *_who())
        return f"Split: {_count(refused)} refused."

    return _of_subjects(case_id, change)


@actions.post("/case/<case_id>/link/<int:link>/<any(accept, refuse, reopen):what>")
def decide_link(case_id: str, link: int, what: str) -> Answer:
    def change(case: Case) -> str:
        links.decide(case, link, STATES[what], *_who())
        return f"Link {link}: {STATES[what]}."

    return _of_subjects(case_id, change)


@actions.post("/case/<case_id>/sign-off")
def sign_off(case_id: str) -> Answer:
    def change(case: Case) -> str:
        by, role = _who()
        written = signoff.sign_off(
            case, by, "although" in request.form, role, current_app.config["SIGN_KEY"]
        )
        return f"Written: {', '.join(written.files)}, in {case.folder / SIGNED_OFF}."

    page = url_for("pages.sign_off", case_id=case_id)
    answer = _done(case_id, change, lambda e: sign_off_page(case_id, e), page)
    if isinstance(answer, tuple) or "end_key" not in request.form:
        return answer
    current_app.config["KEY"].end()
    told = "The key to these pages has ended. Start fasr-video serve again to open them."
    return render_template("message.html", title="Signed off", told=told), 200


def _of_track(case_id: str, name: str, change: Callable[[Case], str]) -> Answer:
    page = url_for("pages.track", case_id=case_id, name=name)
    return _done(case_id, change, lambda e: track_page(case_id, name, e), page)


def _of_subjects(case_id: str, change: Callable[[Case], str]) -> Answer:
    page = url_for("pages.subjects", case_id=case_id)
    return _done(case_id, change, lambda e: subjects_page(case_id, e), page)


def _done(
    case_id: str, change: Callable[[Case], str], page: Callable[[FasrError], str], after: str
) -> Answer:
    """Change the case, say so, and show the page anew; or the page with the reason why it could not be done."""
    folder = folder_of(case_id)
    name = " ".join(request.form.get("by", "").split())[: decisions.LONGEST_NAME]
    session["by"] = name or session.get("by", "")
    session["role"] = _who()[1][:MAX_ROLE_LENGTH]
    try:
        with Case.open(folder) as case:
            flash(change(case))
    except FasrError as error:
        return page(error), status(error)
    return redirect(after, 303)


def _who() -> tuple[str, str]:
    """Name and role, as the form says them; one without a field for the role means that of the session."""
    return request.form.get("by", ""), " ".join(request.form.get("role", role_of_session()).split())


def role_of_session() -> str:
    return str(session.get("role", role_from_environment()))


def status(error: FasrError) -> int:
    if isinstance(error, EnvironmentFailure):
        return 503  # the case is busy, or its disk full: the same request may do later
    return 500 if isinstance(error, IntegrityError) else 400


def _count(found: list[int]) -> str:
    return f"{len(found)} link{'s' if len(found) != 1 else ''}"
