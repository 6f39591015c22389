"""Published networks from their files: FASR, SDE-SR and SRDG, as PyTorch or Flax wrote them.

The names in a file show which kind it is; nothing in it is executed:

    PyTorch (FASR, SDE-SR)
        {'model': {'module.all_modules.0.W': …}, 'ema': {'shadow_params': […]}, 'step', …},
        or the bare state dict; FASR's blocks have a Dense_1, for the face feature
    Flax (SDE-SR, SRDG)
        {'params_ema': {'GaussianFourierProjection_0': …, 'Conv_0': …}, 'optimizer', 'step', …}

Both sample with the averaged weights. PyTorch averages trained weights only, so the Fourier
frequencies come from 'model'; Flax averages the frequencies too, which changes them by rounding
alone, and its average is used as it is. Both store the frequencies already scaled. Flax numbers
modules by class in the order of their creation, which is the order of `all_modules`; its kernels
are HWIO and [in, out], its norms' weight is called scale. A Flax file states neither the noise
levels nor the picture's side: those of the releases are used (sigma 0.01 … 348, 128 px).

SRDG's attribute classifiers are Flax files of their own: {'params': …, 'batch_stats': …}, for one
attribute each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
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
from fasr_video.errors import ModelError
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

# First bytes of a msgpack file that holds a map; no PyTorch file begins with one of them.
MSGPACK_MAPS = {*range(0x81, 0x90), 0xDE, 0xDF}

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


# What Flax stores: arrays, numbers, and more of such dictionaries, by their names.
Tree = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Geometry:
    """The arguments of NCSNpp that differ from file to file."""

    side: int
    width: int
    multipliers: tuple[int, ...]
    feature: bool


class Kind(StrEnum):
    FASR = "fasr"
    # The score network of SDE-SR and of SRDG: no face feature.
    SDE_SR = "sde-sr"


class Published(ScoreDenoiser):
    """A released network in eval mode, with what its file states about it."""

    band_known = False

    def __init__(
        self, network: NCSNpp, weights: Literal["ema", "raw"], sigma_min: float, sigma_max: float
    ) -> None:
        super().__init__(network, sigma_min, sigma_max)
        self.weights = weights
        """ema: averaged, as the papers sample; raw: the last ones, in a file that has no others."""

    @property
    def kind(self) -> Kind:
        return Kind.FASR if self.feature_length else Kind.SDE_SR


def load(path: Path | str, device: str | torch.device = "cpu") -> Denoiser:
    """Return the denoiser of a file: a released one in a layout above, or our own."""
    path = Path(path)
    target = find_device(str(device))
    if not path.is_file():
        raise ModelError(path, "no such file", "check the path of the weights")
    check_contract(path, weights.FORMAT)
    if weights.is_own(path):
        return weights.load_own(path).to(target)
    with path.open("rb") as handle:
        is_map = (handle.read(1) or b"\0")[0] in MSGPACK_MAPS
    is_flax = is_map and path.suffix != ".safetensors"
    network, which = _from_flax(path) if is_flax else _from_torch(path)
    # exp(log(0.001)) is not quite 0.001.
    sigma_min, sigma_max = (float(f"{v:.9g}") for v in network.sigmas.aminmax())
    return Published(network, which, sigma_min, sigma_max).eval().to(target)


# --- PyTorch ------------------------------------------------------------------------------------


def _from_torch(path: Path) -> tuple[NCSNpp, Literal["ema", "raw"]]:
    content: object = read_state(path) if path.suffix == ".safetensors" else read_torch(path)
    checkpoint = content if isinstance(content, Mapping) else {}
    model = checkpoint.get("model", checkpoint.get("state_dict", checkpoint))
    model = model if isinstance(model, Mapping) else {}
    state = {str(k).removeprefix("module."): v for k, v in model.items() if isinstance(v, Tensor)}
    if not any(key.startswith("all_modules.") for key in state):
        raise _unknown(path, checkpoint)
    network = _sketch(path, _torch_geometry, state)
    check_shapes(path, network.state_dict(), state, REMEDY)
    averaged = _averaged(path, network, checkpoint["ema"]) if "ema" in checkpoint else {}
    state |= averaged
    check_finite(path, state)
    _fill(network, state)
    return network, "ema" if averaged else "raw"


def _torch_geometry(state: Mapping[str, Tensor]) -> Geometry:
    """Return the geometry of a network from its state dict."""
    parts: dict[int, set[str]] = {}
    for key in state:
        if key.startswith("all_modules."):
            _, number, part, *_ = key.split(".")
            parts.setdefault(int(number), set()).add(part)
    width = len(state["all_modules.0.W"])
    starts = [4, *(n + 1 for n, names in sorted(parts.items()) if names == {"Conv_0"})]
    widths = [len(state[f"all_modules.{n}.Conv_0.weight"]) for n in starts]
    attended = [level for level, n in enumerate(starts) if "NIN_0" in parts.get(n + 1, ())]
    return Geometry(
        side=ATTENTION_AT << attended[0],
        width=width,
        multipliers=tuple(round(w / width) for w in widths),
        feature=any("Dense_1" in names for names in parts.values()),
    )


def _averaged(path: Path, network: NCSNpp, ema: object) -> dict[str, Tensor]:
    """Return the EMA's tensors by name; its list has the trained parameters in their order."""
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


# --- Flax ---------------------------------------------------------------------------------------


def read_flax(path: Path) -> Tree:
    """Return the nested dicts of arrays and numbers that `flax.training.checkpoints` wrote."""
    try:
        tree = _joined(msgpack.unpackb(path.read_bytes(), ext_hook=_unpack))
        assert isinstance(tree, dict)
        return tree
    except Exception as error:  # damaged bytes may fail anywhere in msgpack
        raise ModelError(
            path, "not a readable Flax file: cut short or damaged", "copy or download it again"
        ) from error


def _from_flax(path: Path) -> tuple[NCSNpp, Literal["ema", "raw"]]:
    which, params = _flax_params(path, read_flax(path))
    tensors = {
        name: torch.from_numpy(_plain(name, value).copy()) for name, value in _leaves(params)
    }
    network = _sketch(path, _flax_geometry, tensors)
    names, parameters = flax_names(network), dict(network.named_parameters())
    check_shapes(
        path, {name: to_flax(name, parameters[key]) for key, name in names.items()}, tensors, REMEDY
    )
    check_finite(path, tensors)
    _fill(
        network,
        {key: _to_torch(name, tensors[name]) for key, name in names.items()}
        | {"sigmas": network.sigmas},
    )
    return network, which


def _flax_params(path: Path, tree: Tree) -> tuple[Literal["ema", "raw"], Tree]:
    optimizer = tree.get("optimizer")
    target = optimizer.get("target") if isinstance(optimizer, dict) else None
    for params in (tree.get("params_ema"), target, tree.get("params"), tree):
        if not isinstance(params, dict):
            continue
        if any(str(key).startswith("ResnetBlockBigGANpp_") for key in params):
            return "ema" if params is tree.get("params_ema") else "raw", params
    raise _unknown(path, tree)


def _flax_geometry(tensors: Mapping[str, Tensor]) -> Geometry:
    """Return the geometry of a network from Flax's parameters."""
    width = len(tensors["GaussianFourierProjection_0/W"])
    levels = 1 + len({name.partition("/")[0] for name in tensors if name.startswith("Combine_")})
    first = (f"ResnetBlockBigGANpp_{(BLOCKS + 1) * level}/Conv_0/bias" for level in range(levels))
    multipliers = tuple(round(len(tensors[name]) / width) for name in first)
    return Geometry(FLAX_SIDE, width, multipliers, feature=False)


def flax_names(network: NCSNpp) -> dict[str, str]:
    """Return Flax's name of each parameter, by its PyTorch name."""
    count: Counter[str] = Counter()
    numbered: list[str] = []
    for module in network.all_modules:
        name = FLAX_CLASSES[type(module)]
        numbered.append(f"{name}_{count[name]}")
        count[name] += 1
    names: dict[str, str] = {}
    for key, _ in network.named_parameters():
        owner, _, leaf = key.rpartition(".")
        _, number, *inner = owner.split(".")
        if leaf == "weight":
            leaf = FLAX_WEIGHTS[type(network.get_submodule(owner))]
        names[key] = "/".join((numbered[int(number)], *inner, leaf))
    return names


def to_flax(name: str, value: Tensor) -> Tensor:
    """Return a PyTorch tensor in Flax's order of axes.

    Kernels are OIHW and [out, in] in PyTorch, HWIO and [in, out] in Flax.
    """
    if not name.endswith("/kernel"):
        return value
    return value.permute(2, 3, 1, 0) if value.ndim == 4 else value.T


def _to_torch(name: str, value: Tensor) -> Tensor:
    """Return a Flax tensor in PyTorch's order of axes."""
    if not name.endswith("/kernel"):
        return value
    return value.permute(3, 2, 0, 1) if value.ndim == 4 else value.T


def load_attribute_classifier(
    path: Path | str, device: str | torch.device = "cpu", attribute: str = "attribute"
) -> AttributeClassifier:
    """Return the classifier of a file, in eval mode: SRDG's, or one of our own.

    SRDG's files do not name their attribute, so it gets the name `attribute`.
    """
    path = Path(path)
    target = find_device(str(device))
    if not path.is_file():
        raise ModelError(path, "no such file", "check the path of the weights")
    if path.suffix == ".safetensors":
        return weights.load_attributes(path).to(target)
    tree = read_flax(path)
    network = AttributeNet()
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
    classifier = AttributeClassifier(network, (attribute,), SIGMA_MIN_WITHOUT_FEATURE, SIGMA_MAX)
    return classifier.eval().to(target)


def _classifier_weight(name: str, value: NDArray[Any]) -> tuple[str, Tensor]:
    """Return the PyTorch name and value of a weight; modules have the same names in both."""
    owner, _, leaf = name.replace("/", ".").rpartition(".")
    tensor = _to_torch(name, torch.from_numpy(value.copy())).float()
    return f"{owner}.{CLASSIFIER_WEIGHTS.get(leaf, leaf)}", tensor


def _leaves(tree: Tree, prefix: str = "") -> Iterator[tuple[str, NDArray[Any]]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}/")
        elif isinstance(value, np.ndarray):
            yield f"{prefix}{name}", value


def _plain(name: str, value: NDArray[Any]) -> NDArray[Any]:
    """Return the value, with a GroupNorm's scale and bias as C: Flax 0.3 stored them as 1×1×1×C."""
    return value.reshape(-1) if "GroupNorm_" in name and value.shape[:-1] == (1, 1, 1) else value


def _unpack(code: int, data: bytes) -> object:
    """Return the value of a Flax extension type.

    1 is an array, 2 a complex number, 3 a NumPy number as an array without axes.
    """
    if code == 2:
        return complex(*msgpack.unpackb(data))
    if code not in (1, 3):
        raise ValueError(f"extension type {code}")
    shape, dtype, values = msgpack.unpackb(data)
    array: NDArray[Any] = np.frombuffer(values, np.dtype(dtype)).reshape(shape)
    return array if code == 1 else array[()]


def _joined(node: Any) -> Any:
    """Return the tree with its chunked arrays joined.

    Arrays above 1 GiB come in chunks. Flax stores each list as a dict with numbers as keys.
    """
    if not isinstance(node, dict):
        return node
    if "__msgpack_chunked_array__" not in node:
        return {name: _joined(value) for name, value in node.items()}
    shape, chunks = (
        [node[part][str(i)] for i in range(len(node[part]))] for part in ("shape", "chunks")
    )
    return np.concatenate(chunks).reshape(shape)


# --- both ---------------------------------------------------------------------------------------


def _sketch(
    path: Path,
    geometry: Callable[[Mapping[str, Tensor]], Geometry],
    tensors: Mapping[str, Tensor],
) -> NCSNpp:
    """Return the network that fits the names and shapes, without memory for its weights."""
    try:
        with torch.device("meta"):
            return NCSNpp(**asdict(geometry(tensors)), attention_at=ATTENTION_AT)
    except KeyError as error:
        raise ModelError(path, f"it lacks {error.args[0]}", REMEDY) from error
    except (ArithmeticError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise ModelError(path, "the shapes in it fit no NCSN++ network", REMEDY) from error


def _fill(network: NCSNpp, state: Mapping[str, Tensor]) -> None:
    """Make these tensors the network's own, without a copy, since published files are large."""
    exact = {k: v if k == "sigmas" else v.float().contiguous() for k, v in state.items()}
    network.load_state_dict(exact, assign=True)


def _unknown(path: Path, content: Mapping[Any, Any]) -> ModelError:
    reason = (
        "no published score network: not PyTorch (model → module.all_modules.0.W, or "
        "all_modules.0.W bare), not Flax (params_ema, optimizer → target or params → "
        f"ResnetBlockBigGANpp_0); it has {_first_names(content)}"
    )
    return ModelError(path, reason, REMEDY)


def _first_names(content: Mapping[Any, Any]) -> str:
    return ", ".join(str(key) for key in list(content)[:3]) or "nothing by name"
