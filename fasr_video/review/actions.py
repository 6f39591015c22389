"""Forms that change a case: each is one transaction and one line of the log.

Where a change fails, the form's page is shown again with the reason and everything that was
entered.
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
from fasr_video.console import count
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
        number = track_number(case, name)
        by, role = _who()
        reason = form.get("reason", "")
        decision = decisions.decide(
            case, number, verdict, reason, by=by, subject=subject, role=role
        )
        about = f" {decision.subject}" if decision.subject else ""
        return f"Recorded: {decision.verdict}{about}, by {decision.by}."

    return _change_track(case_id, name, change)


@actions.post("/case/<case_id>/track/<name>/undo/<int:decision>")
def undo(case_id: str, name: str, decision: int) -> Answer:
    def change(case: Case) -> str:
        of_track = decisions.decisions(case, track_number(case, name))
        if all(d.id != decision for d in of_track):
            raise CaseError(
                f"decision {decision}", f"not on track {name}", "see that track's history"
            )
        undone = decisions.undo(case, decision, *_who())
        return f"Undone: {undone.verdict}, by {undone.by}. It stays in the history."

    return _change_track(case_id, name, change)


@actions.post("/case/<case_id>/join")
def join(case_id: str) -> Answer:
    def change(case: Case) -> str:
        joining = links.join(case, request.form.getlist("track", type=int), *_who())
        return f"Joined, by {_count(joining)}."

    return _change_subjects(case_id, change)


@actions.post("/case/<case_id>/split")
def split(case_id: str) -> Answer:
    def change(case: Case) -> str:
        refused = links.split(case, request.form.getlist("track", type=int), *_who())
        return f"Split: {_count(refused)} refused."

    return _change_subjects(case_id, change)


@actions.post("/case/<case_id>/link/<int:link>/<any(accept, refuse, reopen):what>")
def decide_link(case_id: str, link: int, what: str) -> Answer:
    def change(case: Case) -> str:
        who, role = _who()
        links.decide(case, link, STATES[what], who, role=role)
        return f"Link {link}: {STATES[what]}."

    return _change_subjects(case_id, change)


@actions.post("/case/<case_id>/sign-off")
def sign_off(case_id: str) -> Answer:
    def change(case: Case) -> str:
        by, role = _who()
        written = signoff.sign_off(
            case, by, "although" in request.form, role, key=current_app.config["SIGN_KEY"]
        )
        return f"Written: {', '.join(written.files)}, in {case.folder / SIGNED_OFF}."

    page = url_for("pages.sign_off", case_id=case_id)
    answer = _apply(case_id, change, lambda e: sign_off_page(case_id, e), page)
    if isinstance(answer, tuple) or "end_key" not in request.form:
        return answer
    current_app.config["KEY"].end()
    message = "This review has ended. Start fasr-video serve again to open its pages."
    return render_template("message.html", title="Signed off", message=message), 200


def _change_track(case_id: str, name: str, change: Callable[[Case], str]) -> Answer:
    page = url_for("pages.track", case_id=case_id, name=name)
    return _apply(case_id, change, lambda e: track_page(case_id, name, e), page)


def _change_subjects(case_id: str, change: Callable[[Case], str]) -> Answer:
    page = url_for("pages.subjects", case_id=case_id)
    return _apply(case_id, change, lambda e: subjects_page(case_id, e), page)


def _apply(
    case_id: str, change: Callable[[Case], str], page: Callable[[FasrError], str], after: str
) -> Answer:
    """Change the case and redirect to its page; where it fails, return the page with the reason."""
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
    """Return name and role from the form; a form without a role uses the session's."""
    role = request.form.get("role", role_of_session())
    return request.form.get("by", ""), " ".join(role.split())


def role_of_session() -> str:
    return str(session.get("role", role_from_environment()))


def status(error: FasrError) -> int:
    """Return the HTTP status for this error."""
    if isinstance(error, EnvironmentFailure):
        return 503  # the case is busy or the disk is full: the same request may work later
    return 500 if isinstance(error, IntegrityError) else 400


def _count(link_ids: list[int]) -> str:
    return count(len(link_ids), "link")
