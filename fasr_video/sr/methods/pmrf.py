"""`pmrf`: a rectified flow from the posterior mean to a sharp face (Ohayon et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fasr_video.batch_size import PICTURES, batch_size_for
from fasr_video.files import sha256_file
from fasr_video.sr import samplers, sampling
from fasr_video.sr.denoiser import PRECISIONS
from fasr_video.sr.flow import CALLS, RectifiedFlow
from fasr_video.sr.methods.band import check_lr_face, draw_within
from fasr_video.sr.methods.mean import CALLS as MEAN_CALLS
from fasr_video.sr.methods.mean import Mean, mean_for, sides_of
from fasr_video.sr.methods.method import Defaults, Method, Need, Options, Supports
from fasr_video.sr.restoration import FaceInput, Restoration, pictures_of
from fasr_video.sr.sampling import sample_seed
from fasr_video.sr.weights import load_flow
from fasr_video.weights.manifest import bundled

FILE = "flow.safetensors"


class Pmrf:
    """Moves the mean picture, with a little noise on it, to a sharp face."""

    name = "pmrf"

    def __init__(
        self, method: Method, mean: Mean, flow: RectifiedFlow, sha256: str, *, options: Options
    ) -> None:
        self._mean = mean
        self._flow = flow.to(options.device)
        self._sha256 = sha256
        sampler = options.sampler or method.defaults.sampler
        self._sampling = sampling.parse(sampler, sampling.FLOWS)
        self._device = options.device
        self._precision = PRECISIONS[options.precision]
        self._batch = batch_size_for(PICTURES, options.device, options.batch)

    def provenance(self) -> dict[str, object]:
        return {
            **self._mean.provenance(),
            "sampler": str(self._sampling),
            "network": self._sha256,
            "mean": self._mean.sha256,
        }

    def restore_all(
        self, faces: Sequence[FaceInput], samples: int, seeds: Sequence[int]
    ) -> list[Restoration]:
        check_lr_face(self.name, faces)

        def draw(inside: Sequence[FaceInput], inside_seeds: Sequence[int]) -> list[Restoration]:
            return self._draw(inside, samples, inside_seeds)

        return draw_within(self._flow.band, faces, seeds, draw)

    def _draw(
        self, faces: Sequence[FaceInput], samples: int, seeds: Sequence[int]
    ) -> list[Restoration]:
        means, sources = self._mean.pictures(faces)
        sides = sides_of(faces)
        rows = torch.arange(len(faces)).repeat_interleave(samples)
        own_seeds = [sample_seed(seed, k) for seed in seeds for k in range(samples)]
        parts = []
        for i in range(0, len(rows), self._batch):
            batch = rows[i : i + self._batch]
            parts.append(self._sharpen(means[batch], sides[batch], own_seeds[i : i + self._batch]))
        drawn = torch.cat(parts).reshape(len(faces), samples, *means.shape[1:])
        restorations = zip(faces, drawn, seeds, sources, strict=True)
        return [self._restoration(*row) for row in restorations]

    def _sharpen(self, means: Tensor, sides: Tensor, seeds: Sequence[int]) -> Tensor:
        device = self._device
        steps = self._sampling.steps
        start = means.to(device)
        noise = samplers.noise_like(start, samplers.generators(seeds))
        with torch.autocast(device.type, self._precision, self._precision != torch.float32):
            drawn = self._flow.draw(start, sides.to(device), noise, steps)
        return drawn.float().cpu().clamp(0, 1)

    def _restoration(self, face: FaceInput, drawn: Tensor, seed: int, source: str) -> Restoration:
        return Restoration(
            *pictures_of(drawn),
            method=self.name,
            sampler=str(self._sampling),
            calls=MEAN_CALLS + self._sampling.calls * len(drawn),
            seed=seed,
            model=self._sha256,
            feature=source,
            warnings=self._mean.warnings(face, source),
        )


def _open(method: Method, options: Options) -> Pmrf:
    file = options.files.network or bundled(FILE)
    flow = load_flow(file)
    mean = mean_for(method, options, file, flow.mean)
    return Pmrf(method, mean, flow, sha256_file(file), options=options)


PMRF = Method(
    "pmrf",
    _open,
    needs=frozenset({Need.NETWORK, Need.EMBEDDER, Need.COMBINER}),
    defaults=Defaults(samples=1, sampler=f"euler-{CALLS}"),
    supports=Supports(feature=True, samples=True, sampler=True, weights=True),
)
