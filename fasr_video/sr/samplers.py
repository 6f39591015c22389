"""Samplers: pure functions over a denoiser D(x, sigma), written in the symbols of their papers.

There are two families. The *reverse-SDE* samplers follow an SDE of `sr/sde.py` back through times t
(as in the papers, with thousands of calls). The *sigma* samplers solve the same VE process over a
list of noise levels (tens of calls): dx/dsigma = (x − D(x, sigma)) / sigma, the probability-flow
ODE (Karras et al. 2022, eq. 1), or SDEs with the same marginals.

State is float32 or better, whatever the network computes in. Each item has its own noise generator,
so a picture depends on its own seed and never on the rest of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from fasr_video.sr.sde import SDE, Denoiser, per_item, score

Generators = Sequence[torch.Generator]


class Corrector(Protocol):
    """A step that brings x closer to the distribution at time t."""

    def __call__(
        self,
        denoiser: Denoiser,
        sde: SDE,
        x: Tensor,
        t: Tensor,
        *,
        generators: Generators,
        snr: float,
    ) -> Tensor:
        """Return x after the step."""
        ...


# -------------------------------------------------------------------------------------------- noise


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """Return one generator an item, on the CPU: a seed gives the same noise on every device."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def noise_like(x: Tensor, generators: Generators) -> Tensor:
    """Return standard normal noise, each item from its own generator."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return torch.stack([torch.randn(x.shape[1:], generator=g, dtype=dtype) for g in generators]).to(
        x
    )


def prior(
    shape: Sequence[int], std: float, generators: Generators, device: torch.device | str = "cpu"
) -> Tensor:
    """Return the noise that sampling starts from, N×shape."""
    like = torch.empty(len(generators), *shape, device=device)
    return noise_like(like, generators) * std


def warm_start(estimate: Tensor, sigma: float, generators: Generators) -> Tensor:
    """Return a later start for sampling: an estimate (the enlarged LR0) with noise sigma on it."""
    return estimate + sigma * noise_like(estimate, generators)


# ---------------------------------------------------------------------------------------- schedules


def geometric(n: int, sigma_min: float, sigma_max: float) -> Tensor:
    """Return n noise levels from sigma_max down to sigma_min in equal ratios, then 0."""
    high, low = math.log10(sigma_max), math.log10(sigma_min)
    return torch.cat((torch.logspace(high, low, n, dtype=torch.float64), _ZERO))


def karras(n: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Tensor:
    """Return n noise levels, denser towards sigma_min, then 0. (EDM eq. 5)"""
    ramp = torch.linspace(0, 1, n, dtype=torch.float64)
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return torch.cat(((high + ramp * (low - high)) ** rho, _ZERO))


_ZERO = torch.zeros(1, dtype=torch.float64)


# ----------------------------------------------------------------------------- reverse-SDE samplers


def times(n: int, end: float = 1e-5) -> Tensor:
    """Return n times from 1 down to `end` in equal steps, as published."""
    return torch.linspace(1.0, end, n, dtype=torch.float64)


def euler_maruyama(
    denoiser: Denoiser,
    sde: SDE,
    x: Tensor,
    times: Tensor,
    *,
    generators: Generators,
    corrector: Corrector | None = None,
    snr: float = 0.16,
    corrections: int = 1,
) -> Tensor:
    """Sample by plain steps of 1/n of the reverse SDE dx = [f − g² s] dt + g dw̄. (SDE eq. 6)

    The last step adds no noise.
    """
    dt = 1 / len(times)
    for i, now in enumerate(times):
        t = _all(now, x)
        if corrector is not None:
            for _ in range(corrections):
                x = corrector(denoiser, sde, x, t, generators=generators, snr=snr)
        g = per_item(sde.diffusion(t), x)
        x = x - (sde.drift(x, t) - g**2 * score(denoiser, sde, x, t)) * dt
        if i + 1 < len(times):
            x = x + g * math.sqrt(dt) * noise_like(x, generators)
    return x


def reverse_diffusion(
    denoiser: Denoiser,
    sde: SDE,
    x: Tensor,
    times: Tensor,
    *,
    generators: Generators,
    corrector: Corrector | None = None,
    snr: float = 0.16,
    corrections: int = 1,
) -> Tensor:
    """Sample by the reverse of the discretised forward process. (SDE eq. 46)

    With a corrector before each step, this is PC sampling.

    From t' to the later t the forward process scales by a = alpha / alpha' and adds variance b² =
    std² − a² std'². Its reverse is x' = (x + b² s) / a + (b / a) z. For VE that is x + (sigma² −
    sigma'²) s + sqrt(sigma² − sigma'²) z, the published step; the last one goes to the clean
    picture (alpha' = 1, std' = 0), without noise.
    """
    for i, now in enumerate(times):
        t = _all(now, x)
        if corrector is not None:
            for _ in range(corrections):
                x = corrector(denoiser, sde, x, t, generators=generators, snr=snr)
        last = i + 1 == len(times)
        alpha, std = sde.alpha(t), sde.std(t)
        before = _all(times[i + 1], x) if not last else t
        a = alpha if last else alpha / sde.alpha(before)
        b2 = std**2 if last else (std**2 - a**2 * sde.std(before) ** 2).clamp_min(0)
        x = (x + per_item(b2, x) * score(denoiser, sde, x, t)) / per_item(a, x)
        if not last:
            x = x + per_item(b2.sqrt() / a, x) * noise_like(x, generators)
    return x


def ddpm(denoiser: Denoiser, x: Tensor, n: int, generators: Generators) -> Tensor:
    """Sample as a DDPM of n steps, the way of SR3. (Ho et al. 2020, eq. 7 and algorithm 2)

    Betas are linear from 0.1/n to 20/n, the discrete twin of the VP SDE (1e-4 to 0.02 at the
    published n = 1000).
    """
    beta = torch.linspace(0.1 / n, min(20.0 / n, 0.999), n, dtype=torch.float64)
    alpha_bars = torch.cumprod(1 - beta, 0)
    for i in reversed(range(n)):
        bar = alpha_bars[i]
        before = alpha_bars[i - 1] if i else torch.ones_like(bar)
        clean = denoiser(x / float(bar.sqrt()), _all(((1 - bar) / bar).sqrt(), x))
        mean = float(before.sqrt() * beta[i] / (1 - bar)) * clean
        x = mean + float((1 - beta[i]).sqrt() * (1 - before) / (1 - bar)) * x
        if i:
            x = x + float((beta[i] * (1 - before) / (1 - bar)).sqrt()) * noise_like(x, generators)
    return x


def centred(denoiser: Denoiser) -> Denoiser:
    """Return the same denoiser for pictures in [−1, 1], the range of VP, subVP and DDPM."""
    return lambda x, sigma: 2 * denoiser((x + 1) / 2, sigma / 2) - 1


def langevin(
    denoiser: Denoiser, sde: SDE, x: Tensor, t: Tensor, *, generators: Generators, snr: float
) -> Tensor:
    """Take a step of Langevin dynamics; each item's own norms set its size. (SDE algorithm 4)"""
    s, z = score(denoiser, sde, x, t), noise_like(x, generators)
    return _langevin_step(sde, x, t, s, z=z, snr=snr, ratio=_norms(z) / _norms(s))


def langevin_published(
    denoiser: Denoiser, sde: SDE, x: Tensor, t: Tensor, *, generators: Generators, snr: float
) -> Tensor:
    """Take the same step with norms averaged over the batch, as the published code does.

    A picture then depends on its batch.
    """
    s, z = score(denoiser, sde, x, t), noise_like(x, generators)
    ratio = _norms(z).mean() / _norms(s).mean()
    return _langevin_step(sde, x, t, s, z=z, snr=snr, ratio=ratio.expand(len(x)))


def _langevin_step(
    sde: SDE, x: Tensor, t: Tensor, s: Tensor, *, z: Tensor, snr: float, ratio: Tensor
) -> Tensor:
    size: Tensor = 2 * sde.alpha(t).to(ratio) ** 2 * (snr * ratio) ** 2
    step = per_item(size, x)
    return x + step * s + (2 * step).sqrt() * z


def _norms(x: Tensor) -> Tensor:
    return x.flatten(1).square().sum(1).sqrt()


def _all(value: Tensor, x: Tensor) -> Tensor:
    """Return one value for every item of the batch."""
    return value.to(x).expand(len(x))


# ----------------------------------------------------------------------------------- sigma samplers


def ddim(denoiser: Denoiser, x: Tensor, sigmas: Tensor) -> Tensor:
    """Sample by Euler steps of the probability-flow ODE: x' = D + (sigma'/sigma)(x − D).

    (Song, Meng and Ermon 2021, eta = 0)
    """
    for now, after in pairwise(sigmas):
        clean = denoiser(x, _all(now, x))
        x = clean + float(after / now) * (x - clean)
    return x


def heun(denoiser: Denoiser, x: Tensor, sigmas: Tensor) -> Tensor:
    """Sample by second-order Heun steps of the ODE. (EDM algorithm 1)"""
    for now, after in pairwise(sigmas):
        slope = (x - denoiser(x, _all(now, x))) / float(now)
        euler = x + float(after - now) * slope
        if after > 0:
            slope_after = (euler - denoiser(euler, _all(after, x))) / float(after)
            euler = x + float(after - now) * (slope + slope_after) / 2
        x = euler
    return x


def dpmpp_2m(denoiser: Denoiser, x: Tensor, sigmas: Tensor) -> Tensor:
    """Sample by DPM-Solver++(2M), with one call a step. (Lu et al. 2022, algorithm 2)"""
    return dpmpp_2m_sde(denoiser, x, sigmas, (), eta=0.0)


def dpmpp_2m_sde(
    denoiser: Denoiser, x: Tensor, sigmas: Tensor, generators: Generators, *, eta: float = 1.0
) -> Tensor:
    """Sample by the SDE form of DPM-Solver++(2M); with eta = 0, by its ODE form.

    The SDE form adds fresh noise in each step and has the same marginals.

    With lambda = −ln sigma, h = lambda' − lambda, and D̄ the last two estimates extrapolated to the
    middle of the step: x' = (sigma'/sigma) e^(−eta h) x − expm1(−(1 + eta) h) D̄ + sigma'
    sqrt(−expm1(−2 eta h)) z
    """
    before: Tensor | None = None
    h_before = 0.0
    for now, after in pairwise(sigmas):
        clean = denoiser(x, _all(now, x))
        if after == 0:
            return clean
        h = float(torch.log(now / after))
        guess = clean if before is None else clean + (clean - before) * (h / (2 * h_before))
        x = float(after / now) * math.exp(-eta * h) * x - math.expm1(-(1 + eta) * h) * guess
        if eta > 0:
            x = x + float(after) * math.sqrt(-math.expm1(-2 * eta * h)) * noise_like(x, generators)
        before, h_before = clean, h
    return x
