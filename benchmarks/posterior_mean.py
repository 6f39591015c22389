"""The posterior mean, the flow from it and FASR++ beside bicubic, at every size that they draw.

python benchmarks/posterior_mean.py [--mean FILE] [--flow FILE] [--sr FILE] [--people 256]
    [--sheets DIR]

The protocol of `models.py`: each person's second photograph is degraded and drawn; the
feature is merged from the third and further ones at 16×16; the first photographs are the gallery.
`--sheets` writes pictures of CelebA's people, for eyes only: they stay out of the repository.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from models import People, draw_samples, load_bundled_combiner, load_people
from PIL import Image
from results import Table, command_line
from torch import Tensor

from fasr_video.evaluation.pictures import psnr, sharpness, ssim
from fasr_video.recognition.embedder import Embedder
from fasr_video.sr import samplers
from fasr_video.sr.flow import RectifiedFlow
from fasr_video.sr.methods import METHODS, ModelFiles
from fasr_video.sr.methods.diffusion import FAST, Models, load_models
from fasr_video.sr.posterior_mean import PosteriorMean
from fasr_video.sr.restoration import as_image
from fasr_video.sr.surveillance import camera
from fasr_video.sr.weights import load_flow, load_mean
from fasr_video.training.mean import in_tone, stored
from fasr_video.weights.manifest import bundled

SIDES = (8, 12, 16, 24, 32, 48, 64)
BY_CAMERA = (16, 32, 48)
BATCH = 32
WORST = 10
EVERY = 16
# (enlarged LR faces, their side) → pictures.
Draw = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class View:
    """How the faces are degraded."""

    side: int
    by_camera: bool = False

    def __str__(self) -> str:
        return f"{self.side} px{', camera' if self.by_camera else ''}"


# The views that the slower methods draw, too: the flow, and FASR++.
BY_FLOW = (View(16), View(32, by_camera=True))
SAMPLED = (View(16),)


@dataclass(frozen=True)
class TestFaces:
    """The faces to draw, and the feature of each person's further photographs."""

    clean: Tensor
    merged: Tensor


def load_faces(people: People, count: int) -> TestFaces:
    rows = people.probe[:count]
    low, combiner = people.features_at(16), load_bundled_combiner()
    features = []
    for others, own in zip(people.others, rows, strict=False):
        features.append(combiner.combine(low[[r for r in others if r != own]]))
    return TestFaces(people.pictures[rows], torch.stack(features))


def degrade(clean: Tensor, view: View) -> Tensor:
    """Return the LR faces, enlarged again."""
    if not view.by_camera:
        return stored(clean, view.side)
    return in_tone(camera(view.side))(clean, range(len(clean)))


@dataclass(frozen=True)
class Networks:
    """The compared networks."""

    mean: PosteriorMean
    flow: RectifiedFlow
    fasrpp: Models


def open_networks(mean: Path | None, flow: Path | None, denoiser: Path | None) -> Networks:
    """Return the networks of these files, or the bundled ones; FASR++ computes in bfloat16."""
    models = load_models(METHODS["fasr++"], ModelFiles(network=denoiser), torch.device("cpu"))
    models.denoiser.precision = torch.bfloat16
    return Networks(
        load_mean(mean or bundled("mean.safetensors")),
        load_flow(flow or bundled("flow.safetensors")),
        models,
    )


def draw_mean(mean: PosteriorMean, feature: Tensor) -> Draw:
    """Return the method that draws the mean with these features."""

    def drawn(lr: Tensor, side: int) -> Tensor:
        parts = []
        for start in range(0, len(lr), BATCH):
            part = lr[start : start + BATCH]
            sides = torch.full((len(part),), float(side))
            some_features = feature[start : start + BATCH]
            with torch.autocast("cpu", torch.bfloat16):
                drawn_part = mean.symmetric(part, sides, some_features)
            parts.append(drawn_part.float().clamp(0, 1))
        return torch.cat(parts)

    return drawn


def draw_flow(networks: Networks, feature: Tensor, calls: int) -> Draw:
    """Return the method that moves the mean by the flow, in bfloat16."""
    start_from = draw_mean(networks.mean, feature)

    def drawn(lr: Tensor, side: int) -> Tensor:
        means = start_from(lr, side)
        noise = samplers.noise_like(means, samplers.generators(range(len(means))))
        parts = []
        for start in range(0, len(means), BATCH):
            rows = slice(start, start + BATCH)
            sides = torch.full((len(means[rows]),), float(side))
            with torch.autocast("cpu", torch.bfloat16):
                parts.append(networks.flow.draw(means[rows], sides, noise[rows], calls).float())
        return torch.cat(parts).clamp(0, 1)

    return drawn


def draw_fasrpp(models: Models, feature: Tensor) -> Callable[[Tensor, int], Tensor]:
    """Return the method that draws two samples of FASR++, N×2×3×S×S."""

    def drawn(lr: Tensor, side: int) -> Tensor:
        return draw_samples(models.denoiser, models.condition(lr, side, feature), FAST, 2)

    return drawn


def draw_all(networks: Networks, faces: TestFaces, view: View, lr: Tensor) -> dict[str, Tensor]:
    """Return the pictures of each compared method, by name."""
    side = torch.full((len(lr),), float(view.side))
    linear = networks.mean.network.base(lr, side)
    pictures = {
        "bicubic": lr,
        "linear maps": (lr + linear).clamp(0, 1),
        "mean, no feature": draw_mean(networks.mean, torch.zeros_like(faces.merged))(lr, view.side),
        "mean": draw_mean(networks.mean, faces.merged)(lr, view.side),
    }
    if view in BY_FLOW:
        for calls in (4, 8):
            pictures[f"pmrf, {calls} calls"] = draw_flow(networks, faces.merged, calls)(
                lr, view.side
            )
    if view in SAMPLED:
        samples = draw_fasrpp(networks.fasrpp, faces.merged)(lr, view.side)
        pictures["FASR++, a sample"] = samples[:, 0]
        pictures["FASR++, mean of 2"] = samples.mean(1)
    return pictures


def write_sheet(rows: list[int], pictures: dict[str, Tensor], clean: Tensor, path: Path) -> None:
    """Write one line a face: each method's picture, then the truth."""
    columns = [*pictures.values(), clean]
    lines = [torch.cat([column[i] for column in columns], dim=2) for i in rows]
    Image.fromarray(as_image(torch.cat(lines, dim=1))).save(path, quality=90)
    print(f"written: {path} ({', '.join(pictures)}, truth)")


def describe(
    picture: Tensor, name: str, faces: TestFaces, at_bicubic: Tensor, *, judges: Sequence[Judge]
) -> list[str]:
    """Return the cells of a row."""
    error = psnr(picture, faces.clean)
    detail = sharpness(picture).mean() / sharpness(faces.clean).mean()
    worse = "" if name == "bicubic" else f"{(error < at_bicubic).double().mean():.1%}"
    similar = f"{ssim(picture, faces.clean).mean():.3f}"
    cells = [f"{error.mean():.2f}", similar, worse, f"{detail:.2f}"]
    for judge in judges:
        cells += judge.measure(picture)
    return cells


@dataclass(frozen=True)
class Judge:
    """An embedder that compares a picture with the true face, and searches the gallery with it."""

    embedder: Embedder
    gallery: Tensor
    truth: Tensor

    def measure(self, picture: Tensor) -> list[str]:
        """Return the mean cosine to the true face, and Rank-1."""
        features = self.embedder.embed(picture)[0]
        first = (features @ self.gallery.T).argmax(1) == torch.arange(len(picture))
        cosine = (features * self.truth).sum(1).mean()
        return [f"{cosine:.3f}", f"{first.double().mean():.3f}"]


def make_judge(embedder: Embedder, people: People, faces: TestFaces) -> Judge:
    gallery = embedder.embed(people.pictures[people.gallery])[0]
    return Judge(embedder, gallery, embedder.embed(faces.clean)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mean", type=Path)
    parser.add_argument("--flow", type=Path)
    parser.add_argument("--sr", type=Path)
    parser.add_argument("--people", type=int, default=256)
    parser.add_argument("--sheets", type=Path)
    options = parser.parse_args()
    people = load_people(907)
    networks = open_networks(options.mean, options.flow, options.sr)
    faces = load_faces(people, options.people)
    judges = [make_judge(judge, people, faces) for judge in (people.dlib, people.embedder)]
    columns = ["LR face", "picture", "PSNR", "SSIM", "worse than bicubic", "sharpness"]
    for name in ("dlib", "ours"):
        columns += [f"cosine by {name}", f"Rank-1 by {name}"]
    count = len(faces.clean)
    title = f"The posterior mean: {count} faces never seen, gallery of {len(people.gallery)} people"
    table = Table("posterior_mean", title, command_line(), columns)
    views = [View(side) for side in SIDES] + [View(side, by_camera=True) for side in BY_CAMERA]
    for view in views:
        lr = degrade(faces.clean, view)
        with torch.inference_mode():
            pictures = draw_all(networks, faces, view, lr)
        at_bicubic = psnr(lr, faces.clean)
        for name, picture in pictures.items():
            table.add_row([view, name, *describe(picture, name, faces, at_bicubic, judges=judges)])
        print(f"{view}: done", flush=True)
        if options.sheets is not None:
            write_sheets(view, pictures, faces.clean, options.sheets)
    cells = ["", "1.000", "", "1.00"]
    for judge in judges:
        cells += judge.measure(faces.clean)
    table.add_row(["", "the true face", *cells])
    table.add_note(NOTE)
    table.write()


def write_sheets(view: View, pictures: dict[str, Tensor], clean: Tensor, folder: Path) -> None:
    """Write a sheet of every EVERYth face, and one of the faces that the mean gains least on."""
    folder.mkdir(parents=True, exist_ok=True)
    gains = psnr(pictures["mean"], clean) - psnr(pictures["bicubic"], clean)
    name = str(view).replace(" px", "").replace(", ", "_")
    write_sheet(list(range(0, len(clean), EVERY)), pictures, clean, folder / f"{name}.jpg")
    worst = gains.argsort()[:WORST].tolist()
    write_sheet(worst, pictures, clean, folder / f"{name}_worst.jpg")


NOTE = (
    "The papers' degradation (antialiased bilinear down, bicubic up, 8 bits), and the imitated "
    "camera of the training (blur, noise, JPEG, H.264; tone and alignment left as they are). The "
    "network starts from the linear maps, which add nothing from 32 px on. Worse than bicubic: the "
    "share of faces whose squared error is larger. Sharpness: the share of contrast that is finer "
    "than 1 px, over that of the true faces; noise counts as detail, too. All networks computed in "
    "bfloat16, FASR++ by dpmpp-sde-15. Our embedder made the feature that the pictures are drawn with, so "
    "it favours them; dlib had no part in it."
)


if __name__ == "__main__":
    main()
