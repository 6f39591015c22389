"""SORT (Bewley et al., 2016): one Kalman filter for each face, one assignment for each frame."""

from __future__ import annotations

from fasr_video.trackers.association import Pairs
from fasr_video.trackers.base import Features, Tracker
from fasr_video.types import Detections

MIN_OVERLAP = 0.3  # the paper's; a setting may only raise it


class Sort(Tracker):
    name = "sort"

    def _associate(self, detections: Detections, features: Features | None) -> Pairs:
        rows, columns = list(range(len(self._tracks))), list(range(len(detections)))
        overlap = self._overlaps(rows, detections.boxes)
        # Of two detections with the same overlap, the one with the higher score is preferred:
        # false detections then rarely take a track.
        bonus = overlap * detections.scores[None]
        floor = max(self.settings.min_overlap, MIN_OVERLAP)
        return self._match(overlap, rows, columns, features, floor=floor, bonus=bonus)
