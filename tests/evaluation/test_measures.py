"""Measures of recognition and pictures against closed forms, and what they hold for any numbers."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, ttest_rel
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from fasr_video.errors import FasrError, ModelError, UsageError
from fasr_video.evaluation import open_set, significance, verification
from fasr_video.evaluation.perceptual import Inception, InceptionNet, Lpips, frechet
from fasr_video.evaluation.pictures import ms_ssim, psnr, ssim

EVEN = norm.ppf((np.arange(20_000) + 0.5) / 20_000)
SCORES = st.lists(st.integers(-5, 5).map(lambda i: i / 5), min_size=1, max_size=20)


# ------------------------------------------------------------------------------------- verification


@pytest.mark.parametrize("shift", [0.0, 1.0, 3.0])
def test_gaussian_scores_have_the_known_equal_error_rate(shift: float) -> None:
    assert verification.eer(EVEN + shift, EVEN) == pytest.approx(norm.cdf(-shift / 2), abs=2e-4)


def test_gaussian_scores_have_the_known_roc() -> None:
    _, fmr, hit = verification.roc(EVEN + 2, EVEN)
    for rate in (0.3, 0.1, 0.01):
        known = norm.sf(norm.isf(rate) - 2)
        assert np.interp(rate, fmr, hit) == pytest.approx(known, abs=1e-3)


@given(SCORES, SCORES)
def test_roc_rises_and_its_area_is_the_auc(own: list[float], others: list[float]) -> None:
    _, fmr, hit = verification.roc(own, others)
    assert (np.diff(fmr) >= 0).all() and (np.diff(hit) >= 0).all()
    assert (fmr[0], hit[0], fmr[-1], hit[-1]) == (0, 0, 1, 1)
    area = ((hit[1:] + hit[:-1]) / 2 * np.diff(fmr)).sum()
    assert area == pytest.approx(open_set.auc(own, others))


@given(SCORES, SCORES)
def test_the_equal_error_rate_depends_on_the_order_of_scores_alone(
    own: list[float], others: list[float]
) -> None:
    rate = verification.eer(own, others)
    assert 0 <= rate <= 1
    assert verification.eer(np.exp(own), np.exp(others)) == pytest.approx(rate)
    assert verification.eer(-np.array(others), -np.array(own)) == pytest.approx(rate)


@given(SCORES, st.floats(0, 1))
def test_the_lowest_threshold_allows_no_more_false_matches_than_given(
    others: list[float], fmr: float
) -> None:
    threshold = open_set.lowest_threshold(others, fmr)
    assert (np.array(others) >= threshold).mean() <= fmr + 1e-9


def test_separated_scores_have_no_errors() -> None:
    assert verification.eer([0.8, 0.9], [0.1, 0.2]) == 0
    assert verification.eer([0.1, 0.2], [0.8, 0.9]) == 1


def test_each_fold_uses_the_threshold_of_the_others() -> None:
    """In the second fold everything is 0.3 higher: the first one's threshold is wrong there."""
    scores = [0.2, 0.6, 0.2, 0.6, 0.5, 0.9, 0.5, 0.9]
    same, fold = [False, True] * 4, [0] * 4 + [1] * 4
    folds = verification.fold_accuracies(scores, same, fold)
    assert folds.thresholds == pytest.approx((0.7, 0.4))
    assert folds.accuracies == (0.5, 0.5)
    right = verification.fold_accuracies(scores[:4] * 2, same, fold)
    assert right.accuracies == (1.0, 1.0)


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=15))
def test_no_threshold_is_better_than_the_best_one(rows: list[tuple[int, bool]]) -> None:
    values, same = np.array([r[0] for r in rows], np.float64), np.array([r[1] for r in rows])
    threshold = verification._best_threshold(values, same)
    best = max(((values >= t) == same).mean() for t in [*(k / 2 for k in range(-8, 9)), math.inf])
    assert ((values >= threshold) == same).mean() == best


@pytest.mark.parametrize(
    "call",
    [
        lambda: verification.eer([], [0.1]),
        lambda: verification.roc([0.1], []),
        lambda: verification.eer([math.nan], [0.1]),
        lambda: verification.fold_accuracies([0.1, 0.2], [True, False], [0, 0]),
        lambda: significance.summarise([1.0, 2.0], ["a"]),
        lambda: frechet(np.zeros((1, 3)), np.zeros((5, 3))),
        lambda: ms_ssim(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)),
    ],
)
def test_impossible_measures_give_a_clear_error(call: object) -> None:
    with pytest.raises(UsageError) as caught:
        call()  # type: ignore[operator]
    assert ";" in str(caught.value)


def test_cmc_counts_own_subjects_up_to_each_rank() -> None:
    scores = np.array([[0.9, 0.1, 0.2], [0.5, 0.4, 0.3], [0.9, 0.8, 0.1], [0.1, 0.2, 0.3]])
    searches = open_set.searches(scores, np.array([0, 1, 2, -1]), ["a", "b", "c", "stranger"])
    assert open_set.cmc(searches, 3) == pytest.approx([1 / 3, 2 / 3, 1])


def test_a_search_of_everybody_has_rank_and_area() -> None:
    scores = np.array([[0.9, 0.1, 0.2], [0.5, 0.4, 0.3], [0.0, 0.1, 0.8]])
    assert open_set.rank_and_area(scores) == (pytest.approx(2 / 3), pytest.approx((6 + 5 + 6) / 18))


# ------------------------------------------------------------------------------------- significance


def test_the_t_test_agrees_with_scipy() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.normal(0.3, 1, 30), generator.normal(0, 1, 30)
    gain = significance.gain(a, b, [str(i) for i in range(30)])
    wanted = ttest_rel(a, b)
    assert (gain.t, gain.p) == (pytest.approx(wanted.statistic), pytest.approx(wanted.pvalue))
    assert gain.people == 30 and gain.mean.value == pytest.approx((a - b).mean())


def test_photographs_of_one_person_count_as_one() -> None:
    one_each = significance.gain([1.0, 2.0, 4.0], [0.0, 0.0, 0.0], ["a", "b", "c"])
    five_times = significance.gain([1.0, 2.0, 4.0] * 5, [0.0] * 15, ["a", "b", "c"] * 5)
    assert five_times.t == pytest.approx(one_each.t) and five_times.people == 3
    assert (five_times.mean.low, five_times.mean.high) == (one_each.mean.low, one_each.mean.high)


def test_bounds_of_a_mean_are_as_wide_as_the_normal_ones() -> None:
    values = EVEN[::50]
    mean = significance.summarise(values, [str(i) for i in range(len(values))])
    assert mean.std == pytest.approx(values.std(ddof=1))
    assert mean.high - mean.low == pytest.approx(
        2 * 1.96 * mean.std / math.sqrt(len(values)), rel=0.1
    )


def test_equal_scores_have_no_gain() -> None:
    same = significance.gain([1.0, 2.0], [1.0, 2.0], ["a", "b"])
    assert (same.t, same.p, same.mean.value) == (0, 1, 0)
    constant = significance.gain([2.0, 3.0], [1.0, 2.0], ["a", "b"])
    assert (constant.t, constant.p) == (math.inf, 0)
    assert math.isnan(significance.gain([2.0], [1.0], ["a"]).p)


def test_labels_split_by_value_and_numbers_by_thirds() -> None:
    assert significance.split(["b", "a", "b", ""]) == {"a": [1], "b": [0, 2], "unknown": [3]}
    assert list(significance.split(["16", "8", "16", "32"])) == ["8", "16", "32"]
    thirds = significance.split([str(i) for i in range(9)])
    assert list(thirds.values()) == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert list(thirds) == ["up to 2.67", "2.67 to 5.33", "over 5.33"]


@given(
    st.lists(
        st.one_of(st.just(""), st.integers(0, 30).map(str), st.sampled_from("ab")),
        min_size=1,
        max_size=30,
    )
)
def test_every_photograph_is_in_one_group(column: list[str]) -> None:
    assert sorted(i for rows in significance.split(column).values() for i in rows) == list(
        range(len(column))
    )


# ----------------------------------------------------------------------------------------- pictures


def test_psnr_and_ssim_agree_with_scikit_image() -> None:
    a = torch.rand(3, 3, 40, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    b = (
        a
        + 0.1
        * torch.randn(a.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ).clamp(0, 1)
    for i, (p, s) in enumerate(zip(psnr(a, b), ssim(a, b), strict=True)):
        first, second = (x[i].permute(1, 2, 0).numpy() for x in (a, b))
        assert float(p) == pytest.approx(peak_signal_noise_ratio(first, second, data_range=1))
        wanted = structural_similarity(
            *(first, second),
            channel_axis=2,
            data_range=1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        assert float(s) == pytest.approx(wanted, abs=1e-6)


def test_ms_ssim_of_a_darker_picture_is_its_brightness_term() -> None:
    """Flat pictures differ in brightness only, which counts at the coarsest scale alone."""
    a, b = torch.full((1, 3, 128, 128), 0.5), torch.full((1, 3, 128, 128), 0.25)
    brightness = (2 * 0.5 * 0.25 + 1e-4) / (0.5**2 + 0.25**2 + 1e-4)
    share = 0.2363 / (0.0448 + 0.2856 + 0.3001 + 0.2363)
    assert float(ms_ssim(a, b)[0]) == pytest.approx(brightness**share, rel=1e-5)
    larger = [x.expand(1, 3, 128, 128).repeat(1, 1, 2, 2) for x in (a, b)]
    assert float(ms_ssim(*larger)[0]) == pytest.approx(brightness**0.1333, rel=1e-5)


@given(st.integers(0, 2**31))
@settings(max_examples=10)
def test_ms_ssim_is_symmetric_and_one_for_equal_pictures(seed: int) -> None:
    a, b = torch.rand(2, 1, 3, 48, 48, generator=torch.Generator().manual_seed(seed))
    assert float(ms_ssim(a, a)[0]) == pytest.approx(1, abs=1e-5)
    assert float(ms_ssim(a, b)[0]) == pytest.approx(float(ms_ssim(b, a)[0]), abs=1e-6)
    assert 0 <= float(ms_ssim(a, b)[0]) < 1


# --------------------------------------------------------------------------------------- perceptual

ALEX = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}


def save_alexnet(folder: Path, linear: float = 1.0) -> tuple[Path, Path]:
    """Weights in the published layouts, made from a seed."""
    generator = torch.Generator().manual_seed(0)
    state = {"classifier.1.weight": torch.zeros(2, 2)}
    for k, (out, inputs, side) in ALEX.items():
        state[f"features.{k}.weight"] = (
            torch.randn(out, inputs, side, side, generator=generator) / side
        )
        state[f"features.{k}.bias"] = torch.zeros(out)
    torch.save(state, folder / "alexnet.pth")
    widths = [out for out, _, _ in ALEX.values()]
    weights = {
        f"lin{k}.model.1.weight": torch.full((1, w, 1, 1), linear) for k, w in enumerate(widths)
    }
    torch.save(weights, folder / "alex.pth")
    return folder / "alexnet.pth", folder / "alex.pth"


def test_lpips_is_zero_for_equal_pictures_and_grows_with_the_noise(tmp_path: Path) -> None:
    distance = Lpips(*save_alexnet(tmp_path))
    a = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    noise = torch.randn(a.shape, generator=torch.Generator().manual_seed(3))
    near, far = (float(distance(a, a + s * noise)[0]) for s in (0.01, 0.2))
    assert float(distance(a, a)[0]) == 0
    assert 0 < near < far


def test_lpips_of_unit_weights_is_the_distance_on_the_sphere(tmp_path: Path) -> None:
    """Features of unit length: Σ (a − b)² = 2 − 2 cos, at each layer and place; so 20 for five
    opposite layers.
    """
    distance = Lpips(*save_alexnet(tmp_path))
    a, b = torch.rand(2, 1, 3, 64, 64, generator=torch.Generator().manual_seed(4))
    pairs = zip(distance._layers(a), distance._layers(b), strict=True)
    wanted = sum(float((2 - 2 * (x * y).sum(1)).mean()) for x, y in pairs)
    assert float(distance(a, b)[0]) == pytest.approx(wanted, rel=1e-4)
    halved = Lpips(*save_alexnet(tmp_path, 0.5))
    assert float(halved(a, b)[0]) == pytest.approx(wanted / 2, rel=1e-4)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    backbone, linear = save_alexnet(tmp_path)
    for arguments in ((linear, linear), (backbone, backbone), (tmp_path / "none.pth", linear)):
        with pytest.raises(ModelError):
            Lpips(*arguments)
    with pytest.raises(FasrError, match=r"alex\.pth"):
        Inception(linear)


def test_inception_has_the_published_size_and_names() -> None:
    """21,785,568 weights before its classifier; the names are those of torchvision's layout."""
    with torch.device("meta"):
        net = InceptionNet()
    assert sum(p.numel() for p in net.parameters()) == 21_785_568
    names = set(net.state_dict())
    for name in ("Conv2d_4a_3x3.bn.running_var", "Mixed_6c.branch7x7dbl_5.conv.weight"):
        assert name in names
    assert net.Mixed_7b.get_parameter("branch3x3dbl_3b.conv.weight").shape == (384, 384, 3, 1)
    assert net.Mixed_7a.get_parameter("branch7x7x3_4.conv.weight").shape == (192, 192, 3, 3)


@pytest.mark.slow
def test_inception_takes_pictures_of_any_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(
        InceptionNet().state_dict() | {"fc.weight": torch.zeros(2, 2)}, tmp_path / "inception.pth"
    )
    features = Inception(tmp_path / "inception.pth")(torch.rand(2, 3, 128, 128))
    assert features.shape == (2, 2048) and np.isfinite(features).all()
    assert frechet(features, features) == pytest.approx(0, abs=1e-6)


def test_the_frechet_distance_of_gaussians_is_the_closed_form() -> None:
    """Independent directions: Σ (m₁ − m₂)² + (s₁ − s₂)²."""
    corners = np.array([[a, b, c] for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)]) * math.sqrt(
        7 / 8
    )
    a, b = corners * [1.0, 2.0, 3.0], corners * [2.0, 2.0, 0.5] + [1.0, 0.0, -2.0]
    assert frechet(a, b) == pytest.approx(1 + 4 + 1 + 0 + 6.25)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    assert frechet(a @ turn, b @ turn) == pytest.approx(12.25)
