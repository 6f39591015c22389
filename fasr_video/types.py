"""Values that several packages share. All are frozen; arrays state shape, range, colour order."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import StrEnum
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# H×W×3, RGB, 0-255.
Image = NDArray[np.uint8]
# N×4: x1, y1, x2, y2 in pixels of the upright frame; x2 and y2 lie outside the face.
Boxes = NDArray[np.float32]
# N×5×2 in pixels: the left and right eye, the nose, the left and right mouth corner, where left
# and right are those of the picture of an upright face.
Landmarks = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class FrameRef:
    """Which frame of which file: its time is pts · time_base, and is rounded only for display."""

    source: str
    """SHA-256 of the file."""
    index: int
    """Position in display order among the frames of the file, from 0."""
    pts: int
    time_base: Fraction

    @property
    def seconds(self) -> Fraction:
        return self.pts * self.time_base


@dataclass(frozen=True, slots=True)
class Detections:
    """The faces that a detector found in one frame."""

    boxes: Boxes
    scores: NDArray[np.float32]
    """N, in [0, 1]; comparable only within one detector."""
    landmarks: Landmarks | None
    """None if the detector gives none."""

    def __len__(self) -> int:
        return len(self.boxes)

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Detections:
        landmarks = None if self.landmarks is None else self.landmarks[rows]
        return Detections(self.boxes[rows], self.scores[rows], landmarks)

    @staticmethod
    def empty(with_landmarks: bool) -> Detections:
        landmarks = np.zeros((0, 5, 2), np.float32) if with_landmarks else None
        return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), landmarks)


class Reason(StrEnum):
    """Why a face is, or is not, among the pictures that represent its track; each face has one.

    NOT_A_FACE is the reason of a whole track: its faces keep their own reasons.
    """

    LR0 = "lr0"
    AUX = "aux"
    REDUNDANT = "redundant"
    DUPLICATE = "duplicate"
    TOO_SMALL = "too_small"
    BLURRED = "blurred"
    TURNED = "turned"
    TOO_DARK = "too_dark"
    TOO_BRIGHT = "too_bright"
    CUT_OFF = "cut_off"
    COVERED = "covered"
    LOW_SCORE = "low_score"
    UNCONFIRMED = "unconfirmed"
    NOT_A_FACE = "not_a_face"


REASON_TEXT: dict[str, str] = {
    Reason.LR0: "best and most frontal face",
    Reason.AUX: "auxiliary face",
    Reason.REDUNDANT: "usable, but a better one nearby in time was kept",
    Reason.DUPLICATE: "usable, but nearly the same picture as one that was kept",
    Reason.TOO_SMALL: "fewer pixels between the eyes than the setting asks for",
    Reason.BLURRED: "too little detail left",
    Reason.TURNED: "turned too far from the camera",
    Reason.TOO_DARK: "too dark",
    Reason.TOO_BRIGHT: "too bright",
    Reason.CUT_OFF: "cut off by the edge of the picture",
    Reason.COVERED: "partly behind another face",
    Reason.LOW_SCORE: "too uncertain to be a face",
    Reason.UNCONFIRMED: "too uncertain, or detected too few times in a row, to be a track",
    Reason.NOT_A_FACE: "the detector was unsure, and the embedder sees no face in it",
}


def faces_of_reason(reason: str, number: int) -> str:
    """Return in words what faces with this reason are, such as "auxiliary faces"."""
    text = REASON_TEXT[reason]
    is_noun = reason in {Reason.LR0, Reason.AUX}
    return f"{text}s" if is_noun and number != 1 else text


@dataclass(frozen=True, slots=True)
class Quality:
    """The quality of one face picture, by measures that people can check.

    Higher is better, except for `turn`.
    """

    eye_px: float
    """Pixels between the eyes, along the face's own axis."""
    sharpness: float
    """Share of the face's contrast that is fine detail at its own size, 0-1."""
    turn: float
    """0 frontal to 1 profile, from the landmarks; nan if the detector gives none."""
    exposure: float
    """Mean brightness of the face, 0-1."""
    contrast: float
    """Standard deviation of the face's brightness, 0-1."""
    inside: float
    """Share of the face's box that lies inside the picture, 0-1."""
    clear: float
    """Share of the face's box that no larger face of the frame covers, 0-1."""
    score: float
    """The detector's."""
    total: float
    """One number to rank faces of one track by; not comparable across detectors."""


@dataclass(frozen=True, slots=True)
class FaceCrop:
    """One face cut from one frame."""

    aligned: Image
    """128×128×3 RGB: the face in the canonical frame."""
    native: Image
    """The face and its surroundings in the recording's own pixels, not resampled."""
    native_origin: tuple[int, int]
    """x, y of the native crop's corner in the upright frame."""


@dataclass(frozen=True, slots=True)
class AlignedFace:
    """A face in the canonical frame: the input of embedders."""

    picture: Image
    """128×128×3 RGB."""
    landmarks: NDArray[np.float32] | None
    """5×2: its landmarks in the picture's own pixels; None if the detector gives none."""


def shallow_dict(row: DataclassInstance) -> dict[str, Any]:
    """Return the fields of a dataclass by name; their values are not copied, as `asdict` does."""
    return {field.name: getattr(row, field.name) for field in fields(row)}
