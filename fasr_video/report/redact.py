"""Pixelate the faces of bystanders, so coarsely that no method can draw them again.

The other faces of a crop are known without a detector: every face that was found in a frame has a
row in the case.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fasr_video.case.case import Case
from fasr_video.case.tracks import Face, native_picture, other_boxes_in_frame
from fasr_video.types import Image

# Blocks along the longer side of a face. IDFSR rebuilds a face from 4 px.
BLOCKS = 3
# A box is widened by this share of its size on each side, for hair and ears outside of it.
MARGIN = 0.3

# x1, y1, x2, y2 in the picture's pixels.
Box = Sequence[float]


def pixelated(image: Image, others: Sequence[Box], own: Box | None = None) -> Image:
    """Return the picture with these faces in coarse blocks; the person's own box stays as it is."""
    covered = image.copy()
    for box in others:
        area = _inside(_widened(box), image)
        if area is not None:
            covered[area] = _blocks(image[area])
    if own is not None:
        area = _inside(own, image)
        if area is not None:
            covered[area] = image[area]
    return covered


def without_bystanders(case: Case, face: Face) -> Image:
    """Return the native crop of a kept face, with every other face of its frame pixelated."""
    corner = np.tile(face.corner, 2)
    others = [np.array(box) - corner for box in other_boxes_in_frame(case, face)]
    return pixelated(native_picture(case, face), others, np.array(face.box) - corner)


def pixelated_photograph(image: Image) -> Image:
    """Return a gallery's photograph, pixelated as a whole: it shows only one person."""
    return _blocks(image)


def _widened(box: Box) -> Box:
    x1, y1, x2, y2 = box
    across, down = MARGIN * (x2 - x1), MARGIN * (y2 - y1)
    return x1 - across, y1 - down, x2 + across, y2 + down


def _inside(box: Box, image: Image) -> tuple[slice, slice] | None:
    """Return the part of the box inside the image; None where there is none."""
    height, width = image.shape[:2]
    x1, y1 = (max(0, int(np.floor(v))) for v in box[:2])
    x2, y2 = min(width, int(np.ceil(box[2]))), min(height, int(np.ceil(box[3])))
    return (slice(y1, y2), slice(x1, x2)) if x1 < x2 and y1 < y2 else None


def _blocks(image: Image) -> Image:
    """Return the image in blocks of the mean colour."""
    side = -(-max(image.shape[:2]) // BLOCKS)
    covered = np.empty_like(image)
    for y in range(0, image.shape[0], side):
        for x in range(0, image.shape[1], side):
            part: NDArray[np.uint8] = image[y : y + side, x : x + side]
            covered[y : y + side, x : x + side] = part.mean((0, 1)).round()
    return covered
