"""From detections to tracklets: the track and the quality of each face, and which pictures stay.

All of it is in memory; the result is taken out in segments, which the case stores.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from fasr_video.configs.settings import SelectSettings
from fasr_video.media import Frame
from fasr_video.pipeline.evidence import Evidence, measure_evidence
from fasr_video.pipeline.quality import cut, measure
from fasr_video.pipeline.select import POOL_FACTOR, Candidate, Choice, Pool, choose, judge
from fasr_video.recognition.embedder import Embedder
from fasr_video.trackers import Ended, Tracker
from fasr_video.types import Detections, FaceCrop, FrameRef, Quality, Reason


@dataclass(frozen=True, slots=True)
class Face:
    """A face in a frame: a row of the case."""

    number: int
    tracker_id: int | None
    ref: FrameRef
    box: tuple[float, float, float, float]
    landmarks: list[list[float]] | None
    quality: Quality
    reason: Reason | None
    """None while its track runs and the face may still be chosen."""


@dataclass(frozen=True, slots=True)
class EndedTrack:
    """A track that ended, and what its faces amount to."""

    tracker_id: int
    confirmed: bool
    shown: int | None
    """The face that represents it: LR0, or the best unusable one."""
    usable: bool
    """Whether it has a usable face."""
    evidence: Evidence | None = None
    """None without a usable face, or with other models than the bundled ones."""
    is_face: bool = True


@dataclass(slots=True)
class Segment:
    """The result of some frames, to be stored in one transaction."""

    frames: int = 0
    faces: list[Face] = field(default_factory=list)
    crops: dict[int, FaceCrop] = field(default_factory=dict)
    """Pictures to store, by the numbers of its faces."""
    reasons: dict[int, Reason] = field(default_factory=dict)
    """Reasons that are known now, of faces of this or earlier segments."""
    released: set[int] = field(default_factory=set)
    """Faces of earlier segments whose pictures are no longer needed."""
    ended: list[EndedTrack] = field(default_factory=list)


class Tracklets:
    """Collects the faces of frames in tracks; `take_segment` returns what is new each time.

    With the bundled embedder, whose norm shows whether something is a face, it also judges that.
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
        """Confirmed tracks that ended."""

    @property
    def frames_waiting(self) -> int:
        """Frames of the segment that is not taken yet."""
        return self._segment.frames

    @property
    def running(self) -> int:
        """Tracks that have not ended."""
        return len(self._pools)

    def pool(self, tracker_id: int) -> Pool:
        """Return the pool of a track's faces; it is new for a new track."""
        if tracker_id not in self._pools:
            self._pools[tracker_id] = Pool(POOL_FACTOR * (self._settings.auxiliaries + 1))
        return self._pools[tracker_id]

    def add_frame(self, frame: Frame, detections: Detections) -> None:
        """Assign the detections of a frame to tracks."""
        step = self.tracker.update(float(frame.ref.seconds), detections)
        self._end_tracks(step.ended)
        self._segment.frames += 1
        for i in range(len(detections)):
            self._add_face(frame, detections, i, int(step.ids[i]))

    def finish(self) -> None:
        """End all tracks."""
        self._end_tracks(self.tracker.finish())

    def take_segment(self) -> Segment:
        """Return the current segment, and begin the next one."""
        segment = self._segment
        self._segment = Segment()
        return segment

    def _add_face(self, frame: Frame, detections: Detections, i: int, tracker_id: int) -> None:
        """Add the i-th face of a frame to its track; tracker_id is below 0 if it has none."""
        landmarks = None if detections.landmarks is None else detections.landmarks[i]
        crop = cut(frame.image, detections.boxes[i], landmarks)
        quality = measure(frame.image, detections, i, crop.aligned)
        is_tracked = tracker_id >= 0
        reason = judge(quality, self._settings) if is_tracked else Reason.UNCONFIRMED
        x1, y1, x2, y2 = (float(v) for v in detections.boxes[i])
        rounded = None
        if landmarks is not None:
            rounded = np.asarray(landmarks, np.float64).round(2).tolist()
        face = Face(
            number=self._next_face,
            tracker_id=tracker_id if is_tracked else None,
            ref=frame.ref,
            box=(x1, y1, x2, y2),
            landmarks=rounded,
            quality=quality,
            reason=reason,
        )
        self._next_face += 1
        self._segment.faces.append(face)
        if not is_tracked:
            return
        self._segment.crops[face.number] = crop
        candidate = Candidate(face.number, float(frame.ref.seconds), quality, crop)
        dropped = self.pool(tracker_id).offer(candidate, reason)
        if dropped is not None:
            self._release({dropped})
            if reason is None:
                self._segment.reasons[dropped] = Reason.REDUNDANT

    def _release(self, faces: set[int]) -> None:
        """Drop pictures from memory, or mark them for removal if the case has them already."""
        for face in faces:
            if self._segment.crops.pop(face, None) is None:
                self._segment.released.add(face)

    def _end_tracks(self, ended: list[Ended]) -> None:
        """Choose the faces of tracks that ended; release those of unconfirmed ones."""
        for track in ended:
            pool = self._pools.pop(track.id)
            faces = {candidate.face for candidate in pool.usable}
            if pool.best_unusable is not None:
                faces.add(pool.best_unusable.face)
            if not track.confirmed:
                self._release(faces)
                self._segment.ended.append(EndedTrack(track.id, False, None, False))
                continue
            choice = choose(pool, self._settings)
            self._segment.reasons |= choice.reasons
            self._release(faces - choice.kept)
            evidence = self._evidence(pool, choice)
            ended_track = EndedTrack(
                tracker_id=track.id,
                confirmed=True,
                shown=None if choice.shown is None else choice.shown.face,
                usable=bool(pool.usable),
                evidence=evidence,
                is_face=evidence is None or evidence.is_face(self._settings),
            )
            self._segment.ended.append(ended_track)
            self.confirmed += 1

    def _evidence(self, pool: Pool, choice: Choice) -> Evidence | None:
        """Return the evidence that a track shows a face, if it has usable faces."""
        if self._embedder is None or not pool.usable or choice.shown is None:
            return None
        kept = choice.kept
        faces = [c.crop.aligned for c in pool.usable if c.face in kept]
        return measure_evidence(self._embedder, pool.mean_score, choice.shown.quality.eye_px, faces)
