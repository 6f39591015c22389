"""How segments and their tracks are written to and read from a case."""

from __future__ import annotations

import base64
import json

import numpy as np

from fasr_video.case import tracks
from fasr_video.case.case import Case
from fasr_video.case.sources import Progress, add_progress, finish_source, frame_counts, source
from fasr_video.configs.settings import SelectSettings
from fasr_video.detection.frame_skipping import GateState
from fasr_video.media import Losses, MediaInfo
from fasr_video.pipeline.select import Candidate
from fasr_video.pipeline.tracklets import EndedTrack, Segment, Tracklets
from fasr_video.recognition.embedder import Embedder
from fasr_video.sqlite import explain_errors
from fasr_video.trackers import Tracker
from fasr_video.types import FrameRef, Reason


def resume_gate(case: Case, number: int) -> GateState:
    """What a `Gate` knew after the last finished segment."""
    known = source(case, number)
    stored = {} if known.tracker is None else json.loads(known.tracker)
    seen = None
    if "seen" in stored:
        data = case.decrypt(base64.b64decode(stored["seen"]), _seen(number))
        seen = np.frombuffer(data, np.uint8).reshape(stored["cells"])
    counts = frame_counts(case, number)
    places = np.array(stored.get("places", []), np.float32).reshape(-1, 4)
    return GateState(places, seen, known.frames, counts["whole"], counts["skipped"])


def _seen(source: int) -> str:
    return f"cells of source {source}"


def _gate_state(case: Case, source: int, gate: GateState) -> dict[str, object]:
    """As it is stored beside the tracker's. The cells are a small picture of the frame: they are sealed as pictures."""
    places: dict[str, object] = {"places": gate.boxes.tolist()}
    if gate.seen is None:
        return places
    sealed = case.encrypt(gate.seen.tobytes(), _seen(source))
    return places | {"cells": gate.seen.shape, "seen": base64.b64encode(sealed).decode()}


def resume_tracklets(
    case: Case,
    number: int,
    info: MediaInfo,
    tracker: Tracker,
    select: SelectSettings,
    embedder: Embedder | None,
) -> Tracklets:
    """Tracklets as they were after the last finished segment, or new ones."""
    tracklets = Tracklets(tracker, select, tracks.next_face_id(case), embedder)
    stored = source(case, number).tracker
    if stored is None:
        return tracklets
    tracker.restore(json.loads(stored))
    tracklets.confirmed = sum(track.source == number for track in tracks.finished_tracks(case))
    for track in tracks.running_tracks(case, number):
        pool = tracklets.pool(track.tracker_id)
        for score in tracks.detection_scores(case, track.id):
            pool.count(score)
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
    with explain_errors(case.folder):
        pictures = {
            number: (
                case.write_picture(crop.aligned),
                case.write_picture(crop.native),
                *crop.native_origin,
            )
            for number, crop in segment.crops.items()
        }
    progress = Progress(
        losses=losses,
        tracker=tracker.state() | _gate_state(case, source, gate),
        full_frames=gate.whole,
        skipped_frames=gate.skipped,
        frames=segment.frames,
        damaged=damaged,
        faces=len(segment.faces),
        seconds=seconds,
        span=span,
    )
    with case.transaction():
        rows = _save_faces(case, source, segment, pictures)
        tracks.set_reasons(case, segment.reasons)
        tracks.release_pictures(case, segment.released)
        for ended in segment.ended:
            _end_track(case, rows[ended.tracker_id], ended)
        add_progress(case, source, progress)
        if done:
            finish_source(case, source, tracks.reasons_of_source(case, source))


def _save_faces(
    case: Case, source: int, segment: Segment, pictures: dict[int, tuple[str, str, int, int]]
) -> dict[int, int]:
    """Insert the segment's faces and the tracks they begin; returns the row of each of the source's running tracks."""
    rows = {track.tracker_id: track.id for track in tracks.running_tracks(case, source)}
    faces = []
    for face in segment.faces:
        if face.tracker_id is not None and face.tracker_id not in rows:
            rows[face.tracker_id] = tracks.begin_track(case, source, face.tracker_id)
        x1, y1, x2, y2 = face.box
        aligned, native, x, y = pictures.get(face.number, (None, None, None, None))
        row = tracks.Face(
            id=face.number,
            source=source,
            track=None if face.tracker_id is None else rows[face.tracker_id],
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
            aligned=aligned,
            native=native,
            native_x=x,
            native_y=y,
        )
        faces.append(row)
    tracks.add_faces(case, faces)
    return rows


def _end_track(case: Case, track: int, ended: EndedTrack) -> None:
    if not ended.confirmed:
        tracks.discard_track(case, track)
        return
    why: str | None = None
    if not ended.is_face:
        why = Reason.NOT_A_FACE
    elif not ended.usable:
        why = tracks.commonest_reason(case, track)
    mean_score, norm = (
        (None, None) if ended.evidence is None else (ended.evidence.score, ended.evidence.norm)
    )
    tracks.finish_track(
        case, track, insufficient=why, shown=ended.shown, mean_score=mean_score, norm=norm
    )
