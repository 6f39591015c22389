"""The contract of all trackers, what is special to each, and the linking of tracklets.

Faces are boxes on known paths, so that the right identity of every detection is known.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations, product
from typing import Any

import cv2
import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from fasr_video.boxes import iou_matrix
from fasr_video.trackers import (
    TRACKERS,
    ByteTrack,
    Ended,
    OcSort,
    Sort,
    Step,
    Tracker,
    TrackerSettings,
)
from fasr_video.trackers.association import assign, widen
from fasr_video.trackers.linking import Tracklet, appearance, propose
from fasr_video.trackers.motion import BoxFilter, MotionState
from fasr_video.types import Detections, FaceCrop, Image

SIDE = 40.0  # of the faces, in pixels
DEFAULTS = TrackerSettings()
# Where a face's centre is at a time.
Path = Callable[[float], tuple[float, float]]

every_tracker = pytest.mark.parametrize("tracker", TRACKERS.values(), ids=TRACKERS)
patient = settings(deadline=None, max_examples=60)


def make_box(x: float, y: float, side: float = SIDE) -> list[float]:
    return [x - side / 2, y - side / 2, x + side / 2, y + side / 2]


def detections_of(*boxes: Sequence[float], scores: Sequence[float] | None = None) -> Detections:
    detections = np.array(boxes, np.float32).reshape(-1, 4)
    return Detections(
        detections, np.array([0.9] * len(boxes) if scores is None else scores, np.float32), None
    )


def unit_vector(*values: float) -> NDArray[np.float32]:
    vector = np.array(values, np.float32)
    return vector / np.linalg.norm(vector)


def straight_walk(x: float, y: float, vx: float, vy: float) -> Path:
    return lambda t: (x + vx * t, y + vy * t)


@dataclass
class FollowResult:
    ids: list[list[int]]
    """Of each frame, in the order of the paths."""
    ended: list[Ended]


def follow(tracker: Tracker, times: Iterable[float], *paths: Path) -> FollowResult:
    steps = [
        tracker.update(t, detections_of(*(make_box(*path(t)) for path in paths))) for t in times
    ]
    return FollowResult([s.ids.tolist() for s in steps], [e for s in steps for e in s.ended])


def speed(tracker: Tracker) -> NDArray[np.float64]:
    """Of the only track, in pixels a second."""
    tracks: Any = tracker.state()["tracks"]
    (track,) = tracks
    return np.array(track["motion"][0])[4:6, 0]


# --- the contract ------------------------------------------------------------------------------


@every_tracker
@given(vx=st.floats(-60, 60), vy=st.floats(-60, 60))
@patient
def test_face_on_a_straight_path_keeps_its_id(tracker: type[Tracker], vx: float, vy: float) -> None:
    result = follow(tracker(DEFAULTS), np.arange(30) / 25, straight_walk(300, 300, vx, vy))
    assert result == FollowResult([[1]] * 30, [])


@every_tracker
@given(side_step=st.floats(0, 20))
@patient
def test_faces_that_cross_at_constant_speed_keep_their_ids(
    tracker: type[Tracker], side_step: float
) -> None:
    right, left = (
        straight_walk(100, 100, 60, 0),
        straight_walk(220, 100 + side_step, -60, 0),
    )  # they meet after 1 s
    result = follow(tracker(DEFAULTS), np.arange(50) / 25, right, left)
    assert result == FollowResult([[1, 2]] * 50, [])


@every_tracker
@pytest.mark.parametrize("with_frames", [True, False], ids=["frames without it", "no frames"])
def test_a_gap_up_to_max_gap_continues_the_track(tracker: type[Tracker], with_frames: bool) -> None:
    t = tracker(dataclasses.replace(DEFAULTS, max_gap=1.0))
    path = straight_walk(100, 100, 30, 0)
    follow(t, np.arange(9) / 8, path)
    gap = [t.update(1 + k / 8, detections_of()) for k in range(1, 8)] if with_frames else []
    assert all(not step.ended for step in gap)
    assert follow(t, [2.0], path) == FollowResult([[1]], [])


@every_tracker
@pytest.mark.parametrize("with_frames", [True, False], ids=["frames without it", "no frames"])
def test_longer_gap_ends_the_track_once(tracker: type[Tracker], with_frames: bool) -> None:
    t = tracker(dataclasses.replace(DEFAULTS, max_gap=1.0))
    path = straight_walk(100, 100, 0, 0)
    follow(t, np.arange(9) / 8, path)
    gap = [t.update(1 + k / 8, detections_of()) for k in range(1, 9)] if with_frames else []
    assert all(not step.ended for step in gap)
    back = follow(t, np.arange(17, 30) / 8, path)
    assert back == FollowResult([[2]] * 13, [Ended(1, True)])
    assert t.finish() == [Ended(2, True)]
    assert t.finish() == []


@every_tracker
@pytest.mark.parametrize("sightings", [1, 2, 3, 4])
def test_sightings_confirm_a_track(tracker: type[Tracker], sightings: int) -> None:
    t = tracker(dataclasses.replace(DEFAULTS, min_sightings=3))
    result = follow(t, np.arange(sightings) / 25, straight_walk(100, 100, 0, 0))
    assert result == FollowResult(
        [[1]] * sightings, []
    )  # the id is there from the first sighting on
    assert t.finish() == [Ended(1, sightings >= 3)]


@every_tracker
def test_track_missed_before_it_is_confirmed_ends_at_once(tracker: type[Tracker]) -> None:
    t = tracker(dataclasses.replace(DEFAULTS, min_sightings=3))
    follow(t, [0.0, 0.04], straight_walk(100, 100, 0, 0))
    assert t.update(0.08, detections_of()).ended == [Ended(1, False)]
    assert follow(t, [0.12], straight_walk(100, 100, 0, 0)).ids == [[2]]


@every_tracker
def test_time_that_goes_back_ends_all_tracks(tracker: type[Tracker]) -> None:
    t = tracker(DEFAULTS)
    paths = straight_walk(100, 100, 0, 0), straight_walk(300, 100, 0, 0)
    follow(t, [5.0, 5.04], *paths)
    t.update(5.08, detections_of(*(make_box(*p(0)) for p in paths), make_box(500, 100)))
    back = t.update(1.0, detections_of(make_box(100, 100)))
    assert back.ended == [Ended(1, True), Ended(2, True), Ended(3, False)]
    assert back.ids.tolist() == [4]


@every_tracker
@given(gaps=st.lists(st.floats(0.02, 0.25), min_size=5, max_size=30))
@patient
def test_irregular_frame_times_give_one_track(tracker: type[Tracker], gaps: list[float]) -> None:
    assert follow(tracker(DEFAULTS), np.cumsum(gaps), _walk) == FollowResult([[1]] * len(gaps), [])


@every_tracker
@pytest.mark.parametrize("fps", [25, 10, 5])
def test_sampling_rate_does_not_break_a_motion(tracker: type[Tracker], fps: int) -> None:
    shots = np.arange(4 * fps) / fps
    assert follow(tracker(DEFAULTS), shots, _walk) == FollowResult([[1]] * len(shots), [])
    t = tracker(DEFAULTS)
    follow(t, shots, straight_walk(100, 100, 50, -30))
    assert_allclose(speed(t), [50, -30], atol=1)


def _walk(t: float) -> tuple[float, float]:
    return 100 + 50 * t, 200 + 20 * np.sin(2 * t)


@every_tracker
@pytest.mark.parametrize(("elapsed", "ids"), [(0.1, [2]), (0.5, [1])])
def test_boxes_are_widened_more_if_frames_are_rarer(
    tracker: type[Tracker], elapsed: float, ids: list[int]
) -> None:
    """A new face is assigned three quarters of its width away, if enough time has passed."""
    t = tracker(DEFAULTS)
    t.update(0.0, detections_of(make_box(100, 100)))
    assert t.update(elapsed, detections_of(make_box(100 + 0.75 * SIDE, 100))).ids.tolist() == ids


@every_tracker
def test_weak_detection_continues_a_track_and_starts_none(tracker: type[Tracker]) -> None:
    t = tracker(dataclasses.replace(DEFAULTS, start_score=0.6, high_score=0.6))
    scores = [0.4, 0.59, 0.6, 0.4, 0.31, 0.4, 0.9]
    ids = [
        t.update(k / 25, detections_of(make_box(100, 100), scores=[s])).ids.tolist()
        for k, s in enumerate(scores)
    ]
    assert ids == [[-1], [-1], [1], [1], [1], [1], [1]]


@every_tracker
def test_a_frame_without_faces_is_accepted(tracker: type[Tracker]) -> None:
    step = tracker(DEFAULTS).update(0.0, detections_of())
    assert (step.ids.shape, step.ended) == ((0,), [])


@dataclass(frozen=True)
class LabelledShot:
    time: float
    detections: Detections
    features: NDArray[np.float32]


@st.composite
def recordings(draw: st.DrawFn) -> list[LabelledShot]:
    """Draw faces that shake, jump, come and go, with various scores and similar features."""
    shots, time = [], 0.0
    for _ in range(draw(st.integers(1, 15))):
        time += draw(st.sampled_from([0.04, 0.04, 0.1, 0.3, 1.2]))
        if draw(st.integers(0, 12)) == 0:
            time -= 2.0
        positions = draw(
            st.lists(
                st.tuples(st.integers(0, 3), st.integers(-8, 8), st.integers(-8, 8)), max_size=4
            )
        )
        detections = [make_box(100 + 30 * p + dx, 100 + dy) for p, dx, dy in positions]
        scores = draw(
            st.lists(
                st.sampled_from([0.3, 0.5, 0.7, 0.9]),
                min_size=len(detections),
                max_size=len(detections),
            )
        )
        turns = draw(st.lists(st.floats(0, 2), min_size=len(detections), max_size=len(detections)))
        features = np.array([[np.cos(a), np.sin(a)] for a in turns], np.float32).reshape(-1, 2)
        shots.append(LabelledShot(time, detections_of(*detections, scores=scores), features))
    return shots


def run_tracker(tracker: Tracker, shots: list[LabelledShot], features: bool) -> list[Step]:
    return [tracker.update(k.time, k.detections, k.features if features else None) for k in shots]


def as_lists(steps: list[Step]) -> list[tuple[list[int], list[Ended]]]:
    return [(s.ids.tolist(), s.ended) for s in steps]


@every_tracker
@given(shots=recordings(), at=st.integers(0, 15), features=st.booleans(), minimum=st.integers(1, 3))
@patient
def test_a_restored_tracker_continues_exactly_as_an_unbroken_one(
    tracker: type[Tracker], shots: list[LabelledShot], at: int, features: bool, minimum: int
) -> None:
    chosen = dataclasses.replace(DEFAULTS, min_sightings=minimum)
    unbroken, first, second = tracker(chosen), tracker(chosen), tracker(chosen)
    expected = run_tracker(unbroken, shots, features)
    begun = run_tracker(first, shots[:at], features)
    second.restore(json.loads(json.dumps(first.state())))
    assert as_lists(begun + run_tracker(second, shots[at:], features)) == as_lists(expected)
    assert second.state() == unbroken.state()
    assert second.finish() == unbroken.finish()


@every_tracker
@given(shots=recordings(), features=st.booleans(), minimum=st.integers(1, 3))
@patient
def test_tracks_begin_and_end_once_and_have_one_face_a_frame(
    tracker: type[Tracker], shots: list[LabelledShot], features: bool, minimum: int
) -> None:
    t = tracker(dataclasses.replace(DEFAULTS, min_sightings=minimum))
    count: dict[int, int] = {}
    over: dict[int, bool] = {}
    for k in shots:
        (step,) = run_tracker(t, [k], features)
        for e in step.ended:
            assert e.id in count and e.id not in over, "only a running track can end, once"
            over[e.id] = e.confirmed
        given_out = [int(i) for i in step.ids if i >= 0]
        assert len(step.ids) == len(k.detections)
        assert len(set(given_out)) == len(given_out), "one face a track in a look"
        assert not set(given_out) & set(over), "an ended track does not come back"
        for i in given_out:
            count[i] = count.get(i, 0) + 1
        assert (step.ids[k.detections.scores >= t.settings.start_score] > 0).all(), (
            "a sure face always has a track"
        )
    for e in t.finish():
        assert e.id in count and e.id not in over
        over[e.id] = e.confirmed
    assert sorted(count) == list(range(1, len(count) + 1)), "ids count up from 1"
    assert over == {i: n >= minimum for i, n in count.items()}


@every_tracker
def test_state_is_a_snapshot(tracker: type[Tracker]) -> None:
    t = tracker(DEFAULTS)
    follow(t, [0.0, 0.04], straight_walk(100, 100, 0, 0))
    t.update(0.08, detections_of())
    state = t.state()
    before = json.dumps(state)
    t.update(0.12, detections_of())
    assert json.dumps(state) == before


@every_tracker
def test_frames_rarer_than_max_gap_still_make_a_track(tracker: type[Tracker]) -> None:
    t = tracker(DEFAULTS)
    ids = [
        t.update(k * 1.5 * DEFAULTS.max_gap, detections_of(make_box(100 + k, 100))).ids.tolist()
        for k in range(8)
    ]
    assert ids[2:] == [ids[2]] * 6


@every_tracker
def test_one_long_pause_among_frequent_frames_ends_a_track(tracker: type[Tracker]) -> None:
    t = tracker(DEFAULTS)
    for k in range(5):
        t.update(k / 25, detections_of(make_box(100, 100)))
    assert t.update(10.0, detections_of(make_box(100, 100))).ids.tolist() == [2]


# --- appearance --------------------------------------------------------------------------------

ALIKE, OTHER = unit_vector(1, 0), unit_vector(0.1, 1)


@every_tracker
def test_overlapping_faces_that_swap_are_distinguished_by_appearance(
    tracker: type[Tracker],
) -> None:
    here, there = make_box(100, 100), make_box(104, 100)

    def swap(features: NDArray[np.float32] | None) -> list[int]:
        t = tracker(DEFAULTS)
        for k in range(10):
            t.update(k / 25, detections_of(here, there), features)
        return t.update(0.4, detections_of(there, here), features).ids.tolist()

    assert swap(np.stack((ALIKE, OTHER))) == [1, 2]
    assert swap(None) == [2, 1]  # by place alone


@every_tracker
def test_faces_with_opposite_features_are_never_one_track(tracker: type[Tracker]) -> None:
    t = tracker(DEFAULTS)
    for k in range(5):
        t.update(k / 25, detections_of(make_box(100, 100)), ALIKE[None])
    assert t.update(
        0.2, detections_of(make_box(100, 100)), unit_vector(-0.01, 1)[None]
    ).ids.tolist() == [2]


@every_tracker
def test_appearance_does_not_override_position(tracker: type[Tracker]) -> None:
    t = tracker(DEFAULTS)
    for k in range(5):
        t.update(k / 25, detections_of(make_box(100, 100)), ALIKE[None])
    assert t.update(0.2, detections_of(make_box(300, 100)), ALIKE[None]).ids.tolist() == [2]


@every_tracker
def test_appearance_is_averaged_over_many_sightings(tracker: type[Tracker]) -> None:
    """One odd picture of a face does not become what it looks like."""
    t = tracker(DEFAULTS)
    for k in range(10):
        t.update(k / 25, detections_of(make_box(100, 100)), ALIKE[None])
    t.update(0.4, detections_of(make_box(100, 100)), OTHER[None])
    tracks: Any = t.state()["tracks"]
    (track,) = tracks
    assert np.linalg.norm(track["feature"]) == pytest.approx(1)
    assert np.array(track["feature"]) @ ALIKE > 0.98
    assert np.array(track["feature"]) @ OTHER > ALIKE @ OTHER


# --- SORT --------------------------------------------------------------------------------------


def test_sort_prefers_the_higher_score_of_equal_overlaps() -> None:
    t = Sort(DEFAULTS)
    follow(t, np.arange(5) / 25, straight_walk(100, 100, 0, 0))
    assert t.update(
        0.2, detections_of(make_box(98, 100), make_box(104, 100), scores=[0.5, 0.9])
    ).ids.tolist() == [
        -1,
        1,
    ]


@pytest.mark.parametrize(("tracker", "ids"), [(Sort, [2]), (ByteTrack, [1]), (OcSort, [1])])
def test_sort_needs_more_overlap_than_the_others(tracker: type[Tracker], ids: list[int]) -> None:
    t = tracker(dataclasses.replace(DEFAULTS, min_overlap=0.2))
    follow(t, np.arange(5) / 25, straight_walk(100, 100, 0, 0))
    assert t.update(0.2, detections_of(make_box(124, 100))).ids.tolist() == ids


# --- ByteTrack ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tracker", "ids"), [(Sort, [-1, 1]), (ByteTrack, [1, -1]), (OcSort, [1, -1])]
)
def test_high_score_detections_are_assigned_first(tracker: type[Tracker], ids: list[int]) -> None:
    t = tracker(dataclasses.replace(DEFAULTS, start_score=1.0))
    _start_with_sure_face(t)
    sure, unsure = make_box(110, 100), make_box(100, 100)
    assert t.update(0.2, detections_of(sure, unsure, scores=[0.9, 0.4])).ids.tolist() == ids


@pytest.mark.parametrize("tracker", [ByteTrack, OcSort])
@pytest.mark.parametrize(("shift", "ids"), [(10, [1]), (20, [-1])])
def test_unsure_detection_must_lie_where_its_track_is_expected(
    tracker: type[Tracker], shift: float, ids: list[int]
) -> None:
    t = tracker(DEFAULTS)
    follow(t, np.arange(5) / 25, straight_walk(100, 100, 0, 0))
    assert (
        t.update(0.2, detections_of(make_box(100 + shift, 100), scores=[0.4])).ids.tolist() == ids
    )


@pytest.mark.parametrize("tracker", [ByteTrack, OcSort])
def test_unsure_detection_does_not_bring_back_a_lost_face(tracker: type[Tracker]) -> None:
    t = tracker(DEFAULTS)
    follow(t, np.arange(5) / 25, straight_walk(100, 100, 0, 0))
    t.update(0.2, detections_of())
    assert t.update(0.24, detections_of(make_box(100, 100), scores=[0.4])).ids.tolist() == [-1]
    assert t.update(0.28, detections_of(make_box(100, 100), scores=[0.9])).ids.tolist() == [1]
    assert t.update(0.32, detections_of(make_box(100, 100), scores=[0.4])).ids.tolist() == [1]


def _start_with_sure_face(t: Tracker) -> None:
    for k in range(5):
        t.update(k / 25, detections_of(make_box(100, 100), scores=[1.0]))


# --- OC-SORT -----------------------------------------------------------------------------------


def test_speed_after_a_gap_is_that_of_the_straight_path_across_it() -> None:
    """The face goes right, turns downwards while unseen, and is back 12 px right and 12 px down."""
    error = {}
    for tracker in (Sort, OcSort):
        t = tracker(DEFAULTS)
        follow(t, np.arange(26) / 25, straight_walk(100, 100, 40, 0))
        for k in range(26, 40):
            t.update(k / 25, detections_of())
        assert t.update(1.6, detections_of(make_box(152, 112))).ids.tolist() == [1]
        error[tracker] = float(np.linalg.norm(speed(t) - np.array([12, 12]) / 0.6))
    assert error[OcSort] < 5
    assert error[Sort] > 2 * error[OcSort]


@pytest.mark.parametrize(("tracker", "ids"), [(Sort, [2]), (ByteTrack, [2]), (OcSort, [1])])
def test_face_that_stopped_while_unseen_is_found_where_it_was_last(
    tracker: type[Tracker], ids: list[int]
) -> None:
    t = tracker(DEFAULTS)
    path = straight_walk(100, 100, 80, 0)
    follow(t, np.arange(26) / 25, path)
    for k in range(26, 40):
        t.update(k / 25, detections_of())
    assert t.update(1.6, detections_of(make_box(*path(1.0)))).ids.tolist() == ids


@pytest.mark.parametrize(("tracker", "ids"), [(ByteTrack, [1]), (OcSort, [2])])
def test_face_straight_ahead_of_a_moving_track_is_its_own(
    tracker: type[Tracker], ids: list[int]
) -> None:
    """The moving face slows down; a still one beside it overlaps a little more with the box."""
    t = tracker(DEFAULTS)
    follow(t, np.arange(10) / 10, straight_walk(108, 100, 0, 0), straight_walk(10, 100, 100, 0))
    assert t.update(1.0, detections_of(make_box(101, 100))).ids.tolist() == ids


@pytest.mark.parametrize(("tracker", "ids"), [(ByteTrack, [2, 1]), (OcSort, [1, 2])])
def test_pairing_that_keeps_the_directions_is_preferred(
    tracker: type[Tracker], ids: list[int]
) -> None:
    """One face goes right, one down; where they meet, each is a little nearer to the other's
    box.
    """
    t = tracker(DEFAULTS)
    follow(t, np.arange(10) / 10, straight_walk(80, 100.5, 20, 0), straight_walk(100.5, 80, 0, 20))
    restored = tracker(DEFAULTS)
    restored.restore(json.loads(json.dumps(t.state())))
    for one in (t, restored):
        assert (
            one.update(1.0, detections_of(make_box(106, 100), make_box(100, 106))).ids.tolist()
            == ids
        )


# --- the motion --------------------------------------------------------------------------------

seconds = st.floats(0.001, 2)
places = st.lists(st.tuples(st.floats(0, 200), st.floats(0, 200)), min_size=1, max_size=6)


def filtered(boxes: Iterable[Sequence[float]], step: float = 0.1) -> BoxFilter:
    first, *rest = (np.array(b) for b in boxes)
    motion = BoxFilter(first)
    for b in rest:
        motion.predict(step)
        motion.update(b)
    return motion


def one_and_two_steps(motion: BoxFilter, a: float, b: float) -> list[MotionState]:
    start, ends = motion.state(), []
    for parts in ((a + b,), (a, b)):
        motion.restore(start)
        for part in parts:
            motion.predict(part)
        ends.append(motion.state())
    return ends


@given(places=places, a=seconds, b=seconds)
@patient
def test_predicting_in_two_steps_equals_predicting_in_one(
    places: list[tuple[float, float]], a: float, b: float
) -> None:
    (x1, p1, _), (x2, p2, _) = one_and_two_steps(filtered(make_box(*p) for p in places), a, b)
    assert_allclose(x2, x1, rtol=1e-9, atol=1e-7)
    assert_allclose(p2, p1, rtol=1e-9, atol=1e-7)


@pytest.mark.parametrize("growth", [4, -2])
def test_two_steps_equal_one_for_a_face_that_changes_its_size(
    growth: float,
) -> None:
    motion = filtered(make_box(100, 100, 40 + growth * k) for k in range(6))
    (x1, p1, _), (x2, p2, _) = one_and_two_steps(motion, 0.2, 0.3)
    assert_allclose(x2, x1, rtol=1e-9)
    assert_allclose(p2, p1, rtol=1e-6, atol=1e-6)


@given(places=places, a=seconds)
@patient
def test_uncertainty_is_a_covariance_and_grows_with_time(
    places: list[tuple[float, float]], a: float
) -> None:
    motion = filtered(make_box(*p) for p in places)
    before = motion.state()[1]
    motion.predict(a)
    after = motion.state()[1]
    assert_allclose(after, after.T, rtol=1e-9, atol=1e-9)
    assert np.linalg.eigvalsh(after).min() > 0
    assert (np.diag(after) > np.diag(before)).all()


def test_motion_is_learnt_in_pixels_a_second() -> None:
    motion = filtered([make_box(100 + 3 * k, 100 - 2 * k) for k in range(40)])
    assert_allclose(motion.speed, [30, -20], atol=0.5)
    motion.predict(1.0)
    assert_allclose(motion.box, make_box(100 + 3 * 49, 100 - 2 * 49), atol=2)


def test_near_and_far_faces_move_alike() -> None:
    """Everything is measured in face sizes: a scene at twice the size gives twice the boxes."""
    steps = [(0, 0), (5, 1), (8, 3), (15, 3)]
    small = filtered(make_box(x, y) for x, y in steps)
    large = filtered(make_box(2 * x, 2 * y, 2 * SIDE) for x, y in steps)
    assert_allclose(large.state()[0], 2 * small.state()[0], rtol=1e-9, atol=1e-9)
    assert_allclose(large.state()[1], 4 * small.state()[1], rtol=1e-9, atol=1e-9)


# --- overlap and assignment --------------------------------------------------------------------

corner, length = st.integers(-50, 50), st.integers(1, 60)
boxes = st.lists(st.tuples(corner, corner, length, length), max_size=5).map(
    lambda detections: np.array(
        [[x, y, x + w, y + h] for x, y, w, h in detections], np.float64
    ).reshape(-1, 4)
)


@given(a=boxes, b=boxes, share=st.sampled_from([0.0, 0.1, 0.5]))
@patient
def test_overlap_is_intersection_over_union(
    a: NDArray[np.float64], b: NDArray[np.float64], share: float
) -> None:
    overlap = iou_matrix(widen(a, share), widen(b, share))
    assert overlap.shape == (len(a), len(b))
    for (i, p), (j, q) in product(enumerate(a), enumerate(b)):
        assert overlap[i, j] == pytest.approx(_iou(p.tolist(), q.tolist(), share), abs=1e-12)


def _iou(p: list[float], q: list[float], share: float) -> float:
    (p, q) = (
        [
            x1 - share * (x2 - x1),
            y1 - share * (y2 - y1),
            x2 + share * (x2 - x1),
            y2 + share * (y2 - y1),
        ]
        for x1, y1, x2, y2 in (p, q)
    )
    width, height = min(p[2], q[2]) - max(p[0], q[0]), min(p[3], q[3]) - max(p[1], q[1])
    common = width * height if width > 0 and height > 0 else 0.0
    area = (p[2] - p[0]) * (p[3] - p[1]) + (q[2] - q[0]) * (q[3] - q[1])
    return common / (area - common)


@st.composite
def assignments(draw: st.DrawFn) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    shape = draw(st.tuples(st.integers(0, 4), st.integers(0, 4)))
    size = shape[0] * shape[1]
    similarity = draw(st.lists(st.integers(1, 100), min_size=size, max_size=size))
    allowed = draw(st.lists(st.booleans(), min_size=size, max_size=size))
    return np.array(similarity).reshape(shape) / 100, np.array(allowed, bool).reshape(shape)


def _best_total(similarity: NDArray[np.float64], allowed: NDArray[np.bool_]) -> float:
    """Over all pairings of allowed pairs, of any number."""
    rows, columns = similarity.shape
    count = min(rows, columns)
    return max(
        sum(similarity[r, c] for r, c in zip(chosen, order, strict=True) if allowed[r, c])
        for chosen in combinations(range(rows), count)
        for order in permutations(range(columns), count)
    )


@given(case=assignments())
@patient
def test_assignment_pairs_each_at_most_once_and_only_as_allowed(
    case: tuple[NDArray[np.float64], NDArray[np.bool_]],
) -> None:
    similarity, allowed = case
    pairs = assign(similarity, allowed)
    assert all(allowed[p] for p in pairs)
    assert len({r for r, _ in pairs}) == len({c for _, c in pairs}) == len(pairs)
    left = allowed.copy()
    for r, c in pairs:
        left[r], left[:, c] = False, False
    assert not left.any(), "two that may be paired are not both left alone"


@given(case=assignments())
@patient
def test_assignment_is_the_best_when_all_is_allowed(
    case: tuple[NDArray[np.float64], NDArray[np.bool_]],
) -> None:
    similarity = case[0]
    everything = np.ones_like(case[1])
    total = sum(similarity[p] for p in assign(similarity, everything))
    assert total == pytest.approx(_best_total(similarity, everything))


@given(case=assignments())
@patient
def test_assignment_is_the_best_of_what_is_allowed(
    case: tuple[NDArray[np.float64], NDArray[np.bool_]],
) -> None:
    similarity, allowed = case
    total = sum(similarity[p] for p in assign(similarity, allowed))
    assert total == pytest.approx(_best_total(similarity, allowed))


@every_tracker
def test_new_face_does_not_push_a_well_placed_one_off_its_track(tracker: type[Tracker]) -> None:
    """Face 2 hides; face 1 stays; a new face comes up where only the track of face 1 reaches."""
    t = tracker(DEFAULTS)
    follow(t, np.arange(10) / 10, straight_walk(100, 100, 0, 0), straight_walk(120, 100, 0, 0))
    assert t.update(1.0, detections_of(make_box(100, 100), make_box(80, 100))).ids.tolist() == [
        1,
        3,
    ]


# --- linking -----------------------------------------------------------------------------------

EAST, NORTH = unit_vector(1, 0), unit_vector(0, 1)


def tracklet(
    number: int, start: float, end: float, feature: NDArray[np.float32] = EAST, *, source: int = 1
) -> Tracklet:
    return Tracklet(number, source, start, end, feature)


@pytest.mark.parametrize(
    ("later", "proposed"),
    [
        (tracklet(2, 11, 20), True),
        (tracklet(2, 15, 20), True),
        (tracklet(2, 15.1, 20), False),
        (tracklet(2, 10, 20), False),
        (tracklet(2, 5, 20), False),
        (tracklet(2, 2, 3), False),
        (tracklet(2, 11, 20, source=2), False),
        (tracklet(2, 11, 20, NORTH), False),
    ],
    ids=[
        "soon after",
        "just in time",
        "too late",
        "seen at once",
        "overlapping",
        "within",
        "other source",
        "unlike",
    ],
)
def test_tracklets_that_follow_each_other_are_proposed(later: Tracklet, proposed: bool) -> None:
    for order in ([tracklet(1, 0, 10), later], [later, tracklet(1, 0, 10)]):
        detections = propose(order, max_gap=5, min_score=0.5)
        assert [(p.a, p.b, p.score) for p in detections] == ([(1, 2, 1.0)] if proposed else [])


def test_each_tracklet_is_proposed_with_its_best_continuation_only() -> None:
    first, other = tracklet(1, 0, 10), tracklet(2, 0, 10, unit_vector(3, 1))
    last = tracklet(3, 12, 20)
    assert [(p.a, p.b) for p in propose([first, other, last], 5, 0)] == [(1, 3)]
    between = tracklet(4, 11, 11.5, unit_vector(1, 0.1))
    assert [(p.a, p.b) for p in propose([first, between, last], 5, 0)] == [(1, 3)]


@st.composite
def tracklets(draw: st.DrawFn) -> list[Tracklet]:
    seed = draw(st.integers(0, 2**32 - 1))
    random = np.random.default_rng(seed)
    result = []
    for number in range(draw(st.integers(0, 8))):
        start = random.uniform(0, 30)
        feature = unit_vector(*random.uniform(0, 1, 8))
        result.append(
            tracklet(
                number,
                start,
                start + random.uniform(0, 8),
                feature,
                source=int(random.integers(1, 3)),
            )
        )
    return result


@given(pieces=tracklets(), max_gap=st.floats(0, 20), min_score=st.floats(0, 1))
@patient
def test_proposals_are_all_pairs_that_are_each_others_best(
    pieces: list[Tracklet], max_gap: float, min_score: float
) -> None:
    possible = {
        (a.id, b.id): float(a.feature @ b.feature)
        for a, b in permutations(pieces, 2)
        if a.source == b.source and a.end < b.start <= a.end + max_gap
    }
    expected = {
        (a, b): score
        for (a, b), score in possible.items()
        if score >= min_score
        and score == max(s for (i, j), s in possible.items() if i == a or j == b)
    }
    detections = propose(pieces, max_gap, min_score)
    assert {(p.a, p.b): p.score for p in detections} == expected
    assert [p.score for p in detections] == sorted(expected.values(), reverse=True)


ASTRONAUT: Image = skimage.data.astronaut()
CAT: Image = skimage.data.cat()


def crop_face(image: Image) -> FaceCrop:
    return FaceCrop(np.asarray(cv2.resize(image, (128, 128)), np.uint8), image, (0, 0))


FACE = crop_face(ASTRONAUT[50:210, 150:310])


def test_equal_pictures_have_equal_appearance() -> None:
    feature = appearance([FACE, FACE])
    assert np.linalg.norm(feature) == pytest.approx(1)
    assert feature @ appearance([FACE]) == pytest.approx(1)


@pytest.mark.parametrize(
    "other",
    [
        crop_face(CAT[60:220, 60:220]),
        FaceCrop(
            FACE.aligned, np.ascontiguousarray(FACE.native[..., ::-1]), (0, 0)
        ),  # other colours only
        FaceCrop(np.ascontiguousarray(FACE.aligned[::-1]), FACE.native, (0, 0)),  # other form only
        FaceCrop(
            FACE.aligned, np.ascontiguousarray(FACE.native[::-1]), (0, 0)
        ),  # hair and clothes swapped
    ],
    ids=["other picture", "other colours", "other form", "upside down"],
)
def test_other_pictures_are_less_similar_than_a_noisy_copy(other: FaceCrop) -> None:
    noise = np.random.default_rng(0).normal(0, 3, FACE.native.shape)
    noisy = crop_face(np.clip(FACE.native + noise, 0, 255).astype(np.uint8))
    feature = appearance([FACE])
    assert feature @ appearance([noisy]) > feature @ appearance([other]) + 0.03


def test_smallest_crop_has_an_appearance() -> None:
    dot: Any = np.full((1, 1, 3), 90, np.uint8)
    feature = appearance([FaceCrop(FACE.aligned, dot, (0, 0))])
    assert feature.shape == appearance([FACE]).shape
    assert np.linalg.norm(feature) == pytest.approx(1)
