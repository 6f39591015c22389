"""CSV files with a header, read in whole."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from fasr_video.errors import InputError
from fasr_video.files import read_file


@dataclass(frozen=True, slots=True)
class Table:
    columns: tuple[str, ...]
    rows: dict[int, dict[str, str]]
    """By the line that each ends on; a field that is missing is empty."""
    uneven: frozenset[int]
    """Lines with more or fewer fields than the header."""


def read_csv(file: Path, columns: Collection[str], remedy: str) -> Table:
    """Return the table of a file; raises where it cannot be read, or lacks one of these columns."""
    try:
        text = read_file(file).decode("utf-8-sig")
        lines = csv.reader(io.StringIO(text, newline=""), strict=True)
        header = tuple(name.strip() for name in next(lines, []))
        fields = [(lines.line_num, line) for line in lines if line]
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
        raise InputError(file, reason, "check its path and permissions") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(file, f"not a readable CSV file ({error})", remedy) from error
    missing = [name for name in columns if name not in header]
    if missing:
        raise InputError(file, f"its first line has no column {', '.join(missing)}", remedy)
    rows = {}
    uneven = set()
    for number, line in fields:
        values = [value.strip() for value in line]
        rows[number] = dict.fromkeys(header, "") | dict(zip(header, values, strict=False))
        if len(line) != len(header):
            uneven.add(number)
    return Table(header, rows, frozenset(uneven))
