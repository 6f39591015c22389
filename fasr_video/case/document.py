"""A case as plain data: for `show`, for machines, for another tool."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from sqlite3 import Row
from typing import Any

from fasr_video.case.case import Case
from fasr_video.case.decisions import decisions
from fasr_video.case.links import clusters
from fasr_video.case.sources import looked
from fasr_video.case.store import now, track_name
from fasr_video.configs.settings import least_norm
from fasr_video.console import plain, readable_json
from fasr_video.errors import CaseError
from fasr_video.types import Reason

SCHEMA = "fasr-video/case/3"
MEASURES = ("score", "eye_px", "sharpness", "turn", "exposure", "contrast", "inside", "clear", "total")
TRACK_COLUMNS = (
    *("id", "name", "source", "source_sha256", "time_source", "start_seconds", "end_seconds"),
    *("first_frame", "last_frame", "first_pts", "last_pts", "time_base", "sightings", "most_eye_px"),
    *("verdict", "verdict_reason", "mean_score", "norm", "auxiliaries"),
    *("shown_frame", "shown_pts", "shown_aligned", "shown_native"),
    *(f"shown_{m}" for m in MEASURES),
    *("sr_picture", "sr_disagreement", "sr_conditioned_on", "answer", "threshold", "extrapolated", "remark"),
    *("candidate", "candidate_score", "candidate_ratio", "candidate_support"),
)
FACE_COLUMNS = (
    *("id", "source", "source_sha256", "track", "frame_index", "pts", "seconds", "x1", "y1", "x2", "y2", "landmarks"),
    *(*MEASURES, "reason", "aligned", "native"),
)

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def as_document(case: Case) -> dict[str, Any]:
    """Everything but the pictures and the single faces that were not kept."""
    with case.one_moment():
        return {
            "schema": SCHEMA,
            "case": {k: case.meta(k) for k in ("case_id", "version")},
            "settings": json.loads(case.meta("settings")),
            "runs": runs(case),
            "sources": [
                _source(case, row["id"]) for row in case.db.execute("SELECT id FROM source ORDER BY id").fetchall()
            ],
            "tracks": tracks(case),
            "links": links(case),
            "clusters": {
                "accepted": _clusters(case, {"accepted"}),
                "proposed": _clusters(case, {"proposed", "accepted"}),
            },
            "searched": case.searched(),
            "gallery": [dict(r) for r in case.db.execute("SELECT * FROM gallery_photo ORDER BY path").fetchall()],
            "log": [dict(r) for r in case.db.execute("SELECT * FROM log ORDER BY id").fetchall()],
        }


def as_json(case: Case) -> str:
    return readable_json(as_document(case))


def as_csv(case: Case, rows: str) -> str:
    """One line a track, or (`rows` "faces") one a face that was seen; each names its file and its time."""
    with case.one_moment():
        lines = faces(case) if rows == "faces" else [flat(t) for t in tracks(case)]
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
    found = []
    query = """
        SELECT track.*, source.path, source.sha256, min(face.pts) AS first_pts, max(face.pts) AS last_pts,
               min(face.frame_index) AS first_frame, max(face.frame_index) AS last_frame, count(*) AS sightings,
               max(face.eye_px) AS most_eye_px
        FROM track JOIN source ON source.id = track.source JOIN face ON face.track = track.id
        WHERE track.state = 'done' AND track.id = coalesce(?, track.id)
        GROUP BY track.id ORDER BY track.source, first_frame, track.id"""
    infos = {source: json.loads(info) for source, info in case.db.execute("SELECT id, info FROM source").fetchall()}
    for row in case.db.execute(query, (only,)).fetchall():
        info = infos[row["source"]]
        base = Fraction(info["time_base"])
        start = info["first_pts"] * base
        shown = _picture(case, row["shown_face"])
        counted = "SELECT reason, count(*) FROM face WHERE track = ? GROUP BY reason"
        found.append(
            {
                "id": row["id"],
                "name": track_name(row),
                "source": row["path"],
                "source_sha256": row["sha256"],
                "time_source": info["time_source"],
                "start_seconds": float(row["first_pts"] * base - start),
                "end_seconds": float(row["last_pts"] * base - start),
                "first_frame": row["first_frame"],
                "last_frame": row["last_frame"],
                "first_pts": row["first_pts"],
                "last_pts": row["last_pts"],
                "time_base": info["time_base"],
                "sightings": row["sightings"],
                "most_eye_px": row["most_eye_px"],
                "verdict": row["verdict"],
                "verdict_reason": row["verdict_reason"],
                "evidence": _evidence(case, row, shown),
                "faces_by_reason": dict(case.db.execute(counted, (row["id"],)).fetchall()),
                "shown": shown,
                "auxiliaries": [_picture(case, f) for f in _auxiliaries(case, row["id"])],
                "restoration": _restoration(case, row["id"]),
                "answer": _answer(case, row["id"]),
                "decisions": _decisions(case, row["id"]),
            }
        )
    return found


def track_names(case: Case) -> dict[str, int]:
    """Finished tracks by the name that they are shown under."""
    rows = case.db.execute("SELECT id, source, number FROM track WHERE state = 'done'").fetchall()
    return {track_name(row): int(row["id"]) for row in rows}


def track_number(case: Case, name: str) -> int:
    """The number of a finished track by the name that it is shown under."""
    known = track_names(case)
    if name not in known:
        raise CaseError(f"track {name}", "no such finished track in this case", "`fasr-video show CASE` lists them")
    return known[name]


def faces(case: Case) -> list[dict[str, Any]]:
    query = """
        SELECT face.id, source.path AS source, source.sha256 AS source_sha256, track.number AS track,
               face.frame_index, face.pts, source.info, x1, y1, x2, y2, landmarks, score, eye_px, sharpness, turn,
               exposure, contrast, inside, clear, total, reason, aligned, native
        FROM face JOIN source ON source.id = face.source LEFT JOIN track ON track.id = face.track
        ORDER BY face.source, face.frame_index, face.id"""
    found = []
    for row in case.db.execute(query).fetchall():
        line = dict(row)
        info = json.loads(line.pop("info"))
        line["seconds"] = float((row["pts"] - info["first_pts"]) * Fraction(info["time_base"]))
        found.append(line)
    return found


def links(case: Case) -> list[dict[str, Any]]:
    """With the role in which each was decided, which the log has."""
    roles: dict[int, str] = {}
    for row in case.db.execute("SELECT details FROM log WHERE event = 'link decided' ORDER BY id").fetchall():
        decided = json.loads(row["details"])
        roles[decided["link"]] = decided.get("role", "") if decided["to"] != "proposed" else ""
    query = "SELECT * FROM link ORDER BY state = 'refused', score DESC, id"
    return [dict(r) | {"decided_as": roles.get(r["id"], "")} for r in case.db.execute(query).fetchall()]


def runs(case: Case) -> list[dict[str, Any]]:
    """Each use that computed something: who ran it, as what, and its period.

    One that was broken off ended, as far as the case knows, with the last segment that it made safe.
    """
    found: list[dict[str, Any]] = []
    for row in case.db.execute("SELECT at, event, details FROM log WHERE event LIKE 'run %' ORDER BY id").fetchall():
        if row["event"] == "run begun":
            found.append({"begun": row["at"], "ended": None, **json.loads(row["details"])})
        elif found:
            found[-1]["ended"] = row["at"]
    for number, run in enumerate(found, 1):
        run["finished"] = run["ended"] is not None
        until = found[number]["begun"] if number < len(found) else now()
        last = "SELECT max(at) FROM segment WHERE at BETWEEN ? AND ?"
        run["ended"] = run["ended"] or case.db.execute(last, (run["begun"], until)).fetchone()[0]
    return found


def _clusters(case: Case, states: set[str]) -> list[dict[str, Any]]:
    """Tracks that may be (with proposed links) or were decided to be one person, and what holds them together."""
    names = {number: name for name, number in track_names(case).items()}
    groups = clusters(case, states)
    group_of = {track: number for number, group in enumerate(groups) for track in group}
    held: list[list[dict[str, Any]]] = [[] for _ in groups]
    for link in links(case):
        if link["state"] in states:
            held[group_of[link["a"]]].append(link)
    found = []
    for tracks_of_one, own in zip(groups, held, strict=True):
        if "proposed" in states and all(x["state"] == "accepted" for x in own):
            continue  # nothing in it is open
        found.append(
            {
                "tracks": [names[t] for t in tracks_of_one],
                "links": sorted(x["id"] for x in own),
                "links_accepted": sum(x["state"] == "accepted" for x in own),
                "weakest_score": min(x["score"] for x in own),
            }
        )
    return found


def _source(case: Case, source: int) -> dict[str, Any]:
    counts = looked(case, source)
    row = case.db.execute("SELECT * FROM source WHERE id = ?", (source,)).fetchone()
    counted = "SELECT reason, count(*) FROM face WHERE source = ? AND reason IS NOT NULL GROUP BY reason"
    return {
        "path": row["path"],
        "sha256": row["sha256"],
        "state": row["state"],
        "info": json.loads(row["info"]),
        "detector": json.loads(row["detector"]),
        "camera": row["camera"],
        "clock": None if row["clock"] is None else json.loads(row["clock"]),
        "losses": json.loads(row["losses"]),
        "frames_looked_at": row["frames"],
        "frames_looked_at_whole": counts["whole"],
        "frames_not_looked_at": counts["skipped"],
        "frames_skipped_as_damaged": row["skipped_damaged"],
        "seconds_of_work": row["seconds"],
        "faces_by_reason": dict(case.db.execute(counted, (source,)).fetchall()),
    }


def _auxiliaries(case: Case, track: int) -> list[int]:
    query = "SELECT id FROM face WHERE track = ? AND reason = 'aux' ORDER BY frame_index"
    return [int(r["id"]) for r in case.db.execute(query, (track,)).fetchall()]


def _picture(case: Case, face: int | None) -> dict[str, Any] | None:
    row = case.db.execute("SELECT * FROM face WHERE id = ?", (face,)).fetchone()
    if row is None:
        return None
    return {
        "face": face,
        "frame": row["frame_index"],
        "pts": row["pts"],
        "reason": row["reason"],
        "box": [row[k] for k in ("x1", "y1", "x2", "y2")],
        "landmarks": None if row["landmarks"] is None else json.loads(row["landmarks"]),
        "quality": {k: row[k] for k in MEASURES},
        "aligned": _relative(case, row["aligned"]),
        "native": _relative(case, row["native"]),
    }


def _evidence(case: Case, track: Row, shown: dict[str, Any] | None) -> dict[str, float] | None:
    """What it was decided by that it is a face, or not; None where there was no telling."""
    if track["norm"] is None or shown is None:
        return None
    limits = json.loads(case.meta("settings"))["select"]
    eye_px = shown["quality"]["eye_px"]
    return {
        "mean_score": track["mean_score"],
        "norm": track["norm"],
        "eye_px": eye_px,
        "sure_score": limits["sure_score"],
        "min_norm": least_norm(eye_px, limits["min_norm"], limits["min_norm_large"]),
    }


def state_of(track: dict[str, Any]) -> str:
    """What there is to say of a track: candidates, unknown, insufficient, not a face, or that nobody has asked."""
    if track["answer"] is not None:
        return str(track["answer"]["verdict"])
    return not_asked(track["verdict"], track["verdict_reason"])


def not_asked(verdict: str, reason: str | None) -> str:
    """What there is to say of a track that was not searched for."""
    if reason == Reason.NOT_A_FACE:
        return "not a face"
    return "not searched" if verdict == "usable" else "insufficient"


def _restoration(case: Case, track: int) -> dict[str, Any] | None:
    row = case.db.execute("SELECT * FROM restoration WHERE track = ?", (track,)).fetchone()
    if row is None:
        return None
    named = {"picture": row["picture"], "spread": row["spread"]}
    samples = [_relative(case, s) for s in json.loads(row["samples"])]
    facts: dict[str, Any] = json.loads(row["facts"])
    return facts | {k: v and _relative(case, v) for k, v in named.items()} | {"samples": samples}


def _answer(case: Case, track: int) -> dict[str, Any] | None:
    """The verdict on a track, the list that joins its probes, and the list of each probe."""
    row = case.db.execute("SELECT * FROM answer WHERE track = ?", (track,)).fetchone()
    if row is None:
        return None
    lists: dict[str, list[dict[str, Any]]] = {}
    query = "SELECT * FROM candidate WHERE track = ? ORDER BY list, rank"
    for c in case.db.execute(query, (track,)).fetchall():
        line = {"rank": c["rank"], "subject": c["subject"], "log10_likelihood_ratio": c["ratio"]}
        if c["list"] == "joined":
            support = json.loads(c["support"])
            line |= {
                "score": c["score"],
                "cosines": json.loads(c["cosines"]),
                "support": support,
                "passes": bool(c["passes"]),
            }
            line |= {"only_sr": support == ["sr"], "at_bound_of_calibration": bool(c["at_bound"])}
        else:
            line["cosine"] = c["cosine"]
        lists.setdefault(c["list"], []).append(line)
    joined = lists.pop("joined", [])
    facts = {"verdict": row["verdict"], "threshold": row["threshold"], "extrapolated": bool(row["extrapolated"])}
    return {**facts, "remark": row["remark"], "joined": joined, "lists": lists}


def _decisions(case: Case, track: int) -> list[dict[str, Any]]:
    """What reviewers said of a track, those that were undone among them, in the order they said it.

    `below_threshold` is null where no subject is named, or nothing was searched.
    """
    found = decisions(case, track)
    return [asdict(d) | {"below_threshold": below_threshold(case, track, d.subject)} for d in found]


def below_threshold(case: Case, track: int, subject: str | None) -> bool | None:
    """Whether the search does not support that subject for the track; None where there is nothing to say."""
    if subject is None or not case.db.execute("SELECT 1 FROM answer WHERE track = ?", (track,)).fetchone():
        return None
    query = "SELECT 1 FROM candidate WHERE track = ? AND list = 'joined' AND passes AND subject = ?"
    return case.db.execute(query, (track, subject)).fetchone() is None


def decided_subject(decision: dict[str, Any]) -> str:
    """The subject of a decision; a name that the search does not support says so wherever it stands."""
    subject = decision["subject"] or ""
    return f"{subject} (below the threshold)" if decision["below_threshold"] else subject


def _relative(case: Case, picture: str) -> str:
    return str(case.picture_path(picture).relative_to(case.folder))


def flat(track: dict[str, Any]) -> dict[str, Any]:
    """A track as a line of a table."""
    shown = track["shown"] or {}
    line = {k: track[k] for k in TRACK_COLUMNS if k in track and not isinstance(track[k], dict | list)}
    line |= {k: (track["evidence"] or {}).get(k) for k in ("mean_score", "norm")}
    line |= {f"shown_{k}": shown.get(k) for k in ("frame", "pts", "aligned", "native")}
    line |= {f"shown_{k}": v for k, v in shown.get("quality", {}).items()}
    line["auxiliaries"] = len(track["auxiliaries"])
    if track["restoration"] is not None:
        made = track["restoration"]
        line |= {"sr_picture": made["picture"], "sr_disagreement": made["disagreement"]}
        line["sr_conditioned_on"] = made.get("conditioned_on", "")
    line["answer"] = state_of(track)
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


def about(case: Case, track: dict[str, Any], stored: str) -> dict[str, object]:
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
        "detector": _detector(case, track["source_sha256"]),
        "track": track["name"],
    }


def when(track: dict[str, Any], face: dict[str, Any]) -> dict[str, object]:
    seconds = (face["pts"] - track["first_pts"]) * Fraction(track["time_base"])
    return {
        "frame": face["frame"],
        "pts": face["pts"],
        "time_base": track["time_base"],
        "seconds": track["start_seconds"] + float(seconds),
    }


def _detector(case: Case, sha256: str) -> dict[str, object]:
    row = case.db.execute("SELECT detector FROM source WHERE sha256 = ?", (sha256,)).fetchone()
    found: dict[str, object] = json.loads(row["detector"])
    return found
