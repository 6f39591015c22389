"""Train the builtin embedder: distilled from given teacher vectors, and on identities, with half of the views degraded.

Each photo is seen at full resolution and brought down to 12-32 pixels. Both views must name the person (AdaFace's
adaptive margin), both must tell the teacher's vector of the full-resolution photo, and their pairwise cosines must be
the teacher's (relational distillation): so a poor face lands where its good twin is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from fasr_video.errors import UsageError
from fasr_video.files import write_whole
from fasr_video.recognition.network import LENGTH, EmbedderNet
from fasr_video.training.curves import draw_run
from fasr_video.training.faces import Faces, degrade, views
from fasr_video.training.loop import Plan, Progress, train

SCALE, MARGIN, CONCENTRATION = 32.0, 0.4, 0.333  # AdaFace's s, m and h; s is smaller for fewer classes
CLASSES, DISTIL, RELATIONS, TWINS = 0.25, 2.0, 20.0, 1.0


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


def material(faces: Faces, teacher: Tensor, device: torch.device) -> Material:
    if len(teacher) != len(faces):
        raise UsageError("teacher vectors", f"{len(teacher)} for {len(faces)} faces", "give one row for each face")
    names = {name: i for i, name in enumerate(dict.fromkeys(faces.identities))}
    person = torch.tensor([names[n] for n in faces.identities])
    centred = teacher.float() - teacher.float().mean(0)
    return Material(faces.pictures.to(device), person.to(device), (centred / centred.square().mean().sqrt()).to(device))


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
        x = torch.cat((high, degrade(high, generator))).contiguous(memory_format=torch.channels_last)
        features, cosine = model(x)
        person, teacher = data.person[rows].repeat(2), data.teacher[rows].repeat(2, 1)
        trainee: Trainee = model.module if hasattr(model, "module") else model  # type: ignore[assignment]
        with torch.autocast(x.device.type, enabled=False):
            unit = F.normalize(features, dim=1)
            classes = adaface(trainee, cosine.float(), features.norm(dim=1), person)
            distil = F.mse_loss(trainee.to_teacher(unit * LENGTH**0.5), teacher)
            wanted = F.normalize(teacher, dim=1)
            relations = F.mse_loss(unit @ unit.T, wanted @ wanted.T)
            twins = (1 - (unit[:batch].detach() * unit[batch:]).sum(1)).mean()
            total = CLASSES * classes + DISTIL * distil + RELATIONS * relations + TWINS * twins
        return {"loss": total, "classes": classes, "distil": distil, "relations": relations, "twins": twins}

    return loss


def train_embedder(
    faces: Faces,
    teacher: Tensor,
    out: Path,
    plan: Plan,
    batch: int,
    device: torch.device,
    report: Callable[[Progress], None],
) -> int:
    """Train in folder `out`; leaves embedder.safetensors (fp16, EMA) and log.csv there. Returns the step reached."""
    out.mkdir(parents=True, exist_ok=True)
    data = material(faces, teacher, device)
    torch.manual_seed(plan.seed)
    trainee = Trainee(int(data.person.max()) + 1, teacher.shape[1])

    def save(state: Mapping[str, Tensor], step: int) -> None:
        prefix = "embedder."
        kept = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        half = {k: v.half().contiguous() if v.is_floating_point() else v for k, v in kept.items()}
        write_whole(out / "embedder.safetensors", lambda path: save_file(half, path))
        draw_run(out, ("loss", "classes", "distil"))

    settings = {"batch": batch, "faces": len(faces), "teacher": float(teacher.sum())}
    return train(trainee, make_loss(data, batch), out, plan, device, save, report, settings)
