"""The builtin detector's network in OpenVINO, computed in whole numbers of eight bits: faster on a CPU, and coarser.

No picture is needed to know which values the eight bits have to span: a batch norm gives each channel the mean β and
the deviation γ that it has learned (Nagel et al. 2019, data-free quantisation).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from fasr_video.batch_size import FRAMES, batch_size_for
from fasr_video.detection.network import PAD_TO, DetectorNet, LevelOutput, Residual
from fasr_video.offline_openvino import load_openvino
from fasr_video.types import Image

openvino = load_openvino("`detect.engine: openvino`")
op = openvino.opset13

REACH = (
    6.0  # deviations from the mean that are told apart; what lies beyond counts as the last of them
)
GREY = 128  # beyond the edges; zero, as nearly as a byte says it


@dataclass(frozen=True, slots=True)
class _Value:
    node: Any
    bound: float | None
    """The highest number in it that has to be told from others, the lowest being 0; None where it is not rounded."""


class OpenVinoNet:
    """A DetectorNet whose batch norms are not fused, compiled for this CPU. Nothing is written or sent."""

    def __init__(self, net: DetectorNet, batch: int | None = None) -> None:
        options = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # the machine is not ours alone
        }
        self._run = openvino.Core().compile_model(_drawn(net.eval().float()), "CPU", options)
        self.name = f"cpu, int8 by OpenVINO {openvino.__version__.partition('-')[0]}"
        self.batch = batch_size_for(FRAMES, torch.device("cpu"), batch)

    def __call__(self, frames: Sequence[Image]) -> list[LevelOutput]:
        """Frames of one size → one LevelOutput a stride."""
        height, width = frames[0].shape[:2]
        pixels = np.full(
            (len(frames), height + -height % PAD_TO, width + -width % PAD_TO, 3), GREY, np.uint8
        )
        for frame, row in zip(frames, pixels, strict=True):
            row[:height, :width] = frame
        levels = [torch.from_numpy(said) for said in self._run([pixels]).values()]
        return [LevelOutput(v[:, :1], v[:, 1:3], v[:, 3:5], v[:, 5:]) for v in levels]


def _drawn(net: DetectorNet) -> Any:
    """The graph: the steps of DetectorNet.forward, from bytes."""
    pixels = op.parameter(openvino.PartialShape([-1, -1, -1, 3]), np.uint8)
    x = op.transpose(op.convert(pixels, "f32"), _constant([0, 3, 1, 2], np.int64))
    x = op.subtract(op.multiply(x, _constant(1 / 127.5)), _constant(1.0))
    c4 = _through(_through(_Value(x, None), net.stem), net.stage4)
    c8 = _through(c4, net.stage8)
    c16 = _through(c8, net.stage16)
    top = _through(_through(c16, net.stage32), net.lateral[3])
    outputs = []
    for i, features in ((2, c16), (1, c8), (0, c4)):
        merged = _sum(_through(features, net.lateral[i]), _Value(_twice(top.node), top.bound))
        top = _through(merged, net.smooth[i])
        head = net.head[i]
        assert isinstance(head, nn.Conv2d)
        outputs.append(op.result(_convolution(_through(top, net.tower[i]), head)))
    return openvino.Model(outputs[::-1], [pixels], "detector")


def _through(x: _Value, part: nn.Module) -> _Value:
    if isinstance(part, Residual):
        total = _sum(x, _through(_through(x, part.a), part.b))
        return _Value(op.relu(total.node), total.bound)
    assert isinstance(part, nn.Sequential)
    if not isinstance(part[0], nn.Conv2d):
        for inner in part:
            x = _through(x, inner)
        return x
    conv, norm = part[0], part[1]
    assert isinstance(norm, nn.BatchNorm2d)
    node = _convolution(x, fuse_conv_bn_eval(conv, norm))
    highest = float((norm.bias + REACH * norm.weight.abs()).detach().max())
    return _Value(op.relu(node) if len(part) == 3 else node, highest)


def _convolution(x: _Value, conv: nn.Conv2d) -> Any:
    """In eight bits where its input's bound is known, each output channel's weights in steps of their own."""
    assert conv.bias is not None
    kernel, node = conv.weight.detach().numpy(), x.node
    if conv.groups > 1:
        kernel = kernel.reshape(conv.groups, -1, *kernel.shape[1:])
    weights = _constant(kernel)
    if x.bound is not None:
        node = _rounded(node, 0.0, x.bound, 256)
        largest = np.abs(kernel).max(axis=tuple(range(kernel.ndim - 3, kernel.ndim)), keepdims=True)
        weights = _rounded(weights, -largest, largest, 255)
    apply = op.group_convolution if conv.groups > 1 else op.convolution
    out = apply(
        node,
        weights,
        list(conv.stride),
        list(conv.padding),
        list(conv.padding),
        list(conv.dilation),
    )
    return op.add(out, _constant(conv.bias.detach().numpy().reshape(1, -1, 1, 1)))


def _sum(a: _Value, b: _Value) -> _Value:
    assert a.bound is not None and b.bound is not None
    return _Value(op.add(a.node, b.node), a.bound + b.bound)


def _rounded(node: Any, low: Any, high: Any, levels: int) -> Any:
    ends = (_constant(low), _constant(high))
    return op.fake_quantize(node, *ends, *ends, levels)


def _twice(node: Any) -> Any:
    """Each pixel four times."""
    return op.interpolate(
        node,
        _constant([2.0, 2.0]),
        "nearest",
        "scales",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
        axes=_constant([2, 3], np.int64),
    )


def _constant(value: Any, kind: type = np.float32) -> Any:
    return op.constant(np.asarray(value, kind))
