"""Pictures through real codecs and back, to see what a method makes of what recorders leave.

Colours are BT.601 in full range, as JFIF has them, by Pillow in both directions: libswscale's default conversion alone
costs 3/255 (root mean square), more than the codec does below QP 20.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PilImage

from fasr_video.types import Image


def through_jpeg(image: Image, quality: int) -> Image:
    """As JPEG leaves it at quality 1-95, colours at half the size."""
    if not 1 <= quality <= 95:
        raise ValueError(f"JPEG quality is from 1 to 95, not {quality}")
    file = io.BytesIO()
    PilImage.fromarray(image).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return np.array(PilImage.open(file))


def through_h264(images: Sequence[Image], qp: int) -> list[Image]:
    """As H.264 (x264) leaves them, as the frames of one video, all of one even size; the first is an intra frame."""
    if not 0 <= qp <= 51:
        raise ValueError(f"QP is from 0 to 51, not {qp}")
    if not images:
        return []
    height, width = images[0].shape[:2]
    if any(image.shape != (height, width, 3) for image in images) or height % 2 or width % 2:
        raise ValueError("frames of a video are RGB, of one size, and of even height and width")
    import av

    encoder = av.VideoCodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuvj420p"
    encoder.framerate, encoder.thread_count = Fraction(25), 1
    # x264 gives intra frames a QP lower by three (ipratio 1.4) unless told otherwise.
    encoder.options = {"qp": str(qp), "bf": "0", "x264-params": "ipratio=1.0:log-level=none"}
    decoder = av.VideoCodecContext.create("h264", "r")
    decoder.thread_type = "NONE"
    frames = [av.VideoFrame.from_ndarray(_planes(image), "yuvj420p") for image in images]
    for i, frame in enumerate(frames):
        frame.pts, frame.time_base = i, Fraction(1, 25)
    packets = [packet for frame in (*frames, None) for packet in encoder.encode(frame)]
    decoded = [frame for packet in (*packets, None) for frame in decoder.decode(packet)]
    return [_picture(frame.to_ndarray()) for frame in decoded]


def _planes(image: Image) -> NDArray[np.uint8]:
    """Brightness, then two colours of half the size, 3H/2×W as PyAV lays them out."""
    y, *colours = PilImage.fromarray(image).convert("YCbCr").split()
    planes = [np.array(plane).ravel() for plane in (y, *(colour.reduce(2) for colour in colours))]
    return np.concatenate(planes).reshape(-1, y.width)


def _picture(planes: NDArray[np.uint8]) -> Image:
    width, height = planes.shape[1], planes.shape[0] * 2 // 3
    colours = planes[height:].reshape(2, height // 2, width // 2)
    full = [PilImage.fromarray(c).resize((width, height), PilImage.Resampling.BILINEAR) for c in colours]
    return np.array(PilImage.merge("YCbCr", [PilImage.fromarray(planes[:height]), *full]).convert("RGB"))
