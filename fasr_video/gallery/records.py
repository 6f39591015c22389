"""Records that go into and come out of a gallery, and its errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fasr_video.errors import UsageError
from fasr_video.types import AlignedFace

Kind = Literal["single", "pooled"]

# Most characters of a subject id; ids appear in log lines, tables and URLs.
LONGEST_ID = 200


class GalleryError(UsageError):
    """The folder is not the gallery that the command needs."""


class WrongEmbedder(UsageError):
    """The gallery was made with another embedder, so its vectors cannot be compared."""


class PhotoOfAnother(UsageError):
    """The photograph is already enrolled for another subject."""


@dataclass(frozen=True, slots=True)
class EnrolledPhoto:
    """A photograph with one usable face, embedded."""

    sha256: str
    """Of the file."""
    path: str
    """Path as given by the user."""
    feature: NDArray[np.float32]
    """A unit vector of the gallery's length."""
    norm: float
    """Norm of the feature before it was scaled to 1: its quality, and its weight in the mean."""
    eye_px: float
    score: float
    """Score of the detector."""
    face: AlignedFace | None
    """The picture to store; None stores none."""
    source: str = ""
    """Where the photograph comes from."""
    authority: str = ""
    """The consent, order or law that allows enrolling it."""


@dataclass(frozen=True, slots=True)
class Subject:
    id: str
    note: str
    images: int
    added_at: str


@dataclass(frozen=True, slots=True)
class GalleryImage:
    id: int
    subject: str
    sha256: str
    path: str
    source: str
    authority: str
    eye_px: float
    score: float
    norm: float
    added_at: str
    has_picture: bool


@dataclass(frozen=True, slots=True)
class Template:
    id: int
    subject: str
    kind: Kind
    image: str | None
    """SHA-256 of its photograph; None for a pooled one."""


@dataclass(frozen=True, slots=True)
class Vectors:
    ids: NDArray[np.int64]
    features: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Problem:
    """A photograph that could not be enrolled."""

    path: str
    subject: str
    sha256: str | None
    reason: str
    detector: str | None = None
    """Fingerprint of the detector and the choice of face; None where no detector was used."""


@dataclass(frozen=True, slots=True)
class Removal:
    at: str
    why: str
    subjects: tuple[str, ...]
    """Subjects that were removed completely."""
    images: tuple[str, ...]
    templates: int
    problems: int
    """Number of deleted problems about these subjects or photographs."""
    files_scanned: int
    bytes_scanned: int
    occurrences: int
    """Pieces of removed data that are still in files of the gallery; above 0 the removal failed."""
    shared: int
    """Pieces that photographs which stay have in common with the removed ones."""


@dataclass(frozen=True, slots=True)
class RemovalLine:
    """A removal as the gallery remembers it: subjects and photographs by the SHA-256 of their ids
    alone."""

    at: str
    why: str
    subjects_sha256: list[str]
    images_sha256: list[str]
    templates: int


@dataclass(frozen=True, slots=True)
class GalleryLogLine:
    at: str
    event: str
    details: dict[str, object]
