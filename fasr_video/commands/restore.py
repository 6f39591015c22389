"""`fasr-video sr` and `fit`: stills restored, and a person's vector for that."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress

from fasr_video.commands.options import FACE, FILE, FOLDER
from fasr_video.console import say
from fasr_video.errors import ExitCode
from fasr_video.pipeline import stills
from fasr_video.pipeline.identity import Job, fit_person


@click.command("sr")
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--aux", type=FOLDER, help="Folder of other faces of the same person: what they tell is merged."
)
@click.option(
    "--method", default="fasr++", show_default=True, help="How: see docs/cli.md for the list."
)
@click.option(
    "--samples", type=int, help="Pictures to draw of each face. [default: the method's own]"
)
@click.option("--seed", default=0, show_default=True, help="The same seed draws the same pictures.")
@click.option("--sampler", help="KIND-STEPS, as dpmpp-10 or pc-2000. [default: the method's own]")
@click.option(
    "--feature-only",
    is_flag=True,
    help="Draw from the merged feature alone, without the LR face (y = 0).",
)
@click.option(
    "--align",
    is_flag=True,
    help="Find the face in each picture first, in place of taking it as a face crop.",
)
@FACE
@click.option(
    "--model", type=FILE, help="SR network: ours, or a published checkpoint. [default: builtin]"
)
@click.option(
    "--embedder", type=FILE, help="Weights of the builtin embedder's kind. [default: builtin]"
)
@click.option("--combiner", type=FILE, help="Feature Combiner. [default: builtin]")
@click.option(
    "--identity", type=FILE, help="What `fasr-video fit` wrote of the person, for --method idfsr."
)
@click.option(
    "--attr",
    multiple=True,
    metavar="NAME=yes|no[:CONFIDENCE]",
    help="Draw towards it: male, glasses, beard; or read, for what a classifier reads. Repeat it for more.",
)
@click.option("--guidance", type=float, metavar="H", help="How hard attributes draw. [default: 50]")
@click.option(
    "--classifier",
    multiple=True,
    metavar="FILE",
    help="Of attributes: ours, or NAME=FILE for each published one. [default: builtin]",
)
@click.option(
    "--out", type=FOLDER, default=Path("sr"), show_default=True, help="Folder for the pictures."
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1 …")
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Of the network.",
)
@click.option("--json", "as_json", is_flag=True, help="A JSON line for each picture.")
def sr_command(
    images: tuple[Path, ...],
    aux: Path | None,
    align: bool,
    out: Path,
    as_json: bool,
    **options: Any,
) -> int:
    """Super-resolve face stills. What it draws is a synthetic reconstruction: a lead, never proof."""
    job = stills.Job(images, aux, align, out, **options)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    failed = 0
    with _sr_progress(len(images), as_json) as tick:
        for done in stills.run(job):
            failed += done.problem is not None
            tick(done)
    return ExitCode.LOSSES if failed else ExitCode.DONE


@contextmanager
def _sr_progress(total: int, as_json: bool) -> Iterator[Any]:
    """A function that shows one finished still: JSON, or a line, with a bar below in a terminal."""
    console = Console(stderr=True)
    with Progress(
        console=console, disable=as_json or not console.is_terminal, transient=True
    ) as bar:
        task = bar.add_task("super-resolving", total=total)

        def tick(done: Any) -> None:
            bar.advance(task)
            if as_json:
                click.echo(json.dumps(done.as_json()))
            elif done.problem is not None:
                say(f"fasr-video: {done.problem}", err=True)
            else:
                for warning in done.warnings:
                    say(f"{done.path}: warning: {warning}", err=True)
                say(f"{done.path}: {done.state} {done.sheet}")

        yield tick


@click.command("fit")
@click.option(
    "--refs",
    required=True,
    type=FOLDER,
    help="Folder with 2 to 10 photographs of one person's face.",
)
@click.option("--model", type=FILE, help="Weights that `train idfsr` wrote. [default: builtin]")
@click.option("--out", required=True, type=FILE, help="The identity file to write, as person.id.")
@click.option(
    "--embedder", type=FILE, help="Weights of the builtin embedder's kind. [default: builtin]"
)
@click.option("--align", is_flag=True, help="Find the face in each photograph first.")
@click.option(
    "--steps", default=200, type=click.IntRange(min=1), show_default=True, help="Of fitting."
)
@click.option(
    "--seed",
    default=0,
    type=click.IntRange(0, 2**31),
    show_default=True,
    help="Of everything random.",
)
@click.option(
    "--force", is_flag=True, help="Fit although the photographs seem to be of different people."
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1 …")
def fit_command(**options: Any) -> int:
    """Fit one vector of IDFSR to a person's photographs, for `fasr-video sr --method idfsr --identity`."""
    job = Job(**options)
    console = Console(stderr=True)
    try:
        with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
            task = bar.add_task("fitting", total=job.steps)
            fitted = fit_person(job, lambda p: bar.update(task, completed=p.step))
    except KeyboardInterrupt:
        say("fasr-video: stopped, nothing was written; the same command begins again", err=True)
        return ExitCode.STOPPED
    for warning in fitted.warnings:
        say(f"{job.refs}: warning: {warning}", err=True)
    a = fitted.about
    say(
        f"{job.out}: {len(a.references)} references, loss {a.loss_before:.4f} before, {a.loss_after:.4f} after"
    )
    return ExitCode.DONE
