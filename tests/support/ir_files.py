"""Small networks in OpenVINO's old format, with every kind of layer of the published teacher."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from fasr_video.recognition.network import SHAPES, STEM, Shape

Values = NDArray[np.float16]


class IrWriter:
    """Writes an .xml file and its .bin file, a layer a call; each returns the layer's name."""

    def __init__(self, seed: int = 0) -> None:
        self.root = ElementTree.Element("net", {"version": "5"})
        self.layers = ElementTree.SubElement(self.root, "layers")
        self.edges = ElementTree.SubElement(self.root, "edges")
        self.blob = b""
        self.random = np.random.default_rng(seed)
        self.shapes: dict[str, tuple[int, ...]] = {}

    def add(
        self,
        kind: str,
        inputs: list[str],
        shape: tuple[int, ...],
        options: dict[str, str] | None = None,
        *,
        blobs: dict[str, Values] | None = None,
    ) -> str:
        name = str(len(self.shapes))
        layer = ElementTree.SubElement(
            self.layers, "layer", {"id": name, "type": kind, "name": f"l{name}"}
        )
        if options:
            ElementTree.SubElement(layer, "data", options)
        if inputs:
            ports = ElementTree.SubElement(layer, "input")
            for number, source in enumerate(inputs):
                self._port(ports, number, self.shapes[source])
                edge = {
                    "from-layer": source,
                    "from-port": "9",
                    "to-layer": name,
                    "to-port": str(number),
                }
                ElementTree.SubElement(self.edges, "edge", edge)
        self._port(ElementTree.SubElement(layer, "output"), 9, shape)
        if blobs:
            blob_list = ElementTree.SubElement(layer, "blobs")
            for what, values in blobs.items():
                where = {"offset": str(len(self.blob)), "size": str(values.nbytes)}
                ElementTree.SubElement(blob_list, what, where)
                self.blob += values.tobytes()
        self.shapes[name] = shape
        return name

    @staticmethod
    def _port(parent: ElementTree.Element, number: int, shape: tuple[int, ...]) -> None:
        port = ElementTree.SubElement(parent, "port", {"id": str(number)})
        for side in shape:
            ElementTree.SubElement(port, "dim").text = str(side)

    def convolution(
        self, source: str, outputs: int, kernel: int, stride: int = 1, *, group: int = 1
    ) -> str:
        _, channels, height, width = self.shapes[source]
        pad = 0 if kernel in (stride, height) else kernel // 2
        size = tuple((side + 2 * pad - kernel) // stride + 1 for side in (height, width))
        spread = 1 / np.sqrt(channels // group * kernel**2)
        weights = self.random.normal(0, spread, outputs * (channels // group) * kernel**2).astype(
            np.float16
        )
        biases = self.random.normal(0, 0.1, outputs).astype(np.float16)
        options = {
            "kernel": f"{kernel},{kernel}",
            "strides": f"{stride},{stride}",
            "group": str(group),
        }
        options |= {
            "pads_begin": f"{pad},{pad}",
            "pads_end": f"{pad},{pad}",
            "output": str(outputs),
        }
        return self.add(
            "Convolution",
            [source],
            (1, outputs, *size),
            options,
            blobs={"weights": weights, "biases": biases},
        )

    def prelu(self, source: str) -> str:
        shape = self.shapes[source]
        return self.add(
            "PReLU", [source], shape, blobs={"weights": np.full(shape[1], 0.25, np.float16)}
        )

    def join(self, operation: str, a: str, b: str) -> str:
        return self.add("Eltwise", [a, b], self.shapes[a], {"operation": operation})

    def block(self, source: str, shape: Shape) -> str:
        """Add a block of the teacher's, with a narrow inner layer, whose width no map shows."""
        y = self.prelu(self.convolution(source, 16, 1))
        y = self.prelu(self.convolution(y, 16, 3, 2 if shape.halves else 1, group=16))
        y = self.convolution(y, shape.outputs, 1)
        side = f"{shape.side},{shape.side}"
        options = {"pool-method": "avg", "kernel": side, "strides": side}
        pooled = self.add("Pooling", [y], (1, shape.outputs, 1, 1), options)
        gate = self.add(
            "Activation", [self.convolution(pooled, shape.outputs, 1)], (1, shape.outputs, 1, 1)
        )
        y = self.join("mul", y, gate)
        return y if shape.halves else self.join("sum", source, y)

    def write(self, xml: Path) -> Path:
        ElementTree.ElementTree(self.root).write(xml)
        xml.with_suffix(".bin").write_bytes(self.blob)
        return xml


def write_teacher(xml: Path, vectors: int = 256) -> Path:
    """Write a small network with the teacher's maps and vectors."""
    ir = IrWriter()
    face = ir.add("Input", [], (1, 3, 128, 128))
    scale = {"weights": np.full(3, 1 / 128, np.float16), "biases": np.full(3, -1, np.float16)}
    scaled = ir.add("ScaleShift", [face], (1, 3, 128, 128), blobs=scale)
    x = ir.prelu(ir.convolution(scaled, STEM, 3, 2))
    for shape in SHAPES:
        x = ir.block(x, shape)
    wide = ir.prelu(ir.convolution(x, 32, 1))
    ir.convolution(ir.convolution(wide, 32, SHAPES[-1].side, group=32), vectors, 1)
    return ir.write(xml)
