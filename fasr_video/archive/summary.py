"""All cases of an archive on one page: what was done, what was not and why, and who may be one person across cameras.

CASES/summary.json, summary.csv (a line a unit), summary.html
"""

from __future__ import annotations

import base64
import io
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image as PilImage

from fasr_video import __version__
from fasr_video.archive.ledger import STATES, Ledger, Unit
from fasr_video.errors import FasrError
from fasr_video.files import write_whole
from fasr_video.gallery.probes import Kind
from fasr_video.pipeline.case import Case
from fasr_video.pipeline.export import csv_of
from fasr_video.pipeline.export import tracks as tracks_of
from fasr_video.pipeline.probes import features
from fasr_video.trackers.linking import Tracklet, propose_by_face

SCHEMA = "fasr-video/archive/1"
COUNTS = ("frames", "faces", "tracks", "usable", "with_candidates", "unknown", "losses", "footage_seconds")
COLUMNS = (
    *("case", "state", "files", "camera", "start", "start_uncertainty", "tries", "error"),
    *(*COUNTS, "work_seconds", "sha256"),
)
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


def write_summary(ledger: Ledger) -> dict[str, Any]:
    """Make it anew from the ledger and the finished cases; returns the document."""
    document = summary(ledger)
    texts = {"json": json.dumps(document, indent=2, ensure_ascii=False), "csv": as_csv(document)}
    texts["html"] = as_html(document)
    for ending, text in texts.items():
        write_whole(ledger.cases / f"summary.{ending}", lambda p, t=text: p.write_text(t, encoding="utf-8"))  # type: ignore[misc]
    return document


def summary(ledger: Ledger) -> dict[str, Any]:
    units, unread = [], []
    seen: list[Seen] = []
    for unit in ledger.units():
        line = _line(ledger, unit)
        units.append(line)
        if unit.state == "done":
            try:
                seen += _seen(ledger.cases / unit.folder, line, len(seen))
            except FasrError as error:
                unread.append({"path": unit.folder, "reason": str(error)})
    unread += [{"path": path, "reason": reason} for path, reason in ledger.problems()]
    states = {state: sum(u["state"] == state for u in units) for state in STATES}
    return {
        "schema": SCHEMA,
        "version": __version__,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "units_by_state": states,
        "totals": {k: sum(u[k] or 0 for u in units) for k in (*COUNTS, "work_seconds")},
        "units": units,
        "not_read": unread,
        "leads": [s.facts for s in seen if s.facts["candidates"]],
        "subjects": subjects(seen),
    }


def subjects(seen: Sequence[Seen]) -> list[dict[str, Any]]:
    """Tracks of any case and camera that may be one person: proposals, by the rules that hold within a case."""
    found: list[dict[str, Any]] = []
    for embedder in sorted({s.embedder for s in seen}):  # vectors of two embedders mean nothing to each other
        some = [s for s in seen if s.embedder == embedder]
        apart = {frozenset((s.tracklet.id, other)) for s in some for other in s.refused}
        least = max(s.similarity for s in some)
        proposals = propose_by_face([s.tracklet for s in some], least, lambda a, b, x=apart: frozenset((a, b)) in x)  # type: ignore[misc]
        by_id = {s.tracklet.id: s for s in some}
        clusters: dict[int, set[int]] = {}
        scores: dict[frozenset[int], float] = {}
        for p in proposals:
            joined = clusters.get(p.a, {p.a}) | clusters.get(p.b, {p.b})
            clusters |= dict.fromkeys(joined, joined)
            scores[frozenset((p.a, p.b))] = p.score
        for members in {frozenset(c) for c in clusters.values()}:
            weakest = min(score for pair, score in scores.items() if pair <= members)
            found.append({"tracks": [by_id[m].facts for m in sorted(members)], "weakest_score": weakest})
    found.sort(key=lambda s: (-len({t["camera"] for t in s["tracks"]}), -len(s["tracks"]), -s["weakest_score"]))
    return [{"subject": f"P{number}", **s} for number, s in enumerate(found, 1)]


def as_csv(document: Mapping[str, Any]) -> str:
    return csv_of(COLUMNS, ({**unit, "files": " | ".join(unit["files"])} for unit in document["units"]))


def as_html(document: Mapping[str, Any]) -> str:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    page = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page.filters["clock"] = lambda text: datetime.fromisoformat(text).isoformat(" ", "seconds")
    return page.get_template("summary.html").render(document)


def _line(ledger: Ledger, unit: Unit) -> dict[str, Any]:
    files = ledger.files(unit)
    clock = unit.facts.get("clock") or (files[0].place.clock if files else None) or {}
    camera = unit.facts.get("camera") or (files[0].place.camera if files else None)
    line: dict[str, Any] = dict.fromkeys(COLUMNS)
    line |= {k: unit.facts.get(k) for k in COUNTS}
    line |= {"case": unit.folder, "state": unit.state, "files": [f.name for f in files], "camera": camera}
    line |= {"start": clock.get("start"), "start_uncertainty": clock.get("uncertainty_seconds")}
    line |= {"tries": unit.tries, "error": unit.error, "sha256": unit.sha256}
    return line | {"work_seconds": None if unit.seconds is None else round(unit.seconds, 1)}


def _seen(folder: Path, line: dict[str, Any], count: int) -> list[Seen]:
    """The usable tracks of a case, numbered on from `count`; its line is told what they were answered last."""
    with Case.open(folder, read_only=True) as case:
        settings = json.loads(case.meta("settings"))
        models = dict(case.db.execute("SELECT track, models FROM probed").fetchall())
        tracks = [t for t in tracks_of(case) if t["id"] in models]
        verdicts = [t["answer"]["verdict"] for t in tracks if t["answer"] is not None]
        line |= {"with_candidates": verdicts.count("candidates"), "unknown": verdicts.count("unknown")}
        numbers = {t["id"]: count + k for k, t in enumerate(tracks)}
        refused = defaultdict(set)
        for a, b in case.db.execute("SELECT a, b FROM link WHERE state = 'refused'").fetchall():
            if a in numbers and b in numbers:
                refused[a].add(numbers[b])
        found = []
        for t in tracks:
            look = features(case, t["id"])[Kind.POOLED]
            tracklet = Tracklet(numbers[t["id"]], count, t["start_seconds"], t["end_seconds"], look)
            found.append(
                Seen(
                    *(tracklet, json.loads(models[t["id"]])["embedder"], settings["link"]["min_similarity"]),
                    frozenset(refused[t["id"]]),
                    _facts(case, t, line),
                )
            )
    return found


def _facts(case: Case, track: Mapping[str, Any], line: Mapping[str, Any]) -> dict[str, Any]:
    """A track on the page: no name below the threshold."""
    answer = track["answer"] or {"joined": []}
    passing = [c for c in answer["joined"] if c["passes"]]
    wall = None
    if line["start"] is not None:
        wall = datetime.fromisoformat(line["start"]) + timedelta(seconds=track["start_seconds"])
    return {
        "case": line["case"],
        "track": track["name"],
        "camera": line["camera"],
        "start_seconds": track["start_seconds"],
        "end_seconds": track["end_seconds"],
        "wall": None if wall is None else wall.isoformat(timespec="seconds"),
        "wall_uncertainty": line["start_uncertainty"],
        "candidates": [
            {k: c[k] for k in ("subject", "score", "log10_likelihood_ratio", "only_sr", "support")} for c in passing
        ],
        "thumbnail": _thumbnail(case, track),
    }


def _thumbnail(case: Case, track: Mapping[str, Any]) -> str | None:
    """LR0 as a data URI: to find it again, not to look at. None of an encrypted case, for the summary is not."""
    if track["shown"] is None or case.encryption is not None:
        return None
    name = Path(track["shown"]["aligned"]).stem
    picture = PilImage.fromarray(case.read_picture(name)).resize((THUMB, THUMB))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
