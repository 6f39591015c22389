"""Clusters of tracklets by face: which links are proposed, and which never are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fasr_video.trackers import linking
from fasr_video.trackers.linking import Proposal, Tracklet, propose_by_face
from tests.support.vectors import person_direction, vector_near


def tracklet(
    number: int, name: str, source: int = 1, start: float = 0.0, *, end: float = 1.0
) -> Tracklet:
    return Tracklet(number, source, start, end, vector_near(person_direction(name), 0.9, number))


def never_apart(a: int, b: int) -> bool:
    return False


def clusters(proposals: list[Proposal], count: int) -> list[set[int]]:
    groups = {i: {i} for i in range(count)}
    for p in proposals:
        joined = groups[p.a] | groups[p.b]
        for i in joined:
            groups[i] = joined
    return [set(g) for g in {frozenset(g) for g in groups.values()}]


def test_one_person_on_three_cameras_is_one_cluster_held_by_two_links() -> None:
    tracks = [
        tracklet(0, "anna", 1),
        tracklet(1, "bert", 1),
        tracklet(2, "anna", 2),
        tracklet(3, "anna", 3),
    ]
    links = propose_by_face(tracks, 0.5, never_apart)
    assert len(links) == 2 and {frozenset((p.a, p.b)) for p in links} <= {
        frozenset(x) for x in ((0, 2), (0, 3), (2, 3))
    }
    assert all(p.score > 0.6 for p in links)


def test_two_faces_at_one_time_are_not_linked_through_a_third() -> None:
    """Twins in one picture, and one of them on another camera: one link, never both."""
    tracks = [
        tracklet(0, "anna", 1, 0, end=5),
        tracklet(1, "anna", 1, 4, end=9),
        tracklet(2, "anna", 2),
    ]
    assert len(propose_by_face(tracks, 0.5, never_apart)) == 1


def test_same_camera_later_is_proposed() -> None:
    tracks = [tracklet(0, "anna", 1, 0, end=5), tracklet(1, "anna", 1, 3600, end=3605)]
    (only,) = propose_by_face(tracks, 0.5, never_apart)
    assert (only.a, only.b) == (0, 1)  # the earlier first


def test_tracks_that_a_person_separated_are_not_linked() -> None:
    tracks = [tracklet(0, "anna", 1), tracklet(1, "anna", 2), tracklet(2, "anna", 3)]
    links = propose_by_face(tracks, 0.5, lambda a, b: {a, b} == {0, 1})
    assert len(links) == 1 and not any({0, 1} <= g for g in clusters(links, 3))


def test_strangers_are_not_proposed() -> None:
    assert propose_by_face([tracklet(0, "anna", 1), tracklet(1, "bert", 2)], 0.5, never_apart) == []
    assert propose_by_face([], 0.5, never_apart) == []


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(1, 2), st.floats(0, 20), st.floats(0.1, 5)),
        min_size=1,
        max_size=14,
    )
)
def test_links_are_a_forest_without_two_faces_of_one_time(
    drawn: list[tuple[int, int, float, float]],
) -> None:
    names = ("anna", "bert", "carla", "dora")
    tracks = [tracklet(i, names[n], s, a, end=a + d) for i, (n, s, a, d) in enumerate(drawn)]
    links = propose_by_face(tracks, 0.3, never_apart)
    groups = clusters(links, len(tracks))
    assert len(links) == len(tracks) - len(groups)
    for group in groups:
        for a in group:
            for b in group - {a}:
                one, other = tracks[a], tracks[b]
                assert one.source != other.source or one.end < other.start or other.end < one.start
    assert all(
        np.isclose(p.score, tracks[p.a].feature @ tracks[p.b].feature, atol=1e-6) for p in links
    )


def test_comparing_in_blocks_gives_the_same_links(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tracks = [tracklet(k, f"person{k % 3}", source=k) for k in range(11)]
    at_once = propose_by_face(tracks, 0.5, never_apart)
    monkeypatch.setattr(linking, "BLOCK", 4)
    blocks = propose_by_face(tracks, 0.5, never_apart)
    assert at_once and [(p.a, p.b) for p in blocks] == [(p.a, p.b) for p in at_once]
