"""Geometry of bounding boxes: overlap, non-maximum suppression, and frames made smaller."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from fasr_video.types import Boxes, Detections, Image, Landmarks

NMS_IOU = 0.4
# A box is only a part of a better one if more than this share of its area lies in that one ...
PART_INSIDE = 0.8
# ... and its area is less than this share of the area of that one.
PART_SIZE = 0.4

# Of either precision: functions return the precision that they are given.
Floats = NDArray[np.floating]


def areas(boxes: Floats) -> Floats:
    sides: Floats = (boxes[:, 2:] - boxes[:, :2]).clip(min=0)
    return sides[:, 0] * sides[:, 1]


def intersection(a: Floats, b: Floats) -> Floats:
    """Return the area that each box of `a` (N×4) shares with each of `b` (M×4): N×M."""
    corner = np.maximum(a[:, None, :2], b[None, :, :2])
    sides = (np.minimum(a[:, None, 2:], b[None, :, 2:]) - corner).clip(min=0)
    shared: Floats = sides[..., 0] * sides[..., 1]
    return shared


def iou_matrix(a: Floats, b: Floats) -> Floats:
    """Return the intersection over union, N×M. Boxes without an area overlap nothing."""
    shared = intersection(a, b)
    union = areas(a)[:, None] + areas(b)[None] - shared
    iou: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return iou


def nms(boxes: Boxes, scores: Floats, iou: float) -> NDArray[np.intp]:
    """Return the rows that remain after non-maximum suppression, best score first.

    A box is dropped if it overlaps a better one by more than `iou`.
    """
    order = np.argsort(-scores, kind="stable")
    remaining: list[np.intp] = []
    while len(order):
        best = order[0]
        order = order[1:]
        remaining.append(best)
        order = order[iou_matrix(boxes[[best]], boxes[order])[0] <= iou]
    return np.array(remaining, np.intp)


def are_parts(boxes: Boxes) -> NDArray[np.bool_]:
    """Return for each box, best score first, whether it is only a part of a better one.

    Such a part is a cheek or an eye.
    """
    area = areas(boxes)
    inside = intersection(boxes, boxes) > PART_INSIDE * area[:, None]
    smaller = area[:, None] < PART_SIZE * area[None]
    better = np.tri(len(boxes), k=-1, dtype=np.bool_)
    return np.asarray((inside & smaller & better).any(1))


def best_first(boxes: Boxes, scores: Floats, landmarks: Landmarks | None) -> Detections:
    """Return raw candidates sorted by score, without duplicates and without parts of faces."""
    candidates = Detections(boxes, scores, landmarks)
    detections = candidates.take(nms(boxes, scores, NMS_IOU))
    return detections.take(~are_parts(detections.boxes))


def shrink(image: Image, max_side: int) -> tuple[Image, Floats]:
    """Return the image with its longest side at most `max_side`, and the scale (x, y).

    The scale is pixels of the original per pixel of the result. Images are never enlarged:
    interpolated pixels show no face that the recording does not.
    """
    height, width = image.shape[:2]
    ratio = max_side / max(height, width)
    if ratio >= 1:
        return image, np.ones(2, np.float32)
    size = max(1, round(width * ratio)), max(1, round(height * ratio))
    small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    return small, np.array([width / size[0], height / size[1]], np.float32)
