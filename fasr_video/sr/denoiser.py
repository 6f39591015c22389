"""D(x, sigma, condition): the interface of all diffusion networks, in training and sampling."""

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
    """What a picture is drawn from; in both, zeros mean "not known"."""

    lr: Tensor
    """N×3×S×S in [0, 1]: the LR face, enlarged to the network's size."""
    feature: Tensor
    """N×length: unit vectors of the embedder that the network was trained with."""

    def __getitem__(self, rows: Tensor | slice) -> Condition:
        return Condition(self.lr[rows], self.feature[rows])


class Denoiser(nn.Module):
    """A diffusion network as a denoiser.

    Pictures are N×3×side×side, in [0, 1] before noise. The output is float32, whatever the network
    computes in.
    """

    side: int
    feature_length: int
    """0 when the network takes no feature."""
    network: nn.Module
    sigma_min: float
    sigma_max: float
    band: tuple[int, int]
    """Smallest and largest side of the LR faces that it was trained on."""
    band_known: bool = True
    """False if the file does not state the band; it is then the one of the papers."""
    embedder: str = ""
    """SHA-256 of the embedder whose features it was trained with; empty if not known."""
    mean: str = ""
    """SHA-256 of the posterior mean whose picture it takes in place of the LR face; empty where it
    takes the LR face itself."""
    precision: torch.dtype = torch.float32
    """The type that the network computes in, inside."""

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        raise NotImplementedError

    def weight(self, sigma: Tensor, condition: Condition) -> Tensor:
        """Return the factor of each item's |D − clean|² in training."""
        raise NotImplementedError

    def conditioned(self, condition: Condition) -> sde.Denoiser:
        """Return D(x, sigma) under one condition, as samplers take it."""
        self.check(condition)
        return lambda x, sigma: self(x, sigma, condition)

    def check(self, condition: Condition) -> None:
        """Raise UsageError where the LR picture or the feature does not fit the network."""
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
        """Return ∇ log p_sigma(x | lr, feature) = (D − x) / sigma²."""
        condition = Condition(lr, self.no_feature(lr) if feature is None else feature)
        self._check_size("picture", x)
        self.check(condition)
        clean: Tensor = self(x, sigma, condition)
        return (clean - x) / sde.per_item(sigma, x) ** 2

    def no_feature(self, like: Tensor) -> Tensor:
        """Return the features that mean "not known", for as many faces as `like` has."""
        return like.new_zeros(len(like), self.feature_length)

    def _inside(self, x: Tensor) -> AbstractContextManager[object]:
        if self.precision == torch.float32:
            return nullcontext()
        return torch.autocast(x.device.type, self.precision)


PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LENGTH_512 = " (the builtin embedder, AdaFace and ArcFace give 512)"


class ScoreDenoiser(Denoiser):
    """A published VE network that predicts the score: D = x + sigma² · s(x, lr, sigma, feature)."""

    def __init__(self, network: NCSNpp, sigma_min: float, sigma_max: float) -> None:
        super().__init__()
        self.network, self.sigma_min, self.sigma_max = network, sigma_min, sigma_max
        self.side, self.feature_length = network.side, network.feature_length
        self.band = (self.side // 8, self.side // 8)  # the papers' factor

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        return x + sde.per_item(sigma, x) ** 2 * self._score(x, sigma, condition)

    def weight(self, sigma: Tensor, condition: Condition) -> Tensor:
        """Return sigma⁻²: the papers' sigma² |s − target|² is |D − clean|² / sigma²."""
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
    """The compact network, which learns the detail that the LR face lacks.

    EDM preconditioning (Karras et al. 2022, eq. 7) around the LR picture in place of zero: D = lr +
    c_skip (x − lr) + c_out · net(c_in (x − lr), lr, ln(sigma)/4, feature), with sigma_data the
    spread of (clean − lr). Without an LR face (zeros) middle grey takes its place, and sigma_data
    is the spread of faces around that.
    """

    WITH_LR, WITHOUT_LR = 0.085, 0.28

    def __init__(
        self,
        network: CompactNet,
        sigma_min: float = 0.002,
        sigma_max: float = 30.0,
        spread: float = WITH_LR,
    ) -> None:
        super().__init__()
        self.network, self.sigma_min, self.sigma_max = network, sigma_min, sigma_max
        self.spread = spread
        self.side, self.feature_length = network.side, network.feature_length
        self.band = (self.side // 8, self.side // 8)

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        known = _known(condition.lr)
        base = torch.where(sde.per_item(known, x), condition.lr, 0.5)
        # Noise levels outside the training range count as the nearest one in it.
        noise = sigma.clamp(self.sigma_min, self.sigma_max).log() / 4

        def network(residual: Tensor) -> Tensor:
            scaled = residual.to(self._dtype()).contiguous(memory_format=torch.channels_last)
            with self._inside(x):
                out: Tensor = self.network(scaled, 4 * (base - 0.5), noise, condition.feature)
            return out

        return around(
            base, sde.per_item(self._spread(known), x), x, sde.per_item(sigma, x), network=network
        )

    def weight(self, sigma: Tensor, condition: Condition) -> Tensor:
        """Return EDM's weight: the network's own output counts the same at every noise level."""
        return even_weight(self._spread(_known(condition.lr)), sigma)

    def _spread(self, known: Tensor) -> Tensor:
        return torch.where(known, self.spread, self.WITHOUT_LR)

    def _dtype(self) -> torch.dtype:
        return next(self.network.parameters()).dtype


def around(
    base: Tensor, spread: Tensor, x: Tensor, sigma: Tensor, *, network: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return D of a network with EDM's preconditioning (Karras et al. 2022, eq. 7).

    `base` takes the place of zero, `spread` that of sigma_data.
    """
    total = (sigma**2 + spread**2).sqrt()
    residual = x - base
    out = network(residual / total)
    return torch.addcmul(
        base + (spread / total) ** 2 * residual, sigma * spread / total, out.to(x.dtype)
    )


def even_weight(spread: Tensor, sigma: Tensor) -> Tensor:
    """Return the weight of |D − clean|² at which the output of `around`'s network counts evenly.

    It then has weight 1 at every noise level.
    """
    return (sigma**2 + spread**2) / (sigma * spread) ** 2


def _known(lr: Tensor) -> Tensor:
    """Return N booleans: whether each item has an LR face."""
    return lr.flatten(1).any(dim=1)
