"""The posterior mean: the average of all faces that would give this LR face.

No other picture has a smaller expected squared error. It is smooth wherever the LR face and the
person's feature leave the detail open, so it invents least.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fasr_video.sr.networks.mean import MeanNet


class PosteriorMean(nn.Module):
    """(enlarged LR face, its own side, feature) → the mean picture, about in [0, 1]."""

    band: tuple[int, int]
    """Smallest and largest side of the LR faces that it was trained on."""
    embedder: str = ""
    """SHA-256 of the embedder whose features it was trained with; empty if not known."""

    def __init__(self, network: MeanNet) -> None:
        super().__init__()
        self.network = network
        self.side, self.feature_length = network.side, network.feature_length
        self.band = (self.side // 8, self.side // 8)

    def forward(self, lr: Tensor, side: Tensor, feature: Tensor) -> Tensor:
        picture = lr.contiguous(memory_format=torch.channels_last)
        return lr + self.network(picture, side, feature)  # type: ignore[no-any-return]

    def symmetric(self, lr: Tensor, side: Tensor, feature: Tensor) -> Tensor:
        """Return the mean of the answers for the face and for its mirror image.

        Features are the same for both, so neither answer is better; their errors partly cancel.
        """
        mirrored = self(lr.flip(3), side, feature).flip(3)
        return (self(lr, side, feature) + mirrored) / 2  # type: ignore[no-any-return]
