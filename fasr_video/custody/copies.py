"""Where else somebody is who was removed from a gallery: other galleries, reports, and cases that name them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fasr_video.case.case import Case
from fasr_video.case.store import DATABASE
from fasr_video.custody.purge import pieces_of_picture
from fasr_video.errors import FasrError
from fasr_video.gallery import traces
from fasr_video.gallery.gallery import Gallery
from fasr_video.gallery.records import GalleryImage
from fasr_video.report.pictures import photograph, thumbnail
from fasr_video.sqlite import environment

_POOLED = "SELECT vector FROM template WHERE subject = ? AND kind = 'pooled'"
_NAMED = {
    "candidates": "SELECT 1 FROM candidate WHERE subject = :name",
    "decisions": "SELECT 1 FROM decision WHERE subject = :name",
    "the list of photographs": "SELECT 1 FROM gallery_photo WHERE subject = :name",
    "a reconstruction drawn from their photographs": (
        "SELECT 1 FROM restoration WHERE json_extract(facts, '$.conditioned_on') = :name"
    ),
    "earlier searches or decisions (log)": "SELECT 1 FROM log WHERE instr(details, :quoted)",
}


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
        found += [v for (v,) in gallery.query("SELECT vector FROM template WHERE image = ?", (image.id,))]
        found += [v for (v,) in gallery.query(_POOLED, (image.subject,))]
        for (picture,) in gallery.query("SELECT picture FROM image WHERE id = ? AND picture IS NOT NULL", (image.id,)):
            found += pieces_of_picture(picture)
        if (face := gallery.face(image)) is not None:
            shown = photograph(face.picture)
            found += [*pieces_of_picture(shown.data), *pieces_of_picture(thumbnail(shown).data)]
    return found


def look(places: Sequence[Path], gallery: Path, pieces: Sequence[bytes], gone: Collection[str]) -> Elsewhere:
    """Search every file of these places but the gallery's own; `gone` are subjects of whom it holds nothing more."""
    files: dict[Path, None] = {}
    for place in places:
        files |= dict.fromkeys(sorted(p.resolve() for p in place.rglob("*") if p.is_file() and not p.is_symlink()))
    own = gallery.resolve()
    others = [f for f in files if own not in f.parents]
    readable, unread = [], []
    for file in others:
        try:
            file.open("rb").close()
            readable.append(file)
        except OSError:
            unread.append(str(file))
    found = traces.search(readable, pieces)
    named = {}
    for database in (f for f in readable if f.name == DATABASE):
        try:
            where = tuple(_naming(database.parent, gone))
        except FasrError:
            unread.append(str(database))
            continue
        if where:
            named[str(database.parent)] = where
    copies = tuple(sorted({str(f) for f in found.places}))
    return Elsewhere(tuple(str(p.resolve()) for p in places), len(readable), copies, named, tuple(unread))


def _naming(folder: Path, gone: Collection[str]) -> Iterator[str]:
    with environment(folder), Case.open(folder, read_only=True) as case:
        for what, query in _NAMED.items():
            if any(case.db.execute(f"{query} LIMIT 1", {"name": n, "quoted": json.dumps(n)}).fetchone() for n in gone):
                yield what
