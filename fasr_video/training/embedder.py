"""Train the builtin embedder: distilled from a teacher of its own shape.

First, *block by block*: each of the student's blocks learns to lead from the teacher's map before it to the one after
it. No block waits for another to become good, and every cell of a map is something to learn from.

Then, *as a whole*: the student sees faces that are cut, mirrored and mixed at random, and learns the teacher's vector
and maps of those very pictures (a patient and consistent teacher, Beyer et al. 2022). The same faces are made poor, by
the papers' degradation and as cameras do, and their vectors are held to those of the clean faces. All of it is squared
error of vectors that are *not* normalised: the student's best answer is then the mean of what the clean face may be,
so a poor face has a short vector, and a picture that is no face, whose target is zero, hardly any.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from fasr_video.checkpoint import load_state, read_state, save_own
from fasr_video.datasets.faces import Faces
from fasr_video.errors import UsageError
from fasr_video.files import atomic_write
from fasr_video.recognition.network import CONTRACT, FORMAT, LENGTH, SHAPES, EmbedderNet
from fasr_video.sr.degradation import enlarge, shrink
from fasr_video.sr.surveillance import Surveillance, camera
from fasr_video.training import teacher as teaching
from fasr_video.training.curves import draw_run
from fasr_video.training.loop import Plan, Progress, has_checkpoint, train
from fasr_video.training.scene_faces import cut_scenes
from fasr_video.training.teacher import Teacher, merged

SIDE, RIM = 128, 8
# The network's vectors are this many times longer than the teacher's: their numbers are about one.
SCALE = 16.0
# Poor faces that the student sees, for each clean one.
POOR = 3
# Pictures without a face in a batch.
EMPTY = 4
# Share of the clean faces of which a part is another face: more faces than there are.
MIXED = 1 / 3
# Shares of faces of people seen several times, and of people seen once; the rest are cut out of
# scenes.
CELEBA, ONCE = 0.8, 0.1
# Weights of the terms beside the squared errors of vectors: maps, pictures without a face, people.
HINTS, NOTHING, PEOPLE = 0.3, 0.2, 0.1
# Of the cosines with everybody's mean vector.
SHARPNESS = 24.0
# Blocks whose maps are the last of their size: the student's are held to the teacher's there.
STAGE_ENDS = (4, 11, 14)
# Faces that the teacher's maps are measured on.
MEASURED = 256
FAR = Surveillance(side=(12, 48))
CLOSE = camera(48)


@dataclass(frozen=True, slots=True)
class Scales:
    """How large the teacher's maps and vectors are: the student's have a variance of about one."""

    means: tuple[Tensor, ...]
    """Of each channel of each block's map, 1×C×1×1."""
    spreads: tuple[Tensor, ...]
    """Standard deviation of each channel at the end of the block's stage: what blocks add can be summed so."""
    changes: tuple[float, ...]
    """Variance of what each block adds, or makes anew, at that scale."""
    length: float
    """Root mean square of the norms of the teacher's vectors."""

    def standard(self, maps: Sequence[Tensor], blocks: Sequence[int]) -> list[Tensor]:
        """Return the teacher's maps after these blocks, scaled as the student's are."""
        scaled = []
        for block in blocks:
            values = (maps[block] - self.means[block]) / self.spreads[block]
            scaled.append(values.contiguous(memory_format=torch.channels_last))
        return scaled


@dataclass(frozen=True, slots=True)
class Material:
    """Faces of 144×144 px, the canonical frame and a rim, with the teacher's vectors of them."""

    pictures: Tensor
    """N×3×144×144 uint8: of people seen several times, then of people seen once, then out of scenes."""
    person: Tensor
    """N: the row of each one's person in the centres; -1 where nobody knows."""
    vectors: Tensor
    """N×LENGTH: the teacher's unit vectors."""
    centres: Tensor
    """P×LENGTH: each person's mean vector, a unit vector."""
    ends: tuple[int, int]
    """Rows before which people seen several times, and those seen once, end."""
    empty: Tensor
    """M×3×144×144 uint8: pictures that show no face."""
    scales: Scales


class Trainee(nn.Module):
    """The embedder in training."""

    def __init__(self) -> None:
        super().__init__()
        self.embedder = EmbedderNet()

    def forward(
        self, x: Tensor, given: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Return N×LENGTH vectors at the teacher's scale, and maps; with given maps, each block begins with those."""
        net = self.embedder
        if given is None:
            maps = net.maps(x)
            return net.vectors(maps[-1]) / SCALE, maps
        taken = (net.prepared(x), *given[:-1])
        maps = [block(before) for block, before in zip(net.blocks, taken, strict=True)]
        return net.vectors(given[-1]) / SCALE, maps


@cache
def lift() -> Tensor:
    """Return LENGTH×256 with orthonormal columns: it makes the teacher's vectors longer and keeps their cosines."""
    drawn = torch.randn(
        LENGTH, teaching.LENGTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    turn: Tensor = torch.linalg.qr(drawn)[0]
    return turn.float()


def gather(
    faces: Faces,
    once: Faces | None,
    scenes: Path | None,
    teacher: Teacher,
    out: Path,
    tell: Callable[[int, int], None],
) -> Material:
    """Return all faces of a run on the teacher's device; its vectors of them are computed once and kept in `out`."""
    numbers = {name: i for i, name in enumerate(dict.fromkeys(faces.identities))}
    none = torch.zeros(0, 3, SIDE + 2 * RIM, SIDE + 2 * RIM, dtype=torch.uint8)
    others = none if once is None else with_rim(once.pictures)
    in_scenes, empty = (none, none) if scenes is None else cut_scenes(scenes)
    pictures = torch.cat((with_rim(faces.pictures), others, in_scenes))
    person = torch.cat(
        (
            torch.tensor([numbers[name] for name in faces.identities]),
            len(numbers) + torch.arange(len(others)),
            torch.full((len(in_scenes),), -1),
        )
    )
    file = out / "teacher.safetensors"
    if not file.exists():
        out.mkdir(parents=True, exist_ok=True)
        kept = {"vectors": _teacher_vectors(pictures, teacher, tell)}
        atomic_write(file, lambda path: save_file(kept, path))
    vectors = read_state(file)["vectors"] @ lift().T
    if len(vectors) != len(pictures):
        raise UsageError(
            file, "made of other faces", "give the faces that the run began with, or another --out"
        )
    known = person >= 0
    sums = torch.zeros(len(numbers) + len(others), LENGTH).index_add_(
        0, person[known], vectors[known]
    )
    return Material(
        pictures=pictures.to(teacher.device),
        person=person.to(teacher.device),
        vectors=vectors.to(teacher.device),
        centres=F.normalize(sums, dim=1).to(teacher.device),
        ends=(len(faces), len(faces) + len(others)),
        empty=empty.to(teacher.device),
        scales=measure(pictures, teacher),
    )


@torch.no_grad()
def measure(pictures: Tensor, teacher: Teacher) -> Scales:
    """Return the scales of the teacher's maps and vectors of some of these faces with a rim."""
    rows = torch.linspace(0, len(pictures) - 1, min(MEASURED, len(pictures))).long()
    vectors, maps = [], []
    for part in pictures[rows, :, RIM : RIM + SIDE, RIM : RIM + SIDE].split(32):  # type: ignore[no-untyped-call]
        found, shown = teacher(part.to(teacher.device).float() / 255)
        vectors.append(found)
        maps.append(shown)
    whole = [torch.cat(of_block) for of_block in zip(*maps, strict=True)]
    means, spreads, changes = [], [], []
    for block, (shape, values) in enumerate(zip(SHAPES, whole, strict=True)):
        end = min(e for e in STAGE_ENDS if e >= block)
        spread = whole[end].std((0, 2, 3), keepdim=True)
        change = values if shape.halves else values - whole[block - 1]
        means.append(values.mean((0, 2, 3), keepdim=True))
        spreads.append(spread)
        changes.append(float((change / spread).var((0, 2, 3)).mean()))
    length = float(torch.cat(vectors).square().sum(1).mean().sqrt())
    return Scales(tuple(means), tuple(spreads), tuple(changes), length)


def with_rim(pictures: Tensor) -> Tensor:
    """Return N×3×144×144 of faces with or without a rim; one that is missing is repeated from the edge."""
    side = pictures.shape[-1]
    if side == SIDE + 2 * RIM:
        return pictures
    if side != SIDE:
        reason = f"they have {side} px a side, but an aligned face has {SIDE}, or {SIDE + 2 * RIM} with a rim"
        raise UsageError("faces", reason, "give aligned faces")
    return F.pad(pictures.float(), (RIM, RIM, RIM, RIM), mode="replicate").to(torch.uint8)


@torch.no_grad()
def _teacher_vectors(
    pictures: Tensor, teacher: Teacher, tell: Callable[[int, int], None]
) -> Tensor:
    """Return the teacher's unit vectors of faces with a rim, N×256."""
    parts = []
    for start in range(0, len(pictures), 64):
        middle = pictures[start : start + 64, :, RIM : RIM + SIDE, RIM : RIM + SIDE]
        parts.append(teacher.vectors(middle.to(teacher.device).float() / 255).cpu())
        tell(start + len(middle), len(pictures))
    return torch.cat(parts)


# ------------------------------------------------------------------------------------------------------------- batches


@dataclass(frozen=True, slots=True)
class Batch:
    """What the student sees, clean faces first, then poor ones, then pictures without a face; and what is asked."""

    pictures: Tensor
    targets: Tensor
    """LENGTH numbers each."""
    maps: Sequence[Tensor]
    """The teacher's, of the clean faces: after each block where blocks learn by themselves, else where stages end."""
    person: Tensor
    """A row of the centres each; -1 where nobody known is shown."""
    clean: int
    poor: int


def make_batch(
    data: Material, teacher: Teacher, size: int, generator: torch.Generator, blocks: bool
) -> Batch:
    """Draw `size` clean faces, each with its mirror image; and poor and empty pictures, but not for `blocks`."""
    others = 0 if blocks else 2 * POOR * size
    rows = draw_rows(data, size + others, generator)
    faces = _toned(_moved(data.pictures[rows].float() / 255, generator), generator)
    clean, mixed = faces[:size].clone(), round(MIXED * size)
    share = 0.3 + 0.4 * torch.rand(mixed, 1, 1, 1, generator=generator, device=faces.device)
    clean[:mixed] = share * clean[:mixed] + (1 - share) * faces[size - mixed : size]
    shown = torch.cat((clean, clean.flip(3)))
    vectors, maps = teacher(shown)
    maps = data.scales.standard(maps, range(len(SHAPES)) if blocks else STAGE_ENDS)
    up = lift().to(faces.device).T
    if blocks:
        nobody = torch.full((len(shown),), -1, device=faces.device)
        return Batch(shown, vectors / data.scales.length @ up, maps, nobody, len(shown), 0)
    of_clean = merged(vectors[:size], vectors[size:]) @ up
    poor, empty = make_poor(faces[size:], generator), _empty(data.empty, generator)
    person = data.person[rows].clone()
    person[:mixed] = -1
    return Batch(
        pictures=torch.cat((shown, poor, empty)),
        targets=torch.cat(
            (of_clean, of_clean, data.vectors[rows[size:]], empty.new_zeros(len(empty), LENGTH))
        ),
        maps=maps,
        person=torch.cat((person[:size], person, person.new_full((len(empty),), -1))),
        clean=len(shown),
        poor=len(poor),
    )


def draw_rows(data: Material, count: int, generator: torch.Generator) -> Tensor:
    """Return rows of faces, each kind with its share."""
    device = data.pictures.device
    kind = torch.rand(count, generator=generator, device=device)
    place = torch.rand(count, generator=generator, device=device)
    several, once = data.ends
    whole = len(data.pictures)
    low = torch.where(kind < CELEBA, 0, torch.where(kind < CELEBA + ONCE, several, once))
    high = torch.where(kind < CELEBA, several, torch.where(kind < CELEBA + ONCE, once, whole))
    missing = high == low  # none of that kind
    low, high = low.where(~missing, 0), high.where(~missing, several)
    return (low + place * (high - low)).long().clamp(max=whole - 1)


def _moved(faces: Tensor, generator: torch.Generator) -> Tensor:
    """Return 128×128 cut out of 144×144: moved by up to 5 px, scaled by 4 %, turned by 3°, half of them mirrored."""
    count, device = len(faces), faces.device

    def even() -> Tensor:
        return torch.rand(count, generator=generator, device=device) * 2 - 1

    dx, dy = (even() * 5 / (SIDE / 2 + RIM) for _ in range(2))
    scale, angle = (1 + 0.04 * even()) * SIDE / (SIDE + 2 * RIM), math.radians(3) * even()
    mirror = even().sign()
    cos, sin = angle.cos() * scale, angle.sin() * scale
    matrix = torch.stack((cos * mirror, -sin, dx, sin * mirror, cos, dy), 1).reshape(-1, 2, 3)
    grid = F.affine_grid(matrix, [count, 3, SIDE, SIDE], align_corners=False)
    return F.grid_sample(faces, grid, padding_mode="border", align_corners=False)


def _toned(faces: Tensor, generator: torch.Generator) -> Tensor:
    """Return the faces in other light, a few of them grey."""
    count, device = len(faces), faces.device
    tint = 1 + 0.3 * (torch.rand(count, 3, 1, 1, generator=generator, device=device) - 0.5)
    gain = 0.8 * tint.mean(1, keepdim=True) + 0.2 * tint
    contrast = 1 + 0.4 * (torch.rand(count, 1, 1, 1, generator=generator, device=device) - 0.5)
    faces = ((faces - 0.5) * contrast + 0.5 * gain).clamp(0, 1)
    grey = torch.rand(count, 1, 1, 1, generator=generator, device=device) < 0.08
    return torch.where(grey, faces.mean(1, keepdim=True), faces)


def make_poor(faces: Tensor, generator: torch.Generator) -> Tensor:
    """Return the faces with detail lost: by the papers' degradation at 9-72 px, and by cameras far and near."""
    plain = len(faces) * 4 // 7
    parts = []
    for part in faces[:plain].chunk(6):
        kind, size = torch.rand(2, generator=generator, device=generator.device).tolist()
        side = 16 if kind < 0.4 else round(9 * 8**size)
        parts.append(enlarge(shrink(part, side), SIDE))
    rest = faces[plain:]
    far = len(rest) * 3 // 4
    seeds = torch.randint(
        0, 2**31, (len(rest),), generator=generator, device=generator.device
    ).tolist()
    parts += [FAR(rest[:far], seeds[:far]), CLOSE(rest[far:], seeds[far:])]
    return torch.cat(parts)


def _empty(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Return pictures without a face, half of them made poor."""
    if not len(pictures):
        return torch.zeros(0, 3, SIDE, SIDE, device=pictures.device)
    rows = torch.randint(0, len(pictures), (EMPTY,), generator=generator, device=pictures.device)
    shown = pictures[rows, :, RIM : RIM + SIDE, RIM : RIM + SIDE].float() / 255
    side = int(torch.randint(12, 40, (), generator=generator, device=generator.device))
    half = EMPTY // 2
    return torch.cat((shown[:half], enlarge(shrink(shown[half:], side), SIDE)))


# ---------------------------------------------------------------------------------------------------------------- loss

Terms = Mapping[str, Tensor]


def make_loss(
    data: Material, teacher: Teacher, size: int, blocks: bool
) -> Callable[[nn.Module, torch.Generator], Terms]:
    """Return the loss of one step, block by block or as a whole, on batches of `size` faces and their mirror images."""

    def loss(model: nn.Module, generator: torch.Generator) -> Terms:
        with torch.no_grad(), torch.autocast(teacher.device.type, enabled=False):
            batch = make_batch(data, teacher, size, generator, blocks)
        x = batch.pictures.contiguous(memory_format=torch.channels_last)
        vectors, own = model(x, batch.maps if blocks else None)
        error = (vectors.float() - batch.targets).square().sum(1)
        if blocks:
            return _by_block(data.scales, own, batch.maps, error.mean())
        hints = []
        for end, wanted in zip(STAGE_ENDS, batch.maps, strict=True):
            hints.append(unexplained(own[end][: batch.clean].float(), wanted))
        return _whole(data, batch, vectors.float(), error, torch.stack(hints).sum())

    return loss


def _by_block(
    scales: Scales, own: Sequence[Tensor], wanted: Sequence[Tensor], vectors: Tensor
) -> Terms:
    """Return each block's error as a share of what the block changes; terms are the means of the three stages."""
    shares = []
    for made, values, change in zip(own, wanted, scales.changes, strict=True):
        shares.append(F.mse_loss(made.float(), values) / change)
    terms = {"vectors": vectors}
    start = 0
    for name, end in zip(("early", "middle", "late"), STAGE_ENDS, strict=True):
        terms[name] = torch.stack(shares[start : end + 1]).mean()
        start = end + 1
    return {"loss": torch.stack(shares).sum() + vectors, **terms}


def _whole(data: Material, batch: Batch, vectors: Tensor, error: Tensor, hints: Tensor) -> Terms:
    faces = batch.clean + batch.poor
    known = batch.person >= 0
    cosines = F.normalize(vectors[known], dim=1) @ data.centres.T
    terms = {
        "clean": error[: batch.clean].mean(),
        "poor": error[batch.clean : faces].mean(),
        "nothing": _gently(error[faces:]).sum() / EMPTY,
        "hints": hints,
        "people": F.cross_entropy(SHARPNESS * cosines, batch.person[known]),
    }
    total = (
        2 * error[:faces].mean()
        + NOTHING * terms["nothing"]
        + HINTS * hints
        + PEOPLE * terms["people"]
    )
    return {"loss": total, **terms}


def _gently(error: Tensor) -> Tensor:
    """Return about the error where it is small, and about twice its root where it is large.

    Faces teach a network nothing of pictures unlike all faces: at first its vectors of some are a thousand times too
    long, and one of them would count for more than all faces.
    """
    return 2 * ((1 + error).sqrt() - 1)


def unexplained(values: Tensor, wanted: Tensor) -> Tensor:
    """Return the squared error as a share of the variance of what is wanted."""
    return F.mse_loss(values, wanted) / wanted.var()


def save_embedder(state: Mapping[str, Tensor], path: Path) -> None:
    """Write an EmbedderNet's tensors in float16, with its contract in the header."""
    half = {k: v.half().contiguous() if v.is_floating_point() else v for k, v in state.items()}
    save_own(half, path, FORMAT, CONTRACT)


def train_embedder(
    data: Material,
    teacher: Teacher,
    out: Path,
    plan: Plan,
    batch: int,
    report: Callable[[Progress], None],
    begin: Path | None = None,
    blocks: bool = False,
) -> int:
    """Train in folder `out`; leaves embedder.safetensors (fp16, EMA) and log.csv there. Returns the step reached.

    A new run begins with the weights of `begin`, if given; with `blocks`, each block learns by itself.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(plan.seed)
    trainee = Trainee()
    if begin is not None and not has_checkpoint(out):
        load_state(trainee.embedder, begin, FORMAT)

    def save(state: Mapping[str, Tensor], step: int) -> None:
        prefix = "embedder."
        kept = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        save_embedder(kept, out / "embedder.safetensors")
        draw_run(
            out, ("early", "middle", "late", "vectors") if blocks else ("clean", "poor", "hints")
        )

    settings = {
        "batch": batch,
        "faces": len(data.pictures),
        "teacher": float(data.centres.sum()),
        "blocks": blocks,
    }
    loss = make_loss(data, teacher, batch, blocks)
    return train(trainee, loss, out, plan, teacher.device, save, report, settings)
