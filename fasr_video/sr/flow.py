"""Posterior-mean rectified flow (PMRF, Ohayon et al. 2024): from the mean picture to a sharp one.

A straight flow leads from the mean, with a little noise added, to real faces. Its input is the
moving picture and nothing else of the LR face: so it moves the mean no further than to the nearest
sharp face, and its squared error is below that of a sample of the posterior.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fasr_video.sr.networks.compact import CompactNet
from fasr_video.sr.networks.sizes import FREQUENCIES, WAVES, size_waves

NOISE = 0.1  # standard deviation of the noise on the mean; the paper's value for faces
CALLS = 8
SCALE = 0.12  # about the standard deviation of the velocity
TIME_SCALE = 0.25  # the network's time input is a small number, as noise levels are


class RectifiedFlow(nn.Module):
    """(moving picture, time in [0, 1], side of the LR face) → velocity of the picture."""

    band: tuple[int, int]
    """Smallest and largest side of the LR faces that it was trained on."""
    mean: str = ""
    """SHA-256 of the posterior mean that it was trained to start from."""

    def __init__(self, network: CompactNet, noise: float = NOISE) -> None:
        super().__init__()
        self.network, self.noise = network, noise
        self.side = network.side
        self.band = (self.side // 8, self.side // 8)

    def forward(self, picture: Tensor, time: Tensor, side: Tensor) -> Tensor:
        x = (4 * picture - 2).contiguous(memory_format=torch.channels_last)
        size = size_waves(side) / math.sqrt(FREQUENCIES)  # of length one, as features are
        out = self.network(x, torch.zeros_like(x), TIME_SCALE * time, size)
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


def flow_network(
    widths: tuple[int, ...] = (128, 192, 384), blocks: int = 1, side: int = 128
) -> CompactNet:
    """Return the compact U-Net as a flow network, with velocity zero at first.

    Its feature input is the LR size.
    """
    net = CompactNet(widths, blocks, feature_length=WAVES, side=side)
    last = net.leave[-1]
    assert isinstance(last, nn.Conv2d) and last.bias is not None
    nn.init.zeros_(last.bias)
    return net
