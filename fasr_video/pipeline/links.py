"""Which tracklets of a case may be one person: proposals by their faces, or by their looks."""

from __future__ import annotations

import json
from collections.abc import Callable
from sqlite3 import Row

from fasr_video.case.case import Case
from fasr_video.case.links import PERSON
from fasr_video.case.replay import proposed_links, require
from fasr_video.case.results import features
from fasr_video.configs.settings import LinkSettings
from fasr_video.gallery.probes import Feature, Kind
from fasr_video.trackers.linking import Proposal, Tracklet, appearance, propose, propose_by_face
from fasr_video.types import FaceCrop, Reason

LOOKS = "appearance (form and colours; not face recognition)"
FACES = "face recognition (cosine of pooled features)"


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
