"""Choice of the faces that represent a track.

LR0 is the best and most frontal one; LR1..LRN are other good ones, spread over time.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from fasr_video.configs.settings import SelectSettings
from fasr_video.types import FaceCrop, Quality, Reason

POOL_FACTOR = 3  # faces kept while a track runs, for each one needed at its end


@dataclass(frozen=True, slots=True)
class Candidate:
    """One face of a track, with its pictures."""

    face: int
    """Its number in the case."""
    seconds: float
    quality: Quality
    crop: FaceCrop


def judge(quality: Quality, settings: SelectSettings) -> Reason | None:
    """Return the first reason why a face is not usable; None if it is usable."""
    checks = (
        (quality.score < settings.min_score, Reason.LOW_SCORE),
        (quality.inside < settings.min_inside, Reason.CUT_OFF),
        (quality.clear < settings.min_clear, Reason.COVERED),
        (quality.eye_px < settings.min_eye_px, Reason.TOO_SMALL),
        (not math.isnan(quality.turn) and quality.turn > settings.max_turn, Reason.TURNED),
        (quality.exposure < settings.min_exposure, Reason.TOO_DARK),
        (quality.exposure > settings.max_exposure, Reason.TOO_BRIGHT),
        (quality.sharpness < settings.min_sharpness, Reason.BLURRED),
    )
    return next((reason for is_bad, reason in checks if is_bad), None)


@dataclass(slots=True)
class Pool:
    """The usable faces of a running track, up to a capacity."""

    capacity: int
    usable: list[Candidate] = field(default_factory=list)
    """In the order of time."""
    best_unusable: Candidate | None = None
    """The face to show if there is no usable one."""
    sightings: int = 0
    scores: float = 0.0
    """Sum of the detector's scores over all sightings."""

    @property
    def mean_score(self) -> float:
        return self.scores / self.sightings

    def count_sighting(self, score: float) -> None:
        """Count a sighting, whether its face is kept or not."""
        self.sightings += 1
        self.scores += score

    def offer(self, candidate: Candidate, reason: Reason | None) -> int | None:
        """Add a face; return the number of the face that is dropped for it, if any.

        The dropped one may be the new face itself. `reason` says why the face is not usable.
        """
        self.count_sighting(candidate.quality.score)
        if reason is not None:
            before = self.best_unusable
            if before is not None and before.quality.total >= candidate.quality.total:
                return candidate.face
            self.best_unusable = candidate
            return None if before is None else before.face
        self.usable.append(candidate)
        if len(self.usable) <= self.capacity:
            return None
        return self.usable.pop(self._least_valuable()).face

    def _least_valuable(self) -> int:
        """Return the index of the face to drop: of low quality, and with neighbours close in time.

        It is never the best one.
        """
        seconds = np.array([c.seconds for c in self.usable])
        quality = np.array([c.quality.total for c in self.usable])
        gaps = np.diff(seconds)
        to_neighbours = np.concatenate((2 * gaps[:1], gaps[:-1] + gaps[1:], 2 * gaps[-1:])) + 1e-6
        value = to_neighbours * quality**2
        value[int(quality.argmax())] = math.inf
        return int(value.argmin())


@dataclass(frozen=True, slots=True)
class Choice:
    """The choice among a track's faces at its end."""

    reasons: dict[int, Reason]
    """The reason of every usable face: LR0, AUX, or why it is not chosen."""
    shown: Candidate | None
    """The face that represents the track: LR0, or the best of the unusable ones."""

    @property
    def kept(self) -> set[int]:
        """Faces whose pictures stay."""
        chosen = {
            face for face, reason in self.reasons.items() if reason in (Reason.LR0, Reason.AUX)
        }
        return chosen | ({self.shown.face} if self.shown else set())


def choose(pool: Pool, settings: SelectSettings) -> Choice:
    """Choose LR0 and the auxiliaries; give every other usable face a reason."""
    if not pool.usable:
        return Choice({}, pool.best_unusable)
    lr0 = max(pool.usable, key=lambda c: c.quality.total)
    reasons = {lr0.face: Reason.LR0}
    vectors = {c.face: _picture_vector(c) for c in pool.usable}
    chosen = [vectors[lr0.face]]
    for candidate in _spread(pool.usable, settings.auxiliaries):
        if candidate is lr0:
            continue
        vector = vectors[candidate.face]
        if max(float(vector @ other) for other in chosen) > settings.duplicate:
            reasons[candidate.face] = Reason.DUPLICATE
        elif len(chosen) > settings.auxiliaries:
            reasons[candidate.face] = Reason.REDUNDANT
        else:
            reasons[candidate.face] = Reason.AUX
            chosen.append(vector)
    return Choice(reasons, lr0)


def _spread(candidates: list[Candidate], count: int) -> list[Candidate]:
    """Return the candidates in the order in which they are considered.

    The time is divided into `count` equal periods. First comes the best face of each period, then
    the second best of each, and so on.
    """
    count = max(count, 1)
    start = candidates[0].seconds
    period_length = max(candidates[-1].seconds - start, 1e-9) / count
    ranks: Counter[int] = Counter()
    keyed = []
    for candidate in sorted(candidates, key=lambda c: -c.quality.total):
        period = min(int((candidate.seconds - start) / period_length), count - 1)
        keyed.append((ranks[period], -candidate.quality.total, candidate))
        ranks[period] += 1
    return [candidate for _, _, candidate in sorted(keyed, key=lambda key: key[:2])]


def _picture_vector(candidate: Candidate) -> NDArray[np.float32]:
    """Return a small grey picture as a unit vector.

    The dot product of two such vectors is the correlation of the pictures.
    """
    grey = cv2.cvtColor(candidate.crop.aligned, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
    small -= small.mean()
    return small / max(float(np.linalg.norm(small)), 1e-6)
