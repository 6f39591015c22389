"""Detection in every Nth frame as a whole and in windows of the others."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fasr_video.boxes import intersection
from fasr_video.detection import Detector, open_detector
from fasr_video.detection.frame_skipping import (
    CELL,
    CHANGE,
    STEP,
    Gate,
    cell_means,
    changes,
    surroundings,
    windows_around,
)
from fasr_video.types import Detections, Image
from tests.support.detectors import RED, assert_same, blank_picture, builtin_weights, centres


@pytest.fixture(scope="module")
def dot_detector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Detector]:
    """A detector for which red at (4j, 4i) is a face of 16 px at (4j + 2, 4i + 2)."""
    weights = builtin_weights(tmp_path_factory.mktemp("dots") / "dots.safetensors")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield open_detector("builtin", weights=weights, device="cpu", min_score=0.5)
    torch.set_num_threads(threads)


def walking_frames(frames: int = 12) -> list[Image]:
    """Return frames in which one face moves right, and another stands far away from frame 5 on."""
    pictures = []
    for index in range(frames):
        picture = blank_picture(640, 360)
        picture[100, 40 + 4 * index] = RED
        if index >= 5:
            picture[300, 500] = RED
        pictures.append(picture)
    return pictures


def test_with_every_1_the_result_is_that_of_the_detector(dot_detector: Detector) -> None:
    frames = walking_frames(3)
    for a, b in zip(Gate(dot_detector, 1).detect(frames), dot_detector.detect(frames), strict=True):
        assert_same(a, b)


def test_known_faces_are_followed_and_new_ones_found_in_the_next_whole_frame(
    dot_detector: Detector,
) -> None:
    for index, faces in enumerate(Gate(dot_detector, 4).detect(walking_frames())):
        positions = {tuple(c) for c in centres(faces).tolist()}
        assert (42 + 4 * index, 102) in positions
        assert ((502, 302) in positions) == (index >= 8)


def test_a_face_that_is_missed_in_one_frame_is_found_in_the_next(dot_detector: Detector) -> None:
    frames = walking_frames(4)
    frames[1] = blank_picture(640, 360)
    assert [len(faces) for faces in Gate(dot_detector, 4).detect(frames)] == [1, 0, 1, 1]


def test_a_resumed_gate_finds_what_an_unbroken_one_finds(dot_detector: Detector) -> None:
    frames = walking_frames()
    unbroken = Gate(dot_detector, 5).detect(frames)
    for stop in range(1, len(frames)):
        first = Gate(dot_detector, 5)
        first.detect(frames[:stop])
        resumed = Gate(dot_detector, 5, state=first.state).detect(frames[stop:])
        for a, b in zip(resumed, unbroken[stop:], strict=True):
            assert_same(a, b)


def test_a_face_cut_off_by_the_edge_of_a_window_does_not_count(dot_detector: Detector) -> None:
    frames = [blank_picture(640, 360), blank_picture(640, 360)]
    frames[0][100, 160] = RED
    (window,) = windows_around(surroundings(dot_detector.detect(frames[:1])[0].boxes), frames[0])
    frames[1][100, window[2] - 4] = RED  # its face ends beyond the window
    assert [len(faces) for faces in Gate(dot_detector, 2).detect(frames)] == [1, 0]


def test_without_faces_frames_between_whole_frames_are_skipped(dot_detector: Detector) -> None:
    gate = Gate(dot_detector, 3)
    detections: Detections = gate.detect([blank_picture(640, 360), *walking_frames(1)])[1]
    assert len(detections) == 0 and detections.landmarks is not None
    assert (gate.state.frames, gate.state.whole, gate.state.skipped) == (2, 1, 1)


def draw_frame(*positions: tuple[int, int]) -> Image:
    """Return a frame with a face at each (x, y), large enough for its motion to count."""
    picture = blank_picture(640, 360)
    for x, y in positions:
        picture[y - 8 : y + 8, x - 8 : x + 8] = (0, 90, 90)
        picture[y, x] = RED
    return picture


def positions_of(detections: list[Detections]) -> list[set[tuple[float, float]]]:
    return [{(x - 2, y - 2) for x, y in centres(faces).tolist()} for faces in detections]


def test_with_motion_a_new_face_is_found_in_its_first_frame(dot_detector: Detector) -> None:
    frames = [
        draw_frame(),
        draw_frame(),
        draw_frame((400, 200)),
        draw_frame((400, 200), (80, 80)),
        draw_frame((404, 200), (80, 80)),
    ]
    gate = Gate(dot_detector, 100, motion=True)
    assert positions_of(gate.detect(frames)) == positions_of(dot_detector.detect(frames))
    assert (gate.state.whole, gate.state.skipped) == (1, 1)


def test_without_any_motion_only_known_faces_are_found(dot_detector: Detector) -> None:
    still = draw_frame((400, 200))
    unmoved = still.copy()
    unmoved[300, 100] = RED  # one pixel is too little motion: it waits for the next whole frame
    gate = Gate(dot_detector, 3, motion=True)
    positions = positions_of(gate.detect([still, unmoved, unmoved, unmoved]))
    assert positions == [{(400, 200)}] * 3 + [{(400, 200), (100, 300)}]


def test_slow_changes_add_up_to_motion(dot_detector: Detector) -> None:
    frames = [blank_picture(640, 360) for _ in range(20)]
    for index, frame in enumerate(frames):
        # CHANGE is reached after several frames, not between two of them.
        frame[80:120, 80:120] = index
        frame[100, 100] = RED if index >= 2 else (0, 0, 0)
    positions = positions_of(Gate(dot_detector, 1000, motion=True).detect(frames))
    assert not positions[CHANGE - 2] and positions[CHANGE] == {(100, 100)}


def test_the_first_frame_of_another_scene_is_a_whole_frame(dot_detector: Detector) -> None:
    gate = Gate(dot_detector, 1000, motion=True)
    other = np.full_like(draw_frame(), 60)
    other[40, 600] = RED
    gate.detect([draw_frame(), other])
    assert gate.state.whole == 2 and len(gate.state.boxes) == 1


def test_a_resumed_gate_with_motion_finds_what_an_unbroken_one_finds(
    dot_detector: Detector,
) -> None:
    frames = [draw_frame((40 + 6 * i, 100), *[(500, 300)] * (i > 5)) for i in range(12)]
    unbroken = Gate(dot_detector, 5, motion=True).detect(frames)
    for stop in range(1, len(frames)):
        first = Gate(dot_detector, 5, motion=True)
        first.detect(frames[:stop])
        resumed = Gate(dot_detector, 5, motion=True, state=first.state).detect(frames[stop:])
        assert positions_of(resumed) == positions_of(unbroken[stop:])


def test_a_changed_cell_gives_a_box_with_its_surroundings() -> None:
    before, after = blank_picture(640, 360), blank_picture(640, 360)
    after[160:168, 320:328] = 40
    ((x1, y1, x2, y2),) = changes(cell_means(before), cell_means(after)).tolist()
    assert (x1 + x2) / 2 == 320 + CELL / 2 and (y1 + y2) / 2 == 160 + CELL / 2
    assert x2 - x1 == y2 - y1 > 64


rectangle = st.tuples(
    st.floats(-60, 700), st.floats(-60, 420), st.floats(4, 150), st.floats(4, 150)
)


@given(st.lists(rectangle, max_size=12))
def test_windows_cover_each_face_and_never_overlap(rectangles: list[tuple[float, ...]]) -> None:
    corners = [(x, y, x + width, y + height) for x, y, width, height in rectangles]
    boxes = np.array(corners, np.float32).reshape(-1, 4)
    frame = blank_picture(650, 370)
    windows = np.array(windows_around(surroundings(boxes), frame), np.float32).reshape(-1, 4)
    shared = intersection(windows, windows)
    assert (shared[~np.eye(len(windows), dtype=bool)] == 0).all()
    inside = boxes.clip(0, (650, 370, 650, 370))
    area = (inside[:, 2] - inside[:, 0]) * (inside[:, 3] - inside[:, 1])
    covered = intersection(inside, windows).max(axis=1, initial=0)
    assert covered == pytest.approx(area, rel=1e-4, abs=1e-2)
    assert ((windows % STEP == 0) | (windows == (650, 370, 650, 370))).all()
