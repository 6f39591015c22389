"""The quality of a face picture, in measures that can be explained."""

from __future__ import annotations

import math

import cv2
import numpy as np

from fasr_video.boxes import areas, intersection
from fasr_video.recognition.align import (
    CANONICAL,
    CANONICAL_SIDE,
    Matrix,
    Points,
    three_points,
    to_canonical,
)
from fasr_video.types import Boxes, Detections, FaceCrop, Image, Quality

_EYE_SHARE = float(np.linalg.norm(CANONICAL[1] - CANONICAL[0]))  # of the canonical side
_EYES_TO_MOUTH = float(np.linalg.norm(CANONICAL[2] - CANONICAL[:2].mean(0)))
_FRONTAL_RATIO = _EYE_SHARE / _EYES_TO_MOUTH
# Sharpness of a usual camera picture; below it there is less detail than the number of pixels.
ENOUGH_DETAIL = 0.1
MARGIN = 0.5  # of the native crop around the box, in sides of the box
_FACE = np.zeros((CANONICAL_SIDE, CANONICAL_SIDE), np.uint8)
cv2.ellipse(_FACE, (64, 76), (40, 52), 0, 0, 360, 255, -1)


def cut(image: Image, box: Points, landmarks: Points | None) -> FaceCrop:
    """Return the face in the canonical frame, and in its own pixels with a margin."""
    x1, y1, x2, y2 = (float(v) for v in box)
    margin_x = MARGIN * (x2 - x1)
    margin_y = MARGIN * (y2 - y1)
    left = max(0, int(x1 - margin_x))
    top = max(0, int(y1 - margin_y))
    right = max(left + 1, min(image.shape[1], math.ceil(x2 + margin_x)))
    bottom = max(top + 1, min(image.shape[0], math.ceil(y2 + margin_y)))
    aligned = to_canonical(image, three_points(box, landmarks))
    return FaceCrop(aligned, image[top:bottom, left:right].copy(), (left, top))


def measure(image: Image, detections: Detections, i: int, aligned: Image) -> Quality:
    """Return the quality of the i-th face of a frame; `aligned` is it in the canonical frame."""
    box = detections.boxes[i]
    score = float(detections.scores[i])
    landmarks = None if detections.landmarks is None else detections.landmarks[i]
    points = three_points(box, landmarks)
    eye_px = float(np.linalg.norm(points[1] - points[0]))
    grey = cv2.cvtColor(aligned, cv2.COLOR_RGB2GRAY)
    mean, deviation = cv2.meanStdDev(grey, mask=_FACE)
    exposure = float(mean[0, 0]) / 255
    contrast = float(deviation[0, 0]) / 255
    turn = math.nan if landmarks is None else estimate_turn(np.asarray(landmarks, np.float64))
    sharpness = _sharpness(image, points, eye_px)
    inside = _inside(image, box)
    clear = _clear(detections.boxes, i)
    usual_turn = 0.3  # if the detector gives no landmarks
    total = _total(
        eye_px=eye_px,
        sharpness=sharpness,
        turn=usual_turn if math.isnan(turn) else turn,
        exposure=exposure,
        visible=inside * clear,
        score=score,
    )
    return Quality(
        eye_px=eye_px,
        sharpness=sharpness,
        turn=turn,
        exposure=exposure,
        contrast=contrast,
        inside=inside,
        clear=clear,
        score=score,
        total=total,
    )


def estimate_turn(landmarks: Matrix) -> float:
    """Return how far a face is turned away, from 0 (frontal) to 1 (profile).

    It is the larger of two measures: how far the nose lies beside the face's middle line, and how
    much the distance between the eyes is reduced.
    """
    eyes = landmarks[:2].mean(0)
    mouth = landmarks[3:].mean(0)
    down = mouth - eyes
    height = float(np.linalg.norm(down))
    if height < 1e-6:
        return 1.0
    across = np.array([down[1], -down[0]]) / height
    eye_distance = abs(float((landmarks[1] - landmarks[0]) @ across))
    nose_offset = abs(float((landmarks[2] - eyes) @ across)) / (0.5 * _FRONTAL_RATIO * height)
    narrowing = 1 - eye_distance / (_FRONTAL_RATIO * height)
    return float(np.clip(max(nose_offset, narrowing), 0, 1))


def _sharpness(image: Image, points: Matrix, eye_px: float) -> float:
    """Return the share of the face's contrast that is finer than about two of its own pixels.

    It does not depend on the size of the face, which is judged separately.
    """
    side = int(np.clip(round(eye_px / _EYE_SHARE), 24, CANONICAL_SIDE))
    grey = cv2.cvtColor(to_canonical(image, points, side), cv2.COLOR_RGB2GRAY).astype(np.float32)
    centre = grey[side // 5 : -(side // 10) or None, side // 5 : -(side // 5)]
    fine = centre - cv2.GaussianBlur(centre, (0, 0), 1.0)
    return float(np.clip(fine.std() / max(float(centre.std()), 4.0), 0, 1))


def _inside(image: Image, box: Points) -> float:
    """Return the share of the box that lies inside the image."""
    x1, y1, x2, y2 = (float(v) for v in box)
    width = max(0.0, min(x2, image.shape[1]) - max(x1, 0.0))
    height = max(0.0, min(y2, image.shape[0]) - max(y1, 0.0))
    return float(width * height / max((x2 - x1) * (y2 - y1), 1e-9))


def _clear(boxes: Boxes, i: int) -> float:
    """Return the share of the i-th box that no larger box covers.

    The larger of two faces that overlap is taken to be the nearer one.
    """
    area = areas(boxes)
    covered = intersection(boxes[[i]], boxes)[0][area > area[i]]
    return float(1 - covered.max(initial=0.0) / max(area[i], 1e-9))


def _total(
    *, eye_px: float, sharpness: float, turn: float, exposure: float, visible: float, score: float
) -> float:
    """Return a weighted geometric mean, in which good measures do not make up for a bad one.

    Size counts up to 60 px between the eyes, and only if there is enough detail.
    """
    resolved = eye_px * min(1.0, sharpness / ENOUGH_DETAIL)
    size = math.log2(1 + min(resolved, 60.0)) / math.log2(61)
    light = 1 - abs(exposure - 0.5) / 0.5
    weighted = ((size, 3.0), (1 - turn, 1.5), (light, 0.3), (visible, 1.0), (score, 0.5))
    weights = sum(weight for _, weight in weighted)
    logarithms = sum(weight * math.log(max(value, 0.01)) for value, weight in weighted)
    return math.exp(logarithms / weights)
