"""The size of an LR face as input of a network."""

from __future__ import annotations

import torch
from torch import Tensor

FREQUENCIES = 4
WAVES = 2 * FREQUENCIES
REFERENCE_SIDE = 16  # px; the logarithm of this LR size is zero


def size_waves(side: Tensor) -> Tensor:
    """Return N×WAVES numbers that encode LR sizes; similar sizes have similar numbers."""
    powers = 2.0 ** torch.arange(FREQUENCIES, device=side.device)
    angles = torch.log2(side / REFERENCE_SIDE)[:, None] * powers
    return torch.cat((angles.sin(), angles.cos()), dim=1)
