"""What `run` and `show` print about a case."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from fasr_video.actors import name_with_role
from fasr_video.case.case import Case
from fasr_video.case.document import as_document
from fasr_video.case.entries import (
    AnswerEntry,
    CandidateEntry,
    ClusterEntry,
    Document,
    LinkEntry,
    PhotographEntry,
    RestorationEntry,
    RunEntry,
    SourceEntry,
    TrackEntry,
    decided_subject,
    track_state,
)
from fasr_video.case.last_search import LastSearch
from fasr_video.console import clock, count, plain_document, print_lines
from fasr_video.errors import ExitCode
from fasr_video.report.words import TIMES
from fasr_video.types import faces_of_reason

CANDIDATES_LEGEND = (
    "The score ranks; the ratio (log10 LR) is the score, cut off at what the data support. best, "
    "pooled and sr are raw cosines. A threshold is extrapolated where the calibration has too few "
    "strangers to measure it."
)
# The most rows of each table that `show` prints. Nobody reads more on a terminal, and laying out
# more takes long.
MOST_ROWS = 200
# The most files with copies that are named; of more, their folders are.
MOST_COPIES = 10
# The most photographs that `run` names because they could not be used.
MOST_LEFT_OUT = 5


def summary(
    folder: Path,
    worked: bool,
    seconds: float,
    as_json: bool,
    *,
    report: Path | None = None,
    footage: Sequence[Path] = (),
) -> int:
    """Print what `run` did with this footage, and return the exit code.

    `worked` is False where nothing was left.
    """
    with Case.open(folder) as case:
        document = as_document(case)
    counts = _Counts.of(document)
    code = ExitCode.LOSSES if any(counts.losses.values()) else ExitCode.DONE
    if as_json:
        result = {
            "event": "done",
            "case": str(folder),
            "frames": counts.frames,
            "faces": counts.faces,
            "tracks": counts.tracks,
            "usable": counts.usable,
            "not_a_face": counts.not_a_face,
            "links_proposed": len(document.links),
            "searched": counts.answers,
            "with_candidates": counts.with_candidates,
            "unknown": counts.answers - counts.with_candidates,
            "photographs_left_out": counts.photographs_left_out,
            "losses": counts.losses,
            "seconds": round(seconds, 2),
            "exit_code": int(code),
            "nothing_to_do": not worked,
            "report": None if report is None else str(report),
        }
        click.echo(json.dumps(result))
        return code
    print_lines(f"{folder}: {f'done in {seconds:.1f} s' if worked else 'nothing left to do'}")
    if footage:
        _say_other_sources(document, footage)
    _say_counts(counts)
    if document.searched is not None:
        _say_answers(document, document.searched, counts)
        _say_left_out(folder, [photo for photo in document.gallery if photo.problem])
        _say_last_search(document)
    print_lines(f"open it: {f'{report}, or ' if report else ''}fasr-video show {folder}")
    return code


@dataclass(frozen=True, slots=True)
class _Counts:
    frames: int
    faces: int
    tracks: int
    usable: int
    not_a_face: int
    answers: int
    """Tracks that were searched for."""
    with_candidates: int
    photographs_left_out: int
    losses: dict[str, int]

    @classmethod
    def of(cls, document: Document) -> _Counts:
        losses: dict[str, int] = {}
        for source in document.sources:
            for kind, number in source.losses.items():
                losses[kind] = losses.get(kind, 0) + number
        tracks = document.tracks
        answers = [track.answer for track in tracks if track.answer is not None]
        return cls(
            frames=sum(source.frames_looked_at for source in document.sources),
            faces=sum(sum(s.faces_by_reason.values()) for s in document.sources),
            tracks=len(tracks),
            usable=sum(track.verdict == "usable" for track in tracks),
            not_a_face=sum(track_state(track) == "not a face" for track in tracks),
            answers=len(answers),
            with_candidates=sum(answer.verdict == "candidates" for answer in answers),
            photographs_left_out=sum(bool(photo.problem) for photo in document.gallery),
            losses=losses,
        )


def _say_other_sources(document: Document, footage: Sequence[Path]) -> None:
    """Say which sources the case holds beside this footage."""
    given = {path.absolute().name for path in footage}
    names_of_all = [Path(source.path).absolute().name for source in document.sources]
    others = [name for name in names_of_all if name not in given]
    if others:
        names = ", ".join(others[:5]) + (", …" if len(others) > 5 else "")
        print_lines(f"the case holds {count(len(others), 'other source')}: {names}")


def _say_counts(counts: _Counts) -> None:
    if not counts.tracks:
        print_lines(
            "no face was visible long enough to be a track "
            f"({count(counts.frames, 'frame')}, {count(counts.faces, 'face')})"
        )
    else:
        insufficient = counts.tracks - counts.usable - counts.not_a_face
        not_a_face = f", {counts.not_a_face} not a face" if counts.not_a_face else ""
        print_lines(
            f"{count(counts.frames, 'frame')}, {count(counts.faces, 'face')}, "
            f"{count(counts.tracks, 'track')}: "
            f"{counts.usable} usable, {insufficient} insufficient{not_a_face}"
        )
    for kind, number in counts.losses.items():
        if number:
            print_lines(f"lost: {_lost(kind, number)}")


def _lost(kind: str, number: int) -> str:
    """Return a count of losses in words, such as "1 corrupt packet"."""
    return count(number, kind.replace("_", " ").removesuffix("s"))


def _say_answers(document: Document, searched: LastSearch, counts: _Counts) -> None:
    waiting = [t.name for t in document.tracks if track_state(t) == "not searched"]
    if waiting:
        print_lines(f"not searched yet: {', '.join(waiting)}; run again with --gallery")
    print_lines(
        f"people in the gallery: {searched.gallery.people}; "
        f"tracks with candidates: {counts.with_candidates} of {counts.answers}"
    )
    for track in document.tracks:
        answer = track.answer
        if answer is None or answer.verdict != "candidates":
            continue
        lead = answer.passing[0]
        support = " (only the reconstruction supports it)" if lead.only_sr else ""
        remark = f" [{answer.remark}]" if answer.remark else ""
        print_lines(
            f"  {track.name}: candidate {lead.subject}, "
            f"log10 likelihood ratio {_ratio(lead)}{support}{remark}"
        )
    for remark in searched.remarks:
        print_lines(f"note: {remark}")


def _say_left_out(folder: Path, photos: Sequence[PhotographEntry]) -> None:
    """Name the photographs that could not be used, each with the first words of its problem."""
    if not photos:
        return
    named = [f"{p.path}: {str(p.problem).partition(':')[0]}" for p in photos[:MOST_LEFT_OUT]]
    more = ["…"] if len(photos) > MOST_LEFT_OUT else []
    names = "; ".join(named + more)
    print_lines(f"photographs left out: {len(photos)} ({names}); see: fasr-video show {folder}")


def _say_last_search(document: Document) -> None:
    """Say what the log has about the last search."""
    last = next(
        line for line in reversed(document.log) if line.event in {"searched", "answers taken out"}
    )
    details = json.loads(last.details)
    if last.event == "answers taken out":
        names = {track.id: track.name for track in document.tracks}
        removed = ", ".join(names[track] for track in details["tracks"])
        print_lines(
            f"note: the answers on {removed} were taken out, because their features have been "
            f"computed again ({details['why']})"
        )
        return
    why_rebuilt = details["index_rebuilt"]
    if why_rebuilt not in {None, "there was none"}:
        print_lines(f"note: the gallery's index was rebuilt from the store: {why_rebuilt}")


def _ratio(candidate: CandidateEntry) -> str:
    """Return the ratio as text, with "at least" or "at most" at the calibration's bound."""
    ratio = candidate.log10_likelihood_ratio
    if ratio is None:
        return "not calibrated"
    bound = ""
    if candidate.at_bound_of_calibration:
        bound = "at least " if ratio > 0 else "at most "
    return f"{bound}{ratio:+.1f}"


def show(document: Document) -> None:
    """Print a case. Long tables are cut, and their full length is printed."""
    counts = {
        "tracks": len(document.tracks),
        "links": len(document.links),
        "gallery": len(document.gallery),
        "clusters": max(map(len, document.clusters.values())),
    }
    names = {track.id: track.name for track in document.tracks}
    document = plain_document(_cut(document))
    console = Console()
    if document.runs:
        console.print(_runs(document.runs))
    for source in document.sources:
        _show_source(console, source)
    tracks = document.tracks
    if tracks:
        console.print(_tracks(tracks))
    if any(track.restoration for track in tracks):
        console.print(_reconstructions(tracks))
    if document.searched is not None:
        for track in tracks:
            if track.answer is not None:
                console.print(_candidates(track.name, track.answer, document.searched))
        for remark in document.searched.remarks:
            console.print(f"[yellow]note: {escape(remark)}[/]", highlight=False)
        if any(track.answer is not None for track in tracks):
            console.print(CANDIDATES_LEGEND, highlight=False)
    if document.links:
        console.print(_links(document.links, names))
    if any(document.clusters.values()):
        console.print(_clusters(document.clusters))
    if any(track.decisions for track in tracks):
        console.print(_decisions(tracks))
    if document.gallery:
        console.print(_photographs(document.gallery))
    for kind, number in counts.items():
        if number > MOST_ROWS:
            note = (
                f"{MOST_ROWS} of {number} {kind} are shown: --json, `fasr-video export` and the "
                "report have all"
            )
            console.print(f"[yellow]{note}[/]", highlight=False)


def _cut(document: Document) -> Document:
    """Return the document with at most MOST_ROWS tracks, links, photographs and clusters."""
    return replace(
        document,
        tracks=document.tracks[:MOST_ROWS],
        links=document.links[:MOST_ROWS],
        gallery=document.gallery[:MOST_ROWS],
        clusters={state: rows[:MOST_ROWS] for state, rows in document.clusters.items()},
    )


def _show_source(console: Console, source: SourceEntry) -> None:
    info = source.info
    detector = source.detector
    landmarks = "" if detector.landmarks else " Without landmarks: faces are aligned by boxes."
    lines = [
        f"[bold]{escape(source.path)}[/]  sha256 {source.sha256[:16]}…  \\[{source.state}]",
        f"  {info['width']}×{info['height']} {info['codec']} in "
        f"{info['container'].split(',')[0]}, times {TIMES[info['time_source']]}, "
        f"{info['colour']}, "
        f"faces detected in {count(source.frames_looked_at, 'frame')}",
    ]
    parts = source.frames_looked_at - source.frames_looked_at_whole
    if parts:
        skipped = source.frames_not_looked_at
        lines.append(
            f"  [yellow]{parts} of these only where a face can be (detect.every), "
            f"{skipped} not at all[/]"
        )
    lines.append(f"  detector {detector.name}, {escape(detector.licence)}.{landmarks}")
    for kind, number in source.losses.items():
        if number:
            lines.append(f"  [yellow]lost: {_lost(kind, number)}[/]")
    for reason, number in sorted(source.faces_by_reason.items(), key=lambda item: -item[1]):
        lines.append(f"  {number:6d} {faces_of_reason(reason, number)}")
    for line in lines:
        console.print(line, highlight=False)


def _tracks(tracks: list[TrackEntry]) -> Table:
    table = Table(
        "track",
        Column("from", no_wrap=True),
        Column("to", no_wrap=True),
        "detec-\ntions",
        "eyes,\npx",
        "quality",
        "aux",
        "verdict",
        title="tracks",
    )
    for track in tracks:
        quality = track.shown.quality if track.shown else {}
        table.add_row(
            track.name,
            clock(track.start_seconds),
            clock(track.end_seconds),
            str(track.sightings),
            f"{quality.get('eye_px', 0):.1f}",
            f"{quality.get('total', 0):.2f}",
            str(len(track.auxiliaries)),
            _verdict(track),
        )
    return table


def _links(links: list[LinkEntry], names: dict[int, str]) -> Table:
    table = Table("link", "tracks", "score", "evidence", "state", title="perhaps the same person")
    for link in links:
        pair = f"{names.get(link.a, '?')} → {names.get(link.b, '?')}"
        state = link.state
        if link.decided_by:
            state += f" by {name_with_role(link.decided_by, link.decided_as)}"
        table.add_row(str(link.id), pair, f"{link.score:.3f} raw", link.evidence, escape(state))
    return table


def _photographs(photographs: list[PhotographEntry]) -> Table:
    table = Table("photograph", "subject", "state", title="gallery")
    for photo in photographs:
        state = photo.problem or "usable"
        table.add_row(escape(photo.path), escape(photo.subject), escape(state))
    return table


def _verdict(track: TrackEntry) -> str:
    if track.verdict == "usable":
        return "usable"
    if track_state(track) == "not a face" and track.evidence is not None:
        numbers = f"score {track.evidence.mean_score:.3f}, norm {track.evidence.norm:.2f}"
        return f"[yellow]not a face: {numbers}[/]"
    return f"[yellow]insufficient: {track.verdict_reason}[/]"


def _runs(runs: list[RunEntry]) -> Table:
    table = Table("begun", "ended", "command", "by", title="runs")
    for run in runs:
        ended = str(run.ended)[:19] if run.finished else "not finished"
        table.add_row(run.begun[:19], ended, run.what, escape(name_with_role(run.by, run.role)))
    return table


def _reconstructions(tracks: list[TrackEntry]) -> Table:
    table = Table(
        "track",
        "method",
        "samples",
        "disagreement",
        "remarks",
        title="reconstructions: synthetic, leads only",
    )
    for track in tracks:
        restoration = track.restoration
        if restoration is None:
            continue
        samples = len(restoration.samples)
        disagreement = f"{restoration.disagreement:.3f}"
        numbers = (str(samples), disagreement) if samples > 1 else ("–", "–")
        remarks = [*_guidance(restoration), *restoration.warnings]
        table.add_row(track.name, restoration.method, *numbers, escape("; ".join(remarks)))
    return table


def _guidance(restoration: RestorationEntry) -> list[str]:
    """Return a remark on the attributes that a picture was drawn towards, if there are any."""
    attributes = [
        f"{a.name}={'yes' if a.value else 'no'} ({a.source})" for a in restoration.attributes
    ]
    return [f"drawn towards {', '.join(attributes)}"] if attributes else []


def _candidates(track: str, answer: AnswerEntry, searched: LastSearch) -> Table:
    """Return the joined list of a track: candidates, and the probes that support each."""
    settings = searched.settings
    title = [f"{track}: {answer.verdict} ({settings['mode']})"]
    is_calibrated = answer.threshold is not None
    if is_calibrated:
        extrapolated = ", extrapolated" if answer.extrapolated else ""
        title.append(
            f"threshold: score {answer.threshold:.2f}{extrapolated}, for FPIR "
            f"{settings['fpir']:g} and {count(searched.gallery.templates, 'template')}"
        )
    if answer.remark:
        title.append(answer.remark)
    if not answer.joined:
        title.append("nobody passes")
    kinds = list(answer.lists)
    score = "score" if is_calibrated else "mean cosine, raw"
    names = ("candidate", score, "log10 LR", *kinds, "supported by")
    columns = [Column(name, no_wrap=name != "supported by") for name in names]
    table = Table(*columns, title="\n".join(title))
    for c in answer.joined:
        support = "only sr" if c.only_sr else ", ".join(c.support) or "nothing"
        name = f"[bold]{escape(c.subject)}[/]" if c.passes else escape(c.subject)
        cosines = (f"{c.cosines[kind]:.3f}" for kind in kinds)
        ratio = ""
        if is_calibrated:
            ratio = _ratio(c).replace("at least ", "≥ ").replace("at most ", "≤ ")
        table.add_row(name, f"{round(c.score, 2) + 0.0:.2f}", ratio, *cosines, support)
    return table


def _decisions(tracks: list[TrackEntry]) -> Table:
    table = Table(
        "decision",
        "track",
        "verdict",
        "candidate",
        "reason",
        "by",
        "undone by",
        title="decided by people",
    )
    for track in tracks:
        for d in track.decisions:
            by = name_with_role(d.by, d.role)
            texts = (decided_subject(d), d.reason, by, d.undone_by or "")
            table.add_row(str(d.id), track.name, d.verdict, *map(escape, texts))
    return table


def _clusters(clusters: dict[str, list[ClusterEntry]]) -> Table:
    table = Table(
        "tracks", "link no.", "accepted", "weakest score", "state", title="perhaps one person each"
    )
    for state, rows in clusters.items():
        for c in rows:
            links = ", ".join(map(str, c.links))
            accepted = f"{c.links_accepted or 'none'} of {len(c.links)}"
            table.add_row(", ".join(c.tracks), links, accepted, f"{c.weakest_score:.3f} raw", state)
    return table


def copies_left(files: Sequence[str]) -> list[str]:
    """Return a line for each file that holds copies, or for each folder if there are many."""
    if len(files) <= MOST_COPIES:
        return [f"copies are left in {file}" for file in files]
    in_folder = Counter(str(Path(file).parent) for file in files)
    lines = []
    for folder, number in sorted(in_folder.items()):
        lines.append(f"copies are left in {count(number, 'file')} of {folder}")
    return lines
