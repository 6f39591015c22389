"""Fewer calls still: the compact network distilled to 4, 2 and 1 calls, beside the samplers that need no training.

    python benchmarks/distil.py [--steps 800 400 400] [--faces 64] [--samples 4] [--out runs/distil]

Multistep consistency distillation (Heek et al. 2024): noise levels are cut into as many segments as there are to be
calls; within each the student learns to jump to the segment's end, where the teacher's own small steps would lead. It
begins with the teacher's weights, two calls with those of four, one call with those of two. Training goes on where it
was stopped. Faces are measured as in sr_ladder.py.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from results import Table, command_line
from sr_ladder import COLUMNS, DATA, Drawing, Faces, choose, measure, row
from torch import Tensor, nn

from fasr_video.datasets.faces import read_faces
from fasr_video.sr import samplers, sampling
from fasr_video.sr.checkpoints import load
from fasr_video.sr.denoiser import Condition, Denoiser
from fasr_video.sr.methods import load_models
from fasr_video.sr.sde import per_item
from fasr_video.sr.weights import save_denoiser
from fasr_video.training import sr
from fasr_video.training.loop import Plan, Progress, train
from fasr_video.weights.manifest import boxed

LEVELS = (30.0, 8.0, 3.0, 1.2, 0.5, 0.37, 0.27, 0.2, 0.15, 0.115, 0.087, 0.066, 0.05, 0.03, 0.015, 0.005, 0.0)
"""Of the teacher's small steps. Most lie where what the LR face lacks (spread 0.085) takes shape."""
SEGMENTS = (4, 2, 1)
UNTRAINED = ("dpmpp-4", "dpmpp-2", "dpmpp-sde-4", "dpmpp-4@1", "ddim-1")


def ends(segments: int) -> Tensor:
    """The levels at which segments begin, and 0."""
    return torch.tensor(LEVELS[:: (len(LEVELS) - 1) // segments], dtype=torch.float64)


def jump(denoiser: nn.Module, x: Tensor, now: Tensor, after: Tensor, condition: Condition) -> Tensor:
    """One step of the probability-flow ODE by the picture that the denoiser shows: x' = D + (σ'/σ)(x − D)."""
    clean = denoiser(x, now, condition)
    moved: Tensor = clean + per_item(after / now, x) * (x - clean)
    return moved


@torch.no_grad()
def target(teacher: Denoiser, student: nn.Module, x: Tensor, k: Tensor, each: int, condition: Condition) -> Tensor:
    """The picture by which one jump from level k ends where the teacher's step and then the student's jump end."""
    levels = torch.tensor(LEVELS)
    now, after, end = levels[k], levels[k + 1], levels[(k // each + 1) * each]
    some = after.clamp_min(LEVELS[-2])  # where it is 0, what is made of it is not used
    there = jump(teacher, x, now, after, condition)
    slope = (there - x) / per_item(after - now, x)
    slope_there = (there - teacher(there, some, condition)) / per_item(some, x)
    heun = x + per_item(after - now, x) * (slope + slope_there) / 2  # EDM algorithm 1
    there = torch.where(per_item(after > 0, x), heun, there)
    arrived = torch.where(per_item(after > end, x), jump(student, there, some, end, condition), there)
    share = per_item(end / now, x)
    return (arrived - share * x) / (1 - share)


def make_loss(
    teacher: Denoiser, data: sr.Material, recipe: sr.Recipe, segments: int
) -> Callable[..., Mapping[str, Tensor]]:
    each = (len(LEVELS) - 1) // segments

    def loss(model: nn.Module, generator: torch.Generator) -> Mapping[str, Tensor]:
        _, clean, condition = sr.batch_of(data, recipe, teacher.side, generator)
        k = torch.randint(0, len(LEVELS) - 1, (recipe.batch,), generator=generator)
        sigma = torch.tensor(LEVELS)[k]
        x = clean + per_item(sigma, clean) * torch.randn(clean.shape, generator=generator)
        aim = target(teacher, model, x, k, each, condition)
        error = (model(x, sigma, condition).float() - aim).square().flatten(1).mean(1)
        return {"loss": (error * teacher.weight(sigma, condition)).mean()}

    return loss


def distil(
    teacher: Denoiser, begin: Path, data: sr.Material, segments: int, steps: int, args: argparse.Namespace
) -> Path:
    out: Path = args.out / str(segments)
    out.mkdir(parents=True, exist_ok=True)
    student = load(begin, torch.device("cpu"))
    student.requires_grad_(True)

    def save(state: Mapping[str, Tensor], step: int) -> None:
        learned = copy.deepcopy(student)
        learned.load_state_dict(state)
        save_denoiser(learned.eval(), out / "sr.safetensors")

    def report(progress: Progress) -> None:
        print(f"{segments} calls, step {progress.step} of {progress.steps}: {progress.terms['loss']:.4f}", flush=True)

    recipe = sr.Recipe(batch=args.batch, sides=(16,), no_lr=0.0)
    plan = Plan(steps, args.lr, warmup=20, ema=0.98, log_every=20, muon=True)
    train(
        student,
        make_loss(teacher, data, recipe, segments),
        out,
        plan,
        torch.device("cpu"),
        save,
        report,
        {"segments": segments},
    )
    return out / "sr.safetensors"


def material(args: argparse.Namespace) -> sr.Material:
    faces, _ = read_faces(args.faces_of)
    features = sr.rows_of(args.features, faces, ("hr", "lr"))
    combiner = load_models(None, None, None, torch.device("cpu"), "combiner").combiner
    assert combiner is not None
    merged = sr.merged_features(features["lr"], faces.people.values(), combiner.combine)
    return sr.Material(faces.pictures, features["hr"], merged)


def drawing(denoiser: Denoiser, levels: Tensor) -> Drawing:
    """By jumps between these levels."""

    def draw(condition: Condition, seeds: samplers.Generators) -> Tensor:
        x = samplers.prior(condition.lr.shape[1:], float(levels[0]), seeds)
        with torch.no_grad():
            return samplers.ddim(denoiser.given(condition), x, levels).clamp(0, 1)

    return draw


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs=len(SEGMENTS), default=[800, 400, 400], help="for 4, 2 and 1 calls")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--faces", type=int, default=64, help="that are measured")
    parser.add_argument("--samples", type=int, default=4, help="of each")
    parser.add_argument("--out", type=Path, default=Path("runs/distil"))
    parser.add_argument("--features", type=Path, default=Path("runs/features.npz"), help="of `train features`")
    parser.add_argument("--faces-of", type=Path, nargs="+", default=[DATA.parent / f"train-0{k}.tar" for k in range(4)])
    args = parser.parse_args()
    begin = boxed("sr.safetensors")
    teacher = load(begin, torch.device("cpu"))
    data = material(args)
    files: dict[int, Path] = {}
    for segments, steps in zip(SEGMENTS, args.steps, strict=True):
        files[segments] = begin = distil(teacher, begin, data, segments, steps, args)
    del data
    show(files, args)


def show(files: Mapping[int, Path], args: argparse.Namespace) -> None:
    models = load_models(None, None, None, torch.device("cpu"), "combiner")
    models.denoiser.precision = torch.bfloat16
    faces = choose(args.faces, models)
    command = command_line()
    table = Table("distil", f"The compact network in 4, 2 and 1 calls: {args.faces} faces", command, COLUMNS)

    def add(name: str, calls: int, draw: Drawing, faces: Faces = faces) -> None:
        m = measure(draw, faces, models, args.samples)
        table.row(row(name, calls, m, base[0] if base else m))
        base.append(m)

    base: list[object] = []
    for name in ("dpmpp-sde-15", "dpmpp-15", *UNTRAINED):
        how = sampling.parse(name)
        add(name, how.calls, lambda c, g, how=how: sampling.draw(models.denoiser, c, how, g))
    for segments, file in files.items():
        add(f"teacher, at the student's {segments} levels", segments, drawing(models.denoiser, ends(segments)))
        student = load(file, torch.device("cpu"))
        student.precision = torch.bfloat16
        add(f"student of {segments}", segments, drawing(student, ends(segments)))
    seen = ", ".join(f"{n * args.batch} for {k}" for k, n in zip(SEGMENTS, args.steps, strict=True))
    table.note(f"Students have seen so many faces: {seen}. The other columns are told of in `sr_ladder.md`.")
    table.write()


if __name__ == "__main__":
    main()
