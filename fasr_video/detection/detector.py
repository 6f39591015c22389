"""What every face detector keeps to, so that the rest of the pipeline need not know which one is at work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from fasr_video.types import Detections, Image


class Detector(Protocol):
    """Pictures in, faces out. What it finds in a frame does not depend on the other frames of the call."""

    @property
    def name(self) -> str:
        """For people: the method and how it runs, as printed and stored with the case."""
        ...

    @property
    def has_landmarks(self) -> bool: ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the model's file or files: what a second examiner compares."""
        ...

    @property
    def licence(self) -> str:
        """The terms of the model in one line."""
        ...

    def detect(self, frames: Sequence[Image]) -> list[Detections]:
        """One Detections a frame, best score first, after non-maximum suppression. Frames may differ in size; boxes and
        landmarks are in the frame's own pixels and may stick out of it, as a face at the edge does."""
        ...
