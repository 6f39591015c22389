"""The posterior mean: of all faces that would give this LR face, the average.

No other picture has a smaller expected squared error. It shows what the LR face and the person's
feature tell, and where they tell nothing it is smooth: it invents least.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fasr_video.sr.networks.mean import MeanNet


class PosteriorMean(nn.Module):
    """(LR face brought up to size, its own side, feature) → the mean picture, in [0, 1] or nearly."""

    band: tuple[int, int]
    """Smallest and largest side of the LR faces that it was trained on."""
    embedder: str = ""
    """SHA-256 of the embedder whose features it was trained with; empty where that is not known."""

    def __init__(self, network: MeanNet) -> None:
        super().__init__()
        self.network = network
        self.side, self.feature_length = network.side, network.feature_length
        self.band = (self.side // 8, self.side // 8)

    def forward(self, lr: Tensor, side: Tensor, feature: Tensor) -> Tensor:
        seen = lr.contiguous(memory_format=torch.channels_last)
        return lr + self.network(seen, side, feature)  # type: ignore[no-any-return]
