"""Tables in Markdown, CSV and LaTeX, the best and second value of each column marked."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Column:
    title: str
    digits: int = 3
    better: str = ""
    """up, down, or empty where nothing is better than anything."""


@dataclass(frozen=True, slots=True)
class Cell:
    value: float = math.nan
    """NaN where there is nothing to say."""
    around: str = ""
    """As ± 0.01, or (0.1–0.2)."""


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    cells: tuple[Cell, ...]
    compared: bool = True
    """Whether it may be the best one; the true face may not."""
    among: str = ""
    """Which rows it is compared with: those that say the same here, for larger faces are no better method."""


@dataclass(frozen=True, slots=True)
class Table:
    title: str
    first: str
    """Over the names of the rows."""
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    def known(self) -> Table:
        """Without columns that nothing is said in."""
        kept = [
            k
            for k in range(len(self.columns))
            if any(not math.isnan(r.cells[k].value) for r in self.rows)
        ]
        rows = tuple(replace(r, cells=tuple(r.cells[k] for k in kept)) for r in self.rows)
        return Table(self.title, self.first, tuple(self.columns[k] for k in kept), rows, self.notes)

    def place(self, row: int, column: int) -> int:
        """1 for the best value of a column as it is shown, 2 for the second best, 0 otherwise; equal ones share."""
        spec, own = self.columns[column], self.rows[row]
        shown = [
            round(r.cells[column].value, spec.digits)
            for r in self.rows
            if r.compared and r.among == own.among
        ]
        counted = {v for v in shown if not math.isnan(v)}
        if not spec.better or not own.compared or len(counted) < 2:
            return 0
        order, value = (
            sorted(counted, reverse=spec.better == "up"),
            round(own.cells[column].value, spec.digits),
        )
        return order.index(value) + 1 if value in order[:2] else 0

    def markdown(self) -> str:
        heads = [
            self.first,
            *(c.title + {"up": " ↑", "down": " ↓", "": ""}[c.better] for c in self.columns),
        ]
        lines = [heads, ["---"] * len(heads)]
        for i, row in enumerate(self.rows):
            marks = [("", "**", "_")[self.place(i, k)] for k in range(len(self.columns))]
            cells = [
                _joined(f"{m}{text}{m}", c)
                for m, (text, c) in zip(marks, self._texts(row), strict=True)
            ]
            lines.append([row.name.replace("|", "\\|"), *cells])
        body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return "\n\n".join([f"## {self.title}", body, *self.notes]) + "\n"

    def csv(self) -> str:
        """Values in full, and what is around them in columns of their own."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        around = [any(r.cells[k].around for r in self.rows) for k in range(len(self.columns))]
        heads = [
            [c.title, f"{c.title} around"] if a else [c.title]
            for c, a in zip(self.columns, around, strict=True)
        ]
        writer.writerow([self.first, *(h for pair in heads for h in pair)])
        for row in self.rows:
            cells = []
            for cell, a in zip(row.cells, around, strict=True):
                cells += [
                    "" if math.isnan(cell.value) else repr(float(cell.value)),
                    *([cell.around] if a else []),
                ]
            writer.writerow([row.name, *cells])
        return out.getvalue()

    def latex(self) -> str:
        """For the package booktabs."""
        arrows = {"up": r" $\uparrow$", "down": r" $\downarrow$", "": ""}
        heads = [_tex(self.first), *(_tex(c.title) + arrows[c.better] for c in self.columns)]
        lines = [" & ".join(heads) + r" \\", r"\midrule"]
        for i, row in enumerate(self.rows):
            cells = [_tex(row.name)]
            for k, (text, cell) in enumerate(self._texts(row)):
                marked = (r"{}", r"\textbf{{{}}}", r"\underline{{{}}}")[self.place(i, k)]
                cells.append(
                    _joined(marked.format(_tex(text)), Cell(cell.value, _tex(cell.around)))
                )
            lines.append(" & ".join(cells) + r" \\")
        head = [f"% {self.title}", rf"\begin{{tabular}}{{l{'r' * len(self.columns)}}}", r"\toprule"]
        return "\n".join([*head, *lines, r"\bottomrule", r"\end{tabular}", ""])

    def values(self, row: Row) -> list[str]:
        """The row's values as text, unmarked and alone."""
        return [text for text, _ in self._texts(row)]

    def _texts(self, row: Row) -> Sequence[tuple[str, Cell]]:
        return [
            (_text(cell.value, c.digits), cell)
            for cell, c in zip(row.cells, self.columns, strict=True)
        ]


def _text(value: float, digits: int) -> str:
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def _joined(text: str, cell: Cell) -> str:
    return text if not cell.around or math.isnan(cell.value) else f"{text} {cell.around}"


_TEX = {
    "\\": r"\textbackslash{}",
    "±": r"$\pm$",
    "–": "--",
    "_": r"\_",
    "%": r"\%",
    "&": r"\&",
    "#": r"\#",
    "×": r"$\times$",
}


def _tex(text: str) -> str:
    return "".join(_TEX.get(c, c) for c in text)
