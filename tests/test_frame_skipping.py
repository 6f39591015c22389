"""Looking at the whole of every Nth frame only: who is followed, who is found later, and where windows lie."""

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
    cells,
    moved,
    surroundings,
    windows,
)
from fasr_video.types import Detections, Image
from tests.detectors import RED, assert_same, blank, builtin_weights, centres


@pytest.fixture(scope="module")
def dots(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Detector]:
    """Red at (4j, 4i) is a face of 16 px at (4j + 2, 4i + 2)."""
    weights = builtin_weights(tmp_path_factory.mktemp("dots") / "dots.safetensors")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield open_detector("builtin", weights=weights, device="cpu", min_score=0.5)
    torch.set_num_threads(threads)


def walk(frames: int = 12) -> list[Image]:
    """One face goes to the right from the first frame on, another one stands far from it from frame 5 on."""
    pictures = []
    for index in range(frames):
        picture = blank(640, 360)
        picture[100, 40 + 4 * index] = RED
        if index >= 5:
            picture[300, 500] = RED
        pictures.append(picture)
    return pictures


def test_every_first_is_the_detector_itself(dots: Detector) -> None:
    frames = walk(3)
    for a, b in zip(Gate(dots, 1).detect(frames), dots.detect(frames), strict=True):
        assert_same(a, b)


def test_a_face_that_is_known_is_followed_and_a_new_one_found_at_the_next_whole_frame(
    dots: Detector,
) -> None:
    found = Gate(dots, 4).detect(walk())
    for index, faces in enumerate(found):
        there = {tuple(c) for c in centres(faces).tolist()}
        assert (42 + 4 * index, 102) in there
        assert ((502, 302) in there) == (index >= 8)


def test_a_face_that_was_not_seen_once_is_looked_for_again(dots: Detector) -> None:
    frames = walk(4)
    frames[1] = blank(640, 360)
    assert [len(faces) for faces in Gate(dots, 4).detect(frames)] == [1, 0, 1, 1]


def test_taken_up_anywhere_it_finds_what_it_would_have_found(dots: Detector) -> None:
    frames = walk()
    unbroken = Gate(dots, 5).detect(frames)
    for stop in range(1, len(frames)):
        first = Gate(dots, 5)
        first.detect(frames[:stop])
        for a, b in zip(
            Gate(dots, 5, state=first.state).detect(frames[stop:]), unbroken[stop:], strict=True
        ):
            assert_same(a, b)


def test_half_a_face_at_a_windows_edge_is_nobody(dots: Detector) -> None:
    frames = [blank(640, 360), blank(640, 360)]
    frames[0][100, 160] = RED
    (window,) = windows(surroundings(dots.detect(frames[:1])[0].boxes), frames[0])
    frames[1][100, window[2] - 4] = RED  # its face ends beyond the window
    assert [len(faces) for faces in Gate(dots, 2).detect(frames)] == [1, 0]


def test_without_faces_nothing_is_looked_at_between_whole_frames(dots: Detector) -> None:
    gate = Gate(dots, 3)
    found: Detections = gate.detect([blank(640, 360), *walk(1)])[1]
    assert len(found) == 0 and found.landmarks is not None
    assert (gate.state.looked, gate.state.whole, gate.state.skipped) == (2, 1, 1)


def lit(*places: tuple[int, int]) -> Image:
    """A frame with a face at each (x, y), drawn large enough to be seen to move."""
    picture = blank(640, 360)
    for x, y in places:
        picture[y - 8 : y + 8, x - 8 : x + 8] = (0, 90, 90)
        picture[y, x] = RED
    return picture


def found_at(found: list[Detections]) -> list[set[tuple[float, float]]]:
    return [{(x - 2, y - 2) for x, y in centres(faces).tolist()} for faces in found]


def test_with_motion_a_new_face_is_found_in_the_frame_that_it_comes_in(dots: Detector) -> None:
    frames = [lit(), lit(), lit((400, 200)), lit((400, 200), (80, 80)), lit((404, 200), (80, 80))]
    gate = Gate(dots, 100, motion=True)
    assert found_at(gate.detect(frames)) == found_at(dots.detect(frames))
    assert (gate.state.whole, gate.state.skipped) == (1, 1)


def test_a_frame_in_which_nothing_moved_is_looked_at_around_known_faces_alone(
    dots: Detector,
) -> None:
    still = lit((400, 200))
    unmoved = still.copy()
    unmoved[300, 100] = (
        RED  # one pixel: too little to be seen to move, so it waits for the next whole frame
    )
    gate = Gate(dots, 3, motion=True)
    assert found_at(gate.detect([still, unmoved, unmoved, unmoved])) == [{(400, 200)}] * 3 + [
        {(400, 200), (100, 300)}
    ]


def test_what_moves_slowly_is_looked_at_when_it_has_become_another_picture(dots: Detector) -> None:
    frames = [blank(640, 360) for _ in range(20)]
    for index, frame in enumerate(frames):
        frame[80:120, 80:120] = (
            index  # CHANGE is reached after so many frames, not between two of them
        )
        frame[100, 100] = RED if index >= 2 else (0, 0, 0)
    seen = found_at(Gate(dots, 1000, motion=True).detect(frames))
    assert not seen[CHANGE - 2] and seen[CHANGE] == {(100, 100)}


def test_another_scene_is_looked_at_as_a_whole(dots: Detector) -> None:
    gate = Gate(dots, 1000, motion=True)
    other = np.full_like(lit(), 60)
    other[40, 600] = RED
    gate.detect([lit(), other])
    assert gate.state.whole == 2 and len(gate.state.boxes) == 1


def test_with_motion_too_it_finds_what_it_would_have_found_when_taken_up_anywhere(
    dots: Detector,
) -> None:
    frames = [lit((40 + 6 * i, 100), *[(500, 300)] * (i > 5)) for i in range(12)]
    unbroken = Gate(dots, 5, motion=True).detect(frames)
    for stop in range(1, len(frames)):
        first = Gate(dots, 5, motion=True)
        first.detect(frames[:stop])
        rest = Gate(dots, 5, motion=True, state=first.state).detect(frames[stop:])
        assert found_at(rest) == found_at(unbroken[stop:])


def test_a_cell_is_looked_at_with_its_surroundings(dots: Detector) -> None:
    before, after = blank(640, 360), blank(640, 360)
    after[160:168, 320:328] = 40
    ((x1, y1, x2, y2),) = moved(cells(before), cells(after)).tolist()
    assert (x1 + x2) / 2 == 320 + CELL / 2 and (y1 + y2) / 2 == 160 + CELL / 2
    assert x2 - x1 == y2 - y1 > 64


box = st.tuples(st.floats(-60, 700), st.floats(-60, 420), st.floats(4, 150), st.floats(4, 150))


@given(st.lists(box, max_size=12))
def test_windows_hold_each_face_with_its_surroundings_and_never_overlap(
    given_boxes: list[tuple[float, ...]],
) -> None:
    boxes = np.array([(x, y, x + w, y + h) for x, y, w, h in given_boxes], np.float32).reshape(
        -1, 4
    )
    frame = blank(650, 370)
    found = np.array(windows(surroundings(boxes), frame), np.float32).reshape(-1, 4)
    shared = intersection(found, found)
    assert (shared[~np.eye(len(found), dtype=bool)] == 0).all()
    inside = boxes.clip(0, (650, 370, 650, 370))
    area = (inside[:, 2] - inside[:, 0]) * (inside[:, 3] - inside[:, 1])
    held = intersection(inside, found).max(axis=1, initial=0)
    assert held == pytest.approx(area, rel=1e-4, abs=1e-2)
    ends = (found % STEP == 0) | (found == (650, 370, 650, 370))
    assert ends.all()
