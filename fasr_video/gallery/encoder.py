"""What a track asks a gallery: its best raw face, its faces pooled, and its super-resolved face, always told apart."""

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

# A unit vector of the embedder's length.
Feature = NDArray[np.float32]


class Kind(StrEnum):
    """Where a probe comes from."""

    BEST = "best"
    POOLED = "pooled"
    SR = "sr"


@dataclass(frozen=True, slots=True)
class References:
    """Faces that a method with references draws somebody from, in the canonical frame."""

    faces: tuple[Image, ...] = ()
    sha256: tuple[str, ...] = ()
    """Of the photographs, where they are a subject's."""
    subject: str = ""
    """Of the gallery; empty where they are of the track itself."""


@dataclass(frozen=True, slots=True)
class TrackFaces:
    """The faces that speak for one person."""

    lr0: AlignedFace
    small: Image
    """LR0 in the canonical frame at its own resolution: what super-resolution starts from."""
    auxiliaries: tuple[AlignedFace, ...]
    """In the order of time."""
    references: References = References()


@dataclass(frozen=True, slots=True)
class TrackFeatures:
    features: dict[Kind, Feature]
    """Without `sr` where nothing was super-resolved, or where a subject's photographs were drawn from."""
    restoration: Restoration | None


class TrackEncoder:
    """Makes probes with one set of models."""

    def __init__(
        self,
        embedder: Embedder,
        combiner: merging.FeatureCombiner | None = None,
        restorer: Restorer | None = None,
        samples: int = 2,
        reader: Classifiers | None = None,
    ) -> None:
        """With a reader, attributes are read off each track's faces, and its restoration is drawn towards them."""
        self.embedder, self._combiner, self._restorer, self._samples = (
            embedder,
            combiner,
            restorer,
            samples,
        )
        self._reader = reader

    def provenance(self) -> dict[str, object]:
        """What the probes depend on: scores of probes made otherwise are other scores."""
        restorer = (
            None
            if self._restorer is None
            else {**self._restorer.provenance(), "samples": self._samples}
        )
        combiner = "mean" if self._combiner is None else merging.fingerprint(self._combiner)
        return {"embedder": self.embedder.sha256, "pooled_by": combiner, "restorer": restorer}

    def ask(self, tracks: Sequence[TrackFaces], seeds: Sequence[int]) -> list[TrackFeatures]:
        """One answer a track; each depends on its own faces and seed, never (but for rounding) on the others."""
        if not tracks:
            return []
        faces = [f for t in tracks for f in (t.lr0, *t.auxiliaries)]
        every, _ = self.embedder.embed(*as_tensors(faces))
        starts = np.cumsum([0, *(1 + len(t.auxiliaries) for t in tracks)])
        pooled = [self._pool(every[a:b]) for a, b in pairwise(starts)]
        restored = self._restore(tracks, pooled, seeds)
        answers = []
        for k, start in enumerate(starts[:-1]):
            features = {Kind.BEST: every[start].numpy(), Kind.POOLED: pooled[k].numpy()}
            restoration = None if restored is None else restored[0][k]
            if restored is not None and not restored[0][k].conditioned_on:
                features[Kind.SR] = restored[1][k].numpy()
            answers.append(TrackFeatures(features, restoration))
        return answers

    def _pool(self, features: Tensor) -> Tensor:
        return (
            merging.mean(features) if self._combiner is None else self._combiner.combine(features)
        )

    def _restore(
        self, tracks: Sequence[TrackFaces], pooled: Sequence[Tensor], seeds: Sequence[int]
    ) -> tuple[list[Restoration], Tensor] | None:
        if self._restorer is None:
            return None
        if find_method(self._restorer.name).supports.references:
            asked = [
                FaceInput(t.small, t.references.faces, subject=t.references.subject) for t in tracks
            ]
        # The network has to be told in the features that it was trained with; with others it makes its own.
        elif self._restorer.provenance().get("embedder") == self.embedder.sha256:
            asked = [
                FaceInput(t.small, feature=f.numpy()) for t, f in zip(tracks, pooled, strict=True)
            ]
        else:
            asked = [
                FaceInput(t.small, tuple(f.picture for f in (t.lr0, *t.auxiliaries)))
                for t in tracks
            ]
        asked = [replace(p, attributes=self._read(t)) for p, t in zip(asked, tracks, strict=True)]
        restored = self._restorer.restore_all(asked, self._samples, seeds)
        drawn = [
            AlignedFace(r.picture, t.lr0.landmarks) for r, t in zip(restored, tracks, strict=True)
        ]
        return restored, self.embedder.embed(*as_tensors(drawn))[0]

    def _read(self, track: TrackFaces) -> tuple[Attribute, ...]:
        if self._reader is None:
            return ()
        return read(self._reader, [track.small, *(f.picture for f in track.auxiliaries)])


def make_encoder(
    embedder: Embedder, restorer: Restorer | None, samples: int, reader: Classifiers | None = None
) -> TrackEncoder:
    """Pools by the bundled Feature Combiner where it was trained on this embedder's features, else by the mean."""
    combiner = merging.load_combiner(bundled("combiner.safetensors"))
    fitting = combiner if combiner.source.sha256 == embedder.sha256 else None
    return TrackEncoder(embedder, fitting, restorer, samples, reader)


def as_tensors(faces: Sequence[AlignedFace]) -> tuple[Tensor, Tensor]:
    """Pictures as N×3×128×128 in [0, 1], and landmarks as N×5×2, NaN where there are none."""
    none = np.full((5, 2), np.nan, np.float32)
    landmarks = np.stack([none if f.landmarks is None else f.landmarks for f in faces])
    return as_tensor([f.picture for f in faces]), torch.from_numpy(landmarks)
