"""HOTA (Luiten et al., 2021), IDF1 (Ristani et al., 2016) and MOTA (Bernardin et al., 2008).

They follow TrackEval's definitions; a test compares them with TrackEval itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from fasr_video.boxes import iou_matrix

ALPHAS = np.arange(0.05, 0.99, 0.05)


@dataclass(frozen=True, slots=True)
class LabelledFrame:
    """The true and the predicted boxes of one frame, with their identities."""

    true_ids: NDArray[np.int64]
    true_boxes: NDArray[np.float64]
    predicted_ids: NDArray[np.int64]
    predicted_boxes: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TrackingScores:
    hota: float
    deta: float
    assa: float
    idf1: float
    mota: float
    switches: int


@dataclass(frozen=True, slots=True)
class _Frame:
    true: NDArray[np.int64]
    predicted: NDArray[np.int64]
    overlap: NDArray[np.float64]


def score(frames: Iterable[LabelledFrame]) -> TrackingScores:
    """Return the scores of all frames of one clip."""
    numbered, true_count, predicted_count = _renumber(list(frames))
    hota, deta, assa = _hota(numbered, true_count, predicted_count)
    mota, switches = _mota(numbered, true_count)
    return TrackingScores(
        hota, deta, assa, _idf1(numbered, true_count, predicted_count), mota, switches
    )


def _renumber(frames: list[LabelledFrame]) -> tuple[list[_Frame], int, int]:
    """Return the frames with identities numbered from 0, and with overlaps; and both numbers."""
    true_index: dict[int, int] = {}
    predicted_index: dict[int, int] = {}
    numbered = []
    for f in frames:
        true = np.array(
            [true_index.setdefault(int(i), len(true_index)) for i in f.true_ids], np.int64
        )
        predicted = np.array(
            [predicted_index.setdefault(int(i), len(predicted_index)) for i in f.predicted_ids],
            np.int64,
        )
        overlap = iou_matrix(f.true_boxes, f.predicted_boxes).astype(np.float64)
        numbered.append(_Frame(true, predicted, overlap))
    return numbered, len(true_index), len(predicted_index)


def _hota(
    frames: list[_Frame], true_count: int, predicted_count: int
) -> tuple[float, float, float]:
    together = np.zeros((true_count, predicted_count))
    true_frames, predicted_frames = np.zeros((true_count, 1)), np.zeros((1, predicted_count))
    for f in frames:
        both = f.overlap.sum(0)[None] + f.overlap.sum(1)[:, None] - f.overlap
        share = np.divide(f.overlap, both, out=np.zeros_like(f.overlap), where=both > 1e-12)
        together[f.true[:, None], f.predicted[None]] += share
        true_frames[f.true, 0] += 1
        predicted_frames[0, f.predicted] += 1
    alignment = together / np.maximum(true_frames + predicted_frames - together, 1e-12)
    hits = np.zeros(len(ALPHAS))
    matches = np.zeros((len(ALPHAS), true_count, predicted_count))
    for f in frames:
        if not len(f.true) or not len(f.predicted):
            continue
        rows, columns = linear_sum_assignment(
            -alignment[f.true[:, None], f.predicted[None]] * f.overlap
        )
        for a, alpha in enumerate(ALPHAS):
            good = f.overlap[rows, columns] >= alpha - 1e-12
            hits[a] += good.sum()
            matches[a, f.true[rows[good]], f.predicted[columns[good]]] += 1
    total = true_frames.sum() + predicted_frames.sum()
    deta = hits / np.maximum(total - hits, 1)
    ass = matches / np.maximum(true_frames[None] + predicted_frames[None] - matches, 1)
    assa = (matches * ass).sum((1, 2)) / np.maximum(hits, 1)
    return float(np.sqrt(deta * assa).mean()), float(deta.mean()), float(assa.mean())


def _idf1(frames: list[_Frame], true_count: int, predicted_count: int) -> float:
    common = np.zeros((true_count, predicted_count))
    true_frames, predicted_frames = np.zeros(true_count), np.zeros(predicted_count)
    for f in frames:
        common[f.true[:, None], f.predicted[None]] += f.overlap >= 0.5
        true_frames[f.true] += 1
        predicted_frames[f.predicted] += 1
    rows, columns = linear_sum_assignment(-common)
    hits = common[rows, columns].sum()
    return float(2 * hits / max(true_frames.sum() + predicted_frames.sum(), 1))


def _mota(frames: list[_Frame], true_count: int) -> tuple[float, int]:
    last = np.full(true_count, -1)  # the newest partner of each true identity, for switches
    before = np.full(true_count, -1)  # its partner in the frame before, which keeps it when it can
    hits = misses = extra = switches = 0
    for f in frames:
        # A frame without true or predicted boxes ends no pairing (TrackEval).
        if not len(f.true) or not len(f.predicted):
            misses += len(f.true)
            extra += len(f.predicted)
            continue
        merit = np.where(f.overlap >= 0.5 - 1e-12, f.overlap, 0.0)
        merit[merit > 0] += 1000.0 * (before[f.true][:, None] == f.predicted[None])[merit > 0]
        rows, columns = linear_sum_assignment(-merit)
        matched = merit[rows, columns] > 0
        true, predicted = f.true[rows[matched]], f.predicted[columns[matched]]
        switches += int(((last[true] >= 0) & (last[true] != predicted)).sum())
        last[true] = predicted
        before[:] = -1
        before[true] = predicted
        hits += len(true)
        misses += len(f.true) - len(true)
        extra += len(f.predicted) - len(true)
    truths = hits + misses
    return (hits - extra - switches) / truths if truths else 0.0, switches
