"""Features in directions that a test chooses, and a calibration on such features."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fasr_video.calibration.calibrate import LabelledProbe, from_probes
from fasr_video.gallery.calibration import Calibration
from fasr_video.gallery.encoder import Kind
from fasr_video.gallery.search import TrackQuery

LENGTH = 64


FACTS: dict[str, object] = {"embedder": "e", "pooled_by": "mean", "restorer": None}


def normalise(v: NDArray[np.floating]) -> NDArray[np.float32]:
    return (v / np.linalg.norm(v)).astype(np.float32)


def person_direction(name: str) -> NDArray[np.float32]:
    """A direction of its own for each name."""
    return normalise(
        np.random.default_rng(sum(map(ord, name)) * 7919 + len(name)).standard_normal(LENGTH)
    )


def vector_near(centre: NDArray[np.float32], cosine: float, seed: int = 0) -> NDArray[np.float32]:
    """A unit vector with exactly this cosine to `centre`."""
    noise = np.random.default_rng(seed).standard_normal(LENGTH)
    across = normalise(noise - (noise @ centre) * centre)
    return normalise(cosine * centre + (1 - cosine**2) ** 0.5 * across)


def make_calibration() -> Calibration:
    """From 160 people whose probes are as like them as 0.6 (best), 0.75 (pooled) and 0.7 (sr)
    say.
    """
    rng = np.random.default_rng(3)
    probes, enrolled = [], {}
    for i in range(160):
        name, centre = f"p{i}", normalise(rng.standard_normal(LENGTH))
        likeness = {Kind.BEST: 0.6, Kind.POOLED: 0.75, Kind.SR: 0.7}
        features = {
            k: vector_near(centre, c, 10 * i + j) for j, (k, c) in enumerate(likeness.items())
        }
        probes.append(LabelledProbe(name, features, 16))
        if i % 2 == 0:
            enrolled[name] = vector_near(centre, 0.9, 10 * i + 9)
    return from_probes(probes, enrolled, {**FACTS, "restorer": "r"}, "made", seed=0)


def probes(
    name: str, best: float = 0.7, pooled: float = 0.8, sr: float = 0.75, *, side: int = 16
) -> TrackQuery:
    cosines = {Kind.BEST: best, Kind.POOLED: pooled, Kind.SR: sr}
    return TrackQuery(
        {
            k: vector_near(person_direction(name), c, 50 + i)
            for i, (k, c) in enumerate(cosines.items())
        },
        side,
    )
