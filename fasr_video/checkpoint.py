"""Weights from a local file into a network, or one clear error. Nothing in a weights file is ever executed."""

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

# A training loop that warms up with np.minimum leaves NumPy numbers in its optimizer's state, FASR's among them.
# They come under the name that NumPy 1 or NumPy 2 gives their constructor.
_scalar = np._core.multiarray.scalar  # type: ignore[attr-defined]
NUMPY_NUMBERS = [
    _scalar,
    (_scalar, "numpy.core.multiarray.scalar"),
    np.dtype,
    np.dtypes.Float64DType,
]


class Inert:
    """Stands in for a class that a file names and we do not want: nothing of it is imported or run."""


# PyTorch Lightning leaves, beside the tensors, the states of its callbacks under their classes, and its settings.
LIGHTNING = [
    (Inert, "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"),
    (dict, "pytorch_lightning.utilities.parsing.AttributeDict"),
]


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file or of a PyTorch state dict, by name.

    A wrapping `state_dict` entry and the `module.` prefix that DataParallel leaves are taken off.
    """
    if not path.is_file():
        raise ModelError(path, "no such file", "check the path of the weights")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else read_torch(path)
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ModelError(
            path, "it holds something else than tensors by name", "give a file with a state dict"
        )
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def load_state(net: nn.Module, path: Path, contract: str | None = None) -> None:
    """Fill `net` from `path`; every tensor has to be there, with its shape, and no other.

    `contract` is that of a network of ours: a file of ours that names another one is refused before its tensors are.
    """
    state = read_state(path)
    if contract is not None:
        check_contract(path, contract)
    fill(net, state, path, f"give weights made for {type(net).__name__}")


def save_own(tensors: Mapping[str, Tensor], path: Path, contract: str, header: str) -> None:
    """A weights file of our own: safetensors with the contract in its header, and beside that what `header` says."""
    # One entry alone: safetensors writes several in random order, and the file's hash would change with it.
    atomic_write(path, lambda partial: save_file(dict(tensors), partial, {contract: header}))


def read_metadata(path: Path) -> dict[str, str]:
    """What the header of a safetensors file says beside the tensors' names."""
    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error


def contract_of(path: Path) -> str | None:
    """The contract that a weights file of our own names, as fasr-video/embedder/1; None for any other file."""
    if path.suffix != ".safetensors":
        return None
    metadata = read_metadata(path)
    # It is the header's only key; in a Feature Combiner's it stands within the only entry.
    named = re.search(r"fasr-video/\w+/\d+", " ".join([*metadata, *metadata.values()]))
    return None if named is None else named[0]


def check_contract(path: Path, wanted: str) -> None:
    """Refuse a file of our own that was made for another contract; one without our header may be what is wanted."""
    named = contract_of(path)
    if named not in (None, wanted):
        raise ModelError(
            path,
            f"its header says {named}, but {wanted} is wanted",
            "give weights of that contract",
        )


def fill(net: nn.Module, state: Mapping[str, Tensor], path: Path, remedy: str) -> None:
    """`load_state` with tensors that were read from `path`."""
    # Counters of training steps: no part of the function, and absent from old files.
    own = {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    given = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    check_shapes(path, own, given, remedy)
    check_finite(path, given)
    net.load_state_dict(given, strict=False)


def check_shapes(
    path: Path, own: Mapping[str, Tensor], given: Mapping[str, Tensor], remedy: str
) -> None:
    """The file has to give every tensor that the network owns, with its shape, and no other."""
    for problem, keys in (
        ("lacks", [k for k in own if k not in given]),
        ("has unknown", [k for k in given if k not in own]),
        ("has another shape of", [k for k in own if k in given and own[k].shape != given[k].shape]),
    ):
        if keys:
            more = ", …" if len(keys) > 3 else ""
            reason = f"it {problem} {len(keys)} of {len(own)} tensors: {', '.join(keys[:3])}{more}"
            raise ModelError(path, reason, remedy)


def check_finite(path: Path, given: Mapping[str, Tensor]) -> None:
    for name, value in given.items():
        if not value.isfinite().all():
            raise ModelError(
                path, f"NaN or infinity in {name}", "give weights from before the training diverged"
            )


def find_device(name: str) -> torch.device:
    """The device of that name, if this machine has it: there is no falling back to another one."""
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
    """What `torch.save` wrote, as long as it is tensors, numbers and containers."""
    try:
        with torch.serialization.safe_globals([*NUMPY_NUMBERS, *LIGHTNING]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = "not a plain state dict: it is damaged or asks to run code, which we never do"
        raise ModelError(path, reason, "convert it to safetensors where you trust it") from error
    except (
        Exception
    ) as error:  # bytes that are no checkpoint fail in the unpickler in any way they like
        raise ModelError(
            path, "not a readable PyTorch file", "copy or download it again"
        ) from error
