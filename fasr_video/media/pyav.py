"""The default source of frames: PyAV (FFmpeg)."""

from __future__ import annotations

import re
import struct
from collections import deque
from collections.abc import Generator, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import av
import numpy as np
from av.sidedata.sidedata import SideData
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace

from fasr_video.errors import MediaError
from fasr_video.files import sha256_file
from fasr_video.media.reader import (
    FFMPEG_REMEDY,
    Frame,
    Losses,
    MediaInfo,
    Reader,
    Sampling,
    check_file,
)
from fasr_video.pictures import MOST_PIXELS
from fasr_video.types import FrameRef, Image

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.codeccontext import VideoCodecContext
    from av.video.stream import VideoStream


# Never set av.logging's level: its Python callback, called by a decoder's thread while this thread closes the
# decoder, waits for ever (PyAV 18).

# What may be opened: containers that hold their frames themselves. (Those of sound are there to be refused clearly.)
CONTAINERS = (
    *(
        "mov",
        "mp4",
        "matroska",
        "webm",
        "avi",
        "mpegts",
        "mpeg",
        "mpegvideo",
        "h264",
        "hevc",
        "obu",
        "ivf",
        "av1",
    ),
    *(
        "flv",
        "asf",
        "mxf",
        "ogg",
        "gif",
        "dv",
        "mjpeg",
        "m4v",
        "nut",
        "wtv",
        "dhav",
        "vc1",
        "rm",
        "yuv4mpegpipe",
    ),
    *("vobsub", "dvr-ms", "live_flv", "wav", "mp3", "aac", "flac"),
)
# Containers that keep no presentation times: frames come at the constant rate they declare.
CONSTANT_RATE = {"avi"}
# Errors while reading packets in a row after which the rest of the file is given up (and counted as missing).
READ_ATTEMPTS = 50

# Decoders that draw what leans on a missing picture onto grey and say nothing; the others hold it back.
DRAWS_ON_NOTHING = {"mpeg4", "msmpeg4", "msmpeg4v2", "h263", "flv", "wmv1", "wmv2"}
# Frames kept waiting for bad news: a decoder conceals the last few before the packet that it fails on.
HELD_BACK = 4
# Seconds that a declared length may exceed what is there before the file counts as cut off: containers round.
CUT_TOLERANCE = Fraction(1, 5)

_MATRIX = {1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020", 10: "bt2020"}
_COLORSPACE = {
    "bt709": Colorspace.ITU709,
    "fcc": Colorspace.FCC,
    "bt601": Colorspace.ITU601,
    "smpte240m": Colorspace.SMPTE240M,
    "bt2020": Colorspace.BT2020,
}
_HDR_TRANSFER = {16: "PQ", 18: "HLG"}
_IDENTITY = (1, 0, 0, 1)


class PyAvReader(Reader):
    """Frames of a video file with exact times.

    Errors are not concealed: the decoder is told to fail on damage (`err_detect=explode`), the failed packet is
    counted, and everything decoded after it is marked damaged until a keyframe that is surely younger than the damage.
    """

    def __init__(self, path: Path, assumed_fps: Fraction) -> None:
        super().__init__()
        check_file(path)
        self._path = path
        self._sha256 = sha256_file(path)  # before anything is decoded
        with self._open() as (container, stream):
            self._info = self._probe(container, stream, assumed_fps)

    def frames(self, sampling: Sampling, after: FrameRef | None = None) -> Generator[Frame]:
        self._losses = losses = Losses()
        info = self._info
        untimed = info.time_source == "assumed_fps"
        with self._open() as (container, stream):
            packets = _packets(container, stream, losses)
            index = 0
            if sampling.start and info.time_source == "pts":
                wanted = info.first_pts + int(sampling.start / info.time_base)
                index, packets = _skip_to(
                    packets, wanted, stream, self._first_shown, self._never_shown
                )
            before: Fraction | None = None
            last_pts: int | None = None
            complete = True
            # To go on after a frame, all before it is decoded again (not converted): only so are indexes, damage and
            # losses surely those of an unbroken run.
            passed = after is None
            for frame, damaged in _decode(packets, stream, losses):
                pts = index if untimed else frame.pts
                if pts is None:  # one frame without a time in a file that has times
                    losses.corrupt_packets += passed
                    index += 1
                    continue
                seconds = (pts - info.first_pts) * info.time_base
                if passed:
                    losses.time_jumps += last_pts is not None and pts <= last_pts
                    if sampling.is_past(seconds):
                        complete = False
                        break
                    losses.damaged_frames += damaged
                    if sampling.wants(index, seconds, before):
                        yield Frame(
                            FrameRef(info.sha256, index, pts, info.time_base),
                            self._to_rgb(frame),
                            damaged,
                        )
                elif after is not None and index == after.index:
                    passed = True
                    for (
                        kind
                    ) in Losses.__slots__:  # what came before was counted when it was first read
                        setattr(losses, kind, 0)
                before, last_pts = seconds, pts
                index += 1
            if not passed:
                raise MediaError(
                    info.path,
                    "it gives fewer frames than when it was first read",
                    "check the disk it is on",
                )
            if complete:
                losses.missing_frames += self._missing(index, last_pts)

    def scan(self) -> tuple[list[int | None], set[tuple[int, int]], Losses]:
        """Decode everything without converting a picture: times in display order, picture sizes, what was lost."""
        losses = Losses()
        times: list[int | None] = []
        sizes: set[tuple[int, int]] = set()
        with self._open() as (container, stream):
            for frame, damaged in _decode(_packets(container, stream, losses), stream, losses):
                times.append(frame.pts)
                sizes.add((frame.width, frame.height))
                losses.damaged_frames += damaged
        losses.missing_frames += self._missing(len(times), times[-1] if times else None)
        return times, sizes, losses

    def _missing(self, seen: int, last_pts: int | None) -> int:
        """Frames that the container declares, in number or in length, and did not give after the first one."""
        info = self._info
        if info.declared_frames is not None:
            return max(0, info.declared_frames - self._never_shown - seen)
        if (
            self._length is None
            or info.rate is None
            or last_pts is None
            or info.time_source != "pts"
        ):
            return 0
        absent = self._length - (last_pts - info.first_pts) * info.time_base - 1 / info.rate
        return int(absent * info.rate) if absent > CUT_TOLERANCE else 0

    def _open(self) -> _Opened:
        return _Opened(self._path)

    def _probe(
        self, container: InputContainer, stream: VideoStream, assumed_fps: Fraction
    ) -> MediaInfo:
        losses = Losses()
        first = next(
            (frame for frame, _ in _decode(_packets(container, stream, Losses()), stream, losses)),
            None,
        )
        if first is None:
            raise MediaError(self._path, "no frame in it could be decoded", FFMPEG_REMEDY)
        self._first_shown, self._never_shown = first.pts or 0, losses.missing_frames
        name = container.format.name
        rate = stream.average_rate or stream.guessed_rate
        if name in CONSTANT_RATE and rate:
            source, base, first_pts = "container", 1 / rate, first.pts or 0
        elif first.pts is not None and stream.time_base is not None:
            source, base, first_pts = "pts", stream.time_base, first.pts
        else:
            source, rate, base, first_pts = "assumed_fps", assumed_fps, 1 / assumed_fps, 0
        if source != "assumed_fps" and stream.start_time is not None:
            first_pts = min(
                first_pts, stream.start_time
            )  # it counts, should the first frames be destroyed
        self._orient = _display_matrix(first)
        self._length = _stream_length(stream)
        turned = self._orient[0] == 0
        duration = (
            stream.duration * stream.time_base if stream.duration and stream.time_base else None
        )
        if duration is None and container.duration:
            duration = Fraction(container.duration, 1_000_000)
        return MediaInfo(
            path=self._path,
            sha256=self._sha256,
            backend=f"pyav {av.__version__} (libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))})",
            container=name,
            codec=stream.codec_context.name,
            width=first.height if turned else first.width,
            height=first.width if turned else first.height,
            time_base=base,
            time_source=source,
            first_pts=first_pts,
            rate=rate,
            declared_frames=stream.frames - _hidden(self._path) if stream.frames else None,
            duration=duration if source != "assumed_fps" else None,
            orientation=_orientation_name(self._orient),
            pixel_format=first.format.name,
            colour=_colour(first)[2],
            interlaced=bool(first.interlaced_frame),
            pixel_aspect=stream.sample_aspect_ratio or Fraction(1),
        )

    def _to_rgb(self, frame: VideoFrame) -> Image:
        matrix, colour_range, _ = _colour(frame)
        if matrix is None:
            rgb = frame.reformat(format="rgb24")
        else:
            rgb = frame.reformat(
                format="rgb24",
                src_colorspace=_COLORSPACE[matrix],
                dst_colorspace=_COLORSPACE[matrix],
                src_color_range=colour_range,
                dst_color_range=ColorRange.JPEG,
            )
        return _upright(np.asarray(rgb.to_ndarray(), np.uint8), self._orient)


class _Opened:
    """A container and its video stream, opened so that nothing but the local file can be reached."""

    def __init__(self, path: Path) -> None:
        try:
            # Playlists, image patterns and odd names must not open anything but this file.
            options = {"protocol_whitelist": "file", "format_whitelist": ",".join(CONTAINERS)}
            self._container = av.open(
                f"file:{path.absolute()}", metadata_errors="replace", options=options
            )
        except av.error.FFmpegError as error:
            reason = f"not a video that FFmpeg can open ({error.strerror or error})"
            raise MediaError(path, reason, FFMPEG_REMEDY) from error
        streams = [
            s for s in self._container.streams.video if not s.disposition & Disposition.attached_pic
        ]
        if not streams:
            self._container.close()
            raise MediaError(path, "no video stream in it", "give a file with pictures")
        self._stream = streams[0]
        # PyAV's types do not say so: there is none where FFmpeg does not know the codec.
        context: VideoCodecContext | None = self._stream.codec_context
        if context is None:
            self._container.close()
            raise MediaError(path, "its codec is not one that FFmpeg knows", FFMPEG_REMEDY)
        # One thread: after an error, FFmpeg's frame threads refuse packets that one thread decodes.
        context.thread_type = "NONE"
        context.options = {"err_detect": "explode", "max_pixels": str(MOST_PIXELS)}

    def __enter__(self) -> tuple[InputContainer, VideoStream]:
        return self._container, self._stream

    def __exit__(self, *_: object) -> None:
        self._container.close()


def _packets(
    container: InputContainer, stream: VideoStream, losses: Losses
) -> Iterator[Packet[VideoStream]]:
    """Packets to the end of the file, the closing empty one included; unreadable stretches are counted."""
    failures = 0
    while True:
        try:
            for packet in container.demux(stream):
                failures = 0
                yield packet
            return
        except av.error.FFmpegError:
            losses.corrupt_packets += 1
            failures += 1
            if failures >= READ_ATTEMPTS:
                return
        except IndexError:
            # PyAV 18 at the end of an MPEG-TS whose damaged tables made streams appear: all packets were given.
            losses.corrupt_packets += 1
            return


def _skip_to(
    packets: Iterator[Packet[VideoStream]],
    wanted: int,
    stream: VideoStream,
    first_shown: int,
    never_shown: int,
) -> tuple[int, Iterator[Packet[VideoStream]]]:
    """Leave out, undecoded, the groups of pictures that end before time `wanted`.

    Returns the display index of the first frame that will come out, and the packets to decode. So many packets before
    the time that is shown first give no frame in a whole run either. Nothing is sought: seeking lands late in MPEG-TS,
    and reading packets costs next to nothing beside decoding them.
    """
    dropped = 0
    skipped = False
    held: list[Packet[VideoStream]] = []  # from the newest packet that decoding may start at

    def drop(left_out: list[Packet[VideoStream]]) -> None:
        nonlocal dropped, never_shown
        for packet in left_out:
            if (
                never_shown
                and packet.pts is not None
                and packet.pts < first_shown
                and not packet.is_discard
            ):
                never_shown -= 1
            else:
                dropped += not packet.is_discard

    for packet in packets:
        if (
            packet.is_keyframe
            and packet.pts is not None
            and packet.pts <= wanted
            and _may_start(packet, stream)
        ):
            drop(held)
            skipped |= bool(held)
            held.clear()
        held.append(packet)
        # A packet's pts is never before its dts, so past this point no frame up to `wanted` is still to come.
        if packet.dts is None or packet.dts > wanted:
            break
    start = held[0].pts if held else None
    if skipped and start is not None:
        # HEVC's leading pictures come after their keyframe and are shown before it; nothing shown later needs them.
        drop([p for p in held if p.pts is not None and p.pts < start])
        held = [p for p in held if p.pts is None or p.pts >= start]

    def rest() -> Iterator[Packet[VideoStream]]:
        yield from held
        yield from packets

    return dropped, rest()


def _may_start(keyframe: Packet[VideoStream], stream: VideoStream) -> bool:
    """Whether a decoder that fails on missing references gives right pictures from this keyframe on."""
    context = stream.codec_context
    if context.name == "hevc":
        return True
    if context.name != "h264":
        return context.reorder_depth == 0  # without B-frames every group is closed
    data = bytes(keyframe)  # H.264: only an IDR picture (NAL type 5) leaves the past behind
    if context.extradata and context.extradata[0] == 1:  # length-prefixed, as in MP4 and Matroska
        width, at = (context.extradata[4] & 3) + 1, 0
        while at + width < len(data):
            if data[at + width] & 31 == 5:
                return True
            at += width + int.from_bytes(data[at : at + width], "big")
        return False
    return any(
        data[m.end()] & 31 == 5 for m in re.finditer(b"\x00\x00\x01", data) if m.end() < len(data)
    )


def _decode(
    packets: Iterator[Packet[VideoStream]], stream: VideoStream, losses: Losses
) -> Iterator[tuple[VideoFrame, bool]]:
    """Decoded frames, each with whether it may lean on damaged data.

    Packets that give no frame because what they lean on lies before the file's begin are counted as missing.
    """
    context = stream.codec_context
    held: deque[tuple[VideoFrame, bool]] = (
        deque()
    )  # not yet given out: bad news may still come of them
    timed = stream.container.format.name not in CONSTANT_RATE
    slots: deque[int] = deque()  # untimed: the packets' places, which frames take in display order
    damaged, suspects = False, 0
    fed: list[_Fed] | None = []  # until the first frame comes out
    for packet in packets:
        failed = packet.is_corrupt
        frames: list[VideoFrame] = []
        try:
            frames = stream.decode(packet)
        except av.error.EOFError:
            break
        except av.error.FFmpegError:
            failed = True
        if not timed and not failed and packet.dts is not None and packet.size:
            slots.append(packet.dts)
        if fed is not None and packet.size and not packet.is_discard:
            fed.append(_Fed(packet.pts if timed else None, packet.dts, bool(packet.is_keyframe)))
        if fed and frames:
            lost = _never_shown(fed, frames[0])
            losses.missing_frames += len(lost)
            places = {packet.dts for packet in lost}
            slots = deque(slot for slot in slots if slot not in places)
            damaged |= context.name in DRAWS_ON_NOTHING and not frames[0].key_frame
            fed = None
        if failed or any(frame.is_corrupt for frame in frames):
            losses.corrupt_packets += 1
            # What was held back for reordering may be older or younger than the damage: it is all doubted, and a
            # keyframe among it heals nothing.
            held = deque((frame, True) for frame, _ in held)
            damaged, suspects = True, context.reorder_depth + 1
        for frame in frames:
            if damaged and frame.key_frame and suspects <= 0:
                damaged = False
            suspects -= 1
            if not timed:
                frame.pts = slots.popleft() if slots else None
            if (
                timed and frame.pts is not None
            ):  # frames come in display order: a later time before it is a wrong one
                held = deque(
                    (f, bad or (f.pts is not None and f.pts >= frame.pts)) for f, bad in held
                )
            held.append((frame, damaged))
        while len(held) > HELD_BACK:
            yield held.popleft()
    yield from held


class _Fed(NamedTuple):
    """A packet that the decoder was given."""

    pts: int | None
    dts: int | None
    is_keyframe: bool


def _never_shown(fed: list[_Fed], first: VideoFrame) -> list[_Fed]:
    """Of the packets given before the first frame came out, those that no frame will come of.

    Frames come in display order, so what is to be shown before the first one never is: it leaned on pictures that are
    not in the file. Without times it is what precedes the first keyframe, where that is what came out first.
    """
    if first.pts is not None and any(packet.pts is not None for packet in fed):
        return [packet for packet in fed if packet.pts is not None and packet.pts < first.pts]
    keyframe = next((k for k, packet in enumerate(fed) if packet.is_keyframe), 0)
    return fed[:keyframe] if first.key_frame else []


def _hidden(path: Path) -> int:
    """Packets that an edit list leaves out: stored, counted by the container, never shown."""
    with _Opened(path) as (container, stream):
        return sum(packet.is_discard for packet in _packets(container, stream, Losses()))


def _stream_length(stream: VideoStream) -> Fraction | None:
    """The pictures' own length in seconds, as Matroska's tags tell it (the container's may be that of its sound)."""
    tag = re.fullmatch(r"(\d+):(\d+):(\d+\.\d+)", stream.metadata.get("DURATION", "").strip())
    return None if tag is None else int(tag[1]) * 3600 + int(tag[2]) * 60 + Fraction(tag[3])


def _colour(frame: VideoFrame) -> tuple[str | None, ColorRange, str]:
    """(matrix or None for RGB and grey, range, description) for the conversion to RGB."""
    if frame.format.is_rgb or len(frame.format.components) < 3:
        return None, ColorRange.UNSPECIFIED, "none needed"
    matrix = _MATRIX.get(int(frame.colorspace))
    said = "declared"
    if matrix is None:
        matrix, said = ("bt709" if frame.height >= 720 else "bt601"), "assumed"
    full = frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")
    limited = frame.color_range == ColorRange.MPEG
    text = f"{matrix} ({said}), {'full' if full else 'limited'} range ({'declared' if full or limited else 'assumed'})"
    transfer = _HDR_TRANSFER.get(int(frame.color_trc))
    if transfer:
        text += f", {transfer} shown without tone mapping"
    return matrix, ColorRange.JPEG if full else ColorRange.MPEG, text


def _display_matrix(frame: VideoFrame) -> tuple[int, int, int, int]:
    """Signs (a, b, c, d) of the display matrix: x' = a·x + c·y, y' = b·x + d·y. Identity when there is none."""
    side_data = frame.side_data.get("DISPLAYMATRIX")
    if side_data is None:
        return _IDENTITY
    a, b, _, c, d = struct.unpack("<5i", bytes(cast(SideData, side_data))[:20])
    signs = (int(np.sign(a)), int(np.sign(b)), int(np.sign(c)), int(np.sign(d)))
    return signs if abs(signs[0] * signs[3] - signs[1] * signs[2]) == 1 else _IDENTITY


def _upright(image: Image, matrix: tuple[int, int, int, int]) -> Image:
    """Apply a display matrix of quarter turns and mirrors."""
    if matrix == _IDENTITY:
        return image
    a, b, c, d = matrix
    if a == 0:  # x and y change places
        image, a, d = image.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(image[::d, ::a])


def _orientation_name(matrix: tuple[int, int, int, int]) -> str:
    names = {
        (1, 0, 0, 1): "none",
        (0, 1, -1, 0): "rotated 90",
        (-1, 0, 0, -1): "rotated 180",
        (0, -1, 1, 0): "rotated 270",
    }
    return names.get(matrix, f"mirrored {matrix}")
