"""SORT (Bewley et al., 2016): one Kalman filter a face, one assignment a look."""

from __future__ import annotations

from fasr_video.trackers.association import Pairs
from fasr_video.trackers.base import Features, Tracker
from fasr_video.types import Detections


class Sort(Tracker):
    name = "sort"

    def _associate(self, found: Detections, features: Features | None) -> Pairs:
        rows, columns = list(range(len(self._tracks))), list(range(len(found)))
        overlap = self._overlaps(rows, found.boxes)
        return self._match(overlap, rows, columns, features, self.settings.min_overlap)
