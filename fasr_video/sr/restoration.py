"""The input and the output of a restorer, and the protocol that every method of `sr/methods/`
follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fasr_video.errors import InputError
from fasr_video.sr.attributes import Attribute
from fasr_video.types import Image

# Side in pixels of the pictures that methods make (a diffusion network may have another).
SIDE = 128
# Side in pixels of the smallest face that is reconstructed.
SMALLEST = 8
# Largest ratio of the sides of a picture that may be cropped to a square face.
LARGEST_RATIO = 1.25


@dataclass(frozen=True, slots=True)
class FaceInput:
    """One person's face as the camera saw it, and what else is known of the person."""

    lr0: Image
    """The best face in the canonical frame at its own resolution, square."""
    auxiliaries: tuple[Image, ...] = ()
    """Other faces of the same person in the canonical frame, of any resolution."""
    feature: NDArray[np.float32] | None = None
    """The person's merged feature, if it is already known; it takes precedence over the
    auxiliaries.
    """
    lr_known: bool = True
    """False: draw from the feature alone (y = 0), as in a figure of the papers."""
    attributes: tuple[Attribute, ...] = ()
    """Attributes of the face: given by the examiner, or read by a classifier."""
    subject: str = ""
    """The gallery subject of the auxiliaries; empty if they come from elsewhere."""


@dataclass(frozen=True, slots=True)
class Restoration:
    """A synthetic reconstruction: a lead, never proof."""

    picture: Image
    """S×S RGB: the mean of the samples."""
    samples: tuple[Image, ...]
    spread: NDArray[np.float32]
    """S×S: standard deviation of the samples, averaged over the colours, in [0, 1]; zeros for one
    sample.
    """
    method: str
    sampler: str
    """The sampler's name in `sr/sampling.py`; empty for methods that do not sample."""
    calls: int
    """Network calls for all samples."""
    seed: int
    model: str
    """SHA-256 of the network's weights; empty for bicubic."""
    feature: str
    """Where the feature came from: combiner, mean, given, fitted, own (the LR face's), or none."""
    warnings: tuple[str, ...]
    attributes: tuple[Attribute, ...] = ()
    """The attributes that guided the drawing."""
    conditioned_on: str = ""
    """The gallery subject whose photographs conditioned the picture, and so are like it."""


class Restorer(Protocol):
    name: str
    """The method's name; for PREFIX:FILE methods, the prefix and the file's name."""

    def restore_all(
        self, faces: Sequence[FaceInput], samples: int, seeds: Sequence[int]
    ) -> list[Restoration]:
        """Return one restoration a face; each depends on its own face and seed alone."""
        ...

    def provenance(self) -> dict[str, object]:
        """Return the method, the sampler and the hashes of all weights.

        With the same provenance, face and seed, the restoration is the same.
        """
        ...


def restore(restorer: Restorer, face: FaceInput, samples: int, seed: int) -> Restoration:
    return restorer.restore_all([face], samples, [seed])[0]


def pictures_of(drawn: Tensor) -> tuple[Image, tuple[Image, ...], NDArray[np.float32]]:
    """Return the picture, the samples and the spread of one face's samples, N×3×S×S in [0, 1]."""
    spread = drawn.std(0).mean(0) if len(drawn) > 1 else torch.zeros(drawn.shape[-2:])
    return as_image(drawn.mean(0)), tuple(as_image(sample) for sample in drawn), spread.numpy()


def as_image(picture: Tensor) -> Image:
    """Return a 3×H×W tensor in [0, 1] as an RGB uint8 image."""
    return (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().cpu().numpy()


def unused_auxiliaries(name: str, face: FaceInput) -> tuple[str, ...]:
    """Return a warning about auxiliary faces that a method without a feature ignores."""
    if not face.auxiliaries:
        return ()
    return (f"method {name} takes no feature: the auxiliary faces were not used",)


def square_face(name: str, image: Image, smallest: int = SMALLEST) -> tuple[Image, tuple[str, ...]]:
    """Return the picture cropped to a square, and warnings.

    Raise InputError where it is too small or not shaped like a face crop.
    """
    height, width = image.shape[:2]
    short, long = sorted((height, width))
    if short < smallest:
        reason = f"{width}×{height} px, but a face must have at least {smallest}×{smallest}"
        raise InputError(name, reason, "choose a frame where the person is nearer")
    if long > LARGEST_RATIO * short:
        reason = f"{width}×{height} px is not the shape of a face crop"
        raise InputError(
            name, reason, "cut a square around the face, or use --align to have the face found"
        )
    if short == long:
        return image, ()
    top = (height - short) // 2
    left = (width - short) // 2
    square = image[top : top + short, left : left + short]
    return square, (f"{width}×{height} px: cropped to the square in the middle",)
