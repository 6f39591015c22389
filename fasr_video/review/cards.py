"""Tracks of cases in short, and which of them a reviewer asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from fasr_video.case import results, tracks
from fasr_video.case.case import Case
from fasr_video.case.decisions import Agreement, Decision, agreement, standing_by_track
from fasr_video.case.document import state_without_search
from fasr_video.case.sources import sources
from fasr_video.errors import UsageError
from fasr_video.gallery.search import Candidate
from fasr_video.review.times import Clock, parse

STATES = ("candidates", "unknown", "not searched", "insufficient", "not a face")
DECIDED = ("undecided", "decided", *(str(a) for a in Agreement if a is not Agreement.UNDECIDED))


@dataclass(frozen=True, slots=True)
class Card:
    case: str
    """Its id."""
    id: int
    name: str
    source: int
    footage: str
    """The name of the file."""
    camera: str
    """As it was given, else the name of the file."""
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
    """Why it is insufficient, or not a face."""
    lead: Candidate | None
    """The first candidate that passes."""
    decisions: tuple[Decision, ...]
    """Those that stand."""

    @property
    def agreement(self) -> Agreement:
        return agreement(self.decisions)


def cards(case: Case) -> list[Card]:
    """Of every finished track, by source and number."""
    case_id, footage = case.meta("case_id"), {source.id: source for source in sources(case)}
    spans, shown = tracks.spans(case), tracks.shown_faces(case)
    answered, leads, decided = (
        results.verdicts(case),
        results.first_leads(case),
        standing_by_track(case),
    )
    found = []
    for track in sorted(
        tracks.finished_tracks(case), key=lambda track: (track.source, track.number)
    ):
        source, span, lr0 = footage[track.source], spans[track.id], shown.get(track.id)
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
            state=answered.get(track.id)
            or state_without_search(track.verdict, track.verdict_reason),
            why=track.verdict_reason,
            lead=leads.get(track.id),
            decisions=tuple(decided.get(track.id, ())),
        )
        found.append(card)
    return found


@dataclass(frozen=True, slots=True)
class Filter:
    """What a reviewer asked to see; each is None when it does not matter."""

    since: float | datetime | None = None
    until: float | datetime | None = None
    camera: str | None = None
    state: str | None = None
    decided: str | None = None
    quality: float | None = None
    """At least."""
    score: float | None = None
    """At least: log10 likelihood ratio of the first candidate that passes."""

    @classmethod
    def read(cls, asked: Mapping[str, str]) -> Filter:
        given = {key: text for key, text in asked.items() if text.strip()}
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
        """Whether the track is seen at any moment of the span. A wall time leaves out tracks that have none."""
        after = self.since is None or _before(card, self.since, card.end)
        return after and (
            self.until is None or not _before(card, self.until, card.start, missing=True)
        )

    def _as_decided(self, found: Agreement) -> bool:
        if self.decided == "decided":
            return found is not Agreement.UNDECIDED
        return self.decided in (None, found)


def _at_least(lead: Candidate | None, score: float) -> bool:
    return lead is not None and lead.ratio is not None and lead.ratio >= score


def _before(card: Card, limit: float | datetime, seconds: float, missing: bool = False) -> bool:
    """Whether `limit` comes before that moment of the card's source; `missing` where its wall time is not known."""
    if not isinstance(limit, datetime):
        return limit < seconds
    if card.clock is None:
        return missing
    moment = card.clock.at(seconds)
    return (limit if limit.tzinfo else limit.replace(tzinfo=moment.tzinfo)) < moment


def _one_of(name: str, given: str | None, known: Sequence[str]) -> str | None:
    if given is not None and given not in known:
        raise UsageError(f"{name} {given!r}", "not known", f"choose one of {', '.join(known)}")
    return given


def _number(name: str, given: str | None) -> float | None:
    if given is None:
        return None
    try:
        number = float(given)
    except ValueError as error:
        raise UsageError(f"{name} {given!r}", "not a number", "give one, as 0.5") from error
    if not math.isfinite(number):
        raise UsageError(f"{name} {given!r}", "not a number", "give one, as 0.5")
    return number


def ratio(value: float | None, at_bound: bool = False) -> str:
    """log10 of a likelihood ratio, with a mark where the data that it was calibrated on say no more."""
    if value is None:
        return "not calibrated"
    bound = ("≥ " if value > 0 else "≤ ") if at_bound else ""
    return f"{bound}{round(value, 1) or 0:+.1f}"
