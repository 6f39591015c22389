"""The builtin embedder's network: a small residual network for a CPU, trained on faces from 10 px up."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

LENGTH = 512
FORMAT = "fasr-video/embedder/2"
CONTRACT = "canonical RGB 128x128 in [0, 1] -> 512; the length of the vector says how sure it is"
WIDTHS = (64, 128, 128)
BLOCKS = (2, 3, 2)
CELLS = 8
"""The last maps are CELLS×CELLS."""
HEAD = 512
SLOPE = 0.1


class Maps(NamedTuple):
    """What the three stages of a network show of N faces."""

    early: Tensor
    """N×64×32×32."""
    middle: Tensor
    """N×128×16×16."""
    late: Tensor
    """N×128×8×8."""


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, active: bool = True) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    if active:
        layers.append(nn.LeakyReLU(SLOPE, inplace=True))
    return nn.Sequential(*layers)


class Gate(nn.Module):
    """Weighs each channel by what all of the map shows (squeeze and excitation)."""

    def __init__(self, channels: int, reduction: int = 8) -> None:
        super().__init__()
        self.shrink = nn.Conv2d(channels, channels // reduction, 1)
        self.grow = nn.Conv2d(channels // reduction, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        seen = F.relu(self.shrink(x.mean((2, 3), keepdim=True)))
        return x * self.grow(seen).sigmoid()  # type: ignore[no-any-return]


class Block(nn.Module):
    """Two 3×3 convolutions and a gate beside a shortcut."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv(channels, inner), _conv(inner, channels, active=False), Gate(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)  # type: ignore[no-any-return]


class EmbedderNet(nn.Module):
    """N×3×128×128 RGB in [0, 1], the canonical frame → N×512, not yet normalised: its norm says how sure it is."""

    def __init__(self) -> None:
        super().__init__()
        early, middle, late = WIDTHS
        # Four by four pixels become channels: most of a face network's time goes into its first, largest maps.
        self.early = nn.Sequential(_conv(48, early), *(Block(early, early) for _ in range(BLOCKS[0])))
        self.middle = nn.Sequential(
            _conv(early, middle, stride=2, active=False), *(Block(middle, middle) for _ in range(BLOCKS[1]))
        )
        # The last stage is narrow between its blocks and wide within them: its maps are small.
        self.late = nn.Sequential(
            _conv(middle, 2 * late, stride=2),
            _conv(2 * late, late, kernel=1, active=False),
            *(Block(late, 2 * late) for _ in range(BLOCKS[2])),
        )
        # Each channel has a weight for each cell: where something is seen matters as much as what.
        self.head = nn.Sequential(
            _conv(late, HEAD, kernel=1),
            nn.Conv2d(HEAD, HEAD, CELLS, groups=HEAD, bias=False),
            nn.BatchNorm2d(HEAD),
            nn.Conv2d(HEAD, LENGTH, 1),
        )

    def maps(self, x: Tensor) -> Maps:
        """Return what the stages show of the faces."""
        early = self.early(F.pixel_unshuffle(x * 2 - 1, 4))
        middle = self.middle(early)
        return Maps(early, middle, self.late(middle))

    def vectors(self, maps: Maps) -> Tensor:
        """Return the vectors that the last stage leads to."""
        return self.head(maps.late).flatten(1)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        return self.vectors(self.maps(x))
