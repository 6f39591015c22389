"""NCSN++ against the published layout, a published score, and a plain NumPy evaluation of its
parts.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from fasr_video.sr.networks.ncsnpp import Attention, Block, NCSNpp, Resample, Resampler
from tests.support.ncsnpp import FIXTURES, difference, golden, seeded, twin

Array = NDArray[np.float64]


@torch.no_grad()
def score(net: NCSNpp, inputs: dict[str, Tensor], **changes: Tensor) -> Tensor:
    inputs = inputs | changes
    result = net(
        inputs["x"], inputs["y"], inputs["sigma"], inputs["feat"] if net.feature_length else None
    )
    assert isinstance(result, Tensor)
    return result


# --- what is published ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "build"),
    [("fasr_nf128_128", lambda: NCSNpp()), ("fasr_nf16_64", lambda: NCSNpp(64, 16, (1, 1, 2, 2)))],
)
def test_names_shapes_order_and_training_are_the_published_ones(
    file: str, build: Callable[[], NCSNpp]
) -> None:
    published = json.loads((FIXTURES / f"{file}.keys.json").read_text())["keys"]
    with torch.device("meta"):
        net = build()
    trained = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert [
        [name, list(value.shape), name in trained] for name, value in net.state_dict().items()
    ] == published


def test_the_network_has_the_published_size() -> None:
    with torch.device("meta"):
        net = NCSNpp()
    assert sum(parameter.numel() for parameter in net.parameters()) == 71_122_435
    assert net.feature_length == 512


def test_noise_levels_are_the_published_ones() -> None:
    for feature, lowest in ((True, 0.001), (False, 0.01)):
        sigmas = NCSNpp(64, 16, (1, 1, 2, 2), feature=feature).sigmas
        assert sigmas.dtype == torch.float64 and len(sigmas) == 2000
        assert sigmas[[0, -1]].tolist() == pytest.approx([348, lowest], rel=1e-12)
        ratios = sigmas[1:] / sigmas[:-1]
        assert torch.allclose(ratios, ratios[0].expand(1999), rtol=1e-9)


def test_the_score_is_the_published_one() -> None:
    data = golden()
    result = score(twin(), data)
    assert difference(result, data["score"]) < 2e-6
    assert float((result - data["score"]).abs().max() / data["score"].abs().max()) < 1e-5


# --- precision ------------------------------------------------------------------------------------


def test_float64_agrees_with_float32() -> None:
    exact = score(twin().double(), golden(torch.float64))
    assert exact.dtype == torch.float64
    assert difference(score(twin(), golden()), exact) < 5e-6


def test_channels_last_changes_nothing() -> None:
    net = twin().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert difference(score(net, golden()), golden()["score"]) < 5e-6


def test_with_bfloat16_conditions_and_output_stay_float32() -> None:
    net, data = twin(), golden()
    outputs: list[Tensor] = []
    net.all_modules[2].register_forward_hook(lambda module, args, output: outputs.append(output))
    score(net, data)
    with torch.autocast("cpu", torch.bfloat16):
        result = score(net, data)
    time, face, low_time, low_face = outputs
    assert torch.equal(low_time, time) and torch.equal(low_face, face)
    assert result.dtype == torch.float32
    assert 1e-3 < difference(result, data["score"]) < 0.03  # the rest was bfloat16 indeed


# --- the function ---------------------------------------------------------------------------------


def test_items_of_a_batch_are_independent() -> None:
    net, data = twin().double(), golden(torch.float64)
    together = score(net, data)
    for i in range(2):
        alone = score(net, {name: value[i : i + 1] for name, value in data.items()})
        assert torch.allclose(alone[0], together[i], rtol=1e-9, atol=1e-12)


def test_a_features_direction_matters_but_not_its_scale() -> None:
    net, data = twin().double(), golden(torch.float64)
    same = score(net, data, feat=3 * data["feat"] - 7)
    assert torch.allclose(same, score(net, data), rtol=1e-9, atol=1e-12)
    assert difference(score(net, data, feat=data["feat"].flip(1)), same) > 1e-3


def test_a_feature_of_equal_values_counts_as_none() -> None:
    net, data = twin().double(), golden(torch.float64)
    feature = data["feat"].clone()
    feature[0] = 0
    without = score(net, data, feat=feature)
    assert without.isfinite().all()
    assert torch.equal(without[1], score(net, data)[1])
    feature[0] = 0.3
    assert torch.equal(score(net, data, feat=feature), without)


def test_a_feature_is_required_if_and_only_if_the_network_takes_one() -> None:
    data = golden()
    with pytest.raises(AssertionError, match="exactly where"):
        twin()(data["x"], data["y"], data["sigma"], None)
    with pytest.raises(AssertionError, match="exactly where"):
        twin(feature=False)(data["x"], data["y"], data["sigma"], data["feat"])


def test_a_new_network_has_an_output_near_zero() -> None:
    torch.manual_seed(0)
    net, data = NCSNpp(64, 16, (1, 1, 2, 2)).eval(), golden()
    assert float((score(net, data) * data["sigma"][:, None, None, None]).abs().max()) < 1e-3


def test_all_weights_but_the_frequencies_are_trained() -> None:
    net, data = twin(dropout=0.0), golden()
    net(data["x"], data["y"], data["sigma"], data["feat"]).square().mean().backward()
    without = [name for name, parameter in net.named_parameters() if parameter.grad is None]
    assert without == ["all_modules.0.W"]
    assert all(
        p.grad.isfinite().all() and p.grad.any() for p in net.parameters() if p.grad is not None
    )


# --- its parts, in plain NumPy --------------------------------------------------------------------


def naive_convolution(x: Array, weight: Array, bias: Array) -> Array:
    """C×H×W with O×C×k×k, zeros outside."""
    k = weight.shape[-1]
    x = np.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2)))
    out = np.zeros((len(weight), x.shape[1] - k + 1, x.shape[2] - k + 1))
    for o, i, j in np.ndindex(*out.shape):
        out[o, i, j] = (x[:, i : i + k, j : j + k] * weight[o]).sum() + bias[o]
    return out


def naive_filter(x: Array, how: Resample) -> Array:
    """One channel; the filter 1, 3, 3, 1 along both axes."""
    if how is Resample.KEEP:
        return x
    kernel = np.array([[a * b for a in (1, 3, 3, 1)] for b in (1, 3, 3, 1)]) / 64
    if how is Resample.DOUBLE:
        spread = np.zeros((2 * x.shape[0], 2 * x.shape[1]))
        spread[::2, ::2] = x
        x, kernel = np.pad(spread, (2, 1)), 4 * kernel
    else:
        x = np.pad(x, 1)
    filtered = np.array(
        [
            [(x[i : i + 4, j : j + 4] * kernel).sum() for j in range(x.shape[1] - 3)]
            for i in range(x.shape[0] - 3)
        ]
    )
    return filtered[::2, ::2] if how is Resample.HALVE else filtered


def naive_silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def naive_norm(x: Array, w: dict[str, Array], name: str) -> Array:
    groups = min(len(x) // 4, 32)
    parts = x.reshape(groups, -1)
    parts = (parts - parts.mean(1, keepdims=True)) / np.sqrt(parts.var(1, keepdims=True) + 1e-6)
    return (
        parts.reshape(x.shape) * w[f"{name}.weight"][:, None, None]
        + w[f"{name}.bias"][:, None, None]
    )


def naive_block(
    x: Array, time: Array, face: Array | None, w: dict[str, Array], *, how: Resample
) -> Array:
    def resampled(x: Array) -> Array:
        return np.stack([naive_filter(channel, how) for channel in x])

    h = resampled(naive_silu(naive_norm(x, w, "GroupNorm_0")))
    h = naive_convolution(h, w["Conv_0.weight"], w["Conv_0.bias"])
    h += (w["Dense_0.weight"] @ time + w["Dense_0.bias"])[:, None, None]
    if face is not None:
        h += (w["Dense_1.weight"] @ face + w["Dense_1.bias"])[:, None, None]
    h = naive_silu(naive_norm(h, w, "GroupNorm_1"))
    h = naive_convolution(h, w["Conv_1.weight"], w["Conv_1.bias"])
    x = resampled(x)
    if "Conv_2.weight" in w:
        x = naive_convolution(x, w["Conv_2.weight"], w["Conv_2.bias"])
    return (x + h) / np.sqrt(2)


def naive_attention(x: Array, w: dict[str, Array]) -> Array:
    cells = naive_norm(x, w, "GroupNorm_0").reshape(len(x), -1).T
    query, key, value = (cells @ w[f"NIN_{i}.W"] + w[f"NIN_{i}.b"] for i in range(3))
    weights = np.exp(query @ key.T / np.sqrt(len(x)))
    attended = (weights / weights.sum(1, keepdims=True)) @ value
    return (x + (attended @ w["NIN_3.W"] + w["NIN_3.b"]).T.reshape(x.shape)) / np.sqrt(2)


def weights_of(module: nn.Module) -> dict[str, Array]:
    return {name: value.double().numpy() for name, value in module.state_dict().items()}


@settings(max_examples=40, deadline=None)
@given(
    how=st.sampled_from(Resample),
    height=st.integers(2, 9),
    width=st.integers(2, 9),
    seed=st.integers(0, 2**32 - 1),
)
def test_resampling_is_the_plain_filter(how: Resample, height: int, width: int, seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((2, 3, height, width))
    result = Resampler(how).double()(torch.from_numpy(x))
    expected = np.stack([[naive_filter(channel, how) for channel in item] for item in x])
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("feature", [True, False])
@pytest.mark.parametrize(
    ("how", "cout"),
    [(Resample.KEEP, 8), (Resample.KEEP, 12), (Resample.HALVE, 8), (Resample.DOUBLE, 8)],
)
def test_block_and_attention_are_the_plain_formulas(
    how: Resample, cout: int, feature: bool
) -> None:
    rng = np.random.default_rng(3)
    x, time, face = (
        rng.standard_normal((2, 8, 6, 4)),
        rng.standard_normal((2, 10)),
        rng.standard_normal((2, 10)),
    )
    block = seeded(Block(8, cout, 10, feature, dropout=0.5, how=how)).double().eval()
    attention = seeded(Attention(cout)).double().eval()
    given_face = torch.from_numpy(face) if feature else None
    with torch.no_grad():
        result = attention(block(torch.from_numpy(x), torch.from_numpy(time), given_face))
    faces = face if feature else [None, None]
    expected = [
        naive_attention(naive_block(*item, weights_of(block), how=how), weights_of(attention))
        for item in zip(x, time, faces, strict=True)
    ]
    np.testing.assert_allclose(result.numpy(), np.stack(expected), rtol=1e-10, atol=1e-12)
