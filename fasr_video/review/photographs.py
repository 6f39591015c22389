"""Photographs of candidates, from the gallery that the case was searched in: their faces in the canonical frame."""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL import Image as PilImage

from fasr_video.case.case import Case
from fasr_video.errors import FasrError
from fasr_video.gallery.gallery import Gallery
from fasr_video.gallery.records import GalleryImage


@dataclass(frozen=True, slots=True)
class Photographs:
    of_subject: tuple[GalleryImage, ...]
    """Those whose face was kept, the best first."""
    note: str | None
    """What is to be known of them, or why there are none."""


def photographs(case: Case, subject: str) -> Photographs:
    searched = case.searched()
    if searched is None:
        return Photographs((), "The case was not searched.")
    facts = searched["gallery"]
    try:
        with (
            Gallery.open(case.folder / facts["folder"], read_only=True) as gallery,
            gallery.snapshot(),
        ):
            if gallery.id != facts["id"]:
                return Photographs(
                    (), f"Another gallery lies in {facts['folder']} than the one that was searched."
                )
            kept = sorted(
                (i for i in gallery.images(subject) if i.has_picture), key=lambda i: -i.norm
            )
            changed = gallery.state != facts["state"]
    except FasrError as error:
        return Photographs((), f"The gallery is not at hand: {error}")
    if not kept:
        return Photographs((), f"The gallery keeps no picture of {subject}.")
    return Photographs(
        tuple(kept), "The gallery has changed since the case was searched." if changed else None
    )


def photograph(case: Case, sha256: str) -> bytes | None:
    """The face of a photograph as PNG; None when the gallery at hand has none."""
    searched = case.searched()
    if searched is None:
        return None
    with (
        Gallery.open(case.folder / searched["gallery"]["folder"], read_only=True) as gallery,
        gallery.snapshot(),
    ):
        if gallery.id != searched["gallery"]["id"]:
            return None
        image = gallery.image(sha256)
        face = None if image is None else gallery.face(image)
    if face is None:
        return None
    buffer = io.BytesIO()
    PilImage.fromarray(face.picture).save(buffer, "PNG")
    return buffer.getvalue()
