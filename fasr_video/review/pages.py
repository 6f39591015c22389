"""The review pages. Nothing here changes a case; each page reads one moment of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

from flask import Blueprint, Response, abort, current_app, render_template, request

from fasr_video.case import document
from fasr_video.case import log as log_lines
from fasr_video.case.case import Case
from fasr_video.case.decisions import Agreement, agreement, decisions
from fasr_video.case.entries import AnswerEntry, TrackEntry
from fasr_video.case.last_search import last_search
from fasr_video.case.links import clusters
from fasr_video.case.sources import sources
from fasr_video.errors import FasrError
from fasr_video.review.cards import DECIDED, STATES, Card, Filter, cards
from fasr_video.review.photographs import Photographs, photograph_png, photographs
from fasr_video.review.signoff import signed_off, undecided
from fasr_video.sqlite import explain_errors

pages = Blueprint("pages", __name__)
# Cards, or lines of the log, on one page.
PAGE_SIZE = 60


@contextmanager
def open_case(case_id: str) -> Iterator[Case]:
    """Open a case at one moment, whatever a run writes meanwhile."""
    folder = folder_of(case_id)
    with explain_errors(folder), Case.open(folder, read_only=True) as case, case.snapshot():
        yield case


def folder_of(case_id: str) -> Path:
    """Return the folder of a served case; abort with 404 for any other id."""
    folders: dict[str, Path] = current_app.config["CASES"]
    return folders.get(case_id) or abort(404, "No such case is served here.")


@dataclass(frozen=True, slots=True)
class Summary:
    """A case in a few numbers."""

    id: str
    name: str
    folder: Path
    tracks: int
    undecided: int
    conflicts: int
    running: tuple[str, ...]
    """Names of files that a run has not finished."""


def summary(case: Case, case_cards: list[Card]) -> Summary:
    states = [card.agreement for card in case_cards]
    return Summary(
        id=case.meta("case_id"),
        name=case.folder.resolve().name,
        folder=case.folder,
        tracks=len(case_cards),
        undecided=states.count(Agreement.UNDECIDED),
        conflicts=states.count(Agreement.CONFLICT),
        running=tuple(Path(source.path).name for source in sources(case) if not source.done),
    )


@pages.get("/")
def overview() -> tuple[str, int]:
    error = None
    card_filter = Filter()
    try:
        card_filter = Filter.read(request.args)
    except FasrError as problem:
        error = problem
    summaries: list[Summary] = []
    fitting: list[Card] = []
    cameras: set[str] = set()
    for case_id in _chosen_cases():
        with open_case(case_id) as case:
            case_cards = cards(case)
            summaries.append(summary(case, case_cards))
        fitting += [card for card in case_cards if card_filter.fits(card)]
        cameras |= {card.camera for card in case_cards}
    first = PAGE_SIZE * _page_number()
    html = render_template(
        "overview.html",
        summaries=summaries,
        names={s.id: s.name for s in summaries},
        cards=fitting[first : first + PAGE_SIZE],
        total=len(fitting),
        first=first,
        page=_page_number(),
        size=PAGE_SIZE,
        given={key: text for key, text in request.args.items() if key != "page" and text},
        cameras=sorted(cameras),
        states=STATES,
        decided=DECIDED,
        error=error,
    )
    return html, 200 if error is None else 400


def _chosen_cases() -> list[str]:
    """Return the id of the case in the address, or those of all cases."""
    served: dict[str, Path] = current_app.config["CASES"]
    chosen = request.args.get("case")
    return [chosen] if chosen in served else list(served)


def _page_number() -> int:
    return max(0, request.args.get("page", 0, type=int))


@pages.get("/case/<case_id>/track/<name>")
def track(case_id: str, name: str) -> str:
    return track_page(case_id, name)


def track_page(case_id: str, name: str, error: FasrError | None = None) -> str:
    """Return the page of a track, with an error and the values of the form that failed."""
    with open_case(case_id) as case:
        case_cards = cards(case)
        index = next((i for i, card in enumerate(case_cards) if card.name == name), None)
        if index is None:
            abort(404, f"No finished track {name} in this case.")
        card = case_cards[index]
        (entry,) = document.tracks(case, card.id)
        others = case_cards[index + 1 :] + case_cards[:index]
        return render_template(
            "track.html",
            summary=summary(case, case_cards),
            card=card,
            track=entry,
            searched=last_search(case),
            time_base=float(Fraction(entry.time_base)),
            comparison=_comparison(case, card, entry),
            decisions=decisions(case, card.id),
            agreement=agreement(card.decisions),
            before=case_cards[index - 1] if index else None,
            after=case_cards[index + 1] if index + 1 < len(case_cards) else None,
            undecided=next((c for c in others if c.agreement is Agreement.UNDECIDED), None),
            form=request.form,
            error=error,
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """The two pictures under the wipe slider."""

    subject: str
    photographs: Photographs
    photo: str | None
    """SHA-256 of the photograph that is shown."""
    synthetic: bool
    """Whether the reconstruction is compared, in place of the camera's picture."""
    drawn_from_it: bool
    """Whether the reconstruction was drawn from this candidate's photographs. Then it is not
    compared
    with them."""


def _comparison(case: Case, card: Card, entry: TrackEntry) -> Comparison | None:
    """Return the comparison with the candidate in the address, or with the first that passes."""
    subject = _compared_subject(card, entry.answer)
    if subject is None:
        return None
    of_subject = photographs(case, subject)
    hashes = [image.sha256 for image in of_subject.images]
    photo = request.args.get("photo")
    restoration = entry.restoration
    drawn_from_subject = restoration is not None and restoration.conditioned_on == subject
    wants_reconstruction = request.args.get("probe") == "sr" and restoration is not None
    return Comparison(
        subject=subject,
        photographs=of_subject,
        photo=photo if photo in hashes else next(iter(hashes), None),
        synthetic=wants_reconstruction and not drawn_from_subject,
        drawn_from_it=drawn_from_subject,
    )


def _compared_subject(card: Card, answer: AnswerEntry | None) -> str | None:
    listed: set[str] = set()
    if answer is not None:
        listed = {candidate.subject for candidate in answer.joined}
        for hits in answer.lists.values():
            listed |= {hit.subject for hit in hits}
    chosen = request.args.get("candidate") or request.form.get("subject")
    if chosen in listed:
        return str(chosen)
    return None if card.lead is None else card.lead.subject


@pages.get("/case/<case_id>/subjects")
def subjects(case_id: str) -> str:
    return subjects_page(case_id)


def subjects_page(case_id: str, error: FasrError | None = None) -> str:
    with open_case(case_id) as case:
        case_cards = cards(case)
        by_id = {card.id: card for card in case_cards}
        groups = clusters(case, ["accepted"])
        joined = {track for group in groups for track in group}
        links = document.links(case)
        return render_template(
            "subjects.html",
            summary=summary(case, case_cards),
            cards=by_id,
            groups=[[by_id[track] for track in group] for group in groups],
            single=[card for card in case_cards if card.id not in joined],
            proposed=[link for link in links if link.state == "proposed"],
            settled=[link for link in links if link.state != "proposed"],
            chosen=request.form.getlist("track", type=int),
            error=error,
        )


@pages.get("/case/<case_id>/log")
def log(case_id: str) -> str:
    first = PAGE_SIZE * _page_number()
    with open_case(case_id) as case:
        return render_template(
            "log.html",
            summary=summary(case, cards(case)),
            lines=[_line(line) for line in log_lines.newest_entries(case, PAGE_SIZE, first)],
            total=log_lines.entry_count(case),
            log_head=case.meta("log_head"),
            first=first,
            page=_page_number(),
            size=PAGE_SIZE,
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
    with open_case(case_id) as case:
        case_cards = cards(case)
        return render_template(
            "sign_off.html",
            summary=summary(case, case_cards),
            undecided=undecided(case_cards),
            one=[card.name for card in case_cards if card.agreement is Agreement.ONE],
            conflicts=[card.name for card in case_cards if card.agreement is Agreement.CONFLICT],
            agreed=[card.name for card in case_cards if card.agreement is Agreement.AGREED],
            signed=signed_off(case),
            error=error,
        )


@pages.get("/case/<case_id>/picture/<name>.png")
def picture(case_id: str, name: str) -> Response:
    """Return a picture of the case by its hash. No other file of the folder can be requested."""
    with open_case(case_id) as case:
        if not re.fullmatch("[0-9a-f]{64}", name) or not case.picture_path(name).is_file():
            abort(404, "No such picture in this case.")
        return Response(case.picture_bytes(name), mimetype="image/png")


@pages.get("/case/<case_id>/photograph/<sha256>.png")
def photograph_picture(case_id: str, sha256: str) -> Response:
    with open_case(case_id) as case:
        data = photograph_png(case, sha256)
    if data is None:
        abort(404, "The gallery keeps no picture of that photograph.")
    return Response(data, mimetype="image/png")
