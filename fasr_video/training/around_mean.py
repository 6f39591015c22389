"""Train FASR++'s denoiser around the posterior mean: it learns what the mean picture lacks.

Each step: the batch that the posterior mean trains on; its mean pictures, made by the finished
mean; a noise level a face; |D(clean + noise) − clean|², where D takes the mean picture in place of
the LR face. What can be known of a face is in the mean already; what cannot is left for samples.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from fasr_video.checkpoint import load_state
from fasr_video.files import sha256_file
from fasr_video.recognition.embedder import require_embedder
from fasr_video.sr import sde
from fasr_video.sr.denoiser import Condition, ResidualDenoiser
from fasr_video.sr.networks.compact import CompactNet
from fasr_video.sr.posterior_mean import PosteriorMean
from fasr_video.sr.weights import load_mean, save_denoiser
from fasr_video.training import mean as mean_training
from fasr_video.training.curves import draw_run
from fasr_video.training.loop import Loss, Plan, Progress, train, unwrapped
from fasr_video.training.manifest import describe, write_manifest
from fasr_video.training.mean import make_batch, squared_error
from fasr_video.training.sr import Material, load_material

SPREAD = 0.055  # about the standard deviation of what the mean lacks, over the sizes of a batch
LOG_SIGMA = (-2.6, 1.4)  # mean and spread of ln(sigma) for faces with an LR face,
WITHOUT_LR = 1.6  # and how much higher it lies without one
DRAWS = 2  # noises for each mean, which takes a third of a step to make
TERMS = ("loss", "fine", "coarse")


@dataclass(frozen=True, slots=True)
class Job:
    """The inputs of `fasr-video train around-mean`."""

    mean: mean_training.Job
    """Faces, features and degradations, as for the posterior mean."""
    weights: Path
    """Of the posterior mean."""
    no_lr: float = 0.04
    """Share of faces drawn from the feature alone."""
    begin: Path | None = None
    widths: tuple[int, ...] = (128, 192, 384)


def make_loss(
    data: Material, recipe: mean_training.Recipe, mean: PosteriorMean, no_lr: float
) -> Loss:
    """Return the loss of one step; `mean` is finished and stays as it is."""
    mean = mean.to(data.pictures.device).eval().requires_grad_(False)

    def loss(model: nn.Module, generator: torch.Generator) -> Mapping[str, Tensor]:
        denoiser: ResidualDenoiser = unwrapped(model)
        batch = make_batch(data, recipe, mean.side, generator)
        device = batch.clean.device
        with torch.no_grad():
            expected = mean.symmetric(batch.lr, batch.side, batch.feature).float().clamp(0, 1)
        known = torch.rand(len(expected), generator=generator, device=device) >= no_lr
        lr = expected * known[:, None, None, None]
        condition = Condition(lr.repeat(DRAWS, 1, 1, 1), batch.feature.repeat(DRAWS, 1))
        clean = batch.clean.repeat(DRAWS, 1, 1, 1)
        sigma = _levels(denoiser, known.repeat(DRAWS), generator)
        noise = torch.randn(clean.shape, generator=generator, device=device)
        out = model(clean + sde.per_item(sigma, clean) * noise, sigma, condition)
        weighted = squared_error(out.float(), clean) * denoiser.weight(sigma, condition)
        low, high = sigma < 0.03, sigma > 0.2
        return {
            "loss": weighted.mean(),
            "fine": (weighted * low).sum() / low.sum().clamp_min(1),
            "coarse": (weighted * high).sum() / high.sum().clamp_min(1),
        }

    return loss


def _levels(denoiser: ResidualDenoiser, known: Tensor, generator: torch.Generator) -> Tensor:
    """Return a noise level for each face; they lie higher where there is no LR face."""
    centre, spread = LOG_SIGMA
    draw = torch.randn(len(known), generator=generator, device=known.device)
    sigma = (centre + WITHOUT_LR * ~known + spread * draw).exp()
    return sigma.clamp(denoiser.sigma_min, denoiser.sigma_max)


def run(
    job: Job,
    out: Path,
    plan: Plan,
    device: torch.device,
    *,
    report: Callable[[Progress], None],
) -> int:
    """Train in folder `out` (sr.safetensors, manifest, log and curves), and return the step."""
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(plan.seed)
    data, source = load_material(job.mean.faces, job.mean.features, job.mean.combiner, device)
    mean = load_mean(job.weights)
    require_embedder(job.weights, mean.embedder, source.sha256)
    network = CompactNet(job.widths, feature_length=data.own.shape[1], side=mean.side)
    denoiser = ResidualDenoiser(network, spread=SPREAD)
    if job.begin is not None:
        load_state(network, job.begin)
    denoiser.embedder, denoiser.band = source.sha256, mean.band
    denoiser.mean = sha256_file(job.weights)
    files = {
        "features": job.mean.features,
        "combiner": job.mean.combiner,
        "mean": job.weights,
        "begun with": job.begin,
    }
    faces = job.mean.faces
    people = len(set(faces.identities))
    about = describe(len(faces), people, files, job.mean.recipe, plan=plan)
    about |= {"embedder": source.sha256, "no LR face": job.no_lr}

    def save(state: Mapping[str, Tensor], step: int) -> None:
        learned = copy.deepcopy(denoiser)
        learned.load_state_dict(state)
        save_denoiser(learned.eval(), out / "sr.safetensors")
        write_manifest(out / "sr.safetensors", step, about)
        draw_run(out, TERMS)

    settings = {name: about[name] for name in ("features", "faces", "people", "mean", "begun with")}
    settings |= {"recipe": job.mean.recipe, "widths": job.widths, "no_lr": job.no_lr}
    loss = make_loss(data, job.mean.recipe, mean, job.no_lr)
    return train(
        denoiser, loss, out, plan, device=device, save=save, report=report, settings=settings
    )
