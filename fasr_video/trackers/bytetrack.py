"""ByteTrack (Zhang et al., 2022): sure detections first, then unsure ones for the tracks still without one.

A face that turns away or is half hidden scores low but is still there: its track goes on instead of breaking.
"""

from __future__ import annotations

from fasr_video.trackers.association import Pairs
from fasr_video.trackers.base import Features, Tracker
from fasr_video.types import Detections

LOW_OVERLAP = 0.5  # an unsure detection must lie where its track is expected


class ByteTrack(Tracker):
    name = "bytetrack"

    def _associate(self, found: Detections, features: Features | None) -> Pairs:
        high = [c for c in range(len(found)) if found.scores[c] >= self.settings.high_score]
        rows = list(range(len(self._tracks)))
        overlap = self._overlaps(rows, found.boxes[high])
        pairs = self._match(overlap, rows, high, features, self.settings.min_overlap)
        return pairs + self._second(found, pairs)

    def _second(self, found: Detections, pairs: Pairs) -> Pairs:
        """Unsure detections for tracks that were seen at the last look and have none yet. By place alone: the
        picture of a half-hidden face says little."""
        taken = {r for r, _ in pairs}
        low = [c for c in range(len(found)) if found.scores[c] < self.settings.high_score]
        rows = [r for r, t in enumerate(self._tracks) if r not in taken and not t.missed]
        overlap = self._overlaps(rows, found.boxes[low])
        return self._match(overlap, rows, low, None, LOW_OVERLAP)
