"""Decisions of reviewers on a track: accepted, rejected or insufficient, with a reason and a name.

A reviewer has at most one standing decision on a track. A new one replaces it; the old one is
marked as undone and never deleted. Decisions of several reviewers stand side by side and agree or
conflict. Each change is a log line with a hash over all decisions, so `verify` finds decisions that
were altered, added or removed outside this program. A decision names its subject by id, and stays
when the case is searched again.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from enum import StrEnum

from fasr_video.actors import one_line
from fasr_video.actors import role as as_role
from fasr_video.case.replay import require_unchanged
from fasr_video.case.results import listed_subjects
from fasr_video.case.store import MOST_NAMED, CaseStore
from fasr_video.case.tracks import finished_track
from fasr_video.clock import now
from fasr_video.errors import CaseError, UsageError

VERDICTS = ("accepted", "rejected", "insufficient")
LONGEST_NAME = 100
LONGEST_REASON = 4000
# The role is stored in the log line of the decision only; MATERIALIZED reads the log a single time.
QUERY = """
WITH line AS MATERIALIZED (
    SELECT CAST(json_extract(details, '$.id') AS INTEGER) AS id,
        json_extract(details, '$.role') AS role
    FROM log WHERE event = 'decided' GROUP BY 1
)
SELECT decision.*, coalesce(line.role, '') AS role FROM decision LEFT JOIN line USING (id)
"""


@dataclass(frozen=True, slots=True)
class Decision:
    id: int
    track: int
    subject: str | None
    """Gallery subject that it is about; None when it is about the track as a whole."""
    verdict: str
    reason: str
    by: str
    at: str
    undone_by: str | None
    undone_at: str | None
    role: str
    """The reviewer's role; empty where none was stated."""

    @property
    def stands(self) -> bool:
        """Return whether it has not been undone."""
        return self.undone_at is None


class Agreement(StrEnum):
    """How the standing decisions on a track relate."""

    UNDECIDED = "undecided"
    ONE = "one reviewer"
    AGREED = "reviewers agree"
    CONFLICT = "reviewers disagree"


def decide(
    case: CaseStore,
    track: int,
    verdict: str,
    reason: str,
    *,
    by: str,
    subject: str | None = None,
    role: str = "",
) -> Decision:
    """Store a reviewer's decision on a track; it replaces the same reviewer's earlier one."""
    by = reviewer_name(by)
    role = as_role(role)
    reason = _reason(reason)
    with case.transaction():
        require_unchanged(case)
        _check(case, track, verdict, subject)
        at = now()
        replaced = [d.id for d in standing_decisions(case, track) if is_same_reviewer(d.by, by)]
        for former in replaced:
            _mark_undone(case, former, by, at)
        columns = "(track, subject, verdict, reason, by, at)"
        insert = f"INSERT INTO decision {columns} VALUES (?, ?, ?, ?, ?, ?)"
        number = int(
            case.db.execute(insert, (track, subject, verdict, reason, by, at)).lastrowid or 0
        )
        decision = Decision(number, track, subject, verdict, reason, by, at, None, None, role)
        case.log("decided", {**asdict(decision), "replaces": replaced, "digest": digest(case)})
    return decision


def undo(case: CaseStore, decision: int, by: str, role: str = "") -> Decision:
    """Mark a decision as undone, and return it. It stays in the case."""
    by = reviewer_name(by)
    role = as_role(role)
    with case.transaction():
        require_unchanged(case)
        rows = _decisions(case, "WHERE id = ?", decision)
        if not rows:
            raise CaseError(
                f"decision {decision}",
                "no such decision in this case",
                "`fasr-video show CASE` lists them",
            )
        undone = rows[0]
        if not undone.stands:
            reason = f"{undone.undone_by} has undone it already"
            raise CaseError(f"decision {decision}", reason, "make a new decision instead")
        at = now()
        _mark_undone(case, decision, by, at)
        details = {"id": decision, "track": undone.track, "by": by, "role": role, "at": at}
        case.log("decision undone", details | {"digest": digest(case)})
    return replace(undone, undone_by=by, undone_at=at)


def decisions(case: CaseStore, track: int) -> list[Decision]:
    """Return all decisions on a track, standing or undone, from the oldest to the newest."""
    return _decisions(case, "WHERE track = ? ORDER BY id", track)


def standing_decisions(case: CaseStore, track: int) -> list[Decision]:
    return [d for d in decisions(case, track) if d.stands]


def by_track(case: CaseStore, only: int | None = None) -> dict[int, list[Decision]]:
    """Return all decisions by track, or those on only one; tracks without any are left out."""
    chosen = _decisions(case, "ORDER BY id") if only is None else decisions(case, only)
    tracks: dict[int, list[Decision]] = {}
    for decision in chosen:
        tracks.setdefault(decision.track, []).append(decision)
    return tracks


def standing_by_track(case: CaseStore) -> dict[int, list[Decision]]:
    """Return all standing decisions by track; tracks without any are left out."""
    tracks = {}
    for track, all_decisions in by_track(case).items():
        standing = [decision for decision in all_decisions if decision.stands]
        if standing:
            tracks[track] = standing
    return tracks


def agreement(standing: Collection[Decision]) -> Agreement:
    """Return how the standing decisions on one track relate."""
    if not standing:
        return Agreement.UNDECIDED
    if len(standing) == 1:
        return Agreement.ONE
    verdicts = {(decision.verdict, decision.subject) for decision in standing}
    return Agreement.AGREED if len(verdicts) == 1 else Agreement.CONFLICT


def reviewer_name(name: str, what: str = "decision") -> str:
    """Return a reviewer's name on one line; raise where it is empty or too long.

    `what` is what the name is for.
    """
    name = one_line("name", name).strip()
    if not name:
        raise UsageError(what, "your name is missing", "enter it")
    if len(name) > LONGEST_NAME:
        reason = f"a name of {len(name)} characters"
        raise UsageError(what, reason, f"use at most {LONGEST_NAME}")
    return name


def _reason(text: str) -> str:
    """Return the reason of a decision; raise where it is empty or too long."""
    text = text.strip()
    if not text:
        remedy = "give one: a decision is not stored without it"
        raise UsageError("decision", "a reason is missing", remedy)
    if len(text) > LONGEST_REASON:
        reason = f"a reason of {len(text)} characters"
        raise UsageError("decision", reason, f"use at most {LONGEST_REASON}")
    return text


def is_same_reviewer(one: str, other: str) -> bool:
    return one.casefold() == other.casefold()


def digest(case: CaseStore) -> str:
    """Return one hash over all decisions, for the log."""
    return case.hash_rows("SELECT * FROM decision ORDER BY id")


def _check(case: CaseStore, track: int, verdict: str, subject: str | None) -> None:
    if verdict not in VERDICTS:
        raise UsageError(
            f"verdict {verdict}", "no such verdict", f"give one of {', '.join(VERDICTS)}"
        )
    name = f"track {finished_track(case, track).name}"
    names = listed_subjects(case, track)
    if verdict == "accepted" and subject is None:
        some = ", ".join([*names[:MOST_NAMED], *(["…"] if len(names) > MOST_NAMED else [])])
        remedy = f"give --subject NAME (one of {some})" if names else "nobody is listed on it"
        raise UsageError(name, "`accepted` needs a candidate", remedy)
    if verdict == "insufficient" and subject is not None:
        raise UsageError(
            name,
            "`insufficient` is about the track, not about a candidate",
            "leave the candidate out",
        )
    if subject is None:
        return
    if subject not in names:
        known = ", ".join(names) or "nobody is listed"
        raise UsageError(
            name, f"{subject} is not among its candidates", f"name one that is ({known})"
        )


def _mark_undone(case: CaseStore, decision: int, by: str, at: str) -> None:
    case.db.execute(
        "UPDATE decision SET undone_by = ?, undone_at = ? WHERE id = ?", (by, at, decision)
    )


def _decisions(case: CaseStore, which: str, *values: int) -> list[Decision]:
    return [Decision(*row) for row in case.db.execute(f"{QUERY} {which}", values)]
