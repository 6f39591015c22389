"""The network of a rectified flow: the compact U-Net, and a light head at full resolution.

The U-Net works on blocks of 4×4 pixels and says what moves where. Left alone it errs in each pixel
by itself, which looks like speckle. The head sees that answer and the picture at full resolution
and makes one fit the other.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fasr_video.sr.networks.compact import CompactNet
from fasr_video.sr.networks.sizes import WAVES

# About what the picture still lacks: at the start, and at the end (never quite nothing). The U-Net
# hears of it as a denoiser hears of its noise level, and so can start from a denoiser's weights.
LACKS = (0.079, 0.004)


class Head(nn.Module):
    """(picture, velocity, time) → corrected velocity, by three convolutions; at first the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(6, width, 3, 1, 1)
        self.middle = nn.Conv2d(width, width, 3, 1, 1)
        self.leave = nn.Conv2d(width, 3, 3, 1, 1)
        self.time = nn.Linear(2, 2 * width)
        for layer in (self.time, self.leave):
            nn.init.zeros_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, picture: Tensor, velocity: Tensor, time: Tensor) -> Tensor:
        h = self.enter(torch.cat((picture, velocity), dim=1))
        terms = self.time(torch.stack((time, time**2), dim=1))
        scale, shift = terms[:, :, None, None].chunk(2, dim=1)
        h = F.silu(torch.addcmul(shift, h, 1 + scale))
        return velocity + self.leave(F.silu(self.middle(h)))  # type: ignore[no-any-return]


class FlowNet(nn.Module):
    """(moving picture, time in [0, 1], waves of the LR size) → velocity, zero before training."""

    def __init__(
        self,
        widths: tuple[int, ...] = (128, 192, 384),
        blocks: int = 1,
        side: int = 128,
        head: int = 24,
    ) -> None:
        super().__init__()
        self.widths, self.blocks, self.side, self.head_width = widths, blocks, side, head
        self.cells = CompactNet(widths, blocks, feature_length=WAVES, side=side)
        last = self.cells.leave[-1]
        assert isinstance(last, nn.Conv2d) and last.bias is not None
        nn.init.zeros_(last.bias)
        self.head = Head(head)

    def forward(self, picture: Tensor, time: Tensor, size: Tensor) -> Tensor:
        x = picture.contiguous(memory_format=torch.channels_last)
        first, last = LACKS
        level = (first + (last - first) * time).log() / 4
        velocity = self.cells(x, torch.zeros_like(x), level, size)
        return self.head(x, velocity.float(), time)  # type: ignore[no-any-return]
