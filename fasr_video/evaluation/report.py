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
# Measures without a recogniser.
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
# FPIRs at which gains of the FNIR are reported.
SEARCH_GAINS = (0.1, 0.01)
REPEATS = 300


@dataclass(frozen=True, slots=True)
class SystemInfo:
    """What a table needs of a system besides its scores."""

    among: str
    """Its degradation: best and second are marked separately for each."""
    compared: bool
    """Whether it can be the best; the true picture cannot."""
    sides: Sequence[int]
    """Side in pixels of each search's LR face."""


def picture_table(
    scores: Mapping[str, Scored],
    trial: Trial,
    infos: Mapping[str, SystemInfo],
    notes: Sequence[str] = (),
) -> Table:
    drawn = {name: s for name, s in scores.items() if "consistency" in s.items}
    rows = [
        Row(name, _cells(_all_items(s, trial), PICTURES), among=infos[name].among)
        for name, s in drawn.items()
    ]
    note = (
        f"{_marked(infos)}Mean ± standard deviation over pictures. "
        "Consistency: mean squared error ×10⁻⁵ of the shrunk picture and the LR face. "
        "Attributes: share of male, glasses and beard that a classifier reads the same "
        "as on the true picture."
    )
    return Table(
        "Pictures", "system", tuple(PICTURES.values()), tuple(rows), (note, *notes)
    ).without_empty_columns()


def _marked(infos: Mapping[str, SystemInfo]) -> str:
    return (
        "Best and second are marked separately for each degradation. "
        if len({s.among for s in infos.values()}) > 1
        else ""
    )


def recognition_table(
    scores: Mapping[str, Scored], trial: Trial, infos: Mapping[str, SystemInfo], scorer: str
) -> Table:
    rows = tuple(
        Row(
            name, _cells(_all_items(s, trial), RECOGNITION), infos[name].compared, infos[name].among
        )
        for name, s in scores.items()
    )
    note = (
        f"{_marked(infos)}In brackets: 95 % by resampling people "
        "(for AUC and EER: those searched for; the others' scores stay). "
        "CS: cosine of the picture's feature and the true picture's; "
        "identity distance: of the same two unit vectors. "
        "Verified: share of searches whose own subject passes the threshold that a share of "
        f"{VERIFIED_FMR:g} of the gallery's pairs of two people pass. "
        "The true picture (`hr`) is not compared."
    )
    if trial.pairs:
        note += (
            " Accuracy: each fold at the best threshold of the others, "
            "± standard deviation of the folds."
        )
    if any(s.searches is not None and not s.searches.mated.all() for s in scores.values()):
        note += " An FPIR below one stranger's search is left out."
    return Table(
        f"Recognition, scored by {scorer}", "system", tuple(RECOGNITION.values()), rows, (note,)
    ).without_empty_columns()


def split_table(
    scores: Mapping[str, Scored],
    trial: Trial,
    infos: Mapping[str, SystemInfo],
    column: str,
    *,
    scorer: str,
) -> Table:
    """Return a row for each system and each group of a label of the probes.

    The label `size` is the side of the LR face.
    """
    columns = {k: (PICTURES | RECOGNITION)[k] for k in SPLIT}
    rows_by_group: dict[str, list[Row]] = {}
    for name, scored in scores.items():
        labels = [item.probe.labels.get(column, "") for item in trial.items]
        values = [str(side) for side in infos[name].sides] if column == SIZE else labels
        for group, indices in significance.split(values).items():
            cells = _cells(_subset(scored, np.array(indices), trial), columns)
            passed = _strangers_passing(scored, np.array(indices), trial)
            row = Row(
                f"{group}: {name}", (Cell(float(len(indices))), *cells, passed), compared=False
            )
            rows_by_group.setdefault(group, []).append(row)
    note = (
        "All groups share one gallery, the scores of two people, and the strangers whose searches "
        "set the thresholds of FNIR. The last column: the share of the group's strangers who pass "
        f"the threshold that {SPLIT_FPIR:g} of all strangers pass. "
        "In brackets: 95 % by resampling people."
    )
    heads = (
        Column("probes", 0),
        *columns.values(),
        Column(f"FPIR where all's is {SPLIT_FPIR:g}", 3),
    )
    listed = tuple(row for group in rows_by_group.values() for row in group)
    return Table(
        f"By {column}, scored by {scorer}", column, heads, listed, (note,)
    ).without_empty_columns()


def _strangers_passing(scored: Scored, indices: NDArray[np.intp], trial: Trial) -> Cell:
    """Return the FPIR of a group at the threshold of all."""
    searches = scored.searches
    if searches is None or searches.mated.all() or not open_set.resolves(searches, SPLIT_FPIR):
        return Cell()
    rows = indices[~searches.mated[indices]]
    if not len(rows):
        return Cell()
    passed = searches.wrong[rows] >= open_set.threshold_at(searches, SPLIT_FPIR)
    summary = significance.summarise(passed, [trial.people[i] for i in rows.tolist()])
    return Cell(summary.value, between(summary.low, summary.high))


def gain_table(
    scores: Mapping[str, Scored], trial: Trial, baselines: Mapping[str, str], scorer: str
) -> Table:
    """Return the gains of each system over its baseline, on the same photographs."""
    rows = []
    for name, scored in scores.items():
        if baselines[name] != name:
            baseline = scores[baselines[name]]
            cells = [_gain(scored.items.get(k), baseline.items.get(k), trial.people) for k in GAINS]
            cells += [
                _search_gain(scored.searches, baseline.searches, rate) for rate in SEARCH_GAINS
            ]
            rows.append(Row(f"{name} over {baselines[name]}", tuple(cells), compared=False))
    note = (
        "In brackets: 95 % by resampling people, the same for both; "
        "p of the paired t-test over people. For FNIR each system has its own threshold, "
        "recomputed for each resampling. Not corrected for multiple tests."
    )
    heads = (*GAINS.values(), *(RECOGNITION[f"fnir{rate:g}"] for rate in SEARCH_GAINS))
    return Table(
        f"Gains, scored by {scorer}", "system", heads, tuple(rows), (note,)
    ).without_empty_columns()


def _gain(values: Scores | None, baseline: Scores | None, people: Sequence[str]) -> Cell:
    if values is None or baseline is None:
        return Cell()
    finite: list[int] = np.flatnonzero(np.isfinite(values) & np.isfinite(baseline)).tolist()
    if not finite:
        return Cell()
    summary = significance.gain(values[finite], baseline[finite], [people[i] for i in finite])
    p = "" if math.isnan(summary.p) else f", p = {summary.p:.2g}"
    return Cell(summary.mean.value, f"({summary.mean.low:+.3f} to {summary.mean.high:+.3f}{p})")


def _search_gain(searches: Searches | None, baseline: Searches | None, rate: float) -> Cell:
    """Return the difference of the FNIRs at this FPIR, on the same people."""
    if searches is None or baseline is None or not searches.mated.any() or searches.mated.all():
        return Cell()
    if not open_set.resolves(searches, rate):
        return Cell()
    draws = list(open_set.resampled(searches, REPEATS))
    more = [
        open_set.fnir_at(searches.take(d), rate) - open_set.fnir_at(baseline.take(d), rate)
        for d in draws
    ]
    low, high = np.quantile(more, (0.025, 0.975))
    return Cell(
        open_set.fnir_at(searches, rate) - open_set.fnir_at(baseline, rate),
        f"({low:+.3f} to {high:+.3f})",
    )


def _cells(part: _Part, columns: Mapping[str, Column]) -> tuple[Cell, ...]:
    scored = part.scored
    needs_bounds = scored.searches is not None and any(
        measure.startswith(("rank", "fnir")) for measure in columns
    )
    bounds = search_bounds(scored.searches) if needs_bounds and scored.searches is not None else {}
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
    finite: list[int] = np.flatnonzero(np.isfinite(values)).tolist()
    summary = significance.summarise(values[finite], [people[i] for i in finite])
    if measure == "verified":
        return Cell(summary.value, between(summary.low, summary.high))
    return Cell(summary.value, f"± {summary.std:.{(PICTURES | RECOGNITION)[measure].digits}f}")


def between(low: float, high: float) -> str:
    """Return an interval as text."""
    return f"({low:.3f}–{high:.3f})"


def search_bounds(searches: Searches) -> dict[str, tuple[float, float]]:
    """Return the 95 % intervals of Rank-k and FNIR, by measure."""
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
    """Return the 95 % interval of the AUC, the mean share of others below each own score."""
    own = part.scored.own
    ordered = np.sort(part.scored.others)
    below = np.searchsorted(ordered, own, "left") + np.searchsorted(ordered, own, "right")
    summary = significance.summarise(below / 2 / len(ordered), part.owners)
    return between(summary.low, summary.high)


@dataclass(frozen=True, slots=True)
class _Part:
    """The scores of one system on all items of a trial, or on some."""

    scored: Scored
    people: list[str]
    """The person of each item."""
    owners: list[str]
    """The person of each own score."""


def _all_items(scored: Scored, trial: Trial) -> _Part:
    if trial.pairs:
        owners = [trial.items[p.item].person for p in trial.pairs if p.same]
    else:
        enrolled = zip(trial.people, trial.own, strict=True)
        owners = [person for person, index in enrolled if index >= 0]
    return _Part(scored, trial.people, owners)


def _subset(scored: Scored, indices: NDArray[np.intp], trial: Trial) -> _Part:
    """Return the scores on some items alone."""
    items = {name: values[indices] for name, values in scored.items.items()}
    people = [trial.items[i].person for i in indices.tolist()]
    if trial.pairs:
        in_subset = np.isin([p.item for p in trial.pairs if p.same], indices)
        people_of_pairs = np.array(
            [trial.items[p.item].person for p in trial.pairs if p.same], np.str_
        )
        own = scored.own[in_subset]
        owners = people_of_pairs[in_subset].tolist()
        searches = None
    else:
        known = np.isfinite(items["own"])
        own = items["own"][known]
        owners = [person for person, k in zip(people, known.tolist(), strict=True) if k]
        searches = None
        if scored.searches is not None:
            searches = open_set.mated_and_strangers(scored.searches, indices)
    values = recognition(own, scored.others, searches, scored.enrolled)
    return _Part(
        Scored(items, own, scored.others, searches, values=values, enrolled=scored.enrolled),
        people,
        owners,
    )
