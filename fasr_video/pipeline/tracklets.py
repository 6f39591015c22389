"""From detections to tracklets: who is it, what is each face worth, which pictures are kept. In memory; the case
stores what comes out, a segment at a time."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from fasr_video.configs.settings import SelectSettings
from fasr_video.media import Frame
from fasr_video.pipeline.evidence import Evidence, weigh
from fasr_video.pipeline.quality import cut, measure
from fasr_video.pipeline.select import POOL_FACTOR, Candidate, Choice, Pool, choose, judge
from fasr_video.recognition.embedder import Embedder
from fasr_video.trackers import Ended, Tracker
from fasr_video.types import Detections, FaceCrop, FrameRef, Quality, Reason


@dataclass(frozen=True, slots=True)
class Face:
    """One face in one frame: a row of the case."""

    number: int
    tracker_id: int | None
    ref: FrameRef
    box: tuple[float, float, float, float]
    landmarks: list[list[float]] | None
    quality: Quality
    reason: Reason | None
    """None while its track runs and it may still be chosen."""


@dataclass(frozen=True, slots=True)
class EndedTrack:
    tracker_id: int
    confirmed: bool
    shown: int | None
    """The face to show it by: LR0, or the best unusable one."""
    usable: bool
    evidence: Evidence | None = None
    """None where there is no telling: no usable face, or other models than the bundled ones."""
    is_face: bool = True


@dataclass(slots=True)
class Segment:
    """What a stretch of frames brought, to be stored in one transaction."""

    frames: int = 0
    faces: list[Face] = field(default_factory=list)
    crops: dict[int, FaceCrop] = field(default_factory=dict)
    """Pictures of those of its faces that are wanted."""
    reasons: dict[int, Reason] = field(default_factory=dict)
    """Faces, of this or an earlier segment, whose fate is now known."""
    released: set[int] = field(default_factory=set)
    """Faces of earlier segments whose pictures are no longer wanted."""
    ended: list[EndedTrack] = field(default_factory=list)


class Tracklets:
    """Feed it frames with their detections; take a segment away whenever it should be made safe.

    With an embedder whose norm tells faces from what is none, tracks of the latter are recognised.
    """

    def __init__(
        self,
        tracker: Tracker,
        settings: SelectSettings,
        next_face: int,
        embedder: Embedder | None = None,
    ) -> None:
        self.tracker = tracker
        self._settings = settings
        self._embedder = embedder
        self._next_face = next_face
        self._pools: dict[int, Pool] = {}
        self._segment = Segment()
        self.confirmed = 0
        """Tracks that ended and were some."""

    @property
    def frames_waiting(self) -> int:
        return self._segment.frames

    @property
    def running(self) -> int:
        return len(self._pools)

    def pool(self, tracker_id: int) -> Pool:
        if tracker_id not in self._pools:
            self._pools[tracker_id] = Pool(POOL_FACTOR * (self._settings.auxiliaries + 1))
        return self._pools[tracker_id]

    def look(self, frame: Frame, detections: Detections) -> None:
        seconds = float(frame.ref.seconds)
        step = self.tracker.update(seconds, detections)
        self._end(step.ended)
        self._segment.frames += 1
        for i in range(len(detections)):
            self._take(frame, detections, i, int(step.ids[i]), seconds)

    def finish(self) -> None:
        self._end(self.tracker.finish())

    def take_segment(self) -> Segment:
        segment, self._segment = self._segment, Segment()
        return segment

    def _take(
        self, frame: Frame, detections: Detections, i: int, tracker_id: int, seconds: float
    ) -> None:
        landmarks = None if detections.landmarks is None else detections.landmarks[i]
        crop = cut(frame.image, detections.boxes[i], landmarks)
        quality = measure(frame.image, detections, i, crop.aligned)
        tracked = tracker_id >= 0
        reason = judge(quality, self._settings) if tracked else Reason.UNCONFIRMED
        x1, y1, x2, y2 = (float(v) for v in detections.boxes[i])
        face = Face(
            number=self._next_face,
            tracker_id=tracker_id if tracked else None,
            ref=frame.ref,
            box=(x1, y1, x2, y2),
            landmarks=None
            if landmarks is None
            else np.asarray(landmarks, np.float64).round(2).tolist(),
            quality=quality,
            reason=reason,
        )
        self._next_face += 1
        self._segment.faces.append(face)
        if not tracked:
            return
        self._segment.crops[face.number] = crop
        out = self.pool(tracker_id).offer(Candidate(face.number, seconds, quality, crop), reason)
        if out is not None:
            self._release({out})
            if reason is None:
                self._segment.reasons[out] = Reason.REDUNDANT

    def _release(self, faces: set[int]) -> None:
        """Pictures no longer wanted: out of memory, and out of the case if they are there already."""
        for face in faces:
            if self._segment.crops.pop(face, None) is None:
                self._segment.released.add(face)

    def _end(self, ended: list[Ended]) -> None:
        """Tracks are over: choose their faces, or take back what never was a track."""
        for track in ended:
            pool = self._pools.pop(track.id)
            faces = {c.face for c in pool.usable} | (
                {pool.best_unusable.face} if pool.best_unusable else set()
            )
            if not track.confirmed:
                self._release(faces)
                self._segment.ended.append(EndedTrack(track.id, False, None, False))
                continue
            choice = choose(pool, self._settings)
            self._segment.reasons |= choice.reasons
            self._release(faces - choice.kept)
            shown = None if choice.shown is None else choice.shown.face
            evidence = self._weigh(pool, choice)
            is_face = evidence is None or evidence.is_face(self._settings)
            over = EndedTrack(track.id, True, shown, bool(pool.usable), evidence, is_face)
            self._segment.ended.append(over)
            self.confirmed += 1

    def _weigh(self, pool: Pool, choice: Choice) -> Evidence | None:
        """Return what speaks for a track's being a face; it is asked of tracks that would be searched for."""
        if self._embedder is None or not pool.usable or choice.shown is None:
            return None
        kept = choice.kept
        faces = [c.crop.aligned for c in pool.usable if c.face in kept]
        return weigh(self._embedder, pool.mean_score, choice.shown.quality.eye_px, faces)
