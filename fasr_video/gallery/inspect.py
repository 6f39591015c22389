"""Is a gallery what it was when it was written, and what is in it, in numbers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from statistics import mean

import numpy as np

from fasr_video.errors import IntegrityError
from fasr_video.gallery import index
from fasr_video.gallery.index import Index, Measured
from fasr_video.gallery.store import FILE, FINISH, GalleryStore
from fasr_video.sqlite import READ_ERRORS

COMPARED = 2_000  # templates that are held against all others for the nearest pair; beyond, a sample of that many


@dataclass(slots=True)
class Check:
    what: str
    checked: int
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    remedy: str = "restore the gallery from a copy, or enrol again into a new one"


def check(gallery: GalleryStore) -> list[Check]:
    """Database, rows, stored hashes, index. A damaged database ends it there: nothing more can be said of it."""
    with gallery.snapshot():
        first = _structure(gallery)
        if first.problems:
            return [first]
        return [
            first,
            _removal(gallery),
            _rows(gallery),
            _templates(gallery),
            _pictures(gallery),
            _index(gallery),
        ]


def damage(gallery: GalleryStore) -> str | None:
    """The first thing in its database that is not as it was written; None when nothing speaks against it."""
    for check_one in (_structure, _rows, _templates, _pictures):
        try:
            problems = check_one(gallery).problems
        except (*READ_ERRORS, IntegrityError) as error:
            problems = [" ".join(str(error).split())]
        if problems:
            return problems[0]
    return None


def _structure(gallery: GalleryStore) -> Check:
    return Check("the database's own structure", 1, gallery.structure_problems())


def _removal(gallery: GalleryStore) -> Check:
    found = Check("removals are finished", len(gallery.removals()), remedy=FINISH)
    if gallery.unfinished():
        found.problems.append(
            "a removal was begun and is not finished: what was removed may still be in the files"
        )
    return found


def _rows(gallery: GalleryStore) -> Check:
    return Check(
        "rows belong together", sum(s.images for s in gallery.subjects()), gallery.stray_rows()
    )


def _templates(gallery: GalleryStore) -> Check:
    found = Check("templates against their hashes", 0)
    for number, digest, vector in gallery.stored_templates():
        found.checked += 1
        if hashlib.sha256(vector).digest() != digest or len(vector) != 4 * gallery.length:
            found.problems.append(f"template {number} was changed")
    return found


def _pictures(gallery: GalleryStore) -> Check:
    found = Check("pictures against their hashes", 0)
    for path, digest, picture in gallery.stored_pictures():
        found.checked += picture is not None
        if (picture is None) != (digest is None) or (
            picture is not None and hashlib.sha256(picture).digest() != digest
        ):
            found.problems.append(f"the stored picture of {path} was changed")
    return found


def _index(gallery: GalleryStore) -> Check:
    found = Check("index against the store", gallery.count())
    found.remedy = f"delete {gallery.folder / FILE}: the next search makes it anew from the store"
    facts, stamp = index.provenance_of(gallery), index.read_stamp(gallery)
    # Whether it is one that large galleries have is the searcher's choice, not this check's.
    reason = index.unfit(gallery, facts, facts["count"] - bool(stamp and stamp["measured"]))
    if reason == index.DAMAGED:
        found.problems.append(f"{FILE}: {reason}")
    elif reason is not None:
        found.notes.append(f"to be made anew by the next search: {reason}")
    else:
        ids, features = index.contents(gallery.folder)
        vectors = gallery.vectors()
        if not (np.array_equal(ids, vectors.ids) and np.array_equal(features, vectors.features)):
            found.problems.append(f"{FILE} holds other vectors than the store")
    return found


@dataclass(frozen=True, slots=True)
class NearestPair:
    """The two templates of different subjects that are most alike: how near a stranger can come in this gallery."""

    subjects: tuple[str, str]
    cosine: float
    compared: int
    """Templates that were held against all others."""


@dataclass(frozen=True, slots=True)
class Statistics:
    subjects: int
    images: int
    pictures: int
    templates: int
    pooled: int
    problems: int
    removals: int
    fewest_photos: int
    mean_photos: float
    most_photos: int
    nearest: NearestPair | None
    index_kind: str
    index_state: str
    measured: tuple[Measured, ...]
    disk_bytes: int


def statistics(gallery: GalleryStore) -> Statistics:
    subjects, images = gallery.subjects(), gallery.images()
    counts = [s.images for s in subjects] or [0]
    made = Index.open(gallery)
    return Statistics(
        subjects=len(subjects),
        images=len(images),
        pictures=sum(i.has_picture for i in images),
        templates=len(made),
        pooled=gallery.count("pooled"),
        problems=len(gallery.problems()),
        removals=len(gallery.removals()),
        fewest_photos=min(counts),
        mean_photos=mean(counts),
        most_photos=max(counts),
        nearest=nearest_pair(gallery, made, max(counts)),
        index_kind=made.kind,
        index_state="fits" if made.rebuilt is None else f"made anew: {made.rebuilt}",
        measured=made.measured,
        disk_bytes=sum(f.stat().st_size for f in gallery.files()),
    )


def nearest_pair(gallery: GalleryStore, made: Index, most_photos: int) -> NearestPair | None:
    stored = gallery.vectors()
    chosen = np.arange(len(stored.ids))
    if len(chosen) > COMPARED:
        chosen = np.random.default_rng(0).choice(chosen, COMPARED, replace=False)
    best: NearestPair | None = None
    for part in np.array_split(chosen, max(1, len(chosen) // 256)):
        # A subject has at most its photographs and a pooled one: what comes after them is somebody else.
        cosines, ids = made.search(stored.features[part], most_photos + 2)
        whose = gallery.templates({*ids.ravel().tolist(), *stored.ids[part].tolist()})
        for own, row, line in zip(
            stored.ids[part].tolist(), ids.tolist(), cosines.tolist(), strict=True
        ):
            subject = whose[own].subject
            others = (
                (c, whose[i].subject)
                for c, i in zip(line, row, strict=True)
                if whose[i].subject != subject
            )
            cosine, other = next(others, (-2.0, ""))
            if cosine > (-2.0 if best is None else best.cosine):
                first, second = sorted((subject, other))
                best = NearestPair((first, second), cosine, len(chosen))
    return best
