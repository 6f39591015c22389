"""Whom the bundled recogniser does worse for: people never trained on, by every label that there is
of them.

python benchmarks/bias.py [--people 907] [--restored 256] [--samples 2] [--repeats 1000] [--fillers
FILE.tar]

Each person's first photograph is the gallery, the second is the search. `--restored 0` leaves
super-resolution out, which takes most of the time. The last table is how FPIR grows with the
gallery; people of `--fillers` fill it up.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from models import BATCH, DATA, People, draw_samples, head_turn, load_bundled_combiner, load_people
from numpy.typing import NDArray
from results import Table, command_line
from torch import Tensor

from fasr_video.datasets.faces import read_faces, views
from fasr_video.evaluation.open_set import lowest_threshold
from fasr_video.recognition.embedder import Embedder
from fasr_video.sr.degradation import enlarge, shrink
from fasr_video.sr.methods import METHODS, ModelFiles
from fasr_video.sr.methods.diffusion import FAST, load_models

SIDE = 16
FPIR = 0.01
FMR = 0.001
SIZES = (100, 300, 907, 3000)
# Random galleries of each size.
DRAWS = 20
# What a label says where it is 1, and where it is 0.
NAMES = {
    "male": ("men", "women"),
    "glasses": ("glasses", "no glasses"),
    "no_beard": ("no beard", "beard"),
    "young": ("young", "not young"),
}
NO_LABELS = {"found"}
Flags = NDArray[np.bool_]
Scores = NDArray[np.float64]
Groups = dict[str, Flags]


@dataclass(frozen=True)
class Search:
    """Everybody searched for in the gallery of all, with and without their own photograph."""

    scores: Scores
    """Searches × gallery; row i is of the person of column i."""

    @property
    def own(self) -> Scores:
        return np.asarray(np.diagonal(self.scores))

    @property
    def others(self) -> Scores:
        """Return the scores with -inf in place of the person's own."""
        scores = self.scores.copy()
        np.fill_diagonal(scores, -np.inf)
        return scores


def read_groups(people: People, count: int) -> Groups:
    """Return which probes are of each group: by each yes-or-no label, and by pose."""
    with (DATA / "labels.csv").open(newline="") as stream:
        labels = {row["path"]: row for row in csv.DictReader(stream)}
    rows = [labels[people.faces.paths[i]] for i in people.probe[:count]]
    groups = {"all": np.ones(len(rows), np.bool_)}
    for column in rows[0]:
        if column not in NO_LABELS and {row[column] for row in rows} <= {"0", "1"}:
            yes, no = NAMES.get(column, (column, f"not {column}"))
            flags = np.array([row[column] == "1" for row in rows])
            groups |= {yes: flags, no: ~flags}
    turns = np.array(
        [head_turn({k: float(v) for k, v in r.items() if k.endswith(("_x", "_y"))}) for r in rows]
    )
    low, high = np.quantile(turns, (1 / 3, 2 / 3))
    thirds = (turns <= low, (turns > low) & (turns <= high), turns > high)
    return groups | dict(
        zip(("most frontal third", "middle third", "most turned third"), thirds, strict=True)
    )


def bootstrap_weights(members: int, repeats: int) -> Scores:
    """Return how often each member is drawn, a row a redraw; the first row is the group itself."""
    generator = np.random.default_rng(0)
    counts = generator.multinomial(members, np.full(members, 1 / members), repeats)
    return np.vstack([np.ones(members), counts]).astype(np.float64)


def format_band(values: Scores) -> str:
    """Return the first value with the 95 % band of the others."""
    if not np.isfinite(values[0]):
        return "too few"
    low, high = np.nanquantile(values[1:], (0.025, 0.975))
    return f"{values[0]:.3f} ({low:.3f}–{high:.3f})"


def weighted_shares(hits: Flags, weights: Scores) -> Scores:
    """Return the weighted share of hits in each redraw."""
    return np.asarray(weights @ hits / weights.sum(1))


def weighted_pair_shares(hits: Flags, weights: Scores) -> Scores:
    """Return the share of hits among pairs, each weighed by how often both people are drawn."""
    is_pair = ~np.eye(len(hits), dtype=np.bool_)
    matched_pairs = ((weights @ (hits & is_pair)) * weights).sum(1)
    pairs = ((weights @ is_pair) * weights).sum(1)
    return np.asarray(
        np.divide(matched_pairs, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
    )


def group_table(title: str, search: Search, groups: Groups, repeats: int, *, command: str) -> Table:
    """Return the table of one kind of search: error rates of each group with their bands."""
    columns = (
        "probe",
        "people",
        "Rank-1",
        f"FNIR at FPIR {FPIR:g}",
        "FPIR there",
        f"FMR within, ×{FMR:g}",
    )
    table = Table("bias", title, command, columns)
    other_scores, own_scores = search.others, search.own
    limit = lowest_threshold(other_scores.max(1), FPIR)
    pair_limit = lowest_threshold(other_scores[np.isfinite(other_scores)], FMR)
    count = len(own_scores)
    for name, flags in groups.items():
        rows = np.flatnonzero(flags)
        if len(rows) < 2:
            table.add_row([name, len(rows), *["too few"] * 4])
            continue
        weights = bootstrap_weights(len(rows), repeats)
        matches = other_scores[np.ix_(rows, rows[rows < count])] >= pair_limit
        cells = [
            weighted_shares(own_scores[rows] > other_scores[rows].max(1), weights),
            weighted_shares(own_scores[rows] < limit, weights),
            weighted_shares(other_scores[rows].max(1) >= limit, weights),
            weighted_pair_shares(matches, weights) / FMR,
        ]
        table.add_row([name, len(rows), *map(format_band, cells)])
    return table


def search_all(embedder: Embedder, gallery: Tensor, probes: Tensor) -> Search:
    """Search for every probe in the gallery."""
    return Search(
        (embed_all(embedder, probes) @ embed_all(embedder, gallery).T).numpy().astype(np.float64)
    )


def embed_all(embedder: Embedder, pictures: Tensor) -> Tensor:
    """Return the features of the pictures."""
    return torch.cat(
        [embedder.embed(pictures[i : i + 256])[0] for i in range(0, len(pictures), 256)]
    )


def restore_probes(people: People, count: int, samples: int) -> Tensor:
    """Return the mean of samples of FASR++ for the first people's probes.

    The feature is merged from their other photographs at 16×16.
    """
    models = load_models(METHODS["fasr++"], ModelFiles(), torch.device("cpu"))
    models.denoiser.precision = torch.bfloat16
    rows = people.probe[:count]
    features = []
    for row, others in zip(rows, people.others, strict=False):
        faces = people.pictures[[r for r in others if r != row]]
        features.append(load_bundled_combiner().combine(people.embedder.embed(degrade(faces))[0]))
    pictures = []
    for i in range(0, count, BATCH):
        lr = degrade(people.pictures[rows[i : i + BATCH]])
        condition = models.condition(lr, SIDE, torch.stack(features[i : i + BATCH]))
        pictures.append(draw_samples(models.denoiser, condition, FAST, samples).mean(1))
        print(f"restored {min(i + BATCH, count)} of {count}", file=sys.stderr)
    return torch.cat(pictures)


def degrade(pictures: Tensor) -> Tensor:
    """Shrink the pictures and enlarge them again."""
    return enlarge(shrink(pictures, SIDE), 128)


def growth_table(searches: dict[str, tuple[Search, Scores]], command: str) -> Table:
    """Return the table of FPIR by the size of the gallery.

    Each kind of search comes with its scores against the people who fill the gallery up.
    """
    columns = ("searched by", *(f"{size} people" for size in SIZES), "as 1 − (1 − FMR)^N says")
    table = Table("bias", "FPIR as the gallery grows", command, columns)
    for name, (search, fillers) in searches.items():
        strangers = np.hstack([search.others, fillers])
        people = strangers.shape[1]
        scores = {size: highest_scores(strangers, size) for size in SIZES if size <= people}
        smallest = next(iter(scores), None)
        if smallest is None:
            continue
        limit = lowest_threshold(scores[smallest], FPIR)
        rate = float((strangers[np.isfinite(strangers)] >= limit).mean())
        cells = [
            f"{(scores[s] >= limit).mean():.3f}" if s in scores else "too few people" for s in SIZES
        ]
        table.add_row([name, *cells, ", ".join(f"{1 - (1 - rate) ** size:.3f}" for size in SIZES)])
    table.add_note(
        f"The threshold is the one that gives FPIR {FPIR:g} in galleries of {SIZES[0]} people, "
        "and does not change. Searches are of people who are not in the gallery: means over "
        f"{DRAWS} galleries drawn at random from the other people and from fillers, whom the "
        "embedder was trained on: a gallery of people unknown to it may do worse. The last column "
        "assumes that comparisons are independent. A threshold is valid for the size of gallery "
        "that it was chosen for."
    )
    return table


def highest_scores(strangers: Scores, size: int) -> Scores:
    """Return galleries × searches: the highest score of each search in random galleries."""
    generator = np.random.default_rng(size)
    people = strangers.shape[1]
    return np.array(
        [strangers[:, generator.permutation(people)[:size]].max(1) for _ in range(DRAWS)]
    )


def read_fillers(files: Sequence[Path], count: int) -> Tensor:
    """Return one photograph of each of `count` people."""
    parts = [torch.zeros(0, 3, 128, 128)]
    for file in files:
        missing = count - sum(map(len, parts))
        if missing <= 0:
            break
        read, _ = read_faces([file])
        rows = [group[0] for group in read.people.values()][:missing]
        parts.append(views(read.pictures[rows], 128, False, torch.Generator()))
    return torch.cat(parts)


NOTE = f"""Every table is of people who were never trained on. One threshold for all: FNIR and
FPIR at the one that gives FPIR {FPIR:g} over all searches without the person's own photograph;
FMR within a group, as a multiple of {FMR:g}, at the one that gives that over all pairs: 3 means
that two people of this group match three times as often as any two. In brackets: 95 % bands by
resampling the group's people, with the same thresholds. Labels are CelebA's, of the probe; thirds
go by how far the nose lies from the middle of the eyes. CelebA has no labels of race and age:
[bias_groups](bias_groups.md) has them, with people of FairFace. Celebrities are not the people of
your footage."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=907)
    parser.add_argument("--restored", type=int, default=256)
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument(
        "--fillers", type=Path, nargs="*", default=[DATA / f"train-0{k}.tar" for k in range(2)]
    )
    args = parser.parse_args()
    command = command_line()
    people = load_people(args.people)
    gallery, probe_pictures = people.pictures[people.gallery], people.pictures[people.probe]
    count = min(args.restored, len(probe_pictures))
    probes = {"full size": probe_pictures, f"{SIDE}×{SIDE}": degrade(probe_pictures)}
    if count:
        probes[f"FASR++ from {SIDE}×{SIDE}"] = restore_probes(people, count, args.samples)
    fillers = read_fillers(args.fillers, max(0, SIZES[-1] - len(gallery) + 1))
    tables: list[Table] = []
    searches: dict[str, tuple[Search, Scores]] = {}
    for name, embedder in {"Embedder": people.embedder, "dlib": people.dlib}.items():
        filler_features = embed_all(embedder, fillers)
        for size, pictures in probes.items():
            search = search_all(embedder, gallery, pictures)
            title = f"{name}, {size}: {len(pictures)} searches in a gallery of {len(gallery)}"
            tables.append(
                group_table(
                    title, search, read_groups(people, len(pictures)), args.repeats, command=command
                )
            )
            filler_scores = (
                (embed_all(embedder, pictures) @ filler_features.T).numpy().astype(np.float64)
            )
            searches[f"{name.lower()}, {size}"] = (search, filler_scores)
    tables[0].add_note(NOTE)
    first, *rest = tables
    first.write(*rest, growth_table(searches, command))


if __name__ == "__main__":
    main()
