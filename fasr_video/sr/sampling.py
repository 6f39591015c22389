"""Samplers by name: the kind, the number of steps, the start at pure noise or at the enlarged LR
face.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from fasr_video.errors import UsageError
from fasr_video.sr import samplers, sde
from fasr_video.sr.denoiser import Condition, Denoiser
from fasr_video.sr.samplers import Generators

# Signal-to-noise ratio of the Langevin corrector (the papers' r), as published.
SNR = 0.16


@dataclass(frozen=True, slots=True)
class Sampling:
    """For instance `dpmpp-10`, `pc-2000,r=0.3`, or `dpmpp-10@2` (start at the LR face plus noise
    2).
    """

    kind: str
    steps: int
    warm: float | None = None
    """Noise level of a start at the LR face; None starts at pure noise."""
    snr: float = SNR

    def __str__(self) -> str:
        warm = "" if self.warm is None else f"@{self.warm:g}"
        return f"{self.kind}-{self.steps}{warm}" + ("" if self.snr == SNR else f",r={self.snr:g}")

    @property
    def calls(self) -> int:
        """Number of network calls for one picture."""
        return self.steps * KINDS[self.kind].calls - (self.kind == "heun")

    @property
    def in_few_steps(self) -> bool:
        """Whether it follows a short list of noise levels, not a paper's process in thousands of
        steps.
        """
        return KINDS[self.kind].warm


@dataclass(frozen=True, slots=True)
class Kind:
    draw: Callable[[Denoiser, Condition, Sampling, Generators], Tensor] | None
    """None for kinds that follow a flow, not a denoiser."""
    calls: int
    """Number of network calls a step."""
    warm: bool = False
    """Whether it can start at the LR face."""
    corrected: bool = False
    """Whether it has Langevin steps."""


def parse(text: str, kinds: Collection[str] | None = None) -> Sampling:
    """Return the sampler of `KIND-STEPS`, `KIND-STEPS@SIGMA` or `KIND-STEPS,r=SNR`.

    Raise UsageError for a kind that is not among `kinds` (None: all kinds).
    """
    kinds = KINDS if kinds is None else kinds
    named, comma, snr = text.partition(",r=")
    kind, dash, rest = named.rpartition("-")
    steps, at, warm = rest.partition("@")
    try:
        sampling = Sampling(
            kind, int(steps), float(warm) if at else None, float(snr) if comma else SNR
        )
    except ValueError:
        dash = ""
    known = ", ".join(kinds)
    if not dash or sampling.kind not in kinds or not 1 <= sampling.steps <= 10_000:
        remedy = f"KIND is one of {known}; for instance {next(iter(kinds))}-10"
        raise UsageError(f"sampler {text}", "not KIND-STEPS", remedy)
    if sampling.warm is not None and not (KINDS[kind].warm and sampling.warm > 0):
        capable = ", ".join(k for k, v in KINDS.items() if v.warm)
        raise UsageError(
            f"sampler {text}",
            "it cannot start at that noise level",
            f"only {capable} can, at a level above 0",
        )
    if comma and not (KINDS[kind].corrected and 0 < sampling.snr <= 1):
        capable = ", ".join(k for k, v in KINDS.items() if v.corrected)
        raise UsageError(
            f"sampler {text}",
            "it has no Langevin steps with that r",
            f"only {capable} have any, with r up to 1",
        )
    return sampling


@torch.no_grad()
def draw(
    denoiser: Denoiser, condition: Condition, sampling: Sampling, generators: Generators
) -> Tensor:
    """Return N×3×S×S in [0, 1]: a picture for each row of the condition, from its own generator."""
    draw_kind = KINDS[sampling.kind].draw
    assert draw_kind is not None
    drawn = draw_kind(denoiser, condition, sampling, generators)
    if not bool(drawn.isfinite().all()):
        raise UsageError(
            f"sampler {sampling}",
            "it drew NaN or infinity",
            "use another sampler, or check the network",
        )
    return drawn.clamp(0, 1)


def _levels(denoiser: Denoiser, sampling: Sampling) -> Tensor:
    low, high = denoiser.sigma_min, denoiser.sigma_max
    if sampling.warm is not None and not low < sampling.warm <= high:
        raise UsageError(
            f"sampler {sampling}",
            f"its noise level is outside {low:g} to {high:g}",
            "give one within",
        )
    # EDM's schedule spends its few steps where faces take shape.
    return samplers.karras(sampling.steps, denoiser.sigma_min, sampling.warm or denoiser.sigma_max)


def _start(
    condition: Condition, sigma: float, sampling: Sampling, generators: Generators
) -> Tensor:
    if sampling.warm is not None:
        return samplers.warm_start(condition.lr.float(), sampling.warm, generators)
    return samplers.prior(condition.lr.shape[1:], sigma, generators, condition.lr.device)


def _by_levels(
    sampler: Callable[[sde.Denoiser, Tensor, Tensor, Generators], Tensor],
) -> Callable[..., Tensor]:
    def draw(
        denoiser: Denoiser, condition: Condition, sampling: Sampling, generators: Generators
    ) -> Tensor:
        x = _start(condition, denoiser.sigma_max, sampling, generators)
        return sampler(denoiser.conditioned(condition), x, _levels(denoiser, sampling), generators)

    return draw


def _by_process(
    sampler: Callable[..., Tensor],
    process: Callable[[Denoiser], sde.SDE],
    corrector: samplers.Corrector | None,
    corrections: int = 1,
) -> Callable[..., Tensor]:
    """Return reverse diffusion through an SDE, with Langevin steps or not.

    VP and subVP work on pictures in [−1, 1].
    """

    def draw(
        denoiser: Denoiser, condition: Condition, sampling: Sampling, generators: Generators
    ) -> Tensor:
        forward, call = process(denoiser), denoiser.conditioned(condition)
        centred = not isinstance(forward, sde.VE)
        x = samplers.prior(
            condition.lr.shape[1:], forward.prior_std, generators, condition.lr.device
        )
        x = sampler(
            samplers.centred(call) if centred else call,
            forward,
            x,
            samplers.times(sampling.steps),
            generators=generators,
            corrector=corrector,
            snr=sampling.snr,
            corrections=corrections,
        )
        return (x + 1) / 2 if centred else x

    return draw


def _ve(denoiser: Denoiser) -> sde.SDE:
    return sde.VE(denoiser.sigma_min, denoiser.sigma_max)


def _ddpm(
    denoiser: Denoiser, condition: Condition, sampling: Sampling, generators: Generators
) -> Tensor:
    x = samplers.prior(condition.lr.shape[1:], 1.0, generators, condition.lr.device)
    centred = samplers.centred(denoiser.conditioned(condition))
    return (samplers.ddpm(centred, x, sampling.steps, generators) + 1) / 2


REVERSE = samplers.reverse_diffusion
KINDS = {
    "dpmpp": Kind(_by_levels(lambda d, x, s, g: samplers.dpmpp_2m(d, x, s)), 1, warm=True),
    "dpmpp-sde": Kind(_by_levels(samplers.dpmpp_2m_sde), 1, warm=True),
    "heun": Kind(_by_levels(lambda d, x, s, g: samplers.heun(d, x, s)), 2, warm=True),
    "ddim": Kind(_by_levels(lambda d, x, s, g: samplers.ddim(d, x, s)), 1, warm=True),
    "pc": Kind(_by_process(REVERSE, _ve, samplers.langevin), 2, corrected=True),
    "pc-published": Kind(_by_process(REVERSE, _ve, samplers.langevin_published), 2, corrected=True),
    "ve": Kind(_by_process(REVERSE, _ve, samplers.langevin), 2, corrected=True),
    "vecs": Kind(_by_process(REVERSE, _ve, samplers.langevin, corrections=2), 3, corrected=True),
    "vp": Kind(_by_process(REVERSE, lambda d: sde.VP(), None), 1),
    "subvp": Kind(_by_process(REVERSE, lambda d: sde.SubVP(), None), 1),
    "em": Kind(_by_process(samplers.euler_maruyama, _ve, None), 1),
    "ddpm": Kind(_ddpm, 1),
    "euler": Kind(None, 1),
}
FLOWS = [name for name, kind in KINDS.items() if kind.draw is None]
DENOISERS = [name for name in KINDS if name not in FLOWS]


def sample_seed(seed: int, k: int) -> int:
    """Return the seed of sample k of a picture, which more samples do not change."""
    return (seed * 1_000_003 + k) % 2**63
