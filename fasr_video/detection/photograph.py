"""The face of a photograph: found even where it fills the picture, and chosen where there are several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from fasr_video.boxes import NMS_IOU, PART_INSIDE, areas, intersection, iou_matrix, shrink
from fasr_video.detection.detector import Detector
from fasr_video.types import Detections, Image

# Of a face that counts.
MIN_SCORE = 0.5
# Share of a picture's width and height that is added on each side, where no face is found without.
MARGIN = 0.4
# Side in pixels that a picture is shrunk to before it gets a margin: a face that fills it is large
# enough, and not too large for any detector.
LONGEST = 640
# px, square root of a box's area in the shrunk picture: such a face is better seen there.
LARGE = 120.0

# A face's number, counted from the left; the largest one; or None for the only one.
Which = int | Literal["largest"] | None


@dataclass(frozen=True, slots=True)
class Choice:
    """Which face of a photograph is meant, and what to do where that does not say it."""

    face: Which = None
    remedy: str = "cut it so that it shows one face"


ALONE = Choice()


@dataclass(frozen=True, slots=True)
class Unclear:
    """Why there is no one face that is meant, what to do, and how many faces there are."""

    reason: str
    remedy: str
    faces: int


def find_faces(image: Image, detector: Detector) -> Detections:
    """Return the faces of a photograph, in its own pixels, best score first.

    Some detectors miss a face that fills the picture. Where none is found the same picture is tried once more, with its
    edge continued around it; what is found there in the margin alone is no face of the picture. In a large picture
    detectors take pieces of a large face for faces: there the large ones are looked for in the shrunk picture.
    """
    found = _sure(detector.detect([image])[0])
    if max(image.shape[:2]) > 2 * LONGEST:
        found = _with_large(found, image, detector)
    return found if len(found) else _find_with_margin(image, detector)


def _sure(found: Detections) -> Detections:
    return found.take(found.scores >= MIN_SCORE)


def _with_large(found: Detections, image: Image, detector: Detector) -> Detections:
    """Return the small faces of a large picture, and the large ones of its shrunk version, which win."""
    small, scale = shrink(image, LONGEST)
    there = _sure(detector.detect([small])[0])
    large = there.take(np.sqrt(areas(there.boxes)) >= LARGE)
    boxes = large.boxes * np.tile(scale, 2).astype(np.float32)
    within = intersection(found.boxes, boxes) > PART_INSIDE * areas(found.boxes)[:, None]
    double = iou_matrix(found.boxes, boxes) > NMS_IOU
    kept = found.take(np.asarray(~(within | double).any(1)))
    landmarks = None
    if kept.landmarks is not None and large.landmarks is not None:
        landmarks = np.concatenate((kept.landmarks, large.landmarks * scale)).astype(np.float32)
    joined = Detections(
        np.concatenate((kept.boxes, boxes)), np.concatenate((kept.scores, large.scores)), landmarks
    )
    return joined.take(np.argsort(-joined.scores, kind="stable"))


def _find_with_margin(image: Image, detector: Detector) -> Detections:
    small, shrunk = shrink(image, LONGEST)
    height, width = small.shape[:2]
    y, x = round(MARGIN * height), round(MARGIN * width)
    framed = np.asarray(cv2.copyMakeBorder(small, y, y, x, x, cv2.BORDER_REPLICATE), np.uint8)
    found = detector.detect([framed])[0]
    corner, scale = np.array([x, y], np.float32), shrunk.astype(np.float32)
    boxes = (found.boxes - np.tile(corner, 2)) * np.tile(scale, 2)
    landmarks = None if found.landmarks is None else (found.landmarks - corner) * scale
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = ((middle >= 0) & (middle < image.shape[1::-1])).all(1)
    return Detections(boxes, found.scores, landmarks).take(inside & (found.scores >= MIN_SCORE))


def choose_face(image: Image, detector: Detector, choice: Choice) -> Detections | Unclear:
    """Return the one face that is meant, as a Detections of length 1, or why there is none."""
    found = find_faces(image, detector)
    count = len(found)
    if not count:
        remedy = "give a photograph with a larger, sharper face, upright and seen from the front"
        return Unclear("no face found, not even with a margin around the picture", remedy, 0)
    if choice.face == "largest":
        return found.take(np.array([np.argmax(areas(found.boxes))]))
    if choice.face is None and count == 1:
        return found
    found = from_the_left(found)
    if choice.face is not None and choice.face <= count:
        return found.take(np.array([choice.face - 1]))
    faces = list_faces(found, image)
    if choice.face is not None:
        return Unclear(f"it has no face {choice.face}, but {faces}", "choose one of these", count)
    return Unclear(faces, choice.remedy, count)


def from_the_left(found: Detections) -> Detections:
    """Return the faces in the order in which they are numbered: by the middles of their boxes, from the left."""
    middle = found.boxes[:, :2] + found.boxes[:, 2:]
    return found.take(np.lexsort((middle[:, 1], middle[:, 0])))


def list_faces(found: Detections, image: Image) -> str:
    """Return the number, place and size of each face, as `2 faces: 1 at the left, 212×240 px; 2 …`."""
    height, width = image.shape[:2]
    faces = []
    for number, (x1, y1, x2, y2) in enumerate(found.boxes.tolist(), 1):
        place = _place((x1 + x2) / 2 / width, (y1 + y2) / 2 / height)
        faces.append(f"{number} {place}, {x2 - x1:.0f}×{y2 - y1:.0f} px")
    return f"{len(faces)} face{'s' if len(faces) > 1 else ''}: {'; '.join(faces)}"


def _place(x: float, y: float) -> str:
    """Return in which third of the width and of the height, given as shares of them, something lies."""
    row = "top" if y < 1 / 3 else "bottom" if y > 2 / 3 else ""
    column = "left" if x < 1 / 3 else "right" if x > 2 / 3 else ""
    return " ".join(filter(None, ("at the", row, column))) if row or column else "in the middle"
