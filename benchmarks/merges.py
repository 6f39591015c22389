"""Ways to merge a person's poor faces into one feature: Feature Combiners beside means.

python benchmarks/merges.py [--combiner FILE]… [--people N] [--faces FILE.tar]

Each person's first photograph at full size is the gallery; the others, at 16×16, are the probe.
With a stranger, one more face of somebody else is among them, as when a tracker has mixed two
people up. Beside the Feature Combiner in the package each `--combiner` is another one.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from results import Table, command_line
from torch import Tensor

from fasr_video.datasets.faces import read_faces, views
from fasr_video.evaluation.open_set import Scores, rank_and_area
from fasr_video.evaluation.significance import paired_t
from fasr_video.recognition.combiner import (
    FeatureCombiner,
    load_combiner,
    mean,
    robust_mean,
    weighted_mean,
)
from fasr_video.recognition.embedder import BuiltinEmbedder
from fasr_video.sr.degradation import enlarge, shrink
from fasr_video.weights.manifest import bundled

DATA = Path(__file__).parents[2] / "shared" / "data" / "celeba" / "val-00.tar"
SIDE = 16
MEAN = "mean"
# (K×D features, K norms) → D.
Merge = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class FeatureSet:
    """Several people's features."""

    gallery: Tensor
    """P×D: of each person's first photograph at full size."""
    small: Tensor
    """M×D: of all photographs, shrunk."""
    norms: Tensor
    groups: list[list[int]]
    """The rows of each person; the first is the gallery's."""


def load_combiners(files: Sequence[Path], embedder: BuiltinEmbedder) -> dict[str, FeatureCombiner]:
    """Return the Feature Combiner in the package and those of the files, by name."""
    by_name: dict[str, FeatureCombiner] = {}
    for file in (bundled("combiner.safetensors"), *files):
        combiner = load_combiner(file)
        if combiner.source.sha256 != embedder.sha256:
            raise SystemExit(
                f"{file}: made for another embedder; train it on features of the one in the package"
            )
        margin = "unknown" if combiner.margin is None else f"{combiner.margin:g}"
        where = (
            "in the package"
            if file == bundled("combiner.safetensors")
            else f"{file.parent.name}/{file.name}"
        )
        by_name[f"Feature Combiner, eta {combiner.eta:g}, margin {margin} ({where})"] = combiner
    return by_name


def merge_methods(combiners: dict[str, FeatureCombiner]) -> dict[str, Merge]:
    """Return all merge methods by name."""

    def merge_by(combiner: FeatureCombiner) -> Merge:
        return lambda f, n: combiner.combine(f)

    by_name: dict[str, Merge] = {
        "one face alone": lambda f, n: f[0],
        MEAN: lambda f, n: mean(f),
        "weighted by the feature's norm": weighted_mean,
        "geometric median": lambda f, n: robust_mean(f),
    }
    for name, combiner in combiners.items():
        by_name[name] = merge_by(combiner)
    return by_name


def merge_people(merge: Merge, people: FeatureSet, stranger: bool) -> Tensor:
    """Return each person's merged feature, P×D.

    A stranger's face, one of the person before, comes last.
    """
    features = []
    for k, own in enumerate(people.groups):
        rows = own[1:] + ([people.groups[k - 1][1]] if stranger else [])
        features.append(merge(people.small[rows], people.norms[rows]))
    return torch.stack(features)


def cosines_to_truth(features: Tensor, people: FeatureSet) -> Scores:
    """Return the cosine of each merged feature to the true one."""
    return (features.double() * people.gallery.double()).sum(1).numpy()


def compare_with_mean(found: Scores, plain: Scores) -> list[str]:
    """Return the mean gain over the plain mean, Student's t and p of the pairs."""
    gains = found - plain
    t, p = paired_t(gains)
    return [f"{gains.mean():+.4f}", f"{t:.2f}", f"{p:.1e}" if p else "< 1e-300"]


def read_people(file: Path, embedder: BuiltinEmbedder, count: int | None) -> FeatureSet:
    faces, _ = read_faces([file])
    groups = [own for own in faces.people.values() if len(own) >= 3][:count]
    rows = [row for own in groups for row in own]
    number = {row: k for k, row in enumerate(rows)}
    pictures = views(faces.pictures[rows], 128, False, torch.Generator())
    own = [[number[row] for row in group] for group in groups]
    small, norms = embedder.embed(enlarge(shrink(pictures, SIDE), 128))
    gallery, _ = embedder.embed(pictures[[group[0] for group in own]])
    return FeatureSet(gallery, small, norms, own)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--combiner", type=Path, action="append", default=[], metavar="FILE")
    parser.add_argument("--faces", type=Path, default=DATA)
    parser.add_argument("--people", type=int, help="only the first ones")
    args = parser.parse_args()
    embedder = BuiltinEmbedder()
    methods = merge_methods(load_combiners(args.combiner, embedder))
    people = read_people(args.faces, embedder, args.people)
    of_each = sum(len(own) - 1 for own in people.groups) / len(people.groups)
    title = f"Merging {SIDE}×{SIDE} faces: {len(people.groups)} people, {of_each:.1f} faces each"
    columns = [
        "merged by",
        "cosine to the true feature",
        "gain on the mean",
        "t",
        "p",
        "Rank-1",
        "AUC",
    ]
    table = Table(
        "merges", title, command_line(), [*columns, "Rank-1 with a stranger", "AUC with a stranger"]
    )
    plain = cosines_to_truth(merge_people(methods[MEAN], people, False), people)
    for name, merge in methods.items():
        clean, mixed = (merge_people(merge, people, stranger) for stranger in (False, True))
        cosines = cosines_to_truth(clean, people)
        tested = compare_with_mean(cosines, plain) if name != MEAN else ["", "", ""]
        ranks = [
            rank_and_area((features @ people.gallery.T).numpy()) for features in (clean, mixed)
        ]
        cells = [cell for rank, area in ranks for cell in (f"{rank:.3f}", f"{area:.4f}")]
        table.add_row([name, f"{cosines.mean():.4f}", *tested, *cells])
    table.add_note(
        "People are CelebA's validation part, never trained on. The true feature is that of the "
        "person's first photograph at full size, which is none of the merged ones. t and p "
        "(two-sided): paired t-test over people of the cosine against the mean's."
    )
    table.add_note(
        "Each Feature Combiner is used with the eta that it was trained with. Its margin is that "
        "of the triplet loss, by default just above the gap that the plain mean leaves between a "
        "stranger and the person (`train combiner` prints both)."
    )
    table.write()


if __name__ == "__main__":
    main()
