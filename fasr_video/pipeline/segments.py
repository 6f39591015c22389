"""Storing segments and their tracks in a case, and resuming from the last one."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass

import numpy as np

from fasr_video.case import tracks
from fasr_video.case.case import Case
from fasr_video.case.sources import Progress, add_progress, finish_source, frame_counts, source
from fasr_video.configs.settings import SelectSettings
from fasr_video.detection.frame_skipping import GateState
from fasr_video.media import Losses, MediaInfo
from fasr_video.pipeline.select import Candidate
from fasr_video.pipeline.tracklets import EndedTrack, Face, Segment, Tracklets
from fasr_video.recognition.embedder import Embedder
from fasr_video.sqlite import explain_errors
from fasr_video.trackers import Tracker
from fasr_video.types import FrameRef, Reason


@dataclass(frozen=True, slots=True)
class SegmentSummary:
    """What is stored of a segment beside its faces and tracks."""

    span: tuple[FrameRef, FrameRef] | None
    """Its first and last frame; None if it has no frames."""
    tracker: Tracker
    """In its state after the segment."""
    gate: GateState
    """The state of the `Gate` after the segment."""
    losses: Losses
    """What was lost in the segment."""
    damaged: int
    """Frames that were left out as damaged."""
    seconds: float
    """Processing time."""
    is_last: bool
    """Whether the source is finished with it."""


def resume_gate(case: Case, number: int) -> GateState:
    """Return the state of the `Gate` after the last stored segment."""
    row = source(case, number)
    stored = {} if row.tracker is None else json.loads(row.tracker)
    cells = None
    if "seen" in stored:
        data = case.decrypt(base64.b64decode(stored["seen"]), _cells_name(number))
        cells = np.frombuffer(data, np.uint8).reshape(stored["cells"])
    boxes = np.array(stored.get("places", []), np.float32).reshape(-1, 4)
    counts = frame_counts(case, number)
    return GateState(boxes, cells, row.frames, counts["whole"], counts["skipped"])


def _cells_name(source: int) -> str:
    """Return the name under which the cells of a source are encrypted."""
    return f"cells of source {source}"


def _gate_as_json(case: Case, source: int, gate: GateState) -> dict[str, object]:
    """Return the state as it is stored beside the tracker's.

    The cells are a small picture of the frame, so they are encrypted as pictures are.
    """
    boxes: dict[str, object] = {"places": gate.boxes.tolist()}
    if gate.cells is None:
        return boxes
    sealed = case.encrypt(gate.cells.tobytes(), _cells_name(source))
    return boxes | {"cells": gate.cells.shape, "seen": base64.b64encode(sealed).decode()}


def resume_tracklets(
    case: Case,
    number: int,
    info: MediaInfo,
    tracker: Tracker,
    *,
    select: SelectSettings,
    embedder: Embedder | None,
) -> Tracklets:
    """Return the tracklets as they were after the last stored segment, or new ones."""
    tracklets = Tracklets(tracker, select, tracks.next_face_id(case), embedder)
    stored = source(case, number).tracker
    if stored is None:
        return tracklets
    tracker.restore(json.loads(stored))
    tracklets.confirmed = sum(track.source == number for track in tracks.finished_tracks(case))
    for track in tracks.running_tracks(case, number):
        pool = tracklets.pool(track.tracker_id)
        for score in tracks.detection_scores(case, track.id):
            pool.count_sighting(score)
        for face in tracks.faces_with_pictures(case, track.id):
            seconds = float(face.pts * info.time_base)
            candidate = Candidate(face.id, seconds, face.quality, tracks.crop(case, face))
            if face.reason is None:
                pool.usable.append(candidate)
            else:
                pool.best_unusable = candidate
    return tracklets


def save_segment(
    case: Case,
    source: int,
    segment: Segment,
    summary: SegmentSummary,
) -> None:
    """Store a segment in one transaction; its pictures are written before."""
    with explain_errors(case.folder):
        pictures = {
            number: _Pictures(
                case.write_picture(crop.aligned),
                case.write_picture(crop.native),
                *crop.native_origin,
            )
            for number, crop in segment.crops.items()
        }
    progress = Progress(
        losses=summary.losses,
        tracker=summary.tracker.state() | _gate_as_json(case, source, summary.gate),
        full_frames=summary.gate.whole,
        skipped_frames=summary.gate.skipped,
        frames=segment.frames,
        damaged=summary.damaged,
        faces=len(segment.faces),
        seconds=summary.seconds,
        span=summary.span,
    )
    with case.transaction():
        rows = _save_faces(case, source, segment, pictures)
        tracks.set_reasons(case, segment.reasons)
        tracks.release_pictures(case, segment.released)
        for ended in segment.ended:
            _end_track(case, rows[ended.tracker_id], ended)
        add_progress(case, source, progress)
        if summary.is_last:
            finish_source(case, source, tracks.reasons_of_source(case, source))


@dataclass(frozen=True, slots=True)
class _Pictures:
    """The stored pictures of a face: their names, and the corner of the native crop."""

    aligned: str | None = None
    native: str | None = None
    native_x: int | None = None
    native_y: int | None = None


def _save_faces(
    case: Case, source: int, segment: Segment, pictures: dict[int, _Pictures]
) -> dict[int, int]:
    """Insert the segment's faces, and the tracks that begin with them.

    Return the rows of the source's running tracks, by the numbers that the tracker gave them.
    """
    rows = {track.tracker_id: track.id for track in tracks.running_tracks(case, source)}
    faces = []
    for face in segment.faces:
        track = None
        if face.tracker_id is not None:
            if face.tracker_id not in rows:
                rows[face.tracker_id] = tracks.begin_track(case, source, face.tracker_id)
            track = rows[face.tracker_id]
        faces.append(_face_row(face, source, track, pictures.get(face.number, _Pictures())))
    tracks.add_faces(case, faces)
    return rows


def _face_row(face: Face, source: int, track: int | None, pictures: _Pictures) -> tracks.Face:
    x1, y1, x2, y2 = face.box
    return tracks.Face(
        id=face.number,
        source=source,
        track=track,
        frame_index=face.ref.index,
        pts=face.ref.pts,
        x1=x1,
        y1=y1,
        x2=x2,
        y2=y2,
        landmarks=None if face.landmarks is None else json.dumps(face.landmarks),
        score=face.quality.score,
        eye_px=face.quality.eye_px,
        sharpness=face.quality.sharpness,
        turn=face.quality.turn,
        exposure=face.quality.exposure,
        contrast=face.quality.contrast,
        inside=face.quality.inside,
        clear=face.quality.clear,
        total=face.quality.total,
        reason=face.reason,
        aligned=pictures.aligned,
        native=pictures.native,
        native_x=pictures.native_x,
        native_y=pictures.native_y,
    )


def _end_track(case: Case, track: int, ended: EndedTrack) -> None:
    """Store the verdict on a track, or drop it if it was never confirmed."""
    if not ended.confirmed:
        tracks.discard_track(case, track)
        return
    insufficient: str | None = None
    if not ended.is_face:
        insufficient = Reason.NOT_A_FACE
    elif not ended.usable:
        insufficient = tracks.commonest_reason(case, track)
    evidence = ended.evidence
    tracks.finish_track(
        case,
        track,
        insufficient=insufficient,
        shown=ended.shown,
        mean_score=None if evidence is None else evidence.score,
        norm=None if evidence is None else evidence.norm,
    )
