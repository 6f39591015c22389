"""Published networks from their files: FASR, SDE-SR and SRDG, as PyTorch or Flax wrote them.

What a file is shows in its names; nothing in it is executed:

    PyTorch (FASR, SDE-SR)   {'model': {'module.all_modules.0.W': …}, 'ema': {'shadow_params': […]}, 'step', …},
                             or the bare state dict; FASR's blocks have a Dense_1, for the face feature
    Flax (SDE-SR, SRDG)      {'params_ema': {'GaussianFourierProjection_0': …, 'Conv_0': …}, 'optimizer', 'step', …}

Both sample with the averaged weights. PyTorch averages the trained ones only, so the Fourier frequencies come from
'model'; Flax averages the frequencies too, which leaves them as they are up to rounding, and its average is taken as it
is. The frequencies are stored already scaled in both. Flax numbers modules by class in the order of their making, which
is the order of `all_modules`; its kernels are HWIO and [in, out], its norms' weight is called scale. A Flax file tells
neither the noise levels nor the picture's side: those of the releases are taken (sigma 0.01 … 348, 128 px).

SRDG's attribute classifiers are Flax files of their own: {'params': …, 'batch_stats': …}, for one attribute each.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import msgpack
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fasr_video.checkpoint import (
    check_contract,
    check_finite,
    check_shapes,
    fill,
    find_device,
    read_state,
    read_torch,
)
from fasr_video.errors import EnvironmentFailure, ModelError, UsageError
from fasr_video.sr import weights
from fasr_video.sr.attributes import AttributeClassifier
from fasr_video.sr.denoiser import Denoiser, ScoreDenoiser
from fasr_video.sr.networks.attributes import AttributeNet
from fasr_video.sr.networks.ncsnpp import (
    BLOCKS,
    SIGMA_MAX,
    SIGMA_MIN_WITHOUT_FEATURE,
    Attention,
    Block,
    Combine,
    Fourier,
    NCSNpp,
)

REMEDY = "give weights as FASR, SDE-SR or SRDG publishes them"
ATTENTION_AT, FLAX_SIDE = 16, 128
EMA_RATE, LEARNING_RATE = 0.999, 2e-4  # FASR's, written into exported files

MSGPACK_MAPS = {
    *range(0x81, 0x90),
    0xDE,
    0xDF,
}  # what a msgpack file of a map begins with; no PyTorch file does

FLAX_CLASSES: dict[type[nn.Module], str] = {
    Fourier: "GaussianFourierProjection",
    nn.Linear: "Dense",
    nn.Conv2d: "Conv",
    Block: "ResnetBlockBigGANpp",
    Attention: "AttnBlockpp",
    Combine: "Combine",
    nn.GroupNorm: "GroupNorm",
}
FLAX_WEIGHTS: dict[type[nn.Module], str] = {
    nn.Linear: "kernel",
    nn.Conv2d: "kernel",
    nn.GroupNorm: "scale",
}
CLASSIFIER_WEIGHTS = {
    "kernel": "weight",
    "scale": "weight",
    "mean": "running_mean",
    "var": "running_var",
}


class Kind(StrEnum):
    FASR = "fasr"
    # The score network of SDE-SR and of SRDG: no face feature.
    SDE_SR = "sde-sr"


class Published(ScoreDenoiser):
    """A released network in eval mode, with what its file says about it."""

    band_known = False

    def __init__(
        self, network: NCSNpp, weights: Literal["ema", "raw"], sigma_min: float, sigma_max: float
    ) -> None:
        super().__init__(network, sigma_min, sigma_max)
        self.weights = weights
        """The averaged weights, which the papers sample with, or the last ones where a file has no others."""

    @property
    def kind(self) -> Kind:
        return Kind.FASR if self.feature_length else Kind.SDE_SR


def load(path: Path | str, device: str | torch.device = "cpu") -> Denoiser:
    """The denoiser of a file: a released one, whichever of the layouts above it has, or one of our own."""
    path, place = Path(path), find_device(str(device))
    if not path.is_file():
        raise ModelError(path, "no such file", "check the path of the weights")
    check_contract(path, weights.FORMAT)
    if weights.is_own(path):
        return weights.load_own(path).to(place)
    with path.open("rb") as handle:
        is_map = (handle.read(1) or b"\0")[0] in MSGPACK_MAPS
    is_flax = is_map and path.suffix != ".safetensors"
    network, which = _from_flax(path) if is_flax else _from_torch(path)
    # exp(log(0.001)) is not quite 0.001.
    sigma_min, sigma_max = (float(f"{v:.9g}") for v in network.sigmas.aminmax())
    return Published(network, which, sigma_min, sigma_max).eval().to(place)


def export_published(
    model: NCSNpp | Denoiser, path: Path | str, layout: Literal["fasr", "sde-sr"] = "fasr"
) -> None:
    """Write the network as a released file: "fasr" is the PyTorch layout, "sde-sr" that of Flax.

    The weights are both the last and the averaged ones; PyTorch's optimizer starts anew, Flax's is left out.
    """
    network, path = model.network if isinstance(model, Denoiser) else model, Path(path)
    if not isinstance(network, NCSNpp):
        raise UsageError(
            "published layout", f"a {type(network).__name__} has none", "give an NCSN++ network"
        )
    partial = path.with_name(path.name + ".new")
    try:
        with partial.open("wb") as handle:
            if layout == "fasr":
                torch.save(_torch_content(network), handle)
            else:
                handle.write(msgpack.packb(_flax_content(network), default=_pack))
            handle.flush()
            os.fsync(handle.fileno())
        partial.replace(path)
    except OSError as error:
        raise EnvironmentFailure(
            path, f"cannot be written ({error.strerror})", "check the folder and its space"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


# --- PyTorch -----------------------------------------------------------------------------------------------------


def _from_torch(path: Path) -> tuple[NCSNpp, Literal["ema", "raw"]]:
    content: object = read_state(path) if path.suffix == ".safetensors" else read_torch(path)
    held = content if isinstance(content, Mapping) else {}
    model = held.get("model", held.get("state_dict", held))
    model = model if isinstance(model, Mapping) else {}
    state = {str(k).removeprefix("module."): v for k, v in model.items() if isinstance(v, Tensor)}
    if not any(key.startswith("all_modules.") for key in state):
        raise _unknown(path, held)
    network = _sketch(path, _torch_geometry, state)
    check_shapes(path, network.state_dict(), state, REMEDY)
    averaged = _averaged(path, network, held["ema"]) if "ema" in held else {}
    state |= averaged
    check_finite(path, state)
    _fill(network, state)
    return network, "ema" if averaged else "raw"


def _torch_geometry(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """NCSNpp's arguments from a state dict."""
    parts: dict[int, set[str]] = {}
    for key in state:
        if key.startswith("all_modules."):
            _, number, part, *_ = key.split(".")
            parts.setdefault(int(number), set()).add(part)
    width = len(state["all_modules.0.W"])
    starts = [4, *(n + 1 for n, names in sorted(parts.items()) if names == {"Conv_0"})]
    widths = [len(state[f"all_modules.{n}.Conv_0.weight"]) for n in starts]
    attended = [level for level, n in enumerate(starts) if "NIN_0" in parts.get(n + 1, ())]
    return {
        "side": ATTENTION_AT << attended[0],
        "width": width,
        "multipliers": tuple(round(w / width) for w in widths),
        "attention_at": ATTENTION_AT,
        "feature": any("Dense_1" in names for names in parts.values()),
    }


def _averaged(path: Path, network: NCSNpp, ema: object) -> dict[str, Tensor]:
    """The EMA's list, by name: it has the trained parameters in their order."""
    shadows = ema.get("shadow_params") if isinstance(ema, Mapping) else None
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    if not isinstance(shadows, list) or not all(isinstance(v, Tensor) for v in shadows):
        raise ModelError(path, "its 'ema' has no list of tensors 'shadow_params'", REMEDY)
    if len(shadows) != len(trained):
        reason = f"its EMA has {len(shadows)} tensors, the network {len(trained)} trained ones"
        raise ModelError(path, reason, REMEDY)
    averaged: dict[str, Tensor] = dict(zip(trained, shadows, strict=True))
    check_shapes(path, trained, averaged, REMEDY)
    return averaged


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


# --- Flax --------------------------------------------------------------------------------------------------------


def read_flax(path: Path) -> dict[str, Any]:
    """What `flax.training.checkpoints` wrote: nested dicts of NumPy arrays and numbers."""
    try:
        tree = _joined(msgpack.unpackb(path.read_bytes(), ext_hook=_unpack))
        assert isinstance(tree, dict)
        return tree
    except Exception as error:  # damaged bytes fail anywhere in the unpacking
        raise ModelError(
            path, "not a readable Flax file: cut short or damaged", "copy or download it again"
        ) from error


def _from_flax(path: Path) -> tuple[NCSNpp, Literal["ema", "raw"]]:
    which, params = _flax_params(path, read_flax(path))
    given = {name: torch.from_numpy(_plain(name, value).copy()) for name, value in _leaves(params)}
    network = _sketch(path, _flax_geometry, given)
    names, parameters = _flax_names(network), dict(network.named_parameters())
    check_shapes(
        path, {name: _to_flax(name, parameters[key]) for key, name in names.items()}, given, REMEDY
    )
    check_finite(path, given)
    _fill(
        network,
        {key: _to_torch(name, given[name]) for key, name in names.items()}
        | {"sigmas": network.sigmas},
    )
    return network, which


def _flax_params(path: Path, tree: dict[str, Any]) -> tuple[Literal["ema", "raw"], dict[str, Any]]:
    optimizer = tree.get("optimizer")
    target = optimizer.get("target") if isinstance(optimizer, dict) else None
    for place in (tree.get("params_ema"), target, tree.get("params"), tree):
        if isinstance(place, dict) and any(
            str(key).startswith("ResnetBlockBigGANpp_") for key in place
        ):
            return "ema" if place is tree.get("params_ema") else "raw", place
    raise _unknown(path, tree)


def _flax_geometry(given: Mapping[str, Tensor]) -> dict[str, Any]:
    """NCSNpp's arguments from Flax's parameters."""
    width = len(given["GaussianFourierProjection_0/W"])
    levels = 1 + len({name.partition("/")[0] for name in given if name.startswith("Combine_")})
    first = (f"ResnetBlockBigGANpp_{(BLOCKS + 1) * level}/Conv_0/bias" for level in range(levels))
    multipliers = tuple(round(len(given[name]) / width) for name in first)
    return {
        "side": FLAX_SIDE,
        "width": width,
        "multipliers": multipliers,
        "attention_at": ATTENTION_AT,
        "feature": False,
    }


def _flax_names(network: NCSNpp) -> dict[str, str]:
    """Flax's name of every parameter, by the PyTorch name."""
    seen: Counter[str] = Counter()
    numbered: list[str] = []
    for module in network.all_modules:
        name = FLAX_CLASSES[type(module)]
        numbered.append(f"{name}_{seen[name]}")
        seen[name] += 1
    names: dict[str, str] = {}
    for key, _ in network.named_parameters():
        owner, _, leaf = key.rpartition(".")
        _, number, *inner = owner.split(".")
        if leaf == "weight":
            leaf = FLAX_WEIGHTS[type(network.get_submodule(owner))]
        names[key] = "/".join((numbered[int(number)], *inner, leaf))
    return names


def _to_flax(name: str, value: Tensor) -> Tensor:
    """Kernels are OIHW and [out, in] in PyTorch, HWIO and [in, out] in Flax."""
    if not name.endswith("/kernel"):
        return value
    return value.permute(2, 3, 1, 0) if value.ndim == 4 else value.T


def _to_torch(name: str, value: Tensor) -> Tensor:
    if not name.endswith("/kernel"):
        return value
    return value.permute(3, 2, 0, 1) if value.ndim == 4 else value.T


def _flax_content(network: NCSNpp) -> dict[str, object]:
    if network.feature_length:
        raise UsageError("layout sde-sr", "it has no place for a feature path", "use layout fasr")
    if (network.side, network.attention_at) != (FLAX_SIDE, ATTENTION_AT):
        raise UsageError(
            "layout sde-sr",
            f"it is for {FLAX_SIDE} px, the network for {network.side}",
            "use layout fasr",
        )
    params: dict[str, Any] = {}
    names = _flax_names(network)
    for key, parameter in network.named_parameters():
        *owners, leaf = names[key].split("/")
        place = params
        for owner in owners:
            place = place.setdefault(owner, {})
        place[leaf] = _to_flax(names[key], parameter.detach().cpu()).numpy()
    return {"step": 0, "model_state": {}, "ema_rate": EMA_RATE, "params_ema": params}


def load_attribute_classifier(
    path: Path | str, device: str | torch.device = "cpu", attribute: str = "attribute"
) -> AttributeClassifier:
    """The classifier of a file, in eval mode: SRDG's, or one of our own.

    SRDG's files do not say which attribute is theirs: it gets the name `attribute`.
    """
    path, place = Path(path), find_device(str(device))
    if not path.is_file():
        raise ModelError(path, "no such file", "check the path of the weights")
    if path.suffix == ".safetensors":
        return weights.load_attributes(path).to(place)
    tree, network = read_flax(path), AttributeNet()
    parts = [tree.get("params"), tree.get("batch_stats")]
    if not all(isinstance(part, dict) for part in parts):
        reason = (
            f"no attribute classifier: it lacks params or batch_stats, it has {_first_names(tree)}"
        )
        raise ModelError(path, reason, "give a classifier as SRDG publishes it")
    state = dict(
        _classifier_weight(name, value) for part in parts for name, value in _leaves(part or {})
    )
    fill(network, state, path, "give a classifier as SRDG publishes it")
    return (
        AttributeClassifier(network, (attribute,), SIGMA_MIN_WITHOUT_FEATURE, SIGMA_MAX)
        .eval()
        .to(place)
    )


def _classifier_weight(name: str, value: NDArray[Any]) -> tuple[str, Tensor]:
    """By its PyTorch name; modules are called alike in both."""
    owner, _, leaf = name.replace("/", ".").rpartition(".")
    return f"{owner}.{CLASSIFIER_WEIGHTS.get(leaf, leaf)}", _to_torch(
        name, torch.from_numpy(value.copy())
    ).float()


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, NDArray[Any]]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}/")
        elif isinstance(value, np.ndarray):
            yield f"{prefix}{name}", value


def _plain(name: str, value: NDArray[Any]) -> NDArray[Any]:
    """Flax of the releases' time (0.3) stores a GroupNorm's scale and bias as 1×1×1×C, later Flax as C."""
    return value.reshape(-1) if "GroupNorm_" in name and value.shape[:-1] == (1, 1, 1) else value


def _unpack(code: int, data: bytes) -> object:
    """Flax's extension types: 1 an array, 2 a complex number, 3 a NumPy number as an array without axes."""
    if code == 2:
        return complex(*msgpack.unpackb(data))
    if code not in (1, 3):
        raise ValueError(f"extension type {code}")
    shape, dtype, values = msgpack.unpackb(data)
    array: NDArray[Any] = np.frombuffer(values, np.dtype(dtype)).reshape(shape)
    return array if code == 1 else array[()]


def _pack(array: NDArray[Any]) -> msgpack.ExtType:
    return msgpack.ExtType(1, msgpack.packb((array.shape, array.dtype.name, array.tobytes())))


def _joined(node: Any) -> Any:
    """Arrays above 1 GiB come in chunks; lists are dicts of numbers everywhere in Flax."""
    if not isinstance(node, dict):
        return node
    if "__msgpack_chunked_array__" not in node:
        return {name: _joined(value) for name, value in node.items()}
    shape, chunks = (
        [node[part][str(i)] for i in range(len(node[part]))] for part in ("shape", "chunks")
    )
    return np.concatenate(chunks).reshape(shape)


# --- both --------------------------------------------------------------------------------------------------------


def _sketch(
    path: Path,
    geometry: Callable[[Mapping[str, Tensor]], dict[str, Any]],
    given: Mapping[str, Tensor],
) -> NCSNpp:
    """The network that the names and shapes tell of, without memory for its weights."""
    try:
        with torch.device("meta"):
            return NCSNpp(**geometry(given))
    except KeyError as error:
        raise ModelError(path, f"it lacks {error.args[0]}", REMEDY) from error
    except (ArithmeticError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise ModelError(path, "the shapes in it fit no NCSN++ network", REMEDY) from error


def _fill(network: NCSNpp, state: Mapping[str, Tensor]) -> None:
    """The weights themselves become the network's: published files are large, one copy is enough."""
    exact = {k: v if k == "sigmas" else v.float().contiguous() for k, v in state.items()}
    network.load_state_dict(exact, assign=True)


def _unknown(path: Path, content: Mapping[Any, Any]) -> ModelError:
    reason = (
        f"no published score network: not PyTorch (model → module.all_modules.0.W, or all_modules.0.W bare), not Flax "
        f"(params_ema, optimizer → target or params → ResnetBlockBigGANpp_0); it has {_first_names(content)}"
    )
    return ModelError(path, reason, REMEDY)


def _first_names(content: Mapping[Any, Any]) -> str:
    return ", ".join(str(key) for key in list(content)[:3]) or "nothing by name"
