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
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jinja2
from PIL import Image as PilImage

from fasr_video import __version__
from fasr_video.archive.ledger import DATABASE, NUMBERS, STATES, Job, Ledger
from fasr_video.case.case import Case
from fasr_video.case.document import csv_of
from fasr_video.case.document import tracks as tracks_of
from fasr_video.case.entries import TrackEntry, decided_subject
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
from fasr_video.types import shallow_dict

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
class SummaryJob:
    """A job of the ledger as the summary shows it."""

    case: str
    state: str
    files: list[str]
    camera: str | None
    start: str | None
    start_uncertainty: float | None
    tries: int
    error: str | None
    frames: int | None
    faces: int | None
    tracks: int | None
    usable: int | None
    with_candidates: int | None
    unknown: int | None
    losses: int | None
    footage_seconds: float | None
    work_seconds: float | None
    sha256: str
    report: str | None
    """Path of the report's first page in the cases' folder."""
    counted: bool
    """False where another job has the same content."""


@dataclass(frozen=True, slots=True)
class PassingCandidate:
    subject: str
    score: float
    log10_likelihood_ratio: float | None
    only_sr: bool
    support: list[Kind]


@dataclass(frozen=True, slots=True)
class StandingDecision:
    verdict: str
    subject: str | None
    by: str
    role: str


@dataclass(frozen=True, slots=True)
class SummaryTrack:
    """A track as the summary shows it, without names below the threshold."""

    case: str
    track: str
    report: str | None
    camera: str | None
    start_seconds: float
    end_seconds: float
    wall: str | None
    wall_uncertainty: float | None
    candidates: list[PassingCandidate]
    decisions: list[StandingDecision]
    thumbnail: str | None


@dataclass(frozen=True, slots=True)
class Subject:
    """Tracks that may be one person."""

    subject: str
    tracks: list[SummaryTrack]
    weakest_score: float | None
    joined_by_people: bool


@dataclass(frozen=True, slots=True)
class NotRead:
    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class PurgedCase:
    case: str
    at: str
    why: str


@dataclass(frozen=True, slots=True)
class Summary:
    """The content of summary.json."""

    schema: str
    version: str
    made: str
    jobs_by_state: dict[str, int]
    totals: dict[str, float]
    jobs: list[SummaryJob]
    not_read: list[NotRead]
    purged: list[PurgedCase]
    leads: list[SummaryTrack]
    subjects: list[Subject]


@dataclass(frozen=True, slots=True)
class CaseTrack:
    """A track of some case, with what is needed to compare it with tracks of other cases."""

    tracklet: Tracklet
    embedder: str
    similarity: float
    """The case's own setting: the lowest cosine of two faces that may be proposed as one person."""
    refused: frozenset[int]
    """Tracks (by the numbers used here) that a person said are somebody else."""
    entry: SummaryTrack
    accepted: frozenset[int] = frozenset()
    """Tracks that a person said are the same person."""
    surely_visible: tuple[str, float, float] | None = None
    """The camera, and from when to when it surely saw the track; None where that is not known."""
    verdict: str | None = None
    """Of its search; None where it was not searched."""


def write_summary(ledger: Ledger) -> Summary:
    """Write the summary's files from the ledger and the finished cases, and return the summary."""
    document = summary(ledger)
    texts = {
        "json": json.dumps(asdict(document), indent=2, ensure_ascii=False),
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


def summary(ledger: Ledger) -> Summary:
    """Return the summary of a ledger and its cases."""
    all_jobs = ledger.jobs()
    purged_ids = {
        job.id for job in all_jobs if job.state == "done" and is_purged(ledger.cases / job.folder)
    }
    counted = _newest([job for job in all_jobs if job.id not in purged_ids])
    jobs = []
    not_read = []
    purged = []
    tracks: list[CaseTrack] = []
    for job in all_jobs:
        folder = ledger.cases / job.folder
        row = _job(ledger, job, job.id in counted)
        try:
            if job.id in purged_ids:
                row = replace(row, state=PURGED)
                purged.append(_purged_case(folder, job.folder))
            elif job.state == "done" and job.id in counted:
                own_tracks = _tracks_of_case(folder, row, len(tracks))
                verdicts = [track.verdict for track in own_tracks]
                row = replace(
                    row,
                    with_candidates=verdicts.count("candidates"),
                    unknown=verdicts.count("unknown"),
                )
                tracks += own_tracks
        except FasrError as error:
            not_read.append(NotRead(job.folder, str(error)))
        jobs.append(row)
    not_read += [NotRead(path, reason) for path, reason in ledger.problems()]
    states = [row.state for row in jobs]
    entries = [track.entry for track in tracks]
    return Summary(
        schema=SCHEMA,
        version=__version__,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        jobs_by_state={state: states.count(state) for state in (*STATES, PURGED)},
        totals=_totals(jobs),
        jobs=jobs,
        not_read=not_read,
        purged=purged,
        leads=[entry for entry in entries if entry.candidates or entry.decisions],
        subjects=propose_subjects(tracks),
    )


def _totals(jobs: Sequence[SummaryJob]) -> dict[str, float]:
    """Return the sums over the jobs that are counted."""
    totals = {}
    for key in (*NUMBERS, "work_seconds"):
        totals[key] = sum(getattr(job, key) or 0 for job in jobs if job.counted)
    return totals


def propose_subjects(tracks: Sequence[CaseTrack]) -> list[Subject]:
    """Return groups of tracks, of any case and camera, that may be one person each.

    The rules are those within a case. Tracks that a person joined in their case stay together, and
    no track joins a group if it cannot be the person of any of its tracks.
    """
    subjects: list[Subject] = []
    # Vectors of two embedders cannot be compared.
    for embedder in sorted({track.embedder for track in tracks}):
        subjects += _subjects_of([track for track in tracks if track.embedder == embedder])
    subjects.sort(key=_most_cameras_first)
    return [replace(subject, subject=f"P{n}") for n, subject in enumerate(subjects, 1)]


def _subjects_of(tracks: Sequence[CaseTrack]) -> list[Subject]:
    """Return the groups among tracks whose features can be compared, without names."""
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
            Subject(
                subject="",
                tracks=[by_id[member].entry for member in sorted(members)],
                weakest_score=min(scores_within, default=None),
                joined_by_people=any(member in joined for member in members),
            )
        )
    return subjects


def _most_cameras_first(subject: Subject) -> tuple[int, int, float]:
    cameras = {track.camera for track in subject.tracks}
    return -len(cameras), -len(subject.tracks), -(subject.weakest_score or 0)


def _clusters(pairs: Iterable[tuple[int, int]]) -> dict[int, set[int]]:
    """Return, for each track in a pair, all tracks that pairs connect with it."""
    clusters: dict[int, set[int]] = {}
    for a, b in pairs:
        joined = clusters.get(a, {a}) | clusters.get(b, {b})
        clusters |= dict.fromkeys(joined, joined)
    return clusters


def _are_apart(a: CaseTrack, b: CaseTrack) -> bool:
    """Return whether two tracks are two people: somebody said so, or a camera saw both at once."""
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


def as_csv(document: Summary) -> str:
    """Return the summary's jobs as CSV."""
    rows = []
    for job in document.jobs:
        row = {column: getattr(job, column) for column in COLUMNS}
        rows.append({**row, "files": " | ".join(job.files)})
    return csv_of(COLUMNS, rows)


def as_html(document: Summary) -> str:
    """Return the summary as a page."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    page = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page.filters["clock"] = lambda text: datetime.fromisoformat(text).isoformat(" ", "milliseconds")
    return page.get_template("summary.html").render(shallow_dict(document))


def _job(ledger: Ledger, job: Job, counted: bool) -> SummaryJob:
    """Return a job as it stands in the summary."""
    files = ledger.files(job)
    recording = files[0].recording if files else None
    clock = job.summary.get("clock") or (recording.clock if recording else None) or {}
    camera = job.summary.get("camera") or (recording.camera if recording else None)
    return SummaryJob(
        case=job.folder,
        state=job.state,
        files=[file.name for file in files],
        camera=camera,
        start=clock.get("start"),
        start_uncertainty=clock.get("uncertainty_seconds"),
        tries=job.tries,
        error=job.error,
        **{key: job.summary.get(key) for key in NUMBERS},
        work_seconds=None if job.seconds is None else round(job.seconds, 1),
        sha256=job.sha256,
        report=_report(ledger.cases, job.folder, INDEX) if job.state == "done" else None,
        counted=counted,
    )


def _purged_case(folder: Path, name: str) -> PurgedCase:
    """Return when a case was purged, and why."""
    stone = read_tombstone(folder)
    return PurgedCase(name, stone.removed_at or stone.begun_at, stone.why)


def _tracks_of_case(folder: Path, job: SummaryJob, first_number: int) -> list[CaseTrack]:
    """Return the usable tracks of a case, numbered from `first_number`."""
    with Case.open(folder, read_only=True) as case, case.snapshot():
        similarity = case.settings["link"]["min_similarity"]
        of_track = encodings(case)
        features = all_features(case)
        tracks = [track for track in tracks_of(case) if track.id in of_track]
        numbers = {track.id: first_number + k for k, track in enumerate(tracks)}
        linked = _decided_links(case, numbers)
        case_tracks = []
        for track in tracks:
            tracklet = Tracklet(
                numbers[track.id],
                first_number,
                track.start_seconds,
                track.end_seconds,
                features[track.id][Kind.POOLED],
            )
            case_tracks.append(
                CaseTrack(
                    tracklet,
                    of_track[track.id].provenance["embedder"],
                    similarity,
                    refused=frozenset(linked["refused"][track.id]),
                    entry=_track(case, track, job),
                    accepted=frozenset(linked["accepted"][track.id]),
                    surely_visible=_surely_visible(track, job),
                    verdict=None if track.answer is None else track.answer.verdict,
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


def _surely_visible(track: TrackEntry, job: SummaryJob) -> tuple[str, float, float] | None:
    if job.camera is None or job.start is None:
        return None
    start = datetime.fromisoformat(job.start).timestamp()
    uncertainty = job.start_uncertainty or 0.0
    first = start + track.start_seconds + uncertainty
    last = start + track.end_seconds - uncertainty
    return (job.camera, first, last) if first <= last else None


def _track(case: Case, track: TrackEntry, job: SummaryJob) -> SummaryTrack:
    wall = None
    if job.start is not None:
        at = datetime.fromisoformat(job.start) + timedelta(seconds=track.start_seconds)
        wall = at.isoformat(timespec="milliseconds")
    return SummaryTrack(
        case=job.case,
        track=track.name,
        report=_report(case.folder.parent, job.case, f"{track.name}.html"),
        camera=job.camera,
        start_seconds=track.start_seconds,
        end_seconds=track.end_seconds,
        wall=wall,
        wall_uncertainty=job.start_uncertainty,
        candidates=[
            PassingCandidate(c.subject, c.score, c.log10_likelihood_ratio, c.only_sr, c.support)
            for c in (track.answer.passing if track.answer else ())
        ],
        decisions=[
            StandingDecision(d.verdict, decided_subject(d) or None, d.by, d.role)
            for d in track.standing
        ],
        thumbnail=_thumbnail(case, track),
    )


def _report(cases: Path, folder: str, page: str) -> str | None:
    """Return the path of a page of a case's report within the cases' folder.

    None where there is no such page, as of an encrypted case.
    """
    path = Path(folder, REPORT, page)
    return path.as_posix() if (cases / path).is_file() else None


def _thumbnail(case: Case, track: TrackEntry) -> str | None:
    """Return LR0 as a small data URI, to recognise the track by.

    None of an encrypted case, for the summary is not encrypted.
    """
    if track.shown is None or track.shown.aligned is None or case.encryption is not None:
        return None
    name = Path(track.shown.aligned).stem
    picture = PilImage.fromarray(case.read_picture(name)).resize((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
