"""Videos for tests: every frame shows its own number, so that a wrong frame is noticed."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray

WIDTH, HEIGHT, FRAMES = 320, 240, 100
BITS = 8
COLOURS = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200], [128, 128, 128], [230, 230, 230]])
_SPOTS = np.random.default_rng(0).integers(60, 200, (HEIGHT, WIDTH + 80, 3)).astype(np.uint8)
_TEXTURE = np.asarray(cv2.GaussianBlur(_SPOTS, (0, 0), 3), np.uint8)


def draw_frame(index: int) -> NDArray[np.uint8]:
    """Draw frame `index`: a moving texture, five colour patches, and its number in blocks."""
    image = np.ascontiguousarray(_TEXTURE[:, index % 80 : index % 80 + WIDTH])
    for i, colour in enumerate(COLOURS):
        image[0:30, i * 40 : i * 40 + 40] = colour
    for bit in range(BITS):
        image[200:240, bit * 40 : bit * 40 + 40] = 235 if (index >> bit) & 1 else 16
    return image


def read_number(image: NDArray[np.uint8]) -> int:
    """Return the number that a frame shows."""
    return sum(
        int(image[210:230, b * 40 + 10 : b * 40 + 30].mean() > 125) << b for b in range(BITS)
    )


def patch_colours(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the mean colours of the five patches."""
    return np.stack(
        [image[8:22, i * 40 + 10 : i * 40 + 30].reshape(-1, 3).mean(0) for i in range(len(COLOURS))]
    )


@dataclass(frozen=True)
class Recipe:
    name: str
    codec: str = "libx264"
    pixels: str = "yuv420p"
    format: str | None = None
    options: dict[str, str] = field(default_factory=dict)
    times: Sequence[int] | None = None
    """Milliseconds of each frame; None for a steady 25 a second."""
    matrix: Colorspace = Colorspace.ITU601
    full_range: bool = False
    gop: int = 25


def encode(path: Path, recipe: Recipe, frames: int = FRAMES) -> Path:
    """Encode frames of a recipe and return the path."""
    base = Fraction(1, 1000) if recipe.times else Fraction(1, 25)
    with av.open(str(path), "w", format=recipe.format) as container:
        stream = container.add_stream(recipe.codec, rate=25, options=recipe.options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, recipe.pixels
        stream.codec_context.gop_size = recipe.gop
        stream.time_base = stream.codec_context.time_base = base
        target_range = ColorRange.JPEG if recipe.full_range else ColorRange.MPEG
        stream.codec_context.color_range = int(target_range)
        stream.codec_context.colorspace = int(recipe.matrix)
        for i in range(frames):
            rgb = av.VideoFrame.from_ndarray(draw_frame(i), "rgb24")
            frame = rgb.reformat(
                format=recipe.pixels,
                dst_colorspace=recipe.matrix,
                src_color_range=ColorRange.JPEG,
                dst_color_range=target_range,
            )
            frame.pts, frame.time_base = (recipe.times[i] if recipe.times else i), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


# Encoders do not give the same bytes twice; damage is done to these, so that it is the same damage
# every time.
DAMAGEABLE = ("h264.mp4", "h264.mkv", "ts.ts")

VARIABLE_TIMES = np.cumsum(
    np.r_[0, np.random.default_rng(1).integers(20, 120, FRAMES - 1)]
).tolist()

GOOD = {
    "h264.mp4": Recipe("H.264"),
    "h264.mkv": Recipe("H.264 in Matroska"),
    "full_range.mp4": Recipe("full range", full_range=True, pixels="yuvj420p"),
    "bt709.mp4": Recipe("BT.709", matrix=Colorspace.ITU709),
    "hevc10.mp4": Recipe(
        "HEVC 10-bit",
        codec="libx265",
        pixels="yuv420p10le",
        options={"x265-params": "log-level=none"},
    ),
    "vfr.mp4": Recipe("variable rate", times=VARIABLE_TIMES),
    "vfr.mkv": Recipe("variable rate in Matroska", times=VARIABLE_TIMES),
    "ts.ts": Recipe("MPEG-TS", format="mpegts"),
    "interlaced.mp4": Recipe(
        "interlaced", options={"flags": "+ilme+ildct", "x264-params": "interlaced=1:tff=1"}
    ),
    "nopts.h264": Recipe("no pts", format="h264"),
    "b_frames.avi": Recipe("AVI with B-frames"),
    "open_gop.ts": Recipe(
        "open GOP", format="mpegts", options={"x264-params": "open-gop=1:bframes=3:b-adapt=0"}
    ),
    "mjpeg.avi": Recipe("MJPEG", codec="mjpeg", pixels="yuvj420p", full_range=True),
}


def expected_times(name: str) -> list[Fraction]:
    """Return the seconds of each frame after the first one."""
    times = GOOD[name].times if name in GOOD else None
    if times is None:
        return [Fraction(i, 25) for i in range(FRAMES)]
    return [Fraction(t - times[0], 1000) for t in times]


def rotate(source: Path, path: Path) -> Path:
    """Write the same MP4, to be shown rotated clockwise by 90 degrees."""
    data = bytearray(source.read_bytes())
    at = data.find(b"tkhd") + 44
    data[at : at + 36] = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, HEIGHT << 16, 0, 1 << 30)
    path.write_bytes(data)
    return path


def truncate(source: Path, path: Path, share: float = 0.6) -> Path:
    """Write the first part of a file."""
    data = source.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def drop_first_packets(
    source: Path, path: Path, packets: int = 10, format: str | None = None
) -> Path:
    """Write a video without its first packets, without encoding.

    A recorder's segment that begins between two keyframes is like that.
    """
    with av.open(str(source)) as whole, av.open(str(path), "w", format=format) as container:
        stream = container.add_stream_from_template(whole.streams.video[0])
        packets_left = [packet for packet in whole.demux(video=0) if packet.size][packets:]
        for packet in packets_left:
            packet.stream = stream
            container.mux(packet)
    return path


def flip_bits(source: Path, path: Path, seed: int, flips: int = 8) -> Path:
    """Write a file with single flipped bits in its middle."""
    rng = np.random.default_rng(seed)
    data = bytearray(source.read_bytes())
    for at in rng.integers(len(data) // 10, len(data) * 9 // 10, flips):
        data[at] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)
    return path


def write_audio(path: Path) -> Path:
    """Write a file without video."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        for i in range(20):
            samples = np.zeros((1, 1024), np.float32)
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, i * 1024
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def add_edit_list(source: Path, path: Path, skip_seconds: Fraction) -> Path:
    """Write the same MP4 with an edit list that starts it later, as phones do."""
    data = bytearray(source.read_bytes())
    at = data.find(b"elst")
    assert at > 0, "libavformat writes an edit list for files with B-frames"
    count = struct.unpack(">I", data[at + 8 : at + 12])[0]
    assert count == 1
    duration, start = struct.unpack(">Ii", data[at + 12 : at + 20])
    mdhd = data.find(b"mdhd")
    timescale = struct.unpack(">I", data[mdhd + 16 : mdhd + 20])[0]
    movie = struct.unpack(">I", data[data.find(b"mvhd") + 16 : data.find(b"mvhd") + 20])[0]
    data[at + 12 : at + 20] = struct.pack(
        ">Ii", duration - int(skip_seconds * movie), start + int(skip_seconds * timescale)
    )
    path.write_bytes(data)
    return path
