"""Alignment: a face is rotated, scaled and shifted into a known frame, but never distorted.

There are three frames: the canonical one of 128 px (the papers'), which is used throughout; the
template of 112 px for ArcFace and AdaFace; and the chip of 150 px for dlib's recogniser.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from fasr_video.types import AlignedFace, Image

Matrix = NDArray[np.float64]
Points = NDArray[np.floating]

CANONICAL_SIDE = 128
# Left eye, right eye and middle of the mouth, as shares of the canonical square (the papers'
# CelebA frame).
CANONICAL = np.array([[0.335, 0.483], [0.650, 0.478], [0.500, 0.815]])
# The same three points as shares of a face box without landmarks (brow to chin, ear to ear).
IN_BOX = np.array([[0.30, 0.385], [0.70, 0.385], [0.50, 0.765]])
# The five landmarks in the 112 px picture that ArcFace and AdaFace take.
ARCFACE_SIDE = 112
ARCFACE = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ]
)
# The same in the 150 px picture that dlib's recogniser takes: the landmarks of dlib's mean face,
# which spans the unit square, with a quarter of that square around it.
DLIB_SIDE = 150
DLIB_PADDING = 0.25
DLIB_MEAN_FACE = np.array(
    [
        [0.22549, 0.21599],
        [0.75476, 0.21599],
        [0.490127, 0.515625],
        [0.254149, 0.780233],
        [0.726104, 0.780233],
    ]
)
DLIB = (DLIB_PADDING + DLIB_MEAN_FACE) / (1 + 2 * DLIB_PADDING) * DLIB_SIDE
MIRRORED = [1, 0, 2, 4, 3]  # the order of the landmarks in a mirror image


def similarity(source: Points, target: Points) -> Matrix:
    """Return the 2×3 similarity transform from `source` (N×2) to `target`, in least squares.

    With points as complex numbers the transform is z → a·z + b, and the best a is
    <target, source> / <source, source> of the centred points (Umeyama 1991, in two dimensions
    without mirroring). Either argument may be a stack of point sets.
    """
    s, t = (np.asarray(p, np.float64) @ np.array([1, 1j]) for p in (source, target))
    s_mean, t_mean = s.mean(-1, keepdims=True), t.mean(-1, keepdims=True)
    spread = (np.abs(s - s_mean) ** 2).sum(-1)
    if (spread < 1e-12).any():
        raise ValueError("all points coincide, so that the scale is undefined")
    a = ((s - s_mean).conj() * (t - t_mean)).sum(-1) / spread
    b = t_mean[..., 0] - a * s_mean[..., 0]
    return np.stack((a.real, -a.imag, b.real, a.imag, a.real, b.imag), -1).reshape(*a.shape, 2, 3)


def inverse(transform: Matrix) -> Matrix:
    """Return the inverse transform, or that of each in a stack."""
    rotation = np.linalg.inv(transform[..., :2])
    return np.concatenate((rotation, -rotation @ transform[..., 2:]), -1)


def move(transform: Matrix, points: Points) -> Matrix:
    """Apply the transform to the points (N×2)."""
    return points @ transform[:, :2].T + transform[:, 2]


def three_points(box: Points, landmarks: Points | None) -> Matrix:
    """Return the eyes and the middle of the mouth, by five landmarks or else by the box."""
    if landmarks is None:
        x1, y1, x2, y2 = (float(v) for v in box)
        return IN_BOX * (x2 - x1, y2 - y1) + (x1, y1)
    return eyes_and_mouth(landmarks)


def eyes_and_mouth(landmarks: Points) -> Matrix:
    """Return the three points that define the canonical frame, from five landmarks."""
    landmarks = np.asarray(landmarks, np.float64)
    return np.stack((landmarks[0], landmarks[1], landmarks[3:].mean(0)))


def align(image: Image, box: Points, landmarks: Points | None) -> AlignedFace:
    """Return the face in the canonical frame, and its landmarks there."""
    points = three_points(box, landmarks)
    picture = to_canonical(image, points)
    if landmarks is None:
        return AlignedFace(picture, None)
    transform = similarity(points, CANONICAL * CANONICAL_SIDE)
    return AlignedFace(picture, move(transform, landmarks).astype(np.float32))


def native_side(points: Matrix) -> int:
    """Return the side of the canonical square around these points in the picture's own pixels.

    At most that of the canonical frame: a face never gets more pixels than the camera recorded.
    """
    transform = similarity(points, CANONICAL)
    side = round(1 / float(np.hypot(transform[0, 0], transform[1, 0])))
    return min(CANONICAL_SIDE, side)


def to_canonical(image: Image, points: Matrix, side: int = CANONICAL_SIDE) -> Image:
    """Return the face with these three points in the canonical frame, side×side pixels.

    Pixels outside of the image are black.
    """
    return warp(image, similarity(points, CANONICAL * side), side)


def fill_landmarks(landmarks: Tensor | None, count: int) -> Tensor:
    """Return landmarks of canonical pictures, N×5×2, with default ones where they are unusable."""
    default = torch.from_numpy(DEFAULT_LANDMARKS).float().expand(count, -1, -1)
    if landmarks is None:
        return default
    landmarks = landmarks.float().cpu()
    are_finite = landmarks.isfinite().all(2).all(1)
    are_apart = (landmarks.amax(1) - landmarks.amin(1) > 1).any(1)
    return torch.where((are_finite & are_apart)[:, None, None], landmarks, default)


def mirror_landmarks(landmarks: Tensor) -> Tensor:
    """Return the landmarks (N×5×2) of the mirror images of canonical pictures."""
    offset = torch.tensor([CANONICAL_SIDE - 1.0, 0.0])
    return landmarks[:, MIRRORED] * torch.tensor([-1.0, 1.0]) + offset


def canonical_to_arcface(faces: Tensor, landmarks: Tensor | None) -> Tensor:
    """Bring canonical pictures, N×3×128×128, into ArcFace's frame: N×3×112×112."""
    return canonical_to(ARCFACE, ARCFACE_SIDE, faces, landmarks)


def canonical_to_dlib(faces: Tensor, landmarks: Tensor | None) -> Tensor:
    """Bring canonical pictures, N×3×128×128, into the frame of dlib's recogniser: N×3×150×150."""
    return canonical_to(DLIB, DLIB_SIDE, faces, landmarks)


def canonical_to(template: Matrix, side: int, faces: Tensor, landmarks: Tensor | None) -> Tensor:
    """Bring canonical pictures, N×3×128×128, into the frame of a template: N×3×side×side.

    Afterwards the five landmarks are where the template has them. `landmarks` are N×5×2 in pixels
    of the pictures; without them, or in rows with NaN, the default ones are used. The frames have
    nearly the same scale, so the pictures need no smoothing first. Where the frame extends beyond
    the picture its last pixels are repeated, which is closer to the full image than black is.
    """
    transforms = similarity(fill_landmarks(landmarks, len(faces)).numpy(), template)
    back = torch.from_numpy(inverse(transforms)).float().to(faces.device)[..., None, None]
    along = torch.arange(side, device=faces.device, dtype=torch.float32)
    # Not by affine_grid: that is a matrix product, which autocast computes in bfloat16.
    pixels = back[:, :, 0] * along[None, :] + back[:, :, 1] * along[:, None] + back[:, :, 2]
    grid = pixels.permute(0, 2, 3, 1) * (2 / (faces.shape[-1] - 1)) - 1
    return F.grid_sample(faces.float(), grid, padding_mode="border", align_corners=True)


def warp(image: Image, transform: Matrix, side: int) -> Image:
    """Apply the transform to the image; return side×side pixels, black outside of the image."""
    scale = float(np.hypot(transform[0, 0], transform[1, 0]))
    if scale < 0.5:  # strong reduction: average the pixels first
        image, shrink = _shrink_around(image, transform, side, 2 * scale)
        transform = transform @ np.vstack((shrink, [0, 0, 1]))
    warped = cv2.warpAffine(
        image, transform, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT
    )
    return np.asarray(warped, np.uint8)


def _shrink_around(
    image: Image, transform: Matrix, side: int, factor: float
) -> tuple[Image, Matrix]:
    """Return the part of the image that the transform shows, reduced by averaging.

    Return with it the transform from its pixels to those of the image.
    """
    back = cv2.invertAffineTransform(transform)
    corners = np.array([[0, 0, 1], [side, 0, 1], [0, side, 1], [side, side, 1]]) @ back.T
    left, top = np.clip(np.floor(corners.min(0)).astype(int), 0, None)
    right, bottom = np.minimum(
        np.ceil(corners.max(0)).astype(int) + 1, (image.shape[1], image.shape[0])
    )
    if right <= left or bottom <= top:
        return image, np.eye(2, 3)
    part = image[top:bottom, left:right]
    width, height = max(1, round(part.shape[1] * factor)), max(1, round(part.shape[0] * factor))
    small = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA)
    x, y = part.shape[1] / width, part.shape[0] / height
    # Pixel centres: u_full = (u_small + 0.5) · x - 0.5 + left.
    to_image = np.array([[x, 0, 0.5 * x - 0.5 + left], [0, y, 0.5 * y - 0.5 + top]])
    return np.asarray(small, np.uint8), to_image


# Landmarks of a canonical picture that came without any: the similarity that takes them to
# ArcFace's template also takes the three points of the canonical frame there.
DEFAULT_LANDMARKS = move(
    inverse(similarity(CANONICAL * CANONICAL_SIDE, eyes_and_mouth(ARCFACE))), ARCFACE
)
