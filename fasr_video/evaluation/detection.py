"""Precision, recall and average precision of a face detector, by the height of the face."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fasr_video.boxes import iou_matrix
from fasr_video.evaluation.open_set import Scores
from fasr_video.types import Boxes

# Score; whether it is a face; height of the face, or of the detection if it is none.
ScoredDetection = tuple[float, bool, float]


@dataclass(frozen=True, slots=True)
class JudgedDetections:
    """All counted detections, best first, and all faces."""

    scores: Scores
    true: NDArray[np.bool_]
    heights: Scores
    """Height of the detected face; of the detection itself if it is none."""
    faces: Scores
    """Heights of the labelled faces."""

    def within(self, low: float, high: float) -> JudgedDetections:
        """Return the detections and faces with heights from `low` to below `high`."""
        at = (self.heights >= low) & (self.heights < high)
        inside = (self.faces >= low) & (self.faces < high)
        return JudgedDetections(
            self.scores[at], self.true[at], self.heights[at], self.faces[inside]
        )


def rank_detections(rows: Sequence[ScoredDetection], faces: Scores) -> JudgedDetections:
    """Return detections of several pictures together, best first; `faces` are heights."""
    table = np.array(sorted(rows, key=lambda r: -r[0]), np.float64).reshape(-1, 3)
    return JudgedDetections(table[:, 0], table[:, 1] > 0, table[:, 2], faces)


# In place of a face's number: a false detection, and one that does not count.
FALSE_ALARM, UNCOUNTED = -1, -2


def match(
    boxes: Boxes,
    scores: NDArray[np.float32],
    faces: Boxes,
    wanted: NDArray[np.bool_],
    *,
    overlap: float,
) -> NDArray[np.intp]:
    """Return for each detection of one picture the number of its face, FALSE_ALARM or UNCOUNTED.

    Greedy, best score first. Faces that are not wanted need no detection; detecting them is
    UNCOUNTED.
    """
    overlaps = iou_matrix(boxes, faces) if len(faces) else np.zeros((len(boxes), 0), np.float32)
    free = wanted.copy()
    assigned = np.full(len(boxes), FALSE_ALARM, np.intp)
    for i in np.argsort(-scores, kind="stable"):
        open_to = np.where(free, overlaps[i], 0)
        best = int(open_to.argmax()) if len(faces) else -1
        if best >= 0 and open_to[best] >= overlap:
            free[best] = False
            assigned[i] = best
        elif (overlaps[i][~wanted] >= overlap).any():
            assigned[i] = UNCOUNTED
    return assigned


def assign(
    boxes: Boxes,
    scores: NDArray[np.float32],
    faces: Boxes,
    overlap: float = 0.5,
    *,
    smallest: float = 0.0,
    unsure: NDArray[np.bool_] | None = None,
) -> list[ScoredDetection]:
    """Return the detections of one picture that count, best score first.

    Faces under `smallest` px and unsure ones are ignored: missing them is no error, and detecting
    them is no false alarm. Detections under `smallest` px are no false alarms either.
    """
    sides, tall = heights(boxes), heights(faces)
    wanted = tall >= smallest
    if unsure is not None:
        wanted &= ~unsure
    assigned = match(boxes, scores, faces, wanted, overlap=overlap)
    counted: list[ScoredDetection] = []
    for i in np.argsort(-scores, kind="stable"):
        face = int(assigned[i])
        if face >= 0:
            counted.append((float(scores[i]), True, float(tall[face])))
        elif face == FALSE_ALARM and sides[i] >= smallest:
            counted.append((float(scores[i]), False, float(sides[i])))
    return counted


def heights(boxes: Boxes) -> Scores:
    return (boxes[:, 3] - boxes[:, 1]).astype(np.float64)


def average_precision(detections: JudgedDetections) -> float:
    """Return the area under the curve of precision over recall, with precision made monotonic."""
    hits = detections.true.cumsum()
    precision = hits / np.arange(1, len(hits) + 1)
    falling = np.maximum.accumulate(precision[::-1])[::-1]
    return float((falling * detections.true).sum() / max(len(detections.faces), 1))


def threshold(detections: JudgedDetections, precision: float) -> float | None:
    """Return the lowest score threshold with at least that precision; None if there is none."""
    reached = detections.true.cumsum() / np.arange(1, len(detections.true) + 1)
    good = np.flatnonzero(reached >= precision)
    return float(detections.scores[good[-1]]) if len(good) else None


def recall(detections: JudgedDetections, score: float = -np.inf) -> float:
    """Return the share of faces that are detected with that score or more."""
    return float(detections.true[detections.scores >= score].sum() / max(len(detections.faces), 1))


def window_between(shape: tuple[int, int], faces: Boxes, least: int) -> tuple[slice, slice] | None:
    """Return rows and columns of the largest window without a face in a picture (height, width).

    Both sides are `least` px or more, in steps of a third of that. None if there is no such window.
    """
    step = least // 3
    occupied = np.zeros((shape[0] // step, shape[1] // step), np.bool_)
    for x1, y1, x2, y2 in faces.clip(min=0):
        occupied[int(y1 // step) : int(-(-y2 // step)), int(x1 // step) : int(-(-x2 // step))] = (
            True
        )
    sums = np.pad(occupied, ((1, 0), (1, 0))).astype(np.int64).cumsum(0).cumsum(1)
    tops, bottoms = np.triu_indices(len(sums), 3)
    lefts, rights = np.triu_indices(sums.shape[1], 3)
    strips = sums[bottoms] - sums[tops]
    free = strips[:, rights] == strips[:, lefts]
    cells = (bottoms - tops)[:, None] * (rights - lefts) * free
    if not cells.any():
        return None
    high, wide = np.unravel_index(cells.argmax(), cells.shape)
    rows = slice(int(tops[high]) * step, int(bottoms[high]) * step)
    return rows, slice(int(lefts[wide]) * step, int(rights[wide]) * step)
