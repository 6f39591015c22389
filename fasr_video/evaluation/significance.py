"""Means with their spread and bounds, and tests of whether one mean is above another.

Photographs of one person are not independent, so people are resampled and counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from fasr_video.errors import UsageError
from fasr_video.evaluation.open_set import Scores

REPEATS = 1000
# Up to this number of different whole numbers, each one is a group; more of them, and measurements, are
# divided into thirds.
MOST_GROUPS = 6


@dataclass(frozen=True, slots=True)
class Mean:
    value: float
    std: float
    """Standard deviation of the values, with n − 1; 0 for a single one."""
    low: float
    high: float
    """`low` to `high` is the 95 % interval by resampling people."""
    count: int


@dataclass(frozen=True, slots=True)
class Gain:
    """The gain of one system over another on the same photographs."""

    mean: Mean
    t: float
    p: float
    """Two-sided p of the paired t-test over people; NaN for fewer than two."""
    people: int


def summarise(values: ArrayLike, people: Sequence[str], seed: int = 0) -> Mean:
    """Return the mean of values, with bounds by resampling their people."""
    numbers = np.asarray(values, np.float64)
    if numbers.ndim != 1 or len(numbers) != len(people) or not len(numbers):
        raise UsageError(
            "values", f"{numbers.shape} for {len(people)} photographs", "give a value a photograph"
        )
    sums, counts = _by_person(numbers, people)
    resampled = np.random.default_rng(seed).integers(0, len(sums), (REPEATS, len(sums)))
    low, high = np.quantile(sums[resampled].sum(1) / counts[resampled].sum(1), (0.025, 0.975))
    spread = float(numbers.std(ddof=1)) if len(numbers) > 1 else 0.0
    return Mean(float(numbers.mean()), spread, float(low), float(high), len(numbers))


def gain(values: ArrayLike, baseline: ArrayLike, people: Sequence[str], seed: int = 0) -> Gain:
    """Return the gain of values over those of a baseline, photograph by photograph."""
    difference = np.asarray(values, np.float64) - np.asarray(baseline, np.float64)
    sums, counts = _by_person(difference, people)
    t, p = paired_t(sums / counts)
    return Gain(summarise(difference, people, seed), t, p, len(sums))


def paired_t(differences: Scores) -> tuple[float, float]:
    """Return Student's t of the mean difference, and the two-sided p."""
    n = len(differences)
    if n < 2:
        return math.nan, math.nan
    mean, error = float(differences.mean()), float(differences.std(ddof=1)) / math.sqrt(n)
    if error == 0:
        return (0.0, 1.0) if mean == 0 else (math.copysign(math.inf, mean), 0.0)
    t = mean / error
    return t, float(2 * stats.t.sf(abs(t), n - 1))


def split(column: Sequence[str]) -> dict[str, list[int]]:
    """Return the rows of each group of a label: of each value, or of thirds of a measurement.

    Empty labels are in the group `unknown`.
    """
    known = [i for i, value in enumerate(column) if value.strip()]
    numbers = _numbers([column[i] for i in known])
    groups: dict[str, list[int]] = {}
    if numbers is None or (
        len(np.unique(numbers)) <= MOST_GROUPS and (numbers == numbers.round()).all()
    ):
        order = known if numbers is None else [known[k] for k in np.argsort(numbers, kind="stable")]
        for i in order if numbers is not None else sorted(known, key=lambda i: column[i]):
            groups.setdefault(column[i], []).append(i)
        groups = {name: sorted(rows) for name, rows in groups.items()}
    else:
        a, b = np.quantile(numbers, (1 / 3, 2 / 3))
        third = (numbers > a).astype(int) + (numbers > b)
        for k, name in enumerate((f"up to {a:.3g}", f"{a:.3g} to {b:.3g}", f"over {b:.3g}")):
            groups[name] = [known[j] for j in np.flatnonzero(third == k)]
    if len(known) < len(column):
        groups["unknown"] = [i for i, value in enumerate(column) if not value.strip()]
    return {name: rows for name, rows in groups.items() if rows}


def _numbers(values: Sequence[str]) -> Scores | None:
    try:
        numbers = np.array([float(v) for v in values])
    except ValueError:
        return None
    return numbers if np.isfinite(numbers).all() and len(numbers) else None


def _by_person(values: Scores, people: Sequence[str]) -> tuple[Scores, Scores]:
    """Return sum and count of each person's values."""
    _, which = np.unique(np.asarray(people, np.str_), return_inverse=True)
    return np.asarray(np.bincount(which, values), np.float64), np.bincount(which).astype(np.float64)
