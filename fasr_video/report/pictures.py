"""The pictures of a report: the case's own files byte for byte, and what classical means make of them.

Pages hold them as data URIs, so that a page is one file. A picture whose bytes are not those that its name promises is
never shown.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PilImage

from fasr_video.case.case import Case
from fasr_video.case.document import frame_time, picture_origin
from fasr_video.case.tracks import read_face
from fasr_video.pictures import decoded, opened
from fasr_video.pipeline.restore import track_faces
from fasr_video.provenance import CAMERA, COVERED, PROCESSED, png_note, xmp
from fasr_video.recognition.align import CANONICAL_SIDE
from fasr_video.recognition.embedder import as_tensor
from fasr_video.report.redact import without_bystanders
from fasr_video.sr.degradation import enlarge
from fasr_video.sr.restoration import as_image
from fasr_video.types import Image

# Longest side, in pixels of the page, that a native crop is magnified to by whole numbers.
LARGE = 336
# The same for auxiliary crops.
SMALL = 136
THUMBNAIL = 72


@dataclass(frozen=True, slots=True)
class Picture:
    data: bytes
    """A whole PNG or WebP file."""
    width: int
    height: int

    @property
    def uri(self) -> str:
        kind = "webp" if self.data[:4] == b"RIFF" else "png"
        return f"data:image/{kind};base64,{base64.b64encode(self.data).decode()}"

    def times(self, longest: int) -> int:
        """By which whole number it can be magnified to be no longer than that."""
        return max(1, longest // max(self.width, self.height))


@dataclass(frozen=True, slots=True)
class TrackPictures:
    """All that is shown of one track, at its own size."""

    kept: dict[int, Picture]
    """Native crops of LR0 and the auxiliaries, by face."""
    thumbnails: dict[int, Picture]
    """The same in the canonical frame, small."""
    lr0: Picture | None
    """In the canonical frame."""
    bicubic: Picture | None
    average: Picture | None
    """Of all kept faces in the canonical frame; None where there is but one."""
    reconstruction: Picture | None
    samples: tuple[Picture, ...]
    spread: Picture | None
    facts: dict[int, dict[str, object]]
    """Where each native crop is from, for the files that leave the case."""
    what: str
    """Whether these are as the camera gave them, or other people in them are covered."""


def of_track(case: Case, track: dict[str, Any], redact: bool = False) -> TrackPictures:
    """Redacted, every other face of the frames is pixelated, in all that is made of the camera's pixels."""
    faces = [
        f
        for f in (track["shown"], *track["auxiliaries"])
        if f is not None and f["native"] is not None
    ]
    facts = {
        f["face"]: picture_origin(case, track, f["native"]) | frame_time(track, f) for f in faces
    }
    if redact:
        kept = {
            n: of_array(without_bystanders(case, read_face(case, n)), told, COVERED)
            for n, told in facts.items()
        }
        thumbnails = {n: thumbnail(picture, xmp(PROCESSED)) for n, picture in kept.items()}
    else:
        kept = {f["face"]: stored(case, f["native"]) for f in faces}
        thumbnails = {
            f["face"]: thumbnail(stored(case, f["aligned"]), xmp(PROCESSED)) for f in faces
        }
    made: Mapping[str, Any] = track["restoration"] or {
        "picture": None,
        "samples": (),
        "spread": None,
    }
    lr0, bicubic, average = (
        _classical(case, track, list(facts.values()), redact) if faces else (None, None, None)
    )
    return TrackPictures(
        kept,
        thumbnails,
        lr0,
        bicubic,
        average,
        None if made["picture"] is None else stored(case, made["picture"]),
        tuple(stored(case, s) for s in made["samples"]),
        None if made["spread"] is None else stored(case, made["spread"]),
        facts,
        COVERED if redact else CAMERA,
    )


def stored(case: Case, relative: str) -> Picture:
    """A file of the case as it is."""
    data = case.picture_bytes(Path(relative).stem)
    with opened(data) as picture:
        return Picture(data, *picture.size)


def thumbnail(picture: Picture, note: str = "", side: int = THUMBNAIL) -> Picture:
    image = PilImage.fromarray(decoded(picture.data))
    image.thumbnail((side, side), PilImage.Resampling.LANCZOS)
    return _encoded(image, "WEBP", quality=80, xmp=note.encode())


def of_array(image: Image, facts: Mapping[str, object], what: str) -> Picture:
    return _encoded(
        PilImage.fromarray(image), "PNG", compress_level=6, pnginfo=png_note(facts, what)
    )


def photograph(image: Image) -> Picture:
    return _encoded(PilImage.fromarray(image), "WEBP", quality=90)


def _classical(
    case: Case, track: dict[str, Any], kept: list[dict[str, object]], redact: bool
) -> tuple[Picture, Picture, Picture | None]:
    """LR0 in the canonical frame, enlarged bicubically, and averaged with the auxiliaries: nothing is learned here."""
    faces = track_faces(case, track["id"], pixels=without_bystanders if redact else None)
    bicubic = as_image(enlarge(as_tensor([faces.small]), CANONICAL_SIDE)[0])
    frames = [f.picture for f in (faces.lr0, *faces.auxiliaries)]
    average = np.mean(frames, axis=0).round().astype(np.uint8) if len(frames) > 1 else None
    lr0 = {"made_of": kept[:1], "other_people_pixelated": redact}
    return (
        of_array(
            faces.lr0.picture, {"processing": "aligned to the canonical frame", **lr0}, PROCESSED
        ),
        of_array(
            bicubic,
            {"processing": "aligned, then enlarged by bicubic interpolation", **lr0},
            PROCESSED,
        ),
        None
        if average is None
        else of_array(
            average, {"processing": "mean of the aligned faces", **lr0, "made_of": kept}, PROCESSED
        ),
    )


def _encoded(image: PilImage.Image, kind: str, **how: Any) -> Picture:
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return Picture(buffer.getvalue(), *image.size)
