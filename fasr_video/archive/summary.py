"""All cases of an archive on one page.

It shows what was done, what was not and why, and which tracks may be one person across cameras.

CASES/summary.json, summary.csv (a row per job), summary.html
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
from fasr_video.archive.ledger import DATABASE, NUMBERS, STATES, Job, Ledger
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

SCHEMA = "fasr-video/archive/2"
COLUMNS = (
    "case",
    "state",
    "files",
    "camera",
    "start",
    "start_uncertainty",
    "tries",
    "error",
    *NUMBERS,
    "work_seconds",
    "sha256",
)
# The state of a job whose case was purged; in the ledger it is still done.
PURGED = "purged"
THUMBNAIL = 64  # px


@dataclass(frozen=True, slots=True)
class CaseTrack:
    """A track of some case, with what is needed to compare it with tracks of other cases."""

    tracklet: Tracklet
    embedder: str
    similarity: float
    """The case's own setting: the lowest cosine of two faces that may be proposed as one person."""
    refused: frozenset[int]
    """Tracks (by the numbers used here) that a person said are somebody else."""
    entry: dict[str, Any]
    """The track in the summary."""
    accepted: frozenset[int] = frozenset()
    """Tracks that a person said are the same person."""
    surely_visible: tuple[str, float, float] | None = None
    """The camera, and from when to when it surely saw the track; None where that is not known."""


def write_summary(ledger: Ledger) -> dict[str, Any]:
    """Write the summary's files from the ledger and the finished cases; returns the document."""
    document = summary(ledger)
    texts = {
        "json": json.dumps(document, indent=2, ensure_ascii=False),
        "csv": as_csv(document),
        "html": as_html(document),
    }
    for ending, text in texts.items():
        with explain_errors(ledger.cases):
            atomic_write_text(ledger.cases / f"summary.{ending}", text)
    return document


def rewrite_summaries(cases: Iterable[Path]) -> list[str]:
    """Write the summaries of these cases' archives; returns why some could not be written."""
    folders: dict[Path, None] = {}
    for case in cases:
        folders[case.absolute().parent.resolve()] = None
        folders[case.resolve().parent] = None
    problems = []
    for folder in folders:
        if not (folder / DATABASE).is_file():
            continue
        try:
            with Ledger.read(folder) as ledger:
                write_summary(ledger)
        except FasrError as error:
            problems.append(f"the summary was not written: {error}")
    return problems


def summary(ledger: Ledger) -> dict[str, Any]:
    """Return the summary of a ledger and its cases as plain data."""
    all_jobs = ledger.jobs()
    purged_ids = {
        job.id for job in all_jobs if job.state == "done" and is_purged(ledger.cases / job.folder)
    }
    counted = _newest([job for job in all_jobs if job.id not in purged_ids])
    rows = []
    unread = []
    purged = []
    tracks: list[CaseTrack] = []
    for job in all_jobs:
        folder = ledger.cases / job.folder
        row = _row(ledger, job) | {"counted": job.id in counted}
        rows.append(row)
        try:
            if job.id in purged_ids:
                row["state"] = PURGED
                purged.append({"case": job.folder, **_purge_of(folder)})
            elif job.state == "done" and job.id in counted:
                tracks += _tracks_of_case(folder, row, len(tracks))
        except FasrError as error:
            unread.append({"path": job.folder, "reason": str(error)})
    unread += [{"path": path, "reason": reason} for path, reason in ledger.problems()]
    totals = {
        key: sum(row[key] or 0 for row in rows if row["counted"])
        for key in (*NUMBERS, "work_seconds")
    }
    entries = [track.entry for track in tracks]
    return {
        "schema": SCHEMA,
        "version": __version__,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "jobs_by_state": {
            state: sum(row["state"] == state for row in rows) for state in (*STATES, PURGED)
        },
        "totals": totals,
        "jobs": rows,
        "not_read": unread,
        "purged": purged,
        "leads": [entry for entry in entries if entry["candidates"] or entry["decisions"]],
        "subjects": propose_subjects(tracks),
    }


def propose_subjects(tracks: Sequence[CaseTrack]) -> list[dict[str, Any]]:
    """Return groups of tracks, of any case and camera, that may be one person each.

    The rules are those within a case. Tracks that a person joined in their case stay together, and
    no track joins a group if it cannot be the person of any of its tracks.
    """
    subjects: list[dict[str, Any]] = []
    # Vectors of two embedders cannot be compared.
    for embedder in sorted({track.embedder for track in tracks}):
        subjects += _subjects_of([track for track in tracks if track.embedder == embedder])
    subjects.sort(key=_most_cameras_first)
    return [{"subject": f"P{number}", **subject} for number, subject in enumerate(subjects, 1)]


def _subjects_of(tracks: Sequence[CaseTrack]) -> list[dict[str, Any]]:
    """Return the groups among tracks whose features can be compared."""
    by_id = {track.tracklet.id: track for track in tracks}
    accepted = [
        (track.tracklet.id, other) for track in tracks for other in track.accepted if other in by_id
    ]
    joined = _clusters(accepted)

    def apart(a: int, b: int) -> bool:
        group_a = joined.get(a, {a})
        group_b = joined.get(b, {b})
        if group_a is group_b:
            return False
        return any(_are_apart(by_id[x], by_id[y]) for x in group_a for y in group_b)

    similarity = max(track.similarity for track in tracks)
    proposals = propose_by_face([track.tracklet for track in tracks], similarity, apart)
    scores = {frozenset((p.a, p.b)): p.score for p in proposals}
    clusters = _clusters([*accepted, *((p.a, p.b) for p in proposals)])
    subjects = []
    for members in {frozenset(cluster) for cluster in clusters.values()}:
        scores_within = [score for pair, score in scores.items() if pair <= members]
        subjects.append(
            {
                "tracks": [by_id[member].entry for member in sorted(members)],
                "weakest_score": min(scores_within, default=None),
                "joined_by_people": any(member in joined for member in members),
            }
        )
    return subjects


def _most_cameras_first(subject: Mapping[str, Any]) -> tuple[int, int, float]:
    cameras = {track["camera"] for track in subject["tracks"]}
    return -len(cameras), -len(subject["tracks"]), -(subject["weakest_score"] or 0)


def _clusters(pairs: Iterable[tuple[int, int]]) -> dict[int, set[int]]:
    """Return, for each track in a pair, all tracks that pairs connect with it."""
    clusters: dict[int, set[int]] = {}
    for a, b in pairs:
        joined = clusters.get(a, {a}) | clusters.get(b, {b})
        clusters |= dict.fromkeys(joined, joined)
    return clusters


def _are_apart(a: CaseTrack, b: CaseTrack) -> bool:
    """Return whether two tracks are two people: somebody said so, or one camera saw both at once."""
    if b.tracklet.id in a.refused or a.tracklet.id in b.refused:
        return True
    if a.tracklet.source == b.tracklet.source:
        return a.tracklet.start <= b.tracklet.end and b.tracklet.start <= a.tracklet.end
    if a.surely_visible is None or b.surely_visible is None:
        return False
    camera_a, first_a, last_a = a.surely_visible
    camera_b, first_b, last_b = b.surely_visible
    return camera_a == camera_b and first_a <= last_b and first_b <= last_a


def _newest(jobs: Sequence[Job]) -> set[int]:
    """Return the ids of the jobs to count: of each content the newest, and done before others."""
    newest: dict[str, Job] = {}
    for job in jobs:
        so_far = newest.setdefault(job.sha256, job)
        if (job.state == "done", job.id) > (so_far.state == "done", so_far.id):
            newest[job.sha256] = job
    return {job.id for job in newest.values()}


def as_csv(document: Mapping[str, Any]) -> str:
    """Return the summary's jobs as CSV."""
    rows = []
    for job in document["jobs"]:
        row = {column: job.get(column) for column in COLUMNS}
        rows.append({**row, "files": " | ".join(job["files"])})
    return csv_of(COLUMNS, rows)


def as_html(document: Mapping[str, Any]) -> str:
    """Return the summary as a page."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    page = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page.filters["clock"] = lambda text: datetime.fromisoformat(text).isoformat(" ", "milliseconds")
    return page.get_template("summary.html").render(document)


def _row(ledger: Ledger, job: Job) -> dict[str, Any]:
    """Return a job as it stands in the summary."""
    files = ledger.files(job)
    recording = files[0].recording if files else None
    clock = job.summary.get("clock") or (recording.clock if recording else None) or {}
    camera = job.summary.get("camera") or (recording.camera if recording else None)
    return {
        "case": job.folder,
        "state": job.state,
        "files": [file.name for file in files],
        "camera": camera,
        "start": clock.get("start"),
        "start_uncertainty": clock.get("uncertainty_seconds"),
        "tries": job.tries,
        "error": job.error,
        **{key: job.summary.get(key) for key in NUMBERS},
        "work_seconds": None if job.seconds is None else round(job.seconds, 1),
        "sha256": job.sha256,
        "report": _report(ledger.cases, job.folder, INDEX) if job.state == "done" else None,
    }


def _purge_of(folder: Path) -> dict[str, str]:
    """Return when a case was purged, and why."""
    stone = read_tombstone(folder)
    return {"at": str(stone.get("removed_at", stone["begun_at"])), "why": stone["why"]}


def _tracks_of_case(folder: Path, row: dict[str, Any], first_number: int) -> list[CaseTrack]:
    """Return the usable tracks of a case, numbered from `first_number`.

    The counts of answers in the case's row are set to those of its last search.
    """
    with Case.open(folder, read_only=True) as case, case.snapshot():
        similarity = case.settings["link"]["min_similarity"]
        of_track = encodings(case)
        features = all_features(case)
        tracks = [track for track in tracks_of(case) if track["id"] in of_track]
        verdicts = [t["answer"]["verdict"] for t in tracks if t["answer"] is not None]
        row["with_candidates"] = verdicts.count("candidates")
        row["unknown"] = verdicts.count("unknown")
        numbers = {track["id"]: first_number + k for k, track in enumerate(tracks)}
        linked = _decided_links(case, numbers)
        case_tracks = []
        for track in tracks:
            tracklet = Tracklet(
                numbers[track["id"]],
                first_number,
                track["start_seconds"],
                track["end_seconds"],
                features[track["id"]][Kind.POOLED],
            )
            case_tracks.append(
                CaseTrack(
                    tracklet,
                    of_track[track["id"]].provenance["embedder"],
                    similarity,
                    refused=frozenset(linked["refused"][track["id"]]),
                    entry=_entry(case, track, row),
                    accepted=frozenset(linked["accepted"][track["id"]]),
                    surely_visible=_surely_visible(track, row),
                )
            )
    return case_tracks


def _decided_links(case: Case, numbers: Mapping[int, int]) -> dict[str, dict[int, set[int]]]:
    """Return, by a link's state and its first track, the numbers of the other tracks."""
    linked: dict[str, dict[int, set[int]]] = {
        "refused": defaultdict(set),
        "accepted": defaultdict(set),
    }
    for link in all_links(case):
        if link.state in linked and link.a in numbers and link.b in numbers:
            linked[link.state][link.a].add(numbers[link.b])
    return linked


def _surely_visible(
    track: Mapping[str, Any], row: Mapping[str, Any]
) -> tuple[str, float, float] | None:
    if row["camera"] is None or row["start"] is None:
        return None
    start = datetime.fromisoformat(row["start"]).timestamp()
    uncertainty = row["start_uncertainty"] or 0.0
    first = start + track["start_seconds"] + uncertainty
    last = start + track["end_seconds"] - uncertainty
    return (row["camera"], first, last) if first <= last else None


def _entry(case: Case, track: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a track as it stands in the summary, without names below the threshold."""
    answer = track["answer"] or {"joined": []}
    passing = [candidate for candidate in answer["joined"] if candidate["passes"]]
    keys = ("subject", "score", "log10_likelihood_ratio", "only_sr", "support")
    wall = None
    if row["start"] is not None:
        wall = datetime.fromisoformat(row["start"]) + timedelta(seconds=track["start_seconds"])
    return {
        "case": row["case"],
        "track": track["name"],
        "report": _report(case.folder.parent, row["case"], f"{track['name']}.html"),
        "camera": row["camera"],
        "start_seconds": track["start_seconds"],
        "end_seconds": track["end_seconds"],
        "wall": None if wall is None else wall.isoformat(timespec="milliseconds"),
        "wall_uncertainty": row["start_uncertainty"],
        "candidates": [{key: candidate[key] for key in keys} for candidate in passing],
        "decisions": [
            {
                "verdict": decision["verdict"],
                "subject": decided_subject(decision) or None,
                "by": decision["by"],
                "role": decision["role"],
            }
            for decision in track["decisions"]
            if decision["undone_by"] is None
        ],
        "thumbnail": _thumbnail(case, track),
    }


def _report(cases: Path, folder: str, page: str) -> str | None:
    """Return the path of a page of a case's report within the cases' folder.

    None where there is no such page, as of an encrypted case.
    """
    path = Path(folder, REPORT, page)
    return path.as_posix() if (cases / path).is_file() else None


def _thumbnail(case: Case, track: Mapping[str, Any]) -> str | None:
    """Return LR0 as a small data URI, to recognise the track by.

    None of an encrypted case, for the summary is not encrypted.
    """
    if track["shown"] is None or case.encryption is not None:
        return None
    name = Path(track["shown"]["aligned"]).stem
    picture = PilImage.fromarray(case.read_picture(name)).resize((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
