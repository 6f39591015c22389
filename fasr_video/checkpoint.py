"""Loading of weights from a local file into a network. Nothing in a weights file is executed."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fasr_video.errors import ModelError, UsageError
from fasr_video.files import atomic_write

# Some training loops, FASR's among them, warm up with np.minimum and leave NumPy numbers in the
# state of the optimizer. NumPy 1 and NumPy 2 name the constructor of such numbers differently.
_scalar = np._core.multiarray.scalar  # type: ignore[attr-defined]
NUMPY_NUMBERS = [
    _scalar,
    (_scalar, "numpy.core.multiarray.scalar"),
    np.dtype,
    np.dtypes.Float64DType,
]


class Inert:
    """Replaces a class that a file names: nothing of the named class is imported or run."""


# PyTorch Lightning saves, beside the tensors, the states of its callbacks under their classes, and
# its settings.
LIGHTNING = [
    (Inert, "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"),
    (dict, "pytorch_lightning.utilities.parsing.AttributeDict"),
]


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file or of a PyTorch state dict, by name.

    A `state_dict` entry around them is unwrapped, and DataParallel's `module.` prefix is removed.
    """
    if not path.is_file():
        raise ModelError(path, "no such file", "check the path of the weights")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else read_torch(path)
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ModelError(
            path, "it holds something other than named tensors", "give a file with a state dict"
        )
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def load_state(net: nn.Module, path: Path, contract: str | None = None) -> None:
    """Load the tensors of `path` into `net`: exactly those of the network, with their shapes.

    With `contract`, a file of ours that names another contract is refused before its tensors are.
    """
    state = read_state(path)
    if contract is not None:
        check_contract(path, contract)
    fill(net, state, path, f"give weights made for {type(net).__name__}")


def save_own(tensors: Mapping[str, Tensor], path: Path, contract: str, header: str) -> None:
    """Write a weights file of ours: safetensors whose header has `header` under the contract."""
    # A single entry: safetensors writes several in random order, which changes the file's hash.
    atomic_write(path, lambda partial: save_file(dict(tensors), partial, {contract: header}))


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata in the header of a safetensors file."""
    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error


def contract_of(path: Path) -> str | None:
    """Return the contract that a weights file of ours names, as fasr-video/embedder/1.

    Return None for any other file.
    """
    if path.suffix != ".safetensors":
        return None
    metadata = read_metadata(path)
    # The contract is the only key of the metadata; in a Feature Combiner it is in the only value.
    match = re.search(r"fasr-video/\w+/\d+", " ".join([*metadata, *metadata.values()]))
    return None if match is None else match[0]


def check_contract(path: Path, expected: str) -> None:
    """Raise for a file of ours with another contract; files without our header may still fit."""
    contract = contract_of(path)
    if contract not in (None, expected):
        raise ModelError(
            path,
            f"its header names the contract {contract}, but {expected} is needed",
            f"give weights for {expected}",
        )


def fill(net: nn.Module, state: Mapping[str, Tensor], path: Path, remedy: str) -> None:
    """Load tensors that were read from `path` into `net`; see `load_state`."""
    needed = _without_counters(net.state_dict())
    given = _without_counters(state)
    check_shapes(path, needed, given, remedy)
    check_finite(path, given)
    net.load_state_dict(given, strict=False)


def _without_counters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leave out counters of training steps: they change no result, and old files lack them."""
    return {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}


def check_shapes(
    path: Path, needed: Mapping[str, Tensor], given: Mapping[str, Tensor], remedy: str
) -> None:
    """Raise unless the file has exactly the tensors that the network needs, with their shapes."""
    missing = [k for k in needed if k not in given]
    unknown = [k for k in given if k not in needed]
    misshapen = [k for k in needed if k in given and needed[k].shape != given[k].shape]
    problems = {"lacks": missing, "has unknown": unknown, "has another shape of": misshapen}
    for problem, keys in problems.items():
        if keys:
            names = ", ".join(keys[:3]) + (", …" if len(keys) > 3 else "")
            reason = f"it {problem} {len(keys)} of {len(needed)} tensors: {names}"
            raise ModelError(path, reason, remedy)


def check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise for tensors with NaN or infinity."""
    for name, value in tensors.items():
        if not value.isfinite().all():
            raise ModelError(
                path, f"NaN or infinity in {name}", "give weights from before the training diverged"
            )


def find_device(name: str) -> torch.device:
    """Return the device of that name; raise if this machine cannot use it."""
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(
            f"device {name}", "PyTorch cannot use it on this machine", "use device cpu"
        ) from error
    return device


def _read_safetensors(path: Path) -> object:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ModelError:
    return ModelError(
        path, f"not a readable safetensors file ({error})", "copy or download it again"
    )


def read_torch(path: Path) -> object:
    """Return what `torch.save` wrote, if it is tensors, numbers and containers only."""
    try:
        with torch.serialization.safe_globals([*NUMPY_NUMBERS, *LIGHTNING]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = "not a plain state dict: it is damaged, or would run code, which is refused"
        remedy = "if you trust the file, convert it to safetensors"
        raise ModelError(path, reason, remedy) from error
    except Exception as error:  # a file that is no checkpoint can make the unpickler raise anything
        raise ModelError(
            path, "not a readable PyTorch file", "copy or download it again"
        ) from error
