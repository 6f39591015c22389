"""Fit likelihood ratios to scores: how much more often a score occurs for one person than for two.

All likelihood ratios are log10. They weigh one comparison and leave out the prior probability that
both pictures show one person.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import isotonic_regression

from fasr_video.errors import UsageError

Scores = NDArray[np.float64]
Form = Literal["logistic", "isotonic"]
# Penalty on the squared slopes of standardised scores; keeps them finite for separable scores.
PENALTY = 0.1


@dataclass(frozen=True, slots=True)
class ScoreMap:
    """Maps a score to a log10 likelihood ratio: linear between knots, constant outside,
    monotonic."""

    form: Form
    scores: tuple[float, ...]
    values: tuple[float, ...]

    def __call__(self, scores: ArrayLike) -> Scores:
        return np.asarray(np.interp(np.asarray(scores, np.float64), self.scores, self.values))


def fit_map(form: Form, same: Scores, different: Scores) -> ScoreMap:
    """Fit a map to scores of the same and of different people, within the bounds the data
    support."""
    _check(same, different)
    knots, values = (
        _platt_line(same, different) if form == "logistic" else isotonic(same, different)
    )
    low, high = supported_bounds(
        np.interp(same, knots, values), np.interp(different, knots, values)
    )
    if form == "isotonic":
        return ScoreMap(form, tuple(knots.tolist()), tuple(np.clip(values, low, high).tolist()))
    slope = (values[1] - values[0]) / (knots[1] - knots[0])
    if slope <= 0 or low == high:  # the scores carry no information
        return ScoreMap(form, (0.0,), (0.0,))
    ends = [float(knots[0] + (v - values[0]) / slope) for v in (low, high)]
    return ScoreMap(form, (ends[0], ends[1]), (low, high))


def _platt_line(same: Scores, different: Scores) -> tuple[Scores, Scores]:
    """Return the two end points of a Platt line, at the lowest and the highest score."""
    slopes, offset = logistic(same[:, None], different[:, None])
    knots = np.array(
        [min(same.min(), different.min()), max(same.max(), different.max())], np.float64
    )
    if knots[0] == knots[1]:
        knots[1] += 1
    return knots, slopes[0] * knots + offset


def logistic(same: Scores, different: Scores) -> tuple[Scores, float]:
    """Return slopes (D) and offset of log10 LR = slopes · scores + offset, from N×D scores.

    This is logistic regression by Newton's method. The same and the different comparisons have
    equal total weight, so the fitted log-odds are the log likelihood ratio.
    """
    _check(same, different)
    x = np.concatenate((same, different))
    n = min(len(same), len(different))
    target = np.repeat([1.0, 0.0], [len(same), len(different)])
    weight = np.repeat([n / len(same), n / len(different)], [len(same), len(different)])
    centre, spread = x.mean(0), np.where(x.std(0) > 0, x.std(0), 1.0)
    z = np.column_stack(((x - centre) / spread, np.ones(len(x))))
    penalty = np.append(np.full(x.shape[1], PENALTY), 0.0)

    def loss(b: Scores) -> float:
        log_odds = z @ b
        losses = np.logaddexp(0, log_odds) - target * log_odds
        return float(weight @ losses + penalty @ b**2 / 2)

    beta = np.zeros(z.shape[1])
    previous_loss = np.inf
    for _ in range(100):
        current_loss = loss(beta)
        if previous_loss - current_loss <= 1e-12 * (1 + current_loss):
            break
        previous_loss = current_loss
        p = 1 / (1 + np.exp(-np.clip(z @ beta, -500, 500)))
        gradient = z.T @ (weight * (p - target)) + penalty * beta
        curvature = (z * (weight * p * (1 - p))[:, None]).T @ z + np.diag(penalty + 1e-12)
        step = np.linalg.solve(curvature, gradient)
        while loss(beta - step) > current_loss and np.abs(step).max() > 1e-12:
            step /= 2
        beta = beta - step
    slopes = beta[:-1] / spread
    return slopes / np.log(10), float((beta[-1] - slopes @ centre) / np.log(10))


def isotonic(same: Scores, different: Scores) -> tuple[Scores, Scores]:
    """Return knots and log10 LRs of the best monotonic map, by pooling adjacent violators.

    The LR of a pool is its share of all `same` divided by its share of all `different`. A pool
    without any of one kind would be infinite; it gets the 1/(n + 1) that n samples cannot exclude.
    """
    levels, index = np.unique(np.concatenate((same, different)), return_inverse=True)
    s = np.bincount(index[: len(same)], minlength=len(levels))
    d = np.bincount(index[len(same) :], minlength=len(levels))
    weights = s / len(same) + d / len(different)
    starts = isotonic_regression(s / len(same) / weights, weights=weights).blocks[:-1]
    with np.errstate(divide="ignore"):
        ratios = np.log10(np.add.reduceat(s, starts) / len(same))
        ratios -= np.log10(np.add.reduceat(d, starts) / len(different))
    ratios = np.clip(ratios, -np.log10(len(same) + 1), np.log10(len(different) + 1))
    ends = np.append(starts[1:], len(levels)) - 1
    knots = np.stack((levels[starts], levels[ends]), 1).ravel()
    values = np.repeat(ratios, 2)
    single = np.append(False, knots[1:] == knots[:-1])
    return knots[~single], values[~single]


def supported_bounds(same: Scores, different: Scores) -> tuple[float, float]:
    """Return the lowest and highest log10 LR that a number of samples supports (ELUB, Vergeer et al.
    2016).

    At prior odds 1/t a system is useful only where its decisions are wrong less often than always
    choosing the likelier side. The bounds are where that ends after adding one misleading LR of
    each kind, as the next sample might be.
    """
    return -_highest_supported(-different, -same), _highest_supported(same, different)


def _highest_supported(same: Scores, different: Scores) -> float:
    """Return log10 of the largest t ≥ 1 with P(LR < t | same) + t · P(LR ≥ t | different) < 1."""
    levels = np.unique(np.concatenate((same, different)))
    missed = (np.searchsorted(np.sort(same), levels, "left") + 1) / (len(same) + 1)
    false = (len(different) - np.searchsorted(np.sort(different), levels, "left") + 1) / (
        len(different) + 1
    )
    with np.errstate(divide="ignore"):
        most = np.log10(np.maximum(1 - missed, 0) / false)
    # Between two levels the shares are constant, so there the condition is t < 10^most.
    reached = np.minimum(levels, most)
    held = reached > np.append(-np.inf, levels[:-1])
    return max(0.0, float(reached[held].max(initial=0.0)))


def cllr(same: Scores, different: Scores) -> float:
    """Return the cost of log10 LRs in bits (Brümmer and du Preez 2006).

    It is 0 for a perfect system, and 1 for one whose LR is always 1.
    """
    _check(same, different)
    wrong_same = np.logaddexp(0, -np.log(10) * same).mean()
    wrong_different = np.logaddexp(0, np.log(10) * different).mean()
    return float((wrong_same + wrong_different) / (2 * np.log(2)))


def least_cllr(same: Scores, different: Scores) -> float:
    """Return the Cllr of the best monotonic map of these scores, which is their discrimination
    loss."""
    knots, values = isotonic(same, different)
    return cllr(np.interp(same, knots, values), np.interp(different, knots, values))


def _check(same: Scores, different: Scores) -> None:
    for name, scores in (("of the same person", same), ("of different people", different)):
        if not len(scores) or not np.isfinite(scores).all():
            raise UsageError(
                f"scores {name}",
                "there are none, or not all are finite",
                "give more people and photographs",
            )
