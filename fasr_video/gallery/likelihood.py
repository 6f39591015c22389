"""From scores to likelihood ratios: how much more often a score is seen of one person than of two different people.

All likelihood ratios are log10. They weigh one comparison; how probable it was beforehand that the two are one person
is not theirs to say.
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
# On the squared slopes of standardised scores: it keeps them finite where the two kinds do not
# overlap at all.
PENALTY = 0.1


@dataclass(frozen=True, slots=True)
class ScoreMap:
    """Score → log10 likelihood ratio: straight between the knots, level outside them, never falling."""

    form: Form
    scores: tuple[float, ...]
    values: tuple[float, ...]

    def __call__(self, scores: ArrayLike) -> Scores:
        return np.asarray(np.interp(np.asarray(scores, np.float64), self.scores, self.values))


def fit_map(form: Form, same: Scores, different: Scores) -> ScoreMap:
    """Fitted on scores of one person's pictures and of different people's, within what so many can support."""
    _check(same, different)
    knots, values = _line(same, different) if form == "logistic" else isotonic(same, different)
    low, high = supported(np.interp(same, knots, values), np.interp(different, knots, values))
    if form == "isotonic":
        return ScoreMap(form, tuple(knots.tolist()), tuple(np.clip(values, low, high).tolist()))
    slope = (values[1] - values[0]) / (knots[1] - knots[0])
    if slope <= 0 or low == high:  # such scores tell nothing
        return ScoreMap(form, (0.0,), (0.0,))
    ends = [float(knots[0] + (v - values[0]) / slope) for v in (low, high)]
    return ScoreMap(form, (ends[0], ends[1]), (low, high))


def _line(same: Scores, different: Scores) -> tuple[Scores, Scores]:
    """Two points of Platt's line, at the lowest and the highest score."""
    slopes, offset = logistic(same[:, None], different[:, None])
    knots = np.array(
        [min(same.min(), different.min()), max(same.max(), different.max())], np.float64
    )
    if knots[0] == knots[1]:
        knots[1] += 1
    return knots, slopes[0] * knots + offset


def logistic(same: Scores, different: Scores) -> tuple[Scores, float]:
    """Slopes (D) and offset of log10 LR = slopes · scores + offset, from N×D scores of either kind.

    Logistic regression by Newton's method. Both kinds weigh alike, so the fitted log-odds are the log likelihood ratio
    and the share of either kind in the data drops out.
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
        told = z @ b
        return float(weight @ (np.logaddexp(0, told) - target * told) + penalty @ b**2 / 2)

    beta, before = np.zeros(z.shape[1]), np.inf
    for _ in range(100):
        now = loss(beta)
        if before - now <= 1e-12 * (1 + now):
            break
        before = now
        p = 1 / (1 + np.exp(-np.clip(z @ beta, -500, 500)))
        gradient = z.T @ (weight * (p - target)) + penalty * beta
        curvature = (z * (weight * p * (1 - p))[:, None]).T @ z + np.diag(penalty + 1e-12)
        step = np.linalg.solve(curvature, gradient)
        while loss(beta - step) > now and np.abs(step).max() > 1e-12:
            step /= 2
        beta = beta - step
    slopes = beta[:-1] / spread
    return slopes / np.log(10), float((beta[-1] - slopes @ centre) / np.log(10))


def isotonic(same: Scores, different: Scores) -> tuple[Scores, Scores]:
    """Knots and log10 LR of the best never-falling map, by pooling adjacent violators.

    A pool has (its share of all `same`) / (its share of all `different`). A pool with none of one kind would say
    infinity; it gets the 1/(n + 1) that n samples without one still leave open.
    """
    levels, index = np.unique(np.concatenate((same, different)), return_inverse=True)
    s = np.bincount(index[: len(same)], minlength=len(levels))
    d = np.bincount(index[len(same) :], minlength=len(levels))
    weights = s / len(same) + d / len(different)
    starts = isotonic_regression(s / len(same) / weights, weights=weights).blocks[:-1]
    with np.errstate(divide="ignore"):
        told = np.log10(np.add.reduceat(s, starts) / len(same))
        told -= np.log10(np.add.reduceat(d, starts) / len(different))
    told = np.clip(told, -np.log10(len(same) + 1), np.log10(len(different) + 1))
    ends = np.append(starts[1:], len(levels)) - 1
    knots = np.stack((levels[starts], levels[ends]), 1).ravel()
    values = np.repeat(told, 2)
    single = np.append(False, knots[1:] == knots[:-1])
    return knots[~single], values[~single]


def supported(same: Scores, different: Scores) -> tuple[float, float]:
    """The lowest and the highest log10 LR that so many samples can support (ELUB, Vergeer et al. 2016).

    A system is of use at prior odds 1/t only where deciding by it errs less often than always deciding for the likelier
    side. The bounds are where that ends once one misleading LR of either kind, which the next sample might bring, is
    added to those seen.
    """
    return -_highest(-different, -same), _highest(same, different)


def _highest(same: Scores, different: Scores) -> float:
    """The largest t with P(LR < t | same) + t · P(LR ≥ t | different) < 1, at least 1; in log10."""
    levels = np.unique(np.concatenate((same, different)))
    missed = (np.searchsorted(np.sort(same), levels, "left") + 1) / (len(same) + 1)
    false = (len(different) - np.searchsorted(np.sort(different), levels, "left") + 1) / (
        len(different) + 1
    )
    with np.errstate(divide="ignore"):
        most = np.log10(np.maximum(1 - missed, 0) / false)
    # Between two levels the shares do not change, so there the condition is t < 10^most.
    reached = np.minimum(levels, most)
    held = reached > np.append(-np.inf, levels[:-1])
    return max(0.0, float(reached[held].max(initial=0.0)))


def cllr(same: Scores, different: Scores) -> float:
    """Cost of log10 LRs in bits (Brümmer and du Preez 2006): 0 for a perfect system, 1 for one that always says 1."""
    _check(same, different)
    wrong_same = np.logaddexp(0, -np.log(10) * same).mean()
    wrong_different = np.logaddexp(0, np.log(10) * different).mean()
    return float((wrong_same + wrong_different) / (2 * np.log(2)))


def least_cllr(same: Scores, different: Scores) -> float:
    """Cllr with the best never-falling map of these very scores: what is left is how poorly they tell people apart."""
    knots, values = isotonic(same, different)
    return cllr(np.interp(same, knots, values), np.interp(different, knots, values))


def _check(same: Scores, different: Scores) -> None:
    for name, scores in (("of the same person", same), ("of different people", different)):
        if not len(scores) or not np.isfinite(scores).all():
            raise UsageError(
                f"scores {name}", "none, or not all are finite", "give more people and photographs"
            )
