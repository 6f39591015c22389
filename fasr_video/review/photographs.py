"""Photographs of candidates, from the gallery that the case was searched in: their faces in the
canonical frame.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL import Image as PilImage

from fasr_video.case.case import Case
from fasr_video.case.last_search import last_search
from fasr_video.errors import FasrError
from fasr_video.gallery.gallery import Gallery
from fasr_video.gallery.records import GalleryImage


@dataclass(frozen=True, slots=True)
class Photographs:
    images: tuple[GalleryImage, ...]
    """Images whose face the gallery keeps, the best first."""
    note: str | None
    """A remark on them, or why there are none."""


def photographs(case: Case, subject: str) -> Photographs:
    """Return the subject's photographs in the gallery that the case was searched in."""
    searched = last_search(case)
    if searched is None:
        return Photographs((), "The case was not searched.")
    searched_gallery = searched.gallery
    folder = searched_gallery.folder
    try:
        with Gallery.open(case.folder / folder, read_only=True) as gallery, gallery.snapshot():
            if gallery.id != searched_gallery.id:
                return Photographs(
                    (), f"{folder} holds another gallery than the one that was searched."
                )
            images = [image for image in gallery.images(subject) if image.has_picture]
            has_changed = gallery.state != searched_gallery.state
    except FasrError as error:
        return Photographs((), f"The gallery is not available: {error}")
    if not images:
        return Photographs((), f"The gallery keeps no picture of {subject}.")
    images.sort(key=lambda image: -image.norm)
    note = "The gallery has changed since the case was searched." if has_changed else None
    return Photographs(tuple(images), note)


def photograph_png(case: Case, sha256: str) -> bytes | None:
    """Return the face of a photograph as PNG; None where the gallery does not keep it."""
    searched = last_search(case)
    if searched is None:
        return None
    with (
        Gallery.open(case.folder / searched.gallery.folder, read_only=True) as gallery,
        gallery.snapshot(),
    ):
        if gallery.id != searched.gallery.id:
            return None
        image = gallery.image(sha256)
        face = None if image is None else gallery.face(image)
    if face is None:
        return None
    buffer = io.BytesIO()
    PilImage.fromarray(face.picture).save(buffer, "PNG")
    return buffer.getvalue()
