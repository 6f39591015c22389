"""Face networks in OpenVINO's old format (version 5: an .xml and a .bin file), as torch modules.

Today's OpenVINO does not read that version. As a torch module such a network can also be a teacher,
because gradients pass through it. Only the layers of the published face networks are supported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fasr_video.errors import ModelError

REMEDY = (
    "give the .xml file of a face network of Intel's Open Model Zoo, with its .bin file beside it"
)
LAYERS = {"Input", "Convolution", "PReLU", "ScaleShift", "Eltwise", "Activation", "Pooling"}
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Layer:
    """One step of the network."""

    name: str
    kind: str
    options: dict[str, str]
    inputs: tuple[str, ...]
    """Names of the layers whose values it takes."""
    channels: int
    """Channels of its output."""

    def pair(self, key: str, default: str) -> tuple[int, int]:
        """Return an option of two integers."""
        first, second = (int(v) for v in self.options.get(key, default).split(","))
        return first, second

    def number(self, key: str) -> int:
        """Return an option of one integer."""
        return int(self.options.get(key, "1"))


class IrNet(nn.Module):
    """The network of an .xml file; `forward` returns the output of the named layers or the last."""

    def __init__(self, xml: Path) -> None:
        super().__init__()
        try:
            root = ElementTree.parse(xml).getroot()
            values = xml.with_suffix(".bin").read_bytes()
            self.layers = _layers(root)
            for layer, element in zip(self.layers, root.findall("layers/layer"), strict=True):
                for what in ("weights", "biases"):
                    blob = element.find(f"blobs/{what}")
                    if blob is not None:
                        tensor = _tensor(blob, values, layer, what)
                        self.register_buffer(f"{what}_{layer.name}", tensor)
        except (OSError, ElementTree.ParseError, KeyError, ValueError, TypeError) as error:
            raise ModelError(
                xml, f"not a readable network of that format ({error})", REMEDY
            ) from error
        unknown = sorted({layer.kind for layer in self.layers} - LAYERS)
        if unknown:
            raise ModelError(
                xml, f"it has layers that are not supported: {', '.join(unknown)}", REMEDY
            )

    def forward(self, x: Tensor, names: Sequence[str] = ()) -> tuple[Tensor, ...]:
        values: dict[str, Tensor] = {}
        for layer in self.layers:
            inputs = [values[name] for name in layer.inputs] or [x]
            values[layer.name] = self._compute(layer, inputs)
        return tuple(values[name] for name in (names or (self.layers[-1].name,)))

    def _compute(self, layer: Layer, inputs: list[Tensor]) -> Tensor:
        x = inputs[0]
        weights: Tensor | None = getattr(self, f"weights_{layer.name}", None)
        biases: Tensor | None = getattr(self, f"biases_{layer.name}", None)
        if layer.kind == "Input":
            return x
        if layer.kind == "Convolution":
            assert weights is not None
            return _convolve(layer, x, weights, biases)
        if layer.kind == "PReLU":
            assert weights is not None
            return F.prelu(x, weights)
        if layer.kind == "ScaleShift":
            assert weights is not None
            scaled = x * weights.view(1, -1, 1, 1)
            return scaled if biases is None else scaled + biases.view(1, -1, 1, 1)
        if layer.kind == "Eltwise":
            return x + inputs[1] if layer.options["operation"] == "sum" else x * inputs[1]
        if layer.kind == "Activation":
            return x.sigmoid()
        pool = F.avg_pool2d if layer.options["pool-method"] == "avg" else F.max_pool2d
        return pool(x, layer.pair("kernel", "1,1"), layer.pair("strides", "1,1"))


def _convolve(layer: Layer, x: Tensor, weights: Tensor, biases: Tensor | None) -> Tensor:
    groups = layer.number("group")
    kernel = layer.pair("kernel", "1,1")
    (top, left), (bottom, right) = layer.pair("pads_begin", "0,0"), layer.pair("pads_end", "0,0")
    shaped = weights.view(layer.channels, x.shape[1] // groups, *kernel)
    if (top, left) == (bottom, right):
        padding = (top, left)
    else:
        x, padding = F.pad(x, (left, right, top, bottom)), (0, 0)
    strides, dilations = layer.pair("strides", "1,1"), layer.pair("dilations", "1,1")
    return F.conv2d(x, shaped, biases, strides, padding, dilations, groups)


def _layers(root: ElementTree.Element) -> list[Layer]:
    """Return the layers in the order of the file."""
    source: dict[tuple[str | None, str | None], str] = {}
    for edge in root.findall("edges/edge"):
        source[edge.get("to-layer"), edge.get("to-port")] = edge.attrib["from-layer"]
    layers = []
    for element in root.findall("layers/layer"):
        data = element.find("data")
        ports = element.findall("input/port")
        dims = element.findall("output/port/dim")
        layers.append(
            Layer(
                name=element.attrib["id"],
                kind=element.attrib["type"],
                options={} if data is None else dict(data.attrib),
                inputs=tuple(source[element.get("id"), port.get("id")] for port in ports),
                channels=int(dims[1].text or 0),
            )
        )
    return layers


def _tensor(blob: ElementTree.Element, values: bytes, layer: Layer, what: str) -> Tensor:
    """Return the numbers of one blob, stored as float16, in float32."""
    size, offset = int(blob.attrib["size"]), int(blob.attrib["offset"])
    if size < 0 or offset < 0 or offset + size > len(values):
        raise ValueError(f"the .bin file ends before the {what} of layer {layer.name}")
    numbers = np.frombuffer(values, np.float16, size // 2, offset)
    return torch.from_numpy(numbers.astype(np.float32))
