"""InsightFace's detectors (SCRFD) from a local folder of ONNX files; nothing is downloaded."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fasr_video.boxes import best_first, shrink
from fasr_video.errors import MissingExtra, ModelError, UsageError
from fasr_video.onnx_file import PROVIDERS, read_onnx
from fasr_video.types import Detections, Image

PAD_TO = 32  # the network's largest stride


class InsightFaceDetector:
    licence = (
        "InsightFace's published models: for non-commercial research only; others: their own terms"
    )

    def __init__(self, folder: Path, min_score: float, device: str, max_side: int) -> None:
        files = sorted(folder.glob("*.onnx")) if folder.is_dir() else []
        if not files:
            remedy = "give a folder with InsightFace's ONNX files, e.g. an unpacked buffalo_l"
            raise ModelError(folder, "no such folder, or no .onnx file in it", remedy)
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when ONNX Runtime is imported
        try:
            import onnxruntime
            from insightface.app import FaceAnalysis
        except ImportError as error:
            raise MissingExtra(
                "insightface", "insightface", "`detect.backend: insightface`"
            ) from error
        provider = PROVIDERS.get(device.partition(":")[0])
        if provider not in onnxruntime.get_available_providers():
            raise UsageError(
                f"device {device}", "ONNX Runtime cannot use it on this machine", "use device cpu"
            )
        self.fingerprint = _fingerprint(files)
        try:
            # Some models print when they load.
            with contextlib.redirect_stdout(io.StringIO()):
                analysis = FaceAnalysis(
                    name=str(folder),
                    allowed_modules=["detection"],
                    providers=[provider],
                    # One session for all picture sizes, instead of one for each size.
                    static_shape_sessions=False,
                )
        except Exception as error:  # ONNX Runtime and InsightFace raise even a bare Exception
            reason = f"InsightFace finds no usable detector in it ({type(error).__name__})"
            raise ModelError(folder, reason, "check that the files are complete") from error
        self._model = analysis.det_model
        self._min_score = min_score
        self._max_side = max_side
        self.name = f"insightface ({folder.name}, {device}, longest side at most {max_side} px)"

    @property
    def has_landmarks(self) -> bool:
        return bool(self._model.use_kps)

    def detect(self, frames: Sequence[Image]) -> list[Detections]:
        return [self._detect_in(frame) for frame in frames]

    def _detect_in(self, frame: Image) -> Detections:
        small, scale = shrink(frame, self._max_side)
        height, width = small.shape[:2]
        # Padded here: otherwise InsightFace enlarges the frame to fill the input size.
        padded = np.pad(small[..., ::-1], ((0, -height % PAD_TO), (0, -width % PAD_TO), (0, 0)))
        rows, landmarks = self._model.detect(
            padded, padded.shape[1::-1], det_thresh=self._min_score
        )
        boxes = rows[:, :4] * np.tile(scale, 2)
        scores = rows[:, 4]
        return best_first(boxes, scores, None if landmarks is None else landmarks * scale)


def _fingerprint(files: list[Path]) -> str:
    """Return a SHA-256 over the hashes and names of the files."""
    lines = (f"{hashlib.sha256(read_onnx(file)[0]).hexdigest()}  {file.name}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
