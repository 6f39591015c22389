"""How well a detector finds faces: precision, recall and average precision, by the height of the face."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fasr_video.boxes import iou_matrix
from fasr_video.evaluation.open_set import Scores
from fasr_video.types import Boxes

# Score, whether it is a face, height: of the face, or of the detection where there is none.
Found = tuple[float, bool, float]


@dataclass(frozen=True, slots=True)
class Judged:
    """All detections that count, best first, and all faces."""

    scores: Scores
    true: NDArray[np.bool_]
    heights: Scores
    """Of the face that was found; of the detection itself when there is none."""
    faces: Scores
    """Heights of the labelled faces."""

    def within(self, low: float, high: float) -> Judged:
        at = (self.heights >= low) & (self.heights < high)
        inside = (self.faces >= low) & (self.faces < high)
        return Judged(self.scores[at], self.true[at], self.heights[at], self.faces[inside])


def judged(rows: Sequence[Found], faces: Scores) -> Judged:
    table = np.array(sorted(rows, key=lambda r: -r[0]), np.float64).reshape(-1, 3)
    return Judged(table[:, 0], table[:, 1] > 0, table[:, 2], faces)


# In place of a face's number: a detection of nothing, and one that is neither right nor wrong.
FALSE_ALARM, UNCOUNTED = -1, -2


def match(
    boxes: Boxes,
    scores: NDArray[np.float32],
    faces: Boxes,
    wanted: NDArray[np.bool_],
    overlap: float,
) -> NDArray[np.intp]:
    """Return for each detection of one picture the number of its face, FALSE_ALARM or UNCOUNTED.

    Greedy, best score first. Faces that are not wanted need not be found; finding them is UNCOUNTED.
    """
    overlaps = iou_matrix(boxes, faces) if len(faces) else np.zeros((len(boxes), 0), np.float32)
    free = wanted.copy()
    found = np.full(len(boxes), FALSE_ALARM, np.intp)
    for i in np.argsort(-scores, kind="stable"):
        open_to = np.where(free, overlaps[i], 0)
        best = int(open_to.argmax()) if len(faces) else -1
        if best >= 0 and open_to[best] >= overlap:
            free[best] = False
            found[i] = best
        elif (overlaps[i][~wanted] >= overlap).any():
            found[i] = UNCOUNTED
    return found


def assign(
    boxes: Boxes,
    scores: NDArray[np.float32],
    faces: Boxes,
    overlap: float = 0.5,
    smallest: float = 0.0,
    unsure: NDArray[np.bool_] | None = None,
) -> list[Found]:
    """Each detection of one picture that counts. Greedy, best score first.

    Faces under `smallest` px and unsure ones are ignored both ways: not to be found, and no false alarm when they
    are; nor are detections under it.
    """
    sides, tall = heights(boxes), heights(faces)
    wanted = tall >= smallest
    if unsure is not None:
        wanted &= ~unsure
    faces_found = match(boxes, scores, faces, wanted, overlap)
    counted: list[Found] = []
    for i in np.argsort(-scores, kind="stable"):
        face = int(faces_found[i])
        if face >= 0:
            counted.append((float(scores[i]), True, float(tall[face])))
        elif face == FALSE_ALARM and sides[i] >= smallest:
            counted.append((float(scores[i]), False, float(sides[i])))
    return counted


def heights(boxes: Boxes) -> Scores:
    return (boxes[:, 3] - boxes[:, 1]).astype(np.float64)


def average_precision(found: Judged) -> float:
    """Area under the curve of precision over recall, precision made to fall."""
    hits = found.true.cumsum()
    precision = hits / np.arange(1, len(hits) + 1)
    falling = np.maximum.accumulate(precision[::-1])[::-1]
    return float((falling * found.true).sum() / max(len(found.faces), 1))


def threshold(found: Judged, precision: float) -> float | None:
    """The lowest score from which on the detections are as precise as asked; None when no score is."""
    reached = found.true.cumsum() / np.arange(1, len(found.true) + 1)
    good = np.flatnonzero(reached >= precision)
    return float(found.scores[good[-1]]) if len(good) else None


def recall(found: Judged, score: float = -np.inf) -> float:
    return float(found.true[found.scores >= score].sum() / max(len(found.faces), 1))


def window_between(shape: tuple[int, int], faces: Boxes, least: int) -> tuple[slice, slice] | None:
    """Return rows and columns of the largest window of a picture (height, width) that touches no face.

    Both sides are `least` px or more, in steps of a third of it. None where there is no such window.
    """
    step = least // 3
    taken = np.zeros((shape[0] // step, shape[1] // step), np.bool_)
    for x1, y1, x2, y2 in faces.clip(min=0):
        taken[int(y1 // step) : int(-(-y2 // step)), int(x1 // step) : int(-(-x2 // step))] = True
    sums = np.pad(taken, ((1, 0), (1, 0))).astype(np.int64).cumsum(0).cumsum(1)
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
