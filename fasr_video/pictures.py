"""Picture files: their size is known before a pixel of them is decoded, whoever wrote them."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image as PilImage

from fasr_video.files import open_regular
from fasr_video.types import Image

# That are read. In others (ICO, PSD, …) what is decoded may be larger than what the head says.
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "GIF", "AVIF", "JPEG2000")
# Of a frame: 8K, as codecs pad it. What is larger is refused before it is decoded.
MOST_PIXELS = 8192 * 4352
# Pixels of a face in the canonical frame, of whatever side.
MOST_OF_A_FACE = 1 << 20
# Pixels; one larger than a frame may be is shrunk to that when it is read.
MOST_OF_A_PHOTOGRAPH = 1 << 27
LONGEST_SIDE = 16384
# Pillow's ways of saying that it is no picture, or a bomb; and ours.
UNREADABLE = (OSError, ValueError, SyntaxError, PilImage.DecompressionBombError)

PilImage.MAX_IMAGE_PIXELS = (
    MOST_OF_A_PHOTOGRAPH  # no warnings below our own limits, which are looked at first
)


@contextmanager
def opened(source: Path | bytes | BinaryIO, most: int = MOST_PIXELS) -> Iterator[PilImage.Image]:
    """Open a picture of which the head alone was read.

    Raise one of UNREADABLE where it is none, or has more pixels.
    """
    with ExitStack() as stack:
        if isinstance(source, Path):
            file: BinaryIO = stack.enter_context(open_regular(source))
        else:
            file = io.BytesIO(source) if isinstance(source, bytes) else source
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PilImage.DecompressionBombWarning)
            picture = stack.enter_context(PilImage.open(file, formats=FORMATS))
        width, height = picture.size
        if width * height > most or max(width, height) > LONGEST_SIDE:
            raise ValueError(
                f"{width}×{height} px are more than {most}, or than {LONGEST_SIDE} a side"
            )
        yield picture


def decoded(source: Path | bytes | BinaryIO, most: int = MOST_PIXELS) -> Image:
    """Return the pixels of a picture. Raises as `opened` does."""
    with opened(source, most) as picture:
        return np.asarray(picture.convert("RGB"))
