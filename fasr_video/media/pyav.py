"""The default source of frames: PyAV (FFmpeg)."""

from __future__ import annotations

import re
import struct
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import av
import numpy as np
from av.sidedata.sidedata import SideData
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace

from fasr_video.errors import MediaError
from fasr_video.files import PICTURES, sha256_file
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


# Never set av.logging's level: if a decoder's thread calls its Python callback while this thread
# closes the decoder, both wait for ever (PyAV 18).

# Containers that may be opened: they hold their frames themselves. Those of sound are among them,
# so that the error about them is clear.
CONTAINERS = (
    "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,h264,hevc,obu,ivf,av1,flv,asf,mxf,ogg,gif,dv,"
    "mjpeg,m4v,nut,wtv,dhav,vc1,rm,yuv4mpegpipe,vobsub,dvr-ms,live_flv,wav,mp3,aac,flac"
)
# Containers without presentation times: frames come at the constant rate that they declare.
CONSTANT_RATE = {"avi"}
# Errors in a row while reading packets, after which the rest of the file counts as missing.
READ_ATTEMPTS = 50

# Decoders that draw frames with a missing reference onto grey; other decoders hold them back.
DRAWS_WITHOUT_REFERENCE = {"mpeg4", "msmpeg4", "msmpeg4v2", "h263", "flv", "wmv1", "wmv2"}
# Frames that wait before they are yielded: a decoder conceals damage in the last few frames before
# the packet that it fails on.
HELD_BACK = 4
# Seconds by which the declared length may exceed the frames: containers round it.
LENGTH_TOLERANCE = Fraction(1, 5)

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

    Damage is not concealed: the decoder has to fail on it (`err_detect=explode`), the failed packet
    is counted, and all frames after it are marked as damaged until a keyframe that surely comes
    after the damage.
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
        has_times = info.time_source != "assumed_fps"
        with self._open() as (container, stream):
            packets = _packets(container, stream, losses)
            index = 0
            if sampling.start and info.time_source == "pts":
                start = info.first_pts + int(sampling.start / info.time_base)
                index, packets = _skip_to(
                    packets, start, stream, self._first_shown, never_shown=self._never_shown
                )
            before: Fraction | None = None
            last_pts: int | None = None
            reached_end = True
            # To resume after a frame, all frames before it are decoded again (not converted). Only
            # then are indexes, damage and losses surely those of an unbroken run.
            resumed = after is None
            for frame, damaged in _decode(packets, stream, losses):
                pts = frame.pts if has_times else index
                if pts is None:  # a frame without a time in a file that has times
                    losses.corrupt_packets += resumed
                    index += 1
                    continue
                seconds = (pts - info.first_pts) * info.time_base
                if resumed:
                    losses.time_jumps += last_pts is not None and pts <= last_pts
                    if sampling.is_past(seconds):
                        reached_end = False
                        break
                    losses.damaged_frames += damaged
                    if sampling.wants(index, seconds, before):
                        ref = FrameRef(info.sha256, index, pts, info.time_base)
                        yield Frame(ref, self._to_rgb(frame), damaged)
                elif after is not None and index == after.index:
                    resumed = True
                    losses.reset()  # earlier losses were counted in the earlier run
                before = seconds
                last_pts = pts
                index += 1
            if not resumed:
                reason = "it has fewer frames than when it was first read"
                raise MediaError(info.path, reason, "check the disk that it is on")
            if reached_end:
                losses.missing_frames += self._missing(index, last_pts)

    def scan(self) -> tuple[list[int | None], set[tuple[int, int]], Losses]:
        """Decode all frames without converting them.

        Return the times in display order, the sizes of the pictures, and the losses.
        """
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

    def _missing(self, frames: int, last_pts: int | None) -> int:
        """Return how many frames are missing, by the number or the length that is declared."""
        info = self._info
        if info.declared_frames is not None:
            return max(0, info.declared_frames - self._never_shown - frames)
        if last_pts is None or self._length is None or info.rate is None:
            return 0
        if info.time_source != "pts":
            return 0
        missing = self._length - (last_pts - info.first_pts) * info.time_base - 1 / info.rate
        return int(missing * info.rate) if missing > LENGTH_TOLERANCE else 0

    def _open(self) -> _Opened:
        return _Opened(self._path)

    def _probe(
        self, container: InputContainer, stream: VideoStream, assumed_fps: Fraction
    ) -> MediaInfo:
        """Decode the first frame, and return the facts about the file."""
        losses = Losses()
        decoded = _decode(_packets(container, stream, Losses()), stream, losses)
        first = next((frame for frame, _ in decoded), None)
        if first is None:
            raise MediaError(self._path, "no frame in it could be decoded", FFMPEG_REMEDY)
        self._first_shown = first.pts or 0
        self._never_shown = losses.missing_frames
        self._orient = _display_matrix(first)
        self._length = _stream_length(stream)
        is_turned = self._orient[0] == 0
        times = _times(container, stream, first, assumed_fps)
        libavcodec = ".".join(map(str, av.library_versions["libavcodec"]))
        return MediaInfo(
            path=self._path,
            sha256=self._sha256,
            backend=f"pyav {av.__version__} (libavcodec {libavcodec})",
            container=container.format.name,
            codec=stream.codec_context.name,
            width=first.height if is_turned else first.width,
            height=first.width if is_turned else first.height,
            time_base=times.base,
            time_source=times.source,
            first_pts=times.first_pts,
            rate=times.rate,
            declared_frames=stream.frames - _hidden(self._path) if stream.frames else None,
            duration=times.duration,
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


class _Times(NamedTuple):
    """How the times of a file are to be read."""

    source: str
    """`pts`, `container` or `assumed_fps`: see `MediaInfo`."""
    base: Fraction
    first_pts: int
    rate: Fraction | None
    duration: Fraction | None


def _times(
    container: InputContainer, stream: VideoStream, first: VideoFrame, assumed_fps: Fraction
) -> _Times:
    rate = stream.average_rate or stream.guessed_rate
    if container.format.name in CONSTANT_RATE and rate:
        source, base, first_pts = "container", 1 / rate, first.pts or 0
    elif first.pts is not None and stream.time_base is not None:
        source, base, first_pts = "pts", stream.time_base, first.pts
    else:
        return _Times("assumed_fps", 1 / assumed_fps, 0, assumed_fps, None)
    if stream.start_time is not None:
        first_pts = min(first_pts, stream.start_time)  # the first frames may be destroyed
    duration = None
    if stream.duration and stream.time_base:
        duration = stream.duration * stream.time_base
    elif container.duration:
        duration = Fraction(container.duration, 1_000_000)
    return _Times(source, base, first_pts, rate, duration)


class _Opened:
    """A container and its video stream; no other file and no address can be opened by them."""

    def __init__(self, path: Path) -> None:
        try:
            # Playlists, image patterns and special names must not open any other file.
            options = {"protocol_whitelist": "file", "format_whitelist": CONTAINERS}
            self._container = av.open(
                f"file:{path.absolute()}", metadata_errors="replace", options=options
            )
        except av.error.FFmpegError as error:
            raise _not_a_video(path, error) from error
        streams = [
            s for s in self._container.streams.video if not s.disposition & Disposition.attached_pic
        ]
        if not streams:
            self._container.close()
            raise MediaError(path, "there is no video stream in it", "give a file with pictures")
        self._stream = streams[0]
        # It is None if FFmpeg does not know the codec, which PyAV's types do not show.
        context: VideoCodecContext | None = self._stream.codec_context
        if context is None:
            self._container.close()
            raise MediaError(path, "FFmpeg does not know its codec", FFMPEG_REMEDY)
        # With several threads FFmpeg refuses packets after an error that one thread can decode.
        context.thread_type = "NONE"
        context.options = {"err_detect": "explode", "max_pixels": str(MOST_PIXELS)}

    def __enter__(self) -> tuple[InputContainer, VideoStream]:
        return self._container, self._stream

    def __exit__(self, *_: object) -> None:
        self._container.close()


def _not_a_video(path: Path, error: av.error.FFmpegError) -> MediaError:
    if path.suffix.lower() in PICTURES:
        remedy = "put pictures into a folder and give that, or use fasr-video sr"
        return MediaError(path, "a picture, not a video", remedy)
    remedy = "if a player can show it, convert it: ffmpeg -i IN -c:v libx264 OUT.mp4"
    return MediaError(path, f"not a video (FFmpeg: {error.strerror or error})", remedy)


def _packets(
    container: InputContainer, stream: VideoStream, losses: Losses
) -> Iterator[Packet[VideoStream]]:
    """Yield packets to the end of the file, with the empty last one; count unreadable parts."""
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
            # PyAV 18 raises this at the end of an MPEG-TS if damaged tables made streams appear.
            # All packets were read by then.
            losses.corrupt_packets += 1
            return


@dataclass(slots=True)
class _SkippedFrames:
    """Counts the frames of skipped packets, without those that a full run shows neither."""

    first_shown: int
    never_shown: int
    count: int = 0

    def add(self, packets: list[Packet[VideoStream]]) -> None:
        for packet in packets:
            if packet.is_discard:
                continue
            if self.never_shown and packet.pts is not None and packet.pts < self.first_shown:
                self.never_shown -= 1
            else:
                self.count += 1


def _skip_to(
    packets: Iterator[Packet[VideoStream]],
    start: int,
    stream: VideoStream,
    first_shown: int,
    *,
    never_shown: int,
) -> tuple[int, Iterator[Packet[VideoStream]]]:
    """Skip, without decoding, the groups of pictures that end before the time `start`.

    Return the display index of the first frame that will come, and the packets to decode.
    `never_shown` is the number of packets before the time `first_shown` that give no frame in a
    full run either. The file is read from its beginning: seeking is inexact in MPEG-TS, and reading
    packets takes almost no time compared with decoding.
    """
    skipped = _SkippedFrames(first_shown, never_shown)
    has_skipped = False
    held: list[Packet[VideoStream]] = []  # from the last packet that decoding may start at
    for packet in packets:
        is_before_start = packet.pts is not None and packet.pts <= start
        if packet.is_keyframe and is_before_start and _may_start(packet, stream):
            skipped.add(held)
            has_skipped |= bool(held)
            held.clear()
        held.append(packet)
        # The pts of a packet is never before its dts: no frame up to `start` can follow.
        if packet.dts is None or packet.dts > start:
            break
    first_pts = held[0].pts if held else None
    if has_skipped and first_pts is not None:
        # HEVC's leading pictures follow their keyframe but are shown before it. No later picture
        # depends on them.
        skipped.add([p for p in held if p.pts is not None and p.pts < first_pts])
        held = [p for p in held if p.pts is None or p.pts >= first_pts]
    return skipped.count, chain(held, packets)


def _may_start(keyframe: Packet[VideoStream], stream: VideoStream) -> bool:
    """Return whether decoding may start at this keyframe.

    The decoder fails on missing references; from here on it must find all of them.
    """
    context = stream.codec_context
    if context.name == "hevc":
        return True
    if context.name != "h264":
        return context.reorder_depth == 0  # without B-frames every group is closed
    return any(kind == 5 for kind in _nal_types(bytes(keyframe), context.extradata))  # IDR


def _nal_types(data: bytes, extradata: bytes | None) -> Iterator[int]:
    """Yield the types of the NAL units in a packet of H.264."""
    if extradata and extradata[0] == 1:  # with length prefixes, as in MP4 and Matroska
        prefix = (extradata[4] & 3) + 1
        offset = 0
        while offset + prefix < len(data):
            yield data[offset + prefix] & 31
            offset += prefix + int.from_bytes(data[offset : offset + prefix], "big")
        return
    for match in re.finditer(b"\x00\x00\x01", data):
        if match.end() < len(data):
            yield data[match.end()] & 31


def _decode(
    packets: Iterator[Packet[VideoStream]], stream: VideoStream, losses: Losses
) -> Iterator[tuple[VideoFrame, bool]]:
    """Yield decoded frames, each with whether it may depend on damaged data.

    Packets without a frame, because their references lie before the file, count as missing.
    """
    decoding = _Decoding(stream, losses)
    for packet in packets:
        failed = packet.is_corrupt
        frames: list[VideoFrame] = []
        try:
            frames = stream.decode(packet)
        except av.error.EOFError:
            break
        except av.error.FFmpegError:
            failed = True
        decoding.note_sent(packet, failed)
        if frames:
            decoding.note_first(frames[0])
        if failed or any(frame.is_corrupt for frame in frames):
            decoding.note_damage()
        for frame in frames:
            decoding.hold(frame)
        while len(decoding.held) > HELD_BACK:
            yield decoding.held.popleft()
    yield from decoding.held


class _Decoding:
    """The frames that are held back, and what is known of their times and of damage."""

    def __init__(self, stream: VideoStream, losses: Losses) -> None:
        self._context = stream.codec_context
        self._losses = losses
        self._has_times = stream.container.format.name not in CONSTANT_RATE
        self.held: deque[tuple[VideoFrame, bool]] = deque()
        """Frames, each with whether it is damaged. Later packets may show that they are."""
        self._slots: deque[int] = deque()
        """Without times: the dts of the packets, which the frames get in display order."""
        self._damaged = False
        self._suspects = 0
        """Number of frames that may be older than the damage."""
        self._first_packets: list[_SentPacket] | None = []
        """Packets that were sent before the first frame; None after it."""

    def note_sent(self, packet: Packet[VideoStream], failed: bool) -> None:
        if not self._has_times and not failed and packet.dts is not None and packet.size:
            self._slots.append(packet.dts)
        if self._first_packets is not None and packet.size and not packet.is_discard:
            pts = packet.pts if self._has_times else None
            sent = _SentPacket(pts, packet.dts, bool(packet.is_keyframe))
            self._first_packets.append(sent)

    def note_first(self, frame: VideoFrame) -> None:
        """Where this is the first frame, count the packets before it that give none."""
        if not self._first_packets:
            return
        lost = _never_shown(self._first_packets, frame)
        self._losses.missing_frames += len(lost)
        lost_slots = {packet.dts for packet in lost}
        self._slots = deque(slot for slot in self._slots if slot not in lost_slots)
        self._damaged |= self._context.name in DRAWS_WITHOUT_REFERENCE and not frame.key_frame
        self._first_packets = None

    def note_damage(self) -> None:
        self._losses.corrupt_packets += 1
        # Frames that are held back for reordering may be older or younger than the damage. All of
        # them count as damaged, and a keyframe among them does not end the damage.
        self.held = deque((frame, True) for frame, _ in self.held)
        self._damaged = True
        self._suspects = self._context.reorder_depth + 1

    def hold(self, frame: VideoFrame) -> None:
        """Give the frame its time, and hold it back."""
        if self._damaged and frame.key_frame and self._suspects <= 0:
            self._damaged = False
        self._suspects -= 1
        if not self._has_times:
            frame.pts = self._slots.popleft() if self._slots else None
        elif frame.pts is not None:
            self.held = _with_wrong_times_damaged(self.held, frame.pts)
        self.held.append((frame, self._damaged))


def _with_wrong_times_damaged(
    held: deque[tuple[VideoFrame, bool]], pts: int
) -> deque[tuple[VideoFrame, bool]]:
    """Mark frames as damaged whose time is not before that of the next frame.

    Frames come in display order, so such a time is wrong.
    """
    return deque(
        (frame, damaged or (frame.pts is not None and frame.pts >= pts)) for frame, damaged in held
    )


class _SentPacket(NamedTuple):
    """A packet that was sent to the decoder."""

    pts: int | None
    dts: int | None
    is_keyframe: bool


def _never_shown(packets: list[_SentPacket], first: VideoFrame) -> list[_SentPacket]:
    """Return those of the packets before the first frame that no frame will come from.

    Frames come in display order, so a frame before the first one never comes: its references are
    not in the file. Without times these are the packets before the first keyframe, if the first
    frame is a keyframe.
    """
    if first.pts is not None and any(packet.pts is not None for packet in packets):
        return [packet for packet in packets if packet.pts is not None and packet.pts < first.pts]
    keyframe = next((k for k, packet in enumerate(packets) if packet.is_keyframe), 0)
    return packets[:keyframe] if first.key_frame else []


def _hidden(path: Path) -> int:
    """Return how many packets an edit list hides: the container counts them, but none is shown."""
    with _Opened(path) as (container, stream):
        return sum(packet.is_discard for packet in _packets(container, stream, Losses()))


def _stream_length(stream: VideoStream) -> Fraction | None:
    """Return the length of the pictures in seconds by Matroska's tags, if there are any.

    The length of the container may be that of its sound.
    """
    tag = re.fullmatch(r"(\d+):(\d+):(\d+\.\d+)", stream.metadata.get("DURATION", "").strip())
    return None if tag is None else int(tag[1]) * 3600 + int(tag[2]) * 60 + Fraction(tag[3])


def _colour(frame: VideoFrame) -> tuple[str | None, ColorRange, str]:
    """Return matrix (None for RGB and grey), range and description of the conversion to RGB."""
    if frame.format.is_rgb or len(frame.format.components) < 3:
        return None, ColorRange.UNSPECIFIED, "none needed"
    matrix = _MATRIX.get(int(frame.colorspace))
    matrix_source = "declared"
    if matrix is None:
        matrix = "bt709" if frame.height >= 720 else "bt601"
        matrix_source = "assumed"
    is_full = frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")
    is_limited = frame.color_range == ColorRange.MPEG
    range_name = "full" if is_full else "limited"
    range_source = "declared" if is_full or is_limited else "assumed"
    text = f"{matrix} ({matrix_source}), {range_name} range ({range_source})"
    transfer = _HDR_TRANSFER.get(int(frame.color_trc))
    if transfer:
        text += f", {transfer} shown without tone mapping"
    return matrix, ColorRange.JPEG if is_full else ColorRange.MPEG, text


def _display_matrix(frame: VideoFrame) -> tuple[int, int, int, int]:
    """Return the signs (a, b, c, d) of the display matrix; the identity if there is none.

    It means x' = a·x + c·y, y' = b·x + d·y.
    """
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
    if a == 0:  # x and y are exchanged
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
