"""Reading footage: exact frames with exact times, or a counted loss, or one clear error."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

from fasr_video.errors import MediaError
from fasr_video.media.decord import DecordReader
from fasr_video.media.image_folder import FolderReader, hash_folder, read_picture, stamp
from fasr_video.media.pyav import PyAvReader
from fasr_video.media.reader import Frame, Losses, MediaInfo, Sampling, VideoReader
from fasr_video.pictures import UNREADABLE

BACKENDS: dict[str, Callable[[Path, Fraction], VideoReader]] = {
    "pyav": PyAvReader,
    "decord": DecordReader,
}

__all__ = [
    "BACKENDS",
    "UNREADABLE",
    "Frame",
    "Losses",
    "MediaInfo",
    "Sampling",
    "VideoReader",
    "hash_folder",
    "open_video",
    "read_picture",
    "stamp",
]


def open_video(
    path: Path, backend: str = "pyav", assumed_fps: Fraction = Fraction(25)
) -> VideoReader:
    """Return a reader for a video file, or for a folder of pictures, with any backend."""
    _refuse_live(path)
    if path.is_dir():
        return FolderReader(path, assumed_fps)
    return BACKENDS[backend](path, assumed_fps)


def _refuse_live(path: Path) -> None:
    """Raise for addresses, devices and streams.

    Only recordings can be searched, by design: nobody is to be searched for in what a camera shows
    at this moment (docs/responsible_use.md).
    """
    is_address = re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)) and not path.exists()
    is_special_file = path.is_char_device() or path.is_fifo() or path.is_socket()
    if is_address:
        what = "an address"
    elif is_special_file or str(path).startswith("/dev/video"):
        what = "a device or a stream"
    else:
        return
    reason = f"{what}, not a recording: there is no live mode, by design"
    remedy = "give recorded files that you may search (docs/responsible_use.md)"
    raise MediaError(path, reason, remedy)
