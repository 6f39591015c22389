"""Links between tracks that may show one person: proposals, and decisions of reviewers on them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fasr_video.actors import role as as_role
from fasr_video.case.case import Case
from fasr_video.case.decisions import reviewer_name
from fasr_video.case.replay import require_unchanged
from fasr_video.case.results import features
from fasr_video.case.tracks import are_in_one_frame, finished_track, sightings
from fasr_video.clock import now
from fasr_video.errors import CaseError
from fasr_video.gallery.encoder import Kind

# The evidence of a link that a reviewer made without a proposal.
PERSON = "person"


@dataclass(frozen=True, slots=True)
class Link:
    """A row of `link`."""

    id: int
    a: int
    b: int
    """Tracks; `a` begins before `b`."""
    score: float
    """Cosine similarity of the two."""
    evidence: str
    state: str
    """`proposed`, `accepted` or `refused`."""
    decided_by: str | None = None
    decided_at: str | None = None

    @property
    def tracks(self) -> frozenset[int]:
        return frozenset((self.a, self.b))


def all_links(case: Case) -> list[Link]:
    """Return all links in the order of their ids."""
    return [Link(*row) for row in case.db.execute("SELECT * FROM link ORDER BY id")]


def refused_pairs(case: Case) -> set[frozenset[int]]:
    """Return the pairs of tracks whose link a reviewer refused."""
    return {link.tracks for link in all_links(case) if link.state == "refused"}


def save_proposals(case: Case, proposals: Sequence[tuple[int, int, float, str]]) -> None:
    """Replace the undecided proposals by these (track a, track b, score, evidence), in a
    transaction.

    Links that a reviewer made stay, and a pair that is proposed again keeps its id.
    """
    pairs = {(a, b) for a, b, *_ in proposals}
    for link in all_links(case):
        if link.state == "proposed" and link.evidence != PERSON and (link.a, link.b) not in pairs:
            case.db.execute("DELETE FROM link WHERE id = ?", (link.id,))
    insert = (
        "INSERT INTO link (a, b, score, evidence, state) VALUES (?, ?, ?, ?, 'proposed')"
        " ON CONFLICT (a, b) DO UPDATE SET score = excluded.score, evidence = excluded.evidence"
        " WHERE state = 'proposed'"
    )
    case.db.executemany(insert, proposals)


def decide(case: Case, link: int, state: str, who: str, *, role: str = "") -> None:
    """Set a link to `accepted`, `refused` or, to reopen it, `proposed`; log the change."""
    who = reviewer_name(who)
    role = as_role(role)
    with case.transaction():
        require_unchanged(case)
        row = case.db.execute("SELECT * FROM link WHERE id = ?", (link,)).fetchone()
        if row is None:
            raise CaseError(
                f"link {link}", "no such proposal in this case", "`fasr-video show CASE` lists them"
            )
        _decide(case, Link(*row), state, who, role=role)


def join(case: Case, tracks: Sequence[int], who: str, role: str = "") -> list[int]:
    """Join these tracks into one person, and return the ids of the links accepted for it.

    Proposed links are accepted; where there is none, a new link is made.
    """
    who = reviewer_name(who)
    role = as_role(role)
    first, *others = _finished_tracks(case, tracks, 2)
    accepted = []
    with case.transaction():
        require_unchanged(case)
        for other in others:
            if any({first, other} <= set(group) for group in clusters(case, ["accepted"])):
                continue
            link = _link_between(case, first, other) or _add_link(case, first, other)
            _decide(case, link, "accepted", who, role=role)
            accepted.append(link.id)
    if not accepted:
        raise CaseError(
            _names(case, (first, *others)), "they are one subject already", "choose others to join"
        )
    return accepted


def split(case: Case, tracks: Sequence[int], who: str, role: str = "") -> list[int]:
    """Separate these tracks from the rest of their subject, and return the ids of the refused
    links.

    All accepted and proposed links between the two parts are refused. Links among the given tracks
    stay as they are.
    """
    who = reviewer_name(who)
    role = as_role(role)
    separated = set(_finished_tracks(case, tracks, 1))
    with case.transaction():
        require_unchanged(case)
        groups = [set(group) for group in clusters(case, ["accepted"]) if separated & set(group)]
        links = [link for link in all_links(case) if link.state != "refused"]
        within = [link for link in links if any(link.tracks <= group for group in groups)]
        crossing = [link for link in within if (link.a in separated) != (link.b in separated)]
        for link in crossing:
            _decide(case, link, "refused", who, role=role)
    if not crossing:
        reason = "no accepted link joins them to any other track"
        raise CaseError(
            _names(case, sorted(separated)), reason, "choose some of a subject's tracks, not all"
        )
    return [link.id for link in crossing]


def _decide(case: Case, link: Link, state: str, who: str, *, role: str) -> None:
    """Store and log a decision on a link, within a transaction."""
    if state == "accepted":
        _check_possible(case, link)
    at = now()
    decided = (None, None) if state == "proposed" else (who, at)
    update = "UPDATE link SET state = ?, decided_by = ?, decided_at = ? WHERE id = ?"
    case.db.execute(update, (state, *decided, link.id))
    pair = {
        "link": link.id,
        "tracks": [link.a, link.b],
        "evidence": link.evidence,
        "score": link.score,
    }
    change = {"from": link.state, "to": state, "by": who, "role": role, "at": at}
    case.log("link decided", pair | change)


def _finished_tracks(case: Case, tracks: Sequence[int], fewest: int) -> list[int]:
    """Return the ids sorted and without repetition; raise unless each is a finished track."""
    chosen = sorted(set(tracks))
    if len(chosen) < fewest:
        raise CaseError("tracks", f"{len(chosen)} chosen", f"choose at least {fewest}")
    for track in chosen:
        finished_track(case, track)
    return chosen


def _link_between(case: Case, a: int, b: int) -> Link | None:
    return next((link for link in all_links(case) if link.tracks == {a, b}), None)


def _add_link(case: Case, a: int, b: int) -> Link:
    """Add a link that was not proposed, and return it.

    Its score is the cosine similarity of the two tracks, or 0 where one has no usable face.
    """
    one, other = (features(case, track).get(Kind.POOLED) for track in (a, b))
    score = 0.0 if one is None or other is None else float(one @ other)
    begin = {
        t: (finished_track(case, t).source, sightings(case, t)[t].first_pts, t) for t in (a, b)
    }
    first, second = sorted((a, b), key=lambda track: begin[track])  # the order of proposals
    insert = "INSERT INTO link (a, b, score, evidence, state) VALUES (?, ?, ?, ?, 'proposed')"
    number = case.db.execute(insert, (first, second, score, PERSON)).lastrowid
    return Link(int(number or 0), first, second, score, PERSON, "proposed")


def _names(case: Case, tracks: Sequence[int]) -> str:
    """Return `track T1` or `tracks T1, T2` for an error message."""
    names = ", ".join(finished_track(case, track).name for track in tracks)
    return f"track{'s' if len(tracks) > 1 else ''} {names}"


def clusters(case: Case, states: Iterable[str]) -> list[list[int]]:
    """Return the groups of tracks that links in these states join, each with two or more tracks."""
    chosen_states = set(states)
    groups: dict[int, list[int]] = {}
    for link in all_links(case):
        if link.state not in chosen_states:
            continue
        first = groups.setdefault(link.a, [link.a])
        second = groups.setdefault(link.b, [link.b])
        if first is not second:
            first += second
            for track in second:
                groups[track] = first
    distinct = {id(group): sorted(group) for group in groups.values()}
    return sorted(distinct.values())


def _check_possible(case: Case, link: Link) -> None:
    """Raise where accepting a link would join two tracks that cannot be one person.

    Nobody is in one frame twice, and a refused link keeps two tracks apart.
    """
    groups = {t: set(g) for g in clusters(case, ["accepted"]) for t in g}
    refused = {
        other.tracks: other
        for other in all_links(case)
        if other.state == "refused" and other.id != link.id
    }
    subject = (
        f"joining {_names(case, (link.a, link.b))}"
        if link.evidence == PERSON
        else f"link {link.id}"
    )
    of_a = groups.get(link.a, {link.a})
    of_b = groups.get(link.b, {link.b})
    for a in sorted(of_a):
        for b in sorted(of_b - of_a):
            if are_in_one_frame(case, a, b):
                reason = f"it would join {_names(case, (a, b))}, which appear in one frame"
                raise CaseError(
                    subject, reason, "refuse it, or first reopen the link that is wrong"
                )
            other = refused.get(frozenset((a, b)))
            if other is not None:
                reason = f"it would join {_names(case, (a, b))}, which {other.decided_by} separated"
                raise CaseError(subject, reason, f"first reopen link {other.id}")
