"""AdaFace's published networks (Kim, Jain and Liu 2022): ArcFace's improved ResNets."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fasr_video.batch_size import FACES, batch_size_for
from fasr_video.checkpoint import fill, read_state
from fasr_video.errors import ModelError
from fasr_video.files import sha256_file
from fasr_video.recognition.align import canonical_to_arcface

LENGTH = 512
WIDTHS = (64, 128, 256, 512)
# Residual units at each width, by the depth in the name of the network.
UNITS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 14, 3), 101: (3, 13, 30, 3)}
DEPTHS = {sum(units): depth for depth, units in UNITS.items()}
PARTS = ("input_layer.", "body.", "output_layer.")


class Unit(nn.Module):
    """A residual unit: BN, conv, BN, PReLU, strided conv, BN.

    The shortcut is the strided input, or a 1×1 conv where the width changes.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        # The names and their order are the published ones, here and below.
        self.shortcut_layer: nn.Module = nn.MaxPool2d(1, stride)
        if inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut_layer = nn.Sequential(conv, nn.BatchNorm2d(outputs))
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.res_layer(x) + self.shortcut_layer(x)  # type: ignore[no-any-return]


class AdaFaceNet(nn.Module):
    """N×3×112×112 BGR in [-1, 1] → (unit features N×512, norms before normalisation N×1)."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.depth = depth
        first = WIDTHS[0]
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, first, 3, 1, 1, bias=False), nn.BatchNorm2d(first), nn.PReLU(first)
        )
        last = WIDTHS[-1]
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(last),
            nn.Dropout(0.4),
            nn.Flatten(),
            nn.Linear(last * 7 * 7, LENGTH),
            nn.BatchNorm1d(LENGTH, affine=False),
        )
        units, before = [], first
        for width, count in zip(WIDTHS, UNITS[depth], strict=True):
            units += [Unit(before, width, 2)] + [Unit(width, width, 1) for _ in range(count - 1)]
            before = width
        self.body = nn.Sequential(*units)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        feature = self.output_layer(self.body(self.input_layer(x))).float()
        return F.normalize(feature, dim=1), feature.norm(dim=1, keepdim=True)


def load(path: Path) -> AdaFaceNet:
    """Return the network of a published checkpoint or of its state dict, in eval mode.

    The keys tell its depth. Checkpoints also have the margin head of the training, which is left
    out.
    """
    tensors = {key.removeprefix("model."): value for key, value in read_state(path).items()}
    state = {key: value for key, value in tensors.items() if key.startswith(PARTS)}
    net = AdaFaceNet(_depth(path, state))
    fill(net, state, path, f"give AdaFace's weights; its units are those of an IR-{net.depth}")
    return net.eval()


def _depth(path: Path, keys: Iterable[str]) -> int:
    """Return the depth of the network by the number of its residual units."""
    matches = [re.match(r"body\.(\d+)\.", key) for key in keys]
    count = max((int(match[1]) for match in matches if match), default=-1) + 1
    if count not in DEPTHS:
        known = ", ".join(f"{units} (IR-{depth})" for units, depth in DEPTHS.items())
        reason = f"it has {count} residual units body.N, AdaFace's networks have {known}"
        raise ModelError(path, reason, "give one of AdaFace's checkpoints of these depths")
    return DEPTHS[count]


class AdaFaceEmbedder:
    """AdaFace; the norm of a feature measures quality: its training weighs faces by it."""

    length = LENGTH
    licence = (
        "AdaFace's code: MIT; its published weights: trained on web faces"
        " (MS1MV2, WebFace) meant for research only"
    )

    def __init__(self, weights: Path, device: torch.device) -> None:
        net = load(weights)
        self.device = device
        self.name = f"adaface ir_{net.depth}"
        self.sha256 = sha256_file(weights)
        net.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._net = net

    @torch.no_grad()
    def embed(self, faces: Tensor, landmarks: Tensor | None = None) -> tuple[Tensor, Tensor]:
        all_features = [torch.zeros(0, LENGTH)]
        all_norms = [torch.zeros(0)]
        batch = batch_size_for(FACES, self.device)
        for start in range(0, len(faces), batch):
            rows = slice(start, start + batch)
            landmarks_of_rows = None if landmarks is None else landmarks[rows]
            x = canonical_to_arcface(faces[rows].to(self.device), landmarks_of_rows)
            bgr = (x.flip(1) * 2 - 1).contiguous(memory_format=torch.channels_last)
            features, norms = self._net(bgr)
            all_features.append(features.cpu())
            all_norms.append(norms[:, 0].cpu())
        return torch.cat(all_features), torch.cat(all_norms)
