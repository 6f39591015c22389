"""Proposals of tracklets of a case that may show one person, by face or by appearance."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

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

# The evidence of a link, as cases store it.
BY_APPEARANCE = "appearance (form and colours; not face recognition)"
BY_FACE = "face recognition (cosine of pooled features)"
# Two tracks, score and evidence.
ProposedLink = tuple[int, int, float, str]


def propose_all(case: Case, settings: LinkSettings) -> bool:
    """Propose links of all finished tracks again; links that a person decided on stay.

    Tracks with a usable face are compared by face, over all sources and times. The others are
    compared by appearance with tracks before or after them in the same source. Tracks that are not
    a face are left out. Return False if nothing has changed since the last time.
    """
    state = _state(case, settings)
    if case.meta("linked_tracks") == state:
        return False
    tracks = [track for track in finished_tracks(case) if track.verdict_reason != Reason.NOT_A_FACE]
    features = {
        track: kinds[Kind.POOLED]
        for track, kinds in all_features(case).items()
        if Kind.POOLED in kinds
    }
    proposals = _by_face(case, tracks, features, settings)
    if not all(track.id in features for track in tracks):
        proposals += _by_appearance(case, tracks, features, settings)
    with case.transaction():
        require_unchanged(case)
        save_proposals(case, proposals)
        case.set_meta("linked_tracks", state)
        details = {"links": len(proposals), "state": state, "proposed": proposed_links(case)}
        case.log("links proposed", details)
    return True


def _by_face(
    case: Case, tracks: Sequence[Track], features: Mapping[int, Feature], settings: LinkSettings
) -> list[ProposedLink]:
    """Return links of tracks with similar faces."""
    with_face = {t.id: features[t.id] for t in tracks if t.id in features}
    tracklets = _tracklets(case, tracks, with_face)
    refused = refused_pairs(case)
    links = propose_by_face(
        tracklets, settings.min_similarity, lambda a, b: frozenset((a, b)) in refused
    )
    return [(link.a, link.b, link.score, BY_FACE) for link in links]


def _by_appearance(
    case: Case, tracks: Sequence[Track], features: Mapping[int, Feature], settings: LinkSettings
) -> list[ProposedLink]:
    """Return links of tracks that look alike, except those between two tracks with faces.

    This reads the pictures of all tracks, which takes long.
    """
    appearances: dict[int, Feature] = {}
    for track in tracks:
        crops = [crop(case, face) for face in faces_with_pictures(case, track.id)]
        if crops:
            appearances[track.id] = appearance(crops)
    links = propose(_tracklets(case, tracks, appearances), settings.max_gap, settings.min_score)
    return [
        (link.a, link.b, link.score, BY_APPEARANCE)
        for link in links
        if not {link.a, link.b} <= features.keys()
    ]


def _tracklets(
    case: Case, tracks: Sequence[Track], features: Mapping[int, Feature]
) -> list[Tracklet]:
    """Return those of the tracks that have a feature, as `Tracklet`s."""
    footage = {source.id: source for source in sources(case)}
    spans = sightings(case)
    tracklets = []
    for track in tracks:
        if track.id in features:
            span = spans[track.id]
            time_base = footage[track.source].time_base
            start, end = float(span.first_pts * time_base), float(span.last_pts * time_base)
            tracklets.append(Tracklet(track.id, track.source, start, end, features[track.id]))
    return tracklets


def _state(case: Case, settings: LinkSettings) -> str:
    """Return all that the proposals depend on."""
    stored = encodings(case)
    models = sorted({encoding.models for encoding in stored.values()})
    return json.dumps([len(finished_tracks(case)), len(stored), models, settings.model_dump()])
