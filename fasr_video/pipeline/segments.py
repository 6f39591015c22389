"""How segments and their tracks are written to and read from a case."""

from __future__ import annotations

import base64
import json
import math
from dataclasses import asdict
from typing import Any

import numpy as np

from fasr_video.case.case import Case
from fasr_video.case.sources import digest, looked, looked_key, rows_digest
from fasr_video.case.store import now
from fasr_video.configs.settings import SelectSettings
from fasr_video.detection.frame_skipping import GateState
from fasr_video.media import Losses, MediaInfo
from fasr_video.pipeline.select import Candidate
from fasr_video.pipeline.tracklets import EndedTrack, Segment, Tracklets
from fasr_video.recognition.embedder import Embedder
from fasr_video.sqlite import environment
from fasr_video.trackers import Tracker
from fasr_video.types import FaceCrop, FrameRef, Quality, Reason

_MEASURES = tuple(Quality.__slots__)


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


def _seen(source: int) -> str:
    return f"cells of source {source}"


def _gate_state(case: Case, source: int, gate: GateState) -> dict[str, Any]:
    """As it is stored beside the tracker's. The cells are a small picture of the frame: they are sealed as pictures."""
    places: dict[str, Any] = {"places": gate.boxes.tolist()}
    if gate.seen is None:
        return places
    sealed = case.seal(gate.seen.tobytes(), _seen(source))
    return places | {"cells": gate.seen.shape, "seen": base64.b64encode(sealed).decode()}


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
        case.set_meta(looked_key(source), json.dumps(counts))
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
