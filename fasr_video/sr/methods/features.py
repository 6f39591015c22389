"""A person's feature as input of a network: merged from auxiliary faces, or given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fasr_video.errors import UsageError
from fasr_video.files import sha256_file
from fasr_video.recognition import combiner as merging
from fasr_video.recognition.embedder import BuiltinEmbedder, Embedder, as_tensor, require_embedder
from fasr_video.sr.degradation import enlarge
from fasr_video.sr.methods.method import Method, ModelFiles, Need
from fasr_video.sr.restoration import SIDE, FaceInput, unused_auxiliaries
from fasr_video.types import Image
from fasr_video.weights.manifest import bundled


@dataclass(frozen=True, slots=True)
class FeatureModels:
    """The models that merge faces into a feature; None for a model that is not needed."""

    embedder: Embedder | None = None
    combiner: merging.FeatureCombiner | None = None
    combiner_sha256: str = ""


def load_feature_models(
    method: Method, files: ModelFiles, device: torch.device, network: Path, *, trained_with: str
) -> FeatureModels:
    """Return the feature models that the method needs.

    Raise an error if its network was trained with another embedder.
    """
    if Need.EMBEDDER not in method.needs:
        return FeatureModels()
    embedder = feature_embedder(files, device)
    require_embedder(network, trained_with, embedder.sha256)
    if Need.COMBINER not in method.needs:
        return FeatureModels(embedder)
    file = files.combiner or bundled("combiner.safetensors")
    combiner = merging.load_combiner(file)
    require_embedder(file, combiner.source.sha256, embedder.sha256)
    return FeatureModels(embedder, combiner, sha256_file(file))


def feature_embedder(files: ModelFiles, device: torch.device) -> Embedder:
    """Return the opened embedder if one is given, else the builtin one with the given weights."""
    embedder = files.embedder
    if embedder is None or isinstance(embedder, Path):
        return BuiltinEmbedder(embedder, device)
    return embedder


class Features:
    """Features of `length` for the network of one method."""

    def __init__(self, method: Method, models: FeatureModels, length: int) -> None:
        self._method, self._models, self._length = method, models, length
        self._merged: tuple[tuple[Image, ...], tuple[Tensor, str]] | None = None
        if method.merge and length == 0:
            reason = "its network has no feature path"
            raise UsageError(f"method {method.name}", reason, "use a FASR network, or sde-sr-ve")
        if method.merge == "combiner" and models.combiner is None:
            reason = "no Feature Combiner given"
            raise UsageError(
                f"method {method.name}", reason, "give its weights, or use method fasr"
            )

    def provenance(self) -> dict[str, object]:
        if not self._method.merge:
            return {}
        embedder = self._models.embedder
        return {
            "embedder": embedder.sha256 if embedder else "",
            "combiner": self._models.combiner_sha256,
        }

    def of(self, face: FaceInput) -> tuple[Tensor, str]:
        """Return the feature of a face's person and its source: given, combiner, mean or none."""
        if self._method.merge is None:
            return torch.zeros(self._length), "none"
        if face.feature is not None:
            return torch.from_numpy(np.asarray(face.feature, np.float32)), "given"
        if self._merged is not None and face.auxiliaries and face.auxiliaries is self._merged[0]:
            return self._merged[1]  # stills of one person often share their auxiliaries
        merged = self._merge(face.auxiliaries or (face.lr0,))
        self._merged = (face.auxiliaries, merged)
        return merged

    def _merge(self, faces: tuple[Image, ...]) -> tuple[Tensor, str]:
        embedder, combiner = self._models.embedder, self._models.combiner
        if embedder is None:
            reason = "it needs a feature or an embedder"
            raise UsageError(
                f"method {self._method.name}", reason, "give an embedder, or use sde-sr-ve"
            )
        features, _ = embedder.embed(
            torch.cat([enlarge(as_tensor([face]), SIDE) for face in faces])
        )
        if self._method.merge == "mean" or combiner is None:
            return merging.mean(features), "mean"
        return combiner.combine(features), "combiner"

    def warnings(self, face: FaceInput, source: str, trained_with: str) -> list[str]:
        """Return the warnings about a feature; `trained_with` is the network's embedder."""
        if source == "none":
            return list(unused_auxiliaries(self._method.name, face))
        warnings = []
        if source != "given" and not face.auxiliaries:
            warnings.append("no auxiliary faces: the feature is that of the LR face itself")
        if not trained_with:
            warnings.append(
                "it is not known which embedder this network was trained with: "
                "the feature may mean nothing to it"
            )
        return warnings
