"""`idfsr`: redraws the face of a very poor picture from references or a fitted identity."""

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
from fasr_video.sr.methods.features import feature_embedder
from fasr_video.sr.methods.method import Method, ModelFiles, Need, Options, Supports
from fasr_video.sr.restoration import FaceInput, Restoration, as_image, pictures_of
from fasr_video.sr.sampling import Sampling, sample_seed
from fasr_video.sr.weights import load_idfsr
from fasr_video.types import Image
from fasr_video.weights.manifest import bundled

NAME = "idfsr"
# Side in pixels from which a face without landmarks is an unusual one: the detector finds landmarks
# on 97 % of CelebA's faces at 16 px, on 56 % at 8 px, on none at 4 px. On a smaller face the usual
# landmarks of the frame will do: they are off by 3.6 px of 128 (root mean square), the detector's
# on faces of 8 px by 4.1.
FINDABLE = 12


class FindLandmarks(Protocol):
    sha256: str
    """Hash of the landmark model."""

    def __call__(self, face: Image) -> NDArray[np.float32] | None:
        """Return 5×2 usable landmarks of a canonical picture (128×128×3), or None."""
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
    """The auxiliary faces with usable landmarks."""

    pictures: Tensor
    landmarks: Tensor
    feature: Tensor
    """512 numbers: the mean of their features."""
    warnings: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.pictures)


@dataclass(frozen=True, slots=True)
class _Conditioning:
    """The network's condition for one face, and where it comes from."""

    condition: FaceCondition
    """One row."""
    source: str
    """Of the identity: fitted, given, mean or own."""
    by_references: bool
    """Whether it uses the auxiliary faces."""
    warnings: tuple[str, ...]


def load_idfsr_models(
    files: ModelFiles, device: torch.device, find_landmarks: FindLandmarks
) -> IdfsrModels:
    """Return the models of these files, with the fitted identity if there is one."""
    weights = files.network or bundled("idfsr.safetensors")
    denoiser = load_idfsr(weights).to(device)
    embedder = feature_embedder(files, device)
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
        self._cached_references: tuple[tuple[Image, ...], _References] | None = None

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
        self, faces: Sequence[FaceInput], samples: int, seeds: Sequence[int]
    ) -> list[Restoration]:
        check_lr_face(NAME, faces)

        def draw(inside: Sequence[FaceInput], inside_seeds: Sequence[int]) -> list[Restoration]:
            pairs = zip(inside, inside_seeds, strict=True)
            return [self._restore(face, samples, seed) for face, seed in pairs]

        return draw_within(self._models.denoiser.band, faces, seeds, draw)

    def _restore(self, face: FaceInput, samples: int, seed: int) -> Restoration:
        conditioning = self._conditioning(face)
        rows = torch.zeros(samples, dtype=torch.long)
        repeated = conditioning.condition[rows]
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
            feature=conditioning.source,
            warnings=conditioning.warnings,
            conditioned_on=face.subject if conditioning.by_references else "",
        )

    def _conditioning(self, face: FaceInput) -> _Conditioning:
        """Return the condition of a face: by references, a fitted identity, or the face itself."""
        lr = enlarge(as_tensor([face.lr0]), SIDE)
        own_landmarks = self._landmarks_of(lr)
        references = self._references(face.auxiliaries)
        landmarks = own_landmarks
        if landmarks is None:
            landmarks = torch.from_numpy(DEFAULT_LANDMARKS).float()[None]
        small = len(face.lr0) < FINDABLE
        used = len(references) > 0 and (own_landmarks is not None or small)
        warnings = [*references.warnings]
        if used:
            # The reference with the nearest landmarks is warped least.
            nearest = int((references.landmarks - landmarks).square().sum((1, 2)).argmin())
            reference = references.pictures[nearest, None]
            reference_landmarks = references.landmarks[nearest, None]
        else:
            reference = lr
            reference_landmarks = landmarks
        feature, source = self._identity(face, lr, references if used else None)
        if own_landmarks is None:
            warnings.append(
                "no usable landmarks on the LR face: the usual ones of its frame take their place"
            )
        warnings += _source_warnings(face, source, used)
        return _Conditioning(
            condition=assemble(
                lr, landmarks, reference, reference_landmarks, feature=feature[None]
            ),
            source=source,
            by_references=used,
            warnings=tuple(warnings),
        )

    def _identity(
        self, face: FaceInput, lr: Tensor, references: _References | None
    ) -> tuple[Tensor, str]:
        """Return the identity (512 numbers) and its source."""
        if self._models.identity is not None:
            return self._models.identity.vector, "fitted"
        if face.feature is not None:
            return torch.from_numpy(np.asarray(face.feature, np.float32)), "given"
        if references is not None and len(references):
            return references.feature, "mean"
        return self._models.embedder.embed(lr)[0][0], "own"

    def _references(self, faces: tuple[Image, ...]) -> _References:
        if self._cached_references is not None and self._cached_references[0] is faces:
            return self._cached_references[1]  # stills of one person often share their references
        pictures, landmarks, warnings = [], [], []
        for number, face in enumerate(faces, 1):
            picture = enlarge(as_tensor([face]), SIDE)
            points = self._landmarks_of(picture)
            if points is None:
                warnings.append(
                    f"reference {number} of {len(faces)} left out: no usable landmarks on it"
                )
            else:
                pictures.append(picture)
                landmarks.append(points)
        block = torch.cat([torch.zeros(0, 3, SIDE, SIDE), *pictures])
        feature = merging.mean(self._models.embedder.embed(block)[0])
        points = torch.cat([torch.zeros(0, 5, 2), *landmarks])
        references = _References(block, points, feature, tuple(warnings))
        self._cached_references = (faces, references)
        return references

    def _landmarks_of(self, picture: Tensor) -> Tensor | None:
        landmarks = self._models.find_landmarks(as_image(picture[0]))
        return None if landmarks is None else torch.from_numpy(landmarks).float()[None]


def _source_warnings(face: FaceInput, source: str, references_used: bool) -> list[str]:
    """Return the warnings about where the identity and the style of a picture come from."""
    if source == "own":
        unused = " The references given were not used." if face.auxiliaries else ""
        return [f"reference-free: style and identity are those of the LR face itself.{unused}"]
    whose = f"subject {face.subject}" if references_used and face.subject else "its references"
    warnings = [f"conditioned on {whose}: never compare it with those photographs"]
    if not references_used:
        warnings.append("no reference for the style: it is that of the LR face itself")
    return warnings


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
