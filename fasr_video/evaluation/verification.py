"""Measures of 1:1 comparisons: scores of one person (`own`) and of two people (`others`).

Higher scores are more similar. FMR (false match rate): share of `others` at or over a threshold.
FNMR: share of `own` below it. AUC and gallery searches are in `open_set.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fasr_video.errors import UsageError
from fasr_video.evaluation.open_set import Scores

# For bounds: number of thresholds from each kind of scores, and number of resamplings of people.
LEVELS, REPEATS = 1000, 300


@dataclass(frozen=True, slots=True)
class Folds:
    """Accuracy of each fold, at the best threshold of all other folds."""

    accuracies: tuple[float, ...]
    thresholds: tuple[float, ...]


def roc(own: ArrayLike, others: ArrayLike) -> tuple[Scores, Scores, Scores]:
    """Return the receiver operating characteristic: falling thresholds, FMR, and 1 − FNMR."""
    first, second = _both(own, others)
    levels = np.append(np.unique(np.concatenate((first, second))), np.inf)[::-1]
    return levels, _share_over(second, levels), _share_over(first, levels)


def eer(own: ArrayLike, others: ArrayLike) -> float:
    """Return the equal error rate, interpolated where FMR and FNMR cross."""
    _, fmr, hit = roc(own, others)
    gap = fmr - (1 - hit)  # from −1 rising to 1
    k = int(np.argmax(gap >= 0))
    share = -gap[k - 1] / (gap[k] - gap[k - 1])
    return float(fmr[k - 1] + share * (fmr[k] - fmr[k - 1]))


def eer_bounds(
    own: ArrayLike, others: ArrayLike, people: Sequence[str], seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % interval by resampling the people of the own scores."""
    first, second = _both(own, others)
    shares = np.linspace(0, 1, LEVELS)
    levels = np.append(
        np.unique(np.concatenate((np.quantile(first, shares), np.quantile(second, shares)))), np.inf
    )
    _, which = np.unique(np.asarray(people, np.str_), return_inverse=True)
    count = int(which.max()) + 1
    missed = np.zeros((count, len(levels)))
    np.add.at(missed, which, first[:, None] < levels)
    resampled = np.random.default_rng(seed).integers(0, count, (REPEATS, count))
    times = np.stack([np.bincount(row, minlength=count) for row in resampled]).astype(np.float64)
    fnmr = times @ missed / (times @ np.bincount(which))[:, None]
    fmr = _share_over(second, levels)
    gap = fmr - fnmr  # from 1 falling to −1
    after = np.maximum((gap <= 0).argmax(1), 1)
    rows = np.arange(REPEATS)
    share = gap[rows, after - 1] / (gap[rows, after - 1] - gap[rows, after])
    rates = fmr[after - 1] + share * (fmr[after] - fmr[after - 1])
    low, high = np.quantile(rates, (0.025, 0.975))
    return float(low), float(high)


def fold_accuracies(scores: ArrayLike, same: ArrayLike, fold: Sequence[int]) -> Folds:
    """Return LFW's accuracy: of each fold, at the best threshold of the other folds."""
    values = np.asarray(scores, np.float64)
    truth = np.asarray(same, np.bool_)
    part = np.asarray(fold)
    names = np.unique(part)
    if len(names) < 2:
        raise UsageError("pairs", "all in one fold", "give pairs in two folds or more; LFW has ten")
    accuracies, thresholds = [], []
    for name in names:
        in_fold = part == name
        threshold = _best_threshold(values[~in_fold], truth[~in_fold])
        accuracies.append(float(((values[in_fold] >= threshold) == truth[in_fold]).mean()))
        thresholds.append(threshold)
    return Folds(tuple(accuracies), tuple(thresholds))


def _best_threshold(values: Scores, truth: NDArray[np.bool_]) -> float:
    """Return the threshold with the most correct decisions; the lowest of equally good ones."""
    order = np.argsort(values, kind="stable")
    levels, right = values[order], truth[order]
    # With the cut before index k, all pairs below it are of two people, all from k on of one.
    correct = np.concatenate(([0], np.cumsum(~right))) + np.concatenate(
        (np.cumsum(right[::-1])[::-1], [0])
    )
    between = np.concatenate(([-np.inf], (levels[1:] + levels[:-1]) / 2, [np.inf]))
    possible = np.concatenate(([True], levels[1:] > levels[:-1], [True]))
    return float(between[int(np.where(possible, correct, -1).argmax())])


def _both(own: ArrayLike, others: ArrayLike) -> tuple[Scores, Scores]:
    first, second = np.asarray(own, np.float64).ravel(), np.asarray(others, np.float64).ravel()
    if not len(first) or not len(second):
        raise UsageError(
            "verification",
            "no scores of one of the two kinds",
            "give pairs of one and of two people",
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise UsageError(
            "verification",
            "scores that are no numbers",
            "leave those pairs out, and count them separately",
        )
    return first, second


def _share_over(values: Scores, levels: Scores) -> Scores:
    return np.asarray(
        1 - np.searchsorted(np.sort(values), levels, "left") / len(values), np.float64
    )
