"""`fasr-video gallery …`: each command reads its arguments, calls one function, and shows what came back."""

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

from fasr_video import detection
from fasr_video.actors import name_with_role
from fasr_video.actors import role as as_role
from fasr_video.commands.embedder import EmbedderChoice, embedder_options
from fasr_video.commands.options import DEVICE, FACE, ROLE
from fasr_video.console import cell, readable_json, say
from fasr_video.custody.copies import CopiesElsewhere, find_copies, identifying_bytes
from fasr_video.detection import Detector
from fasr_video.detection.photograph import MIN_SCORE, Choice, Which
from fasr_video.errors import ExitCode, UsageError
from fasr_video.gallery.enrol import Listener, SyncReport, Told, enrol, migrate, sync
from fasr_video.gallery.gallery import Gallery
from fasr_video.gallery.inspect import check, statistics
from fasr_video.gallery.photos import is_picture
from fasr_video.gallery.records import GalleryImage, Problem, Removal

GALLERY = click.argument("gallery", type=click.Path(path_type=Path, file_okay=False))
JSON = click.option("--json", "as_json", is_flag=True, help="As JSON.")
DRY_RUN = click.option(
    "--dry-run", is_flag=True, help="Show what would be done, and change nothing."
)


@click.group("gallery")
def gallery_group() -> None:
    """The people one looks for: photographs, templates, and the proof of what was removed."""


@gallery_group.command("create")
@GALLERY
@embedder_options
def create_command(gallery: Path, embedder: EmbedderChoice) -> None:
    """Make an empty GALLERY, bound to an embedder."""
    model = embedder.open("cpu")
    Gallery.create(gallery, model.name, model.sha256, model.length).close()
    say(f"{gallery}: created for embedder {model.name} (sha256 {model.sha256[:16]}…)")


@gallery_group.command("add")
@GALLERY
@click.argument("photos", type=click.Path(path_type=Path))
@embedder_options
@click.option(
    "--source", default="", help="Where the photographs come from, unless the manifest says so."
)
@click.option(
    "--authority", default="", help="By what consent, order or law they are here, likewise."
)
@click.option(
    "--no-pictures", is_flag=True, help="Keep vectors only. Such photographs cannot be migrated."
)
@click.option(
    "--sync", "equal", is_flag=True, help="Remove photographs that are not among PHOTOS any more."
)
@FACE
@DEVICE
@click.option("--json", "as_json", is_flag=True, help="The result as JSON.")
def add_command(
    gallery: Path,
    photos: Path,
    embedder: EmbedderChoice,
    source: str,
    authority: str,
    no_pictures: bool,
    equal: bool,
    face: Which,
    device: str,
    as_json: bool,
) -> int:
    """Enrol PHOTOS: a folder with a file, or a folder, a person; a CSV manifest; or one photograph.

    Stopped or killed, the same command goes on. Ends with 3 when photographs could not be enrolled; each is listed
    with its reason.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if equal and is_picture(photos):
        raise UsageError(
            "--sync", f"{photos} is one photograph, and all others would go", "leave it out"
        )
    remedy = "take one with --face N (and this photograph alone), the largest with --face largest, or cut it to one"
    told = Told(source, authority, not no_pictures, Choice(face, remedy))
    with Gallery.open(gallery) as opened:
        model = embedder.open(device)
        opened.require(model)
        with _progress("enrolling", as_json) as listen:
            report = (sync if equal else enrol)(
                opened, photos, open_detector(device), model, listen, told
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
    help="One photograph, by its hash. Repeatable.",
)
@click.option("--why", required=True, help="The reason, for the log of removals.")
@click.option(
    "--search",
    "places",
    multiple=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Look there for copies too, and for cases that name them.",
)
@click.option("--by", default="", help="Who removes them, for the log. [default: your login name]")
@ROLE
@DRY_RUN
@click.option("--json", "as_json", is_flag=True, help="The proof as JSON.")
def remove_command(
    gallery: Path,
    subjects: tuple[str, ...],
    images: tuple[str, ...],
    why: str,
    places: tuple[Path, ...],
    by: str,
    role: str,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Remove SUBJECTS, or single photographs, from rows, pictures and index, and search all files for their bytes.

    So are subjects of which no photograph could be enrolled. The search is for pieces of 32 bytes out of every 512.
    Copies outside GALLERY are looked for where --search says, and not touched. Ends with 4 if anything is found.
    """
    for place in places:
        if not place.is_dir():
            raise UsageError(place, "no such folder to search", "give a folder that is there")
    if not subjects and not images:
        raise UsageError(
            "gallery remove", "nothing to remove was named", "give subjects, or --image SHA256"
        )
    with Gallery.open(gallery, read_only=dry_run) as opened:
        chosen = opened.chosen(subjects, images)
        if dry_run:
            _show_dry_run(
                gallery,
                chosen,
                opened.problems_about(subjects, [i.sha256 for i in chosen]),
                as_json,
            )
            return ExitCode.DONE
        pieces = identifying_bytes(opened, chosen) if places else []
        removal = opened.remove([i.sha256 for i in chosen], why, subjects, by, as_role(role))
    elsewhere = find_copies(places, gallery, pieces, removal.subjects) if places else None
    if as_json:
        found = None if elsewhere is None else asdict(elsewhere)
        click.echo(readable_json(asdict(removal) | {"elsewhere": found}))
    else:
        _show_removal(removal)
        _show_elsewhere(elsewhere)
    left = removal.occurrences or (elsewhere is not None and elsewhere.copies)
    return ExitCode.INTEGRITY if left else ExitCode.DONE


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
    """Show what was done to GALLERY: when, by whom and as what. Subjects are not named in it."""
    with Gallery.open(gallery, read_only=True) as opened:
        lines, removals = opened.log_lines(), opened.removals()
        if as_json:
            log = [{"at": at, "event": event} | details for at, event, details in lines]
            click.echo(readable_json({"log": log, "removals": removals}))
            return
        rows = []
        for at, event, details in lines:
            who = name_with_role(str(details.pop("by", "")), str(details.pop("role", "")))
            rows.append((at[:19], event, who, ", ".join(f"{k} {v}" for k, v in details.items())))
        _table(("when", "what", "who", "details"), rows)


@gallery_group.command("show")
@GALLERY
@click.argument("subject")
@JSON
def show_command(gallery: Path, subject: str, as_json: bool) -> None:
    """Show the photographs of SUBJECT: hash, size, quality, source, authority."""
    with Gallery.open(gallery, read_only=True) as opened:
        known, images = opened.subject(subject), opened.images(subject)
        if as_json:
            document = asdict(known) | {"images": [asdict(i) for i in images]}
            click.echo(readable_json(document))
            return
        say(f"{known.id}: {known.images} photographs{known.note and f', {known.note}'}")
        for i in images:
            say(f"{i.sha256}  {i.path}")
            kept = "picture kept" if i.has_picture else "no picture kept"
            facts = (
                f"{i.eye_px:.0f} px between the eyes",
                f"norm {i.norm:.1f}",
                kept,
                f"added {i.added_at[:10]}",
            )
            say(f"    {', '.join(facts)}")
            for what, text in (("source", i.source), ("authority", i.authority)):
                if text:
                    say(f"    {what}: {text}")


@gallery_group.command("check")
@GALLERY
@click.option("--finish", is_flag=True, help="First finish a removal that was cut short.")
@JSON
def check_command(gallery: Path, finish: bool, as_json: bool) -> int:
    """Check that GALLERY is what was written: database, rows, hashes of vectors and pictures, index against store."""
    with Gallery.open(
        gallery, read_only=not finish
    ) as opened:  # one that may be written to is finished first
        checks = check(opened)
    bad = any(c.problems for c in checks)
    if as_json:
        click.echo(json.dumps({"intact": not bad, "checks": [asdict(c) for c in checks]}, indent=2))
        return ExitCode.INTEGRITY if bad else ExitCode.DONE
    for c in checks:
        say(f"{'FAILED' if c.problems else 'intact'}  {c.what} ({c.checked} checked)")
        for line in (*c.problems, *c.notes):
            say(f"        {line}")
        if c.problems:
            say(f"        what to do: {c.remedy}")
    return ExitCode.INTEGRITY if bad else ExitCode.DONE


@gallery_group.command("migrate")
@GALLERY
@embedder_options
@click.option(
    "--drop-missing", is_flag=True, help="Remove photographs that have no stored picture."
)
@DRY_RUN
@DEVICE
def migrate_command(
    gallery: Path, embedder: EmbedderChoice, drop_missing: bool, dry_run: bool, device: str
) -> int:
    """Bring GALLERY over to another embedder: every stored picture is embedded again, then all vectors are swapped.

    Killed in the middle, the gallery is what it was.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    model = embedder.open(device)
    with Gallery.open(gallery, read_only=dry_run) as opened:
        before, images = opened.embedder, opened.images()
        if (before.sha256, opened.length) == (model.sha256, model.length):
            say(
                f"{gallery}: made with embedder {model.name} (sha256 {model.sha256[:16]}…): nothing to do"
            )
            return ExitCode.DONE
        missing = [i for i in images if not i.has_picture]
        say(
            f"from {before.embedder} (sha256 {before.sha256[:16]}…) to {model.name} ({model.sha256[:16]}…)"
        )
        for image in missing:
            say(f"no stored picture: {image.path} ({image.subject})")
        if dry_run:
            say(
                f"{len(images) - len(missing)} photographs would be embedded again; nothing was changed"
            )
            return ExitCode.DONE
        with _progress("embedding", False) as listen:
            count, removal = migrate(opened, model, drop_missing, listen)
    say(f"{gallery}: {count} photographs embedded again")
    if removal is not None:
        _show_removal(removal)
        return ExitCode.INTEGRITY if removal.occurrences else ExitCode.DONE
    return ExitCode.DONE


@gallery_group.command("stats")
@GALLERY
@JSON
def stats_command(gallery: Path, as_json: bool) -> None:
    """Count what is in GALLERY: photographs a subject, templates, the nearest two subjects, the index, disk space."""
    with Gallery.open(gallery, read_only=True) as opened:
        found, embedder = statistics(opened), opened.embedder
        if as_json:
            click.echo(readable_json(asdict(found) | {"embedder": asdict(embedder)}))
            return
        rows = [
            ("embedder", f"{embedder.embedder}, sha256 {embedder.sha256[:16]}…"),
            ("subjects", str(found.subjects)),
            ("photographs", f"{found.images}, {found.pictures} with stored picture"),
            (
                "a subject",
                f"{found.fewest_photos} to {found.most_photos}, {found.mean_photos:.1f} in the mean",
            ),
            ("templates", f"{found.templates}, {found.pooled} of them pooled"),
            ("not enrolled", f"{found.problems} photographs"),
            ("removals", str(found.removals)),
            ("index", f"{found.index_kind}, {found.index_state}"),
            *((m.kind, f"recall {m.recall:.4f}, {m.ms:.2f} ms a query") for m in found.measured),
            ("disk", f"{found.disk_bytes / 2**20:.1f} MiB"),
        ]
        if found.nearest is not None:
            a, b = found.nearest.subjects
            sampled = (
                ""
                if found.nearest.compared == found.templates
                else f" ({found.nearest.compared} templates sampled)"
            )
            rows.append(
                ("nearest two subjects", f"{a} and {b}, cosine {found.nearest.cosine:.3f}{sampled}")
            )
        _table(("", ""), rows)


def open_detector(device: str) -> Detector:
    return detection.open_detector("builtin", weights=None, device=device, min_score=MIN_SCORE)


@contextmanager
def _progress(what: str, silent: bool) -> Iterator[Listener | None]:
    """A bar on standard error."""
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
        say(f"warning: {line}", err=True)
    counts = f"{report.added} added, {report.removed} removed, {report.renamed} renamed, {report.unchanged} unchanged"
    say(f"{gallery}: {counts}, {len(report.problems)} not enrolled")
    _show_problems(report.problems)
    if report.removal is not None:
        _show_removal(report.removal)


def _show_problems(problems: list[Problem] | tuple[Problem, ...]) -> None:
    if problems:
        _table(("not enrolled", "why"), [(p.path, p.reason) for p in problems])


def _show_removal(removal: Removal) -> None:
    gone = f", subjects {', '.join(removal.subjects)} with them" if removal.subjects else ""
    say(f"removed: {len(removal.images)} photographs, {removal.templates} templates{gone}")
    for sha256 in removal.images:
        say(f"         {sha256}")
    if removal.problems:
        say(f"         {removal.problems} lines about photographs that were not enrolled")
    size = f"{removal.files_scanned} files, {removal.bytes_scanned / 2**20:.1f} MiB"
    found = f"{removal.occurrences} occurrences"
    say(f"proof:   pieces of their vectors and pictures were searched for in {size}: {found}")
    if removal.shared:
        say(f"         {removal.shared} pieces are also part of photographs that stay enrolled")
    if removal.occurrences:
        say(
            "what to do: run fasr-video gallery check; keep the gallery's folder from use until it is clean"
        )


def _show_elsewhere(found: CopiesElsewhere | None) -> None:
    if found is None:
        say(
            "copies in cases, reports, other galleries and backups were not looked for: --search FOLDER does"
        )
        return
    say(f"copies:  {len(found.copies)} of {found.files} files elsewhere hold pieces of them")
    for file in found.copies:
        say(f"         copies are left in {file}")
    for case, where in found.named.items():
        say(f"         {case} names them: {', '.join(where)}")
    for file in found.unread:
        say(f"         could not be searched: {file}")
    if found.copies or found.named:
        say(
            "what to do: search those cases and make their reports anew, or purge them; remove the other files"
        )


def _show_dry_run(
    gallery: Path, chosen: list[GalleryImage], problems: list[Problem], as_json: bool
) -> None:
    if as_json:
        found = {
            "would_remove": [asdict(i) for i in chosen],
            "would_forget": [asdict(p) for p in problems],
        }
        click.echo(readable_json(found))
        return
    for image in chosen:
        say(f"would be removed: {image.sha256} {image.subject} {image.path}")
    for problem in problems:
        say(f"would be forgotten: {problem.path}: {problem.reason}")
    say(f"{gallery}: {len(chosen)} photographs would be removed; nothing was changed")


def _table(columns: tuple[str, ...], rows: list[Any]) -> None:
    table = Table(box=None, show_header=any(columns))
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(cell(text) for text in row))
    Console().print(table, highlight=False)
