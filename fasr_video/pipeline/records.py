"""How segments, tracks and links are written to and read from a case."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from dataclasses import asdict
from typing import Any

import numpy as np

from fasr_video.case.recording import Place
from fasr_video.case.store import Case, now
from fasr_video.configs.settings import SelectSettings
from fasr_video.detection.frame_skipping import GateState
from fasr_video.errors import CaseError
from fasr_video.media import Losses, MediaInfo
from fasr_video.pipeline.select import Candidate
from fasr_video.pipeline.tracklets import EndedTrack, Segment, Tracklets
from fasr_video.recognition.embedder import Embedder
from fasr_video.sqlite import environment
from fasr_video.trackers import Tracker
from fasr_video.types import FaceCrop, FrameRef, Quality, Reason

_MEASURES = tuple(Quality.__slots__)


def register_source(case: Case, info: MediaInfo, detector: dict[str, Any]) -> int:
    """The number of this footage in the case, by what is in the file, not by its name."""
    row = case.db.execute("SELECT * FROM source WHERE sha256 = ?", (info.sha256,)).fetchone()
    if row is not None:
        known = json.loads(row["detector"])
        if row["state"] == "running" and known != detector:
            reason = f"it was begun with another detector ({known['name']}, {known['model_sha256'][:12]}…)"
            if {**known, "embedder": None} == {**detector, "embedder": None}:
                reason = f"it was begun with another embedder ({(known['embedder'] or 'none')[:12]}…)"
            raise CaseError(case.folder, reason, "give another --out, or go on with that model")
        return int(row["id"])
    path = str(info.path.absolute())
    with case.transaction():
        cursor = case.db.execute(
            "INSERT INTO source (path, sha256, info, detector, state, losses) VALUES (?, ?, ?, ?, 'running', ?)",
            (path, info.sha256, json.dumps(info.as_json()), json.dumps(detector), json.dumps(asdict(Losses()))),
        )
        facts = {"sha256": info.sha256, "info": info.as_json(), "detector": detector}
        case.log("source added", {"source": cursor.lastrowid, "path": path, **facts})
    return int(cursor.lastrowid or 0)


def place_source(case: Case, source: int, place: Place) -> None:
    """Note camera and clock; they may be corrected later, each alone, and the log keeps what was said before."""
    row = case.db.execute("SELECT camera, clock FROM source WHERE id = ?", (source,)).fetchone()
    camera = row["camera"] if place.camera is None else place.camera
    clock = row["clock"] if place.clock is None else json.dumps(place.clock, sort_keys=True)
    if (camera, clock) == tuple(row):
        return
    with case.transaction():
        case.db.execute("UPDATE source SET camera = ?, clock = ? WHERE id = ?", (camera, clock, source))
        told = None if clock is None else json.loads(clock)
        case.log("camera and clock", {"source": source, "camera": camera, "clock": told})


def where_it_stopped(case: Case, source: int, info: MediaInfo) -> FrameRef | None:
    row = case.db.execute("SELECT last_index, last_pts FROM source WHERE id = ?", (source,)).fetchone()
    if row["last_index"] is None:
        return None
    return FrameRef(info.sha256, row["last_index"], row["last_pts"], info.time_base)


def where_it_looked(case: Case, source: int) -> GateState:
    """What a `Gate` knew after the last finished segment."""
    row = case.db.execute("SELECT frames, tracker FROM source WHERE id = ?", (source,)).fetchone()
    stored = {} if row["tracker"] is None else json.loads(row["tracker"])
    seen = None
    if "seen" in stored:
        data = case.unseal(base64.b64decode(stored["seen"]), _seen(source))
        seen = np.frombuffer(data, np.uint8).reshape(stored["cells"])
    counts = looked(case, source)
    places = np.array(stored.get("places", []), np.float32).reshape(-1, 4)
    return GateState(places, seen, row["frames"], counts["whole"], counts["skipped"])


def looked(case: Case, source: int) -> dict[str, int]:
    """How many of a source's frames were looked at as a whole, and not at all."""
    row = case.db.execute("SELECT value FROM meta WHERE key = ?", (_looked(source),)).fetchone()
    if row is None:  # nothing is done yet, or by a version that did not count because it skipped none
        frames = case.db.execute("SELECT frames FROM source WHERE id = ?", (source,)).fetchone()["frames"]
        return {"whole": -(-frames // json.loads(case.meta("settings"))["detect"].get("every", 1)), "skipped": 0}
    return {k: int(v) for k, v in json.loads(row["value"]).items()}


def _looked(source: int) -> str:
    return f"looked {source}"


def _seen(source: int) -> str:
    return f"cells of source {source}"


def _gate_state(case: Case, source: int, gate: GateState) -> dict[str, Any]:
    """As it is stored beside the tracker's. The cells are a small picture of the frame: they are sealed as pictures."""
    places: dict[str, Any] = {"places": gate.boxes.tolist()}
    if gate.seen is None:
        return places
    sealed = case.seal(gate.seen.tobytes(), _seen(source))
    return places | {"cells": gate.seen.shape, "seen": base64.b64encode(sealed).decode()}


def is_done(case: Case, source: int) -> bool:
    return bool(case.db.execute("SELECT state = 'done' FROM source WHERE id = ?", (source,)).fetchone()[0])


def take_up(
    case: Case, source: int, info: MediaInfo, tracker: Tracker, select: SelectSettings, embedder: Embedder | None
) -> Tracklets:
    """Tracklets as they were after the last finished segment, or new ones."""
    db = case.db
    first_free = 1 + (db.execute("SELECT max(id) FROM face").fetchone()[0] or 0)
    tracklets = Tracklets(tracker, select, first_free, embedder)
    stored = db.execute("SELECT tracker FROM source WHERE id = ?", (source,)).fetchone()["tracker"]
    if stored is None:
        return tracklets
    tracker.restore(json.loads(stored))
    done = db.execute("SELECT count(*) FROM track WHERE source = ? AND state = 'done'", (source,)).fetchone()
    tracklets.confirmed = done[0]
    live = db.execute("SELECT id, tracker_id FROM track WHERE source = ? AND state = 'live'", (source,)).fetchall()
    for track in live:
        pool = tracklets.pool(track["tracker_id"])
        for row in db.execute("SELECT score FROM face WHERE track = ? ORDER BY id", (track["id"],)):
            pool.count(row["score"])
        kept = "SELECT * FROM face WHERE track = ? AND aligned IS NOT NULL ORDER BY id"
        for row in db.execute(kept, (track["id"],)).fetchall():
            crop = FaceCrop(
                case.read_picture(row["aligned"]), case.read_picture(row["native"]), (row["native_x"], row["native_y"])
            )
            measures = {k: math.nan if row[k] is None else row[k] for k in _MEASURES}
            candidate = Candidate(row["id"], float(row["pts"] * info.time_base), Quality(**measures), crop)
            if row["reason"] is None:
                pool.usable.append(candidate)
            else:
                pool.best_unusable = candidate
    return tracklets


def save_segment(
    case: Case,
    source: int,
    segment: Segment,
    span: tuple[FrameRef, FrameRef] | None,
    *,
    tracker: Tracker,
    gate: GateState,
    losses: Losses,
    damaged: int,
    seconds: float,
    done: bool,
) -> None:
    """Make a segment safe, in one transaction. `span` is its first and last frame, None when it has none; `gate`
    is what a `Gate` knows after it."""
    with environment(case.folder):
        pictures = {
            number: (case.write_picture(crop.aligned), case.write_picture(crop.native), *crop.native_origin)
            for number, crop in segment.crops.items()
        }
    with case.transaction():
        tracks = _save_faces(case, source, segment, pictures)
        for face, reason in segment.reasons.items():
            case.db.execute("UPDATE face SET reason = ? WHERE id = ?", (reason, face))
        case.db.executemany(
            "UPDATE face SET aligned = NULL, native = NULL WHERE id = ?", [(f,) for f in segment.released]
        )
        for ended in segment.ended:
            _end_track(case, tracks[ended.tracker_id], source, ended)
        stored = case.db.execute("SELECT losses FROM source WHERE id = ?", (source,)).fetchone()["losses"]
        total = Losses(**json.loads(stored)) + losses
        state = tracker.state() | _gate_state(case, source, gate)
        counts = {"whole": gate.whole, "skipped": gate.skipped}
        case.set_meta(_looked(source), json.dumps(counts))
        case.db.execute(
            "UPDATE source SET losses = ?, tracker = ?, frames = frames + ?, skipped_damaged = skipped_damaged + ?,"
            " seconds = seconds + ? WHERE id = ?",
            (json.dumps(asdict(total)), json.dumps(state), segment.frames, damaged, seconds, source),
        )
        if span is not None:
            first, last = span
            case.db.execute(
                "UPDATE source SET last_index = ?, last_pts = ? WHERE id = ?", (last.index, last.pts, source)
            )
            case.db.execute(
                "INSERT INTO segment (source, first_index, last_index, frames, faces, at) VALUES (?, ?, ?, ?, ?, ?)",
                (source, first.index, last.index, segment.frames, len(segment.faces), now()),
            )
        if done:
            case.db.execute("UPDATE source SET state = 'done', tracker = NULL WHERE id = ?", (source,))
            reasons = dict(
                case.db.execute(
                    "SELECT reason, count(*) FROM face WHERE source = ? GROUP BY reason", (source,)
                ).fetchall()
            )
            found = {"faces": reasons, "looked": counts, "losses": asdict(total)}
            digests = {"digest": digest(case, source), "rows": rows_digest(case, source)}
            case.log("source done", {"source": source, **found, **digests})


def digest(case: Case, source: int) -> str:
    """One hash over everything found in a source, so that the log's chain covers it."""
    hasher = hashlib.sha256()
    for query in (
        "SELECT * FROM face WHERE source = ? ORDER BY id",
        "SELECT id, number, state, verdict, verdict_reason, mean_score, norm, shown_face FROM track"
        " WHERE source = ? ORDER BY id",
    ):
        for row in case.db.execute(query, (source,)):
            hasher.update(json.dumps(tuple(row)).encode())
    return hasher.hexdigest()


def rows_digest(case: Case, source: int) -> str:
    """One hash over what a case says of a finished source beside its faces: its own row, segments, tracks. Camera and
    clock may be corrected later, and have lines of their own in the log."""
    hasher = hashlib.sha256()
    for query in (
        "SELECT id, path, sha256, info, detector, state, losses, tracker, last_index, last_pts, frames,"
        " skipped_damaged, seconds FROM source WHERE id = ?",
        "SELECT * FROM segment WHERE source = ? ORDER BY id",
        "SELECT * FROM track WHERE source = ? ORDER BY id",
    ):
        for row in case.db.execute(query, (source,)):
            hasher.update(json.dumps(tuple(row)).encode())
    return hasher.hexdigest()


def _save_faces(
    case: Case, source: int, segment: Segment, pictures: dict[int, tuple[str, str, int, int]]
) -> dict[int, int]:
    """Insert the segment's faces and the tracks they begin; returns the row of each of the source's running tracks."""
    db = case.db
    running = db.execute("SELECT tracker_id, id FROM track WHERE source = ? AND state = 'live'", (source,))
    tracks: dict[int, int] = {row["tracker_id"]: row["id"] for row in running.fetchall()}
    for face in segment.faces:
        if face.tracker_id is not None and face.tracker_id not in tracks:
            new = db.execute(
                "INSERT INTO track (source, tracker_id, state) VALUES (?, ?, 'live')", (source, face.tracker_id)
            )
            tracks[face.tracker_id] = int(new.lastrowid or 0)
        values: dict[str, Any] = {
            "id": face.number,
            "source": source,
            "track": None if face.tracker_id is None else tracks[face.tracker_id],
            "frame_index": face.ref.index,
            "pts": face.ref.pts,
            **dict(zip(("x1", "y1", "x2", "y2"), face.box, strict=True)),
            "landmarks": None if face.landmarks is None else json.dumps(face.landmarks),
            **{k: getattr(face.quality, k) for k in _MEASURES},  # SQLite keeps nan as NULL
            "reason": face.reason,
        }
        kept = pictures.get(face.number)
        if kept is not None:
            values |= dict(zip(("aligned", "native", "native_x", "native_y"), kept, strict=True))
        places = ", ".join(f":{k}" for k in values)
        db.execute(f"INSERT INTO face ({', '.join(values)}) VALUES ({places})", values)
    return tracks


def _end_track(case: Case, track: int, source: int, ended: EndedTrack) -> None:
    db = case.db
    if not ended.confirmed:
        db.execute("UPDATE face SET track = NULL, reason = ? WHERE track = ?", (Reason.UNCONFIRMED, track))
        db.execute("DELETE FROM track WHERE id = ?", (track,))
        return
    why = None
    if not ended.is_face:
        why = Reason.NOT_A_FACE
    elif not ended.usable:
        common = "SELECT reason FROM face WHERE track = ? GROUP BY reason ORDER BY count(*) DESC, reason LIMIT 1"
        why = db.execute(common, (track,)).fetchone()["reason"]
    number = 1 + (db.execute("SELECT max(number) FROM track WHERE source = ?", (source,)).fetchone()[0] or 0)
    evidence = (None, None) if ended.evidence is None else (ended.evidence.score, ended.evidence.norm)
    db.execute(
        "UPDATE track SET state = 'done', number = ?, verdict = ?, verdict_reason = ?, mean_score = ?, norm = ?,"
        " shown_face = ? WHERE id = ?",
        (number, "usable" if why is None else "insufficient", why, *evidence, ended.shown, track),
    )
