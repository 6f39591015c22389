"""The compact denoiser: a U-Net over 4×4 pixel blocks, for machines without a GPU.

A 128 px diffusion network spends half its time on its largest maps. Here the noisy picture and the
LR picture are divided into 4×4 blocks that become channels (pixel-unshuffle), so the largest map is
32×32; skips are added, not concatenated. The conditions act as in FASR: each block adds
Dense_t(SiLU(E_t)) + Dense_f(SiLU(F)), here as a scale and a shift. Faces are aligned: each cell of
each map has a bias of its own, and the feature is also laid out over the smallest map, since a
scale and a shift alone cannot place anything.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fasr_video.sr.networks.cell_bias import CellBias

BLOCK = 4
GROUPS = 16
# Number of channels that the feature is laid out in.
LAYOUT = 32


class Residual(nn.Module):
    """Norm, SiLU, conv, conditioned norm, SiLU, conv; the last conv starts at zero."""

    def __init__(self, width: int, condition: int, dropout: float) -> None:
        super().__init__()
        self.norm_1, self.conv_1 = nn.GroupNorm(GROUPS, width), nn.Conv2d(width, width, 3, 1, 1)
        self.norm_2, self.conv_2 = nn.GroupNorm(GROUPS, width), nn.Conv2d(width, width, 3, 1, 1)
        self.dense_t = nn.Linear(condition, 2 * width)
        self.dense_f = nn.Linear(condition, 2 * width, bias=False)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.conv_2.weight)

    def forward(self, x: Tensor, time: Tensor, feature: Tensor) -> Tensor:
        h = self.conv_1(F.silu(self.norm_1(x)))
        scale, shift = (self.dense_t(time) + self.dense_f(feature))[:, :, None, None].chunk(
            2, dim=1
        )
        h = F.silu(torch.addcmul(shift, self.norm_2(h), 1 + scale))
        return x + self.conv_2(self.dropout(h))  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Self-attention of the map's cells, in heads of 64 channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, width)
        self.qkv, self.out = nn.Conv2d(width, 3 * width, 1), nn.Conv2d(width, width, 1)
        self.heads = max(1, width // 64)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        q, k, v = (
            self.qkv(self.norm(x))
            .reshape(n, 3, self.heads, c // self.heads, h * w)
            .transpose(-1, -2)
            .unbind(1)
        )
        attended = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(n, c, h, w)
        return x + self.out(attended)  # type: ignore[no-any-return]


class Level(nn.Module):
    """Residual blocks at one size, followed by attention or not."""

    def __init__(
        self, width: int, blocks: int, attention: bool, condition: int, *, dropout: float
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Residual(width, condition, dropout) for _ in range(blocks))
        self.attention = Attention(width) if attention else nn.Identity()

    def forward(self, x: Tensor, time: Tensor, feature: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, time, feature)
        return self.attention(x)  # type: ignore[no-any-return]


class Layout(nn.Module):
    """The feature as a small picture of cells, added to a map; starts at zero."""

    def __init__(self, condition: int, width: int, cells: int) -> None:
        super().__init__()
        self.cells = cells
        self.draw = nn.Linear(condition, LAYOUT * cells**2, bias=False)
        self.out = nn.Conv2d(LAYOUT, width, 1)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor, feature: Tensor) -> Tensor:
        layout = self.draw(feature).reshape(-1, LAYOUT, self.cells, self.cells)
        return x + self.out(F.silu(layout))  # type: ignore[no-any-return]


class CompactNet(nn.Module):
    """(picture scaled to unit variance, LR, ln(sigma)/4, feature) → N×3×side×side, unscaled.

    The feature is a unit vector of `feature_length`, or zero for none. A network of length 0 takes
    no feature.
    """

    frequencies: Tensor

    def __init__(
        self,
        widths: tuple[int, ...] = (128, 192, 384),
        blocks: int = 1,
        feature_length: int = 512,
        condition: int = 256,
        *,
        dropout: float = 0.0,
        side: int = 128,
    ) -> None:
        super().__init__()
        self.widths = widths
        self.blocks = blocks
        self.feature_length = feature_length
        self.condition = condition
        self.side = side
        self.register_buffer("frequencies", torch.randn(condition // 2) * 2 * math.pi)
        self.time = nn.Sequential(
            nn.Linear(condition, condition), nn.SiLU(), nn.Linear(condition, condition)
        )
        if feature_length:
            self.feature = nn.Linear(feature_length, condition, bias=False)
        pixels = 3 * BLOCK**2
        self.enter = nn.Conv2d(2 * pixels, widths[0], 3, 1, 1)
        last = len(widths) - 1
        self.down = nn.ModuleList(
            Level(w, blocks, i == last, condition, dropout=dropout) for i, w in enumerate(widths)
        )
        self.up = nn.ModuleList(
            Level(w, blocks, i == last, condition, dropout=dropout) for i, w in enumerate(widths)
        )
        cells = [side // BLOCK // 2**i for i in range(len(widths))]
        self.places_down = nn.ModuleList(map(CellBias, widths, cells))
        self.places_up = nn.ModuleList(map(CellBias, widths, cells))
        self.layout = Layout(condition, widths[-1], cells[-1])
        pairs = list(pairwise(widths))
        self.shrink = nn.ModuleList(nn.Conv2d(4 * a, b, 1) for a, b in pairs)
        self.grow = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in pairs)
        last_conv = nn.Conv2d(widths[0], pixels, 3, 1, 1)
        nn.init.zeros_(last_conv.weight)
        self.leave = nn.Sequential(nn.GroupNorm(GROUPS, widths[0]), nn.SiLU(), last_conv)

    def forward(self, x: Tensor, lr: Tensor, noise: Tensor, feature: Tensor) -> Tensor:
        angles = noise[:, None] * self.frequencies
        time = F.silu(self.time(torch.cat((angles.sin(), angles.cos()), dim=1)))
        face = torch.zeros_like(time)
        if self.feature_length:
            face = F.silu(self.feature(feature * math.sqrt(self.feature_length)))
        h = self.enter(F.pixel_unshuffle(torch.cat((x, lr), dim=1), BLOCK))
        skips = []
        for i, level in enumerate(self.down):
            h = level(self.places_down[i](h), time, face)
            skips.append(h)
            if i < len(self.shrink):
                h = self.shrink[i](F.pixel_unshuffle(h, 2))
        h = self.layout(h, face)
        for i in reversed(range(len(self.up))):
            if i < len(self.grow):
                h = F.pixel_shuffle(self.grow[i](h), 2) + skips[i]
            h = self.up[i](self.places_up[i](h), time, face)
        return F.pixel_shuffle(self.leave(h), BLOCK)
