"""Embedding each face twice: as it is, and mirrored."""

from __future__ import annotations

import hashlib

from torch import Tensor
from torch.nn import functional as F

from fasr_video.recognition.align import fill_landmarks, mirror_landmarks
from fasr_video.recognition.embedder import Embedder


class Flipped:
    """An embedder that returns the mean of the features of a face and of its mirror image."""

    def __init__(self, inner: Embedder) -> None:
        self._inner = inner
        self.name = f"{inner.name} + flip"
        self.sha256 = hashlib.sha256(f"{inner.sha256} flip".encode()).hexdigest()
        self.length, self.licence, self.device = inner.length, inner.licence, inner.device

    def embed(self, faces: Tensor, landmarks: Tensor | None = None) -> tuple[Tensor, Tensor]:
        # Filled before they are mirrored: the mirror image of a canonical face is not quite in the
        # canonical frame.
        landmarks = fill_landmarks(landmarks, len(faces))
        features, norms = self._inner.embed(faces, landmarks)
        mirrored, mirrored_norms = self._inner.embed(faces.flip(3), mirror_landmarks(landmarks))
        mean = (features * norms[:, None] + mirrored * mirrored_norms[:, None]) / 2
        return F.normalize(mean, dim=1), mean.norm(dim=1)
