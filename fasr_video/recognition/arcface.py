"""ArcFace networks published by InsightFace, from local ONNX files. Nothing is downloaded."""

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
        # Published graphs take batches but declare an output of one row, and ONNX Runtime would
        # warn of that at each call.
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                data, options, [_on_device(provider, self.device)], enable_fallback=False
            )
            (graph_input,) = self._session.get_inputs()
            self._input = graph_input.name
            self._batch = 1 if isinstance(graph_input.shape[0], int) else BATCH
            feature = self._run(np.zeros((1, 3, ARCFACE_SIDE, ARCFACE_SIDE), np.float32))
            _, self.length = feature.shape
        except Exception as error:  # ONNX Runtime raises even a bare Exception
            reason = f"ONNX Runtime cannot use it ({type(error).__name__})"
            raise ModelError(file, reason, "check that the file is complete") from error
        if not np.isfinite(feature).all():
            raise ModelError(file, "its features are not finite", "check that the file is complete")

    def embed(self, faces: Tensor, landmarks: Tensor | None = None) -> tuple[Tensor, Tensor]:
        features = [torch.zeros(0, self.length)]
        for start in range(0, len(faces), self._batch):
            rows = slice(start, start + self._batch)
            landmarks_of_rows = None if landmarks is None else landmarks[rows]
            x = canonical_to_arcface(faces[rows].to(self.device), landmarks_of_rows) * 255
            if not self._normalises:
                x = x / 127.5 - 1
            features.append(torch.from_numpy(self._run(x.cpu().numpy())))
        raw = torch.cat(features)
        return F.normalize(raw, dim=1), raw.norm(dim=1)

    def _run(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(self._session.run(None, {self._input: x})[0], np.float32)


def _on_device(provider: str, device: torch.device) -> tuple[str, dict[str, int]]:
    """Return the provider with the number of the device as its option."""
    options = {"device_id": device.index or 0} if device.type == "cuda" else {}
    return provider, options


def _find(weights: Path) -> tuple[Path, bytes, onnx.GraphProto]:
    """Return file, bytes and graph of the only ArcFace network among the ONNX files.

    InsightFace's packs have detectors and landmark networks beside it.
    """
    files = sorted(weights.glob("*.onnx")) if weights.is_dir() else [weights]
    if not files or not files[0].is_file():
        remedy = "give an ArcFace .onnx file, or its folder, e.g. an unpacked buffalo_l"
        raise ModelError(weights, "no such file, or no .onnx file in the folder", remedy)
    networks = [(file, *read_onnx(file)) for file in files]
    arcface = [network for network in networks if _is_arcface(network[2])]
    if len(arcface) != 1:
        count = len(arcface)
        reason = (
            f"{count} ArcFace networks (one input N×3×112×112, one output) in it; one is needed"
        )
        raise ModelError(weights, reason, "give the path of the one .onnx file")
    return arcface[0]


def _is_arcface(graph: Any) -> bool:
    """Return whether the graph has one input of ArcFace's shape and one output."""
    constants = {c.name for c in graph.initializer}  # old files list their weights among the inputs
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1 or len(graph.output) != 1:
        return False
    shape = [dimension.dim_value for dimension in inputs[0].type.tensor_type.shape.dim]
    return shape[1:] == [3, ARCFACE_SIDE, ARCFACE_SIDE]


def _normalises(graph: Any) -> bool:
    """Return whether the graph itself scales pixels of 0-255; the rule is InsightFace's own."""
    names = [node.name for node in graph.node[:8]]
    subtracts = any(name.startswith(("Sub", "_minus")) for name in names)
    multiplies = any(name.startswith(("Mul", "_mul")) for name in names)
    return subtracts and multiplies
