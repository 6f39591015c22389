"""Draws people who do not exist.  Run: .venv/bin/python sample_videos/people.py FACES.tar

1. A person begins as 16×16 pixels: a draw from the Gaussian whose mean and first principal components are those of
   FACES at that size. Nobody's picture goes into it; what thousands have in common does.
2. The embedder says what that face is like, and the bundled super-resolution network draws a face of 128 px from
   both. Its feature is the person's from then on.
3. What walks is another draw: from the same feature and the face brought down further, mirrored, moved, turned, and in
   another light.

Out of many, those are kept that a detector finds and that are least like each other; no choice looks at the clips.
FACES is asked who comes nearest to the people that are kept.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from make import HERE, PEOPLE
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from fasr_video.datasets.faces import Faces, read_faces, views
from fasr_video.detection.builtin import BuiltinDetector
from fasr_video.recognition.embedder import BuiltinEmbedder
from fasr_video.sr import checkpoints, samplers, sampling
from fasr_video.sr.degradation import enlarge, shrink
from fasr_video.sr.denoiser import Condition, Denoiser
from fasr_video.sr.restoration import as_image
from fasr_video.weights.manifest import bundled

CANDIDATES = 48
SEED = 2026
HOW = sampling.parse("dpmpp-15")
SAMPLES = 4
"""A face is the mean of so many: smoother than one of them, and nearer to what the feature says."""
COMPONENTS, STRENGTH = 60, 0.9
"""Of the Gaussian: how many, and what share of their spread."""
LOW, WALKING_LOW = 16, 14
MOVES: tuple[dict[str, Any], ...] = (  # of what walks; turns are in degrees, shifts in pixels
    {"mirrored": False, "turn": 3.0, "shift": (2.0, -1.5), "size": 1.03, "gain": 0.92},
    {"mirrored": True, "turn": -4.0, "shift": (-2.0, 1.0), "size": 0.98, "gain": 1.06},
)


class Artist:
    def __init__(self) -> None:
        self.denoiser: Denoiser = checkpoints.load(bundled("sr.safetensors"))
        self.embedder = BuiltinEmbedder()

    def draw(self, low: Tensor, features: Tensor, first_seed: int) -> Tensor:
        """N faces of 128 px from LR faces brought up to size and their features."""
        rows = torch.arange(len(low)).repeat_interleave(SAMPLES)
        noise = samplers.generators([first_seed + i for i in range(len(rows))])
        parts = [
            sampling.draw(
                self.denoiser, Condition(low[some], features[some]), HOW, noise[i : i + 16]
            )
            for i, some in ((i, rows[i : i + 16]) for i in range(0, len(rows), 16))
        ]
        return torch.cat(parts).unflatten(0, (len(low), SAMPLES)).mean(1)

    def feature(self, faces: Tensor) -> Tensor:
        return self.embedder.embed(faces)[0]


def low(faces: Tensor, side: int) -> Tensor:
    return enlarge(shrink(faces, side), 128)


def low_faces(faces: Faces, count: int) -> Tensor:
    """Draws from the Gaussian of `faces` at LOW pixels, brought up to 128."""
    none = torch.Generator()
    small = torch.cat(
        [shrink(views(part, 128, False, none), LOW) for part in faces.pictures.split(256)]
    ).flatten(1)
    mean = small.mean(0)
    _, strengths, ways = torch.linalg.svd(small - mean, full_matrices=False)
    spread = STRENGTH * strengths[:COMPONENTS] / len(small) ** 0.5
    drawn = mean + torch.randn(count, COMPONENTS) * spread @ ways[:COMPONENTS]
    return enlarge(drawn.unflatten(1, (3, LOW, LOW)).clamp(0, 1), 128)


def nearest(artist: Artist, faces: Faces, features: Tensor) -> float:
    """Highest cosine of any of `faces` with any of the features."""
    none = torch.Generator()
    known = torch.cat(
        [artist.feature(views(part, 128, False, none)) for part in faces.pictures.split(256)]
    )
    return float((known @ features.T).max())


def moved(
    faces: Tensor,
    *,
    mirrored: bool,
    turn: float,
    shift: tuple[float, float],
    size: float,
    gain: float,
) -> Tensor:
    angle = np.deg2rad(turn)
    cos, sin = np.cos(angle) / size, np.sin(angle) / size
    matrix = torch.tensor(
        [[cos, -sin, -shift[0] / 64], [sin, cos, -shift[1] / 64]], dtype=torch.float32
    )
    source = faces.flip(-1) if mirrored else faces
    grid = F.affine_grid(matrix.expand(len(faces), 2, 3), list(faces.shape), align_corners=False)
    return (F.grid_sample(source, grid, padding_mode="border", align_corners=False) * gain).clamp(
        0, 1
    )


def least_alike(features: Tensor, count: int) -> list[int]:
    """Rows that are far from each other, the first two farthest, each next farthest from those before it."""
    scores = features @ features.T
    chosen = [int(i) for i in np.unravel_index(int(scores.argmin()), scores.shape)]
    while len(chosen) < count:
        nearest = scores[:, chosen].max(1).values
        nearest[chosen] = 2.0
        chosen.append(int(nearest.argmin()))
    return chosen


def is_found(detector: BuiltinDetector, face: Tensor) -> bool:
    """Whether the detector sees one face in the picture, with a rim around it, at a camera's size."""
    wide = F.pad(face[None], (64, 64, 64, 64), mode="replicate")[0]
    small = shrink(wide[None], 96)[0]
    return len(detector.detect([np.ascontiguousarray(as_image(small))])[0].boxes) == 1


def main() -> None:
    torch.manual_seed(SEED)
    faces, _ = read_faces([Path(sys.argv[1])])
    artist, detector = Artist(), BuiltinDetector(bundled("detector.safetensors"), 0.5, "cpu")
    begun = low_faces(faces, CANDIDATES)
    gallery = artist.draw(begun, artist.feature(begun), SEED)
    features = artist.feature(gallery)
    able = [i for i in range(CANDIDATES) if is_found(detector, gallery[i])]
    print(f"{len(able)} of {CANDIDATES} candidates are seen as faces")
    kept = [able[i] for i in least_alike(features[able], len(PEOPLE))]
    gallery, features = gallery[kept], features[kept]
    print(f"nearest of {len(faces)} faces: cosine {nearest(artist, faces, features):.2f}")
    walking = [
        artist.draw(low(moved(gallery, **move), WALKING_LOW), features, SEED + 10_000 * (k + 1))
        for k, move in enumerate(MOVES)
    ]
    (HERE / "people").mkdir(exist_ok=True)
    for which, drawn in (("gallery", gallery), ("walk-1", walking[0]), ("walk-2", walking[1])):
        for person, face in zip(PEOPLE, drawn, strict=True):
            Image.fromarray(as_image(face)).save(
                HERE / "people" / f"{person.name}-{which}.png", optimize=True
            )
        if which != "gallery":
            scores = artist.feature(drawn) @ artist.feature(gallery).T
            own = scores.diagonal()
            others = scores[~torch.eye(len(PEOPLE), dtype=torch.bool)]
            print(
                f"{which}: cosine to the person's own gallery face {own.min():.2f} to {own.max():.2f}, "
                f"to others' at most {others.max():.2f}"
            )


if __name__ == "__main__":
    main()
