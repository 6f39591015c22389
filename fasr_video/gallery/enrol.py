"""Enrol photographs into a gallery, a batch per transaction, without embedding known ones again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray

from fasr_video.console import count
from fasr_video.detection import Detector
from fasr_video.detection.photograph import ALONE, MARGIN, Choice
from fasr_video.errors import InputError, UsageError
from fasr_video.files import readable_name, sha256_file
from fasr_video.gallery.encoder import as_tensors
from fasr_video.gallery.gallery import Gallery
from fasr_video.gallery.photos import (
    Entry,
    Face,
    Listing,
    is_within,
    read_face,
    read_listing,
)
from fasr_video.gallery.records import EnrolledPhoto, GalleryImage, Problem, Removal
from fasr_video.recognition.embedder import Embedder
from fasr_video.sqlite import explain_errors
from fasr_video.types import AlignedFace

BATCH_SIZE = 32  # photographs; a kill loses at most one batch

# Called with the number of photographs processed, and of all.
Listener = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class SyncReport:
    added: int
    removed: int
    unchanged: int
    renamed: int
    """Known photographs with a new path or another subject; they were not embedded again."""
    problems: tuple[Problem, ...]
    """Photographs that were not enrolled, with the reasons."""
    warnings: tuple[str, ...]
    removal: Removal | None
    """What was removed, and the search of all files for it."""


@dataclass(frozen=True, slots=True)
class EnrolDefaults:
    """How to enrol photographs where a manifest does not say otherwise."""

    source: str = ""
    authority: str = ""
    pictures: bool = True
    """Whether to store the aligned faces."""
    choice: Choice = ALONE
    """Which face of a photograph to enrol."""


@dataclass(slots=True)
class _Plan:
    """What has to be done for the listed photographs, compared by their hashes."""

    new: list[tuple[Entry, str]] = field(default_factory=list)
    renamed: list[tuple[Entry, str]] = field(default_factory=list)
    unchanged: list[tuple[Entry, str]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    present: set[str] = field(default_factory=set)
    """Hashes of the photographs to keep; files that cannot be reached count as unchanged."""


def enrol(
    gallery: Gallery,
    photos: Path,
    detector: Detector,
    embedder: Embedder,
    *,
    listen: Listener | None = None,
    defaults: EnrolDefaults = EnrolDefaults(),
) -> SyncReport:
    """Add the photographs of a folder or CSV manifest; remove none and change no subject."""
    return _enrol(
        gallery, photos, detector, embedder, listen=listen, defaults=defaults, remove=False
    )


def sync(
    gallery: Gallery,
    photos: Path,
    detector: Detector,
    embedder: Embedder,
    *,
    listen: Listener | None = None,
    defaults: EnrolDefaults = EnrolDefaults(),
) -> SyncReport:
    """Make the gallery equal to a folder or CSV manifest; only new photographs are embedded."""
    return _enrol(
        gallery, photos, detector, embedder, listen=listen, defaults=defaults, remove=True
    )


def _enrol(
    gallery: Gallery,
    photos: Path,
    detector: Detector,
    embedder: Embedder,
    *,
    listen: Listener | None,
    defaults: EnrolDefaults,
    remove: bool,
) -> SyncReport:
    gallery.require_embedder(embedder)
    listing = read_listing(photos)
    _refuse_face_number(photos, listing, defaults.choice)
    entries = [
        replace(e, source=e.source or defaults.source, authority=e.authority or defaults.authority)
        for e in listing.entries
    ]
    by_hash, unreadable = _hash(entries)
    if remove and not by_hash:
        first = next(f" ({p.path}: {p.reason})" for p in (*listing.problems, *unreadable))
        remedy = "check that its disk is mounted and readable; nobody was removed"
        raise InputError(photos, f"none of its photographs can be read{first}", remedy)
    unreachable = listing.unreachable | {PurePath(problem.path) for problem in unreadable}
    plan = _make_plan(gallery, by_hash, unreachable, move=remove)
    _update_enrolled(gallery, plan)
    added, failed = _enrol_new(
        gallery, plan.new, detector, embedder, defaults=defaults, listen=listen
    )
    problems = [*listing.problems, *unreadable, *plan.problems, *failed]
    removed, removal = _remove_absent(gallery, plan, photos) if remove else ([], None)
    _store_problems(gallery, problems, unreachable, remove)
    if added or removed or plan.renamed:
        counts = {"added": added, "removed": len(removed)}
        counts |= {"renamed": len(plan.renamed), "problems": len(problems)}
        gallery.log("sync" if remove else "enrol", counts | {"detector": detector.fingerprint})
    return SyncReport(
        added=added,
        removed=len(removed),
        unchanged=len(plan.unchanged),
        renamed=len(plan.renamed),
        problems=tuple(problems),
        warnings=(*listing.warnings, *_face_number_warnings(gallery.folder, plan, defaults.choice)),
        removal=removal,
    )


def _remove_absent(gallery: Gallery, plan: _Plan, photos: Path) -> tuple[list[str], Removal | None]:
    """Remove the photographs that are not listed any more, and return their hashes."""
    removed = [i.sha256 for i in gallery.images() if i.sha256 not in plan.present]
    if not removed:
        return [], None
    why = f"not among the photographs of {readable_name(photos.name)} any more"
    return removed, gallery.remove(removed, why)


def _enrol_new(
    gallery: Gallery,
    new: Sequence[tuple[Entry, str]],
    detector: Detector,
    embedder: Embedder,
    *,
    defaults: EnrolDefaults,
    listen: Listener | None,
) -> tuple[int, list[Problem]]:
    """Enrol new photographs batch by batch; return how many were added, and the problems."""
    known_reasons: dict[tuple[str | None, str | None], str] = {
        (p.sha256, p.detector): p.reason for p in gallery.problems() if p.detector is not None
    }
    added = 0
    problems: list[Problem] = []
    for start in range(0, len(new), BATCH_SIZE):
        batch = new[start : start + BATCH_SIZE]
        count, failed = _enrol_batch(
            gallery, batch, detector, embedder, defaults=defaults, known_reasons=known_reasons
        )
        added += count
        problems += failed
        if listen is not None:
            listen(start + len(batch), len(new))
    return added, problems


def _refuse_face_number(photos: Path, listing: Listing, choice: Choice) -> None:
    """Raise where a face number is given with several photographs."""
    count = len(listing.entries) + len(listing.problems)
    if isinstance(choice.face, int) and count > 1:
        reason = f"{photos} contains {count} photographs, and a face number applies to one"
        raise UsageError(
            f"--face {choice.face}", reason, "give that photograph alone, or --face largest"
        )


def _face_number_warnings(folder: Path, plan: _Plan, choice: Choice) -> list[str]:
    """Return a warning for a photograph that is enrolled already, where a face number was given."""
    if not isinstance(choice.face, int):
        return []
    remove = f"fasr-video gallery remove {folder} --image"
    return [
        f"{entry.path} is enrolled already, and keeps its face: to choose another face, first "
        f"remove it: {remove} {sha256[:12]} --why TEXT"
        for entry, sha256 in (*plan.renamed, *plan.unchanged)
    ]


def _hash(entries: Sequence[Entry]) -> tuple[dict[str, list[Entry]], list[Problem]]:
    """Return the entries by the hash of their file, and problems for files that cannot be read."""
    by_hash: dict[str, list[Entry]] = {}
    problems: list[Problem] = []
    for entry in entries:
        try:
            by_hash.setdefault(sha256_file(entry.file), []).append(entry)
        except OSError as error:
            problems.append(
                Problem(entry.path, entry.subject, None, f"cannot be read ({error.strerror})")
            )
    return by_hash, problems


def _make_plan(
    gallery: Gallery,
    by_hash: Mapping[str, list[Entry]],
    unreachable: Collection[PurePath],
    move: bool,
) -> _Plan:
    """Compare the listed photographs with the gallery.

    An enrolled photograph keeps its subject as long as one of its files names that subject, or
    cannot be reached.
    """
    images = gallery.images()
    stored = {i.sha256: i for i in images}
    # Files that cannot be reached may be unchanged, so their photographs stay.
    out_of_reach = {i.sha256 for i in images if is_within(i.path, unreachable)}
    plan = _Plan(present=out_of_reach | by_hash.keys())
    for sha256, copies in by_hash.items():
        before = stored.get(sha256)
        entry, *others = copies if before is None else _enrolled_first(copies, before)
        plan.problems += [_duplicate_problem(other, entry, sha256) for other in others]
        if before is None:
            plan.new.append((entry, sha256))
        elif before.subject != entry.subject and (not move or sha256 in out_of_reach):
            reason = (
                f"the same photograph as {before.path}, which is enrolled as {before.subject}:"
                " remove one of the two"
            )
            plan.problems.append(Problem(entry.path, entry.subject, sha256, reason))
        elif (before.subject, before.path) != (entry.subject, entry.path):
            plan.renamed.append((entry, sha256))
        else:
            plan.unchanged.append((entry, sha256))
    return plan


def _enrolled_first(copies: Sequence[Entry], image: GalleryImage) -> list[Entry]:
    """Return entries of one file, those first that agree with how it is enrolled now."""
    return sorted(copies, key=lambda e: (e.subject != image.subject, e.path != image.path))


def _duplicate_problem(other: Entry, entry: Entry, sha256: str) -> Problem:
    """Return the problem that `other` is the same file as `entry`, whether that is usable
    or not."""
    if other.subject == entry.subject:
        reason = f"the same file as {entry.path}: one of them is enough"
    else:
        reason = (
            f"the same file as {entry.path}, which is listed for {entry.subject}:"
            " remove one of the two"
        )
    return Problem(other.path, other.subject, sha256, reason)


def _update_enrolled(gallery: Gallery, plan: _Plan) -> None:
    """Store new paths, subjects and notes of photographs that are enrolled already."""
    notes = {s.id: s.note for s in gallery.subjects()}
    stored = {i.sha256: i for i in gallery.images()}
    with gallery.transaction():
        for entry, sha256 in (*plan.renamed, *plan.unchanged):
            before = stored[sha256]
            if before.subject != entry.subject:
                gallery.move(sha256, entry.subject, entry.note)
            source = entry.source or before.source
            authority = entry.authority or before.authority
            if (entry.path, source, authority) != (before.path, before.source, before.authority):
                gallery.describe(sha256, entry.path, source, authority)
            if entry.note and notes.get(entry.subject, entry.note) != entry.note:
                gallery.set_note(entry.subject, entry.note)


def _enrol_batch(
    gallery: Gallery,
    batch: Sequence[tuple[Entry, str]],
    detector: Detector,
    embedder: Embedder,
    *,
    defaults: EnrolDefaults,
    known_reasons: dict[tuple[str | None, str | None], str],
) -> tuple[int, list[Problem]]:
    """Enrol a batch in one transaction; return how many were added, and the problems.

    `known_reasons` has the reasons for photographs that were unusable before, by hash and by what
    judged them; these are not opened again.
    """
    judge = _judged_by(detector, defaults.choice)
    usable: list[tuple[Entry, str, Face]] = []
    problems: list[Problem] = []
    for entry, sha256 in batch:
        reason = known_reasons.get((sha256, judge))
        if reason is not None:
            problems.append(Problem(entry.path, entry.subject, sha256, reason, judge))
            continue
        face = read_face(entry.file, detector, defaults.choice)
        if not _is_unchanged(entry.file, sha256):
            reason = "it changed or disappeared while it was read"
            problems.append(Problem(entry.path, entry.subject, None, reason))
        elif isinstance(face, Face):
            usable.append((entry, sha256, face))
        else:
            problems.append(Problem(entry.path, entry.subject, sha256, face.reason, judge))
    vectors = _embed(embedder, [face.aligned for _, _, face in usable])
    with gallery.transaction():
        for (entry, sha256, face), (feature, norm) in zip(usable, vectors, strict=True):
            aligned = face.aligned if defaults.pictures else None
            photo = EnrolledPhoto(
                sha256, entry.path, feature, norm, face.eye_px, face.score, aligned
            )
            photo = replace(photo, source=entry.source, authority=entry.authority)
            gallery.add(entry.subject, photo, entry.note)
        gallery.set_problems(problems)
    return len(usable), problems


def _judged_by(detector: Detector, choice: Choice) -> str:
    """Return everything that decides whether a photograph is usable."""
    return f"{detector.fingerprint}, margin {MARGIN}, face {choice.face or 'alone'}"


def _is_unchanged(file: Path, sha256: str) -> bool:
    try:
        return sha256_file(file) == sha256
    except OSError:
        return False


def _embed(
    embedder: Embedder, faces: Sequence[AlignedFace]
) -> list[tuple[NDArray[np.float32], float]]:
    if not faces:
        return []
    features, norms = embedder.embed(*as_tensors(faces))
    return list(zip(features.numpy(), norms.tolist(), strict=True))


def _store_problems(
    gallery: Gallery,
    problems: Sequence[Problem],
    unreachable: Collection[PurePath],
    is_complete: bool,
) -> None:
    """Store problems; where the listing is complete, delete earlier ones that are solved."""
    solved: list[str] = []
    if is_complete:
        paths = {problem.path for problem in problems}
        solved = [
            problem.path
            for problem in gallery.problems()
            if problem.path not in paths and not is_within(problem.path, unreachable)
        ]
    gallery.set_problems(problems, solved)


def migrate(
    gallery: Gallery, embedder: Embedder, drop_missing: bool = False, listen: Listener | None = None
) -> tuple[int, Removal | None]:
    """Embed every stored picture with another embedder, and return how many, and what was removed.

    The gallery changes in one transaction at the end.
    """
    images = gallery.images()
    missing = [i for i in images if not i.has_picture]
    if missing and not drop_missing:
        raise _no_pictures(gallery, missing, len(images))
    with_picture = [i for i in images if i.has_picture]
    records = gallery.folder / "migrate.part"
    record_type = np.dtype(
        [("image", "<i8"), ("norm", "<f4"), ("vector", "<f4", (embedder.length,))]
    )
    try:
        with explain_errors(gallery.folder), records.open("xb") as handle:
            for start in range(0, len(with_picture), BATCH_SIZE):
                batch = with_picture[start : start + BATCH_SIZE]
                faces = [face for i in batch if (face := gallery.face(i)) is not None]
                rows = zip(batch, _embed(embedder, faces), strict=True)
                handle.write(
                    np.array(
                        [(i.id, norm, vector) for i, (vector, norm) in rows], record_type
                    ).tobytes()
                )
                if listen is not None:
                    listen(start + len(batch), len(with_picture))
        removal = gallery.replace_vectors(
            embedder,
            _read_records(records, record_type),
            [i.sha256 for i in missing],
            "no stored picture to migrate",
        )
    finally:
        records.unlink(missing_ok=True)
    gallery.log(
        "migrated",
        {"embedder": embedder.sha256, "images": len(with_picture), "dropped": len(missing)},
    )
    return len(with_picture), removal


def _no_pictures(gallery: Gallery, missing: Sequence[GalleryImage], total: int) -> UsageError:
    paths = ", ".join(i.path for i in missing[:3]) + (", …" if len(missing) > 3 else "")
    reason = f"{len(missing)} of {count(total, 'photograph')} have no stored picture ({paths})"
    remedy = (
        "use --drop-missing and add them again, or enrol all into a new gallery;"
        " nothing was changed"
    )
    return UsageError(gallery.folder, reason, remedy)


def _read_records(
    records: Path, record_type: np.dtype[np.void]
) -> Iterator[tuple[int, NDArray[np.float32], float]]:
    """Yield image id, vector and norm of each record of a file."""
    with records.open("rb") as handle:
        while data := handle.read(BATCH_SIZE * record_type.itemsize):
            for row in np.frombuffer(data, record_type):
                yield int(row["image"]), row["vector"], float(row["norm"])
