"""Measures of a gallery search when some people are not in the gallery (as NIST FRTE 1:N).

FPIR: share of non-mated searches (the person is not enrolled) with a candidate at or over the
threshold. FNIR: share of mated searches whose own subject is below the threshold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fasr_video.errors import UsageError

FPIRS = (0.3, 0.1, 0.03, 0.01, 0.003)
RANKS = (1, 10, 50)
# Rank of a subject that is not on a list of limited length.
UNLISTED = np.iinfo(np.intp).max
Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Searches:
    """The results of several searches, a row each."""

    right: Scores
    """Score of the person's own subject; NaN if not in the gallery, -inf if not on the list."""
    wrong: Scores
    """Highest score of all other subjects; -inf if there is none."""
    rank: NDArray[np.intp]
    """Rank of the own subject, from 1; 0 if not in the gallery, UNLISTED if not on the list."""
    person: NDArray[np.str_]
    """The person searched for: searches of one person are not independent."""

    def __post_init__(self) -> None:
        if len({len(self.right), len(self.wrong), len(self.rank), len(self.person)}) != 1:
            raise UsageError(
                "searches", "right, wrong, rank and person differ in length", "give a row a search"
            )
        if (
            np.isnan(self.wrong).any()
            or np.isposinf(self.right).any()
            or (np.isnan(self.right) != (self.rank == 0)).any()
        ):
            reason = "scores that are no numbers, or an own subject without score or rank"
            raise UsageError(
                "searches",
                reason,
                "leave out searches that failed, and count them separately",
            )

    @property
    def mated(self) -> NDArray[np.bool_]:
        """Whether the person of each search is in the gallery."""
        return self.rank > 0

    def __len__(self) -> int:
        return len(self.right)

    def take(self, rows: NDArray[np.intp]) -> Searches:
        """Return the searches of these rows."""
        return Searches(self.right[rows], self.wrong[rows], self.rank[rows], self.person[rows])


def searches(scores: Scores, own: NDArray[np.intp], person: Sequence[str]) -> Searches:
    """Return the results for scores, searches × gallery.

    `own` is the column of each search's own subject, or -1. Another subject with the same score as
    the own one ranks before it.
    """
    if scores.ndim != 2 or scores.shape[0] != len(own):
        raise UsageError(
            "scores",
            f"{scores.shape} for {len(own)} searches",
            "give a row a search, a column a subject",
        )
    if not scores.size:
        raise UsageError("scores", "no search or no gallery", "give at least one of each")
    rows, mated = np.arange(len(own)), own >= 0
    right = np.where(mated, scores[rows, own], np.nan)
    others = np.array(scores, np.float64)
    others[rows[mated], own[mated]] = -np.inf
    rank = np.where(mated, 1 + (others >= right[:, None]).sum(1), 0)
    return Searches(right, others.max(1), rank, np.asarray(person, np.str_))


def fpir(results: Searches, thresholds: ArrayLike) -> Scores:
    """Return the FPIR at each threshold."""
    strangers = _strangers(results)
    return _at_or_over(strangers, thresholds) / len(strangers)


def fnir(results: Searches, thresholds: ArrayLike, k: int | None = None) -> Scores:
    """Return the FNIR at each threshold.

    With `k`, the own subject must also be among the first k candidates.
    """
    right, rank = _own(results)
    listed = right if k is None else right[rank <= k]
    return (len(right) - _at_or_over(listed, thresholds)) / len(right)


def rank_rate(results: Searches, k: int) -> float:
    """Return the share of mated searches with their own subject among the first k candidates."""
    return float((_own(results)[1] <= k).mean())


def cmc(results: Searches, ranks: int) -> Scores:
    """Return the cumulative match characteristic: `rank_rate` for each rank from 1."""
    rank = _own(results)[1]
    return np.asarray((rank[:, None] <= np.arange(1, ranks + 1)).mean(0), np.float64)


def threshold_at(results: Searches, rate: float) -> float:
    """Return the lowest threshold with an FPIR of at most `rate` on these searches."""
    return lowest_threshold(_strangers(results), rate)


def lowest_threshold(scores: ArrayLike, rate: float) -> float:
    """Return the lowest threshold that at most this share of the scores reaches."""
    highest = np.sort(np.asarray(scores, np.float64), axis=None)[::-1]
    allowed = int(np.floor(rate * len(highest) + 1e-9))
    return -np.inf if allowed >= len(highest) else float(np.nextafter(highest[allowed], np.inf))


def fnir_at(results: Searches, rate: float) -> float:
    """Return the FNIR at the threshold where FPIR is at most `rate`."""
    return float(fnir(results, threshold_at(results, rate)))


def resolves(results: Searches, rate: float) -> bool:
    """Return whether one of the non-mated searches is at most a share `rate` of them."""
    return rate * len(_strangers(results)) >= 1 - 1e-9


def mated_and_strangers(results: Searches, rows: NDArray[np.intp]) -> Searches:
    """Return the mated searches of these rows and all non-mated ones, so that thresholds stay."""
    return results.take(np.union1d(rows[results.mated[rows]], np.flatnonzero(~results.mated)))


def det(results: Searches) -> tuple[Scores, Scores, Scores]:
    """Return the detection error trade-off: rising thresholds, FPIR, FNIR."""
    levels = np.unique(np.concatenate((_own(results)[0], _strangers(results))))
    levels = np.append(levels, np.inf)
    return levels, fpir(results, levels), fnir(results, levels)


def auc(own: ArrayLike, others: ArrayLike) -> float:
    """Return how often a score of the first kind is above one of the second; ties count half."""
    first = np.asarray(own, np.float64).ravel()
    second = np.sort(np.asarray(others, np.float64), axis=None)
    if not len(first) or not len(second):
        raise UsageError("area under the curve", "no scores of one of the two kinds", "give both")
    below = np.searchsorted(second, first, "left") + np.searchsorted(second, first, "right")
    return float(below.mean() / 2 / len(second))


def rank_and_area(scores: Scores) -> tuple[float, float]:
    """Return Rank-1 and AUC of square scores; own subjects are on the diagonal."""
    own = np.arange(len(scores))
    results = searches(scores, own, [str(k) for k in own])
    return rank_rate(results, 1), auc(results.right, scores[~np.eye(len(scores), dtype=bool)])


def bootstrap(
    results: Searches,
    statistic: Callable[[Searches], ArrayLike],
    repeats: int = 1000,
    seed: int = 0,
    *,
    level: float = 0.95,
) -> tuple[Scores, Scores]:
    """Return the bootstrap bounds of a statistic by resampling people.

    Enrolled people and strangers are resampled separately. The gallery stays the same.
    """
    samples = [
        np.asarray(statistic(results.take(rows)), np.float64)
        for rows in resampled(results, repeats, seed)
    ]
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return np.asarray(low), np.asarray(high)


def resampled(results: Searches, repeats: int, seed: int = 0) -> Iterator[NDArray[np.intp]]:
    """Yield rows of resampled people, with all their searches.

    The rows are the same for two systems that searched for the same faces.
    """
    generator = np.random.default_rng(seed)
    groups = [_rows_by_person(results, results.mated), _rows_by_person(results, ~results.mated)]
    for _ in range(repeats):
        yield np.concatenate(
            [g[i] for g in groups if g for i in generator.integers(0, len(g), len(g))]
        )


def _rows_by_person(results: Searches, which: NDArray[np.bool_]) -> list[NDArray[np.intp]]:
    rows = np.flatnonzero(which)
    if not len(rows):
        return []
    order = rows[np.argsort(results.person[rows], kind="stable")]
    names = results.person[order]
    return np.split(order, np.flatnonzero(names[1:] != names[:-1]) + 1)


def _at_or_over(values: Scores, thresholds: ArrayLike) -> Scores:
    """Return how many values reach each threshold; -inf (not on the list) reaches none."""
    listed = np.sort(values[values > -np.inf])
    return np.asarray(len(listed) - np.searchsorted(listed, thresholds, "left"), np.float64)


def _strangers(results: Searches) -> Scores:
    values = results.wrong[~results.mated]
    if not len(values):
        raise UsageError(
            "non-mated searches", "none", "search for people who are not in the gallery too"
        )
    return values


def _own(results: Searches) -> tuple[Scores, NDArray[np.intp]]:
    if not results.mated.any():
        raise UsageError("mated searches", "none", "search for people who are in the gallery too")
    return results.right[results.mated], results.rank[results.mated]
