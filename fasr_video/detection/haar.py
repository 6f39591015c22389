"""The baseline: OpenCV's frontal face cascade. No weights to fetch, no landmarks, many false alarms."""

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
MIN_SIZE = 18  # px; with SCALE: found every frontal face of 20 px or more in our measurement
MIN_NEIGHBOURS = 3


class HaarDetector:
    """A face's score is m / (1 + m), m being how far the last stage's sum of votes lies above what that stage asks for.

    It grows with the cascade's own certainty, lies in [0, 1), and is no probability.
    """

    has_landmarks = False
    licence = "Intel licence for OpenCV (BSD style), free for any use"

    def __init__(self, min_score: float) -> None:
        path = Path(haarcascades) / CASCADE
        self._cascade = cv2.CascadeClassifier(str(path))
        self._asked = _last_threshold(path)
        self._min_score = min_score
        self.name = f"haar ({path.stem}, OpenCV {cv2.__version__})"
        self.fingerprint = sha256_file(path)

    def detect(self, frames: Sequence[Image]) -> list[Detections]:
        return [self._one(frame) for frame in frames]

    def _one(self, frame: Image) -> Detections:
        corners, _, votes = self._cascade.detectMultiScale3(
            cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY),
            scaleFactor=SCALE,
            minNeighbors=MIN_NEIGHBOURS,
            minSize=(MIN_SIZE, MIN_SIZE),
            outputRejectLevels=True,
        )
        boxes = np.asarray(corners, np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        margin = (np.asarray(votes, np.float64).ravel() - self._asked).clip(min=0)
        scores = (margin / (1 + margin)).astype(np.float32)
        sure = scores >= self._min_score
        return best_first(boxes[sure], scores[sure], None)


def _last_threshold(path: Path) -> float:
    thresholds = [float(e.text or "nan") for e in ElementTree.parse(path).iter("stageThreshold")]
    return thresholds[-1]
