"""`fasr-video eval …`: each command builds a trial by its protocol and compares systems on it."""

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
from fasr_video.commands.options import DEVICE
from fasr_video.detection import Detector, open_for_photographs
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
EXISTING = click.Path(path_type=Path, exists=True)
SOURCES = click.argument("photos", nargs=-1, required=True, type=EXISTING)
DEFAULT_SCORER = "dlib"
# The most lines about left-out items that are printed; trial.json has all.
MOST_LINES = 5
# Columns of the screen that tables are measured for.
MOST_COLUMNS = 500

TRIAL_OPTIONS = (
    click.option(
        "--people",
        type=click.IntRange(min=2),
        help="Use at most this many people, drawn by the seed. [default: all]",
    ),
    click.option(
        "--searches",
        type=click.IntRange(min=1),
        help="Make only the first N searches; the gallery stays complete.",
    ),
    click.option(
        "--leave-out",
        default=0.0,
        type=click.FloatRange(0, 1, max_open=True),
        show_default=True,
        help="Share of people who are searched for but not enrolled (open set).",
    ),
)
COMMON_OPTIONS = (
    click.option(
        "--out",
        required=True,
        type=click.Path(path_type=Path, file_okay=False),
        help="The folder of this run.",
    ),
    click.option(
        "--seed",
        default=0,
        type=click.IntRange(0, 2**31),
        show_default=True,
        help="Seed of the random number generators.",
    ),
    click.option(
        "--labels",
        type=FILE,
        help="CSV with a path column and one column for each label. Landmarks in it give the pose.",
    ),
    click.option(
        "--by",
        multiple=True,
        help="Add a table by this label: size, pose, or a column of --labels. Repeatable.",
    ),
    click.option(
        "--align", is_flag=True, help="Detect and align the face in each photograph first."
    ),
    click.option(
        "--preset",
        type=click.Choice(list(PRESETS)),
        help="Use a paper's values for all options that are not given.",
    ),
    click.option(
        "--method",
        multiple=True,
        help="A method to compare. Repeatable. [default: bicubic, pooled, fasr++]",
    ),
    click.option(
        "--degrade",
        multiple=True,
        help="A degradation: SIDE, SIDE:camera, SIDE:jpeg-30, SIDE:h264-35 … Repeatable. "
        "[default: 16]",
    ),
    click.option(
        "--sampler",
        multiple=True,
        help="A sampler, as for `fasr-video sr`, such as ve-100,r=0.3 (r: length of Langevin "
        "steps). Repeatable.",
    ),
    click.option(
        "--samples",
        multiple=True,
        type=click.IntRange(1, 64),
        help="Number of samples whose mean is taken. Repeatable.",
    ),
    click.option(
        "--merge",
        multiple=True,
        help="How features are pooled: combiner, mean, weighted or median. Repeatable.",
    ),
    click.option(
        "--combiner",
        multiple=True,
        type=FILE,
        help="A Feature Combiner, used with the eta that it was trained with. Repeatable. "
        "[default: bundled]",
    ),
    click.option(
        "--model",
        multiple=True,
        type=FILE,
        help="A super-resolution network. Repeatable. [default: bundled]",
    ),
    click.option(
        "--references",
        multiple=True,
        type=click.IntRange(min=0),
        help="Use at most this many auxiliary faces. Repeatable.",
    ),
    click.option(
        "--fuse",
        multiple=True,
        help="Probes whose cosines are averaged: sr, pooled+sr, best+pooled+sr. Repeatable.",
    ),
    click.option(
        "--idfsr",
        type=FILE,
        help="Weights for the methods idfsr and idfsr-fitted. [default: bundled]",
    ),
    click.option("--mean", type=FILE, help="Weights for the method mean. [default: bundled]"),
    click.option("--pmrf", type=FILE, help="Weights for the method pmrf. [default: bundled]"),
    click.option(
        "--labelled",
        is_flag=True,
        help="Guide srdg by --labels instead of by attributes read from the LR faces.",
    ),
    embedder_options,
    click.option(
        "--scorer",
        "scorers",
        multiple=True,
        help="A recogniser that scores: file or embedder name. Repeatable. [default: dlib]",
    ),
    click.option(
        "--baseline",
        help="System or method that gains are measured against. [default: the first one]",
    ),
    click.option(
        "--lpips",
        nargs=2,
        type=FILE,
        help="Two files with the weights of LPIPS: backbone and linear layers.",
    ),
    click.option(
        "--attributes",
        type=FILE,
        help="Classifier that judges attributes. [default: bundled]",
    ),
    click.option("--fid", type=FILE, help="Weights of the Inception network for FID."),
    click.option(
        "--inputs",
        type=click.Path(path_type=Path, file_okay=False),
        help="Only write the LR faces to this folder.",
    ),
    click.option(
        "--batch",
        default=8,
        type=click.IntRange(min=1),
        show_default=True,
        help="Number of pictures to draw at a time.",
    ),
    click.option(
        "--precision",
        type=click.Choice(["float32", "bfloat16"]),
        default="float32",
        show_default=True,
        help="Precision of the super-resolution networks.",
    ),
    DEVICE,
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


def _with_options(
    options: Sequence[Callable[..., Any]],
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@click.group("eval")
def eval_group() -> None:
    """Compare methods on the same faces and seeds.

    If it is stopped or killed, the same command resumes it.
    """


@eval_group.command("celeba")
@SOURCES
@_with_options(TRIAL_OPTIONS)
@click.option(
    "--fewest",
    default=3,
    type=click.IntRange(min=2),
    show_default=True,
    help="Fewest photographs that a person needs.",
)
@_with_options(COMMON_OPTIONS)
def celeba_command(
    photos: tuple[Path, ...],
    people: int | None,
    searches: int | None,
    leave_out: float,
    *,
    fewest: int,
    **options: Any,
) -> int:
    """Evaluate on PHOTOS by the protocol on CelebA.

    Of each person, one photograph is enrolled, one is degraded and searched for, and the others are
    auxiliaries. PHOTOS are folders or tar shards of IDENTITY/PHOTO, aligned and at full resolution,
    or CSV manifests.
    """
    read, left_out = _read(photos, options)
    trial = leave_some_out(celeba(read, options["seed"], people, fewest), leave_out)
    return _compare(first_searches(trial, searches), left_out, options)


@eval_group.command("quis-campi")
@SOURCES
@click.option(
    "--gallery",
    "enrolled",
    required=True,
    multiple=True,
    type=EXISTING,
    help="Controlled photographs to enrol. Repeatable.",
)
@_with_options(TRIAL_OPTIONS)
@click.option(
    "--each",
    default=5,
    type=click.IntRange(min=1),
    show_default=True,
    help="Number of probes of each person.",
)
@_with_options(COMMON_OPTIONS)
def quis_campi_command(
    photos: tuple[Path, ...],
    enrolled: tuple[Path, ...],
    people: int | None,
    searches: int | None,
    *,
    leave_out: float,
    each: int,
    **options: Any,
) -> int:
    """Evaluate on PHOTOS from cameras, by the protocol on Quis-Campi.

    Each photograph is searched for among controlled ones, with the person's others as auxiliaries.
    """
    if options["degrade"]:
        raise UsageError(
            "--degrade",
            "probes are used as the camera recorded them",
            "leave it out, or use eval celeba",
        )
    gallery, first = _read(enrolled, options)
    probes, second = _read(photos, options, small=True)
    trial = quis_campi(gallery, probes, options["seed"], people, each=each)
    trial = first_searches(leave_some_out(trial, leave_out), searches)
    return _compare(trial, [*first, *second], options)


@eval_group.command("pairs")
@SOURCES
@click.option(
    "--pairs",
    "listed",
    required=True,
    type=FILE,
    help="LFW's pairs.txt, or a CSV with the columns a, b, same and fold.",
)
@_with_options(COMMON_OPTIONS)
def pairs_command(photos: tuple[Path, ...], listed: Path, **options: Any) -> int:
    """Verify pairs of PHOTOS, the second one degraded, with accuracy over folds as on LFW."""
    read, left_out = _read(photos, options)
    return _compare(pairs(read, listed, options["seed"]), left_out, options)


@eval_group.command("video")
@click.argument(
    "cases", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, file_okay=False)
)
@click.option(
    "--truth",
    required=True,
    type=FILE,
    help="JSON with the people and boxes of each clip, by file name.",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder for report, tables and plots.",
)
def video_command(cases: tuple[Path, ...], truth: Path, out: Path) -> int:
    """Compare CASES that `run` made with ground truth: detection, tracking, identities."""
    with explain_errors(out):
        outcome = evaluate(cases, truth, out)
    _show(outcome.tables)
    for warning in outcome.warnings:
        click.echo(f"warning: {warning}", err=True)
    _print_left_out(outcome.left_out)
    click.echo(f"{outcome.report}: written")
    return ExitCode.LOSSES if outcome.left_out else ExitCode.DONE


def _read(
    sources: tuple[Path, ...], options: dict[str, Any], small: bool = False
) -> tuple[list[Photo], list[LeftOut]]:
    detector: Detector | None = None
    if options["align"]:
        detector = open_for_photographs(options["device"])
    return read_photos(sources, options["labels"], detector, small)


def _compare(trial: Trial, left_out: Sequence[LeftOut], options: dict[str, Any]) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    trial = replace(trial, left_out=(*left_out, *trial.left_out))
    _check_labels(trial, options["labels"])
    axes, notes = _axes(options, trial)
    _print_trial(trial, notes)
    code = ExitCode.LOSSES if trial.left_out else ExitCode.DONE
    if options["inputs"] is not None:
        with explain_errors(options["inputs"]):
            write_inputs(trial, axes.degradation or (None,), options["inputs"])
        click.echo(f"{options['inputs']}: {len(trial.items)} LR faces for images:DIR")
        return code
    device = find_device(options["device"])
    embedder = options["embedder"].open(options["device"])
    scorers = [
        _open_scorer(name, options["device"]) for name in options["scorers"] or [DEFAULT_SCORER]
    ]
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

            def show_progress(name: str, done: int, total: int) -> None:
                if name not in tasks:
                    tasks[name] = bar.add_task(escape(name), total=total)
                bar.update(tasks[name], completed=done)

            outcome = compare(trial, plan, tools, show_progress)
    _show(outcome.tables)
    for warning in outcome.warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(f"{outcome.report}: written, with tables/ and plots/ beside it")
    return code


def _check_labels(trial: Trial, file: Path | None) -> None:
    faces = (face for item in trial.items for face in (item.probe, *item.auxiliaries))
    names = {face.path for face in (*trial.gallery, *faces)}
    if file is not None and not names & read_labels(file).keys():
        remedy = f"write paths as the photographs are named, for example {min(names)}"
        raise InputError(file, "its column `path` names none of the photographs", remedy)


def _axes(options: dict[str, Any], trial: Trial) -> tuple[Any, list[str]]:
    """Return the axes, with the preset's values where none were given, and notes to print."""
    preset = PRESETS.get(options["preset"])
    values: dict[str, Sequence[Any]] = {name: options[name] for name in AXES}
    notes: list[str] = []
    if preset is not None:
        if preset.twice and len(values[preset.twice]) < 2:
            reason = f"it compares {preset.what}"
            raise UsageError(f"--preset {options['preset']}", reason, f"give {preset.needs}")
        if preset.etas:
            _check_etas(options["preset"], preset, values["combiner"])
        notes.append(f"Preset {options['preset']}: {preset.what}.")
    for name in AXES:
        if not values[name]:
            values[name] = (preset.axes if preset else DEFAULTS).get(name, ())
    if preset is not None and not options["method"]:
        left_out = _methods_left_out(values["method"], trial)
        notes += left_out.values()
        values["method"] = [method for method in values["method"] if method not in left_out]
    for name, known in (("merge", MERGES), ("fuse", FUSIONS)):
        for value in values[name]:
            if value not in known:
                raise UsageError(
                    f"--{name} {value}", "unknown value", f"give one of {', '.join(known)}"
                )
    degrade = values.pop("degrade")
    degradations: list[Degradation] = [] if trial.native else [parse(text) for text in degrade]
    references = [int(count) for count in values.pop("references")]
    axes = Axes(degradation=degradations, references=references, **values)
    return axes, notes + _unsuited(axes)


def _methods_left_out(methods: Sequence[str], trial: Trial) -> dict[str, str]:
    """Return the methods of a preset that are left out, each with a note that says why."""
    notes = {}
    if FITTED in methods:
        notes[FITTED] = (
            f"Row {FITTED} was left out: fitting takes a minute or more a person; "
            "add it with --method."
        )
    if trial.native and TRUTH in methods:
        notes[TRUTH] = f"Row {TRUTH} was left out: there is no true picture of a camera's probe."
    return notes


def _check_etas(name: str, preset: Preset, files: Sequence[Path]) -> None:
    """Raise where two Feature Combiners have the same eta: a table of etas needs one of each."""
    by_eta: dict[float, Path] = {}
    for file in files:
        eta = read_eta(file)
        if eta in by_eta:
            reason = f"{by_eta[eta]} and {file} were both trained at eta {eta:g}"
            raise UsageError(f"--preset {name}", reason, f"give {preset.needs}")
        by_eta[eta] = file


def _unsuited(axes: Any) -> list[str]:
    """Return notes on methods that a sampler does not fit: they use their own."""
    notes = []
    for sampler in axes.sampler:
        others = [m for m in axes.method if suits(m, None) and not suits(m, sampler)]
        if others:
            notes.append(
                f"Sampler {sampler} does not fit the process of {', '.join(others)}: they use "
                "their own."
            )
    return notes


def _open_scorer(name: str, device: str) -> Embedder:
    """Return the embedder of this name, or the one in the file of this name.

    dlib always computes on the CPU.
    """
    if name in EMBEDDERS:
        try:
            return open_embedder(name, None, "cpu" if name == "dlib" else device)
        except MissingExtra as error:
            remedy = f"{error.remedy}; or give another recogniser with --scorer, such as builtin"
            raise UsageError(f"--scorer {name}: {error.subject}", error.reason, remedy) from error
    path = Path(name)
    if not path.exists():
        raise ModelError(
            path, "no such file or embedder", "give a file of weights, or dlib or builtin"
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


def _print_trial(trial: Trial, notes: Sequence[str]) -> None:
    provenance = trial.provenance()
    counts = (
        f"{provenance['items']} searches for {provenance['people']} people, "
        f"{provenance['strangers']} of them not enrolled"
    )
    if trial.pairs:
        counts = f"{provenance['pairs']} pairs"
    click.echo(
        f"{trial.protocol}: {counts}, gallery of {provenance['gallery']}, seed {trial.seed}",
        err=True,
    )
    for note in notes:
        click.echo(note, err=True)
    _print_left_out(trial.skipped, "skipped")
    _print_left_out(trial.left_out)


def _print_left_out(lines: Sequence[object], word: str = "left out") -> None:
    for line in lines[:MOST_LINES]:
        click.echo(f"{word}: {line}", err=True)
    if len(lines) > MOST_LINES:
        click.echo(f"{word}: {len(lines)} in all, listed in the run's folder", err=True)


def _show(tables: Sequence[Table]) -> None:
    """Print the tables' values; the report has the text around them."""
    for table in tables:
        screen = Screen(title=escape(table.title))
        screen.add_column(escape(table.first), no_wrap=True)
        for column in table.columns:
            screen.add_column(escape(column.title), justify="right")
        for i, row in enumerate(table.rows):
            styles = [
                ("", "bold", "underline")[table.rank(i, k)] for k in range(len(table.columns))
            ]
            texts = [
                f"[{s}]{t}[/]" if s else t for s, t in zip(styles, table.values(row), strict=True)
            ]
            screen.add_row(escape(row.name), *texts)
        # A narrow screen must not cut numbers short.
        needed = Console(width=MOST_COLUMNS).measure(screen).maximum
        Console(width=max(Console().width, needed)).print(screen)
