"""What goes into a gallery and what comes out of it: records, and the errors that name it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fasr_video.errors import UsageError
from fasr_video.types import AlignedFace

Kind = Literal["single", "pooled"]

# Characters of a subject's id: it stands in lines, tables and addresses.
LONGEST_ID = 200


class GalleryError(UsageError):
    """The folder is not the gallery that the command needs."""


class WrongEmbedder(UsageError):
    """Vectors of two embedders mean nothing to each other."""


class PhotoOfAnother(UsageError):
    """One photograph cannot show two people."""


@dataclass(frozen=True, slots=True)
class EnrolledPhoto:
    """A photograph with one usable face, embedded."""

    sha256: str
    """Of the file."""
    path: str
    """As given."""
    feature: NDArray[np.float32]
    """A unit vector of the gallery's length."""
    norm: float
    """Of the feature before it was a unit vector: the embedder's measure of quality, and its weight."""
    eye_px: float
    score: float
    """The detector's."""
    face: AlignedFace | None
    """None to keep no picture."""
    source: str = ""
    """Where the photograph comes from."""
    authority: str = ""
    """By what consent, order or law it is here."""


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
    """What judged the picture: the detector's fingerprint and how a face is chosen; None when no detector was asked."""


@dataclass(frozen=True, slots=True)
class Removal:
    at: str
    why: str
    subjects: tuple[str, ...]
    """Those of which nothing is left."""
    images: tuple[str, ...]
    templates: int
    problems: int
    """Lines about photographs that were not enrolled: of these subjects, or naming them, or of these photographs."""
    files_scanned: int
    bytes_scanned: int
    occurrences: int
    """Of pieces of what was removed, in all files of the gallery: 0, or the removal failed."""
    shared: int
    """Occurrences of pieces that photographs which stay have in common with the removed ones."""
