"""Train IDFSR on aligned faces of people with two photos or more, with their landmarks and identity
features.

Each step takes faces, moved and mirrored; their LR twins, with slightly wrong landmarks; another
photo of each person, warped onto them; that person's feature; a noise level; and the error of D. A
share of the faces has no reference, as in the reference-free mode: the LR face is then its own
reference and the embedder's only input.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from fasr_video.checkpoint import load_state
from fasr_video.datasets.faces import (
    Faces,
    csv_rows_of,
    cut,
    draw_moves,
    read_faces,
    rows_of,
    views,
)
from fasr_video.errors import InputError, ModelError, UsageError
from fasr_video.files import atomic_write
from fasr_video.recognition import combiner as merging
from fasr_video.recognition.embedder import Embedder
from fasr_video.recognition.landmarks import usable
from fasr_video.recognition.network import EmbedderNet
from fasr_video.sr import samplers, sampling, sde
from fasr_video.sr.idfsr import (
    SIDE,
    SIDES,
    FaceCondition,
    IdentityDenoiser,
    assemble,
    identity_denoiser,
)
from fasr_video.sr.networks.idfsr import SIZES, IdfsrNet
from fasr_video.sr.surveillance import Surveillance
from fasr_video.sr.weights import is_own, load_own, save_idfsr
from fasr_video.training.curves import draw_run
from fasr_video.training.features import embedder_of
from fasr_video.training.loop import Loss, Plan, Progress, train, unwrapped
from fasr_video.training.manifest import describe, write_manifest
from fasr_video.training.sr import merged_features, poor, unlike

COLUMNS = tuple(
    f"{point}_{axis}"
    for point in ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
    for axis in "xy"
)
MIRRORED = [1, 0, 2, 4, 3]
# N×3×128×128 in [0, 1] → N×512.
Embed = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Recipe:
    """The training pictures of the network."""

    batch: int = 32
    sides: tuple[int, ...] = SIDES
    """Sizes of the LR face."""
    surveillance: float = 0.0
    """Share of batches damaged as by cameras and recorders, not by the papers' degradation."""
    alone: float = 0.1
    """Share of faces without references."""
    merged: float = 0.5
    """Share of faces with the mean feature of the person's other photos, not the reference's."""
    landmark_noise: float = 3.0
    """Deviation in pixels, of 128: the builtin detector's on faces of 16 px is 2.8, on those of 8
    px 4.1.
    """
    identity: float = 0.0
    """Weight of the identity term, as in `training/sr.py`."""


@dataclass(frozen=True, slots=True)
class Material:
    """Faces of people with two photos or more; the rows of one person are adjacent."""

    pictures: Tensor
    """N×3×S×S uint8."""
    landmarks: Tensor
    """N×5×2 in their pixels."""
    own: Tensor
    """N×512: the feature of each face."""
    merged: Tensor
    """N×512: the mean feature of the person's other photos."""
    first: Tensor
    """N: the first row of the person."""
    count: Tensor
    """N: the number of rows of the person."""
    judge: EmbedderNet | None = None
    """The embedder that made the features, for the identity term."""

    def on(self, device: torch.device, judge: EmbedderNet | None) -> Material:
        tensors = {
            f.name: getattr(self, f.name).to(device) for f in fields(self) if f.name != "judge"
        }
        return Material(**tensors, judge=judge)

    def partners(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Return another photo of each row's person, at random."""
        first, count = self.first[rows], self.count[rows]
        draw = torch.rand(len(rows), generator=generator, device=generator.device)
        step = 1 + (draw * (count - 1)).long().clamp_max(count - 2)
        return first + (rows - first + step) % count


def read_landmarks(file: Path, faces: Faces) -> Tensor:
    """Return N×5×2 landmarks from a CSV file, by its column `path`; NaN where `found` is 0."""
    values = []
    for row in csv_rows_of(file, faces, COLUMNS):
        try:
            points = [float(row[name]) for name in COLUMNS if row.get("found") != "0"]
        except ValueError as error:
            raise InputError(file, f"a landmark is no number ({error})", "correct it") from error
        values.append(points or [math.nan] * len(COLUMNS))
    return torch.tensor(values).reshape(-1, 5, 2)


def material(faces: Faces, landmarks: Tensor, features: Tensor) -> Material:
    """Return the faces with usable landmarks and with another such photo of the same person."""
    good = usable(landmarks, faces.pictures.shape[-1]).tolist()
    groups = [[i for i in group if good[i]] for group in faces.people.values()]
    groups = [group for group in groups if len(group) > 1]
    if not groups:
        raise UsageError(
            "faces",
            "nobody has two photos with usable landmarks",
            "give more photos of each person",
        )
    rows = torch.tensor([i for group in groups for i in group])
    count = torch.tensor([len(group) for group in groups])
    own = features[rows]
    first = torch.cumsum(count, 0) - count
    people = [list(range(f, f + n)) for f, n in zip(first.tolist(), count.tolist(), strict=True)]
    merged = merged_features(own, people, merging.mean)
    first, count = (value.repeat_interleave(count) for value in (first, count))
    return Material(faces.pictures[rows], landmarks[rows], own, merged, first, count)


def make_loss(data: Material, recipe: Recipe, side: int, embed: Embed) -> Loss:
    """Return the loss of one step."""
    device = data.pictures.device

    def loss(model: nn.Module, generator: torch.Generator) -> Mapping[str, Tensor]:
        denoiser: IdentityDenoiser = unwrapped(model)
        rows = torch.randint(
            0, len(data.pictures), (recipe.batch,), generator=generator, device=device
        )
        clean, condition = make_batch(data, rows, recipe, side, embed=embed, generator=generator)
        sigma = denoiser.levels(torch.rand(recipe.batch, generator=generator, device=device))
        noise = torch.randn(clean.shape, generator=generator, device=device)
        out = model(clean + sde.per_item(sigma, clean) * noise, sigma, condition)
        error = denoiser.weighted(out, clean, sigma, condition)
        low, high = sigma < 0.15, sigma > 0.9
        terms = {
            "loss": error.mean(),
            "fine": (error * low).sum() / low.sum().clamp_min(1),
            "coarse": (error * high).sum() / high.sum().clamp_min(1),
        }
        if data.judge is not None:
            terms["identity"] = unlike(data.judge, out, data.own[rows], sigma)
            terms["loss"] = terms["loss"] + recipe.identity * terms["identity"]
        return terms

    return loss


def make_batch(
    data: Material,
    rows: Tensor,
    recipe: Recipe,
    side: int,
    *,
    embed: Embed,
    generator: torch.Generator,
) -> tuple[Tensor, FaceCondition]:
    """Return the faces of these rows, and the network's condition for them."""
    partners = data.partners(rows, generator)
    rim = data.pictures.shape[-1] - side
    moves, mirrored = draw_moves(len(rows), rim, generator)
    other_moves, _ = draw_moves(len(rows), rim, generator)
    clean, landmarks = _view(data, rows, side, moves, mirrored=mirrored)
    # The reference is mirrored with its face, so that a mole stays on its cheek.
    reference, reference_landmarks = _view(data, partners, side, other_moves, mirrored=mirrored)
    ranges = Surveillance(side=(min(recipe.sides), max(recipe.sides)))
    lr = poor(clean, recipe.sides, recipe.surveillance, ranges, generator=generator)
    noisy_landmarks = landmarks + recipe.landmark_noise * torch.randn(
        landmarks.shape, generator=generator, device=landmarks.device
    )
    use_merged = torch.rand(len(rows), 1, generator=generator, device=rows.device) < recipe.merged
    feature = torch.where(use_merged, data.merged[rows], data.own[partners])
    alone = torch.rand(len(rows), generator=generator, device=rows.device) < recipe.alone
    if bool(alone.any()):
        reference = torch.where(sde.per_item(alone, lr), lr, reference)
        reference_landmarks = torch.where(
            alone[:, None, None], noisy_landmarks, reference_landmarks
        )
        feature[alone] = embed(lr[alone]).to(feature)
    return clean, assemble(lr, noisy_landmarks, reference, reference_landmarks, feature=feature)


def _view(
    data: Material, rows: Tensor, side: int, moves: Tensor, *, mirrored: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the faces, moved and mirrored, and their landmarks."""
    # Moves are (rows, columns), landmarks (x, y).
    landmarks = data.landmarks[rows] - moves.flip(0).permute(1, 2, 0)
    flipped = landmarks[:, MIRRORED] * landmarks.new_tensor([-1.0, 1.0])
    flipped = flipped + landmarks.new_tensor([side - 1.0, 0.0])
    faces = cut(data.pictures[rows], side, moves, mirrored)
    return faces, torch.where(mirrored[..., None], flipped, landmarks)


@dataclass(frozen=True, slots=True)
class Job:
    """The inputs of `fasr-video train idfsr`."""

    faces: Faces
    features: Path
    """.npz of `train features`."""
    landmarks: Path
    """CSV with the landmarks of the faces, in pixels."""
    embedder: Path | None
    """The embedder of the features; None for the bundled one."""
    size: str
    """compact or published."""
    recipe: Recipe
    sample_faces: Path | None = None
    """Faces of people with two photos or more for the sample sheets; None for no sheets."""
    begin: Path | None = None
    """Weights that a new run starts with."""


def run(
    job: Job, out: Path, plan: Plan, device: torch.device, *, report: Callable[[Progress], None]
) -> int:
    """Train in folder `out`, and return the step reached.

    This writes idfsr.safetensors, its manifest, log, curves and samples.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(plan.seed)
    embedder = embedder_of(job.features, job.embedder, device)
    features = rows_of(job.features, job.faces, ("hr",))["hr"]
    data = material(job.faces, read_landmarks(job.landmarks, job.faces), features)
    data = data.on(device, embedder.net if job.recipe.identity else None)
    denoiser = identity_denoiser(IdfsrNet(SIZES[job.size]))
    if job.begin is not None:
        begin_with(denoiser.network, job.begin)
    denoiser.embedder = embedder.sha256
    denoiser.band = (min(job.recipe.sides), max(job.recipe.sides))
    embed = _embedding(embedder)
    sheets = None
    if job.sample_faces is not None:
        sheets = Sheets(job.sample_faces, job.landmarks, embed, out)
    files = {"features": job.features, "landmarks": job.landmarks, "begun with": job.begin}
    people = len(set(data.first.tolist()))
    provenance = describe(len(data.pictures), people, files, job.recipe, plan=plan)
    provenance |= {"embedder": embedder.sha256, "size": job.size}

    def save(state: Mapping[str, Tensor], step: int) -> None:
        learned = copy.deepcopy(denoiser)
        learned.load_state_dict(state)
        file = out / "idfsr.safetensors"
        save_idfsr(learned.eval(), file)
        write_manifest(file, step, provenance)
        draw_run(out, ("loss", "fine", "coarse"))
        if sheets is not None:
            sheets.draw(learned)

    settings = {
        name: provenance[name]
        for name in ("features", "landmarks", "embedder", "faces", "people", "begun with", "size")
    }
    settings |= {"recipe": job.recipe}
    loss = make_loss(data, job.recipe, denoiser.side, embed)
    return train(
        denoiser, loss, out, plan, device=device, save=save, report=report, settings=settings
    )


def begin_with(network: IdfsrNet, file: Path) -> None:
    """Load weights of the same kind, or the layers in common with a compact SR network."""
    if not is_own(file):
        load_state(network, file)
        return
    state = {
        _idfsr_name(name): value for name, value in load_own(file).network.state_dict().items()
    }
    own = network.state_dict()
    common = {
        name: value
        for name, value in state.items()
        if name in own and own[name].shape == value.shape
    }
    if "enter.weight" not in common:
        remedy = "give weights of `train idfsr` or, for the compact size, of a compact `train sr`"
        raise ModelError(file, "nothing in it fits this network", remedy)
    network.load_state_dict(common, strict=False)


def _idfsr_name(name: str) -> str:
    """Return the name in IDFSR's network of an SR network's layer."""
    level = re.fullmatch(r"places_(down|up)\.(\d+)\.bias", name)
    if level:
        return f"{level[1]}.{level[2]}.places.bias"
    return "waves.frequencies" if name == "frequencies" else name


def _embedding(embedder: Embedder) -> Embed:
    return lambda faces: embedder.embed(faces)[0]


class Sheets:
    """Draws a few people at each checkpoint, beside the network's inputs and the truth."""

    def __init__(
        self, source: Path, landmarks: Path, embed: Embed, out: Path, *, count: int = 8
    ) -> None:
        everybody, _ = read_faces([source])
        groups = [group for group in everybody.people.values() if len(group) > 1][:count]
        chosen = [i for group in groups for i in group]
        faces = Faces(everybody.pictures[chosen], tuple(everybody.paths[i] for i in chosen))
        generator = torch.Generator().manual_seed(0)
        features = embed(views(faces.pictures, SIDE, False, generator))
        data = material(faces, read_landmarks(landmarks, faces), features)
        rows = torch.tensor(sorted(set(data.first.tolist())))
        recipe = Recipe(alone=0.0, landmark_noise=0.0)
        self._clean, self._condition = make_batch(
            data, rows, recipe, SIDE, embed=embed, generator=generator
        )
        self._out = out

    def draw(self, denoiser: IdentityDenoiser) -> None:
        """Write samples.png."""
        device = next(denoiser.parameters()).device
        on_cpu = self._condition
        condition = FaceCondition(
            *(v.to(device) for v in (on_cpu.lr, on_cpu.feature, on_cpu.mask, on_cpu.reference))
        )
        noise = samplers.generators(range(len(on_cpu.lr)))
        drawn = sampling.draw(denoiser, condition, sampling.parse(denoiser.sampler), noise).cpu()
        masked = on_cpu.lr * (1 - on_cpu.mask) + 0.5 * on_cpu.mask
        rows = torch.cat(
            [
                torch.cat(list(row), dim=2)
                for row in (on_cpu.lr, masked, on_cpu.reference, drawn, self._clean)
            ],
            dim=1,
        )
        image = Image.fromarray((rows.permute(1, 2, 0).clamp(0, 1) * 255).byte().numpy())
        atomic_write(self._out / "samples.png", lambda path: image.save(path, "PNG"))
