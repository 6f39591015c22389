"""Posterior-mean rectified flow (PMRF, Ohayon et al. 2024): from the mean picture to a sharp one.

A straight flow leads from the mean, with a little noise added, to real faces. Its input is the
moving picture and nothing else of the LR face: so it moves the mean no further than to the nearest
sharp face, and its squared error is below that of a sample of the posterior.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fasr_video.sr.networks.flow import FlowNet
from fasr_video.sr.networks.sizes import FREQUENCIES, size_waves

# Standard deviation of the noise on the mean. The paper's is 0.1 for faces of 512 px; a network of
# this size leaves some of so much in the picture, as speckle.
NOISE = 0.05
CALLS = 8
SCALE = 0.12  # about the standard deviation of the velocity


class RectifiedFlow(nn.Module):
    """(moving picture, time in [0, 1], side of the LR face) → velocity of the picture."""

    band: tuple[int, int]
    """Smallest and largest side of the LR faces that it was trained on."""
    mean: str = ""
    """SHA-256 of the posterior mean that it was trained to start from."""

    def __init__(self, network: FlowNet, noise: float = NOISE) -> None:
        super().__init__()
        self.network, self.noise = network, noise
        self.side = network.side
        self.band = (self.side // 8, self.side // 8)

    def forward(self, picture: Tensor, time: Tensor, side: Tensor) -> Tensor:
        size = size_waves(side) / math.sqrt(FREQUENCIES)  # of length one, as features are
        out = self.network(4 * picture - 2, time, size)
        return SCALE * out.float()  # type: ignore[no-any-return]

    def start(self, mean: Tensor, noise: Tensor) -> Tensor:
        """Return the start of the flow: the mean plus scaled noise."""
        return mean + self.noise * noise

    @torch.no_grad()
    def draw(self, mean: Tensor, side: Tensor, noise: Tensor, calls: int = CALLS) -> Tensor:
        """Return the sharp pictures that the means flow to, in `calls` equal steps (Euler)."""
        picture = self.start(mean, noise)
        for i in range(calls):
            time = torch.full((len(mean),), i / calls, device=mean.device)
            picture = picture + self(picture, time, side) / calls
        return picture
