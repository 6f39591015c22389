"""The tables of a comparison."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fasr_video.evaluation import open_set, significance, verification
from fasr_video.evaluation.open_set import FPIRS, Scores, Searches
from fasr_video.evaluation.protocols import Trial
from fasr_video.evaluation.scoring import RANKS, VERIFIED_FMR, Scored, recognition
from fasr_video.evaluation.tables import Cell, Column, Row, Table

TRUTH, SIZE = "hr", "size"
# What no recogniser has a part in.
PICTURES = {
    "psnr": Column("PSNR", 2, "up"),
    "ssim": Column("SSIM", 3, "up"),
    "ms_ssim": Column("MS-SSIM", 3, "up"),
    "lpips": Column("LPIPS", 3, "down"),
    "fid": Column("FID", 1, "down"),
    "consistency": Column("consistency", 1, "down"),
    "attributes": Column("attributes", 3, "up"),
}
RECOGNITION = {
    "auc": Column("AUC", 4, "up"),
    "eer": Column("EER", 3, "down"),
    "accuracy": Column("accuracy", 3, "up"),
    **{f"rank{k}": Column(f"Rank-{k}", 3, "up") for k in RANKS},
    **{f"fnir{rate:g}": Column(f"FNIR at FPIR {rate:g}", 3, "down") for rate in FPIRS},
    "cs": Column("CS", 3, "up"),
    "distance": Column("identity distance", 3, "down"),
    "verified": Column("verified", 3, "up"),
}
SPLIT = ("psnr", "ssim", "cs", "auc", "rank1", "fnir0.1", "fnir0.01")
SPLIT_FPIR = 0.1
GAINS = {
    **{k: PICTURES[k] for k in ("psnr", "ssim", "ms_ssim", "lpips", "consistency")},
    "cs": RECOGNITION["cs"],
    "own": Column("own score", 3),
    "hit": RECOGNITION["rank1"],
}
# FPIRs at which what is missed less is told.
SEARCH_GAINS = (0.1, 0.01)
REPEATS = 300


@dataclass(frozen=True, slots=True)
class Shows:
    """What a table has to know of a system beside its scores."""

    among: str
    """Its degradation: best and second are marked apart at each."""
    compared: bool
    """Whether it may be the best; the true picture may not."""
    sides: Sequence[int]
    """Of the face that each search begins with, in pixels."""


def picture_table(
    found: Mapping[str, Scored], trial: Trial, shows: Mapping[str, Shows], notes: Sequence[str] = ()
) -> Table:
    drawn = {name: s for name, s in found.items() if "consistency" in s.items}
    rows = [
        Row(name, _cells(_whole(s, trial), PICTURES), among=shows[name].among)
        for name, s in drawn.items()
    ]
    told = (
        f"{_marked(shows)}Mean ± standard deviation over pictures. Consistency: mean squared error ×10⁻⁵ between the "
        "picture brought down again and the LR face. Attributes: share of male, glasses and beard that a classifier "
        "reads as it reads them off the true picture."
    )
    return Table(
        "Pictures", "system", tuple(PICTURES.values()), tuple(rows), (told, *notes)
    ).known()


def _marked(shows: Mapping[str, Shows]) -> str:
    return (
        "Best and second are marked at each degradation apart. "
        if len({s.among for s in shows.values()}) > 1
        else ""
    )


def recognition_table(
    found: Mapping[str, Scored], trial: Trial, shows: Mapping[str, Shows], scorer: str
) -> Table:
    rows = tuple(
        Row(name, _cells(_whole(s, trial), RECOGNITION), shows[name].compared, shows[name].among)
        for name, s in found.items()
    )
    told = (
        f"{_marked(shows)}In brackets: 95 % by drawing people anew (of AUC and EER: those searched for; the others' "
        "scores stay). CS: cosine of "
        "the picture's feature and the true picture's; identity distance: of the same two unit vectors. Verified: "
        "share of searches whose own subject passes the threshold that a share of "
        f"{VERIFIED_FMR:g} of the gallery's pairs of two people pass. The true picture (`hr`) is not compared."
    )
    if trial.pairs:
        told += " Accuracy: each fold at the best threshold of the others, ± standard deviation of the folds."
    if any(s.searches is not None and not s.searches.mated.all() for s in found.values()):
        told += " An FPIR that not one stranger's search would be is left out."
    return Table(
        f"Recognition, scored by {scorer}", "system", tuple(RECOGNITION.values()), rows, (told,)
    ).known()


def split_table(
    found: Mapping[str, Scored], trial: Trial, shows: Mapping[str, Shows], column: str, scorer: str
) -> Table:
    """A row for each system and each group of the probes' label; `size` is that of the face as the camera sees it."""
    columns = {k: (PICTURES | RECOGNITION)[k] for k in SPLIT}
    rows: dict[str, list[Row]] = {}
    for name, scored in found.items():
        labels = [item.probe.labels.get(column, "") for item in trial.items]
        values = [str(side) for side in shows[name].sides] if column == SIZE else labels
        for group, places in significance.split(values).items():
            cells = _cells(_part(scored, np.array(places), trial), columns)
            passed = _strangers_passing(scored, np.array(places), trial)
            row = Row(
                f"{group}: {name}", (Cell(float(len(places))), *cells, passed), compared=False
            )
            rows.setdefault(group, []).append(row)
    told = (
        "Everybody is searched in the whole gallery; the scores of two people, and the strangers whose searches set "
        f"the thresholds of FNIR, are everybody's. The last column: the group's strangers who pass where "
        f"{SPLIT_FPIR:g} of all do. In brackets: 95 % by drawing people anew."
    )
    heads = (
        Column("probes", 0),
        *columns.values(),
        Column(f"FPIR where all's is {SPLIT_FPIR:g}", 3),
    )
    listed = tuple(row for group in rows.values() for row in group)
    return Table(f"By {column}, scored by {scorer}", column, heads, listed, (told,)).known()


def _strangers_passing(scored: Scored, places: NDArray[np.intp], trial: Trial) -> Cell:
    """FPIR of a group at everybody's threshold."""
    searches = scored.searches
    if searches is None or searches.mated.all() or not open_set.resolves(searches, SPLIT_FPIR):
        return Cell()
    rows = places[~searches.mated[places]]
    if not len(rows):
        return Cell()
    passed = searches.wrong[rows] >= open_set.threshold_at(searches, SPLIT_FPIR)
    told = significance.summarise(passed, [trial.people[i] for i in rows.tolist()])
    return Cell(told.value, between(told.low, told.high))


def gain_table(
    found: Mapping[str, Scored], trial: Trial, over: Mapping[str, str], scorer: str
) -> Table:
    """What each system has above another one, on the same photographs. `over`: which one."""
    rows = []
    for name, scored in found.items():
        if over[name] != name:
            before = found[over[name]]
            cells = [_gain(scored.items.get(k), before.items.get(k), trial.people) for k in GAINS]
            cells += [_search_gain(scored.searches, before.searches, rate) for rate in SEARCH_GAINS]
            rows.append(Row(f"{name} over {over[name]}", tuple(cells), compared=False))
    told = (
        "In brackets: 95 % by drawing people anew, the same ones for both; p of the paired t-test over people. Of FNIR "
        "each system has its own threshold, found anew for each draw. Not corrected for how many."
    )
    heads = (*GAINS.values(), *(RECOGNITION[f"fnir{rate:g}"] for rate in SEARCH_GAINS))
    return Table(f"Gains, scored by {scorer}", "system", heads, tuple(rows), (told,)).known()


def _gain(values: Scores | None, before: Scores | None, people: Sequence[str]) -> Cell:
    if values is None or before is None:
        return Cell()
    kept: list[int] = np.flatnonzero(np.isfinite(values) & np.isfinite(before)).tolist()
    if not kept:
        return Cell()
    told = significance.gain(values[kept], before[kept], [people[i] for i in kept])
    p = "" if math.isnan(told.p) else f", p = {told.p:.2g}"
    return Cell(told.mean.value, f"({told.mean.low:+.3f} to {told.mean.high:+.3f}{p})")


def _search_gain(found: Searches | None, before: Searches | None, rate: float) -> Cell:
    """What is missed more at this FPIR, on the same people."""
    if found is None or before is None or not found.mated.any() or found.mated.all():
        return Cell()
    if not open_set.resolves(found, rate):
        return Cell()
    draws = list(open_set.drawn_anew(found, REPEATS))
    more = [
        open_set.fnir_at(found.take(d), rate) - open_set.fnir_at(before.take(d), rate)
        for d in draws
    ]
    low, high = np.quantile(more, (0.025, 0.975))
    return Cell(
        open_set.fnir_at(found, rate) - open_set.fnir_at(before, rate),
        f"({low:+.3f} to {high:+.3f})",
    )


def _cells(part: _Part, columns: Mapping[str, Column]) -> tuple[Cell, ...]:
    scored = part.scored
    asked = scored.searches is not None and any(
        measure.startswith(("rank", "fnir")) for measure in columns
    )
    bounds = search_bounds(scored.searches) if asked and scored.searches is not None else {}
    cells = []
    for measure in columns:
        cell = _cell(scored, measure, part.people)
        if measure in bounds and not math.isnan(cell.value):
            cell = Cell(cell.value, between(*bounds[measure]))
        elif measure == "auc" and not math.isnan(cell.value):
            cell = Cell(cell.value, _auc_bounds(part))
        elif measure == "eer" and not math.isnan(cell.value):
            cell = Cell(
                cell.value,
                between(*verification.eer_bounds(scored.own, scored.others, part.owners)),
            )
        elif measure == "accuracy" and scored.folds is not None:
            cell = Cell(cell.value, f"± {np.std(scored.folds.accuracies, ddof=1):.3f}")
        cells.append(cell)
    return tuple(cells)


def _cell(scored: Scored, measure: str, people: Sequence[str]) -> Cell:
    if measure in scored.values:
        return Cell(scored.values[measure])
    values = scored.items.get(measure)
    if values is None or not np.isfinite(values).any():
        return Cell()
    kept: list[int] = np.flatnonzero(np.isfinite(values)).tolist()
    told = significance.summarise(values[kept], [people[i] for i in kept])
    if measure == "verified":
        return Cell(told.value, between(told.low, told.high))
    return Cell(told.value, f"± {told.std:.{(PICTURES | RECOGNITION)[measure].digits}f}")


def between(low: float, high: float) -> str:
    return f"({low:.3f}–{high:.3f})"


def search_bounds(searches: Searches) -> dict[str, tuple[float, float]]:
    """95 % of Rank-k and FNIR."""
    if not searches.mated.any():
        return {}
    names = [f"rank{k}" for k in RANKS]
    rates = [] if searches.mated.all() else [r for r in FPIRS if open_set.resolves(searches, r)]

    def measure(drawn: Searches) -> list[float]:
        ranks = [open_set.rank_rate(drawn, k) for k in RANKS]
        return ranks + [open_set.fnir_at(drawn, rate) for rate in rates]

    low, high = open_set.bootstrap(searches, measure, REPEATS)
    names += [f"fnir{rate:g}" for rate in rates]
    return {name: (float(a), float(b)) for name, a, b in zip(names, low, high, strict=True)}


def _auc_bounds(part: _Part) -> str:
    """Of each own score the share of the others below it, whose mean is the AUC."""
    own, ordered = part.scored.own, np.sort(part.scored.others)
    below = np.searchsorted(ordered, own, "left") + np.searchsorted(ordered, own, "right")
    told = significance.summarise(below / 2 / len(ordered), part.owners)
    return between(told.low, told.high)


@dataclass(frozen=True, slots=True)
class _Part:
    """All of a trial's items, or some of them, as one system was scored on them."""

    scored: Scored
    people: list[str]
    """Of each item,"""
    owners: list[str]
    """and of each own score."""


def _whole(scored: Scored, trial: Trial) -> _Part:
    if trial.pairs:
        return _Part(
            scored, trial.people, [trial.items[p.item].person for p in trial.pairs if p.same]
        )
    return _Part(
        scored,
        trial.people,
        [who for who, at in zip(trial.people, trial.own, strict=True) if at >= 0],
    )


def _part(scored: Scored, places: NDArray[np.intp], trial: Trial) -> _Part:
    """Of some items alone."""
    items = {name: values[places] for name, values in scored.items.items()}
    people = [trial.items[i].person for i in places.tolist()]
    if trial.pairs:
        mine = np.isin([p.item for p in trial.pairs if p.same], places)
        whose = np.array([trial.items[p.item].person for p in trial.pairs if p.same], np.str_)
        own, owners, searches = scored.own[mine], whose[mine].tolist(), None
    else:
        known = np.isfinite(items["own"])
        own, owners = (
            items["own"][known],
            [who for who, k in zip(people, known.tolist(), strict=True) if k],
        )
        searches = (
            None
            if scored.searches is None
            else open_set.mated_and_strangers(scored.searches, places)
        )
    values = recognition(own, scored.others, searches, scored.enrolled)
    return _Part(
        Scored(items, own, scored.others, searches, values=values, enrolled=scored.enrolled),
        people,
        owners,
    )
