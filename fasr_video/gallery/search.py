"""A track's probes against a gallery: three ranked lists, and one that joins them.

Each candidate carries its raw cosines, a calibrated score where a calibration made with the same models is at hand,
and which probes support it. `unknown` is an answer, and the only one where nothing is calibrated.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from fasr_video.errors import UsageError
from fasr_video.gallery.calibration import Calibration, scale_name
from fasr_video.gallery.index import Index
from fasr_video.gallery.probes import Feature, Kind
from fasr_video.gallery.store import Gallery


class Mode(StrEnum):
    """The two modes of NIST's one-to-many tests."""

    INVESTIGATION = "investigation"
    """A list of fixed length for people to look through."""
    IDENTIFICATION = "identification"
    """Only candidates over the threshold that a stated share of strangers would pass, in a gallery of this size."""


class Verdict(StrEnum):
    CANDIDATES = "candidates"
    """At least one passes the threshold: leads for a person to examine."""
    UNKNOWN = "unknown"
    """None does."""


@dataclass(frozen=True, slots=True)
class Question:
    mode: Mode
    length: int
    """Candidates in each list."""
    fpir: float
    """Share of strangers that may pass the threshold."""

    def check(self, calibration: Calibration | None) -> None:
        if self.mode is Mode.IDENTIFICATION and calibration is None:
            reason = "a threshold needs a calibration made with these models"
            raise UsageError("search.mode identification", reason, "run `fasr-video calibrate`, or use investigation")


@dataclass(frozen=True, slots=True)
class Hit:
    """One subject in the list of one probe."""

    subject: str
    cosine: float
    """Of the probe with the nearest of the subject's templates: raw."""
    ratio: float | None
    """Calibrated log10 likelihood ratio, if there is a calibration for these models."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One subject in the list that joins the probes."""

    subject: str
    cosines: dict[Kind, float]
    score: float
    """What the list is ordered by: the calibrated sum of the cosines, or their plain mean without a calibration."""
    ratio: float | None
    """Calibrated log10 likelihood ratio of all probes together."""
    at_bound: bool
    """The ratio is the highest or lowest that the calibration's data can support."""
    support: tuple[Kind, ...]
    """The probes that pass their own threshold; without a calibration, those that rank the subject first."""
    passes: bool
    """Over the threshold of the joined list."""

    @property
    def only_sr(self) -> bool:
        """Nothing but the super-resolved face speaks for it: the weakest of leads."""
        return self.support == (Kind.SR,)


@dataclass(frozen=True, slots=True)
class Answer:
    verdict: Verdict
    lists: dict[Kind, list[Hit]]
    joined: list[Candidate]
    threshold: float | None
    """Of the joined score; None without a calibration."""
    extrapolated: bool
    """The threshold lies beyond what the calibration's comparisons can support."""


NAMED = 50
"""Nearest subjects of each probe that are looked at, however few are shown: who passes must not hang on that."""


class Searcher:
    """One gallery, one question, and how scores are read."""

    def __init__(
        self,
        gallery: Gallery,
        index: Index,
        question: Question,
        calibration: Calibration | None,
        calibrated: Collection[Kind] = tuple(Kind),
    ) -> None:
        question.check(calibration)
        self._gallery, self._index, self._question, self._calibration = gallery, index, question, calibration
        self._calibrated = () if calibration is None else calibrated
        self._people, self._templates = len(gallery.subjects()), gallery.count()
        self._named = max(NAMED, question.length)
        # The cosine from which a probe speaks for somebody; none does where it is not calibrated.
        self._limits = {kind: self._threshold(kind)[0] for kind in self._calibrated}

    def answer(self, features: dict[Kind, Feature]) -> Answer:
        lists = {kind: self._rank(kind, feature) for kind, feature in features.items()}
        named = list(dict.fromkeys(hit.subject for hits in lists.values() for hit in hits))
        cosines = self._cosines(features, named)
        joined = [k for k in features if k in self._calibrated]
        threshold, extrapolated = self._threshold(scale_name(joined)) if joined else (None, False)
        candidates = [self._candidate(s, cosines[s], lists, threshold) for s in named]
        # A lead that only a synthetic face supports stands after those that the camera's own pictures support.
        candidates.sort(key=lambda c: (not c.passes, c.only_sr, -c.score, c.subject))
        passing = [c for c in candidates if c.passes]
        verdict = Verdict.CANDIDATES if passing else Verdict.UNKNOWN
        if self._question.mode is Mode.IDENTIFICATION:
            candidates = passing
            lists = {kind: [h for h in hits if self._supports(kind, h.cosine)] for kind, hits in lists.items()}
        length = self._question.length
        lists = {kind: hits[:length] for kind, hits in lists.items()}
        return Answer(verdict, lists, candidates[:length], threshold, extrapolated)

    def _rank(self, kind: Kind, feature: Feature) -> list[Hit]:
        """The nearest subjects, each by its nearest template."""
        found: dict[str, Hit] = {}
        for cosine, subject in self._nearest(feature):
            if subject not in found:
                found[subject] = Hit(subject, cosine, self._ratio(kind, cosine))
        return list(found.values())[: self._named]

    def _ratio(self, kind: Kind, cosine: float) -> float | None:
        if self._calibration is None or kind not in self._calibrated:
            return None
        return float(self._calibration.score(kind, cosine))

    def _nearest(self, feature: Feature) -> list[tuple[float, str]]:
        """Templates, nearest first, as many as it takes to name enough subjects."""
        wanted, k = min(self._named, self._people), 4 * self._named
        while True:
            cosines, ids = self._index.search(feature[None], k)
            rows = [(float(c), int(i)) for c, i in zip(cosines[0], ids[0], strict=True) if i >= 0]
            templates = self._gallery.templates([i for _, i in rows])
            found = [(c, templates[i].subject) for c, i in rows]
            if len({s for _, s in found}) >= wanted or len(rows) < k:
                return found
            k *= 4

    def _cosines(self, features: dict[Kind, Feature], subjects: Iterable[str]) -> dict[str, dict[Kind, float]]:
        """Every probe with every named subject's nearest template."""
        vectors = self._gallery.features_of(subjects)
        return {
            subject: {kind: float((own @ feature).max()) for kind, feature in features.items()}
            for subject, own in vectors.items()
        }

    def _candidate(
        self, subject: str, cosines: dict[Kind, float], lists: dict[Kind, list[Hit]], threshold: float | None
    ) -> Candidate:
        if self._calibration is None or threshold is None:
            first = tuple(k for k, hits in lists.items() if hits and hits[0].subject == subject)
            return Candidate(subject, cosines, float(np.mean(list(cosines.values()))), None, False, first, False)
        known = {k: c for k, c in cosines.items() if k in self._calibrated}
        score, ratio = float(self._calibration.fused_score(known)), float(self._calibration.fuse(known))
        low, high = self._calibration.bounds(known)
        over = tuple(k for k, c in cosines.items() if self._supports(k, c))
        return Candidate(subject, cosines, score, ratio, not low < ratio < high, over, score >= threshold)

    def _supports(self, kind: Kind, cosine: float) -> bool:
        limit = self._limits.get(kind)
        return limit is not None and cosine >= limit

    def _threshold(self, scale: str) -> tuple[float | None, bool]:
        if self._calibration is None:
            return None, False
        # Each template is a chance to come near a stranger, and a subject with several photographs has several.
        found = self._calibration.threshold(scale, self._question.fpir, max(1, self._templates))
        return found.score, found.extrapolated
