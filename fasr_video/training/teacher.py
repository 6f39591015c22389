"""The embedder's teacher: face-reidentification-retail-0095 of Intel's Open Model Zoo, its vectors and its maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fasr_video.errors import MissingExtra, ModelError
from fasr_video.offline_openvino import load_openvino
from fasr_video.recognition.openvino_ir import IrNet

SIDE = 128
LENGTH = 256
CHANNELS = (64, 128, 128)
"""Of its maps at 32×32, 16×16 and 8×8."""


class Teacher:
    """On a CPU OpenVINO computes it where it is installed, in a fifth of torch's time; elsewhere torch does."""

    def __init__(self, xml: Path, device: torch.device) -> None:
        self.device = device
        net = _WithMaps(xml).eval().requires_grad_(False)
        self._compiled: Any = None if device.type != "cpu" else _compile(net)
        self._net = net.to(device)

    @torch.no_grad()
    def __call__(self, faces: Tensor) -> tuple[Tensor, list[Tensor]]:
        """N×3×128×128 RGB in [0, 1], the canonical frame → (N×256, the maps at 32×32, 16×16 and 8×8)."""
        if self._compiled is None:
            vectors, *maps = self._net(faces)
            return vectors, list(maps)
        found = self._compiled([faces.float().contiguous().numpy()])
        vectors, *maps = (torch.from_numpy(found[i].copy()) for i in range(1 + len(CHANNELS)))
        return vectors, list(maps)

    def vectors(self, faces: Tensor) -> Tensor:
        """Return the unit vectors of the faces, each with its mirror image: they tell people apart better so."""
        return merged(self(faces)[0], self(faces.flip(3))[0])


def merged(vectors: Tensor, mirrored: Tensor) -> Tensor:
    """Return the unit vectors of faces from those of the faces and of their mirror images."""
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
    """Return the names of the last layer and of those whose maps are the last of their size."""
    sizes = {32: "", 16: "", 8: ""}
    with torch.no_grad():
        names = [layer.name for layer in net.layers]
        values = net(torch.zeros(1, 3, SIDE, SIDE), names)
    for layer, value in zip(net.layers, values, strict=True):
        if layer.kind == "Eltwise" and value.shape[-1] in sizes:
            sizes[value.shape[-1]] = layer.name
    shown = dict(zip(names, values, strict=True))
    if values[-1].shape[1] != LENGTH or not all(sizes.values()):
        raise ModelError(xml, "its layers are not the teacher's", "give face-reidentification-retail-0095.xml")
    if tuple(shown[name].shape[1] for name in sizes.values()) != CHANNELS:
        raise ModelError(xml, "its maps are not the teacher's", "give face-reidentification-retail-0095.xml")
    return names[-1], *sizes.values()


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
