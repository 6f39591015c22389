"""Long, large and crowded footage out of one clip of two people and the sample people's heads, for
benchmarks.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray

REPO = Path(__file__).parents[1]
SAMPLE = REPO / "tests" / "fixtures" / "portraits" / "corridor.mp4"
DATA = REPO.parent / "shared" / "data"


def find_data(path: Path) -> Path:
    """Return the path, or stop if it does not exist."""
    if not path.exists():
        raise SystemExit(f"{path}: not there; give the data with --data")
    return path


def seconds_of(path: Path) -> float:
    """Return the length that the container declares."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        if stream.duration and stream.time_base:
            return float(stream.duration * stream.time_base)
        return (container.duration or 0) / 1_000_000


def size_of(path: Path) -> str:
    """Return the size of the picture: 640×480."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return f"{stream.width}×{stream.height}"


def repeat(source: Path, path: Path, times: int) -> Path:
    """Write the video's packets several times over, with shifted times and without encoding."""
    with av.open(str(source)) as original:
        stream = original.streams.video[0]
        packets = [
            (bytes(p), p.pts, p.dts, p.is_keyframe) for p in original.demux(stream) if p.size
        ]
        length, base = stream.duration, stream.time_base
        assert length and base
        with av.open(str(path), "w") as copy:
            target = copy.add_stream_from_template(stream)
            target.time_base = base
            for turn in range(times):
                for data, pts, dts, key in packets:
                    assert pts is not None and dts is not None
                    packet = av.Packet(data)
                    packet.pts, packet.dts, packet.time_base = (
                        pts + turn * length,
                        dts + turn * length,
                        base,
                    )
                    packet.is_keyframe, packet.stream = key, target
                    copy.mux(packet)
    return path


def enlarge(source: Path, path: Path, width: int, height: int) -> Path:
    """Write the video scaled, encoded as the sample clips are."""
    with av.open(str(source)) as original:
        rate = original.streams.video[0].average_rate
        assert rate
        frames = (frame.to_ndarray(format="rgb24") for frame in original.decode(video=0))
        larger = (
            np.asarray(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)
            for rgb in frames
        )
        return encode(larger, path, width, height, rate=Fraction(rate))


def encode(
    frames: Iterable[NDArray[np.uint8]], path: Path, width: int, height: int, *, rate: Fraction
) -> Path:
    """Encode the frames as H.264 and return the path."""
    with av.open(str(path), "w") as out:
        target = out.add_stream("libx264", rate=rate, options={"crf": "24", "preset": "medium"})
        target.width, target.height, target.pix_fmt = width, height, "yuv420p"
        target.time_base = target.codec_context.time_base = 1 / rate
        target.codec_context.gop_size = int(2 * rate)
        target.codec_context.colorspace = int(Colorspace.ITU709)
        target.codec_context.color_range = int(ColorRange.MPEG)
        for index, rgb in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(rgb, "rgb24").reformat(
                format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
            )
            picture.pts, picture.time_base = index, 1 / rate
            out.mux(target.encode(picture))
        out.mux(target.encode())
    return path


def write_crowd(path: Path, width: int, height: int, faces: int, *, seconds: float) -> Path:
    """Write heads that sway in front of a grey wall; a face has two fifths of its cell's height."""
    return encode(
        _draw_crowd(width, height, faces, round(25 * seconds)),
        path,
        width,
        height,
        rate=Fraction(25),
    )


def _draw_crowd(width: int, height: int, faces: int, frames: int) -> Iterator[NDArray[np.uint8]]:
    sys.path.insert(0, str(REPO / "sample_videos"))
    from make import PEOPLE, head
    from scene import CutOut

    heads = [CutOut(head(person, which)) for which in ("walk-1", "walk-2") for person in PEOPLE]
    rng = np.random.default_rng(0)
    wall = cv2.GaussianBlur(rng.normal(120, 60, (height, width, 3)).astype(np.float32), (0, 0), 4)
    columns = max(1, round((faces * width / height) ** 0.5))
    rows = -(-faces // columns)
    cell = np.array((width / columns, height / rows))
    phases = rng.uniform(0, 2 * np.pi, (faces, 2))
    for index in range(frames):
        picture = wall.copy()
        for i in range(faces):
            centre = (np.array((i % columns, i // columns)) + 0.5) * cell
            centre += 0.12 * cell * np.sin(phases[i] + index / 12)
            side = 0.4 * min(cell.min(), 300)
            # Only around the head: it is no more than three of its faces high and wide.
            left, top = (max(0, int(v - 1.5 * side)) for v in centre)
            part = picture[top : int(centre[1] + 1.5 * side), left : int(centre[0] + 1.5 * side)]
            in_part = centre - (left, top)
            layer, _ = heads[i % len(heads)].place(
                part.shape[:2], (in_part[0], in_part[1]), side, 0.0, mirror=False
            )
            part[:] = part * (1 - layer[..., 3:] / 255) + layer[..., :3]
        yield np.clip(picture, 0, 255).astype(np.uint8)


def write_quiet_room(folder: Path, seconds: float) -> None:
    """Write the sample entrance with its truth; a person comes in after three quarters."""
    sys.path.insert(0, str(REPO / "sample_videos"))
    from make import DARIA, clips, head
    from scene import Walk, between, write_all

    def x(second: float) -> float:
        return between(second, 0.75 * seconds, seconds, -4.6, b=0.4)

    walk = Walk(DARIA, head(DARIA, "walk-1"), x, lambda second: 4.8, False, 0.0)
    (entrance,) = (clip for clip in clips() if clip.name == "entrance")
    write_all([replace(entrance, name="quiet", seconds=seconds, walks=(walk,))], folder)
