"""Five landmarks of a face that is in the canonical frame already, however poor the picture."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from fasr_video.detection import open_detector
from fasr_video.recognition.align import CANONICAL_SIDE
from fasr_video.recognition.landmarks import usable
from fasr_video.types import Image

# Pixels of the face in the detector's input, and of the border around it. At this size 97 % of
# CelebA's faces that were reduced to 16 px and enlarged again are detected, 56 % of those of 8 px,
# none of 4 px; at 128 px, far fewer.
SIDE = 64
BORDER = 32
MIN_SCORE = 0.3


class LandmarkFinder:
    """Finds the landmarks of the one face of a canonical picture, with the builtin detector."""

    def __init__(self, device: str) -> None:
        self._detector = open_detector("builtin", weights=None, device=device, min_score=MIN_SCORE)
        self.sha256 = self._detector.fingerprint

    def __call__(self, face: Image) -> NDArray[np.float32] | None:
        """Return the landmarks, 5×2 in the pixels of the picture (128×128×3).

        Return None if no landmarks are found that can be those of a canonical face.
        """
        small = cv2.resize(face, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        borders = (BORDER, BORDER, BORDER, BORDER)
        framed = cv2.copyMakeBorder(small, *borders, cv2.BORDER_REPLICATE)
        detections = self._detector.detect([np.asarray(framed, np.uint8)])[0]
        if not len(detections) or detections.landmarks is None:
            return None
        # Pixel centres: u = (u_small + 0.5) · scale − 0.5.
        landmarks = (detections.landmarks[0] - BORDER + 0.5) * (CANONICAL_SIDE / SIDE) - 0.5
        if not bool(usable(torch.from_numpy(landmarks)[None])):
            return None
        return np.asarray(landmarks, np.float32)
