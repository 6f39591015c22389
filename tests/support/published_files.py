"""Writes networks as the files that FASR, SDE-SR and SRDG publish, for tests of reading them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgpack
import torch
from numpy.typing import NDArray

from fasr_video.sr.checkpoints import flax_names, to_flax
from fasr_video.sr.denoiser import Denoiser
from fasr_video.sr.networks.ncsnpp import NCSNpp

EMA_RATE, LEARNING_RATE = 0.999, 2e-4  # FASR's


def export_published(
    model: NCSNpp | Denoiser, path: Path, layout: Literal["fasr", "sde-sr"] = "fasr"
) -> None:
    """Write the network as a released file: "fasr" is the PyTorch layout, "sde-sr" that of Flax.

    The averaged weights are the last ones. PyTorch's optimizer is new; Flax's is left out.
    """
    network = model.network if isinstance(model, Denoiser) else model
    assert isinstance(network, NCSNpp)
    if layout == "fasr":
        torch.save(_torch_content(network), path)
    else:
        path.write_bytes(msgpack.packb(_flax_content(network), default=_pack))


def _torch_content(network: NCSNpp) -> dict[str, object]:
    state = {name: value.detach().cpu() for name, value in network.state_dict().items()}
    trained = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    return {
        "optimizer": torch.optim.Adam(network.parameters(), LEARNING_RATE).state_dict(),
        "model": {f"module.{name}": value for name, value in state.items()},
        "ema": {
            "decay": EMA_RATE,
            "num_updates": 0,
            "shadow_params": [state[name] for name in trained],
        },
        "step": 0,
    }


def _flax_content(network: NCSNpp) -> dict[str, object]:
    assert not network.feature_length, "the Flax layout has no feature path"
    params: dict[str, Any] = {}
    names = flax_names(network)
    for key, parameter in network.named_parameters():
        *owners, leaf = names[key].split("/")
        node = params
        for owner in owners:
            node = node.setdefault(owner, {})
        node[leaf] = to_flax(names[key], parameter.detach().cpu()).numpy()
    return {"step": 0, "model_state": {}, "ema_rate": EMA_RATE, "params_ema": params}


def _pack(array: NDArray[Any]) -> msgpack.ExtType:
    return msgpack.ExtType(1, msgpack.packb((array.shape, array.dtype.name, array.tobytes())))
