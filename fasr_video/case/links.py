"""Proposed joinings of tracklets in a case, and what a person decided about them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from sqlite3 import Row

from fasr_video.actors import role as as_role
from fasr_video.case.case import Case
from fasr_video.case.decisions import person
from fasr_video.case.replay import require
from fasr_video.case.results import features
from fasr_video.case.store import now, track_name
from fasr_video.errors import CaseError
from fasr_video.gallery.probes import Kind

PERSON = "person"
"""Evidence of a link that nobody proposed: somebody said so."""


def decide(case: Case, link: int, state: str, who: str, role: str = "") -> None:
    """Accept, refuse or (state `proposed`) reopen a proposal; each change stays in the log."""
    who, role = person(who), as_role(role)
    with case.transaction():
        require(case)
        row = case.db.execute("SELECT * FROM link WHERE id = ?", (link,)).fetchone()
        if row is None:
            raise CaseError(f"link {link}", "no such proposal in this case", "`fasr-video show CASE` lists them")
        _decide(case, row, state, who, role)


def join(case: Case, tracks: Sequence[int], who: str, role: str = "") -> list[int]:
    """Make one person of these tracks, by links that were proposed or, where there is none, by new ones.

    Returns the links that hold them together now and did not before.
    """
    who, role, (first, *others) = person(who), as_role(role), _chosen(case, tracks, 2)
    accepted = []
    with case.transaction():
        require(case)
        for other in others:
            if any({first, other} <= set(group) for group in clusters(case, ["accepted"])):
                continue
            row = _between(case, first, other) or _by_hand(case, first, other)
            _decide(case, row, "accepted", who, role)
            accepted.append(int(row["id"]))
    if not accepted:
        raise CaseError(_named(case, (first, *others)), "they are one subject already", "choose others to join")
    return accepted


def split(case: Case, tracks: Sequence[int], who: str, role: str = "") -> list[int]:
    """Part these tracks from the rest of their subject: every link between the two, also a proposed one, is refused.

    Returns those links. The tracks themselves stay together where links hold them.
    """
    who, role, parted = person(who), as_role(role), set(_chosen(case, tracks, 1))
    with case.transaction():
        require(case)
        held = [set(group) for group in clusters(case, ["accepted"]) if parted & set(group)]
        rows = case.db.execute("SELECT * FROM link WHERE state != 'refused' ORDER BY id").fetchall()
        crossing = [r for r in rows if any({r["a"], r["b"]} <= group for group in held)]
        crossing = [r for r in crossing if (r["a"] in parted) != (r["b"] in parted)]
        for row in crossing:
            _decide(case, row, "refused", who, role)
    if not crossing:
        reason = "no accepted link holds them to a track that is not among them"
        raise CaseError(_named(case, sorted(parted)), reason, "choose some of a subject's tracks, not all")
    return [int(row["id"]) for row in crossing]


def _decide(case: Case, row: Row, state: str, who: str, role: str) -> None:
    """Inside a transaction."""
    if state == "accepted":
        _check_possible(case, row)
    at = now()
    decided = (None, None) if state == "proposed" else (who, at)
    case.db.execute(
        "UPDATE link SET state = ?, decided_by = ?, decided_at = ? WHERE id = ?", (state, *decided, row["id"])
    )
    pair = {"link": row["id"], "tracks": [row["a"], row["b"]], "evidence": row["evidence"], "score": row["score"]}
    told = {"from": row["state"], "to": state, "by": who, "role": role, "at": at}
    case.log("link decided", pair | told)


def _chosen(case: Case, tracks: Sequence[int], fewest: int) -> list[int]:
    """Finished tracks of this case, each once."""
    chosen = sorted(set(tracks))
    if len(chosen) < fewest:
        raise CaseError("tracks", f"{len(chosen)} chosen", f"choose at least {fewest}")
    for track in chosen:
        if case.db.execute("SELECT 1 FROM track WHERE id = ? AND state = 'done'", (track,)).fetchone() is None:
            raise CaseError(f"track {track}", "no such finished track in this case", "`fasr-video show` lists them")
    return chosen


def _between(case: Case, a: int, b: int) -> Row | None:
    query = "SELECT * FROM link WHERE (a = ? AND b = ?) OR (a = ? AND b = ?)"
    row: Row | None = case.db.execute(query, (a, b, b, a)).fetchone()
    return row


def _by_hand(case: Case, a: int, b: int) -> Row:
    """A link that nobody proposed. Its score is still the cosine of the two faces, 0 where one has no usable face."""
    one, other = (features(case, track).get(Kind.POOLED) for track in (a, b))
    score = 0.0 if one is None or other is None else float(one @ other)
    in_time = "SELECT track FROM face WHERE track IN (?, ?) GROUP BY track ORDER BY source, min(pts), track"
    pair = [row["track"] for row in case.db.execute(in_time, (a, b)).fetchall()]  # as proposals have them
    insert = "INSERT INTO link (a, b, score, evidence, state) VALUES (?, ?, ?, ?, 'proposed') RETURNING *"
    row: Row = case.db.execute(insert, (*pair, score, PERSON)).fetchall()[0]
    return row


def _named(case: Case, tracks: Sequence[int]) -> str:
    found = [case.db.execute("SELECT * FROM track WHERE id = ?", (t,)).fetchone() for t in tracks]
    return f"track{'s' if len(found) > 1 else ''} {', '.join(track_name(row) for row in found)}"


def clusters(case: Case, states: Iterable[str]) -> list[list[int]]:
    """Tracks that links in these states hold together; a track without such a link is in none."""
    wanted = set(states)
    found: dict[int, list[int]] = {}
    for row in case.db.execute("SELECT a, b, state FROM link ORDER BY id").fetchall():
        if row["state"] not in wanted:
            continue
        a, b = (found.setdefault(t, [t]) for t in (row["a"], row["b"]))
        if a is not b:
            a += b
            for track in b:
                found[track] = a
    distinct = {id(members): sorted(members) for members in found.values()}
    return sorted(distinct.values())


def _check_possible(case: Case, link: Row) -> None:
    """A link must not make one person of two who were seen at once (nobody is in two places of one picture), nor of
    two whom somebody set apart."""
    groups = {t: set(g) for g in clusters(case, ["accepted"]) for t in g}
    by_hand = f"joining {_named(case, (link['a'], link['b']))}"
    subject = by_hand if link["evidence"] == PERSON else f"link {link['id']}"
    ours, theirs = (groups.get(link[end], {link[end]}) for end in ("a", "b"))
    for a in sorted(ours):
        for b in sorted(theirs - ours):
            if _seen_at_once(case, a, b):
                reason = f"it would make one person of {_named(case, (a, b))}, which are seen at the same time"
                raise CaseError(subject, reason, "refuse it, or first reopen the link that is wrong")
            apart = _between(case, a, b)
            if apart is not None and apart["id"] != link["id"] and apart["state"] == "refused":
                reason = f"it would make one person of {_named(case, (a, b))}, which {apart['decided_by']} set apart"
                raise CaseError(subject, reason, f"first reopen link {apart['id']}")


def _seen_at_once(case: Case, a: int, b: int) -> bool:
    query = (
        "SELECT 1 FROM face one JOIN face other ON one.source = other.source AND one.frame_index = other.frame_index"
        " WHERE one.track = ? AND other.track = ? LIMIT 1"
    )
    return case.db.execute(query, (a, b)).fetchone() is not None
