"""A classifier of attributes under noise, with what its file says about it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fasr_video.errors import UsageError
from fasr_video.sr.networks.attributes import AttributeNet

NAMES = ("male", "glasses", "no_beard")
"""In the published meaning: class 1 is male, with glasses, *without* a beard."""


class AttributeClassifier(nn.Module):
    """(N×3×side×side in [0, 1] plus noise, N sigmas) → N×2·attributes: logits of class 0 and 1 for each name."""

    def __init__(self, network: AttributeNet, names: tuple[str, ...], sigma_min: float, sigma_max: float) -> None:
        super().__init__()
        self.network, self.names, self.sigma_min, self.sigma_max = network, names, sigma_min, sigma_max

    @property
    def side(self) -> int:
        return self.network.side

    def forward(self, images: Tensor, sigma: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1:] != (3, self.side, self.side):
            reason = f"{tuple(images.shape)}, but the classifier is for N×3×{self.side}×{self.side}"
            raise UsageError("pictures", reason, "bring them to that size")
        return self.network(images, sigma)  # type: ignore[no-any-return]

    def log_probability(self, images: Tensor, sigma: Tensor, wanted: Mapping[str, int]) -> Tensor:
        """Σ log C(c | x, sigma) over the wanted classes by name, for each picture; differentiable in the pictures."""
        logs = F.log_softmax(self(images, sigma).float().unflatten(1, (-1, 2)), dim=2)
        return torch.stack([logs[:, self._row(name), c] for name, c in wanted.items()]).sum(0)

    def _row(self, name: str) -> int:
        if name not in self.names:
            raise UsageError(
                f"attribute {name}", f"the classifier knows {', '.join(self.names)}", "ask for one of them"
            )
        return self.names.index(name)
