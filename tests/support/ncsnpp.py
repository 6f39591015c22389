"""NCSN++ with seeded weights, and its published numbers."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fasr_video.sr.networks.ncsnpp import NCSNpp
from tests.support.paths import FIXTURES


def seeded(net: nn.Module) -> nn.Module:
    """Weights made from the parameters' names: those that the published twin's score was computed
    with.
    """
    for name, parameter in net.named_parameters():
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
        normal = (
            np.random.default_rng(seed).standard_normal(tuple(parameter.shape)).astype(np.float32)
        )
        if parameter.ndim > 1:
            values = normal / math.sqrt(math.prod(parameter.shape[1:]))
        else:
            values = 0.1 * normal + (1 if name.endswith("weight") else 0)
        parameter.data.copy_(torch.from_numpy(values))
    return net


def twin(**changes: Any) -> NCSNpp:
    settings: dict[str, Any] = {"side": 64, "width": 16, "multipliers": (1, 1, 2, 2)}
    net = seeded(NCSNpp(**settings | changes))
    assert isinstance(net, NCSNpp)
    return net.eval()


def golden(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """x, y (LR), sigma, feat and score of the twin."""
    with np.load(FIXTURES / "fasr_nf16_64.npz") as file:
        return {name: torch.from_numpy(file[name]).to(dtype) for name in file}


def difference(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())
