"""IDFSR's network in two sizes: (noisy picture, masked LR, time, style, identity) → noise or
detail.

The published size takes a DDPM's step and predicts the noise. The compact size takes ln(sigma)/4
and predicts the detail that its base lacks, as `compact.py` does; layers that both have share a
name, so training can start from those weights.

Two codes condition the U-Net. The style code (512 numbers; an encoder like the U-Net's first half
computes it from the warped reference) scales each block's normalised map, z_s · (t_s · GroupNorm(h)
+ t_b). The identity (an embedder's feature, or a fitted vector) enters the 16×16 map by
cross-attention, in place of self-attention. Faces are aligned: each cell of each map has a bias of
its own, so that a cell knows its position in the face. A block size above 1 turns pixels into
channels, as in `compact.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fasr_video.sr.networks.cell_bias import CellBias

GROUPS = 16
STYLE, IDENTITY = 512, 512
# Attention to a single vector is the same for every cell, so the identity becomes eight tokens of
# 64.
TOKENS, TOKEN = 8, 64


@dataclass(frozen=True, slots=True)
class Size:
    side: int
    """Side of the pictures in pixels."""
    block: int
    """Side in pixels of the blocks that become channels."""
    widths: tuple[int, ...]
    """Channels of each level; each level halves the one before."""
    blocks: int
    """Residual blocks a level, each way."""
    condition: int
    """Length of the time embedding."""
    attention: int
    """The level with cross-attention: that of 16×16 cells."""
    style_widths: tuple[int, ...]
    """Channels of the style encoder's levels."""
    residual: bool
    """Whether it predicts the detail that its base lacks; the published one predicts the noise."""

    @property
    def cells(self) -> tuple[int, ...]:
        """The side of each level's map."""
        return tuple(self.side // self.block // 2**i for i in range(len(self.widths)))


WIDTHS = (128, 128, 256, 256, 512, 512)
PUBLISHED = Size(
    128, 1, WIDTHS, blocks=2, condition=512, attention=3, style_widths=WIDTHS, residual=False
)
COMPACT = Size(
    128,
    4,
    (128, 192, 384),
    blocks=1,
    condition=256,
    attention=1,
    style_widths=(64, 96, 192),
    residual=True,
)
SIZES = {"compact": COMPACT, "published": PUBLISHED}


class PlainResidual(nn.Module):
    """Norm, SiLU, conv, norm, SiLU, conv, without codes. The last conv starts at zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_1, self.conv_1 = nn.GroupNorm(GROUPS, width), nn.Conv2d(width, width, 3, 1, 1)
        self.norm_2, self.conv_2 = nn.GroupNorm(GROUPS, width), nn.Conv2d(width, width, 3, 1, 1)
        nn.init.zeros_(self.conv_2.weight)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_1(F.silu(self.norm_1(x)))
        return x + self.conv_2(F.silu(self.norm_2(h)))  # type: ignore[no-any-return]


class Residual(PlainResidual):
    """The same with AdaGN as second norm: (1 + z_s) · ((1 + t_s) · GroupNorm(h) + t_b)."""

    def __init__(self, width: int, condition: int) -> None:
        super().__init__(width)
        self.dense_t, self.dense_z = nn.Linear(condition, 2 * width), nn.Linear(STYLE, width)

    def forward(self, x: Tensor, time: Tensor, style: Tensor) -> Tensor:  # type: ignore[override]
        h = self.norm_2(self.conv_1(F.silu(self.norm_1(x))))
        scale, shift = self.dense_t(time)[:, :, None, None].chunk(2, dim=1)
        h = (1 + self.dense_z(style))[:, :, None, None] * torch.addcmul(shift, h, 1 + scale)
        return x + self.conv_2(F.silu(h))  # type: ignore[no-any-return]


class CrossAttention(nn.Module):
    """Attention of the map's cells to the identity's tokens, in heads of up to 64 channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.heads = nn.GroupNorm(GROUPS, width), max(1, width // 64)
        self.query, self.key_value = nn.Conv2d(width, width, 1), nn.Linear(TOKEN, 2 * width)
        self.out = nn.Conv2d(width, width, 1)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        n, c, h, w = x.shape
        q = (
            self.query(self.norm(x))
            .reshape(n, self.heads, c // self.heads, h * w)
            .transpose(-1, -2)
        )
        k, v = (
            self.key_value(tokens)
            .reshape(n, TOKENS, 2, self.heads, c // self.heads)
            .permute(2, 0, 3, 1, 4)
        )
        attended = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(n, c, h, w)
        return x + self.out(attended)  # type: ignore[no-any-return]


class Level(nn.Module):
    """Cell bias, then residual blocks at one size, each with cross-attention after it if the level
    has it.
    """

    def __init__(self, width: int, cells: int, size: Size, attention: bool) -> None:
        super().__init__()
        self.places = CellBias(width, cells)
        self.blocks = nn.ModuleList(Residual(width, size.condition) for _ in range(size.blocks))
        self.attention = nn.ModuleList(
            CrossAttention(width) for _ in range(size.blocks if attention else 0)
        )

    def forward(self, x: Tensor, time: Tensor, style: Tensor, tokens: Tensor) -> Tensor:
        x = self.places(x)
        for i, block in enumerate(self.blocks):
            x = block(x, time, style)
            if self.attention:
                x = self.attention[i](x, tokens)
        return x


class StyleEncoder(nn.Module):
    """The U-Net's downward path, without time: N×3×S×S in [−1, 1] → N×512."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.block, widths = size.block, size.style_widths
        self.enter = nn.Conv2d(3 * size.block**2, widths[0], 3, 1, 1)
        levels = (
            nn.Sequential(*(PlainResidual(width) for _ in range(size.blocks))) for width in widths
        )
        self.levels = nn.ModuleList(levels)
        self.shrink = nn.ModuleList(nn.Conv2d(4 * a, b, 1) for a, b in pairwise(widths))
        self.norm, self.leave = nn.GroupNorm(GROUPS, widths[-1]), nn.Linear(widths[-1], STYLE)

    def forward(self, x: Tensor) -> Tensor:
        h = self.levels[0](self.enter(F.pixel_unshuffle(x, self.block)))
        for shrink, level in zip(self.shrink, self.levels[1:], strict=True):
            h = level(shrink(F.pixel_unshuffle(h, 2)))
        return self.leave(F.silu(self.norm(h)).mean((2, 3)))  # type: ignore[no-any-return]


class IdfsrNet(nn.Module):
    """The U-Net and, as `style`, the encoder of the reference. Pictures are in [−1, 1]; the output
    starts at zero.
    """

    def __init__(self, size: Size = COMPACT) -> None:
        super().__init__()
        self.size = size
        condition, pixels = size.condition, 3 * size.block**2
        self.style = StyleEncoder(size)
        self.waves: nn.Module = RandomWaves(condition) if size.residual else StepWaves(condition)
        self.time = nn.Sequential(
            nn.Linear(condition, condition), nn.SiLU(), nn.Linear(condition, condition)
        )
        self.tokens = nn.Linear(IDENTITY, TOKENS * TOKEN)
        self.enter = nn.Conv2d(2 * pixels, size.widths[0], 3, 1, 1)
        # The lowest levels of the paths down and up follow each other, as the middle of the U-Net.
        self.down, self.up = (
            nn.ModuleList(
                Level(w, cells, size, i == size.attention)
                for i, (w, cells) in enumerate(zip(size.widths, size.cells, strict=True))
            )
            for _ in range(2)
        )
        pairs = list(pairwise(size.widths))
        self.shrink = nn.ModuleList(nn.Conv2d(4 * a, b, 1) for a, b in pairs)
        self.grow = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in pairs)
        last = nn.Conv2d(size.widths[0], pixels, 3, 1, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.leave = nn.Sequential(nn.GroupNorm(GROUPS, size.widths[0]), nn.SiLU(), last)

    def forward(
        self, x: Tensor, lr: Tensor, time: Tensor, style: Tensor, *, identity: Tensor
    ) -> Tensor:
        """Return the noise or the missing detail.

        `time` is ln(sigma)/4, or a step from 0 to 999 with fractions; `identity` (N×512) has unit
        vectors or zeros.
        """
        encoded_time = F.silu(self.time(self.waves(time)))
        tokens = self.tokens(identity * math.sqrt(IDENTITY)).unflatten(1, (TOKENS, TOKEN))
        h = self.enter(F.pixel_unshuffle(torch.cat((x, lr), dim=1), self.size.block))
        skips = []
        for i, level in enumerate(self.down):
            h = level(h, encoded_time, style, tokens)
            skips.append(h)
            if i < len(self.shrink):
                h = self.shrink[i](F.pixel_unshuffle(h, 2))
        for i in reversed(range(len(self.up))):
            if i < len(self.grow):
                h = F.pixel_shuffle(self.grow[i](h), 2) + skips[i]
            h = self.up[i](h, encoded_time, style, tokens)
        return F.pixel_shuffle(self.leave(h), self.size.block)


class StepWaves(nn.Module):
    """Sines and cosines of the step, at periods from 2π to 10,000 · 2π, as in DDPM and
    Transformers.
    """

    def __init__(self, length: int) -> None:
        super().__init__()
        self.pairs = length // 2

    def forward(self, step: Tensor) -> Tensor:
        count = torch.arange(self.pairs, device=step.device, dtype=step.dtype)
        return _waves(step, torch.exp(count * (-math.log(10_000) / self.pairs)))


class RandomWaves(nn.Module):
    """Sines and cosines at random frequencies, as in `compact.py`."""

    frequencies: Tensor

    def __init__(self, length: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(length // 2) * 2 * math.pi)

    def forward(self, level: Tensor) -> Tensor:
        return _waves(level, self.frequencies)


def _waves(value: Tensor, frequencies: Tensor) -> Tensor:
    angles = value[:, None] * frequencies
    return torch.cat((angles.sin(), angles.cos()), dim=1)
