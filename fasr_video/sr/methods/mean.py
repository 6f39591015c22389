"""`mean`: the posterior mean, one picture by two network calls. It invents least."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from fasr_video.batch_size import PICTURES, batch_size_for
from fasr_video.errors import ModelError
from fasr_video.files import sha256_file
from fasr_video.recognition.embedder import as_tensor
from fasr_video.sr.degradation import enlarge
from fasr_video.sr.denoiser import PRECISIONS
from fasr_video.sr.methods.band import check_lr_face, draw_within
from fasr_video.sr.methods.features import FeatureModels, Features, load_feature_models
from fasr_video.sr.methods.method import Method, Need, Options, Supports
from fasr_video.sr.posterior_mean import PosteriorMean
from fasr_video.sr.restoration import FaceInput, Restoration, pictures_of
from fasr_video.sr.weights import load_mean
from fasr_video.weights.manifest import bundled

FILE = "mean.safetensors"
CALLS = 2  # for a face: itself and its mirror image


class Mean:
    """Draws the mean of all pictures that the LR face and the feature allow."""

    def __init__(
        self,
        method: Method,
        network: PosteriorMean,
        sha256: str,
        models: FeatureModels,
        *,
        options: Options,
    ) -> None:
        self.name = method.name
        self.sha256 = sha256
        self.side = network.side
        self._network = network.to(options.device)
        self._device = options.device
        self._features = Features(method, models, network.feature_length)
        self._precision = PRECISIONS[options.precision]
        self._batch = batch_size_for(PICTURES, options.device, options.batch)

    def provenance(self) -> dict[str, object]:
        return {
            "method": self.name,
            "network": self.sha256,
            "precision": str(self._precision).removeprefix("torch."),
            **self._features.provenance(),
        }

    def restore_all(
        self, faces: Sequence[FaceInput], samples: int, seeds: Sequence[int]
    ) -> list[Restoration]:
        check_lr_face(self.name, faces)
        return draw_within(self._network.band, faces, seeds, self._draw)

    def pictures(self, faces: Sequence[FaceInput]) -> tuple[Tensor, list[str]]:
        """Return the mean pictures, N×3×S×S, and the source of each feature."""
        lr = torch.cat([enlarge(as_tensor([face.lr0]), self.side) for face in faces])
        features = [self._features.of(face) for face in faces]
        stacked = torch.stack([feature for feature, _ in features])
        return self.draw(lr, sides_of(faces), stacked), [source for _, source in features]

    def draw(self, lr: Tensor, sides: Tensor, features: Tensor) -> Tensor:
        """Return the mean pictures of enlarged LR faces, their sides in pixels and features."""
        parts = (lr, sides, features)
        batches = zip(*(torch.split(part, self._batch) for part in parts), strict=True)
        return torch.cat([self._call(*batch) for batch in batches])

    def warnings(self, face: FaceInput, source: str) -> tuple[str, ...]:
        """Return the warnings about a picture whose feature is from `source`."""
        return tuple(self._features.warnings(face, source, self._network.embedder))

    def _draw(self, faces: Sequence[FaceInput], seeds: Sequence[int]) -> list[Restoration]:
        pictures, sources = self.pictures(faces)
        rows = zip(faces, pictures, seeds, sources, strict=True)
        return [self._restoration(*row) for row in rows]

    @torch.no_grad()
    def _call(self, lr: Tensor, sides: Tensor, features: Tensor) -> Tensor:
        device = self._device
        with torch.autocast(device.type, self._precision, self._precision != torch.float32):
            drawn = self._network.symmetric(lr.to(device), sides.to(device), features.to(device))
        return drawn.float().cpu()

    def _restoration(self, face: FaceInput, picture: Tensor, seed: int, source: str) -> Restoration:
        return Restoration(
            *pictures_of(picture[None]),
            method=self.name,
            sampler="",
            calls=CALLS,
            seed=seed,
            model=self.sha256,
            feature=source,
            warnings=self.warnings(face, source),
        )


def sides_of(faces: Sequence[FaceInput]) -> Tensor:
    """Return the side of each LR face, in pixels."""
    return torch.tensor([float(len(face.lr0)) for face in faces])


def mean_for(method: Method, options: Options, network: Path, wanted: str) -> Mean:
    """Return the posterior mean that a network starts from: the one beside it, or the bundled one.

    Raise where it is not the one that the network was trained with.
    """
    beside = network.parent / FILE
    file = beside if beside.is_file() else None
    mean = open_mean(method, replace(options, files=replace(options.files, network=file)))
    if wanted not in ("", mean.sha256):
        reason = f"it starts from the mean {wanted[:12]}…, but {mean.sha256[:12]}… is given"
        remedy = f"put that {FILE} beside it, or train it again from this one"
        raise ModelError(network, reason, remedy)
    return mean


def open_mean(method: Method, options: Options) -> Mean:
    """Return the posterior mean for a method that draws it or starts from it."""
    file = options.files.network or bundled(FILE)
    network = load_mean(file)
    models = load_feature_models(
        method, options.files, options.device, file, trained_with=network.embedder
    )
    return Mean(method, network, sha256_file(file), models, options=options)


MEAN = Method(
    "mean",
    open_mean,
    needs=frozenset({Need.NETWORK, Need.EMBEDDER, Need.COMBINER}),
    supports=Supports(feature=True, weights=True),
)
