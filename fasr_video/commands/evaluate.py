"""`fasr-video eval …`: each command makes a trial by its protocol and compares systems on it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, TaskID
from rich.table import Table as Screen

from fasr_video.checkpoint import contract_of, find_device
from fasr_video.commands.embedder import embedder_options
from fasr_video.detection import Detector, open_detector
from fasr_video.errors import ExitCode, InputError, MissingExtra, ModelError, UsageError
from fasr_video.evaluation.compare import Plan, compare, write_inputs
from fasr_video.evaluation.degradations import Degradation, parse
from fasr_video.evaluation.perceptual import Inception, Lpips
from fasr_video.evaluation.photos import LeftOut, Photo, read_labels, read_photos
from fasr_video.evaluation.presets import PRESETS, Preset
from fasr_video.evaluation.protocols import (
    Trial,
    celeba,
    first_searches,
    leave_some_out,
    pairs,
    quis_campi,
)
from fasr_video.evaluation.report import TRUTH
from fasr_video.evaluation.scoring import Judges
from fasr_video.evaluation.store import Store
from fasr_video.evaluation.systems import FITTED, FUSIONS, MERGES, Axes, Tools, suits
from fasr_video.evaluation.tables import Table
from fasr_video.evaluation.video import evaluate
from fasr_video.files import sha256_file
from fasr_video.recognition.combiner import read_eta
from fasr_video.recognition.embedder import Embedder
from fasr_video.recognition.embedders import EMBEDDERS, open_embedder
from fasr_video.recognition.network import FORMAT
from fasr_video.sqlite import explain_errors
from fasr_video.sr.checkpoints import load_attribute_classifier
from fasr_video.weights.manifest import bundled

FILE = click.Path(path_type=Path, dir_okay=False, exists=True)
THERE = click.Path(path_type=Path, exists=True)
SOURCES = click.argument("photos", nargs=-1, required=True, type=THERE)
SCORER = "dlib"
# Lines of what was left out that are printed; trial.json has all.
SHOWN = 5
# Characters of a table on the screen.
WIDEST = 500

TRIAL_OPTIONS = (
    click.option(
        "--people",
        type=click.IntRange(min=2),
        help="At most so many, drawn by the seed. [default: all]",
    ),
    click.option(
        "--searches",
        type=click.IntRange(min=1),
        help="Only the first so many; the gallery stays whole.",
    ),
    click.option(
        "--leave-out",
        default=0.0,
        type=click.FloatRange(0, 1, max_open=True),
        show_default=True,
        help="Share of people who are searched for and not enrolled: an open set.",
    ),
)
COMMON_OPTIONS = (
    click.option(
        "--out",
        required=True,
        type=click.Path(path_type=Path, file_okay=False),
        help="The run's folder.",
    ),
    click.option(
        "--seed",
        default=0,
        type=click.IntRange(0, 2**31),
        show_default=True,
        help="Of everything random.",
    ),
    click.option(
        "--labels",
        type=FILE,
        help="CSV with path and a column for each label; landmarks tell the pose.",
    ),
    click.option(
        "--by",
        multiple=True,
        help="A table by this label too: size, pose, or a column of --labels.",
    ),
    click.option("--align", is_flag=True, help="Find the face in each photograph first."),
    click.option(
        "--preset",
        type=click.Choice(list(PRESETS)),
        help="What the papers varied, where nothing is said.",
    ),
    click.option(
        "--method",
        multiple=True,
        help="What is compared, several times. [default: bicubic, pooled, fasr++]",
    ),
    click.option(
        "--degrade",
        multiple=True,
        help="SIDE, SIDE:camera, SIDE:jpeg-30, SIDE:h264-35 … [default: 16]",
    ),
    click.option(
        "--sampler",
        multiple=True,
        help="As for `fasr-video sr`; r of Langevin steps as ve-100,r=0.3.",
    ),
    click.option(
        "--samples", multiple=True, type=click.IntRange(1, 64), help="Pictures whose mean is taken."
    ),
    click.option(
        "--merge",
        multiple=True,
        help="How features are merged: combiner, mean, weighted or median.",
    ),
    click.option(
        "--combiner",
        multiple=True,
        type=FILE,
        help="Feature Combiners, each at the eta that it was trained at. [default: the bundled one]",
    ),
    click.option(
        "--model",
        multiple=True,
        type=FILE,
        help="Super-resolution networks. [default: the bundled one]",
    ),
    click.option(
        "--references",
        multiple=True,
        type=click.IntRange(min=0),
        help="At most so many auxiliaries.",
    ),
    click.option(
        "--fuse",
        multiple=True,
        help="Whose cosines a search averages: sr, pooled+sr, best+pooled+sr.",
    ),
    click.option(
        "--idfsr",
        type=FILE,
        help="Weights of IDFSR, for idfsr and idfsr-fitted. [default: builtin]",
    ),
    click.option("--mean", type=FILE, help="Weights of the method mean. [default: builtin]"),
    click.option("--pmrf", type=FILE, help="Weights of the method pmrf. [default: builtin]"),
    click.option(
        "--labelled", is_flag=True, help="Draw srdg towards --labels, not towards what is read."
    ),
    embedder_options,
    click.option(
        "--scorer",
        "scorers",
        multiple=True,
        help="Recognisers that score, by file or embedder name. [default: dlib]",
    ),
    click.option(
        "--baseline", help="What gains are over: a system or method. [default: the first one]"
    ),
    click.option("--lpips", nargs=2, type=FILE, help="Weights of LPIPS: backbone and linear."),
    click.option(
        "--attributes",
        type=FILE,
        help="Classifier that judges attributes. [default: the bundled one]",
    ),
    click.option("--fid", type=FILE, help="Weights of FID's Inception network."),
    click.option(
        "--inputs",
        type=click.Path(path_type=Path, file_okay=False),
        help="Write the LR faces there, only.",
    ),
    click.option(
        "--batch",
        default=8,
        type=click.IntRange(min=1),
        show_default=True,
        help="Pictures drawn at a time.",
    ),
    click.option(
        "--precision",
        type=click.Choice(["float32", "bfloat16"]),
        default="float32",
        show_default=True,
        help="Of super-resolution networks.",
    ),
    click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1 …"),
)
AXES = (
    "method",
    "degrade",
    "sampler",
    "samples",
    "merge",
    "combiner",
    "model",
    "references",
    "fuse",
)
DEFAULTS: dict[str, tuple[str, ...]] = {
    "method": ("bicubic", "pooled", "fasr++"),
    "degrade": ("16",),
}


def _with(
    options: Sequence[Callable[..., Any]],
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@click.group("eval")
def eval_group() -> None:
    """Compare methods on the same faces and seeds. Stopped or killed, the same command goes on where it was."""


@eval_group.command("celeba")
@SOURCES
@_with(TRIAL_OPTIONS)
@click.option(
    "--fewest",
    default=3,
    type=click.IntRange(min=2),
    show_default=True,
    help="Photographs a person needs.",
)
@_with(COMMON_OPTIONS)
def celeba_command(
    photos: tuple[Path, ...],
    people: int | None,
    searches: int | None,
    leave_out: float,
    fewest: int,
    **options: Any,
) -> int:
    """Of each person of PHOTOS one is enrolled, one is brought down and searched for, the rest are auxiliaries.

    PHOTOS are folders or tar shards of IDENTITY/PHOTO, aligned and at full resolution, or CSV manifests.
    """
    found, left_out = _read(photos, options)
    trial = leave_some_out(celeba(found, options["seed"], people, fewest), leave_out)
    return _compare(first_searches(trial, searches), left_out, options)


@eval_group.command("quis-campi")
@SOURCES
@click.option(
    "--gallery",
    "enrolled",
    required=True,
    multiple=True,
    type=THERE,
    help="Controlled photographs.",
)
@_with(TRIAL_OPTIONS)
@click.option(
    "--each",
    default=5,
    type=click.IntRange(min=1),
    show_default=True,
    help="TrackFeatures of each person.",
)
@_with(COMMON_OPTIONS)
def quis_campi_command(
    photos: tuple[Path, ...],
    enrolled: tuple[Path, ...],
    people: int | None,
    searches: int | None,
    leave_out: float,
    each: int,
    **options: Any,
) -> int:
    """Search for PHOTOS as a camera saw them, each with the person's others as auxiliaries, among controlled ones."""
    if options["degrade"]:
        raise UsageError(
            "--degrade", "the probes are as the camera saw them", "leave it out, or use eval celeba"
        )
    gallery, first = _read(enrolled, options)
    probes, second = _read(photos, options, small=True)
    trial = quis_campi(gallery, probes, options["seed"], people, each)
    trial = first_searches(leave_some_out(trial, leave_out), searches)
    return _compare(trial, [*first, *second], options)


@eval_group.command("pairs")
@SOURCES
@click.option(
    "--pairs",
    "listed",
    required=True,
    type=FILE,
    help="LFW's pairs.txt, or a CSV with a, b, same, fold.",
)
@_with(COMMON_OPTIONS)
def pairs_command(photos: tuple[Path, ...], listed: Path, **options: Any) -> int:
    """Compare pairs of PHOTOS: the first as it is, the second brought down; accuracy over folds, as on LFW."""
    found, left_out = _read(photos, options)
    return _compare(pairs(found, listed, options["seed"]), left_out, options)


@eval_group.command("video")
@click.argument(
    "cases", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, file_okay=False)
)
@click.option(
    "--truth",
    required=True,
    type=FILE,
    help="JSON with each clip's people and boxes, by file name.",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the tables.",
)
def video_command(cases: tuple[Path, ...], truth: Path, out: Path) -> int:
    """Hold CASES that `run` made against ground truth: detection, tracking, and who each track was found to be."""
    with explain_errors(out):
        found = evaluate(cases, truth, out)
    _show(found.tables)
    for warning in found.warnings:
        click.echo(f"warning: {warning}", err=True)
    _tell_left_out(found.left_out)
    click.echo(f"{found.report}: written")
    return ExitCode.LOSSES if found.left_out else ExitCode.DONE


# -------------------------------------------------------------------------------------------------------------- common


def _read(
    sources: tuple[Path, ...], options: dict[str, Any], small: bool = False
) -> tuple[list[Photo], list[LeftOut]]:
    detector: Detector | None = None
    if options["align"]:
        detector = open_detector("builtin", weights=None, device=options["device"], min_score=0.5)
    return read_photos(sources, options["labels"], detector, small)


def _compare(trial: Trial, left_out: Sequence[LeftOut], options: dict[str, Any]) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    trial = replace(trial, left_out=(*left_out, *trial.left_out))
    _check_labels(trial, options["labels"])
    axes, notes = _axes(options, trial)
    _tell(trial, notes)
    code = ExitCode.LOSSES if trial.left_out else ExitCode.DONE
    if options["inputs"] is not None:
        with explain_errors(options["inputs"]):
            write_inputs(trial, axes.degradation or (None,), options["inputs"])
        click.echo(f"{options['inputs']}: {len(trial.items)} LR faces for images:DIR")
        return code
    device, chosen = find_device(options["device"]), options["embedder"]
    embedder = chosen.open(options["device"])
    scorers = [_open_scorer(name, options["device"]) for name in options["scorers"] or [SCORER]]
    plan = Plan(
        axes.systems(),
        scorers,
        _judges(options),
        options["by"],
        options["baseline"],
        options["batch"],
        notes,
    )
    with explain_errors(options["out"]), Store(options["out"]) as store:
        weights = {
            name: options[name] for name in ("idfsr", "mean", "pmrf") if options[name] is not None
        }
        tools = Tools(store, embedder, device, options["precision"], weights, options["labelled"])
        with Progress(console=Console(stderr=True), transient=True) as bar:
            tasks: dict[str, TaskID] = {}

            def tell(name: str, done: int, total: int) -> None:
                if name not in tasks:
                    tasks[name] = bar.add_task(escape(name), total=total)
                bar.update(tasks[name], completed=done)

            outcome = compare(trial, plan, tools, tell)
    _show(outcome.tables)
    for warning in outcome.warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(f"{outcome.report}: written, with tables/ and plots/ beside it")
    return code


def _check_labels(trial: Trial, file: Path | None) -> None:
    faces = (face for item in trial.items for face in (item.probe, *item.auxiliaries))
    names = {face.path for face in (*trial.gallery, *faces)}
    if file is not None and not names & read_labels(file).keys():
        remedy = f"write paths as the photographs are named, as {min(names)}"
        raise InputError(file, "its column path names none of the photographs", remedy)


def _axes(options: dict[str, Any], trial: Trial) -> tuple[Any, list[str]]:
    """The axes as given, the preset's for what was not, and notes to tell."""
    preset = PRESETS.get(options["preset"])
    given: dict[str, Sequence[Any]] = {name: options[name] for name in AXES}
    notes: list[str] = []
    if preset is not None:
        if preset.twice and len(given[preset.twice]) < 2:
            reason = f"it compares {preset.what}"
            raise UsageError(f"--preset {options['preset']}", reason, f"give {preset.needs}")
        if preset.etas:
            _check_etas(options["preset"], preset, given["combiner"])
        notes.append(f"Preset {options['preset']}: {preset.what}.")
    for name in AXES:
        if not given[name]:
            given[name] = (preset.axes if preset else DEFAULTS).get(name, ())
    if preset is not None and not options["method"] and FITTED in given["method"]:
        notes.append(
            f"Row {FITTED} was left out: fits take a minute or more a person; ask for it with --method."
        )
        given["method"] = [m for m in given["method"] if m != FITTED]
    if preset is not None and not options["method"] and trial.native and TRUTH in given["method"]:
        notes.append(
            f"Row {TRUTH} was left out: the probes are as the camera saw them, without a true picture."
        )
        given["method"] = [m for m in given["method"] if m != TRUTH]
    for name, known in (("merge", MERGES), ("fuse", FUSIONS)):
        for value in given[name]:
            if value not in known:
                raise UsageError(
                    f"--{name} {value}", "no such rule", f"give one of {', '.join(known)}"
                )
    degradations: list[Degradation] = (
        [] if trial.native else [parse(d) for d in given.pop("degrade")]
    )
    given.pop("degrade", None)
    axes = Axes(
        degradation=degradations, references=[int(r) for r in given.pop("references")], **given
    )
    return axes, notes + _unsuited(axes)


def _check_etas(name: str, preset: Preset, files: Sequence[Path]) -> None:
    """Refuse Feature Combiners of one eta: a table of etas takes one that was trained at each."""
    found: dict[float, Path] = {}
    for file in files:
        eta = read_eta(file)
        if eta in found:
            reason = f"{found[eta]} and {file} were both trained at eta {eta:g}"
            raise UsageError(f"--preset {name}", reason, f"give {preset.needs}")
        found[eta] = file


def _unsuited(axes: Any) -> list[str]:
    """Which methods a sampler is not for: they are drawn by another."""
    notes = []
    for sampler in axes.sampler:
        others = [m for m in axes.method if suits(m, None) and not suits(m, sampler)]
        if others:
            notes.append(
                f"Sampler {sampler} is not of the process of {', '.join(others)}: drawn by another."
            )
    return notes


def _open_scorer(name: str, device: str) -> Embedder:
    """Return the embedder of that name, or what the file of that name says it is; dlib computes on the CPU anyway."""
    if name in EMBEDDERS:
        try:
            return open_embedder(name, None, "cpu" if name == "dlib" else device)
        except MissingExtra as error:
            remedy = f"{error.remedy}; or give another recogniser with --scorer, such as builtin"
            raise UsageError(f"--scorer {name}: {error.subject}", error.reason, remedy) from error
    path = Path(name)
    if not path.exists():
        raise ModelError(
            path, "no such file, nor embedder", "give a file of weights, or one of dlib and builtin"
        )
    if path.is_dir() or path.suffix == ".onnx":
        return open_embedder("insightface", path, device)
    contract = contract_of(path)
    if contract not in (None, FORMAT):
        raise ModelError(
            path, f"its header says {contract}, not an embedder", "give weights of a recogniser"
        )
    return open_embedder("builtin" if contract == FORMAT else "adaface", path, device)


def _judges(options: dict[str, Any]) -> Any:
    device = options["device"]
    lpips = Lpips(options["lpips"][0], options["lpips"][1], device) if options["lpips"] else None
    inception = Inception(options["fid"], device) if options["fid"] else None
    classifier = options["attributes"] or bundled("attributes.safetensors")
    return Judges(load_attribute_classifier(classifier), sha256_file(classifier), lpips, inception)


def _tell(trial: Trial, notes: Sequence[str]) -> None:
    facts = trial.provenance()
    counts = f"{facts['items']} searches for {facts['people']} people, {facts['strangers']} of them not enrolled"
    if trial.pairs:
        counts = f"{facts['pairs']} pairs"
    click.echo(
        f"{trial.protocol}: {counts}, gallery of {facts['gallery']}, seed {trial.seed}", err=True
    )
    for note in notes:
        click.echo(note, err=True)
    _tell_left_out(trial.skipped, "skipped")
    _tell_left_out(trial.left_out)


def _tell_left_out(lines: Sequence[object], word: str = "left out") -> None:
    for line in lines[:SHOWN]:
        click.echo(f"{word}: {line}", err=True)
    if len(lines) > SHOWN:
        click.echo(f"{word}: {len(lines)} in all, listed in the run's folder", err=True)


def _show(tables: Sequence[Table]) -> None:
    """Values alone; what is around them is in the report."""
    for table in tables:
        screen = Screen(title=escape(table.title))
        screen.add_column(escape(table.first), no_wrap=True)
        for column in table.columns:
            screen.add_column(escape(column.title), justify="right")
        for i, row in enumerate(table.rows):
            styles = [
                ("", "bold", "underline")[table.place(i, k)] for k in range(len(table.columns))
            ]
            texts = [
                f"[{s}]{t}[/]" if s else t for s, t in zip(styles, table.values(row), strict=True)
            ]
            screen.add_row(escape(row.name), *texts)
        # Numbers cut short to fit a narrow screen would be no numbers.
        needed = Console(width=WIDEST).measure(screen).maximum
        Console(width=max(Console().width, needed)).print(screen)
