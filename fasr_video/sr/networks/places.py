"""A bias for each cell of a map: faces are aligned, so a place has a meaning of its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Places(nn.Module):
    """What is where in an aligned face, added to a map; starts at zero."""

    def __init__(self, width: int, cells: int) -> None:
        super().__init__()
        self.shape = (width, cells, cells)
        self.bias = nn.Parameter(
            torch.zeros(width * cells**2)
        )  # flat, as a bias that trainers let alone

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias.reshape(self.shape)
