"""A case's report on the disk: which files, and what becomes of those that an earlier report left."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fasr_video.actors import shown
from fasr_video.case.case import Case
from fasr_video.case.document import TRACK_COLUMNS, csv_of, decided_subject, table_row
from fasr_video.case.verify import REPORT, SUMS, UNFINISHED
from fasr_video.errors import CaseError, UsageError
from fasr_video.files import (
    atomic_write,
    atomic_write_text,
    inside,
    read_file,
    refuse_links,
    sha256_file,
    sync_folder,
)
from fasr_video.report import pages, pictures
from fasr_video.report.document import as_report, standing
from fasr_video.report.folder import README, files_of
from fasr_video.report.pdf import find_weasyprint, write_pdf
from fasr_video.report.photographs import Photographs, photographs
from fasr_video.report.pictures import Picture
from fasr_video.sqlite import explain_errors

# In the case, unless told otherwise.
FOLDER = REPORT
USUAL = ("html", "json", "csv")
# All that `sha256sum -c` needs stands in the last one; it also tells which files are a report's
# own.
INDEX, DOCUMENT, TABLE, PRINT, MANIFEST = (
    "index.html",
    "report.json",
    "tracks.csv",
    "report.pdf",
    SUMS,
)
# Files that come and go with tracks, by format.
_OF_TRACKS = {
    "html": re.compile(r"(S\d+-)?T\d+\.html"),
    "folder": re.compile(r"pictures/[^/]+\.png"),
}
EXTRA_COLUMNS = ("camera", "wall_start", "wall_end", "wall_uncertainty_seconds", "decisions")


def write_report(
    folder: Path,
    out: Path | None = None,
    formats: Sequence[str] = USUAL,
    with_photographs: bool = True,
    redact: bool = False,
) -> Path:
    """Write the report of the case at `folder` to `out` (in the case, if None), and return where it is.

    Redacted, no face but the tracks' own can be made out: neither bystanders' nor those of the gallery.
    """
    if redact and out is None:
        raise UsageError(
            "--redact", "the report in the case shows all", "give --out DIR, outside of the case"
        )
    with Case.open(folder, read_only=True) as case:
        if out is None and case.encryption is not None:
            raise UsageError(
                folder,
                "it is encrypted, and a report is not",
                "give --out DIR, outside of the case",
            )
    if out is None:
        refuse_links(folder)
    out = folder / FOLDER if out is None else out
    if "pdf" in formats:
        find_weasyprint()
    with Case.open(folder, read_only=True) as case, explain_errors(out), case.snapshot():
        report = as_report(case) | {"redacted": redact}
        with photographs(case, report["searched"], with_photographs, redact) as people:
            target = _Target(out)
            for name, data in _files(case, report, people, formats, redact):
                target.put(name, data)
        target.finish(formats)
    return out


def refresh(folder: Path) -> Path | None:
    """Write the report in the case unless the one there is of this very state; returns its first page.

    None for an encrypted case: a report shows its pictures to anybody, so it is written only where somebody says so.
    """
    out = folder / FOLDER
    with Case.open(folder, read_only=True) as case:
        if case.encryption is not None:
            return None
        head = case.meta("log_head")
    if not _is_of(out, head):
        write_report(folder)
    return out / INDEX


def _is_of(out: Path, head: str) -> bool:
    """Whether the pages there are whole, and of the state of the case whose log ends so."""
    try:
        index, listed = read_file(out / INDEX), read_file(out / MANIFEST).decode()
    except (OSError, UnicodeDecodeError):
        return False
    names = [line.partition("  ")[2] for line in listed.splitlines()]
    whole = all((out / name).is_file() for name in names) and not (out / UNFINISHED).exists()
    return (
        whole
        and head.encode() in index
        and f"{hashlib.sha256(index).hexdigest()}  {INDEX}\n" in listed
    )


# What a file holds, or a function that fills it.
Data = bytes | Callable[[Path], object]


def _files(
    case: Case, report: dict[str, Any], people: Photographs, formats: Sequence[str], redact: bool
) -> Iterator[tuple[str, Data]]:
    """Each file of the report in turn."""
    thumbnails: dict[str, Picture | None] = {}
    for number, track in enumerate(report["tracks"]):
        if not {"html", "pdf", "folder"} & set(formats):
            break  # no other format shows pictures
        shown = pictures.of_track(case, track, redact)
        thumbnails[track["name"]] = pages.thumbnail_of(track, shown)
        if "html" in formats:
            yield track["page"], pages.track_page(report, number, shown, people).encode()
        if "folder" in formats:
            yield from files_of(track, shown)
    if "html" in formats:
        yield INDEX, pages.case_page(report, thumbnails).encode()
    if "pdf" in formats:
        html = pages.whole(report, case, thumbnails, people, redact)
        yield PRINT, lambda path: write_pdf(html, path)
    if "folder" in formats:
        yield "README.txt", README.encode()
    if {"csv", "folder"} & set(formats):
        yield TABLE, _table(report).encode()
    if {"json", "html", "folder"} & set(formats):
        yield DOCUMENT, json.dumps(report, indent=2, ensure_ascii=False).encode()


def _table(report: dict[str, Any]) -> str:
    """One line a track: `fasr-video export` with camera, time of day and what reviewers decided."""
    lines = []
    for track in report["tracks"]:
        wall = track["wall"] or {}
        people = ((d, shown(d["by"], d["role"])) for d in standing(track))
        decided = (
            f"{d['verdict']} {decided_subject(d)} by {by}".replace("  ", " ") for d, by in people
        )
        line = {
            "camera": track["camera"],
            "wall_start": wall.get("start"),
            "wall_end": wall.get("end"),
        }
        line |= {
            "wall_uncertainty_seconds": wall.get("uncertainty_seconds"),
            "decisions": "; ".join(decided),
        }
        known = {k: v for k, v in table_row(track).items() if k in TRACK_COLUMNS}
        lines.append(known | line)
    return csv_of((*TRACK_COLUMNS, *EXTRA_COLUMNS), lines)


class _Target:
    """The folder of a report. What it holds of its own stands in its manifest; other folders are left alone."""

    def __init__(self, out: Path) -> None:
        self._out, self._written = out, dict[str, str]()
        manifest = out / MANIFEST
        if out.is_dir() and any(out.iterdir()) and not manifest.is_file():
            raise CaseError(out, "not empty and no report", "give another --out or empty it")
        out.mkdir(parents=True, exist_ok=True)
        refuse_links(out)
        manifest.touch()  # a report that is killed from here on is known as one
        lines = read_file(manifest).decode().splitlines()
        self._before = {
            name: digest for digest, _, name in (line.partition("  ") for line in lines)
        }
        if self._before and not self._before.keys() & {INDEX, DOCUMENT, TABLE, PRINT}:
            raise CaseError(out, "its SHA256SUMS is of something else", "give another --out")
        (out / UNFINISHED).touch()
        sync_folder(out)

    def put(self, name: str, data: Data) -> None:
        path = inside(self._out, *name.split("/"))
        path.parent.mkdir(exist_ok=True)
        atomic_write(path, data if callable(data) else lambda partial: partial.write_bytes(data))
        self._written[name] = sha256_file(path)

    def finish(self, formats: Sequence[str]) -> None:
        """Take away pages and pictures of tracks that are gone, and write the manifest."""
        kept = {}
        for name, digest in self._before.items():
            ours = any(
                pattern.fullmatch(name) for kind, pattern in _OF_TRACKS.items() if kind in formats
            )
            if ours and name not in self._written:
                inside(self._out, *name.split("/")).unlink(missing_ok=True)
            else:
                kept[name] = digest
        lines = [f"{digest}  {name}\n" for name, digest in sorted((kept | self._written).items())]
        atomic_write_text(self._out / MANIFEST, "".join(lines))
        (self._out / UNFINISHED).unlink()
