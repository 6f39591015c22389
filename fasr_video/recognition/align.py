"""Bringing a face into the canonical frame by a similarity transform: turned, scaled and moved, never bent."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from fasr_video.types import AlignedFace, Image

Matrix = NDArray[np.float64]
Points = NDArray[np.floating]

CANONICAL_SIDE = 128
# Left eye, right eye, middle of the mouth, as shares of the canonical square (the papers' CelebA frame).
CANONICAL = np.array([[0.335, 0.483], [0.650, 0.478], [0.500, 0.815]])
# The same three points in a face box that came without landmarks (brow to chin, ear to ear).
IN_BOX = np.array([[0.30, 0.385], [0.70, 0.385], [0.50, 0.765]])


def similarity(source: Points, target: Points) -> Matrix:
    """The 2×3 similarity transform that takes `source` (N×2) nearest to `target` in least squares.

    With points as complex numbers the transform is z → a·z + b, and the best a is <target, source> / <source, source>
    of the centred points (Umeyama 1991, in two dimensions without mirroring).
    """
    s, t = (np.asarray(p, np.float64) @ np.array([1, 1j]) for p in (source, target))
    s_mean, t_mean = s.mean(), t.mean()
    spread = np.vdot(s - s_mean, s - s_mean).real
    if spread < 1e-12:
        raise ValueError("the points are all in one place: there is no scale to find")
    a = np.vdot(s - s_mean, t - t_mean) / spread
    b = t_mean - a * s_mean
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def three_points(box: Points, landmarks: Points | None) -> Matrix:
    """Eyes and the middle of the mouth, from five landmarks or, failing them, from where they are in a usual face."""
    if landmarks is None:
        x1, y1, x2, y2 = (float(v) for v in box)
        return IN_BOX * (x2 - x1, y2 - y1) + (x1, y1)
    marks = np.asarray(landmarks, np.float64)
    return np.stack((marks[0], marks[1], marks[3:].mean(0)))


def align(image: Image, box: Points, landmarks: Points | None) -> AlignedFace:
    """The face in the canonical frame, its landmarks with it."""
    points = three_points(box, landmarks)
    picture = to_canonical(image, points)
    if landmarks is None:
        return AlignedFace(picture, None)
    transform = similarity(points, CANONICAL * CANONICAL_SIDE)
    marks = np.asarray(landmarks, np.float64) @ transform[:, :2].T + transform[:, 2]
    return AlignedFace(picture, marks.astype(np.float32))


def to_canonical(image: Image, points: Matrix, side: int = CANONICAL_SIDE) -> Image:
    """The face with these three points as a side×side picture in the canonical frame; black where the image ends."""
    transform = similarity(points, CANONICAL * side)
    scale = float(np.hypot(transform[0, 0], transform[1, 0]))
    if scale < 0.5:  # sampling fewer pixels than there are needs an average first
        image, shrink = _shrink_around(image, transform, side, 2 * scale)
        transform = transform @ np.vstack((shrink, [0, 0, 1]))
    return np.asarray(
        cv2.warpAffine(image, transform, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT), np.uint8
    )


def _shrink_around(image: Image, transform: Matrix, side: int, factor: float) -> tuple[Image, Matrix]:
    """The part of the image that the transform shows, made smaller by averaging; and the way back to image pixels."""
    back = cv2.invertAffineTransform(transform)
    corners = np.array([[0, 0, 1], [side, 0, 1], [0, side, 1], [side, side, 1]]) @ back.T
    left, top = np.clip(np.floor(corners.min(0)).astype(int), 0, None)
    right, bottom = np.minimum(np.ceil(corners.max(0)).astype(int) + 1, (image.shape[1], image.shape[0]))
    if right <= left or bottom <= top:
        return image, np.eye(2, 3)
    part = image[top:bottom, left:right]
    width, height = max(1, round(part.shape[1] * factor)), max(1, round(part.shape[0] * factor))
    small = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA)
    x, y = part.shape[1] / width, part.shape[0] / height
    # pixel centres: u_full = (u_small + 0.5) · x - 0.5 + left
    return np.asarray(small, np.uint8), np.array([[x, 0, 0.5 * x - 0.5 + left], [0, y, 0.5 * y - 0.5 + top]])
