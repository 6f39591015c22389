"""The photographs of candidates, where the gallery that was searched is at hand and keeps pictures."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fasr_video.case.case import Case
from fasr_video.case.results import photographs as photographs_of
from fasr_video.gallery.gallery import Gallery
from fasr_video.gallery.records import GalleryError
from fasr_video.report.pictures import Picture, photograph, thumbnail
from fasr_video.report.redact import photograph as pixelated

# Photographs shown of one candidate.
MOST = 4


@dataclass(frozen=True, slots=True)
class Photograph:
    path: str
    sha256: str
    picture: Picture
    thumbnail: Picture


class Photographs:
    """Those of each subject that stood behind the answers; none of anybody without a gallery."""

    def __init__(
        self,
        gallery: Gallery | None,
        remark: str,
        listed: Collection[tuple[str, str]] = (),
        redact: bool = False,
    ) -> None:
        """`listed` are subject and SHA-256 of the photographs that the gallery had when it was searched."""
        self._gallery, self.remark, self._listed, self._redact = gallery, remark, listed, redact
        self._known: dict[str, tuple[Photograph, ...]] = {}

    def of(self, subject: str) -> tuple[Photograph, ...]:
        if subject not in self._known:
            self._known[subject] = tuple(self._read(subject))
        return self._known[subject]

    def _read(self, subject: str) -> Iterator[Photograph]:
        if self._gallery is None:
            return
        listed = (i for i in self._gallery.images(subject) if (subject, i.sha256) in self._listed)
        for image in [i for i in listed if i.has_picture][:MOST]:
            if (face := self._gallery.face(image)) is not None:
                picture = photograph(pixelated(face.picture) if self._redact else face.picture)
                yield Photograph(image.path, image.sha256, picture, thumbnail(picture))


@contextmanager
def photographs(
    case: Case, searched: dict[str, Any] | None, wanted: bool, redact: bool = False
) -> Iterator[Photographs]:
    """Of the gallery that this case was searched in. Without it the report is made all the same, and says so."""
    if not wanted or searched is None:
        yield Photographs(
            None, "Photographs were left out of this report." if searched is not None else ""
        )
        return
    asked = searched["gallery"]
    try:
        gallery = Gallery.open(case.folder / asked["folder"], read_only=True)
    except GalleryError as error:
        yield Photographs(
            None, f"No photographs are shown: the gallery is not at hand ({error.reason})."
        )
        return
    with gallery:
        if gallery.id != asked["id"]:
            yield Photographs(
                None, "No photographs are shown: another gallery lies where the one searched was."
            )
        else:
            listed = {
                (p.subject, p.sha256)
                for p in photographs_of(case)
                if p.problem is None and p.sha256
            }
            told = ["The photographs are pixelated."] if redact else []
            if gallery.state != asked["state"]:
                told.append("The gallery has changed since the case was searched.")
            yield Photographs(gallery, " ".join(told), listed, redact)
