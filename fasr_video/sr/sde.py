"""Forward SDEs dx = f(x, t) dt + g(t) dw on t in [0, 1] (Song et al., 2021).

Each has the closed form p(x(t) | x(0)) = N(alpha(t) · x(0), std(t)² I). A denoiser D(x, sigma) ≈
E[x(0)] is given x / alpha and sigma = std / alpha. So one network serves all, and the score is
(alpha · D − x) / std².
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

# D(x, sigma): N×C×H×W and N → N×C×H×W, the expected clean picture given x = clean + sigma · noise.
Denoiser = Callable[[Tensor, Tensor], Tensor]


class SDE(Protocol):
    """t is a tensor of any shape; all methods but `drift` return a tensor of that shape."""

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """Return f(x, t); t has shape N, or is a scalar."""
        ...

    def diffusion(self, t: Tensor) -> Tensor:
        """Return g(t)."""
        ...

    def alpha(self, t: Tensor) -> Tensor:
        """Return the factor of x(0) in the mean of x(t)."""
        ...

    def std(self, t: Tensor) -> Tensor:
        """Return the standard deviation of x(t) given x(0)."""
        ...

    @property
    def prior_std(self) -> float:
        """Standard deviation of the noise that sampling starts from, at t = 1."""
        ...


@dataclass(frozen=True, slots=True)
class VE:
    """Variance exploding: sigma(t) = sigma_min (sigma_max / sigma_min)^t, no drift. (SDE eq. 30)

    x(0) is the picture with noise sigma_min on it, as in the published code: std(t) = sigma(t), not
    sqrt(sigma(t)² − sigma_min²).
    """

    sigma_min: float = 0.001
    sigma_max: float = 348.0

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** t

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def diffusion(self, t: Tensor) -> Tensor:
        return self.sigma(t) * math.sqrt(2 * math.log(self.sigma_max / self.sigma_min))

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def std(self, t: Tensor) -> Tensor:
        return self.sigma(t)

    @property
    def prior_std(self) -> float:
        return self.sigma_max


@dataclass(frozen=True, slots=True)
class VP:
    """Variance preserving: dx = −½ beta(t) x dt + sqrt(beta(t)) dw, beta linear in t. (SDE eq. 32,
    33)
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def beta(self, t: Tensor) -> Tensor:
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def beta_integral(self, t: Tensor) -> Tensor:
        """Return the integral of beta from 0 to t."""
        return t * self.beta_min + 0.5 * t**2 * (self.beta_max - self.beta_min)

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return -0.5 * per_item(self.beta(t), x) * x

    def diffusion(self, t: Tensor) -> Tensor:
        return self.beta(t).sqrt()

    def alpha(self, t: Tensor) -> Tensor:
        return (-0.5 * self.beta_integral(t)).exp()

    def std(self, t: Tensor) -> Tensor:
        return (-torch.expm1(-self.beta_integral(t))).sqrt()

    @property
    def prior_std(self) -> float:
        return 1.0


@dataclass(frozen=True, slots=True)
class SubVP(VP):
    """Sub-VP: the drift of VP with less noise, g² = beta (1 − exp(−2∫beta)). (SDE eq. 35)"""

    def diffusion(self, t: Tensor) -> Tensor:
        return (-self.beta(t) * torch.expm1(-2 * self.beta_integral(t))).sqrt()

    def std(self, t: Tensor) -> Tensor:
        return -torch.expm1(-self.beta_integral(t))


def per_item(values: Tensor, like: Tensor) -> Tensor:
    """Return values of shape N (or a scalar) in a shape that multiplies N×C×H×W item by item."""
    return values.reshape(-1, *[1] * (like.ndim - 1)) if values.ndim else values


def score(denoiser: Denoiser, sde: SDE, x: Tensor, t: Tensor) -> Tensor:
    """Return ∇ log p_t(x) from a denoiser; t has shape N."""
    alpha, std = sde.alpha(t), sde.std(t)
    clean = denoiser(x / per_item(alpha, x), std / alpha)
    return (per_item(alpha, x) * clean - x) / per_item(std, x) ** 2
