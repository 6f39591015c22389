"""`fasr-video sr` and `fit`: restoring stills, and fitting a person's vector for that."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress

from fasr_video.commands.options import FACE, FILE, FOLDER
from fasr_video.console import count, print_lines
from fasr_video.errors import ExitCode
from fasr_video.pipeline import stills
from fasr_video.pipeline.identity import Job, fit_person
from fasr_video.sr.methods import NAMES


@click.command("sr")
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--aux",
    type=FOLDER,
    help="Folder of other faces of the same person; their features are merged.",
)
@click.option(
    "--method",
    default="fasr++",
    show_default=True,
    help=f"The method: {', '.join(NAMES)}. That of `run` is mean.",
)
@click.option(
    "--samples", type=int, help="Pictures to draw of each face. [default: the method's own]"
)
@click.option("--seed", default=0, show_default=True, help="The same seed draws the same pictures.")
@click.option(
    "--sampler", help="KIND-STEPS, such as dpmpp-10 or pc-2000. [default: the method's own]"
)
@click.option(
    "--feature-only",
    is_flag=True,
    help="Draw from the merged feature alone, without the small face itself.",
)
@click.option(
    "--align",
    is_flag=True,
    help="Detect the face in each picture first, instead of taking the picture as a face crop.",
)
@FACE
@click.option(
    "--model",
    type=FILE,
    help="SR network: weights that `train sr` wrote, or a published checkpoint. [default: builtin]",
)
@click.option(
    "--embedder",
    type=FILE,
    help="Weights file for the builtin embedder's architecture. [default: builtin]",
)
@click.option(
    "--combiner", type=FILE, help="Weights file of the Feature Combiner. [default: builtin]"
)
@click.option(
    "--identity", type=FILE, help="File of `fasr-video fit` of the person, for --method idfsr."
)
@click.option(
    "--attr",
    multiple=True,
    metavar="NAME=yes|no[:CONFIDENCE]",
    help="Draw towards an attribute: male, glasses, beard; or `read`: let a classifier decide. "
    "Give it once for each.",
)
@click.option(
    "--guidance", type=float, metavar="H", help="Strength of the attributes. [default: 50]"
)
@click.option(
    "--classifier",
    multiple=True,
    metavar="FILE",
    help="Classifier of attributes: a file that `train attributes` wrote, or NAME=FILE for a "
    "published one, once for each attribute. [default: builtin]",
)
@click.option(
    "--out", type=FOLDER, default=Path("sr"), show_default=True, help="Folder for the pictures."
)
@click.option(
    "--device", default="cpu", show_default=True, help="Where to compute: cpu, cuda or cuda:1."
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Number type of the network.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON line for each picture.")
def sr_command(
    images: tuple[Path, ...],
    aux: Path | None,
    align: bool,
    out: Path,
    *,
    as_json: bool,
    **options: Any,
) -> int:
    """Super-resolve face stills. The result is a synthetic reconstruction: a lead, never proof."""
    job = stills.Job(images, aux, align, out, **options)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    refused = 0
    with _sr_progress(len(images), as_json) as show:
        for done in stills.run(job):
            refused += done.problem is not None
            show(done)
    if refused == len(images):
        return ExitCode.USAGE
    return ExitCode.LOSSES if refused else ExitCode.DONE


@contextmanager
def _sr_progress(total: int, as_json: bool) -> Iterator[Callable[[stills.Done], None]]:
    """Yield a function that shows one finished still, as JSON or as a line, with a progress bar."""
    console = Console(stderr=True)
    hide_bar = as_json or not console.is_terminal
    with Progress(console=console, disable=hide_bar, transient=True) as bar:
        task = bar.add_task("super-resolving", total=total)

        def show(done: stills.Done) -> None:
            bar.advance(task)
            if as_json:
                click.echo(json.dumps(done.as_json()))
            elif done.problem is not None:
                print_lines(f"fasr-video: {done.problem}", err=True)
            else:
                for warning in done.warnings:
                    print_lines(f"{done.path}: warning: {warning}", err=True)
                is_drawn = done.state != "not drawn"
                what = done.state if is_drawn else "sheet written without a reconstruction,"
                print_lines(f"{done.path}: {what} {done.sheet}")

        yield show


@click.command("fit")
@click.option(
    "--refs",
    required=True,
    type=FOLDER,
    help="Folder with 2 to 10 photographs of one person's face.",
)
@click.option("--model", type=FILE, help="Weights that `train idfsr` wrote. [default: builtin]")
@click.option(
    "--out", required=True, type=FILE, help="The identity file to write, such as person.id."
)
@click.option(
    "--embedder",
    type=FILE,
    help="Weights file for the builtin embedder's architecture. [default: builtin]",
)
@click.option("--align", is_flag=True, help="Detect the face in each photograph first.")
@click.option(
    "--steps", default=200, type=click.IntRange(min=1), show_default=True, help="Steps of fitting."
)
@click.option(
    "--seed",
    default=0,
    type=click.IntRange(0, 2**31),
    show_default=True,
    help="The same seed gives the same vector.",
)
@click.option(
    "--force", is_flag=True, help="Fit even if the photographs may be of different people."
)
@click.option(
    "--device", default="cpu", show_default=True, help="Where to compute: cpu, cuda or cuda:1."
)
def fit_command(**options: Any) -> int:
    """Fit a vector of IDFSR to a person's photographs, for `sr --method idfsr --identity`."""
    job = Job(**options)
    console = Console(stderr=True)
    try:
        with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
            task = bar.add_task("fitting", total=job.steps)
            fitted = fit_person(job, lambda p: bar.update(task, completed=p.step))
    except KeyboardInterrupt:
        message = "stopped, nothing was written; the same command starts from the beginning"
        print_lines(f"fasr-video: {message}", err=True)
        return ExitCode.STOPPED
    for warning in fitted.warnings:
        print_lines(f"{job.refs}: warning: {warning}", err=True)
    about = fitted.about
    losses = f"loss {about.loss_before:.4f} before, {about.loss_after:.4f} after"
    print_lines(f"{job.out}: {count(len(about.references), 'reference')}, {losses}")
    return ExitCode.DONE
