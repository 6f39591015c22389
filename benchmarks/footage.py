"""Long and large footage out of one clip of two people, for benchmarks."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import cv2
from av.video.reformatter import ColorRange, Colorspace

REPO = Path(__file__).parents[1]
SAMPLE = REPO / "tests" / "fixtures" / "portraits" / "corridor.mp4"
DATA = REPO.parent / "shared" / "data"


def find_data(given: Path) -> Path:
    if not given.exists():
        raise SystemExit(f"{given}: not there; give the data with --data")
    return given


def seconds_of(path: Path) -> float:
    """As the container says."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        if stream.duration and stream.time_base:
            return float(stream.duration * stream.time_base)
        return (container.duration or 0) / 1_000_000


def repeat(source: Path, path: Path, times: int) -> Path:
    """`source` over and over: its packets with shifted times, nothing decoded or encoded."""
    with av.open(str(source)) as given:
        stream = given.streams.video[0]
        packets = [(bytes(p), p.pts, p.dts, p.is_keyframe) for p in given.demux(stream) if p.size]
        length, base = stream.duration, stream.time_base
        assert length and base
        with av.open(str(path), "w") as out:
            target = out.add_stream_from_template(stream)
            target.time_base = base
            for turn in range(times):
                for data, pts, dts, key in packets:
                    packet = av.Packet(data)
                    packet.pts, packet.dts, packet.time_base = pts + turn * length, dts + turn * length, base
                    packet.is_keyframe, packet.stream = key, target
                    out.mux(packet)
    return path


def enlarge(source: Path, path: Path, width: int, height: int) -> Path:
    """`source` scaled and encoded once, as the sample clips are encoded."""
    with av.open(str(source)) as given, av.open(str(path), "w") as out:
        rate = given.streams.video[0].average_rate
        assert rate
        target = out.add_stream("libx264", rate=rate, options={"crf": "24", "preset": "medium"})
        target.width, target.height, target.pix_fmt = width, height, "yuv420p"
        target.time_base = target.codec_context.time_base = 1 / Fraction(rate)
        target.codec_context.gop_size = int(2 * rate)
        target.codec_context.colorspace = int(Colorspace.ITU709)
        target.codec_context.color_range = int(ColorRange.MPEG)
        for index, frame in enumerate(given.decode(video=0)):
            rgb = frame.to_ndarray(format="rgb24")
            large = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_CUBIC)
            picture = av.VideoFrame.from_ndarray(large, "rgb24").reformat(
                format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
            )
            picture.pts, picture.time_base = index, 1 / Fraction(rate)
            out.mux(target.encode(picture))
        out.mux(target.encode())
    return path
