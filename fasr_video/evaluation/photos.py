"""Labelled photographs to test on, from folders, tar shards or CSV manifests, and what was left out of them."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from fasr_video.csv_file import read_csv
from fasr_video.datasets.faces import CELEBA, CELEBA_FACE, identity_of, members
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
REMEDY = "give a CSV with the columns path, identity and, if wanted, role (gallery, probe or auxiliary) and labels"
# Side in pixels up to which what goes beyond the canonical frame is a rim; of larger pictures a
# piece would be cut.
LARGEST_RIM = 160
# Side in pixels of a face found by --align, below which it is no full-resolution photograph.
SMALLEST_TRUTH = 64
MARKS = tuple(
    f"{m}_{a}" for m in ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right") for a in "xy"
)


@dataclass(frozen=True, slots=True, eq=False)
class Photo:
    path: str
    """IDENTITY/PHOTO, or as in the manifest."""
    person: str
    picture: Image
    """A square face in the canonical frame: 128 px, or fewer for a face as the camera saw it."""
    digest: str
    """Of the picture: the same one under two names has one."""
    labels: Mapping[str, str]
    role: str = ""
    source: str = ""
    """Digest of the pixels that the picture was cut or scaled from: enrolled faces and probes are not cut alike."""

    @property
    def digests(self) -> set[str]:
        """Two photographs that share one are the same photograph."""
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
    """Why it was not read."""


def digest_of(picture: Image) -> str:
    """SHA-256 of a picture's size and pixels."""
    return hashlib.sha256(str(picture.shape).encode() + picture.tobytes()).hexdigest()


def read_photos(
    sources: Sequence[Path],
    labels: Path | None = None,
    detector: Detector | None = None,
    small: bool = False,
) -> tuple[list[Photo], list[LeftOut]]:
    """All photographs, and those that cannot be used.

    Full-resolution ones are square, 128 px of canonical frame with perhaps a rim around it, or CelebA's own. `small`
    ones are faces as the camera saw them, 8 px and more. A detector finds the face in any picture. Of equal pictures
    the first one is kept.
    """
    known = {} if labels is None else read_labels(labels)
    photos: list[Photo] = []
    left_out: list[LeftOut] = []
    first: dict[str, str] = {}
    names: set[str] = set()
    for file in _files(sources):
        if file.problem:
            left_out.append(LeftOut(file.name, file.problem))
            continue
        try:
            whole = read_picture(io.BytesIO(file.data))
            picture = _face(file.name, whole, detector, small)
        except InputError as error:
            left_out.append(LeftOut(file.name, error.reason))
            continue
        except UNREADABLE:
            left_out.append(LeftOut(file.name, "not a readable picture"))
            continue
        if file.name in names:
            raise UsageError(
                file.name,
                "there are two photographs of that name",
                "give sources whose paths differ",
            )
        names.add(file.name)
        told = _with_measures({**file.labels, **known.get(file.name, {})}, picture)
        photo = Photo(
            file.name, file.person, picture, digest_of(picture), told, file.role, digest_of(whole)
        )
        twins = [first[d] for d in photo.digests if d in first]
        if twins:
            left_out.append(LeftOut(file.name, f"the same picture as {min(twins)}"))
            continue
        first |= dict.fromkeys(photo.digests, file.name)
        photos.append(photo)
    if not photos:
        why = str(left_out[0]) if left_out else "no picture in it"
        raise InputError(
            ", ".join(map(str, sources)),
            f"no usable face ({why})",
            "give aligned faces, or use --align",
        )
    return photos, left_out


def without(photos: Sequence[Photo], others: Sequence[Photo]) -> tuple[list[Photo], list[LeftOut]]:
    """Those whose picture is none of the others', and the rest: nobody is searched with a gallery's own picture."""
    taken = {digest: p.path for p in others for digest in p.digests}
    twins = {
        p.path: min(taken[d] for d in p.digests & taken.keys())
        for p in photos
        if p.digests & taken.keys()
    }
    left_out = [LeftOut(path, f"the same picture as {other}") for path, other in twins.items()]
    return [p for p in photos if p.path not in twins], left_out


def plain_name(path: str) -> str:
    """A photograph's path without its ending, and without what would lead out of a folder that it is put into."""
    parts = PurePosixPath(path).with_suffix("").parts
    return "/".join(part for part in parts if part not in ("/", ".."))


def check_names(paths: Sequence[str]) -> None:
    """What other programs are given and give back is a file a photograph, named without the photograph's ending."""
    first: dict[str, str] = {}
    for path in paths:
        other = first.setdefault(plain_name(path), path)
        if other != path:
            reason = f"{other} and it would be one file, {plain_name(path)}.png"
            raise UsageError(path, reason, "give photographs that differ in more than their ending")


def read_labels(file: Path) -> dict[str, dict[str, str]]:
    """The columns of a CSV by its column `path`."""
    rows = read_csv(file, ["path"], "give a CSV with the column path and one for each label").rows
    return {row["path"]: {k: v for k, v in row.items() if k != "path"} for row in rows.values()}


def _files(sources: Sequence[Path]) -> Iterator[_File]:
    for source in sources:
        if source.suffix.lower() == ".csv":
            yield from _manifest(source)
        else:
            found = members([source])
            yield from (
                _File(m.name, identity_of(m.name), m.data, {}, "", m.problem) for m in found
            )


def _manifest(file: Path) -> Iterator[_File]:
    for number, row in read_csv(file, ["path", "identity"], REMEDY).rows.items():
        role = row.get("role", "")
        if not row["path"] or not row["identity"] or role not in ("", *ROLES):
            reason = f"no path, no identity, or a role that is none of {', '.join(ROLES)}"
            raise InputError(f"{file} line {number}", reason, REMEDY)
        try:
            data = read_file(file.parent / row["path"])
        except (OSError, ValueError):
            data = b""  # told as a picture that cannot be read
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
    if height != width or not CANONICAL_SIDE <= height <= LARGEST_RIM:
        reason = (
            f"{width}×{height} px, but an aligned face is a square of {CANONICAL_SIDE} px, with its rim at most "
            f"{LARGEST_RIM}; --align finds the face in any picture"
        )
        raise InputError(name, reason, "use --align")
    low = (height - CANONICAL_SIDE) // 2
    return np.ascontiguousarray(picture[low : low + CANONICAL_SIDE, low : low + CANONICAL_SIDE])


def _resized(face: Image) -> Image:
    """As 128×128."""
    resize = shrink if len(face) > CANONICAL_SIDE else enlarge
    return as_image(resize(as_tensor([face]), CANONICAL_SIDE)[0])


def _with_measures(labels: dict[str, str], picture: Image) -> dict[str, str]:
    """The labels, with `size` in pixels and, where landmarks are among them, `pose`: 0 frontal to 1 profile."""
    found = {k: v for k, v in labels.items() if k not in MARKS}
    found["size"] = str(len(picture))
    if set(MARKS) <= labels.keys() and labels.get("found") != "0":
        try:
            points = np.array([float(labels[m]) for m in MARKS]).reshape(5, 2)
        except ValueError:
            return found
        found["pose"] = f"{estimate_turn(points):.3f}"
    return found
