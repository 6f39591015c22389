"""What speaks for a track's being a face at all: detectors also find lamps, labels and prints.

The bundled embedder is trained to give parts of scenes without a face the vector zero, so the
length of its vector, the norm, tells how much of a face it sees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fasr_video.configs.settings import SelectSettings, Settings, least_norm
from fasr_video.recognition.embedder import Embedder, as_tensor
from fasr_video.types import Image

# As many are decided by and kept, so that whoever questions a decision sees what it was made from.
DIGITS = 4


@dataclass(frozen=True, slots=True)
class Evidence:
    score: float
    """Mean of the detector's scores over all sightings of the track."""
    norm: float
    """Median of the embedder's norms over the kept faces of the track."""
    eye_px: float
    """Pixels between the eyes of the face that the track is shown by."""

    def is_face(self, settings: SelectSettings) -> bool:
        """Return False only where the detector was unsure and the embedder sees no face either."""
        least = least_norm(self.eye_px, settings.min_norm, settings.min_norm_large)
        return self.score >= settings.sure_score or self.norm >= least


def weigh(embedder: Embedder, mean_score: float, eye_px: float, faces: Sequence[Image]) -> Evidence:
    """Return the evidence for a track with these faces, 128×128×3 RGB in the canonical frame."""
    _, norms = embedder.embed(as_tensor(faces))
    norm = float(np.median(norms.numpy()))
    return Evidence(round(mean_score, DIGITS), round(norm, DIGITS), eye_px)


def uses_bundled_models(settings: Settings) -> bool:
    """Return whether the models are the bundled ones, whose scores and norms the limits are of."""
    detect, recognise = settings.detect, settings.recognise
    in_the_box = detect.weights is None and recognise.weights is None
    return in_the_box and (detect.backend, recognise.embedder) == ("builtin", "builtin")


def explain(evidence: Mapping[str, float]) -> str:
    """Return why a track is not a face, from what `export` gives out of its evidence."""
    score, norm = f"{evidence['mean_score']:.3f}", f"{evidence['norm']:.2f}"
    size = f"{evidence['eye_px']:.0f} px between the eyes"
    return (
        f"The detector was unsure (mean score {score}, less than {evidence['sure_score']:g}), and "
        f"the embedder sees no face in it (norm {norm}, less than {evidence['min_norm']:g}, at "
        f"{size}). Nothing was reconstructed, and nobody was searched for. Models can be wrong: its "
        "pictures are kept for people to judge."
    )
