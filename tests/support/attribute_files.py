"""Faces with attributes, and files of attribute classifiers as they are published."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fasr_video.datasets.faces import Faces
from fasr_video.sr.networks.attributes import AttributeNet
from tests.support.checkpoint_files import pack
from tests.support.paths import FIXTURES

KEYS = FIXTURES / "srdg_classifier.keys.json"


Tree = dict[str, Any]


Array = NDArray[Any]


def golden_array(name: str, shape: list[int]) -> Array:
    """The array of that name."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    normal = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    leaf = name.rpartition("/")[2]
    if leaf == "kernel":
        return normal / np.float32(math.sqrt(math.prod(shape[:-1])))
    start, spread = {"W": (0, 16), "scale": (1, 0.1), "var": (1, 0.1)}.get(leaf, (0, 0.1))
    return np.float32(start) + np.float32(spread) * (np.abs(normal) if leaf == "var" else normal)


def published_tree() -> Tree:
    tree: Tree = {}
    for name, shape in json.loads(KEYS.read_text()).items():
        *owners, leaf = name.split("/")
        node = tree
        for owner in owners:
            node = node.setdefault(owner, {})
        node[leaf] = golden_array(name, shape)
    return tree


def published_file(folder: Path, edit: Callable[[Tree], object] = lambda tree: None) -> Path:
    tree = published_tree()
    edit(tree)
    (folder / "ckpt_gender").write_bytes(msgpack.packb(tree, default=pack))
    return folder / "ckpt_gender"


def randomise(net: AttributeNet) -> AttributeNet:
    """No statistic and no bias where a new network has it."""
    g = torch.Generator().manual_seed(0)
    for name, value in net.state_dict().items():
        if name.endswith(("running_mean", "running_var", "bias")):
            value += 0.1 * torch.rand(value.shape, generator=g)
    return net.eval()


def labelled_faces(n: int = 48) -> tuple[Faces, Tensor]:
    """A disc, a bar above and a bar below it, each bright or dark: one for each attribute."""
    g = torch.Generator().manual_seed(0)
    labels = torch.tensor([[i & 1, i >> 1 & 1, i >> 2 & 1] for i in range(n)])
    y, x = torch.meshgrid(torch.linspace(-1, 1, 144), torch.linspace(-1, 1, 144), indexing="ij")
    shapes = torch.stack(
        (x**2 + y**2 < 0.1, (y > -0.8) & (y < -0.4), (y > 0.4) & (y < 0.8))
    ).float()
    light = 0.5 + 0.4 * torch.einsum("na,ahw->nhw", 2.0 * labels - 1, shapes)[:, None]
    pictures = (light + 0.02 * torch.randn(n, 3, 144, 144, generator=g)).clamp(0, 1)
    return Faces((255 * pictures).byte(), tuple(f"{i}/a.png" for i in range(n))), labels
