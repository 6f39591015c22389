"""A track's probes against a gallery: three ranked lists, and one that joins them.

Each candidate carries its raw cosines, a calibrated score where a calibration made with the same models is at hand,
and which probes support it. `unknown` is an answer, and the only one where nothing is calibrated.
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

    # A list of fixed length for people to look through.
    INVESTIGATION = "investigation"
    # Only candidates over the threshold that a stated share of strangers would pass, in a gallery
    # of this size.
    IDENTIFICATION = "identification"


class Verdict(StrEnum):
    # At least one passes the threshold: leads for a person to examine.
    CANDIDATES = "candidates"
    # None does.
    UNKNOWN = "unknown"


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
    """Of the probe with the nearest of the subject's templates: raw."""
    ratio: float | None
    """Calibrated log10 likelihood ratio, if there is a calibration for these models and a face of this size."""


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


def chances(templates: int) -> int:
    """How many comparisons with one photograph, which is what calibrations are made of, the nearest of a subject's
    templates is worth. The pooled one is nearer to strangers than a photograph is, too: it counts as all of them."""
    return templates if templates == 1 else 2 * (templates - 1)


# Nearest subjects of each probe that are looked at, however few are shown: who passes must not hang
# on that.
NAMED = 50
# Comparisons that a threshold is set for at the least: who walks past a camera is somebody out of
# many, however few are enrolled, and what a small gallery allows by chance is no lead.
SMALLEST_GALLERY = 500
# Tracks that FAISS is asked about at once. What bounds it is memory: each names up to 150 subjects.
TOGETHER = 64


@dataclass(frozen=True, slots=True)
class Reader:
    """How the scores of one track are read: by the band of its face size, as far as it was calibrated."""

    band: Band | None
    kinds: tuple[Kind, ...]
    """Those that count: calibrated in the band, and with the models at hand."""
    limits: dict[Kind, float]
    """The cosine from which a probe speaks for somebody."""


# Similarities are raw: there is no likelihood ratio, and nothing passes.
UNREAD = Reader(None, (), {})


@dataclass(frozen=True, slots=True)
class Asked:
    """What one track asks with."""

    features: dict[Kind, Feature]
    side: int
    """Of its best face, in px."""


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
        self._gallery, self._index, self._question, self._calibration = (
            gallery,
            index,
            question,
            calibration,
        )
        self._calibrated = () if calibration is None else calibrated
        of_each = {s: chances(templates) for s, templates in gallery.templates_by_subject().items()}
        self._people, self._of_each, self._chances = len(of_each), of_each, sum(of_each.values())
        self._named = max(NAMED, question.length)
        bands = () if calibration is None else calibration.bands
        self._readers = {band.low: self._reader(band) for band in bands}

    def _reader(self, band: Band) -> Reader:
        kinds = tuple(kind for kind in band.kinds if kind in self._calibrated)
        limits = {kind: self._threshold(band, kind)[0] for kind in kinds}
        return Reader(band, kinds, limits)

    def _reader_of(self, side: int) -> Reader:
        """Return how scores of a face of this size are read."""
        band = None if self._calibration is None else self._calibration.at(side)
        return UNREAD if band is None else self._readers[band.low]

    def answer(self, asked: Asked) -> Answer:
        return self.answers([asked])[0]

    def answers(self, asked: Sequence[Asked]) -> list[Answer]:
        """One answer a track. The same as each alone; asked for together they are far cheaper."""
        found = []
        for start in range(0, len(asked), TOGETHER):
            part = asked[start : start + TOGETHER]
            named = iter(self._name([feature for one in part for feature in one.features.values()]))
            names = [{kind: next(named) for kind in one.features} for one in part]
            vectors = self._gallery.features_of(
                {s for lists in names for list_ in lists.values() for s in list_}
            )
            found += [self._answer(one, n, vectors) for one, n in zip(part, names, strict=True)]
        return found

    def _answer(
        self, asked: Asked, names: dict[Kind, list[str]], vectors: dict[str, NDArray[np.float32]]
    ) -> Answer:
        features, reader = asked.features, self._reader_of(asked.side)
        named = list(dict.fromkeys(subject for list_ in names.values() for subject in list_))
        # Every probe with every named subject's nearest template.
        cosines = {
            s: {kind: float((vectors[s] @ f).max()) for kind, f in features.items()} for s in named
        }
        lists = {kind: self._rank(reader, kind, list_, cosines) for kind, list_ in names.items()}
        joined = [k for k in features if k in reader.kinds]
        threshold, extrapolated = None, False
        if reader.band is not None and joined:
            threshold, extrapolated = self._threshold(reader.band, scale_name(joined))
        candidates = [self._candidate(reader, s, cosines[s], lists, threshold) for s in named]
        # A lead that only a synthetic face supports stands after those that the camera's own pictures support.
        candidates.sort(key=lambda c: (not c.passes, c.only_sr, -c.score, c.subject))
        passing = [c for c in candidates if c.passes]
        verdict = Verdict.CANDIDATES if passing else Verdict.UNKNOWN
        if self._question.mode is Mode.IDENTIFICATION:
            candidates = passing
            lists = {
                k: [h for h in hits if _supports(reader, k, h.cosine)] for k, hits in lists.items()
            }
        length = self._question.length
        lists = {kind: hits[:length] for kind, hits in lists.items()}
        return Answer(verdict, lists, candidates[:length], threshold, extrapolated)

    def _rank(
        self, reader: Reader, kind: Kind, names: list[str], cosines: dict[str, dict[Kind, float]]
    ) -> list[Hit]:
        hits = [
            Hit(s, cosines[s][kind], self._ratio(reader, kind, s, cosines[s][kind])) for s in names
        ]
        return sorted(hits, key=lambda h: (-h.cosine, h.subject))

    def _ratio(self, reader: Reader, kind: Kind, subject: str, cosine: float) -> float | None:
        if reader.band is None or kind not in reader.kinds:
            return None
        return float(reader.band.score(kind, cosine)) - self._penalty(subject)

    def _penalty(self, subject: str) -> float:
        """What the nearest of several templates weighs less than the only one: a stranger had so many chances to come
        near it, so density and odds are at most so many times those of one comparison."""
        return math.log10(self._of_each[subject])

    def _name(self, probes: Sequence[Feature]) -> list[list[str]]:
        """The nearest subjects of each probe: as many templates are asked for as it takes to name enough of them."""
        wanted, k = min(self._named, self._people), 4 * self._named
        names: list[list[str]] = [[] for _ in probes]
        open_ = list(range(len(probes)))
        while open_:
            _, ids = self._index.search(np.stack([probes[row] for row in open_]), k)
            owners = self._gallery.templates(np.unique(ids[ids >= 0]).tolist())
            for row, found in zip(open_, ids, strict=True):
                names[row] = list(dict.fromkeys(owners[int(i)].subject for i in found if i >= 0))
            all_seen = dict(zip(open_, (ids >= 0).sum(1) < k, strict=True))
            open_ = [row for row in open_ if len(names[row]) < wanted and not all_seen[row]]
            k *= 4
        return [found[: self._named] for found in names]

    def _candidate(
        self,
        reader: Reader,
        subject: str,
        cosines: dict[Kind, float],
        lists: dict[Kind, list[Hit]],
        threshold: float | None,
    ) -> Candidate:
        if reader.band is None or threshold is None:
            first = tuple(k for k, hits in lists.items() if hits and hits[0].subject == subject)
            return Candidate(
                subject, cosines, float(np.mean(list(cosines.values()))), None, False, first, False
            )
        known = {k: c for k, c in cosines.items() if k in reader.kinds}
        score, ratio = float(reader.band.fused_score(known)), float(reader.band.fuse(known))
        low, high = reader.band.bounds(known)
        at_bound, ratio = not low < ratio < high, ratio - self._penalty(subject)
        over = tuple(k for k, c in cosines.items() if _supports(reader, k, c))
        return Candidate(subject, cosines, score, ratio, at_bound, over, score >= threshold)

    def _threshold(self, band: Band, scale: str) -> tuple[float, bool]:
        # Each template is a chance to come near a stranger, and a subject with several photographs has several.
        found = band.threshold(scale, self._question.fpir, max(SMALLEST_GALLERY, self._chances))
        return found.score, found.extrapolated


def _supports(reader: Reader, kind: Kind, cosine: float) -> bool:
    limit = reader.limits.get(kind)
    return limit is not None and cosine >= limit
