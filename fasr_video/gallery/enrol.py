"""From photographs to templates: a batch at a time, each safe before the next, and nothing computed twice."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray

from fasr_video.detection import Detector
from fasr_video.detection.photograph import ALONE, MARGIN, Choice
from fasr_video.errors import InputError, UsageError
from fasr_video.files import readable_name, sha256_file
from fasr_video.gallery.encoder import as_tensors
from fasr_video.gallery.gallery import Gallery
from fasr_video.gallery.photos import Entry, Face, Listing, NoFace, lies_in, look, read_listing
from fasr_video.gallery.records import EnrolledPhoto, Problem, Removal
from fasr_video.recognition.embedder import Embedder
from fasr_video.sqlite import explain_errors
from fasr_video.types import AlignedFace

BATCH = 32  # photographs: what a kill can cost

# Told the photographs that were looked at, of how many.
Listener = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class SyncReport:
    added: int
    removed: int
    unchanged: int
    renamed: int
    """Photographs that only have another path, or another subject: nothing was computed."""
    problems: tuple[Problem, ...]
    """Photographs that are not enrolled, and why."""
    warnings: tuple[str, ...]
    removal: Removal | None
    """The proof for what was removed."""


@dataclass(frozen=True, slots=True)
class Told:
    """What holds for all photographs for which nothing else does; whether to keep their pictures; and which face of
    each is meant."""

    source: str = ""
    authority: str = ""
    pictures: bool = True
    choice: Choice = ALONE


@dataclass(slots=True)
class _Plan:
    """What the listing asks for, by content."""

    new: list[tuple[Entry, str]] = field(default_factory=list)
    renamed: list[tuple[Entry, str]] = field(default_factory=list)
    unchanged: list[tuple[Entry, str]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    present: set[str] = field(default_factory=set)
    """Photographs that are there, by hash; those whose file cannot be reached now are taken for unchanged."""


def enrol(
    gallery: Gallery,
    given: Path,
    detector: Detector,
    embedder: Embedder,
    listen: Listener | None = None,
    told: Told = Told(),
) -> SyncReport:
    """Add the photographs of a folder or CSV manifest; nothing is removed, and none changes its subject."""
    return _work(gallery, given, detector, embedder, listen, told, remove=False)


def sync(
    gallery: Gallery,
    given: Path,
    detector: Detector,
    embedder: Embedder,
    listen: Listener | None = None,
    told: Told = Told(),
) -> SyncReport:
    """Make the gallery equal to a folder or CSV manifest, by content: only new photographs are computed."""
    return _work(gallery, given, detector, embedder, listen, told, remove=True)


def _work(
    gallery: Gallery,
    given: Path,
    detector: Detector,
    embedder: Embedder,
    listen: Listener | None,
    told: Told,
    remove: bool,
) -> SyncReport:
    gallery.require(embedder)
    listing = read_listing(given)
    _check(given, listing, told.choice)
    entries = [
        replace(e, source=e.source or told.source, authority=e.authority or told.authority)
        for e in listing.entries
    ]
    by_hash, unread = _hash(entries)
    if remove and not by_hash:
        first = next(f" ({p.path}: {p.reason})" for p in (*listing.problems, *unread))
        remedy = "see that its disk is mounted and may be read; nobody was removed"
        raise InputError(given, f"none of its photographs can be read{first}", remedy)
    unreached = listing.unreached | {PurePath(p.path) for p in unread}
    plan = _compare(gallery, by_hash, unreached, move=remove)
    _rename(gallery, plan)
    known: dict[tuple[str | None, str | None], str] = {}
    known |= {
        (p.sha256, p.detector): p.reason for p in gallery.problems() if p.detector is not None
    }
    problems, added = [*listing.problems, *unread, *plan.problems], 0
    for start in range(0, len(plan.new), BATCH):
        batch = plan.new[start : start + BATCH]
        done, failed = _enrol_batch(gallery, batch, detector, embedder, told, known)
        added += done
        problems += failed
        if listen is not None:
            listen(start + len(batch), len(plan.new))
    stale = [i.sha256 for i in gallery.images() if i.sha256 not in plan.present] if remove else []
    why = f"not among the photographs of {readable_name(given.name)} any more"
    removal = gallery.remove(stale, why) if stale else None
    _note_problems(gallery, problems, unreached, remove)
    if added or stale or plan.renamed:
        counts = {
            "added": added,
            "removed": len(stale),
            "renamed": len(plan.renamed),
            "problems": len(problems),
        }
        gallery.log("sync" if remove else "enrol", counts | {"detector": detector.fingerprint})
    report = (added, len(stale), len(plan.unchanged), len(plan.renamed))
    warnings = (*listing.warnings, *_not_chosen_again(plan, told.choice))
    return SyncReport(*report, tuple(problems), warnings, removal)


def _check(given: Path, listing: Listing, choice: Choice) -> None:
    """Refuse a face's number for several photographs."""
    count = len(listing.entries) + len(listing.problems)
    if isinstance(choice.face, int) and count > 1:
        reason = f"{given} names {count} photographs, and a number is about one"
        raise UsageError(
            f"--face {choice.face}", reason, "give that photograph alone, or --face largest"
        )


def _not_chosen_again(plan: _Plan, choice: Choice) -> list[str]:
    """Return a warning for a photograph whose face was to be chosen, and that is enrolled already."""
    if not isinstance(choice.face, int):
        return []
    remedy = "`gallery remove --image` takes it out, then another face can be chosen"
    return [
        f"{entry.path} is enrolled already, and stays with the face that it has: {remedy}"
        for entry, _ in (*plan.renamed, *plan.unchanged)
    ]


def _hash(entries: Sequence[Entry]) -> tuple[dict[str, list[Entry]], list[Problem]]:
    """By content; and those that cannot be read."""
    by_hash: dict[str, list[Entry]] = {}
    unread: list[Problem] = []
    for entry in entries:
        try:
            by_hash.setdefault(sha256_file(entry.file), []).append(entry)
        except OSError as error:
            unread.append(
                Problem(entry.path, entry.subject, None, f"cannot be read ({error.strerror})")
            )
    return by_hash, unread


def _compare(
    gallery: Gallery,
    by_hash: Mapping[str, list[Entry]],
    unreached: Collection[PurePath],
    move: bool,
) -> _Plan:
    """What is listed against the store. What is enrolled stays where it is if any file says so, or may say so."""
    images = gallery.images()
    stored = {i.sha256: i for i in images}
    # Whether what lies out of reach changed is not known: no reason to remove anybody.
    kept = {i.sha256 for i in images if lies_in(i.path, unreached)}
    plan = _Plan(present=kept | by_hash.keys())
    for sha256, alike in by_hash.items():
        before = stored.get(sha256)
        # The first to speak for a photograph is the one that did so before, if it is still there.
        alike.sort(
            key=lambda e: (
                before is not None and (e.subject != before.subject, e.path != before.path)
            )
        )
        entry, *others = alike
        plan.problems += [_twice(other, entry, sha256) for other in others]
        if before is None:
            plan.new.append((entry, sha256))
        elif before.subject != entry.subject and (not move or sha256 in kept):
            whose = f"{before.path}, which is enrolled as {before.subject}"
            reason = f"the same photograph as {whose}: remove one of the two"
            plan.problems.append(Problem(entry.path, entry.subject, sha256, reason))
        elif (before.subject, before.path) != (entry.subject, entry.path):
            plan.renamed.append((entry, sha256))
        else:
            plan.unchanged.append((entry, sha256))
    return plan


def _twice(other: Entry, entry: Entry, sha256: str) -> Problem:
    """Whether `entry` can be used is not known yet."""
    if other.subject == entry.subject:
        reason = f"the same file as {entry.path}: one of them is enough"
    else:
        reason = f"the same file as {entry.path}, which stands for {entry.subject}: remove one of the two"
    return Problem(other.path, other.subject, sha256, reason)


def _rename(gallery: Gallery, plan: _Plan) -> None:
    """What is said about photographs that are enrolled already."""
    notes = {s.id: s.note for s in gallery.subjects()}
    stored = {i.sha256: i for i in gallery.images()}
    with gallery.transaction():
        for entry, sha256 in (*plan.renamed, *plan.unchanged):
            before = stored[sha256]
            if before.subject != entry.subject:
                gallery.move(sha256, entry.subject, entry.note)
            said = (entry.path, entry.source or before.source, entry.authority or before.authority)
            if said != (before.path, before.source, before.authority):
                gallery.describe(sha256, *said)
            if entry.note and notes.get(entry.subject, entry.note) != entry.note:
                gallery.set_note(entry.subject, entry.note)


def _enrol_batch(
    gallery: Gallery,
    batch: Sequence[tuple[Entry, str]],
    detector: Detector,
    embedder: Embedder,
    told: Told,
    known: dict[tuple[str | None, str | None], str],
) -> tuple[int, list[Problem]]:
    """One transaction. What could not be used before, judged in the same way, is not looked at again."""
    judge = _judge(detector, told.choice)
    good: list[tuple[Entry, str, Face]] = []
    problems: list[Problem] = []
    for entry, sha256 in batch:
        before = known.get((sha256, judge))
        found = look(entry.file, detector, told.choice) if before is None else NoFace(before, None)
        if before is None and not _is_still(entry.file, sha256):
            problems.append(
                Problem(
                    entry.path, entry.subject, None, "it changed or went away while it was read"
                )
            )
        elif isinstance(found, Face):
            good.append((entry, sha256, found))
        else:
            problems.append(Problem(entry.path, entry.subject, sha256, found.reason, judge))
    vectors = _embed(embedder, [face.aligned for _, _, face in good])
    with gallery.transaction():
        for (entry, sha256, face), (feature, norm) in zip(good, vectors, strict=True):
            kept = face.aligned if told.pictures else None
            said = {"source": entry.source, "authority": entry.authority}
            photo = EnrolledPhoto(
                sha256, entry.path, feature, norm, face.eye_px, face.score, kept, **said
            )
            gallery.add(entry.subject, photo, entry.note)
        gallery.set_problems(problems)
    return len(good), problems


def _judge(detector: Detector, choice: Choice) -> str:
    """Return all that it depends on whether a photograph can be used."""
    return f"{detector.fingerprint}, margin {MARGIN}, face {choice.face or 'alone'}"


def _is_still(file: Path, sha256: str) -> bool:
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


def _note_problems(
    gallery: Gallery,
    problems: Sequence[Problem],
    unreached: Collection[PurePath],
    all_of_them: bool,
) -> None:
    """Those of before that are solved are forgotten: when the listing is all there is, each that it does not name."""
    named = {p.path for p in problems}
    solved = [
        p.path for p in gallery.problems() if p.path not in named and not lies_in(p.path, unreached)
    ]
    forget = solved if all_of_them else []
    gallery.set_problems(problems, forget)


def migrate(
    gallery: Gallery, embedder: Embedder, drop_missing: bool = False, listen: Listener | None = None
) -> tuple[int, Removal | None]:
    """Embed every stored picture with another embedder. Until all is done the gallery is what it was."""
    images = gallery.images()
    missing = [i for i in images if not i.has_picture]
    if missing and not drop_missing:
        paths = ", ".join(i.path for i in missing[:3]) + (", …" if len(missing) > 3 else "")
        reason = f"{len(missing)} of {len(images)} photographs have no stored picture ({paths})"
        remedy = "add them again after --drop-missing, or enrol all into a new gallery; nothing was changed"
        raise UsageError(gallery.folder, reason, remedy)
    kept = [i for i in images if i.has_picture]
    aside = gallery.folder / "migrate.part"
    record = np.dtype([("image", "<i8"), ("norm", "<f4"), ("vector", "<f4", (embedder.length,))])
    try:
        with explain_errors(gallery.folder), aside.open("xb") as handle:
            for start in range(0, len(kept), BATCH):
                batch = kept[start : start + BATCH]
                faces = [face for i in batch if (face := gallery.face(i)) is not None]
                rows = zip(batch, _embed(embedder, faces), strict=True)
                handle.write(
                    np.array([(i.id, norm, vector) for i, (vector, norm) in rows], record).tobytes()
                )
                if listen is not None:
                    listen(start + len(batch), len(kept))
        removal = gallery.replace_vectors(
            embedder,
            _read(aside, record),
            [i.sha256 for i in missing],
            "no stored picture to migrate",
        )
    finally:
        aside.unlink(missing_ok=True)
    gallery.log(
        "migrated", {"embedder": embedder.sha256, "images": len(kept), "dropped": len(missing)}
    )
    return len(kept), removal


def _read(
    aside: Path, record: np.dtype[np.void]
) -> Iterator[tuple[int, NDArray[np.float32], float]]:
    with aside.open("rb") as handle:
        while data := handle.read(BATCH * record.itemsize):
            for row in np.frombuffer(data, record):
                yield int(row["image"]), row["vector"], float(row["norm"])
