"""The size of an LR face, as networks are told it."""

from __future__ import annotations

import torch
from torch import Tensor

FREQUENCIES = 4
WAVES = 2 * FREQUENCIES
REFERENCE_SIDE = 16  # px, the LR size whose logarithm is zero


def size_waves(side: Tensor) -> Tensor:
    """Return N×WAVES numbers that tell an LR size, close ones for close sizes."""
    powers = 2.0 ** torch.arange(FREQUENCIES, device=side.device)
    angles = torch.log2(side / REFERENCE_SIDE)[:, None] * powers
    return torch.cat((angles.sin(), angles.cos()), dim=1)
