"""Train the builtin embedder: distilled from given teacher vectors, and on identities, with half of the views degraded.

Each photo is seen at full resolution and brought down to 12-32 pixels. Both views must name the person (AdaFace's
adaptive margin), both must tell the teacher's vector of the full-resolution photo, and their pairwise cosines must be
the teacher's (relational distillation): so a poor face lands where its good twin is. What a view tells of the teacher's
vector must also be nearest to the person's own mean teacher vector among all people's: centres that need no learning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fasr_video.checkpoint import load_state, save_own
from fasr_video.errors import UsageError
from fasr_video.recognition.network import CONTRACT, FORMAT, LENGTH, EmbedderNet
from fasr_video.training.curves import draw_run
from fasr_video.training.faces import Faces, degrade, views
from fasr_video.training.loop import Plan, Progress, train

SCALE, MARGIN, CONCENTRATION = 32.0, 0.4, 0.333  # AdaFace's s, m and h; s is smaller for fewer classes
CLASSES, DISTIL, RELATIONS, TWINS, PEOPLE = 0.25, 2.0, 20.0, 1.0, 1.0
PEOPLE_SCALE = 16.0


class Trainee(nn.Module):
    """The embedder with what only its training needs: a class centre for each person and a head that speaks teacher."""

    norm_mean: Tensor
    norm_std: Tensor

    def __init__(self, people: int, teacher_length: int) -> None:
        super().__init__()
        self.embedder = EmbedderNet()
        self.centres = nn.Parameter(F.normalize(torch.randn(people, LENGTH), dim=1))
        self.to_teacher = nn.Linear(LENGTH, teacher_length)
        self.register_buffer("norm_mean", torch.tensor(20.0))
        self.register_buffer("norm_std", torch.tensor(100.0))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(features N×512, not normalised; cosine with each class centre)."""
        features = self.embedder(x).float()
        return features, F.normalize(features, dim=1) @ F.normalize(self.centres, dim=1).T


@dataclass(frozen=True, slots=True)
class Material:
    pictures: Tensor
    """N×3×S×S uint8."""
    person: Tensor
    """N class numbers."""
    teacher: Tensor
    """N×T, zero mean and unit mean square over the set."""
    people: Tensor
    """P×T: each person's mean teacher vector, a unit vector."""


def material(faces: Faces, teacher: Tensor, device: torch.device) -> Material:
    if len(teacher) != len(faces):
        raise UsageError("teacher vectors", f"{len(teacher)} for {len(faces)} faces", "give one row for each face")
    names = {name: i for i, name in enumerate(dict.fromkeys(faces.identities))}
    person = torch.tensor([names[n] for n in faces.identities])
    centred = teacher.float() - teacher.float().mean(0)
    centred = centred / centred.square().mean().sqrt()
    people = F.normalize(torch.zeros(len(names), teacher.shape[1]).index_add_(0, person, centred), dim=1)
    return Material(faces.pictures.to(device), person.to(device), centred.to(device), people.to(device))


def adaface(trainee: Trainee, cosine: Tensor, norms: Tensor, person: Tensor) -> Tensor:
    """Softmax loss with a margin that bends towards hard samples where quality is good, easy ones where it is poor.

    (Kim, Jain and Liu 2022, eq. 8-12; the norm's statistics are running means over batches.)
    """
    norms = norms.detach().clamp(0.001, 100)
    with torch.no_grad():
        trainee.norm_mean.lerp_(norms.mean(), 0.01)
        trainee.norm_std.lerp_(norms.std(), 0.01)
    quality = ((norms - trainee.norm_mean) / (trainee.norm_std + 1e-3) * CONCENTRATION).clamp(-1, 1)
    own = cosine.gather(1, person[:, None])[:, 0].clamp(-1 + 1e-4, 1 - 1e-4)
    angle = (own.acos() - MARGIN * quality).clamp(1e-4, torch.pi - 1e-4)
    hard = angle.cos() - MARGIN * (1 + quality)
    logits = cosine.scatter(1, person[:, None], hard[:, None])
    return F.cross_entropy(SCALE * logits, person)


def make_loss(data: Material, batch: int) -> Callable[[nn.Module, torch.Generator], Mapping[str, Tensor]]:
    def loss(model: nn.Module, generator: torch.Generator) -> Mapping[str, Tensor]:
        rows = torch.randint(0, len(data.pictures), (batch,), generator=generator, device=generator.device)
        high = views(data.pictures[rows], 128, True, generator)
        gain = 1 + 0.2 * (torch.rand(2, batch, 1, 1, 1, generator=generator, device=generator.device) - 0.5)
        high = ((high - 0.5) * gain[0] + 0.5 * gain[1]).clamp(0, 1)
        both = torch.cat((high, degrade(high, generator)))
        features, cosine = model(both.contiguous(memory_format=torch.channels_last))
        person, teacher = data.person[rows].repeat(2), data.teacher[rows].repeat(2, 1)
        trainee: Trainee = model.module if hasattr(model, "module") else model  # type: ignore[assignment]
        with torch.autocast(high.device.type, enabled=False):
            unit = F.normalize(features, dim=1)
            classes = adaface(trainee, cosine.float(), features.norm(dim=1), person)
            told = trainee.to_teacher(unit * LENGTH**0.5)
            distil = F.mse_loss(told, teacher)
            people = F.cross_entropy(PEOPLE_SCALE * F.normalize(told, dim=1) @ data.people.T, person)
            wanted = F.normalize(teacher, dim=1)
            relations = F.mse_loss(unit @ unit.T, wanted @ wanted.T)
            twins = (1 - (unit[:batch].detach() * unit[-batch:]).sum(1)).mean()
            total = CLASSES * classes + DISTIL * distil + RELATIONS * relations + TWINS * twins + PEOPLE * people
        terms = {"classes": classes, "distil": distil, "relations": relations, "twins": twins, "people": people}
        return {"loss": total, **terms}

    return loss


@torch.no_grad()
def begin_at(trainee: Trainee, weights: Path, data: Material) -> None:
    """Go on from an embedder's weights: class centres and the head that speaks teacher are fitted to its features."""
    load_state(trainee.embedder, weights, FORMAT)
    net = trainee.embedder.to(data.pictures.device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    parts = []
    with torch.autocast(data.pictures.device.type, torch.bfloat16):
        for start in range(0, len(data.pictures), 256):
            some = data.pictures[start : start + 256]
            x = views(some, 128, False, torch.Generator(some.device)).contiguous(memory_format=torch.channels_last)
            parts.append(F.normalize(net(x).float(), dim=1))
    unit = torch.cat(parts)
    trainee.centres.copy_(torch.zeros_like(trainee.centres).to(unit).index_add_(0, data.person, unit))
    inputs = torch.cat((unit * LENGTH**0.5, torch.ones_like(unit[:, :1])), 1)
    squares = inputs.T @ inputs + 1e-2 * len(inputs) * torch.eye(LENGTH + 1, device=inputs.device)
    fit = torch.linalg.solve(squares, inputs.T @ data.teacher)
    trainee.to_teacher.weight.copy_(fit[:-1].T)
    trainee.to_teacher.bias.copy_(fit[-1])


def save_embedder(state: Mapping[str, Tensor], path: Path) -> None:
    """An EmbedderNet's tensors in float16, with its contract in the header."""
    half = {k: v.half().contiguous() if v.is_floating_point() else v for k, v in state.items()}
    save_own(half, path, FORMAT, CONTRACT)


def train_embedder(
    faces: Faces,
    teacher: Tensor,
    out: Path,
    plan: Plan,
    batch: int,
    device: torch.device,
    report: Callable[[Progress], None],
    begin: Path | None = None,
) -> int:
    """Train in folder `out`; leaves embedder.safetensors (fp16, EMA) and log.csv there. Returns the step reached.

    A new run begins with the weights of `begin`, if given.
    """
    out.mkdir(parents=True, exist_ok=True)
    data = material(faces, teacher, device)
    torch.manual_seed(plan.seed)
    trainee = Trainee(int(data.person.max()) + 1, teacher.shape[1])
    if begin is not None and not (out / "state.pt").exists():
        begin_at(trainee, begin, data)

    def save(state: Mapping[str, Tensor], step: int) -> None:
        prefix = "embedder."
        kept = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        save_embedder(kept, out / "embedder.safetensors")
        draw_run(out, ("loss", "classes", "distil", "people"))

    settings = {"batch": batch, "faces": len(faces), "teacher": float(teacher.sum())}
    return train(trainee, make_loss(data, batch), out, plan, device, save, report, settings)
