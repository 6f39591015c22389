"""The embedder's teacher, face-reidentification-retail-0095 of Intel's Open Model Zoo."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fasr_video.errors import MissingExtra, ModelError
from fasr_video.offline_openvino import load_openvino
from fasr_video.recognition.network import SHAPES
from fasr_video.recognition.openvino_ir import IrNet

SIDE = 128
LENGTH = 256
# Shapes of the maps at the end of its blocks; the student has the same.
MAPS = tuple((shape.outputs, shape.side, shape.side) for shape in SHAPES)


class Teacher:
    """The teacher; on a CPU it uses OpenVINO if installed, which takes a fifth of torch's time."""

    def __init__(self, xml: Path, device: torch.device) -> None:
        self.device = device
        net = _WithMaps(xml).eval().requires_grad_(False)
        self._compiled: Any = None if device.type != "cpu" else _compile(net)
        self._net = net.to(device)

    @torch.no_grad()
    def __call__(self, faces: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return N×256 vectors and each block's map, for canonical faces N×3×128×128 in [0, 1]."""
        if self._compiled is None:
            vectors, *maps = self._net(faces)
            return vectors, list(maps)
        outputs = self._compiled([faces.float().contiguous().numpy()])
        vectors, *maps = (torch.from_numpy(outputs[i].copy()) for i in range(1 + len(MAPS)))
        return vectors, list(maps)

    def vectors(self, faces: Tensor) -> Tensor:
        """Return unit vectors of the faces, merged with those of their mirror images."""
        return merged(self(faces)[0], self(faces.flip(3))[0])


def merged(vectors: Tensor, mirrored: Tensor) -> Tensor:
    """Return the unit vectors that merge those of faces and of their mirror images."""
    return F.normalize(F.normalize(vectors, dim=1) + F.normalize(mirrored, dim=1), dim=1)


class _WithMaps(nn.Module):
    def __init__(self, xml: Path) -> None:
        super().__init__()
        self.net = IrNet(xml)
        self.names = _maps_of(self.net, xml)

    def forward(self, faces: Tensor) -> tuple[Tensor, ...]:
        vectors, *maps = self.net(faces.flip(1) * 255, self.names)
        return vectors.flatten(1), *maps


def _maps_of(net: IrNet, xml: Path) -> tuple[str, ...]:
    """Return the names of the last layer and of the layers at the end of blocks.

    A block ends with a sum or product to which no other is added.
    """
    ends = []
    for layer, following in pairwise(net.layers):
        if layer.kind == "Eltwise" and following.kind != "Eltwise":
            ends.append(layer.name)
    names = (net.layers[-1].name, *ends)
    with torch.no_grad():
        vectors, *maps = net(torch.zeros(1, 3, SIDE, SIDE), names)
    if vectors.shape[1] != LENGTH or tuple(tuple(m.shape[1:]) for m in maps) != MAPS:
        raise ModelError(
            xml, "its layers are not the teacher's", "give face-reidentification-retail-0095.xml"
        )
    return names


def _compile(net: _WithMaps) -> Any:
    try:
        openvino = load_openvino("the teacher")
    except MissingExtra:
        return None
    options = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    with torch.no_grad():
        graph = openvino.convert_model(net, example_input=torch.zeros(2, 3, SIDE, SIDE))
    return openvino.Core().compile_model(graph, "CPU", options)
