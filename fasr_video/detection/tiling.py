"""Any detector on large frames: overlapping tiles, one result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fasr_video.boxes import NMS_IOU, areas, intersection, iou_matrix
from fasr_video.detection.detector import Detector
from fasr_video.errors import SettingsError
from fasr_video.types import Detections, Image

EDGE = 2.0  # px: a box that ends this near to a tile's edge, or beyond it, may be part of a face
PART = 0.6  # a cut box with this share in common with another tile's box is taken for the same face


@dataclass(frozen=True, slots=True)
class Tile:
    x: int
    y: int
    image: Image

    def cuts(self, boxes: NDArray[np.float32], frame: Image) -> NDArray[np.bool_]:
        """Which boxes (in the tile's pixels) end at an edge of the tile that is not also the frame's."""
        height, width = self.image.shape[:2]
        inner = (
            self.x > 0,
            self.y > 0,
            self.x + width < frame.shape[1],
            self.y + height < frame.shape[0],
        )
        ends = np.concatenate(
            (boxes[:, :2] < EDGE, boxes[:, 2:] > np.array((width, height)) - EDGE), axis=1
        )
        return np.asarray((ends & inner).any(axis=1))


class TiledDetector:
    """Frames larger than a tile are searched tile by tile. A face larger than `overlap` may be cut in every tile."""

    def __init__(self, inner: Detector, tile: int, overlap: int) -> None:
        if not 0 <= overlap < tile:
            reason = f"an overlap of {overlap} px does not fit into tiles of {tile} px"
            raise SettingsError(
                "detect.tile_overlap", reason, "give an overlap smaller than the tile"
            )
        self._inner, self._tile, self._overlap = inner, tile, overlap
        self.name = f"{inner.name} in tiles of {tile} px, overlap {overlap} px"
        self.has_landmarks = inner.has_landmarks
        self.fingerprint = inner.fingerprint
        self.licence = inner.licence

    def detect(self, frames: Sequence[Image]) -> list[Detections]:
        return [self._one(frame) for frame in frames]

    def _one(self, frame: Image) -> Detections:
        if max(frame.shape[:2]) <= self._tile:
            return self._inner.detect([frame])[0]
        tiles = self._cut(frame)
        found = self._inner.detect([tile.image for tile in tiles])
        cut = np.concatenate(
            [tile.cuts(part.boxes, frame) for tile, part in zip(tiles, found, strict=True)]
        )
        owner = np.repeat(np.arange(len(tiles)), [len(part) for part in found])
        whole = join([shifted(part, tile) for tile, part in zip(tiles, found, strict=True)])
        kept = whole.take(_without_doubles(whole, cut, owner))
        return kept.take(np.argsort(-kept.scores, kind="stable"))

    def _cut(self, frame: Image) -> list[Tile]:
        rows, columns = (self._starts(side) for side in frame.shape[:2])
        side = self._tile
        return [
            Tile(x, y, np.ascontiguousarray(frame[y : y + side, x : x + side]))
            for y in rows
            for x in columns
        ]

    def _starts(self, side: int) -> list[int]:
        """The last tile is moved back to end with the frame: tiles of one size go through a network together."""
        last = max(0, side - self._tile)
        return [*range(0, last, self._tile - self._overlap), last]


def shifted(found: Detections, tile: Tile) -> Detections:
    corner = np.array((tile.x, tile.y), np.float32)
    landmarks = None if found.landmarks is None else found.landmarks + corner
    return Detections(found.boxes + np.tile(corner, 2), found.scores, landmarks)


def join(parts: list[Detections]) -> Detections:
    landmarks = [part.landmarks for part in parts if part.landmarks is not None]
    boxes = np.concatenate([part.boxes for part in parts])
    return Detections(
        boxes,
        np.concatenate([p.scores for p in parts]),
        np.concatenate(landmarks) if landmarks else None,
    )


def _without_doubles(
    found: Detections, cut: NDArray[np.bool_], owner: NDArray[np.intp]
) -> NDArray[np.intp]:
    """Rows to keep. Whole boxes go first, the surest before others, then cut ones, the largest before others; only
    boxes of different tiles can be doubles, because the detector has already decided about those of one tile."""
    order = np.lexsort((-found.scores, np.where(cut, -areas(found.boxes), 0), cut))
    kept: list[np.intp] = []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        one, others = found.boxes[[best]], found.boxes[order]
        smaller = np.minimum(areas(one), areas(others)).clip(min=1e-6)
        same = iou_matrix(one, others)[0] > NMS_IOU
        part = cut[order] & (intersection(one, others)[0] / smaller > PART)
        order = order[(owner[order] == owner[best]) | ~(same | part)]
    return np.array(kept, np.intp)
