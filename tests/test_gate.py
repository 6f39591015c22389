"""Looking at the whole of every Nth frame only: who is followed, who is found later, and where windows lie."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fasr_video.boxes import intersection
from fasr_video.pipeline.detect import Detector, open_detector
from fasr_video.pipeline.detect.gate import STEP, Gate, windows
from fasr_video.types import Boxes, Detections, Image
from tests.test_detect import RED, assert_same, blank, builtin_weights, centres

NOWHERE: Boxes = np.zeros((0, 4), np.float32)


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
    for a, b in zip(Gate(dots, 1, 0, NOWHERE).detect(frames), dots.detect(frames), strict=True):
        assert_same(a, b)


def test_a_face_that_is_known_is_followed_and_a_new_one_found_at_the_next_whole_frame(dots: Detector) -> None:
    found = Gate(dots, 4, 0, NOWHERE).detect(walk())
    for index, faces in enumerate(found):
        there = {tuple(c) for c in centres(faces).tolist()}
        assert (42 + 4 * index, 102) in there
        assert ((502, 302) in there) == (index >= 8)


def test_a_face_that_was_not_seen_once_is_looked_for_again(dots: Detector) -> None:
    frames = walk(4)
    frames[1] = blank(640, 360)
    assert [len(faces) for faces in Gate(dots, 4, 0, NOWHERE).detect(frames)] == [1, 0, 1, 1]


def test_taken_up_anywhere_it_finds_what_it_would_have_found(dots: Detector) -> None:
    frames = walk()
    unbroken = Gate(dots, 5, 0, NOWHERE).detect(frames)
    for stop in range(1, len(frames)):
        first = Gate(dots, 5, 0, NOWHERE)
        first.detect(frames[:stop])
        for a, b in zip(Gate(dots, 5, stop, first.boxes).detect(frames[stop:]), unbroken[stop:], strict=True):
            assert_same(a, b)


def test_half_a_face_at_a_windows_edge_is_nobody(dots: Detector) -> None:
    frames = [blank(640, 360), blank(640, 360)]
    frames[0][100, 160] = RED
    (window,) = windows(dots.detect(frames[:1])[0].boxes, frames[0])
    frames[1][100, window[2] - 4] = RED  # its face ends beyond the window
    assert [len(faces) for faces in Gate(dots, 2, 0, NOWHERE).detect(frames)] == [1, 0]


def test_without_faces_nothing_is_looked_at_between_whole_frames(dots: Detector) -> None:
    found: Detections = Gate(dots, 3, 1, NOWHERE).detect(walk(1))[0]
    assert len(found) == 0 and found.landmarks is not None


box = st.tuples(st.floats(-60, 700), st.floats(-60, 420), st.floats(4, 150), st.floats(4, 150))


@given(st.lists(box, max_size=12))
def test_windows_hold_each_face_with_its_surroundings_and_never_overlap(given_boxes: list[tuple[float, ...]]) -> None:
    boxes = np.array([(x, y, x + w, y + h) for x, y, w, h in given_boxes], np.float32).reshape(-1, 4)
    frame = blank(650, 370)
    found = np.array(windows(boxes, frame), np.float32).reshape(-1, 4)
    shared = intersection(found, found)
    assert (shared[~np.eye(len(found), dtype=bool)] == 0).all()
    inside = boxes.clip(0, (650, 370, 650, 370))
    area = (inside[:, 2] - inside[:, 0]) * (inside[:, 3] - inside[:, 1])
    held = intersection(inside, found).max(axis=1, initial=0)
    assert held == pytest.approx(area, rel=1e-4, abs=1e-2)
    ends = (found % STEP == 0) | (found == (650, 370, 650, 370))
    assert ends.all()
