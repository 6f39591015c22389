"""Labelled scenes for the embedder's training: faces in the canonical frame, and parts without a
face.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fasr_video.training.detector_data import Faces, Points, Scene, read_scenes

SIDE, RIM = 128, 8
# Left eye, right eye and the middle of the mouth, in a picture with a rim.
CANONICAL = np.array([[0.335, 0.483], [0.650, 0.478], [0.500, 0.815]]) * SIDE + RIM
# px: smaller faces identify nobody.
LEAST = 26.0
# Number of parts to cut out of a scene without faces, and out of other scenes.
OF_EMPTY, OF_OTHERS = 12, 3
TRIES = 8


def cut_scenes(folder: Path, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return faces and parts without a face of the training scenes, both N×3×144×144 uint8."""
    generator = np.random.default_rng(seed)
    faces: list[NDArray[np.uint8]] = []
    empty: list[NDArray[np.uint8]] = []
    for scene in read_scenes(folder, "train"):
        large = (scene.faces.boxes[:, 2:] - scene.faces.boxes[:, :2]).min(
            1, initial=np.inf
        ) >= LEAST
        for landmarks in scene.faces.landmarks[scene.faces.sure & large]:
            faces.append(_aligned(scene.picture, landmarks))
        for _ in range(OF_OTHERS if len(scene.faces) else OF_EMPTY):
            part = _part_without(scene, generator)
            if part is not None:
                empty.append(part)
    return _block(faces), _block(empty)


def _aligned(picture: NDArray[np.uint8], landmarks: Points) -> NDArray[np.uint8]:
    """Return the face in the canonical frame, with a rim."""
    points = np.stack((landmarks[0], landmarks[1], landmarks[3:].mean(0))) @ np.array([1, 1j])
    canonical = CANONICAL @ np.array([1, 1j])
    spread = canonical - canonical.mean()
    # The map from the canonical picture to the scene, as PIL needs it.
    turn = np.vdot(spread, points - points.mean()) / np.vdot(spread, spread)
    start = points.mean() - turn * canonical.mean()
    side = SIDE + 2 * RIM
    image = Image.fromarray(picture)
    factor = abs(turn)
    if factor > 1:  # average pixels before skipping any
        size = (max(1, round(image.width / factor)), max(1, round(image.height / factor)))
        across, down = size[0] / image.width, size[1] / image.height
        image = image.resize(size, Image.Resampling.BOX)
    else:
        across, down = 1.0, 1.0
    # turn · (x + iy) + start, in the pixels of the (smaller) image.
    numbers = (
        *(turn.real * across, -turn.imag * across, start.real * across),
        *(turn.imag * down, turn.real * down, start.imag * down),
    )
    cut = image.transform((side, side), Image.Transform.AFFINE, numbers, Image.Resampling.BICUBIC)
    return np.asarray(cut, np.uint8)


def _part_without(scene: Scene, generator: np.random.Generator) -> NDArray[np.uint8] | None:
    """Return a random square part of the scene without a face; None after TRIES failed draws."""
    rows, columns = scene.picture.shape[:2]
    for _ in range(TRIES):
        side = int(np.exp(generator.uniform(np.log(16), np.log(0.9 * min(rows, columns)))))
        x, y = int(generator.integers(columns - side + 1)), int(generator.integers(rows - side + 1))
        if not _touches(scene.faces, x, y, side):
            part = Image.fromarray(scene.picture[y : y + side, x : x + side])
            full = SIDE + 2 * RIM
            method = Image.Resampling.BOX if side > full else Image.Resampling.BICUBIC
            return np.asarray(part.resize((full, full), method), np.uint8)
    return None


def _touches(faces: Faces, x: int, y: int, side: int) -> bool:
    left, top, right, bottom = faces.boxes.T
    return bool(((left < x + side) & (right > x) & (top < y + side) & (bottom > y)).any())


def _block(pictures: list[NDArray[np.uint8]]) -> Tensor:
    if not pictures:
        return torch.zeros(0, 3, SIDE + 2 * RIM, SIDE + 2 * RIM, dtype=torch.uint8)
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
