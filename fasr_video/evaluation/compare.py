"""A comparison: every system on the same items and seeds, scored by each recogniser, written as tables and plots."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from PIL import Image as Pictures

from fasr_video import __version__
from fasr_video.errors import MissingExtra, ModelError, UsageError
from fasr_video.evaluation import plots, report
from fasr_video.evaluation.degradations import Degradation, enlarged, folder_name
from fasr_video.evaluation.open_set import Scores
from fasr_video.evaluation.perceptual import FID_WORD, LPIPS_WORD
from fasr_video.evaluation.photos import check_names, plain_name
from fasr_video.evaluation.protocols import Trial
from fasr_video.evaluation.scoring import (
    Judges,
    Looked,
    Scored,
    Scorer,
    look,
    probe_parts,
    score,
    true_features,
)
from fasr_video.evaluation.systems import (
    Pooler,
    Shown,
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
# Hears which system, how many of its items are done, and of how many.
Tell = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is compared, and by whom it is judged."""

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


def compare(trial: Trial, plan: Plan, tools: Tools, tell: Tell) -> Outcome:
    names = labels(plan.systems)
    over = _baselines(plan.systems, names, plan.baseline)
    _check_columns(trial, plan.by)
    _check_truth(trial, plan)
    tools.store.bind(trial)
    check_systems(plan.systems, tools, trial.items)
    shown = {d: as_shown(trial, d) for d in dict.fromkeys(s.degradation for s in plan.systems)}
    entries = []
    truths = true_features(trial, plan.judges)
    for system, name in zip(plan.systems, names, strict=True):
        entries.append(
            _draw(trial, system, name, shown[system.degradation], plan, tools, truths, tell)
        )
    warnings = [*tools.warnings, *_circular(plan, tools), *_guided_and_judged(plan, tools)]
    tables: list[Table] = []
    shows = {e.name: _shows(e) for e in entries}
    folder = emptied(tools.store.folder / "plots")
    for embedder in plan.scorers:
        found = {e.name: _score(trial, e, Scorer(embedder, tools.store), warnings) for e in entries}
        if not tables:
            tables.append(
                report.picture_table(found, trial, shows, _unmeasured(trial, plan.judges))
            )
        tables += _tables(found, trial, plan.by, over, shows, _named(embedder))
        warnings += _plot(found, trial, entries, embedder, folder)
    _grid(trial, shown, entries, folder)
    warnings = list(dict.fromkeys(warnings))
    told = [t for t in tables if t.rows and t.columns]
    path = _write(trial, plan, tools, told, warnings)
    return Outcome(tuple(told), tuple(warnings), path)


@dataclass(frozen=True, slots=True, eq=False)
class _Entry:
    """A system with what it drew."""

    name: str
    system: System
    shown: Sequence[Shown]
    pictures: Sequence[Image] | None
    looked: Looked


def _draw(
    trial: Trial,
    system: System,
    name: str,
    shown: Sequence[Shown],
    plan: Plan,
    tools: Tools,
    truths: Scores | None,
    tell: Tell,
) -> _Entry:
    if not system.draws:
        return _Entry(name, system, shown, None, Looked())
    pictures = draw_all(
        system, name, shown, tools, plan.batch, lambda done: tell(name, done, len(shown))
    )
    if system.method == report.TRUTH:  # it is what the others are held against
        return _Entry(name, system, shown, pictures, Looked())
    return _Entry(name, system, shown, pictures, look(trial, shown, pictures, plan.judges, truths))


def _score(trial: Trial, entry: _Entry, scorer: Scorer, warnings: list[str]) -> Scored:
    own, told = _own_pooler(entry.system, scorer.embedder)
    warnings += [w for w in told if w not in warnings]
    parts = probe_parts(entry.system, entry.shown, entry.pictures, scorer, own)
    return score(trial, parts, entry.looked, scorer)


def _baselines(
    systems: Sequence[System], names: Sequence[str], wanted: str | None
) -> dict[str, str]:
    """For each system the one that its gains are over: of the same degradation, where there is one.

    `wanted` is a system's name or method; by default the first one but the true picture.
    """
    known = dict(zip(names, systems, strict=True))
    named = [
        n
        for n, s in known.items()
        if (wanted in (n, s.method) if wanted else s.method != report.TRUTH)
    ]
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
    found: Mapping[str, Scored],
    trial: Trial,
    by: Sequence[str],
    over: Mapping[str, str],
    shows: Mapping[str, report.Shows],
    who: str,
) -> list[Table]:
    tables = [report.recognition_table(found, trial, shows, who)]
    tables += [report.split_table(found, trial, shows, column, who) for column in by]
    return [*tables, report.gain_table(found, trial, over, who)]


def _shows(entry: _Entry) -> report.Shows:
    sides = [len(s.lr0) for s in entry.shown]
    return report.Shows(
        str(entry.system.degradation or ""), entry.system.method != report.TRUTH, sides
    )


def as_shown(trial: Trial, degradation: Degradation | None) -> list[Shown]:
    """Each item's faces as the camera sees them; every photograph by a seed of its own."""
    if degradation is None:
        return [
            Shown(i, i.probe.picture, tuple(a.picture for a in i.auxiliaries)) for i in trial.items
        ]
    found = []
    for item in trial.items:
        faces = [item.probe, *item.auxiliaries]
        small = degradation(
            [f.picture for f in faces], [(item.seed + k) % 2**31 for k in range(len(faces))]
        )
        found.append(Shown(item, small[0], tuple(small[1:])))
    return found


def write_inputs(trial: Trial, degradations: Sequence[Degradation | None], folder: Path) -> None:
    """The LR faces as PNG files, for programs that are compared through `images:DIR`."""
    check_names([item.name for item in trial.items])
    for degradation in degradations:
        for shown in as_shown(trial, degradation):
            path = folder / folder_name(degradation) / f"{plain_name(shown.item.name)}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Pictures.fromarray(shown.lr0).save(path)


def _own_pooler(system: System, embedder: Embedder) -> tuple[Pooler | None, list[str]]:
    """What pools for the search, in the scoring recogniser's own features; and a warning where that is another rule."""
    if system.draws and "pooled" not in (system.fuse or ""):
        return None, []
    try:
        return pooler(system, embedder), []
    except ModelError as error:
        told = f"pooled for the search by {_named(embedder)} with the mean: {error.reason}"
        return pooler(replace(system, merge="mean"), embedder), [told]


def _circular(plan: Plan, tools: Tools) -> list[str]:
    """The embedder that a picture was told is a friendly judge of it."""
    told = [s.method for s in plan.systems if s.draws and uses_identity(s.method)]
    if not told or all(e.sha256 != tools.embedder.sha256 for e in plan.scorers):
        return []
    who = f"{', '.join(dict.fromkeys(told))}: {_named(tools.embedder)} conditions the pictures and scores them"
    return [f"{who}, which is circular; give another recogniser with --scorer"]


def _guided_and_judged(plan: Plan, tools: Tools) -> list[str]:
    """What drew a picture towards attributes is a friendly judge of them, too."""
    guided = [s.method for s in plan.systems if is_guided(s.method)]
    if not guided or plan.judges.attributes is None:
        return []
    if (
        plan.judges.attributes_sha256
        not in open_guidance((), STRENGTH, tools.device).classifiers.sha256
    ):
        return []
    who = f"{', '.join(dict.fromkeys(guided))}: one classifier draws the pictures towards attributes and judges them"
    return [f"{who}, which is circular; give another one with --attributes"]


def _named(embedder: Embedder) -> str:
    return f"{embedder.name} {embedder.sha256[:8]}"


def _check_truth(trial: Trial, plan: Plan) -> None:
    """What would come to nothing, told before hours are spent on drawing."""
    if trial.native and any(s.method == report.TRUTH for s in plan.systems):
        raise UsageError(
            f"method {report.TRUTH}", "the probes are as the camera saw them", "leave it out here"
        )
    if plan.judges.inception is not None and len(trial.items) < 2 and not trial.native:
        raise UsageError(
            "--fid",
            "one picture has no spread to compare",
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
    """A clear word for what is not in the table."""
    if trial.native:
        return [
            "The probes are as the camera saw them: there is no true picture to measure against."
        ]
    return [
        w
        for w, judge in ((LPIPS_WORD, judges.lpips), (FID_WORD, judges.inception))
        if judge is None
    ]


def _plot(
    found: Mapping[str, Scored],
    trial: Trial,
    entries: Sequence[_Entry],
    embedder: Embedder,
    folder: Path,
) -> list[str]:
    """A set of plots for each degradation, and what is not in them."""
    told = []
    degradations = dict.fromkeys(e.system.degradation for e in entries)
    try:
        for degradation in degradations:
            some = {e.name: found[e.name] for e in entries if e.system.degradation == degradation}
            size = f"{folder_name(degradation)}-" if len(degradations) > 1 else ""
            mark = f"{size}{embedder.sha256[:8]}.png"
            if not trial.pairs:
                plots.cmc(some, folder / f"cmc-{mark}")
            plots.roc(some, folder / f"roc-{mark}")
            plots.det(some, folder / f"det-{mark}")
            plots.histograms(some, folder / f"scores-{mark}")
            if len(some) > plots.MOST_PANELS:
                told.append(
                    f"scores-{mark}: histograms of the first {plots.MOST_PANELS} of {len(some)} systems"
                )
    except MissingExtra as error:
        return [f"no plots: {error}"]
    return told


def emptied(folder: Path) -> Path:
    """Without what an earlier comparison drew: it is of other systems."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob("*.png"), *folder.glob("*.csv")):
        old.unlink()
    return folder


def _grid(
    trial: Trial,
    shown: Mapping[Degradation | None, Sequence[Shown]],
    entries: Sequence[_Entry],
    folder: Path,
) -> None:
    """The first items: the LR faces, what each system makes of them, the true pictures. For eyes: they show people."""
    columns: dict[str, Sequence[Image]] = {}
    for degradation, faces in shown.items():
        head = "LR" if len(shown) == 1 else f"LR {degradation}"
        columns[head] = enlarged([s.lr0 for s in faces[:GRID_ROWS]])
    once = {replace(e.system, fuse=None): e for e in reversed(entries)}  # fusing changes no picture
    for entry in entries:
        if entry.looked.pictures is not None and entry in once.values():
            columns[entry.name] = entry.looked.pictures[:GRID_ROWS]
    if not trial.native:
        columns["truth"] = [item.probe.picture for item in trial.items[:GRID_ROWS]]
    plots.grid(list(zip(*columns.values(), strict=True)), list(columns), folder / "grid.png")


def _write(
    trial: Trial, plan: Plan, tools: Tools, tables: Sequence[Table], warnings: Sequence[str]
) -> Path:
    folder = tools.store.folder
    write_tables(tables, folder / "tables")
    provenance = trial.provenance()
    told = ", ".join(f"{provenance[k]} {k.replace('_', ' ')}" for k in COUNTS if provenance[k])
    heads = [
        f"# Evaluation: {trial.protocol}",
        f"Made by fasr-video {__version__} on {datetime.now(UTC):%Y-%m-%d}; seed {trial.seed}; {told}.",
        f"Conditioned by {_named(tools.embedder)}; scored by {', '.join(map(_named, plan.scorers))}."
        + (
            f" Attributes are judged by {judge[:8]}."
            if (judge := plan.judges.attributes_sha256)
            else ""
        ),
        *plan.notes,
        *(f"**Warning:** {w}." for w in warnings),
    ]
    path = folder / "report.md"
    pictures = [f"![{p.stem}](plots/{p.name})" for p in sorted((folder / "plots").glob("*.png"))]
    write_text(path, "\n\n".join([*heads, *(t.markdown() for t in tables), *pictures, ""]))
    return path


def write_tables(tables: Sequence[Table], folder: Path) -> None:
    """Each as CSV and LaTeX, in place of those of an earlier comparison."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob("*.csv"), *folder.glob("*.tex")):
        old.unlink()
    for number, table in enumerate(tables, 1):
        name = re.sub(r"[^a-z0-9]+", "-", f"{number} {table.title}".lower()).strip("-")
        write_text(folder / f"{name}.csv", table.csv())
        write_text(folder / f"{name}.tex", table.latex())


def write_text(path: Path, text: str) -> None:
    atomic_write_text(path, text)
