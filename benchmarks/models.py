"""The bundled models beside their peers, on people whom none of them was trained on.

python benchmarks/models.py [--people 907] [--restored 907] [--sheets DIR]

The papers' protocol: each person's first photograph is the gallery, the second is the probe; where
faces are merged, all but the first are. `--sheets` writes pictures of the restorations, for eyes
only: they show CelebA's people, so they stay out of the repository.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from results import RESULTS, Table, command_line
from torch import Tensor

from fasr_video.datasets.faces import Faces, read_faces, views
from fasr_video.detection import open_detector
from fasr_video.evaluation.attributes import scores
from fasr_video.evaluation.pictures import consistency, psnr, ssim
from fasr_video.evaluation.significance import paired_t
from fasr_video.pipeline.stills import read_still
from fasr_video.recognition.combiner import FeatureCombiner, load_combiner, mean
from fasr_video.recognition.embedder import BuiltinEmbedder, Embedder, as_tensor
from fasr_video.recognition.embedders import open_embedder
from fasr_video.sr import samplers, sampling
from fasr_video.sr.attributes import NAMES
from fasr_video.sr.checkpoints import load_attribute_classifier
from fasr_video.sr.degradation import enlarge, shrink
from fasr_video.sr.denoiser import Condition, Denoiser
from fasr_video.sr.methods import METHODS, ModelFiles
from fasr_video.sr.methods.diffusion import FAST, load_models
from fasr_video.sr.restoration import as_image
from fasr_video.sr.sampling import sample_seed
from fasr_video.training.attributes import read_labels
from fasr_video.weights.manifest import bundled

DATA = Path(__file__).parents[2] / "shared" / "data" / "celeba"
ROOT = Path(__file__).parents[1]
PORTRAITS, SAMPLE = (
    ROOT / "tests" / "fixtures" / "portraits" / "mugshots",
    ROOT / "sample_videos" / "mugshots",
)
SIDES = (12, 16, 24, 32, 64)
SAMPLES = 4
BATCH = 16
MEASURES = ("identity", "Rank-1")
SHEET = """![LR, samples, mean, spread, truth](models.jpg)

From left to right: the 16×16 face, four samples, their mean, where they differ (×4), the
photograph. Every gallery photograph that comes with the project, drawn with only the LR face's
own feature: two in the public domain, and below them people who do not exist, whom this network
drew. CelebA's people are not shown; `--sheets DIR` writes every n-th of them, and the worst."""
# One call at the highest noise: the network's guess of the mean of all faces that fit.
ESTIMATE = "dpmpp-1"


@dataclass
class People:
    """Each person's gallery photograph, probe, and all photographs but the first."""

    faces: Faces
    gallery: list[int]
    probe: list[int]
    others: list[list[int]]
    pictures: Tensor
    embedder: BuiltinEmbedder
    dlib: Embedder
    """Saw photographs at full size alone, as recognisers commonly do, and conditioned no network.
    """
    features_by_side: dict[int, Tensor] = field(default_factory=dict)
    """Features of all faces at a size; 128 for the face as it is."""

    def features_at(self, side: int) -> Tensor:
        """Return the features of all faces, shrunk to this size; 128 is the face as it is."""
        if side not in self.features_by_side:
            seen = self.pictures if side == 128 else enlarge(shrink(self.pictures, side), 128)
            self.features_by_side[side] = self.embedder.embed(seen)[0]
        return self.features_by_side[side]


def load_people(count: int) -> People:
    faces, _ = read_faces([DATA / "val-00.tar"])
    groups = [g for g in faces.people.values() if len(g) >= 3][:count]
    rows = [r for g in groups for r in g]
    index_of = {r: i for i, r in enumerate(rows)}
    chosen = Faces(faces.pictures[rows], tuple(faces.paths[r] for r in rows))
    own = [[index_of[r] for r in g] for g in groups]
    pictures = views(chosen.pictures, 128, False, torch.Generator())
    gallery, probe, others = [g[0] for g in own], [g[1] for g in own], [g[1:] for g in own]
    return People(
        chosen,
        gallery,
        probe,
        others,
        pictures,
        BuiltinEmbedder(),
        open_embedder("dlib", None, "cpu"),
    )


# ---------------------------------------------------------------------------- embedder and combiner


def load_bundled_combiner() -> FeatureCombiner:
    return load_combiner(bundled("combiner.safetensors"))


def combiner_table(people: People, command: str) -> Table:
    """Return the table of how near merged LR features come to that of the HR photograph."""
    table = Table(
        "models",
        "Feature Combiner",
        command,
        ("merged by", "cosine to the HR feature", "better for"),
    )
    combiner, targets = load_bundled_combiner(), people.features_at(128)[people.gallery]
    plain, ours = (
        torch.stack(
            [
                (merge(people.features_at(16)[rows]) * target).sum()
                for rows, target in zip(people.others, targets, strict=True)
            ]
        )
        for merge in (mean, combiner.combine)
    )
    gain = (ours - plain).double()
    t, p = paired_t(gain.numpy())
    table.add_row(["mean", f"{plain.mean():.4f}", ""])
    table.add_row(
        [
            "Feature Combiner",
            f"{ours.mean():.4f}",
            f"{float((gain > 0).double().mean()):.0%} of people",
        ]
    )
    table.add_note(
        f"Paired t-test over {len(gain)} people: gain {gain.mean():+.4f}, t = {t:.1f}, p = "
        f"{p:.1e}. HR feature: of the gallery photograph, which is none of the merged ones."
    )
    return table


# ---------------------------------------------------------------------------------- by kind of face


def people_by_kind(people: People) -> dict[str, list[int]]:
    """Return the indexes of the people whose probe is of each kind."""
    with (DATA / "labels.csv").open(newline="") as stream:
        labels = {row["path"]: row for row in csv.DictReader(stream)}
    rows = [labels[people.faces.paths[i]] for i in people.probe]
    turned = [
        head_turn({k: float(v) for k, v in r.items() if k.endswith(("_x", "_y"))}) for r in rows
    ]
    third, two_thirds = np.quantile(turned, (1 / 3, 2 / 3))
    flags = {
        "all": [True] * len(rows),
        "men": [r["male"] == "1" for r in rows],
        "women": [r["male"] == "0" for r in rows],
        "glasses": [r["glasses"] == "1" for r in rows],
        "beard": [r["no_beard"] == "0" for r in rows],
        "most frontal third": [t <= third for t in turned],
        "middle third": [third < t <= two_thirds for t in turned],
        "most turned third": [t > two_thirds for t in turned],
    }
    return {
        kind: [i for i, is_member in enumerate(members) if is_member]
        for kind, members in flags.items()
    }


def head_turn(p: dict[str, float]) -> float:
    """Return how far the nose tip lies from the middle of the eyes, in distances of the eyes."""
    eye_distance = p["right_eye_x"] - p["left_eye_x"]
    return abs(p["nose_x"] - (p["left_eye_x"] + p["right_eye_x"]) / 2) / max(eye_distance, 1.0)


def kinds_table(people: People, restored: Restored, command: str) -> Table:
    columns = (
        "probe",
        "people",
        "Rank-1 at full size",
        "Rank-1 at 16×16",
        "PSNR gain",
        "SSIM gain",
        "identity gain",
    )
    table = Table("models", "By kind of face", command, columns)
    gallery = people.features_at(128)[people.gallery]
    ours = restored.drawn[f"FASR++, mean of {SAMPLES}"]
    low = enlarge(restored.small, 128)
    gains = [
        psnr(ours, restored.clean) - psnr(low, restored.clean),
        ssim(ours, restored.clean) - ssim(low, restored.clean),
    ]
    gains.append(restored.identity(ours, people) - restored.identity(low, people))
    for kind, rows in people_by_kind(people).items():
        ranks = [
            _rank_one_rate(people.features_at(side)[people.probe][rows] @ gallery.T, rows)
            for side in (128, 16)
        ]
        seen = [r for r in rows if r < len(restored.clean)]
        table.add_row(
            [
                kind,
                len(rows),
                *(f"{r:.3f}" for r in ranks),
                *(f"{g[seen].mean():+.3f}" for g in gains),
            ]
        )
    table.add_note(
        "Labels are CelebA's. Everybody is searched in the gallery of all. Thirds go by how far "
        f"the nose lies from the middle of the eyes. Gains are of the mean of {SAMPLES} samples "
        f"from 16×16 over the bicubic picture, of the first {len(restored.clean)} people."
    )
    return table


def _rank_one_rate(scores: Tensor, own: list[int]) -> float:
    return float((scores.argmax(1) == torch.tensor(own)).double().mean())


# --------------------------------------------------------------------------------- super-resolution


@dataclass
class Restored:
    """The probes of the first people, and the pictures that each method draws from 16×16."""

    clean: Tensor
    small: Tensor
    drawn: dict[str, Tensor]
    samples: Tensor
    """N×SAMPLES pictures of FASR++."""

    def identity(self, pictures: Tensor, people: People) -> Tensor:
        """Return the cosine of each picture's feature with the true picture's."""
        truth = people.features_at(128)[people.probe[: len(pictures)]]
        return (people.embedder.embed(pictures)[0] * truth).sum(1)


def restore(people: People, count: int) -> Restored:
    """Restore the first people's probes with each method."""
    models = load_models(METHODS["fasr++"], ModelFiles(), torch.device("cpu"))
    models.denoiser.precision = torch.bfloat16
    rows = people.probe[:count]
    clean = people.pictures[rows]
    small = shrink(clean, 16)
    lr = enlarge(small, 128)
    auxiliaries = [
        [r for r in others if r != own] for others, own in zip(people.others, rows, strict=False)
    ]
    low = people.features_at(16)
    combiner = load_bundled_combiner()
    features_by_method = {
        "SDE-SR: no feature": torch.zeros(len(rows), low.shape[1]),
        "FASR: mean feature": torch.stack([mean(low[a]) for a in auxiliaries]),
    }
    drawn = {
        name: draw_samples(models.denoiser, models.condition(lr, 16, feature), FAST, 1)[:, 0]
        for name, feature in features_by_method.items()
    }
    merged = torch.stack([combiner.combine(low[a]) for a in auxiliaries])
    condition = models.condition(lr, 16, merged)
    samples = draw_samples(models.denoiser, condition, FAST, SAMPLES)
    drawn["FASR++: Feature Combiner"] = samples[:, 0]
    drawn["FASR++, mean of 2"] = samples[:, :2].mean(1)
    drawn[f"FASR++, mean of {SAMPLES}"] = samples.mean(1)
    drawn[f"FASR++ by {ESTIMATE}: one call"] = draw_samples(
        models.denoiser, condition, ESTIMATE, 1
    )[:, 0]
    return Restored(clean, small, drawn, samples)


def draw_samples(denoiser: Denoiser, condition: Condition, sampler: str, samples: int) -> Tensor:
    """Return N×samples×3×128×128 pictures; a face's noise is the same for every method."""
    count = len(condition.lr)
    rows = torch.arange(count).repeat_interleave(samples)
    noise = samplers.generators([sample_seed(i, k) for i in range(count) for k in range(samples)])
    plan = sampling.parse(sampler)
    parts = [
        sampling.draw(denoiser, condition[rows[i : i + BATCH]], plan, noise[i : i + BATCH])
        for i in range(0, len(rows), BATCH)
    ]
    return torch.cat(parts).unflatten(0, (count, samples))


def restoration_table(people: People, restored: Restored, command: str) -> Table:
    columns = (
        "from 16×16",
        "PSNR",
        "SSIM",
        *(f"{w} by {who}" for who in ("dlib", "ours") for w in MEASURES),
    )
    columns += ("LR consistency",)
    title = (
        f"Super-resolution: {len(restored.clean)} faces, gallery of {len(people.gallery)} people"
    )
    table = Table("models", title, command, columns)
    own = list(range(len(restored.clean)))
    embedders = (people.dlib, people.embedder)
    gallery = [e.embed(people.pictures[people.gallery])[0] for e in embedders]
    truth = [e.embed(restored.clean)[0] for e in embedders]
    for name, pictures in {
        "bicubic": enlarge(restored.small, 128),
        **restored.drawn,
        "the true face": restored.clean,
    }.items():
        cells = [
            f"{float(psnr(pictures, restored.clean).mean()):.2f}"
            if name != "the true face"
            else "",
            f"{float(ssim(pictures, restored.clean).mean()):.3f}",
        ]
        for embedder, known, true in zip(embedders, gallery, truth, strict=True):
            features = embedder.embed(pictures)[0]
            cells += [
                f"{float((features * true).sum(1).mean()):.3f}",
                f"{_rank_one_rate(features @ known.T, own):.3f}",
            ]
        cells.append(f"{float(consistency(pictures, restored.small).mean()):.1f}")
        table.add_row([name, *cells])
    spread = restored.samples.std(1).mean()
    table.add_note(
        f"Sampler `{FAST}`: {sampling.parse(FAST).calls} calls a sample. The feature is merged "
        "from the person's other photographs at 16×16, the probe and the gallery photograph not "
        "among them. Identity: cosine of the features of the picture and of the true face. Our "
        "embedder reads small faces as they are and gave the network its feature: it gains "
        "nothing from a reconstruction, and favours it. dlib was trained on photographs at full "
        f"size only. Spread of the samples {spread:.3f}. A sample of a true posterior is 3 dB "
        "below the posterior's mean, however good the network is: the mean is nearer to the truth "
        "and softer; samples show what a face may look like."
    )
    return table


def write_sheets(people: People, restored: Restored, folder: Path) -> None:
    """Write LR, samples, mean, spread and truth of every n-th person, and of the worst ones."""
    folder.mkdir(parents=True, exist_ok=True)
    ours = restored.drawn[f"FASR++, mean of {SAMPLES}"]
    identity = restored.identity(ours, people)
    count = len(ours)
    chosen = {
        "every": list(range(0, count, max(1, count // 8)))[:8],
        "worst": identity.argsort()[:8].tolist(),
    }
    for name, rows in chosen.items():
        lines = [
            draw_sheet_line(restored.small[i], restored.samples[i], restored.clean[i]) for i in rows
        ]
        write_sheet(lines, folder / f"{name}.jpg")


def write_public_sheet(path: Path) -> None:
    """Write the sheet of photographs that may be shown.

    Two are in the public domain; the others show people who do not exist.
    """
    detector = open_detector("builtin", weights=None, device="cpu", min_score=0.5)
    photos = sorted(
        [*PORTRAITS.glob("*.jpg"), *SAMPLE.glob("*.jpg")],
        key=lambda p: (p.parent != PORTRAITS, p.name),
    )
    faces = [as_tensor([read_still(photo, detector).face]) for photo in photos]
    clean = torch.cat([shrink(f, 128) if f.shape[-1] > 128 else enlarge(f, 128) for f in faces])
    small = shrink(clean, 16)
    lr = enlarge(small, 128)
    models = load_models(METHODS["fasr++"], ModelFiles(), torch.device("cpu"))
    features = torch.stack(
        [
            load_bundled_combiner().combine(feature[None])
            for feature in BuiltinEmbedder().embed(lr)[0]
        ]
    )
    samples = draw_samples(models.denoiser, models.condition(lr, 16, features), FAST, SAMPLES)
    write_sheet([draw_sheet_line(*row) for row in zip(small, samples, clean, strict=True)], path)


def draw_sheet_line(small: Tensor, samples: Tensor, clean: Tensor) -> Tensor:
    spread = (4 * samples.std(0).mean(0)).clamp(0, 1).expand(3, -1, -1)
    return torch.cat(
        [enlarge(small[None], 128)[0], *samples, samples.mean(0), spread, clean], dim=2
    )


def write_sheet(lines: list[Tensor], path: Path) -> None:
    Image.fromarray(as_image(torch.cat(lines, dim=1))).save(path, quality=90)
    print(f"written: {path} (LR, {SAMPLES} samples, mean, spread ×4, truth)")


# --------------------------------------------------------------------------------------- attributes


def attributes_table(people: People, command: str) -> Table:
    columns = ("shown", *(f"{n}: {what}" for n in NAMES for what in ("right", "balanced")))
    table = Table("models", f"Attributes: {len(people.faces)} faces", command, columns)
    labels = read_labels(DATA / "labels.csv", people.faces)
    classifier = load_attribute_classifier(bundled("attributes.safetensors"))
    rows: dict[str, list[str]] = {}
    for score in scores(classifier, people.faces, labels):
        size = (
            ""
            if score.view.side is None
            else f", brought down to {score.view.side}×{score.view.side}"
        )
        rows.setdefault(f"sigma {score.view.sigma:g}{size}", []).extend(
            (f"{score.accuracy:.3f}", f"{score.balanced:.3f}")
        )
    for name, cells in rows.items():
        table.add_row([name, *cells])
    commoner = [float(labels[:, i].float().mean()) for i in range(len(NAMES))]
    table.add_row(
        [
            "the commoner answer always",
            *(c for share in commoner for c in (f"{max(share, 1 - share):.3f}", "0.500")),
        ]
    )
    table.add_note(
        "Balanced: the mean over both classes. The classifier is trained for that, since glasses "
        "are rare."
    )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=907)
    parser.add_argument("--restored", type=int, default=907)
    parser.add_argument("--sheets", type=Path)
    args = parser.parse_args()
    command = command_line()
    people = load_people(args.people)
    first = combiner_table(people, command)
    restored = restore(people, args.restored)
    third = restoration_table(people, restored, command)
    fourth = kinds_table(people, restored, command)
    fifth = attributes_table(people, command)
    fifth.add_note(
        "The embedder stands beside its peers in `embedders.md`, the detector beside Haar in "
        "`detection.md` and `clips.md`, samplers in `sr_ladder.md`, merges in `merges.md`, "
        "searches with people who are not in the gallery in `open_set.md`."
    )
    third.add_note(SHEET)
    first.write(third, fourth, fifth)
    write_public_sheet(RESULTS / "models.jpg")
    if args.sheets:
        write_sheets(people, restored, args.sheets)


if __name__ == "__main__":
    main()
