"""Which faces speak for a track: LR0, the best and most frontal, and LR1..LRN, other good ones spread over time."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from fasr_video.configs.settings import SelectSettings
from fasr_video.types import FaceCrop, Quality, Reason

POOL_FACTOR = 3  # faces kept while a track runs, for each one wanted at its end


@dataclass(frozen=True, slots=True)
class Candidate:
    """One face of a track, with its pictures."""

    face: int
    """Its number in the case."""
    seconds: float
    quality: Quality
    crop: FaceCrop


def judge(quality: Quality, settings: SelectSettings) -> Reason | None:
    """Why this face is not usable; None when it is. The first reason in the order of the checks counts."""
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
    return next((reason for bad, reason in checks if bad), None)


@dataclass(slots=True)
class Pool:
    """The usable faces of a running track, bounded: when it is full, the face that adds least gives way."""

    capacity: int
    usable: list[Candidate] = field(default_factory=list)
    """In the order of time."""
    best_unusable: Candidate | None = None
    """Kept to show what there was, when nothing usable comes."""
    sightings: int = 0
    scores: float = 0.0
    """Sum of the detector's scores over all sightings."""

    @property
    def mean_score(self) -> float:
        return self.scores / self.sightings

    def count(self, score: float) -> None:
        """Note a sighting, whether its face is kept or not."""
        self.sightings += 1
        self.scores += score

    def offer(self, candidate: Candidate, reason: Reason | None) -> int | None:
        """Take a face in; returns the number of the face that is given up for it, perhaps its own."""
        self.count(candidate.quality.score)
        if reason is not None:
            worst = self.best_unusable
            if worst is not None and worst.quality.total >= candidate.quality.total:
                return candidate.face
            self.best_unusable = candidate
            return None if worst is None else worst.face
        self.usable.append(candidate)
        if len(self.usable) <= self.capacity:
            return None
        return self.usable.pop(self._least()).face

    def _least(self) -> int:
        """The face with the least quality in the least time of its own; never the best one."""
        seconds = np.array([c.seconds for c in self.usable])
        worth = np.array([c.quality.total for c in self.usable])
        gaps = np.diff(seconds)
        own = np.concatenate((2 * gaps[:1], gaps[:-1] + gaps[1:], 2 * gaps[-1:])) + 1e-6
        value = own * worth**2
        value[int(worth.argmax())] = math.inf
        return int(value.argmin())


@dataclass(frozen=True, slots=True)
class Choice:
    """A track's faces at its end."""

    reasons: dict[int, Reason]
    """The fate of every usable face: one LR0, some auxiliaries, the rest with why not."""
    shown: Candidate | None
    """What to show of the track: LR0, or the best of the unusable ones."""

    @property
    def kept(self) -> set[int]:
        """Faces whose pictures stay."""
        chosen = {
            face for face, reason in self.reasons.items() if reason in (Reason.LR0, Reason.AUX)
        }
        return chosen | ({self.shown.face} if self.shown else set())


def choose(pool: Pool, settings: SelectSettings) -> Choice:
    if not pool.usable:
        return Choice({}, pool.best_unusable)
    lr0 = max(pool.usable, key=lambda c: c.quality.total)
    reasons = {lr0.face: Reason.LR0}
    looks = {c.face: _look(c) for c in pool.usable}
    kept = [looks[lr0.face]]
    for candidate in _spread(pool.usable, settings.auxiliaries):
        if candidate is lr0:
            continue
        look = looks[candidate.face]
        if max(float(look @ k) for k in kept) > settings.duplicate:
            reasons[candidate.face] = Reason.DUPLICATE
        elif len(kept) > settings.auxiliaries:
            reasons[candidate.face] = Reason.REDUNDANT
        else:
            reasons[candidate.face] = Reason.AUX
            kept.append(look)
    return Choice(reasons, lr0)


def _spread(candidates: list[Candidate], count: int) -> list[Candidate]:
    """Best first, but one from each of `count` equal stretches of time before a second one from any."""
    start, end = candidates[0].seconds, candidates[-1].seconds
    stretch = max(end - start, 1e-9) / max(count, 1)
    turn: Counter[int] = Counter()
    order = []
    for c in sorted(candidates, key=lambda c: -c.quality.total):
        place = min(int((c.seconds - start) / stretch), max(count, 1) - 1)
        order.append((turn[place], -c.quality.total, c))
        turn[place] += 1
    return [c for _, _, c in sorted(order, key=lambda o: o[:2])]


def _look(candidate: Candidate) -> NDArray[np.float32]:
    """A small grey picture as a unit vector, so that a dot product is the correlation of two faces."""
    grey = cv2.cvtColor(candidate.crop.aligned, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32).ravel()
    small -= small.mean()
    return small / max(float(np.linalg.norm(small)), 1e-6)
