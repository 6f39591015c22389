"""Check a gallery against its stored hashes, and compute statistics about it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from statistics import mean

import numpy as np

from fasr_video.errors import IntegrityError
from fasr_video.gallery import index
from fasr_video.gallery.index import Index, Measurement
from fasr_video.gallery.store import FINISH_COMMAND, INDEX_FILE, GalleryStore
from fasr_video.sqlite import READ_ERRORS

# Most templates that are compared with all others to find the nearest pair; more are sampled.
MAX_COMPARED = 2_000


@dataclass(slots=True)
class Check:
    what: str
    checked: int
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    remedy: str = "restore the gallery from a copy, or enrol again into a new one"


def check(gallery: GalleryStore) -> list[Check]:
    """Return the results of all checks; of a damaged database, of the first check only."""
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


def first_problem(gallery: GalleryStore) -> str | None:
    """Return the first problem of the database, or None where all checks pass."""
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
    result = Check("no unfinished removals", len(gallery.removals()), remedy=FINISH_COMMAND)
    if gallery.has_unfinished_removal():
        result.problems.append("a removal was interrupted: removed data may still be in the files")
    return result


def _rows(gallery: GalleryStore) -> Check:
    return Check(
        "records are consistent", sum(s.images for s in gallery.subjects()), gallery.row_problems()
    )


def _templates(gallery: GalleryStore) -> Check:
    result = Check("templates against their hashes", 0)
    for number, digest, vector in gallery.stored_templates():
        result.checked += 1
        if hashlib.sha256(vector).digest() != digest or len(vector) != 4 * gallery.length:
            result.problems.append(f"template {number} was changed")
    return result


def _pictures(gallery: GalleryStore) -> Check:
    result = Check("pictures against their hashes", 0)
    for path, digest, picture in gallery.stored_pictures():
        result.checked += picture is not None
        if (picture is None) != (digest is None) or (
            picture is not None and hashlib.sha256(picture).digest() != digest
        ):
            result.problems.append(f"the stored picture of {path} was changed")
    return result


def _index(gallery: GalleryStore) -> Check:
    result = Check("index against the database", gallery.count())
    result.remedy = f"delete {gallery.folder / INDEX_FILE}: the next search rebuilds it"
    facts, stamp = index.index_facts(gallery), index.read_stamp(gallery)
    # Either kind of index is fine here; which one to use is decided when searching.
    reason = index.reason_to_rebuild(
        gallery, facts, facts.count - bool(stamp and stamp["measured"])
    )
    if reason == index.DAMAGED:
        result.problems.append(f"{INDEX_FILE}: {reason}")
    elif reason is not None:
        result.notes.append(f"the next search rebuilds it: {reason}")
    else:
        ids, features = index.read_vectors(gallery.folder)
        vectors = gallery.vectors()
        if not (np.array_equal(ids, vectors.ids) and np.array_equal(features, vectors.features)):
            result.problems.append(f"{INDEX_FILE} has other vectors than the database")
    return result


@dataclass(frozen=True, slots=True)
class NearestPair:
    """The two most similar templates of different subjects: how similar strangers are in this
    gallery."""

    subjects: tuple[str, str]
    cosine: float
    compared: int
    """Templates that were compared with all others."""


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
    measured: tuple[Measurement, ...]
    disk_bytes: int


def statistics(gallery: GalleryStore) -> Statistics:
    """Return counts, sizes and the nearest pair of a gallery."""
    subjects, images = gallery.subjects(), gallery.images()
    counts = [s.images for s in subjects] or [0]
    search_index = Index.open(gallery)
    return Statistics(
        subjects=len(subjects),
        images=len(images),
        pictures=sum(i.has_picture for i in images),
        templates=len(search_index),
        pooled=gallery.count("pooled"),
        problems=len(gallery.problems()),
        removals=len(gallery.removals()),
        fewest_photos=min(counts),
        mean_photos=mean(counts),
        most_photos=max(counts),
        nearest=nearest_pair(gallery, search_index, max(counts)),
        index_kind=search_index.kind,
        index_state="fits" if search_index.rebuilt is None else f"rebuilt: {search_index.rebuilt}",
        measured=search_index.measured,
        disk_bytes=sum(f.stat().st_size for f in gallery.files()),
    )


def nearest_pair(
    gallery: GalleryStore, search_index: Index, most_photos: int
) -> NearestPair | None:
    """Return the most similar templates of different subjects, or None for a single subject."""
    stored = gallery.vectors()
    chosen = np.arange(len(stored.ids))
    if len(chosen) > MAX_COMPARED:
        chosen = np.random.default_rng(0).choice(chosen, MAX_COMPARED, replace=False)
    best: NearestPair | None = None
    for part in np.array_split(chosen, max(1, len(chosen) // 256)):
        # A subject has at most one template per photograph and a pooled one; the next is of
        # another.
        cosines, ids = search_index.search(stored.features[part], most_photos + 2)
        templates = gallery.templates({*ids.ravel().tolist(), *stored.ids[part].tolist()})
        rows = zip(stored.ids[part].tolist(), ids.tolist(), cosines.tolist(), strict=True)
        for own_id, near_ids, near_cosines in rows:
            subject = templates[own_id].subject
            others = (
                (cosine, templates[number].subject)
                for cosine, number in zip(near_cosines, near_ids, strict=True)
                if templates[number].subject != subject
            )
            cosine, other = next(others, (-2.0, ""))
            if cosine > (-2.0 if best is None else best.cosine):
                first, second = sorted((subject, other))
                best = NearestPair((first, second), cosine, len(chosen))
    return best
