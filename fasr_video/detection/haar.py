"""The baseline: OpenCV's frontal face cascade. It has no landmarks and many false alarms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
from cv2.data import haarcascades

from fasr_video.boxes import best_first
from fasr_video.files import sha256_file
from fasr_video.types import Detections, Image

CASCADE = "haarcascade_frontalface_alt2.xml"
SCALE = 1.08
MIN_SIZE = 18  # px; with SCALE it found every frontal face of 20 px or more that we measured with
MIN_NEIGHBOURS = 3


class HaarDetector:
    """OpenCV's cascade of Haar features.

    The score of a face is m / (1 + m), where m is the last stage's sum of votes minus its
    threshold. It grows with the cascade's certainty, lies in [0, 1), and is no probability.
    """

    has_landmarks = False
    licence = "Intel licence for OpenCV (BSD style), free for any use"

    def __init__(self, min_score: float) -> None:
        path = Path(haarcascades) / CASCADE
        self._cascade = cv2.CascadeClassifier(str(path))
        self._threshold = _last_threshold(path)
        self._min_score = min_score
        self.name = f"haar ({path.stem}, OpenCV {cv2.__version__})"
        self.fingerprint = sha256_file(path)

    def detect(self, frames: Sequence[Image]) -> list[Detections]:
        return [self._detect_in(frame) for frame in frames]

    def _detect_in(self, frame: Image) -> Detections:
        corners, _, votes = self._cascade.detectMultiScale3(
            cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY),
            scaleFactor=SCALE,
            minNeighbors=MIN_NEIGHBOURS,
            minSize=(MIN_SIZE, MIN_SIZE),
            outputRejectLevels=True,
        )
        boxes = np.asarray(corners, np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        margin = (np.asarray(votes, np.float64).ravel() - self._threshold).clip(min=0)
        scores = (margin / (1 + margin)).astype(np.float32)
        passing = scores >= self._min_score
        return best_first(boxes[passing], scores[passing], None)


def _last_threshold(path: Path) -> float:
    """Return the threshold of the cascade's last stage."""
    thresholds = [float(e.text or "nan") for e in ElementTree.parse(path).iter("stageThreshold")]
    return thresholds[-1]
