"""CMC, DET and histograms of scores, and grids of pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pictures
from PIL import ImageDraw, ImageFont

from fasr_video.errors import MissingExtra, UsageError
from fasr_video.evaluation import open_set, verification
from fasr_video.evaluation.scoring import Scored
from fasr_video.files import write_whole
from fasr_video.provenance import png_note
from fasr_video.recognition.align import CANONICAL_SIDE
from fasr_video.types import Image

MOST_PANELS = 9
"""Systems that histograms are drawn of."""
MOST_POINTS = 2000
MARGIN, HEAD = 4, 18


def cmc(found: Mapping[str, Scored], png: Path) -> None:
    """Share of people found among the first k, over k."""

    def draw(axes: Any) -> None:
        for name, scored in found.items():
            if scored.searches is not None and scored.searches.mated.any():
                rates = open_set.cmc(scored.searches, 20)
                axes.step(np.arange(1, len(rates) + 1), rates, where="post", label=name)
        axes.set(xlabel="rank", ylabel="share of people found", ylim=(0, 1.02), xlim=(1, 20), xticks=(1, 5, 10, 15, 20))

    _figure(png, draw)


def det(found: Mapping[str, Scored], png: Path) -> None:
    """FNIR over FPIR of searches with strangers; otherwise FNMR over FMR of single comparisons."""

    def draw(axes: Any) -> None:
        searched = False
        for name, scored in found.items():
            searches = scored.searches
            if searches is not None and searches.mated.any() and not searches.mated.all():
                searched = True
                _, x, y = open_set.det(searches)
            else:
                _, x, hit = verification.roc(scored.own, scored.others)
                y = 1 - hit
            kept = _thinned(np.flatnonzero(x > 0)[np.argsort(x[x > 0], kind="stable")])
            axes.plot(x[kept], y[kept], label=name)
        labels = ("FPIR", "FNIR") if searched else ("FMR", "FNMR")
        axes.set(xscale="log", xlabel=labels[0], ylabel=labels[1], ylim=(0, 1))

    _figure(png, draw)


def histograms(found: Mapping[str, Scored], png: Path) -> None:
    """Scores of one person's photographs and of two people's, a panel a system."""
    shown = dict(list(found.items())[:MOST_PANELS])
    figure = _new_figure((8, 1.6 * len(shown) + 0.6))
    panels = np.atleast_1d(figure.subplots(len(shown), 1, sharex=True))
    every = np.concatenate([np.concatenate((s.own, s.others)) for s in shown.values()])
    edges = np.linspace(every.min(), every.max() + 1e-9, 60)
    for axes, (name, scored) in zip(panels, shown.items(), strict=True):
        for values, what in ((scored.others, "two people"), (scored.own, "one person")):
            axes.hist(values, edges, density=True, alpha=0.55, label=what)
        axes.set_title(name, fontsize=9)
        axes.set_yticks([])
    panels[0].legend(fontsize=8)
    panels[-1].set_xlabel("score")
    write_whole(png, lambda path: figure.savefig(path, format="png", dpi=120))


def grid(rows: Sequence[Sequence[Image]], heads: Sequence[str], png: Path) -> None:
    """Pictures of 128×128, a row an item, with a head over each column."""
    if not rows or any(len(row) != len(heads) for row in rows):
        raise UsageError("grid", "no pictures, or not one for each head", "give a picture a head")
    cell = CANONICAL_SIDE + MARGIN
    sheet = Pictures.new("RGB", (cell * len(heads) + MARGIN, HEAD + cell * len(rows) + MARGIN), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for k, head in enumerate(heads):
        pen.text((MARGIN + k * cell, 2), _shortened(head, font), "black", font)
    for i, row in enumerate(rows):
        for k, picture in enumerate(row):
            sheet.paste(Pictures.fromarray(picture), (MARGIN + k * cell, HEAD + MARGIN + i * cell))
    write_whole(png, lambda path: sheet.save(path, "PNG", pnginfo=png_note({"grid": list(heads)})))


def _thinned(places: NDArray[np.intp]) -> NDArray[np.intp]:
    """Fewer points the further on: the axis is logarithmic, and millions of comparisons would take minutes to draw."""
    if not len(places):
        return places
    return places[np.unique(np.geomspace(1, len(places), MOST_POINTS).astype(np.intp)) - 1]


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
    write_whole(png, lambda path: figure.savefig(path, format="png", dpi=120))


def _new_figure(size: tuple[float, float]) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("matplotlib", "report", "drawing plots") from error
    return Figure(figsize=size, layout="constrained")
