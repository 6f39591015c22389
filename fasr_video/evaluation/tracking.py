"""HOTA (Luiten et al., 2021), IDF1 (Ristani et al., 2016) and MOTA (Bernardin et al., 2008), as TrackEval defines
them; a test holds them against TrackEval itself."""

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
    """True and found boxes of one frame, each with its identity."""

    true_ids: NDArray[np.int64]
    true_boxes: NDArray[np.float64]
    found_ids: NDArray[np.int64]
    found_boxes: NDArray[np.float64]


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
    found: NDArray[np.int64]
    overlap: NDArray[np.float64]


def score(frames: Iterable[LabelledFrame]) -> TrackingScores:
    numbered, true_count, found_count = _renumber(list(frames))
    hota, deta, assa = _hota(numbered, true_count, found_count)
    mota, switches = _mota(numbered, true_count)
    return TrackingScores(
        hota, deta, assa, _idf1(numbered, true_count, found_count), mota, switches
    )


def _renumber(frames: list[LabelledFrame]) -> tuple[list[_Frame], int, int]:
    """Identities as 0, 1, 2, … and the overlaps, computed once for all measures."""
    true_at: dict[int, int] = {}
    found_at: dict[int, int] = {}
    numbered = []
    for f in frames:
        true = np.array([true_at.setdefault(int(i), len(true_at)) for i in f.true_ids], np.int64)
        found = np.array(
            [found_at.setdefault(int(i), len(found_at)) for i in f.found_ids], np.int64
        )
        overlap = iou_matrix(f.true_boxes, f.found_boxes).astype(np.float64)
        numbered.append(_Frame(true, found, overlap))
    return numbered, len(true_at), len(found_at)


def _hota(frames: list[_Frame], true_count: int, found_count: int) -> tuple[float, float, float]:
    together = np.zeros((true_count, found_count))
    true_seen, found_seen = np.zeros((true_count, 1)), np.zeros((1, found_count))
    for f in frames:
        both = f.overlap.sum(0)[None] + f.overlap.sum(1)[:, None] - f.overlap
        share = np.divide(f.overlap, both, out=np.zeros_like(f.overlap), where=both > 1e-12)
        together[f.true[:, None], f.found[None]] += share
        true_seen[f.true, 0] += 1
        found_seen[0, f.found] += 1
    alignment = together / np.maximum(true_seen + found_seen - together, 1e-12)
    hits = np.zeros(len(ALPHAS))
    matches = np.zeros((len(ALPHAS), true_count, found_count))
    for f in frames:
        if not len(f.true) or not len(f.found):
            continue
        rows, columns = linear_sum_assignment(
            -alignment[f.true[:, None], f.found[None]] * f.overlap
        )
        for a, alpha in enumerate(ALPHAS):
            good = f.overlap[rows, columns] >= alpha - 1e-12
            hits[a] += good.sum()
            matches[a, f.true[rows[good]], f.found[columns[good]]] += 1
    total = true_seen.sum() + found_seen.sum()
    deta = hits / np.maximum(total - hits, 1)
    ass = matches / np.maximum(true_seen[None] + found_seen[None] - matches, 1)
    assa = (matches * ass).sum((1, 2)) / np.maximum(hits, 1)
    return float(np.sqrt(deta * assa).mean()), float(deta.mean()), float(assa.mean())


def _idf1(frames: list[_Frame], true_count: int, found_count: int) -> float:
    common = np.zeros((true_count, found_count))
    true_seen, found_seen = np.zeros(true_count), np.zeros(found_count)
    for f in frames:
        common[f.true[:, None], f.found[None]] += f.overlap >= 0.5
        true_seen[f.true] += 1
        found_seen[f.found] += 1
    rows, columns = linear_sum_assignment(-common)
    hits = common[rows, columns].sum()
    return float(2 * hits / max(true_seen.sum() + found_seen.sum(), 1))


def _mota(frames: list[_Frame], true_count: int) -> tuple[float, int]:
    last = np.full(true_count, -1)  # the newest partner of each true identity, for switches
    before = np.full(true_count, -1)  # its partner in the frame before, which keeps it when it can
    hits = misses = extra = switches = 0
    for f in frames:
        if not len(f.true) or not len(
            f.found
        ):  # a frame without either side ends no pairing (TrackEval)
            misses, extra = misses + len(f.true), extra + len(f.found)
            continue
        merit = np.where(f.overlap >= 0.5 - 1e-12, f.overlap, 0.0)
        merit[merit > 0] += 1000.0 * (before[f.true][:, None] == f.found[None])[merit > 0]
        rows, columns = linear_sum_assignment(-merit)
        kept = merit[rows, columns] > 0
        true, found = f.true[rows[kept]], f.found[columns[kept]]
        switches += int(((last[true] >= 0) & (last[true] != found)).sum())
        last[true] = found
        before[:] = -1
        before[true] = found
        hits += len(true)
        misses += len(f.true) - len(true)
        extra += len(f.found) - len(true)
    truths = hits + misses
    return (hits - extra - switches) / truths if truths else 0.0, switches
