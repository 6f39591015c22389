"""Train a super-resolution denoiser (compact or NCSN++) on aligned faces and their identity
features.

Each step takes faces, moved and mirrored; their LR twins; a noise level a face; and |D(clean +
noise) − clean|² with the denoiser's own weight. With noise "ve", "vp" or "subvp", levels come from
that SDE at uniform times, as in the papers. With `identity`, the denoiser's output must also be
like the person to the embedder: few pixels decide that, so the squared error alone hardly rewards
it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from fasr_video.checkpoint import load_state
from fasr_video.datasets.faces import Faces, read_faces, rows_of, views
from fasr_video.errors import UsageError
from fasr_video.files import atomic_write
from fasr_video.recognition import combiner as merging
from fasr_video.recognition.embedder import require_embedder
from fasr_video.recognition.network import EmbedderNet
from fasr_video.sr import samplers, sampling, sde
from fasr_video.sr.degradation import enlarge, shrink
from fasr_video.sr.denoiser import Condition, Denoiser, ResidualDenoiser, ScoreDenoiser
from fasr_video.sr.networks.compact import CompactNet
from fasr_video.sr.networks.ncsnpp import (
    SIGMA_MAX,
    SIGMA_MIN,
    SIGMA_MIN_WITHOUT_FEATURE,
    NCSNpp,
)
from fasr_video.sr.surveillance import Surveillance
from fasr_video.sr.weights import save_denoiser
from fasr_video.training.combiner import CombinerFeatures
from fasr_video.training.curves import draw_run
from fasr_video.training.features import embedder_of
from fasr_video.training.loop import Loss, Plan, Progress, train, unwrapped
from fasr_video.training.manifest import describe, write_manifest

NOISES = ("edm", "ve", "vp", "subvp")


@dataclass(frozen=True, slots=True)
class Recipe:
    """The training pictures of the network."""

    batch: int = 32
    noise: str = "edm"
    """edm (log-normal levels) or an SDE of the papers: ve, vp, subvp."""
    log_sigma: tuple[float, float] = (-2.2, 1.5)
    """Mean and spread of ln(sigma) for edm, with an LR face; without one the mean is higher."""
    sides: tuple[int, ...] = (16, 16, 16, 16, 16, 24, 32, 12)
    """Sizes of the LR face; a repeated size is more likely."""
    surveillance: float = 0.0
    """Share of batches damaged as by cameras and recorders, not by the papers' degradation."""
    no_lr: float = 0.04
    """Share of faces without LR: feature-only generation (y = 0)."""
    no_feature: float = 0.12
    others: float = 0.4
    """Share of faces with the merged feature of the person's other photos, not their own."""
    identity: float = 0.0
    """Weight of 1 − the cosine of the features of D and of the clean face, on a batch's noisier
    half.
    """


@dataclass(frozen=True, slots=True)
class Material:
    pictures: Tensor
    """N×3×S×S uint8, perhaps with a rim around the canonical frame."""
    own: Tensor
    """N×length: the feature of each picture."""
    merged: Tensor
    """N×length: the merged feature of the person's other pictures; zeros if there are none."""
    judge: EmbedderNet | None = None
    """The embedder that made the features, for the identity term."""


def make_loss(data: Material, recipe: Recipe, side: int) -> Loss:
    """Return the loss of one step."""

    def loss(model: nn.Module, generator: torch.Generator) -> Mapping[str, Tensor]:
        denoiser: Denoiser = unwrapped(model)
        rows, clean, condition = make_batch(data, recipe, side, generator)
        sigma = levels(recipe, denoiser, condition.lr.flatten(1).any(1), generator)
        noise = torch.randn(clean.shape, generator=generator, device=clean.device)
        out = model(clean + sde.per_item(sigma, clean) * noise, sigma, condition)
        error = (out.float() - clean).square().flatten(1).mean(1)
        # With an SDE of the papers, std² |s − target|² (SDE eq. 7), which is |D − clean|² / sigma².
        weighted = error * (
            denoiser.weight(sigma, condition) if recipe.noise == "edm" else sigma**-2
        )
        low, high = sigma < 0.05, sigma > 0.3
        terms = {
            "loss": weighted.mean(),
            "fine": (weighted * low).sum() / low.sum().clamp_min(1),
            "coarse": (weighted * high).sum() / high.sum().clamp_min(1),
        }
        if data.judge is not None:
            terms["identity"] = unlike(data.judge, out, data.own[rows], sigma)
            terms["loss"] = terms["loss"] + recipe.identity * terms["identity"]
        return terms

    return loss


def make_batch(
    data: Material, recipe: Recipe, side: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Condition]:
    """Return the rows of random faces, the faces moved and mirrored, and their condition."""
    rows = torch.randint(
        0, len(data.pictures), (recipe.batch,), generator=generator, device=data.pictures.device
    )
    clean = views(data.pictures[rows], side, True, generator)
    lr = _low(clean, recipe, generator)
    return rows, clean, Condition(lr, _features(data, rows, recipe, generator))


def unlike(judge: EmbedderNet, out: Tensor, own: Tensor, sigma: Tensor) -> Tensor:
    """Return 1 − the cosine of the features of D and the clean face, on a batch's noisier half."""
    # With little noise, every output is like its person.
    noisiest = sigma.topk(len(sigma) // 2).indices
    features = judge(out[noisiest].contiguous(memory_format=torch.channels_last)).float()
    return 1 - functional.cosine_similarity(features, own[noisiest]).mean()


def levels(recipe: Recipe, denoiser: Denoiser, known: Tensor, generator: torch.Generator) -> Tensor:
    """Return a random noise level for each face; `known` is True for those with an LR face."""
    n = len(known)
    if recipe.noise == "edm":
        mean, spread = recipe.log_sigma
        unknown = math.log(ResidualDenoiser.WITHOUT_LR / ResidualDenoiser.WITH_LR)
        centre = mean + unknown * ~known
        sigma = (
            centre + spread * torch.randn(n, generator=generator, device=generator.device)
        ).exp()
        return sigma.clamp(denoiser.sigma_min, denoiser.sigma_max)
    process = sde_of(recipe.noise, denoiser)
    t = 1e-5 + (1 - 1e-5) * torch.rand(n, generator=generator, device=generator.device)
    # VP and subVP have pictures in [−1, 1], where noise counts half.
    return process.std(t) / process.alpha(t) / (1 if recipe.noise == "ve" else 2)


def sde_of(noise: str, denoiser: Denoiser) -> sde.SDE:
    """Return the SDE that noise levels come from; VE has the denoiser's own range."""
    if noise == "ve":
        return sde.VE(denoiser.sigma_min, denoiser.sigma_max)
    return sde.VP() if noise == "vp" else sde.SubVP()


def _low(clean: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Return the LR twins, with zeros for a share of the faces."""
    low = poor(clean, recipe.sides, recipe.surveillance, Surveillance(), generator=generator)
    keep = torch.rand(len(clean), generator=generator, device=generator.device) >= recipe.no_lr
    return low * sde.per_item(keep.to(clean), clean)


def poor(
    clean: Tensor,
    sides: Sequence[int],
    share: float,
    surveillance: Surveillance,
    *,
    generator: torch.Generator,
) -> Tensor:
    """Return the enlarged LR twins; in a share of batches, damaged as by cameras."""
    chance = torch.rand((), generator=generator, device=generator.device)
    if chance < share:
        seeds = torch.randint(
            0, 2**62, (len(clean),), generator=generator, device=generator.device
        ).tolist()
        return surveillance(clean, seeds)
    # One size for each quarter of the batch, since faces of one size are resized together.
    picks = torch.randint(
        0, len(sides), (4,), generator=generator, device=generator.device
    ).tolist()
    parts = [
        enlarge(shrink(part, sides[k]), clean.shape[-1])
        for part, k in zip(clean.chunk(4), picks, strict=False)
    ]
    return torch.cat(parts)


def _features(data: Material, rows: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    draw = torch.rand(2, len(rows), 1, generator=generator, device=generator.device)
    merged = data.merged[rows]
    use_merged = (draw[0] < recipe.others) & merged.any(1, keepdim=True)
    return torch.where(use_merged, merged, data.own[rows]) * (draw[1] >= recipe.no_feature)


@dataclass(frozen=True, slots=True)
class Job:
    """The inputs of `fasr-video train sr`."""

    faces: Faces
    features: Path | None
    """.npz of `train features`; None for a network without a feature."""
    combiner: Path | None
    network: str
    """compact or ncsnpp."""
    recipe: Recipe
    sample_faces: Path | None
    """Faces for the sample sheets; None for no sheets."""
    begin: Path | None = None
    """Weights that a new run starts with."""
    embedder: Path | None = None
    """Weights of the embedder that made the features, for the identity term; None: bundled."""
    dropout: float = 0.0


def run(
    job: Job, out: Path, plan: Plan, device: torch.device, *, report: Callable[[Progress], None]
) -> int:
    """Train in folder `out`, and return the step reached.

    This writes sr.safetensors, its manifest, log, curves and sample sheets.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(plan.seed)
    embedder = ""
    if job.features is None:
        data = material_without_features(job.faces, device)
    else:
        data, source = load_material(job.faces, job.features, job.combiner, device)
        embedder = source.sha256
        if job.recipe.identity:
            data = replace(data, judge=embedder_of(job.features, job.embedder, device).net)
    denoiser = NETWORKS[job.network](data.own.shape[1], job.dropout)
    if job.begin is not None:
        load_state(denoiser.network, job.begin)
    denoiser.embedder, denoiser.band = embedder, band(job.recipe)
    sheets = None if job.sample_faces is None else Sheets(job.sample_faces, out)
    files = {"features": job.features, "combiner": job.combiner, "begun with": job.begin}
    people = len(set(job.faces.identities))
    provenance = describe(len(job.faces), people, files, job.recipe, plan=plan) | {
        "embedder": embedder
    }

    def save(state: Mapping[str, Tensor], step: int) -> None:
        learned = copy.deepcopy(denoiser)
        learned.load_state_dict(state)
        file = out / "sr.safetensors"
        save_denoiser(learned.eval(), file)
        write_manifest(file, step, provenance)
        draw_run(out, ("loss", "fine", "coarse"))
        if sheets is not None:
            sheets.draw(learned)

    settings = {name: provenance[name] for name in ("features", "faces", "people", "begun with")}
    settings |= {"recipe": job.recipe, "network": job.network, "dropout": job.dropout}
    loss = make_loss(data, job.recipe, denoiser.side)
    return train(
        denoiser, loss, out, plan, device=device, save=save, report=report, settings=settings
    )


def band(recipe: Recipe) -> tuple[int, int]:
    """Return the smallest and the largest LR side of the training."""
    sides = (*recipe.sides, *(Surveillance().side if recipe.surveillance else ()))
    return min(sides), max(sides)


def material_without_features(faces: Faces, device: torch.device) -> Material:
    """Return faces for a network that takes no feature."""
    nothing = torch.zeros(len(faces), 0, device=device)
    return Material(faces.pictures.to(device), nothing, nothing)


def load_material(
    faces: Faces, features: Path, combiner: Path | None, device: torch.device
) -> tuple[Material, merging.Source]:
    """Return faces with their features, and the embedder of these features."""
    rows = rows_of(features, faces, ("hr", "lr"))
    source = CombinerFeatures.load(features).source
    merge = merging.mean if combiner is None else load_combiner(combiner, source).combine
    merged = merged_features(rows["lr"], faces.people.values(), merge)
    return Material(faces.pictures.to(device), rows["hr"].to(device), merged.to(device)), source


def load_combiner(file: Path, source: merging.Source) -> merging.FeatureCombiner:
    """Return the Feature Combiner of a file; raise an error if it is for another embedder."""
    combiner = merging.load_combiner(file)
    require_embedder(file, combiner.source.sha256, source.sha256)
    return combiner


def merged_features(
    features: Tensor, people: Iterable[list[int]], merge: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return the merged feature of each person's other faces; zeros if there are none."""
    merged = torch.zeros_like(features)
    for group in people:
        for i in group:
            others = [j for j in group if j != i]
            if others:
                merged[i] = merge(features[others])
    return merged


def _compact(feature_length: int, dropout: float) -> Denoiser:
    return ResidualDenoiser(CompactNet(feature_length=feature_length, dropout=dropout))


def _ncsnpp(feature_length: int, dropout: float) -> Denoiser:
    if feature_length == 0:
        network = NCSNpp(feature=False, dropout=dropout)
        return ScoreDenoiser(network, SIGMA_MIN_WITHOUT_FEATURE, SIGMA_MAX)
    if feature_length % 4:
        raise UsageError(
            "features", f"length {feature_length}", "NCSN++ takes a length that is a multiple of 4"
        )
    network = NCSNpp(width=feature_length // 4, feature=True, dropout=dropout)
    return ScoreDenoiser(network, SIGMA_MIN, SIGMA_MAX)


# Networks by their names; each takes the length of the feature (0 for none) and the dropout.
NETWORKS: dict[str, Callable[[int, float], Denoiser]] = {"compact": _compact, "ncsnpp": _ncsnpp}


SHEET_SAMPLER = sampling.parse("dpmpp-10")


class Sheets:
    """Draws a few faces at each checkpoint, beside the LR and the original face."""

    def __init__(self, source: Path, out: Path, count: int = 8) -> None:
        faces, _ = read_faces([source])
        self._clean = views(faces.pictures[:count], 128, False, torch.Generator())
        self._lr = enlarge(shrink(self._clean, 16), 128)
        self._out = out

    def draw(self, denoiser: Denoiser) -> None:
        """Write samples.png."""
        lr = self._lr.to(next(denoiser.parameters()).device)
        noise = samplers.generators(range(len(lr)))
        drawn = sampling.draw(
            denoiser, Condition(lr, denoiser.no_feature(lr)), SHEET_SAMPLER, noise
        ).cpu()
        rows = torch.cat(
            [torch.cat(list(row), dim=2) for row in (self._lr, drawn, self._clean)], dim=1
        )
        image = Image.fromarray((rows.permute(1, 2, 0).clamp(0, 1) * 255).byte().numpy())
        atomic_write(self._out / "samples.png", lambda path: image.save(path, "PNG"))
