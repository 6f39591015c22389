"""SDEs against their closed forms, against each other, and against simulated paths."""

from __future__ import annotations

import math

import pytest
import torch

from fasr_video.sr.sde import SDE, VE, VP, SubVP, score
from tests.support.score_matching import matching_loss

SDES = [VE(0.01, 348.0), VE(0.001, 348.0), VP(), SubVP()]
T = torch.linspace(0.01, 1, 40, dtype=torch.float64)


@pytest.mark.parametrize("sde", SDES, ids=repr)
def test_mean_and_variance_solve_their_differential_equations(sde: SDE) -> None:
    """With f(x, t) = a(t) x: alpha' = a alpha and (std²)' = 2 a std² + g²."""
    h = 1e-6
    x = torch.ones(len(T), 1, 1, 1, dtype=torch.float64)
    a = sde.drift(x, T).flatten()
    alpha_slope = (sde.alpha(T + h) - sde.alpha(T - h)) / (2 * h)
    variance_slope = (sde.std(T + h) ** 2 - sde.std(T - h) ** 2) / (2 * h)
    assert torch.allclose(alpha_slope, a * sde.alpha(T), rtol=1e-5, atol=1e-8)
    assert torch.allclose(
        variance_slope, 2 * a * sde.std(T) ** 2 + sde.diffusion(T) ** 2, rtol=1e-5, atol=1e-8
    )


def test_ve_is_geometric_between_its_limits() -> None:
    sde = VE(0.01, 348.0)
    ends = sde.std(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
    assert torch.allclose(
        ends, torch.tensor([0.01, math.sqrt(0.01 * 348), 348.0], dtype=torch.float64)
    )
    assert sde.prior_std == 348.0


def test_vp_keeps_the_variance_of_unit_data_and_subvp_stays_below() -> None:
    total = VP().alpha(T) ** 2 + VP().std(T) ** 2
    assert torch.allclose(total, torch.ones_like(total))
    assert (SubVP().std(T) <= VP().std(T)).all()
    assert torch.allclose(SubVP().std(T), VP().std(T) ** 2)


@pytest.mark.parametrize("sde", SDES, ids=repr)
def test_simulated_paths_have_the_closed_form_mean_and_variance(sde: SDE) -> None:
    generator = torch.Generator().manual_seed(0)
    start, n, steps = 0.7, 20000, 1000
    zero = torch.zeros((), dtype=torch.float64)
    x = sde.alpha(zero) * start + sde.std(zero) * torch.randn(
        n, 1, 1, 1, generator=generator, dtype=torch.float64
    )
    dt = 1 / steps
    for i in range(steps):
        t = torch.full((n,), (i + 0.5) * dt, dtype=torch.float64)
        z = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        x = x + sde.drift(x, t) * dt + sde.diffusion(t).reshape(-1, 1, 1, 1) * math.sqrt(dt) * z
    one = torch.ones((), dtype=torch.float64)
    std = float(sde.std(one))
    assert abs(float(x.mean()) - float(sde.alpha(one)) * start) < 4 * std / math.sqrt(n)
    assert float(x.std()) == pytest.approx(std, rel=0.02)


@pytest.mark.parametrize("sde", SDES, ids=repr)
def test_score_of_gaussian_data_is_exact(sde: SDE) -> None:
    """For x(0) ~ N(m, s²): D(x, sigma) = (s² x + sigma² m) / (s² + sigma²) and p_t = N(alpha m,
    alpha² s² + std²).
    """
    m, s = 0.3, 0.5
    t = torch.tensor([0.05, 0.4, 1.0], dtype=torch.float64)
    x = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def denoiser(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        v = sigma.reshape(-1, 1, 1, 1) ** 2
        return (s**2 * x + v * m) / (s**2 + v)

    alpha, std = sde.alpha(t).reshape(-1, 1, 1, 1), sde.std(t).reshape(-1, 1, 1, 1)
    exact = -(x - alpha * m) / (alpha**2 * s**2 + std**2)
    assert torch.allclose(score(denoiser, sde, x, t), exact, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("sde", SDES, ids=repr)
def test_matching_loss_is_least_for_the_true_score(sde: SDE) -> None:
    generator = torch.Generator().manual_seed(2)
    clean = torch.full((4000, 1, 1, 1), 0.4, dtype=torch.float64)
    t = torch.rand(4000, generator=generator, dtype=torch.float64).clamp_min(0.01)
    noise = torch.randn(clean.shape, generator=generator, dtype=torch.float64)

    def loss(factor: float) -> float:
        def predicted(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            alpha, std = sde.alpha(t).reshape(-1, 1, 1, 1), sde.std(t).reshape(-1, 1, 1, 1)
            return -factor * (x - alpha * 0.4) / std**2

        return float(matching_loss(predicted, sde, clean, t, noise=noise).mean())

    assert loss(1.0) == pytest.approx(0.0, abs=1e-12)
    assert loss(0.9) > 1e-3 and loss(1.1) > 1e-3
