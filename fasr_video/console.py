"""What is printed. Names of files, people and cameras are anybody's: on a terminal they are text and nothing else."""

from __future__ import annotations

import json
import re
from typing import Any

import click
from rich.markup import escape

# What JSON leaves as it is although a terminal may act on it, or show the text around it in another
# order.
_ACTS = re.compile("[\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def plain(text: object) -> str:
    """On one line, without what makes a terminal do things."""
    line = str(text)
    return line if line.isprintable() else "".join(c if c.isprintable() else " " for c in line)


def say(*lines: object, err: bool = False) -> None:
    """Print lines; one that holds a line break is still one."""
    click.echo("\n".join(plain(line) for line in lines), err=err)


def cell(text: object) -> str:
    """Of a table, or of other text with markup."""
    return escape(plain(text))


def plain_throughout(document: Any) -> Any:
    """A document with every text in it plain."""
    if isinstance(document, dict):
        return {key: plain_throughout(value) for key, value in document.items()}
    if isinstance(document, list):
        return [plain_throughout(value) for value in document]
    return plain(document) if isinstance(document, str) else document


def readable_json(document: Any) -> str:
    """Letters of all languages as they are; what a terminal acts on as JSON's own escapes, which read as the same."""
    text = json.dumps(document, indent=2, ensure_ascii=False)
    return _ACTS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def clock(seconds: float, digits: int = 3) -> str:
    """Return a time of the footage as H:MM:SS.mmm."""
    ticks = round(seconds * 10**digits)
    whole, rest = divmod(ticks, 10**digits)
    fraction = f".{rest:0{digits}d}" if digits else ""
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}{fraction}"
