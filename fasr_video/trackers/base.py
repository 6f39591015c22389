"""What all trackers share: tracks, their lives, and a state that can be stored and taken up again."""

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

# N×D unit vectors, one a detection.
Features = NDArray[np.float32]

RECENT = 3  # observations kept for the direction of motion (OC-SORT's Δt)
FEATURE_MEMORY = 0.9  # how slowly a track's appearance follows its newest picture
MIXING_FLOOR = 0.0  # below this cosine two faces are never one track, however well they overlap


@dataclass(frozen=True, slots=True)
class TrackerSettings:
    """One meaning for all trackers; times are seconds, shares are of 1."""

    max_gap: float = 1.0
    """How long a face may be unseen and still go on as the same track."""
    min_sightings: int = 3
    """Sightings that make a track; those of a face seen fewer times are kept as unconfirmed."""
    start_score: float = 0.55
    """A detection below this starts no track."""
    high_score: float = 0.55
    """ByteTrack and OC-SORT: detections below this only continue tracks."""
    min_overlap: float = 0.2
    """Intersection over union that a track's expected box and a detection need."""
    reach: float = 0.5
    """How far boxes are widened for the comparison, in box sizes a second between looks, up to half a box."""
    appearance_weight: float = 0.5
    """Weight of the embeddings' cosine beside the overlap, when there are embeddings: a run gives none."""


@dataclass(slots=True)
class Track:
    id: int
    motion: BoxFilter
    seen_at: float
    sightings: int = 1
    missed: list[float] = field(default_factory=list)
    """Times of the looks since the last sighting at which it was not seen."""
    recent: list[tuple[float, Vector]] = field(default_factory=list)
    """The last sightings: (time, box)."""
    at_sighting: MotionState | None = None
    """The motion's state right after the last sighting."""
    feature: NDArray[np.float32] | None = None

    @property
    def last_box(self) -> Vector:
        return self.recent[-1][1]


@dataclass(frozen=True, slots=True)
class Ended:
    id: int
    confirmed: bool


@dataclass(frozen=True, slots=True)
class Step:
    ids: NDArray[np.int64]
    """The track of each detection, -1 for none. A track's first sightings carry its id before it is confirmed."""
    ended: list[Ended]


class Tracker(ABC):
    """Feed it the detections of each look in the order of time; it says which track each belongs to."""

    name: ClassVar[str]

    def __init__(self, settings: TrackerSettings) -> None:
        self.settings = settings
        self._tracks: list[Track] = []
        self._next_id = 1
        self._time: float | None = None
        self._elapsed = 0.0  # since the look before

    @abstractmethod
    def _associate(self, found: Detections, features: Features | None) -> Pairs:
        """(track, detection) pairs, as places in `self._tracks` and `found`; motions are predicted to now."""

    def update(self, time: float, found: Detections, features: Features | None = None) -> Step:
        """One look at `time` (seconds). Time that goes back ends all tracks: what follows is another recording."""
        ended: list[Ended] = []
        if self._time is not None and time <= self._time:
            ended += self.finish()
        usual = self._elapsed
        self._elapsed = 0.0 if self._time is None else time - self._time
        self._time = time
        # Where looks are rarer than max_gap, a track lives on for two of them; one long pause is no rare looking.
        patience = max(self.settings.max_gap, 2.5 * min(usual, self._elapsed))
        ended += self._retire(lambda t: time - t.seen_at > patience)
        for track in self._tracks:
            track.motion.predict(self._elapsed)
        ids = np.full(len(found), -1, np.int64)
        seen: set[int] = set()
        for row, column in self._associate(found, features):
            track = self._tracks[row]
            self._sight(track, found, column, features)
            ids[column] = track.id
            seen.add(track.id)
        for track in self._tracks:
            if track.id not in seen:
                track.missed.append(time)
        # A face that was never confirmed and is not there at the next look was none, or will be found again.
        ended += self._retire(
            lambda t: t.sightings < self.settings.min_sightings and bool(t.missed)
        )
        for fresh in np.flatnonzero((ids < 0) & (found.scores >= self.settings.start_score)):
            ids[fresh] = self._start(found, int(fresh), features)
        return Step(ids, ended)

    def finish(self) -> list[Ended]:
        """End all tracks."""
        return self._retire(lambda _: True)

    def state(self) -> dict[str, object]:
        """Everything that `restore` needs, as JSON keeps it: floats survive exactly."""
        return {
            "tracker": self.name,
            "next_id": self._next_id,
            "time": self._time,
            "elapsed": self._elapsed,
            "tracks": [_track_state(t) for t in self._tracks],
        }

    def restore(self, state: dict[str, Any]) -> None:
        assert state["tracker"] == self.name
        self._next_id, self._time, self._elapsed = state["next_id"], state["time"], state["elapsed"]
        self._tracks = [_track_from(t) for t in state["tracks"]]

    def _start(self, found: Detections, column: int, features: Features | None) -> int:
        assert self._time is not None
        track = Track(self._next_id, BoxFilter(found.boxes[column]), self._time)
        track.feature = None if features is None else features[column]
        track.recent.append((self._time, found.boxes[column].astype(np.float64)))
        track.at_sighting = track.motion.state()
        self._tracks.append(track)
        self._next_id += 1
        return track.id

    def _sight(
        self, track: Track, found: Detections, column: int, features: Features | None
    ) -> None:
        assert self._time is not None
        box = found.boxes[column]
        track.motion.update(box)
        track.at_sighting = track.motion.state()
        track.recent = [*track.recent[-RECENT:], (self._time, box.astype(np.float64))]
        track.seen_at, track.sightings = self._time, track.sightings + 1
        track.missed.clear()
        if features is not None:
            new = features[column]
            mixed = (
                new
                if track.feature is None
                else FEATURE_MEMORY * track.feature + (1 - FEATURE_MEMORY) * new
            )
            track.feature = mixed / max(float(np.linalg.norm(mixed)), 1e-9)

    def _retire(self, over: Callable[[Track], bool]) -> list[Ended]:
        gone = [t for t in self._tracks if over(t)]
        self._tracks = [t for t in self._tracks if not over(t)]
        return [Ended(t.id, t.sightings >= self.settings.min_sightings) for t in gone]

    def _overlaps(
        self, rows: list[int], boxes: NDArray[np.float32], predicted: bool = True
    ) -> Matrix:
        """Overlap of tracks with boxes; the rarer the looks, the wider both are taken (buffered IoU)."""
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
        floor: float,
        bonus: Matrix | None = None,
    ) -> Pairs:
        """Pair tracks `rows` with detections `columns` by overlap, appearance when known, and a bonus."""
        allowed = overlap >= floor
        similarity = overlap if bonus is None else overlap + bonus
        known = [self._tracks[r].feature for r in rows]
        if features is not None and rows and columns and all(f is not None for f in known):
            cosine = np.stack([f for f in known if f is not None]) @ features[columns].T
            similarity = similarity + self.settings.appearance_weight * cosine
            allowed &= cosine >= MIXING_FLOOR
        return [(rows[r], columns[c]) for r, c in assign(similarity, allowed)]


def _track_state(track: Track) -> dict[str, object]:
    return {
        "id": track.id,
        "motion": track.motion.state().as_json(),
        "seen_at": track.seen_at,
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
    sighted, feature = state["at_sighting"], state["feature"]
    return Track(
        id=state["id"],
        motion=motion,
        seen_at=state["seen_at"],
        sightings=state["sightings"],
        missed=list(state["missed"]),
        recent=recent,
        at_sighting=None if sighted is None else MotionState.from_json(sighted),
        feature=None if feature is None else np.array(feature, np.float32),
    )
