"""Bringing a face into a known frame by a similarity transform: turned, scaled and moved, never bent.

Three frames: the canonical one of 128 px (the papers'), which everything here works in, the template of 112 px that
ArcFace and AdaFace were trained in, and the chip of 150 px that dlib's recogniser was trained in.
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
# Left eye, right eye, middle of the mouth, as shares of the canonical square (the papers' CelebA frame).
CANONICAL = np.array([[0.335, 0.483], [0.650, 0.478], [0.500, 0.815]])
# The same three points in a face box that came without landmarks (brow to chin, ear to ear).
IN_BOX = np.array([[0.30, 0.385], [0.70, 0.385], [0.50, 0.765]])
# The five landmarks in the picture of 112 px that ArcFace, and after it AdaFace, take.
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
# The same in the picture of 150 px that dlib's recogniser takes: of the mean face that dlib aligns by, which spans the
# unit square, with a quarter of that square around it.
DLIB_SIDE, DLIB_PADDING = 150, 0.25
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
MIRRORED = [1, 0, 2, 4, 3]  # the landmark that each becomes in a mirror


def similarity(source: Points, target: Points) -> Matrix:
    """The 2×3 similarity transform that takes `source` (N×2) nearest to `target` in least squares.

    With points as complex numbers the transform is z → a·z + b, and the best a is <target, source> / <source, source>
    of the centred points (Umeyama 1991, in two dimensions without mirroring). Either may be a stack of point sets.
    """
    s, t = (np.asarray(p, np.float64) @ np.array([1, 1j]) for p in (source, target))
    s_mean, t_mean = s.mean(-1, keepdims=True), t.mean(-1, keepdims=True)
    spread = (np.abs(s - s_mean) ** 2).sum(-1)
    if (spread < 1e-12).any():
        raise ValueError("the points are all in one place: there is no scale to find")
    a = ((s - s_mean).conj() * (t - t_mean)).sum(-1) / spread
    b = t_mean[..., 0] - a * s_mean[..., 0]
    return np.stack((a.real, -a.imag, b.real, a.imag, a.real, b.imag), -1).reshape(*a.shape, 2, 3)


def inverse(transform: Matrix) -> Matrix:
    """The way back; of each in a stack."""
    turn = np.linalg.inv(transform[..., :2])
    return np.concatenate((turn, -turn @ transform[..., 2:]), -1)


def move(transform: Matrix, points: Points) -> Matrix:
    """Where the transform takes the points (N×2)."""
    return points @ transform[:, :2].T + transform[:, 2]


def three_points(box: Points, landmarks: Points | None) -> Matrix:
    """Eyes and the middle of the mouth, from five landmarks or, failing them, from where they are in a usual face."""
    if landmarks is None:
        x1, y1, x2, y2 = (float(v) for v in box)
        return IN_BOX * (x2 - x1, y2 - y1) + (x1, y1)
    return eyes_and_mouth(landmarks)


def eyes_and_mouth(landmarks: Points) -> Matrix:
    """Of five landmarks, the three points that tell the canonical frame."""
    landmarks = np.asarray(landmarks, np.float64)
    return np.stack((landmarks[0], landmarks[1], landmarks[3:].mean(0)))


def align(image: Image, box: Points, landmarks: Points | None) -> AlignedFace:
    """The face in the canonical frame, its landmarks with it."""
    points = three_points(box, landmarks)
    picture = to_canonical(image, points)
    if landmarks is None:
        return AlignedFace(picture, None)
    transform = similarity(points, CANONICAL * CANONICAL_SIDE)
    return AlignedFace(picture, move(transform, landmarks).astype(np.float32))


def to_canonical(image: Image, points: Matrix, side: int = CANONICAL_SIDE) -> Image:
    """The face with these three points as a side×side picture in the canonical frame; black where the image ends."""
    return warp(image, similarity(points, CANONICAL * side), side)


def fill_landmarks(landmarks: Tensor | None, count: int) -> Tensor:
    """Landmarks of canonical pictures, N×5×2: the usual ones where they are unknown or say nothing."""
    usual = torch.from_numpy(USUAL_LANDMARKS).float().expand(count, -1, -1)
    if landmarks is None:
        return usual
    landmarks = landmarks.float().cpu()
    told = landmarks.isfinite().all(2).all(1) & (landmarks.amax(1) - landmarks.amin(1) > 1).any(1)
    return torch.where(told[:, None, None], landmarks, usual)


def mirror_landmarks(landmarks: Tensor) -> Tensor:
    """Where the landmarks of canonical pictures (N×5×2) are in their mirror images: left is right."""
    return landmarks[:, MIRRORED] * torch.tensor([-1.0, 1.0]) + torch.tensor(
        [CANONICAL_SIDE - 1.0, 0.0]
    )


def canonical_to_arcface(faces: Tensor, landmarks: Tensor | None) -> Tensor:
    """Bring canonical pictures, N×3×128×128, into ArcFace's frame: N×3×112×112."""
    return canonical_to(ARCFACE, ARCFACE_SIDE, faces, landmarks)


def canonical_to_dlib(faces: Tensor, landmarks: Tensor | None) -> Tensor:
    """Bring canonical pictures, N×3×128×128, into the frame of dlib's recogniser: N×3×150×150."""
    return canonical_to(DLIB, DLIB_SIDE, faces, landmarks)


def canonical_to(template: Matrix, side: int, faces: Tensor, landmarks: Tensor | None) -> Tensor:
    """Bring canonical pictures, N×3×128×128, into the frame that has the five landmarks where the template has them.

    Comes back as N×3×side×side. `marks`: N×5×2 landmarks in the pictures' pixels; rows with NaN, or no marks, are where
    canonical faces have them. The frames are nearly of one scale, so nothing has to be averaged first. Where the frame
    shows a few rows more than there are, the last ones are repeated, which comes nearer than black to what the whole
    image shows there.
    """
    transforms = similarity(fill_landmarks(landmarks, len(faces)).numpy(), template)
    back = torch.from_numpy(inverse(transforms)).float().to(faces.device)[..., None, None]
    along = torch.arange(side, device=faces.device, dtype=torch.float32)
    # Written out: affine_grid is a matrix product, which autocast would compute in eight bits of precision.
    pixels = back[:, :, 0] * along[None, :] + back[:, :, 1] * along[:, None] + back[:, :, 2]
    grid = pixels.permute(0, 2, 3, 1) * (2 / (faces.shape[-1] - 1)) - 1
    return F.grid_sample(faces.float(), grid, padding_mode="border", align_corners=True)


def warp(image: Image, transform: Matrix, side: int) -> Image:
    """What the transform shows of the image, side×side; black where the image ends."""
    scale = float(np.hypot(transform[0, 0], transform[1, 0]))
    if scale < 0.5:  # sampling fewer pixels than there are needs an average first
        image, shrink = _shrink_around(image, transform, side, 2 * scale)
        transform = transform @ np.vstack((shrink, [0, 0, 1]))
    return np.asarray(
        cv2.warpAffine(
            image, transform, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT
        ),
        np.uint8,
    )


def _shrink_around(
    image: Image, transform: Matrix, side: int, factor: float
) -> tuple[Image, Matrix]:
    """The part of the image that the transform shows, made smaller by averaging; and the way back to image pixels."""
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
    # pixel centres: u_full = (u_small + 0.5) · x - 0.5 + left
    return np.asarray(small, np.uint8), np.array(
        [[x, 0, 0.5 * x - 0.5 + left], [0, y, 0.5 * y - 0.5 + top]]
    )


# Where a canonical picture that came without landmarks is taken to have them: the similarity that takes these to the
# template is the one that takes the frame's three points there.
USUAL_LANDMARKS = move(
    inverse(similarity(CANONICAL * CANONICAL_SIDE, eyes_and_mouth(ARCFACE))), ARCFACE
)
