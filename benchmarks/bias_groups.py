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
from bias import FMR, Scores, bootstrap_weights, format_band, weighted_pair_shares
from embedders import Embed, degrade, open_embedders
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


def show(pictures: Tensor, view: View, first: int) -> Tensor:
    """Return the faces as this view shows them; `first`, the first one's number, seeds its
    camera.
    """
    if view.by_camera:
        return camera(view.side)(pictures, range(first, first + len(pictures)))
    return degrade(pictures, view.side, False)


def embed_view(embed: Embed, pictures: Tensor, view: View) -> Tensor:
    """Return the unit vectors (N×D) of N×3×128×128 uint8 faces in this view."""
    features = []
    for first in range(0, len(pictures), BATCH):
        faces = pictures[first : first + BATCH].float() / 255
        features.append(embed(show(faces, view, first)))
    return torch.cat(features)


def false_matches(probes: Tensor, gallery: Tensor) -> Flags:
    """Return which people match which others at the threshold that FMR of all pairs reach."""
    scores = (probes @ gallery.T).numpy().astype(np.float64)
    is_pair = ~np.eye(len(scores), dtype=np.bool_)
    return np.asarray((scores >= lowest_threshold(scores[is_pair], FMR)) & is_pair)


def rate_multiples(matches: Flags, flags: Flags, repeats: int) -> Scores | None:
    """Return the group's multiple of FMR, then those of random redraws of the group.

    None where less than one pair is to be expected.
    """
    rows = np.flatnonzero(flags)
    if len(rows) * (len(rows) - 1) / 2 * FMR < 1:
        return None
    weights = bootstrap_weights(len(rows), repeats)
    return weighted_pair_shares(matches[np.ix_(rows, rows)], weights) / FMR


def describe_worst_group(name: str, kind: str, multiples: Multiples) -> str:
    """Return in words which group of a kind is matched with others most often."""
    worst, best = (
        max(multiples, key=lambda g: multiples[g]),
        min(multiples, key=lambda g: multiples[g]),
    )
    comparison = (
        f"{multiples[worst] / multiples[best]:.1f} times that of {best}"
        if multiples[best]
        else f"that of {best} is 0"
    )
    return f"{name}, by {kind}: **{worst}**, {multiples[worst]:.1f} times {FMR:g} ({comparison})"


def describe_rank_correlations(multiples: Mapping[str, Multiples], kind: str) -> list[str]:
    """Return in words how similarly each two embedders order the groups of a kind."""
    correlations = []
    for first, second in combinations(multiples, 2):
        shared = [group for group in multiples[first] if group in multiples[second]]
        if len(shared) > 2:
            columns = [[multiples[name][group] for group in shared] for name in (first, second)]
            correlations.append(
                f"{first} and {second} {spearmanr(*columns).statistic:.2f} ({len(shared)} groups)"
            )
    return (
        [f"Rank correlation of the multiples by {kind}: {', '.join(correlations)}."]
        if correlations
        else []
    )


def view_table(
    matches: Mapping[str, Flags], view: View, groups: Groups, repeats: int, *, command: str
) -> Table:
    """Return the table of one view: `matches` has those of each embedder."""
    people = len(next(iter(matches.values())))
    title = f"False match rate within groups, ×{FMR:g}: {people} people, {view.name}"
    table = Table("bias_groups", title, command, ("group", "people", *matches))
    everybody = {"": {"all": np.ones(people, np.bool_)}}
    multiples: dict[str, dict[str, Multiples]] = {
        kind: {name: {} for name in matches} for kind in {**everybody, **groups}
    }
    for kind, members in {**everybody, **groups}.items():
        for group, flags in members.items():
            cells = []
            for name, matched in matches.items():
                values = rate_multiples(matched, flags, repeats)
                cells.append("too few" if values is None else format_band(values))
                if values is not None:
                    multiples[kind][name][group] = float(values[0])
            table.add_row([group, int(flags.sum()), *cells])
    lines = [
        describe_worst_group(name, kind, multiples[kind][name])
        for kind in groups
        for name in matches
        if len(multiples[kind][name]) > 1
    ]
    if lines:
        table.add_note(
            "Matched with somebody else of their group most often. " + "; ".join(lines) + "."
        )
    for line in describe_rank_correlations(
        multiples.get(" and ".join(RACE_AND_GENDER), {}), " and ".join(RACE_AND_GENDER)
    ):
        table.add_note(line)
    return table


NOTE = f"""One threshold for all, of each embedder and view: the one that {FMR:g} of all pairs of
two people reach. 3 means that two people of this group match three times as often as any two. Any
two people are mostly of two races, two genders or two ages, so nearly every group is above 1:
compare the groups with each other. In brackets: 95 % bands by resampling the group's people, with
the same threshold. *Too few*: less than one pair would be expected. The highest of several
uncertain numbers is probably somewhat too high.

People are FairFace's with even numbers. The builtin embedder was trained on those with odd ones
and distilled from the teacher; what the teacher and dlib were trained on is not known in full.
Race, gender and age are as FairFace's annotators judged them. There is one photograph of each
person, so this does not say how often people of a group are *not* found."""


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
    matches = search_views(open_embedders(args.data, args.without), faces.pictures)
    tables = [
        view_table(matches[view.name], view, groups, args.repeats, command=command_line())
        for view in VIEWS
    ]
    tables[0].add_note(NOTE)
    first, *rest = tables
    first.write(*rest)


def search_views(
    embedders_by_name: Mapping[str, Embed], pictures: Tensor, views: Sequence[View] = VIEWS
) -> dict[str, dict[str, Flags]]:
    """Return, for each view and embedder, which people match which others."""
    matches: dict[str, dict[str, Flags]] = {view.name: {} for view in views}
    for name, embed in embedders_by_name.items():
        gallery = embed_view(embed, pictures, FULL_SIZE)
        for view in views:
            probes = gallery if view is FULL_SIZE else embed_view(embed, pictures, view)
            matches[view.name][name] = false_matches(probes, gallery)
            print(f"{name}, {view.name}: done", flush=True)
    return matches


if __name__ == "__main__":
    main()
