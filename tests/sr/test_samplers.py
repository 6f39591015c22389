"""Samplers against exact answers: analytic denoisers for Gaussian and mixture data."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from fasr_video.sr import samplers
from fasr_video.sr.sde import SDE, VE, VP, SubVP

MEAN, SPREAD = 0.3, 0.5
PEAKS, PEAK_SPREAD = (-0.8, 0.7), 0.15
WEIGHTS = (0.3, 0.7)


def gaussian(x: Tensor, sigma: Tensor) -> Tensor:
    """D(x, sigma) for data N(MEAN, SPREAD²)."""
    v = sigma.reshape(-1, 1, 1, 1) ** 2
    return (SPREAD**2 * x + v * MEAN) / (SPREAD**2 + v)


def mixture(x: Tensor, sigma: Tensor) -> Tensor:
    """D(x, sigma) for data from two peaks, each pixel on its own."""
    v = sigma.reshape(-1, 1, 1, 1) ** 2
    total = PEAK_SPREAD**2 + v
    logits = torch.stack(
        [math.log(w) - (x - m) ** 2 / (2 * total) for w, m in zip(WEIGHTS, PEAKS, strict=True)]
    )
    share = logits.softmax(0)
    means = torch.stack([(PEAK_SPREAD**2 * x + v * m) / total for m in PEAKS])
    return (share * means).sum(0)


def exact_end(x: Tensor, sigma: float) -> Tensor:
    """Where the probability-flow ODE takes x from noise level sigma to 0, for Gaussian data."""
    return MEAN + (x - MEAN) * SPREAD / math.sqrt(SPREAD**2 + sigma**2)


def start_noise(count: int, sigma: float, seed: int = 0) -> tuple[Tensor, list[torch.Generator]]:
    generators = samplers.generators(range(seed, seed + count))
    return samplers.prior((1, 8, 8), sigma, generators).double(), generators


# A last noise level this small leaves the error of the schedule's end out of the measurement of the
# order.
ODE = {"ddim": (samplers.ddim, 1), "heun": (samplers.heun, 2), "dpmpp_2m": (samplers.dpmpp_2m, 2)}


@pytest.mark.parametrize("name", ODE)
def test_ode_samplers_converge_to_the_exact_end_at_their_order(name: str) -> None:
    sampler, order = ODE[name]
    x, _ = start_noise(4, 10.0)
    exact = exact_end(x, 10.0)
    errors = [
        float((sampler(gaussian, x, samplers.karras(n, 1e-4, 10.0)) - exact).abs().max())
        for n in (40, 80, 160)
    ]
    assert errors[2] < 0.03
    for coarse_schedule, fine in pairwise(errors):
        assert math.log2(coarse_schedule / fine) > order - 0.35


@pytest.mark.parametrize("schedule", [samplers.karras, samplers.geometric])
def test_schedules_fall_from_the_largest_level_to_zero(schedule: Callable[..., Tensor]) -> None:
    levels = schedule(20, 0.01, 50.0)
    assert len(levels) == 21
    assert (
        levels[0] == pytest.approx(50.0) and levels[-2] == pytest.approx(0.01) and levels[-1] == 0
    )
    assert (levels.diff() < 0).all()


Draw = Callable[[Callable[[Tensor, Tensor], Tensor], int], Tensor]


def by_sigmas(sampler: Callable[..., Tensor], steps: int, *, noisy: bool = False) -> Draw:
    def draw(denoiser: Callable[[Tensor, Tensor], Tensor], count: int) -> Tensor:
        x, generators = start_noise(count, 20.0)
        levels = samplers.karras(steps, 0.005, 20.0)
        return sampler(denoiser, x, levels, generators) if noisy else sampler(denoiser, x, levels)

    return draw


def by_times(
    sampler: Callable[..., Tensor],
    sde: SDE,
    steps: int,
    corrector: samplers.Corrector | None = None,
) -> Draw:
    def draw(denoiser: Callable[[Tensor, Tensor], Tensor], count: int) -> Tensor:
        x, generators = start_noise(count, sde.prior_std)
        # snr for 64 values: Langevin's step grows with the norm of the noise
        return sampler(
            denoiser,
            sde,
            x,
            samplers.times(steps, 1e-3),
            generators=generators,
            corrector=corrector,
            snr=0.05,
        )

    return draw


def by_ddpm(steps: int) -> Draw:
    def draw(denoiser: Callable[[Tensor, Tensor], Tensor], count: int) -> Tensor:
        x, generators = start_noise(count, 1.0)
        return samplers.ddpm(denoiser, x, steps, generators)

    return draw


VE_ = VE(0.005, 20.0)
SAMPLERS: dict[str, Draw] = {
    "ddim": by_sigmas(samplers.ddim, 200),
    "heun": by_sigmas(samplers.heun, 40),
    "dpmpp_2m": by_sigmas(samplers.dpmpp_2m, 60),
    "dpmpp_2m_sde": by_sigmas(samplers.dpmpp_2m_sde, 100, noisy=True),
    "euler_maruyama VE": by_times(samplers.euler_maruyama, VE_, 1000),
    "euler_maruyama VP": by_times(samplers.euler_maruyama, VP(), 1000),
    "euler_maruyama subVP": by_times(samplers.euler_maruyama, SubVP(), 1000),
    "reverse_diffusion VE": by_times(samplers.reverse_diffusion, VE_, 500),
    "reverse_diffusion VP": by_times(samplers.reverse_diffusion, VP(), 500),
    "reverse_diffusion subVP": by_times(samplers.reverse_diffusion, SubVP(), 500),
    "DDPM": by_ddpm(500),
    "PC VE": by_times(samplers.reverse_diffusion, VE_, 300, samplers.langevin),
    "PC VE as published": by_times(
        samplers.reverse_diffusion, VE_, 300, samplers.langevin_published
    ),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_mean_and_spread_of_gaussian_data_are_right_within_five_percent(name: str) -> None:
    drawn = SAMPLERS[name](gaussian, 100)
    assert float(drawn.mean()) == pytest.approx(MEAN, abs=0.05 * SPREAD)
    assert float(drawn.std()) == pytest.approx(SPREAD, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
def test_both_peaks_of_a_mixture_are_drawn_in_proportion(name: str) -> None:
    drawn = SAMPLERS[name](mixture, 100).flatten()
    left = drawn < 0
    assert float(left.double().mean()) == pytest.approx(WEIGHTS[0], abs=0.03)
    assert float(drawn[~left].mean()) == pytest.approx(PEAKS[1], abs=0.03)
    assert float(drawn[~left].std()) == pytest.approx(PEAK_SPREAD, rel=0.06)


ALONE = [n for n in SAMPLERS if n != "PC VE as published"]


@pytest.mark.parametrize("name", ALONE)
def test_a_picture_does_not_depend_on_its_batch(name: str) -> None:
    together, alone = SAMPLERS[name](mixture, 5), SAMPLERS[name](mixture, 1)
    assert torch.allclose(together[:1], alone, rtol=0, atol=1e-9)


def test_the_published_corrector_does_depend_on_the_batch() -> None:
    draw = SAMPLERS["PC VE as published"]
    assert not torch.allclose(draw(mixture, 5)[:1], draw(mixture, 1), atol=1e-3)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_same_seed_gives_the_same_picture(name: str) -> None:
    assert torch.equal(SAMPLERS[name](mixture, 2), SAMPLERS[name](mixture, 2))


def test_state_stays_float32_if_the_network_has_lower_precision() -> None:
    fine: list[bool] = []

    def coarse_schedule(x: Tensor, sigma: Tensor) -> Tensor:
        assert x.dtype == torch.float32
        fine.append(not torch.equal(x, x.bfloat16().float()))
        return gaussian(x.bfloat16(), sigma.bfloat16()).to(x.dtype)

    x, generators = start_noise(2, 10.0)
    samplers.dpmpp_2m_sde(coarse_schedule, x.float(), samplers.karras(20, 0.01, 10.0), generators)
    assert all(fine), "no step was rounded to what the network computes in"


def test_a_warm_start_at_a_high_level_draws_what_a_cold_one_draws() -> None:
    generators = samplers.generators(range(100))
    estimate = torch.full((100, 1, 8, 8), MEAN + 0.4, dtype=torch.float64)
    x = samplers.warm_start(estimate, 20.0, generators)
    drawn = samplers.heun(gaussian, x, samplers.karras(40, 0.005, 20.0))
    assert float(drawn.std()) == pytest.approx(SPREAD, rel=0.05)
    assert float(drawn.mean()) == pytest.approx(MEAN, abs=0.05 * SPREAD)


def test_a_centred_denoiser_is_the_same_one_for_pictures_from_minus_one_to_one() -> None:
    """For x = 2p − 1 with noise of 2 sigma, the best guess is 2 D(p, sigma) − 1."""
    p = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    sigma = torch.tensor([0.1, 1.0, 5.0]).double()
    centred = samplers.centred(mixture)(2 * p - 1, 2 * sigma)
    assert torch.allclose(centred, 2 * mixture(p, sigma) - 1)


@pytest.mark.skipif(
    not torch.cuda.is_available(),
    reason="needs a GPU: the noise is the CPU's, the sums are the GPU's",
)
@pytest.mark.parametrize("name", ["heun", "dpmpp_2m", "dpmpp_2m_sde"])
def test_a_gpu_draws_the_picture_that_a_cpu_draws(name: str) -> None:
    """To 1e-4 of the range in float32."""
    drawn = []
    for device in ("cpu", "cuda"):
        generators = samplers.generators(range(3))
        x = samplers.prior((1, 8, 8), 20.0, generators, device)
        levels = samplers.karras(20, 0.01, 20.0)
        sampler = getattr(samplers, name)
        drawn.append(
            (
                sampler(mixture, x, levels, generators)
                if "sde" in name
                else sampler(mixture, x, levels)
            ).cpu()
        )
    torch.testing.assert_close(drawn[0], drawn[1], rtol=0, atol=1e-4)
