"""Proposed joinings of tracklets in a case, and what a person decided about them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fasr_video.actors import role as as_role
from fasr_video.case.case import Case
from fasr_video.case.decisions import reviewer_name
from fasr_video.case.replay import require_unchanged
from fasr_video.case.results import features
from fasr_video.case.store import now
from fasr_video.case.tracks import are_in_one_frame, finished_track, sightings
from fasr_video.errors import CaseError
from fasr_video.gallery.encoder import Kind

# Evidence of a link that nobody proposed: somebody said so.
PERSON = "person"


@dataclass(frozen=True, slots=True)
class Link:
    """A row of `link`."""

    id: int
    a: int
    b: int
    """Tracks; `a` is seen before `b`."""
    score: float
    """Cosine of the two."""
    evidence: str
    state: str
    """`proposed`, `accepted` or `refused`."""
    decided_by: str | None = None
    decided_at: str | None = None

    @property
    def tracks(self) -> frozenset[int]:
        return frozenset((self.a, self.b))


def all_links(case: Case) -> list[Link]:
    """Return all links by their numbers."""
    return [Link(*row) for row in case.db.execute("SELECT * FROM link ORDER BY id")]


def refused_pairs(case: Case) -> set[frozenset[int]]:
    """Return the pairs of tracks that somebody set apart."""
    return {link.tracks for link in all_links(case) if link.state == "refused"}


def save_proposals(case: Case, proposals: Sequence[tuple[int, int, float, str]]) -> None:
    """Put these (tracks a and b, score, evidence) in the place of proposals that nobody decided on, within a
    transaction. A person's own stay, and a pair keeps its number."""
    still = {(a, b) for a, b, *_ in proposals}
    for link in all_links(case):
        if link.state == "proposed" and link.evidence != PERSON and (link.a, link.b) not in still:
            case.db.execute("DELETE FROM link WHERE id = ?", (link.id,))
    insert = (
        "INSERT INTO link (a, b, score, evidence, state) VALUES (?, ?, ?, ?, 'proposed') ON CONFLICT (a, b)"
        " DO UPDATE SET score = excluded.score, evidence = excluded.evidence WHERE state = 'proposed'"
    )
    case.db.executemany(insert, proposals)


def decide(case: Case, link: int, state: str, who: str, role: str = "") -> None:
    """Accept, refuse or (state `proposed`) reopen a proposal; each change stays in the log."""
    who, role = reviewer_name(who), as_role(role)
    with case.transaction():
        require_unchanged(case)
        row = case.db.execute("SELECT * FROM link WHERE id = ?", (link,)).fetchone()
        if row is None:
            raise CaseError(
                f"link {link}", "no such proposal in this case", "`fasr-video show CASE` lists them"
            )
        _decide(case, Link(*row), state, who, role)


def join(case: Case, tracks: Sequence[int], who: str, role: str = "") -> list[int]:
    """Make one person of these tracks, by links that were proposed or, where there is none, by new ones.

    Returns the links that hold them together now and did not before.
    """
    who, role, (first, *others) = reviewer_name(who), as_role(role), _chosen(case, tracks, 2)
    accepted = []
    with case.transaction():
        require_unchanged(case)
        for other in others:
            if any({first, other} <= set(group) for group in clusters(case, ["accepted"])):
                continue
            link = _between(case, first, other) or _by_hand(case, first, other)
            _decide(case, link, "accepted", who, role)
            accepted.append(link.id)
    if not accepted:
        raise CaseError(
            _named(case, (first, *others)), "they are one subject already", "choose others to join"
        )
    return accepted


def split(case: Case, tracks: Sequence[int], who: str, role: str = "") -> list[int]:
    """Part these tracks from the rest of their subject: every link between the two, also a proposed one, is refused.

    Returns those links. The tracks themselves stay together where links hold them.
    """
    who, role, parted = reviewer_name(who), as_role(role), set(_chosen(case, tracks, 1))
    with case.transaction():
        require_unchanged(case)
        held = [set(group) for group in clusters(case, ["accepted"]) if parted & set(group)]
        links = [link for link in all_links(case) if link.state != "refused"]
        crossing = [link for link in links if any(link.tracks <= group for group in held)]
        crossing = [link for link in crossing if (link.a in parted) != (link.b in parted)]
        for link in crossing:
            _decide(case, link, "refused", who, role)
    if not crossing:
        reason = "no accepted link holds them to a track that is not among them"
        raise CaseError(
            _named(case, sorted(parted)), reason, "choose some of a subject's tracks, not all"
        )
    return [link.id for link in crossing]


def _decide(case: Case, link: Link, state: str, who: str, role: str) -> None:
    """Inside a transaction."""
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
    told = {"from": link.state, "to": state, "by": who, "role": role, "at": at}
    case.log("link decided", pair | told)


def _chosen(case: Case, tracks: Sequence[int], fewest: int) -> list[int]:
    """Finished tracks of this case, each once."""
    chosen = sorted(set(tracks))
    if len(chosen) < fewest:
        raise CaseError("tracks", f"{len(chosen)} chosen", f"choose at least {fewest}")
    for track in chosen:
        finished_track(case, track)
    return chosen


def _between(case: Case, a: int, b: int) -> Link | None:
    return next((link for link in all_links(case) if link.tracks == {a, b}), None)


def _by_hand(case: Case, a: int, b: int) -> Link:
    """A link that nobody proposed. Its score is still the cosine of the two faces, 0 where one has no usable face."""
    one, other = (features(case, track).get(Kind.POOLED) for track in (a, b))
    score = 0.0 if one is None or other is None else float(one @ other)
    begin = {
        t: (finished_track(case, t).source, sightings(case, t)[t].first_pts, t) for t in (a, b)
    }
    first, second = sorted((a, b), key=lambda track: begin[track])  # as proposals have them
    insert = "INSERT INTO link (a, b, score, evidence, state) VALUES (?, ?, ?, ?, 'proposed')"
    number = case.db.execute(insert, (first, second, score, PERSON)).lastrowid
    return Link(int(number or 0), first, second, score, PERSON, "proposed")


def _named(case: Case, tracks: Sequence[int]) -> str:
    return f"track{'s' if len(tracks) > 1 else ''} {', '.join(finished_track(case, t).name for t in tracks)}"


def clusters(case: Case, states: Iterable[str]) -> list[list[int]]:
    """Tracks that links in these states hold together; a track without such a link is in none."""
    wanted = set(states)
    found: dict[int, list[int]] = {}
    for link in all_links(case):
        if link.state not in wanted:
            continue
        a, b = (found.setdefault(t, [t]) for t in (link.a, link.b))
        if a is not b:
            a += b
            for track in b:
                found[track] = a
    distinct = {id(members): sorted(members) for members in found.values()}
    return sorted(distinct.values())


def _check_possible(case: Case, link: Link) -> None:
    """A link must not make one person of two who were seen at once (nobody is in two places of one picture), nor of
    two whom somebody set apart."""
    groups = {t: set(g) for g in clusters(case, ["accepted"]) for t in g}
    apart = {
        other.tracks: other
        for other in all_links(case)
        if other.state == "refused" and other.id != link.id
    }
    subject = (
        f"joining {_named(case, (link.a, link.b))}"
        if link.evidence == PERSON
        else f"link {link.id}"
    )
    of_a, of_b = groups.get(link.a, {link.a}), groups.get(link.b, {link.b})
    for a in sorted(of_a):
        for b in sorted(of_b - of_a):
            if are_in_one_frame(case, a, b):
                reason = f"it would make one person of {_named(case, (a, b))}, which are seen at the same time"
                raise CaseError(
                    subject, reason, "refuse it, or first reopen the link that is wrong"
                )
            if (other := apart.get(frozenset((a, b)))) is not None:
                reason = f"it would make one person of {_named(case, (a, b))}, which {other.decided_by} set apart"
                raise CaseError(subject, reason, f"first reopen link {other.id}")
