"""Proposed joinings of tracklets in a case, and what a person decided about them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from sqlite3 import Row

from fasr_video.configs.settings import LinkSettings
from fasr_video.errors import CaseError
from fasr_video.gallery.probes import Feature, Kind
from fasr_video.pipeline.case import Case, now
from fasr_video.pipeline.probes import features
from fasr_video.trackers.linking import Proposal, Tracklet, appearance, propose, propose_by_face
from fasr_video.types import FaceCrop

LOOKS = "appearance (form and colours; not face recognition)"
FACES = "face recognition (cosine of pooled features)"


def propose_all(case: Case, settings: LinkSettings) -> bool:
    """Propose anew for all finished tracks; what a person decided stays. Returns False where that is done already.

    Tracks with a usable face are compared by face, over all sources and times; the others by their looks, with what
    they follow or what follows them in one source.
    """
    state = _state(case, settings)
    if case.meta("linked_tracks") == state:
        return False
    tracks = case.db.execute("SELECT * FROM track WHERE state = 'done'").fetchall()
    probed = {row["id"]: face for row in tracks if (face := features(case, row["id"]).get(Kind.POOLED)) is not None}
    faces = [_tracklet(case, row, probed[row["id"]]) for row in tracks if row["id"] in probed]
    looks = []
    if len(probed) < len(tracks):  # reading every track's pictures is the dear part
        looks = [_tracklet(case, row, appearance(crops)) for row in tracks if (crops := _crops(case, row["id"]))]
    by_face = propose_by_face(faces, settings.min_similarity, _refused(case))
    by_looks = [p for p in propose(looks, settings.max_gap, settings.min_score) if not {p.a, p.b} <= probed.keys()]
    with case.transaction():
        _replace(case, [(p, FACES) for p in by_face] + [(p, LOOKS) for p in by_looks])
        case.set_meta("linked_tracks", state)
    return True


def decide(case: Case, link: int, state: str, who: str) -> None:
    """Accept, refuse or (state `proposed`) reopen a proposal; each change stays in the log."""
    row = case.db.execute("SELECT * FROM link WHERE id = ?", (link,)).fetchone()
    if row is None:
        raise CaseError(f"link {link}", "no such proposal in this case", "`fasr-video show CASE` lists them")
    if state == "accepted":
        _check_possible(case, row)
    with case.transaction():
        decided = (None, None) if state == "proposed" else (who, now())
        case.db.execute(
            "UPDATE link SET state = ?, decided_by = ?, decided_at = ? WHERE id = ?", (state, *decided, link)
        )
        pair = {"link": link, "tracks": [row["a"], row["b"]]}
        case.log("link decided", {**pair, "from": row["state"], "to": state, "by": who})


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
    """Nobody is in two places of one picture: a link must not make one person of two who were seen at once."""
    groups = {t: set(g) for g in clusters(case, ["accepted"]) for t in g}
    for a in groups.get(link["a"], {link["a"]}):
        for b in groups.get(link["b"], {link["b"]}):
            if a != b and _seen_at_once(case, a, b):
                reason = f"it would make one person of tracks {a} and {b}, which are seen at the same time"
                raise CaseError(f"link {link['id']}", reason, "refuse it, or first reopen the link that is wrong")


def _seen_at_once(case: Case, a: int, b: int) -> bool:
    query = (
        "SELECT 1 FROM face one JOIN face other ON one.source = other.source AND one.frame_index = other.frame_index"
        " WHERE one.track = ? AND other.track = ? LIMIT 1"
    )
    return case.db.execute(query, (a, b)).fetchone() is not None


def _replace(case: Case, proposals: list[tuple[Proposal, str]]) -> None:
    """Proposals that nobody decided on give way to these; a pair keeps its number."""
    still = {(p.a, p.b) for p, _ in proposals}
    for row in case.db.execute("SELECT id, a, b FROM link WHERE state = 'proposed'").fetchall():
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
