"""A case as plain data: for `show`, `export`, reports and other programs."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

from fasr_video.case import log, results
from fasr_video.case import tracks as track_rows
from fasr_video.case.case import Case
from fasr_video.case.decisions import Decision, by_track
from fasr_video.case.links import Link, all_links, clusters
from fasr_video.case.results import Reconstruction, StoredAnswer
from fasr_video.case.sources import Source, frame_counts, last_segment, sources
from fasr_video.case.store import now
from fasr_video.case.tracks import Face, Track
from fasr_video.configs.settings import min_norm_for
from fasr_video.console import plain, readable_json
from fasr_video.types import Reason

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
TRACK_COLUMNS = (
    *("id", "name", "source", "source_sha256", "time_source", "start_seconds", "end_seconds"),
    *(
        "first_frame",
        "last_frame",
        "first_pts",
        "last_pts",
        "time_base",
        "sightings",
        "most_eye_px",
    ),
    *("verdict", "verdict_reason", "mean_score", "norm", "auxiliaries"),
    *("shown_frame", "shown_pts", "shown_aligned", "shown_native"),
    *(f"shown_{m}" for m in MEASURES),
    *(
        "sr_picture",
        "sr_disagreement",
        "sr_conditioned_on",
        "answer",
        "threshold",
        "extrapolated",
        "remark",
    ),
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


def as_document(case: Case) -> dict[str, Any]:
    """Return the whole case except pictures and the faces that were not selected."""
    with case.snapshot():
        return {
            "schema": SCHEMA,
            "case": {k: case.meta(k) for k in ("case_id", "version")},
            "settings": case.settings,
            "runs": runs(case),
            "sources": [_source(case, source) for source in sources(case)],
            "tracks": tracks(case),
            "links": links(case),
            "clusters": {
                "accepted": _clusters(case, {"accepted"}),
                "proposed": _clusters(case, {"proposed", "accepted"}),
            },
            "searched": case.searched(),
            "gallery": sorted(
                case.table("gallery_photo"), key=lambda photograph: str(photograph["path"])
            ),
            "log": case.table("log"),
        }


def as_json(case: Case) -> str:
    """Return the document of a case as JSON text."""
    return readable_json(as_document(case))


def as_csv(case: Case, rows: str) -> str:
    """Return a CSV table with a line per track, or per detected face where `rows` is "faces"."""
    with case.snapshot():
        lines = faces(case) if rows == "faces" else [table_row(t) for t in tracks(case)]
    return csv_of(FACE_COLUMNS if rows == "faces" else TRACK_COLUMNS, lines)


def csv_of(columns: Sequence[str], lines: Iterable[Mapping[str, Any]]) -> str:
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


def tracks(case: Case, only: int | None = None) -> list[dict[str, Any]]:
    """Return the finished tracks in the order of their first frame, or only one of them."""
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
    entries = []
    for track in finished:
        source = source_of[track.source]
        sightings = sightings_of[track.id]
        lr0 = shown_faces.get(track.id)
        answer = answers.get(track.id)
        restoration = restorations.get(track.id)
        entries.append(
            {
                "id": track.id,
                "name": track.name,
                "source": source.path,
                "source_sha256": source.sha256,
                "time_source": source.info["time_source"],
                "start_seconds": source.since_start(sightings.first_pts),
                "end_seconds": source.since_start(sightings.last_pts),
                "first_frame": sightings.first_frame,
                "last_frame": sightings.last_frame,
                "first_pts": sightings.first_pts,
                "last_pts": sightings.last_pts,
                "time_base": source.info["time_base"],
                "sightings": sightings.count,
                "most_eye_px": sightings.most_eye_px,
                "verdict": track.verdict,
                "verdict_reason": track.verdict_reason,
                "evidence": None if lr0 is None else _evidence(track, lr0, limits),
                "faces_by_reason": reasons[track.id],
                "shown": None if lr0 is None else _picture(case, lr0),
                "auxiliaries": [_picture(case, face) for face in auxiliaries.get(track.id, ())],
                "restoration": None if restoration is None else _restoration(case, restoration),
                "answer": None if answer is None else _answer(answer),
                "decisions": [_decision(d, answer) for d in decisions.get(track.id, ())],
            }
        )
    return entries


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


def links(case: Case) -> list[dict[str, Any]]:
    """Return all links, each with the role of the reviewer who decided on it, which the log has."""
    roles: dict[int, str] = {}
    for line in log.entries(case, "link decided"):
        decided = line.details
        roles[decided["link"]] = decided.get("role", "") if decided["to"] != "proposed" else ""
    ordered = sorted(
        all_links(case), key=lambda link: (link.state == "refused", -link.score, link.id)
    )
    return [asdict(link) | {"decided_as": roles.get(link.id, "")} for link in ordered]


def runs(case: Case) -> list[dict[str, Any]]:
    """Return each run that computed something: who ran it, in what role, and its period.

    An interrupted run ends with the last segment that it stored.
    """
    entries: list[dict[str, Any]] = []
    for line in log.entries(case, "run begun", "run ended"):
        if line.event == "run begun":
            entries.append({"begun": line.at, "ended": None, **line.details})
        elif entries:
            entries[-1]["ended"] = line.at
    for number, run in enumerate(entries, 1):
        run["finished"] = run["ended"] is not None
        until = entries[number]["begun"] if number < len(entries) else now()
        run["ended"] = run["ended"] or last_segment(case, run["begun"], until)
    return entries


def _clusters(case: Case, states: set[str]) -> list[dict[str, object]]:
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
            {
                "tracks": [names[track] for track in group],
                "links": sorted(link.id for link in own_links),
                "links_accepted": sum(link.state == "accepted" for link in own_links),
                "weakest_score": min(link.score for link in own_links),
            }
        )
    return entries


def _source(case: Case, source: Source) -> dict[str, object]:
    counts = frame_counts(case, source.id)
    reasons = track_rows.reasons_of_source(case, source.id)
    return {
        "path": source.path,
        "sha256": source.sha256,
        "state": source.state,
        "info": source.info,
        "detector": source.detector,
        "camera": source.camera,
        "clock": source.clock,
        "losses": source.losses,
        "frames_looked_at": source.frames,
        "frames_looked_at_whole": counts["whole"],
        "frames_not_looked_at": counts["skipped"],
        "frames_skipped_as_damaged": source.skipped_damaged,
        "seconds_of_work": source.seconds,
        "faces_by_reason": {
            reason: count for reason, count in reasons.items() if reason is not None
        },
    }


def _picture(case: Case, face: Face) -> dict[str, object]:
    return {
        "face": face.id,
        "frame": face.frame_index,
        "pts": face.pts,
        "reason": face.reason,
        "box": list(face.box),
        "landmarks": face.points,
        "quality": {name: getattr(face, name) for name in MEASURES},
        "aligned": face.aligned and _relative(case, face.aligned),
        "native": face.native and _relative(case, face.native),
    }


def _evidence(
    track: Track, face: Face, limits: Mapping[str, Any]
) -> dict[str, float | None] | None:
    """Return the measures and limits that say whether a track is a face, or None without
    measures."""
    if track.norm is None:
        return None
    return {
        "mean_score": track.mean_score,
        "norm": track.norm,
        "eye_px": face.eye_px,
        "sure_score": limits["sure_score"],
        "min_norm": min_norm_for(face.eye_px, limits["min_norm"], limits["min_norm_large"]),
    }


def track_state(track: dict[str, Any]) -> str:
    """Return the state of a track: candidates, unknown, insufficient, not a face or not
    searched."""
    if track["answer"] is not None:
        return str(track["answer"]["verdict"])
    return state_without_search(track["verdict"], track["verdict_reason"])


def picture_name(restoration: Mapping[str, Any]) -> str:
    """Return the caption for the picture of a reconstruction."""
    if len(restoration["samples"]) > 1:
        return f"Mean of {len(restoration['samples'])} samples"
    if not restoration["model"]:
        return "Enlarged by bicubic: nothing was reconstructed"
    if restoration["sampler"]:
        return "One sample"
    return "Posterior mean" if restoration["method"] == "mean" else "One picture"


def certainty_note(restoration: Mapping[str, Any]) -> str:
    """Return a sentence on how certain the picture of a reconstruction is."""
    if len(restoration["samples"]) > 1:
        share = f"{100 * restoration['disagreement']:.1f} %"
        return (
            f"Its samples disagree by {share} of the brightness range on average. They share one"
            " network: what all of them show may still be invented."
        )
    if not restoration["model"]:
        return "No network drew it: it shows what the camera saw, and no more."
    if restoration["method"] == "mean":
        return (
            "The average of all faces that fit what the camera saw:"
            " where it is smooth, nothing is known."
        )
    return "One picture alone cannot say how sure the network is."


def state_without_search(verdict: str | None, reason: str | None) -> str:
    """Return the state of a track that was not searched."""
    if reason == Reason.NOT_A_FACE:
        return "not a face"
    return "not searched" if verdict == "usable" else "insufficient"


def _restoration(case: Case, reconstruction: Reconstruction) -> dict[str, object]:
    return reconstruction.provenance | {
        "picture": _relative(case, reconstruction.picture),
        "spread": reconstruction.spread and _relative(case, reconstruction.spread),
        "samples": [_relative(case, sample) for sample in reconstruction.samples],
    }


def _answer(answered: StoredAnswer) -> dict[str, object]:
    """Return a search answer as plain data: the verdict, the joined list and the list of each
    probe."""
    answer = answered.answer
    joined = [
        {
            "rank": rank,
            "subject": candidate.subject,
            "log10_likelihood_ratio": candidate.ratio,
            "score": candidate.score,
            "cosines": candidate.cosines,
            "support": list(candidate.support),
            "passes": candidate.passes,
            "only_sr": candidate.only_sr,
            "at_bound_of_calibration": candidate.at_bound,
        }
        for rank, candidate in enumerate(answer.joined, 1)
    ]
    lists = {
        kind: [
            {
                "rank": rank,
                "subject": hit.subject,
                "log10_likelihood_ratio": hit.ratio,
                "cosine": hit.cosine,
            }
            for rank, hit in enumerate(hits, 1)
        ]
        for kind, hits in answer.lists.items()
    }
    return {
        "verdict": answer.verdict,
        "threshold": answer.threshold,
        "extrapolated": answer.extrapolated,
        "remark": answered.remark,
        "joined": joined,
        "lists": lists,
    }


def _decision(decision: Decision, answered: StoredAnswer | None) -> dict[str, object]:
    """Return a decision as plain data; `below_threshold` is null without a subject or a search."""
    return asdict(decision) | {"below_threshold": below_threshold(answered, decision.subject)}


def below_threshold(answered: StoredAnswer | None, subject: str | None) -> bool | None:
    """Return whether a subject is below the threshold; None without a subject or a search."""
    if subject is None or answered is None:
        return None
    return not any(c.passes and c.subject == subject for c in answered.answer.joined)


def decided_subject(decision: dict[str, Any]) -> str:
    """Return the subject of a decision, marked where it is below the threshold."""
    subject = decision["subject"] or ""
    return f"{subject} (below the threshold)" if decision["below_threshold"] else subject


def _relative(case: Case, picture: str) -> str:
    return str(case.picture_path(picture).relative_to(case.folder))


def table_row(track: dict[str, Any]) -> dict[str, Any]:
    """Return a track as a row of the CSV table."""
    shown_face = track["shown"] or {}
    line = {
        k: track[k] for k in TRACK_COLUMNS if k in track and not isinstance(track[k], dict | list)
    }
    line |= {k: (track["evidence"] or {}).get(k) for k in ("mean_score", "norm")}
    line |= {f"shown_{k}": shown_face.get(k) for k in ("frame", "pts", "aligned", "native")}
    line |= {f"shown_{k}": v for k, v in shown_face.get("quality", {}).items()}
    line["auxiliaries"] = len(track["auxiliaries"])
    if track["restoration"] is not None:
        restoration = track["restoration"]
        line["sr_picture"] = restoration["picture"]
        line["sr_disagreement"] = restoration["disagreement"]
        line["sr_conditioned_on"] = restoration.get("conditioned_on", "")
    line["answer"] = track_state(track)
    if track["answer"] is not None:
        line |= {k: track["answer"][k] for k in ("threshold", "extrapolated", "remark")}
        # Tables never name a candidate below the threshold; the JSON has the whole list.
        passing = [candidate for candidate in track["answer"]["joined"] if candidate["passes"]]
        for candidate in passing[:1]:
            line |= {
                "candidate": candidate["subject"],
                "candidate_score": candidate["score"],
                "candidate_ratio": candidate["log10_likelihood_ratio"],
                "candidate_support": " ".join(candidate["support"]),
            }
    return line


def picture_origin(case: Case, track: dict[str, Any], stored: str) -> dict[str, object]:
    """Return the case, footage, detector and track that a stored picture comes from."""
    return {
        "case": {
            "id": case.meta("case_id"),
            "version": case.meta("version"),
            "settings_sha256": hashlib.sha256(case.meta("settings").encode()).hexdigest(),
            "log_head": case.meta("log_head"),
        },
        "picture_sha256": Path(stored).stem,
        "source": {"name": Path(track["source"]).name, "sha256": track["source_sha256"]},
        "detector": next(s.detector for s in sources(case) if s.sha256 == track["source_sha256"]),
        "track": track["name"],
    }


def frame_time(track: dict[str, Any], face: dict[str, Any]) -> dict[str, object]:
    """Return the frame of a face and its time, in pts and in seconds from the start of the
    footage."""
    seconds = (face["pts"] - track["first_pts"]) * Fraction(track["time_base"])
    return {
        "frame": face["frame"],
        "pts": face["pts"],
        "time_base": track["time_base"],
        "seconds": track["start_seconds"] + float(seconds),
    }
