"""`fasr-video train …`: one command a trainer."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from fasr_video.commands.options import DEVICE, FILE
from fasr_video.console import count
from fasr_video.datasets.faces import Faces, name_people, read_faces
from fasr_video.detection import open_for_photographs
from fasr_video.errors import UsageError
from fasr_video.recognition.embedders import EMBEDDERS, open_embedder
from fasr_video.sqlite import explain_errors
from fasr_video.training import around_mean, flow, idfsr, mean, sr
from fasr_video.training.alignment import align_photos
from fasr_video.training.attributes import read_labels, train_attributes
from fasr_video.training.combiner import CombinerFeatures, train_combiner
from fasr_video.training.embedder import gather, train_embedder
from fasr_video.training.features import make_features
from fasr_video.training.loop import Plan, own_device, process_number
from fasr_video.training.recipes import ATTRIBUTES, SUPER_RESOLUTION, check_data
from fasr_video.training.teacher import Teacher

COUNT = click.IntRange(min=1)
SEED = click.IntRange(0, 2**31)
SOURCES = click.argument(
    "faces", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True)
)
IDENTITIES = click.option(
    "--identities",
    default="folders",
    show_default=True,
    help="Who is in a picture: folders (each folder is a person), none (each picture is a person of "
    "its own), or a CSV file with the columns path and identity.",
)
FEATURES = click.option(
    "--features",
    required=True,
    type=FILE,
    help="The .npz that `train features` wrote for these faces.",
)
COMBINER = click.option(
    "--combiner",
    type=FILE,
    help="Feature Combiner that pools a person's other faces. [default: their mean]",
)
START = click.option(
    "--from", "start", type=FILE, help="Weights of such a network to start a new run from."
)
SAMPLES = click.option(
    "--samples",
    "samples",
    type=click.Path(path_type=Path, exists=True),
    help="Faces to draw a sample sheet of at each checkpoint.",
)
EMBEDDER = click.option(
    "--embedder",
    type=FILE,
    help="Weights of the embedder that made the features. [default: bundled]",
)
SURVEILLANCE = click.option(
    "--surveillance",
    default=0.0,
    type=click.FloatRange(0, 1),
    show_default=True,
    help="Share of batches that are degraded as a camera degrades faces.",
)
IDENTITY = click.option(
    "--identity",
    default=0.0,
    type=click.FloatRange(0),
    show_default=True,
    help="Weight of the identity loss, 1 - cosine of the embedder's features.",
)


OUT = click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder of the training run.",
)
MINUTES = click.option(
    "--minutes",
    type=click.FloatRange(0, 1e6),
    help="Stop after this many minutes; run the same command again to resume.",
)
SEED_OF_RUN = click.option(
    "--seed",
    default=0,
    type=SEED,
    show_default=True,
    help="Seed of the random number generators.",
)
FP32 = click.option("--fp32", is_flag=True, help="Compute in float32 instead of bfloat16.")


def run_options(
    steps: int, batch: int, lr: float
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator with the options that every trainer has."""
    own_defaults = (
        click.option(
            "--steps",
            default=steps,
            type=COUNT,
            show_default=True,
            help="Number of batches to train on. A finished run can be given more.",
        ),
        click.option(
            "--batch",
            default=batch,
            type=COUNT,
            show_default=True,
            help="Faces in a batch, on each device.",
        ),
        click.option(
            "--lr",
            default=lr,
            type=click.FloatRange(1e-9, 1),
            show_default=True,
            help="Peak learning rate.",
        ),
    )

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed((OUT, *own_defaults, MINUTES, SEED_OF_RUN, DEVICE, FP32)):
            command = option(command)
        return command

    return decorate


@click.group("train")
def train_group() -> None:
    """Train the models.

    Run the same command again to resume. The run's folder holds loss curves and weights.
    """


@train_group.command("align")
@SOURCES
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder of the aligned faces.",
)
@DEVICE
def align_command(faces: tuple[Path, ...], out: Path, device: str) -> None:
    """Align photographs of any size for training: the largest face of each, as 144×144 px.

    That is the canonical frame of 128 px with a margin of 8 px on each side.
    """
    detector = open_for_photographs(device)
    left_out = 0

    def report(name: str, problem: str) -> None:
        nonlocal left_out
        if problem:
            left_out += 1
            click.echo(f"left out: {name}: {problem}", err=True)

    with explain_errors(out):
        done = align_photos(faces, out, detector, report)
    click.echo(f"{out}: {count(done, 'aligned face')}, {left_out} left out")


@train_group.command("features")
@SOURCES
@IDENTITIES
@click.option("--out", required=True, type=FILE, help="The .npz file to write.")
@click.option(
    "--embedder",
    type=click.Choice(list(EMBEDDERS)),
    default="builtin",
    show_default=True,
    help="The recogniser that makes the features.",
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path, exists=True),
    help="Weights of that embedder. [default: bundled or installed ones]",
)
@click.option(
    "--lr-side",
    default=16,
    type=click.IntRange(4, 128),
    show_default=True,
    help="Size of each face's LR twin, in pixels.",
)
@DEVICE
def features_command(
    faces: tuple[Path, ...],
    identities: str,
    out: Path,
    embedder: str,
    *,
    weights: Path | None,
    lr_side: int,
    device: str,
) -> None:
    """Embed FACES (folders or tar shards of IDENTITY/PHOTO) and their LR twins, for training."""
    opened = _faces(faces, identities)
    model = open_embedder(embedder, weights, device)
    with click.progressbar(length=len(opened), label="embedding") as bar, explain_errors(out):
        make_features(opened, model, lr_side, out, report=lambda done: bar.update(done - bar.pos))
    click.echo(f"{out}: {_faces_and_people(opened)}")


@train_group.command("combiner")
@click.argument("features", type=FILE)
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder of the training run.",
)
@click.option(
    "--epochs",
    default=20,
    show_default=True,
    help="Train for at most this many epochs, and stop after 5 epochs without progress.",
)
@click.option(
    "--margin", type=float, help="Margin of the triplet loss. [default: just above the initial gap]"
)
@click.option(
    "--eta", default=0.1, show_default=True, help="Weight of the learned correction, 0 to 1."
)
@click.option(
    "--seed", default=0, type=SEED, show_default=True, help="Seed of the random number generators."
)
@DEVICE
def combiner_command(
    features: Path,
    out: Path,
    epochs: int,
    margin: float | None,
    *,
    eta: float,
    seed: int,
    device: str,
) -> None:
    """Train the Feature Combiner on FEATURES, an .npz that `train features` wrote."""
    opened = CombinerFeatures.load(features)
    with explain_errors(out):
        summary = train_combiner(
            opened, out, epochs=epochs, margin=margin, eta=eta, seed=seed, device=device
        )
    click.echo(f"{out / 'combiner.safetensors'}: {summary}")


@train_group.command("embedder")
@SOURCES
@IDENTITIES
@click.option(
    "--teacher",
    required=True,
    type=FILE,
    help="The .xml file of face-reidentification-retail-0095; its .bin file lies beside it.",
)
@click.option(
    "--once",
    "single",
    multiple=True,
    type=click.Path(path_type=Path, exists=True),
    help="Faces of people with one photograph each. Repeatable.",
)
@click.option(
    "--scenes",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of labelled scenes: more faces, and pictures without a face.",
)
@click.option(
    "--blocks",
    is_flag=True,
    help="Train each block on its own, on the teacher's feature maps: the first stage.",
)
@START
@run_options(steps=20_000, batch=16, lr=2e-3)
def embedder_command(
    faces: tuple[Path, ...],
    identities: str,
    teacher: Path,
    single: tuple[Path, ...],
    *,
    scenes: Path | None,
    blocks: bool,
    start: Path | None,
    **options: Any,
) -> None:
    """Train the builtin embedder on FACES, by distillation from a published network."""
    plan, device = _plan(options, clip=5.0, ema=0.998, weight_decay=0.02, muon=True)
    opened = _faces(faces, identities)
    others = _faces(single) if single else None
    model = Teacher(teacher, device)
    with explain_errors(options["out"]):
        with click.progressbar(length=1, label="teacher", show_pos=True) as bar:

            def show_progress(done: int, count: int) -> None:
                bar.length = count
                bar.update(done - bar.pos)

            data = gather(
                opened, others, scenes, model, out=options["out"], report_progress=show_progress
            )
        step = train_embedder(
            data,
            model,
            options["out"],
            plan,
            batch=options["batch"],
            report=_report,
            begin=start,
            blocks=blocks,
        )
    _finish(options["out"], step, plan.steps)


def _use_recipe(context: click.Context, _: click.Parameter, name: str | None) -> str | None:
    """Make the recipe's options the defaults of the command."""
    recipes = ATTRIBUTES if context.command.name == "attributes" else SUPER_RESOLUTION
    if name is not None:
        context.default_map = {**(context.default_map or {}), **recipes[name].options}
    return name


def _sides(_: click.Context, __: click.Parameter, text: str) -> tuple[int, ...]:
    """Return the LR sizes of a list such as "8,16,16"."""
    try:
        sides = tuple(int(side) for side in text.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is no list of sizes such as 8,16,16") from error
    if not all(4 <= side <= 64 for side in sides):
        raise click.BadParameter("LR faces have 4 to 64 px")
    return sides


@train_group.command("sr")
@SOURCES
@IDENTITIES
@click.option(
    "--recipe",
    type=click.Choice(list(SUPER_RESOLUTION)),
    is_eager=True,
    callback=_use_recipe,
    help="Train as a paper does: its values replace the defaults of the other options.",
)
@click.option(
    "--features",
    type=FILE,
    help="The .npz that `train features` wrote for these faces. Without it, the network takes no "
    "feature.",
)
@COMBINER
@click.option(
    "--network",
    type=click.Choice(list(sr.NETWORKS)),
    default="compact",
    show_default=True,
    help="Architecture of the network.",
)
@click.option(
    "--noise",
    type=click.Choice(sr.NOISES),
    default="edm",
    show_default=True,
    help="Distribution of the noise levels: log-normal (edm) or an SDE of the papers.",
)
@click.option(
    "--sides",
    default="16,16,16,16,16,24,32,12",
    callback=_sides,
    show_default=True,
    help="Sizes of the LR face in pixels; a repeated size is more likely.",
)
@SURVEILLANCE
@click.option(
    "--no-lr",
    default=0.04,
    type=click.FloatRange(0, 1),
    show_default=True,
    help="Share of faces that are drawn from the feature alone, without an LR face.",
)
@click.option(
    "--no-feature",
    default=0.12,
    type=click.FloatRange(0, 1),
    show_default=True,
    help="Share of faces that are drawn without their feature.",
)
@click.option(
    "--others",
    default=0.4,
    type=click.FloatRange(0, 1),
    show_default=True,
    help="Share of faces with the merged feature of the person's other faces, not their own.",
)
@IDENTITY
@EMBEDDER
@START
@SAMPLES
@click.option(
    "--dropout",
    default=0.0,
    type=click.FloatRange(0, 0.9),
    show_default=True,
    help="Share of activations that each step leaves out.",
)
@click.option(
    "--optimizer",
    type=click.Choice(["adam", "muon"]),
    default="muon",
    show_default=True,
    help="What moves the weights: Adam, or Muon for matrices and Adam for the rest.",
)
@click.option(
    "--schedule",
    type=click.Choice(["cosine", "constant"]),
    default="cosine",
    show_default=True,
    help="How the learning rate changes after its rise.",
)
@click.option(
    "--warmup",
    default=200,
    type=click.IntRange(min=0),
    show_default=True,
    help="Steps in which the learning rate rises.",
)
@click.option(
    "--ema",
    default=0.999,
    type=click.FloatRange(0, 1, max_open=True),
    show_default=True,
    help="Decay of the averaged weights, which are the ones that are stored.",
)
@click.option(
    "--weight-decay",
    default=0.01,
    type=click.FloatRange(0, 1),
    show_default=True,
    help="Share of a weight that a step removes, times the learning rate.",
)
@run_options(steps=20_000, batch=32, lr=5e-4)
def sr_command(
    faces: tuple[Path, ...],
    identities: str,
    recipe: str | None,
    features: Path | None,
    *,
    combiner: Path | None,
    network: str,
    sides: tuple[int, ...],
    embedder: Path | None,
    start: Path | None,
    samples: Path | None,
    dropout: float,
    optimizer: str,
    schedule: str,
    **options: Any,
) -> None:
    """Train a super-resolution network on FACES."""
    _check_features(features, recipe, needed=combiner is not None or bool(options["identity"]))
    opened = _faces(faces, identities)
    plan, device = _plan(
        options,
        warmup=options["warmup"],
        ema=options["ema"],
        weight_decay=options["weight_decay"],
        muon=optimizer == "muon",
        constant=schedule == "constant",
        fall=0.0,
    )
    names = ("batch", "noise", "surveillance", "no_lr", "no_feature", "others", "identity")
    shares = {name: options[name] for name in names}
    job = sr.Job(
        faces=opened,
        features=features,
        combiner=combiner,
        network=network,
        recipe=sr.Recipe(sides=sides, **shares),
        sample_faces=samples,
        begin=start,
        embedder=embedder,
        dropout=dropout,
    )
    with explain_errors(options["out"]):
        step = sr.run(job, options["out"], plan, device, report=_report)
    _finish(options["out"], step, plan.steps)


def _check_features(features: Path | None, recipe: str | None, needed: bool) -> None:
    if recipe is not None:
        check_data(recipe, features)
    if needed and features is None:
        reason = "--combiner and --identity need the features of the faces"
        raise UsageError("train sr", reason, "give --features, which `train features` writes")


@train_group.command("mean")
@SOURCES
@IDENTITIES
@FEATURES
@COMBINER
@click.option(
    "--width",
    default=192,
    type=click.IntRange(8, 1024),
    show_default=True,
    help="Channels of the feature maps.",
)
@click.option(
    "--blocks",
    default=8,
    type=click.IntRange(1, 64),
    show_default=True,
    help="Number of blocks of two convolutions.",
)
@click.option(
    "--cameras",
    default=0.35,
    type=click.FloatRange(0, 1),
    show_default=True,
    help="Share of faces that are degraded as a camera degrades them.",
)
@click.option(
    "--held-out",
    type=click.Path(path_type=Path, exists=True),
    help="Other faces, for measuring the gain over bicubic at each checkpoint.",
)
@START
@run_options(steps=50_000, batch=64, lr=1e-3)
def mean_command(
    faces: tuple[Path, ...],
    identities: str,
    features: Path,
    combiner: Path | None,
    *,
    width: int,
    blocks: int,
    cameras: float,
    held_out: Path | None,
    start: Path | None,
    **options: Any,
) -> None:
    """Train the posterior mean, the picture with the least squared error, on FACES."""
    opened = _faces(faces, identities)
    others = None if held_out is None else _faces((held_out,))
    plan, device = _plan(options, save_seconds=300, ema=0.998, muon=True)
    recipe = mean.Recipe(batch=options["batch"], cameras=cameras)
    job = mean.Job(opened, features, combiner, recipe, width, blocks, others, start)
    with explain_errors(options["out"]):
        step = mean.run(job, options["out"], plan, device, report=_report)
    _finish(options["out"], step, plan.steps)


@train_group.command("flow")
@SOURCES
@IDENTITIES
@FEATURES
@COMBINER
@click.option(
    "--mean",
    "weights",
    required=True,
    type=FILE,
    help="Weights of the posterior mean that the flow starts from.",
)
@START
@run_options(steps=50_000, batch=32, lr=1e-3)
def flow_command(
    faces: tuple[Path, ...],
    identities: str,
    features: Path,
    combiner: Path | None,
    *,
    weights: Path,
    start: Path | None,
    **options: Any,
) -> None:
    """Train the rectified flow that makes the posterior mean of FACES sharp (PMRF)."""
    plan, device = _plan(options, save_seconds=300, muon=True)
    recipe = mean.Recipe(batch=options["batch"])
    material = mean.Job(_faces(faces, identities), features, combiner, recipe)
    job = flow.Job(material, weights, begin=start)
    with explain_errors(options["out"]):
        step = flow.run(job, options["out"], plan, device, report=_report)
    _finish(options["out"], step, plan.steps)


@train_group.command("around-mean")
@SOURCES
@IDENTITIES
@FEATURES
@COMBINER
@click.option(
    "--mean",
    "weights",
    required=True,
    type=FILE,
    help="Weights of the posterior mean to draw around.",
)
@click.option(
    "--no-lr",
    default=0.04,
    type=click.FloatRange(0, 1),
    show_default=True,
    help="Share of faces drawn from the feature alone.",
)
@START
@run_options(steps=50_000, batch=32, lr=5e-4)
def around_mean_command(
    faces: tuple[Path, ...],
    identities: str,
    features: Path,
    combiner: Path | None,
    *,
    weights: Path,
    no_lr: float,
    start: Path | None,
    **options: Any,
) -> None:
    """Train FASR++'s network on FACES to draw what the posterior mean lacks."""
    plan, device = _plan(options, save_seconds=300, muon=True)
    recipe = mean.Recipe(batch=options["batch"])
    material = mean.Job(_faces(faces, identities), features, combiner, recipe)
    job = around_mean.Job(material, weights, no_lr, start)
    with explain_errors(options["out"]):
        step = around_mean.run(job, options["out"], plan, device, report=_report)
    _finish(options["out"], step, plan.steps)


@train_group.command("attributes")
@SOURCES
@click.option(
    "--labels",
    required=True,
    type=FILE,
    help="CSV with the columns path, male, glasses and no_beard (0 or 1).",
)
@click.option(
    "--from",
    "start",
    metavar="FILE",
    help="Classifier to start a new run from: our file, or NAME=FILE for a published one.",
)
@SURVEILLANCE
@click.option(
    "--recipe",
    type=click.Choice(list(ATTRIBUTES)),
    is_eager=True,
    expose_value=False,
    callback=_use_recipe,
    help="Train as a paper does: its values replace the defaults of the other options.",
)
@click.option(
    "--epochs",
    type=COUNT,
    help="Number of passes over the faces, in place of --steps.",
)
@run_options(steps=5_000, batch=64, lr=2e-3)
def attributes_command(
    faces: tuple[Path, ...],
    labels: Path,
    start: str | None,
    surveillance: float,
    *,
    epochs: int | None,
    **options: Any,
) -> None:
    """Train the noise-conditioned attribute classifier on FACES."""
    opened = _faces(faces)
    rows = read_labels(labels, opened)
    if epochs is not None:
        options["steps"] = math.ceil(epochs * len(opened) / options["batch"])
    plan, device = _plan(
        options, ema=0.998, weight_decay=0.05, channels_last=options["device"] != "cpu"
    )
    with explain_errors(options["out"]):
        step = train_attributes(
            opened,
            rows,
            options["out"],
            plan,
            batch=options["batch"],
            device=device,
            report=_report,
            begin=start,
            surveillance=surveillance,
        )
    _finish(options["out"], step, plan.steps)


@train_group.command("idfsr")
@SOURCES
@IDENTITIES
@FEATURES
@click.option(
    "--landmarks",
    required=True,
    type=FILE,
    help="CSV with the path and five landmarks of each face.",
)
@EMBEDDER
@click.option(
    "--size",
    type=click.Choice(["compact", "published"]),
    default="compact",
    show_default=True,
    help="Size of the network.",
)
@SURVEILLANCE
@IDENTITY
@START
@SAMPLES
@run_options(steps=50_000, batch=32, lr=4e-4)
def idfsr_command(
    faces: tuple[Path, ...],
    identities: str,
    features: Path,
    landmarks: Path,
    *,
    embedder: Path | None,
    size: str,
    surveillance: float,
    identity: float,
    start: Path | None,
    samples: Path | None,
    **options: Any,
) -> None:
    """Train IDFSR, for faces of 4, 8 and 16 px, on FACES of people with two or more photographs."""
    opened = _faces(faces, identities)
    plan, device = _plan(options, muon=True)
    recipe = idfsr.Recipe(batch=options["batch"], surveillance=surveillance, identity=identity)
    job = idfsr.Job(opened, features, landmarks, embedder, size, recipe, samples, start)
    with explain_errors(options["out"]):
        step = idfsr.run(job, options["out"], plan, device, report=_report)
    _finish(options["out"], step, plan.steps)


def _faces(sources: tuple[Path, ...], identities: str = "folders") -> Faces:
    faces, left_out = read_faces(sources)
    faces = name_people(faces, identities)
    for line in left_out[:5]:
        click.echo(f"left out: {line}", err=True)
    more = f", {len(left_out)} left out" if left_out else ""
    click.echo(f"{_faces_and_people(faces)}{more}", err=True)
    return faces


def _faces_and_people(faces: Faces) -> str:
    people = count(len(set(faces.identities)), "person", "people")
    return f"{count(len(faces), 'face')} of {people}"


def _plan(options: dict[str, Any], **settings: float) -> tuple[Any, Any]:
    """Return the plan and the device, from the options that every trainer has."""
    minutes = options["minutes"]
    plan = Plan(
        steps=options["steps"],
        lr=options["lr"],
        seed=options["seed"],
        bf16=not options["fp32"],
        seconds=math.inf if minutes is None else 60 * minutes,
        **settings,  # type: ignore[arg-type]
    )
    return plan, own_device(options["device"])


def _report(progress: Any) -> None:
    terms = "  ".join(f"{k} {v:.4f}" for k, v in progress.terms.items())
    left = (progress.steps - progress.step) / progress.batches_per_second / 60
    speed = f"{progress.batches_per_second:.2f} batches/s  {left:.0f} min left"
    click.echo(f"step {progress.step}/{progress.steps}  {terms}  {speed}", err=True)


def _finish(out: Path, step: int, steps: int) -> None:
    if process_number():  # only the first process prints
        return
    state = (
        "done"
        if step >= steps
        else f"stopped at step {step} of {steps}; run the same command again to resume"
    )
    click.echo(f"{out}: {state}")
