"""Draws people who do not exist, with the networks in the box.  Run: .venv/bin/python sample_videos/people.py

1. A person begins as a random feature. The super-resolution network draws a face from it with no LR face beside it, and
   the embedder says what that face is like: that is the person's feature from then on.
2. The face is brought down to 16 px, and drawn again from there and the feature: sharper, and still nobody.
3. What walks is another draw: from the same feature and the face brought down further, mirrored, moved, turned, and in
   another light.

Out of many, those are kept that a detector finds and that are least like each other; no choice looks at the clips. The
network in the box draws no faces in step 1 yet: it saw too few without an LR face (`train sr --no-lr` shows it more).
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from scene import HERE
from synthetic import PEOPLE
from torch import Tensor
from torch.nn import functional as F

from fasr_video.box import boxed
from fasr_video.pipeline.detect.builtin import BuiltinDetector
from fasr_video.recognition.embedder import BuiltinEmbedder
from fasr_video.sr import checkpoints, samplers, sampling
from fasr_video.sr.degradation import enlarge, shrink
from fasr_video.sr.denoiser import Condition, Denoiser
from fasr_video.sr.methods import as_image

CANDIDATES = 48
SEED = 2026
HOW = sampling.parse("dpmpp-15")
LOW, WALKING_LOW = 16, 14
MOVES = (  # of what walks: mirrored, turn in degrees, shift in pixels, size, gain
    (False, 3.0, (2.0, -1.5), 1.03, 0.92),
    (True, -4.0, (-2.0, 1.0), 0.98, 1.06),
)


class Artist:
    def __init__(self) -> None:
        self.denoiser: Denoiser = checkpoints.load(boxed("sr.safetensors"))
        self.embedder = BuiltinEmbedder()

    def draw(self, low: Tensor | None, features: Tensor, first_seed: int) -> Tensor:
        """N faces of 128 px from LR faces brought up to size, or from nothing but their features."""
        lr = torch.zeros(len(features), 3, 128, 128) if low is None else low
        noise = samplers.generators(range(first_seed, first_seed + len(features)))
        parts = [
            sampling.draw(self.denoiser, Condition(lr[i : i + 16], features[i : i + 16]), HOW, noise[i : i + 16])
            for i in range(0, len(features), 16)
        ]
        return torch.cat(parts)

    def feature(self, faces: Tensor) -> Tensor:
        return self.embedder.embed(faces)[0]


def low(faces: Tensor, side: int) -> Tensor:
    return enlarge(shrink(faces, side), 128)


def moved(faces: Tensor, mirrored: bool, turn: float, shift: tuple[float, float], size: float, gain: float) -> Tensor:
    angle = np.deg2rad(turn)
    cos, sin = np.cos(angle) / size, np.sin(angle) / size
    matrix = torch.tensor([[cos, -sin, -shift[0] / 64], [sin, cos, -shift[1] / 64]], dtype=torch.float32)
    source = faces.flip(-1) if mirrored else faces
    grid = F.affine_grid(matrix.expand(len(faces), 2, 3), list(faces.shape), align_corners=False)
    return (F.grid_sample(source, grid, padding_mode="border", align_corners=False) * gain).clamp(0, 1)


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
    artist, detector = Artist(), BuiltinDetector(boxed("detector.safetensors"), 0.5, "cpu")
    random = F.normalize(torch.randn(CANDIDATES, artist.denoiser.feature_length), dim=1)
    begun = artist.draw(None, random, SEED)
    features = artist.feature(low(begun, LOW))
    gallery = artist.draw(low(begun, LOW), features, SEED + 1000)
    features = artist.feature(gallery)
    able = [i for i in range(CANDIDATES) if is_found(detector, gallery[i])]
    print(f"{len(able)} of {CANDIDATES} candidates are seen as faces")
    kept = [able[i] for i in least_alike(features[able], len(PEOPLE))]
    gallery, features = gallery[kept], features[kept]
    walking = [
        artist.draw(low(moved(gallery, *move), WALKING_LOW), features, SEED + 2000 + 100 * k)
        for k, move in enumerate(MOVES)
    ]
    (HERE / "people").mkdir(exist_ok=True)
    for which, faces in (("gallery", gallery), ("walk-1", walking[0]), ("walk-2", walking[1])):
        for person, face in zip(PEOPLE, faces, strict=True):
            Image.fromarray(as_image(face)).save(HERE / "people" / f"{person.name}-{which}.png", optimize=True)
        if which != "gallery":
            scores = artist.feature(faces) @ artist.feature(gallery).T
            own = scores.diagonal()
            others = scores[~torch.eye(len(PEOPLE), dtype=torch.bool)]
            print(
                f"{which}: cosine to the person's own gallery face {own.min():.2f} to {own.max():.2f}, "
                f"to others' at most {others.max():.2f}"
            )


if __name__ == "__main__":
    main()
