"""The builtin detector's network in OpenVINO, in 8-bit integers: faster on a CPU, and coarser.

The range of the eight bits is known without any pictures: a batch norm gives each channel the mean
β and the deviation γ that it has learned (Nagel et al. 2019, data-free quantisation).
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

MAX_DEVIATIONS = 6.0  # from the mean; values beyond are clipped
GREY = 128  # for padding: the byte nearest to zero


@dataclass(frozen=True, slots=True)
class _Value:
    """A node of the graph, and the range of its values."""

    node: Any
    bound: float | None
    """The highest value, the lowest being 0; None if the values are not quantised."""


class OpenVinoNet:
    """DetectorNet, compiled for this CPU; its batch norms must not be fused yet."""

    def __init__(self, net: DetectorNet, batch: int | None = None) -> None:
        options = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # other programs use the machine as well
        }
        self._run = openvino.Core().compile_model(_graph(net.eval().float()), "CPU", options)
        self.name = f"cpu, int8 by OpenVINO {openvino.__version__.partition('-')[0]}"
        self.batch = batch_size_for(FRAMES, torch.device("cpu"), batch)

    def __call__(self, frames: Sequence[Image]) -> list[LevelOutput]:
        """Return one LevelOutput for each stride, for frames of one size."""
        height, width = frames[0].shape[:2]
        padded = (len(frames), height + -height % PAD_TO, width + -width % PAD_TO, 3)
        pixels = np.full(padded, GREY, np.uint8)
        for frame, row in zip(frames, pixels, strict=True):
            row[:height, :width] = frame
        levels = [torch.from_numpy(output) for output in self._run([pixels]).values()]
        return [LevelOutput(v[:, :1], v[:, 1:3], v[:, 3:5], v[:, 5:]) for v in levels]


def _graph(net: DetectorNet) -> Any:
    """Return the steps of DetectorNet.forward as a graph that takes bytes."""
    pixels = op.parameter(openvino.PartialShape([-1, -1, -1, 3]), np.uint8)
    x = op.transpose(op.convert(pixels, "f32"), _constant([0, 3, 1, 2], np.int64))
    x = op.subtract(op.multiply(x, _constant(1 / 127.5)), _constant(1.0))
    c4 = _through(_through(_Value(x, None), net.stem), net.stage4)
    c8 = _through(c4, net.stage8)
    c16 = _through(c8, net.stage16)
    top = _through(_through(c16, net.stage32), net.lateral[3])
    outputs = []
    for i, features in ((2, c16), (1, c8), (0, c4)):
        merged = _sum(_through(features, net.lateral[i]), _Value(_upsampled(top.node), top.bound))
        top = _through(merged, net.smooth[i])
        head = net.head[i]
        assert isinstance(head, nn.Conv2d)
        outputs.append(op.result(_convolution(_through(top, net.tower[i]), head)))
    return openvino.Model(outputs[::-1], [pixels], "detector")


def _through(x: _Value, part: nn.Module) -> _Value:
    """Return the output of a part of the network."""
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
    highest = float((norm.bias + MAX_DEVIATIONS * norm.weight.abs()).detach().max())
    return _Value(op.relu(node) if len(part) == 3 else node, highest)


def _convolution(x: _Value, conv: nn.Conv2d) -> Any:
    """Return a convolution, in eight bits if the bound of its input is known.

    The weights of each output channel have steps of their own.
    """
    assert conv.bias is not None
    kernel, node = conv.weight.detach().numpy(), x.node
    if conv.groups > 1:
        kernel = kernel.reshape(conv.groups, -1, *kernel.shape[1:])
    weights = _constant(kernel)
    if x.bound is not None:
        node = _quantised(node, 0.0, x.bound, 256)
        axes = tuple(range(kernel.ndim - 3, kernel.ndim))
        largest = np.abs(kernel).max(axis=axes, keepdims=True)
        weights = _quantised(weights, -largest, largest, 255)
    convolve = op.group_convolution if conv.groups > 1 else op.convolution
    padding = list(conv.padding)
    out = convolve(node, weights, list(conv.stride), padding, padding, list(conv.dilation))
    return op.add(out, _constant(conv.bias.detach().numpy().reshape(1, -1, 1, 1)))


def _sum(a: _Value, b: _Value) -> _Value:
    assert a.bound is not None and b.bound is not None
    return _Value(op.add(a.node, b.node), a.bound + b.bound)


def _quantised(node: Any, low: Any, high: Any, levels: int) -> Any:
    limits = (_constant(low), _constant(high))
    return op.fake_quantize(node, *limits, *limits, levels)


def _upsampled(node: Any) -> Any:
    """Double the width and the height; each pixel becomes four equal ones."""
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
