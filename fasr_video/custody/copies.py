"""Copies of people who were removed from a gallery: in other galleries, reports, and cases."""

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
class CopiesElsewhere:
    """What was found outside the gallery. It is only listed; no file is changed."""

    folders: tuple[str, ...]
    files: int
    copies: tuple[str, ...]
    """Files that hold a vector or a picture of a removed person."""
    named: dict[str, tuple[str, ...]]
    """Cases that name a person who is no longer in the gallery, and where in the case."""
    unread: tuple[str, ...]


def identifying_bytes(gallery: Gallery, images: Sequence[GalleryImage]) -> list[bytes]:
    """Return byte strings that give copies away: vectors, stored faces, faces as reports show."""
    pieces: list[bytes] = []
    for image in images:
        pieces += gallery.stored_vectors(image)
        stored_picture = gallery.stored_picture(image)
        if stored_picture is not None:
            pieces += pieces_of_picture(stored_picture)
        face = gallery.face(image)
        if face is not None:
            in_report = photograph(face.picture)
            pieces += pieces_of_picture(in_report.data)
            pieces += pieces_of_picture(thumbnail(in_report).data)
    return pieces


def find_copies(
    folders: Sequence[Path],
    gallery: Path,
    pieces: Sequence[bytes],
    removed_subjects: Collection[str],
) -> CopiesElsewhere:
    """Search every file of these folders except the gallery's own.

    `removed_subjects` are those of whom the gallery holds nothing any more.
    """
    readable: list[Path] = []
    unread: list[str] = []
    for file in _files_outside(folders, gallery):
        try:
            file.open("rb").close()
            readable.append(file)
        except OSError:
            unread.append(str(file))
    hits = traces.find_traces(readable, pieces)
    named = {}
    for database in (f for f in readable if f.name == DATABASE):
        try:
            where = _where_named(database.parent, removed_subjects)
        except FasrError:
            unread.append(str(database))
            continue
        if where:
            named[str(database.parent)] = where
    return CopiesElsewhere(
        folders=tuple(str(folder.resolve()) for folder in folders),
        files=len(readable),
        copies=tuple(sorted({str(file) for file in hits.paths})),
        named=named,
        unread=tuple(unread),
    )


def _files_outside(folders: Sequence[Path], gallery: Path) -> list[Path]:
    """Return the files below these folders, each file listed once, without the gallery's own."""
    files: dict[Path, None] = {}
    for folder in folders:
        paths = (p.resolve() for p in folder.rglob("*") if p.is_file() and not p.is_symlink())
        files |= dict.fromkeys(sorted(paths))
    excluded = gallery.resolve()
    return [file for file in files if excluded not in file.parents]


def _where_named(folder: Path, subjects: Collection[str]) -> tuple[str, ...]:
    """Return where the case names one of these subjects."""
    with explain_errors(folder), Case.open(folder, read_only=True) as case:
        return tuple(places_with_name(case, subjects))
