"""A comparison of systems on the same items and seeds, by each recogniser, as tables and plots."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from PIL import Image as Pictures

from fasr_video import __version__
from fasr_video.datasets.faces import plain_name
from fasr_video.errors import MissingExtra, ModelError, UsageError
from fasr_video.evaluation import plots, report
from fasr_video.evaluation.degradations import Degradation, enlarged, folder_name
from fasr_video.evaluation.open_set import Scores
from fasr_video.evaluation.perceptual import FID_MISSING, LPIPS_MISSING
from fasr_video.evaluation.photos import check_names
from fasr_video.evaluation.protocols import Trial
from fasr_video.evaluation.scoring import (
    Judges,
    PictureScores,
    Scored,
    Scorer,
    measure_pictures,
    probe_parts,
    score,
    true_features,
)
from fasr_video.evaluation.systems import (
    ObservedItem,
    Pooler,
    System,
    Tools,
    check_systems,
    draw_all,
    is_guided,
    labels,
    pooler,
    uses_identity,
)
from fasr_video.evaluation.tables import Table
from fasr_video.files import atomic_write_text
from fasr_video.recognition.embedder import Embedder
from fasr_video.sr.guidance import STRENGTH, open_guidance
from fasr_video.types import Image

GRID_ROWS = 8
COUNTS = ("items", "people", "gallery", "strangers", "pairs", "skipped", "left_out")
# Called with a system's name, the number of its finished items, and of all its items.
ReportProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """The systems to compare, and the models that score them."""

    systems: Sequence[System]
    scorers: Sequence[Embedder]
    judges: Judges
    by: Sequence[str] = ()
    baseline: str | None = None
    batch: int = 8
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    tables: tuple[Table, ...]
    warnings: tuple[str, ...]
    report: Path


def compare(trial: Trial, plan: Plan, tools: Tools, report_progress: ReportProgress) -> Outcome:
    """Compare systems on a trial, and write tables, plots and a report."""
    names = labels(plan.systems)
    baselines = _baselines(plan.systems, names, plan.baseline)
    _check_columns(trial, plan.by)
    _check_truth(trial, plan)
    tools.store.bind(trial)
    check_systems(plan.systems, tools, trial.items)
    observed = {d: observe(trial, d) for d in dict.fromkeys(s.degradation for s in plan.systems)}
    entries = []
    truths = true_features(trial, plan.judges)
    for system, name in zip(plan.systems, names, strict=True):
        entries.append(
            _draw(
                trial,
                system,
                name,
                observed[system.degradation],
                plan=plan,
                tools=tools,
                truths=truths,
                report_progress=report_progress,
            )
        )
    warnings = [*tools.warnings, *_circular(plan, tools), *_guided_and_judged(plan, tools)]
    tables: list[Table] = []
    infos = {e.name: _system_info(e) for e in entries}
    folder = emptied(tools.store.folder / "plots")
    for embedder in plan.scorers:
        scores = {
            e.name: _score(trial, e, Scorer(embedder, tools.store), warnings) for e in entries
        }
        if not tables:
            tables.append(
                report.picture_table(scores, trial, infos, _unmeasured(trial, plan.judges))
            )
        tables += _tables(scores, trial, plan.by, baselines, infos=infos, scorer=_named(embedder))
        warnings += _plot(scores, trial, entries, embedder, folder=folder)
    _grid(trial, observed, entries, folder)
    warnings = list(dict.fromkeys(warnings))
    written = [t for t in tables if t.rows and t.columns]
    path = _write(trial, plan, tools, written, warnings=warnings)
    return Outcome(tuple(written), tuple(warnings), path)


@dataclass(frozen=True, slots=True, eq=False)
class _Entry:
    """A system with its pictures."""

    name: str
    system: System
    observed: Sequence[ObservedItem]
    pictures: Sequence[Image] | None
    picture_scores: PictureScores


def _draw(
    trial: Trial,
    system: System,
    name: str,
    observed: Sequence[ObservedItem],
    *,
    plan: Plan,
    tools: Tools,
    truths: Scores | None,
    report_progress: ReportProgress,
) -> _Entry:
    if not system.draws:
        return _Entry(name, system, observed, None, PictureScores())
    pictures = draw_all(
        system,
        name,
        observed,
        tools,
        batch=plan.batch,
        report_done=lambda done: report_progress(name, done, len(observed)),
    )
    if system.method == report.TRUTH:  # the other systems are compared with it
        return _Entry(name, system, observed, pictures, PictureScores())
    return _Entry(
        name,
        system,
        observed,
        pictures,
        measure_pictures(trial, observed, pictures, plan.judges, truths=truths),
    )


def _score(trial: Trial, entry: _Entry, scorer: Scorer, warnings: list[str]) -> Scored:
    own_pooler, pooler_warnings = _own_pooler(entry.system, scorer.embedder)
    warnings += [w for w in pooler_warnings if w not in warnings]
    parts = probe_parts(entry.system, entry.observed, entry.pictures, scorer, pool=own_pooler)
    return score(trial, parts, entry.picture_scores, scorer)


def _baselines(
    systems: Sequence[System], names: Sequence[str], wanted: str | None
) -> dict[str, str]:
    """Return the baseline of each system, if possible with the same degradation.

    `wanted` is the baseline's name or method; the default is the first system but the true picture.
    """
    known = dict(zip(names, systems, strict=True))
    if wanted:
        named = [n for n, s in known.items() if wanted in (n, s.method)]
    else:
        named = [n for n, s in known.items() if s.method != report.TRUTH]
    if wanted and not named:
        raise UsageError(
            f"baseline {wanted}", "no such system here", f"give one of: {', '.join(names)}"
        )
    first = named[0] if named else names[0]
    twins = {
        s.degradation: n
        for n, s in known.items()
        if replace(s, degradation=known[first].degradation) == known[first]
    }
    return {name: twins.get(system.degradation, first) for name, system in known.items()}


def _tables(
    scores: Mapping[str, Scored],
    trial: Trial,
    by: Sequence[str],
    baselines: Mapping[str, str],
    *,
    infos: Mapping[str, report.SystemInfo],
    scorer: str,
) -> list[Table]:
    tables = [report.recognition_table(scores, trial, infos, scorer)]
    tables += [report.split_table(scores, trial, infos, column, scorer=scorer) for column in by]
    return [*tables, report.gain_table(scores, trial, baselines, scorer)]


def _system_info(entry: _Entry) -> report.SystemInfo:
    return report.SystemInfo(
        among=str(entry.system.degradation or ""),
        compared=entry.system.method != report.TRUTH,
        sides=[len(s.lr0) for s in entry.observed],
    )


def observe(trial: Trial, degradation: Degradation | None) -> list[ObservedItem]:
    """Return each item's faces as the camera sees them; each photograph has its own seed."""
    if degradation is None:
        return [
            ObservedItem(i, i.probe.picture, tuple(a.picture for a in i.auxiliaries))
            for i in trial.items
        ]
    observed = []
    for item in trial.items:
        faces = [item.probe, *item.auxiliaries]
        small = degradation(
            [f.picture for f in faces], [(item.seed + k) % 2**31 for k in range(len(faces))]
        )
        observed.append(ObservedItem(item, small[0], tuple(small[1:])))
    return observed


def write_inputs(trial: Trial, degradations: Sequence[Degradation | None], folder: Path) -> None:
    """Write the LR faces as PNG files, for programs that `images:DIR` compares."""
    check_names([item.name for item in trial.items])
    for degradation in degradations:
        for observed in observe(trial, degradation):
            path = folder / folder_name(degradation) / f"{plain_name(observed.item.name)}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Pictures.fromarray(observed.lr0).save(path)


def _own_pooler(system: System, embedder: Embedder) -> tuple[Pooler | None, list[str]]:
    """Return the pooler for the search, by features of the scoring recogniser, and warnings.

    A warning says if it pools by another rule.
    """
    if system.draws and "pooled" not in (system.fuse or ""):
        return None, []
    try:
        return pooler(system, embedder), []
    except ModelError as error:
        warning = f"pooled for the search by {_named(embedder)} with the mean: {error.reason}"
        return pooler(replace(system, merge="mean"), embedder), [warning]


def _circular(plan: Plan, tools: Tools) -> list[str]:
    """Return a warning if the embedder that conditions pictures also scores them."""
    methods = [s.method for s in plan.systems if s.draws and uses_identity(s.method)]
    if not methods or all(e.sha256 != tools.embedder.sha256 for e in plan.scorers):
        return []
    names = ", ".join(dict.fromkeys(methods))
    conflict = f"{names}: {_named(tools.embedder)} conditions the pictures and scores them"
    return [f"{conflict}, which is circular; give another recogniser with --scorer"]


def _guided_and_judged(plan: Plan, tools: Tools) -> list[str]:
    """Return a warning if the classifier that guides pictures also judges their attributes."""
    guided = [s.method for s in plan.systems if is_guided(s.method)]
    if not guided or plan.judges.attributes is None:
        return []
    classifiers = open_guidance((), STRENGTH, tools.device).classifiers
    if plan.judges.attributes_sha256 not in classifiers.sha256:
        return []
    names = ", ".join(dict.fromkeys(guided))
    conflict = f"{names}: one classifier guides the pictures and judges their attributes"
    return [f"{conflict}, which is circular; give another one with --attributes"]


def _named(embedder: Embedder) -> str:
    return f"{embedder.name} {embedder.sha256[:8]}"


def _check_truth(trial: Trial, plan: Plan) -> None:
    """Raise UsageError for systems and measures that cannot work, before hours of drawing."""
    if trial.native and any(s.method == report.TRUTH for s in plan.systems):
        raise UsageError(
            f"method {report.TRUTH}", "the probes are as the camera saw them", "leave it out here"
        )
    if plan.judges.inception is not None and len(trial.items) < 2 and not trial.native:
        raise UsageError(
            "--fid",
            "one picture has no covariance to compare",
            "leave it out, or search for more people",
        )


def _check_columns(trial: Trial, columns: Sequence[str]) -> None:
    known = sorted({name for item in trial.items for name in item.probe.labels})
    for column in columns:
        if column not in known:
            raise UsageError(
                f"--by {column}",
                f"no such label; there are {', '.join(known)}",
                "give them with --labels",
            )


def _unmeasured(trial: Trial, judges: Judges) -> list[str]:
    """Return notes on the measures that are not in the table."""
    if trial.native:
        return [
            "The probes are as the camera saw them: there is no true picture to measure against."
        ]
    return [
        w
        for w, judge in ((LPIPS_MISSING, judges.lpips), (FID_MISSING, judges.inception))
        if judge is None
    ]


def _plot(
    scores: Mapping[str, Scored],
    trial: Trial,
    entries: Sequence[_Entry],
    embedder: Embedder,
    *,
    folder: Path,
) -> list[str]:
    """Write plots for each degradation, and return notes on what they leave out."""
    notes = []
    degradations = dict.fromkeys(e.system.degradation for e in entries)
    try:
        for degradation in degradations:
            group = {e.name: scores[e.name] for e in entries if e.system.degradation == degradation}
            prefix = f"{folder_name(degradation)}-" if len(degradations) > 1 else ""
            file_name = f"{prefix}{embedder.sha256[:8]}.png"
            if not trial.pairs:
                plots.cmc(group, folder / f"cmc-{file_name}")
            plots.roc(group, folder / f"roc-{file_name}")
            plots.det(group, folder / f"det-{file_name}")
            plots.histograms(group, folder / f"scores-{file_name}")
            if len(group) > plots.MOST_PANELS:
                notes.append(
                    f"scores-{file_name}: histograms of the first {plots.MOST_PANELS} "
                    f"of {len(group)} systems"
                )
    except MissingExtra as error:
        return [f"no plots: {error}"]
    return notes


def emptied(folder: Path) -> Path:
    """Return the folder, without the plots of an earlier comparison."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob("*.png"), *folder.glob("*.csv")):
        old.unlink()
    return folder


def _grid(
    trial: Trial,
    observed: Mapping[Degradation | None, Sequence[ObservedItem]],
    entries: Sequence[_Entry],
    folder: Path,
) -> None:
    """Write the first items as a grid: the LR faces, each system's pictures, the true pictures."""
    columns: dict[str, Sequence[Image]] = {}
    for degradation, faces in observed.items():
        head = "LR" if len(observed) == 1 else f"LR {degradation}"
        columns[head] = enlarged([s.lr0 for s in faces[:GRID_ROWS]])
    unfused = {
        replace(e.system, fuse=None): e for e in reversed(entries)
    }  # fusing changes no picture
    for entry in entries:
        if entry.picture_scores.pictures is not None and entry in unfused.values():
            columns[entry.name] = entry.picture_scores.pictures[:GRID_ROWS]
    if not trial.native:
        columns["truth"] = [item.probe.picture for item in trial.items[:GRID_ROWS]]
    plots.grid(list(zip(*columns.values(), strict=True)), list(columns), folder / "grid.png")


def _write(
    trial: Trial, plan: Plan, tools: Tools, tables: Sequence[Table], *, warnings: Sequence[str]
) -> Path:
    folder = tools.store.folder
    write_tables(tables, folder / "tables")
    provenance = trial.provenance()
    counts = ", ".join(f"{provenance[k]} {k.replace('_', ' ')}" for k in COUNTS if provenance[k])
    scorers = ", ".join(map(_named, plan.scorers))
    models = f"Conditioned by {_named(tools.embedder)}; scored by {scorers}."
    if plan.judges.attributes_sha256:
        models += f" Attributes are judged by {plan.judges.attributes_sha256[:8]}."
    heads = [
        f"# Evaluation: {trial.protocol}",
        f"Made by fasr-video {__version__} on {datetime.now(UTC):%Y-%m-%d}; "
        f"seed {trial.seed}; {counts}.",
        models,
        *plan.notes,
        *(f"**Warning:** {w}." for w in warnings),
    ]
    path = folder / "report.md"
    pictures = [f"![{p.stem}](plots/{p.name})" for p in sorted((folder / "plots").glob("*.png"))]
    write_text(path, "\n\n".join([*heads, *(t.markdown() for t in tables), *pictures, ""]))
    return path


def write_tables(tables: Sequence[Table], folder: Path) -> None:
    """Write each table as CSV and LaTeX, and remove those of an earlier comparison."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob("*.csv"), *folder.glob("*.tex")):
        old.unlink()
    for number, table in enumerate(tables, 1):
        name = re.sub(r"[^a-z0-9]+", "-", f"{number} {table.title}".lower()).strip("-")
        write_text(folder / f"{name}.csv", table.csv())
        write_text(folder / f"{name}.tex", table.latex())


def write_text(path: Path, text: str) -> None:
    """Write a text file, all or nothing."""
    atomic_write_text(path, text)
