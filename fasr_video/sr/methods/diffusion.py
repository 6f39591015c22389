"""The papers' diffusion methods: one denoiser, told apart by sampler, feature and sample count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fasr_video.batch_size import PICTURES, batch_size_for
from fasr_video.errors import UsageError
from fasr_video.files import sha256_file
from fasr_video.recognition.embedder import as_tensor
from fasr_video.sr import checkpoints, samplers, sampling
from fasr_video.sr.attributes import CLEAR, SURE, Attribute, Classifiers, read
from fasr_video.sr.degradation import enlarge
from fasr_video.sr.denoiser import PRECISIONS, Condition, Denoiser, ScoreDenoiser
from fasr_video.sr.methods.band import draw_within, outside, sizes
from fasr_video.sr.methods.features import FeatureModels, Features, load_feature_models
from fasr_video.sr.methods.method import Defaults, Method, ModelFiles, Need, Options, Supports
from fasr_video.sr.restoration import FaceInput, Restoration, pictures_of
from fasr_video.sr.sampling import sample_seed
from fasr_video.weights.manifest import bundled


@dataclass(frozen=True, slots=True)
class Models:
    """What the diffusion methods are made of."""

    denoiser: Denoiser
    denoiser_sha256: str
    features: FeatureModels


def load_models(method: Method, files: ModelFiles, device: torch.device) -> Models:
    """Return the models that a method needs."""
    file = files.network or bundled("sr.safetensors")
    denoiser = checkpoints.load(file, device)
    features = load_feature_models(method, files, device, file, denoiser.embedder)
    return Models(denoiser, sha256_file(file), features)


def unguided(name: str) -> UsageError:
    """Return the error of a method that needs attributes and has none."""
    remedy = "give them with --attr, set restore.attributes=read for a run, or use sde-sr-ve"
    return UsageError(f"method {name}", "it is guided by attributes, and there are none", remedy)


class Diffusion:
    """Draws pictures from p(picture | LR0, feature) with one trained denoiser."""

    def __init__(self, method: Method, models: Models, options: Options) -> None:
        self.name = method.name
        self._method, self._models, self._guidance = method, models, options.guidance
        self._sampling = sampling.parse(
            options.sampler or method.defaults.sampler, sampling.DENOISERS
        )
        self._device = options.device
        self._batch = batch_size_for(PICTURES, options.device, options.batch)
        self._denoiser = models.denoiser.to(options.device).eval()
        self._denoiser.precision = PRECISIONS[options.precision]
        if isinstance(
            self._denoiser, ScoreDenoiser
        ):  # NCSN++ is a tenth faster so; the compact one sees to it itself
            self._denoiser.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._features = Features(method, models.features, self._denoiser.feature_length)

    def provenance(self) -> dict[str, object]:
        guidance = {} if self._guidance is None else self._guidance.provenance()
        return {
            "method": self.name,
            "sampler": str(self._sampling),
            "network": self._models.denoiser_sha256,
            "precision": str(self._denoiser.precision).removeprefix("torch."),
            **guidance,
            **self._features.provenance(),
        }

    def restore_all(
        self, probes: Sequence[FaceInput], samples: int, seeds: Sequence[int]
    ) -> list[Restoration]:
        if not all(p.lr_known for p in probes) and (
            self._method.merge is None or self._sampling.warm is not None
        ):
            reason = (
                "it would draw from nothing: no feature, or a start at the LR face that is left out"
            )
            raise UsageError(
                "feature-only", reason, "use fasr++ or fasr, with a sampler that begins at noise"
            )

        def draw(some: Sequence[FaceInput], their_seeds: Sequence[int]) -> list[Restoration]:
            return self._draw(some, samples, their_seeds)

        band = self._denoiser.band if self._denoiser.band_known else None
        return draw_within(band, probes, seeds, draw)

    def _draw(
        self, probes: Sequence[FaceInput], samples: int, seeds: Sequence[int]
    ) -> list[Restoration]:
        drawn_to = [self._drawn_to(p) for p in probes]
        features = [self._features.of(p) for p in probes]
        lr = torch.cat(
            [enlarge(as_tensor([p.lr0]), self._denoiser.side) * p.lr_known for p in probes]
        )
        condition = Condition(lr, torch.stack([feature for feature, _ in features]))
        rows = torch.arange(len(probes)).repeat_interleave(samples)
        generators = samplers.generators([sample_seed(s, k) for s in seeds for k in range(samples)])
        parts = []
        for i in range(0, len(rows), self._batch):
            some = rows[i : i + self._batch]
            part = Condition(
                condition.lr[some].to(self._device), condition.feature[some].to(self._device)
            )
            denoiser = self._guided([drawn_to[k] for k in some.tolist()])
            parts.append(
                sampling.draw(denoiser, part, self._sampling, generators[i : i + self._batch])
                .float()
                .cpu()
            )
        drawn = torch.cat(parts).reshape(len(probes), samples, *lr.shape[1:])
        sources = [source for _, source in features]
        return [self._answer(*row) for row in zip(probes, drawn, seeds, sources, strict=True)]

    def _guided(self, rows: Sequence[tuple[Attribute, ...]]) -> Denoiser:
        if self._guidance is None:
            return self._denoiser
        return self._guidance.guided(self._denoiser, rows, bounded=self._sampling.in_few_steps)

    def _drawn_to(self, probe: FaceInput) -> tuple[Attribute, ...]:
        """The probe's attributes, without what was read but not surely enough."""
        if Need.ATTRIBUTES in self._method.needs and not probe.attributes:
            raise unguided(self.name)
        known = Classifiers((), ()) if self._guidance is None else self._guidance.classifiers
        known.check(probe.attributes)
        return tuple(a for a in probe.attributes if a.source != "read" or a.confidence >= SURE)

    def _answer(self, probe: FaceInput, drawn: Tensor, seed: int, source: str) -> Restoration:
        warnings = self._features.warnings(probe, source, self._denoiser.embedder)
        if not self._denoiser.band_known and outside(self._denoiser.band, probe) is not None:
            usual = sizes(self._denoiser.band)
            warnings.append(
                f"the face has {len(probe.lr0)} px, where networks like this one are trained on {usual}"
            )
        if self._guidance is not None and probe.attributes:
            warnings += self._about_attributes(probe, self._guidance.classifiers)
        return Restoration(
            *pictures_of(drawn),
            method=self.name,
            sampler=str(self._sampling),
            calls=self._sampling.calls * len(drawn),
            seed=seed,
            model=self._models.denoiser_sha256,
            feature=source,
            warnings=tuple(warnings),
            attributes=self._drawn_to(probe),
        )

    def _about_attributes(self, probe: FaceInput, classifiers: Classifiers) -> list[str]:
        side, used = len(probe.lr0), self._drawn_to(probe)
        warnings = [
            f"attribute {a.name}: read with certainty {a.confidence:g}, too little to use it"
            for a in probe.attributes
            if a not in used
        ]
        guessed = ", ".join(a.name for a in used if a.source == "read")
        if guessed:
            warnings.append(
                f"{guessed}: guessed by a network (LR face of {side} px), which may be sure and wrong"
            )
        if not used:
            warnings.append("drawn without guidance: no attribute was read surely enough")
        said = {a.name: a for a in used if a.source == "examiner"}
        shown = read(classifiers, [probe.lr0]) if said else ()
        return warnings + [
            f"attribute {said[a.name]}: the LR face of {side} px reads as the opposite, with certainty {a.confidence:g}"
            for a in shown
            if a.name in said and a.value != said[a.name].value and a.confidence >= CLEAR
        ]


def _open(method: Method, options: Options) -> Diffusion:
    return Diffusion(method, load_models(method, options.files, options.device), options)


def _method(name: str, sampler: str, *needs: Need, samples: int = 1) -> Method:
    """Return a method of the family; one that needs an embedder takes a feature."""
    supports = Supports(
        feature=Need.EMBEDDER in needs, samples=True, sampler=True, attributes=True, weights=True
    )
    return Method(
        name, _open, frozenset({Need.NETWORK, *needs}), Defaults(samples, sampler), supports
    )


FAST = "dpmpp-sde-15"  # docs/methods.md has the papers' own samplers
FAMILY = (
    _method("fasr++", FAST, Need.EMBEDDER, Need.COMBINER, samples=2),
    _method("fasr", FAST, Need.EMBEDDER),
    _method("sde-sr-ve", "ve-100"),
    _method("sde-sr-vecs", "vecs-100"),
    _method("sde-sr-vp", "vp-100"),
    _method("sde-sr-subvp", "subvp-100"),
    _method("srdg", "ve-100", Need.ATTRIBUTES),
    _method("sr3", "ddpm-100"),
)
