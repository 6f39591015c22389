"""What messages tell people to do exists: commands, options, settings and extras."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click

from fasr_video.cli import cli
from fasr_video.configs.settings import load
from tests.support.paths import ROOT

PACKAGE = ROOT / "fasr_video"
# A trainer that is no command of fasr-video, with options of its own.
OWN_OPTIONS = PACKAGE / "training" / "detector.py"
OTHERS = {"--check"}  # of sha256sum
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]+")
COMMAND = re.compile(r"`fasr-video ([a-z][a-z-]*(?: [a-z][a-z-]*)?)")
SETTING = re.compile(r"--set ([a-z_]+\.[a-z_]+)")
EXTRA = re.compile(r"fasr-video\[([a-z0-9,-]+)\]")


def strings() -> Iterator[tuple[Path, str]]:
    """Yield the strings of the package, with their modules."""
    for module in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield module, node.value


def named(pattern: re.Pattern[str], leave_out: Path | None = None) -> set[str]:
    """Return what the strings of the package name after a pattern."""
    found: set[str] = set()
    for module, text in strings():
        if module != leave_out:
            found.update(pattern.findall(text))
    return found


def commands(group: click.Command, path: tuple[str, ...] = ()) -> dict[str, click.Command]:
    """Return all commands, by the words that call them."""
    found = {" ".join(path): group}
    if isinstance(group, click.Group):
        context = click.Context(group)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            found |= commands(command, (*path, name))
    return found


def test_options_that_messages_name_exist() -> None:
    options = {"--help"}
    for command in commands(cli).values():
        for parameter in command.params:
            options.update(parameter.opts)
    names = named(OPTION, leave_out=OWN_OPTIONS)
    assert len(names) > 50
    assert names - options - OTHERS == set()


def test_commands_that_messages_name_exist() -> None:
    names = named(COMMAND)
    assert names
    known = commands(cli)
    unknown = {name for name in names if name not in known and name.split()[0] not in known}
    assert unknown == set()


def test_settings_that_messages_name_exist() -> None:
    settings = load("cpu").model_dump()
    names = named(SETTING)
    assert names
    unknown = set()
    for name in names:
        section, key = name.split(".")
        if key not in settings.get(section, {}):
            unknown.add(name)
    assert unknown == set()


def test_extras_that_messages_and_pages_name_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = named(EXTRA)
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        names.update(EXTRA.findall(page.read_text(encoding="utf-8")))
    assert len(names) > 5
    extras = {extra for name in names for extra in name.split(",")}
    assert extras - project["optional-dependencies"].keys() == set()
