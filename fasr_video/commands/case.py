"""`fasr-video show`, `export`, `report` and `verify`: print, export and check a case."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from fasr_video.case.case import Case
from fasr_video.case.document import as_csv, as_document
from fasr_video.case.document import as_json as json_of
from fasr_video.case.verify import verify
from fasr_video.commands import screen
from fasr_video.commands.options import CASE, FOLDER, KEY_FILE
from fasr_video.console import print_lines, readable_json
from fasr_video.custody.rerun import rerun
from fasr_video.errors import ExitCode
from fasr_video.report.write import DEFAULT_FORMATS, write_report
from fasr_video.sqlite import explain_errors


@click.command("show")
@click.argument("case", type=CASE)
@click.option("--json", "as_json", is_flag=True, help="Print the whole case as JSON.")
def show_command(case: Path, as_json: bool) -> None:
    """Show the contents of CASE: sources, losses, tracks, proposed links, gallery."""
    with Case.open(case, read_only=True) as opened:
        document = as_document(opened)
        if as_json:
            click.echo(readable_json(asdict(document)))
        else:
            screen.show(document)


@click.command("export")
@click.argument("case", type=CASE)
@click.option(
    "--format",
    "kind",
    type=click.Choice(["csv", "json"]),
    required=True,
    help="Format of the output.",
)
@click.option(
    "--rows",
    type=click.Choice(["tracks", "faces"]),
    default="tracks",
    show_default=True,
    help="CSV: a line for each track or each face.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write. [default: standard output]",
)
def export_command(case: Path, kind: str, rows: str, out: Path | None) -> None:
    """Export CASE as CSV or JSON. A CSV has a line per track, or per detected face."""
    with Case.open(case, read_only=True) as opened:
        text = json_of(opened) if kind == "json" else as_csv(opened, rows)
    if out is None:
        click.echo(text, nl=False)
    else:
        with explain_errors(out):
            out.write_text(text, encoding="utf-8")


@click.command("report")
@click.argument("case", type=CASE)
@click.option("--out", type=FOLDER, help="Folder to write. [default: report in the case]")
@click.option(
    "--format",
    "formats",
    multiple=True,
    type=click.Choice(["html", "json", "csv", "pdf", "folder"]),
    help="What to write. Repeatable. [default: html, json, csv]",
)
@click.option("--no-photos", is_flag=True, help="Leave out the photographs of candidates.")
@click.option(
    "--redact",
    is_flag=True,
    help="Pixelate bystanders and the photographs of candidates; needs --out.",
)
@KEY_FILE
def report_command(
    case: Path, out: Path | None, formats: tuple[str, ...], no_photos: bool, *, redact: bool
) -> None:
    """Write the report of CASE: pages, JSON, tables, PDF, or a folder of pictures to import
    elsewhere."""
    folder = write_report(case, out, formats or DEFAULT_FORMATS, not no_photos, redact=redact)
    print_lines(f"{folder}: report written")


@click.command("verify")
@click.argument("case", type=CASE)
@click.option(
    "--rerun",
    "count",
    type=click.IntRange(min=1),
    help="Process this many tracks again, always the same ones, and compare.",
)
@click.option(
    "--head",
    metavar="HASH",
    help="Hash of an earlier head of the log, noted elsewhere; the log has to contain it.",
)
@KEY_FILE
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON.")
def verify_command(case: Path, count: int | None, head: str | None, as_json: bool) -> int:
    """Check CASE against its hashes: footage, pictures, results and log."""
    with Case.open(case, read_only=True) as opened:
        checks = verify(opened, head)
        if count is not None:
            checks.append(rerun(opened, count))
    is_damaged = any(c.problems for c in checks)
    if as_json:
        rows = [
            {"check": c.what, **{k: v for k, v in asdict(c).items() if k != "what"}} for c in checks
        ]
        click.echo(json.dumps({"intact": not is_damaged, "checks": rows}, indent=2))
    else:
        for c in checks:
            print_lines(f"{'FAILED' if c.problems else 'intact'}  {c.what} ({c.checked} checked)")
            for line in c.problems:
                print_lines(f"        {line}")
            for line in c.unchecked:
                print_lines(f"        not checked: {line}")
            for line in c.notes:
                print_lines(f"        {line}")
    return ExitCode.INTEGRITY if is_damaged else ExitCode.DONE
