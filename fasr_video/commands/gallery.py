"""`fasr-video gallery …`: enrol, list, check, migrate and remove photographs of known people."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from fasr_video.actors import name_with_role
from fasr_video.actors import role as as_role
from fasr_video.commands.embedder import EmbedderChoice, embedder_options
from fasr_video.commands.options import DEVICE, FACE, ROLE
from fasr_video.commands.screen import copies_left
from fasr_video.console import count, megabytes, print_lines, readable_json, table_cell
from fasr_video.custody.copies import CopiesElsewhere, find_copies, identifying_bytes
from fasr_video.detection import open_for_photographs
from fasr_video.detection.photograph import Choice, Which
from fasr_video.errors import ExitCode, UsageError
from fasr_video.gallery.enrol import EnrolDefaults, Listener, SyncReport, enrol, migrate, sync
from fasr_video.gallery.gallery import Gallery
from fasr_video.gallery.inspect import Statistics, check, statistics
from fasr_video.gallery.photos import is_picture
from fasr_video.gallery.records import GalleryImage, Problem, Removal

GALLERY = click.argument("gallery", type=click.Path(path_type=Path, file_okay=False))
JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
DRY_RUN = click.option(
    "--dry-run", is_flag=True, help="Show what would be done, and change nothing."
)


@click.group("gallery")
def gallery_group() -> None:
    """Manage galleries: photographs of people to search for, and their removal."""


@gallery_group.command("create")
@GALLERY
@embedder_options
def create_command(gallery: Path, embedder: EmbedderChoice) -> None:
    """Create an empty GALLERY, bound to an embedder."""
    model = embedder.open("cpu")
    Gallery.create(gallery, model.name, model.sha256, model.length).close()
    print_lines(f"{gallery}: created for embedder {model.name} (sha256 {model.sha256[:16]}…)")


@gallery_group.command("add")
@GALLERY
@click.argument("photos", type=click.Path(path_type=Path))
@embedder_options
@click.option(
    "--source", default="", help="Where the photographs come from, where the manifest does not say."
)
@click.option(
    "--authority",
    default="",
    help="The consent, order or law that allows enrolling them, where the manifest does not say.",
)
@click.option(
    "--no-pictures", is_flag=True, help="Store vectors only. Such photographs cannot be migrated."
)
@click.option(
    "--sync", "equal", is_flag=True, help="Remove photographs that are no longer among PHOTOS."
)
@FACE
@DEVICE
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def add_command(
    gallery: Path,
    photos: Path,
    embedder: EmbedderChoice,
    source: str,
    *,
    authority: str,
    no_pictures: bool,
    equal: bool,
    face: Which,
    device: str,
    as_json: bool,
) -> int:
    """Enrol PHOTOS: a folder with a file or a subfolder per person, a CSV manifest, or one
    photograph.

    If it is stopped or killed, the same command resumes it. The exit code is 3 when photographs
    could not be enrolled; each is listed with its reason.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if equal and is_picture(photos):
        raise UsageError(
            "--sync", f"{photos} is one photograph, and all others would be removed", "leave it out"
        )
    remedy = (
        "choose one with --face N (for this photograph alone), the largest with --face largest,"
        " or crop it to one face"
    )
    defaults = EnrolDefaults(source, authority, not no_pictures, Choice(face, remedy))
    with Gallery.open(gallery) as opened:
        model = embedder.open(device)
        opened.require_embedder(model)
        with _progress("enrolling", as_json) as listen:
            report = (sync if equal else enrol)(
                opened,
                photos,
                open_for_photographs(device),
                model,
                listen=listen,
                defaults=defaults,
            )
    if as_json:
        click.echo(readable_json(asdict(report)))
    else:
        _show_report(gallery, report)
    if report.removal is not None and report.removal.occurrences:
        return ExitCode.INTEGRITY
    return ExitCode.LOSSES if report.problems else ExitCode.DONE


@gallery_group.command("remove")
@GALLERY
@click.argument("subjects", nargs=-1)
@click.option(
    "--image",
    "images",
    multiple=True,
    metavar="SHA256",
    help="Remove one photograph, named by the first 8 or more characters of its hash. Repeatable.",
)
@click.option("--why", required=True, help="Reason, for the log of removals.")
@click.option(
    "--search",
    "folders",
    multiple=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Also search this folder for copies, and for cases that name them. Repeatable.",
)
@click.option(
    "--by",
    default="",
    help="Name of the person who removes them, for the log. [default: your login name]",
)
@ROLE
@DRY_RUN
@click.option("--json", "as_json", is_flag=True, help="Print the proof as JSON.")
def remove_command(
    gallery: Path,
    subjects: tuple[str, ...],
    images: tuple[str, ...],
    why: str,
    *,
    folders: tuple[Path, ...],
    by: str,
    role: str,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Remove people or photographs from a gallery, and search all its files for their data.

    SUBJECTS without any enrolled photograph can be removed as well. Copies outside GALLERY are
    searched for in the folders of --search, and left alone. The exit code is 4 if anything is found.
    """
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(folder, "no such folder to search", "give an existing folder")
    if not subjects and not images:
        raise UsageError(
            "gallery remove", "nothing to remove was given", "give subjects, or --image SHA256"
        )
    with Gallery.open(gallery, read_only=dry_run) as opened:
        chosen = opened.select_images(subjects, images)
        if dry_run:
            problems = opened.problems_about(subjects, [i.sha256 for i in chosen])
            _show_dry_run(gallery, chosen, problems, as_json)
            return ExitCode.DONE
        pieces = identifying_bytes(opened, chosen) if folders else []
        removal = opened.remove([i.sha256 for i in chosen], why, subjects, by, role=as_role(role))
    elsewhere = find_copies(folders, gallery, pieces, removal.subjects) if folders else None
    if as_json:
        copies = None if elsewhere is None else asdict(elsewhere)
        click.echo(readable_json(asdict(removal) | {"elsewhere": copies}))
    else:
        _show_removal(removal)
        _show_elsewhere(elsewhere)
    remaining = removal.occurrences or (elsewhere is not None and elsewhere.copies)
    return ExitCode.INTEGRITY if remaining else ExitCode.DONE


@gallery_group.command("list")
@GALLERY
@JSON
def list_command(gallery: Path, as_json: bool) -> None:
    """List the subjects of GALLERY, and the photographs that could not be enrolled."""
    with Gallery.open(gallery, read_only=True) as opened:
        subjects, problems = opened.subjects(), opened.problems()
        if as_json:
            document = {
                "subjects": [asdict(s) for s in subjects],
                "problems": [asdict(p) for p in problems],
            }
            click.echo(readable_json(document))
            return
        rows = [(s.id, str(s.images), s.note, s.added_at[:10]) for s in subjects]
        _table(("subject", "photographs", "note", "since"), rows)
        _show_problems(problems)


@gallery_group.command("log")
@GALLERY
@JSON
def log_command(gallery: Path, as_json: bool) -> None:
    """Show the log of GALLERY: what was done, when, by whom and in what role. It names no
    subjects."""
    with Gallery.open(gallery, read_only=True) as opened:
        lines, removals = opened.log_lines(), opened.removals()
        if as_json:
            log = [{"at": line.at, "event": line.event} | line.details for line in lines]
            removed = [asdict(removal) for removal in removals]
            click.echo(readable_json({"log": log, "removals": removed}))
            return
        rows = []
        for line in lines:
            who = name_with_role(str(line.details.get("by", "")), str(line.details.get("role", "")))
            facts = [f"{k} {v}" for k, v in line.details.items() if k not in ("by", "role")]
            rows.append((line.at[:19], line.event, who, ", ".join(facts)))
        _table(("when", "what", "who", "details"), rows)


@gallery_group.command("show")
@GALLERY
@click.argument("subject")
@JSON
def show_command(gallery: Path, subject: str, as_json: bool) -> None:
    """Show the photographs of SUBJECT: hash, size, quality, source, authority."""
    with Gallery.open(gallery, read_only=True) as opened:
        person, images = opened.subject(subject), opened.images(subject)
        if as_json:
            document = asdict(person) | {"images": [asdict(i) for i in images]}
            click.echo(readable_json(document))
            return
        photographs = count(person.images, "photograph")
        print_lines(f"{person.id}: {photographs}{person.note and f', {person.note}'}")
        for i in images:
            print_lines(f"{i.sha256}  {i.path}")
            stored = "picture stored" if i.has_picture else "no picture stored"
            facts = (
                f"{i.eye_px:.0f} px between the eyes",
                f"norm {i.norm:.1f}",
                stored,
                f"added {i.added_at[:10]}",
            )
            print_lines(f"    {', '.join(facts)}")
            for what, text in (("source", i.source), ("authority", i.authority)):
                if text:
                    print_lines(f"    {what}: {text}")


@gallery_group.command("check")
@GALLERY
@click.option("--finish", is_flag=True, help="First finish an interrupted removal.")
@JSON
def check_command(gallery: Path, finish: bool, as_json: bool) -> int:
    """Check GALLERY: database, rows, hashes of vectors and pictures, and the index against the
    database."""
    # Opening for writing finishes a removal.
    with Gallery.open(gallery, read_only=not finish) as opened:
        checks = check(opened)
    is_damaged = any(c.problems for c in checks)
    if as_json:
        click.echo(
            json.dumps({"intact": not is_damaged, "checks": [asdict(c) for c in checks]}, indent=2)
        )
        return ExitCode.INTEGRITY if is_damaged else ExitCode.DONE
    for c in checks:
        print_lines(f"{'FAILED' if c.problems else 'intact'}  {c.what} ({c.checked} checked)")
        for line in (*c.problems, *c.notes):
            print_lines(f"        {line}")
        if c.problems:
            print_lines(f"        what to do: {c.remedy}")
    return ExitCode.INTEGRITY if is_damaged else ExitCode.DONE


@gallery_group.command("migrate")
@GALLERY
@embedder_options
@click.option(
    "--drop-missing", is_flag=True, help="Remove photographs that have no stored picture."
)
@DRY_RUN
@DEVICE
def migrate_command(
    gallery: Path, embedder: EmbedderChoice, drop_missing: bool, dry_run: bool, *, device: str
) -> int:
    """Migrate GALLERY to another embedder: embed every stored picture again, then replace all
    vectors.

    If it is killed, the gallery stays as it was.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    model = embedder.open(device)
    with Gallery.open(gallery, read_only=dry_run) as opened:
        before, images = opened.embedder, opened.images()
        if (before.sha256, opened.length) == (model.sha256, model.length):
            print_lines(
                f"{gallery}: made with embedder {model.name} (sha256 {model.sha256[:16]}…):"
                " nothing to do"
            )
            return ExitCode.DONE
        missing = [i for i in images if not i.has_picture]
        print_lines(
            f"from {before.embedder} (sha256 {before.sha256[:16]}…)"
            f" to {model.name} ({model.sha256[:16]}…)"
        )
        for image in missing:
            print_lines(f"no stored picture: {image.path} ({image.subject})")
        if dry_run:
            print_lines(
                f"{count(len(images) - len(missing), 'photograph')} would be embedded again;"
                " nothing was changed"
            )
            return ExitCode.DONE
        with _progress("embedding", False) as listen:
            embedded, removal = migrate(opened, model, drop_missing, listen)
    print_lines(f"{gallery}: {count(embedded, 'photograph')} embedded again")
    if removal is not None:
        _show_removal(removal)
        return ExitCode.INTEGRITY if removal.occurrences else ExitCode.DONE
    return ExitCode.DONE


@gallery_group.command("stats")
@GALLERY
@JSON
def stats_command(gallery: Path, as_json: bool) -> None:
    """Show counts of GALLERY: photographs per subject, templates, nearest subjects, index, disk
    space."""
    with Gallery.open(gallery, read_only=True) as opened:
        stats, embedder = statistics(opened), opened.embedder
        if as_json:
            click.echo(readable_json(asdict(stats) | {"embedder": asdict(embedder)}))
            return
        rows = [
            ("embedder", f"{embedder.embedder}, sha256 {embedder.sha256[:16]}…"),
            ("subjects", str(stats.subjects)),
            ("photographs", f"{stats.images}, {stats.pictures} of them with a stored picture"),
            ("per subject", _per_subject(stats)),
            ("templates", f"{stats.templates}, {stats.pooled} of them pooled"),
            ("not enrolled", count(stats.problems, "photograph")),
            ("removals", str(stats.removals)),
            ("index", f"{stats.index_kind}, {stats.index_state}"),
            *((m.kind, f"recall {m.recall:.4f}, {m.ms:.2f} ms per query") for m in stats.measured),
            ("disk", megabytes(stats.disk_bytes)),
        ]
        if stats.nearest is not None:
            a, b = stats.nearest.subjects
            sampled = (
                ""
                if stats.nearest.compared == stats.templates
                else f" ({count(stats.nearest.compared, 'template')} sampled)"
            )
            rows.append(
                ("nearest two subjects", f"{a} and {b}, cosine {stats.nearest.cosine:.3f}{sampled}")
            )
        _table(("", ""), rows)


def _per_subject(stats: Statistics) -> str:
    """Return how many photographs each subject has."""
    if stats.fewest_photos == stats.most_photos:
        return count(stats.most_photos, "photograph")
    return f"{stats.fewest_photos} to {stats.most_photos}, {stats.mean_photos:.1f} on average"


@contextmanager
def _progress(what: str, silent: bool) -> Iterator[Listener | None]:
    """Show a progress bar on standard error, and yield the function that updates it."""
    if silent:
        yield None
        return
    bar: Any
    with click.progressbar(length=1, label=what, file=sys.stderr) as bar:

        def listen(done: int, total: int) -> None:
            bar.length = total
            bar.update(done - bar.pos)

        yield listen


def _show_report(gallery: Path, report: SyncReport) -> None:
    for line in report.warnings:
        print_lines(f"warning: {line}", err=True)
    counts = (
        f"{report.added} added, {report.removed} removed,"
        f" {report.renamed} renamed, {report.unchanged} unchanged"
    )
    print_lines(f"{gallery}: {counts}, {len(report.problems)} not enrolled")
    _show_problems(report.problems)
    if report.removal is not None:
        _show_removal(report.removal)


def _show_problems(problems: list[Problem] | tuple[Problem, ...]) -> None:
    if problems:
        _table(("not enrolled", "why"), [(p.path, p.reason) for p in problems])


def _show_removal(removal: Removal) -> None:
    what = f"{count(len(removal.images), 'photograph')}, {count(removal.templates, 'template')}"
    people = ", ".join(removal.subjects)
    print_lines(f"removed: {people} ({what})" if people else f"removed: {what}")
    for sha256 in removal.images:
        print_lines(f"         {sha256}")
    if removal.problems:
        lines = count(removal.problems, "line")
        print_lines(f"         {lines} about photographs that were not enrolled")
    left = "no piece of the removed data is"
    if removal.occurrences:
        left = count(
            removal.occurrences, "piece of the removed data is", "pieces of the removed data are"
        )
    print_lines(f"checked: {left} left in {count(removal.files_scanned, 'file')}")
    if removal.shared:
        shared = count(removal.shared, "piece is", "pieces are")
        print_lines(f"         {shared} also part of photographs that stay enrolled")
    if removal.occurrences:
        print_lines(
            "what to do: run fasr-video gallery check; do not use the gallery until it is clean"
        )


def _show_elsewhere(elsewhere: CopiesElsewhere | None) -> None:
    if elsewhere is None:
        print_lines(
            "copies in cases, reports, other galleries and backups were not searched for:"
            " use --search FOLDER"
        )
        return
    files = count(elsewhere.files, "file")
    print_lines(f"copies:  in {len(elsewhere.copies)} of {files} elsewhere")
    for line in copies_left(elsewhere.copies):
        print_lines(f"         {line}")
    for case, where in elsewhere.named.items():
        print_lines(f"         {case} names them: {', '.join(where)}")
    for file in elsewhere.unread:
        print_lines(f"         could not be searched: {file}")
    if elsewhere.copies or elsewhere.named:
        print_lines(
            "what to do: search those cases again and write their reports again, or purge them;"
            " remove the other files"
        )


def _show_dry_run(
    gallery: Path, chosen: list[GalleryImage], problems: list[Problem], as_json: bool
) -> None:
    if as_json:
        document = {
            "would_remove": [asdict(i) for i in chosen],
            "would_forget": [asdict(p) for p in problems],
        }
        click.echo(readable_json(document))
        return
    for image in chosen:
        print_lines(f"would be removed: {image.sha256} {image.subject} {image.path}")
    for problem in problems:
        print_lines(f"would be forgotten: {problem.path}: {problem.reason}")
    print_lines(
        f"{gallery}: {count(len(chosen), 'photograph')} would be removed; nothing was changed"
    )


def _table(columns: tuple[str, ...], rows: list[Any]) -> None:
    table = Table(box=None, show_header=any(columns))
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(table_cell(text) for text in row))
    Console().print(table, highlight=False)
