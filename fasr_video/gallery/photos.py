"""The gallery folder of a run: which photographs are there, whose they are said to be, and which cannot be used."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fasr_video.errors import InputError
from fasr_video.pipeline.detect import Detector
from fasr_video.pipeline.media import UNREADABLE, read_picture
from fasr_video.recognition.align import three_points

MIN_EYE_PX = 20  # between the eyes of a gallery photograph


@dataclass(frozen=True, slots=True)
class Photo:
    path: Path
    subject: str
    """The file's name, or the folder's when photographs lie in folders by subject."""
    sha256: str | None
    faces: int | None
    problem: str | None
    """Why it cannot be enrolled; None when it can."""


def files_in(gallery: Path) -> list[Path]:
    if not gallery.is_dir():
        raise InputError(
            gallery, "no such gallery folder", "give a folder with one photograph, or one folder, a person"
        )
    files = sorted(p for p in gallery.rglob("*") if p.is_file())
    if not files:
        raise InputError(gallery, "the gallery holds no files", "put one photograph, or one folder, a person in it")
    return files


def examine(gallery: Path, file: Path, detector: Detector) -> Photo:
    path = file.relative_to(gallery)
    subject = path.parts[0] if len(path.parts) > 1 else path.stem
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    try:
        image = read_picture(file)
    except UNREADABLE:
        return Photo(path, subject, digest, None, "not a picture that can be read")
    found = detector.detect([image])[0]
    found = found.take(found.scores >= 0.5)
    problem = None
    if len(found) == 0:
        problem = "no face found"
    elif len(found) > 1:
        problem = f"{len(found)} faces found: cut it to one"
    else:
        points = three_points(found.boxes[0], None if found.landmarks is None else found.landmarks[0])
        eye_px = float(((points[1] - points[0]) ** 2).sum() ** 0.5)
        if eye_px < MIN_EYE_PX:
            problem = f"{eye_px:.0f} px between the eyes, {MIN_EYE_PX} needed"
    return Photo(path, subject, digest, len(found), problem)
