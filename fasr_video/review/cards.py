"""Tracks of cases in short, and which of them a reviewer asked for."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from sqlite3 import Row

from fasr_video.case.case import Case
from fasr_video.case.decisions import Agreement, Decision, agreement, all_standing
from fasr_video.case.document import not_asked
from fasr_video.case.store import track_name
from fasr_video.errors import UsageError
from fasr_video.review.times import Clock, parse

STATES = ("candidates", "unknown", "not searched", "insufficient", "not a face")
DECIDED = ("undecided", "decided", *(str(a) for a in Agreement if a is not Agreement.UNDECIDED))

# One index look-up for each thing that is asked of a track's faces: a long case has millions of them.
_QUERY = """
    SELECT track.*, source.path, source.camera, source.clock, source.info, shown.native, shown.aligned, shown.eye_px,
        shown.total, answer.verdict AS answered, lead.subject, lead.score AS lead_score, lead.ratio, lead.support,
        lead.at_bound,
        (SELECT pts FROM face WHERE face.track = track.id ORDER BY frame_index LIMIT 1) AS first_pts,
        (SELECT pts FROM face WHERE face.track = track.id ORDER BY frame_index DESC LIMIT 1) AS last_pts,
        (SELECT count(*) FROM face WHERE face.track = track.id) AS sightings
    FROM track JOIN source ON source.id = track.source
    LEFT JOIN face shown ON shown.id = track.shown_face
    LEFT JOIN answer ON answer.track = track.id
    LEFT JOIN candidate lead ON lead.track = track.id AND lead.list = 'joined' AND lead.rank =
        (SELECT min(rank) FROM candidate WHERE candidate.track = track.id AND list = 'joined' AND passes)
    WHERE track.state = 'done' ORDER BY track.source, track.number"""


@dataclass(frozen=True, slots=True)
class Lead:
    """The first candidate that passes."""

    subject: str
    ratio: float | None
    """log10 of the likelihood ratio; None where the scores are raw."""
    score: float
    only_sr: bool
    at_bound: bool
    """Whether the ratio is as far as the calibration's data reach."""


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
    lead: Lead | None
    decisions: tuple[Decision, ...]
    """Those that stand."""

    @property
    def agreement(self) -> Agreement:
        return agreement(self.decisions)


def cards(case: Case) -> list[Card]:
    """Of every finished track, by source and number."""
    case_id, decided = case.meta("case_id"), all_standing(case)
    return [_card(case_id, row, decided.get(row["id"], [])) for row in case.db.execute(_QUERY).fetchall()]


def _card(case_id: str, row: Row, decided: Sequence[Decision]) -> Card:
    info = json.loads(row["info"])
    base, first = Fraction(info["time_base"]), info["first_pts"]
    footage = Path(row["path"]).name
    lead = None
    if row["subject"] is not None:
        only_sr = json.loads(row["support"]) == ["sr"]
        lead = Lead(row["subject"], row["ratio"], row["lead_score"], only_sr, bool(row["at_bound"]))
    return Card(
        case=case_id,
        id=row["id"],
        name=track_name(row),
        source=row["source"],
        footage=footage,
        camera=row["camera"] or footage,
        start=float((row["first_pts"] - first) * base),
        end=float((row["last_pts"] - first) * base),
        clock=Clock.read(row["clock"]),
        sightings=row["sightings"],
        eye_px=row["eye_px"],
        quality=row["total"],
        native=row["native"],
        aligned=row["aligned"],
        state=row["answered"] or not_asked(row["verdict"], row["verdict_reason"]),
        why=row["verdict_reason"],
        lead=lead,
        decisions=tuple(decided),
    )


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
        return after and (self.until is None or not _before(card, self.until, card.start, missing=True))

    def _as_decided(self, found: Agreement) -> bool:
        if self.decided == "decided":
            return found is not Agreement.UNDECIDED
        return self.decided in (None, found)


def _at_least(lead: Lead | None, score: float) -> bool:
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
