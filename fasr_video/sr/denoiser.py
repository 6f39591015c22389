"""D(x, sigma, condition): the one shape that every diffusion network has here, trained and sampled through it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fasr_video.errors import UsageError
from fasr_video.sr import sde
from fasr_video.sr.networks.compact import CompactNet
from fasr_video.sr.networks.ncsnpp import NCSNpp


@dataclass(frozen=True, slots=True)
class Condition:
    """What a picture is drawn from; zeros stand for 'not known' in both."""

    lr: Tensor
    """N×3×S×S in [0, 1]: the LR face brought up to size."""
    feature: Tensor
    """N×length: unit vectors of the embedder that the network was trained with."""

    def __getitem__(self, rows: Tensor | slice) -> Condition:
        return Condition(self.lr[rows], self.feature[rows])


class Denoiser(nn.Module):
    """Pictures are N×3×side×side in [0, 1] before noise; the answer is float32 whatever the network computes in."""

    side: int
    feature_length: int
    """0 when the network takes no feature."""
    network: nn.Module
    sigma_min: float
    sigma_max: float
    band: tuple[int, int]
    """Smallest and largest side of the LR faces that it was trained on."""
    band_known: bool = True
    """False where the file does not say, and the band is what the papers trained on."""
    embedder: str = ""
    """SHA-256 of the embedder whose features it was trained with; empty where that is not known."""
    precision: torch.dtype = torch.float32
    """bfloat16 computes the network's inside in that type."""

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        raise NotImplementedError

    def weight(self, sigma: Tensor, condition: Condition) -> Tensor:
        """What |D − clean|² is multiplied by in training, an item."""
        raise NotImplementedError

    def given(self, condition: Condition) -> sde.Denoiser:
        """D(x, sigma) under one condition, as the samplers take it."""
        self.check(condition)
        return lambda x, sigma: self(x, sigma, condition)

    def check(self, condition: Condition) -> None:
        self._check_size("LR picture", condition.lr)
        length = condition.feature.shape[1]
        if length != self.feature_length:
            note = LENGTH_512 if self.feature_length == 512 else ""
            wanted = f"the network takes {self.feature_length or 'none'}{note}"
            raise UsageError(
                "face feature", f"length {length}, but {wanted}", "use the embedder that fits"
            )

    def _check_size(self, name: str, picture: Tensor) -> None:
        if picture.shape[1:] != (3, self.side, self.side):
            size = "×".join(map(str, picture.shape[1:]))
            raise UsageError(
                name, f"it is {size}", f"give 3×{self.side}×{self.side}, as the network was trained"
            )

    @torch.no_grad()
    def score(self, x: Tensor, lr: Tensor, sigma: Tensor, feature: Tensor | None = None) -> Tensor:
        """∇ log p_sigma(x | lr, feature) = (D − x) / sigma²."""
        condition = Condition(lr, self.no_feature(lr) if feature is None else feature)
        self._check_size("picture", x)
        self.check(condition)
        return (self(x, sigma, condition) - x) / sde.per_item(sigma, x) ** 2  # type: ignore[no-any-return]

    def no_feature(self, like: Tensor) -> Tensor:
        return like.new_zeros(len(like), self.feature_length)

    def _inside(self, x: Tensor) -> AbstractContextManager[object]:
        return (
            nullcontext()
            if self.precision == torch.float32
            else torch.autocast(x.device.type, self.precision)
        )


PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LENGTH_512 = " (the builtin embedder, AdaFace and ArcFace give 512)"


class ScoreDenoiser(Denoiser):
    """A published VE network that tells the score: D = x + sigma² · s(x, lr, sigma, feature)."""

    def __init__(self, network: NCSNpp, sigma_min: float, sigma_max: float) -> None:
        super().__init__()
        self.network, self.sigma_min, self.sigma_max = network, sigma_min, sigma_max
        self.side, self.feature_length = network.side, network.feature_length
        self.band = (self.side // 8, self.side // 8)  # the papers' factor

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        return x + sde.per_item(sigma, x) ** 2 * self._score(x, sigma, condition)

    def weight(self, sigma: Tensor, condition: Condition) -> Tensor:
        """sigma² |s − target|², the papers' weighting, is |D − clean|² / sigma²."""
        return sigma**-2

    @torch.no_grad()
    def score(self, x: Tensor, lr: Tensor, sigma: Tensor, feature: Tensor | None = None) -> Tensor:
        condition = Condition(lr, self.no_feature(lr) if feature is None else feature)
        self._check_size("picture", x)
        self.check(condition)
        return self._score(x, sigma, condition)

    def _score(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        with self._inside(x):
            feature = condition.feature if self.feature_length else None
            return self.network(x, condition.lr, sigma, feature)  # type: ignore[no-any-return]


class ResidualDenoiser(Denoiser):
    """The compact network, which learns what the LR face lacks.

    EDM preconditioning (Karras et al. 2022, eq. 7) around the LR picture in place of zero: D = lr + c_skip (x − lr) +
    c_out · net(c_in (x − lr), lr, ln(sigma)/4, feature), with sigma_data the spread of (clean − lr). Without an LR face
    (zeros) the middle grey stands in its place and sigma_data is the spread of faces around that.
    """

    WITH_LR, WITHOUT_LR = 0.085, 0.28

    def __init__(
        self, network: CompactNet, sigma_min: float = 0.002, sigma_max: float = 30.0
    ) -> None:
        super().__init__()
        self.network, self.sigma_min, self.sigma_max = network, sigma_min, sigma_max
        self.side, self.feature_length = network.side, network.feature_length
        self.band = (self.side // 8, self.side // 8)

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        known = _known(condition.lr)
        base = torch.where(sde.per_item(known, x), condition.lr, 0.5)
        noise = (
            sigma.clamp(self.sigma_min, self.sigma_max).log() / 4
        )  # beyond its training all is noise alike

        def network(residual: Tensor) -> Tensor:
            seen = residual.to(self._dtype()).contiguous(memory_format=torch.channels_last)
            with self._inside(x):
                return self.network(seen, 4 * (base - 0.5), noise, condition.feature)  # type: ignore[no-any-return]

        return around(
            base, sde.per_item(self._spread(known), x), x, sde.per_item(sigma, x), network
        )

    def weight(self, sigma: Tensor, condition: Condition) -> Tensor:
        """EDM's: the network's own output is matched with weight 1 at every noise level."""
        return even_weight(self._spread(_known(condition.lr)), sigma)

    def _spread(self, known: Tensor) -> Tensor:
        return torch.where(known, self.WITH_LR, self.WITHOUT_LR)

    def _dtype(self) -> torch.dtype:
        return next(self.network.parameters()).dtype


def around(
    base: Tensor, spread: Tensor, x: Tensor, sigma: Tensor, network: Callable[[Tensor], Tensor]
) -> Tensor:
    """EDM's preconditioning (Karras et al. 2022, eq. 7) with `base` for zero and `spread` for sigma_data."""
    total = (sigma**2 + spread**2).sqrt()
    residual = x - base
    out = network(residual / total)
    return torch.addcmul(
        base + (spread / total) ** 2 * residual, sigma * spread / total, out.to(x.dtype)
    )


def even_weight(spread: Tensor, sigma: Tensor) -> Tensor:
    """By which |D − clean|² of `around` matches the network's own output with weight 1 at every noise level."""
    return (sigma**2 + spread**2) / (sigma * spread) ** 2


def _known(lr: Tensor) -> Tensor:
    """N booleans: whether there is an LR face at all."""
    return lr.flatten(1).any(dim=1)
