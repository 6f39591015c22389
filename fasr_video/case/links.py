"""Proposed joinings of tracklets in a case, and what a person decided about them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from sqlite3 import Row

from fasr_video.actors import role as as_role
from fasr_video.case.decisions import person
from fasr_video.case.replay import proposed_links, require
from fasr_video.case.store import Case, now, track_name
from fasr_video.configs.settings import LinkSettings
from fasr_video.errors import CaseError
from fasr_video.gallery.probes import Feature, Kind
from fasr_video.pipeline.probes import features
from fasr_video.trackers.linking import Proposal, Tracklet, appearance, propose, propose_by_face
from fasr_video.types import FaceCrop, Reason

LOOKS = "appearance (form and colours; not face recognition)"
FACES = "face recognition (cosine of pooled features)"
PERSON = "person"
"""Evidence of a link that nobody proposed: somebody said so."""


def propose_all(case: Case, settings: LinkSettings) -> bool:
    """Propose anew for all finished tracks; what a person decided stays. Returns False where that is done already.

    Tracks with a usable face are compared by face, over all sources and times; the others by their looks, with what
    they follow or what follows them in one source. What is not a face is no person's.
    """
    state = _state(case, settings)
    if case.meta("linked_tracks") == state:
        return False
    faces_only = "SELECT * FROM track WHERE state = 'done' AND verdict_reason IS NOT ?"
    tracks = case.db.execute(faces_only, (Reason.NOT_A_FACE,)).fetchall()
    probed = {row["id"]: face for row in tracks if (face := features(case, row["id"]).get(Kind.POOLED)) is not None}
    faces = [_tracklet(case, row, probed[row["id"]]) for row in tracks if row["id"] in probed]
    looks = []
    if len(probed) < len(tracks):  # reading every track's pictures is the dear part
        looks = [_tracklet(case, row, appearance(crops)) for row in tracks if (crops := _crops(case, row["id"]))]
    by_face = propose_by_face(faces, settings.min_similarity, _refused(case))
    by_looks = [p for p in propose(looks, settings.max_gap, settings.min_score) if not {p.a, p.b} <= probed.keys()]
    with case.transaction():
        require(case)
        _replace(case, [(p, FACES) for p in by_face] + [(p, LOOKS) for p in by_looks])
        case.set_meta("linked_tracks", state)
        count = len(by_face) + len(by_looks)
        case.log("links proposed", {"links": count, "of": state, "proposed": proposed_links(case)})
    return True


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


def _replace(case: Case, proposals: list[tuple[Proposal, str]]) -> None:
    """Proposals that nobody decided on give way to these, but for a person's own; a pair keeps its number."""
    still = {(p.a, p.b) for p, _ in proposals}
    query = "SELECT id, a, b FROM link WHERE state = 'proposed' AND evidence != ?"
    for row in case.db.execute(query, (PERSON,)).fetchall():
        if (row["a"], row["b"]) not in still:
            case.db.execute("DELETE FROM link WHERE id = ?", (row["id"],))
    for p, evidence in proposals:
        case.db.execute(
            "INSERT INTO link (a, b, score, evidence, state) VALUES (?, ?, ?, ?, 'proposed') ON CONFLICT (a, b)"
            " DO UPDATE SET score = excluded.score, evidence = excluded.evidence WHERE state = 'proposed'",
            (p.a, p.b, p.score, evidence),
        )


def _state(case: Case, settings: LinkSettings) -> str:
    """What proposals depend on."""
    done = case.db.execute("SELECT count(*) FROM track WHERE state = 'done'").fetchone()[0]
    models = case.db.execute("SELECT DISTINCT models FROM probed ORDER BY models").fetchall()
    probed = case.db.execute("SELECT count(*) FROM probed").fetchone()[0]
    return json.dumps([done, probed, [r[0] for r in models], settings.model_dump()])


def _refused(case: Case) -> Callable[[int, int], bool]:
    pairs = {frozenset((r["a"], r["b"])) for r in case.db.execute("SELECT a, b FROM link WHERE state = 'refused'")}
    return lambda a, b: frozenset((a, b)) in pairs


def _tracklet(case: Case, track: Row, look: Feature) -> Tracklet:
    first, last = case.db.execute("SELECT min(pts), max(pts) FROM face WHERE track = ?", (track["id"],)).fetchone()
    base = case.time_base(track["source"])
    return Tracklet(track["id"], track["source"], float(first * base), float(last * base), look)


def _crops(case: Case, track: int) -> list[FaceCrop]:
    kept = "SELECT * FROM face WHERE track = ? AND aligned IS NOT NULL ORDER BY id"
    return [
        FaceCrop(case.read_picture(r["aligned"]), case.read_picture(r["native"]), (r["native_x"], r["native_y"]))
        for r in case.db.execute(kept, (track,)).fetchall()
    ]
