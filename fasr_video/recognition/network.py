"""The builtin embedder's network: small enough for a CPU, trained on faces down to 12 pixels."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

LENGTH = 512
FORMAT = "fasr-video/embedder/1"
CONTRACT = "canonical RGB 128x128 in [0, 1] -> 512"


class Block(nn.Module):
    """The improved residual block of ArcFace: BN, conv, BN, PReLU, conv, BN; a strided 1×1 conv beside it."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.side: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.side = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.side(x)  # type: ignore[no-any-return]


class EmbedderNet(nn.Module):
    """N×3×128×128 RGB in [0,1], the canonical frame → N×512, not yet normalised: its length tells quality."""

    def __init__(self, widths: tuple[int, ...] = (48, 128, 256, 384), blocks: tuple[int, ...] = (1, 2, 3, 1)) -> None:
        super().__init__()
        # Four by four pixels become channels: most of a face net's time goes into its first, largest maps.
        self.stem = nn.Sequential(
            nn.Conv2d(48, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.PReLU(widths[0])
        )
        layers: list[nn.Module] = []
        before = widths[0]
        for level, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            for i in range(count):
                layers.append(Block(before, width, 2 if i == 0 and level > 0 else 1))
                before = width
        self.blocks = nn.Sequential(*layers)
        cells = (128 // 4 // 2 ** (len(widths) - 1)) ** 2
        self.head = nn.Sequential(
            nn.BatchNorm2d(before), nn.Flatten(), nn.Linear(before * cells, LENGTH, bias=False), nn.BatchNorm1d(LENGTH)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = F.pixel_unshuffle(x * 2 - 1, 4)
        return self.head(self.blocks(self.stem(x)))  # type: ignore[no-any-return]
