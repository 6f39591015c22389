"""A bias for each cell of a map: faces are aligned, so each cell shows its own part of the face."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CellBias(nn.Module):
    """Adds a learnt bias to each cell of a map; it starts at zero."""

    def __init__(self, width: int, cells: int) -> None:
        super().__init__()
        self.shape = (width, cells, cells)
        # Flat, since trainers do not decay the weights of vectors.
        self.bias = nn.Parameter(torch.zeros(width * cells**2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias.reshape(self.shape)
