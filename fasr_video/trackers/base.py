"""The base of all trackers: tracks, when they begin and end, and a state that can be stored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fasr_video.boxes import iou_matrix
from fasr_video.trackers.association import Matrix, Pairs, assign, widen
from fasr_video.trackers.motion import BoxFilter, MotionState, Vector
from fasr_video.types import Detections

# N×D unit vectors, one for each detection.
Features = NDArray[np.float32]

RECENT = 3  # observations kept for the direction of motion (OC-SORT's Δt)
FEATURE_MEMORY = 0.9  # weight of a track's feature against that of its newest picture
MIN_COSINE = 0.0  # below it two faces are never one track, however well they overlap


@dataclass(frozen=True, slots=True)
class TrackerSettings:
    """Settings with the same meaning for all trackers; times are in seconds."""

    max_gap: float = 1.0
    """How long a face may be unseen and still continue the same track."""
    min_sightings: int = 3
    """Sightings that confirm a track; a face with fewer sightings stays unconfirmed."""
    start_score: float = 0.55
    """A detection below this starts no track."""
    high_score: float = 0.55
    """ByteTrack and OC-SORT: detections below this only continue tracks."""
    min_overlap: float = 0.2
    """Intersection over union that a track's expected box and a detection need."""
    reach: float = 0.5
    """How far boxes are widened for the comparison, in box sizes for each second between frames,
    up to half a box."""
    appearance_weight: float = 0.5
    """Weight of the embeddings' cosine beside the overlap, if there are embeddings: a run gives
    none."""


@dataclass(slots=True)
class Track:
    id: int
    motion: BoxFilter
    last_seen: float
    """Time of the last sighting."""
    sightings: int = 1
    missed: list[float] = field(default_factory=list)
    """Times of the frames since the last sighting."""
    recent: list[tuple[float, Vector]] = field(default_factory=list)
    """The last sightings: (time, box)."""
    at_sighting: MotionState | None = None
    """The state of the motion right after the last sighting."""
    feature: NDArray[np.float32] | None = None

    @property
    def last_box(self) -> Vector:
        return self.recent[-1][1]


@dataclass(frozen=True, slots=True)
class Ended:
    """A track that ended."""

    id: int
    confirmed: bool


@dataclass(frozen=True, slots=True)
class Step:
    """The result for one frame."""

    ids: NDArray[np.int64]
    """The track of each detection, -1 for none. The first sightings of a track have its id before
    it is confirmed."""
    ended: list[Ended]


class Tracker(ABC):
    """Assigns the detections of each frame, given in the order of time, to tracks."""

    name: ClassVar[str]

    def __init__(self, settings: TrackerSettings) -> None:
        self.settings = settings
        self._tracks: list[Track] = []
        self._next_id = 1
        self._time: float | None = None
        self._elapsed = 0.0  # seconds between the last two frames

    @abstractmethod
    def _associate(self, detections: Detections, features: Features | None) -> Pairs:
        """Return pairs of rows in `self._tracks` and in `detections`.

        The motion of each track is already predicted to the time of the frame.
        """

    def update(self, time: float, detections: Detections, features: Features | None = None) -> Step:
        """Assign the detections of the frame at `time` (seconds) to tracks.

        If time goes back, all tracks end: what follows is another recording.
        """
        ended: list[Ended] = []
        if self._time is not None and time <= self._time:
            ended += self.finish()
        previous = self._elapsed
        self._elapsed = 0.0 if self._time is None else time - self._time
        self._time = time
        # If frames are rarer than max_gap, a track may miss one frame. A single long pause does not
        # count: frames are rare only if the distance before was long as well.
        longest_gap = max(self.settings.max_gap, 2.5 * min(previous, self._elapsed))
        ended += self._end_tracks(lambda track: time - track.last_seen > longest_gap)
        for track in self._tracks:
            track.motion.predict(self._elapsed)
        ids = np.full(len(detections), -1, np.int64)
        for row, column in self._associate(detections, features):
            track = self._tracks[row]
            self._add_sighting(track, detections, column, features)
            ids[column] = track.id
        for track in self._tracks:
            if track.id not in ids:
                track.missed.append(time)
        # A face that is missed before it is confirmed was none, or starts a track of its own later.
        min_sightings = self.settings.min_sightings
        ended += self._end_tracks(lambda t: t.sightings < min_sightings and bool(t.missed))
        unassigned = (ids < 0) & (detections.scores >= self.settings.start_score)
        for column in np.flatnonzero(unassigned).tolist():
            ids[column] = self._start_track(detections, column, features)
        return Step(ids, ended)

    def finish(self) -> list[Ended]:
        """End all tracks."""
        return self._end_tracks(lambda _: True)

    def state(self) -> dict[str, object]:
        """Return everything that `restore` needs, for JSON, which keeps floats exactly."""
        return {
            "tracker": self.name,
            "next_id": self._next_id,
            "time": self._time,
            "elapsed": self._elapsed,
            "tracks": [_track_state(t) for t in self._tracks],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned."""
        assert state["tracker"] == self.name
        self._next_id = state["next_id"]
        self._time = state["time"]
        self._elapsed = state["elapsed"]
        self._tracks = [_track_from(track) for track in state["tracks"]]

    def _start_track(self, detections: Detections, column: int, features: Features | None) -> int:
        """Start a track with this detection; return its id."""
        assert self._time is not None
        track = Track(self._next_id, BoxFilter(detections.boxes[column]), self._time)
        track.feature = None if features is None else features[column]
        track.recent.append((self._time, detections.boxes[column].astype(np.float64)))
        track.at_sighting = track.motion.state()
        self._tracks.append(track)
        self._next_id += 1
        return track.id

    def _add_sighting(
        self, track: Track, detections: Detections, column: int, features: Features | None
    ) -> None:
        """Continue a track with this detection."""
        assert self._time is not None
        box = detections.boxes[column]
        track.motion.update(box)
        track.at_sighting = track.motion.state()
        track.recent = [*track.recent[-RECENT:], (self._time, box.astype(np.float64))]
        track.last_seen = self._time
        track.sightings += 1
        track.missed.clear()
        if features is not None:
            mixed = features[column]
            if track.feature is not None:
                mixed = FEATURE_MEMORY * track.feature + (1 - FEATURE_MEMORY) * mixed
            track.feature = mixed / max(float(np.linalg.norm(mixed)), 1e-9)

    def _end_tracks(self, is_over: Callable[[Track], bool]) -> list[Ended]:
        """End the tracks that are over; return them."""
        over = [track for track in self._tracks if is_over(track)]
        self._tracks = [track for track in self._tracks if not is_over(track)]
        return [Ended(t.id, t.sightings >= self.settings.min_sightings) for t in over]

    def _overlaps(
        self, rows: list[int], boxes: NDArray[np.float32], predicted: bool = True
    ) -> Matrix:
        """Return the overlap of each track with each box.

        The longer the time between frames, the wider both boxes are made (buffered IoU).
        """
        tracks = [self._tracks[r] for r in rows]
        if not tracks or not len(boxes):
            return np.zeros((len(tracks), len(boxes)))
        expected = np.stack([t.motion.box if predicted else t.last_box for t in tracks])
        share = min(0.5, self.settings.reach * self._elapsed)
        return iou_matrix(widen(expected, share), widen(boxes, share)).astype(np.float64)

    def _match(
        self,
        overlap: Matrix,
        rows: list[int],
        columns: list[int],
        features: Features | None,
        *,
        floor: float,
        bonus: Matrix | None = None,
    ) -> Pairs:
        """Pair tracks `rows` with detections `columns`.

        What counts is the overlap, the bonus, and the appearance if it is known.
        """
        allowed = overlap >= floor
        similarity = overlap if bonus is None else overlap + bonus
        known = [self._tracks[r].feature for r in rows]
        if features is not None and rows and columns and all(f is not None for f in known):
            cosine = np.stack([f for f in known if f is not None]) @ features[columns].T
            similarity = similarity + self.settings.appearance_weight * cosine
            allowed &= cosine >= MIN_COSINE
        return [(rows[r], columns[c]) for r, c in assign(similarity, allowed)]


def _track_state(track: Track) -> dict[str, object]:
    return {
        "id": track.id,
        "motion": track.motion.state().as_json(),
        "seen_at": track.last_seen,
        "sightings": track.sightings,
        "missed": list(track.missed),
        "recent": [[t, box.tolist()] for t, box in track.recent],
        "at_sighting": None if track.at_sighting is None else track.at_sighting.as_json(),
        "feature": None if track.feature is None else track.feature.tolist(),
    }


def _track_from(state: dict[str, Any]) -> Track:
    recent = [(t, np.array(box)) for t, box in state["recent"]]
    motion = BoxFilter(recent[-1][1])
    motion.restore(MotionState.from_json(state["motion"]))
    at_sighting = state["at_sighting"]
    feature = state["feature"]
    return Track(
        id=state["id"],
        motion=motion,
        last_seen=state["seen_at"],
        sightings=state["sightings"],
        missed=list(state["missed"]),
        recent=recent,
        at_sighting=None if at_sighting is None else MotionState.from_json(at_sighting),
        feature=None if feature is None else np.array(feature, np.float32),
    )
