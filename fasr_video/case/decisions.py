"""What reviewers say of a track: accepted, rejected or insufficient; why, and by whom. Nothing is ever deleted.

A person has one standing decision on a track: a new one takes the place of the former, which stays as undone. Two
people's decisions stand beside each other, and agree or not. Each change is a line of the log with a hash over all
decisions, so that `verify` finds one that was altered, added or removed behind the log's back. A decision names its
subject by its id: it stays when the case is searched anew, whoever is listed then.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from enum import StrEnum

from fasr_video.actors import one_line
from fasr_video.actors import role as as_role
from fasr_video.case.replay import require_unchanged
from fasr_video.case.results import listed_subjects
from fasr_video.case.store import CaseStore, now
from fasr_video.case.tracks import finished_track
from fasr_video.errors import CaseError, UsageError

VERDICTS = ("accepted", "rejected", "insufficient")
LONGEST_NAME = 100
LONGEST_REASON = 4000
# The role stands in the line of the log that the decision is; the log is read once, whatever is asked for.
QUERY = """
WITH line AS MATERIALIZED (
    SELECT CAST(json_extract(details, '$.id') AS INTEGER) AS id, json_extract(details, '$.role') AS role
    FROM log WHERE event = 'decided' GROUP BY 1
)
SELECT decision.*, coalesce(line.role, '') AS role FROM decision LEFT JOIN line USING (id)
"""


@dataclass(frozen=True, slots=True)
class Decision:
    id: int
    track: int
    subject: str | None
    """The candidate that it is about; None when it is about the track as a whole."""
    verdict: str
    reason: str
    by: str
    at: str
    undone_by: str | None
    undone_at: str | None
    role: str
    """As what; empty where it was not said."""

    @property
    def stands(self) -> bool:
        return self.undone_at is None


class Agreement(StrEnum):
    """What the standing decisions on a track come to."""

    UNDECIDED = "undecided"
    ONE = "one reviewer"
    AGREED = "reviewers agree"
    CONFLICT = "reviewers disagree"


def decide(
    case: CaseStore,
    track: int,
    verdict: str,
    reason: str,
    by: str,
    subject: str | None = None,
    role: str = "",
) -> Decision:
    """Record what a person says of a track; what the same person said of it before is undone by it."""
    by, role, reason = (
        reviewer_name(by),
        as_role(role),
        _required("a reason", reason, LONGEST_REASON),
    )
    with case.transaction():
        require_unchanged(case)
        _check(case, track, verdict, subject)
        at = now()
        replaced = [d.id for d in standing_decisions(case, track) if is_same_reviewer(d.by, by)]
        for former in replaced:
            _mark_undone(case, former, by, at)
        insert = "INSERT INTO decision (track, subject, verdict, reason, by, at) VALUES (?, ?, ?, ?, ?, ?)"
        number = int(
            case.db.execute(insert, (track, subject, verdict, reason, by, at)).lastrowid or 0
        )
        made = Decision(number, track, subject, verdict, reason, by, at, None, None, role)
        case.log("decided", {**asdict(made), "replaces": replaced, "digest": digest(case)})
    return made


def undo(case: CaseStore, decision: int, by: str, role: str = "") -> Decision:
    """Take a decision back. It stays in the case, with who took it back and when."""
    by, role = reviewer_name(by), as_role(role)
    with case.transaction():
        require_unchanged(case)
        found = _decisions(case, "WHERE id = ?", decision)
        if not found:
            raise CaseError(
                f"decision {decision}",
                "no such decision in this case",
                "`fasr-video show CASE` lists them",
            )
        made = found[0]
        if not made.stands:
            reason = f"{made.undone_by} has undone it already"
            raise CaseError(f"decision {decision}", reason, "decide anew in its place")
        at = now()
        _mark_undone(case, decision, by, at)
        details = {"id": decision, "track": made.track, "by": by, "role": role, "at": at}
        case.log("decision undone", details | {"digest": digest(case)})
    return replace(made, undone_by=by, undone_at=at)


def decisions(case: CaseStore, track: int) -> list[Decision]:
    """All that were ever made on a track, in the order in which they were made."""
    return _decisions(case, "WHERE track = ? ORDER BY id", track)


def standing_decisions(case: CaseStore, track: int) -> list[Decision]:
    return [d for d in decisions(case, track) if d.stands]


def by_track(case: CaseStore, only: int | None = None) -> dict[int, list[Decision]]:
    """Return all decisions by their tracks, or those of `only` one; a track without any is not in it."""
    found: dict[int, list[Decision]] = {}
    for decision in _decisions(case, "ORDER BY id") if only is None else decisions(case, only):
        found.setdefault(decision.track, []).append(decision)
    return found


def standing_by_track(case: CaseStore) -> dict[int, list[Decision]]:
    """Track → its standing decisions; a track without one is not in it."""
    standing_decisions = {
        track: [d for d in made if d.stands] for track, made in by_track(case).items()
    }
    return {track: made for track, made in standing_decisions.items() if made}


def agreement(standing_decisions: Collection[Decision]) -> Agreement:
    if len(standing_decisions) < 2:
        return Agreement.ONE if standing_decisions else Agreement.UNDECIDED
    return (
        Agreement.AGREED
        if len({(d.verdict, d.subject) for d in standing_decisions}) == 1
        else Agreement.CONFLICT
    )


def reviewer_name(name: str) -> str:
    """The name of who decides, on one line."""
    return _required("a name", one_line("name", name), LONGEST_NAME)


def is_same_reviewer(one: str, other: str) -> bool:
    return one.casefold() == other.casefold()


def digest(case: CaseStore) -> str:
    """One hash over all decisions, so that the log's chain covers them."""
    return case.hash_rows("SELECT * FROM decision ORDER BY id")


def _check(case: CaseStore, track: int, verdict: str, subject: str | None) -> None:
    if verdict not in VERDICTS:
        raise UsageError(
            f"verdict {verdict}", "no such verdict", f"give one of {', '.join(VERDICTS)}"
        )
    name = f"track {finished_track(case, track).name}"
    if verdict == "accepted" and subject is None:
        raise UsageError(name, "nobody is accepted without saying whom", "name the candidate")
    if verdict == "insufficient" and subject is not None:
        raise UsageError(
            name, "insufficient is said of the track, not of a candidate", "leave the candidate out"
        )
    if subject is None:
        return
    names = listed_subjects(case, track)
    if subject not in names:
        known = ", ".join(names) or "nobody is listed"
        raise UsageError(
            name, f"{subject} is not among its candidates", f"name one that is ({known})"
        )


def _required(what: str, text: str, most: int) -> str:
    text = text.strip()
    if not text:
        raise UsageError(
            "decision", f"{what} is missing", "say it: a decision without it is not kept"
        )
    if len(text) > most:
        raise UsageError(
            "decision", f"{what} of {len(text)} characters", f"say it in at most {most}"
        )
    return text


def _mark_undone(case: CaseStore, decision: int, by: str, at: str) -> None:
    case.db.execute(
        "UPDATE decision SET undone_by = ?, undone_at = ? WHERE id = ?", (by, at, decision)
    )


def _decisions(case: CaseStore, which: str, *values: int) -> list[Decision]:
    return [Decision(*row) for row in case.db.execute(f"{QUERY} {which}", values)]
