"""Cards: tracks in short, and the filter that a reviewer set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from fasr_video.case import results, tracks
from fasr_video.case.case import Case
from fasr_video.case.decisions import Agreement, Decision, agreement, standing_by_track
from fasr_video.case.entries import state_without_search
from fasr_video.case.sources import sources
from fasr_video.errors import UsageError
from fasr_video.gallery.search import Candidate
from fasr_video.review.times import Clock, parse

STATES = ("candidates", "unknown", "not searched", "insufficient", "not a face")
DECIDED = ("undecided", "decided", *(str(a) for a in Agreement if a is not Agreement.UNDECIDED))


@dataclass(frozen=True, slots=True)
class Card:
    case: str
    """Id of the case."""
    id: int
    name: str
    source: int
    footage: str
    """Name of the file."""
    camera: str
    """Name of the camera as given, else the name of the file."""
    start: float
    end: float
    """Seconds after the first frame of the source."""
    clock: Clock | None
    sightings: int
    eye_px: float | None
    quality: float | None
    native: str | None
    aligned: str | None
    """Names of LR0's pictures."""
    state: str
    why: str | None
    """Why the track is insufficient, or not a face."""
    lead: Candidate | None
    """The first candidate that passes."""
    decisions: tuple[Decision, ...]
    """Decisions that nobody undid."""

    @property
    def agreement(self) -> Agreement:
        return agreement(self.decisions)


def cards(case: Case) -> list[Card]:
    """Return a card of every finished track, by source and number."""
    case_id = case.meta("case_id")
    sources_by_id = {source.id: source for source in sources(case)}
    spans = tracks.spans(case)
    best_faces = tracks.shown_faces(case)
    verdicts = results.verdicts(case)
    first_leads = results.first_leads(case)
    decisions = standing_by_track(case)
    case_cards = []
    for track in sorted(
        tracks.finished_tracks(case), key=lambda track: (track.source, track.number)
    ):
        source = sources_by_id[track.source]
        span = spans[track.id]
        lr0 = best_faces.get(track.id)
        name = Path(source.path).name
        card = Card(
            case=case_id,
            id=track.id,
            name=track.name,
            source=track.source,
            footage=name,
            camera=source.camera or name,
            start=source.since_start(span.first_pts),
            end=source.since_start(span.last_pts),
            clock=Clock.read(source.clock),
            sightings=span.count,
            eye_px=None if lr0 is None else lr0.eye_px,
            quality=None if lr0 is None else lr0.total,
            native=None if lr0 is None else lr0.native,
            aligned=None if lr0 is None else lr0.aligned,
            state=verdicts.get(track.id)
            or state_without_search(track.verdict, track.verdict_reason),
            why=track.verdict_reason,
            lead=first_leads.get(track.id),
            decisions=tuple(decisions.get(track.id, ())),
        )
        case_cards.append(card)
    return case_cards


@dataclass(frozen=True, slots=True)
class Filter:
    """What a reviewer wants to see; None means any."""

    since: float | datetime | None = None
    until: float | datetime | None = None
    camera: str | None = None
    state: str | None = None
    decided: str | None = None
    quality: float | None = None
    """At least this quality."""
    score: float | None = None
    """At least this log10 likelihood ratio of the first candidate that passes."""

    @classmethod
    def read(cls, arguments: Mapping[str, str]) -> Filter:
        """Return the filter in a page's arguments; raise where a value is not valid."""
        given = {key: text for key, text in arguments.items() if text.strip()}
        return cls(
            since=parse(given["since"]) if "since" in given else None,
            until=parse(given["until"]) if "until" in given else None,
            camera=given.get("camera"),
            state=_one_of("state", given.get("state"), STATES),
            decided=_one_of("decided", given.get("decided"), DECIDED),
            quality=_number("quality", given.get("quality")),
            score=_number("score", given.get("score")),
        )

    def fits(self, card: Card) -> bool:
        return (
            self._in_time(card)
            and self.camera in (None, card.camera)
            and self.state in (None, card.state)
            and self._as_decided(card.agreement)
            and (self.quality is None or (card.quality or 0) >= self.quality)
            and (self.score is None or _at_least(card.lead, self.score))
        )

    def _in_time(self, card: Card) -> bool:
        """Return whether the track is visible at any time of the span.

        A limit in wall-clock time excludes tracks whose wall-clock time is not known.
        """
        after = self.since is None or _before(card, self.since, card.end)
        return after and (
            self.until is None or not _before(card, self.until, card.start, missing=True)
        )

    def _as_decided(self, state: Agreement) -> bool:
        if self.decided == "decided":
            return state is not Agreement.UNDECIDED
        return self.decided in (None, state)


def _at_least(lead: Candidate | None, score: float) -> bool:
    return lead is not None and lead.ratio is not None and lead.ratio >= score


def _before(card: Card, limit: float | datetime, seconds: float, missing: bool = False) -> bool:
    """Return whether `limit` is before `seconds` of the card's source.

    Return `missing` where the source's wall-clock time is not known.
    """
    if not isinstance(limit, datetime):
        return limit < seconds
    if card.clock is None:
        return missing
    moment = card.clock.at(seconds)
    return (limit if limit.tzinfo else limit.replace(tzinfo=moment.tzinfo)) < moment


def _one_of(name: str, given: str | None, known: Sequence[str]) -> str | None:
    if given is not None and given not in known:
        raise UsageError(f"{name} {given!r}", "unknown value", f"give one of {', '.join(known)}")
    return given


def _number(name: str, given: str | None) -> float | None:
    if given is None:
        return None
    try:
        number = float(given)
    except ValueError as error:
        raise UsageError(
            f"{name} {given!r}", "not a number", "give a number, such as 0.5"
        ) from error
    if not math.isfinite(number):
        raise UsageError(f"{name} {given!r}", "not a number", "give a number, such as 0.5")
    return number


def ratio(value: float | None, at_bound: bool = False) -> str:
    """Return a log10 likelihood ratio as text, with ≥ or ≤ at the calibration's bound."""
    if value is None:
        return "not calibrated"
    bound = ("≥ " if value > 0 else "≤ ") if at_bound else ""
    return f"{bound}{round(value, 1) or 0:+.1f}"
