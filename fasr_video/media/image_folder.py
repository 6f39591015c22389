"""A folder of pictures as footage: file names give the order, a setting gives the rate."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL
from PIL import ImageOps

from fasr_video.errors import MediaError
from fasr_video.files import PICTURES, sha256_file
from fasr_video.media.reader import Frame, Losses, MediaInfo, Reader, Sampling, check_name
from fasr_video.pictures import MOST_OF_A_PHOTOGRAPH, MOST_PIXELS, UNREADABLE, opened
from fasr_video.types import FrameRef, Image


def read_picture(path: Path | BinaryIO, as_frame: bool = False) -> Image:
    """An image file as RGB, upright, 16-bit greys brought to 8. Raises one of UNREADABLE when it is none.

    Photographs of more pixels than a frame may have are shrunk to that many; a picture that is a frame is refused.
    """
    most = MOST_PIXELS if as_frame else MOST_OF_A_PHOTOGRAPH
    with opened(path, most) as picture:
        width, height = picture.size
        shrink = max(1.0, math.sqrt(width * height / MOST_PIXELS))
        if shrink > 1 and not picture.mode.startswith("I"):
            picture.thumbnail((int(width / shrink), int(height / shrink)))
        upright = ImageOps.exif_transpose(picture)
        if upright.mode.startswith("I"):
            step = math.ceil(shrink)
            levels = np.asarray(upright)[::step, ::step].clip(
                0, 65407
            )  # brighter ones are white; so 16 bits do
            grey = (levels + 128) // 257 if levels.max() > 255 else levels
            return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
        return np.asarray(upright.convert("RGB"))


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """frame2 before frame10."""
    return [
        (0, int(p), "") if p.isdecimal() else (1, 0, p) for p in re.split(r"(\d+)", path.name) if p
    ]


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = f"cannot be read ({error.strerror or error})"
        raise MediaError(
            path, reason, "change its permissions, or look after the disk that it is on"
        ) from error


def pictures_in(folder: Path) -> list[Path]:
    with _readable(folder):
        return sorted((p for p in folder.iterdir() if _is_picture(p)), key=_natural)


def others_in(folder: Path) -> list[Path]:
    """All that lies in it beside pictures and folders: what `pictures_in` leaves out."""
    with _readable(folder):
        return sorted(p for p in folder.iterdir() if not _is_picture(p) and not p.is_dir())


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURES and path.is_file()


def hash_folder(folder: Path) -> str:
    """One SHA-256 for a folder of pictures: over each file's hash and name, in order."""
    digest = hashlib.sha256()
    for file in pictures_in(folder):
        with _readable(file):
            digest.update(f"{sha256_file(file)}  ".encode() + os.fsencode(file.name) + b"\n")
    return digest.hexdigest()


def stamp(footage: Path) -> list[tuple[str, int, int]] | None:
    """Names, sizes and times of change of its files, by which one tells that it changed; None where it is gone."""
    try:
        files = pictures_in(footage) if footage.is_dir() else [footage]
        return [(f.name, (facts := f.stat()).st_size, facts.st_mtime_ns) for f in files]
    except (OSError, MediaError):
        return None


class FolderReader(Reader):
    """Pictures of one folder in natural name order. An unreadable picture is a counted loss, and so is another file."""

    def __init__(self, path: Path, assumed_fps: Fraction) -> None:
        super().__init__()
        check_name(path)
        self._files, self._others = pictures_in(path), len(others_in(path))
        if not self._files:
            remedy = f"put pictures ({', '.join(sorted(PICTURES))}) in it or give a video file"
            raise MediaError(path, "the folder holds no pictures", remedy)
        sha256 = hash_folder(path)  # before anything is decoded
        first = next(
            (image for file in self._files if (image := self._read(file)) is not None), None
        )
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

    @staticmethod
    def _read(file: Path) -> Image | None:
        try:
            return read_picture(file, as_frame=True)
        except UNREADABLE:
            return None
