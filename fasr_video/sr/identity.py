"""ID fitting for IDFSR: one vector a person, with which the frozen network draws the person's
photographs best.

The vector starts at the mean of the photographs' features, which the network takes without fitting,
and follows the gradient of the training loss: each photograph in turn is the truth, shrunk to 4, 8
or 16 px, and another one is its reference. The vector has a file of its own, which names the
network weights it was fitted to.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from fasr_video.checkpoint import check_finite, read_metadata, save_own
from fasr_video.errors import FasrError, ModelError, UsageError
from fasr_video.recognition import combiner as merging
from fasr_video.sr import sde
from fasr_video.sr.degradation import enlarge, shrink
from fasr_video.sr.idfsr import SIDES, FaceCondition, IdentityDenoiser, assemble
from fasr_video.sr.networks.idfsr import IDENTITY

FORMAT = "fasr-video/identity/1"
# Number of references to fit a person from.
FEWEST, MOST = 2, 10
# Lowest mean cosine of a reference to the others. With the bundled embedder, 4 % of the sets of two
# to four photographs of 907 people lie below it, and 77 % of the sets of one to three with a
# stranger's photograph added.
SAME_PERSON = 0.1
BATCH, RATE = 4, 2e-3
# Noise levels at which the loss before and after is measured.
LEVELS = 8


@dataclass(frozen=True, slots=True)
class References:
    """Photographs of one person in the canonical frame."""

    names: tuple[str, ...]
    sha256: tuple[str, ...]
    pictures: Tensor
    """N×3×128×128 in [0, 1]."""
    landmarks: Tensor
    """N×5×2 in pixels."""
    features: Tensor
    """N×512, unit vectors."""

    def __post_init__(self) -> None:
        if not FEWEST <= len(self.names) <= MOST:
            reason = f"{len(self.names)} usable, but {FEWEST} to {MOST} are needed"
            raise UsageError("references", reason, "give that many photographs of one person")


@dataclass(frozen=True, slots=True)
class About:
    """Where a fitted vector comes from, and which network it is for."""

    weights: str
    """SHA-256 of the network's file."""
    embedder: str
    references: tuple[str, ...]
    """SHA-256 of each photograph."""
    steps: int
    loss_before: float
    loss_after: float
    lowest_cosine: float
    """The lowest cosine of any two references."""


@dataclass(frozen=True, slots=True)
class Identity:
    vector: Tensor
    """512 numbers, of any length."""
    about: About


@dataclass(frozen=True, slots=True)
class Progress:
    step: int
    steps: int
    loss: float


# -------------------------------------------------------------------------------------- one person?


def cosines(references: References) -> Tensor:
    """Return the N×N cosines of the references, with NaN on the diagonal."""
    table = references.features @ references.features.T
    return table.fill_diagonal_(math.nan)


def stranger(references: References) -> str | None:
    """Return why the references may show several people, in one line; None if they agree."""
    table = cosines(references)
    means = table.nanmean(1)
    worst = int(means.argmin())
    if float(means[worst]) >= SAME_PERSON:
        return None
    return (
        f"{references.names[worst]} has a mean cosine of {float(means[worst]):.2f} with the others"
        f", {SAME_PERSON} or more is expected of one person's; "
        f"the lowest of any two is {lowest(table):.2f}"
    )


def lowest(table: Tensor) -> float:
    """Return the lowest number of a table, without its NaNs."""
    return float(table[~table.isnan()].min())


# ------------------------------------------------------------------------------------------ fitting


def fit(
    denoiser: IdentityDenoiser,
    references: References,
    steps: int,
    seed: int,
    *,
    report: Callable[[Progress], None],
) -> tuple[Tensor, float, float]:
    """Return the fitted vector, and the loss on the references before and after.

    The network's weights are frozen.
    """
    denoiser.eval().requires_grad_(False)
    device = next(denoiser.parameters()).device
    start = merging.mean(references.features).to(device)
    vector = start.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([vector], RATE)
    before = loss_on(denoiser, references, start, seed)
    for step in range(steps):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        rows = torch.randint(0, len(references.names), (BATCH,), generator=generator)
        sigma = denoiser.levels(torch.rand(BATCH, generator=generator))
        loss = _errors(denoiser, references, vector, rows, sigma=sigma, generator=generator).mean()
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / steps)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        report(Progress(step + 1, steps, float(loss.detach())))
    fitted = vector.detach()
    after = loss_on(denoiser, references, fitted, seed)
    if not after < before:
        reason = f"the loss on the references did not fall ({before:.4f} before, {after:.4f} after)"
        raise FasrError(
            "fitting", reason, "give other references, or use them as they are with --aux"
        )
    return fitted.cpu(), before, after


@torch.no_grad()
def loss_on(denoiser: IdentityDenoiser, references: References, vector: Tensor, seed: int) -> float:
    """Return the mean loss of the references at eight noise levels, always with the same noise."""
    generator = torch.Generator().manual_seed(seed)
    sigma = denoiser.levels((torch.arange(LEVELS) + 0.5) / LEVELS)
    losses = [
        _errors(
            denoiser,
            references,
            vector,
            torch.full((LEVELS,), row),
            sigma=sigma,
            generator=generator,
        ).mean()
        for row in range(len(references.names))
    ]
    return float(torch.stack(losses).mean())


def _errors(
    denoiser: IdentityDenoiser,
    references: References,
    vector: Tensor,
    rows: Tensor,
    *,
    sigma: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Return the training loss of these references, each with another one as its condition."""
    others = (
        rows + torch.randint(1, len(references.names), rows.shape, generator=generator)
    ) % len(references.names)
    clean, landmarks = references.pictures[rows], references.landmarks[rows]
    sides = torch.randint(0, len(SIDES), rows.shape, generator=generator).tolist()
    lr = torch.cat(
        [
            enlarge(shrink(c[None], SIDES[k]), denoiser.side)
            for c, k in zip(clean, sides, strict=True)
        ]
    )
    noise = torch.randn(clean.shape, generator=generator)
    on_cpu = assemble(
        lr,
        landmarks,
        references.pictures[others],
        references.landmarks[others],
        feature=vector.expand(len(rows), -1),
    )
    condition = FaceCondition(
        *(v.to(vector.device) for v in (on_cpu.lr, on_cpu.feature, on_cpu.mask, on_cpu.reference))
    )
    clean, sigma, noise = (v.to(vector.device) for v in (clean, sigma, noise))
    out = denoiser(clean + sde.per_item(sigma, clean) * noise, sigma, condition)
    return denoiser.weighted(out, clean, sigma, condition)


# -------------------------------------------------------------------------------------------- files


def save_identity(identity: Identity, path: Path) -> None:
    save_own(
        {"identity": identity.vector.contiguous()}, path, FORMAT, json.dumps(asdict(identity.about))
    )


def load_identity(path: Path, weights: str) -> Identity:
    """Return the identity in a file; raise ModelError if it was fitted to other weights."""
    if not path.is_file():
        raise ModelError(path, "no such file", "check the path of the identity")
    metadata = read_metadata(path)
    if FORMAT not in metadata:
        raise ModelError(
            path,
            "its header does not name a fitted identity",
            "give a file that `fasr-video fit` wrote",
        )
    try:
        fields = json.loads(metadata[FORMAT])
        about = About(**fields | {"references": tuple(fields["references"])})
        vector = load_file(path)["identity"]
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(path, f"its header is damaged ({error})", "fit it again") from error
    if vector.shape != (IDENTITY,):
        raise ModelError(
            path, f"its vector has the shape {tuple(vector.shape)}, not {IDENTITY}", "fit it again"
        )
    check_finite(path, {"identity": vector})
    if about.weights != weights:
        reason = (
            f"it was fitted to the weights {about.weights[:12]}…, but {weights[:12]}… are given"
        )
        raise ModelError(path, reason, "give those weights with --model, or fit it again to these")
    return Identity(vector.float(), about)
