"""Encode tracks as probes: the best raw face, the pooled faces and the super-resolved face."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fasr_video.recognition import combiner as merging
from fasr_video.recognition.embedder import Embedder, as_tensor
from fasr_video.sr.attributes import Attribute, Classifiers, read
from fasr_video.sr.methods import find_method
from fasr_video.sr.restoration import FaceInput, Restoration, Restorer
from fasr_video.types import AlignedFace, Image
from fasr_video.weights.manifest import bundled

# A unit vector of the embedder.
Feature = NDArray[np.float32]


class Kind(StrEnum):
    """What a probe was computed from."""

    BEST = "best"
    POOLED = "pooled"
    SR = "sr"


@dataclass(frozen=True, slots=True)
class References:
    """Faces, in the canonical frame, that a reference-based method uses."""

    faces: tuple[Image, ...] = ()
    sha256: tuple[str, ...] = ()
    """Hashes of the photographs, where they are of a gallery subject."""
    subject: str = ""
    """Gallery subject; empty where the faces are of the track itself."""


@dataclass(frozen=True, slots=True)
class TrackFaces:
    """The selected faces of one track."""

    lr0: AlignedFace
    small: Image
    """LR0 in the canonical frame at its native resolution: the input of super-resolution."""
    auxiliaries: tuple[AlignedFace, ...]
    """In the order of time."""
    references: References = References()


@dataclass(frozen=True, slots=True)
class TrackFeatures:
    """The probes of one track, and its reconstruction."""

    features: dict[Kind, Feature]
    """Without `sr` where nothing was super-resolved, or where a subject's photographs were used for
    it."""
    restoration: Restoration | None


class TrackEncoder:
    """Computes probes with one set of models."""

    def __init__(
        self,
        embedder: Embedder,
        combiner: merging.FeatureCombiner | None = None,
        restorer: Restorer | None = None,
        samples: int = 2,
        *,
        reader: Classifiers | None = None,
    ) -> None:
        """With `reader`, attributes are read from each track's faces and guide its
        reconstruction."""
        self.embedder = embedder
        self._combiner = combiner
        self._restorer = restorer
        self._samples = samples
        self._reader = reader

    def provenance(self) -> dict[str, object]:
        """Return the models that the probes depend on; scores with other models are not
        comparable."""
        restorer = None
        if self._restorer is not None:
            restorer = {**self._restorer.provenance(), "samples": self._samples}
        combiner = "mean" if self._combiner is None else merging.fingerprint(self._combiner)
        return {"embedder": self.embedder.sha256, "pooled_by": combiner, "restorer": restorer}

    def encode(self, tracks: Sequence[TrackFaces], seeds: Sequence[int]) -> list[TrackFeatures]:
        """Return the probes of each track; they depend, but for rounding, on its own faces and seed
        only."""
        if not tracks:
            return []
        faces = [f for t in tracks for f in (t.lr0, *t.auxiliaries)]
        every, _ = self.embedder.embed(*as_tensors(faces))
        starts = np.cumsum([0, *(1 + len(t.auxiliaries) for t in tracks)])
        pooled = [self._pool(every[a:b]) for a, b in pairwise(starts)]
        restored = self._restore(tracks, pooled, seeds)
        results = []
        for k, start in enumerate(starts[:-1]):
            features = {Kind.BEST: every[start].numpy(), Kind.POOLED: pooled[k].numpy()}
            restoration = None if restored is None else restored[0][k]
            if restored is not None and not restored[0][k].conditioned_on:
                features[Kind.SR] = restored[1][k].numpy()
            results.append(TrackFeatures(features, restoration))
        return results

    def _pool(self, features: Tensor) -> Tensor:
        return (
            merging.mean(features) if self._combiner is None else self._combiner.combine(features)
        )

    def _restore(
        self, tracks: Sequence[TrackFaces], pooled: Sequence[Tensor], seeds: Sequence[int]
    ) -> tuple[list[Restoration], Tensor] | None:
        """Return the reconstructions and their features, or None without a restorer."""
        if self._restorer is None:
            return None
        if find_method(self._restorer.name).supports.references:
            inputs = [
                FaceInput(t.small, t.references.faces, subject=t.references.subject) for t in tracks
            ]
        # The network takes features of the embedder it was trained with, or computes its own from
        # faces.
        elif self._restorer.provenance().get("embedder") == self.embedder.sha256:
            inputs = [
                FaceInput(t.small, feature=f.numpy()) for t, f in zip(tracks, pooled, strict=True)
            ]
        else:
            inputs = [
                FaceInput(t.small, tuple(f.picture for f in (t.lr0, *t.auxiliaries)))
                for t in tracks
            ]
        inputs = [replace(p, attributes=self._read(t)) for p, t in zip(inputs, tracks, strict=True)]
        restored = self._restorer.restore_all(inputs, self._samples, seeds)
        aligned = [
            AlignedFace(r.picture, t.lr0.landmarks) for r, t in zip(restored, tracks, strict=True)
        ]
        return restored, self.embedder.embed(*as_tensors(aligned))[0]

    def _read(self, track: TrackFaces) -> tuple[Attribute, ...]:
        if self._reader is None:
            return ()
        return read(self._reader, [track.small, *(f.picture for f in track.auxiliaries)])


def make_encoder(
    embedder: Embedder, restorer: Restorer | None, samples: int, reader: Classifiers | None = None
) -> TrackEncoder:
    """Return an encoder that pools with the bundled Feature Combiner if it fits the embedder, else
    by mean."""
    combiner = merging.load_combiner(bundled("combiner.safetensors"))
    fitting = combiner if combiner.source.sha256 == embedder.sha256 else None
    return TrackEncoder(embedder, fitting, restorer, samples, reader=reader)


def as_tensors(faces: Sequence[AlignedFace]) -> tuple[Tensor, Tensor]:
    """Return pictures as N×3×128×128 in [0, 1], and landmarks as N×5×2, NaN where there are
    none."""
    none = np.full((5, 2), np.nan, np.float32)
    landmarks = np.stack([none if f.landmarks is None else f.landmarks for f in faces])
    return as_tensor([f.picture for f in faces]), torch.from_numpy(landmarks)
