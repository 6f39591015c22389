"""A linear map from the LR cells around each point of an aligned face to the missing detail there.

It has a closed form (ridge regression), computed in a minute. A network refines its result.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fasr_video.sr.degradation import weights

STRENGTH = 3.0  # of the ridge, which prefers small weights
RANK = 64  # number of patterns that the missing detail of a cell is a sum of


class LinearMap(nn.Module):
    """(enlarged LR face) → its missing detail, N×3×S×S, from LR cells within `reach`."""

    weight: Tensor
    """Cells × inputs × patterns."""
    patterns: Tensor
    """Patterns × outputs, the same for all cells."""

    def __init__(self, pixels: int, reach: int, side: int) -> None:
        super().__init__()
        self.pixels, self.reach, self.side = pixels, reach, side
        self.width = 2 * reach + 1
        inputs = 3 * self.width**2 + 1
        outputs = 3 * (side // pixels) ** 2
        self.outputs = outputs
        self.register_buffer("weight", torch.zeros(pixels**2, inputs, RANK))
        self.register_buffer("patterns", torch.zeros(RANK, outputs))

    def forward(self, lr: Tensor) -> Tensor:
        cells = torch.bmm(self.inputs(lr), self.weight) @ self.patterns
        cells = cells.permute(1, 2, 0)
        maps = cells.reshape(len(lr), -1, self.pixels, self.pixels)
        return F.pixel_shuffle(maps, self.side // self.pixels)

    def inputs(self, lr: Tensor) -> Tensor:
        """Return cells × N × inputs: the values around each LR cell, and a constant one."""
        low = reduce(lr, self.pixels) - 0.5
        around = F.unfold(low, self.width, padding=self.reach)
        return torch.cat((around, torch.ones_like(around[:, :1])), dim=1).permute(2, 0, 1)

    def fit(self, pairs: Iterator[tuple[Tensor, Tensor]]) -> None:
        """Set the weights by ridge regression on pairs of (clean face, enlarged LR face).

        The patterns are the principal components of the detail that the full regression predicts.
        """
        cells, inputs, _ = self.weight.shape
        gram = torch.zeros(cells, inputs, inputs, dtype=torch.float64)
        cross = torch.zeros(cells, inputs, self.outputs, dtype=torch.float64)
        for clean, lr in pairs:
            x = self.inputs(lr)
            detail = F.pixel_unshuffle(clean - lr, self.side // self.pixels)
            detail = detail.flatten(2).permute(2, 0, 1)
            gram += torch.bmm(x.mT, x)
            cross += torch.bmm(x.mT, detail)
        ridge = STRENGTH * torch.eye(inputs, dtype=torch.float64)
        full = torch.linalg.solve(gram + ridge, cross)
        predicted = (full.mT @ gram @ full).sum(0)
        patterns = torch.linalg.eigh(predicted).eigenvectors[:, -RANK:]
        self.weight.copy_(full @ patterns)
        self.patterns.copy_(patterns.T)


def reduce(lr: Tensor, pixels: int) -> Tensor:
    """Return the face of this side in pixels that is nearest to this one when enlarged."""
    down = _inverse(lr.shape[-1], pixels).to(lr)
    return down @ lr @ down.T


@lru_cache(maxsize=16)
def _inverse(side: int, pixels: int) -> Tensor:
    inverse: Tensor = torch.linalg.pinv(weights(pixels, side, "cubic"))
    return inverse
