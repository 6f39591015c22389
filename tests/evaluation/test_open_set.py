"""Open-set measures against curves known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from fasr_video.errors import UsageError
from fasr_video.evaluation import open_set
from fasr_video.evaluation.open_set import Searches

N = 100_000
SHIFT = 2.0


def make_searches(
    right: list[float], stranger: list[float], rank: list[int] | None = None
) -> Searches:
    """Mated searches whose nearest other subject is far away, then non-mated ones."""
    m, s = len(right), len(stranger)
    return Searches(
        np.array([*right, *[np.nan] * s]),
        np.array([*[-1.0] * m, *stranger], np.float64),
        np.array([*(rank or [1] * m), *[0] * s], np.intp),
        np.array([str(i) for i in range(m + s)], np.str_),
    )


@pytest.fixture(scope="module")
def gaussian() -> Searches:
    """Non-mated scores N(0, 1), mated ones N(2, 1), as evenly spread as can be."""
    even = norm.ppf((np.arange(N) + 0.5) / N)
    return make_searches((even + SHIFT).tolist(), even.tolist())


def test_gaussian_scores_have_the_known_trade_off(gaussian: Searches) -> None:
    for rate in open_set.FPIRS:
        expected = norm.cdf(norm.isf(rate) - SHIFT)
        assert open_set.fnir_at(gaussian, rate) == pytest.approx(expected, abs=3e-4)
        assert open_set.threshold_at(gaussian, rate) == pytest.approx(norm.isf(rate), abs=0.01)
    assert open_set.fpir(gaussian, [0.0, 1.0]) == pytest.approx(norm.sf([0.0, 1.0]), abs=1e-4)
    assert open_set.fnir(gaussian, [0.0, 1.0]) == pytest.approx(norm.cdf([-2.0, -1.0]), abs=1e-4)


def test_gaussian_scores_have_the_known_area(gaussian: Searches) -> None:
    own, others = gaussian.right[gaussian.mated], gaussian.wrong[~gaussian.mated]
    assert open_set.auc(own, others) == pytest.approx(norm.cdf(SHIFT / math.sqrt(2)), abs=1e-4)


def test_a_score_at_the_threshold_counts_as_over_it() -> None:
    searches = make_searches([0.5, 0.6], [0.5, 0.4])
    assert open_set.fpir(searches, 0.5) == 0.5
    assert open_set.fnir(searches, 0.5) == 0
    assert open_set.fnir(searches, 0.6) == 0.5


def test_a_threshold_never_exceeds_its_rate_even_with_ties() -> None:
    searches = make_searches([0.9, 0.5, 0.1], [0.5, 0.5, 0.5, 0.2])
    assert open_set.fpir(searches, open_set.threshold_at(searches, 0.5)) == 0
    assert open_set.fnir_at(searches, 0.5) == pytest.approx(2 / 3)
    assert open_set.threshold_at(searches, 1.0) == -np.inf
    assert open_set.fnir_at(searches, 1.0) == 0


def test_rates_that_too_few_searches_resolve_are_known() -> None:
    searches = make_searches([0.9], [0.1] * 100)
    assert [open_set.resolves(searches, r) for r in open_set.FPIRS] == [
        True,
        True,
        True,
        True,
        False,
    ]


def test_searches_are_made_from_all_scores() -> None:
    scores = np.array([[0.9, 0.2, 0.3], [0.8, 0.7, 0.75], [0.1, 0.2, 0.6]])
    searches = open_set.searches(scores, np.array([0, 1, -1]), ["a", "b", "stranger"])
    assert searches.right[:2].tolist() == [0.9, 0.7] and np.isnan(searches.right[2])
    assert searches.wrong.tolist() == [0.3, 0.8, 0.6]
    assert searches.rank.tolist() == [1, 3, 0]
    assert open_set.rank_rate(searches, 1) == 0.5
    assert open_set.rank_rate(searches, 10) == 1
    assert open_set.fnir(searches, 0.0, k=1) == 0.5
    assert open_set.fnir(searches, 0.0) == 0


def test_of_equal_scores_the_wrong_subject_comes_first() -> None:
    searches = open_set.searches(np.array([[0.5, 0.5, 0.5]]), np.array([1]), ["a"])
    assert searches.rank.tolist() == [3]


def test_a_gallery_of_one_has_no_wrong_subject() -> None:
    searches = open_set.searches(np.array([[0.5], [0.2]]), np.array([0, -1]), ["a", "b"])
    assert searches.wrong.tolist() == [-np.inf, 0.2]
    assert open_set.fnir_at(searches, 0.5) == 0


@given(st.data())
def test_det_falls_and_agrees_with_counting(data: st.DataObject) -> None:
    score = st.integers(-5, 5).map(lambda i: i / 5)
    right = data.draw(st.lists(score, min_size=1, max_size=20))
    stranger = data.draw(st.lists(score, min_size=1, max_size=20))
    levels, fpir, fnir = open_set.det(make_searches(right, stranger))
    assert (np.diff(fpir) <= 0).all() and (np.diff(fnir) >= 0).all()
    assert fpir[-1] == 0 and fnir[-1] == 1
    for t, false_positive, false_negative in zip(levels, fpir, fnir, strict=True):
        assert false_positive == pytest.approx(sum(s >= t for s in stranger) / len(stranger))
        assert false_negative == pytest.approx(sum(r < t for r in right) / len(right))
    assert open_set.auc(right, stranger) == pytest.approx(
        np.mean([(r > s) + (r == s) / 2 for r in right for s in stranger])
    )


def test_bands_are_as_wide_as_the_binomial_ones() -> None:
    searches = make_searches([1.0] * 80 + [0.0] * 320, [0.0] * 400)
    low, high = open_set.bootstrap(searches, lambda s: open_set.fnir(s, 0.5), repeats=2000)
    width = 1.96 * math.sqrt(0.8 * 0.2 / 400)
    assert low == pytest.approx(0.8 - width, abs=0.008)
    assert high == pytest.approx(0.8 + width, abs=0.008)


def test_searches_of_one_person_are_resampled_together() -> None:
    """Ten searches a person, all alike: the band is that of 40 people, not of 400 searches."""
    people = np.repeat(np.arange(40), 10)
    right = np.where(people < 20, 1.0, 0.0)
    searches = Searches(right, np.full(400, -1.0), np.ones(400, np.intp), people.astype(np.str_))
    low, high = open_set.bootstrap(searches, lambda s: open_set.fnir(s, 0.5), repeats=2000)
    width = 1.96 * math.sqrt(0.25 / 40)
    assert low == pytest.approx(0.5 - width, abs=0.03)
    assert high == pytest.approx(0.5 + width, abs=0.03)


def test_the_same_seed_gives_the_same_bands() -> None:
    searches = make_searches([0.1, 0.5, 0.9], [0.2, 0.3, 0.4])
    first, second = (
        open_set.bootstrap(searches, lambda s: open_set.fnir_at(s, 0.5), 50, seed=3)
        for _ in range(2)
    )
    assert first == second


@pytest.mark.parametrize(
    "call",
    [
        lambda: open_set.fpir(make_searches([0.5], []), 0.1),
        lambda: open_set.fnir(make_searches([], [0.5]), 0.1),
        lambda: open_set.rank_rate(make_searches([], [0.5]), 1),
        lambda: open_set.threshold_at(make_searches([0.5], []), 0.1),
        lambda: open_set.det(make_searches([], [])),
        lambda: open_set.auc([], [0.5]),
        lambda: open_set.auc([0.5], []),
        lambda: open_set.searches(np.zeros((0, 3)), np.zeros(0, np.intp), []),
        lambda: open_set.searches(np.zeros((3, 0)), np.full(3, -1), ["a", "b", "c"]),
        lambda: open_set.searches(np.zeros((3, 2)), np.full(2, -1), ["a", "b"]),
        lambda: make_searches([np.nan], [0.5]),
        lambda: make_searches([0.5], [np.nan]),
        lambda: make_searches([0.5], [0.5], rank=[1, 1]),
    ],
)
def test_impossible_measures_give_a_clear_error(call: object) -> None:
    with pytest.raises(UsageError, match=r"^[^\n]+: [^\n]+; [^\n]+$"):
        call()  # type: ignore[operator]
