"""All cases of an archive on one page: what was done, what was not and why, and who may be one person across cameras.

CASES/summary.json, summary.csv (a line a unit), summary.html
"""

from __future__ import annotations

import base64
import io
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image as PilImage

from fasr_video import __version__
from fasr_video.archive.ledger import DATABASE, STATES, Ledger, Unit
from fasr_video.case.case import Case
from fasr_video.case.document import csv_of, decided_subject
from fasr_video.case.document import tracks as tracks_of
from fasr_video.case.links import all_links
from fasr_video.case.results import all_features, encodings
from fasr_video.custody.purge import is_purged, read_tombstone
from fasr_video.errors import FasrError
from fasr_video.files import atomic_write_text
from fasr_video.gallery.encoder import Kind
from fasr_video.report.write import FOLDER as REPORT
from fasr_video.report.write import INDEX
from fasr_video.sqlite import explain_errors
from fasr_video.trackers.linking import Tracklet, propose_by_face

SCHEMA = "fasr-video/archive/1"
COUNTS = (
    "frames",
    "faces",
    "tracks",
    "usable",
    "with_candidates",
    "unknown",
    "losses",
    "footage_seconds",
)
COLUMNS = (
    *("case", "state", "files", "camera", "start", "start_uncertainty", "tries", "error"),
    *(*COUNTS, "work_seconds", "sha256"),
)
# How a unit stands that was done, and whose case was removed since: the ledger itself still says
# done.
PURGED = "purged"
THUMB = 64  # px, of a picture to know a track by


@dataclass(frozen=True, slots=True)
class Seen:
    """A track of some case, with what it takes to put it beside tracks of other cases."""

    tracklet: Tracklet
    embedder: str
    similarity: float
    """The case's own setting: the lowest cosine of two faces that may be proposed as one person."""
    refused: frozenset[int]
    """Tracks (as numbered here) that a person said are somebody else."""
    facts: dict[str, Any]
    accepted: frozenset[int] = frozenset()
    """Tracks that a person said are the same person."""
    surely: tuple[str, float, float] | None = None
    """The camera, and from when to when it saw the track for sure; None where that is not known."""


def write_summary(ledger: Ledger) -> dict[str, Any]:
    """Make it anew from the ledger and the finished cases; returns the document."""
    document = summary(ledger)
    texts = {"json": json.dumps(document, indent=2, ensure_ascii=False), "csv": as_csv(document)}
    texts["html"] = as_html(document)
    for ending, text in texts.items():
        with explain_errors(ledger.cases):
            atomic_write_text(ledger.cases / f"summary.{ending}", text)
    return document


def rewrite(cases: Iterable[Path]) -> list[str]:
    """Make the summaries of the archives that these cases lie in anew; returns why some could not be."""
    problems = []
    parents = (
        p.resolve() for case in cases for p in (case.absolute().parent, case.resolve().parent)
    )
    for folder in dict.fromkeys(parents):
        if not (folder / DATABASE).is_file():
            continue
        try:
            with Ledger.read(folder) as ledger:
                write_summary(ledger)
        except FasrError as error:
            problems.append(f"the summary was not made anew: {error}")
    return problems


def summary(ledger: Ledger) -> dict[str, Any]:
    units, unread, purged = [], [], []
    seen: list[Seen] = []
    every = ledger.units()
    gone = {u.id for u in every if u.state == "done" and is_purged(ledger.cases / u.folder)}
    counted = _newest([u for u in every if u.id not in gone])
    for unit in every:
        line = _line(ledger, unit) | {"counted": unit.id in counted}
        units.append(line)
        try:
            if unit.id in gone:
                line["state"] = PURGED
                purged.append({"case": unit.folder, **_ended(ledger.cases / unit.folder)})
            elif unit.state == "done" and unit.id in counted:
                seen += _seen(ledger.cases / unit.folder, line, len(seen))
        except FasrError as error:
            unread.append({"path": unit.folder, "reason": str(error)})
    unread += [{"path": path, "reason": reason} for path, reason in ledger.problems()]
    states = {state: sum(u["state"] == state for u in units) for state in (*STATES, PURGED)}
    return {
        "schema": SCHEMA,
        "version": __version__,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "units_by_state": states,
        "totals": {
            k: sum(u[k] or 0 for u in units if u["counted"]) for k in (*COUNTS, "work_seconds")
        },
        "units": units,
        "not_read": unread,
        "purged": purged,
        "leads": [s.facts for s in seen if s.facts["candidates"] or s.facts["decisions"]],
        "subjects": subjects(seen),
    }


def subjects(seen: Sequence[Seen]) -> list[dict[str, Any]]:
    """Tracks of any case and camera that may be one person: proposals, by the rules that hold within a case.

    What a person joined in its case is one subject here, too, and nothing is put to it that is apart from any of it.
    """
    found: list[dict[str, Any]] = []
    for embedder in sorted(
        {s.embedder for s in seen}
    ):  # vectors of two embedders mean nothing to each other
        some = [s for s in seen if s.embedder == embedder]
        by_id = {s.tracklet.id: s for s in some}
        accepted = [(s.tracklet.id, other) for s in some for other in s.accepted if other in by_id]
        people = _clusters(accepted)

        def apart(a: int, b: int, people: Any = people, by_id: Any = by_id) -> bool:
            one, other = people.get(a, {a}), people.get(b, {b})
            return one is not other and any(_apart(by_id[x], by_id[y]) for x in one for y in other)

        proposals = propose_by_face(
            [s.tracklet for s in some], max(s.similarity for s in some), apart
        )
        scores = {frozenset((p.a, p.b)): p.score for p in proposals}
        for members in {
            frozenset(c) for c in _clusters([*accepted, *((p.a, p.b) for p in proposals)]).values()
        }:
            by_face = [score for pair, score in scores.items() if pair <= members]
            about = {
                "weakest_score": min(by_face, default=None),
                "joined_by_people": any(m in people for m in members),
            }
            found.append({"tracks": [by_id[m].facts for m in sorted(members)], **about})
    found.sort(
        key=lambda s: (
            -len({t["camera"] for t in s["tracks"]}),
            -len(s["tracks"]),
            -(s["weakest_score"] or 0),
        )
    )
    return [{"subject": f"P{number}", **s} for number, s in enumerate(found, 1)]


def _clusters(pairs: Iterable[tuple[int, int]]) -> dict[int, set[int]]:
    """Track → all that pairs hold together with it."""
    clusters: dict[int, set[int]] = {}
    for a, b in pairs:
        joined = clusters.get(a, {a}) | clusters.get(b, {b})
        clusters |= dict.fromkeys(joined, joined)
    return clusters


def _apart(a: Seen, b: Seen) -> bool:
    """A person said so, or one camera saw both at one moment."""
    if b.tracklet.id in a.refused or a.tracklet.id in b.refused:
        return True
    one, other = a.tracklet, b.tracklet
    if one.source == other.source:
        return one.start <= other.end and other.start <= one.end
    if a.surely is None or b.surely is None or a.surely[0] != b.surely[0]:
        return False
    return a.surely[1] <= b.surely[2] and b.surely[1] <= a.surely[2]


def _newest(units: Sequence[Unit]) -> set[int]:
    """Of each content one unit: made under the newest settings that it is done under."""
    best: dict[str, Unit] = {}
    for unit in units:
        so_far = best.setdefault(unit.sha256, unit)
        if (unit.state == "done", unit.id) > (so_far.state == "done", so_far.id):
            best[unit.sha256] = unit
    return {unit.id for unit in best.values()}


def as_csv(document: Mapping[str, Any]) -> str:
    return csv_of(
        COLUMNS,
        (
            {**{c: unit.get(c) for c in COLUMNS}, "files": " | ".join(unit["files"])}
            for unit in document["units"]
        ),
    )


def as_html(document: Mapping[str, Any]) -> str:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    page = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page.filters["clock"] = lambda text: datetime.fromisoformat(text).isoformat(" ", "milliseconds")
    return page.get_template("summary.html").render(document)


def _line(ledger: Ledger, unit: Unit) -> dict[str, Any]:
    files = ledger.files(unit)
    clock = unit.facts.get("clock") or (files[0].place.clock if files else None) or {}
    camera = unit.facts.get("camera") or (files[0].place.camera if files else None)
    line: dict[str, Any] = dict.fromkeys(COLUMNS)
    line |= {k: unit.facts.get(k) for k in COUNTS}
    line |= {
        "case": unit.folder,
        "state": unit.state,
        "files": [f.name for f in files],
        "camera": camera,
    }
    line |= {"start": clock.get("start"), "start_uncertainty": clock.get("uncertainty_seconds")}
    line |= {"tries": unit.tries, "error": unit.error, "sha256": unit.sha256}
    line["report"] = _report(ledger.cases, unit.folder, INDEX) if unit.state == "done" else None
    return line | {"work_seconds": None if unit.seconds is None else round(unit.seconds, 1)}


def _ended(folder: Path) -> dict[str, str]:
    """When a case was purged, and why."""
    told = read_tombstone(folder)
    return {"at": str(told.get("removed_at", told["begun_at"])), "why": told["why"]}


def _seen(folder: Path, line: dict[str, Any], count: int) -> list[Seen]:
    """The usable tracks of a case, numbered on from `count`; its line is told what they were answered last."""
    with Case.open(folder, read_only=True) as case, case.snapshot():
        similarity = case.settings["link"]["min_similarity"]
        made, looks = encodings(case), all_features(case)
        tracks = [t for t in tracks_of(case) if t["id"] in made]
        verdicts = [t["answer"]["verdict"] for t in tracks if t["answer"] is not None]
        line |= {
            "with_candidates": verdicts.count("candidates"),
            "unknown": verdicts.count("unknown"),
        }
        numbers = {t["id"]: count + k for k, t in enumerate(tracks)}
        said: dict[str, defaultdict[int, set[int]]] = {
            "refused": defaultdict(set),
            "accepted": defaultdict(set),
        }
        for link in all_links(case):
            if link.state in said and link.a in numbers and link.b in numbers:
                said[link.state][link.a].add(numbers[link.b])
        found = []
        for t in tracks:
            look = looks[t["id"]][Kind.POOLED]
            tracklet = Tracklet(numbers[t["id"]], count, t["start_seconds"], t["end_seconds"], look)
            found.append(
                Seen(
                    *(tracklet, made[t["id"]].provenance["embedder"], similarity),
                    frozenset(said["refused"][t["id"]]),
                    _facts(case, t, line),
                    accepted=frozenset(said["accepted"][t["id"]]),
                    surely=_surely(t, line),
                )
            )
    return found


def _surely(track: Mapping[str, Any], line: Mapping[str, Any]) -> tuple[str, float, float] | None:
    if line["camera"] is None or line["start"] is None:
        return None
    start, doubt = (
        datetime.fromisoformat(line["start"]).timestamp(),
        line["start_uncertainty"] or 0.0,
    )
    first, last = start + track["start_seconds"] + doubt, start + track["end_seconds"] - doubt
    return (line["camera"], first, last) if first <= last else None


def _facts(case: Case, track: Mapping[str, Any], line: Mapping[str, Any]) -> dict[str, object]:
    """A track on the page: no name below the threshold."""
    answer = track["answer"] or {"joined": []}
    passing = [c for c in answer["joined"] if c["passes"]]
    wall = None
    if line["start"] is not None:
        wall = datetime.fromisoformat(line["start"]) + timedelta(seconds=track["start_seconds"])
    return {
        "case": line["case"],
        "track": track["name"],
        "report": _report(case.folder.parent, line["case"], f"{track['name']}.html"),
        "camera": line["camera"],
        "start_seconds": track["start_seconds"],
        "end_seconds": track["end_seconds"],
        "wall": None if wall is None else wall.isoformat(timespec="milliseconds"),
        "wall_uncertainty": line["start_uncertainty"],
        "candidates": [
            {k: c[k] for k in ("subject", "score", "log10_likelihood_ratio", "only_sr", "support")}
            for c in passing
        ],
        "decisions": [
            {
                "verdict": d["verdict"],
                "subject": decided_subject(d) or None,
                "by": d["by"],
                "role": d["role"],
            }
            for d in track["decisions"]
            if d["undone_by"] is None
        ],
        "thumbnail": _thumbnail(case, track),
    }


def _report(cases: Path, folder: str, page: str) -> str | None:
    """A page of a case's report, within the cases' folder; None where there is none, as of an encrypted case."""
    path = Path(folder, REPORT, page)
    return path.as_posix() if (cases / path).is_file() else None


def _thumbnail(case: Case, track: Mapping[str, Any]) -> str | None:
    """LR0 as a data URI: to find it again, not to look at. None of an encrypted case, for the summary is not."""
    if track["shown"] is None or case.encryption is not None:
        return None
    name = Path(track["shown"]["aligned"]).stem
    picture = PilImage.fromarray(case.read_picture(name)).resize((THUMB, THUMB))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
