"""A person's feature as a network is told it: merged from auxiliary faces, or given."""

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
    """What makes one feature of faces; None for what a method does not need."""

    embedder: Embedder | None = None
    combiner: merging.FeatureCombiner | None = None
    combiner_sha256: str = ""


def load_feature_models(
    method: Method, files: ModelFiles, device: torch.device, network: Path, trained_with: str
) -> FeatureModels:
    """Return the feature models that the method needs, held against the embedder its network was trained with."""
    if Need.EMBEDDER not in method.needs:
        return FeatureModels()
    embedder = open_faces(files, device)
    require_embedder(network, trained_with, embedder.sha256)
    if Need.COMBINER not in method.needs:
        return FeatureModels(embedder)
    file = files.combiner or bundled("combiner.safetensors")
    combiner = merging.load_combiner(file)
    require_embedder(file, combiner.source.sha256, embedder.sha256)
    return FeatureModels(embedder, combiner, sha256_file(file))


def open_faces(files: ModelFiles, device: torch.device) -> Embedder:
    """Return the embedder that is given open, else the builtin one with the weights of that file."""
    given = files.embedder
    return BuiltinEmbedder(given, device) if given is None or isinstance(given, Path) else given


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

    def of(self, probe: FaceInput) -> tuple[Tensor, str]:
        """Return the feature of a probe's person, and where it is from: given, combiner, mean or none."""
        if self._method.merge is None:
            return torch.zeros(self._length), "none"
        if probe.feature is not None:
            return torch.from_numpy(np.asarray(probe.feature, np.float32)), "given"
        if self._merged is not None and probe.auxiliaries and probe.auxiliaries is self._merged[0]:
            return self._merged[1]  # many stills of one person share their auxiliaries
        merged = self._merge(probe.auxiliaries or (probe.lr0,))
        self._merged = (probe.auxiliaries, merged)
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

    def warnings(self, probe: FaceInput, source: str, trained_with: str) -> list[str]:
        """Return what there is to say of a feature from `source`, for a network trained with that embedder."""
        if source == "none":
            return list(unused_auxiliaries(self._method.name, probe))
        warnings = []
        if source != "given" and not probe.auxiliaries:
            warnings.append("no auxiliary faces: the feature is that of the LR face itself")
        if not trained_with:
            warnings.append(
                "which embedder this network was trained with is not known: the feature may tell it nothing"
            )
        return warnings
