"""`fasr-video fit`: photographs of a person in, a fitted identity out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fasr_video.checkpoint import find_device
from fasr_video.detection import open_for_photographs
from fasr_video.detection.landmarks import LandmarkFinder
from fasr_video.errors import UsageError
from fasr_video.pipeline.stills import Still, read_auxiliaries
from fasr_video.recognition.embedder import as_tensor
from fasr_video.sqlite import explain_errors
from fasr_video.sr.degradation import enlarge
from fasr_video.sr.identity import (
    About,
    Identity,
    Progress,
    References,
    cosines,
    fit,
    lowest,
    save_identity,
    stranger,
)
from fasr_video.sr.idfsr import SIDE
from fasr_video.sr.methods import ModelFiles
from fasr_video.sr.methods.idfsr import IdfsrModels, load_idfsr_models
from fasr_video.sr.restoration import as_image

# Side in pixels below which the vector would learn the blur of a photograph.
SMALLEST_REFERENCE = 64


@dataclass(frozen=True, slots=True)
class Job:
    """The arguments of `fasr-video fit`."""

    refs: Path
    model: Path | None
    out: Path
    embedder: Path | None
    align: bool
    steps: int
    seed: int
    force: bool
    device: str


@dataclass(frozen=True, slots=True)
class Fitted:
    """The result of `fasr-video fit`."""

    about: About
    warnings: tuple[str, ...]


def fit_person(job: Job, report: Callable[[Progress], None]) -> Fitted:
    """Fit one vector to the photographs in a folder, and write it to a file."""
    if job.out.exists():
        raise UsageError(job.out, "it exists already", "give another name, or remove it")
    files = ModelFiles(network=job.model, embedder=job.embedder)
    models = load_idfsr_models(files, find_device(job.device), LandmarkFinder(job.device))
    detector = None
    if job.align:
        detector = open_for_photographs(job.device)
    stills, warnings = read_auxiliaries(job.refs, detector)
    references, left_out = _references(stills, models)
    doubt = stranger(references)
    if doubt is not None and not job.force:
        reason = f"the photographs may not be of one person: {doubt}"
        raise UsageError(job.refs, reason, "take that one out, or give --force")
    if doubt is not None:
        warnings.append(f"fitted by force, to photographs that may not be of one person: {doubt}")
    vector, before, after = fit(models.denoiser, references, job.steps, job.seed, report=report)
    about = About(
        weights=models.denoiser_sha256,
        embedder=models.embedder.sha256,
        references=references.sha256,
        steps=job.steps,
        loss_before=before,
        loss_after=after,
        lowest_cosine=lowest(cosines(references)),
    )
    with explain_errors(job.out):
        job.out.parent.mkdir(parents=True, exist_ok=True)
        save_identity(Identity(vector, about), job.out)
    return Fitted(about, (*warnings, *left_out))


def _references(stills: Sequence[Still], models: IdfsrModels) -> tuple[References, list[str]]:
    """Return the photographs that can be used, and a warning about each other one."""
    used: list[Still] = []
    pictures: list[Tensor] = [torch.zeros(0, 3, SIDE, SIDE)]
    all_landmarks: list[Tensor] = [torch.zeros(0, 5, 2)]
    left_out = []
    for still in stills:
        picture = enlarge(as_tensor([still.face]), SIDE)
        landmarks = models.find_landmarks(as_image(picture[0]))
        problem = None
        if len(still.face) < SMALLEST_REFERENCE:
            problem = f"{len(still.face)} px, {SMALLEST_REFERENCE} needed"
        elif landmarks is None:
            problem = "no usable landmarks on it"
        elif still.sha256 in (other.sha256 for other in used):
            problem = "the same file as another one"
        if problem is not None or landmarks is None:
            left_out.append(f"{still.path.name} left out: {problem}")
            continue
        used.append(still)
        pictures.append(picture)
        all_landmarks.append(torch.from_numpy(landmarks)[None])
    batch = torch.cat(pictures)
    references = References(
        tuple(still.path.name for still in used),
        tuple(still.sha256 for still in used),
        batch,
        torch.cat(all_landmarks),
        models.embedder.embed(batch)[0],
    )
    return references, left_out
