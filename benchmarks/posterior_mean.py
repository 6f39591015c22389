"""The posterior mean beside bicubic, its linear maps and FASR++, at every size that it draws.

python benchmarks/posterior_mean.py [--weights FILE] [--people 256] [--sheets DIR]

The protocol of `models.py`: each person's second photograph is brought down and drawn; the feature
is merged from the third and further ones at 16×16; the first photographs are the gallery.
`--sheets` writes pictures of CelebA's people, for eyes only: they stay out of the repository.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from models import People, draw_samples, load_bundled_combiner, load_people
from PIL import Image
from results import Table, command_line
from torch import Tensor

from fasr_video.evaluation.pictures import psnr, ssim
from fasr_video.sr.denoiser import Condition
from fasr_video.sr.methods import METHODS, ModelFiles
from fasr_video.sr.methods.diffusion import FAST, load_models
from fasr_video.sr.posterior_mean import PosteriorMean
from fasr_video.sr.restoration import as_image
from fasr_video.sr.surveillance import camera
from fasr_video.sr.weights import load_mean
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


def make_methods(mean: PosteriorMean, faces: TestFaces) -> dict[str, Draw]:
    """Return the compared methods by name."""
    nothing = torch.zeros_like(faces.merged)

    def draw_mean(feature: Tensor) -> Draw:
        def drawn(lr: Tensor, side: int) -> Tensor:
            parts = []
            for start in range(0, len(lr), BATCH):
                part = lr[start : start + BATCH]
                sides = torch.full((len(part),), float(side))
                some_features = feature[start : start + BATCH]
                parts.append(mean.symmetric(part, sides, some_features).clamp(0, 1))
            return torch.cat(parts)

        return drawn

    def linear(lr: Tensor, side: int) -> Tensor:
        sides = torch.full((len(lr),), float(side))
        return (lr + mean.network.base(lr, sides)).clamp(0, 1)

    return {
        "bicubic": lambda lr, side: lr,
        "linear maps": linear,
        "mean, no feature": draw_mean(nothing),
        "mean": draw_mean(faces.merged),
    }


def open_fasrpp(faces: TestFaces) -> Draw:
    models = load_models(METHODS["fasr++"], ModelFiles(), torch.device("cpu"))
    models.denoiser.precision = torch.bfloat16

    def drawn(lr: Tensor, side: int) -> Tensor:
        return draw_samples(models.denoiser, Condition(lr, faces.merged), FAST, 2).mean(1)

    return drawn


def write_sheet(rows: list[int], pictures: dict[str, Tensor], clean: Tensor, path: Path) -> None:
    """Write one line a face: each method's picture, then the truth."""
    columns = [*pictures.values(), clean]
    lines = [torch.cat([column[i] for column in columns], dim=2) for i in rows]
    Image.fromarray(as_image(torch.cat(lines, dim=1))).save(path, quality=90)
    print(f"written: {path} ({', '.join(pictures)}, truth)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=None)
    parser.add_argument("--people", type=int, default=256)
    parser.add_argument("--sheets", type=Path)
    options = parser.parse_args()
    people = load_people(907)
    mean = load_mean(options.weights or bundled("mean.safetensors"))
    faces = load_faces(people, options.people)
    compared = make_methods(mean, faces)
    fasrpp = open_fasrpp(faces)
    judges = {"dlib": people.dlib, "ours": people.embedder}
    columns = ["LR face", "picture", "PSNR", "SSIM", "worse than bicubic"]
    for name in judges:
        columns += [f"cosine by {name}", f"Rank-1 by {name}"]
    count = len(faces.clean)
    title = f"The posterior mean: {count} faces never seen, gallery of {len(people.gallery)} people"
    table = Table("posterior_mean", title, command_line(), columns)
    own = torch.arange(count)
    known = {
        name: judge.embed(people.pictures[people.gallery])[0] for name, judge in judges.items()
    }
    truth = {name: judge.embed(faces.clean)[0] for name, judge in judges.items()}
    views = [View(side) for side in SIDES] + [View(side, by_camera=True) for side in BY_CAMERA]
    for view in views:
        lr = degrade(faces.clean, view)
        at_bicubic = psnr(lr, faces.clean)
        pictures: dict[str, Tensor] = {}
        all_methods = compared | ({"FASR++, mean of 2": fasrpp} if view == View(16) else {})
        for name, method in all_methods.items():
            with torch.inference_mode():
                pictures[name] = method(lr, view.side)
            error = psnr(pictures[name], faces.clean)
            cells = [f"{error.mean():.2f}", f"{ssim(pictures[name], faces.clean).mean():.3f}"]
            cells.append("" if name == "bicubic" else f"{(error < at_bicubic).double().mean():.1%}")
            for who, judge in judges.items():
                features = judge.embed(pictures[name])[0]
                first = (features @ known[who].T).argmax(1) == own
                cells.append(f"{(features * truth[who]).sum(1).mean():.3f}")
                cells.append(f"{first.double().mean():.3f}")
            table.add_row([view, name, *cells])
        if options.sheets is not None:
            options.sheets.mkdir(parents=True, exist_ok=True)
            gains = psnr(pictures["mean"], faces.clean) - at_bicubic
            worst = gains.argsort()[:WORST].tolist()
            file_name = str(view).replace(" px", "").replace(", ", "_")
            write_sheet(
                list(range(0, count, EVERY)),
                pictures,
                faces.clean,
                options.sheets / f"{file_name}.jpg",
            )
            write_sheet(worst, pictures, faces.clean, options.sheets / f"{file_name}_worst.jpg")
    cells = ["", "1.000", ""]
    for who in judges:
        first = (truth[who] @ known[who].T).argmax(1) == own
        cells += ["1.000", f"{first.double().mean():.3f}"]
    table.add_row(["", "the true face", *cells])
    table.add_note(
        "The papers' degradation (antialiased bilinear down, bicubic up, 8 bits), and the "
        "imitated camera of the training (blur, noise, JPEG, H.264; tone and alignment left as "
        "they are). The network starts from the linear maps, which add nothing from 32 px on. "
        "FASR++ is of version 0.1, with features mapped linearly to those of today's embedder. "
        "Worse than bicubic: the share of faces whose squared error is larger. Our embedder made "
        "the feature that the mean is drawn with, so it favours the mean; dlib had no part in it."
    )
    table.write()


if __name__ == "__main__":
    main()
