"""Calibrations: likelihood ratios and thresholds for the scores of one set of models.

A *scale* is a way to score a candidate: by one kind of probe (`best`, `pooled` or `sr`; the score
is the cosine similarity), or by several kinds fused (`best+pooled`, `best+pooled+sr`; the score is
a weighted sum of their cosines). Candidates are ranked and thresholded by the score of the scale.
The calibrated log10 likelihood ratio says what the score is worth, within what the data can
support.

The meaning of a score depends on the size of the face, so a calibration has its scales for each
*band* of face sizes. A face outside all bands has no likelihood ratio and no leads. The equations
are in `docs/calibration.md`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fasr_video.errors import InputError, IntegrityError, UsageError
from fasr_video.files import atomic_write_text, read_file
from fasr_video.gallery.encoder import Kind
from fasr_video.gallery.likelihood import ScoreMap

FORMAT = "fasr-video/calibration/2"
# Least number of comparisons at or over a threshold for its rate to be measured.
MIN_SUPPORT = 3
# Number of highest scores that the tail is fitted on.
TAIL_SCORES = 100
FAR_LARGER = 10
# An FPIR is valid for galleries of which the tested one was at least this share (NIST SP 800-63).
MIN_TESTED_SHARE = 0.9

Scores = NDArray[np.float64]


def scale_name(kinds: Collection[Kind]) -> str:
    """Return the name of the scale for these kinds, such as `best+pooled+sr`."""
    return "+".join(k for k in Kind if k in kinds)


@dataclass(frozen=True, slots=True)
class Scorer:
    """Computes from cosines the score that candidates are ranked and thresholded by."""

    kinds: tuple[Kind, ...]
    weights: tuple[float, ...]
    offset: float

    def __call__(self, cosines: Mapping[Kind, ArrayLike]) -> Scores:
        total = np.asarray(self.offset, np.float64)
        for kind, weight in zip(self.kinds, self.weights, strict=True):
            total = total + weight * np.asarray(cosines[kind], np.float64)
        return total


@dataclass(frozen=True, slots=True)
class Threshold:
    score: float
    """Score of the scale; a candidate passes at or over it."""
    fmr: float
    """False match rate: the share of comparisons of different people that reach it."""
    extrapolated: bool
    """Whether it comes from the fitted tail, because too few scores were this high."""


@dataclass(frozen=True, slots=True)
class Tail:
    """How often comparisons of different people reach a score, for everybody or for the worst
    group."""

    comparisons: int
    rates: tuple[float, ...]
    """Shares of comparisons at or over `scores`; falling, down to MIN_SUPPORT / comparisons."""
    scores: tuple[float, ...]
    """Rising."""
    start: float
    """Above this score, the share is `start_rate` · e^-((score - start) / scale)."""
    start_rate: float
    scale: float

    @classmethod
    def of(cls, different: Scores, worst_group: float = 1.0) -> Tail:
        """Return the tail of these scores of different people.

        `worst_group` is how many times as often the worst group reaches a score as everybody.
        """
        n = len(different)
        if n < 2 * MIN_SUPPORT:
            reason = f"only {n} comparisons of different people"
            raise UsageError("calibration", reason, "give more people")
        falling = np.sort(different)[::-1]
        # All of the highest scores, then ever fewer, so that the stored curve stays short.
        highest = np.arange(MIN_SUPPORT, min(n, TAIL_SCORES) + 1)
        counts = np.unique(
            np.concatenate((highest, np.geomspace(MIN_SUPPORT, n, 200).round().astype(int)))
        )
        chosen_scores = falling[counts - 1]
        k = max(MIN_SUPPORT, min(TAIL_SCORES, n // 10))
        start = float(falling[k])
        # The mean excess is the most likely scale of an exponential tail.
        scale = float((falling[:k] - start).mean())
        rates = (worst_group * counts[::-1] / n).tolist()
        return cls(
            n, tuple(rates), tuple(chosen_scores[::-1].tolist()), start, worst_group * k / n, scale
        )

    def threshold_at(self, fmr: float) -> Threshold:
        """Return the threshold that this share of comparisons of different people reaches."""
        if fmr >= self.rates[-1] * (1 - 1e-9):
            # `interp` needs rising rates, so both are reversed.
            measured = float(np.interp(math.log(fmr), np.log(self.rates[::-1]), self.scores[::-1]))
            return Threshold(measured, fmr, False)
        score = self.start + self.scale * math.log(self.start_rate / fmr)
        return Threshold(max(self.scores[-1], score), fmr, True)

    def threshold(self, fpir: float, size: int) -> Threshold:
        """Return the threshold at which a search over `size` independent subjects has this FPIR."""
        if not 0 < fpir < 1 or size < 1:
            reason = "an FPIR lies between 0 and 1, and a gallery has at least one subject"
            raise UsageError(f"FPIR {fpir} for {size} subjects", reason, "give others")
        return self.threshold_at(-math.expm1(math.log1p(-fpir) / size))


@dataclass(frozen=True, slots=True)
class Point:
    """A requested FPIR, and the rates measured for it on people that nothing was fitted on."""

    fpir: float
    threshold: float
    """Threshold of this calibration for the tested gallery size."""
    extrapolated: bool
    observed: float
    """Measured FPIR at that threshold."""
    observed_band: tuple[float, float]
    """95 % interval, by resampling people."""
    fnir: float
    """Measured FNIR at that threshold."""
    fnir_band: tuple[float, float]
    fnir_at_fpir: float
    """Measured FNIR at the threshold that gives this FPIR on the tested people."""
    fnir_at_fpir_band: tuple[float, float]
    resolved: bool
    """Whether there were enough non-mated searches to measure this FPIR."""


@dataclass(frozen=True, slots=True)
class Report:
    """Results on people that nothing was fitted on."""

    gallery: int
    mated: int
    non_mated: int
    """Number of mated and non-mated searches."""
    ranks: tuple[tuple[int, float], ...]
    """Pairs of k and the share of mated searches with the right subject among the first k."""
    auc: float
    """Area under the ROC curve of single comparisons."""
    cllr_raw: float
    """Cllr of the raw score, read as a log10 likelihood ratio."""
    cllr: float
    cllr_least: float
    """Cllr of the best monotonic map of these scores, which no calibration can undercut."""
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Scale:
    scorer: Scorer
    map: ScoreMap
    cllr_by_form: tuple[tuple[str, float], ...]
    """Cllr of both forms of map on held-out people; the better map is stored."""
    tail: Tail
    nearest_stranger: float
    """Highest score of a person who is not enrolled."""
    nearest_pair: float
    """Highest score of an enrolled person with another enrolled person."""
    report: Report


@dataclass(frozen=True, slots=True)
class Band:
    """The scales for a range of face sizes."""

    low: int
    high: int
    """Smallest and largest side in px of a face."""
    scales: Mapping[str, Scale]
    """By `scale_name`."""

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of probe that have a scale."""
        return tuple(kind for kind in Kind if kind in self.scales)

    @property
    def report(self) -> Report:
        """Return the report of its first scale; sizes and counts are the same in all."""
        return next(iter(self.scales.values())).report

    def scale(self, name: str) -> Scale:
        """Return the scale of this name; raise where there is none."""
        if name not in self.scales:
            reason = f"it has no scale {name}, only {', '.join(self.scales)}"
            raise UsageError("calibration", reason, "calibrate with probes of these kinds")
        return self.scales[name]

    def score(self, kind: Kind, cosine: ArrayLike) -> Scores:
        """Return the calibrated log10 likelihood ratio of a cosine."""
        return self.scale(kind).map(cosine)

    def fused_score(self, cosines: Mapping[Kind, ArrayLike]) -> Scores:
        """Return the score of the scale that fuses these kinds, to rank by and compare with
        `threshold`."""
        return self.scale(scale_name(cosines)).scorer(cosines)

    def fuse(self, cosines: Mapping[Kind, ArrayLike]) -> Scores:
        """Return the calibrated log10 likelihood ratio of several kinds together."""
        scale = self.scale(scale_name(cosines))
        return scale.map(scale.scorer(cosines))

    def bounds(self, kinds: Collection[Kind]) -> tuple[float, float]:
        """Return the lowest and highest log10 likelihood ratio that the data support for these
        kinds."""
        values = self.scale(scale_name(kinds)).map.values
        return min(values), max(values)

    def threshold(self, name: str, fpir: float, size: int) -> Threshold:
        """Return the threshold at which a search over `size` subjects has this FPIR.

        `name` is a kind or a `scale_name`. The threshold applies to the score of that scale, not to
        the likelihood ratio.
        """
        return self.scale(name).tail.threshold(fpir, size)

    def __str__(self) -> str:
        return f"{self.low}-{self.high} px"


@dataclass(frozen=True, slots=True)
class Calibration:
    """What scores mean for one set of models, by bands of face sizes."""

    provenance: Mapping[str, object]
    """`TrackEncoder.provenance()` of the models."""
    data: str
    made: str
    """Date and time, UTC."""
    seed: int
    people: int
    enrolled: int
    searches: int
    bands: tuple[Band, ...]
    """From small to large faces, without overlap."""

    @property
    def gallery_size(self) -> int:
        """Return the size of the smallest gallery that a report was measured on."""
        return min(band.report.gallery for band in self.bands)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(_canonical(asdict(self))).hexdigest()

    def band_for(self, side: int) -> Band | None:
        """Return the band for faces of this size, or None where there is none."""
        return next((band for band in self.bands if band.low <= side <= band.high), None)

    def mismatch(self, provenance: Mapping[str, object]) -> str | None:
        """Return why it does not apply to probes of these models, or None where it does.

        One made with super-resolution also applies to the same models without it, because the other
        scales do not depend on it.
        """
        other_models = json.loads(json.dumps(provenance))
        for key in sorted({*self.provenance, *other_models}):
            mine = self.provenance.get(key)
            other = other_models.get(key)
            if other == mine or (key == "restorer" and other is None):
                continue
            if key == "restorer" and mine is None:
                return "it was made without super-resolution"
            values = f"{_abbreviated(mine)}, not {_abbreviated(other)}"
            return f"it was made with another {key} ({values})"
        return None

    def warnings(self, size: int) -> list[str]:
        """Return a warning where a gallery of this size is larger than the tested one."""
        tested = self.gallery_size
        if size <= tested / MIN_TESTED_SHARE:
            return []
        sizes = f"calibrated on a gallery of {tested:,} subjects, but this one has {size:,}"
        if size < FAR_LARGER * tested:
            return [f"{sizes}: false-positive rates are extrapolated"]
        return [
            f"{sizes}, {size / tested:.0f} times as many:"
            " do not rely on a stated false-positive rate"
        ]

    def size_warning(self, side: int) -> str | None:
        """Return a warning for faces of a size outside all bands, or None."""
        if self.band_for(side) is not None:
            return None
        sizes = ", ".join(str(band) for band in self.bands)
        return (
            f"a face of {side} px is outside the sizes that scores were calibrated for ({sizes}): "
            "similarities are raw, and no lead is given"
        )

    def save(self, path: Path) -> None:
        """Write it to a JSON file with its own hash."""
        content = {"format": FORMAT, "sha256": self.sha256, **asdict(self)}
        text = json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False)
        atomic_write_text(path, text)

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Return the calibration in a file; raise where the file is invalid or was changed."""
        remedy = "give a file that `fasr-video calibrate` wrote"
        try:
            content = json.loads(read_file(path))
        except FileNotFoundError as error:
            raise InputError(path, "no such file", remedy) from error
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(path, f"not a calibration ({error})", remedy) from error
        if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
            raise InputError(path, f"not a calibration of format {FORMAT}", remedy)
        digest = content.pop("sha256", None)
        if digest != hashlib.sha256(_canonical(content)).hexdigest():
            raise IntegrityError(
                path, "changed since it was written", "restore it from a copy, or calibrate again"
            )
        try:
            return cls(**{**content, "bands": tuple(_band(band) for band in content["bands"])})
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(path, f"an incomplete calibration ({error})", remedy) from error


def _canonical(content: Mapping[str, object]) -> bytes:
    return json.dumps(content, sort_keys=True).encode()


def _band(values: dict[str, Any]) -> Band:
    scales = {name: _scale(scale) for name, scale in values["scales"].items()}
    return Band(int(values["low"]), int(values["high"]), scales)


def _scale(values: dict[str, Any]) -> Scale:
    scorer = values["scorer"]
    report = dict(values["report"])
    report["points"] = tuple(
        Point(**{k: _frozen(v) for k, v in p.items()}) for p in report["points"]
    )
    return Scale(
        scorer=Scorer(
            tuple(Kind(k) for k in scorer["kinds"]), tuple(scorer["weights"]), scorer["offset"]
        ),
        map=ScoreMap(**{k: _frozen(v) for k, v in values["map"].items()}),
        cllr_by_form=_frozen(values["cllr_by_form"]),
        tail=Tail(**{k: _frozen(v) for k, v in values["tail"].items()}),
        nearest_stranger=values["nearest_stranger"],
        nearest_pair=values["nearest_pair"],
        report=Report(**{k: _frozen(v) for k, v in report.items()}),
    )


def _frozen(value: Any) -> Any:
    """Return JSON lists as tuples, at all depths."""
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value


def _abbreviated(fact: object) -> str:
    """Return a value as short text for people; long hashes are cut."""
    if isinstance(fact, dict):
        return ", ".join(f"{k} {_abbreviated(v)}" for k, v in sorted(fact.items()))
    text = str(fact)
    return f"{text[:12]}…" if len(text) > 40 else text
