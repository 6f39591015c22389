"""How well a detector finds faces: precision, recall and average precision, by the height of the face."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fasr_video.boxes import iou_matrix
from fasr_video.evaluation.open_set import Scores
from fasr_video.types import Boxes

Found = tuple[float, bool, float]
"""Score, whether it is a face, height: of the face, or of the detection where there is none."""


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


def assign(
    boxes: Boxes, scores: NDArray[np.float32], faces: Boxes, overlap: float = 0.5, smallest: float = 0.0
) -> list[Found]:
    """Each detection of one picture that counts. Greedy, best score first.

    Faces under `smallest` px are ignored both ways: not to be found, and no false alarm when they are; nor are
    detections under it.
    """
    sides, wanted = heights(boxes), heights(faces) >= smallest
    overlaps = iou_matrix(boxes, faces) if len(faces) else np.zeros((len(boxes), 0), np.float32)
    free = wanted.copy()
    counted: list[Found] = []
    for i in np.argsort(-scores, kind="stable"):
        open_to = np.where(free, overlaps[i], 0)
        best = int(open_to.argmax()) if len(faces) else -1
        if best >= 0 and open_to[best] >= overlap:
            free[best] = False
            counted.append((float(scores[i]), True, float(heights(faces)[best])))
        elif sides[i] >= smallest and not (overlaps[i][~wanted] >= overlap).any():
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
