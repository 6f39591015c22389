"""The pictures of a report: the case's own files byte for byte, and classical enhancements of them.

Pages hold them as data URIs, so that a page is one file. A picture whose bytes do not fit the hash
in its name is never shown.
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
from fasr_video.case.entries import TrackEntry
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

# Native crops are magnified by a whole number, to at most this many pixels on the longer side.
LARGE = 336
# The same for auxiliary crops.
SMALL = 136
THUMBNAIL = 72


@dataclass(frozen=True, slots=True)
class Picture:
    data: bytes
    """The content of a PNG or WebP file."""
    width: int
    height: int

    @property
    def uri(self) -> str:
        kind = "webp" if self.data[:4] == b"RIFF" else "png"
        return f"data:image/{kind};base64,{base64.b64encode(self.data).decode()}"

    def times(self, longest: int) -> int:
        """Return the largest whole factor that keeps it no longer than this, and at least 1."""
        return max(1, longest // max(self.width, self.height))


@dataclass(frozen=True, slots=True)
class TrackPictures:
    """All pictures of one track, at their own size."""

    natives: dict[int, Picture]
    """Native crops of LR0 and the auxiliaries, by face id."""
    thumbnails: dict[int, Picture]
    """The same faces in the canonical frame, small."""
    lr0: Picture | None
    """In the canonical frame."""
    bicubic: Picture | None
    average: Picture | None
    """Mean of all kept faces in the canonical frame; None where there is only one."""
    reconstruction: Picture | None
    samples: tuple[Picture, ...]
    spread: Picture | None
    metadata: dict[int, dict[str, object]]
    """Where each native crop comes from, for the files that leave the case."""
    what: str
    """CAMERA, or COVERED where other people are pixelated."""


def of_track(case: Case, track: TrackEntry, redact: bool = False) -> TrackPictures:
    """Return the pictures of a track.

    With `redact`, every other face of its frames is pixelated in all that shows the camera's
    pixels.
    """
    faces = [face for face in track.kept_faces if face.native is not None]
    metadata = {
        f.face: picture_origin(case, track, str(f.native)) | frame_time(track, f) for f in faces
    }
    if redact:
        natives = {
            face: of_array(without_bystanders(case, read_face(case, face)), origin, COVERED)
            for face, origin in metadata.items()
        }
        aligned = natives
    else:
        natives = {face.face: stored(case, str(face.native)) for face in faces}
        aligned = {face.face: stored(case, str(face.aligned)) for face in faces}
    thumbnails = {face: thumbnail(picture, xmp(PROCESSED)) for face, picture in aligned.items()}
    lr0 = bicubic = average = None
    if faces:
        lr0, bicubic, average = _classical(case, track, list(metadata.values()), redact)
    made = track.restoration
    spread = None if made is None else made.spread
    return TrackPictures(
        natives=natives,
        thumbnails=thumbnails,
        lr0=lr0,
        bicubic=bicubic,
        average=average,
        reconstruction=None if made is None else stored(case, made.picture),
        samples=tuple(stored(case, sample) for sample in (made.samples if made else ())),
        spread=None if spread is None else stored(case, spread),
        metadata=metadata,
        what=COVERED if redact else CAMERA,
    )


def stored(case: Case, relative: str) -> Picture:
    """Return a picture file of the case, unchanged."""
    data = case.picture_bytes(Path(relative).stem)
    with opened(data) as picture:
        return Picture(data, *picture.size)


def thumbnail(picture: Picture, note: str = "", side: int = THUMBNAIL) -> Picture:
    image = PilImage.fromarray(decoded(picture.data))
    image.thumbnail((side, side), PilImage.Resampling.LANCZOS)
    return _encoded(image, "WEBP", quality=80, xmp=note.encode())


def of_array(image: Image, metadata: Mapping[str, object], what: str) -> Picture:
    """Return the image as PNG with this metadata in it."""
    note = png_note(metadata, what)
    return _encoded(PilImage.fromarray(image), "PNG", compress_level=6, pnginfo=note)


def photograph(image: Image) -> Picture:
    """Return a gallery's photograph as reports show it."""
    return _encoded(PilImage.fromarray(image), "WEBP", quality=90)


def _classical(
    case: Case, track: TrackEntry, sources: list[dict[str, object]], redact: bool
) -> tuple[Picture, Picture, Picture | None]:
    """Return LR0 in the canonical frame, its bicubic enlargement, and the mean of all faces.

    Nothing here is learned. `sources` is the metadata of the faces, LR0 first.
    """
    faces = track_faces(case, track.id, pixels=without_bystanders if redact else None)
    bicubic = as_image(enlarge(as_tensor([faces.small]), CANONICAL_SIDE)[0])

    def processed(image: Image, processing: str, made_of: list[dict[str, object]]) -> Picture:
        metadata = {
            "processing": processing,
            "made_of": made_of,
            "other_people_pixelated": redact,
        }
        return of_array(image, metadata, PROCESSED)

    average = None
    frames = [face.picture for face in (faces.lr0, *faces.auxiliaries)]
    if len(frames) > 1:
        mean = np.mean(frames, axis=0).round().astype(np.uint8)
        average = processed(mean, "mean of the aligned faces", sources)
    return (
        processed(faces.lr0.picture, "aligned to the canonical frame", sources[:1]),
        processed(bicubic, "aligned, then enlarged by bicubic interpolation", sources[:1]),
        average,
    )


def _encoded(image: PilImage.Image, file_format: str, **options: Any) -> Picture:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return Picture(buffer.getvalue(), *image.size)
