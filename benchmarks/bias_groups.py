"""Whom embedders take for somebody else: false match rates by race, gender and age.

python benchmarks/bias_groups.py [--people 2658] [--data ../shared/data] [--without dlib]
                                 [--repeats 1000]

There is one FairFace photograph of each person. Everybody is searched for among the others'
photographs at full size.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from bias import FMR, Scores, band, drawn_anew, pair_shares
from embedders import Embed, degraded, embedders
from fairface import AGE, GENDER, RACE, RACE_AND_GENDER, Flags, Groups, groups_of, read_unseen
from footage import DATA, find_data
from results import Table, command_line
from scipy.stats import spearmanr
from torch import Tensor

from fasr_video.evaluation.open_set import lowest_threshold
from fasr_video.sr.surveillance import camera

BATCH = 64
KINDS = (RACE, GENDER, AGE, RACE_AND_GENDER)
# Of each group: its false match rate as a multiple of FMR.
Multiples = dict[str, float]


@dataclass(frozen=True)
class View:
    """How the people who are searched for are seen."""

    name: str
    side: int
    by_camera: bool = False


FULL_SIZE = View("full size", 128)
VIEWS = (FULL_SIZE, View("16 px", 16), View("32 px by a camera", 32, True))


def seen(pictures: Tensor, view: View, first: int) -> Tensor:
    """Return the faces as they are seen; `first`, the number of the first, seeds its camera."""
    if view.by_camera:
        return camera(view.side)(pictures, range(first, first + len(pictures)))
    return degraded(pictures, view.side, False)


def vectors(embed: Embed, pictures: Tensor, view: View) -> Tensor:
    """N×3×128×128 uint8 → N unit vectors."""
    found = []
    for first in range(0, len(pictures), BATCH):
        part = pictures[first : first + BATCH].float() / 255
        found.append(embed(seen(part, view, first)))
    return torch.cat(found)


def alike(probes: Tensor, gallery: Tensor) -> Flags:
    """Return who is taken for whom at the threshold that FMR of all pairs of people reach."""
    scores = (probes @ gallery.T).numpy().astype(np.float64)
    apart = ~np.eye(len(scores), dtype=np.bool_)
    return np.asarray((scores >= lowest_threshold(scores[apart], FMR)) & apart)


def multiples(taken: Flags, which: Flags, repeats: int) -> Scores | None:
    """Return the group's multiple of FMR, then those of random redraws of the group.

    None where less than one pair is to be expected.
    """
    rows = np.flatnonzero(which)
    if len(rows) * (len(rows) - 1) / 2 * FMR < 1:
        return None
    weights = drawn_anew(len(rows), repeats)
    return pair_shares(taken[np.ix_(rows, rows)], weights) / FMR


def worst(name: str, kind: str, of: Multiples) -> str:
    """Return in words which group of a kind is taken for somebody else most often."""
    most, least = max(of, key=lambda g: of[g]), min(of, key=lambda g: of[g])
    beside = (
        f"{of[most] / of[least]:.1f} times that of {least}"
        if of[least]
        else f"that of {least} is 0"
    )
    return f"{name}, by {kind}: **{most}**, {of[most]:.1f} times {FMR:g} ({beside})"


def inherited(of: Mapping[str, Multiples], kind: str) -> list[str]:
    """Return in words how far each two embedders put the groups of a kind in the same order."""
    lines = []
    for one, other in combinations(of, 2):
        shared = [group for group in of[one] if group in of[other]]
        if len(shared) > 2:
            columns = [[of[name][group] for group in shared] for name in (one, other)]
            lines.append(
                f"{one} and {other} {spearmanr(*columns).statistic:.2f} ({len(shared)} groups)"
            )
    return [f"Rank correlation of the multiples by {kind}: {', '.join(lines)}."] if lines else []


def view_table(
    taken: Mapping[str, Flags], view: View, groups: Groups, repeats: int, command: str
) -> Table:
    """Return the table of one view: `taken` is of each embedder."""
    people = len(next(iter(taken.values())))
    title = f"False match rate within groups, ×{FMR:g}: {people} people, {view.name}"
    table = Table("bias_groups", title, command, ("group", "people", *taken))
    everybody = {"": {"all": np.ones(people, np.bool_)}}
    found: dict[str, dict[str, Multiples]] = {
        kind: {name: {} for name in taken} for kind in {**everybody, **groups}
    }
    for kind, members in {**everybody, **groups}.items():
        for group, which in members.items():
            cells = []
            for name, flags in taken.items():
                values = multiples(flags, which, repeats)
                cells.append("too few" if values is None else band(values))
                if values is not None:
                    found[kind][name][group] = float(values[0])
            table.row([group, int(which.sum()), *cells])
    lines = [
        worst(n, kind, found[kind][n]) for kind in groups for n in taken if len(found[kind][n]) > 1
    ]
    if lines:
        table.note("Taken for somebody else of their group most often. " + "; ".join(lines) + ".")
    for line in inherited(
        found.get(" and ".join(RACE_AND_GENDER), {}), " and ".join(RACE_AND_GENDER)
    ):
        table.note(line)
    return table


NOTE = f"""One threshold for all, of each embedder and view: the one that {FMR:g} of all pairs of
two people reach. 3 means that two people of this group are taken for one three times as often as
any two. Any two people are mostly of two races, two genders or two ages, so nearly every group is
above 1: compare the groups with each other. In brackets: 95 % bands by drawing the group's people
anew, the threshold as it is. *Too few*: less than one pair would be expected. Of several uncertain
numbers the highest is likely to be somewhat too high.

People are FairFace's with even numbers. The builtin embedder was trained on those with odd ones and
distilled from the teacher; what the teacher and dlib were trained on is not known in full. Race,
gender and age are what FairFace's annotators saw. There is one photograph of each person, so this
does not say how often people of a group are *not* found."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--people", type=int, help="only the first ones")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--without", action="append", default=[], help="an embedder to leave out")
    parser.add_argument("--repeats", type=int, default=1000)
    args = parser.parse_args()
    faces = read_unseen(find_data(args.data / "fairface"), args.people)
    groups = groups_of(faces.labels, KINDS)
    taken = searched(embedders(args.data, args.without), faces.pictures)
    tables = [view_table(taken[v.name], v, groups, args.repeats, command_line()) for v in VIEWS]
    tables[0].note(NOTE)
    first, *rest = tables
    first.write(*rest)


def searched(
    by: Mapping[str, Embed], pictures: Tensor, views: Sequence[View] = VIEWS
) -> dict[str, dict[str, Flags]]:
    """Return, of each view and embedder, which people are taken for which."""
    taken: dict[str, dict[str, Flags]] = {view.name: {} for view in views}
    for name, embed in by.items():
        gallery = vectors(embed, pictures, FULL_SIZE)
        for view in views:
            probes = gallery if view is FULL_SIZE else vectors(embed, pictures, view)
            taken[view.name][name] = alike(probes, gallery)
            print(f"{name}, {view.name}: done", flush=True)
    return taken


if __name__ == "__main__":
    main()
