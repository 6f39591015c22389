"""The posterior-mean network: a residual network over cells of 8×8 pixels.

A mean picture is smooth wherever the detail is unknown, so little of the work needs full
resolution. The enlarged LR face is divided into cells that become channels (pixel-unshuffle); all
maps have one value a cell. Faces are aligned: each cell of each block has a bias of its own. Linear
maps, fitted for two LR sizes, come first; the network learns what they leave. The size of the LR
face and the person's feature act as a scale and a shift; the feature is also laid out over the
cells, since a scale alone cannot place anything.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fasr_video.sr.networks.cell_bias import CellBias
from fasr_video.sr.networks.linear import LinearMap
from fasr_video.sr.networks.sizes import WAVES, size_waves

CELL = 8
GROUPS = 8
LAYOUT = 32  # channels that the feature is laid out in
RESIDUAL = 0.1  # about the deviation of the detail that an LR face of 16 px lacks
# LR sizes of the linear maps, and their reach in cells.
MAPS = ((8, 1), (16, 2))


def _zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


class Block(nn.Module):
    """Norm, SiLU, conv, cell bias, scale and shift by the conditions, SiLU, conv."""

    def __init__(self, width: int, cells: int, condition: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, width)
        self.conv_1 = nn.Conv2d(width, width, 3, 1, 1)
        self.places = CellBias(width, cells)
        self.dense = nn.Linear(condition, 2 * width)
        self.conv_2 = nn.Conv2d(width, width, 3, 1, 1)
        _zero(self.dense)
        _zero(self.conv_2)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        h = self.places(self.conv_1(F.silu(self.norm(x))))
        scale, shift = self.dense(condition)[:, :, None, None].chunk(2, dim=1)
        h = torch.addcmul(shift, h, 1 + scale)
        return x + self.conv_2(F.silu(h))  # type: ignore[no-any-return]


class MeanNet(nn.Module):
    """(enlarged LR face, its own side in pixels, feature) → its missing detail, N×3×S×S.

    The feature is a unit vector of `feature_length`, or zero for none.
    """

    def __init__(
        self,
        width: int = 192,
        blocks: int = 8,
        feature_length: int = 512,
        condition: int = 256,
        *,
        side: int = 128,
    ) -> None:
        super().__init__()
        self.width, self.feature_length = width, feature_length
        self.condition, self.side = condition, side
        cells = side // CELL
        pixels = 3 * CELL**2
        self.cells = cells
        self.size = nn.Sequential(
            nn.Linear(WAVES, condition), nn.SiLU(), nn.Linear(condition, condition)
        )
        self.feature = nn.Linear(feature_length, condition, bias=False)
        self.layout = nn.Linear(condition, LAYOUT * cells**2, bias=False)
        self.laid_out = nn.Conv2d(LAYOUT, width, 1)
        self.maps = nn.ModuleList(LinearMap(pixels, reach, side) for pixels, reach in MAPS)
        self.enter = nn.Conv2d(pixels, width, 3, 1, 1)
        self.enter_base = nn.Conv2d(pixels, width, 1)
        self.places = CellBias(width, cells)
        self.blocks = nn.ModuleList(Block(width, cells, condition) for _ in range(blocks))
        self.leave = nn.Conv2d(width, pixels, 3, 1, 1)
        _zero(self.laid_out)
        _zero(self.leave)

    def forward(self, lr: Tensor, side: Tensor, feature: Tensor) -> Tensor:
        face = self.feature(feature * math.sqrt(self.feature_length))
        condition = F.silu(self.size(size_waves(side)) + face)
        base = self.base(lr, side)
        h = self.enter(F.pixel_unshuffle(4 * lr - 2, CELL))
        h = self.places(h + self.enter_base(F.pixel_unshuffle(base / RESIDUAL, CELL)))
        layout = self.layout(F.silu(face)).reshape(-1, LAYOUT, self.cells, self.cells)
        h = h + self.laid_out(F.silu(layout))
        for block in self.blocks:
            h = block(h, condition)
        return base + RESIDUAL * F.pixel_shuffle(self.leave(F.silu(h)), CELL)

    def linear_maps(self) -> list[LinearMap]:
        """Return the linear maps, the smallest size first."""
        return [linear for linear in self.maps if isinstance(linear, LinearMap)]

    def base(self, lr: Tensor, side: Tensor) -> Tensor:
        """Return the detail by the linear maps.

        Between their LR sizes it is a blend; it fades to zero at twice the largest one.
        """
        detail = torch.zeros_like(lr)
        with torch.autocast(lr.device.type, enabled=False):
            for linear in self.linear_maps():
                share = (1 - torch.log2(side / linear.pixels).abs()).clamp(0, 1)
                detail += share[:, None, None, None] * linear(lr)
        return detail
