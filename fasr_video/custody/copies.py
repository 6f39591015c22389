"""Where else somebody is who was removed from a gallery: other galleries, reports, and cases that name them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from fasr_video.case.case import Case
from fasr_video.case.find import places_with_name
from fasr_video.case.store import DATABASE
from fasr_video.custody.purge import pieces_of_picture
from fasr_video.errors import FasrError
from fasr_video.gallery import traces
from fasr_video.gallery.gallery import Gallery
from fasr_video.gallery.records import GalleryImage
from fasr_video.report.pictures import photograph, thumbnail
from fasr_video.sqlite import explain_errors


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """What was found outside the gallery; nothing of it is touched."""

    folders: tuple[str, ...]
    files: int
    copies: tuple[str, ...]
    """Files that hold a vector or a picture of somebody who was removed."""
    named: dict[str, tuple[str, ...]]
    """Cases that name somebody who is in the gallery no more, and where in them."""
    unread: tuple[str, ...]


def telling(gallery: Gallery, images: Sequence[GalleryImage]) -> list[bytes]:
    """Pieces by which copies are known: vectors, faces as the gallery has them and as reports show them."""
    found: list[bytes] = []
    for image in images:
        found += gallery.stored_vectors(image)
        if (picture := gallery.stored_picture(image)) is not None:
            found += pieces_of_picture(picture)
        if (face := gallery.face(image)) is not None:
            shown = photograph(face.picture)
            found += [*pieces_of_picture(shown.data), *pieces_of_picture(thumbnail(shown).data)]
    return found


def look(
    places: Sequence[Path], gallery: Path, pieces: Sequence[bytes], gone: Collection[str]
) -> Elsewhere:
    """Search every file of these places but the gallery's own; `gone` are subjects of whom it holds nothing more."""
    files: dict[Path, None] = {}
    for place in places:
        files |= dict.fromkeys(
            sorted(p.resolve() for p in place.rglob("*") if p.is_file() and not p.is_symlink())
        )
    own = gallery.resolve()
    others = [f for f in files if own not in f.parents]
    readable, unread = [], []
    for file in others:
        try:
            file.open("rb").close()
            readable.append(file)
        except OSError:
            unread.append(str(file))
    found = traces.find_traces(readable, pieces)
    named = {}
    for database in (f for f in readable if f.name == DATABASE):
        try:
            with (
                explain_errors(database.parent),
                Case.open(database.parent, read_only=True) as case,
            ):
                where = tuple(places_with_name(case, gone))
        except FasrError:
            unread.append(str(database))
            continue
        if where:
            named[str(database.parent)] = where
    copies = tuple(sorted({str(f) for f in found.paths}))
    return Elsewhere(
        tuple(str(p.resolve()) for p in places), len(readable), copies, named, tuple(unread)
    )
