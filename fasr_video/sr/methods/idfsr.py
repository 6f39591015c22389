"""`idfsr`: rebuilds the face of a very poor picture from references or a fitted identity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fasr_video.detection.landmarks import LandmarkFinder
from fasr_video.files import sha256_file
from fasr_video.recognition import combiner as merging
from fasr_video.recognition.align import DEFAULT_LANDMARKS
from fasr_video.recognition.embedder import Embedder, as_tensor, require_embedder
from fasr_video.sr import samplers, sampling
from fasr_video.sr.degradation import enlarge
from fasr_video.sr.denoiser import PRECISIONS
from fasr_video.sr.identity import Identity, load_identity
from fasr_video.sr.idfsr import SIDE, SIDES, FaceCondition, IdentityDenoiser, assemble
from fasr_video.sr.methods.band import check_lr_face, draw_within
from fasr_video.sr.methods.features import open_faces
from fasr_video.sr.methods.method import Method, ModelFiles, Need, Options, Supports
from fasr_video.sr.restoration import FaceInput, Restoration, as_image, pictures_of
from fasr_video.sr.sampling import Sampling, sample_seed
from fasr_video.sr.weights import load_idfsr
from fasr_video.types import Image
from fasr_video.weights.manifest import bundled

NAME = "idfsr"
# Side in pixels from which a face without landmarks is an unusual one: of CelebA's 97 % have some
# at 16 px, 56 % at 8 px, none at 4 px. A smaller one is taken to be as its frame says: the usual
# landmarks are off by 3.6 px of 128 (root mean square), the detector's on faces of 8 px by 4.1.
FINDABLE = 12


class FindLandmarks(Protocol):
    sha256: str
    """Of the model that finds them."""

    def __call__(self, face: Image) -> NDArray[np.float32] | None:
        """5×2: usable landmarks of a canonical picture (128×128×3), or None."""
        ...


@dataclass(frozen=True, slots=True)
class IdfsrModels:
    denoiser: IdentityDenoiser
    denoiser_sha256: str
    embedder: Embedder
    find_landmarks: FindLandmarks
    identity: Identity | None = None
    identity_sha256: str = ""


@dataclass(frozen=True, slots=True)
class _References:
    """The auxiliary faces on which landmarks were found."""

    pictures: Tensor
    landmarks: Tensor
    feature: Tensor
    """512: the mean of theirs."""
    warnings: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.pictures)


@dataclass(frozen=True, slots=True)
class _Told:
    condition: FaceCondition
    """One row."""
    source: str
    by_references: bool
    """Whether any of the auxiliary faces has a part in it."""
    warnings: tuple[str, ...]


def load_idfsr_models(
    files: ModelFiles, device: torch.device, find_landmarks: FindLandmarks
) -> IdfsrModels:
    """Return the models of these files, the fitted identity among them where there is one."""
    weights = files.network or bundled("idfsr.safetensors")
    denoiser = load_idfsr(weights).to(device)
    embedder = open_faces(files, device)
    require_embedder(weights, denoiser.embedder, embedder.sha256)
    models = IdfsrModels(denoiser, sha256_file(weights), embedder, find_landmarks)
    if files.identity is None:
        return models
    identity = load_identity(files.identity, models.denoiser_sha256)
    return replace(models, identity=identity, identity_sha256=sha256_file(files.identity))


class Idfsr:
    """Draws p(picture | context of the LR face, warped reference, identity)."""

    name = NAME

    def __init__(
        self,
        models: IdfsrModels,
        sampler: str | None,
        device: torch.device,
        precision: str = "float32",
    ):
        self._models, self._device = models, device
        self._sampling: Sampling = sampling.parse(
            sampler or models.denoiser.sampler, sampling.DENOISERS
        )
        models.denoiser.precision = PRECISIONS[precision]
        self._seen: tuple[tuple[Image, ...], _References] | None = None

    def provenance(self) -> dict[str, object]:
        m = self._models
        return {
            "method": self.name,
            "sampler": str(self._sampling),
            "network": m.denoiser_sha256,
            "precision": str(m.denoiser.precision).removeprefix("torch."),
            "embedder": m.embedder.sha256,
            "landmarks": m.find_landmarks.sha256,
            "identity": m.identity_sha256,
        }

    def restore_all(
        self, probes: Sequence[FaceInput], samples: int, seeds: Sequence[int]
    ) -> list[Restoration]:
        check_lr_face(NAME, probes)

        def draw(some: Sequence[FaceInput], their_seeds: Sequence[int]) -> list[Restoration]:
            return [
                self._restore(probe, samples, seed)
                for probe, seed in zip(some, their_seeds, strict=True)
            ]

        return draw_within(self._models.denoiser.band, probes, seeds, draw)

    def _restore(self, probe: FaceInput, samples: int, seed: int) -> Restoration:
        told = self._told(probe)
        rows = torch.zeros(samples, dtype=torch.long)
        repeated = told.condition[rows]
        condition = FaceCondition(
            *(
                v.to(self._device)
                for v in (repeated.lr, repeated.feature, repeated.mask, repeated.reference)
            )
        )
        noise = samplers.generators([sample_seed(seed, k) for k in range(samples)])
        drawn = sampling.draw(self._models.denoiser, condition, self._sampling, noise).float().cpu()
        return Restoration(
            *pictures_of(drawn),
            method=self.name,
            sampler=str(self._sampling),
            calls=self._sampling.calls * samples,
            seed=seed,
            model=self._models.denoiser_sha256,
            feature=told.source,
            warnings=told.warnings,
            conditioned_on=probe.subject if told.by_references else "",
        )

    def _told(self, probe: FaceInput) -> _Told:
        """What the network is told of a face: by references, by a fitted identity, or by the face itself."""
        lr = enlarge(as_tensor([probe.lr0]), SIDE)
        found, references = self._landmarks_of(lr), self._references(probe.auxiliaries)
        landmarks = torch.from_numpy(DEFAULT_LANDMARKS).float()[None] if found is None else found
        used = len(references) > 0 and (found is not None or len(probe.lr0) < FINDABLE)
        warnings = [*references.warnings]
        reference, reference_landmarks = lr, landmarks
        if used:
            nearest = int(
                (references.landmarks - landmarks).square().sum((1, 2)).argmin()
            )  # it is bent least
            reference, reference_landmarks = (
                references.pictures[nearest, None],
                references.landmarks[nearest, None],
            )
        feature, source = self._identity(probe, lr, references if used else None)
        if found is None:
            warnings.append(
                "no usable landmarks on the LR face: the usual ones of its frame stand in for them"
            )
        if source == "own":
            unused = " The references given were not used." if probe.auxiliaries else ""
            warnings.append(
                f"reference-free: style and identity are those of the LR face itself.{unused}"
            )
        else:
            whose = f"subject {probe.subject}" if used and probe.subject else "its references"
            warnings.append(f"conditioned on {whose}: never compare it with those photographs")
            if not used:
                warnings.append("no reference for the style: it is that of the LR face itself")
        return _Told(
            assemble(lr, landmarks, reference, reference_landmarks, feature[None]),
            source,
            used,
            tuple(warnings),
        )

    def _identity(
        self, probe: FaceInput, lr: Tensor, references: _References | None
    ) -> tuple[Tensor, str]:
        """512 numbers, and where they are from."""
        if self._models.identity is not None:
            return self._models.identity.vector, "fitted"
        if probe.feature is not None:
            return torch.from_numpy(np.asarray(probe.feature, np.float32)), "given"
        if references is not None and len(references):
            return references.feature, "mean"
        return self._models.embedder.embed(lr)[0][0], "own"

    def _references(self, faces: tuple[Image, ...]) -> _References:
        if self._seen is not None and self._seen[0] is faces:
            return self._seen[1]  # many stills of one person share their references
        pictures, landmarks, warnings = [], [], []
        for number, face in enumerate(faces, 1):
            picture = enlarge(as_tensor([face]), SIDE)
            found = self._landmarks_of(picture)
            if found is None:
                warnings.append(
                    f"reference {number} of {len(faces)} left out: no usable landmarks on it"
                )
            else:
                pictures.append(picture)
                landmarks.append(found)
        block = torch.cat([torch.zeros(0, 3, SIDE, SIDE), *pictures])
        feature = merging.mean(self._models.embedder.embed(block)[0])
        told = _References(
            block, torch.cat([torch.zeros(0, 5, 2), *landmarks]), feature, tuple(warnings)
        )
        self._seen = (faces, told)
        return told

    def _landmarks_of(self, picture: Tensor) -> Tensor | None:
        found = self._models.find_landmarks(as_image(picture[0]))
        return None if found is None else torch.from_numpy(found).float()[None]


def _open(method: Method, options: Options) -> Idfsr:
    finder = LandmarkFinder(str(options.device))
    models = load_idfsr_models(options.files, options.device, finder)
    return Idfsr(models, options.sampler, options.device, options.precision)


IDFSR = Method(
    NAME,
    _open,
    needs=frozenset({Need.NETWORK, Need.EMBEDDER}),
    supports=Supports(
        samples=True,
        sampler=True,
        references=True,
        identity=True,
        weights=True,
        smallest=min(SIDES),
    ),
)
