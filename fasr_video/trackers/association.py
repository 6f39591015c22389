"""Which detection belongs to which track."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

Matrix = NDArray[np.float64]
Pairs = list[tuple[int, int]]


def iou_matrix(a: NDArray[np.floating], b: NDArray[np.floating], share: float = 0.0) -> Matrix:
    """Intersection over union of every box of `a` (N×4) with every box of `b` (M×4).

    With `share`, all boxes are first widened on every side by that share of their own width and height.
    """
    left, right = _widen(a, share)[:, None], _widen(b, share)[None]
    common = np.minimum(left[..., 2:], right[..., 2:]) - np.maximum(left[..., :2], right[..., :2])
    area = np.clip(common, 0, None).prod(-1)
    union = (left[..., 2:] - left[..., :2]).prod(-1) + (right[..., 2:] - right[..., :2]).prod(-1) - area
    return np.asarray(area / np.maximum(union, 1e-9), dtype=np.float64)


def _widen(boxes: NDArray[np.floating], share: float) -> NDArray[np.floating]:
    if share == 0:
        return boxes
    pad = (boxes[:, 2:] - boxes[:, :2]) * share
    return np.concatenate((boxes[:, :2] - pad, boxes[:, 2:] + pad), axis=1)


def assign(similarity: Matrix, allowed: NDArray[np.bool_]) -> Pairs:
    """The pairing with the largest total similarity, of allowed pairs only (Hungarian method)."""
    if not allowed.any():
        return []
    rows, columns = linear_sum_assignment(np.where(allowed, -similarity, 1e6))
    return [(int(r), int(c)) for r, c in zip(rows, columns, strict=True) if allowed[r, c]]
