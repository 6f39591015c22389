"""The footage of a case: what is known of each source, how much of it is done, and hashes over what was found."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

from fasr_video.case.recording import Place
from fasr_video.case.store import CaseStore
from fasr_video.errors import CaseError
from fasr_video.media import Losses, MediaInfo
from fasr_video.types import FrameRef


def register_source(case: CaseStore, info: MediaInfo, detector: dict[str, Any]) -> int:
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


def place_source(case: CaseStore, source: int, place: Place) -> None:
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


def where_it_stopped(case: CaseStore, source: int, info: MediaInfo) -> FrameRef | None:
    row = case.db.execute("SELECT last_index, last_pts FROM source WHERE id = ?", (source,)).fetchone()
    if row["last_index"] is None:
        return None
    return FrameRef(info.sha256, row["last_index"], row["last_pts"], info.time_base)


def looked(case: CaseStore, source: int) -> dict[str, int]:
    """How many of a source's frames were looked at as a whole, and not at all."""
    row = case.db.execute("SELECT value FROM meta WHERE key = ?", (looked_key(source),)).fetchone()
    if row is None:  # nothing is done yet, or by a version that did not count because it skipped none
        frames = case.db.execute("SELECT frames FROM source WHERE id = ?", (source,)).fetchone()["frames"]
        return {"whole": -(-frames // json.loads(case.meta("settings"))["detect"].get("every", 1)), "skipped": 0}
    return {k: int(v) for k, v in json.loads(row["value"]).items()}


def looked_key(source: int) -> str:
    return f"looked {source}"


def is_done(case: CaseStore, source: int) -> bool:
    return bool(case.db.execute("SELECT state = 'done' FROM source WHERE id = ?", (source,)).fetchone()[0])


def digest(case: CaseStore, source: int) -> str:
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


def rows_digest(case: CaseStore, source: int) -> str:
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
