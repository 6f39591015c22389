"""Face detection: several detectors behind one contract."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fasr_video.detection.detector import Detector
from fasr_video.detection.haar import HaarDetector
from fasr_video.detection.insightface import InsightFaceDetector
from fasr_video.detection.photograph import MIN_SCORE
from fasr_video.detection.tiling import TiledDetector
from fasr_video.errors import SettingsError, UsageError
from fasr_video.weights.manifest import bundled

__all__ = ["BACKENDS", "Detector", "TiledDetector", "open_detector"]


@dataclass(frozen=True, slots=True)
class _Request:
    weights: Path | None
    device: str
    min_score: float
    max_side: int
    engine: str
    batch: int | None

    def required_weights(self, what: str) -> Path:
        """Return the path of the weights; raise if none is given."""
        if self.weights is None:
            raise UsageError("detect.weights", "this backend has no bundled ones", f"give {what}")
        return self.weights


# Detectors that need torch are imported here, so that other backends do not wait for it.
def _builtin(request: _Request) -> Detector:
    from fasr_video.detection.builtin import BuiltinDetector

    weights = request.weights or bundled("detector.safetensors")
    return BuiltinDetector(
        weights, request.min_score, request.device, request.engine, batch=request.batch
    )


def _haar(request: _Request) -> Detector:
    if request.weights is not None:
        raise UsageError(
            "detect.weights", "the haar backend has OpenCV's own cascade", "leave it out"
        )
    if request.device != "cpu":
        raise UsageError(
            f"device {request.device}", "the haar backend runs on the CPU only", "use device cpu"
        )
    return HaarDetector(request.min_score)


def _retinaface(request: _Request) -> Detector:
    from fasr_video.detection.retinaface import RetinaFaceDetector

    weights = request.required_weights("the path of retinaface-pytorch's ResNet-50 weights")
    return RetinaFaceDetector(weights, request.min_score, request.device, request.max_side)


def _insightface(request: _Request) -> Detector:
    folder = request.required_weights("a folder with InsightFace's ONNX files")
    return InsightFaceDetector(folder, request.min_score, request.device, request.max_side)


BACKENDS: dict[str, Callable[[_Request], Detector]] = {
    "builtin": _builtin,
    "haar": _haar,
    "retinaface": _retinaface,
    "insightface": _insightface,
}


def open_detector(
    backend: str,
    *,
    weights: Path | None,
    device: str,
    min_score: float,
    tile: int = 0,
    tile_overlap: int = 96,
    max_side: int = 1280,
    engine: str = "torch",
    batch: int | None = None,
) -> Detector:
    """Return the detector of that name; it works in tiles if `tile` (px) is not 0.

    `max_side` is for retinaface and insightface: longer frames or tiles are shrunk to it.
    `engine` (torch or openvino) and `batch` (frames or tiles at a time) are for the builtin one.
    """
    if backend not in BACKENDS:
        raise SettingsError(
            "detect.backend", f"unknown backend {backend!r}", f"use one of {', '.join(BACKENDS)}"
        )
    if engine != "torch" and backend != "builtin":
        raise SettingsError(
            "detect.engine", f"the {backend} backend has no engine {engine}", "leave it at torch"
        )
    detector = BACKENDS[backend](_Request(weights, device, min_score, max_side, engine, batch))
    return TiledDetector(detector, tile, tile_overlap) if tile else detector


def open_for_photographs(device: str) -> Detector:
    """Return the builtin detector as photographs need it."""
    return open_detector("builtin", weights=None, device=device, min_score=MIN_SCORE)
