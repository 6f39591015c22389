"""Printing. Names of files, people and cameras may hold anything; on a terminal they are text."""

from __future__ import annotations

import json
import re
from dataclasses import fields, is_dataclass, replace
from typing import Any

import click
from rich.markup import escape

# Characters that JSON does not escape, but that control a terminal or change the order of the text
# around them.
_CONTROL = re.compile("[\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def plain(text: object) -> str:
    """Return a text on one line, without characters that control a terminal."""
    line = str(text)
    if line.isprintable():
        return line
    return "".join(character if character.isprintable() else " " for character in line)


def print_lines(*lines: object, err: bool = False) -> None:
    """Print lines. A line break within one of them is printed as a space."""
    click.echo("\n".join(plain(line) for line in lines), err=err)


def table_cell(text: object) -> str:
    """Return a text for a table, or for other text with rich's markup."""
    return escape(plain(text))


def plain_document(document: Any) -> Any:
    """Return a document of rows, lists and dictionaries with every text in it plain."""
    if is_dataclass(document) and not isinstance(document, type):
        texts = {f.name: plain_document(getattr(document, f.name)) for f in fields(document)}
        return replace(document, **texts)
    if isinstance(document, dict):
        return {key: plain_document(value) for key, value in document.items()}
    if isinstance(document, list | tuple):
        return [plain_document(value) for value in document]
    return plain(document) if isinstance(document, str) else document


def readable_json(document: Any) -> str:
    """Return JSON that is safe to print: letters of all languages stay, controls are escaped."""
    text = json.dumps(document, indent=2, ensure_ascii=False)
    return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def count(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun: "1 file", "2 files"."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


def megabytes(size: int) -> str:
    """Return a number of bytes in MB."""
    return f"{size / 1e6:.1f} MB"


def clock(seconds: float, digits: int = 3) -> str:
    """Return a time of the footage as H:MM:SS.mmm."""
    ticks = round(seconds * 10**digits)
    total, rest = divmod(ticks, 10**digits)
    fraction = f".{rest:0{digits}d}" if digits else ""
    return f"{total // 3600}:{total // 60 % 60:02d}:{total % 60:02d}{fraction}"
