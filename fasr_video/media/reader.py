"""What every source of frames keeps to: right frames with right times, or a counted loss, or one clear error."""

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
    """Facts about one source, as found; stored with the case."""

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
    """Where times come from: `pts` (exact), `container` (constant rate it declares) or `assumed_fps` (a setting)."""
    first_pts: int
    rate: Fraction | None
    """Frames a second as declared or assumed; None when nobody says."""
    declared_frames: int | None
    duration: Fraction | None
    """Seconds, as declared."""
    orientation: str
    """What was applied once to make the picture upright: `none`, `rotated 90`, `mirrored`, …"""
    pixel_format: str
    colour: str
    """Matrix and range used for the conversion to RGB, and whether the file said so or we assumed it."""
    interlaced: bool
    pixel_aspect: Fraction
    """Width of a stored pixel over its height. Not applied: crops keep the recording's own pixels."""

    def as_json(self) -> dict[str, str | int | bool | None]:
        return {k: v if isinstance(v, int | None) else str(v) for k, v in asdict(self).items()}


@dataclass(slots=True)
class Losses:
    """What could not be read, by kind. Nothing is lost without a count."""

    corrupt_packets: int = 0
    """Pieces of the stream that were damaged or could not be decoded."""
    damaged_frames: int = 0
    """Frames that came out but hang on damaged ones: not to be trusted until the next keyframe."""
    missing_frames: int = 0
    """Frames that the container declares and that never came, those lost to corrupt packets among them; and those at
    the begin of a file that lean on pictures from before it."""
    time_jumps: int = 0
    """Frames whose time is not after that of the frame before."""
    other_files: int = 0
    """Files of a folder of pictures that are none by the endings of their names."""

    def __add__(self, other: Losses) -> Losses:
        return Losses(*(getattr(self, k) + getattr(other, k) for k in Losses.__slots__))

    def __sub__(self, other: Losses) -> Losses:
        return Losses(*(getattr(self, k) - getattr(other, k) for k in Losses.__slots__))

    def __bool__(self) -> bool:
        return any(getattr(self, k) for k in Losses.__slots__)


@dataclass(frozen=True, slots=True)
class Frame:
    ref: FrameRef
    image: Image
    damaged: bool
    """True when decoding it leaned on damaged data: the picture may be wrong."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """Which frames to deliver. Times are seconds after the first frame, as a player shows them."""

    every: int = 1
    fps: Fraction | None = None
    start: Fraction | None = None
    end: Fraction | None = None

    def __post_init__(self) -> None:
        if self.every < 1:
            raise UsageError("--every", f"{self.every} is not a count of frames", "give 1 or more")
        if self.fps is not None and self.fps <= 0:
            raise UsageError("--fps", f"{float(self.fps)} is not a rate", "give a number above 0")
        if self.every > 1 and self.fps is not None:
            raise UsageError(
                "--every and --fps", "each chooses the frames alone", "give one of them"
            )
        if self.start is not None and self.end is not None and self.end <= self.start:
            raise UsageError("--end", "it is not after --start", "give a later time")

    def wants(self, index: int, seconds: Fraction, before: Fraction | None) -> bool:
        """Whether to deliver the frame `seconds` after the first; `before` is the time of the frame before it.

        `fps` takes the first frame of each 1/fps: a question about two neighbours alone, so that a resumed run
        chooses the same frames as an unbroken one.
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
        """Frames in display order. With `after`, those that follow that frame, with the indexes they always have;
        losses before it are not counted again."""
        ...


class Reader:
    """What all sources of frames keep: the facts, and what the last reading lost."""

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
    """Raise for a name that no case can hold."""
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
