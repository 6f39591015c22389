"""RetinaFace (Deng et al., 2020) with a ResNet-50 trunk, for the weights of `retinaface-pytorch`.

That package cannot be installed beside a current PyTorch. The modules below have the names of its
state dict, so its file loads unchanged. Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fasr_video.boxes import best_first, shrink
from fasr_video.checkpoint import find_device, load_state
from fasr_video.files import sha256_file
from fasr_video.types import Detections, Image

STRIDES = (8, 16, 32)
ANCHOR_SIZES = ((16, 32), (64, 128), (256, 512))  # px, of each stride
VARIANCES = (0.1, 0.2)  # units of the network's positions and log sizes
MEAN = (0.485, 0.456, 0.406)  # ImageNet's, of RGB in 0-1
STD = (0.229, 0.224, 0.225)
CHANNELS = 256


class _Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 around a shortcut; the 3×3 carries the stride (ResNet "v1.5")."""

    def __init__(self, cin: int, width: int, stride: int) -> None:
        super().__init__()
        cout = 4 * width
        self.conv1 = nn.Conv2d(cin, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, cout, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(cout)
        self.downsample: nn.Module = nn.Identity()
        if cin != cout:
            self.downsample = nn.Sequential(
                nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x))


def _stage(cin: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    rest = [_Bottleneck(4 * width, width, 1) for _ in range(blocks - 1)]
    return nn.Sequential(_Bottleneck(cin, width, stride), *rest)


class _Trunk(nn.Module):
    """ResNet-50 without its classifier → 512, 1024, 2048 channels at strides 8, 16, 32."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = _stage(64, 64, 3, 1)
        self.layer2 = _stage(256, 128, 4, 2)
        self.layer3 = _stage(512, 256, 6, 2)
        self.layer4 = _stage(1024, 512, 3, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        c8 = self.layer2(self.layer1(x))
        c16 = self.layer3(c8)
        return c8, c16, self.layer4(c16)


def _conv(cin: int, cout: int, kernel: int, relu: bool = True) -> nn.Sequential:
    conv = nn.Conv2d(cin, cout, kernel, padding=kernel // 2, bias=False)
    layers = [conv, nn.BatchNorm2d(cout), *([nn.ReLU()] if relu else [])]
    return nn.Sequential(*layers)


class _Pyramid(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.output1 = _conv(512, CHANNELS, 1)
        self.output2 = _conv(1024, CHANNELS, 1)
        self.output3 = _conv(2048, CHANNELS, 1)
        self.merge1 = _conv(CHANNELS, CHANNELS, 3)
        self.merge2 = _conv(CHANNELS, CHANNELS, 3)

    def forward(self, c8: Tensor, c16: Tensor, c32: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        p32 = self.output3(c32)
        side16 = self.output2(c16)
        p16 = self.merge2(side16 + F.interpolate(p32, size=side16.shape[2:], mode="nearest"))
        side8 = self.output1(c8)
        p8 = self.merge1(side8 + F.interpolate(p16, size=side8.shape[2:], mode="nearest"))
        return p8, p16, p32


class _Context(nn.Module):
    """SSH's context module: fields of 3×3, 5×5 and 7×7, the larger ones by stacked convolutions."""

    def __init__(self) -> None:
        super().__init__()
        half, quarter = CHANNELS // 2, CHANNELS // 4
        self.conv3X3 = _conv(CHANNELS, half, 3, relu=False)
        self.conv5X5_1 = _conv(CHANNELS, quarter, 3)
        self.conv5X5_2 = _conv(quarter, quarter, 3, relu=False)
        self.conv7X7_2 = _conv(quarter, quarter, 3)
        self.conv7x7_3 = _conv(quarter, quarter, 3, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        shared = self.conv5X5_1(x)
        views = (self.conv3X3(x), self.conv5X5_2(shared), self.conv7x7_3(self.conv7X7_2(shared)))
        return F.relu(torch.cat(views, 1))


class _Head(nn.Module):
    """`values` numbers for each anchor: N×C×H×W → N×(H·W·anchors)×values."""

    def __init__(self, values: int) -> None:
        super().__init__()
        self.values = values
        self.conv1x1 = nn.Conv2d(CHANNELS, len(ANCHOR_SIZES[0]) * values, 1)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.conv1x1(x)
        return output.permute(0, 2, 3, 1).reshape(len(x), -1, self.values)


class RetinaFaceNet(nn.Module):
    """N×3×H×W normalised RGB → predictions for each anchor, in the order of `make_anchors`.

    They are box offsets (N×A×4), logits of "no face" and "face" (N×A×2), landmark offsets (N×A×10).
    """

    def __init__(self) -> None:
        super().__init__()
        self.body = _Trunk()
        self.fpn = _Pyramid()
        self.ssh1, self.ssh2, self.ssh3 = _Context(), _Context(), _Context()
        self.ClassHead = nn.ModuleList(_Head(2) for _ in STRIDES)
        self.BboxHead = nn.ModuleList(_Head(4) for _ in STRIDES)
        self.LandmarkHead = nn.ModuleList(_Head(10) for _ in STRIDES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        contexts = (self.ssh1, self.ssh2, self.ssh3)
        levels = [context(p) for context, p in zip(contexts, self.fpn(*self.body(x)), strict=True)]

        def predict(heads: nn.ModuleList) -> Tensor:
            return torch.cat([head(level) for head, level in zip(heads, levels, strict=True)], 1)

        return predict(self.BboxHead), predict(self.ClassHead), predict(self.LandmarkHead)


def make_anchors(height: int, width: int) -> Tensor:
    """Return A×3: centre x, centre y and side of each anchor in pixels.

    They come level by level, row by row, and in each cell small before large.
    """
    levels: list[Tensor] = []
    for stride, sizes in zip(STRIDES, ANCHOR_SIZES, strict=True):
        ys, xs = (torch.arange(-(-n // stride)) * stride + stride / 2 for n in (height, width))
        y, x, side = torch.meshgrid(ys, xs, torch.tensor(sizes, dtype=torch.float32), indexing="ij")
        levels.append(torch.stack((x, y, side), -1).reshape(-1, 3))
    return torch.cat(levels)


def decode(offsets: Tensor, landmarks: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """Return boxes (A×4 xyxy) and landmarks (A×5×2) in pixels, from the offsets of anchors."""
    centre, side = anchors[:, :2], anchors[:, 2:]
    middle = centre + offsets[:, :2] * VARIANCES[0] * side
    half = side * (offsets[:, 2:] * VARIANCES[1]).exp() / 2
    points = centre[:, None] + landmarks.reshape(-1, 5, 2) * VARIANCES[0] * side[:, None]
    return torch.cat((middle - half, middle + half), 1), points


class RetinaFaceDetector:
    """The published weights in float32, one frame at a time."""

    has_landmarks = True
    licence = (
        "retinaface-pytorch: MIT; the published weights were trained on WIDER FACE, see its terms"
    )

    def __init__(self, weights: Path, min_score: float, device: str, max_side: int) -> None:
        self._device = find_device(device)
        self._net = RetinaFaceNet()
        load_state(self._net, weights)
        self._net.eval().to(self._device)
        self._min_score = min_score
        self._max_side = max_side
        self.name = (
            f"retinaface (ResNet-50, {self._device}, float32, longest side at most {max_side} px)"
        )
        self.fingerprint = sha256_file(weights)

    def detect(self, frames: Sequence[Image]) -> list[Detections]:
        return [self._detect_in(frame) for frame in frames]

    @torch.inference_mode()
    def _detect_in(self, frame: Image) -> Detections:
        small, scale = shrink(frame, self._max_side)
        mean, std = np.array(MEAN, np.float32), np.array(STD, np.float32)
        pixels = (small.astype(np.float32) / 255 - mean) / std
        x = torch.from_numpy(pixels).permute(2, 0, 1)[None].to(self._device)
        offsets, logits, landmarks = (output[0].float().cpu() for output in self._net(x))
        scores = logits.softmax(1)[:, 1]
        passing = scores >= self._min_score
        anchors = make_anchors(*small.shape[:2])
        boxes, points = decode(offsets[passing], landmarks[passing], anchors[passing])
        return best_first(
            boxes.numpy() * np.tile(scale, 2), scores[passing].numpy(), points.numpy() * scale
        )
