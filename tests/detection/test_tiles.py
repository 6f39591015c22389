"""Overlap of boxes, and detection in tiles: each face of the frame is found exactly once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import cv2
import numpy as np
import pytest

from fasr_video.boxes import iou_matrix, nms, shrink
from fasr_video.detection import TiledDetector
from fasr_video.detection.tiling import EDGE
from fasr_video.types import Detections, Image
from tests.support.detectors import assert_same, blank_picture


def test_overlap_agrees_with_counting_pixels() -> None:
    rng = np.random.default_rng(1)
    corners = rng.integers(0, 20, (12, 2))
    boxes = np.concatenate((corners, corners + rng.integers(0, 12, (12, 2))), 1).astype(np.float32)
    masks = np.zeros((12, 32, 32), bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int), strict=True):
        mask[y1:y2, x1:x2] = True
    both = (masks[:, None] & masks[None]).sum((2, 3))
    either = (masks[:, None] | masks[None]).sum((2, 3))
    assert iou_matrix(boxes, boxes) == pytest.approx(both / np.maximum(either, 1), abs=1e-6)


def test_non_maximum_suppression_keeps_the_best_of_each_group() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [50, 0, 60, 10], [5, 0, 15, 10]], np.float32)
    scores = np.array([0.7, 0.9, 0.8, 0.6], np.float32)
    assert nms(boxes, scores, 0.4).tolist() == [1, 2]
    assert nms(boxes, scores, 0.5).tolist() == [1, 2, 3]
    assert nms(boxes[:0], scores[:0], 0.4).tolist() == []


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1920, 1080), (960, 540)), ((640, 480), (640, 480)), ((2000, 1), (960, 1))],
)
def test_shrinking_never_enlarges(size: tuple[int, int], expected: tuple[int, int]) -> None:
    small, scale = shrink(blank_picture(*size), 960)
    assert small.shape == (expected[1], expected[0], 3)
    assert scale == pytest.approx(np.array(size) / expected)


# --- tiles -------------------------------------------------------------------------------------


class SquareDetector:
    """Finds bright squares exactly, whatever part of them it is shown."""

    name, has_landmarks, fingerprint, licence = "squares", True, "00" * 32, "none"

    def detect(self, frames: Sequence[Image]) -> list[Detections]:
        return [self._one(frame) for frame in frames]

    def _one(self, frame: Image) -> Detections:
        _, _, stats, _ = cv2.connectedComponentsWithStats((frame[..., 0] > 0).astype(np.uint8))
        boxes = stats[1:, :4].astype(np.float32)
        boxes[:, 2:] += boxes[:, :2]
        scores = np.array([frame[int(y), int(x), 0] / 255 for x, y in boxes[:, :2]], np.float32)
        order = np.argsort(-scores, kind="stable")
        centre = np.asarray((boxes[:, :2] + boxes[:, 2:]) / 2, np.float32)
        landmarks = np.repeat(centre[:, None], 5, axis=1)
        return Detections(boxes, scores, landmarks).take(order)


TILES = TiledDetector(SquareDetector(), tile=100, overlap=30)


@pytest.mark.parametrize("x", range(60, 106))
def test_a_square_between_tiles_is_found_once_and_complete(x: int) -> None:
    """Tiles span 0-100, 70-170, 120-220: one or two show the complete square, others cut it."""
    frame = blank_picture(220, 90)
    frame[40:60, x : x + 20] = 200
    detections = TILES.detect([frame])[0]
    assert detections.boxes.tolist() == [[x, 40, x + 20, 60]]
    assert detections.landmarks is not None and detections.landmarks[0, 0].tolist() == [x + 10, 50]


@pytest.mark.parametrize("seed", range(20))
def test_tiles_find_what_the_whole_frame_shows(seed: int) -> None:
    rng = np.random.default_rng(seed)
    frame = blank_picture(*rng.integers(101, 300, 2))
    largest = 30 - 2 * int(EDGE)
    for y, x in product(range(0, frame.shape[0], 32), range(0, frame.shape[1], 32)):
        side = rng.integers(6, largest + 1)
        frame[y : y + side, x : x + side] = rng.integers(50, 256)
    detections, untiled = TILES.detect([frame])[0], SquareDetector().detect([frame])[0]
    assert sorted(detections.boxes.tolist()) == sorted(untiled.boxes.tolist())
    assert detections.scores.tolist() == untiled.scores.tolist()


def test_overlapping_faces_of_one_tile_stay() -> None:
    """Two faces of one tile are two faces, however much they overlap: the detector has decided."""

    class Overlapping(SquareDetector):
        def _one(self, frame: Image) -> Detections:
            boxes = np.array([[20, 20, 60, 60], [20, 20, 60, 42]], np.float32)
            return Detections(
                boxes, np.array([0.9, 0.8], np.float32), np.zeros((2, 5, 2), np.float32)
            )

    frame = blank_picture(100, 180)
    assert len(TiledDetector(Overlapping(), tile=100, overlap=20).detect([frame])[0]) == 4


def test_a_face_larger_than_the_overlap_is_not_lost() -> None:
    frame = blank_picture(220, 90)
    frame[10:80, 60:140] = 200
    detections = TILES.detect([frame])[0]
    truth = np.array([[60, 10, 140, 80]], np.float32)
    assert len(detections) >= 1 and iou_matrix(detections.boxes, truth).max() > 0.8


def test_a_frame_no_larger_than_a_tile_is_not_cut() -> None:
    frame = blank_picture(100, 100)
    frame[5:95, 5:95] = 200
    assert_same(TILES.detect([frame])[0], SquareDetector().detect([frame])[0])


def test_tiles_without_faces_give_no_detections() -> None:
    assert_same(TILES.detect([blank_picture(250, 250)])[0], Detections.empty(with_landmarks=True))
