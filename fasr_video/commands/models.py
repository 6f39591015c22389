"""`fasr-video models` and `licences`: the bundled models, and all licences."""

from __future__ import annotations

import json
from dataclasses import asdict, astuple

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fasr_video.console import print_lines, readable_json, table_cell
from fasr_video.custody.licences import packages, weights
from fasr_video.errors import ExitCode
from fasr_video.weights import manifest


@click.command("models")
@click.option(
    "--json", "as_json", is_flag=True, help="Print the manifest's entries and their states as JSON."
)
def models_command(as_json: bool) -> int:
    """Show the bundled models: contract, training data, licence, hash, and whether each file is
    intact.

    Exit code 4: a file is missing or altered.
    """
    states = {entry: entry.state for entry in manifest.read_manifest().values()}
    if as_json:
        click.echo(
            json.dumps([{**asdict(e), "state": state} for e, state in states.items()], indent=2)
        )
    else:
        Console().print(_models_table(states), highlight=False)
    if all(state is manifest.State.OK for state in states.values()):
        return ExitCode.DONE
    print_lines(f"fasr-video: bundled files are missing or altered; {manifest.REMEDY}", err=True)
    return ExitCode.INTEGRITY


def _models_table(states: dict[manifest.Entry, manifest.State]) -> Table:
    table = Table(box=None, padding=(0, 2, 1, 0))
    for name in ("model", "contract"):
        table.add_column(name)
    for name in ("MB", "sha256", "state"):
        table.add_column(name, no_wrap=True)
    for e, state in states.items():
        size = f"{e.path.stat().st_size / 1e6:.1f}" if e.path.is_file() else "–"
        colour = "green" if state is manifest.State.OK else "red"
        details = escape(f"{e.contract}\ndata: {e.data}\nlicence: {e.licence}")
        table.add_row(
            escape(f"{e.file}\n{e.what}"), details, size, e.sha256[:12], f"[{colour}]{state}[/]"
        )
    return table


@click.command("licences")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def licences_command(as_json: bool) -> None:
    """Show the licences of fasr-video, of the packages that it needs, as installed here, and of its
    weights.
    """
    code = packages()
    models = weights()
    if as_json:
        rows = {
            "packages": [asdict(row) for row in code],
            "weights": [asdict(row) for row in models],
        }
        click.echo(readable_json(rows))
        return
    for title, rows_of in (("package", code), ("weights", models)):
        table = Table(
            title,
            "version" if rows_of is code else "sha256",
            "licence",
            "for",
            box=None,
            padding=(0, 2, 0, 0),
        )
        for row in rows_of:
            table.add_row(*(table_cell(value) for value in astuple(row)))
        Console().print(table, highlight=False)
