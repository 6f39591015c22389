"""Detection in large frames, by any detector: overlapping tiles, one result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fasr_video.boxes import NMS_IOU, areas, intersection, iou_matrix
from fasr_video.detection.detector import Detector
from fasr_video.errors import SettingsError
from fasr_video.types import Detections, Image

EDGE = 2.0  # px: a box that ends this close to a tile's edge, or beyond it, may be part of a face
PART = 0.6  # a cut box that shares more than this with another tile's box is the same face


@dataclass(frozen=True, slots=True)
class Tile:
    """A rectangle of a frame."""

    x: int
    y: int
    image: Image

    def cuts(self, boxes: NDArray[np.float32], frame: Image) -> NDArray[np.bool_]:
        """Return which boxes (in pixels of the tile) the tile cuts off.

        They end at an edge of the tile that is not an edge of the frame.
        """
        height, width = self.image.shape[:2]
        is_inner_edge = (
            self.x > 0,
            self.y > 0,
            self.x + width < frame.shape[1],
            self.y + height < frame.shape[0],
        )
        at_edge = np.concatenate(
            (boxes[:, :2] < EDGE, boxes[:, 2:] > np.array((width, height)) - EDGE), axis=1
        )
        return np.asarray((at_edge & is_inner_edge).any(axis=1))


class TiledDetector:
    """Detects tile by tile in frames larger than a tile.

    A face larger than `overlap` may be cut off in every tile.
    """

    def __init__(self, inner: Detector, tile: int, overlap: int) -> None:
        if not 0 <= overlap < tile:
            reason = f"an overlap of {overlap} px does not fit into tiles of {tile} px"
            raise SettingsError(
                "detect.tile_overlap", reason, "give an overlap smaller than the tile"
            )
        self._inner = inner
        self._tile = tile
        self._overlap = overlap
        self.name = f"{inner.name} in tiles of {tile} px, overlap {overlap} px"
        self.has_landmarks = inner.has_landmarks
        self.fingerprint = inner.fingerprint
        self.licence = inner.licence

    def detect(self, frames: Sequence[Image]) -> list[Detections]:
        return [self._detect_in(frame) for frame in frames]

    def _detect_in(self, frame: Image) -> Detections:
        if max(frame.shape[:2]) <= self._tile:
            return self._inner.detect([frame])[0]
        tiles = self._tiles(frame)
        parts = self._inner.detect([tile.image for tile in tiles])
        pairs = list(zip(tiles, parts, strict=True))
        is_cut = np.concatenate([tile.cuts(part.boxes, frame) for tile, part in pairs])
        tile_of = np.repeat(np.arange(len(tiles)), [len(part) for part in parts])
        joined = join([shifted(part, tile) for tile, part in pairs])
        detections = joined.take(_without_duplicates(joined, is_cut, tile_of))
        return detections.take(np.argsort(-detections.scores, kind="stable"))

    def _tiles(self, frame: Image) -> list[Tile]:
        rows, columns = (self._starts(side) for side in frame.shape[:2])
        side = self._tile
        return [
            Tile(x, y, np.ascontiguousarray(frame[y : y + side, x : x + side]))
            for y in rows
            for x in columns
        ]

    def _starts(self, side: int) -> list[int]:
        """Return where tiles begin along a side.

        The last tile ends with the frame, so that all have one size, as a batch needs.
        """
        last = max(0, side - self._tile)
        return [*range(0, last, self._tile - self._overlap), last]


def shifted(detections: Detections, tile: Tile) -> Detections:
    """Return the detections of a tile in the pixels of the frame."""
    corner = np.array((tile.x, tile.y), np.float32)
    landmarks = None if detections.landmarks is None else detections.landmarks + corner
    return Detections(detections.boxes + np.tile(corner, 2), detections.scores, landmarks)


def join(parts: list[Detections]) -> Detections:
    """Return the detections of all parts, one after the other."""
    landmarks = [part.landmarks for part in parts if part.landmarks is not None]
    boxes = np.concatenate([part.boxes for part in parts])
    return Detections(
        boxes,
        np.concatenate([p.scores for p in parts]),
        np.concatenate(landmarks) if landmarks else None,
    )


def _without_duplicates(
    detections: Detections, is_cut: NDArray[np.bool_], tile_of: NDArray[np.intp]
) -> NDArray[np.intp]:
    """Return the rows of different faces.

    Of duplicates, complete boxes win over cut ones; of complete boxes the one with the highest
    score wins, of cut ones the largest. Boxes of one tile are never duplicates: the detector itself
    has decided about them.
    """
    size_if_cut = np.where(is_cut, -areas(detections.boxes), 0)
    order = np.lexsort((-detections.scores, size_if_cut, is_cut))
    remaining: list[np.intp] = []
    while len(order):
        best = order[0]
        order = order[1:]
        remaining.append(best)
        box = detections.boxes[[best]]
        others = detections.boxes[order]
        smaller = np.minimum(areas(box), areas(others)).clip(min=1e-6)
        overlaps = iou_matrix(box, others)[0] > NMS_IOU
        is_part = is_cut[order] & (intersection(box, others)[0] / smaller > PART)
        order = order[(tile_of[order] == tile_of[best]) | ~(overlaps | is_part)]
    return np.array(remaining, np.intp)
