"""Footage in: exact frames with exact times, or a counted loss, or one clear error."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

from fasr_video.pipeline.media.contract import Frame, Losses, MediaInfo, Sampling, VideoReader
from fasr_video.pipeline.media.decord import DecordReader
from fasr_video.pipeline.media.folder import UNREADABLE, FolderReader, hash_folder, read_picture
from fasr_video.pipeline.media.pyav import PyAvReader

BACKENDS: dict[str, Callable[[Path, Fraction], VideoReader]] = {"pyav": PyAvReader, "decord": DecordReader}

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
]


def open_video(path: Path, backend: str = "pyav", assumed_fps: Fraction = Fraction(25)) -> VideoReader:
    """A reader for a video file, or for a folder of pictures whatever the backend."""
    if path.is_dir():
        return FolderReader(path, assumed_fps)
    return BACKENDS[backend](path, assumed_fps)
