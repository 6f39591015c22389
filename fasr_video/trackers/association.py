"""Assignment of detections to tracks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

Matrix = NDArray[np.float64]
Pairs = list[tuple[int, int]]


def widen(boxes: NDArray[np.floating], share: float) -> NDArray[np.floating]:
    """Return the boxes grown on every side by a share of their own width and height."""
    margin = (boxes[:, 2:] - boxes[:, :2]) * share
    return np.concatenate((boxes[:, :2] - margin, boxes[:, 2:] + margin), axis=1)


def assign(similarity: Matrix, allowed: NDArray[np.bool_]) -> Pairs:
    """Return the allowed pairs with the largest total similarity (Hungarian method).

    Rows and columns without an allowed partner are left out.
    """
    if not allowed.any():
        return []
    rows, columns = linear_sum_assignment(np.where(allowed, -similarity, 0.0))
    return [(int(r), int(c)) for r, c in zip(rows, columns, strict=True) if allowed[r, c]]
