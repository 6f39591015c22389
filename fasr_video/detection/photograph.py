"""The face of a photograph: detection even if it fills the picture, and choice among several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from fasr_video.boxes import NMS_IOU, PART_INSIDE, areas, intersection, iou_matrix, shrink
from fasr_video.console import count
from fasr_video.detection.detector import Detector
from fasr_video.types import Detections, Image

# Detections with a lower score are ignored.
MIN_SCORE = 0.5
# Share of a picture's width and height that is added on each side if no face is found without it.
MARGIN = 0.4
# Longest side in pixels of the shrunk picture: a face that fills it is large enough, and not too
# large for any detector.
MAX_SIDE = 640
# px, square root of a box's area in the shrunk picture: larger faces are taken from there.
LARGE = 120.0

# A face's number, counted from the left; the largest one; or None for the only one.
Which = int | Literal["largest"] | None


@dataclass(frozen=True, slots=True)
class Choice:
    """Which face of a photograph to take, and what to do if that is not clear."""

    face: Which = None
    remedy: str = "cut it so that it shows one face"


ALONE = Choice()


@dataclass(frozen=True, slots=True)
class Unclear:
    """Why no face could be chosen, what to do, and how many faces there are."""

    reason: str
    remedy: str
    faces: int


def find_faces(image: Image, detector: Detector) -> Detections:
    """Return the faces of a photograph, in its own pixels, best score first.

    Some detectors miss a face that fills the picture. If there is none, the detector gets the
    picture once more with its edge pixels repeated around it; a face in that margin does not count.
    In a large picture detectors take parts of a large face for faces, so large faces are taken from
    a shrunk picture.
    """
    detections = _above_min_score(detector.detect([image])[0])
    if max(image.shape[:2]) > 2 * MAX_SIDE:
        detections = _with_large(detections, image, detector)
    return detections if len(detections) else _find_with_margin(image, detector)


def _above_min_score(detections: Detections) -> Detections:
    return detections.take(detections.scores >= MIN_SCORE)


def _with_large(detections: Detections, image: Image, detector: Detector) -> Detections:
    """Return the large faces of the shrunk picture, and those of `detections` outside of them."""
    small, scale = shrink(image, MAX_SIDE)
    in_small = _above_min_score(detector.detect([small])[0])
    large = in_small.take(np.sqrt(areas(in_small.boxes)) >= LARGE)
    boxes = large.boxes * np.tile(scale, 2).astype(np.float32)
    shared = intersection(detections.boxes, boxes)
    is_part = shared > PART_INSIDE * areas(detections.boxes)[:, None]
    is_duplicate = iou_matrix(detections.boxes, boxes) > NMS_IOU
    others = detections.take(np.asarray(~(is_part | is_duplicate).any(1)))
    landmarks = None
    if others.landmarks is not None and large.landmarks is not None:
        landmarks = np.concatenate((others.landmarks, large.landmarks * scale)).astype(np.float32)
    joined = Detections(
        np.concatenate((others.boxes, boxes)),
        np.concatenate((others.scores, large.scores)),
        landmarks,
    )
    return joined.take(np.argsort(-joined.scores, kind="stable"))


def _find_with_margin(image: Image, detector: Detector) -> Detections:
    """Return the faces whose centres lie in the picture, after adding a margin around it."""
    small, shrunk = shrink(image, MAX_SIDE)
    height, width = small.shape[:2]
    y, x = round(MARGIN * height), round(MARGIN * width)
    framed = np.asarray(cv2.copyMakeBorder(small, y, y, x, x, cv2.BORDER_REPLICATE), np.uint8)
    detections = detector.detect([framed])[0]
    corner = np.array([x, y], np.float32)
    scale = shrunk.astype(np.float32)
    boxes = (detections.boxes - np.tile(corner, 2)) * np.tile(scale, 2)
    landmarks = None if detections.landmarks is None else (detections.landmarks - corner) * scale
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = ((middle >= 0) & (middle < image.shape[1::-1])).all(1)
    in_picture = Detections(boxes, detections.scores, landmarks).take(np.asarray(inside))
    return _above_min_score(in_picture)


def choose_face(image: Image, detector: Detector, choice: Choice) -> Detections | Unclear:
    """Return the chosen face as a Detections of length 1, or why there is none."""
    detections = find_faces(image, detector)
    count = len(detections)
    if not count:
        remedy = "give a photograph with a larger, sharper face, upright and seen from the front"
        return Unclear("no face found, not even with a margin around the picture", remedy, 0)
    if choice.face == "largest":
        return detections.take(np.array([np.argmax(areas(detections.boxes))]))
    if choice.face is None and count == 1:
        return detections
    detections = from_the_left(detections)
    if choice.face is not None and choice.face <= count:
        return detections.take(np.array([choice.face - 1]))
    faces = list_faces(detections, image)
    if choice.face is not None:
        reason = f"there is no face {choice.face}, but {faces}"
        return Unclear(reason, "choose one of these", count)
    return Unclear(faces, choice.remedy, count)


def from_the_left(detections: Detections) -> Detections:
    """Return the faces in the order of their numbers: by the centres of the boxes from the left."""
    middle = detections.boxes[:, :2] + detections.boxes[:, 2:]
    return detections.take(np.lexsort((middle[:, 1], middle[:, 0])))


def list_faces(detections: Detections, image: Image) -> str:
    """Return number, position and size of each face: `2 faces: 1 at the left, 212×240 px; 2 …`."""
    height, width = image.shape[:2]
    faces = []
    for number, (x1, y1, x2, y2) in enumerate(detections.boxes.tolist(), 1):
        position = _position((x1 + x2) / 2 / width, (y1 + y2) / 2 / height)
        faces.append(f"{number} {position}, {x2 - x1:.0f}×{y2 - y1:.0f} px")
    return f"{count(len(faces), 'face')}: {'; '.join(faces)}"


def _position(x: float, y: float) -> str:
    """Return in which thirds of the picture a point lies; x and y are shares of its sides."""
    row = "top" if y < 1 / 3 else "bottom" if y > 2 / 3 else ""
    column = "left" if x < 1 / 3 else "right" if x > 2 / 3 else ""
    words = [word for word in (row, column) if word]
    return f"at the {' '.join(words)}" if words else "in the middle"
