"""What a restorer is given and what it answers. Every method of `sr/methods/` has this shape."""

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

# Of the pictures that all methods but diffusion networks of another size make.
SIDE = 128
# Side in pixels below which a face says nothing.
SMALLEST = 8
# Of the sides of a picture that may still be cut to the square of a face.
LARGEST_RATIO = 1.25


@dataclass(frozen=True, slots=True)
class FaceInput:
    """One person's face as the camera saw it, with what is known beside it."""

    lr0: Image
    """The best face in the canonical frame at its own resolution, square."""
    auxiliaries: tuple[Image, ...] = ()
    """Other faces of the same person in the canonical frame, of any resolution."""
    feature: NDArray[np.float32] | None = None
    """The person's merged feature where it is known already; it stands before the auxiliaries."""
    lr_known: bool = True
    """False draws from the feature alone (y = 0), as in the papers' figure."""
    attributes: tuple[Attribute, ...] = ()
    """What is held of the person's face: said by the examiner, or read off its pictures."""
    subject: str = ""
    """Of a gallery, whose photographs the auxiliaries are; empty where they are the person's own from elsewhere."""


@dataclass(frozen=True, slots=True)
class Restoration:
    """A synthetic reconstruction: a lead, never proof."""

    picture: Image
    """S×S RGB: the mean of the samples."""
    samples: tuple[Image, ...]
    spread: NDArray[np.float32]
    """S×S: standard deviation of the samples in brightness levels of [0, 1], the mean of the colours; zeros for one."""
    method: str
    sampler: str
    """As `sr/sampling.py` names it; empty for methods that do not sample."""
    calls: int
    """Network calls for all samples."""
    seed: int
    model: str
    """SHA-256 of the network's weights; empty for bicubic."""
    feature: str
    """Where the feature came from: combiner, mean, given, fitted, own (the LR face's), or none."""
    warnings: tuple[str, ...]
    attributes: tuple[Attribute, ...] = ()
    """Those that it was drawn towards."""
    conditioned_on: str = ""
    """Subject of a gallery from whose photographs it was drawn: it looks like that one because of that."""


class Restorer(Protocol):
    name: str
    """Of its method, or that with a file's name after the colon."""

    def restore_all(
        self, probes: Sequence[FaceInput], samples: int, seeds: Sequence[int]
    ) -> list[Restoration]:
        """One answer a probe; each depends on its own probe and seed, never on the others."""
        ...

    def provenance(self) -> dict[str, object]:
        """Method, sampler and the hashes of all weights: with these, the same probe and seed give the same answer."""
        ...


def restore(restorer: Restorer, probe: FaceInput, samples: int, seed: int) -> Restoration:
    return restorer.restore_all([probe], samples, [seed])[0]


def pictures_of(drawn: Tensor) -> tuple[Image, tuple[Image, ...], NDArray[np.float32]]:
    """Return picture, samples and spread of N×3×S×S in [0, 1], the samples of one face."""
    spread = drawn.std(0).mean(0) if len(drawn) > 1 else torch.zeros(drawn.shape[-2:])
    return as_image(drawn.mean(0)), tuple(as_image(sample) for sample in drawn), spread.numpy()


def as_image(picture: Tensor) -> Image:
    """3×H×W in [0, 1] as RGB uint8."""
    return (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().cpu().numpy()


def unused_auxiliaries(name: str, probe: FaceInput) -> tuple[str, ...]:
    """Return the warning of a method without a feature, where there are auxiliary faces."""
    return (
        (f"method {name} takes no feature: the auxiliary faces were not used",)
        if probe.auxiliaries
        else ()
    )


def square_face(name: str, image: Image, smallest: int = SMALLEST) -> tuple[Image, tuple[str, ...]]:
    """The picture as a square face, and warnings; refuses what is no face-shaped crop."""
    height, width = image.shape[:2]
    short, long = sorted((height, width))
    if short < smallest:
        reason = f"{width}×{height} px, but a face needs {smallest}×{smallest} to say anything"
        raise InputError(name, reason, "choose a frame where the person is nearer")
    if long > LARGEST_RATIO * short:
        reason = f"{width}×{height} px is not the shape of a face crop"
        raise InputError(
            name, reason, "cut a square around the face, or use --align to have the face found"
        )
    if short == long:
        return image, ()
    top, left = (height - short) // 2, (width - short) // 2
    return image[top : top + short, left : left + short], (
        f"{width}×{height} px: cut to its middle square",
    )
