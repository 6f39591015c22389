"""Plots of CMC, ROC, DET and score histograms, and grids of pictures."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pictures
from PIL import ImageDraw, ImageFont

from fasr_video.errors import MissingExtra, UsageError
from fasr_video.evaluation import open_set, verification
from fasr_video.evaluation.open_set import Scores
from fasr_video.evaluation.scoring import Scored
from fasr_video.files import atomic_write, atomic_write_text
from fasr_video.provenance import png_note
from fasr_video.recognition.align import CANONICAL_SIDE
from fasr_video.types import Image

# Largest number of systems with a histogram.
MOST_PANELS = 9
MOST_POINTS = 2000
LAST_RANK = 20
MARGIN, HEAD = 4, 18


# x and y of each system's curve.
Curves = dict[str, tuple[Scores, Scores]]


def cmc(scores: Mapping[str, Scored], png: Path, last: int = LAST_RANK) -> None:
    """Plot the share of people found among the first k candidates, over k up to `last`."""
    searches_by_name = {
        n: s.searches
        for n, s in scores.items()
        if s.searches is not None and s.searches.mated.any()
    }
    ranks = np.arange(1, last + 1, dtype=np.float64)
    curves = {
        name: (ranks, open_set.cmc(searches, last)) for name, searches in searches_by_name.items()
    }
    limits = {"ylim": (0, 1.02), "xlim": (1, max(2, last)), "xticks": (1, *range(5, last + 1, 5))}
    _curves(png, curves, ("rank", "share of people found"), limits, drawstyle="steps-post")


def roc(scores: Mapping[str, Scored], png: Path) -> None:
    """Plot the share of passing comparisons of one person over that of two people."""
    curves: Curves = {}
    for name, scored in scores.items():
        if len(scored.own) and len(scored.others):
            _, x, y = verification.roc(scored.own, scored.others)
            curves[name] = _rising(x, y)
    _curves(png, curves, ("FMR", "1 − FNMR"), {"xscale": "log", "ylim": (0, 1)})


def det(scores: Mapping[str, Scored], png: Path) -> None:
    """Plot FNIR over FPIR of searches with strangers, else FNMR over FMR of comparisons."""
    curves: Curves = {}
    searched = False
    for name, scored in scores.items():
        searches = scored.searches
        if searches is not None and searches.mated.any() and not searches.mated.all():
            searched = True
            _, x, y = open_set.det(searches)
            curves[name] = _rising(x, y)
        elif len(scored.own) and len(scored.others):
            _, x, hit = verification.roc(scored.own, scored.others)
            curves[name] = _rising(x, 1 - hit)
    _curves(
        png,
        curves,
        ("FPIR", "FNIR") if searched else ("FMR", "FNMR"),
        {"xscale": "log", "ylim": (0, 1)},
    )


def _curves(
    png: Path,
    curves: Curves,
    heads: tuple[str, str],
    limits: Mapping[str, object],
    *,
    drawstyle: str = "default",
) -> None:
    """Write the curves as a figure, and their numbers as CSV beside it."""
    if not curves:
        return

    def draw(axes: Any) -> None:
        for name, (x, y) in curves.items():
            axes.plot(x, y, label=name, drawstyle=drawstyle)
        axes.set(xlabel=heads[0], ylabel=heads[1], **limits)

    _figure(png, draw)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("system", *heads))
    for name, (x, y) in curves.items():
        writer.writerows(
            (name, f"{a:.6g}", f"{b:.6g}") for a, b in zip(x.tolist(), y.tolist(), strict=True)
        )
    atomic_write_text(png.with_suffix(".csv"), out.getvalue())


def _rising(x: Scores, y: Scores) -> tuple[Scores, Scores]:
    """Return the points with x above 0, by rising x, thinned out."""
    points = _thinned(np.flatnonzero(x > 0)[np.argsort(x[x > 0], kind="stable")])
    return x[points], y[points]


def histograms(scores: Mapping[str, Scored], png: Path) -> None:
    """Plot histograms of the scores of one person and of two people, a panel a system."""
    drawn = dict(list(scores.items())[:MOST_PANELS])
    if not any(len(s.own) + len(s.others) for s in drawn.values()):
        return
    figure = _new_figure((8, 1.6 * len(drawn) + 0.6))
    if len(scores) > len(drawn):
        figure.suptitle(f"the first {len(drawn)} of {len(scores)} systems", fontsize=9)
    panels = np.atleast_1d(figure.subplots(len(drawn), 1, sharex=True))
    every = np.concatenate([np.concatenate((s.own, s.others)) for s in drawn.values()])
    edges = np.linspace(every.min(), every.max() + 1e-9, 60)
    for axes, (name, scored) in zip(panels, drawn.items(), strict=True):
        for values, what in ((scored.others, "two people"), (scored.own, "one person")):
            axes.hist(values, edges, density=True, alpha=0.55, label=what)
        axes.set_title(name, fontsize=9)
        axes.set_yticks([])
    panels[0].legend(fontsize=8)
    panels[-1].set_xlabel("score")
    atomic_write(png, lambda path: figure.savefig(path, format="png", dpi=120))


def grid(rows: Sequence[Sequence[Image]], heads: Sequence[str], png: Path) -> None:
    """Write pictures of 128×128 as a grid, a row an item, with a title over each column."""
    if not rows or any(len(row) != len(heads) for row in rows):
        raise UsageError("grid", "no pictures, or not one for each head", "give a picture a head")
    cell = CANONICAL_SIDE + MARGIN
    sheet = Pictures.new(
        "RGB", (cell * len(heads) + MARGIN, HEAD + cell * len(rows) + MARGIN), "white"
    )
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for k, head in enumerate(heads):
        pen.text((MARGIN + k * cell, 2), _shortened(head, font), "black", font)
    for i, row in enumerate(rows):
        for k, picture in enumerate(row):
            sheet.paste(Pictures.fromarray(picture), (MARGIN + k * cell, HEAD + MARGIN + i * cell))
    atomic_write(png, lambda path: sheet.save(path, "PNG", pnginfo=png_note({"grid": list(heads)})))


def _thinned(points: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return fewer points, ever more sparsely.

    The axis is logarithmic, and drawing millions of points would take minutes.
    """
    if not len(points):
        return points
    return points[np.unique(np.geomspace(1, len(points), MOST_POINTS).astype(np.intp)) - 1]


def _shortened(text: str, font: Any) -> str:
    if font.getlength(text) <= CANONICAL_SIDE:
        return text
    while font.getlength(text + "…") > CANONICAL_SIDE:
        text = text[:-1]
    return text + "…"


def _figure(png: Path, draw: Callable[[Any], None]) -> None:
    figure = _new_figure((9, 5))
    axes = figure.add_subplot()
    draw(axes)
    axes.grid(alpha=0.3, which="both")
    figure.legend(loc="outside right upper", fontsize=8)
    atomic_write(png, lambda path: figure.savefig(path, format="png", dpi=120))


def _new_figure(size: tuple[float, float]) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("matplotlib", "report", "drawing plots") from error
    return Figure(figsize=size, layout="constrained")
