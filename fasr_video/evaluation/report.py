"""The tables of a comparison."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fasr_video.evaluation import open_set, significance
from fasr_video.evaluation.open_set import FPIRS, Scores, Searches
from fasr_video.evaluation.protocols import Trial
from fasr_video.evaluation.scoring import RANKS, VERIFIED_FMR, Scored, recognition
from fasr_video.evaluation.tables import Cell, Column, Row, Table

TRUTH = "hr"
PICTURES = {
    "psnr": Column("PSNR", 2, "up"),
    "ssim": Column("SSIM", 3, "up"),
    "ms_ssim": Column("MS-SSIM", 3, "up"),
    "lpips": Column("LPIPS", 3, "down"),
    "fid": Column("FID", 1, "down"),
    "consistency": Column("consistency", 1, "down"),
    "attributes": Column("attributes", 3, "up"),
}
"""What no recogniser has a part in."""
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
SPLIT = ("psnr", "ssim", "cs", "auc", "rank1")
GAINS = {**{k: PICTURES[k] for k in ("psnr", "ssim")}, "cs": RECOGNITION["cs"], "own": Column("own score", 3)}
REPEATS = 300


def picture_table(found: Mapping[str, Scored], trial: Trial, notes: Sequence[str] = ()) -> Table:
    drawn = {name: s for name, s in found.items() if "consistency" in s.items}
    rows = [Row(name, _cells(s, PICTURES, trial)) for name, s in drawn.items()]
    told = (
        "Mean ± standard deviation over pictures. Consistency: mean squared error ×10⁻⁵ between the picture brought "
        "down again and the LR face. Attributes: share of male, glasses and beard that the classifier in the box reads "
        "as it reads them off the true picture."
    )
    return Table("Pictures", "system", tuple(PICTURES.values()), tuple(rows), (told, *notes)).known()


def recognition_table(found: Mapping[str, Scored], trial: Trial, scorer: str) -> Table:
    rows = tuple(Row(name, _cells(s, RECOGNITION, trial), name != TRUTH) for name, s in found.items())
    told = (
        "In brackets: 95 % by drawing people anew (of AUC: those searched for; the others' scores stay). CS: cosine of "
        "the picture's feature and the true picture's; identity distance: of the same two unit vectors. Verified: "
        "share of searches whose own subject passes the threshold that a share of "
        f"{VERIFIED_FMR:g} of the gallery's pairs of two people pass. The true picture (`hr`) is not compared."
    )
    if trial.pairs:
        told += " Accuracy: each fold at the best threshold of the others, ± standard deviation of the folds."
    if any(s.searches is not None and not s.searches.mated.all() for s in found.values()):
        told += " An FPIR that not one stranger's search would be is left out."
    return Table(f"Recognition, scored by {scorer}", "system", tuple(RECOGNITION.values()), rows, (told,)).known()


def split_table(found: Mapping[str, Scored], trial: Trial, column: str, scorer: str) -> Table:
    """A row for each system and each group of the probes' label."""
    groups = significance.split([item.probe.labels.get(column, "") for item in trial.items])
    columns = {k: (PICTURES | RECOGNITION)[k] for k in SPLIT}
    rows = []
    for group, places in groups.items():
        for name, scored in found.items():
            some = _part(scored, np.array(places), trial)
            people = [trial.items[i].person for i in places]
            cells = tuple(_cell(some, measure, people) for measure in columns)
            rows.append(Row(f"{group}: {name}", (Cell(float(len(places))), *cells), compared=False))
    told = "Everybody is searched in the whole gallery; the scores of two people are everybody's."
    heads = (Column("probes", 0), *columns.values())
    return Table(f"By {column}, scored by {scorer}", column, heads, tuple(rows), (told,)).known()


def gain_table(found: Mapping[str, Scored], trial: Trial, over: Mapping[str, str], scorer: str) -> Table:
    """What each system has above another one, on the same photographs. `over`: which one."""
    rows = []
    for name, scored in found.items():
        if over[name] != name:
            before = found[over[name]]
            cells = [_gain(scored.items.get(k), before.items.get(k), trial.people) for k in GAINS]
            rows.append(Row(f"{name} over {over[name]}", tuple(cells), compared=False))
    told = "In brackets: 95 % by drawing people anew; p of the paired t-test over people. Not corrected for how many."
    return Table(f"Gains, scored by {scorer}", "system", tuple(GAINS.values()), tuple(rows), (told,)).known()


def _gain(values: Scores | None, before: Scores | None, people: Sequence[str]) -> Cell:
    if values is None or before is None:
        return Cell()
    kept: list[int] = np.flatnonzero(np.isfinite(values) & np.isfinite(before)).tolist()
    if not kept:
        return Cell()
    told = significance.gain(values[kept], before[kept], [people[i] for i in kept])
    p = "" if math.isnan(told.p) else f", p = {told.p:.2g}"
    return Cell(told.mean.value, f"({told.mean.low:+.3f} to {told.mean.high:+.3f}{p})")


def _cells(scored: Scored, columns: Mapping[str, Column], trial: Trial) -> tuple[Cell, ...]:
    bounds = {} if scored.searches is None else _search_bounds(scored.searches)
    cells = []
    for measure in columns:
        cell = _cell(scored, measure, trial.people)
        if measure in bounds and not math.isnan(cell.value):
            cell = Cell(cell.value, _between(*bounds[measure]))
        elif measure == "auc" and not math.isnan(cell.value):
            cell = Cell(cell.value, _auc_bounds(scored, trial))
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
        return Cell(told.value, _between(told.low, told.high))
    return Cell(told.value, f"± {told.std:.{(PICTURES | RECOGNITION)[measure].digits}f}")


def _between(low: float, high: float) -> str:
    return f"({low:.3f}–{high:.3f})"


def _search_bounds(searches: Searches) -> dict[str, tuple[float, float]]:
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


def _auc_bounds(scored: Scored, trial: Trial) -> str:
    """Of each own score the share of the others below it, whose mean is the AUC."""
    ordered = np.sort(scored.others)
    below = np.searchsorted(ordered, scored.own, "left") + np.searchsorted(ordered, scored.own, "right")
    people = [trial.items[p.item].person for p in trial.pairs if p.same] if trial.pairs else _enrolled(trial)
    told = significance.summarise(below / 2 / len(ordered), people)
    return _between(told.low, told.high)


def _enrolled(trial: Trial) -> list[str]:
    return [person for person, place in zip(trial.people, trial.own, strict=True) if place >= 0]


def _part(scored: Scored, places: NDArray[np.intp], trial: Trial) -> Scored:
    """Of some items alone."""
    items = {name: values[places] for name, values in scored.items.items()}
    if trial.pairs:
        own = scored.own[np.isin([p.item for p in trial.pairs if p.same], places)]
        searches = None
    else:
        own = items["own"][np.isfinite(items["own"])]
        searches = None if scored.searches is None else scored.searches.take(places)
    return Scored(items, own, scored.others, searches, values=recognition(own, scored.others, searches))
