"""`fasr-video calibrate`: make a calibration and show its report."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click
from click.core import ParameterSource
from rich.console import Console
from rich.table import Column, Table

from fasr_video.calibration.calibrate import Protocol, from_images
from fasr_video.calibration.labelled import from_tracks
from fasr_video.checkpoint import find_device
from fasr_video.commands.embedder import EmbedderChoice, embedder_options
from fasr_video.console import count, print_lines, table_cell
from fasr_video.errors import UsageError
from fasr_video.gallery.calibration import Band, Calibration
from fasr_video.gallery.encoder import TrackEncoder, make_encoder
from fasr_video.gallery.gallery import Gallery
from fasr_video.recognition.embedder import Embedder
from fasr_video.sqlite import explain_errors
from fasr_video.sr.methods import Options, find_method, open_restorer

SIZES = (10, 100, 1_000, 10_000)
OF_SR = ("method", "sampler", "precision", "samples")
# Options without effect with --tracks, whose probes come from the cases.
OF_FACES = (
    "embedder",
    "weights",
    "flip",
    "no_sr",
    *OF_SR,
    "sizes",
    "camera",
    "people",
    "worst_group",
    "device",
)


@click.command("calibrate")
@click.argument("faces", nargs=-1, type=click.Path(path_type=Path, exists=True))
@click.option(
    "--tracks",
    "labels",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Instead of FACES: a CSV with the columns case, track, person.",
)
@click.option(
    "--gallery",
    "people_known",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="With --tracks: the gallery to search them in.",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file to write.",
)
@embedder_options
@click.option(
    "--no-sr", is_flag=True, help="Leave out super-resolution, which takes most of the time."
)
@click.option(
    "--method",
    default="mean",
    show_default=True,
    help="Super-resolution method. That of `run` is mean.",
)
@click.option("--sampler", help="Sampler of the method. [default: the method's own]")
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Precision of the super-resolution network; use that of your runs.",
)
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    help="Pictures to draw per face. [default: the method's own]",
)
@click.option(
    "--sizes",
    multiple=True,
    metavar="LOW-HIGH",
    help="A band of face sizes in px. Repeatable.  [default: six from 10 to 128 px]",
)
@click.option(
    "--camera",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="Share of faces to degrade as cameras do; the others are degraded as in the papers.",
)
@click.option(
    "--people",
    type=click.IntRange(min=24),
    help="Use at most this many people. [default: all with two photographs]",
)
@click.option(
    "--worst-group",
    type=click.FloatRange(min=1),
    default=1.0,
    show_default=True,
    metavar="TIMES",
    help="Make thresholds for a group that is confused with others this many times more often.",
)
@click.option(
    "--seed",
    default=0,
    type=click.IntRange(0, 2**31),
    show_default=True,
    help="Seed of all random numbers.",
)
@click.option(
    "--device", default="cpu", show_default=True, help="Where to compute: cpu, cuda or cuda:1."
)
def calibrate_command(
    faces: tuple[Path, ...],
    labels: Path | None,
    people_known: Path | None,
    out: Path,
    *,
    embedder: EmbedderChoice,
    no_sr: bool,
    method: str,
    sampler: str | None,
    precision: str,
    samples: int | None,
    sizes: tuple[str, ...],
    camera: float,
    people: int | None,
    worst_group: float,
    seed: int,
    device: str,
) -> None:
    """Make a calibration from labelled FACES or tracks: it says what scores mean.

    FACES are aligned: folders or tar shards of IDENTITY/PHOTO. If it is stopped or
    killed, the same command resumes it.
    """
    _check_files(faces, labels, people_known, out)
    _refuse(OF_FACES if labels else OF_SR if no_sr else (), "--tracks" if labels else "--no-sr")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if labels and people_known:
        with explain_errors(out):
            show(_from_tracks(labels, people_known, seed, out), out)
        return
    protocol = Protocol(camera=camera, people=people, seed=seed, worst_group=worst_group)
    if sizes:
        protocol = replace(protocol, bands=tuple(_band(text) for text in sizes))
    model = embedder.open(device)
    plain = make_encoder(model, None, 1)
    encoder = plain
    if not no_sr:
        options = Options(find_device(device), sampler=sampler, precision=precision)
        encoder = _encoder(model, method, options, samples)
    with explain_errors(out):
        show(_from_images(faces, encoder, plain, protocol, out=out), out)


def _check_files(
    faces: tuple[Path, ...], labels: Path | None, people_known: Path | None, out: Path
) -> None:
    if out.exists():
        raise UsageError(
            out,
            "the file exists already, and cases may depend on it",
            "give another --out, or move the file away",
        )
    if bool(faces) == bool(labels) or bool(labels) != bool(people_known):
        reason = "it needs either FACES, or --tracks and --gallery"
        raise UsageError("calibrate", reason, "give one of them")


def _encoder(model: Embedder, method: str, options: Options, samples: int | None) -> TrackEncoder:
    """Return an encoder that restores faces by this method."""
    chosen = find_method(method)
    if chosen.supports.references:
        reason = "it needs references, and there are none here"
        raise UsageError(f"method {method}", reason, "give another --method")
    restorer = open_restorer(chosen, options)
    return make_encoder(model, restorer, samples or chosen.defaults.samples)


def _band(text: str) -> tuple[int, int]:
    low, dash, high = text.partition("-")
    try:
        return int(low), int(high if dash else low)
    except ValueError as error:
        raise UsageError(
            f"--sizes {text}", "not two whole numbers of px", "give LOW-HIGH, as 14-19"
        ) from error


def _refuse(names: Sequence[str], beside: str) -> None:
    """Raise where an option was given that has no effect."""
    context = click.get_current_context()
    given = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name in names
        and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE
    ]
    if given:
        raise UsageError(", ".join(given), f"no effect together with {beside}", "leave that out")


def _from_tracks(labels: Path, people: Path, seed: int, out: Path) -> Calibration:
    with Gallery.open(people, read_only=True) as gallery:
        calibration = from_tracks(labels, gallery, seed)
    calibration.save(out)
    return calibration


def _from_images(
    faces: tuple[Path, ...],
    encoder: TrackEncoder,
    plain: TrackEncoder,
    protocol: Protocol,
    *,
    out: Path,
) -> Calibration:
    with click.progressbar(length=1, label="people", show_pos=True) as bar:

        def listen(done: int, people: int) -> None:
            bar.length = people
            bar.update(done - bar.pos)

        calibration, left_out = from_images(faces, encoder, plain, protocol, out=out, listen=listen)
    for line in left_out[:5]:
        print_lines(f"left out: {line}", err=True)
    return calibration


def show(calibration: Calibration, path: Path) -> None:
    """Print the report of a calibration."""
    console = Console()
    print_lines(f"{path}: sha256 {calibration.sha256[:16]}…, {calibration.data}")
    for band in calibration.bands:
        report = band.report
        print_lines(
            f"faces of {band}, measured on people that nothing was fitted on: {report.mated} mated"
            f" and {report.non_mated} non-mated searches over {count(report.gallery, 'subject')}"
        )
        console.print(_how_well(band), _how_far(band), _thresholds(band))
    print_lines("* beyond what was measured: from the fitted tail")


def _how_well(band: Band) -> Table:
    columns = ("rank-1", "AUC", *(f"FNIR at FPIR {p.fpir:g}" for p in band.report.points))
    table = Table(
        Column("scale", no_wrap=True), *columns, title=f"{band}: how well it tells people apart"
    )
    for name, scale in band.scales.items():
        rates = [f"{p.fnir_at_fpir:.3f}" if p.resolved else "too few" for p in scale.report.points]
        table.add_row(
            table_cell(name), f"{scale.report.ranks[0][1]:.3f}", f"{scale.report.auc:.4f}", *rates
        )
    return table


def _how_far(band: Band) -> Table:
    columns = (
        "nearest stranger",
        "nearest pair",
        "log10 LR from",
        "to",
        "form",
        "Cllr raw",
        "calibrated",
        "least",
    )
    table = Table(Column("scale", no_wrap=True), *columns, title=f"{band}: what scores mean")
    for name, scale in band.scales.items():
        r = scale.report
        score_map = scale.map
        near = (f"{scale.nearest_stranger:.3f}", f"{scale.nearest_pair:.3f}")
        costs = (f"{v:.3f}" for v in (r.cllr_raw, r.cllr, r.cllr_least))
        table.add_row(
            table_cell(name),
            *near,
            f"{score_map.values[0]:.2f}",
            f"{score_map.values[-1]:.2f}",
            score_map.form,
            *costs,
        )
    return table


def _thresholds(band: Band) -> Table:
    points = band.report.points
    rates = (f"FPIR {p.fpir:g}" for p in points)
    table = Table(
        Column("scale", no_wrap=True),
        "subjects",
        *rates,
        title=f"{band}: thresholds by gallery size",
    )
    for name in band.scales:
        for size in SIZES:
            thresholds = [band.threshold(name, p.fpir, size) for p in points]
            cells = [f"{t.score:.3f}{'*' if t.extrapolated else ' '}" for t in thresholds]
            table.add_row(table_cell(name), f"{size:,}", *cells)
    return table
