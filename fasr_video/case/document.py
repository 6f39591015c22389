"""A case as plain data: for `show`, for machines, for another tool."""

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
from fasr_video.case import tracks as rows
from fasr_video.case.case import Case
from fasr_video.case.decisions import Decision, by_track
from fasr_video.case.links import Link, all_links, clusters
from fasr_video.case.results import Reconstruction, StoredAnswer
from fasr_video.case.sources import Source, frame_counts, last_segment, sources
from fasr_video.case.store import now
from fasr_video.case.tracks import Face, Track
from fasr_video.configs.settings import least_norm
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
    """Everything but the pictures and the single faces that were not kept."""
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
    return readable_json(as_document(case))


def as_csv(case: Case, rows: str) -> str:
    """One line a track, or (`rows` "faces") one a face that was seen; each names its file and its time."""
    with case.snapshot():
        lines = faces(case) if rows == "faces" else [table_row(t) for t in tracks(case)]
    return csv_of(FACE_COLUMNS if rows == "faces" else TRACK_COLUMNS, lines)


def csv_of(columns: Sequence[str], lines: Iterable[Mapping[str, Any]]) -> str:
    """A table for other programs. Spreadsheets take a text that begins as a formula for one: it gets a ' before it."""
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
    """Finished tracks in the order of their first sighting, or `only` one."""
    footage = {source.id: source for source in sources(case)}
    seen, reasons = rows.sightings(case, only), rows.reasons(case, only)
    shown, auxiliaries = rows.shown_faces(case, only), rows.auxiliaries(case, only)
    drawn, answers = results.reconstructions(case, only), results.answers(case, only)
    made, limits = by_track(case, only), case.settings["select"]
    found = []
    known = [track for track in rows.finished_tracks(case, only) if track.id in seen]
    for track in sorted(known, key=lambda t: (t.source, seen[t.id].first_frame, t.id)):
        source, sightings = footage[track.source], seen[track.id]
        lr0, answer, restoration = shown.get(track.id), answers.get(track.id), drawn.get(track.id)
        found.append(
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
                "decisions": [_decision(decision, answer) for decision in made.get(track.id, ())],
            }
        )
    return found


def faces(case: Case) -> list[dict[str, object]]:
    footage, numbers = (
        {source.id: source for source in sources(case)},
        {t.id: t.number for t in rows.finished_tracks(case)},
    )
    found = []
    for face in rows.all_faces(case):
        source = footage[face.source]
        line = {name: getattr(face, name) for name in FACE_COLUMNS if name in Face.__slots__}
        line |= {
            "source": source.path,
            "source_sha256": source.sha256,
            "seconds": source.since_start(face.pts),
        }
        found.append(line | {"track": None if face.track is None else numbers.get(face.track)})
    return found


def links(case: Case) -> list[dict[str, Any]]:
    """With the role in which each was decided, which the log has."""
    roles: dict[int, str] = {}
    for line in log.entries(case, "link decided"):
        decided = line.details
        roles[decided["link"]] = decided.get("role", "") if decided["to"] != "proposed" else ""
    ordered = sorted(
        all_links(case), key=lambda link: (link.state == "refused", -link.score, link.id)
    )
    return [asdict(link) | {"decided_as": roles.get(link.id, "")} for link in ordered]


def runs(case: Case) -> list[dict[str, Any]]:
    """Each use that computed something: who ran it, as what, and its period.

    One that was broken off ended, as far as the case knows, with the last segment that it made safe.
    """
    found: list[dict[str, Any]] = []
    for line in log.entries(case, "run begun", "run ended"):
        if line.event == "run begun":
            found.append({"begun": line.at, "ended": None, **line.details})
        elif found:
            found[-1]["ended"] = line.at
    for number, run in enumerate(found, 1):
        run["finished"] = run["ended"] is not None
        until = found[number]["begun"] if number < len(found) else now()
        run["ended"] = run["ended"] or last_segment(case, run["begun"], until)
    return found


def _clusters(case: Case, states: set[str]) -> list[dict[str, object]]:
    """Tracks that may be (with proposed links) or were decided to be one person, and what holds them together."""
    names = {track.id: track.name for track in rows.finished_tracks(case)}
    groups = clusters(case, states)
    group_of = {track: number for number, group in enumerate(groups) for track in group}
    held: list[list[Link]] = [[] for _ in groups]
    for link in all_links(case):
        if link.state in states:
            held[group_of[link.a]].append(link)
    found = []
    for tracks_of_one, own in zip(groups, held, strict=True):
        if "proposed" in states and all(link.state == "accepted" for link in own):
            continue  # nothing in it is open
        found.append(
            {
                "tracks": [names[t] for t in tracks_of_one],
                "links": sorted(link.id for link in own),
                "links_accepted": sum(link.state == "accepted" for link in own),
                "weakest_score": min(link.score for link in own),
            }
        )
    return found


def _source(case: Case, source: Source) -> dict[str, object]:
    counts = frame_counts(case, source.id)
    reasons = rows.reasons_of_source(case, source.id)
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
    track: Track, shown: Face, limits: Mapping[str, Any]
) -> dict[str, float | None] | None:
    """What it was decided by that it is a face, or not; None where there was no telling."""
    if track.norm is None:
        return None
    return {
        "mean_score": track.mean_score,
        "norm": track.norm,
        "eye_px": shown.eye_px,
        "sure_score": limits["sure_score"],
        "min_norm": least_norm(shown.eye_px, limits["min_norm"], limits["min_norm_large"]),
    }


def track_state(track: dict[str, Any]) -> str:
    """What there is to say of a track: candidates, unknown, insufficient, not a face, or that nobody has asked."""
    if track["answer"] is not None:
        return str(track["answer"]["verdict"])
    return state_without_search(track["verdict"], track["verdict_reason"])


def picture_name(made: Mapping[str, Any]) -> str:
    """Return what the picture of a reconstruction is called."""
    if len(made["samples"]) > 1:
        return f"Mean of {len(made['samples'])} samples"
    if not made["model"]:
        return "Enlarged by bicubic: nothing was reconstructed"
    if made["sampler"]:
        return "One sample"
    return "Posterior mean" if made["method"] == "mean" else "One picture"


def certainty_note(made: Mapping[str, Any]) -> str:
    """Return what the picture of a reconstruction says of how sure it is."""
    if len(made["samples"]) > 1:
        share = f"{100 * made['disagreement']:.1f} %"
        return (
            f"Its samples disagree by {share} of the brightness range on average. They share one network: what all of"
            " them show may still be invented."
        )
    if not made["model"]:
        return "No network drew it: it shows what the camera saw, and no more."
    if made["method"] == "mean":
        return "The average of all faces that fit what the camera saw: where it is smooth, nothing is known."
    return "One picture alone cannot say how sure the network is."


def state_without_search(verdict: str | None, reason: str | None) -> str:
    """What there is to say of a track that was not searched for."""
    if reason == Reason.NOT_A_FACE:
        return "not a face"
    return "not searched" if verdict == "usable" else "insufficient"


def _restoration(case: Case, made: Reconstruction) -> dict[str, object]:
    return made.provenance | {
        "picture": _relative(case, made.picture),
        "spread": made.spread and _relative(case, made.spread),
        "samples": [_relative(case, sample) for sample in made.samples],
    }


def _answer(answered: StoredAnswer) -> dict[str, object]:
    """The verdict on a track, the list that joins its probes, and the list of each probe."""
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
    """What a reviewer said of a track; `below_threshold` is null where no subject is named, or nothing was searched."""
    return asdict(decision) | {"below_threshold": below_threshold(answered, decision.subject)}


def below_threshold(answered: StoredAnswer | None, subject: str | None) -> bool | None:
    """Whether the search does not support that subject for the track; None where there is nothing to say."""
    if subject is None or answered is None:
        return None
    return not any(c.passes and c.subject == subject for c in answered.answer.joined)


def decided_subject(decision: dict[str, Any]) -> str:
    """The subject of a decision; a name that the search does not support says so wherever it stands."""
    subject = decision["subject"] or ""
    return f"{subject} (below the threshold)" if decision["below_threshold"] else subject


def _relative(case: Case, picture: str) -> str:
    return str(case.picture_path(picture).relative_to(case.folder))


def table_row(track: dict[str, Any]) -> dict[str, Any]:
    """A track as a line of a table."""
    shown = track["shown"] or {}
    line = {
        k: track[k] for k in TRACK_COLUMNS if k in track and not isinstance(track[k], dict | list)
    }
    line |= {k: (track["evidence"] or {}).get(k) for k in ("mean_score", "norm")}
    line |= {f"shown_{k}": shown.get(k) for k in ("frame", "pts", "aligned", "native")}
    line |= {f"shown_{k}": v for k, v in shown.get("quality", {}).items()}
    line["auxiliaries"] = len(track["auxiliaries"])
    if track["restoration"] is not None:
        made = track["restoration"]
        line |= {"sr_picture": made["picture"], "sr_disagreement": made["disagreement"]}
        line["sr_conditioned_on"] = made.get("conditioned_on", "")
    line["answer"] = track_state(track)
    if track["answer"] is not None:
        line |= {k: track["answer"][k] for k in ("threshold", "extrapolated", "remark")}
        # No name below the threshold in any table: a list to look through is in the JSON.
        passing = [c for c in track["answer"]["joined"] if c["passes"]][:1]
        for c in passing:
            line |= {
                "candidate": c["subject"],
                "candidate_score": c["score"],
                "candidate_ratio": c["log10_likelihood_ratio"],
            }
            line["candidate_support"] = " ".join(c["support"])
    return line


def picture_origin(case: Case, track: dict[str, Any], stored: str) -> dict[str, object]:
    """Where in which case it lies, and the footage that it is from."""
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
    seconds = (face["pts"] - track["first_pts"]) * Fraction(track["time_base"])
    return {
        "frame": face["frame"],
        "pts": face["pts"],
        "time_base": track["time_base"],
        "seconds": track["start_seconds"] + float(seconds),
    }
