"""AdaFace's published networks: one function for all kinds of files, and errors for bad files.

The weights are made from the names of the parameters; those of bad files are constants.
"""

from __future__ import annotations

import json
import math
import os
import sys
import types
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fasr_video.checkpoint import read_torch
from fasr_video.errors import ModelError
from fasr_video.recognition.adaface import UNITS, AdaFaceNet, load
from tests.support.bad_weights import halve_file, save_with_torch, write_text_file
from tests.support.embedder_files import State, seeded_state, shapes
from tests.support.paths import FIXTURES


def small_state(depth: int = 18) -> State:
    """Each tensor is one number over and over, which takes no room in a file."""
    return {
        name: torch.tensor(1 + i % 8 / 8).expand(shape)
        for i, (name, shape) in enumerate(shapes(depth).items())
    }


def has_weights(net: AdaFaceNet, state: State) -> bool:
    """All tensors that have a part in the function."""
    own = {
        name: value
        for name, value in net.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    return all(torch.equal(value, state[name].float()) for name, value in own.items())


# --- as a training with PyTorch Lightning leaves it --------------------------------------------


def lightning_checkpoint(state: State) -> dict[str, Any]:
    """The tensors under `model.`, and the margin head's under `head.`."""
    head = {"head.kernel": torch.zeros(512, 3), "head.t": torch.zeros(1)}
    return {
        "epoch": 25,
        "global_step": 7,
        "pytorch-lightning_version": "1.4.4",
        "state_dict": OrderedDict({f"model.{name}": value for name, value in state.items()} | head),
        "optimizer_states": [{"state": {}, "param_groups": [{"lr": 0.1, "params": [0, 1]}]}],
        "lr_schedulers": [{"milestones": Counter([12, 20, 24]), "gamma": 0.1, "_last_lr": [0.1]}],
    }


@contextmanager
def temporary_classes(names: Mapping[str, type]) -> Iterator[list[type]]:
    """Define classes of missing packages by their full names and bases; remove them afterwards."""
    modules: dict[str, types.ModuleType] = {}
    classes = []
    for full, base in names.items():
        module, _, name = full.rpartition(".")
        for outer in accumulate(module.split("."), lambda a, b: f"{a}.{b}"):
            modules.setdefault(outer, types.ModuleType(outer))
        classes.append(type(name, (base,), {"__module__": module}))
        setattr(modules[module], name, classes[-1])
    assert not modules.keys() & sys.modules.keys()
    sys.modules.update(modules)
    try:
        yield classes
    finally:
        for name in modules:
            del sys.modules[name]


CALLBACK = "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"
SETTINGS = "pytorch_lightning.utilities.parsing.AttributeDict"


def test_a_lightning_checkpoint_loads_without_lightning(tmp_path: Path) -> None:
    state = small_state()
    content = lightning_checkpoint(state)
    with temporary_classes({CALLBACK: object, SETTINGS: dict}) as (callback, settings):
        content |= {"callbacks": {callback: {"best_model_score": torch.tensor(0.9)}}}
        content |= {"hparams_name": "kwargs", "hyper_parameters": settings(arch="ir_18", lr=0.1)}
        path = save_with_torch(content, tmp_path / "adaface_ir18.ckpt")
    assert has_weights(load(path), state)
    read = read_torch(path)
    assert isinstance(read, dict) and read["hyper_parameters"] == {"arch": "ir_18", "lr": 0.1}
    assert not [name for name in sys.modules if name.startswith("pytorch_lightning")]


@pytest.mark.parametrize(
    "name",
    [
        "pytorch_lightning.trainer.trainer.Trainer",
        "pytorch_lightning.utilities.parsing.Other",
        "other.Settings",
    ],
)
def test_other_classes_in_a_checkpoint_are_refused(name: str, tmp_path: Path) -> None:
    with temporary_classes({name: dict}) as (other,):
        path = save_with_torch(
            lightning_checkpoint(small_state()) | {"hyper_parameters": other()}, tmp_path / "a.ckpt"
        )
    with pytest.raises(
        ModelError, match="would run code, which is refused; if you trust the file, convert it"
    ):
        load(path)


class Trap:
    """Unpickling it would write a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.target}",)


def test_code_in_a_checkpoint_is_refused_and_never_run(tmp_path: Path) -> None:
    path = save_with_torch(
        lightning_checkpoint(small_state()) | {"callbacks": Trap(tmp_path / "sprung")},
        tmp_path / "a.ckpt",
    )
    with pytest.raises(
        ModelError, match="would run code, which is refused; if you trust the file, convert it"
    ):
        load(path)
    assert not (tmp_path / "sprung").exists()
    torch.load(path, weights_only=False)  # the trap is a real one
    assert (tmp_path / "sprung").exists()


# --- the networks ------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [18, 50])
def test_names_shapes_and_order_are_the_published_ones(depth: int) -> None:
    published = json.loads((FIXTURES / f"adaface_ir_{depth}.keys.json").read_text())
    assert [[name, list(shape)] for name, shape in shapes(depth).items()] == published


@pytest.mark.parametrize(
    ("depth", "millions"), {18: 24.02, 34: 34.13, 50: 43.59, 101: 65.15}.items()
)
def test_the_depth_follows_from_the_keys(depth: int, millions: float, tmp_path: Path) -> None:
    net = load(save_with_torch(lightning_checkpoint(small_state(depth)), tmp_path / "a.ckpt"))
    assert net.depth == depth
    assert len(net.body) == sum(UNITS[depth])
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)
    assert not any(module.training for module in net.modules())


@torch.no_grad()
def test_features_and_norms_are_the_published_ones(tmp_path: Path) -> None:
    path = save_with_torch(lightning_checkpoint(seeded_state()), tmp_path / "a.ckpt")
    net = load(path)
    path.unlink()  # 96 MB: pytest keeps the folders of the last runs
    with np.load(FIXTURES / "adaface_ir_18.npz") as file:
        x, expected, expected_norms = (
            torch.from_numpy(file[name]) for name in ("x", "feat", "norm")
        )
    features, norms = net(x)
    assert features.shape == (len(x), 512) and norms.shape == (len(x), 1)
    assert (features - expected).norm(dim=1).max() < 1e-5
    assert (norms / expected_norms - 1).abs().max() < 1e-5
    assert torch.allclose(features.norm(dim=1), torch.ones(len(x)), atol=1e-6)


def add_prefix(state: State, prefix: str) -> State:
    return {prefix + name: value for name, value in state.items()}


def write_tensors(state: State, folder: Path) -> Path:
    save_file({name: value.contiguous() for name, value in state.items()}, folder / "a.safetensors")
    return folder / "a.safetensors"


FORMS: dict[str, Callable[[State, Path], Path]] = {
    "published": lambda s, d: save_with_torch(lightning_checkpoint(s), d / "a.ckpt"),
    "state_dict, no prefix": lambda s, d: save_with_torch({"state_dict": s}, d / "a.pth"),
    "prefix, not wrapped": lambda s, d: save_with_torch(add_prefix(s, "model."), d / "a.pth"),
    "bare": lambda s, d: save_with_torch(s, d / "a.pth"),
    "bare, from several GPUs": lambda s, d: save_with_torch(add_prefix(s, "module."), d / "a.pth"),
    "half precision": lambda s, d: save_with_torch(
        {k: v.half() for k, v in s.items()}, d / "a.pth"
    ),
    "without counters": lambda s, d: save_with_torch(
        {k: v for k, v in s.items() if "num_batches" not in k}, d / "a.pth"
    ),
    "safetensors": write_tensors,
}


@pytest.mark.parametrize("form", FORMS)
def test_wrapped_and_prefixed_weights_load(form: str, tmp_path: Path) -> None:
    state = small_state()
    path = FORMS[form](state, tmp_path)
    net = load(path)
    path.unlink()
    assert has_weights(net, state)
    assert all(p.dtype == torch.float32 for p in net.parameters())


# --- mistakes ----------------------------------------------------------------------------------


def write_changed(folder: Path, edit: Callable[[State], object], depth: int = 18) -> Path:
    state = small_state(depth)
    edit(state)
    return save_with_torch(lightning_checkpoint(state), folder / "a.ckpt")


def set_value(state: State, name: str, value: float) -> None:
    state[name] = state[name].clone()
    state[name].view(-1)[3] = value


def add_squeeze_layers(state: State) -> None:
    """As the variants with squeeze-and-excitation have it."""
    for unit in range(8):
        state[f"body.{unit}.res_layer.6.fc1.weight"] = torch.ones(1)


CONV = "body.5.res_layer.4.weight"
MISTAKES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "no file": (lambda d: d / "none.ckpt", "no such file; check the path"),
    "a text file": (lambda d: write_text_file(d / "a.ckpt"), "damaged, or would run code"),
    "truncated": (
        lambda d: halve_file(write_changed(d, lambda s: None)),
        "not a readable PyTorch file; copy or download it again",
    ),
    "a list": (
        lambda d: save_with_torch([1, 2], d / "a.ckpt"),
        "something other than named tensors",
    ),
    "NaN": (
        lambda d: write_changed(d, lambda s: set_value(s, CONV, math.nan)),
        f"NaN or infinity in {CONV}; give weights from",
    ),
    "infinity": (
        lambda d: write_changed(d, lambda s: set_value(s, "output_layer.4.running_mean", math.inf)),
        "NaN or infinity in output_layer.4.running_mean",
    ),
    "lacking": (
        lambda d: write_changed(d, lambda s: s.pop(CONV)),
        rf"lacks 1 of \d+ tensors: {CONV}; give AdaFace's weights; its units are those of an IR-18",
    ),
    "lacking the head": (
        lambda d: write_changed(d, lambda s: s.pop("output_layer.3.weight")),
        "lacks 1 of .*_layer.3.weight",
    ),
    "a unit missing": (
        lambda d: write_changed(
            d, lambda s: [s.pop(k) for k in list(s) if k.startswith("body.4.")]
        ),
        "lacks .* body.4.shortcut_layer.0.weight",
    ),
    "squeeze-and-excitation": (
        lambda d: write_changed(d, add_squeeze_layers),
        "has unknown 8 of .*body.0.res_layer.6.fc1.weight",
    ),
    "other shape": (
        lambda d: write_changed(d, lambda s: s.update({CONV: torch.zeros(1)})),
        f"another shape of 1 of .*{CONV}",
    ),
    "another depth": (
        lambda d: write_changed(
            d, lambda s: s.update({"body.9.res_layer.0.weight": torch.zeros(512)})
        ),
        r"has 10 residual units body.N, AdaFace's networks have 8 \(IR-18\), 16 \(IR-34\), "
        r"24 .*, 49 \(IR-101\); give",
    ),
    "another network": (
        lambda d: save_with_torch({"conv.weight": torch.zeros(1)}, d / "a.pth"),
        "has 0 residual units body.N.*; give one of AdaFace's checkpoints",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_reported_in_one_line_with_a_remedy(mistake: str, tmp_path: Path) -> None:
    prepare, expected = MISTAKES[mistake]
    path = prepare(tmp_path)
    with pytest.raises(ModelError, match=expected) as caught:
        load(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert str(caught.value).startswith(str(path))
