"""Embedders by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fasr_video.checkpoint import find_device
from fasr_video.errors import SettingsError, UsageError
from fasr_video.recognition.adaface import AdaFaceEmbedder
from fasr_video.recognition.arcface import ArcFaceEmbedder
from fasr_video.recognition.dlib_resnet import DlibEmbedder
from fasr_video.recognition.embedder import BuiltinEmbedder, Embedder
from fasr_video.recognition.flip import Flipped


@dataclass(frozen=True, slots=True)
class _Request:
    weights: Path | None
    device: str

    def required_weights(self, what: str) -> Path:
        """Return the path of the weights; raise if none is given."""
        if self.weights is None:
            reason = "this embedder has no bundled ones"
            raise UsageError("embedder weights", reason, f"give {what}")
        return self.weights


def _builtin(request: _Request) -> Embedder:
    return BuiltinEmbedder(request.weights, find_device(request.device))


def _adaface(request: _Request) -> Embedder:
    weights = request.required_weights("the path of one of AdaFace's checkpoints")
    return AdaFaceEmbedder(weights, find_device(request.device))


def _insightface(request: _Request) -> Embedder:
    weights = request.required_weights("InsightFace's ArcFace .onnx file, or its folder")
    return ArcFaceEmbedder(weights, request.device)


def _dlib(request: _Request) -> Embedder:
    return DlibEmbedder(request.weights, request.device)


EMBEDDERS: dict[str, Callable[[_Request], Embedder]] = {
    "builtin": _builtin,
    "adaface": _adaface,
    "insightface": _insightface,
    "dlib": _dlib,
}


def open_embedder(backend: str, weights: Path | None, device: str, flip: bool = False) -> Embedder:
    """Return the embedder of that name; with `flip` it averages a face and its mirror image."""
    if backend not in EMBEDDERS:
        raise SettingsError(
            f"embedder {backend}", "no such embedder", f"use one of {', '.join(EMBEDDERS)}"
        )
    embedder = EMBEDDERS[backend](_Request(weights, device))
    if not flip:
        return embedder
    return Flipped(embedder)
