"""Train the builtin embedder by distillation from a teacher of the same shape.

First, *block by block*: each of the student's blocks learns to compute the teacher's map after it
from the teacher's map before it. No block waits for another one, and every cell of a map is a
training example.

Then, *as a whole*: the student gets faces that are cropped, mirrored and mixed at random, and
learns the teacher's vectors and maps of the same pictures (a patient and consistent teacher, Beyer
et al. 2022). It also gets degraded faces, by the papers' degradation and as by cameras, and learns
the vectors of the clean faces. The loss is the squared error of vectors that are *not* normalised:
the best vector of a degraded face is then the mean over all clean faces that it may be. So a poor
face has a short vector, and a picture without a face, whose target is zero, almost none.
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
# The network's vectors are this many times longer than the teacher's, so that their numbers are
# about 1.
SCALE = 16.0
# Number of degraded faces for each clean one.
POOR = 3
# Number of pictures without a face in a batch.
EMPTY = 4
# Share of the clean faces that are mixed with another face, which adds variety.
MIXED = 1 / 3
# Shares of faces of people with several photographs, and with one; the others are cut out of
# scenes.
CELEBA, SINGLE = 0.8, 0.1
# Weights of the other loss terms: maps, pictures without a face, people.
HINTS, NOTHING, PEOPLE = 0.3, 0.2, 0.1
# Factor of the cosines with everybody's mean vector.
SHARPNESS = 24.0
# Blocks with the last map of a size: there the student's maps learn the teacher's.
STAGE_ENDS = (4, 11, 14)
# Number of faces that the teacher's maps are measured on.
MEASURED = 256
FAR = Surveillance(side=(12, 48))
CLOSE = camera(48)


@dataclass(frozen=True, slots=True)
class Scales:
    """The size of the teacher's maps and vectors, to scale them to a variance of about one."""

    means: tuple[Tensor, ...]
    """Mean of each channel of each block's map, 1×C×1×1."""
    spreads: tuple[Tensor, ...]
    """Standard deviation of each channel at the end of the block's stage."""
    changes: tuple[float, ...]
    """Variance of the change by each block, at that scale."""
    length: float
    """Root mean square of the norms of the teacher's vectors."""

    def standard(self, maps: Sequence[Tensor], blocks: Sequence[int]) -> list[Tensor]:
        """Return the teacher's maps after these blocks, at the student's scale."""
        scaled = []
        for block in blocks:
            values = (maps[block] - self.means[block]) / self.spreads[block]
            scaled.append(values.contiguous(memory_format=torch.channels_last))
        return scaled


@dataclass(frozen=True, slots=True)
class Material:
    """Faces of 144×144 px (the canonical frame and a rim) with the teacher's vectors."""

    pictures: Tensor
    """N×3×144×144 uint8: first people with several photographs, then with one, then scenes."""
    person: Tensor
    """N: each person's row in the centres; -1 for unknown people."""
    vectors: Tensor
    """N×LENGTH: the teacher's unit vectors."""
    centres: Tensor
    """P×LENGTH: each person's mean vector, a unit vector."""
    ends: tuple[int, int]
    """Rows after the people with several photographs, and after those with one."""
    empty: Tensor
    """M×3×144×144 uint8: pictures without a face."""
    scales: Scales


class Trainee(nn.Module):
    """The embedder in training."""

    def __init__(self) -> None:
        super().__init__()
        self.embedder = EmbedderNet()

    def forward(
        self, x: Tensor, given_maps: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Return N×LENGTH vectors at the teacher's scale, and maps.

        With given maps, each block takes the given map before it, not the output of that block.
        """
        net = self.embedder
        if given_maps is None:
            maps = net.maps(x)
            return net.vectors(maps[-1]) / SCALE, maps
        inputs = (net.prepared(x), *given_maps[:-1])
        maps = [block(before) for block, before in zip(net.blocks, inputs, strict=True)]
        return net.vectors(given_maps[-1]) / SCALE, maps


@cache
def lift() -> Tensor:
    """Return LENGTH×256 with orthonormal columns: it lengthens vectors and keeps their cosines."""
    drawn = torch.randn(
        LENGTH, teaching.LENGTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    turn: Tensor = torch.linalg.qr(drawn)[0]
    return turn.float()


def gather(
    faces: Faces,
    single: Faces | None,
    scenes: Path | None,
    teacher: Teacher,
    *,
    out: Path,
    report_progress: Callable[[int, int], None],
) -> Material:
    """Return all faces of a run on the teacher's device.

    The teacher's vectors are computed once and stored in `out`.
    """
    numbers = {name: i for i, name in enumerate(dict.fromkeys(faces.identities))}
    no_faces = torch.zeros(0, 3, SIDE + 2 * RIM, SIDE + 2 * RIM, dtype=torch.uint8)
    singles = no_faces if single is None else with_rim(single.pictures)
    in_scenes, empty = (no_faces, no_faces) if scenes is None else cut_scenes(scenes)
    pictures = torch.cat((with_rim(faces.pictures), singles, in_scenes))
    person = torch.cat(
        (
            torch.tensor([numbers[name] for name in faces.identities]),
            len(numbers) + torch.arange(len(singles)),
            torch.full((len(in_scenes),), -1),
        )
    )
    vectors = _stored_vectors(pictures, teacher, out, report_progress) @ lift().T
    known = person >= 0
    sums = torch.zeros(len(numbers) + len(singles), LENGTH).index_add_(
        0, person[known], vectors[known]
    )
    return Material(
        pictures=pictures.to(teacher.device),
        person=person.to(teacher.device),
        vectors=vectors.to(teacher.device),
        centres=F.normalize(sums, dim=1).to(teacher.device),
        ends=(len(faces), len(faces) + len(singles)),
        empty=empty.to(teacher.device),
        scales=measure(pictures, teacher),
    )


def _stored_vectors(
    pictures: Tensor, teacher: Teacher, out: Path, report_progress: Callable[[int, int], None]
) -> Tensor:
    """Return the teacher's vectors from the file in `out`, which is written where it is missing."""
    file = out / "teacher.safetensors"
    if not file.exists():
        out.mkdir(parents=True, exist_ok=True)
        arrays = {"vectors": _teacher_vectors(pictures, teacher, report_progress)}
        atomic_write(file, lambda path: save_file(arrays, path))
    vectors = read_state(file)["vectors"]
    if len(vectors) != len(pictures):
        raise UsageError(
            file,
            "made of other faces",
            "give the faces that the run started with, or another --out",
        )
    return vectors


@torch.no_grad()
def measure(pictures: Tensor, teacher: Teacher) -> Scales:
    """Return the scales of the teacher's maps and vectors, measured on some of the faces."""
    rows = torch.linspace(0, len(pictures) - 1, min(MEASURED, len(pictures))).long()
    vectors, maps = [], []
    middles = pictures[rows, :, RIM : RIM + SIDE, RIM : RIM + SIDE]
    for part in torch.split(middles, 32):
        part_vectors, part_maps = teacher(part.to(teacher.device).float() / 255)
        vectors.append(part_vectors)
        maps.append(part_maps)
    joined = [torch.cat(of_block) for of_block in zip(*maps, strict=True)]
    means, spreads, changes = [], [], []
    for block, (shape, values) in enumerate(zip(SHAPES, joined, strict=True)):
        end = min(e for e in STAGE_ENDS if e >= block)
        spread = joined[end].std((0, 2, 3), keepdim=True)
        change = values if shape.halves else values - joined[block - 1]
        means.append(values.mean((0, 2, 3), keepdim=True))
        spreads.append(spread)
        changes.append(float((change / spread).var((0, 2, 3)).mean()))
    length = float(torch.cat(vectors).square().sum(1).mean().sqrt())
    return Scales(tuple(means), tuple(spreads), tuple(changes), length)


def with_rim(pictures: Tensor) -> Tensor:
    """Return faces with a rim, N×3×144×144; a missing rim repeats the edge."""
    side = pictures.shape[-1]
    if side == SIDE + 2 * RIM:
        return pictures
    if side != SIDE:
        reason = (
            f"they have {side} px a side, but an aligned face has {SIDE}, "
            f"or {SIDE + 2 * RIM} with a rim"
        )
        raise UsageError("faces", reason, "give aligned faces")
    return F.pad(pictures.float(), (RIM, RIM, RIM, RIM), mode="replicate").to(torch.uint8)


@torch.no_grad()
def _teacher_vectors(
    pictures: Tensor, teacher: Teacher, report_progress: Callable[[int, int], None]
) -> Tensor:
    """Return the teacher's unit vectors of faces with a rim, N×256."""
    parts = []
    for start in range(0, len(pictures), 64):
        middle = pictures[start : start + 64, :, RIM : RIM + SIDE, RIM : RIM + SIDE]
        parts.append(teacher.vectors(middle.to(teacher.device).float() / 255).cpu())
        report_progress(start + len(middle), len(pictures))
    return torch.cat(parts)


# ------------------------------------------------------------------------------------------ batches


@dataclass(frozen=True, slots=True)
class Batch:
    """The student's pictures (clean faces, then poor ones, then no faces) and their targets."""

    pictures: Tensor
    targets: Tensor
    """LENGTH numbers a picture."""
    maps: Sequence[Tensor]
    """The teacher's maps of the clean faces: of all blocks, or of those that end a stage."""
    person: Tensor
    """Each person's row in the centres; -1 for unknown people."""
    clean: int
    poor: int


def make_batch(
    data: Material, teacher: Teacher, size: int, generator: torch.Generator, *, blocks: bool
) -> Batch:
    """Return a batch of `size` clean faces and their mirror images.

    Without `blocks`, it also has poor faces and pictures without a face.
    """
    others = 0 if blocks else 2 * POOR * size
    rows = draw_rows(data, size + others, generator)
    faces = _toned(_moved(data.pictures[rows].float() / 255, generator), generator)
    clean, mixed = faces[:size].clone(), round(MIXED * size)
    share = 0.3 + 0.4 * torch.rand(mixed, 1, 1, 1, generator=generator, device=faces.device)
    clean[:mixed] = share * clean[:mixed] + (1 - share) * faces[size - mixed : size]
    pictures = torch.cat((clean, clean.flip(3)))
    vectors, maps = teacher(pictures)
    maps = data.scales.standard(maps, range(len(SHAPES)) if blocks else STAGE_ENDS)
    up = lift().to(faces.device).T
    if blocks:
        nobody = torch.full((len(pictures),), -1, device=faces.device)
        return Batch(pictures, vectors / data.scales.length @ up, maps, nobody, len(pictures), 0)
    of_clean = merged(vectors[:size], vectors[size:]) @ up
    poor, empty = make_poor(faces[size:], generator), _empty(data.empty, generator)
    person = data.person[rows].clone()
    person[:mixed] = -1
    return Batch(
        pictures=torch.cat((pictures, poor, empty)),
        targets=torch.cat(
            (of_clean, of_clean, data.vectors[rows[size:]], empty.new_zeros(len(empty), LENGTH))
        ),
        maps=maps,
        person=torch.cat((person[:size], person, person.new_full((len(empty),), -1))),
        clean=len(pictures),
        poor=len(poor),
    )


def draw_rows(data: Material, count: int, generator: torch.Generator) -> Tensor:
    """Return random rows of faces; each kind of face has its share."""
    device = data.pictures.device
    kind = torch.rand(count, generator=generator, device=device)
    position = torch.rand(count, generator=generator, device=device)
    several_end, single_end = data.ends
    total = len(data.pictures)
    low = torch.where(
        kind < CELEBA, 0, torch.where(kind < CELEBA + SINGLE, several_end, single_end)
    )
    high = torch.where(
        kind < CELEBA, several_end, torch.where(kind < CELEBA + SINGLE, single_end, total)
    )
    missing = high == low  # no face of that kind
    low, high = low.where(~missing, 0), high.where(~missing, several_end)
    return (low + position * (high - low)).long().clamp(max=total - 1)


def _moved(faces: Tensor, generator: torch.Generator) -> Tensor:
    """Return 128×128 parts of 144×144 faces, moved at random.

    They move by up to 5 px, scale by 4 % and turn by 3°; half of them are mirrored.
    """
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
    """Return degraded faces: by the papers' degradation at 9-72 px, and by far and near cameras."""
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
    """Return random pictures without a face, half of them degraded."""
    if not len(pictures):
        return torch.zeros(0, 3, SIDE, SIDE, device=pictures.device)
    rows = torch.randint(0, len(pictures), (EMPTY,), generator=generator, device=pictures.device)
    middles = pictures[rows, :, RIM : RIM + SIDE, RIM : RIM + SIDE].float() / 255
    side = int(torch.randint(12, 40, (), generator=generator, device=generator.device))
    half = EMPTY // 2
    return torch.cat((middles[:half], enlarge(shrink(middles[half:], side), SIDE)))


# --------------------------------------------------------------------------------------------- loss

Terms = Mapping[str, Tensor]


def make_loss(
    data: Material, teacher: Teacher, size: int, blocks: bool
) -> Callable[[nn.Module, torch.Generator], Terms]:
    """Return the loss of one step, block by block or as a whole.

    A batch has `size` faces and their mirror images.
    """

    def loss(model: nn.Module, generator: torch.Generator) -> Terms:
        with torch.no_grad(), torch.autocast(teacher.device.type, enabled=False):
            batch = make_batch(data, teacher, size, generator, blocks=blocks)
        x = batch.pictures.contiguous(memory_format=torch.channels_last)
        vectors, own = model(x, batch.maps if blocks else None)
        error = (vectors.float() - batch.targets).square().sum(1)
        if blocks:
            return _by_block(data.scales, own, batch.maps, error.mean())
        hints = []
        for end, target in zip(STAGE_ENDS, batch.maps, strict=True):
            hints.append(unexplained(own[end][: batch.clean].float(), target))
        return _full_loss(data, batch, vectors.float(), error, hints=torch.stack(hints).sum())

    return loss


def _by_block(
    scales: Scales, own: Sequence[Tensor], target: Sequence[Tensor], vectors: Tensor
) -> Terms:
    """Return each block's error relative to its change of the map; terms are means of stages."""
    shares = []
    for output, values, change in zip(own, target, scales.changes, strict=True):
        shares.append(F.mse_loss(output.float(), values) / change)
    terms = {"vectors": vectors}
    start = 0
    for name, end in zip(("early", "middle", "late"), STAGE_ENDS, strict=True):
        terms[name] = torch.stack(shares[start : end + 1]).mean()
        start = end + 1
    return {"loss": torch.stack(shares).sum() + vectors, **terms}


def _full_loss(
    data: Material, batch: Batch, vectors: Tensor, error: Tensor, *, hints: Tensor
) -> Terms:
    faces = batch.clean + batch.poor
    known = batch.person >= 0
    cosines = F.normalize(vectors[known], dim=1) @ data.centres.T
    terms = {
        "clean": error[: batch.clean].mean(),
        "poor": error[batch.clean : faces].mean(),
        "nothing": _damped(error[faces:]).sum() / EMPTY,
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


def _damped(error: Tensor) -> Tensor:
    """Return about the error if it is small, and about twice its root if it is large.

    Training on faces says nothing about pictures unlike all faces: at first, vectors of some are a
    thousand times too long, and one of them would outweigh all faces.
    """
    return 2 * ((1 + error).sqrt() - 1)


def unexplained(values: Tensor, target: Tensor) -> Tensor:
    """Return the squared error as a share of the variance of the target."""
    return F.mse_loss(values, target) / target.var()


def save_embedder(state: Mapping[str, Tensor], path: Path) -> None:
    """Write an EmbedderNet's tensors in float16, with its contract in the header."""
    half = {k: v.half().contiguous() if v.is_floating_point() else v for k, v in state.items()}
    save_own(half, path, FORMAT, CONTRACT)


def train_embedder(
    data: Material,
    teacher: Teacher,
    out: Path,
    plan: Plan,
    *,
    batch: int,
    report: Callable[[Progress], None],
    begin: Path | None = None,
    blocks: bool = False,
) -> int:
    """Train in folder `out`, and return the step reached.

    This writes embedder.safetensors (fp16, EMA), log.csv and curves. A new run starts with the
    weights `begin`, if given; with `blocks`, each block learns by itself.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(plan.seed)
    trainee = Trainee()
    if begin is not None and not has_checkpoint(out):
        load_state(trainee.embedder, begin, FORMAT)

    def save(state: Mapping[str, Tensor], step: int) -> None:
        prefix = "embedder."
        weights = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        save_embedder(weights, out / "embedder.safetensors")
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
    return train(
        trainee, loss, out, plan, device=teacher.device, save=save, report=report, settings=settings
    )
