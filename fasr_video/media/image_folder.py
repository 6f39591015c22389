"""A folder of pictures as footage: the file names give the order, a setting gives the rate."""

from __future__ import annotations

import hashlib
import math
import os
import re
import shlex
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import ImageOps

from fasr_video.errors import MediaError
from fasr_video.files import PICTURES, VIDEOS, sha256_file
from fasr_video.media.reader import Frame, Losses, MediaInfo, Reader, Sampling, check_name
from fasr_video.pictures import MOST_OF_A_PHOTOGRAPH, MOST_PIXELS, UNREADABLE, opened
from fasr_video.types import FrameRef, Image


def read_picture(path: Path | BinaryIO, as_frame: bool = False) -> Image:
    """Read an image file as upright 8-bit RGB; raise one of UNREADABLE if that fails.

    Photographs with more pixels than a frame may have are shrunk; frames with more are refused.
    """
    max_pixels = MOST_PIXELS if as_frame else MOST_OF_A_PHOTOGRAPH
    with opened(path, max_pixels) as picture:
        width, height = picture.size
        shrink = max(1.0, math.sqrt(width * height / MOST_PIXELS))
        if shrink > 1 and not picture.mode.startswith("I"):
            picture.thumbnail((int(width / shrink), int(height / shrink)))
        upright = ImageOps.exif_transpose(picture)
        if upright.mode.startswith("I"):
            return _from_16_bits(np.asarray(upright), math.ceil(shrink))
        return np.asarray(upright.convert("RGB"))


def _from_16_bits(levels: NDArray[Any], step: int) -> Image:
    """Return every step-th pixel of a grey picture with up to 16 bits, as RGB."""
    levels = levels[::step, ::step].clip(0, 65407)  # brighter pixels are white all the same
    grey = (levels + 128) // 257 if levels.max() > 255 else levels
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """Return a sort key that puts frame2 before frame10."""
    parts = [part for part in re.split(r"(\d+)", path.name) if part]
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn an error of reading into one that says what to do."""
    try:
        yield
    except OSError as error:
        reason = f"cannot be read ({error.strerror or error})"
        remedy = "change its permissions, or check the disk that it is on"
        raise MediaError(path, reason, remedy) from error


def pictures_in(folder: Path) -> list[Path]:
    """Return the pictures of a folder in natural order of their names."""
    with _explained(folder):
        return sorted((p for p in folder.iterdir() if _is_picture(p)), key=_natural)


def others_in(folder: Path) -> list[Path]:
    """Return the files of a folder that are no pictures by their names."""
    with _explained(folder):
        return sorted(p for p in folder.iterdir() if not _is_picture(p) and not p.is_dir())


def _no_pictures(folder: Path, videos: list[Path]) -> MediaError:
    if not videos:
        remedy = f"put pictures ({', '.join(sorted(PICTURES))}) in it, or give a video file"
        return MediaError(folder, "there are no pictures in the folder", remedy)
    name = shlex.quote(str(folder))
    files = " ".join(f"{name}/*{ending}" for ending in sorted({v.suffix for v in videos}))
    remedy = (
        f"give the files (fasr-video run {files}), "
        f"or make a case of each: fasr-video batch {name} --out CASES"
    )
    return MediaError(folder, f"it holds no pictures, but videos ({len(videos)})", remedy)


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURES and path.is_file()


def hash_folder(folder: Path) -> str:
    """Return a SHA-256 over the hash and the name of each picture, in order."""
    digest = hashlib.sha256()
    for file in pictures_in(folder):
        with _explained(file):
            digest.update(f"{sha256_file(file)}  ".encode() + os.fsencode(file.name) + b"\n")
    return digest.hexdigest()


def stamp(footage: Path) -> list[tuple[str, int, int]] | None:
    """Return names, sizes and modification times of the files, to detect changes.

    Return None if the footage is missing.
    """
    try:
        files = pictures_in(footage) if footage.is_dir() else [footage]
        statuses = [(file.name, file.stat()) for file in files]
        return [(name, status.st_size, status.st_mtime_ns) for name, status in statuses]
    except (OSError, MediaError):
        return None


class FolderReader(Reader):
    """Pictures of a folder in natural order. Unreadable pictures and other files are losses."""

    def __init__(self, path: Path, assumed_fps: Fraction) -> None:
        super().__init__()
        check_name(path)
        self._files = pictures_in(path)
        others = others_in(path)
        if not self._files:
            raise _no_pictures(path, [file for file in others if file.suffix.lower() in VIDEOS])
        self._others = len(others)
        sha256 = hash_folder(path)  # before anything is decoded
        first = self._first_picture()
        if first is None:
            raise MediaError(path, "none of its pictures can be read", "export the footage again")
        self._info = MediaInfo(
            path=path,
            sha256=sha256,
            backend=f"pillow {PIL.__version__}",
            container="folder",
            codec=self._files[0].suffix.lower().lstrip("."),
            width=first.shape[1],
            height=first.shape[0],
            time_base=1 / assumed_fps,
            time_source="assumed_fps",
            first_pts=0,
            rate=assumed_fps,
            declared_frames=len(self._files),
            duration=None,
            orientation="exif applied to each picture",
            pixel_format="rgb24",
            colour="as decoded by Pillow",
            interlaced=False,
            pixel_aspect=Fraction(1),
        )

    def frames(self, sampling: Sampling, after: FrameRef | None = None) -> Generator[Frame]:
        self._losses = Losses(other_files=self._others if after is None else 0)
        before: Fraction | None = None
        for index, file in enumerate(self._files):
            ref = FrameRef(self._info.sha256, index, index, self._info.time_base)
            if sampling.is_past(ref.seconds):
                return
            if (after is None or index > after.index) and sampling.wants(
                index, ref.seconds, before
            ):
                image = self._read(file)
                if image is None:
                    self._losses.corrupt_packets += 1
                else:
                    yield Frame(ref, image, damaged=False)
            before = ref.seconds

    def _first_picture(self) -> Image | None:
        """Return the first picture that can be read."""
        for file in self._files:
            image = self._read(file)
            if image is not None:
                return image
        return None

    @staticmethod
    def _read(file: Path) -> Image | None:
        try:
            return read_picture(file, as_frame=True)
        except UNREADABLE:
            return None
