"""How a search over a gallery does when some of the people searched for are not in it (NIST FRTE 1:N's measures).

FPIR: share of non-mated searches (the person is not enrolled) with at least one candidate at or over the threshold.
FNIR: share of mated searches whose own subject is not at or over it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fasr_video.errors import UsageError

FPIRS = (0.3, 0.1, 0.03, 0.01, 0.003)
RANKS = (1, 10, 50)
# Rank of a subject that a list of limited length does not hold.
UNLISTED = np.iinfo(np.intp).max
Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Searches:
    """One row a search."""

    right: Scores
    """Score of the person's own subject; NaN where the person is not in the gallery, -inf where it is on no list."""
    wrong: Scores
    """Highest score among all other subjects; -inf where there is none."""
    rank: NDArray[np.intp]
    """Of the own subject, from 1; 0 where it is not in the gallery, UNLISTED where it is on no list."""
    person: NDArray[np.str_]
    """Who is searched for: searches of one person are not independent."""

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
                "leave out searches that could not be done, and count them apart",
            )

    @property
    def mated(self) -> NDArray[np.bool_]:
        return self.rank > 0

    def __len__(self) -> int:
        return len(self.right)

    def take(self, rows: NDArray[np.intp]) -> Searches:
        return Searches(self.right[rows], self.wrong[rows], self.rank[rows], self.person[rows])


def searches(scores: Scores, own: NDArray[np.intp], person: Sequence[str]) -> Searches:
    """From all scores, searches × gallery; `own` is the column of each search's own subject, or -1.

    Where another subject has the same score as the own one, the other one counts as before it.
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


def fpir(found: Searches, thresholds: ArrayLike) -> Scores:
    strangers = _strangers(found)
    return _at_or_over(strangers, thresholds) / len(strangers)


def fnir(found: Searches, thresholds: ArrayLike, k: int | None = None) -> Scores:
    """With `k`, the own subject also has to be among the first k candidates."""
    right, rank = _own(found)
    listed = right if k is None else right[rank <= k]
    return (len(right) - _at_or_over(listed, thresholds)) / len(right)


def rank_rate(found: Searches, k: int) -> float:
    """Share of mated searches with their own subject among the first k candidates, whatever its score."""
    return float((_own(found)[1] <= k).mean())


def cmc(found: Searches, ranks: int) -> Scores:
    """Cumulative match characteristic: `rank_rate` for each rank from 1."""
    place = _own(found)[1]
    return np.asarray((place[:, None] <= np.arange(1, ranks + 1)).mean(0), np.float64)


def threshold_at(found: Searches, rate: float) -> float:
    """The lowest threshold with an FPIR of at most `rate`, measured on these very searches."""
    return lowest_threshold(_strangers(found), rate)


def lowest_threshold(scores: ArrayLike, rate: float) -> float:
    """The lowest one that at most this share of the scores is at or over."""
    highest = np.sort(np.asarray(scores, np.float64), axis=None)[::-1]
    allowed = int(np.floor(rate * len(highest) + 1e-9))
    return -np.inf if allowed >= len(highest) else float(np.nextafter(highest[allowed], np.inf))


def fnir_at(found: Searches, rate: float) -> float:
    """FNIR where FPIR is at most `rate`."""
    return float(fnir(found, threshold_at(found, rate)))


def resolves(found: Searches, rate: float) -> bool:
    """Whether there are enough non-mated searches for one of them to be an FPIR of `rate`."""
    return rate * len(_strangers(found)) >= 1 - 1e-9


def mated_and_strangers(found: Searches, rows: NDArray[np.intp]) -> Searches:
    """Of the enrolled people those of some rows alone, with every stranger: thresholds stay everybody's."""
    return found.take(np.union1d(rows[found.mated[rows]], np.flatnonzero(~found.mated)))


def det(found: Searches) -> tuple[Scores, Scores, Scores]:
    """The detection error trade-off: thresholds rising, FPIR, FNIR."""
    levels = np.unique(np.concatenate((_own(found)[0], _strangers(found))))
    levels = np.append(levels, np.inf)
    return levels, fpir(found, levels), fnir(found, levels)


def auc(own: ArrayLike, others: ArrayLike) -> float:
    """How often a score of the first kind is above one of the second; equal ones count half."""
    first, second = (
        np.asarray(own, np.float64).ravel(),
        np.sort(np.asarray(others, np.float64), axis=None),
    )
    if not len(first) or not len(second):
        raise UsageError("area under the curve", "no scores of one of the two kinds", "give both")
    below = np.searchsorted(second, first, "left") + np.searchsorted(second, first, "right")
    return float(below.mean() / 2 / len(second))


def rank_and_area(scores: Scores) -> tuple[float, float]:
    """Rank-1 and AUC of scores, searches × gallery, where each search's own subject stands in its own column."""
    own = np.arange(len(scores))
    found = searches(scores, own, [str(k) for k in own])
    return rank_rate(found, 1), auc(found.right, scores[~np.eye(len(scores), dtype=bool)])


def bootstrap(
    found: Searches,
    statistic: Callable[[Searches], ArrayLike],
    repeats: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[Scores, Scores]:
    """Between what bounds the statistic lies when people are drawn anew, with all their searches.

    Enrolled people and strangers are drawn apart, as many of each as there are. The gallery stays as it is.
    """
    drawn = [
        np.asarray(statistic(found.take(rows)), np.float64)
        for rows in drawn_anew(found, repeats, seed)
    ]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return np.asarray(low), np.asarray(high)


def drawn_anew(found: Searches, repeats: int, seed: int = 0) -> Iterator[NDArray[np.intp]]:
    """Rows of people drawn with all their searches: the same ones for two systems that searched for the same faces."""
    generator = np.random.default_rng(seed)
    groups = [_rows_by_person(found, found.mated), _rows_by_person(found, ~found.mated)]
    for _ in range(repeats):
        yield np.concatenate(
            [g[i] for g in groups if g for i in generator.integers(0, len(g), len(g))]
        )


def _rows_by_person(found: Searches, which: NDArray[np.bool_]) -> list[NDArray[np.intp]]:
    rows = np.flatnonzero(which)
    if not len(rows):
        return []
    order = rows[np.argsort(found.person[rows], kind="stable")]
    names = found.person[order]
    return np.split(order, np.flatnonzero(names[1:] != names[:-1]) + 1)


def _at_or_over(values: Scores, thresholds: ArrayLike) -> Scores:
    """How many; what is on no list (-inf) is at no threshold, however low."""
    listed = np.sort(values[values > -np.inf])
    return np.asarray(len(listed) - np.searchsorted(listed, thresholds, "left"), np.float64)


def _strangers(found: Searches) -> Scores:
    values = found.wrong[~found.mated]
    if not len(values):
        raise UsageError(
            "non-mated searches", "none", "search for people who are not in the gallery too"
        )
    return values


def _own(found: Searches) -> tuple[Scores, NDArray[np.intp]]:
    if not found.mated.any():
        raise UsageError("mated searches", "none", "search for people who are in the gallery too")
    return found.right[found.mated], found.rank[found.mated]
