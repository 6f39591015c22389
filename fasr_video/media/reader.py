"""The contract of all sources of frames: right frames at right times, or losses, or an error."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Protocol

from fasr_video.errors import MediaError, UsageError
from fasr_video.files import is_utf8, name_in_errors, readable_name
from fasr_video.types import FrameRef, Image

FFMPEG_REMEDY = (
    "convert it first: ffmpeg -i IN -c:v libx264 OUT.mp4, and keep the original with its hash"
)


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """Facts about one source; stored with the case."""

    path: Path
    sha256: str
    backend: str
    container: str
    codec: str
    width: int
    height: int
    """Of the upright picture."""
    time_base: Fraction
    time_source: str
    """Where times come from: `pts` (exact), `container` (its constant rate), `assumed_fps` (a
    setting)."""
    first_pts: int
    rate: Fraction | None
    """Frames a second, as declared or assumed; None if it is not known."""
    declared_frames: int | None
    duration: Fraction | None
    """Seconds, as declared."""
    orientation: str
    """What made the picture upright: `none`, `rotated 90`, `mirrored`, …"""
    pixel_format: str
    colour: str
    """Matrix and range of the conversion to RGB, each declared by the file or assumed."""
    interlaced: bool
    pixel_aspect: Fraction
    """Width of a stored pixel over its height. Not applied: crops keep the recording's pixels."""

    def as_json(self) -> dict[str, str | int | bool | None]:
        return {k: v if isinstance(v, int | None) else str(v) for k, v in asdict(self).items()}


@dataclass(slots=True)
class Losses:
    """What could not be read, by kind. All losses are counted."""

    corrupt_packets: int = 0
    """Packets that were damaged or could not be decoded."""
    damaged_frames: int = 0
    """Frames that depend on damaged data: not reliable until the next keyframe."""
    missing_frames: int = 0
    """Frames that the container declares but that never came, also because of corrupt packets; and
    frames at the beginning that depend on pictures before it."""
    time_jumps: int = 0
    """Frames whose time is not after that of the frame before."""
    other_files: int = 0
    """Files in a folder of pictures that are no pictures by their names."""

    def __add__(self, other: Losses) -> Losses:
        return Losses(*(getattr(self, k) + getattr(other, k) for k in Losses.__slots__))

    def __sub__(self, other: Losses) -> Losses:
        return Losses(*(getattr(self, k) - getattr(other, k) for k in Losses.__slots__))

    def __bool__(self) -> bool:
        return any(getattr(self, k) for k in Losses.__slots__)

    def reset(self) -> None:
        """Set all counts to 0."""
        for kind in Losses.__slots__:
            setattr(self, kind, 0)


@dataclass(frozen=True, slots=True)
class Frame:
    ref: FrameRef
    image: Image
    damaged: bool
    """Whether it depends on damaged data, so that the picture may be wrong."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """Which frames to deliver. Times are seconds after the first frame, as a player shows them."""

    every: int = 1
    fps: Fraction | None = None
    start: Fraction | None = None
    end: Fraction | None = None

    def __post_init__(self) -> None:
        if self.every < 1:
            raise UsageError("--every", f"{self.every} is not a number of frames", "give 1 or more")
        if self.fps is not None and self.fps <= 0:
            raise UsageError("--fps", f"{float(self.fps)} is not a rate", "give a number above 0")
        if self.every > 1 and self.fps is not None:
            raise UsageError("--every and --fps", "they exclude each other", "give one of them")
        if self.start is not None and self.end is not None and self.end <= self.start:
            raise UsageError("--end", "it is not after --start", "give a later time")

    def wants(self, index: int, seconds: Fraction, before: Fraction | None) -> bool:
        """Return whether to deliver the frame `seconds` after the first one.

        `before` is the time of the frame before it. With `fps` it is the first frame of each 1/fps.
        That depends on two neighbours only, so a resumed run chooses the same frames as an
        unbroken one.
        """
        if self.start is not None and seconds < self.start:
            return False
        if self.every > 1:
            return index % self.every == 0
        if self.fps is not None and before is not None:
            return seconds * self.fps // 1 > before * self.fps // 1
        return True

    def is_past(self, seconds: Fraction) -> bool:
        return self.end is not None and seconds >= self.end


class VideoReader(Protocol):
    """A source of frames. `losses` grows while `frames` is consumed."""

    @property
    def info(self) -> MediaInfo: ...

    @property
    def losses(self) -> Losses: ...

    def frames(self, sampling: Sampling, after: FrameRef | None = None) -> Generator[Frame]:
        """Yield frames in display order.

        With `after`, yield only those after that frame. Their indexes are the same, and earlier
        losses are not counted again.
        """
        ...


class Reader:
    """The base of all sources of frames: the facts, and the losses of the last reading."""

    _info: MediaInfo

    def __init__(self) -> None:
        self._losses = Losses()

    @property
    def info(self) -> MediaInfo:
        return self._info

    @property
    def losses(self) -> Losses:
        return self._losses


def check_name(path: Path) -> None:
    """Raise for a name that a case cannot store."""
    if not is_utf8(path):
        raise MediaError(
            readable_name(path), "its name is not UTF-8", "give a copy with another name"
        )


def check_file(path: Path) -> None:
    """Raise unless `path` is a readable, non-empty file."""
    check_name(path)
    if not path.exists():
        raise MediaError(path, "no such file or folder", "check the path")
    if not path.is_file():
        raise MediaError(
            path, "neither a regular file nor a folder of pictures", "give a video file"
        )
    try:
        with name_in_errors(path), path.open("rb") as handle:
            if not handle.read(1):
                raise MediaError(path, "the file is empty (0 bytes)", "export the footage again")
    except PermissionError as error:
        raise MediaError(path, "not readable by this user", "change its permissions") from error
