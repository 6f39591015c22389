"""Pictures through real codecs and back, for tests of methods on recorded faces.

H.264 gets colours by BT.601 in full range, rounded. The default conversions of libswscale and
Pillow shift them by 1/255, which hides the codec's own effect at a low QP.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PilImage

from fasr_video.pictures import decoded
from fasr_video.types import Image

YCC = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])


def through_jpeg(image: Image, quality: int) -> Image:
    """Return the picture after JPEG at quality 1-95, with colours at half size."""
    if not 1 <= quality <= 95:
        raise ValueError(f"JPEG quality is from 1 to 95, not {quality}")
    file = io.BytesIO()
    PilImage.fromarray(image).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return decoded(file)


def through_h264(images: Sequence[Image], qp: int) -> list[Image]:
    """Return the pictures after H.264 (x264), as the frames of one video.

    They have one size with even sides. The first is an intra frame.
    """
    if not 0 <= qp <= 51:
        raise ValueError(f"QP is from 0 to 51, not {qp}")
    if not images:
        return []
    height, width = images[0].shape[:2]
    if any(image.shape != (height, width, 3) for image in images) or height % 2 or width % 2:
        raise ValueError("frames of a video are RGB, of one size, and of even height and width")
    encoder = av.VideoCodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuvj420p"
    encoder.framerate, encoder.thread_count = Fraction(25), 1
    # By default, x264 lowers the QP of intra frames by three (ipratio 1.4).
    encoder.options = {"qp": str(qp), "bf": "0", "x264-params": "ipratio=1.0:log-level=none"}
    decoder = av.VideoCodecContext.create("h264", "r")
    decoder.thread_type = "NONE"
    frames = [av.VideoFrame.from_ndarray(_planes(image), "yuvj420p") for image in images]
    for i, frame in enumerate(frames):
        frame.pts, frame.time_base = i, Fraction(1, 25)
    packets = [packet for frame in (*frames, None) for packet in encoder.encode(frame)]
    decoded = [frame for packet in (*packets, None) for frame in decoder.decode(packet)]
    return [_picture(frame.to_ndarray().astype(np.uint8, copy=False)) for frame in decoded]


def _planes(image: Image) -> NDArray[np.uint8]:
    """Return brightness, then two colours at half size: 3H/2×W, as in PyAV."""
    height, width = image.shape[:2]
    y, *colours = np.moveaxis(image @ YCC.T, -1, 0)
    halves = [
        colour.reshape(height // 2, 2, width // 2, 2).mean((1, 3)) + 128 for colour in colours
    ]
    planes = np.concatenate([plane.ravel() for plane in (y, *halves)])
    return planes.round().clip(0, 255).astype(np.uint8).reshape(-1, width)


def _picture(planes: NDArray[np.uint8]) -> Image:
    """Return the RGB picture of such planes."""
    width, height = planes.shape[1], planes.shape[0] * 2 // 3
    halves = planes[height:].reshape(2, height // 2, width // 2).astype(np.float32) - 128
    full = [
        PilImage.fromarray(half).resize((width, height), PilImage.Resampling.BILINEAR)
        for half in halves
    ]
    ycc = np.stack(
        [planes[:height].astype(np.float32), *(np.asarray(colour) for colour in full)], -1
    )
    rgb = ycc @ np.linalg.inv(YCC).T
    return np.asarray(rgb.round().clip(0, 255), np.uint8)
