"""Which tracklets may be one person seen again: proposals with a score, for a person to accept or refuse.

Trackers over-segment rather than mix; this puts pieces side by side again. Nothing is joined here.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from fasr_video.types import FaceCrop

_HOG = cv2.HOGDescriptor((64, 64), (16, 16), (8, 8), (8, 8), 9)
BLOCK = 4096  # tracklets that are compared with all others at a time
FACE_WEIGHT = 0.5  # of the face's form; the rest is the colours of the face and what surrounds it


@dataclass(frozen=True, slots=True)
class Tracklet:
    """What linking needs to know of a track."""

    id: int
    source: int
    start: float
    end: float
    """Seconds."""
    look: NDArray[np.float32]
    """Unit vector: an embedding, or `appearance`."""


@dataclass(frozen=True, slots=True)
class Proposal:
    a: int
    b: int
    """Ids; `a` is seen before `b`."""
    score: float
    """Cosine of the two looks: raw, not a probability."""


def appearance(crops: Sequence[FaceCrop]) -> NDArray[np.float32]:
    """How a tracklet looks, without a face recogniser: form (HOG) and colours, averaged over its pictures.

    It tells hair, skin and clothes apart within one recording. It does not know faces, and is no evidence of who
    somebody is.
    """
    return _unit(np.mean([_form_and_colours(c) for c in crops], axis=0))


def propose(tracklets: Sequence[Tracklet], max_gap: float, min_score: float) -> list[Proposal]:
    """Pairs that follow each other in one source, where each is the other's best continuation."""
    by_start = sorted(tracklets, key=lambda t: (t.source, t.start))
    starts = [(t.source, t.start) for t in by_start]
    pairs: dict[tuple[int, int], float] = {}
    onward: dict[
        int, float
    ] = {}  # the best score of each tracklet as the earlier, and as the later one
    backward: dict[int, float] = {}
    for a in tracklets:
        # Two faces seen at once are two people: b starts after a has ended.
        first, last = (
            bisect_right(starts, (a.source, a.end)),
            bisect_right(starts, (a.source, a.end + max_gap)),
        )
        for b in by_start[first:last]:
            score = float(a.look @ b.look)
            if score >= min_score:
                pairs[a.id, b.id] = score
                onward[a.id] = max(score, onward.get(a.id, score))
                backward[b.id] = max(score, backward.get(b.id, score))
    best = [Proposal(a, b, s) for (a, b), s in pairs.items() if s == onward[a] == backward[b]]
    return sorted(best, key=lambda p: -p.score)


def propose_by_face(
    tracklets: Sequence[Tracklet], min_score: float, apart: Callable[[int, int], bool]
) -> list[Proposal]:
    """Clusters of tracklets with like faces, whenever and wherever they were seen: the links that hold each together.

    Single linkage, the most like first; two tracklets of one source that overlap in time are two people, and so never
    come into one cluster, nor do two that a person has set `apart`.
    """
    ordered = sorted(tracklets, key=lambda t: (t.source, t.start, t.id))
    looks = np.stack([t.look for t in ordered]) if ordered else np.zeros((0, 1), np.float32)
    first, second, cosines = _alike(looks, max(min_score, 1e-6))
    clusters = [{i} for i in range(len(ordered))]
    found = []
    for k in np.argsort(-cosines, kind="stable"):
        i, j = int(first[k]), int(second[k])
        a, b = clusters[i], clusters[j]
        if a is b or any(
            _two_people(ordered[x], ordered[y]) or apart(ordered[x].id, ordered[y].id)
            for x in a
            for y in b
        ):
            continue
        a |= b
        for member in b:
            clusters[member] = a
        found.append(Proposal(ordered[i].id, ordered[j].id, float(cosines[k])))
    return found


def _alike(
    looks: NDArray[np.float32], least: float
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Pairs i < j with at least that cosine, in order, and their cosines; memory is of one block of rows."""
    rows, columns, cosines = [], [], []
    for start in range(0, len(looks), BLOCK):
        block = np.triu(looks[start : start + BLOCK] @ looks.T, start + 1)
        i, j = np.nonzero(block >= least)
        rows.append(i + start)
        columns.append(j)
        cosines.append(block[i, j])
    if not rows:
        return np.zeros(0, np.intp), np.zeros(0, np.intp), np.zeros(0, np.float32)
    return np.concatenate(rows), np.concatenate(columns), np.concatenate(cosines)


def _two_people(a: Tracklet, b: Tracklet) -> bool:
    return a.source == b.source and a.start <= b.end and b.start <= a.end


def _form_and_colours(crop: FaceCrop) -> NDArray[np.float32]:
    grey = cv2.resize(
        cv2.cvtColor(crop.aligned, cv2.COLOR_RGB2GRAY), (64, 64), interpolation=cv2.INTER_AREA
    )
    form = np.asarray(_HOG.compute(grey), np.float32).ravel()
    hsv = cv2.cvtColor(crop.native, cv2.COLOR_RGB2HSV)
    half = max(1, hsv.shape[0] // 2)
    colours = [
        cv2.calcHist([part], [0, 1, 2], None, [8, 4, 4], [0, 180, 0, 256, 0, 256]).ravel()
        for part in (hsv[:half], hsv[half:])  # hair and skin above, clothes below
        if part.size
    ]
    colour = np.sqrt(np.concatenate([c / max(float(c.sum()), 1.0) for c in colours])).astype(
        np.float32
    )
    if len(colours) == 1:
        colour = np.concatenate((colour, colour))
    return np.concatenate(
        (FACE_WEIGHT**0.5 * _unit(form), (1 - FACE_WEIGHT) ** 0.5 * _unit(colour))
    )


def _unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-9), np.float32)
