"""Geometry of boxes: overlaps, suppression of doubles, and frames brought to the size a network takes."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from fasr_video.types import Boxes, Detections, Image, Landmarks

NMS_IOU = 0.4
# A box with this share of its area in a better one, and at most this share of that one's area, is a
# part of it.
PART_INSIDE, PART_SIZE = 0.8, 0.4

# Of either precision; what goes in comes out.
Floats = NDArray[np.floating]


def areas(boxes: Floats) -> Floats:
    sides: Floats = (boxes[:, 2:] - boxes[:, :2]).clip(min=0)
    return sides[:, 0] * sides[:, 1]


def intersection(a: Floats, b: Floats) -> Floats:
    """Shared area of each box of `a` (N×4) with each of `b` (M×4): N×M."""
    corner = np.maximum(a[:, None, :2], b[None, :, :2])
    sides = (np.minimum(a[:, None, 2:], b[None, :, 2:]) - corner).clip(min=0)
    shared: Floats = sides[..., 0] * sides[..., 1]
    return shared


def iou_matrix(a: Floats, b: Floats) -> Floats:
    """Intersection over union, N×M. Boxes without an area overlap nothing."""
    shared = intersection(a, b)
    union = areas(a)[:, None] + areas(b)[None] - shared
    share: Floats = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return share


def nms(boxes: Boxes, scores: Floats, iou: float) -> NDArray[np.intp]:
    """Rows to keep, best score first: a box goes when it overlaps a better one by more than `iou`."""
    order = np.argsort(-scores, kind="stable")
    kept: list[np.intp] = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        order = order[iou_matrix(boxes[[best]], boxes[order])[0] <= iou]
    return np.array(kept, np.intp)


def parts(boxes: Boxes) -> NDArray[np.bool_]:
    """Tell for each of these boxes, best score first, whether it is only a part of a better one: a cheek, an eye."""
    area = areas(boxes)
    inside = intersection(boxes, boxes) > PART_INSIDE * area[:, None]
    smaller = area[:, None] < PART_SIZE * area[None]
    better = np.tri(len(boxes), k=-1, dtype=np.bool_)
    return np.asarray((inside & smaller & better).any(1))


def best_first(boxes: Boxes, scores: Floats, landmarks: Landmarks | None) -> Detections:
    """Raw candidates as the contract wants them: sorted, without doubles and without parts of faces."""
    found = Detections(boxes, scores, landmarks).take(nms(boxes, scores, NMS_IOU))
    return found.take(~parts(found.boxes))


def shrink(image: Image, max_side: int) -> tuple[Image, Floats]:
    """The image with its longest side at most `max_side`, and (x, y): pixels of the original per pixel of the result.

    Never enlarged: interpolated pixels hold no face that the recording lacks.
    """
    height, width = image.shape[:2]
    ratio = max_side / max(height, width)
    if ratio >= 1:
        return image, np.ones(2, np.float32)
    size = max(1, round(width * ratio)), max(1, round(height * ratio))
    small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    return small, np.array([width / size[0], height / size[1]], np.float32)
