"""Labelled photographs for tests, read from folders, tar shards or CSV manifests."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fasr_video.csv_file import read_csv
from fasr_video.datasets.faces import (
    CELEBA,
    CELEBA_FACE,
    LARGEST_SIDE,
    identity_of,
    members,
    plain_name,
)
from fasr_video.detection import Detector
from fasr_video.errors import InputError, UsageError
from fasr_video.files import read_file
from fasr_video.media import UNREADABLE, read_picture
from fasr_video.pipeline.quality import estimate_turn
from fasr_video.pipeline.stills import align_face
from fasr_video.recognition.align import CANONICAL_SIDE
from fasr_video.recognition.embedder import as_tensor
from fasr_video.sr.degradation import enlarge, shrink
from fasr_video.sr.restoration import SMALLEST, as_image, square_face
from fasr_video.types import Image

ROLES = ("gallery", "probe", "auxiliary")
REMEDY = (
    "give a CSV with the columns path, identity and, if wanted, "
    "role (gallery, probe or auxiliary) and labels"
)
# Smallest side in pixels of a face, detected by --align, that counts as full resolution.
SMALLEST_TRUTH = 64
LANDMARK_COLUMNS = tuple(
    f"{m}_{a}" for m in ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right") for a in "xy"
)


@dataclass(frozen=True, slots=True, eq=False)
class Photo:
    path: str
    """IDENTITY/PHOTO, or the path in the manifest."""
    person: str
    picture: Image
    """A square face in the canonical frame: 128 px, or fewer as the camera saw it."""
    digest: str
    """Digest of the picture: equal pictures have equal digests."""
    labels: Mapping[str, str]
    role: str = ""
    source: str = ""
    """Digest of the original pixels, since enrolled faces and probes are cropped differently."""

    @property
    def digests(self) -> set[str]:
        """All digests; two photographs with a common one are the same photograph."""
        return {self.digest, self.source} - {""}


@dataclass(frozen=True, slots=True)
class LeftOut:
    what: str
    reason: str

    def __str__(self) -> str:
        return f"{self.what}: {self.reason}"


@dataclass(frozen=True, slots=True)
class _File:
    name: str
    person: str
    data: bytes
    labels: Mapping[str, str]
    role: str
    problem: str = ""
    """Why it was not read; empty if it was."""


def digest_of(picture: Image) -> str:
    """Return the SHA-256 of a picture's size and pixels."""
    return hashlib.sha256(str(picture.shape).encode() + picture.tobytes()).hexdigest()


def read_photos(
    sources: Sequence[Path],
    labels: Path | None = None,
    detector: Detector | None = None,
    small: bool = False,
) -> tuple[list[Photo], list[LeftOut]]:
    """Return all usable photographs, and those left out.

    Full-resolution ones are square: the canonical frame at 128 px, perhaps with a rim, or CelebA's
    own pictures. `small` ones are faces as the camera saw them, from 8 px. With a detector, any
    picture will do. Of equal pictures, only the first one is used.
    """
    labels_by_path = {} if labels is None else read_labels(labels)
    photos: list[Photo] = []
    left_out: list[LeftOut] = []
    first: dict[str, str] = {}
    names: set[str] = set()
    for file in _files(sources):
        photo = _read_photo(file, labels_by_path.get(file.name, {}), detector, small)
        if isinstance(photo, LeftOut):
            left_out.append(photo)
            continue
        if photo.path in names:
            raise UsageError(
                photo.path,
                "there are two photographs of that name",
                "give sources whose paths differ",
            )
        names.add(photo.path)
        twins = [first[digest] for digest in photo.digests if digest in first]
        if twins:
            left_out.append(LeftOut(photo.path, f"the same picture as {min(twins)}"))
            continue
        first |= dict.fromkeys(photo.digests, photo.path)
        photos.append(photo)
    if not photos:
        problem = str(left_out[0]) if left_out else "no picture in it"
        raise InputError(
            ", ".join(map(str, sources)),
            f"no usable face ({problem})",
            "give aligned faces, or use --align",
        )
    return photos, left_out


def _read_photo(
    file: _File, labels: Mapping[str, str], detector: Detector | None, small: bool
) -> Photo | LeftOut:
    """Return the photograph in a file, or why it is left out."""
    if file.problem:
        return LeftOut(file.name, file.problem)
    try:
        original = read_picture(io.BytesIO(file.data))
        picture = _face(file.name, original, detector, small)
    except InputError as error:
        return LeftOut(file.name, error.reason)
    except UNREADABLE:
        return LeftOut(file.name, "not a readable picture")
    return Photo(
        path=file.name,
        person=file.person,
        picture=picture,
        digest=digest_of(picture),
        labels=_with_measures({**file.labels, **labels}, picture),
        role=file.role,
        source=digest_of(original),
    )


def without(photos: Sequence[Photo], others: Sequence[Photo]) -> tuple[list[Photo], list[LeftOut]]:
    """Return the photographs that are not among the others, and those left out.

    So nobody is searched for with a picture of the gallery.
    """
    paths_by_digest = {digest: p.path for p in others for digest in p.digests}
    twins = {
        p.path: min(paths_by_digest[d] for d in p.digests & paths_by_digest.keys())
        for p in photos
        if p.digests & paths_by_digest.keys()
    }
    left_out = [LeftOut(path, f"the same picture as {other}") for path, other in twins.items()]
    return [p for p in photos if p.path not in twins], left_out


def check_names(paths: Sequence[str]) -> None:
    """Raise UsageError if two photographs would share a file name in exchange with other programs.

    Such files are named as the photographs, without the ending.
    """
    first: dict[str, str] = {}
    for path in paths:
        other = first.setdefault(plain_name(path), path)
        if other != path:
            reason = f"{other} and it would be one file, {plain_name(path)}.png"
            raise UsageError(path, reason, "give photographs that differ in more than their ending")


def read_labels(file: Path) -> dict[str, dict[str, str]]:
    """Return the rows of a CSV by its column `path`."""
    rows = read_csv(file, ["path"], "give a CSV with the column path and one for each label").rows
    return {row["path"]: {k: v for k, v in row.items() if k != "path"} for row in rows.values()}


def _files(sources: Sequence[Path]) -> Iterator[_File]:
    for source in sources:
        if source.suffix.lower() == ".csv":
            yield from _manifest(source)
        else:
            for m in members([source]):
                yield _File(m.name, identity_of(m.name), m.data, {}, "", m.problem)


def _manifest(file: Path) -> Iterator[_File]:
    for number, row in read_csv(file, ["path", "identity"], REMEDY).rows.items():
        role = row.get("role", "")
        if not row["path"] or not row["identity"] or role not in ("", *ROLES):
            reason = f"no path, no identity, or a role that is none of {', '.join(ROLES)}"
            raise InputError(f"{file} line {number}", reason, REMEDY)
        try:
            data = read_file(file.parent / row["path"])
        except (OSError, ValueError):
            data = b""  # will be reported as an unreadable picture
        labels = {k: v for k, v in row.items() if k not in ("path", "identity", "role")}
        yield _File(row["path"], row["identity"], data, labels, role)


def _face(name: str, picture: Image, detector: Detector | None, small: bool) -> Image:
    if detector is not None:
        face, _ = align_face(Path(name), picture, detector, SMALLEST if small else SMALLEST_TRUTH)
        return face if small else _resized(face)
    if small:
        face, _ = square_face(name, picture)
        return _resized(face) if len(face) > CANONICAL_SIDE else np.ascontiguousarray(face)
    if picture.shape[:2] == CELEBA:
        picture = picture[CELEBA_FACE]
    height, width = picture.shape[:2]
    if height != width or not CANONICAL_SIDE <= height <= LARGEST_SIDE:
        reason = (
            f"{width}×{height} px, but an aligned face is a square of {CANONICAL_SIDE} px, "
            f"with its rim at most {LARGEST_SIDE}; --align finds the face in any picture"
        )
        raise InputError(name, reason, "use --align")
    low = (height - CANONICAL_SIDE) // 2
    return np.ascontiguousarray(picture[low : low + CANONICAL_SIDE, low : low + CANONICAL_SIDE])


def _resized(face: Image) -> Image:
    """Return the face at 128×128."""
    resize = shrink if len(face) > CANONICAL_SIDE else enlarge
    return as_image(resize(as_tensor([face]), CANONICAL_SIDE)[0])


def _with_measures(labels: dict[str, str], picture: Image) -> dict[str, str]:
    """Return the labels with `size` (px) and, given landmarks, `pose` (0 frontal to 1 profile)."""
    measured = {k: v for k, v in labels.items() if k not in LANDMARK_COLUMNS}
    measured["size"] = str(len(picture))
    if set(LANDMARK_COLUMNS) <= labels.keys() and labels.get("found") != "0":
        try:
            points = np.array([float(labels[m]) for m in LANDMARK_COLUMNS]).reshape(5, 2)
        except ValueError:
            return measured
        measured["pose"] = f"{estimate_turn(points):.3f}"
    return measured
