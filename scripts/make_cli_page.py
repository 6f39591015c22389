"""Write the option tables of docs/cli.md from the commands themselves.

    python scripts/make_cli_page.py

Each section `## fasr-video NAME` keeps its prose. Its table is replaced.
"""

from __future__ import annotations

import re
from pathlib import Path

import click

from fasr_video.cli import cli

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"
HEADING = "## fasr-video "
DEFAULT = re.compile(r"\s*\[default: (.*)\]\s*$", re.DOTALL)
TITLES = ("| option | default | what it does |", "| --- | --- | --- |")


def find_command(name: str) -> click.Command:
    """Return the command that `fasr-video NAME` runs."""
    command: click.Command = cli
    context = click.Context(cli, info_name="fasr-video")
    for word in name.split():
        assert isinstance(command, click.Group)
        found = command.get_command(context, word)
        if found is None:
            raise SystemExit(f"docs/cli.md: there is no command {name!r}; correct the heading")
        command = found
        context = click.Context(command, info_name=word, parent=context)
    return command


def option_row(option: click.Option) -> str:
    """Return the table row of an option."""
    text = option.help or ""
    found = DEFAULT.search(text)
    default = found.group(1) if found else ""
    if option.show_default and option.default is not None and not option.is_flag:
        default = str(option.default)
    text = " ".join(DEFAULT.sub("", text).split())
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    if isinstance(option.type, click.Choice):
        text += f" One of {', '.join(f'`{choice}`' for choice in option.type.choices)}."
    cells = (names, f"`{default}`" if default else "", text)
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def option_table(command: click.Command) -> list[str]:
    """Return the lines of a command's table; none for a command without options."""
    options = [p for p in command.params if isinstance(p, click.Option) and not p.hidden]
    if not options:
        return []
    return [*TITLES, *(option_row(option) for option in options)]


def with_tables(page: str) -> str:
    """Return the page with the table of each command as the command has it."""
    lines: list[str] = []
    for section in re.split(f"(?m)^(?={HEADING})", page):
        if section.startswith(HEADING):
            name = section.partition("\n")[0].removeprefix(HEADING)
            section = _with_table(section, option_table(find_command(name)))
        lines.append(section)
    return "".join(lines)


def _with_table(section: str, table: list[str]) -> str:
    """Return the section with its first table of options replaced, or with one at its end."""
    lines = section.rstrip("\n").split("\n")
    first = next((i for i, line in enumerate(lines) if line.startswith("| option |")), None)
    if first is None:
        return "\n".join([*lines, "", *table]).rstrip("\n") + "\n\n"
    last = first
    while last < len(lines) and lines[last].startswith("|"):
        last += 1
    return "\n".join([*lines[:first], *table, *lines[last:]]).rstrip("\n") + "\n\n"


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(with_tables(page).rstrip("\n") + "\n", encoding="utf-8")
    print(f"written: {PAGE}")


if __name__ == "__main__":
    main()
