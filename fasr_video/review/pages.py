"""What there is to look at. Nothing here changes a case: each page reads one moment of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, abort, current_app, render_template, request

from fasr_video.case import document
from fasr_video.case import log as log_lines
from fasr_video.case.case import Case
from fasr_video.case.decisions import Agreement, agreement, decisions
from fasr_video.case.links import clusters
from fasr_video.case.sources import sources
from fasr_video.errors import FasrError
from fasr_video.review.cards import DECIDED, STATES, Card, Filter, cards
from fasr_video.review.photographs import Photographs, photograph, photographs
from fasr_video.review.signoff import signed_off, undecided
from fasr_video.sqlite import explain_errors

pages = Blueprint("pages", __name__)
# Cards, or lines of the log.
A_PAGE = 60


@contextmanager
def reading(case_id: str) -> Iterator[Case]:
    """A case as it is at this moment, whatever a run writes meanwhile."""
    folder = folder_of(case_id)
    with explain_errors(folder), Case.open(folder, read_only=True) as case, case.snapshot():
        yield case


def folder_of(case_id: str) -> Path:
    folders: dict[str, Path] = current_app.config["CASES"]
    return folders.get(case_id) or abort(404, "No such case is served here.")


@dataclass(frozen=True, slots=True)
class Head:
    """A case in a few numbers."""

    id: str
    name: str
    folder: Path
    tracks: int
    undecided: int
    conflicts: int
    running: tuple[str, ...]
    """Files that a run has not finished."""


def head(case: Case, found: list[Card]) -> Head:
    states = [card.agreement for card in found]
    return Head(
        id=case.meta("case_id"),
        name=case.folder.resolve().name,
        folder=case.folder,
        tracks=len(found),
        undecided=states.count(Agreement.UNDECIDED),
        conflicts=states.count(Agreement.CONFLICT),
        running=tuple(Path(source.path).name for source in sources(case) if not source.done),
    )


@pages.get("/")
def overview() -> tuple[str, int]:
    error = None
    try:
        wanted = Filter.read(request.args)
    except FasrError as problem:
        wanted, error = Filter(), problem
    heads, fitting, cameras = [], [], set()
    for case_id in _chosen_cases():
        with reading(case_id) as case:
            found = cards(case)
            heads.append(head(case, found))
        fitting += [card for card in found if wanted.fits(card)]
        cameras |= {card.camera for card in found}
    first = A_PAGE * _page_number()
    given = {key: text for key, text in request.args.items() if key != "page" and text}
    return (
        render_template(
            "overview.html",
            heads=heads,
            names={h.id: h.name for h in heads},
            cards=fitting[first : first + A_PAGE],
            total=len(fitting),
            first=first,
            page=_page_number(),
            size=A_PAGE,
            given=given,
            cameras=sorted(cameras),
            states=STATES,
            decided=DECIDED,
            error=error,
        ),
        200 if error is None else 400,
    )


def _chosen_cases() -> list[str]:
    """The one that was asked for, or all."""
    every: dict[str, Path] = current_app.config["CASES"]
    asked = request.args.get("case")
    return [asked] if asked in every else list(every)


def _page_number() -> int:
    return max(0, request.args.get("page", 0, type=int))


@pages.get("/case/<case_id>/track/<name>")
def track(case_id: str, name: str) -> str:
    return track_page(case_id, name)


def track_page(case_id: str, name: str, error: FasrError | None = None) -> str:
    """The page of a track; with what was sent in its form, when that could not be done."""
    with reading(case_id) as case:
        found = cards(case)
        place = next((i for i, card in enumerate(found) if card.name == name), None)
        if place is None:
            abort(404, f"No finished track {name} in this case.")
        card = found[place]
        (shown,) = document.tracks(case, card.id)
        compared = _compared(case, card, shown)
        made = decisions(case, card.id)
        after = found[place + 1 :] + found[:place]
        return render_template(
            "track.html",
            head=head(case, found),
            card=card,
            track=shown,
            searched=case.searched(),
            time_base=float(Fraction(shown["time_base"])),
            compared=compared,
            decisions=made,
            agreement=agreement(card.decisions),
            before=found[place - 1] if place else None,
            after=found[place + 1] if place + 1 < len(found) else None,
            undecided=next((c for c in after if c.agreement is Agreement.UNDECIDED), None),
            form=request.form,
            error=error,
        )


@dataclass(frozen=True, slots=True)
class Compared:
    """The two pictures under the wipe slider."""

    subject: str
    photographs: Photographs
    photo: str | None
    """SHA-256 of the photograph that is shown."""
    synthetic: bool
    """Whether the reconstruction lies beside it, in place of the camera's picture."""
    drawn_from_it: bool
    """Whether the reconstruction was drawn from this candidate's photographs: then it is not put beside them."""


def _compared(case: Case, card: Card, shown: dict[str, Any]) -> Compared | None:
    """The candidate that was asked for, else the first that passes."""
    answer = shown["answer"] or {"joined": [], "lists": {}}
    listed = {c["subject"] for hits in (answer["joined"], *answer["lists"].values()) for c in hits}
    asked = request.args.get("candidate") or request.form.get("subject")
    subject = str(asked) if asked in listed else card.lead.subject if card.lead else None
    if subject is None:
        return None
    found = photographs(case, subject)
    hashes = [image.sha256 for image in found.of_subject]
    photo = request.args.get("photo")
    restored = shown["restoration"]
    own = restored is not None and restored.get("conditioned_on") == subject
    return Compared(
        subject=subject,
        photographs=found,
        photo=photo if photo in hashes else next(iter(hashes), None),
        synthetic=request.args.get("probe") == "sr" and restored is not None and not own,
        drawn_from_it=own,
    )


@pages.get("/case/<case_id>/subjects")
def subjects(case_id: str) -> str:
    return subjects_page(case_id)


def subjects_page(case_id: str, error: FasrError | None = None) -> str:
    with reading(case_id) as case:
        found = cards(case)
        by_id = {card.id: card for card in found}
        groups = clusters(case, ["accepted"])
        joined = {track for group in groups for track in group}
        links = document.links(case)
        return render_template(
            "subjects.html",
            head=head(case, found),
            cards=by_id,
            groups=[[by_id[track] for track in group] for group in groups],
            single=[card for card in found if card.id not in joined],
            proposed=[link for link in links if link["state"] == "proposed"],
            settled=[link for link in links if link["state"] != "proposed"],
            chosen=request.form.getlist("track", type=int),
            error=error,
        )


@pages.get("/case/<case_id>/log")
def log(case_id: str) -> str:
    first = A_PAGE * _page_number()
    with reading(case_id) as case:
        return render_template(
            "log.html",
            head=head(case, cards(case)),
            lines=[_line(line) for line in log_lines.newest_entries(case, A_PAGE, first)],
            total=log_lines.entry_count(case),
            log_head=case.meta("log_head"),
            first=first,
            page=_page_number(),
            size=A_PAGE,
        )


def _line(line: log_lines.LogEntry) -> dict[str, object]:
    details = line.details
    return {
        **asdict(line),
        "details": details,
        "text": json.dumps(details, indent=2, ensure_ascii=False),
    }


@pages.get("/case/<case_id>/sign-off")
def sign_off(case_id: str) -> str:
    return sign_off_page(case_id)


def sign_off_page(case_id: str, error: FasrError | None = None) -> str:
    with reading(case_id) as case:
        found = cards(case)
        return render_template(
            "sign_off.html",
            head=head(case, found),
            undecided=undecided(found),
            one=[card.name for card in found if card.agreement is Agreement.ONE],
            conflicts=[card.name for card in found if card.agreement is Agreement.CONFLICT],
            agreed=[card.name for card in found if card.agreement is Agreement.AGREED],
            signed=signed_off(case),
            error=error,
        )


@pages.get("/case/<case_id>/picture/<name>.png")
def picture(case_id: str, name: str) -> Response:
    """A picture of the case by its name, which is a hash: nothing else of the folder can be asked for."""
    with reading(case_id) as case:
        if not re.fullmatch("[0-9a-f]{64}", name) or not case.picture_path(name).is_file():
            abort(404, "No such picture in this case.")
        return Response(case.picture_bytes(name), mimetype="image/png")


@pages.get("/case/<case_id>/photograph/<sha256>.png")
def photograph_picture(case_id: str, sha256: str) -> Response:
    with reading(case_id) as case:
        data = photograph(case, sha256)
    if data is None:
        abort(404, "The gallery at hand keeps no picture of that photograph.")
    return Response(data, mimetype="image/png")
