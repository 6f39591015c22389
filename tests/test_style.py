"""What people read: no phrase that docs/style.md bans, and help texts of at least three words."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from fasr_video.cli import cli
from tests.support.paths import ROOT

PACKAGE = ROOT / "fasr_video"
PAGES = [
    path
    for path in (
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "docs" / "howto").glob("*.md"),
    )
    if path.name != "style.md"
]
TEMPLATES = sorted(PACKAGE.rglob("templates/*"))
MODULES = sorted(PACKAGE.rglob("*.py"))
BANNED = re.compile(
    r"\b("
    r"(in|out of) the box|(is|are|was|were) told|likewise|thereof"
    r"|goes on (where|from)|(can|could)not go on|anew"
    r"|brought (up|down)|looked at first|leads nowhere|sets? it beside"
    r")\b",
    re.IGNORECASE,
)
SENTENCE = re.compile(r"[A-Z`].*[.?)](\s*\[.*\])?", re.DOTALL)
CODE = re.compile(r"```.*?```|`[^`]*`|\{[%{#].*?[%}#]\}", re.DOTALL)


def banned_in(text: str) -> list[str]:
    """Return the banned phrases of a text, code left out."""
    return [found.group() for found in BANNED.finditer(CODE.sub("", text))]


def strings_in(module: Path) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of each string in a module, docstrings included."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def commands(group: click.Command, path: str = "") -> Iterator[tuple[str, click.Command]]:
    """Yield each command below a group, with the words that call it."""
    yield path, group
    if isinstance(group, click.Group):
        context = click.Context(group)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            yield from commands(command, f"{path} {name}".strip())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_uses_no_banned_phrase(page: Path) -> None:
    assert banned_in(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_a_report_or_review_page_uses_no_banned_phrase(template: Path) -> None:
    assert banned_in(template.read_text(encoding="utf-8")) == []


def test_no_string_of_the_package_uses_a_banned_phrase() -> None:
    found = [
        f"{module.relative_to(ROOT)}:{line}: {phrase}"
        for module in MODULES
        for line, text in strings_in(module)
        for phrase in banned_in(text)
    ]
    assert found == []


def test_every_command_and_option_has_a_help_text_of_three_words_or_more() -> None:
    short = []
    for name, command in commands(cli):
        texts = {name: command.help or ""}
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                texts[f"{name} {parameter.opts[0]}"] = parameter.help or ""
        short += [where for where, text in texts.items() if len(text.split()) < 3]
    assert short == []


def test_every_help_text_is_a_sentence_or_a_phrase_with_a_full_stop() -> None:
    without_stop = []
    for name, command in commands(cli):
        for parameter in command.params:
            text = getattr(parameter, "help", None)
            if text and not SENTENCE.fullmatch(text):
                without_stop.append(f"{name} {parameter.opts[0]}: {text}")
    assert without_stop == []
