"""Proposals of tracklets that may show the same person, for a reviewer to accept or refuse.

Trackers would rather split one person's track than mix two people. Nothing is joined here.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fasr_video.types import FaceCrop

_HOG = cv2.HOGDescriptor((64, 64), (16, 16), (8, 8), (8, 8), 9)
BLOCK = 4096  # tracklets that are compared with all others at a time
FACE_WEIGHT = 0.5  # of the face's shape; the rest is colours of the face and its surroundings


@dataclass(frozen=True, slots=True)
class Tracklet:
    """What linking needs to know of a track."""

    id: int
    source: int
    start: float
    end: float
    """Seconds."""
    feature: NDArray[np.float32]
    """Unit vector: an embedding, or `appearance`."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """Two tracklets that may show the same person."""

    a: int
    b: int
    """Ids; `a` begins before `b`."""
    score: float
    """Cosine of the two features: raw, not a probability."""


def appearance(crops: Sequence[FaceCrop]) -> NDArray[np.float32]:
    """Return a feature of shape (HOG) and colours, averaged over the pictures of a tracklet.

    It distinguishes hair, skin and clothes within one recording. It is no face recognition, and no
    evidence of who somebody is.
    """
    return _unit(np.mean([_shape_and_colours(crop) for crop in crops], axis=0))


def propose(tracklets: Sequence[Tracklet], max_gap: float, min_score: float) -> list[Proposal]:
    """Return pairs that follow each other in one source, each the other's best continuation."""
    by_start = sorted(tracklets, key=lambda t: (t.source, t.start))
    starts = [(t.source, t.start) for t in by_start]
    scores: dict[tuple[int, int], float] = {}
    best_next: dict[int, float] = {}  # the best score of each tracklet with a later one
    best_previous: dict[int, float] = {}  # and with an earlier one
    for a in tracklets:
        # Two faces at the same time are two people, so b has to start after a has ended.
        first = bisect_right(starts, (a.source, a.end))
        last = bisect_right(starts, (a.source, a.end + max_gap))
        for b in by_start[first:last]:
            score = float(a.feature @ b.feature)
            if score >= min_score:
                scores[a.id, b.id] = score
                best_next[a.id] = max(score, best_next.get(a.id, score))
                best_previous[b.id] = max(score, best_previous.get(b.id, score))
    proposals = [
        Proposal(a, b, score)
        for (a, b), score in scores.items()
        if score == best_next[a] == best_previous[b]
    ]
    return sorted(proposals, key=lambda p: -p.score)


def propose_by_face(
    tracklets: Sequence[Tracklet], min_score: float, apart: Callable[[int, int], bool]
) -> list[Proposal]:
    """Return the links that hold clusters of similar faces together, over all sources and times.

    This is single linkage, the most similar pair first. A cluster never has two tracklets of one
    source that overlap in time, which are two people, nor two for which `apart` is true.
    """
    ordered = sorted(tracklets, key=lambda t: (t.source, t.start, t.id))
    features = np.zeros((0, 1), np.float32)
    if ordered:
        features = np.stack([t.feature for t in ordered])
    first, second, cosines = _similar_pairs(features, max(min_score, 1e-6))

    def are_two_people(x: int, y: int) -> bool:
        return _overlap_in_time(ordered[x], ordered[y]) or apart(ordered[x].id, ordered[y].id)

    clusters = [{i} for i in range(len(ordered))]
    links = []
    for k in np.argsort(-cosines, kind="stable"):
        i, j = int(first[k]), int(second[k])
        a, b = clusters[i], clusters[j]
        if a is b or any(are_two_people(x, y) for x in a for y in b):
            continue
        a |= b
        for member in b:
            clusters[member] = a
        links.append(Proposal(ordered[i].id, ordered[j].id, float(cosines[k])))
    return links


def _similar_pairs(
    features: NDArray[np.float32], min_cosine: float
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Return i, j and the cosine of all pairs i < j with at least that cosine, in order.

    They are computed in blocks of rows to save memory.
    """
    rows, columns, cosines = [], [], []
    for start in range(0, len(features), BLOCK):
        block = np.triu(features[start : start + BLOCK] @ features.T, start + 1)
        i, j = np.nonzero(block >= min_cosine)
        rows.append(i + start)
        columns.append(j)
        cosines.append(block[i, j])
    if not rows:
        return np.zeros(0, np.intp), np.zeros(0, np.intp), np.zeros(0, np.float32)
    return np.concatenate(rows), np.concatenate(columns), np.concatenate(cosines)


def _overlap_in_time(a: Tracklet, b: Tracklet) -> bool:
    return a.source == b.source and a.start <= b.end and b.start <= a.end


def _shape_and_colours(crop: FaceCrop) -> NDArray[np.float32]:
    grey = cv2.cvtColor(crop.aligned, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (64, 64), interpolation=cv2.INTER_AREA)
    shape = np.asarray(_HOG.compute(small), np.float32).ravel()
    hsv = cv2.cvtColor(crop.native, cv2.COLOR_RGB2HSV)
    half = max(1, hsv.shape[0] // 2)
    halves = (hsv[:half], hsv[half:])  # hair and skin above, clothes below
    histograms = [_colour_histogram(part) for part in halves if part.size]
    colours = np.sqrt(np.concatenate(histograms)).astype(np.float32)
    if len(histograms) == 1:
        colours = np.concatenate((colours, colours))
    return np.concatenate(
        (FACE_WEIGHT**0.5 * _unit(shape), (1 - FACE_WEIGHT) ** 0.5 * _unit(colours))
    )


def _colour_histogram(hsv: NDArray[Any]) -> NDArray[np.float32]:
    """Return the share of the pixels in each of 8×4×4 ranges of hue, saturation and value."""
    counts = cv2.calcHist([hsv], [0, 1, 2], None, [8, 4, 4], [0, 180, 0, 256, 0, 256]).ravel()
    return np.asarray(counts / max(float(counts.sum()), 1.0), np.float32)


def _unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-9), np.float32)
