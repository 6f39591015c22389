"""Align photographs for training: each one's largest face in the canonical frame, with a rim."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image as PilImage

from fasr_video.datasets.faces import members, plain_name
from fasr_video.detection.detector import Detector
from fasr_video.detection.photograph import Choice, Unclear, choose_face
from fasr_video.errors import InputError
from fasr_video.files import atomic_write
from fasr_video.media import UNREADABLE, read_picture
from fasr_video.recognition.align import (
    CANONICAL,
    CANONICAL_SIDE,
    native_side,
    similarity,
    three_points,
    warp,
)
from fasr_video.types import Image

RIM = 8  # pixels around the canonical frame, so that training can move a face
SMALLEST = 64  # side of a face in its own photograph, in pixels, that counts as full resolution
LARGEST_FACE = Choice("largest")


def align_photos(
    sources: Sequence[Path], out: Path, detector: Detector, report: Callable[[str, str], None]
) -> int:
    """Write the aligned face of each photograph to `out`/IDENTITY/PHOTO.png; return their number.

    A face that is there already is not made again, so a stopped call can be repeated. `report` gets
    each photograph's name, and why it has no face (empty if it has one).
    """
    names: dict[str, str] = {}
    done = 0
    for member in members(sources):
        name = plain_name(member.name)
        file = out / f"{name}.png"
        first = names.setdefault(name, member.name)
        problem = member.problem
        if not problem and first != member.name:
            problem = f"{first} would have the same name, {name}.png: rename one of them"
        if not problem and not file.exists():
            problem = _align(member.data, file, detector)
        done += not problem
        report(member.name, problem)
    return done


def _align(data: bytes, file: Path, detector: Detector) -> str:
    """Write the aligned face of a photograph; return why there is none, or an empty string."""
    try:
        image = read_picture(io.BytesIO(data))
    except InputError as error:
        return error.reason
    except UNREADABLE:
        return "not a readable picture"
    face = framed_face(image, detector)
    if isinstance(face, str):
        return face
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(file, lambda path: PilImage.fromarray(face).save(path, "PNG"))
    return ""


def framed_face(image: Image, detector: Detector) -> Image | str:
    """Return the largest face in the canonical frame with its rim, or why there is none."""
    found = choose_face(image, detector, LARGEST_FACE)
    if isinstance(found, Unclear):
        return found.reason
    points = three_points(found.boxes[0], None if found.landmarks is None else found.landmarks[0])
    side = native_side(points)
    if side < SMALLEST:
        return f"its face is {side} px, {SMALLEST} needed"
    transform = similarity(points, CANONICAL * CANONICAL_SIDE)
    transform[:, 2] += RIM
    return warp(image, transform, CANONICAL_SIDE + 2 * RIM)
