"""Evidence that a track shows a face at all: detectors also find lamps, labels and prints.

The bundled embedder is trained to return the vector zero for parts of scenes without a face, so
the norm of its vector is a measure of how much something looks like a face.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fasr_video.case.entries import EvidenceEntry
from fasr_video.configs.settings import SelectSettings, Settings, min_norm_for
from fasr_video.recognition.embedder import Embedder, as_tensor
from fasr_video.types import Image

# Numbers are rounded to this before the decision, so that people see exactly what decided.
DIGITS = 4


@dataclass(frozen=True, slots=True)
class Evidence:
    """The numbers that decide whether a track shows a face."""

    score: float
    """Mean of the detector's scores over all sightings of the track."""
    norm: float
    """Median of the embedder's norms over the kept faces of the track."""
    eye_px: float
    """Pixels between the eyes of the face that represents the track."""

    def is_face(self, settings: SelectSettings) -> bool:
        """Return False only if the score is low and the norm is low as well."""
        min_norm = min_norm_for(self.eye_px, settings.min_norm, settings.min_norm_large)
        return self.score >= settings.sure_score or self.norm >= min_norm


def measure_evidence(
    embedder: Embedder, mean_score: float, eye_px: float, faces: Sequence[Image]
) -> Evidence:
    """Return the evidence for a track with these faces, 128×128×3 RGB in the canonical frame."""
    _, norms = embedder.embed(as_tensor(faces))
    norm = float(np.median(norms.numpy()))
    return Evidence(round(mean_score, DIGITS), round(norm, DIGITS), eye_px)


def uses_bundled_models(settings: Settings) -> bool:
    """Return whether detector and embedder are the bundled ones, for which the limits hold."""
    detect, recognise = settings.detect, settings.recognise
    builtin = (detect.backend, recognise.embedder) == ("builtin", "builtin")
    return builtin and detect.weights is None and recognise.weights is None


def explain(evidence: EvidenceEntry) -> str:
    """Return why a track counts as no face, from its `evidence` in exports."""
    score = f"{evidence.mean_score:.3f}"
    norm = f"{evidence.norm:.2f}"
    size = f"{evidence.eye_px:.0f} px between the eyes"
    return (
        f"The detector was unsure (mean score {score}, less than {evidence.sure_score:g}), and "
        f"the embedder sees no face in it (norm {norm}, less than {evidence.min_norm:g}, at "
        f"{size}). Nothing was reconstructed, and nobody was searched for. "
        "Models can be wrong: its pictures are kept for people to judge."
    )
