"""Photographs of candidates, where the searched gallery is available and keeps pictures."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fasr_video.case.case import Case
from fasr_video.case.last_search import LastSearch
from fasr_video.case.results import photographs as photographs_of
from fasr_video.gallery.gallery import Gallery
from fasr_video.gallery.records import GalleryError
from fasr_video.report.pictures import Picture, photograph, thumbnail
from fasr_video.report.redact import pixelated_photograph

# At most this many photographs are shown of one candidate.
MOST_PHOTOGRAPHS = 4


@dataclass(frozen=True, slots=True)
class Photograph:
    path: str
    sha256: str
    picture: Picture
    thumbnail: Picture


class Photographs:
    """The photographs of each subject that the search used; none where no gallery is open."""

    def __init__(
        self,
        gallery: Gallery | None,
        remark: str,
        listed: Collection[tuple[str, str]] = (),
        redact: bool = False,
    ) -> None:
        """`listed` are the photographs (subject, SHA-256) that the gallery had when searched."""
        self.remark = remark
        self._gallery = gallery
        self._listed = listed
        self._redact = redact
        self._cache: dict[str, tuple[Photograph, ...]] = {}

    def of(self, subject: str) -> tuple[Photograph, ...]:
        if subject not in self._cache:
            self._cache[subject] = tuple(self._read(subject))
        return self._cache[subject]

    def _read(self, subject: str) -> Iterator[Photograph]:
        if self._gallery is None:
            return
        images = [
            image
            for image in self._gallery.images(subject)
            if image.has_picture and (subject, image.sha256) in self._listed
        ]
        for image in images[:MOST_PHOTOGRAPHS]:
            face = self._gallery.face(image)
            if face is not None:
                picture = photograph(
                    pixelated_photograph(face.picture) if self._redact else face.picture
                )
                yield Photograph(image.path, image.sha256, picture, thumbnail(picture))


@contextmanager
def photographs(
    case: Case, searched: LastSearch | None, wanted: bool, redact: bool = False
) -> Iterator[Photographs]:
    """Open the gallery that the case was searched in.

    Where it is not available, the report has no photographs and says so.
    """
    if not wanted or searched is None:
        remark = "" if searched is None else "Photographs were left out of this report."
        yield Photographs(None, remark)
        return
    searched_gallery = searched.gallery
    try:
        gallery = Gallery.open(case.folder / searched_gallery.folder, read_only=True)
    except GalleryError as error:
        remark = f"No photographs are shown: the gallery is not available ({error.reason})."
        yield Photographs(None, remark)
        return
    with gallery:
        if gallery.id != searched_gallery.id:
            yield Photographs(
                None, "No photographs are shown: the searched gallery was replaced by another one."
            )
        else:
            listed = {
                (photo.subject, photo.sha256)
                for photo in photographs_of(case)
                if photo.problem is None and photo.sha256
            }
            remarks = ["The photographs are pixelated."] if redact else []
            if gallery.state != searched_gallery.state:
                remarks.append("The gallery has changed since the case was searched.")
            yield Photographs(gallery, " ".join(remarks), listed, redact)
