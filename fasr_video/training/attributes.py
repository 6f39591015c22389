"""Train the compact attribute classifier on noisy faces, half of them shrunk to 12-32 px before the
noise.

The classifier guides samplers, at every noise level, and reads enlarged LR faces, which have almost
no noise. Classes have equal weight, even a rare one (glasses: 7 % in CelebA): training maximises
balanced accuracy, and C(c | x, sigma) is 1/2 where noise hides everything.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fasr_video import __version__
from fasr_video.datasets.faces import Faces, csv_rows_of, degrade, views
from fasr_video.errors import InputError, ModelError
from fasr_video.files import sha256_file
from fasr_video.sr.attributes import NAMES, AttributeClassifier
from fasr_video.sr.guidance import open_classifier
from fasr_video.sr.networks.attributes import AttributeNet
from fasr_video.sr.surveillance import Surveillance
from fasr_video.sr.weights import save_attributes
from fasr_video.training.curves import draw_run
from fasr_video.training.loop import Loss, Plan, Progress, train
from fasr_video.training.manifest import LICENCE, write_manifest

BLOCK = 4
SIGMAS = (0.002, 30.0)
# Mean and spread of ln(sigma): 85 % of the levels are below 1, where a face is still visible.
LOG_SIGMA = (-1.9, 1.8)


def read_labels(file: Path, faces: Faces) -> Tensor:
    """Return the columns NAMES of a CSV file for each face (by `path`), N×3 of 0 and 1."""
    values = []
    for row in csv_rows_of(file, faces, NAMES):
        classes = [row[name] for name in NAMES]
        if not set(classes) <= {"0", "1"}:
            labels = ", ".join(name or "nothing" for name in classes)
            raise InputError(file, f"labels of {row['path']} are {labels}", "write 0 or 1")
        values.append([int(value) for value in classes])
    return torch.tensor(values)


def class_weights(labels: Tensor) -> Tensor:
    """Return weights of the labels: both classes of an attribute count the same; the mean is 1."""
    share = labels.float().mean(0)
    return torch.where(labels > 0, 0.5 / share, 0.5 / (1 - share))


def make_loss(
    pictures: Tensor,
    labels: Tensor,
    batch: int,
    side: int,
    *,
    names: Sequence[str] = NAMES,
    surveillance: float = 0.0,
) -> Loss:
    """Return the loss of one step."""
    weights = class_weights(labels)

    def loss(model: nn.Module, generator: torch.Generator) -> Mapping[str, Tensor]:
        device = pictures.device
        rows = torch.randint(0, len(pictures), (batch,), generator=generator, device=device)
        clean = views(pictures[rows], side, True, generator)
        half = batch // 2
        clean = torch.cat((clean[:half], small(clean[half:], surveillance, generator)))
        sigma = levels(batch, generator)
        noise = torch.randn(clean.shape, generator=generator, device=device)
        logits = (
            model(clean + sigma[:, None, None, None] * noise, sigma).float().unflatten(1, (-1, 2))
        )
        truth, weight = labels[rows], weights[rows]
        right = (logits.argmax(2) == truth).float() * weight  # means are balanced accuracies
        errors = F.cross_entropy(logits.transpose(1, 2), truth, reduction="none")
        return {
            "loss": (errors * weight).mean(),
            "accuracy": right.mean(),
            **dict(zip(names, right.mean(0), strict=True)),
        }

    return loss


def small(clean: Tensor, surveillance: float, generator: torch.Generator) -> Tensor:
    """Return the faces shrunk and enlarged; in a share of the batches, damaged as by cameras."""
    if torch.rand((), generator=generator, device=generator.device) < surveillance:
        seeds = torch.randint(
            0, 2**62, (len(clean),), generator=generator, device=generator.device
        ).tolist()
        return Surveillance()(clean, seeds)
    return degrade(clean, generator)


def levels(n: int, generator: torch.Generator) -> Tensor:
    """Return a random noise level for each of n faces."""
    mean, spread = LOG_SIGMA
    log_sigma = mean + spread * torch.randn(n, generator=generator, device=generator.device)
    return log_sigma.exp().clamp(*SIGMAS)


def train_attributes(
    faces: Faces,
    labels: Tensor,
    out: Path,
    plan: Plan,
    *,
    batch: int,
    device: torch.device,
    report: Callable[[Progress], None],
    begin: str | None = None,
    surveillance: float = 0.0,
) -> int:
    """Train in folder `out`, and return the step reached.

    This writes attributes.safetensors (fp16, EMA), manifest, log and curves. A new run starts with
    the classifier `begin` (FILE or NAME=FILE), if given, and learns its attributes.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(plan.seed)
    network, names, start_sha256 = _start(begin)
    labels = _labels_of(names, labels)
    provenance = {
        "version": __version__,
        "licence": LICENCE,
        "faces": len(faces),
        "people": len(set(faces.identities)),
        "share_of_class_1": dict(zip(names, labels.float().mean(0).tolist(), strict=True)),
        "begun with": start_sha256,
        "surveillance": surveillance,
        "batch": batch,
        "plan": asdict(plan),
    }
    file = out / "attributes.safetensors"

    def save(state: Mapping[str, Tensor], step: int) -> None:
        learned = copy.deepcopy(network)
        learned.load_state_dict(state)
        save_attributes(AttributeClassifier(learned, names, *SIGMAS), file)
        write_manifest(file, step, provenance)
        draw_run(out, ("loss", "accuracy", *names))

    loss = make_loss(
        faces.pictures.to(device),
        labels.to(device),
        batch,
        network.side,
        names=names,
        surveillance=surveillance,
    )
    settings = {name: provenance[name] for name in ("batch", "faces", "begun with", "surveillance")}
    settings["labels"] = labels.sum(0).tolist()
    return train(
        network, loss, out, plan, device=device, save=save, report=report, settings=settings
    )


def _labels_of(names: Sequence[str], labels: Tensor) -> Tensor:
    """Return the columns of these attributes; raise where all faces have one value of one."""
    labels = labels[:, [NAMES.index(name) for name in names]]
    columns = zip(names, labels.T, strict=True)
    one_class = [name for name, column in columns if bool((column == column[0]).all())]
    if one_class:
        raise InputError(
            "labels", f"all faces are alike in {', '.join(one_class)}", "give faces of both classes"
        )
    return labels


def _start(begin: str | None) -> tuple[AttributeNet, tuple[str, ...], str]:
    """Return the network to start with, its attributes, and the SHA-256 of its file.

    Without a file the network is new, and the SHA-256 is empty.
    """
    if begin is None:
        return AttributeNet(len(NAMES), BLOCK), NAMES, ""
    classifier, path = open_classifier(begin)
    unknown = [name for name in classifier.names if name not in NAMES]
    if unknown:
        raise ModelError(
            path,
            f"it knows {', '.join(unknown)}, but there are no labels of that",
            "start with another one",
        )
    return classifier.network, classifier.names, sha256_file(path)
