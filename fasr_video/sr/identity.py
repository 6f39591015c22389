"""ID fitting for IDFSR: one vector per person, moved until the frozen network draws that person's photographs best.

The vector begins at the mean of the photographs' features, where the network stands without fitting, and follows the
slope of the training loss: each photograph in turn is the truth, brought down to 4, 8 or 16 px, and another one its
reference. It is kept in a file of its own, which knows the weights that it was fitted to and means nothing to others.
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
# References that a person is fitted from.
FEWEST, MOST = 2, 10
# Least mean cosine of a reference to the others. With the bundled embedder, of 907 people's sets
# of two to four photographs 4 % lie below it; of sets of one to three with a stranger's photograph
# among them, 77 %.
SAME_PERSON = 0.1
BATCH, RATE = 4, 2e-3
# Noise levels at which each reference is drawn to tell the loss before and after.
LEVELS = 8


@dataclass(frozen=True, slots=True)
class References:
    """Photographs of one person in the canonical frame."""

    names: tuple[str, ...]
    sha256: tuple[str, ...]
    pictures: Tensor
    """N×3×128×128 in [0, 1]."""
    landmarks: Tensor
    """N×5×2 in their pixels."""
    features: Tensor
    """N×512, unit vectors."""

    def __post_init__(self) -> None:
        if not FEWEST <= len(self.names) <= MOST:
            reason = f"{len(self.names)} that can be used, but {FEWEST} to {MOST} are needed"
            raise UsageError("references", reason, "give so many photographs of one person")


@dataclass(frozen=True, slots=True)
class About:
    """What a fitted vector is for and from."""

    weights: str
    """SHA-256 of the network's file."""
    embedder: str
    references: tuple[str, ...]
    """SHA-256 of each photograph."""
    steps: int
    loss_before: float
    loss_after: float
    lowest_cosine: float
    """Of any two references."""


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


# ---------------------------------------------------------------------------------------------------------- one person?


def cosines(references: References) -> Tensor:
    """N×N, with the diagonal left out as NaN."""
    table = references.features @ references.features.T
    return table.fill_diagonal_(math.nan)


def stranger(references: References) -> str | None:
    """What speaks against the references' being of one person, in one line; None where nothing does."""
    table = cosines(references)
    means = table.nanmean(1)
    worst = int(means.argmin())
    if float(means[worst]) >= SAME_PERSON:
        return None
    told = (
        f"{references.names[worst]} has a mean cosine of {float(means[worst]):.2f} with the others"
    )
    return f"{told}, {SAME_PERSON} or more is expected of one person's; the lowest of any two is {lowest(table):.2f}"


def lowest(table: Tensor) -> float:
    return float(table[~table.isnan()].min())


# -------------------------------------------------------------------------------------------------------------- fitting


def fit(
    denoiser: IdentityDenoiser,
    references: References,
    steps: int,
    seed: int,
    report: Callable[[Progress], None],
) -> tuple[Tensor, float, float]:
    """The fitted vector, and the loss on the references before and after. The network is frozen and stays as it is."""
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
        loss = _errors(denoiser, references, vector, rows, sigma, generator).mean()
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
    """The loss of drawing each reference at eight noise levels, the same draws at each call."""
    generator = torch.Generator().manual_seed(seed)
    sigma = denoiser.levels((torch.arange(LEVELS) + 0.5) / LEVELS)
    losses = [
        _errors(denoiser, references, vector, torch.full((LEVELS,), row), sigma, generator).mean()
        for row in range(len(references.names))
    ]
    return float(torch.stack(losses).mean())


def _errors(
    denoiser: IdentityDenoiser,
    references: References,
    vector: Tensor,
    rows: Tensor,
    sigma: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """The training loss of these references, each told by another one and the vector."""
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
    told = assemble(
        lr,
        landmarks,
        references.pictures[others],
        references.landmarks[others],
        vector.expand(len(rows), -1),
    )
    condition = FaceCondition(
        *(v.to(vector.device) for v in (told.lr, told.feature, told.mask, told.reference))
    )
    clean, sigma, noise = (v.to(vector.device) for v in (clean, sigma, noise))
    out = denoiser(clean + sde.per_item(sigma, clean) * noise, sigma, condition)
    return denoiser.weighted(out, clean, sigma, condition)


# ---------------------------------------------------------------------------------------------------------------- files


def save_identity(identity: Identity, path: Path) -> None:
    save_own(
        {"identity": identity.vector.contiguous()}, path, FORMAT, json.dumps(asdict(identity.about))
    )


def load_identity(path: Path, weights: str) -> Identity:
    """The identity in that file, which has to be fitted to the weights with this SHA-256."""
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
