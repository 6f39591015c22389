"""Train the rectified flow from the posterior mean to real faces (PMRF).

Each step takes a batch as for the posterior mean; mean pictures by the finished mean; a point on
the straight line from there (plus noise) to the clean face; and the squared error of the velocity.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from fasr_video.checkpoint import load_state
from fasr_video.errors import ModelError
from fasr_video.files import sha256_file
from fasr_video.recognition.embedder import require_embedder
from fasr_video.sr.flow import RectifiedFlow
from fasr_video.sr.networks.compact import CompactNet
from fasr_video.sr.networks.flow import FlowNet
from fasr_video.sr.posterior_mean import PosteriorMean
from fasr_video.sr.weights import is_own, load_mean, load_own, save_flow
from fasr_video.training import mean as mean_training
from fasr_video.training.curves import draw_run
from fasr_video.training.loop import Loss, Plan, Progress, train, unwrapped
from fasr_video.training.manifest import describe, write_manifest
from fasr_video.training.mean import make_batch
from fasr_video.training.sr import Material, load_material

# Number of times and noises for each mean picture, which costs a third of a step: one early, one
# late.
DRAWS = 2
UNIT = 0.015  # divides errors; about the mean square of the velocity
# Names of the compact network's layers that a flow does not take from a denoiser.
LAST_LAYER, FEATURE_LAYER, FEATURE_LAYOUT = "leave.2.", ".dense_f.", "layout.out."


@dataclass(frozen=True, slots=True)
class Job:
    """The inputs of `fasr-video train flow`."""

    mean: mean_training.Job
    """Faces, features and degradations, as for the posterior mean."""
    weights: Path
    """The file of the posterior mean."""
    widths: tuple[int, ...] = (128, 192, 384)
    blocks: int = 1
    begin: Path | None = None
    """Weights of a flow or of a compact denoiser."""


def make_loss(data: Material, recipe: mean_training.Recipe, mean: PosteriorMean) -> Loss:
    """Return the loss of one step; `mean` is finished and stays unchanged."""
    mean = mean.to(data.pictures.device).eval().requires_grad_(False)

    def loss(model: nn.Module, generator: torch.Generator) -> Mapping[str, Tensor]:
        flow: RectifiedFlow = unwrapped(model)
        batch = make_batch(data, recipe, mean.side, generator)
        device = batch.clean.device
        with torch.no_grad():
            expected = mean.symmetric(batch.lr, batch.side, batch.feature).float()
        expected = expected.repeat(DRAWS, 1, 1, 1)
        side = batch.side.repeat(DRAWS)
        noise = torch.randn(expected.shape, generator=generator, device=device)
        start = flow.start(expected, noise)
        time = torch.rand(DRAWS, len(batch.clean), generator=generator, device=device)
        time += torch.arange(DRAWS, device=device)[:, None]
        time = time.flatten() / DRAWS
        velocity = batch.clean.repeat(DRAWS, 1, 1, 1) - start
        out = model(start + time[:, None, None, None] * velocity, time, side)
        error = mean_training.squared_error(out, velocity) / UNIT
        late = time > 0.5
        return {
            "loss": error.mean(),
            "early": (error * ~late).sum() / (~late).sum().clamp_min(1),
            "late": (error * late).sum() / late.sum().clamp_min(1),
        }

    return loss


def begin_with(network: FlowNet, file: Path) -> None:
    """Load the weights of a flow, or of a compact denoiser, into the network.

    A denoiser knows faces already: the U-Net takes its layers, but for the last one, which begins
    at zero, and for those of the feature, in whose place the flow has the size of the LR face.
    """
    if not is_own(file):
        load_state(network, file)
        return
    denoiser = load_own(file)
    if not isinstance(denoiser.network, CompactNet) or denoiser.network.widths != network.widths:
        reason = "a flow starts from a flow, or from a compact denoiser of the same widths"
        raise ModelError(file, reason, "give such a file, or start without --from")
    state = network.cells.state_dict()
    for name, value in denoiser.network.state_dict().items():
        if state[name].shape == value.shape and not name.startswith(LAST_LAYER):
            state[name] = value
    for name, value in state.items():
        if FEATURE_LAYER in name or name.startswith(FEATURE_LAYOUT):
            state[name] = torch.zeros_like(value)
    network.cells.load_state_dict(state)


def run(
    job: Job, out: Path, plan: Plan, device: torch.device, *, report: Callable[[Progress], None]
) -> int:
    """Train in folder `out`, and return the step reached.

    This writes flow.safetensors, its manifest, log and curves.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(plan.seed)
    data, source = load_material(job.mean.faces, job.mean.features, job.mean.combiner, device)
    mean = load_mean(job.weights)
    require_embedder(job.weights, mean.embedder, source.sha256)
    flow = RectifiedFlow(FlowNet(job.widths, job.blocks, mean.side))
    if job.begin is not None:
        begin_with(flow.network, job.begin)
    flow.mean = sha256_file(job.weights)
    flow.band = mean.band
    files = {
        "features": job.mean.features,
        "combiner": job.mean.combiner,
        "mean": job.weights,
        "begun with": job.begin,
    }
    faces = job.mean.faces
    people = len(set(faces.identities))
    provenance = describe(len(faces), people, files, job.mean.recipe, plan=plan)

    def save(state: Mapping[str, Tensor], step: int) -> None:
        learned = copy.deepcopy(flow)
        learned.load_state_dict(state)
        save_flow(learned.eval(), out / "flow.safetensors")
        write_manifest(out / "flow.safetensors", step, provenance)
        draw_run(out, ("loss", "early", "late"))

    settings = {
        name: provenance[name] for name in ("features", "faces", "people", "mean", "begun with")
    }
    settings |= {"recipe": job.mean.recipe, "widths": job.widths, "blocks": job.blocks}
    loss = make_loss(data, job.mean.recipe, mean)
    return train(flow, loss, out, plan, device=device, save=save, report=report, settings=settings)
