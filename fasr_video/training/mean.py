"""Train the posterior-mean network on aligned faces and their identity features.

Each step takes faces, moved a little and mirrored; their LR twins, by the papers' degradation or by
cameras, with one size in each part of the batch; and the squared error of each face, divided by
bicubic's. Cameras here do not change the tone: brightness and colour are evidence, not damage.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fasr_video.checkpoint import load_state
from fasr_video.datasets.faces import Faces, cut
from fasr_video.sr.degradation import enlarge, shrink
from fasr_video.sr.networks.mean import MeanNet
from fasr_video.sr.posterior_mean import PosteriorMean
from fasr_video.sr.surveillance import Surveillance, camera
from fasr_video.sr.weights import save_mean
from fasr_video.training.curves import draw_run
from fasr_video.training.loop import Loss, Plan, Progress, has_checkpoint, train
from fasr_video.training.manifest import describe, write_manifest
from fasr_video.training.sr import Material, load_material

PARTS = 8  # parts of a batch, each with its own LR size
MOVE = 1  # px, the largest shift of a face, since alignment is never exact
# Largest errors of landmarks in footage: pixels, share and degrees.
SHIFT, SCALE, TURN = 4.0, 0.05, 4.0
LEAST_ERROR = 1e-4  # smallest divisor of an error: bicubic's error at 64 px is almost zero
FITTED = 16_000  # number of faces that the linear maps are fitted to
FITTED_TOGETHER = 250  # number of faces in a batch of that fit
MEASURED = 128  # number of faces that the gain over bicubic is measured on


@dataclass(frozen=True, slots=True)
class Recipe:
    """The training pictures of the network."""

    batch: int = 64
    sides: tuple[int, ...] = (8, 12, 16, 16, 16, 16, 24, 32, 48, 64)
    """Sizes of the LR face; a repeated size is more likely."""
    cameras: float = 0.35
    """Share of parts degraded as by a camera, not by the papers' degradation."""
    misaligned: float = 0.25
    """Share of parts that are misaligned like faces in footage."""
    no_feature: float = 0.15
    own: float = 0.1
    """Share of faces with their own feature, not the merged one of the other photos."""


@dataclass(frozen=True, slots=True)
class Batch:
    clean: Tensor
    lr: Tensor
    """The LR twins, enlarged."""
    side: Tensor
    """Pixels of each LR twin."""
    feature: Tensor


def make_loss(data: Material, recipe: Recipe, side: int) -> Loss:
    """Return the loss of one step."""

    def loss(model: nn.Module, generator: torch.Generator) -> Mapping[str, Tensor]:
        batch = make_batch(data, recipe, side, generator)
        out = model(batch.lr, batch.side, batch.feature)
        error = squared_error(out.float(), batch.clean)
        share = error / squared_error(batch.lr, batch.clean).clamp_min(LEAST_ERROR)
        at_16 = batch.side == 16
        return {"loss": share.mean(), "at_16": (share * at_16).sum() / at_16.sum().clamp_min(1)}

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
    cleans, lows, sides = [], [], []
    for part, chosen in zip(clean.chunk(PARTS), rows.chunk(PARTS), strict=True):
        if torch.rand((), generator=generator, device=device) < recipe.misaligned:
            part = misaligned(data.pictures[chosen], side, generator)
        low, pixels = _degrade(part, recipe, generator)
        cleans.append(part)
        lows.append(low)
        sides.append(pixels)
    draw = torch.rand(2, len(rows), 1, generator=generator, device=device)
    known = draw[0] >= recipe.no_feature
    merged = data.merged[rows]
    use_own = (draw[1] < recipe.own) | ~merged.any(1, keepdim=True)
    feature = torch.where(use_own, data.own[rows], merged) * known
    return Batch(torch.cat(cleans), torch.cat(lows), torch.cat(sides), feature)


def _degrade(clean: Tensor, recipe: Recipe, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the enlarged LR twins of faces, all of one size, and that size."""
    device = clean.device
    choice = torch.randint(0, len(recipe.sides), (), generator=generator, device=device)
    pixels = recipe.sides[int(choice)]
    size = torch.full((len(clean),), float(pixels), device=device)
    if torch.rand((), generator=generator, device=device) >= recipe.cameras:
        return stored(clean, pixels), size
    seeds = torch.randint(0, 2**62, (len(clean),), generator=generator, device=device).tolist()
    return in_tone(camera(pixels))(clean, seeds), size


def in_tone(kind: Surveillance) -> Surveillance:
    """Return the camera without its changes of tone and alignment."""
    same = (1.0, 1.0)
    return replace(kind, shift=0, scale=0, turn=0, gamma=same, contrast=same, light=0, tint=0)


def misaligned(pictures: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Return the side×side middles of pictures, shifted, scaled and turned at random."""
    n, device = len(pictures), pictures.device
    draw = 2 * torch.rand(n, 4, generator=generator, device=device) - 1
    scale = (1 + SCALE * draw[:, 0]) * side / pictures.shape[-1]
    turn = torch.deg2rad(TURN * draw[:, 1])
    shift = 2 * SHIFT * draw[:, 2:] / pictures.shape[-1]
    cos, sin = turn.cos() * scale, turn.sin() * scale
    matrix = torch.stack((cos, -sin, shift[:, 0], sin, cos, shift[:, 1]), dim=1).reshape(-1, 2, 3)
    grid = F.affine_grid(matrix, [n, 3, side, side], align_corners=False)
    floats = pictures.float() / 255
    moved = F.grid_sample(floats, grid, mode="bicubic", padding_mode="border", align_corners=False)
    return moved.clamp(0, 1)


def stored(clean: Tensor, pixels: int) -> Tensor:
    """Return the faces shrunk to this side in pixels, stored in 8 bits, and enlarged again."""
    low = (shrink(clean, pixels) * 255).round() / 255
    return enlarge(low, clean.shape[-1])


def squared_error(picture: Tensor, clean: Tensor) -> Tensor:
    """Return the mean squared error of each picture."""
    return (picture - clean).square().flatten(1).mean(1)


def fit_maps(network: MeanNet, pictures: Tensor) -> None:
    """Fit the network's linear maps to the first faces and their mirror images."""
    for linear in network.linear_maps():
        linear.fit(_pairs(pictures[:FITTED], linear.pixels, network.side))


def _pairs(pictures: Tensor, pixels: int, side: int) -> Iterator[tuple[Tensor, Tensor]]:
    rim = (pictures.shape[-1] - side) // 2
    middles = pictures[..., rim : rim + side, rim : rim + side]
    for start in range(0, len(middles), FITTED_TOGETHER):
        clean = middles[start : start + FITTED_TOGETHER].float() / 255
        for faces in (clean, clean.flip(3)):
            yield faces, stored(faces, pixels)


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
    return -10 * squared_error(picture, clean).log10()


@dataclass(frozen=True, slots=True)
class Job:
    """The inputs of `fasr-video train mean`."""

    faces: Faces
    features: Path
    """.npz of `train features`."""
    combiner: Path | None
    recipe: Recipe
    width: int = 192
    blocks: int = 8
    held_out: Faces | None = None
    """Faces to measure the gain over bicubic on, at each checkpoint."""
    begin: Path | None = None
    """Weights that a new run starts with."""


def run(
    job: Job, out: Path, plan: Plan, device: torch.device, *, report: Callable[[Progress], None]
) -> int:
    """Train in folder `out`, and return the step reached.

    This writes mean.safetensors, its manifest, log and curves.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(plan.seed)
    data, source = load_material(job.faces, job.features, job.combiner, device)
    network = MeanNet(job.width, job.blocks, feature_length=data.own.shape[1])
    mean = PosteriorMean(network)
    if job.begin is not None:
        load_state(network, job.begin)
    elif not has_checkpoint(out):
        fit_maps(network, job.faces.pictures)
    mean.embedder = source.sha256
    mean.band = (min(job.recipe.sides), max(job.recipe.sides))
    files = {"features": job.features, "combiner": job.combiner, "begun with": job.begin}
    people = len(set(job.faces.identities))
    provenance = describe(len(job.faces), people, files, job.recipe, plan=plan) | {
        "embedder": source.sha256
    }

    def save(state: Mapping[str, Tensor], step: int) -> None:
        learned = copy.deepcopy(mean)
        learned.load_state_dict(state)
        file = out / "mean.safetensors"
        save_mean(learned.eval(), file)
        gains: dict[str, object] = {}
        if job.held_out is not None:
            gains = _gains(learned.cpu(), job.held_out)
        write_manifest(file, step, gains | provenance)
        draw_run(out, ("loss", "at_16"))

    settings = {name: provenance[name] for name in ("features", "faces", "people", "begun with")}
    settings |= {"recipe": job.recipe, "width": job.width, "blocks": job.blocks}
    loss = make_loss(data, job.recipe, mean.side)
    return train(mean, loss, out, plan, device=device, save=save, report=report, settings=settings)


def _gains(mean: PosteriorMean, faces: Faces) -> dict[str, object]:
    pictures = faces.pictures[:MEASURED]
    return {f"gain at {side} px, dB": round(gain(mean, pictures, side), 3) for side in (16, 32)}
