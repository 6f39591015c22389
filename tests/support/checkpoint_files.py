"""Files of score networks as they are published, with seeded weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from safetensors.torch import save_file
from torch import Tensor

from fasr_video.sr.networks.ncsnpp import NCSNpp
from tests.support.bad_weights import save_with_torch
from tests.support.ncsnpp import twin

Tree = dict[str, Any]


def state_of(net: NCSNpp) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def fasr_content() -> Tree:
    """A FASR file as its training loop leaves it; the averaged weights are the twin's, the last
    ones are not.
    """
    net = twin()
    averaged = [p.detach().clone() for p in net.parameters() if p.requires_grad]
    trained = {name for name, p in net.named_parameters() if p.requires_grad}
    model = {
        f"module.{name}": value + 1 if name in trained else value
        for name, value in state_of(net).items()
    }
    return {
        # The learning rate is a NumPy number there: the warm-up multiplies it with np.minimum(…).
        "optimizer": {"state": {}, "param_groups": [{"lr": np.float64(2e-4), "params": [0, 1]}]},
        "model": model,
        "ema": {"decay": 0.999, "num_updates": 7, "shadow_params": averaged},
        "step": 7,
    }


def fasr_file(folder: Path, edit: Callable[[Tree], object] = lambda tree: None) -> Path:
    content = fasr_content()
    edit(content)
    return save_with_torch(content, folder / "checkpoint.pth")


def flax_net(**changes: Any) -> NCSNpp:
    return twin(**({"side": 128, "feature": False} | changes))


def flax_params(net: NCSNpp) -> Tree:
    """The parameters by the names that Flax gives: the order of making, by class."""
    blocks = [n for n, m in enumerate(net.all_modules) if hasattr(m, "Dense_0")]
    attentions = [n for n, m in enumerate(net.all_modules) if hasattr(m, "NIN_0")]
    combines = [
        7,
        11,
        15,
    ]  # after the halving blocks of a four-level network that attends at its last level
    last = len(net.all_modules) - 1
    names = {
        "GaussianFourierProjection_0": 0,
        "Dense_0": 1,
        "Dense_1": 2,
        "Conv_0": 3,
        "Conv_1": last,
    }
    names |= {"GroupNorm_0": last - 1}
    names |= {f"ResnetBlockBigGANpp_{i}": n for i, n in enumerate(blocks)}
    names |= {f"AttnBlockpp_{i}": n for i, n in enumerate(attentions)}
    names |= {f"Combine_{i}": n for i, n in enumerate(combines)}
    return {
        name: flax_module(net.all_modules[number].state_dict()) for name, number in names.items()
    }


def flax_module(state: dict[str, Tensor]) -> Tree:
    tree: Tree = {}
    for key, value in state.items():
        owner, _, leaf = key.rpartition(".")
        node = tree.setdefault(owner, {}) if owner else tree
        array = value.numpy()
        if leaf == "weight":
            leaf = "scale" if array.ndim == 1 else "kernel"
            array = (
                array.T
                if array.ndim == 2
                else np.einsum("oihw->hwio", array)
                if array.ndim == 4
                else array
            )
        node[leaf] = array
    return tree


def pack(value: Any) -> msgpack.ExtType:
    if isinstance(value, complex):
        return msgpack.ExtType(2, msgpack.packb((value.real, value.imag)))
    array = np.asarray(value)
    code = 1 if isinstance(value, np.ndarray) else 3
    return msgpack.ExtType(code, msgpack.packb((array.shape, array.dtype.name, array.tobytes())))


def flax_file(folder: Path, edit: Callable[[Tree], object] = lambda tree: None) -> Path:
    params, last = flax_params(flax_net()), flax_params(flax_net())
    last["Conv_0"]["kernel"] = last["Conv_0"]["kernel"] + 1
    tree: Tree = {
        "step": np.int32(5),
        "optimizer": {"target": last, "state": {"step": 5}},
        "lr": 2e-4,
        "model_state": {},
        "ema_rate": 0.999,
        "params_ema": params,
        "rng": np.array([0, 42], np.uint32),
    }
    edit(tree)
    (folder / "checkpoint_5").write_bytes(msgpack.packb(tree, default=pack, strict_types=True))
    return folder / "checkpoint_5"


def as_safetensors(folder: Path) -> Path:
    save_file(state_of(twin()), folder / "a.safetensors")
    return folder / "a.safetensors"
