"""SRDG's attribute classifier C(c | x, sigma): a DenseNet for pictures with known noise.

Four dense blocks (Huang et al. 2017) with 2×2 pools between them; ln(sigma) joins the first map as
channels. The modules have the names and the order of the published Flax checkpoints, which are for
one attribute. Our compact form differs in two ways: first, 4×4 pixels become channels (block 4),
which makes it 14 times cheaper; and one network reads several attributes.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fasr_video.sr.networks.ncsnpp import Fourier

# Of CIFAR-10, as published.
MEAN = (0.49139968, 0.48215841, 0.44653091)
STD = (0.24703223, 0.24348513, 0.26158784)
STEM, FREQUENCIES, CONDITION = 32, 128, 512
LAYERS, GROWTH, BOTTLENECK = 6, 16, 32
# Input channels of each dense block: the stem and the time, then the outputs of the transitions.
WIDTHS = (64, 64, 80, 88)


class DenseLayer(nn.Module):
    """BN, ReLU, 1×1, BN, ReLU, 3×3; the output is joined to the input."""

    def __init__(self, cin: int) -> None:
        super().__init__()
        self.BatchNorm_0 = nn.BatchNorm2d(cin)
        self.Conv_0 = nn.Conv2d(cin, BOTTLENECK, 1, bias=False)
        self.BatchNorm_1 = nn.BatchNorm2d(BOTTLENECK)
        self.Conv_1 = nn.Conv2d(BOTTLENECK, GROWTH, 3, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.Conv_0(F.relu(self.BatchNorm_0(x)))
        return torch.cat((x, self.Conv_1(F.relu(self.BatchNorm_1(h)))), dim=1)


class TransitionLayer(nn.Module):
    """BN, ReLU, 1×1, and half the size."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.BatchNorm_0 = nn.BatchNorm2d(cin)
        self.Conv_0 = nn.Conv2d(cin, cout, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.Conv_0(F.relu(self.BatchNorm_0(x))), 2)


class AttributeNet(nn.Module):
    """(N×3×side×side in [0, 1] plus noise, N sigmas) → N×2·attributes: two logits for each
    attribute, in its order.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, attributes: int = 1, block: int = 1, side: int = 128) -> None:
        super().__init__()
        self.attributes, self.block, self.side = attributes, block, side
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(STD)[:, None, None], persistent=False)
        self.GaussianFourierProjection_0 = Fourier(FREQUENCIES)
        self.Dense_0 = nn.Linear(2 * FREQUENCIES, CONDITION)
        self.Dense_1 = nn.Linear(CONDITION, CONDITION)
        self.Dense_2 = nn.Linear(CONDITION, WIDTHS[0] - STEM)
        self.Conv_0 = nn.Conv2d(3 * block**2, STEM, 3, 1, 1)
        for i, width in enumerate(WIDTHS):
            layers = nn.Sequential()
            for k in range(LAYERS):
                layers.add_module(f"DenseLayer_{k}", DenseLayer(width + k * GROWTH))
            self.add_module(f"DenseBlock_{i}", layers)
        for i, (a, b) in enumerate(pairwise(WIDTHS)):
            self.add_module(f"TransitionLayer_{i}", TransitionLayer(a + LAYERS * GROWTH, b))
        last = WIDTHS[-1] + LAYERS * GROWTH
        self.BatchNorm_0 = nn.BatchNorm2d(last)
        self.Dense_3 = nn.Linear(
            last * (side // block // 2 ** (len(WIDTHS) - 1)) ** 2, 2 * attributes
        )

    def forward(self, images: Tensor, sigma: Tensor) -> Tensor:
        time = self.Dense_1(F.silu(self.Dense_0(self.GaussianFourierProjection_0(sigma))))
        h = self.Conv_0(F.pixel_unshuffle(standardise((images - self.mean) / self.std), self.block))
        time = self.Dense_2(F.silu(time))[:, :, None, None].expand(-1, -1, *h.shape[-2:])
        h = torch.cat((h, time), dim=1)
        for i in range(len(WIDTHS)):
            if i:
                h = self.get_submodule(f"TransitionLayer_{i - 1}")(h)
            h = self.get_submodule(f"DenseBlock_{i}")(h)
        h = F.relu(self.BatchNorm_0(h))
        channels_last = h.permute(0, 2, 3, 1).flatten(1)  # as in Flax
        return self.Dense_3(channels_last)  # type: ignore[no-any-return]


def standardise(x: Tensor) -> Tensor:
    """Return each picture with mean 0 and deviation 1; a deviation is at least 1/√N."""
    flat = x.flatten(1)
    variance, mean = torch.var_mean(flat, dim=1, correction=0, keepdim=True)
    # The floor is one of the variance: the root has no gradient at 0, so a black picture's would be
    # NaN.
    return ((flat - mean) * variance.clamp_min(1 / flat.shape[1]).rsqrt()).reshape(x.shape)
