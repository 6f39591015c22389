"""Which tracklets of a case may be one person: proposals by their faces, or by their looks."""

from __future__ import annotations

import json

from fasr_video.case.case import Case
from fasr_video.case.links import refused_pairs, save_proposals
from fasr_video.case.replay import proposed_links, require_unchanged
from fasr_video.case.results import all_features, encodings
from fasr_video.case.sources import sources
from fasr_video.case.tracks import Track, crop, faces_with_pictures, finished_tracks, sightings
from fasr_video.configs.settings import LinkSettings
from fasr_video.gallery.encoder import Feature, Kind
from fasr_video.trackers.linking import Tracklet, appearance, propose, propose_by_face
from fasr_video.types import Reason

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
    tracks = [track for track in finished_tracks(case) if track.verdict_reason != Reason.NOT_A_FACE]
    features = {
        track: own[Kind.POOLED] for track, own in all_features(case).items() if Kind.POOLED in own
    }
    footage, seen = {source.id: source for source in sources(case)}, sightings(case)

    def tracklet(track: Track, look: Feature) -> Tracklet:
        base = footage[track.source].time_base
        start, end = (
            float(pts * base) for pts in (seen[track.id].first_pts, seen[track.id].last_pts)
        )
        return Tracklet(track.id, track.source, start, end, look)

    faces = [tracklet(track, features[track.id]) for track in tracks if track.id in features]
    looks = []
    if len(faces) < len(tracks):  # reading every track's pictures is the dear part
        for track in tracks:
            if crops := [crop(case, face) for face in faces_with_pictures(case, track.id)]:
                looks.append(tracklet(track, appearance(crops)))
    refused = refused_pairs(case)
    by_face = propose_by_face(
        faces, settings.min_similarity, lambda a, b: frozenset((a, b)) in refused
    )
    by_looks = [
        p
        for p in propose(looks, settings.max_gap, settings.min_score)
        if not {p.a, p.b} <= features.keys()
    ]
    with case.transaction():
        require_unchanged(case)
        found = [(p, FACES) for p in by_face] + [(p, LOOKS) for p in by_looks]
        save_proposals(case, [(p.a, p.b, p.score, evidence) for p, evidence in found])
        case.set_meta("linked_tracks", state)
        case.log(
            "links proposed", {"links": len(found), "of": state, "proposed": proposed_links(case)}
        )
    return True


def _state(case: Case, settings: LinkSettings) -> str:
    """What proposals depend on."""
    made = encodings(case)
    models = sorted({probes.models for probes in made.values()})
    return json.dumps([len(finished_tracks(case)), len(made), models, settings.model_dump()])
