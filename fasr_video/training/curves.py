"""A run's log as a line chart."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from fasr_video.csv_file import read_csv
from fasr_video.errors import InputError, MissingExtra
from fasr_video.files import atomic_write


def draw(log: Path, png: Path, columns: Sequence[str]) -> None:
    """Plot these columns of a CSV file over its first one; do nothing if the file is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("matplotlib", "report", "drawing curves") from error
    if not log.exists():
        return
    x, lines = _read(log, columns)
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for column, y in zip(columns, lines[1:], strict=True):
        axes.plot(lines[0], y, label=column, marker="." if len(y) < 50 else None)
    axes.set_xlabel(x)
    axes.grid(alpha=0.3)
    axes.legend()
    atomic_write(png, lambda path: figure.savefig(path, format="png", dpi=120))


def draw_or_warn(
    log: Path, png: Path, columns: Sequence[str], report: Callable[[str], None]
) -> None:
    """Plot the columns, or report why that failed."""
    try:
        draw(log, png, columns)
    except (MissingExtra, InputError) as error:
        report(f"no curves: {error}")


def draw_run(out: Path, terms: Sequence[str]) -> None:
    """Plot the log that `training.loop` wrote in a run's folder: losses and speed."""
    for name, columns in (("curves.png", terms), ("throughput.png", ("batches_per_second",))):
        draw_or_warn(
            out / "log.csv", out / name, columns, lambda line: print(line, file=sys.stderr)
        )


def _read(log: Path, columns: Sequence[str]) -> tuple[str, list[list[float]]]:
    """Return the name of the first column, and the numbers of it and of these columns."""
    table = read_csv(log, columns, "give the log.csv of a training run")
    first = table.columns[0]
    try:
        return first, [
            [float(row[name]) for row in table.rows.values()] for name in (first, *columns)
        ]
    except ValueError as error:
        raise InputError(
            log, f"not a table of numbers ({error})", "give the log.csv of a training run"
        ) from error
