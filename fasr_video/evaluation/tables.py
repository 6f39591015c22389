"""Tables in Markdown, CSV and LaTeX, with the best and second value of each column marked."""

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
    """up, down, or empty if no value is better than another."""


@dataclass(frozen=True, slots=True)
class Cell:
    value: float = math.nan
    """NaN for an empty cell."""
    around: str = ""
    """Text after the value: ± 0.01, or (0.1–0.2)."""


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    cells: tuple[Cell, ...]
    compared: bool = True
    """Whether it can be the best one; the true face cannot."""
    among: str = ""
    """It is compared with rows that have the same value here, since larger faces are easier."""


@dataclass(frozen=True, slots=True)
class Table:
    title: str
    first: str
    """Title of the first column, with the names of the rows."""
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    def without_empty_columns(self) -> Table:
        """Return the table without columns that have no value."""
        nonempty = [
            k
            for k in range(len(self.columns))
            if any(not math.isnan(r.cells[k].value) for r in self.rows)
        ]
        rows = tuple(replace(r, cells=tuple(r.cells[k] for k in nonempty)) for r in self.rows)
        return Table(
            self.title, self.first, tuple(self.columns[k] for k in nonempty), rows, self.notes
        )

    def rank(self, row: int, column: int) -> int:
        """Return 1 for the best rounded value of a column, 2 for the second best, 0 otherwise."""
        spec = self.columns[column]
        own = self.rows[row]
        rounded = [
            round(r.cells[column].value, spec.digits)
            for r in self.rows
            if r.compared and r.among == own.among
        ]
        counted = {v for v in rounded if not math.isnan(v)}
        if not spec.better or not own.compared or len(counted) < 2:
            return 0
        order = sorted(counted, reverse=spec.better == "up")
        value = round(own.cells[column].value, spec.digits)
        return order.index(value) + 1 if value in order[:2] else 0

    def markdown(self) -> str:
        """Return the table as Markdown."""
        heads = [
            self.first,
            *(c.title + {"up": " ↑", "down": " ↓", "": ""}[c.better] for c in self.columns),
        ]
        lines = [heads, ["---"] * len(heads)]
        for i, row in enumerate(self.rows):
            markers = [("", "**", "_")[self.rank(i, k)] for k in range(len(self.columns))]
            cells = [
                _joined(f"{m}{text}{m}", c)
                for m, (text, c) in zip(markers, self._texts(row), strict=True)
            ]
            lines.append([row.name.replace("|", "\\|"), *cells])
        body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return "\n\n".join([f"## {self.title}", body, *self.notes]) + "\n"

    def csv(self) -> str:
        """Return the table as CSV: unrounded values, and the texts after them in own columns."""
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
        """Return the table as LaTeX for the package booktabs."""
        arrows = {"up": r" $\uparrow$", "down": r" $\downarrow$", "": ""}
        heads = [_tex(self.first), *(_tex(c.title) + arrows[c.better] for c in self.columns)]
        lines = [" & ".join(heads) + r" \\", r"\midrule"]
        for i, row in enumerate(self.rows):
            cells = [_tex(row.name)]
            for k, (text, cell) in enumerate(self._texts(row)):
                marked = (r"{}", r"\textbf{{{}}}", r"\underline{{{}}}")[self.rank(i, k)]
                cells.append(
                    _joined(marked.format(_tex(text)), Cell(cell.value, _tex(cell.around)))
                )
            lines.append(" & ".join(cells) + r" \\")
        head = [f"% {self.title}", rf"\begin{{tabular}}{{l{'r' * len(self.columns)}}}", r"\toprule"]
        return "\n".join([*head, *lines, r"\bottomrule", r"\end{tabular}", ""])

    def values(self, row: Row) -> list[str]:
        """Return the row's values as text, without marks and bounds."""
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
