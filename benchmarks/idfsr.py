"""IDFSR: before and after fitting, with poor references, with another person's identity, and what
its codes share.

python benchmarks/idfsr.py [--model FILE] [--people 24] [--fitted 3] [--steps 200]

People whom the network was not trained on. The first photograph of each is drawn from 16, 8 and 4
px (×8, ×16, ×32) by the restorer that `fasr-video sr --method idfsr` is, the references are others
of the person. `--fitted` people, of those with thirty photographs, have a vector fitted to 2, 5 and
10 of them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from models import DATA
from results import Table, command_line
from torch import Tensor
from torch.nn import functional as F

from fasr_video.datasets.faces import Faces, read_faces, views
from fasr_video.detection.landmarks import LandmarkFinder
from fasr_video.errors import FasrError
from fasr_video.evaluation.pictures import psnr, ssim
from fasr_video.recognition.align import DEFAULT_LANDMARKS
from fasr_video.recognition.combiner import mean
from fasr_video.recognition.embedder import Embedder, as_tensor
from fasr_video.recognition.embedders import open_embedder
from fasr_video.sr.degradation import enlarge, shrink
from fasr_video.sr.identity import About, Identity, References, fit
from fasr_video.sr.idfsr import SIDES, assemble
from fasr_video.sr.methods import ModelFiles
from fasr_video.sr.methods.idfsr import Idfsr, IdfsrModels, load_idfsr_models
from fasr_video.sr.restoration import FaceInput, as_image
from fasr_video.sr.surveillance import jpeg
from fasr_video.types import Image

CPU = torch.device("cpu")
PRECISION = "bfloat16"
COUNTS = (2, 5, 10)
# The paper's sampler, begun at pure noise.
PUBLISHED = "ddim-20"
# References where their number is not in question.
USUAL = 4
# Principal components of each code that go into the correlation.
COMPONENTS = 32
# The identity distance by the embedder whose features the networks are given, and by dlib, whose
# they are not.
COLUMNS = ("PSNR", "SSIM", "identity distance", "by dlib")


@dataclass(frozen=True)
class Person:
    truth: Tensor
    """3×128×128."""
    references: tuple[Image, ...]
    landmarks: Tensor
    features: Tensor
    """Of the references."""


def choose_people(faces: Faces, models: IdfsrModels, count: int, photos: int) -> list[Person]:
    """Return the first people with enough photographs with landmarks beside the one to draw."""
    found: list[Person] = []
    for rows in faces.people.values():
        if len(found) == count or len(rows) <= photos:
            continue
        pictures = views(faces.pictures[rows], 128, False, torch.Generator())
        landmarks = [models.find_landmarks(as_image(picture)) for picture in pictures]
        good = [i for i in range(1, len(rows)) if landmarks[i] is not None][:photos]
        if len(good) == photos:
            images = tuple(as_image(pictures[i]) for i in good)
            open_fitted_restorer = torch.stack(
                [torch.from_numpy(landmarks[i]).float() for i in good]
            )
            found.append(
                Person(
                    pictures[0],
                    images,
                    open_fitted_restorer,
                    models.embedder.embed(pictures[good])[0],
                )
            )
    return found


def lr_face(person: Person, side: int) -> Image:
    return as_image(shrink(person.truth[None], side)[0])


def draw_samples(restorer: Idfsr, probes: Sequence[FaceInput], first: int = 0) -> Tensor:
    """Return one sample of each probe; `first`, the number of the first one, seeds its noise."""
    seeds = range(first, first + len(probes))
    return as_tensor([r.picture for r in restorer.restore_all(probes, 1, seeds)])


def measure(models: IdfsrModels, pictures: Tensor, people: Sequence[Person]) -> list[str]:
    truth = torch.stack([p.truth for p in people])
    distances = [
        identity_distance(by, pictures, by.embed(truth)[0])
        for by in (models.embedder, open_scorer())
    ]
    likeness = [
        f"{float(psnr(pictures, truth).mean()):.2f}",
        f"{float(ssim(pictures, truth).mean()):.3f}",
    ]
    return [*likeness, *(f"{d:.3f}" for d in distances)]


@cache
def open_scorer() -> Embedder:
    return open_embedder("dlib", None, "cpu")


def identity_distance(embedder: Embedder, pictures: Tensor, features: Tensor) -> float:
    """Return 1 − the mean cosine of the pictures' features with these."""
    return 1 - float((embedder.embed(pictures)[0] * features).sum(1).mean())


def paste_reference(models: IdfsrModels, person: Person, side: int) -> Tensor:
    """Return the LR face with the first reference warped onto it: the result without a network."""
    lr = enlarge(as_tensor([lr_face(person, side)]), 128)
    own_landmarks = models.find_landmarks(as_image(lr[0]))
    landmarks = torch.from_numpy(
        DEFAULT_LANDMARKS if own_landmarks is None else own_landmarks
    ).float()[None]
    condition = assemble(
        lr,
        landmarks,
        as_tensor(person.references[:1]),
        person.landmarks[:1],
        feature=person.features[:1],
    )
    return torch.lerp(lr, condition.reference, condition.mask)


# ------------------------------------------------------------------------------------------ fitting


def fitting_table(models: IdfsrModels, people: Sequence[Person], steps: int, command: str) -> Table:
    title = f"IDFSR before and after fitting: {len(people)} people"
    table = Table("idfsr", title, command, ("from", "references", "identity, or picture", *COLUMNS))
    start = time.monotonic()
    fitted = {
        count: [fit_person(models, person, count, steps) for person in people] for count in COUNTS
    }
    spent = (time.monotonic() - start) / max(1, len(people) * len(COUNTS))
    plain, seconds, drawn = Idfsr(models, None, CPU, PRECISION), 0.0, 0
    for side in sorted(SIDES, reverse=True):
        bicubic = enlarge(as_tensor([lr_face(p, side) for p in people]), 128)
        table.add_row(
            [f"{side} px (×{128 // side})", "", "bicubic", *measure(models, bicubic, people)]
        )
        pasted = torch.cat([paste_reference(models, p, side) for p in people])
        table.add_row([f"{side} px", 1, "pasted, no network", *measure(models, pasted, people)])
        without = draw_samples(plain, [FaceInput(lr_face(p, side)) for p in people])
        table.add_row([f"{side} px", 0, "its own", *measure(models, without, people)])
        for count, identities in fitted.items():
            probes = [FaceInput(lr_face(p, side), p.references[:count]) for p in people]
            start = time.monotonic()
            before = draw_samples(plain, probes)
            seconds, drawn = seconds + time.monotonic() - start, drawn + len(probes)
            after = [
                draw_samples(open_fitted_restorer(models, v), probes[k : k + 1], k)
                for k, v in enumerate(identities)
            ]
            table.add_row([f"{side} px", count, "mean", *measure(models, before, people)])
            table.add_row(
                [f"{side} px", count, "fitted", *measure(models, torch.cat(after), people)]
            )
        noise = draw_samples(Idfsr(models, PUBLISHED, CPU, PRECISION), probes)
        table.add_row(
            [f"{side} px", max(COUNTS), f"mean, {PUBLISHED}", *measure(models, noise, people)]
        )
    failed = sum(v is None for found in fitted.values() for v in found)
    table.add_note(
        f"Fitting: {steps} steps, {spent:.0f} s a person on this CPU; {failed} of "
        f"{len(people) * len(COUNTS)} fits did not lower the loss, and use the mean instead. "
        f"Drawing: `{models.denoiser.sampler}`, one sample, {seconds / max(1, drawn):.1f} s a "
        "face. Identity distance: 1 − cosine of the features of the picture and of the true face, "
        "by the embedder whose features the network is given, which favours it, and by dlib, "
        "whose features it is not given."
    )
    return table


def fit_person(models: IdfsrModels, person: Person, count: int, steps: int) -> Identity | None:
    names = tuple(str(i) for i in range(count))
    pictures = as_tensor(person.references[:count])
    references = References(
        names, names, pictures, person.landmarks[:count], person.features[:count]
    )
    models.denoiser.precision = torch.float32  # as `fasr-video fit`
    try:
        vector, before, after = fit(
            models.denoiser, references, steps, 0, report=lambda progress: None
        )
    except FasrError as error:
        print(error)
        return None
    return Identity(
        vector,
        About(models.denoiser_sha256, models.embedder.sha256, names, steps, before, after, 0.0),
    )


def open_fitted_restorer(models: IdfsrModels, identity: Identity | None) -> Idfsr:
    return Idfsr(replace(models, identity=identity), None, CPU, PRECISION)


# ---------------------------------------------------------------------------------- poor references


def blur(x: Tensor, deviation: float) -> Tensor:
    reach = round(4 * deviation)
    line = torch.exp(-((torch.arange(-reach, reach + 1) / deviation) ** 2) / 2)
    kernel = torch.outer(line, line) / line.sum() ** 2
    return F.conv2d(F.pad(x, (reach,) * 4, mode="replicate"), kernel.expand(3, 1, -1, -1), groups=3)


def add_noise(x: Tensor, level: float) -> Tensor:
    return (
        x + level / 255 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    ).clamp(0, 1)


def compress(x: Tensor, quality: float) -> Tensor:
    return jpeg(x, torch.full((len(x), 1), quality))


def rescale(x: Tensor, side: float) -> Tensor:
    return enlarge(shrink(x, int(side)), 128)


def degrade_fully(x: Tensor, _: float) -> Tensor:
    return compress(add_noise(rescale(blur(x, 2), 32), 15), 60)


SWEEP: dict[str, tuple[Callable[[Tensor, float], Tensor], tuple[float, ...]]] = {
    "as they are": (lambda x, _: x, (0,)),
    "blur, deviation in px of 128": (blur, (1, 2, 4)),
    "noise, deviation of 255": (add_noise, (5, 15, 30)),
    "JPEG, quality": (compress, (90, 60, 30)),
    "scale, px left of 128": (rescale, (64, 32, 16)),
    "blur 2, scale 32, noise 15, JPEG 60": (degrade_fully, (0,)),
}


def sweep_table(models: IdfsrModels, people: Sequence[Person], side: int) -> Table:
    title = f"Poor references: {len(people)} people, {USUAL} references each, from {side} px"
    table = Table("idfsr", title, "", ("references", "level", *COLUMNS, "left out"))
    restorer = Idfsr(models, None, CPU, PRECISION)
    for name, (degrade, levels) in SWEEP.items():
        for level in levels:
            poor = [degrade(as_tensor(p.references[:USUAL]), level) for p in people]
            probes = [
                FaceInput(lr_face(person, side), tuple(map(as_image, faces)))
                for person, faces in zip(people, poor, strict=True)
            ]
            answers = restorer.restore_all(probes, 1, range(len(probes)))
            lost = sum(w.startswith("reference ") for answer in answers for w in answer.warnings)
            cells = measure(models, as_tensor([a.picture for a in answers]), people)
            table.add_row(
                [name, f"{level:g}" if level else "", *cells, f"{lost / (USUAL * len(people)):.0%}"]
            )
    table.add_note(
        "The four steps of the Real-ESRGAN model one at a time, and one after the other. "
        "Landmarks and features come from the poor references. *Left out*: references on which no "
        "landmarks were found."
    )
    return table


# ----------------------------------------------------------------------------------- cross-identity


def cross_table(models: IdfsrModels, people: Sequence[Person]) -> Table:
    """Return the table of LR faces drawn with the identity of the next person."""
    columns = (
        "from",
        "identity of",
        "references of",
        "distance to the LR face's person",
        "to the next person",
        "PSNR",
    )
    table = Table("idfsr", f"Whose face is drawn: {len(people)} people", "", columns)
    restorer = Idfsr(models, None, CPU, PRECISION)
    following = [*people[1:], people[0]]
    truth = torch.stack([p.truth for p in people])
    identities = open_scorer().embed(truth)[0]
    for side in sorted(SIDES, reverse=True):
        for identity, references in (
            ("the same", "the same"),
            ("the next", "the same"),
            ("the next", "the next"),
        ):
            probes = []
            for person, other in zip(people, following, strict=True):
                features = (person if identity == "the same" else other).features[:USUAL]
                references_used = (person if references == "the same" else other).references[:USUAL]
                probes.append(
                    FaceInput(lr_face(person, side), references_used, mean(features).numpy())
                )
            pictures = draw_samples(restorer, probes)
            distances = (
                identity_distance(open_scorer(), pictures, features)
                for features in (identities, identities.roll(-1, 0))
            )
            cells = (*(f"{d:.3f}" for d in distances), f"{float(psnr(pictures, truth).mean()):.2f}")
            table.add_row([f"{side} px", identity, references, *cells])
    table.add_note(
        "Distances by dlib. If the identity decides the face, the next person's identity moves "
        "the picture towards that person. Whatever references are given, the picture looks like "
        "their person: it says nothing about who was in front of the camera."
    )
    return table


# ---------------------------------------------------------------------------------------- two codes


def codes_table(faces: Faces, models: IdfsrModels) -> Table:
    """Return the table of canonical correlations between identity and style.

    They are fitted on half of the people and measured on the other half.
    """
    rows = [group[0] for group in faces.people.values()]
    pictures = views(faces.pictures[rows], 128, False, torch.Generator())
    identity = models.embedder.embed(pictures)[0].double()
    style = style_codes(models, pictures).double()
    columns = ("codes", "first correlation", f"mean of {COMPONENTS}")
    table = Table("idfsr", f"Identity and style codes: {len(rows)} people", "", columns)
    shuffled = identity[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]
    for name, other in (("of one face", identity), ("of two people, by chance", shuffled)):
        found = canonical_correlations(other, style)
        table.add_row([name, f"{float(found[0]):.3f}", f"{float(found.mean()):.3f}"])
    table.add_note(
        f"Canonical correlation of the first {COMPONENTS} principal components of each: "
        "directions from every second person, correlations on the others. 0: the style code says "
        "nothing about the identity."
    )
    return table


@torch.no_grad()
def style_codes(models: IdfsrModels, pictures: Tensor) -> Tensor:
    encoder = models.denoiser.network.style
    return torch.cat([encoder(2 * pictures[i : i + 32] - 1) for i in range(0, len(pictures), 32)])


def canonical_correlations(a: Tensor, b: Tensor) -> Tensor:
    """Return the correlations in the odd rows, along the canonical directions of the even ones."""
    (fit_a, test_a), (fit_b, test_b) = (whiten(x[::2], x[1::2]) for x in (a, b))
    u, _, v = torch.linalg.svd(fit_a.T @ fit_b / len(fit_a))
    one, other = test_a @ u, test_b @ v.T
    one, other = (x - x.mean(0) for x in (one, other))
    correlations: Tensor = (one * other).sum(0) / (one.norm(dim=0) * other.norm(dim=0))
    return correlations


def whiten(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Return both sets along the first one's principal components, scaled to unit variance."""
    middle = train.mean(0)
    _, spread, ways = torch.linalg.svd(train - middle, full_matrices=False)
    count = min(COMPONENTS, int((spread > 1e-9 * spread[0]).sum()))
    scale = ways[:count].T / spread[:count] * len(train) ** 0.5
    return (train - middle) @ scale, (test - middle) @ scale


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model", type=Path, help="weights that `train idfsr` wrote; by default the bundled ones"
    )
    parser.add_argument("--people", type=int, default=24)
    parser.add_argument("--fitted", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    args = parser.parse_args()
    command = command_line()
    models = load_idfsr_models(ModelFiles(network=args.model), CPU, LandmarkFinder("cpu"))
    faces, _ = read_faces([DATA / "val-00.tar"])
    people = choose_people(faces, models, args.people, USUAL)
    fitting = fitting_table(
        models, choose_people(faces, models, args.fitted, max(COUNTS)), args.steps, command
    )
    fitting.write(
        sweep_table(models, people, 16), cross_table(models, people), codes_table(faces, models)
    )


if __name__ == "__main__":
    main()
