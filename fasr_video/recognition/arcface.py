"""ArcFace networks as InsightFace publishes them: ONNX files from a local folder; nothing is downloaded."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from fasr_video.errors import MissingExtra, ModelError, UsageError
from fasr_video.onnx_file import PROVIDERS, read_onnx
from fasr_video.recognition.align import ARCFACE_SIDE, canonical_to_arcface

if TYPE_CHECKING:
    import onnx

BATCH = 32


class ArcFaceEmbedder:
    licence = (
        "InsightFace's published models: for non-commercial research only; others: their own terms"
    )

    def __init__(self, weights: Path, device: str) -> None:
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when ONNX Runtime is imported
        try:
            import onnx  # noqa: F401
            import onnxruntime
        except ImportError as error:
            raise MissingExtra("onnxruntime", "insightface", "the embedder insightface") from error
        provider = PROVIDERS.get(device.partition(":")[0])
        if provider is None or provider not in onnxruntime.get_available_providers():
            raise UsageError(
                f"device {device}", "ONNX Runtime cannot use it on this machine", "use device cpu"
            )
        file, data, graph = _find(weights)
        self.device = torch.device(device)
        self.name = f"insightface {file.stem}"
        self.sha256 = hashlib.sha256(data).hexdigest()
        self._normalises = _normalises(graph)
        # Published graphs that take batches nevertheless declare an output of one row; ONNX Runtime warns of each call.
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                data, options, [_placed(provider, self.device)], enable_fallback=False
            )
            (given,) = self._session.get_inputs()
            self._input, self._batch = given.name, 1 if isinstance(given.shape[0], int) else BATCH
            black = self._run(np.zeros((1, 3, ARCFACE_SIDE, ARCFACE_SIDE), np.float32))
            _, self.length = black.shape
        except Exception as error:  # ONNX Runtime raises many kinds, bare Exception among them
            reason = f"ONNX Runtime cannot use it ({type(error).__name__})"
            raise ModelError(file, reason, "check that the file is whole") from error
        if not np.isfinite(black).all():
            raise ModelError(file, "its features are not finite", "check that the file is whole")

    def embed(self, faces: Tensor, landmarks: Tensor | None = None) -> tuple[Tensor, Tensor]:
        features = [torch.zeros(0, self.length)]
        for start in range(0, len(faces), self._batch):
            rows = slice(start, start + self._batch)
            x = (
                canonical_to_arcface(
                    faces[rows].to(self.device), None if landmarks is None else landmarks[rows]
                )
                * 255
            )
            features.append(
                torch.from_numpy(
                    self._run((x if self._normalises else x / 127.5 - 1).cpu().numpy())
                )
            )
        raw = torch.cat(features)
        return F.normalize(raw, dim=1), raw.norm(dim=1)

    def _run(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(self._session.run(None, {self._input: x})[0], np.float32)


def _placed(provider: str, device: torch.device) -> tuple[str, dict[str, int]]:
    """The provider on the device of that number."""
    return provider, {"device_id": device.index or 0} if device.type == "cuda" else {}


def _find(weights: Path) -> tuple[Path, bytes, onnx.GraphProto]:
    """The one ArcFace network among the ONNX files: a pack holds detectors and landmark networks beside it."""
    files = sorted(weights.glob("*.onnx")) if weights.is_dir() else [weights]
    if not files or not files[0].is_file():
        remedy = "give an ArcFace .onnx file, or its folder, e.g. an unpacked buffalo_l"
        raise ModelError(weights, "no such file, or no .onnx file in the folder", remedy)
    networks = [(file, *read_onnx(file)) for file in files]
    found = [network for network in networks if _is_arcface(network[2])]
    if len(found) != 1:
        reason = f"{len(found)} ArcFace networks (one input N×3×112×112, one output) in it; one is needed"
        raise ModelError(weights, reason, "give the path of the one .onnx file")
    return found[0]


def _is_arcface(graph: Any) -> bool:
    shapes = [[d.dim_value for d in value.type.tensor_type.shape.dim] for value in graph.input]
    constants = {c.name for c in graph.initializer}  # old files list their weights among the inputs
    shapes = [
        s for s, value in zip(shapes, graph.input, strict=True) if value.name not in constants
    ]
    return (
        len(graph.output) == 1
        and len(shapes) == 1
        and shapes[0][1:] == [3, ARCFACE_SIDE, ARCFACE_SIDE]
    )


def _normalises(graph: Any) -> bool:
    """Whether the graph itself brings pixels of 0-255 to its range; the rule is InsightFace's own."""
    names = [node.name for node in graph.node[:8]]
    return all(
        any(n.startswith(kind) for n in names) for kind in (("Sub", "_minus"), ("Mul", "_mul"))
    )
