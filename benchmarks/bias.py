"""Whom the bundled recogniser does worse for: people never trained on, by every label that there is of them.

python benchmarks/bias.py [--people 907] [--restored 256] [--samples 2] [--repeats 1000] [--fillers FILE.tar]

Each person's first photograph is the gallery, the second is the search. `--restored 0` leaves super-resolution out,
which takes most of the time. The last table is how FPIR grows with the gallery; people of `--fillers` fill it up.
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
from models import BATCH, DATA, People, _turn, combiner, draw, load_people
from numpy.typing import NDArray
from results import Table, command_line
from torch import Tensor

from fasr_video.datasets.faces import read_faces, views
from fasr_video.evaluation.open_set import lowest_threshold
from fasr_video.recognition.embedder import Embedder
from fasr_video.sr.degradation import enlarge, shrink
from fasr_video.sr.denoiser import Condition
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
    """Everybody searched for in the gallery of all, and again with the own photograph taken out of it."""

    scores: Scores
    """Searches × gallery; row i is of the person of column i."""

    @property
    def own(self) -> Scores:
        return np.asarray(np.diagonal(self.scores))

    @property
    def others(self) -> Scores:
        """The scores with -inf in place of the own."""
        found = self.scores.copy()
        np.fill_diagonal(found, -np.inf)
        return found


def groups_of(people: People, count: int) -> Groups:
    """By each label of 0 and 1 in the list of labels, and by pose: whether the probe of each person is of the group."""
    with (DATA / "labels.csv").open(newline="") as stream:
        label = {row["path"]: row for row in csv.DictReader(stream)}
    rows = [label[people.faces.paths[i]] for i in people.probe[:count]]
    found = {"all": np.ones(len(rows), np.bool_)}
    for column in rows[0]:
        if column not in NO_LABELS and {row[column] for row in rows} <= {"0", "1"}:
            yes, no = NAMES.get(column, (column, f"not {column}"))
            which = np.array([row[column] == "1" for row in rows])
            found |= {yes: which, no: ~which}
    turned = np.array(
        [_turn({k: float(v) for k, v in r.items() if k.endswith(("_x", "_y"))}) for r in rows]
    )
    low, high = np.quantile(turned, (1 / 3, 2 / 3))
    thirds = (turned <= low, (turned > low) & (turned <= high), turned > high)
    return found | dict(
        zip(("most frontal third", "middle third", "most turned third"), thirds, strict=True)
    )


def drawn_anew(members: int, repeats: int) -> Scores:
    """How often each member of a group is in it when people are drawn anew; the first row is the group as it is."""
    generator = np.random.default_rng(0)
    drawn = generator.multinomial(members, np.full(members, 1 / members), repeats)
    return np.vstack([np.ones(members), drawn]).astype(np.float64)


def band(values: Scores) -> str:
    """Of the statistic of the group as it is, and of those of groups drawn anew."""
    if not np.isfinite(values[0]):
        return "too few"
    low, high = np.nanquantile(values[1:], (0.025, 0.975))
    return f"{values[0]:.3f} ({low:.3f}–{high:.3f})"


def shares(hits: Flags, weights: Scores) -> Scores:
    return np.asarray(weights @ hits / weights.sum(1))


def pair_shares(hits: Flags, weights: Scores) -> Scores:
    """Share of hits among pairs of two people, where each pair weighs as both are drawn."""
    apart = ~np.eye(len(hits), dtype=np.bool_)
    among = ((weights @ (hits & apart)) * weights).sum(1)
    pairs = ((weights @ apart) * weights).sum(1)
    return np.asarray(np.divide(among, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0))


def group_table(title: str, found: Search, groups: Groups, repeats: int, command: str) -> Table:
    columns = (
        "probe",
        "people",
        "Rank-1",
        f"FNIR at FPIR {FPIR:g}",
        "FPIR there",
        f"FMR within, ×{FMR:g}",
    )
    table = Table("bias", title, command, columns)
    others, own = found.others, found.own
    limit = lowest_threshold(others.max(1), FPIR)
    alike = lowest_threshold(others[np.isfinite(others)], FMR)
    count = len(own)
    for name, which in groups.items():
        rows = np.flatnonzero(which)
        if len(rows) < 2:
            table.row([name, len(rows), *["too few"] * 4])
            continue
        weights = drawn_anew(len(rows), repeats)
        close = others[np.ix_(rows, rows[rows < count])] >= alike
        cells = [
            shares(own[rows] > others[rows].max(1), weights),
            shares(own[rows] < limit, weights),
            shares(others[rows].max(1) >= limit, weights),
            pair_shares(close, weights) / FMR,
        ]
        table.row([name, len(rows), *map(band, cells)])
    return table


def searched(embedder: Embedder, known: Tensor, probes: Tensor) -> Search:
    return Search(
        (embedded(embedder, probes) @ embedded(embedder, known).T).numpy().astype(np.float64)
    )


def embedded(embedder: Embedder, pictures: Tensor) -> Tensor:
    return torch.cat(
        [embedder.embed(pictures[i : i + 256])[0] for i in range(0, len(pictures), 256)]
    )


def restored(people: People, count: int, samples: int) -> Tensor:
    """The mean of samples of FASR++ for the first people's probes, told what their other photographs at 16×16 tell."""
    models = load_models(METHODS["fasr++"], ModelFiles(), torch.device("cpu"))
    models.denoiser.precision = torch.bfloat16
    rows = people.probe[:count]
    told = []
    for row, others in zip(rows, people.others, strict=False):
        faces = people.pictures[[r for r in others if r != row]]
        told.append(combiner().combine(people.embedder.embed(small(faces))[0]))
    drawn = []
    for i in range(0, count, BATCH):
        condition = Condition(
            small(people.pictures[rows[i : i + BATCH]]), torch.stack(told[i : i + BATCH])
        )
        drawn.append(draw(models.denoiser, condition, FAST, samples).mean(1))
        print(f"restored {min(i + BATCH, count)} of {count}", file=sys.stderr)
    return torch.cat(drawn)


def small(pictures: Tensor) -> Tensor:
    return enlarge(shrink(pictures, SIDE), 128)


def growth_table(found: dict[str, tuple[Search, Scores]], command: str) -> Table:
    """`found`: each kind of search with the scores against people who fill the gallery up."""
    columns = ("searched by", *(f"{size} people" for size in SIZES), "as 1 − (1 − FMR)^N says")
    table = Table("bias", "FPIR as the gallery grows", command, columns)
    for name, (search, fillers) in found.items():
        strangers = np.hstack([search.others, fillers])
        places = strangers.shape[1]
        highest = {size: drawn_galleries(strangers, size) for size in SIZES if size <= places}
        first = next(iter(highest), None)
        if first is None:
            continue
        limit = lowest_threshold(highest[first], FPIR)
        rate = float((strangers[np.isfinite(strangers)] >= limit).mean())
        cells = [
            f"{(highest[s] >= limit).mean():.3f}" if s in highest else "too few people"
            for s in SIZES
        ]
        table.row([name, *cells, ", ".join(f"{1 - (1 - rate) ** size:.3f}" for size in SIZES)])
    table.note(
        f"The threshold is the one that gives FPIR {FPIR:g} in galleries of {SIZES[0]} people, and stays. Searches are "
        f"of people who are not in the gallery: means over {DRAWS} galleries drawn at random from the other people and "
        "from fillers, whom the embedder was trained on: a gallery of strangers to it may do worse. The last column "
        "takes comparisons for independent. A threshold holds for the size of gallery that it was found for."
    )
    return table


def drawn_galleries(strangers: Scores, size: int) -> Scores:
    """Galleries × searches: the highest score of each search in each gallery of that size."""
    generator = np.random.default_rng(size)
    places = strangers.shape[1]
    return np.array(
        [strangers[:, generator.permutation(places)[:size]].max(1) for _ in range(DRAWS)]
    )


def fillers_of(files: Sequence[Path], count: int) -> Tensor:
    """One photograph of each of so many people."""
    found = [torch.zeros(0, 3, 128, 128)]
    for file in files:
        left = count - sum(map(len, found))
        if left <= 0:
            break
        read, _ = read_faces([file])
        rows = [group[0] for group in read.people.values()][:left]
        found.append(views(read.pictures[rows], 128, False, torch.Generator()))
    return torch.cat(found)


NOTE = f"""Every table is of people who were never trained on. One threshold for all: FNIR and FPIR at the one that
gives FPIR {FPIR:g} over all searches without the own photograph; FMR within a group, as a multiple of {FMR:g}, at the
one that gives that over all pairs: 3 means that two people of this group are taken for one three times as often as
any two. In brackets: 95 % bands by drawing the group's people anew, thresholds as they are. Labels are CelebA's, of
the probe; thirds go by how far the nose lies from the middle of the eyes. Race and age are no labels of CelebA's:
[bias_groups](bias_groups.md) has them, with people of FairFace. Celebrities are not the people of your footage."""


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
    known, asked = people.pictures[people.gallery], people.pictures[people.probe]
    count = min(args.restored, len(asked))
    probes = {"full size": asked, f"{SIDE}×{SIDE}": small(asked)}
    if count:
        probes[f"FASR++ from {SIDE}×{SIDE}"] = restored(people, count, args.samples)
    fillers = fillers_of(args.fillers, max(0, SIZES[-1] - len(known) + 1))
    tables: list[Table] = []
    growing: dict[str, tuple[Search, Scores]] = {}
    for who, embedder in {"Embedder": people.embedder, "dlib": people.dlib}.items():
        filling = embedded(embedder, fillers)
        for what, pictures in probes.items():
            found = searched(embedder, known, pictures)
            title = f"{who}, {what}: {len(pictures)} searches in a gallery of {len(known)}"
            tables.append(
                group_table(title, found, groups_of(people, len(pictures)), args.repeats, command)
            )
            against = (embedded(embedder, pictures) @ filling.T).numpy().astype(np.float64)
            growing[f"{who.lower()}, {what}"] = (found, against)
    tables[0].note(NOTE)
    first, *rest = tables
    first.write(*rest, growth_table(growing, command))


if __name__ == "__main__":
    main()
