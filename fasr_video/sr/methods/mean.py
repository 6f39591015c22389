"""`mean`: the posterior mean, one picture by one network call. It invents least."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from fasr_video.batch_size import PICTURES, at_once
from fasr_video.errors import ModelError, UsageError
from fasr_video.files import sha256_file
from fasr_video.recognition.embedder import as_tensor
from fasr_video.sr.degradation import enlarge
from fasr_video.sr.denoiser import PRECISIONS
from fasr_video.sr.methods.band import draw_within
from fasr_video.sr.methods.features import FeatureModels, Features, load_feature_models
from fasr_video.sr.methods.method import Method, Need, Options, Supports
from fasr_video.sr.posterior_mean import PosteriorMean
from fasr_video.sr.restoration import Probe, Restoration, pictures_of
from fasr_video.sr.weights import load_mean
from fasr_video.weights.manifest import boxed, read_manifest

NAME = "mean"
FILE = "mean.safetensors"


class Mean:
    """Answers with the mean of all pictures that LR face and feature allow."""

    name = NAME

    def __init__(
        self, method: Method, mean: PosteriorMean, sha256: str, models: FeatureModels, options: Options
    ) -> None:
        self._mean, self._sha256, self._device = mean.to(options.device), sha256, options.device
        self._features = Features(method, models, mean.feature_length)
        self._precision = PRECISIONS[options.precision]
        self._batch = at_once(PICTURES, options.device, options.batch)

    def facts(self) -> dict[str, object]:
        precision = str(self._precision).removeprefix("torch.")
        return {"method": NAME, "network": self._sha256, "precision": precision, **self._features.facts()}

    def restore_all(self, probes: Sequence[Probe], samples: int, seeds: Sequence[int]) -> list[Restoration]:
        if not all(probe.lr_known for probe in probes):
            raise UsageError("feature-only", f"method {NAME} needs the LR face", "use fasr++ or fasr")
        return draw_within(self._mean.band, probes, seeds, self._draw)

    def _draw(self, probes: Sequence[Probe], seeds: Sequence[int]) -> list[Restoration]:
        lr = torch.cat([enlarge(as_tensor([probe.lr0]), self._mean.side) for probe in probes])
        sides = torch.tensor([float(len(probe.lr0)) for probe in probes])
        features = [self._features.of(probe) for probe in probes]
        told = torch.stack([feature for feature, _ in features])
        batches = (torch.split(part, self._batch) for part in (lr, sides, told))
        pictures = torch.cat([self._call(*batch) for batch in zip(*batches, strict=True)])
        sources = [source for _, source in features]
        return [self._answer(*row) for row in zip(probes, pictures, seeds, sources, strict=True)]

    @torch.no_grad()
    def _call(self, lr: Tensor, sides: Tensor, features: Tensor) -> Tensor:
        device, half = self._device, self._precision != torch.float32
        with torch.autocast(device.type, self._precision, enabled=half):
            return self._mean(lr.to(device), sides.to(device), features.to(device)).float().cpu()  # type: ignore[no-any-return]

    def _answer(self, probe: Probe, picture: Tensor, seed: int, source: str) -> Restoration:
        return Restoration(
            *pictures_of(picture[None]),
            method=NAME,
            sampler="",
            calls=1,
            seed=seed,
            model=self._sha256,
            feature=source,
            warnings=tuple(self._features.warnings(probe, source, self._mean.embedder)),
        )


def _open(method: Method, options: Options) -> Mean:
    file = options.files.network or _bundled()
    mean = load_mean(file)
    models = load_feature_models(method, options.files, options.device, file, mean.embedder)
    return Mean(method, mean, sha256_file(file), models, options)


def _bundled() -> Path:
    if FILE not in read_manifest():
        remedy = "give a file that `train mean` wrote, with --model or restore.weights"
        raise ModelError(f"method {NAME}", "its weights do not come with this version", remedy)
    return boxed(FILE)


MEAN = Method(
    NAME,
    _open,
    needs=frozenset({Need.NETWORK, Need.EMBEDDER, Need.COMBINER}),
    supports=Supports(feature=True, weights=True),
)
