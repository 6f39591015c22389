"""What scores of one set of models mean: likelihood ratios, thresholds by gallery size, and how well both held.

A *scale* is a way to score a candidate: one kind of probe (`best`, `pooled`, `sr`: its score is the cosine), or several
fused (`best+pooled`, `best+pooled+sr`: a weighted sum of their cosines). Rank and threshold by the scale's score; the
calibrated log10 likelihood ratio says what that score is worth, and stops at what the data could support.

What a score means depends on the size of the face, so a calibration has its scales once for each *band* of sizes. A
face outside all of them has no likelihood ratio and leads to nobody. `docs/calibration.md` has the equations.
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
# Comparisons at or over a threshold that its rate is counted from; fewer would be chance.
SUPPORT = 3
# Highest scores that the tail is fitted on.
TAIL = 100
FAR_LARGER = 10
# A claim about FPIR has to be tested on a gallery of at least this share of the one at work (NIST
# SP 800-63).
OPERATIONAL = 0.9

Scores = NDArray[np.float64]


def scale_name(kinds: Collection[Kind]) -> str:
    """`best+pooled+sr` and the like; kinds in their fixed order."""
    return "+".join(k for k in Kind if k in kinds)


@dataclass(frozen=True, slots=True)
class Scorer:
    """Cosines → the one number that candidates are ranked and thresholded by."""

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
    """Of the scale that was asked for: a candidate passes at or over it."""
    fmr: float
    """Share of comparisons of different people that may reach it."""
    extrapolated: bool
    """Nothing so rare was seen often enough: the score comes from the fitted tail."""


@dataclass(frozen=True, slots=True)
class Tail:
    """How often two different people reach a score; of a group for whom that is more common, where it was made so."""

    comparisons: int
    rates: tuple[float, ...]
    """Falling, down to SUPPORT / comparisons: shares of comparisons at or over the scores."""
    scores: tuple[float, ...]
    """Rising."""
    start: float
    """Beyond it the share falls as `start_rate` · e^-((score - start) / scale)."""
    start_rate: float
    scale: float

    @classmethod
    def of(cls, different: Scores, worst_group: float = 1.0) -> Tail:
        """Return the tail of these scores, for a group that reaches each so many times as often as everybody."""
        n = len(different)
        if n < 2 * SUPPORT:
            reason = f"only {n} comparisons of different people"
            raise UsageError("calibration", reason, "give more people")
        falling = np.sort(different)[::-1]
        # Each of the rarest, then ever fewer: the stored curve stays short whatever the number of comparisons.
        few = np.arange(SUPPORT, min(n, TAIL) + 1)
        counts = np.unique(np.concatenate((few, np.geomspace(SUPPORT, n, 200).round().astype(int))))
        kept = falling[counts - 1]
        k = max(SUPPORT, min(TAIL, n // 10))
        start = float(falling[k])
        # The mean excess is the most likely scale of an exponential tail.
        scale = float((falling[:k] - start).mean())
        rates = (worst_group * counts[::-1] / n).tolist()
        return cls(n, tuple(rates), tuple(kept[::-1].tolist()), start, worst_group * k / n, scale)

    def at(self, fmr: float) -> Threshold:
        """The score that this share of comparisons of different people reaches."""
        if fmr >= self.rates[-1] * (1 - 1e-9):
            # Rates fall and `interp` wants them to rise: both are read backwards.
            seen = float(np.interp(math.log(fmr), np.log(self.rates[::-1]), self.scores[::-1]))
            return Threshold(seen, fmr, False)
        score = self.start + self.scale * math.log(self.start_rate / fmr)
        return Threshold(max(self.scores[-1], score), fmr, True)

    def threshold(self, fpir: float, size: int) -> Threshold:
        """Where a search over `size` subjects has this FPIR, if each reaches it independently of the others."""
        if not 0 < fpir < 1 or size < 1:
            reason = "an FPIR lies between 0 and 1, and a gallery has at least one subject"
            raise UsageError(f"FPIR {fpir} for {size} subjects", reason, "give others")
        return self.at(-math.expm1(math.log1p(-fpir) / size))


@dataclass(frozen=True, slots=True)
class Point:
    """One FPIR that was asked for, and what held on people that nothing was fitted on."""

    fpir: float
    threshold: float
    """By this calibration, for the gallery size that was tested."""
    extrapolated: bool
    observed: float
    """FPIR with that threshold."""
    observed_band: tuple[float, float]
    """95 %, by drawing people anew."""
    fnir: float
    """With that threshold."""
    fnir_band: tuple[float, float]
    fnir_at_fpir: float
    """With the threshold that gives this FPIR on the tested people themselves."""
    fnir_at_fpir_band: tuple[float, float]
    resolved: bool
    """False where there were too few non-mated searches for one of them to be this FPIR."""


@dataclass(frozen=True, slots=True)
class Report:
    """Measured on people that nothing was fitted on."""

    gallery: int
    mated: int
    non_mated: int
    """Searches."""
    ranks: tuple[tuple[int, float], ...]
    """k, and the share of mated searches with their own subject among the first k."""
    auc: float
    """Of comparisons."""
    cllr_raw: float
    """Of the score read as it is, as if it were a log10 likelihood ratio."""
    cllr: float
    cllr_least: float
    """Of the best never-falling map of these very scores: no calibration can be below it."""
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Scale:
    scorer: Scorer
    map: ScoreMap
    cllr_by_form: tuple[tuple[str, float], ...]
    """Of both forms of the map on people held out to choose by; the better one is stored."""
    tail: Tail
    nearest_stranger: float
    """Highest score of a person who is not enrolled."""
    nearest_pair: float
    """Highest score of an enrolled person with another enrolled person."""
    report: Report


@dataclass(frozen=True, slots=True)
class Band:
    """What scores mean for faces of some sizes."""

    low: int
    high: int
    """Sides in px of the smallest and the largest face that it is for."""
    scales: Mapping[str, Scale]
    """By `scale_name`."""

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of probe that have a scale."""
        return tuple(kind for kind in Kind if kind in self.scales)

    @property
    def report(self) -> Report:
        """Of its first scale: sizes and counts are the same for all."""
        return next(iter(self.scales.values())).report

    def scale(self, name: str) -> Scale:
        if name not in self.scales:
            reason = f"no scale {name} in it, but {', '.join(self.scales)}"
            raise UsageError("calibration", reason, "calibrate with probes of these kinds")
        return self.scales[name]

    def score(self, kind: Kind, cosine: ArrayLike) -> Scores:
        """Return the calibrated log10 likelihood ratio of a cosine."""
        return self.scale(kind).map(cosine)

    def fused_score(self, cosines: Mapping[Kind, ArrayLike]) -> Scores:
        """Return the score of the scale that fuses these kinds: it ranks, and is held against `threshold`."""
        return self.scale(scale_name(cosines)).scorer(cosines)

    def fuse(self, cosines: Mapping[Kind, ArrayLike]) -> Scores:
        """Return the calibrated log10 likelihood ratio of several kinds together."""
        scale = self.scale(scale_name(cosines))
        return scale.map(scale.scorer(cosines))

    def bounds(self, kinds: Collection[Kind]) -> tuple[float, float]:
        """Return the lowest and the highest log10 likelihood ratio that the data can support, of these kinds."""
        values = self.scale(scale_name(kinds)).map.values
        return min(values), max(values)

    def threshold(self, name: str, fpir: float, size: int) -> Threshold:
        """Return where a search over `size` subjects has this false-positive identification rate.

        `name` is a kind or a `scale_name`; the threshold is for that scale's score, not for the likelihood ratio.
        """
        return self.scale(name).tail.threshold(fpir, size)

    def __str__(self) -> str:
        return f"{self.low}-{self.high} px"


@dataclass(frozen=True, slots=True)
class Calibration:
    provenance: Mapping[str, object]
    """`TrackEncoder.provenance()` of the models that it was made with."""
    data: str
    made: str
    """Date and time, UTC."""
    seed: int
    people: int
    enrolled: int
    searches: int
    bands: tuple[Band, ...]
    """From small faces to large ones; none overlaps another."""

    @property
    def gallery_size(self) -> int:
        """Of the smallest gallery that a report was measured on."""
        return min(band.report.gallery for band in self.bands)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(_canonical(asdict(self))).hexdigest()

    def at(self, side: int) -> Band | None:
        """Return the band of faces of this size; None where nothing was calibrated."""
        return next((band for band in self.bands if band.low <= side <= band.high), None)

    def fits(self, provenance: Mapping[str, object]) -> str | None:
        """Return why it says nothing about probes of these models; None where it fits.

        Made with super-resolution, it also fits the same models without: those scales do not depend on it.
        """
        theirs = json.loads(json.dumps(provenance))
        for key in sorted({*self.provenance, *theirs}):
            if theirs.get(key) == self.provenance.get(key) or (
                key == "restorer" and theirs.get(key) is None
            ):
                continue
            if key == "restorer" and self.provenance.get(key) is None:
                return "it was made without super-resolution"
            return f"it was made with another {key} ({_short(self.provenance.get(key))}, not {_short(theirs.get(key))})"
        return None

    def warnings(self, size: int) -> list[str]:
        """Return what to say where the gallery at work is larger than the tested one."""
        tested = self.gallery_size
        if size <= tested / OPERATIONAL:
            return []
        told = f"calibrated on a gallery of {tested:,} subjects, but this one has {size:,}"
        if size < FAR_LARGER * tested:
            return [f"{told}: false-positive rates are extrapolated"]
        return [
            f"{told}, {size / tested:.0f} times as many: do not rely on a stated false-positive rate"
        ]

    def outside(self, side: int) -> str | None:
        """Return what to say of a face of this size; None where it is one of those calibrated on."""
        if self.at(side) is not None:
            return None
        sizes = ", ".join(str(band) for band in self.bands)
        return (
            f"a face of {side} px is not one of those that scores were calibrated on ({sizes}): "
            "similarities are raw, and no lead is given"
        )

    def save(self, path: Path) -> None:
        content = {"format": FORMAT, "sha256": self.sha256, **asdict(self)}
        text = json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False)
        atomic_write_text(path, text)

    @classmethod
    def load(cls, path: Path) -> Calibration:
        remedy = "give a file that `fasr-video calibrate` wrote"
        try:
            content = json.loads(read_file(path))
        except FileNotFoundError as error:
            raise InputError(path, "no such file", remedy) from error
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(path, f"not a calibration ({error})", remedy) from error
        if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
            raise InputError(path, f"not a calibration of the form {FORMAT}", remedy)
        digest = content.pop("sha256", None)
        if digest != hashlib.sha256(_canonical(content)).hexdigest():
            raise IntegrityError(
                path, "changed since it was written", "restore it from a copy, or calibrate again"
            )
        try:
            return cls(**{**content, "bands": tuple(_band(band) for band in content["bands"])})
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(path, f"not a whole calibration ({error})", remedy) from error


def _canonical(content: dict[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True).encode()


def _band(b: dict[str, Any]) -> Band:
    return Band(int(b["low"]), int(b["high"]), {name: _scale(s) for name, s in b["scales"].items()})


def _scale(s: dict[str, Any]) -> Scale:
    scorer, report = s["scorer"], dict(s["report"])
    report["points"] = tuple(
        Point(**{k: _frozen(v) for k, v in p.items()}) for p in report["points"]
    )
    return Scale(
        scorer=Scorer(
            tuple(Kind(k) for k in scorer["kinds"]), tuple(scorer["weights"]), scorer["offset"]
        ),
        map=ScoreMap(**{k: _frozen(v) for k, v in s["map"].items()}),
        cllr_by_form=_frozen(s["cllr_by_form"]),
        tail=Tail(**{k: _frozen(v) for k, v in s["tail"].items()}),
        nearest_stranger=s["nearest_stranger"],
        nearest_pair=s["nearest_pair"],
        report=Report(**{k: _frozen(v) for k, v in report.items()}),
    )


def _frozen(value: Any) -> Any:
    """JSON's lists as the tuples that they were."""
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value


def _short(fact: object) -> str:
    """A fact for people: hashes are cut, nested provenance told one by one."""
    if isinstance(fact, dict):
        return ", ".join(f"{k} {_short(v)}" for k, v in sorted(fact.items()))
    text = str(fact)
    return f"{text[:12]}…" if len(text) > 40 else text
