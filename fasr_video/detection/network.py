"""The builtin detector's network: an anchor-free face detector with five landmarks.

A small residual backbone and a feature pyramid predict at strides 4, 8 and 16. Every cell of every
level predicts whether the centre of a face is in it, where exactly, how large the face is, and
where its eyes, nose and mouth corners are. Stride 4 is for faces of 12-16 px; the stride-32 stage
gives context but predicts nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FORMAT = "fasr-video/detector/1"
CONTRACT = "RGB in [-1, 1], any size -> faces with 5 landmarks at strides 4, 8, 16"
STRIDES = (4, 8, 16)
PAD_TO = 32  # the deepest stage halves five times
LEVEL_LIMITS = (28.0, 72.0)  # px, square root of the face box's area: the level a face belongs to
BASE = 4.0  # sizes and landmark offsets are in units of BASE strides
WIDTHS = (16, 32, 64, 128, 160)
PYRAMID = 48
OUTPUTS = 15  # centre logit, centre offset (2), log size (2), landmark offsets (10)


class LevelOutput(NamedTuple):
    """The output of one level: N×C×H×W with H, W = image / stride, in units of the stride."""

    logit: Tensor
    """N×1: logit that the centre of a face lies in this cell."""
    offset: Tensor
    """N×2: centre minus the cell's centre."""
    log_size: Tensor
    """N×2: log of (width, height) / (BASE · stride)."""
    landmarks: Tensor
    """N×10: x, y of eyes, nose and mouth corners minus the cell's centre, / (BASE · stride)."""


def _conv(
    cin: int, cout: int, stride: int = 1, kernel: int = 3, *, groups: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(cout),
        nn.ReLU(inplace=True),
    )


def _separable(channels: int) -> nn.Sequential:
    return nn.Sequential(
        _conv(channels, channels, groups=channels), _conv(channels, channels, kernel=1)
    )


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.a = _conv(channels, channels)
        self.b = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.b(self.a(x)))


class DetectorNet(nn.Module):
    """N×3×H×W in [-1, 1] RGB, H and W multiples of PAD_TO → one LevelOutput for each stride."""

    def __init__(self) -> None:
        super().__init__()
        w2, w4, w8, w16, w32 = WIDTHS
        self.stem = _conv(3, w2, stride=2)
        self.stage4 = nn.Sequential(_conv(w2, w4, stride=2), _conv(w4, w4))
        self.stage8 = nn.Sequential(_conv(w4, w8, stride=2), Residual(w8))
        self.stage16 = nn.Sequential(_conv(w8, w16, stride=2), Residual(w16))
        self.stage32 = nn.Sequential(_conv(w16, w32, stride=2), Residual(w32))
        self.lateral = nn.ModuleList(_conv(w, PYRAMID, kernel=1) for w in (w4, w8, w16, w32))
        # Stride 4 has four times the cells of stride 8: separable convolutions keep it affordable.
        self.smooth = nn.ModuleList(
            [_separable(PYRAMID), _conv(PYRAMID, PYRAMID), _conv(PYRAMID, PYRAMID)]
        )
        self.tower = nn.ModuleList(
            [_separable(PYRAMID), _conv(PYRAMID, PYRAMID), _conv(PYRAMID, PYRAMID)]
        )
        self.head = nn.ModuleList(nn.Conv2d(PYRAMID, OUTPUTS, 1) for _ in STRIDES)
        for head in self.head:
            assert isinstance(head, nn.Conv2d) and head.bias is not None
            nn.init.zeros_(head.bias)
            # A logit of 1 %: otherwise the loss of the first steps is too large.
            nn.init.constant_(head.bias[:1], -4.6)

    def forward(self, x: Tensor) -> list[LevelOutput]:
        c4 = self.stage4(self.stem(x))
        c8 = self.stage8(c4)
        c16 = self.stage16(c8)
        c32 = self.stage32(c16)
        top = self.lateral[3](c32)
        levels: list[LevelOutput] = []
        for i, features in ((2, c16), (1, c8), (0, c4)):
            merged = self.lateral[i](features) + F.interpolate(
                top, scale_factor=2.0, mode="nearest"
            )
            top = self.smooth[i](merged)
            out = self.head[i](self.tower[i](top))
            levels.append(LevelOutput(out[:, :1], out[:, 1:3], out[:, 3:5], out[:, 5:]))
        return levels[::-1]


def decode_level(
    output: LevelOutput, stride: int, min_score: float, limit: int = 2000
) -> list[tuple[Tensor, ...]]:
    """Return the peaks of one level before NMS, for each image of the batch.

    They are boxes (K×4 xyxy px), scores (K) and landmarks (K×5×2 px). A peak is the highest cell of
    its 3×3 neighbourhood: one face, one peak.
    """
    score = output.logit.float().sigmoid()[:, 0]
    padded = F.pad(score, (1, 1, 1, 1))
    shifts = [(dy, dx) for dy in range(3) for dx in range(3)]
    peaks: list[tuple[Tensor, ...]] = []
    for n in range(score.shape[0]):
        # Only few cells pass: comparing them alone with their neighbours is fast.
        ys, xs = torch.nonzero(score[n] >= min_score, as_tuple=True)
        highest = torch.stack([padded[n, ys + dy, xs + dx] for dy, dx in shifts]).amax(0)
        is_peak = score[n, ys, xs] == highest
        ys, xs = ys[is_peak], xs[is_peak]
        scores = score[n, ys, xs]
        if len(scores) > limit:
            scores, top = scores.topk(limit)
            ys, xs = ys[top], xs[top]
        cell = torch.stack((xs, ys), 1).float() + 0.5
        centre = (cell + output.offset[n, :, ys, xs].T.float()) * stride
        size = output.log_size[n, :, ys, xs].T.float().clamp(-4, 4).exp() * (BASE * stride)
        boxes = torch.cat((centre - size / 2, centre + size / 2), 1)
        offsets = output.landmarks[n, :, ys, xs].T.float().reshape(-1, 5, 2)
        landmarks = offsets * (BASE * stride) + (cell * stride)[:, None]
        peaks.append((boxes, scores, landmarks))
    return peaks
