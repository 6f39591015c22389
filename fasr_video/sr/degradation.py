"""The papers' degradation of faces by resizing (cameras and codecs are in `surveillance.py`).

Resizing multiplies by one weight matrix an axis, x → W x Wᵀ: exact in any type on any device.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor


def shrink(x: Tensor, side: int) -> Tensor:
    """Return N×C×H×W at side×side, by antialiased bilinear resizing (as TensorFlow).

    Each pixel is the average under a triangle two of its own cells wide, inside the picture.
    """
    return _resize(x, side, "triangle")


def enlarge(x: Tensor, side: int) -> Tensor:
    """Return N×C×H×W at side×side, by bicubic resizing (Keys, a = −½, as TensorFlow's).

    Values are clamped to [0, 1], as in a stored picture.
    """
    return _resize(x, side, "cubic").clamp(0, 1)


def _resize(x: Tensor, side: int, kernel: str) -> Tensor:
    if side < 1:
        raise ValueError(f"a picture cannot have {side} pixels a side")
    if not x.is_floating_point():
        raise ValueError(f"a picture to resize has values in [0, 1], not of type {x.dtype}")
    down, across = (weights(n, side, kernel).to(x) for n in x.shape[-2:])
    with torch.autocast(x.device.type, enabled=False):  # bfloat16 would be wrong by up to 3/255
        return down @ x @ across.T


@lru_cache(maxsize=512)
def weights(n: int, side: int, kernel: str) -> Tensor:
    """Return side×n: the weight of each of n pixels in each of `side`; rows sum to one.

    Pixel centres lie at half numbers.
    """
    scale = max(n / side, 1.0)  # the kernel widens for shrinking alone
    centres = (torch.arange(side, dtype=torch.float64) + 0.5) * n / side
    distance = (torch.arange(n, dtype=torch.float64) + 0.5 - centres[:, None]).abs() / scale
    table = KERNELS[kernel](distance)
    return table / table.sum(1, keepdim=True)


def _triangle(d: Tensor) -> Tensor:
    return (1 - d).clamp_min(0)


def _cubic(d: Tensor) -> Tensor:
    near = (1.5 * d - 2.5) * d**2 + 1
    far = ((-0.5 * d + 2.5) * d - 4) * d + 2
    return torch.where(d < 1, near, torch.where(d < 2, far, 0.0))


KERNELS: dict[str, Callable[[Tensor], Tensor]] = {"triangle": _triangle, "cubic": _cubic}
