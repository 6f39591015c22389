"""What one face picture is worth, in measures that can be explained to somebody who asks."""

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
ENOUGH_DETAIL = 0.1  # sharpness of a face as cameras record it; below, its pixels hold less than their number says
MARGIN = 0.5  # of the box, around it, in the native crop
_FACE = np.zeros((CANONICAL_SIDE, CANONICAL_SIDE), np.uint8)
cv2.ellipse(_FACE, (64, 76), (40, 52), 0, 0, 360, 255, -1)


def cut(image: Image, box: Points, landmarks: Points | None) -> FaceCrop:
    """The face in the canonical frame, and beside it in its own pixels."""
    x1, y1, x2, y2 = (float(v) for v in box)
    pad_x, pad_y = MARGIN * (x2 - x1), MARGIN * (y2 - y1)
    left, top = max(0, int(x1 - pad_x)), max(0, int(y1 - pad_y))
    right, bottom = (
        min(image.shape[1], math.ceil(x2 + pad_x)),
        min(image.shape[0], math.ceil(y2 + pad_y)),
    )
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    aligned = to_canonical(image, three_points(box, landmarks))
    return FaceCrop(aligned, image[top:bottom, left:right].copy(), (left, top))


def measure(image: Image, detections: Detections, i: int, aligned: Image) -> Quality:
    """The quality of the i-th face of a frame; `aligned` is that face in the canonical frame."""
    box, score = detections.boxes[i], float(detections.scores[i])
    landmarks = None if detections.landmarks is None else detections.landmarks[i]
    points = three_points(box, landmarks)
    eye_px = float(np.linalg.norm(points[1] - points[0]))
    grey = cv2.cvtColor(aligned, cv2.COLOR_RGB2GRAY)
    mean, deviation = cv2.meanStdDev(grey, mask=_FACE)
    exposure, contrast = float(mean[0, 0]) / 255, float(deviation[0, 0]) / 255
    turn = math.nan if landmarks is None else turned(np.asarray(landmarks, np.float64))
    sharpness = _sharpness(image, points, eye_px)
    inside, clear = _inside(image, box), _clear(detections.boxes, i)
    return Quality(
        eye_px=eye_px,
        sharpness=sharpness,
        turn=turn,
        exposure=exposure,
        contrast=contrast,
        inside=inside,
        clear=clear,
        score=score,
        total=_total(
            eye_px, sharpness, 0.3 if math.isnan(turn) else turn, exposure, inside * clear, score
        ),
    )


def turned(landmarks: Matrix) -> float:
    """0 frontal to 1 profile: how far the nose lies beside the face's middle line, and how near the eyes have come."""
    eyes, mouth = landmarks[:2].mean(0), landmarks[3:].mean(0)
    down = mouth - eyes
    reach = float(np.linalg.norm(down))
    if reach < 1e-6:
        return 1.0
    across = np.array([down[1], -down[0]]) / reach
    width = abs(float((landmarks[1] - landmarks[0]) @ across))
    beside = abs(float((landmarks[2] - eyes) @ across)) / (0.5 * _FRONTAL_RATIO * reach)
    narrowed = 1 - width / (_FRONTAL_RATIO * reach)
    return float(np.clip(max(beside, narrowed), 0, 1))


def _sharpness(image: Image, points: Matrix, eye_px: float) -> float:
    """Share of the face's contrast that is finer than about two of its own pixels. Size is judged apart."""
    side = int(np.clip(round(eye_px / _EYE_SHARE), 24, CANONICAL_SIDE))
    grey = cv2.cvtColor(to_canonical(image, points, side), cv2.COLOR_RGB2GRAY).astype(np.float32)
    centre = grey[side // 5 : -(side // 10) or None, side // 5 : -(side // 5)]
    fine = centre - cv2.GaussianBlur(centre, (0, 0), 1.0)
    return float(np.clip(fine.std() / max(float(centre.std()), 4.0), 0, 1))


def _inside(image: Image, box: Points) -> float:
    x1, y1, x2, y2 = (float(v) for v in box)
    width = max(0.0, min(x2, image.shape[1]) - max(x1, 0.0))
    height = max(0.0, min(y2, image.shape[0]) - max(y1, 0.0))
    return float(width * height / max((x2 - x1) * (y2 - y1), 1e-9))


def _clear(boxes: Boxes, i: int) -> float:
    """The larger of two faces that overlap is taken to be the nearer one."""
    area = areas(boxes)
    covered = intersection(boxes[[i]], boxes)[0][area > area[i]]
    return float(1 - covered.max(initial=0.0) / max(area[i], 1e-9))


def _total(
    eye_px: float, sharpness: float, turn: float, exposure: float, whole: float, score: float
) -> float:
    """A geometric mean: one bad measure is not made good by the others.

    Size counts up to 60 px between the eyes, and only as far as there is detail to fill it.
    """
    resolved = eye_px * min(1.0, sharpness / ENOUGH_DETAIL)
    size = math.log2(1 + min(resolved, 60.0)) / math.log2(61)
    light = 1 - abs(exposure - 0.5) / 0.5
    parts = ((size, 3.0), (1 - turn, 1.5), (light, 0.3), (whole, 1.0), (score, 0.5))
    weight = sum(w for _, w in parts)
    return math.exp(sum(w * math.log(max(v, 0.01)) for v, w in parts) / weight)
