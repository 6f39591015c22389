"""The whole of every Nth frame, and of those between them only the surroundings of the faces that were there before.

A face that comes into view is then found up to N - 1 frames later. What the gate does depends on the number of the look
and on the faces of the looks before alone, so that a run that is taken up does what an unbroken one does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fasr_video.boxes import iou_matrix
from fasr_video.pipeline.detect.contract import Detector
from fasr_video.pipeline.detect.tiling import Tile, join, shifted
from fasr_video.types import Boxes, Detections, Image

REACH = 3.0  # side of a window, in sides of the face that is looked for in it
STEP = 64  # px: windows begin and end at multiples of it, so that networks meet few sizes

Window = tuple[int, int, int, int]
"""x1, y1, x2, y2; x2 and y2 lie outside."""


class Gate:
    def __init__(self, detector: Detector, every: int, looked: int, boxes: Boxes) -> None:
        """Taken up after `looked` frames, with the `boxes` that it had then."""
        self._detector, self._every, self._looked = detector, every, looked
        self.boxes = boxes
        """Where faces are looked for until the next whole frame: their last places."""

    def detect(self, frames: Sequence[Image]) -> list[Detections]:
        if self._every == 1:
            return self._detector.detect(frames)
        return [self._one(frame) for frame in frames]

    def _one(self, frame: Image) -> Detections:
        whole = self._looked % self._every == 0
        self._looked += 1
        if whole:
            found = self._detector.detect([frame])[0]
            self.boxes = found.boxes
            return found
        found = self._in_windows(frame)
        # One that was not seen this time may be seen again at the next look.
        unseen = ~(iou_matrix(self.boxes, found.boxes) > 0).any(axis=1)
        self.boxes = np.concatenate((found.boxes, self.boxes[unseen]))
        return found

    def _in_windows(self, frame: Image) -> Detections:
        tiles = [Tile(x1, y1, frame[y1:y2, x1:x2]) for x1, y1, x2, y2 in windows(self.boxes, frame)]
        found = self._detector.detect([np.ascontiguousarray(tile.image) for tile in tiles])
        # What ends at a window's edge is the part of a face that nobody looked for.
        inside = [part.take(~tile.cuts(part.boxes, frame)) for tile, part in zip(tiles, found, strict=True)]
        parts = [shifted(part, tile) for tile, part in zip(tiles, inside, strict=True)]
        both = join([Detections.empty(self._detector.has_landmarks), *parts])
        return both.take(np.argsort(-both.scores, kind="stable"))


def windows(boxes: Boxes, frame: Image) -> list[Window]:
    """Around each box, none overlapping another: those that would are one."""
    height, width = frame.shape[:2]
    apart: list[Window] = []
    for x1, y1, x2, y2 in boxes.astype(np.float64):
        reach = REACH * max(x2 - x1, y2 - y1) / 2
        x, y = (x1 + x2) / 2, (y1 + y2) / 2
        window = _snapped(x - reach, y - reach, x + reach, y + reach, width, height)
        if window[0] >= window[2] or window[1] >= window[3]:
            continue  # outside of the frame
        while (other := next((w for w in apart if _overlap(w, window)), None)) is not None:
            apart.remove(other)
            (left, top, right, bottom), (x1, y1, x2, y2) = other, window
            window = min(left, x1), min(top, y1), max(right, x2), max(bottom, y2)
        apart.append(window)
    return apart


def _snapped(x1: float, y1: float, x2: float, y2: float, width: int, height: int) -> Window:
    left, top = (max(0, int(v // STEP) * STEP) for v in (x1, y1))
    right, bottom = (int(-(-v // STEP)) * STEP for v in (x2, y2))
    return left, top, min(width, right), min(height, bottom)


def _overlap(a: Window, b: Window) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
