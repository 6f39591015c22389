"""A case as plain data: for `show`, `export`, reports and other programs."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path

from fasr_video.case import log, results
from fasr_video.case import tracks as track_rows
from fasr_video.case.case import Case
from fasr_video.case.decisions import Decision, by_track
from fasr_video.case.entries import (
    AnswerEntry,
    CandidateEntry,
    ClusterEntry,
    DecisionEntry,
    Document,
    EvidenceEntry,
    FaceEntry,
    HitEntry,
    LinkEntry,
    LogLine,
    PhotographEntry,
    RestorationEntry,
    RunEntry,
    SourceEntry,
    TrackEntry,
    track_state,
)
from fasr_video.case.last_search import last_search
from fasr_video.case.links import Link, all_links, clusters
from fasr_video.case.results import Reconstruction, StoredAnswer
from fasr_video.case.sources import Source, frame_counts, last_segment, sources
from fasr_video.case.tracks import Face, Track
from fasr_video.clock import now
from fasr_video.configs.settings import min_norm_for
from fasr_video.console import plain, readable_json
from fasr_video.types import shallow_dict

SCHEMA = "fasr-video/case/3"
MEASURES = (
    "score",
    "eye_px",
    "sharpness",
    "turn",
    "exposure",
    "contrast",
    "inside",
    "clear",
    "total",
)
# Columns that are fields of a track, and those that are fields of its face.
_PLAIN_COLUMNS = (
    *("id", "name", "source", "source_sha256", "time_source", "start_seconds", "end_seconds"),
    *("first_frame", "last_frame", "first_pts", "last_pts", "time_base"),
    *("sightings", "most_eye_px", "verdict", "verdict_reason"),
)
_SHOWN_COLUMNS = ("frame", "pts", "aligned", "native")
TRACK_COLUMNS = (
    *_PLAIN_COLUMNS,
    *("mean_score", "norm", "auxiliaries"),
    *(f"shown_{name}" for name in (*_SHOWN_COLUMNS, *MEASURES)),
    *("sr_picture", "sr_disagreement", "sr_conditioned_on"),
    *("answer", "threshold", "extrapolated", "remark"),
    *("candidate", "candidate_score", "candidate_ratio", "candidate_support"),
)
FACE_COLUMNS = (
    *(
        "id",
        "source",
        "source_sha256",
        "track",
        "frame_index",
        "pts",
        "seconds",
        "x1",
        "y1",
        "x2",
        "y2",
        "landmarks",
    ),
    *(*MEASURES, "reason", "aligned", "native"),
)

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def as_document(case: Case) -> Document:
    """Return the whole case except pictures and the faces that were not selected."""
    with case.snapshot():
        photographs = [PhotographEntry(**row) for row in case.table("gallery_photo")]
        return Document(
            schema=SCHEMA,
            case={name: case.meta(name) for name in ("case_id", "version")},
            settings=case.settings,
            runs=runs(case),
            sources=[_source(case, source) for source in sources(case)],
            tracks=tracks(case),
            links=links(case),
            clusters={
                "accepted": _clusters(case, {"accepted"}),
                "proposed": _clusters(case, {"proposed", "accepted"}),
            },
            searched=last_search(case),
            gallery=sorted(photographs, key=lambda photograph: photograph.path),
            log=[LogLine(**row) for row in case.table("log")],
        )


def as_json(case: Case) -> str:
    """Return the document of a case as JSON text."""
    return readable_json(asdict(as_document(case)))


def as_csv(case: Case, rows: str) -> str:
    """Return a CSV table with a line per track, or per detected face where `rows` is "faces"."""
    with case.snapshot():
        lines = faces(case) if rows == "faces" else [table_row(track) for track in tracks(case)]
    return csv_of(FACE_COLUMNS if rows == "faces" else TRACK_COLUMNS, lines)


def csv_of(columns: Sequence[str], lines: Iterable[Mapping[str, object]]) -> str:
    """Return these rows as CSV text.

    A text that a spreadsheet would take for a formula gets a ' in front.
    """
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _no_formula(value) for name, value in line.items()} for line in lines)
    return out.getvalue()


def _no_formula(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = plain(value)
    return f"'{text}" if value.startswith(_FORMULA) else text


def tracks(case: Case, only: int | None = None) -> list[TrackEntry]:
    """Return the finished tracks in the order of their first frame, or only one of them."""
    return list(_tracks(case, only))


def _tracks(case: Case, only: int | None) -> Iterator[TrackEntry]:
    source_of = {source.id: source for source in sources(case)}
    sightings_of = track_rows.sightings(case, only)
    reasons = track_rows.reasons(case, only)
    shown_faces = track_rows.shown_faces(case, only)
    auxiliaries = track_rows.auxiliaries(case, only)
    restorations = results.reconstructions(case, only)
    answers = results.answers(case, only)
    decisions = by_track(case, only)
    limits = case.settings["select"]
    finished = [t for t in track_rows.finished_tracks(case, only) if t.id in sightings_of]
    finished.sort(key=lambda t: (t.source, sightings_of[t.id].first_frame, t.id))
    for track in finished:
        source = source_of[track.source]
        sightings = sightings_of[track.id]
        lr0 = shown_faces.get(track.id)
        answer = answers.get(track.id)
        restoration = restorations.get(track.id)
        yield TrackEntry(
            id=track.id,
            name=track.name,
            source=source.path,
            source_sha256=source.sha256,
            time_source=source.info["time_source"],
            start_seconds=source.since_start(sightings.first_pts),
            end_seconds=source.since_start(sightings.last_pts),
            first_frame=sightings.first_frame,
            last_frame=sightings.last_frame,
            first_pts=sightings.first_pts,
            last_pts=sightings.last_pts,
            time_base=source.info["time_base"],
            sightings=sightings.count,
            most_eye_px=sightings.most_eye_px,
            verdict=track.verdict,
            verdict_reason=track.verdict_reason,
            evidence=None if lr0 is None else _evidence(track, lr0, limits),
            faces_by_reason=reasons[track.id],
            shown=None if lr0 is None else _face(case, lr0),
            auxiliaries=[_face(case, face) for face in auxiliaries.get(track.id, ())],
            restoration=None if restoration is None else _restoration(case, restoration),
            answer=None if answer is None else _answer(answer),
            decisions=[_decision(d, answer) for d in decisions.get(track.id, ())],
        )


def faces(case: Case) -> list[dict[str, object]]:
    """Return all detected faces in the order of the footage."""
    source_of = {source.id: source for source in sources(case)}
    numbers = {track.id: track.number for track in track_rows.finished_tracks(case)}
    lines = []
    for face in track_rows.all_faces(case):
        source = source_of[face.source]
        line = {name: getattr(face, name) for name in FACE_COLUMNS if name in Face.__slots__}
        line |= {
            "source": source.path,
            "source_sha256": source.sha256,
            "seconds": source.since_start(face.pts),
        }
        line["track"] = None if face.track is None else numbers.get(face.track)
        lines.append(line)
    return lines


def links(case: Case) -> list[LinkEntry]:
    """Return all links, each with the role of the reviewer who decided on it, which the log has."""
    roles: dict[int, str] = {}
    for line in log.entries(case, "link decided"):
        decided = line.details
        roles[decided["link"]] = decided.get("role", "") if decided["to"] != "proposed" else ""
    ordered = sorted(
        all_links(case), key=lambda link: (link.state == "refused", -link.score, link.id)
    )
    return [LinkEntry(**shallow_dict(link), decided_as=roles.get(link.id, "")) for link in ordered]


def runs(case: Case) -> list[RunEntry]:
    """Return each run that computed something: who ran it, in what role, and its period.

    An interrupted run ends with the last segment that it stored.
    """
    entries: list[RunEntry] = []
    for line in log.entries(case, "run begun", "run ended"):
        if line.event == "run begun":
            begun = line.details
            operator = (begun["by"], begun["role"], begun["what"])
            entries.append(RunEntry(line.at, None, *operator, finished=False))
        elif entries:
            entries[-1] = replace(entries[-1], ended=line.at, finished=True)
    for number, run in enumerate(entries, 1):
        if not run.finished:
            until = entries[number].begun if number < len(entries) else now()
            entries[number - 1] = replace(run, ended=last_segment(case, run.begun, until))
    return entries


def _clusters(case: Case, states: set[str]) -> list[ClusterEntry]:
    """Return the groups of tracks that links in these states join, and those links.

    With proposed links, groups without any proposed link are left out.
    """
    names = {track.id: track.name for track in track_rows.finished_tracks(case)}
    groups = clusters(case, states)
    group_of = {track: number for number, group in enumerate(groups) for track in group}
    group_links: list[list[Link]] = [[] for _ in groups]
    for link in all_links(case):
        if link.state in states:
            group_links[group_of[link.a]].append(link)
    entries = []
    for group, own_links in zip(groups, group_links, strict=True):
        if "proposed" in states and all(link.state == "accepted" for link in own_links):
            continue
        entries.append(
            ClusterEntry(
                tracks=[names[track] for track in group],
                links=sorted(link.id for link in own_links),
                links_accepted=sum(link.state == "accepted" for link in own_links),
                weakest_score=min(link.score for link in own_links),
            )
        )
    return entries


def _source(case: Case, source: Source) -> SourceEntry:
    counts = frame_counts(case, source.id)
    reasons = track_rows.reasons_of_source(case, source.id)
    return SourceEntry(
        path=source.path,
        sha256=source.sha256,
        state=source.state,
        info=source.info,
        detector=source.detector,
        camera=source.camera,
        clock=source.clock,
        losses=source.losses,
        frames_looked_at=source.frames,
        frames_looked_at_whole=counts["whole"],
        frames_not_looked_at=counts["skipped"],
        frames_skipped_as_damaged=source.skipped_damaged,
        seconds_of_work=source.seconds,
        faces_by_reason={reason: count for reason, count in reasons.items() if reason is not None},
    )


def _face(case: Case, face: Face) -> FaceEntry:
    return FaceEntry(
        face=face.id,
        frame=face.frame_index,
        pts=face.pts,
        reason=face.reason,
        box=list(face.box),
        landmarks=face.points,
        quality={name: getattr(face, name) for name in MEASURES},
        aligned=face.aligned and _relative(case, face.aligned),
        native=face.native and _relative(case, face.native),
    )


def _evidence(track: Track, face: Face, limits: Mapping[str, float]) -> EvidenceEntry | None:
    """Return the measures and limits that say whether a track is a face, or None without
    measures."""
    if track.norm is None:
        return None
    return EvidenceEntry(
        mean_score=track.mean_score,
        norm=track.norm,
        eye_px=face.eye_px,
        sure_score=limits["sure_score"],
        min_norm=min_norm_for(face.eye_px, limits["min_norm"], limits["min_norm_large"]),
    )


def _restoration(case: Case, reconstruction: Reconstruction) -> RestorationEntry:
    return RestorationEntry(
        **shallow_dict(reconstruction.drawing),
        picture=_relative(case, reconstruction.picture),
        spread=reconstruction.spread and _relative(case, reconstruction.spread),
        samples=[_relative(case, sample) for sample in reconstruction.samples],
    )


def _answer(answered: StoredAnswer) -> AnswerEntry:
    """Return a search answer: the verdict, the joined list and the list of each probe."""
    answer = answered.answer
    joined = [
        CandidateEntry(
            rank=rank,
            subject=candidate.subject,
            log10_likelihood_ratio=candidate.ratio,
            score=candidate.score,
            cosines=dict(candidate.cosines),
            support=list(candidate.support),
            passes=candidate.passes,
            only_sr=candidate.only_sr,
            at_bound_of_calibration=candidate.at_bound,
        )
        for rank, candidate in enumerate(answer.joined, 1)
    ]
    lists = {}
    for kind, hits in answer.lists.items():
        ranked = enumerate(hits, 1)
        lists[kind] = [HitEntry(rank, hit.subject, hit.ratio, hit.cosine) for rank, hit in ranked]
    return AnswerEntry(
        verdict=answer.verdict,
        threshold=answer.threshold,
        extrapolated=answer.extrapolated,
        remark=answered.remark,
        joined=joined,
        lists=lists,
    )


def _decision(decision: Decision, answered: StoredAnswer | None) -> DecisionEntry:
    below = below_threshold(answered, decision.subject)
    return DecisionEntry(**shallow_dict(decision), below_threshold=below)


def below_threshold(answered: StoredAnswer | None, subject: str | None) -> bool | None:
    """Return whether a subject is below the threshold; None without a subject or a search."""
    if subject is None or answered is None:
        return None
    return not any(c.passes and c.subject == subject for c in answered.answer.joined)


def _relative(case: Case, picture: str) -> str:
    return str(case.picture_path(picture).relative_to(case.folder))


def table_row(track: TrackEntry) -> dict[str, object]:
    """Return a track as a row of the CSV table."""
    line: dict[str, object] = {name: getattr(track, name) for name in _PLAIN_COLUMNS}
    line["auxiliaries"] = len(track.auxiliaries)
    line["answer"] = track_state(track)
    if track.evidence is not None:
        line |= {"mean_score": track.evidence.mean_score, "norm": track.evidence.norm}
    if track.shown is not None:
        line |= {f"shown_{k}": getattr(track.shown, k) for k in _SHOWN_COLUMNS}
        line |= {f"shown_{k}": v for k, v in track.shown.quality.items()}
    if track.restoration is not None:
        line["sr_picture"] = track.restoration.picture
        line["sr_disagreement"] = track.restoration.disagreement
        line["sr_conditioned_on"] = track.restoration.conditioned_on
    if track.answer is not None:
        line |= {k: getattr(track.answer, k) for k in ("threshold", "extrapolated", "remark")}
        # Tables never name a candidate below the threshold; the JSON has the whole list.
        for candidate in track.answer.passing[:1]:
            line |= {
                "candidate": candidate.subject,
                "candidate_score": candidate.score,
                "candidate_ratio": candidate.log10_likelihood_ratio,
                "candidate_support": " ".join(candidate.support),
            }
    return line


def picture_origin(case: Case, track: TrackEntry, stored: str) -> dict[str, object]:
    """Return the case, footage, detector and track that a stored picture comes from."""
    footage = next(s for s in sources(case) if s.sha256 == track.source_sha256)
    return {
        "case": {
            "id": case.meta("case_id"),
            "version": case.meta("version"),
            "settings_sha256": hashlib.sha256(case.meta("settings").encode()).hexdigest(),
            "log_head": case.meta("log_head"),
        },
        "picture_sha256": Path(stored).stem,
        "source": {"name": Path(track.source).name, "sha256": track.source_sha256},
        "detector": asdict(footage.detector),
        "track": track.name,
    }


def frame_time(track: TrackEntry, face: FaceEntry) -> dict[str, object]:
    """Return the frame of a face and its time, in pts and in seconds from the start of the
    footage."""
    seconds = (face.pts - track.first_pts) * Fraction(track.time_base)
    return {
        "frame": face.frame,
        "pts": face.pts,
        "time_base": track.time_base,
        "seconds": track.start_seconds + float(seconds),
    }
