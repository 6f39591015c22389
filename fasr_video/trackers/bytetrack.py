"""ByteTrack (Zhang et al., 2022): high-score detections first, then the others for what is left.

A face that turns away or is half hidden has a low score, and its track continues all the same.
"""

from __future__ import annotations

from fasr_video.trackers.association import Pairs
from fasr_video.trackers.base import Features, Tracker
from fasr_video.types import Detections

LOW_OVERLAP = 0.5  # a low-score detection must lie where its track is expected


class ByteTrack(Tracker):
    name = "bytetrack"

    def _associate(self, detections: Detections, features: Features | None) -> Pairs:
        high = [
            c for c in range(len(detections)) if detections.scores[c] >= self.settings.high_score
        ]
        rows = list(range(len(self._tracks)))
        overlap = self._overlaps(rows, detections.boxes[high])
        pairs = self._match(overlap, rows, high, features, floor=self.settings.min_overlap)
        return pairs + self._pair_low_scores(detections, pairs)

    def _pair_low_scores(self, detections: Detections, pairs: Pairs) -> Pairs:
        """Pair low-score detections with tracks that were seen in the last frame and have no pair.

        Only the position counts: the picture of a half-hidden face says little.
        """
        paired = {r for r, _ in pairs}
        low = [c for c in range(len(detections)) if detections.scores[c] < self.settings.high_score]
        rows = [r for r, t in enumerate(self._tracks) if r not in paired and not t.missed]
        overlap = self._overlaps(rows, detections.boxes[low])
        return self._match(overlap, rows, low, None, floor=LOW_OVERLAP)
