"""Write a case's report to a folder, and remove files that an earlier report left there."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from fasr_video.actors import name_with_role
from fasr_video.case.case import Case
from fasr_video.case.document import TRACK_COLUMNS, csv_of, table_row
from fasr_video.case.entries import DecisionEntry, decided_subject
from fasr_video.case.verify import REPORT, SUMS, UNFINISHED
from fasr_video.errors import CaseError, UsageError
from fasr_video.files import (
    atomic_write,
    atomic_write_text,
    inside,
    manifest_beside,
    read_file,
    refuse_links,
    sha256_file,
    sync_folder,
)
from fasr_video.report import pages, pictures
from fasr_video.report.document import Report, as_report
from fasr_video.report.folder import README, picture_files
from fasr_video.report.pdf import find_weasyprint, write_pdf
from fasr_video.report.photographs import Photographs, photographs
from fasr_video.report.pictures import Picture
from fasr_video.sqlite import explain_errors

# The report's folder in the case.
FOLDER = REPORT
DEFAULT_FORMATS = ("html", "json", "csv")
INDEX = "index.html"
DOCUMENT = "report.json"
TABLE = "tracks.csv"
PRINT = "report.pdf"
# Hashes for `sha256sum -c`. It also says which files belong to the report.
MANIFEST = SUMS
# Files that exist only for tracks, by format.
_OF_TRACKS = {
    "html": re.compile(r"(S\d+-)?T\d+\.html"),
    "folder": re.compile(r"pictures/[^/]+\.png"),
}
EXTRA_COLUMNS = ("camera", "wall_start", "wall_end", "wall_uncertainty_seconds", "decisions")


def write_report(
    folder: Path,
    out: Path | None = None,
    formats: Sequence[str] = DEFAULT_FORMATS,
    with_photographs: bool = True,
    *,
    redact: bool = False,
) -> Path:
    """Write the report of the case at `folder` to `out` (None: in the case) and return its folder.

    With `redact`, only the tracks' own faces can be recognised: bystanders and the gallery's
    photographs are pixelated.
    """
    if redact and out is None:
        raise UsageError(
            "--redact", "the report in the case is not redacted", "give --out DIR outside the case"
        )
    if out is not None and manifest_beside(out).exists():
        reason = f"signed ({manifest_beside(out).name} is beside it)"
        raise UsageError(out, reason, "give another --out, or remove both first")
    with Case.open(folder, read_only=True) as case:
        if out is None and case.encryption is not None:
            raise UsageError(
                folder,
                "the case is encrypted, and a report is not",
                "give --out DIR outside the case",
            )
    if out is None:
        refuse_links(folder)
    out = folder / FOLDER if out is None else out
    if "pdf" in formats:
        find_weasyprint()
    with Case.open(folder, read_only=True) as case, explain_errors(out), case.snapshot():
        report = as_report(case, redact)
        with photographs(case, report.searched, with_photographs, redact) as people:
            target = _Target(out)
            for name, data in _files(case, report, people, formats, redact=redact):
                target.put(name, data)
        target.finish(formats)
    return out


def refresh(folder: Path) -> Path | None:
    """Write the report in the case unless it is up to date, and return its first page.

    Return None for an encrypted case: a report shows its pictures to anybody, so `write_report`
    writes it only where the user gives a folder.
    """
    out = folder / FOLDER
    with Case.open(folder, read_only=True) as case:
        if case.encryption is not None:
            return None
        head = case.meta("log_head")
    if not _is_up_to_date(out, head):
        write_report(folder)
    return out / INDEX


def _is_up_to_date(out: Path, head: str) -> bool:
    """Return whether the pages are complete and show the state of the case with this log head."""
    try:
        index, listed = read_file(out / INDEX), read_file(out / MANIFEST).decode()
    except (OSError, UnicodeDecodeError):
        return False
    names = [line.partition("  ")[2] for line in listed.splitlines()]
    complete = all((out / name).is_file() for name in names) and not (out / UNFINISHED).exists()
    return (
        complete
        and head.encode() in index
        and f"{hashlib.sha256(index).hexdigest()}  {INDEX}\n" in listed
    )


# The content of a file, or a function that writes it.
Content = bytes | Callable[[Path], object]


def _files(
    case: Case, report: Report, people: Photographs, formats: Sequence[str], *, redact: bool
) -> Iterator[tuple[str, Content]]:
    """Yield name and content of each file of the report."""
    thumbnails: dict[str, Picture | None] = {}
    for index, track in enumerate(report.tracks):
        if not {"html", "pdf", "folder"} & set(formats):
            break  # the other formats show no pictures
        track_pictures = pictures.of_track(case, track, redact)
        thumbnails[track.name] = pages.thumbnail_of(track, track_pictures)
        if "html" in formats:
            page = pages.track_page(report, index, track_pictures, people)
            yield track.page, page.encode()
        if "folder" in formats:
            yield from picture_files(track, track_pictures)
    if "html" in formats:
        yield INDEX, pages.case_page(report, thumbnails).encode()
    if "pdf" in formats:
        html = pages.print_document(report, case, thumbnails, people, redact=redact)
        yield PRINT, lambda path: write_pdf(html, path)
    if "folder" in formats:
        yield "README.txt", README.encode()
    if {"csv", "folder"} & set(formats):
        yield TABLE, _table(report).encode()
    if {"json", "html", "folder"} & set(formats):
        yield DOCUMENT, json.dumps(asdict(report), indent=2, ensure_ascii=False).encode()


def _table(report: Report) -> str:
    """Return tracks.csv: the table of `export` with camera, time of day and decisions."""
    lines = []
    for track in report.tracks:
        line = {name: value for name, value in table_row(track).items() if name in TRACK_COLUMNS}
        line["camera"] = track.camera
        if track.wall is not None:
            line["wall_start"] = track.wall["start"]
            line["wall_end"] = track.wall["end"]
            line["wall_uncertainty_seconds"] = track.wall["uncertainty_seconds"]
        line["decisions"] = "; ".join(_decision(decision) for decision in track.standing)
        lines.append(line)
    return csv_of((*TRACK_COLUMNS, *EXTRA_COLUMNS), lines)


def _decision(decision: DecisionEntry) -> str:
    by = name_with_role(decision.by, decision.role)
    text = f"{decision.verdict} {decided_subject(decision)} by {by}"
    return text.replace("  ", " ")  # a decision without a subject


class _Target:
    """The folder of a report. Its manifest lists the report's own files; others are refused."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._written: dict[str, str] = {}
        manifest = out / MANIFEST
        if out.is_dir() and any(out.iterdir()) and not manifest.is_file():
            raise CaseError(
                out, "it is not empty and holds no report", "give another --out, or empty it"
            )
        out.mkdir(parents=True, exist_ok=True)
        refuse_links(out)
        manifest.touch()  # the folder now counts as a report, even if this process is killed
        lines = read_file(manifest).decode().splitlines()
        self._before = {
            name: digest for digest, _, name in (line.partition("  ") for line in lines)
        }
        if self._before and not self._before.keys() & {INDEX, DOCUMENT, TABLE, PRINT}:
            raise CaseError(out, "its SHA256SUMS belongs to something else", "give another --out")
        (out / UNFINISHED).touch()
        sync_folder(out)

    def put(self, name: str, data: Content) -> None:
        path = inside(self._out, *name.split("/"))
        path.parent.mkdir(exist_ok=True)
        atomic_write(path, data if callable(data) else lambda partial: partial.write_bytes(data))
        self._written[name] = sha256_file(path)

    def finish(self, formats: Sequence[str]) -> None:
        """Remove pages and pictures of tracks that no longer exist, and write the manifest."""
        patterns = [pattern for kind, pattern in _OF_TRACKS.items() if kind in formats]
        listed = {}
        for name, digest in self._before.items():
            is_of_a_track = any(pattern.fullmatch(name) for pattern in patterns)
            if is_of_a_track and name not in self._written:
                inside(self._out, *name.split("/")).unlink(missing_ok=True)
            else:
                listed[name] = digest
        listed |= self._written
        lines = [f"{digest}  {name}\n" for name, digest in sorted(listed.items())]
        atomic_write_text(self._out / MANIFEST, "".join(lines))
        (self._out / UNFINISHED).unlink()
