"""Degradations of a trial's photographs by name: `16`, `16:camera`, `16:jpeg-30`, …"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fasr_video.errors import UsageError
from fasr_video.evaluation.codec import through_h264, through_jpeg
from fasr_video.recognition.align import CANONICAL_SIDE
from fasr_video.recognition.embedder import as_tensor
from fasr_video.sr.degradation import enlarge, shrink
from fasr_video.sr.restoration import as_image
from fasr_video.sr.surveillance import Surveillance
from fasr_video.types import Image

SMALLEST, LARGEST = 4, 64
# Codecs with the range of their strength: the quality, the QP.
CODECS = {"jpeg": (1, 95), "h264": (0, 51)}
REMEDY = "write SIDE, SIDE:camera, SIDE:jpeg-QUALITY or SIDE:h264-QP, as 16:jpeg-30"


@dataclass(frozen=True, slots=True)
class Degradation:
    side: int
    """Side of the face in pixels, 4 to 64; the papers' ×8 is 16, their ×16 is 8."""
    kind: str = ""
    """camera, jpeg or h264; empty for the papers' own (antialiased bilinear)."""
    strength: int = 0

    def __str__(self) -> str:
        if not self.kind:
            return str(self.side)
        return f"{self.side}:{self.kind}" + (f"-{self.strength}" if self.kind in CODECS else "")

    def __call__(self, pictures: Sequence[Image], seeds: Sequence[int]) -> list[Image]:
        """Return 128×128 pictures as faces of `side` px; each depends on its own seed alone."""
        faces = as_tensor(pictures)
        if self.kind == "camera":
            return [
                as_image(face)
                for face in Surveillance(side=(self.side, self.side)).small(faces, seeds)
            ]
        small = [as_image(face) for face in shrink(faces, self.side)]
        if self.kind == "jpeg":
            return [through_jpeg(face, self.strength) for face in small]
        if self.kind == "h264":
            return [through_h264([face], self.strength)[0] for face in small]
        return small


def parse(text: str) -> Degradation:
    """Return the degradation of that name."""
    side, _, rest = text.partition(":")
    kind, dash, strength = rest.partition("-")
    try:
        degradation = Degradation(int(side), kind, int(strength) if dash else 0)
    except ValueError as error:
        raise UsageError(f"degradation {text}", "a number is missing", REMEDY) from error
    if not SMALLEST <= degradation.side <= LARGEST:
        raise UsageError(
            f"degradation {text}",
            f"a face has {SMALLEST} to {LARGEST} px here",
            "give another side",
        )
    low, high = CODECS.get(kind, (0, 0))
    if (
        kind not in ("", "camera", *CODECS)
        or bool(dash) != (kind in CODECS)
        or not low <= degradation.strength <= high
    ):
        raise UsageError(f"degradation {text}", "no such degradation", REMEDY)
    if kind == "h264" and (degradation.side % 2 or degradation.side < 16):
        raise UsageError(
            f"degradation {text}", "H.264 takes even sides from 16 px", "give such a side"
        )
    return degradation


def folder_name(degradation: Degradation | None) -> str:
    """Return the name of the folder for its faces, and for outputs made of them."""
    return "native" if degradation is None else str(degradation).replace(":", "-")


def enlarged(small: Sequence[Image]) -> list[Image]:
    """Return faces of any sizes as 128×128 pictures (bicubic), as recognisers take them."""
    return [as_image(enlarge(as_tensor([face]), CANONICAL_SIDE)[0]) for face in small]


def repeated(small: Image) -> Image:
    """Return the face at 128×128, with enlarged pixels and no interpolation."""
    rows = np.arange(CANONICAL_SIDE) * len(small) // CANONICAL_SIDE
    return np.asarray(small[rows[:, None], rows[None]], np.uint8)
