"""Scores to likelihood ratios and thresholds: closed forms, scikit-learn as the oracle, and the
stored file.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from fasr_video.errors import InputError, IntegrityError, UsageError
from fasr_video.gallery import likelihood
from fasr_video.gallery.calibration import (
    TAIL_SCORES,
    Band,
    Calibration,
    Point,
    Report,
    Scale,
    ScoreMap,
    Scorer,
    Tail,
    scale_name,
)
from fasr_video.gallery.encoder import Kind
from fasr_video.gallery.likelihood import (
    cllr,
    fit_map,
    isotonic,
    least_cllr,
    logistic,
    supported_bounds,
)

SHIFT = 2.0
LN10 = math.log(10)


def even_normal_sample(n: int, mean: float = 0.0) -> np.ndarray:
    """A normal sample without chance in it."""
    return norm.ppf((np.arange(n) + 0.5) / n) + mean


# --- likelihood ratios


def test_the_ratio_of_two_gaussians_is_the_analytic_line() -> None:
    """N(2, 1) against N(0, 1): ln LR = 2·s - 2, whatever the numbers of either."""
    slopes, offset = logistic(
        even_normal_sample(2_000, SHIFT)[:, None], even_normal_sample(50_000)[:, None]
    )
    assert slopes[0] * LN10 == pytest.approx(SHIFT, abs=0.01)
    assert offset * LN10 == pytest.approx(-(SHIFT**2) / 2, abs=0.01)


def test_both_maps_find_the_known_ratio() -> None:
    same, different = even_normal_sample(3_000, SHIFT), even_normal_sample(30_000)
    at = np.linspace(-0.5, 2.5, 13)
    truth = (SHIFT * at - SHIFT**2 / 2) / LN10
    assert fit_map("logistic", same, different)(at) == pytest.approx(truth, abs=0.01)
    assert fit_map("isotonic", same, different)(at) == pytest.approx(truth, abs=0.12)


def test_logistic_regression_agrees_with_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    same, different = generator.normal(0.5, 0.2, (60, 3)), generator.normal(0.2, 0.1, (900, 3))
    slopes, offset = logistic(same, different)
    x = np.concatenate((same, different))
    spread = x.std(0)
    y = np.repeat([1, 0], [60, 900])
    oracle = LogisticRegression(C=1 / likelihood.PENALTY, tol=1e-12, max_iter=10_000)
    oracle.fit((x - x.mean(0)) / spread, y, sample_weight=np.where(y == 1, 1.0, 60 / 900))
    expected = oracle.coef_[0] / spread
    assert slopes * LN10 == pytest.approx(expected, rel=1e-4)
    assert offset * LN10 == pytest.approx(oracle.intercept_[0] - expected @ x.mean(0), rel=1e-4)


def test_classes_that_do_not_overlap_give_finite_weights() -> None:
    slopes, offset = logistic(np.full((20, 1), 0.9), np.full((500, 1), 0.1))
    assert np.isfinite(slopes).all() and math.isfinite(offset) and slopes[0] > 0


@given(st.data())
def test_isotonic_agrees_with_scikit_learn(data: st.DataObject) -> None:
    score = st.integers(0, 12).map(float)
    same = np.array(data.draw(st.lists(score, min_size=1, max_size=30)))
    different = np.array(data.draw(st.lists(score, min_size=1, max_size=30)))
    knots, values = isotonic(same, different)
    x = np.concatenate((same, different))
    y = np.repeat([1.0, 0.0], [len(same), len(different)])
    weight = np.where(y == 1, 1 / len(same), 1 / len(different))
    share = IsotonicRegression().fit(x, y, weight).predict(x)
    with np.errstate(divide="ignore"):
        expected = np.log10(share) - np.log10(1 - share)
    expected = expected.clip(-math.log10(len(same) + 1), math.log10(len(different) + 1))
    assert np.interp(x, knots, values) == pytest.approx(expected, abs=1e-9)


@given(
    st.sampled_from(["logistic", "isotonic"]),
    st.lists(st.floats(-1, 1), min_size=1, max_size=40),
    st.lists(st.floats(-1, 1), min_size=1, max_size=40),
)
@settings(deadline=None)
def test_maps_are_monotonic_and_stay_within_supported_bounds(
    form: likelihood.Form, same: list[float], different: list[float]
) -> None:
    ratios = fit_map(form, np.array(same), np.array(different))(np.linspace(-1.5, 1.5, 301))
    assert np.isfinite(ratios).all() and (np.diff(ratios) >= -1e-12).all()  # `interp` rounds
    assert ratios.max() <= math.log10(len(different) + 1) + 1e-9
    assert ratios.min() >= -math.log10(len(same) + 1) - 1e-9


def test_uninformative_scores_get_a_ratio_of_one() -> None:
    scores = even_normal_sample(200)
    for form in get_args(likelihood.Form):
        assert fit_map(form, scores, scores)([-3.0, 0.0, 3.0]) == pytest.approx([0, 0, 0])
        assert fit_map(form, scores - 5, scores)([-3.0, 0.0, 3.0]) == pytest.approx([0, 0, 0])


def test_bounds_of_a_perfect_system_allow_for_one_more_misleading_sample() -> None:
    """99 of one person all high, 999 of two all low. One false high: 1/1000 of the different, and
    one of 100 missed.
    """
    low, high = supported_bounds(np.full(99, 9.0), np.full(999, -9.0))
    assert high == pytest.approx(math.log10(0.99 * 1000))
    assert low == pytest.approx(-math.log10(0.999 * 100))


def test_cllr_is_the_one_computed_by_hand() -> None:
    assert cllr(np.zeros(3), np.zeros(5)) == pytest.approx(1)
    assert cllr(np.array([1.0]), np.array([-1.0])) == pytest.approx(math.log2(1.1))
    assert cllr(np.array([300.0]), np.array([-300.0])) == pytest.approx(0, abs=1e-12)
    assert cllr(np.array([-1.0]), np.array([1.0])) == pytest.approx(math.log2(11))


def test_calibration_brings_cllr_near_the_least_possible() -> None:
    generator = np.random.default_rng(1)
    fit = generator.normal(SHIFT, 1, 400), generator.normal(0, 1, 20_000)
    new = generator.normal(SHIFT, 1, 400), generator.normal(0, 1, 20_000)
    ratios = fit_map("logistic", *fit)
    least = least_cllr(*new)
    assert least <= cllr(ratios(new[0]), ratios(new[1])) < least + 0.02 < cllr(*new)


@pytest.mark.parametrize(
    "same, different", [([], [0.1]), ([0.1], []), ([math.nan], [0.1]), ([0.1], [math.inf])]
)
def test_scores_that_cannot_be_fitted_raise_a_usage_error(
    same: list[float], different: list[float]
) -> None:
    for call in (
        lambda: fit_map("isotonic", np.array(same), np.array(different)),
        lambda: cllr(*map(np.array, (same, different))),
    ):
        with pytest.raises(UsageError, match="give more people"):
            call()


# --- thresholds


def test_thresholds_within_the_data_are_quantiles() -> None:
    tail = Tail.of(even_normal_sample(100_000))
    for fpir, size in ((0.3, 10), (0.1, 100), (0.01, 50), (0.3, 1000)):
        threshold = tail.threshold(fpir, size)
        fmr = 1 - (1 - fpir) ** (1 / size)
        assert threshold.fmr == pytest.approx(fmr)
        assert not threshold.extrapolated
        assert threshold.score == pytest.approx(norm.isf(fmr), abs=0.02)


def test_an_exponential_tail_is_extrapolated_correctly() -> None:
    """Scores with P(≥ s) = e^(-10 s): the threshold at rate p is ln(1/p) / 10, seen or not."""
    n = 20_000
    tail = Tail.of(-np.log((np.arange(n) + 0.5) / n) / 10)
    for rate in (1e-5, 1e-7, 1e-9):
        threshold = tail.threshold_at(rate)
        assert threshold.extrapolated
        assert threshold.score == pytest.approx(-math.log(rate) / 10, rel=0.03)
    assert not tail.threshold_at(3 / n).extrapolated


def test_thresholds_for_the_worst_group_are_those_of_smaller_rates() -> None:
    """Where a group's false match rate is four times everybody's, a quarter of the rate is
    everybody's.
    """
    scores = np.random.default_rng(0).normal(size=20_000)
    everybody, group = Tail.of(scores), Tail.of(scores, 4)
    for rate in (0.5, 0.01, 1e-3, 1e-6):
        threshold, expected = group.threshold_at(rate), everybody.threshold_at(rate / 4)
        assert threshold.score == pytest.approx(expected.score)
        assert (threshold.fmr, threshold.extrapolated) == (rate, expected.extrapolated)


def test_a_lighter_tail_than_exponential_gets_a_cautious_threshold() -> None:
    """Normal scores fall faster: the extrapolated threshold lies above the true one."""
    tail = Tail.of(even_normal_sample(10_000))
    for rate in (1e-5, 1e-6, 1e-7):
        assert tail.threshold_at(rate).score > norm.isf(rate)


@given(st.lists(st.floats(-1, 1), min_size=6, max_size=400), st.data())
def test_a_larger_gallery_or_a_lower_rate_never_lowers_the_threshold(
    scores: list[float], data: st.DataObject
) -> None:
    tail = Tail.of(np.array(scores))
    rates = sorted(data.draw(st.lists(st.floats(1e-6, 0.99), min_size=2, max_size=2)))
    sizes = sorted(data.draw(st.lists(st.integers(1, 10**7), min_size=2, max_size=2)))
    assert tail.threshold(rates[0], sizes[0]).score >= tail.threshold(rates[1], sizes[0]).score
    assert tail.threshold(rates[0], sizes[1]).score >= tail.threshold(rates[0], sizes[0]).score


def test_no_more_comparisons_than_allowed_reach_a_measured_threshold() -> None:
    scores = np.random.default_rng(0).normal(size=5_000)
    tail = Tail.of(scores)
    for k in range(3, TAIL_SCORES):
        assert (scores >= tail.threshold_at(k / 5_000).score).sum() == k


def test_impossible_rates_and_sizes_raise_a_usage_error() -> None:
    tail = Tail.of(even_normal_sample(100))
    for fpir, size in ((0.0, 10), (1.0, 10), (0.1, 0)):
        with pytest.raises(UsageError, match="give others"):
            tail.threshold(fpir, size)
    with pytest.raises(UsageError, match="more people"):
        Tail.of(even_normal_sample(5))


# --- the stored object

FACTS: dict[str, object] = {
    "embedder": "e" * 64,
    "pooled_by": "c" * 64,
    "restorer": {"method": "fasr++", "network": "n" * 64, "samples": 2},
}


def make_calibration(restorer: bool = True) -> Calibration:
    same, different = even_normal_sample(100, SHIFT), even_normal_sample(9_900)
    point = Point(0.1, 1.5, False, 0.1, (0.05, 0.15), 0.3, (0.2, 0.4), 0.25, (0.2, 0.3), True)
    report = Report(100, 100, 100, ((1, 0.8), (10, 0.9)), 0.98, 0.9, 0.4, 0.35, (point,))

    def make_scale(*kinds: Kind) -> Scale:
        scorer = (
            Scorer(kinds, (1.0,), 0.0)
            if len(kinds) == 1
            else Scorer(kinds, tuple([2.0] * len(kinds)), -1.0)
        )
        ratios = fit_map(
            "logistic", scorer(dict.fromkeys(kinds, same)), scorer(dict.fromkeys(kinds, different))
        )
        tail = Tail.of(scorer(dict.fromkeys(kinds, different)))
        return Scale(scorer, ratios, (("logistic", 0.4), ("isotonic", 0.5)), tail, 3.0, 2.9, report)

    expected = [(Kind.BEST,), (Kind.POOLED,), (Kind.BEST, Kind.POOLED)]
    expected += [(Kind.SR,), tuple(Kind)] if restorer else []
    facts = FACTS if restorer else {**FACTS, "restorer": None}
    scales = {scale_name(w): make_scale(*w) for w in expected}
    return Calibration(
        facts, "200 people", "2026-01-01T00:00:00+00:00", 0, 200, 100, 200, (Band(12, 32, scales),)
    )


def test_a_saved_calibration_is_loaded_unchanged(tmp_path: Path) -> None:
    calibration = make_calibration()
    calibration.save(tmp_path / "c.json")
    loaded = Calibration.load(tmp_path / "c.json")
    assert loaded == calibration
    assert loaded.sha256 == calibration.sha256
    assert dataclasses.replace(calibration, data="others").sha256 != calibration.sha256


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    make_calibration().save(path)
    path.write_text(path.read_text().replace('"people": 200', '"people": 2000'))
    with pytest.raises(IntegrityError, match="changed since it was written"):
        Calibration.load(path)


@pytest.mark.parametrize(
    "text", ["", "no json", "[]", "{}", '{"format": "fasr-video/calibration/9"}', "\x00\xff"]
)
def test_a_file_that_is_not_a_calibration_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match="not a calibration"):
        Calibration.load(path)
    with pytest.raises(InputError, match="no such file"):
        Calibration.load(tmp_path / "nowhere.json")


def test_a_calibration_applies_only_to_its_models() -> None:
    calibration = make_calibration()
    assert calibration.mismatch(FACTS) is None
    assert calibration.mismatch({**FACTS, "restorer": None}) is None
    assert "embedder" in (calibration.mismatch({**FACTS, "embedder": "x" * 64}) or "")
    assert "pooled_by" in (calibration.mismatch({**FACTS, "pooled_by": "mean"}) or "")
    assert "restorer" in (calibration.mismatch({**FACTS, "restorer": {"method": "bicubic"}}) or "")
    assert "without super-resolution" in (make_calibration(restorer=False).mismatch(FACTS) or "")
    assert make_calibration(restorer=False).mismatch({**FACTS, "restorer": None}) is None


def test_a_loaded_calibration_still_applies_to_its_models(tmp_path: Path) -> None:
    make_calibration().save(tmp_path / "c.json")
    assert Calibration.load(tmp_path / "c.json").mismatch(FACTS) is None


@pytest.mark.parametrize(
    ("size", "says"),
    [
        (50, None),
        (100, None),
        (111, None),
        (112, "extrapolated"),
        (999, "extrapolated"),
        (1000, "do not rely"),
    ],
)
def test_a_gallery_larger_than_the_tested_one_gives_a_warning(size: int, says: str | None) -> None:
    ratios = make_calibration().warnings(size)
    assert (ratios == []) if says is None else (len(ratios) == 1 and says in ratios[0])


def test_one_and_several_scores_are_calibrated_alike() -> None:
    calibration = make_calibration().bands[0]
    cosines = {k: np.array([0.1, 0.5, 0.9]) for k in Kind}
    assert calibration.fused_score(cosines) == pytest.approx(6 * np.array([0.1, 0.5, 0.9]) - 1)
    many = calibration.fuse(cosines)
    assert many == pytest.approx(
        [float(calibration.fuse({k: c[i] for k, c in cosines.items()})) for i in range(3)]
    )
    assert calibration.score(Kind.BEST, 0.5) == pytest.approx(calibration.scales["best"].map(0.5))
    pair = {k: 0.5 for k in (Kind.POOLED, Kind.BEST)}
    assert calibration.fuse(pair) == pytest.approx(calibration.scales["best+pooled"].map(1.0))


def test_a_missing_scale_is_an_error() -> None:
    with pytest.raises(UsageError, match="it has no scale sr"):
        make_calibration(restorer=False).bands[0].score(Kind.SR, 0.5)


def test_the_file_is_plain_json(tmp_path: Path) -> None:
    make_calibration().save(tmp_path / "c.json")
    content = json.loads((tmp_path / "c.json").read_text())
    assert content["bands"][0]["scales"]["best+pooled+sr"]["scorer"]["kinds"] == [
        "best",
        "pooled",
        "sr",
    ]
    assert content["provenance"] == FACTS


def test_a_map_is_constant_outside_its_knots() -> None:
    ratios = ScoreMap("isotonic", (0.0, 1.0), (-1.0, 2.0))
    assert ratios([-9, 0, 0.5, 1, 9]) == pytest.approx([-1, -1, 0.5, 2, 2])
