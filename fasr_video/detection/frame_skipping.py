"""Detection in parts of frames, to save time: a `Gate` stands before a detector.

The detector gets every Nth frame as a whole. Of the frames in between it gets only windows around
the last known faces and, with motion, windows around what changed since the detector last saw it.
A frame without such windows is skipped.

Without motion a new face is found up to N - 1 frames late. The result depends on the frames and on
the gate's state alone, so a resumed run finds the same faces as an unbroken one.
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

REACH = 3.0  # side of a window around a face, in sides of the face
STEP = 64  # px: windows begin and end at multiples of it, so that networks get few sizes
CELL = 8  # px: side of the squares whose means show motion; STEP is a multiple of it
CHANGE = 6  # grey levels by which the mean of a cell has to change to count as motion
MARGIN = 4  # cells around the motion that belong to its window
MAX_SHARE = 0.5  # of the frame; windows that cover more cost as much as the whole frame

# x1, y1, x2, y2; x2 and y2 lie outside.
Window = tuple[int, int, int, int]
# The mean luma of each CELL×CELL pixels.
Cells = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class GateState:
    """All that the gate knows of earlier frames."""

    boxes: Boxes
    """The last positions of faces: the next windows lie around them."""
    cells: Cells | None = None
    """Each cell as the detector last saw it; None without motion."""
    frames: int = 0
    """Frames so far."""
    whole: int = 0
    """How many of them the detector got as a whole."""
    skipped: int = 0
    """How many of them it did not get at all."""


START = GateState(np.zeros((0, 4), np.float32))


class Gate:
    """Gives a detector whole frames, windows or nothing."""

    def __init__(
        self, detector: Detector, every: int, motion: bool = False, state: GateState = START
    ) -> None:
        self._detector = detector
        self._every = every
        self._motion = motion
        self.state = state

    def detect(self, frames: Sequence[Image]) -> list[Detections]:
        """Return the faces of each frame, and update the state."""
        if self._every > 1:
            return [self._detect_in(frame) for frame in frames]
        count = self.state.frames + len(frames)
        self.state = GateState(START.boxes, frames=count, whole=count)
        return self._detector.detect(frames)

    def _detect_in(self, frame: Image) -> Detections:
        cells = cell_means(frame) if self._motion else None
        windows = self._windows(frame, cells)
        if windows is None:
            detections = self._detector.detect([frame])[0]
            boxes = detections.boxes
        else:
            detections = self._detect_in_windows(frame, windows)
            # A face that is missed in this frame may be back in the next.
            missed = ~(iou_matrix(self.state.boxes, detections.boxes) > 0).any(axis=1)
            boxes = np.concatenate((detections.boxes, self.state.boxes[missed]))
            cells = self._updated_cells(cells, windows)
        self.state = GateState(
            boxes=boxes,
            cells=cells,
            frames=self.state.frames + 1,
            whole=self.state.whole + (windows is None),
            skipped=self.state.skipped + (windows == []),
        )
        return detections

    def _windows(self, frame: Image, cells: Cells | None) -> list[Window] | None:
        """Return the windows for the detector, or None for the whole frame."""
        if self.state.frames % self._every == 0:
            return None
        areas = surroundings(self.state.boxes)
        if cells is None:
            return windows_around(areas, frame)
        before = self.state.cells
        if before is None or before.shape != cells.shape:
            return None
        windows = windows_around(np.concatenate((areas, changes(before, cells))), frame)
        covered = sum((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in windows)
        if covered >= MAX_SHARE * frame.shape[0] * frame.shape[1]:
            return None
        return windows

    def _updated_cells(self, cells: Cells | None, windows: list[Window]) -> Cells | None:
        """Return the cells as the detector last saw them, after it got these windows."""
        if cells is None or self.state.cells is None:
            return None
        updated = self.state.cells.copy()
        for x1, y1, x2, y2 in windows:
            area = slice(y1 // CELL, -(-y2 // CELL)), slice(x1 // CELL, -(-x2 // CELL))
            updated[area] = cells[area]
        return updated

    def _detect_in_windows(self, frame: Image, windows: list[Window]) -> Detections:
        tiles = [Tile(x1, y1, frame[y1:y2, x1:x2]) for x1, y1, x2, y2 in windows]
        images = [np.ascontiguousarray(tile.image) for tile in tiles]
        parts = [Detections.empty(self._detector.has_landmarks)]
        for tile, detections in zip(tiles, self._detector.detect(images), strict=True):
            # A box that ends at the edge of a window is a part of some other face.
            complete = detections.take(~tile.cuts(detections.boxes, frame))
            parts.append(shifted(complete, tile))
        joined = join(parts)
        return joined.take(np.argsort(-joined.scores, kind="stable"))


def cell_means(frame: Image) -> Cells:
    """Return the mean luma of each cell.

    Pixels that are left over at the right and at the bottom are dropped: they are narrower than
    any face.
    """
    height, width = (max(1, side // CELL) for side in frame.shape[:2])
    part = frame[: height * CELL, : width * CELL]
    small = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.uint8)


def changes(before: Cells, after: Cells) -> NDArray[np.float64]:
    """Return boxes in pixels around the cells that changed, with MARGIN around them."""
    changed = (cv2.absdiff(before, after) >= CHANGE).astype(np.uint8)
    widened = cv2.dilate(changed, np.ones((2 * MARGIN + 1, 2 * MARGIN + 1), np.uint8))
    _, _, stats, _ = cv2.connectedComponentsWithStats(widened)
    x, y, width, height = stats[1:, :4].T
    return (CELL * np.stack((x, y, x + width, y + height), 1)).astype(np.float64)


def surroundings(boxes: Boxes) -> NDArray[np.float64]:
    """Return squares around faces, REACH times as large as they are."""
    boxes = boxes.astype(np.float64)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    reach = REACH * (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0)[:, None] / 2
    return np.concatenate((centre - reach, centre + reach), 1)


def windows_around(areas: NDArray[np.float64], frame: Image) -> list[Window]:
    """Return windows that cover the areas; windows that would overlap are merged into one."""
    height, width = frame.shape[:2]
    windows: list[Window] = []
    for x1, y1, x2, y2 in areas:
        window = _snapped(x1, y1, x2, y2, width=width, height=height)
        if window[0] >= window[2] or window[1] >= window[3]:
            continue  # outside of the frame
        other = _overlapping(window, windows)
        while other is not None:
            windows.remove(other)
            window = _merged(window, other)
            other = _overlapping(window, windows)
        windows.append(window)
    return windows


def _snapped(x1: float, y1: float, x2: float, y2: float, *, width: int, height: int) -> Window:
    """Return the smallest window with sides at multiples of STEP, cut off at the frame."""
    left, top = (max(0, int(v // STEP) * STEP) for v in (x1, y1))
    right, bottom = (int(-(-v // STEP)) * STEP for v in (x2, y2))
    return left, top, min(width, right), min(height, bottom)


def _overlapping(window: Window, windows: Sequence[Window]) -> Window | None:
    """Return the first of the windows that overlaps this one, None if there is none."""
    for other in windows:
        if (
            other[0] < window[2]
            and window[0] < other[2]
            and other[1] < window[3]
            and window[1] < other[3]
        ):
            return other
    return None


def _merged(a: Window, b: Window) -> Window:
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])
