"""The footage of a case: what is known of each source, how much of it is done, and hashes over what was found."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from sqlite3 import Row
from typing import Any

from fasr_video.case.recording import Recording
from fasr_video.case.store import CaseStore, now
from fasr_video.errors import CaseError
from fasr_video.media import Losses, MediaInfo
from fasr_video.types import FrameRef


@dataclass(frozen=True, slots=True)
class Source:
    """A file of footage: a row of `source`."""

    id: int
    path: str
    sha256: str
    info: dict[str, Any]
    """What the file says of itself: `MediaInfo.as_json`."""
    detector: dict[str, Any]
    state: str
    """`running`, or `done`."""
    camera: str | None
    clock: dict[str, Any] | None
    losses: dict[str, int]
    tracker: str | None
    """JSON: what the tracker knew after the last segment; None when the source is done."""
    last_index: int | None
    last_pts: int | None
    frames: int
    """Looked at, wholly or in part."""
    skipped_damaged: int
    seconds: float
    """Of work."""

    @property
    def done(self) -> bool:
        return self.state == "done"

    @property
    def time_base(self) -> Fraction:
        return Fraction(self.info["time_base"])

    def since_start(self, pts: int) -> float:
        """Return the seconds from the first frame to this time."""
        return float((pts - self.info["first_pts"]) * self.time_base)


@dataclass(frozen=True, slots=True)
class Progress:
    """What a segment of frames adds to its source."""

    losses: Losses
    tracker: Mapping[str, object]
    """What the tracker knows after it."""
    whole: int
    skipped: int
    """Frames of the source so far that were looked at as a whole, and not at all."""
    frames: int
    damaged: int
    """Frames that were not looked at because they are."""
    faces: int
    seconds: float
    span: tuple[FrameRef, FrameRef] | None
    """The first and the last frame; None where there is none."""


def sources(case: CaseStore) -> list[Source]:
    """Return the footage in the order in which it was given."""
    return [_source(row) for row in case.db.execute("SELECT * FROM source ORDER BY id")]


def source(case: CaseStore, number: int) -> Source:
    return _source(case.db.execute("SELECT * FROM source WHERE id = ?", (number,)).fetchone())


def _source(row: Row) -> Source:
    values = dict(row)
    for name in ("info", "detector", "clock", "losses"):
        values[name] = None if values[name] is None else json.loads(values[name])
    return Source(**values)


def register_source(case: CaseStore, info: MediaInfo, detector: dict[str, Any]) -> int:
    """The number of this footage in the case, by what is in the file, not by its name."""
    known = next((s for s in sources(case) if s.sha256 == info.sha256), None)
    if known is not None:
        before = known.detector
        if not known.done and before != detector:
            reason = f"it was begun with another detector ({before['name']}, {before['model_sha256'][:12]}…)"
            if {**before, "embedder": None} == {**detector, "embedder": None}:
                reason = (
                    f"it was begun with another embedder ({(before['embedder'] or 'none')[:12]}…)"
                )
            raise CaseError(case.folder, reason, "give another --out, or go on with that model")
        return known.id
    path = str(info.path.absolute())
    with case.transaction():
        cursor = case.db.execute(
            "INSERT INTO source (path, sha256, info, detector, state, losses) VALUES (?, ?, ?, ?, 'running', ?)",
            (
                path,
                info.sha256,
                json.dumps(info.as_json()),
                json.dumps(detector),
                json.dumps(asdict(Losses())),
            ),
        )
        facts = {"sha256": info.sha256, "info": info.as_json(), "detector": detector}
        case.log("source added", {"source": cursor.lastrowid, "path": path, **facts})
    return int(cursor.lastrowid or 0)


def set_recording(case: CaseStore, number: int, place: Recording) -> None:
    """Note camera and clock; they may be corrected later, each alone, and the log keeps what was said before."""
    before = source(case, number)
    camera = before.camera if place.camera is None else place.camera
    clock = before.clock if place.clock is None else place.clock
    if (camera, clock) == (before.camera, before.clock):
        return
    text = None if clock is None else json.dumps(clock, sort_keys=True)
    with case.transaction():
        case.db.execute(
            "UPDATE source SET camera = ?, clock = ? WHERE id = ?", (camera, text, number)
        )
        case.log("camera and clock", {"source": number, "camera": camera, "clock": clock})


def is_done(case: CaseStore, number: int) -> bool:
    return source(case, number).done


def all_done(case: CaseStore) -> bool:
    """Whether no run has to go on."""
    return all(source.done for source in sources(case))


def resume_point(case: CaseStore, number: int, info: MediaInfo) -> FrameRef | None:
    stored = source(case, number)
    if stored.last_index is None or stored.last_pts is None:
        return None
    return FrameRef(info.sha256, stored.last_index, stored.last_pts, info.time_base)


def frame_counts(case: CaseStore, number: int) -> dict[str, int]:
    """How many of a source's frames were looked at as a whole, and not at all."""
    counts = case.find_meta(_frame_counts_key(number))
    if (
        counts is None
    ):  # nothing is done yet, or by a version that did not count because it skipped none
        every = json.loads(case.meta("settings"))["detect"].get("every", 1)
        return {"whole": -(-source(case, number).frames // every), "skipped": 0}
    return {k: int(v) for k, v in json.loads(counts).items()}


def _frame_counts_key(number: int) -> str:
    return f"looked {number}"


def add_progress(case: CaseStore, number: int, made: Progress) -> None:
    """Note a segment of a source, within a transaction."""
    losses = Losses(**source(case, number).losses) + made.losses
    case.set_meta(
        _frame_counts_key(number), json.dumps({"whole": made.whole, "skipped": made.skipped})
    )
    case.db.execute(
        "UPDATE source SET losses = ?, tracker = ?, frames = frames + ?, skipped_damaged = skipped_damaged + ?,"
        " seconds = seconds + ? WHERE id = ?",
        (
            json.dumps(asdict(losses)),
            json.dumps(made.tracker),
            made.frames,
            made.damaged,
            made.seconds,
            number,
        ),
    )
    if made.span is not None:
        first, last = made.span
        stopped = "UPDATE source SET last_index = ?, last_pts = ? WHERE id = ?"
        case.db.execute(stopped, (last.index, last.pts, number))
        case.db.execute(
            "INSERT INTO segment (source, first_index, last_index, frames, faces, at) VALUES (?, ?, ?, ?, ?, ?)",
            (number, first.index, last.index, made.frames, made.faces, now()),
        )


def finish_source(case: CaseStore, number: int, faces: Mapping[str | None, int]) -> None:
    """Note, within a transaction, that a source is done; `faces` are the counts of its faces by their reasons."""
    case.db.execute("UPDATE source SET state = 'done', tracker = NULL WHERE id = ?", (number,))
    found = {
        "faces": faces,
        "looked": frame_counts(case, number),
        "losses": source(case, number).losses,
    }
    digests = {"digest": digest(case, number), "rows": rows_digest(case, number)}
    case.log("source done", {"source": number, **found, **digests})


def last_segment(case: CaseStore, begin: str, end: str) -> str | None:
    """Return when the last segment between two moments was made safe; None where there is none."""
    query = "SELECT max(at) FROM segment WHERE at BETWEEN ? AND ?"
    at: str | None = case.db.execute(query, (begin, end)).fetchone()[0]
    return at


def digest(case: CaseStore, number: int) -> str:
    """One hash over everything found in a source, so that the log's chain covers it."""
    return case.hash_rows(
        "SELECT * FROM face WHERE source = ? ORDER BY id",
        "SELECT id, number, state, verdict, verdict_reason, mean_score, norm, shown_face FROM track"
        " WHERE source = ? ORDER BY id",
        of=number,
    )


def rows_digest(case: CaseStore, number: int) -> str:
    """One hash over what a case says of a finished source beside its faces: its own row, segments, tracks. Camera and
    clock may be corrected later, and have lines of their own in the log."""
    return case.hash_rows(
        "SELECT id, path, sha256, info, detector, state, losses, tracker, last_index, last_pts, frames,"
        " skipped_damaged, seconds FROM source WHERE id = ?",
        "SELECT * FROM segment WHERE source = ? ORDER BY id",
        "SELECT * FROM track WHERE source = ? ORDER BY id",
        of=number,
    )
