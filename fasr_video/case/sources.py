"""Read and write the sources of a case: files of footage, their progress and their hashes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from sqlite3 import Row
from typing import Any

from fasr_video.case.recording import Recording, StatedClock
from fasr_video.case.store import CaseStore
from fasr_video.clock import now
from fasr_video.errors import CaseError
from fasr_video.media import Losses, MediaInfo
from fasr_video.types import FrameRef


@dataclass(frozen=True, slots=True)
class SourceModels:
    """The models that decide what the case says of a source."""

    name: str
    """Of the detector, as the next three."""
    model_sha256: str
    licence: str
    landmarks: bool
    """Whether it finds landmarks."""
    embedder: str | None
    """SHA-256 of the embedder that says what is no face; None where none does."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file of footage: a row of `source`."""

    id: int
    path: str
    sha256: str
    info: dict[str, Any]
    """Facts about the file: `MediaInfo.as_json`."""
    detector: SourceModels
    state: str
    """`running`, or `done`."""
    camera: str | None
    clock: StatedClock | None
    losses: dict[str, int]
    tracker: str | None
    """JSON: the tracker's state after the last segment; None when the source is done."""
    last_index: int | None
    last_pts: int | None
    frames: int
    """Number of frames processed, as a whole or in part."""
    skipped_damaged: int
    seconds: float
    """Processing time."""

    @property
    def done(self) -> bool:
        return self.state == "done"

    @property
    def time_base(self) -> Fraction:
        return Fraction(self.info["time_base"])

    def since_start(self, pts: int) -> float:
        """Return the seconds from the first frame to this timestamp."""
        return float((pts - self.info["first_pts"]) * self.time_base)


@dataclass(frozen=True, slots=True)
class Progress:
    """What a segment of frames adds to its source."""

    losses: Losses
    tracker: Mapping[str, object]
    """The tracker's state after it."""
    full_frames: int
    skipped_frames: int
    """Frames of the source so far that were searched as a whole, and that were not searched."""
    frames: int
    damaged: int
    """Frames that were skipped because they are damaged."""
    faces: int
    seconds: float
    span: tuple[FrameRef, FrameRef] | None
    """The first and the last frame; None where there is none."""


def sources(case: CaseStore) -> list[Source]:
    """Return the sources in the order in which they were given."""
    return [_source(row) for row in case.db.execute("SELECT * FROM source ORDER BY id")]


def source(case: CaseStore, number: int) -> Source:
    """Return the source with this id."""
    return _source(case.db.execute("SELECT * FROM source WHERE id = ?", (number,)).fetchone())


def _source(row: Row) -> Source:
    values = dict(row)
    for name in ("info", "detector", "clock", "losses"):
        values[name] = None if values[name] is None else json.loads(values[name])
    values["detector"] = SourceModels(**values["detector"])
    return Source(**values)


def register_source(case: CaseStore, info: MediaInfo, detector: SourceModels) -> int:
    """Return the id of this footage in the case, adding it where the case does not have it yet.

    Footage is recognised by the hash of its file, not by its name.
    """
    known = next((s for s in sources(case) if s.sha256 == info.sha256), None)
    if known is not None:
        if not known.done and known.detector != detector:
            reason = _difference(known.detector, detector)
            raise CaseError(case.folder, reason, "give another --out, or continue with that model")
        return known.id
    path = str(info.path.absolute())
    with case.transaction():
        cursor = case.db.execute(
            "INSERT INTO source (path, sha256, info, detector, state, losses)"
            " VALUES (?, ?, ?, ?, 'running', ?)",
            (
                path,
                info.sha256,
                json.dumps(info.as_json()),
                json.dumps(asdict(detector)),
                json.dumps(asdict(Losses())),
            ),
        )
        facts = {"sha256": info.sha256, "info": info.as_json()}
        facts["detector"] = asdict(detector)
        case.log("source added", {"source": cursor.lastrowid, "path": path, **facts})
    return int(cursor.lastrowid or 0)


def _difference(before: SourceModels, now: SourceModels) -> str:
    """Return which model differs between the detector that began a source and the one given now."""
    if replace(before, embedder=now.embedder) == now:
        return f"this source was begun with another embedder ({(before.embedder or 'none')[:12]}…)"
    model = f"{before.name}, {before.model_sha256[:12]}…"
    return f"this source was begun with another detector ({model})"


def set_recording(case: CaseStore, number: int, recording: Recording) -> None:
    """Store the camera and clock of a source; a None in `recording` leaves the stored value.

    Both can be corrected later; the log keeps every earlier value.
    """
    before = source(case, number)
    camera = before.camera if recording.camera is None else recording.camera
    clock = before.clock if recording.clock is None else recording.clock
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
    """Return whether every source is done."""
    return all(source.done for source in sources(case))


def resume_point(case: CaseStore, number: int, info: MediaInfo) -> FrameRef | None:
    """Return the last stored frame of a source, or None where none is stored."""
    stored = source(case, number)
    if stored.last_index is None or stored.last_pts is None:
        return None
    return FrameRef(info.sha256, stored.last_index, stored.last_pts, info.time_base)


def frame_counts(case: CaseStore, number: int) -> dict[str, int]:
    """Return the numbers of frames that faces were detected in as a whole, and not at all."""
    counts = case.find_meta(_frame_counts_key(number))
    # Nothing is done yet, or the case is of a version that skipped no frames and did not count.
    if counts is None:
        every = json.loads(case.meta("settings"))["detect"].get("every", 1)
        return {"whole": -(-source(case, number).frames // every), "skipped": 0}
    return {k: int(v) for k, v in json.loads(counts).items()}


def _frame_counts_key(number: int) -> str:
    return f"detection {number}"


def add_progress(case: CaseStore, number: int, progress: Progress) -> None:
    """Store that a segment of a source is done, within a transaction."""
    losses = Losses(**source(case, number).losses) + progress.losses
    counts = {"whole": progress.full_frames, "skipped": progress.skipped_frames}
    case.set_meta(_frame_counts_key(number), json.dumps(counts))
    case.db.execute(
        "UPDATE source SET losses = ?, tracker = ?, frames = frames + ?,"
        " skipped_damaged = skipped_damaged + ?, seconds = seconds + ? WHERE id = ?",
        (
            json.dumps(asdict(losses)),
            json.dumps(progress.tracker),
            progress.frames,
            progress.damaged,
            progress.seconds,
            number,
        ),
    )
    if progress.span is not None:
        first, last = progress.span
        update = "UPDATE source SET last_index = ?, last_pts = ? WHERE id = ?"
        case.db.execute(update, (last.index, last.pts, number))
        case.db.execute(
            "INSERT INTO segment (source, first_index, last_index, frames, faces, at)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (number, first.index, last.index, progress.frames, progress.faces, now()),
        )


def finish_source(case: CaseStore, number: int, faces: Mapping[str | None, int]) -> None:
    """Store and log, within a transaction, that a source is done.

    `faces` has the number of its faces by reason.
    """
    case.db.execute("UPDATE source SET state = 'done', tracker = NULL WHERE id = ?", (number,))
    counts = {
        "faces": faces,
        "detection": frame_counts(case, number),
        "losses": source(case, number).losses,
    }
    digests = {"digest": digest(case, number), "rows": rows_digest(case, number)}
    case.log("source done", {"source": number, **counts, **digests})


def last_segment(case: CaseStore, begin: str, end: str) -> str | None:
    """Return when the last segment between two times was stored, or None."""
    query = "SELECT max(at) FROM segment WHERE at BETWEEN ? AND ?"
    at: str | None = case.db.execute(query, (begin, end)).fetchone()[0]
    return at


def digest(case: CaseStore, number: int) -> str:
    """Return one hash over the faces and tracks of a source, for the log."""
    return case.hash_rows(
        "SELECT * FROM face WHERE source = ? ORDER BY id",
        "SELECT id, number, state, verdict, verdict_reason, mean_score, norm, shown_face FROM track"
        " WHERE source = ? ORDER BY id",
        of=number,
    )


def rows_digest(case: CaseStore, number: int) -> str:
    """Return one hash over the row, the segments and the tracks of a finished source, for the log.

    Camera and clock are left out: they may be corrected later, and have log lines of their own.
    """
    return case.hash_rows(
        "SELECT id, path, sha256, info, detector, state, losses, tracker, last_index, last_pts,"
        " frames, skipped_damaged, seconds FROM source WHERE id = ?",
        "SELECT * FROM segment WHERE source = ? ORDER BY id",
        "SELECT * FROM track WHERE source = ? ORDER BY id",
        of=number,
    )
