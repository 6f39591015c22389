"""Search a gallery for the probes of a track: a ranked list per probe, and one that joins them.

Each candidate has its raw cosines, the probes that support it and, with a calibration for the same
models, a calibrated score. The answer may be `unknown`; without a calibration it always is.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from fasr_video.errors import UsageError
from fasr_video.gallery.calibration import Band, Calibration, scale_name
from fasr_video.gallery.encoder import Feature, Kind
from fasr_video.gallery.gallery import Gallery
from fasr_video.gallery.index import Index


class Mode(StrEnum):
    """The two modes of NIST's one-to-many tests."""

    # A list of fixed length for people to review.
    INVESTIGATION = "investigation"
    # Only candidates over the threshold that a stated share of strangers would pass in a gallery of
    # this size.
    IDENTIFICATION = "identification"


class Verdict(StrEnum):
    # At least one candidate passes the threshold: a lead for a person to examine.
    CANDIDATES = "candidates"
    # No candidate passes.
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How to search."""

    mode: Mode
    length: int
    """Most candidates in each list."""
    fpir: float
    """Share of strangers that may pass the threshold."""

    def check(self, calibration: Calibration | None) -> None:
        """Raise where the mode needs a calibration and there is none."""
        if self.mode is Mode.IDENTIFICATION and calibration is None:
            reason = "a threshold needs a calibration made with these models"
            raise UsageError(
                "search.mode identification",
                reason,
                "run `fasr-video calibrate`, or use investigation",
            )


@dataclass(frozen=True, slots=True)
class Hit:
    """One subject in the list of one probe."""

    subject: str
    cosine: float
    """Raw cosine of the probe and the subject's nearest template."""
    ratio: float | None
    """Calibrated log10 likelihood ratio, where these models and this face size are calibrated."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One subject in the list that joins the probes."""

    subject: str
    cosines: dict[Kind, float]
    score: float
    """Score that the list is ordered by: a weighted sum of the cosines, or their mean if
    uncalibrated."""
    ratio: float | None
    """Calibrated log10 likelihood ratio of all probes together."""
    at_bound: bool
    """Whether the ratio is the highest or lowest that the calibration's data support."""
    support: tuple[Kind, ...]
    """Probes over their own threshold; without a calibration, those that rank the subject first."""
    passes: bool
    """Whether the score is over the threshold of the joined list."""

    @property
    def only_sr(self) -> bool:
        """Return whether only the super-resolved face supports it, which makes a very weak lead."""
        return self.support == (Kind.SR,)


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of searching for one track."""

    verdict: Verdict
    lists: dict[Kind, list[Hit]]
    joined: list[Candidate]
    threshold: float | None
    """Threshold of the joined score; None without a calibration."""
    extrapolated: bool
    """Whether the threshold lies beyond what the calibration measured."""


def comparison_count(templates: int) -> int:
    """Return how many comparisons with single photographs a subject's templates stand for.

    Calibrations are made from comparisons with single photographs. The pooled template is nearer to
    strangers than a photograph is, so it counts as many comparisons as all photographs together.
    """
    return templates if templates == 1 else 2 * (templates - 1)


# Least number of nearest subjects that are compared for each probe, however short the lists are:
# which candidates pass must not depend on the length of the lists.
MIN_COMPARED = 50
# Least number of comparisons that a threshold is set for. Many different people walk past a camera,
# so a small gallery must not lower the threshold.
SMALLEST_GALLERY = 500
# Tracks that are searched together. Memory limits it: each compares up to 150 subjects.
TRACKS_PER_BATCH = 64


@dataclass(frozen=True, slots=True)
class ScoreReader:
    """How to interpret the scores of one track, from the calibration band of its face size."""

    band: Band | None
    kinds: tuple[Kind, ...]
    """Kinds of probe that are calibrated, in this band and for these models."""
    limits: dict[Kind, float]
    """Cosine from which a probe supports a candidate."""


# Without a calibration there are no likelihood ratios, and no candidate passes.
UNCALIBRATED = ScoreReader(None, (), {})


@dataclass(frozen=True, slots=True)
class TrackQuery:
    """The probes of one track."""

    features: dict[Kind, Feature]
    side: int
    """Side of its best face in px."""


class Searcher:
    """Searches one gallery with fixed options and calibration."""

    def __init__(
        self,
        gallery: Gallery,
        index: Index,
        options: SearchOptions,
        calibration: Calibration | None,
        *,
        calibrated: Collection[Kind] = tuple(Kind),
    ) -> None:
        """`calibrated` are the kinds of probe that the calibration applies to."""
        options.check(calibration)
        self._gallery = gallery
        self._index = index
        self._options = options
        self._calibration = calibration
        self._calibrated = () if calibration is None else calibrated
        self._comparisons = {
            subject: comparison_count(templates)
            for subject, templates in gallery.templates_by_subject().items()
        }
        self._compared = max(MIN_COMPARED, options.length)
        bands = () if calibration is None else calibration.bands
        self._readers = {band.low: self._reader(band) for band in bands}

    def _reader(self, band: Band) -> ScoreReader:
        kinds = tuple(kind for kind in band.kinds if kind in self._calibrated)
        limits = {kind: self._threshold(band, kind)[0] for kind in kinds}
        return ScoreReader(band, kinds, limits)

    def _reader_of(self, side: int) -> ScoreReader:
        """Return how to interpret the scores of a face of this size."""
        band = None if self._calibration is None else self._calibration.band_for(side)
        return UNCALIBRATED if band is None else self._readers[band.low]

    def answer(self, query: TrackQuery) -> Answer:
        """Return the answer for one track."""
        return self.answers([query])[0]

    def answers(self, queries: Sequence[TrackQuery]) -> list[Answer]:
        """Return an answer per track; together this is much faster than track by track."""
        answers = []
        for start in range(0, len(queries), TRACKS_PER_BATCH):
            batch = queries[start : start + TRACKS_PER_BATCH]
            probes = [feature for query in batch for feature in query.features.values()]
            lists = self._nearest_subjects(probes)
            subjects = {subject for list_ in lists for subject in list_}
            vectors = self._gallery.features_of(subjects)
            next_list = iter(lists)
            for query in batch:
                nearest = {kind: next(next_list) for kind in query.features}
                answers.append(self._answer(query, nearest, vectors))
        return answers

    def _answer(
        self,
        query: TrackQuery,
        nearest: dict[Kind, list[str]],
        vectors: dict[str, NDArray[np.float32]],
    ) -> Answer:
        """Return the answer for one track from the nearest subjects of each of its probes."""
        features = query.features
        reader = self._reader_of(query.side)
        compared = list(dict.fromkeys(s for subjects in nearest.values() for s in subjects))
        # Each probe is compared with the nearest template of each of these subjects.
        cosines = {
            subject: {kind: float((vectors[subject] @ f).max()) for kind, f in features.items()}
            for subject in compared
        }
        lists = {
            kind: self._rank(reader, kind, subjects, cosines) for kind, subjects in nearest.items()
        }
        joined = [k for k in features if k in reader.kinds]
        threshold, extrapolated = None, False
        if reader.band is not None and joined:
            threshold, extrapolated = self._threshold(reader.band, scale_name(joined))
        candidates = [
            self._candidate(reader, s, cosines[s], lists, threshold=threshold) for s in compared
        ]
        # Leads that only a reconstruction supports come after those that original pixels support.
        candidates.sort(key=lambda c: (not c.passes, c.only_sr, -c.score, c.subject))
        passing = [c for c in candidates if c.passes]
        verdict = Verdict.CANDIDATES if passing else Verdict.UNKNOWN
        if self._options.mode is Mode.IDENTIFICATION:
            candidates = passing
            lists = {
                k: [h for h in hits if _supports(reader, k, h.cosine)] for k, hits in lists.items()
            }
        length = self._options.length
        lists = {kind: hits[:length] for kind, hits in lists.items()}
        return Answer(verdict, lists, candidates[:length], threshold, extrapolated)

    def _rank(
        self,
        reader: ScoreReader,
        kind: Kind,
        subjects: list[str],
        cosines: dict[str, dict[Kind, float]],
    ) -> list[Hit]:
        """Return hits for these subjects, the most similar first."""
        hits = [
            Hit(s, cosines[s][kind], self._ratio(reader, kind, s, cosines[s][kind]))
            for s in subjects
        ]
        return sorted(hits, key=lambda h: (-h.cosine, h.subject))

    def _ratio(self, reader: ScoreReader, kind: Kind, subject: str, cosine: float) -> float | None:
        if reader.band is None or kind not in reader.kinds:
            return None
        return float(reader.band.score(kind, cosine)) - self._penalty(subject)

    def _penalty(self, subject: str) -> float:
        """Return what to subtract from a log10 likelihood ratio for the subject's several
        templates.

        A stranger has one chance per comparison to come near the nearest template, so the odds are
        at most that many times those of a single comparison.
        """
        return math.log10(self._comparisons[subject])

    def _nearest_subjects(self, probes: Sequence[Feature]) -> list[list[str]]:
        """Return the nearest subjects of each probe.

        Several nearest templates may be of one subject, so the number of templates is raised until
        there are enough subjects.
        """
        wanted = min(self._compared, len(self._comparisons))
        k = 4 * self._compared
        nearest: list[list[str]] = [[] for _ in probes]
        pending = list(range(len(probes)))
        while pending:
            _, ids = self._index.search(np.stack([probes[row] for row in pending]), k)
            templates = self._gallery.templates(np.unique(ids[ids >= 0]).tolist())
            for row, row_ids in zip(pending, ids, strict=True):
                subjects = (templates[int(number)].subject for number in row_ids if number >= 0)
                nearest[row] = list(dict.fromkeys(subjects))
            is_exhausted = dict(zip(pending, (ids >= 0).sum(1) < k, strict=True))
            pending = [
                row for row in pending if len(nearest[row]) < wanted and not is_exhausted[row]
            ]
            k *= 4
        return [subjects[: self._compared] for subjects in nearest]

    def _candidate(
        self,
        reader: ScoreReader,
        subject: str,
        cosines: dict[Kind, float],
        lists: dict[Kind, list[Hit]],
        *,
        threshold: float | None,
    ) -> Candidate:
        if reader.band is None or threshold is None:
            first = tuple(k for k, hits in lists.items() if hits and hits[0].subject == subject)
            mean = float(np.mean(list(cosines.values())))
            return Candidate(subject, cosines, mean, None, False, first, False)
        calibrated = {kind: c for kind, c in cosines.items() if kind in reader.kinds}
        score = float(reader.band.fused_score(calibrated))
        ratio = float(reader.band.fuse(calibrated))
        low, high = reader.band.bounds(calibrated)
        return Candidate(
            subject=subject,
            cosines=cosines,
            score=score,
            ratio=ratio - self._penalty(subject),
            at_bound=not low < ratio < high,
            support=tuple(kind for kind, c in cosines.items() if _supports(reader, kind, c)),
            passes=score >= threshold,
        )

    def _threshold(self, band: Band, scale: str) -> tuple[float, bool]:
        """Return the threshold of a scale for this gallery, and whether it is extrapolated."""
        comparisons = max(SMALLEST_GALLERY, sum(self._comparisons.values()))
        threshold = band.threshold(scale, self._options.fpir, comparisons)
        return threshold.score, threshold.extrapolated


def _supports(reader: ScoreReader, kind: Kind, cosine: float) -> bool:
    limit = reader.limits.get(kind)
    return limit is not None and cosine >= limit
