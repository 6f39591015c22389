"""SORT (Bewley et al., 2016): one Kalman filter a face, one assignment a look."""

from __future__ import annotations

from fasr_video.trackers.association import Pairs
from fasr_video.trackers.base import Features, Tracker
from fasr_video.types import Detections

MIN_OVERLAP = 0.3  # the paper's; the setting may ask for more


class Sort(Tracker):
    name = "sort"

    def _associate(self, found: Detections, features: Features | None) -> Pairs:
        rows, columns = list(range(len(self._tracks))), list(range(len(found)))
        overlap = self._overlaps(rows, found.boxes)
        # Of two detections that overlap alike the surer one is taken: false ones then steal few tracks.
        sureness = overlap * found.scores[None]
        floor = max(self.settings.min_overlap, MIN_OVERLAP)
        return self._match(overlap, rows, columns, features, floor, sureness)
