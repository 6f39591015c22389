"""The photographs of candidates, where the gallery that was searched is at hand and keeps pictures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fasr_video.custody.redact import photograph as pixelated
from fasr_video.gallery.records import GalleryError
from fasr_video.gallery.store import Gallery
from fasr_video.pipeline.case import Case
from fasr_video.report.pictures import Picture, photograph, thumbnail

MOST = 4
"""Photographs shown of one candidate."""


@dataclass(frozen=True, slots=True)
class Photograph:
    path: str
    sha256: str
    picture: Picture
    thumbnail: Picture


class Photographs:
    """Those of each subject; none of anybody without a gallery."""

    def __init__(self, gallery: Gallery | None, remark: str, redact: bool = False) -> None:
        self._gallery, self.remark, self._redact = gallery, remark, redact
        self._known: dict[str, tuple[Photograph, ...]] = {}

    def of(self, subject: str) -> tuple[Photograph, ...]:
        if subject not in self._known:
            self._known[subject] = tuple(self._read(subject))
        return self._known[subject]

    def _read(self, subject: str) -> Iterator[Photograph]:
        if self._gallery is None:
            return
        for image in [i for i in self._gallery.images(subject) if i.has_picture][:MOST]:
            if (face := self._gallery.face(image)) is not None:
                picture = photograph(pixelated(face.picture) if self._redact else face.picture)
                yield Photograph(image.path, image.sha256, picture, thumbnail(picture))


@contextmanager
def photographs(
    case: Case, searched: dict[str, Any] | None, wanted: bool, redact: bool = False
) -> Iterator[Photographs]:
    """Of the gallery that this case was searched in. Without it the report is made all the same, and says so."""
    if not wanted or searched is None:
        yield Photographs(None, "Photographs were left out of this report." if searched is not None else "")
        return
    asked = searched["gallery"]
    try:
        gallery = Gallery.open(case.folder / asked["folder"], read_only=True)
    except GalleryError as error:
        yield Photographs(None, f"No photographs are shown: the gallery is not at hand ({error.reason}).")
        return
    with gallery:
        if gallery.id != asked["id"]:
            yield Photographs(None, "No photographs are shown: another gallery lies where the one searched was.")
        else:
            yield Photographs(gallery, "The photographs are pixelated." if redact else "", redact)
