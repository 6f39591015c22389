"""Guidance by attributes: what it does to a picture, with right and with wrong attributes, and what
it costs.

python benchmarks/srdg.py [--people 48] [--guidance 50] [--published FILE]

People whom no network was trained on; the first photograph of each is the gallery, the second is
drawn from 16×16 (×8) and 8×8 (×16). `--published` is SRDG's classifier of sex, which judges beside
the bundled one that does the guiding.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from models import DATA, load_bundled_combiner
from results import Table, command_line
from torch import Tensor

from fasr_video.datasets.faces import Faces, read_faces, views
from fasr_video.evaluation.pictures import psnr, ssim
from fasr_video.recognition.embedder import Embedder
from fasr_video.recognition.embedders import open_embedder
from fasr_video.sr import samplers, sampling
from fasr_video.sr.attributes import NAMES, YES, Attribute, AttributeClassifier
from fasr_video.sr.degradation import enlarge, shrink
from fasr_video.sr.denoiser import Condition, Denoiser
from fasr_video.sr.guidance import STRENGTH, Guidance, open_guidance
from fasr_video.sr.methods import METHODS, ModelFiles
from fasr_video.sr.methods.diffusion import FAST, load_models
from fasr_video.sr.sampling import sample_seed
from fasr_video.training.attributes import read_labels

PUBLISHED = DATA.parent / "srdg" / "ckpt_gender"
SIDES = (16, 8)
BATCH = 16
ONE, ALL = ("male",), tuple(YES)
TARGETS = {
    "none": ((), True),
    "1 right": (ONE, True),
    "3 right": (ALL, True),
    "1 wrong": (ONE, False),
    "3 wrong": (ALL, False),
}
CALLS = 5


@dataclass(frozen=True)
class People:
    clean: Tensor
    true: list[dict[str, bool]]
    """Of each drawn person, by the names that people say; CelebA's labels."""
    auxiliaries: list[Tensor]
    """Each person's other photographs, but for that in the gallery."""
    scorer: Embedder
    """dlib, which conditioned no network."""
    gallery: Tensor
    """Its features of everybody; the drawn people first."""
    own: Tensor
    """Its features of the true pictures."""


def load_people(count: int, scorer: Embedder) -> People:
    faces, _ = read_faces([DATA / "val-00.tar"])
    groups = [g for g in faces.people.values() if len(g) >= 3]
    drawn = groups[:count]
    labels = read_labels(DATA / "labels.csv", faces)
    true = [
        {name: int(labels[g[1], NAMES.index(inner)]) == yes for name, (inner, yes) in YES.items()}
        for g in drawn
    ]
    clean = canonical_faces(faces, [g[1] for g in drawn])
    gallery = scorer.embed(canonical_faces(faces, [g[0] for g in groups]))[0]
    auxiliaries = [canonical_faces(faces, g[2:]) for g in drawn]
    return People(clean, true, auxiliaries, scorer, gallery, scorer.embed(clean)[0])


def canonical_faces(faces: Faces, rows: list[int]) -> Tensor:
    return views(faces.pictures[rows], 128, False, torch.Generator())


def make_attributes(
    true: dict[str, bool], names: Sequence[str], right: bool
) -> tuple[Attribute, ...]:
    return tuple(Attribute(name, true[name] == right) for name in names)


def draw_samples(
    denoiser: Denoiser,
    condition: Condition,
    guidance: Guidance,
    rows: Sequence[tuple[Attribute, ...]],
) -> Tensor:
    """Return one sample a face; its noise is the same for all attributes."""
    sampler, parts = sampling.parse(FAST), []
    for i in range(0, len(rows), BATCH):
        noise = samplers.generators(
            [sample_seed(k, 0) for k in range(i, min(i + BATCH, len(rows)))]
        )
        guided = guidance.guided(denoiser, rows[i : i + BATCH], bounded=sampler.in_few_steps)
        parts.append(sampling.draw(guided, condition[i : i + BATCH], sampler, noise))
    return torch.cat(parts)


@torch.no_grad()
def agreement(
    classifier: AttributeClassifier, pictures: Tensor, wanted: Sequence[dict[str, bool]], name: str
) -> float:
    """Return the share of the pictures whose reading is the wanted one."""
    inner, yes = YES[name]
    logs = classifier.logs(pictures, torch.full((len(pictures),), classifier.sigma_min))
    predicted = logs[:, classifier.names.index(inner)].argmax(1) == yes
    return float((predicted == torch.tensor([w[name] for w in wanted])).double().mean())


def effect_table(people: People, guidance: Guidance, other: Guidance | None, command: str) -> Table:
    read = tuple(f"{name} as asked" for name in YES)
    measured = ("PSNR", "SSIM", "identity by dlib", "Rank-1 by dlib")
    columns = ("from", "by", "attributes", *read, "male, another judge", *measured)
    count = len(people.clean)
    title = (
        f"Guidance by attributes: {count} faces, gallery of {len(people.gallery)}, strength "
        f"{guidance.strength:g}"
    )
    table = Table("srdg", title, command, columns)
    models = load_models(METHODS["fasr++"], ModelFiles(), torch.device("cpu"))
    models.denoiser.precision = torch.bfloat16
    embedder, combiner = models.features.embedder, load_bundled_combiner()
    assert embedder is not None
    (judge,) = guidance.classifiers.parts
    for side in SIDES:
        lr = enlarge(shrink(people.clean, side), 128)
        merged = [
            combiner.combine(embedder.embed(enlarge(shrink(a, side), 128))[0])
            for a in people.auxiliaries
        ]
        feature = torch.stack(merged)
        for method, features in (("SDE-SR", torch.zeros_like(feature)), ("FASR++", feature)):
            for what, (names, right) in TARGETS.items():
                rows = [make_attributes(true, names, right) for true in people.true]
                condition = models.condition(lr, side, features)
                pictures = draw_samples(models.denoiser, condition, guidance, rows)
                wanted = [
                    true | {a.name: a.value for a in row}
                    for true, row in zip(people.true, rows, strict=True)
                ]
                features = people.scorer.embed(pictures)[0]
                ranked = (features @ people.gallery.T).argmax(1) == torch.arange(count)
                judged = (
                    ""
                    if other is None
                    else f"{agreement(other.classifiers.parts[0], pictures, wanted, 'male'):.3f}"
                )
                table.add_row(
                    [
                        f"{side}×{side}",
                        method,
                        what,
                        *(f"{agreement(judge, pictures, wanted, name):.3f}" for name in YES),
                        judged,
                        f"{float(psnr(pictures, people.clean).mean()):.2f}",
                        f"{float(ssim(pictures, people.clean).mean()):.3f}",
                        f"{float((features * people.own).sum(1).mean()):.3f}",
                        f"{float(ranked.double().mean()):.3f}",
                    ]
                )
    table.add_note(
        f"Sampler `{FAST}`, one sample; the same noise in every row. Attributes that were not "
        "requested are compared with CelebA's labels, the others with the request; a wrong one is "
        "the opposite of the label. The classifier that guides also reads the pictures, which "
        "favours them; the other judge is SRDG's published classifier of sex. Identity: cosine of "
        "dlib's features of the picture and of the true face. 8×8 lies below what the network was "
        "trained on."
    )
    return table


def cost_table(guidance: Guidance, other: Guidance | None) -> Table:
    """Return the table of the time of a guided network call over that of a plain one."""
    columns = ("classifier", "faces a call", "ms a face, plain", "times as long, guided")
    table = Table("srdg", "Cost of guidance a step", "", columns)
    denoiser = load_models(METHODS["sde-sr-ve"], ModelFiles(), torch.device("cpu")).denoiser
    denoiser.precision = torch.bfloat16
    classifiers = {"bundled, all three attributes": guidance}
    if other is not None:
        classifiers["published, one attribute"] = other
    for name, guidance_used in classifiers.items():
        for n in (1, 8):
            targets = make_attributes(
                dict.fromkeys(YES, True), list(guidance_used.classifiers.provenance), True
            )
            plain = measure_call(denoiser, n)
            guided = measure_call(guidance_used.guided(denoiser, [targets] * n, bounded=True), n)
            table.add_row([name, n, f"{1e3 * plain / n:.1f}", f"{guided / plain:.2f}"])
    return table


@torch.no_grad()
def measure_call(denoiser: Denoiser, n: int) -> float:
    """Return the seconds of one network call on n faces: the shortest of a few."""
    g = torch.Generator().manual_seed(0)
    x, sigma = torch.rand(n, 3, 128, 128, generator=g), torch.full((n,), 0.3)
    call: Callable[[Tensor, Tensor], Tensor] = denoiser.conditioned(
        Condition(x, torch.zeros(n, denoiser.feature_length))
    )
    spent = []
    for _ in range(CALLS + 1):  # the first one warms up
        start = time.monotonic()
        call(x, sigma)
        spent.append(time.monotonic() - start)
    return min(spent[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=48)
    parser.add_argument("--guidance", type=float, default=STRENGTH)
    parser.add_argument("--published", type=Path, default=PUBLISHED)
    args = parser.parse_args()
    command = command_line()
    device = torch.device("cpu")
    guidance = open_guidance((), args.guidance, device)
    other = (
        open_guidance([f"male={args.published}"], args.guidance, device)
        if args.published.is_file()
        else None
    )
    people = load_people(args.people, open_embedder("dlib", None, "cpu"))
    effect = effect_table(people, guidance, other, command)
    effect.write(cost_table(guidance, other))


if __name__ == "__main__":
    main()
