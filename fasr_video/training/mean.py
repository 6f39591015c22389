"""Train the posterior-mean network on aligned faces, with identity features beside them.

Each step: faces, moved a little and mirrored; their LR twins, of one size a part of the batch, by
the papers' degradation or through cameras; the squared error, divided by that of bicubic at the
same size, so that no size outweighs another.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from fasr_video.checkpoint import load_state
from fasr_video.datasets.faces import Faces, cut, rows_of
from fasr_video.recognition import combiner as merging
from fasr_video.sr.degradation import enlarge, shrink
from fasr_video.sr.networks.mean import MeanNet
from fasr_video.sr.posterior_mean import PosteriorMean
from fasr_video.sr.surveillance import camera
from fasr_video.sr.weights import save_mean
from fasr_video.training.combiner import CombinerFeatures
from fasr_video.training.curves import draw_run
from fasr_video.training.loop import Plan, Progress, train
from fasr_video.training.manifest import describe, write_manifest
from fasr_video.training.sr import load_combiner, merged_features

PARTS = 8  # of a batch: each has an LR size of its own
MOVE = 1  # px, how far a face is moved at most: alignment is never exact
MEASURED = 128  # faces that bicubic and the gain over it are measured on


@dataclass(frozen=True, slots=True)
class Recipe:
    """What the network is shown."""

    batch: int = 32
    sides: tuple[int, ...] = (8, 12, 16, 16, 16, 24, 32, 48, 64)
    """Sizes of the LR face, each as likely as it is often named."""
    cameras: float = 0.5
    """Share of parts that go through a camera, in place of the papers' degradation."""
    no_feature: float = 0.15
    own: float = 0.1
    """Share of faces that get their own feature in place of the merged one of the other photos."""


@dataclass(frozen=True, slots=True)
class Batch:
    clean: Tensor
    lr: Tensor
    """The LR twins, brought up to size."""
    side: Tensor
    """Pixels of each LR twin."""
    feature: Tensor


@dataclass(frozen=True, slots=True)
class Material:
    pictures: Tensor
    """N×3×S×S uint8, with a rim around the canonical frame."""
    own: Tensor
    """N×length: the feature of each picture itself."""
    merged: Tensor
    """N×length: the person's other pictures together; zeros where there are none."""


Loss = Callable[[nn.Module, torch.Generator], Mapping[str, Tensor]]


def make_loss(data: Material, recipe: Recipe, side: int) -> Loss:
    """Return the loss of one step."""
    unknown = bicubic_errors(data.pictures, recipe.sides, side)

    def loss(model: nn.Module, generator: torch.Generator) -> Mapping[str, Tensor]:
        batch = make_batch(data, recipe, side, generator)
        out = model(batch.lr, batch.side, batch.feature)
        error = (out.float() - batch.clean).square().flatten(1).mean(1)
        share = error / unknown[batch.side.long()]
        at_16 = batch.side == 16
        return {
            "loss": share.mean(),
            "at_16": (share * at_16).sum() / at_16.sum().clamp_min(1),
        }

    return loss


def make_batch(data: Material, recipe: Recipe, side: int, generator: torch.Generator) -> Batch:
    """Return faces, moved and mirrored, with their LR twins and features."""
    device = data.pictures.device
    rows = torch.randint(0, len(data.pictures), (recipe.batch,), generator=generator, device=device)
    middle = (data.pictures.shape[-1] - side) // 2
    reach = min(MOVE, middle)
    shape = (2, len(rows), 1)
    moves = torch.randint(-reach, reach + 1, shape, generator=generator, device=device)
    mirrored = torch.rand(len(rows), 1, generator=generator, device=device) < 0.5
    clean = cut(data.pictures[rows], side, middle + moves, mirrored)
    lows, sides = [], []
    for part in clean.chunk(PARTS):
        low, pixels = _degrade(part, recipe, generator)
        lows.append(low)
        sides.append(pixels)
    draw = torch.rand(2, len(rows), 1, generator=generator, device=device)
    known = draw[0] >= recipe.no_feature
    merged = data.merged[rows]
    use_own = (draw[1] < recipe.own) | ~merged.any(1, keepdim=True)
    feature = torch.where(use_own, data.own[rows], merged) * known
    return Batch(clean, torch.cat(lows), torch.cat(sides), feature)


def _degrade(clean: Tensor, recipe: Recipe, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the LR twins of some faces, all of one size, brought up to size; and that size."""
    device = clean.device
    choice = torch.randint(0, len(recipe.sides), (), generator=generator, device=device)
    pixels = recipe.sides[int(choice)]
    size = torch.full((len(clean),), float(pixels), device=device)
    if torch.rand((), generator=generator, device=device) >= recipe.cameras:
        return stored(clean, pixels), size
    seeds = torch.randint(0, 2**62, (len(clean),), generator=generator, device=device).tolist()
    return camera(pixels)(clean, seeds), size


def stored(clean: Tensor, pixels: int) -> Tensor:
    """Return the faces brought down to so many pixels, stored in 8 bits, and brought up again."""
    low = (shrink(clean, pixels) * 255).round() / 255
    return enlarge(low, clean.shape[-1])


def bicubic_errors(pictures: Tensor, sides: tuple[int, ...], side: int) -> Tensor:
    """Return the mean squared error of bicubic at each LR size, at the size's index, on the first faces."""
    rim = (pictures.shape[-1] - side) // 2
    some = pictures[:MEASURED, :, rim : rim + side, rim : rim + side].float() / 255
    errors = torch.ones(max(sides) + 1, device=pictures.device)
    for pixels in set(sides):
        errors[pixels] = (stored(some, pixels) - some).square().mean()
    return errors


def gain(mean: PosteriorMean, pictures: Tensor, pixels: int) -> float:
    """Return by how many dB the mean is nearer to these faces than bicubic, without a feature."""
    rim = (pictures.shape[-1] - mean.side) // 2
    clean = pictures[..., rim : rim + mean.side, rim : rim + mean.side].float() / 255
    low = stored(clean, pixels)
    size = torch.full((len(low),), float(pixels))
    nothing = torch.zeros(len(low), mean.feature_length)
    drawn = torch.empty_like(clean)
    with torch.inference_mode():
        for start in range(0, len(low), 32):
            rows = slice(start, start + 32)
            drawn[rows] = mean(low[rows], size[rows], nothing[rows]).clamp(0, 1)
    return float((_psnr(drawn, clean) - _psnr(low, clean)).mean())


def _psnr(picture: Tensor, clean: Tensor) -> Tensor:
    return -10 * (picture - clean).square().flatten(1).mean(1).log10()


@dataclass(frozen=True, slots=True)
class Job:
    """What `fasr-video train mean` is asked for."""

    faces: Faces
    features: Path
    """.npz of `train features`."""
    combiner: Path | None
    width: int
    blocks: int
    recipe: Recipe
    held_out: Faces | None
    """Faces that the gain over bicubic is measured on at each checkpoint."""
    begin: Path | None = None
    """Weights that a new run begins with."""


def run(
    job: Job,
    out: Path,
    plan: Plan,
    device: torch.device,
    report: Callable[[Progress], None],
) -> int:
    """Train in folder `out`; leaves mean.safetensors, its manifest, log and curves. Returns the step."""
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(plan.seed)
    features = rows_of(job.features, job.faces, ("hr", "lr"))
    source = CombinerFeatures.load(job.features).source
    merge = merging.mean if job.combiner is None else load_combiner(job.combiner, source).combine
    data = Material(
        job.faces.pictures.to(device),
        features["hr"].to(device),
        merged_features(features["lr"], job.faces.people.values(), merge).to(device),
    )
    network = MeanNet(job.width, job.blocks, feature_length=features["hr"].shape[1])
    mean = PosteriorMean(network)
    if job.begin is not None:
        load_state(mean.network, job.begin)
    mean.embedder = source.sha256
    mean.band = (min(job.recipe.sides), max(job.recipe.sides))
    files = {"features": job.features, "combiner": job.combiner, "begun with": job.begin}
    people = len(set(job.faces.identities))
    about = describe(len(job.faces), people, files, job.recipe, plan) | {"embedder": source.sha256}

    def save(state: Mapping[str, Tensor], step: int) -> None:
        learned = copy.deepcopy(mean)
        learned.load_state_dict(state)
        file = out / "mean.safetensors"
        save_mean(learned.eval(), file)
        gains: dict[str, object] = {} if job.held_out is None else _gains(learned.cpu(), job.held_out)
        write_manifest(file, step, gains | about)
        draw_run(out, ("loss", "at_16"))

    settings = {name: about[name] for name in ("features", "faces", "begun with")}
    settings |= {"recipe": job.recipe, "width": job.width, "blocks": job.blocks}
    loss = make_loss(data, job.recipe, mean.side)
    return train(mean, loss, out, plan, device, save, report, settings)


def _gains(mean: PosteriorMean, faces: Faces) -> dict[str, object]:
    pictures = faces.pictures[:MEASURED]
    return {f"gain at {side} px, dB": round(gain(mean, pictures, side), 3) for side in (16, 32)}
