"""The papers' super-resolution methods as restorers: one denoiser, told apart by sampler, feature and sample count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fasr_video.batch_size import PICTURES, at_once
from fasr_video.errors import MissingExtra, ModelError, UsageError
from fasr_video.files import sha256_file
from fasr_video.recognition import combiner as merging
from fasr_video.recognition.embedder import BuiltinEmbedder, Embedder, as_tensor
from fasr_video.sr import checkpoints, samplers, sampling
from fasr_video.sr.attributes import CLEAR, SURE, Attribute, Classifiers, read
from fasr_video.sr.degradation import enlarge, shrink
from fasr_video.sr.denoiser import PRECISIONS, Condition, Denoiser, ScoreDenoiser
from fasr_video.sr.guidance import Guidance
from fasr_video.sr.restoration import Probe, Restoration, Restorer
from fasr_video.sr.sampling import Sampling
from fasr_video.types import Image
from fasr_video.weights.manifest import boxed

SIDE = 128
SPANDREL = "spandrel:"


@dataclass(frozen=True, slots=True)
class Method:
    merge: str | None
    """How features of several faces become one: combiner, mean, or None where the method takes no feature."""
    samples: int
    sampler: str
    """By default; docs/methods.md has the papers' own."""
    guided: bool = False
    """Whether it is nothing without attributes; the others take them where they are given."""


FAST = "dpmpp-sde-15"
METHODS = {
    "fasr++": Method("combiner", 2, FAST),
    "fasr": Method("mean", 1, FAST),
    "sde-sr-ve": Method(None, 1, "ve-100"),
    "sde-sr-vecs": Method(None, 1, "vecs-100"),
    "sde-sr-vp": Method(None, 1, "vp-100"),
    "sde-sr-subvp": Method(None, 1, "subvp-100"),
    "srdg": Method(None, 1, "ve-100", guided=True),
    "sr3": Method(None, 1, "ddpm-100"),
}
REFERENCED = "idfsr"
"""Draws from references, which its own restorer takes."""
NAMES = (*METHODS, REFERENCED, "bicubic", f"{SPANDREL}FILE")


@dataclass(frozen=True, slots=True)
class Models:
    """What the diffusion methods are made of."""

    denoiser: Denoiser
    denoiser_sha256: str
    embedder: Embedder | None
    combiner: merging.FeatureCombiner | None
    combiner_sha256: str


def samples_of(name: str) -> int:
    """How many samples a method draws of a face unless told otherwise."""
    return METHODS[name].samples if name in METHODS else 1


def load_models(
    denoiser: Path | None,
    embedder: Embedder | Path | None,
    combiner: Path | None,
    device: torch.device,
    merge: str | None,
) -> Models:
    """The given weights, or those in the box; what a method with this `merge` does not need is not loaded.

    An embedder of another kind than the builtin one is given open.
    """
    network_file = denoiser or boxed("sr.safetensors")
    network = checkpoints.load(network_file, device)
    if merge is None:
        return Models(network, sha256_file(network_file), None, None, "")
    faces = BuiltinEmbedder(embedder, device) if embedder is None or isinstance(embedder, Path) else embedder
    _check_same(network_file, network.embedder, faces)
    if merge == "mean":
        return Models(network, sha256_file(network_file), faces, None, "")
    combiner_file = combiner or boxed("combiner.safetensors")
    joined = merging.load_combiner(combiner_file)
    _check_same(combiner_file, joined.source.sha256, faces)
    return Models(network, sha256_file(network_file), faces, joined, sha256_file(combiner_file))


def _check_same(file: Path, trained_with: str, embedder: Embedder) -> None:
    if trained_with and trained_with != embedder.sha256:
        reason = f"trained with the embedder {trained_with[:12]}…, but {embedder.sha256[:12]}… is given"
        raise ModelError(file, reason, "give the embedder that it was trained with, or train it again with this one")


def is_plain(name: str) -> bool:
    """Whether a method makes one picture of the LR face, without samples and without a feature."""
    return name == "bicubic" or name.startswith(SPANDREL)


def make_restorer(
    name: str,
    models: Callable[[], Models],
    sampler: str | None,
    device: torch.device,
    guidance: Guidance | None = None,
    batch: int | None = None,
) -> Restorer:
    """The restorer of that name; `models` is called only when the method needs them. `batch` samples are drawn at a
    time, None for as many as suit the device."""
    if name in METHODS:
        if METHODS[name].guided and guidance is None:
            raise _unguided(name)
        how = sampling.parse(sampler or METHODS[name].sampler)
        return Diffusion(name, models(), how, device, guidance, batch)
    if name == REFERENCED:
        reason = "it draws from references, and there are none here"
        raise UsageError(f"method {name}", reason, "use it with fasr-video sr or run, or another one here")
    if not is_plain(name):
        raise UsageError(f"method {name}", "no such method", f"use one of: {', '.join(NAMES)}")
    other = Bicubic() if name == "bicubic" else ThirdParty(Path(name.removeprefix(SPANDREL)), device)
    if sampler is not None:
        raise UsageError(f"sampler {sampler}", f"method {name} does not sample", "leave --sampler out")
    if guidance is not None:
        raise UsageError("attributes", f"method {name} cannot be drawn towards any", "leave them out, or use fasr++")
    return other


def _unguided(name: str) -> UsageError:
    remedy = "give them with --attr, set restore.attributes=read for a run, or use sde-sr-ve"
    return UsageError(f"method {name}", "it is guided by attributes, and there are none", remedy)


def open_restorer(
    name: str,
    device: torch.device,
    sampler: str | None = None,
    precision: str = "float32",
    files: tuple[Path | None, Path | None, Path | None] = (None, None, None),
    guidance: Guidance | None = None,
    batch: int | None = None,
) -> Restorer:
    """The restorer of that name; `files` are network, embedder and combiner, None for those in the box."""

    def models() -> Models:
        loaded = load_models(*files, device, METHODS[name].merge)
        loaded.denoiser.precision = PRECISIONS[precision]
        return loaded

    return make_restorer(name, models, sampler, device, guidance, batch)


class Bicubic:
    """What is there, larger: nothing is added."""

    name = "bicubic"

    def facts(self) -> dict[str, object]:
        return {"method": self.name}

    def restore_all(self, probes: Sequence[Probe], samples: int, seeds: Sequence[int]) -> list[Restoration]:
        return [
            _plain(self.name, p, enlarge(as_tensor([p.lr0]), SIDE)[0], "", 0, s)
            for p, s in zip(probes, seeds, strict=True)
        ]


class Diffusion:
    """Draws pictures from p(picture | LR0, feature) with one trained denoiser."""

    def __init__(
        self,
        name: str,
        models: Models,
        sampler: Sampling,
        device: torch.device,
        guidance: Guidance | None = None,
        batch: int | None = None,
    ) -> None:
        self.name = name
        self._guidance = guidance
        self._method, self._models, self._sampling = METHODS[name], models, sampler
        self._denoiser = models.denoiser.to(device).eval()
        if isinstance(self._denoiser, ScoreDenoiser):  # NCSN++ is a tenth faster so; the compact one sees to it itself
            self._denoiser.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._device, self._batch = device, at_once(PICTURES, device, batch)
        self._merged: tuple[tuple[Image, ...], tuple[Tensor, str]] | None = None
        if self._method.merge and self._denoiser.feature_length == 0:
            raise UsageError(f"method {name}", "its network has no feature path", "use a FASR network, or sde-sr-ve")
        if self._method.merge == "combiner" and models.combiner is None:
            raise UsageError(f"method {name}", "no Feature Combiner given", "give its weights, or use method fasr")

    def facts(self) -> dict[str, object]:
        m = self._models
        facts: dict[str, object] = {"method": self.name, "sampler": str(self._sampling), "network": m.denoiser_sha256}
        facts["precision"] = str(m.denoiser.precision).removeprefix("torch.")
        if self._guidance is not None:
            facts |= self._guidance.facts()
        if self._method.merge:
            facts |= {
                "embedder": m.embedder.sha256 if m.embedder else "",
                "combiner": m.combiner_sha256 if self._method.merge == "combiner" else "",
            }
        return facts

    def restore_all(self, probes: Sequence[Probe], samples: int, seeds: Sequence[int]) -> list[Restoration]:
        if not all(p.lr_known for p in probes) and (self._method.merge is None or self._sampling.warm is not None):
            reason = "it would draw from nothing: no feature, or a start at the LR face that is left out"
            raise UsageError("feature-only", reason, "use fasr++ or fasr, with a sampler that begins at noise")
        drawn_to = [self._drawn_to(p) for p in probes]
        told = [self._feature(p) for p in probes]
        side = self._denoiser.side
        lr = torch.cat([enlarge(as_tensor([p.lr0]), side) * p.lr_known for p in probes])
        condition = Condition(lr, torch.stack([feature for feature, _ in told]))
        rows = torch.arange(len(probes)).repeat_interleave(samples)
        generators = samplers.generators([sample_seed(s, k) for s in seeds for k in range(samples)])
        parts = []
        for i in range(0, len(rows), self._batch):
            some = rows[i : i + self._batch]
            part = Condition(condition.lr[some].to(self._device), condition.feature[some].to(self._device))
            denoiser = self._guided([drawn_to[k] for k in some.tolist()])
            parts.append(sampling.draw(denoiser, part, self._sampling, generators[i : i + self._batch]).float().cpu())
        drawn = torch.cat(parts).reshape(len(probes), samples, *lr.shape[1:])
        return [self._answer(*row) for row in zip(probes, drawn, seeds, (source for _, source in told), strict=True)]

    def _guided(self, rows: Sequence[tuple[Attribute, ...]]) -> Denoiser:
        if self._guidance is None:
            return self._denoiser
        return self._guidance.guided(self._denoiser, rows, bounded=self._sampling.in_few_steps)

    def _drawn_to(self, probe: Probe) -> tuple[Attribute, ...]:
        """The probe's attributes, without what was read but not surely enough."""
        if self._method.guided and not probe.attributes:
            raise _unguided(self.name)
        known = Classifiers((), ()) if self._guidance is None else self._guidance.classifiers
        known.check(probe.attributes)
        return tuple(a for a in probe.attributes if a.source != "read" or a.confidence >= SURE)

    def _feature(self, probe: Probe) -> tuple[Tensor, str]:
        """The person's feature and where it is from."""
        length = self._denoiser.feature_length
        if self._method.merge is None:
            return torch.zeros(length), "none"
        if probe.feature is not None:
            return torch.from_numpy(np.asarray(probe.feature, np.float32)), "given"
        if self._merged is not None and probe.auxiliaries and probe.auxiliaries is self._merged[0]:
            return self._merged[1]  # many stills of one person share their auxiliaries
        told = self._merge(probe.auxiliaries or (probe.lr0,))
        self._merged = (probe.auxiliaries, told)
        return told

    def _merge(self, faces: tuple[Image, ...]) -> tuple[Tensor, str]:
        embedder = self._models.embedder
        if embedder is None:
            raise UsageError(
                f"method {self.name}", "it needs a feature or an embedder", "give an embedder, or use sde-sr-ve"
            )
        features, _ = embedder.embed(torch.cat([enlarge(as_tensor([f]), SIDE) for f in faces]))
        if self._method.merge == "mean" or self._models.combiner is None:
            return merging.mean(features), "mean"
        return self._models.combiner.combine(features), "combiner"

    def _answer(self, probe: Probe, drawn: Tensor, seed: int, source: str) -> Restoration:
        warnings = []
        low, high = self._denoiser.band
        if probe.lr_known and not low <= len(probe.lr0) <= high:
            warnings.append(
                f"LR face of {len(probe.lr0)} px, outside the {low}-{high} px that the network was trained on"
            )
        if source in {"mean", "combiner"} and not probe.auxiliaries:
            warnings.append("no auxiliary faces: the feature is that of the LR face itself")
        if source != "none" and not self._denoiser.embedder:
            warnings.append(
                "which embedder this network was trained with is not known: the feature may tell it nothing"
            )
        if source == "none" and probe.auxiliaries:
            warnings.append(_unused(self.name))
        if self._guidance is not None and probe.attributes:
            warnings += self._about_attributes(probe, self._guidance.classifiers)
        spread = drawn.std(0).mean(0) if len(drawn) > 1 else torch.zeros(drawn.shape[-2:])
        return Restoration(
            picture=as_image(drawn.mean(0)),
            samples=tuple(as_image(sample) for sample in drawn),
            spread=spread.numpy(),
            method=self.name,
            sampler=str(self._sampling),
            calls=self._sampling.calls * len(drawn),
            seed=seed,
            model=self._models.denoiser_sha256,
            feature=source,
            warnings=tuple(warnings),
            attributes=self._drawn_to(probe),
        )

    def _about_attributes(self, probe: Probe, classifiers: Classifiers) -> list[str]:
        side, used = len(probe.lr0), self._drawn_to(probe)
        warnings = [
            f"attribute {a.name}: read with certainty {a.confidence:g}, too little to use it"
            for a in probe.attributes
            if a not in used
        ]
        guessed = ", ".join(a.name for a in used if a.source == "read")
        if guessed:
            warnings.append(f"{guessed}: guessed by a network (LR face of {side} px), which may be sure and wrong")
        if not used:
            warnings.append("drawn without guidance: no attribute was read surely enough")
        said = {a.name: a for a in used if a.source == "examiner"}
        shown = read(classifiers, [probe.lr0]) if said else ()
        return warnings + [
            f"attribute {said[a.name]}: the LR face of {side} px reads as the opposite, with certainty {a.confidence:g}"
            for a in shown
            if a.name in said and a.value != said[a.name].value and a.confidence >= CLEAR
        ]


class ThirdParty:
    """A restorer of somebody else, from a local checkpoint that spandrel can read."""

    def __init__(self, path: Path, device: torch.device) -> None:
        try:
            import spandrel
        except ImportError as error:
            raise MissingExtra("spandrel", "sr-zoo", f"method {SPANDREL}FILE") from error
        self.name = f"{SPANDREL}{path.name}"
        if not path.is_file():
            raise ModelError(path, "no such file", "check the path of the weights")
        self._sha256 = sha256_file(path)
        try:
            self._model = spandrel.ModelLoader(device).load_from_file(str(path)).eval()
        except Exception as error:  # spandrel lets each network fail in its own way
            raise ModelError(
                path, f"spandrel cannot read it ({error})", "give a checkpoint that spandrel lists"
            ) from error
        self._device = device

    def facts(self) -> dict[str, object]:
        return {"method": self.name, "network": self._sha256}

    @torch.no_grad()
    def restore_all(self, probes: Sequence[Probe], samples: int, seeds: Sequence[int]) -> list[Restoration]:
        answers = []
        for probe, seed in zip(probes, seeds, strict=True):
            face = as_tensor([probe.lr0]).to(self._device)
            if str(self._model.purpose) == "FaceSR":  # these take aligned faces of their own large size
                face = enlarge(face, 512)
            out = self._model(face).float().cpu()
            out = shrink(out, SIDE) if out.shape[-1] > SIDE else enlarge(out, SIDE)
            answers.append(_plain(self.name, probe, out[0], self._sha256, 1, seed))
        return answers


def sample_seed(seed: int, k: int) -> int:
    """Each sample of a picture has a seed of its own, so that asking for more leaves the first ones as they are."""
    return (seed * 1_000_003 + k) % 2**63


def as_image(picture: Tensor) -> Image:
    """3×H×W in [0, 1] as RGB uint8."""
    return (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().cpu().numpy()


def _plain(name: str, probe: Probe, picture: Tensor, model: str, calls: int, seed: int) -> Restoration:
    image = as_image(picture)
    spread = np.zeros(image.shape[:2], np.float32)
    warnings = (_unused(name),) if probe.auxiliaries else ()
    return Restoration(image, (image,), spread, name, "", calls, seed, model, "none", warnings)


def _unused(name: str) -> str:
    return f"method {name} takes no feature: the auxiliary faces were not used"
