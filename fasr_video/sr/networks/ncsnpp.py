"""NCSN++ (Song et al. 2021, section 4.1) as FASR, SDE-SR and SRDG publish it: (x, LR, sigma,
feature) → score.

A U-Net of BigGAN residual blocks on six channels: the noisy picture and the LR picture, interleaved
r, r, g, g, b, b. The input is halved with a FIR filter and added at every level. In FASR every
block also takes a face feature: h + Dense_0(SiLU(time)) + Dense_1(SiLU(face)). The modules have the
names and the order of the published state dicts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from enum import Enum
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

CHANNELS = 3
BLOCKS = 2  # residual blocks a level on the way down; one more on the way up
FOURIER_SCALE = 16.0
SIGMA_MAX, SIGMA_MIN, SIGMA_MIN_WITHOUT_FEATURE = 348.0, 0.001, 0.01
SCALES = 2000
FIR = (1.0, 3.0, 3.0, 1.0)
# Initial gain of the last layer of each branch: the network starts as the identity.
NEARLY_ZERO = 1e-5

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


class Resample(Enum):
    KEEP = 1
    HALVE = 2
    DOUBLE = 3


class Fourier(nn.Module):
    """Sines and cosines of ln(sigma) at fixed random frequencies. (SDE appendix C.2)"""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.W = nn.Parameter(FOURIER_SCALE * torch.randn(width), requires_grad=False)

    def forward(self, sigma: Tensor) -> Tensor:
        # The published order of the factors: another one rounds angles of 10³ differently in
        # float32.
        angle = sigma.log()[:, None] * self.W * 2 * math.pi
        return torch.cat((angle.sin(), angle.cos()), dim=1)


class NIN(nn.Module):
    """A linear layer over the last dimension whose matrix is stored [in, out]."""

    def __init__(self, width: int, gain: float) -> None:
        super().__init__()
        self.W, self.b = nn.Parameter(torch.empty(width, width)), nn.Parameter(torch.zeros(width))
        nn.init.xavier_uniform_(self.W, gain)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.W.T, self.b)


class Resampler(nn.Module):
    """Halves or doubles with the filter 1, 3, 3, 1 along both axes; zero outside the picture."""

    kernel: Tensor

    def __init__(self, how: Resample) -> None:
        super().__init__()
        self.how = how
        # A constant, never in a file: on the CPU, even where the parameters are on "meta".
        line = torch.tensor(FIR, device="cpu") / sum(FIR)
        # Doubling inserts zeros for three of four samples.
        gain = 4.0 if how is Resample.DOUBLE else 1.0
        self.register_buffer("kernel", gain * torch.outer(line, line)[None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.how is Resample.KEEP:
            return x
        channels = x.shape[1]
        kernel = self.kernel.expand(channels, 1, -1, -1)
        if self.how is Resample.HALVE:
            return F.conv2d(x, kernel, stride=2, padding=1, groups=channels)
        # Since the kernel is symmetric, a transposed convolution inserts the zeros, pads (2, 1) and
        # filters.
        return F.conv_transpose2d(x, kernel, stride=2, padding=1, groups=channels)


class Block(nn.Module):
    """A BigGAN residual block that halves, doubles or keeps the size; `time` and `face` have passed
    a SiLU.
    """

    def __init__(
        self,
        cin: int,
        cout: int,
        condition: int,
        feature: bool,
        *,
        dropout: float,
        how: Resample = Resample.KEEP,
    ) -> None:
        super().__init__()
        self.GroupNorm_0 = _norm(cin)
        self.Conv_0 = _conv(cin, cout, 3)
        self.Dense_0 = _dense(condition, cout)
        if feature:
            self.Dense_1 = _dense(condition, cout)
        self.GroupNorm_1 = _norm(cout)
        self.dropout = nn.Dropout(dropout)
        self.Conv_1 = _conv(cout, cout, 3, NEARLY_ZERO)
        if cin != cout or how is not Resample.KEEP:
            self.Conv_2 = _conv(cin, cout, 1)
        self.resample = Resampler(how)

    def forward(self, x: Tensor, time: Tensor, face: Tensor | None) -> Tensor:
        condition = self.Dense_0(time)
        if face is not None:
            condition = condition + self.Dense_1(face)
        h = self.Conv_0(self.resample(F.silu(self.GroupNorm_0(x)))) + condition[:, :, None, None]
        h = self.Conv_1(self.dropout(F.silu(self.GroupNorm_1(h))))
        x = self.resample(x)
        if hasattr(self, "Conv_2"):
            x = self.Conv_2(x)
        return (x + h) / math.sqrt(2)  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Self-attention of the map's cells, with one head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.GroupNorm_0 = _norm(width)
        gain = math.sqrt(0.1)
        self.NIN_0, self.NIN_1, self.NIN_2 = NIN(width, gain), NIN(width, gain), NIN(width, gain)
        self.NIN_3 = NIN(width, NEARLY_ZERO)

    def forward(self, x: Tensor) -> Tensor:
        cells = self.GroupNorm_0(x).flatten(2).transpose(1, 2)[:, None]
        attended = F.scaled_dot_product_attention(
            self.NIN_0(cells), self.NIN_1(cells), self.NIN_2(cells)
        )
        h = self.NIN_3(attended)[:, 0].transpose(1, 2).unflatten(2, x.shape[2:])
        return (x + h) / math.sqrt(2)  # type: ignore[no-any-return]


class Combine(nn.Module):
    """Adds the halved input to the features of its size."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.Conv_0 = _conv(2 * CHANNELS, width, 1)

    def forward(self, pixels: Tensor, h: Tensor) -> Tensor:
        return self.Conv_0(pixels) + h  # type: ignore[no-any-return]


class NCSNpp(nn.Module):
    """x and lr N×3×S×S with values in [0, 1] (x before its noise), sigma N, feature N×(4·width) or
    None → score.

    The feature may have any scale: each row is stretched to [0, 1]. A row of equal values, such as
    the zeros that mean "no feature", becomes zeros. The score has x's type, whatever autocast
    computes inside.
    """

    sigmas: Tensor
    """The published noise levels, highest first: stored in the files, not used in the network."""

    def __init__(
        self,
        side: int = 128,
        width: int = 128,
        multipliers: tuple[int, ...] = (1, 1, 2, 2, 2, 2, 2),
        attention_at: int = 16,
        *,
        feature: bool = True,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.side, self.width, self.attention_at = side, width, attention_at
        self.feature_length = 4 * width if feature else 0
        self.sizes = [side >> level for level in range(len(multipliers))]
        lowest = SIGMA_MIN if feature else SIGMA_MIN_WITHOUT_FEATURE
        sigmas = np.exp(np.linspace(np.log(SIGMA_MAX), np.log(lowest), SCALES))
        self.register_buffer("sigmas", torch.from_numpy(sigmas))
        self.halve = Resampler(Resample.HALVE)
        self.all_modules = nn.ModuleList(self._in_order([width * m for m in multipliers], dropout))

    def _in_order(self, widths: list[int], dropout: float) -> Iterator[nn.Module]:
        """Yield the modules in the order of `forward`, which is the published numbering."""
        condition = 4 * self.width
        block = partial(
            Block, condition=condition, feature=self.feature_length > 0, dropout=dropout
        )
        yield from (
            Fourier(self.width),
            _dense(2 * self.width, condition),
            _dense(condition, condition),
        )
        yield _conv(2 * CHANNELS, self.width, 3)
        skips, channels = [self.width], self.width
        for size, width in zip(self.sizes, widths, strict=True):
            for _ in range(BLOCKS):
                yield block(channels, width)
                if size == self.attention_at:
                    yield Attention(width)
                channels = width
                skips.append(channels)
            if size != self.sizes[-1]:
                yield from (block(width, width, how=Resample.HALVE), Combine(width))
                skips.append(channels)
        yield from (block(channels, channels), Attention(channels), block(channels, channels))
        for size, width in reversed(list(zip(self.sizes, widths, strict=True))):
            for _ in range(BLOCKS + 1):
                yield block(channels + skips.pop(), width)
                channels = width
            if size == self.attention_at:
                yield Attention(width)
            if size != self.side:
                yield block(width, width, how=Resample.DOUBLE)
        yield from (_norm(channels), _conv(channels, CHANNELS, 3, NEARLY_ZERO))

    def forward(self, x: Tensor, lr: Tensor, sigma: Tensor, feature: Tensor | None) -> Tensor:
        assert (feature is not None) == (self.feature_length > 0), (
            "a feature, exactly where the network takes one"
        )
        sigma = sigma.to(x.dtype)
        fourier, dense_1, dense_2, *body = self.all_modules
        face = None
        # Without autocast: angles reach 10³, which bfloat16 cannot resolve.
        with torch.autocast(x.device.type, enabled=False):
            time = F.silu(dense_2(F.silu(dense_1(fourier(sigma)))))
            if feature is not None:
                stretched = stretch(feature.to(x.dtype))
                face = F.silu(dense_2(F.silu(stretched)))  # the layer of the time, as published
        pixels = 2 * torch.stack((x, lr), dim=2).flatten(1, 2) - 1
        return self._u_net(iter(body), pixels, time, face) / sigma[:, None, None, None]

    def _u_net(
        self, step: Iterator[nn.Module], pixels: Tensor, time: Tensor, face: Tensor | None
    ) -> Tensor:
        skips = [next(step)(pixels)]
        for size in self.sizes:
            for _ in range(BLOCKS):
                h = next(step)(skips[-1], time, face)
                skips.append(next(step)(h) if size == self.attention_at else h)
            if size != self.sizes[-1]:
                pixels = self.halve(pixels)
                h = next(step)(skips[-1], time, face)
                skips.append(next(step)(pixels, h))
        h = next(step)(skips[-1], time, face)
        h = next(step)(h)
        h = next(step)(h, time, face)
        for size in reversed(self.sizes):
            for _ in range(BLOCKS + 1):
                h = next(step)(torch.cat((h, skips.pop()), dim=1), time, face)
            if size == self.attention_at:
                h = next(step)(h)
            if size != self.side:
                h = next(step)(h, time, face)
        norm, conv = step
        return conv(F.silu(norm(h)))  # type: ignore[no-any-return]


def stretch(feature: Tensor) -> Tensor:
    """Return each row stretched to [0, 1]; a row of equal values becomes zeros."""
    low, high = feature.aminmax(dim=1, keepdim=True)
    return (feature - low) / torch.where(high > low, high - low, 1.0)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(channels // 4, 32), channels, eps=1e-6)


def _dense(cin: int, cout: int) -> nn.Linear:
    return _initialised(nn.Linear(cin, cout), 1.0)


def _conv(cin: int, cout: int, kernel: int, gain: float = 1.0) -> nn.Conv2d:
    return _initialised(nn.Conv2d(cin, cout, kernel, padding=kernel // 2), gain)


def _initialised(layer: Layer, gain: float) -> Layer:
    nn.init.xavier_uniform_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
