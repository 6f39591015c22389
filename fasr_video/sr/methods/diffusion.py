"""The papers' diffusion methods: one denoiser, with various samplers and features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

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
from fasr_video.sr.methods.mean import Mean, mean_for, sides_of
from fasr_video.sr.methods.method import Defaults, Method, ModelFiles, Need, Options, Supports
from fasr_video.sr.restoration import FaceInput, Restoration, pictures_of
from fasr_video.sr.sampling import sample_seed
from fasr_video.weights.manifest import bundled


@dataclass(frozen=True, slots=True)
class Models:
    """The models of a diffusion method."""

    denoiser: Denoiser
    denoiser_sha256: str
    features: FeatureModels
    mean: Mean | None = None
    """The posterior mean, for a denoiser that draws around its picture."""

    def condition(self, lr: Tensor, sides: Tensor | float, features: Tensor) -> Condition:
        """Return the condition for enlarged LR faces of these sides: they, or their mean pictures."""
        if self.mean is None:
            return Condition(lr, features)
        each = torch.as_tensor(sides, dtype=torch.float32).expand(len(lr))
        return Condition(self.mean.draw(lr, each, features), features)


def load_models(method: Method, files: ModelFiles, device: torch.device) -> Models:
    """Return the models that a method needs."""
    file = files.network or bundled("sr.safetensors")
    denoiser = checkpoints.load(file, device)
    features = load_feature_models(method, files, device, file, trained_with=denoiser.embedder)
    mean = None
    if denoiser.mean:
        mean = mean_for(method, Options(device, files), file, denoiser.mean)
    return Models(denoiser, sha256_file(file), features, mean)


def unguided(name: str) -> UsageError:
    """Return the error for a method that needs attributes and has none."""
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
        # NCSN++ is a tenth faster with channels last; the compact network converts by itself.
        if isinstance(self._denoiser, ScoreDenoiser):
            network: nn.Module = self._denoiser.network
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._features = Features(method, models.features, self._denoiser.feature_length)

    def provenance(self) -> dict[str, object]:
        guidance = {} if self._guidance is None else self._guidance.provenance()
        mean = {} if self._models.mean is None else {"mean": self._models.mean.sha256}
        return {
            "method": self.name,
            "sampler": str(self._sampling),
            "network": self._models.denoiser_sha256,
            "precision": str(self._denoiser.precision).removeprefix("torch."),
            **mean,
            **guidance,
            **self._features.provenance(),
        }

    def restore_all(
        self, faces: Sequence[FaceInput], samples: int, seeds: Sequence[int]
    ) -> list[Restoration]:
        needs_lr = self._method.merge is None or self._sampling.warm is not None
        if needs_lr and not all(face.lr_known for face in faces):
            reason = "without the LR face it has no feature, or no picture to start at"
            remedy = "use fasr++ or fasr, with a sampler that starts at noise"
            raise UsageError("feature-only", reason, remedy)

        def draw(inside: Sequence[FaceInput], inside_seeds: Sequence[int]) -> list[Restoration]:
            return self._draw(inside, samples, inside_seeds)

        band = self._denoiser.band if self._denoiser.band_known else None
        return draw_within(band, faces, seeds, draw)

    def _draw(
        self, faces: Sequence[FaceInput], samples: int, seeds: Sequence[int]
    ) -> list[Restoration]:
        guides = [self._guiding_attributes(face) for face in faces]
        features = [self._features.of(face) for face in faces]
        lr = torch.cat([enlarge(as_tensor([face.lr0]), self._denoiser.side) for face in faces])
        stacked = torch.stack([feature for feature, _ in features])
        condition = self._models.condition(lr, sides_of(faces), stacked)
        known = torch.tensor([float(face.lr_known) for face in faces])
        condition = Condition(condition.lr * known[:, None, None, None], stacked)
        rows = torch.arange(len(faces)).repeat_interleave(samples)
        generators = samplers.generators([sample_seed(s, k) for s in seeds for k in range(samples)])
        parts = []
        for i in range(0, len(rows), self._batch):
            batch = rows[i : i + self._batch]
            part = Condition(
                condition.lr[batch].to(self._device), condition.feature[batch].to(self._device)
            )
            denoiser = self._guided([guides[k] for k in batch.tolist()])
            noise = generators[i : i + self._batch]
            pictures = sampling.draw(denoiser, part, self._sampling, noise)
            parts.append(pictures.float().cpu())
        drawn = torch.cat(parts).reshape(len(faces), samples, *lr.shape[1:])
        sources = [source for _, source in features]
        return [self._restoration(*row) for row in zip(faces, drawn, seeds, sources, strict=True)]

    def _guided(self, rows: Sequence[tuple[Attribute, ...]]) -> Denoiser:
        if self._guidance is None:
            return self._denoiser
        return self._guidance.guided(self._denoiser, rows, bounded=self._sampling.in_few_steps)

    def _guiding_attributes(self, face: FaceInput) -> tuple[Attribute, ...]:
        """Return the face's attributes, without readings that are too uncertain."""
        if Need.ATTRIBUTES in self._method.needs and not face.attributes:
            raise unguided(self.name)
        known = Classifiers((), ()) if self._guidance is None else self._guidance.classifiers
        known.check(face.attributes)
        return tuple(a for a in face.attributes if a.source != "read" or a.confidence >= SURE)

    def _restoration(self, face: FaceInput, drawn: Tensor, seed: int, source: str) -> Restoration:
        warnings = self._features.warnings(face, source, self._denoiser.embedder)
        if not self._denoiser.band_known and outside(self._denoiser.band, face) is not None:
            usual = sizes(self._denoiser.band)
            warnings.append(
                f"the face has {len(face.lr0)} px; networks like this one are trained on {usual}"
            )
        if self._guidance is not None and face.attributes:
            warnings += self._attribute_warnings(face, self._guidance.classifiers)
        return Restoration(
            *pictures_of(drawn),
            method=self.name,
            sampler=str(self._sampling),
            calls=self._sampling.calls * len(drawn),
            seed=seed,
            model=self._models.denoiser_sha256,
            feature=source,
            warnings=tuple(warnings),
            attributes=self._guiding_attributes(face),
        )

    def _attribute_warnings(self, face: FaceInput, classifiers: Classifiers) -> list[str]:
        side = len(face.lr0)
        used = self._guiding_attributes(face)
        warnings = [
            f"attribute {a.name}: read with certainty {a.confidence:g}, too little to use it"
            for a in face.attributes
            if a not in used
        ]
        guessed = ", ".join(a.name for a in used if a.source == "read")
        if guessed:
            warnings.append(
                f"{guessed}: guessed by a network (LR face of {side} px), "
                "which can be certain and wrong"
            )
        if not used:
            warnings.append("drawn without guidance: no attribute was read with enough certainty")
        given = {a.name: a for a in used if a.source == "examiner"}
        for reading in read(classifiers, [face.lr0]) if given else ():
            claim = given.get(reading.name)
            if claim is None or claim.value == reading.value or reading.confidence < CLEAR:
                continue
            warnings.append(
                f"attribute {claim}: the LR face of {side} px reads as the opposite, "
                f"with certainty {reading.confidence:g}"
            )
        return warnings


def _open(method: Method, options: Options) -> Diffusion:
    return Diffusion(method, load_models(method, options.files, options.device), options)


def _method(name: str, sampler: str, *needs: Need, samples: int = 1) -> Method:
    """Return a method of the family; a method that needs an embedder takes a feature."""
    supports = Supports(
        feature=Need.EMBEDDER in needs, samples=True, sampler=True, attributes=True, weights=True
    )
    return Method(
        name, _open, frozenset({Need.NETWORK, *needs}), Defaults(samples, sampler), supports
    )


FAST = "dpmpp-sde-15"  # docs/methods.md lists the papers' own samplers
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
