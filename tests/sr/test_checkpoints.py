"""Released score networks: what loads, what is exported, and the error for each bad file.

The networks are small ones of the published layout, with weights made from the parameters' names.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from fasr_video.errors import FasrError, ModelError, UsageError
from fasr_video.sr.checkpoints import Kind, Published, load
from fasr_video.sr.networks.ncsnpp import NCSNpp
from tests.support.bad_weights import FolderMaker, halve_file, save_with_torch, write_text_file
from tests.support.checkpoint_files import (
    Tree,
    as_safetensors,
    fasr_content,
    fasr_file,
    flax_file,
    flax_net,
    flax_params,
    pack,
    state_of,
)
from tests.support.ncsnpp import difference, golden, twin
from tests.support.published_files import export_published

# --- Flax, written by other means than the exporter's ---------------------------------------------


# --- what loads -----------------------------------------------------------------------------------


def test_a_fasr_release_gives_the_published_score(tmp_path: Path) -> None:
    path = fasr_file(tmp_path)
    model, data = load(path), golden()
    assert (model.kind, model.weights, model.side, model.feature_length) == (
        Kind.FASR,
        "ema",
        64,
        64,
    )
    assert (model.sigma_min, model.sigma_max) == (0.001, 348.0)
    result = model.score(data["x"], data["y"], data["sigma"], data["feat"])
    assert difference(result, data["score"]) < 2e-6
    assert not result.requires_grad and not model.network.training


def to_old_numpy(path: Path) -> None:
    """As NumPy 1 names the constructor of its numbers."""
    content = torch.load(path, weights_only=False)
    torch.save(content, path, _use_new_zipfile_serialization=False)
    new, old = b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"
    assert new in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(new, old))


def test_a_release_of_numpy_1_loads(tmp_path: Path) -> None:
    path = fasr_file(tmp_path)
    to_old_numpy(path)
    assert is_identical(load(path).network, twin())


def bare_weights(prefix: str) -> Callable[[Path], Path]:
    return lambda folder: save_with_torch(
        {prefix + k: v for k, v in state_of(twin()).items()}, folder / "a.pth"
    )


FORMS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "without optimizer": ("ema", lambda d: fasr_file(d, lambda c: c.pop("optimizer"))),
    "without prefix": (
        "ema",
        lambda d: fasr_file(d, lambda c: c.update(model={k[7:]: v for k, v in c["model"].items()})),
    ),
    "bare": ("raw", bare_weights("")),
    "bare, with prefix": ("raw", bare_weights("module.")),
    "state_dict": ("raw", lambda d: save_with_torch({"state_dict": state_of(twin())}, d / "a.pth")),
    "safetensors": ("raw", as_safetensors),
}


@pytest.mark.parametrize("form", FORMS)
def test_fasr_weights_in_all_layouts_load(form: str, tmp_path: Path) -> None:
    weights, prepare = FORMS[form]
    model = load(prepare(tmp_path))
    assert model.weights == weights
    assert is_identical(model.network, twin())


def test_without_averaged_weights_the_last_ones_are_used(tmp_path: Path) -> None:
    model = load(fasr_file(tmp_path, lambda c: c.pop("ema")))
    assert model.weights == "raw"
    state, expected = model.network.state_dict(), twin().state_dict()
    assert torch.equal(state["all_modules.1.bias"], expected["all_modules.1.bias"] + 1)
    assert torch.equal(state["all_modules.0.W"], expected["all_modules.0.W"])


def test_a_pytorch_release_of_sde_sr_loads(tmp_path: Path) -> None:
    net = twin(feature=False)
    model = load(
        save_with_torch(
            {"model": {f"module.{k}": v for k, v in state_of(net).items()}}, tmp_path / "a.pth"
        )
    )
    assert (model.kind, model.feature_length, model.sigma_min, model.side) == (
        Kind.SDE_SR,
        0,
        0.01,
        64,
    )
    assert is_identical(model.network, net)


def test_a_flax_release_computes_the_same_function(tmp_path: Path) -> None:
    model = load(flax_file(tmp_path))
    assert (model.kind, model.weights, model.side, model.feature_length) == (
        Kind.SDE_SR,
        "ema",
        128,
        0,
    )
    assert (model.sigma_min, model.sigma_max) == (0.01, 348.0)
    assert is_identical(model.network, flax_net())
    assert all(p.is_contiguous() for p in model.network.parameters())
    x = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = flax_net()(x, x.flip(3), torch.ones(1), None)
    assert difference(model.score(x, x.flip(3), torch.ones(1)), expected) < 1e-6


def drop_average(tree: Tree) -> None:
    tree["optimizer"]["target"] = tree.pop("params_ema")


def only_parameters(tree: Tree) -> None:
    params = tree["params_ema"]
    tree.clear()
    tree.update(params)


@pytest.mark.parametrize("edit", [drop_average, only_parameters])
def test_without_an_average_in_a_flax_file_the_last_weights_are_used(
    edit: Callable[[Tree], None], tmp_path: Path
) -> None:
    model = load(flax_file(tmp_path, edit))
    assert model.weights == "raw"
    assert is_identical(model.network, flax_net())


def chunk_arrays(array: NDArray[Any]) -> Tree:
    flat = array.reshape(-1)
    parts = [
        flat[i : i + 500] for i in range(0, flat.size, 500)
    ]  # more than ten: "10" is not after "1"
    assert len(parts) > 10
    shape, chunks = ({str(i): v for i, v in enumerate(values)} for values in (array.shape, parts))
    return {"__msgpack_chunked_array__": True, "shape": shape, "chunks": chunks}


def write_like_early_flax(tree: Tree) -> None:
    """Chunked arrays, norms as early Flax stores them, and a complex number that nobody needs."""
    block = tree["params_ema"]["ResnetBlockBigGANpp_6"]
    block["Conv_1"]["kernel"] = chunk_arrays(block["Conv_1"]["kernel"])
    for leaf in ("scale", "bias"):
        block["GroupNorm_1"][leaf] = block["GroupNorm_1"][leaf].reshape(1, 1, 1, -1)
    tree["model_state"]["none"] = 1 + 2j


def write_like_srdg(tree: Tree) -> None:
    """What a classifier's file has."""
    tree.clear()
    tree.update(params={"BatchNorm_0": {}}, batch_stats={})


def test_all_layouts_of_flax_are_read(tmp_path: Path) -> None:
    assert is_identical(load(flax_file(tmp_path, write_like_early_flax)).network, flax_net())


# --- export ---------------------------------------------------------------------------------------


def is_identical(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    """Bit for bit, in the same order, with the same parts to be trained."""
    first, second = a.state_dict(), b.state_dict()
    trained = [p.requires_grad for p in a.parameters()] == [p.requires_grad for p in b.parameters()]
    equal = all(
        x.dtype == y.dtype and torch.equal(x, y)
        for x, y in zip(first.values(), second.values(), strict=True)
    )
    return list(first) == list(second) and trained and equal


def test_fasr_export_and_load_are_inverse(tmp_path: Path) -> None:
    net = twin()
    export_published(net, tmp_path / "a.pth", "fasr")
    model = load(tmp_path / "a.pth")
    assert is_identical(model.network, net) and model.weights == "ema" and model.kind == "fasr"
    export_published(model, tmp_path / "b.pth")
    assert is_identical(load(tmp_path / "b.pth").network, net)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.pth", "b.pth"]


def test_fasr_export_has_the_published_form(tmp_path: Path) -> None:
    export_published(twin(), tmp_path / "a.pth")
    content, expected = torch.load(tmp_path / "a.pth", weights_only=True), fasr_content()
    assert set(content) == set(expected) and set(content["ema"]) == set(expected["ema"])
    assert list(content["model"]) == list(expected["model"])
    pairs = zip(content["ema"]["shadow_params"], expected["ema"]["shadow_params"], strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    parameters = list(twin().parameters())
    torch.optim.Adam(parameters).load_state_dict(content["optimizer"])  # FASR's loop restores it


def test_flax_export_and_load_are_inverse(tmp_path: Path) -> None:
    net = flax_net()
    export_published(net, tmp_path / "a", "sde-sr")
    assert is_identical(load(tmp_path / "a").network, net)
    assert load(tmp_path / "a").weights == "ema"


def test_flax_export_has_the_published_form(tmp_path: Path) -> None:
    export_published(flax_net(), tmp_path / "a", "sde-sr")

    def shapes(tree: Tree) -> Tree:
        return {
            k: shapes(v) if isinstance(v, dict) else msgpack.unpackb(v.data)[0]
            for k, v in tree.items()
        }

    content = msgpack.unpackb((tmp_path / "a").read_bytes())
    written = msgpack.unpackb(msgpack.packb(flax_params(flax_net()), default=pack))
    assert shapes(content["params_ema"]) == shapes(written)


# --- mistakes -------------------------------------------------------------------------------------


def write_empty_file(folder: Path) -> Path:
    (folder / "a.pth").touch()
    return folder / "a.pth"


def set_value(values: Tensor | NDArray[Any], value: float) -> None:
    values.reshape(-1)[3] = value


def set_flax_value(tree: Tree) -> None:
    kernel = tree["params_ema"]["Conv_1"]["kernel"].copy()
    set_value(kernel, np.inf)
    tree["params_ema"]["Conv_1"]["kernel"] = kernel


def drop_weight(tree: Tree, *keys: str) -> None:
    for key in keys:
        del tree[key]


CONV = "all_modules.12.Conv_1.weight"
SHADOW = (
    list(twin().state_dict()).index(CONV) - 2
)  # its place in the EMA's list, which lacks sigmas and W
BLOCK = "ResnetBlockBigGANpp_4"

MISTAKES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "no file": (lambda d: d / "none.pth", "no such file; check the path"),
    "a folder": (lambda d: d, "no such file"),
    "an empty file": (write_empty_file, "not a readable PyTorch file"),
    "a text file": (
        lambda folder: write_text_file(folder / "a.pth"),
        "damaged, or would run code, which is refused",
    ),
    "torch, truncated": (
        lambda d: halve_file(fasr_file(d)),
        "not a readable PyTorch file; copy or download it again",
    ),
    "flax, truncated": (
        lambda d: halve_file(flax_file(d)),
        "not a readable Flax file: cut short or damaged; copy",
    ),
    "flax, unknown extension": (
        lambda d: flax_file(d, lambda t: t.update(lr=msgpack.ExtType(9, pack(np.zeros(2)).data))),
        "not a readable Flax file",
    ),
    "flax, arrays of objects": (
        lambda d: flax_file(
            d,
            lambda t: t.update(lr=msgpack.ExtType(1, msgpack.packb(((1,), "object", b"12345678")))),
        ),
        "not a readable Flax file",
    ),
    "code": (
        lambda d: fasr_file(d, lambda c: c.update(step=FolderMaker(d / "sprung"))),
        "run code, which is refused",
    ),
    "a list": (
        lambda d: save_with_torch([1, 2], d / "a.pth"),
        "has nothing by name; give weights as FASR",
    ),
    "another network": (
        lambda d: save_with_torch({"conv.weight": torch.zeros(1)}, d / "a.pth"),
        r"not PyTorch \(model → .*all_modules.0.W.*not Flax "
        r"\(params_ema.*ResnetBlockBigGANpp_0\); it has conv.weight",
    ),
    "a classifier of SRDG": (
        lambda d: flax_file(d, write_like_srdg),
        "not PyTorch .*not Flax .*it has params, batch_stats",
    ),
    "torch, NaN": (
        lambda d: fasr_file(d, lambda c: set_value(c["ema"]["shadow_params"][SHADOW], np.nan)),
        f"NaN or infinity in {CONV}; ",
    ),
    "torch, infinity": (
        lambda d: fasr_file(d, lambda c: set_value(c["model"]["module.all_modules.0.W"], np.inf)),
        "NaN or infinity in all_modules.0.W; ",
    ),
    "flax, infinity": (
        lambda d: flax_file(d, set_flax_value),
        "NaN or infinity in Conv_1/kernel; ",
    ),
    "torch, lacking": (
        lambda d: fasr_file(
            d, lambda c: drop_weight(c["model"], f"module.{CONV}", "module.sigmas")
        ),
        rf"lacks 2 of 432 tensors: sigmas, {CONV}; give weights as FASR",
    ),
    "torch, without the entry that gives the size": (
        lambda d: fasr_file(d, lambda c: drop_weight(c["model"], "module.all_modules.0.W")),
        "lacks all_modules.0.W; give",
    ),
    "torch, lacking all attention": (
        lambda d: fasr_file(
            d, lambda c: [c["model"].pop(k) for k in list(c["model"]) if ".NIN_" in k]
        ),
        "fit no NCSN",
    ),
    "flax, lacking": (
        lambda d: flax_file(d, lambda t: drop_weight(t["params_ema"][BLOCK], "Dense_0", "Conv_0")),
        f"lacks 4 of 3.. tensors: {BLOCK}/Conv_0/kernel, {BLOCK}/Conv_0/bias, "
        f"{BLOCK}/Dense_0/kernel, …; ",
    ),
    "flax, without the entry that gives the size": (
        lambda d: flax_file(
            d, lambda t: drop_weight(t["params_ema"], "GaussianFourierProjection_0")
        ),
        "lacks GaussianFourierProjection_0/W; give",
    ),
    "torch, unknown": (
        lambda d: fasr_file(
            d, lambda c: c["model"].update({"module.all_modules.50.W": torch.zeros(1)})
        ),
        "has unknown 1 of 432 tensors: all_modules.50.W",
    ),
    "torch, another shape": (
        lambda d: fasr_file(
            d, lambda c: c["model"].update({f"module.{CONV}": torch.zeros(32, 32, 1, 1)})
        ),
        f"another shape of 1 of 432 tensors: {CONV}",
    ),
    "torch, width of another network": (
        lambda d: fasr_file(
            d, lambda c: c["model"].update({"module.all_modules.0.W": torch.zeros(2)})
        ),
        "fit no NCSN",
    ),
    "flax, another shape": (
        lambda d: flax_file(
            d, lambda t: t["params_ema"]["Dense_0"].update(kernel=np.zeros((64, 32), np.float32))
        ),
        "another shape of 1 of .* tensors: Dense_0/kernel",
    ),
    "ema, too short": (
        lambda d: fasr_file(d, lambda c: c["ema"]["shadow_params"].pop()),
        "its EMA has 429 tensors, the network 430 trained ones",
    ),
    "ema, another shape": (
        lambda d: fasr_file(
            d, lambda c: c["ema"]["shadow_params"].__setitem__(SHADOW, torch.zeros(1))
        ),
        f"another shape of 1 of 430 tensors: {CONV}",
    ),
    "ema, of another kind": (
        lambda d: fasr_file(d, lambda c: c.update(ema=[1])),
        "no list of tensors 'shadow_params'",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gives_a_one_line_error_with_a_remedy(mistake: str, tmp_path: Path) -> None:
    prepare, expected = MISTAKES[mistake]
    path = prepare(tmp_path)
    with pytest.raises(ModelError, match=expected) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "; " in message
    assert "\n" not in message and len(message) - len(str(path)) < 320
    assert not (tmp_path / "sprung").exists()


def test_there_is_no_silent_fallback_to_another_device(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="use device cpu"):
        load(fasr_file(tmp_path), device="warp")


# --- score ----------------------------------------------------------------------------------------


def published(net: NCSNpp) -> Published:
    return Published(net, "raw", 0.01, 348.0).eval()


def test_without_a_feature_zeros_are_given() -> None:
    data = golden()
    model = published(twin())
    result = model.score(data["x"], data["y"], data["sigma"])
    assert result.isfinite().all()
    assert torch.equal(result, model.score(data["x"], data["y"], data["sigma"], torch.zeros(2, 64)))


PICTURE = torch.zeros(1, 3, 64, 64)
WRONG: dict[str, tuple[Callable[[], NCSNpp], tuple[Tensor, Tensor, Tensor | None], str]] = {
    "length": (
        twin,
        (PICTURE, PICTURE, torch.zeros(1, 512)),
        "length 512, but the network takes 64; use",
    ),
    "length, AdaFace's network": (
        lambda: twin(width=128, multipliers=(1, 1, 1)),
        (PICTURE, PICTURE, torch.zeros(1, 64)),
        r"length 64, but the network takes 512 "
        r"\(the builtin embedder, AdaFace and ArcFace give 512\); use",
    ),
    "a feature for none": (
        lambda: twin(feature=False),
        (PICTURE, PICTURE, torch.zeros(1, 512)),
        "length 512, but the network takes none",
    ),
    "size": (twin, (PICTURE[..., :32, :32], PICTURE, None), "picture: it is 3×32×32; give 3×64×64"),
    "size of the LR picture": (
        twin,
        (PICTURE, PICTURE[..., :32, :32], None),
        "LR picture: it is 3×32×32",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_inputs_that_do_not_fit_the_network_are_refused(wrong: str) -> None:
    build, (x, lr, feature), expected = WRONG[wrong]
    with torch.device("meta"):
        net = NCSNpp(64, 128, (1, 1, 1)) if "AdaFace" in wrong else build()
    with pytest.raises(FasrError, match=expected):
        published(net).score(x, lr, torch.ones(1), feature)
