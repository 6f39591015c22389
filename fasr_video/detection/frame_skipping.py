"""The whole of every Nth frame, and of those between them only where a face can be: around the faces that were there
before and, asked for motion, where the picture is another one than when that place was last looked at.

Without motion a face that comes into view is found up to N - 1 frames later. A frame in which nothing moved and nobody
is followed is not looked at. What the gate does depends on the frames and its state alone, so that a run that is taken
up does what an unbroken one does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from fasr_video.boxes import iou_matrix
from fasr_video.detection.detector import Detector
from fasr_video.detection.tiling import Tile, join, shifted
from fasr_video.types import Boxes, Detections, Image

REACH = 3.0  # side of a window, in sides of the face that is looked for in it
STEP = 64  # px: windows begin and end at multiples of it, so that networks meet few sizes
CELL = 8  # px: motion is told from the means of such squares; STEP is a multiple
CHANGE = 6  # grey levels by which a mean has to differ from the one that was looked at
MARGIN = 4  # cells around what moved that are looked at, too
MOST = 0.5  # share of the frame in windows from which on the whole is looked at: it costs no more, and cuts no face

# x1, y1, x2, y2; x2 and y2 lie outside.
Window = tuple[int, int, int, int]
# The mean luma of each CELL×CELL pixels.
Cells = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class GateState:
    """All that the gate knows of the frames before."""

    boxes: Boxes
    """Where faces are looked for until the next whole frame: their last places."""
    seen: Cells | None = None
    """Each cell as it was when last looked at; None without motion."""
    looked: int = 0
    """Frames that came."""
    whole: int = 0
    """Of these, those that were looked at as a whole."""
    skipped: int = 0
    """Of these, those that were not looked at at all."""


START = GateState(np.zeros((0, 4), np.float32))


class Gate:
    def __init__(
        self, detector: Detector, every: int, motion: bool = False, state: GateState = START
    ) -> None:
        """Taken up with the state that it had then."""
        self._detector, self._every, self._motion = detector, every, motion
        self.state = state

    def detect(self, frames: Sequence[Image]) -> list[Detections]:
        if self._every > 1:
            return [self._one(frame) for frame in frames]
        count = self.state.looked + len(frames)
        self.state = GateState(START.boxes, looked=count, whole=count)
        return self._detector.detect(frames)

    def _one(self, frame: Image) -> Detections:
        now = cells(frame) if self._motion else None
        places = self._places(frame, now)
        if places is None:
            found = self._detector.detect([frame])[0]
            boxes, seen = found.boxes, now
        else:
            found = self._in_windows(frame, places)
            # One that was not seen this time may be seen again at the next look.
            unseen = ~(iou_matrix(self.state.boxes, found.boxes) > 0).any(axis=1)
            boxes, seen = (
                np.concatenate((found.boxes, self.state.boxes[unseen])),
                self._updated(now, places),
            )
        before = self.state
        whole, skipped = before.whole + (places is None), before.skipped + (places == [])
        self.state = GateState(boxes, seen, before.looked + 1, whole, skipped)
        return found

    def _places(self, frame: Image, now: Cells | None) -> list[Window] | None:
        """Where to look; None for the whole frame."""
        if self.state.looked % self._every == 0:
            return None
        areas = surroundings(self.state.boxes)
        if now is None:
            return windows(areas, frame)
        seen = self.state.seen
        if seen is None or seen.shape != now.shape:
            return None
        found = windows(np.concatenate((areas, moved(seen, now))), frame)
        asked = sum((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in found)
        return None if asked >= MOST * frame.shape[0] * frame.shape[1] else found

    def _updated(self, now: Cells | None, places: list[Window]) -> Cells | None:
        if now is None or self.state.seen is None:
            return None
        seen = self.state.seen.copy()
        for x1, y1, x2, y2 in places:
            there = slice(y1 // CELL, -(-y2 // CELL)), slice(x1 // CELL, -(-x2 // CELL))
            seen[there] = now[there]
        return seen

    def _in_windows(self, frame: Image, places: list[Window]) -> Detections:
        tiles = [Tile(x1, y1, frame[y1:y2, x1:x2]) for x1, y1, x2, y2 in places]
        found = self._detector.detect([np.ascontiguousarray(tile.image) for tile in tiles])
        # What ends at a window's edge is the part of a face that nobody looked for.
        inside = [
            part.take(~tile.cuts(part.boxes, frame))
            for tile, part in zip(tiles, found, strict=True)
        ]
        parts = [shifted(part, tile) for tile, part in zip(tiles, inside, strict=True)]
        both = join([Detections.empty(self._detector.has_landmarks), *parts])
        return both.take(np.argsort(-both.scores, kind="stable"))


def cells(frame: Image) -> Cells:
    """What is left over at the right and below is left out: it is narrower than any face."""
    height, width = (max(1, side // CELL) for side in frame.shape[:2])
    small = cv2.resize(
        frame[: height * CELL, : width * CELL], (width, height), interpolation=cv2.INTER_AREA
    )
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.uint8)


def moved(seen: Cells, now: Cells) -> NDArray[np.float64]:
    """Where cells are other ones than they were, with MARGIN around: boxes in pixels."""
    changed = (cv2.absdiff(seen, now) >= CHANGE).astype(np.uint8)
    near = cv2.dilate(changed, np.ones((2 * MARGIN + 1, 2 * MARGIN + 1), np.uint8))
    _, _, stats, _ = cv2.connectedComponentsWithStats(near)
    x, y, width, height = stats[1:, :4].T
    return (CELL * np.stack((x, y, x + width, y + height), 1)).astype(np.float64)


def surroundings(boxes: Boxes) -> NDArray[np.float64]:
    """Squares of REACH sides around faces."""
    boxes = boxes.astype(np.float64)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    reach = REACH * (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0)[:, None] / 2
    return np.concatenate((centre - reach, centre + reach), 1)


def windows(areas: NDArray[np.float64], frame: Image) -> list[Window]:
    """Around each area, none overlapping another: those that would are one."""
    height, width = frame.shape[:2]
    apart: list[Window] = []
    for x1, y1, x2, y2 in areas:
        window = _snapped(x1, y1, x2, y2, width, height)
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
