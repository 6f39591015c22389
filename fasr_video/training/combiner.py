"""Train the Feature Combiner on features of full-resolution (HR) faces and of their LR twins.

Triplet loss as in FASR++: the merged feature of two LR faces of a person should be nearer to the
mean of the HR features of the same two than to somebody else's HR feature, by a margin. The trainer
has its own loop, as it counts epochs, keeps the best one and stops early. All randomness of an
epoch comes from (seed, epoch), so a resumed run ends like an uninterrupted one.
"""

from __future__ import annotations

import copy
import csv
import math
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fasr_video.checkpoint import find_device
from fasr_video.errors import InputError, UsageError
from fasr_video.files import atomic_write
from fasr_video.recognition.combiner import ETA, UNKNOWN, FeatureCombiner, Source, save, unit_rows
from fasr_video.training.curves import draw_or_warn
from fasr_video.training.loop import STATE, has_checkpoint, read_checkpoint

TRAIN_SHARE = 0.85
FEWEST_PEOPLE = 10
ABOVE_GAP = 0.01

# N×D and N×D → N×D unit vectors.
Merge = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class CombinerFeatures:
    hr: Tensor
    """M×D: features of faces at full resolution."""
    lr: Tensor
    """M×D: features of the same faces' LR twins."""
    identity: tuple[str | int, ...]
    source: Source = UNKNOWN

    def __post_init__(self) -> None:
        if (
            self.hr.ndim != 2
            or self.hr.shape != self.lr.shape
            or len(self.hr) != len(self.identity)
        ):
            shapes = f"hr {tuple(self.hr.shape)}, lr {tuple(self.lr.shape)}"
            reason = f"{shapes}, {len(self.identity)} identities do not fit together"
            raise UsageError("features", reason, "give M×D, M×D and M")

    @classmethod
    def load(cls, path: Path) -> CombinerFeatures:
        """Return the features of an .npz file with hr, lr and identity.

        `embedder` and `embedder_sha256` are used if the file has them.
        """
        try:
            with np.load(path, allow_pickle=False) as content:
                hr = torch.from_numpy(np.asarray(content["hr"], np.float32))
                lr = torch.from_numpy(np.asarray(content["lr"], np.float32))
                identity = tuple(content["identity"].tolist())
                source = Source(
                    *(
                        str(content[k]) if k in content else ""
                        for k in ("embedder", "embedder_sha256")
                    )
                )
        except (OSError, EOFError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
            reason = f"not an .npz file with the arrays hr, lr, identity ({error})"
            raise InputError(path, reason, "make it with: fasr-video train features") from error
        return cls(hr, lr, identity, source)


@dataclass(frozen=True, slots=True)
class Part:
    """Photos of several people, two or more of each; the rows of one person are adjacent."""

    hr: Tensor
    lr: Tensor
    person: Tensor
    """The number of each row's person in the full set."""

    @property
    def people(self) -> int:
        return len(set(self.person.tolist()))

    def to(self, device: torch.device) -> Part:
        return Part(self.hr.to(device), self.lr.to(device), self.person)


@dataclass(frozen=True, slots=True)
class Split:
    train: Part
    validation: Part
    single: int
    """Number of people left out because one photo makes no pair."""

    @property
    def counts(self) -> tuple[int, int, int]:
        """Return how many people are for training, for validation and left out."""
        return self.train.people, self.validation.people, self.single

    def to(self, device: torch.device) -> Split:
        return Split(self.train.to(device), self.validation.to(device), self.single)

    def __str__(self) -> str:
        train, validation, single = self.counts
        people = f"{train} people for training, {validation} for validation"
        return f"{people}, {single} with a single photo left out"


@dataclass(frozen=True, slots=True)
class Epoch:
    """A line of the log; epoch 0 is the combiner before training, which is the plain mean."""

    epoch: int
    train_loss: float
    validation_loss: float
    cosine: float
    """On validation people: mean cosine of the merged LR feature and the mean HR feature."""
    cosine_mean: float
    """The same, of the plain mean of the LR features."""
    violated: float
    """Share of validation triplets that violate the margin."""

    def __str__(self) -> str:
        return (
            f"epoch {self.epoch}: loss {self.train_loss:.4f}, "
            f"validation loss {self.validation_loss:.4f}, "
            f"cosine to the HR mean {self.cosine:.4f} (of the plain mean: {self.cosine_mean:.4f}), "
            f"{self.violated:.1%} violated"
        )


@dataclass(frozen=True, slots=True)
class Summary:
    train_people: int
    validation_people: int
    single: int
    margin: float
    epochs: int
    best: Epoch

    def __str__(self) -> str:
        return f"best of {self.epochs} epochs: {self.best}"


@dataclass(slots=True)
class Run:
    """The state of a training run, and its settings."""

    net: FeatureCombiner
    optimizer: torch.optim.Optimizer
    settings: dict[str, float]
    best: FeatureCombiner
    log: list[Epoch]

    @property
    def best_epoch(self) -> Epoch:
        return min(
            self.log, key=lambda e: math.inf if math.isnan(e.validation_loss) else e.validation_loss
        )


def train_combiner(
    features: CombinerFeatures,
    out: Path,
    *,
    epochs: int = 20,
    patience: int = 5,
    margin: float | None = None,
    eta: float = ETA,
    lr: float = 1e-4,
    batch: int = 256,
    seed: int = 0,
    device: str = "cpu",
    report: Callable[[str], None] = print,
) -> Summary:
    """Train in folder `out`, or resume there, and return a summary.

    This writes combiner.safetensors (of the best epoch), log.csv and curves.png. It stops after
    `patience` epochs without a lower validation loss.
    """
    _check(epochs, patience, margin, batch)
    target = find_device(device)
    parts = split(features, seed).to(target)
    with _seeded(seed, 0, target) as generator:
        fixed = draw_triplets(parts.validation, generator)
        trial = draw_triplets(parts.train, generator)
        gap = measured_gap(parts.train, trial)
        margin = margin_above(gap) if margin is None else margin
        net = FeatureCombiner(features.hr.shape[1], eta, features.source, margin).to(target)
    report(f"{parts}; gap {gap:.4f}, margin {margin}, eta {eta:g}")
    chosen = {"margin": margin, "eta": eta, "lr": lr, "batch": batch, "seed": seed}
    settings = chosen | _facts(features)
    run = Run(net, torch.optim.Adam(net.parameters(), lr), settings, copy.deepcopy(net), [])
    out.mkdir(parents=True, exist_ok=True)
    if has_checkpoint(out):
        _resume(out / STATE, run)
    else:
        loss = _loss(net.eval(), parts.train, trial, margin).item()
        run.log.append(_measure(run, parts.validation, fixed, loss))
    while len(run.log) <= epochs and run.log[-1].epoch - run.best_epoch.epoch < patience:
        _one_epoch(run, parts, fixed, seed)
        _store(out, run)
        report(str(run.log[-1]))
    _store(out, run)
    draw_or_warn(out / "log.csv", out / "curves.png", ("train_loss", "validation_loss"), report)
    return Summary(*parts.counts, margin, run.log[-1].epoch, run.best_epoch)


def _facts(features: CombinerFeatures) -> dict[str, float]:
    """Return numbers that tell these features from others."""
    total = float(features.hr.sum() + features.lr.sum())
    return {"photos": len(features.hr), "length": features.hr.shape[1], "sum": total}


def _one_epoch(run: Run, parts: Split, fixed: Tensor, seed: int) -> None:
    """Train for an epoch, log it, and keep the network if it is the best so far."""
    with _seeded(seed, len(run.log), parts.train.hr.device) as generator:
        loss = _train_epoch(run, parts.train, draw_triplets(parts.train, generator))
    run.log.append(_measure(run, parts.validation, fixed, loss))
    if run.best_epoch is run.log[-1]:
        run.best = copy.deepcopy(run.net)


def split(features: CombinerFeatures, seed: int) -> Split:
    """Return 85 % of the people for training and the others for validation."""
    numbers = {name: i for i, name in enumerate(dict.fromkeys(features.identity))}
    person = torch.tensor([numbers[name] for name in features.identity], dtype=torch.long)
    photos = person.bincount()
    people = (photos > 1).nonzero()[:, 0]
    if len(people) < FEWEST_PEOPLE:
        reason = (
            f"{len(people)} people have two or more photos, "
            f"but training needs at least {FEWEST_PEOPLE}"
        )
        raise UsageError("features", reason, "add people, or photos to those with one")
    people = people[torch.randperm(len(people), generator=torch.Generator().manual_seed(seed))]
    train_count = round(TRAIN_SHARE * len(people))
    hr, lr = unit_rows(features.hr), unit_rows(features.lr)

    def part(chosen: Tensor) -> Part:
        rows = torch.isin(person, chosen).nonzero()[:, 0]
        rows = rows[person[rows].argsort(stable=True)]
        return Part(hr[rows], lr[rows], person[rows])

    return Split(part(people[:train_count]), part(people[train_count:]), int((photos == 1).sum()))


def draw_triplets(part: Part, generator: torch.Generator) -> Tensor:
    """Return P×3 rows of `part`: two photos of a person, one of somebody else.

    Each person's photos are shuffled and paired, so a photo is in one pair at most.
    """
    _, person, photos = torch.unique_consecutive(
        part.person, return_inverse=True, return_counts=True
    )
    start = photos.cumsum(0) - photos
    order = torch.randperm(len(person), generator=generator)
    order = order[person[order].argsort(stable=True)]
    position = torch.arange(len(person)) - start[person]
    at = ((position % 2 == 0) & (position + 1 < photos[person])).nonzero()[:, 0]
    own, first = photos[person[at]], start[person[at]]
    other = (
        torch.rand(len(at), generator=generator, dtype=torch.float64) * (len(person) - own)
    ).long()
    other += own * (other >= first)  # skips the person's own rows
    triplets = torch.stack((order[at], order[at + 1], other), 1)
    return triplets[torch.randperm(len(triplets), generator=generator)]


def distances(merge: Merge, part: Part, triplets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distances of merged LR features to the mean HR feature and to the stranger's."""
    first, second, other = triplets.unbind(1)
    anchor = merge(part.lr[first], part.lr[second])
    positive = F.normalize(part.hr[first] + part.hr[second], dim=1)
    return (anchor - positive).norm(dim=1), (anchor - part.hr[other]).norm(dim=1)


def triplet_loss(near: Tensor, far: Tensor, margin: float) -> Tensor:
    return (near - far + margin).clamp_min(0)


def _loss(merge: Merge, part: Part, triplets: Tensor, margin: float) -> Tensor:
    return triplet_loss(*distances(merge, part, triplets), margin).mean()


def plain_mean(first: Tensor, second: Tensor) -> Tensor:
    return F.normalize(first + second, dim=1)


def measured_gap(part: Part, triplets: Tensor) -> float:
    """Return how much farther strangers are than the person, on average, for the plain mean."""
    near, far = distances(plain_mean, part, triplets)
    return float((far - near).mean())


def margin_above(gap: float) -> float:
    """Return the margin just above a gap, as the paper chose its 0.495."""
    return math.ceil((max(0.0, gap) + ABOVE_GAP) * 1000) / 1000


def _check(epochs: int, patience: int, margin: float | None, batch: int) -> None:
    for name, value, least in (
        ("epochs", epochs, 1),
        ("patience", patience, 1),
        ("batch", batch, 2),
    ):
        if value < least:
            raise UsageError(f"{name} {value}", "too few", f"give {least} or more")
    if margin is not None and not 0 < margin < 2:
        raise UsageError(
            f"margin {margin}",
            "distances of unit vectors differ by 0 to 2",
            "give a margin between",
        )


@contextmanager
def _seeded(seed: int, epoch: int, device: torch.device) -> Iterator[torch.Generator]:
    """Yield a seeded generator, and seed PyTorch's own random numbers inside the context."""
    number = seed * 1_000_003 + epoch
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(number)
        yield torch.Generator().manual_seed(number)


def _train_epoch(run: Run, part: Part, triplets: Tensor) -> float:
    """Train on all triplets once, and return the mean loss."""
    run.net.train()
    total = 0.0
    # Batches are a little larger than given: batch normalisation fails on a last batch of one pair.
    for rows in triplets.tensor_split(max(1, len(triplets) // int(run.settings["batch"]))):
        loss = _loss(run.net, part, rows, run.settings["margin"])
        run.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        run.optimizer.step()
        total += float(loss.detach()) * len(rows)
    return total / len(triplets)


@torch.no_grad()
def _measure(run: Run, part: Part, triplets: Tensor, train_loss: float) -> Epoch:
    near, far = distances(run.net.eval(), part, triplets)
    loss = triplet_loss(near, far, run.settings["margin"])
    near_mean, _ = distances(plain_mean, part, triplets)
    # |a − p|² = 2 − 2 cos of unit vectors
    cosine, cosine_mean = (float(1 - d.square().mean() / 2) for d in (near, near_mean))
    violated = float((loss > 0).float().mean())
    return Epoch(len(run.log), train_loss, float(loss.mean()), cosine, cosine_mean, violated)


def _store(out: Path, run: Run) -> None:
    """Write the checkpoint first, then the files that can be rebuilt from it."""
    log = [asdict(e) for e in run.log]
    state = {
        "net": run.net.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "best": run.best.state_dict(),
        "settings": run.settings,
        "log": log,
    }
    atomic_write(out / STATE, lambda path: torch.save(state, path))
    save(run.best, out / "combiner.safetensors")

    def write_log(path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, [f.name for f in fields(Epoch)])
            writer.writeheader()
            writer.writerows(log)

    atomic_write(out / "log.csv", write_log)


def _resume(file: Path, run: Run) -> None:
    state = read_checkpoint(file, {"net", "optimizer", "best", "log"}, run.settings)
    run.net.load_state_dict(state["net"])
    run.optimizer.load_state_dict(state["optimizer"])
    run.best.load_state_dict(state["best"])
    run.log = [Epoch(**row) for row in state["log"]]
