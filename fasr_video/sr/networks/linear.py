"""A linear map from the LR cells around each place of an aligned face to what the face lacks there.

It has a closed form (ridge regression), made in a minute. A network begins where it ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fasr_video.sr.degradation import weights

STRENGTH = 3.0  # of the ridge: how much smaller weights are preferred
RANK = 64  # patterns that what is lacking in a cell is made of


class LinearMap(nn.Module):
    """(LR face brought up to size) → what it lacks, N×3×S×S, by the LR cells within `reach` of each."""

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
        """Return cells × N × inputs: the values around each LR cell, and a one."""
        low = reduce(lr, self.pixels) - 0.5
        around = F.unfold(low, self.width, padding=self.reach)
        return torch.cat((around, torch.ones_like(around[:, :1])), dim=1).permute(2, 0, 1)

    def fit(self, pairs: Iterator[tuple[Tensor, Tensor]]) -> None:
        """Set the weights by ridge regression on pairs of (clean, LR face brought up to size).

        The patterns are the principal components of what the full regression says is lacking.
        """
        cells, inputs, _ = self.weight.shape
        gram = torch.zeros(cells, inputs, inputs, dtype=torch.float64)
        cross = torch.zeros(cells, inputs, self.outputs, dtype=torch.float64)
        for clean, lr in pairs:
            x = self.inputs(lr)
            lacking = (
                F.pixel_unshuffle(clean - lr, self.side // self.pixels).flatten(2).permute(2, 0, 1)
            )
            gram += torch.bmm(x.mT, x)
            cross += torch.bmm(x.mT, lacking)
        ridge = STRENGTH * torch.eye(inputs, dtype=torch.float64)
        full = torch.linalg.solve(gram + ridge, cross)
        predicted = (full.mT @ gram @ full).sum(0)
        patterns = torch.linalg.eigh(predicted).eigenvectors[:, -RANK:]
        self.weight.copy_(full @ patterns)
        self.patterns.copy_(patterns.T)


def reduce(lr: Tensor, pixels: int) -> Tensor:
    """Return the face of so many pixels a side that would come nearest to this one if brought up."""
    down = _inverse(lr.shape[-1], pixels).to(lr)
    return down @ lr @ down.T


@lru_cache(maxsize=16)
def _inverse(side: int, pixels: int) -> Tensor:
    inverse: Tensor = torch.linalg.pinv(weights(pixels, side, "cubic"))
    return inverse
