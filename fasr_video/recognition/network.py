"""The builtin embedder's network: small inverted residual blocks, for faces from 10 px and CPUs."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

LENGTH = 512
FORMAT = "fasr-video/embedder/3"
CONTRACT = "canonical RGB 128x128 in [0, 1] -> 512; the length of the vector says how sure it is"
STEM = 64
HEAD = 512
# Of a gate: this many channels become one.
REDUCTION = 8
# Values of the maps are clamped to this: for faces they stay below it by themselves, for other
# pictures they would grow from block to block.
LIMIT = 16.0


@dataclass(frozen=True, slots=True)
class Shape:
    """Channels and size of a block's input and output."""

    inputs: int
    inner: int
    outputs: int
    side: int
    """Pixels of the maps that it returns."""
    halves: bool = False
    """Whether it halves the maps' size; if not, it adds its result to its input."""


FIRST = Shape(STEM, 128, 64, 32, halves=True)
SHAPES = (
    FIRST,
    *(Shape(64, 128, 64, 32),) * 4,
    Shape(64, 256, 128, 16, halves=True),
    *(Shape(128, 256, 128, 16),) * 6,
    Shape(128, 512, 128, 8, halves=True),
    *(Shape(128, 256, 128, 8),) * 2,
)


def _pointwise(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1)


def _depthwise(channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, stride, 1, groups=channels)


class Gate(nn.Module):
    """Weighs each channel by the means of all channels (squeeze and excitation)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shrink = _pointwise(channels, channels // REDUCTION)
        self.act = nn.PReLU(channels // REDUCTION)
        self.grow = _pointwise(channels // REDUCTION, channels)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.grow(self.act(self.shrink(x.mean((2, 3), keepdim=True)))).sigmoid()
        return x * weights  # type: ignore[no-any-return]


class Block(nn.Module):
    """Widens the map, filters each channel by itself, narrows the map and weighs the channels."""

    def __init__(self, shape: Shape, before: tuple[nn.Module, ...] = ()) -> None:
        super().__init__()
        self.adds = not shape.halves
        self.body = nn.Sequential(
            *before,
            _pointwise(shape.inputs, shape.inner),
            nn.PReLU(shape.inner),
            _depthwise(shape.inner, 2 if shape.halves else 1),
            nn.PReLU(shape.inner),
            _pointwise(shape.inner, shape.outputs),
            Gate(shape.outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.body(x)
        if self.adds:
            output = x + output
        return output.clamp(-LIMIT, LIMIT)


class EmbedderNet(nn.Module):
    """N×3×128×128 RGB in [0, 1] → N×512, not normalised: a vector's norm says how sure it is."""

    def __init__(self) -> None:
        super().__init__()
        stem = (nn.Conv2d(3, STEM, 3, 2, 1), nn.PReLU(STEM), _depthwise(STEM), nn.PReLU(STEM))
        self.blocks = nn.ModuleList([Block(FIRST, stem), *(Block(shape) for shape in SHAPES[1:])])
        # Each channel has a weight for each cell, because the position of what it shows matters.
        last = SHAPES[-1]
        self.head = nn.Sequential(
            _pointwise(last.outputs, HEAD),
            nn.PReLU(HEAD),
            nn.Conv2d(HEAD, HEAD, last.side, groups=HEAD),
            _pointwise(HEAD, LENGTH),
        )

    def maps(self, x: Tensor) -> list[Tensor]:
        """Return the output of each block."""
        maps = []
        x = self.prepared(x)
        for block in self.blocks:
            x = block(x)
            maps.append(x)
        return maps

    @staticmethod
    def prepared(x: Tensor) -> Tensor:
        """Return the input of the first block."""
        return x * 2 - 1

    def vectors(self, last: Tensor) -> Tensor:
        """Return the vectors, from the output of the last block."""
        return self.head(last).flatten(1)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        x = self.prepared(x)
        for block in self.blocks:
            x = block(x)
        return self.vectors(x)
