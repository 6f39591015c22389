"""The contract of all face detectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from fasr_video.types import Detections, Image


class Detector(Protocol):
    """Finds faces in frames. The result for a frame does not depend on the others of the call."""

    @property
    def name(self) -> str:
        """The method and how it runs, for people: it is printed and stored with the case."""
        ...

    @property
    def has_landmarks(self) -> bool: ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the model's file or files, for a second examiner to compare."""
        ...

    @property
    def licence(self) -> str:
        """The terms of the model in one line."""
        ...

    def detect(self, frames: Sequence[Image]) -> list[Detections]:
        """Return the faces of each frame, best score first, after non-maximum suppression.

        Frames may differ in size. Boxes and landmarks are in the pixels of the frame, and may lie
        partly outside of it, as a face at the edge does.
        """
        ...
