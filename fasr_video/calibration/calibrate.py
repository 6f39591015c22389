"""Make a calibration from searches whose answer is known.

People, not photographs, are divided. One half is for fitting, the other half for the report. Of the
first half, a third chooses the form of the map; the stored map is fitted on the whole first half.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fasr_video.console import count
from fasr_video.datasets.faces import Faces, read_faces, views
from fasr_video.errors import UsageError
from fasr_video.evaluation import open_set
from fasr_video.evaluation.open_set import FPIRS, RANKS, Searches
from fasr_video.gallery.calibration import (
    Band,
    Calibration,
    Point,
    Report,
    Scale,
    Scorer,
    Tail,
    Threshold,
    scale_name,
)
from fasr_video.gallery.encoder import Feature, Kind, TrackEncoder, TrackFaces
from fasr_video.gallery.likelihood import Form, ScoreMap, cllr, fit_map, least_cllr, logistic
from fasr_video.recognition.align import CANONICAL_SIDE
from fasr_video.recognition.embedder import as_tensor
from fasr_video.sr.degradation import enlarge, shrink
from fasr_video.sr.restoration import SMALLEST, as_image
from fasr_video.sr.surveillance import camera
from fasr_video.training.features import write_arrays
from fasr_video.types import AlignedFace

# Least number of enrolled people, and of others; with fewer some parts would be empty.
MIN_PEOPLE = 12
BOOTSTRAP_REPEATS = 1000
FUSED = ((Kind.BEST, Kind.POOLED), (Kind.BEST, Kind.POOLED, Kind.SR))
# People whose features are stored in one file.
PEOPLE_PER_FILE = 16
ENROLLED = "enrolled"
FORMS: tuple[Form, ...] = get_args(Form)
Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LabelledProbe:
    """A search whose answer is known."""

    person: str
    """A gallery subject, or a name for a stranger; the same in all searches of one person."""
    features: Mapping[Kind, Feature]
    side: int
    """Side of LR0 in px."""


@dataclass(frozen=True, slots=True)
class Comparisons:
    """Cosines of searches for some people against the enrolled ones among them."""

    cosines: Mapping[Kind, Scores]
    """Arrays of searches × subjects."""
    own: NDArray[np.intp]
    """The column of each search's own subject, or -1 for strangers."""
    person: tuple[str, ...]

    @property
    def gallery(self) -> int:
        """Return the number of subjects."""
        return len(next(iter(self.cosines.values()))[0])

    def same(self, scores: Scores) -> Scores:
        """Return the scores, of searches × subjects, that compare a person with themselves."""
        return scores[self._is_own]

    def different(self, scores: Scores) -> Scores:
        """Return the scores, of searches × subjects, that compare two people."""
        return scores[~self._is_own]

    @property
    def _is_own(self) -> NDArray[np.bool_]:
        return np.asarray(self.own[:, None] == np.arange(self.gallery))

    def searches(self, scores: Scores) -> Searches:
        return open_set.searches(scores, self.own, self.person)


@dataclass(frozen=True, slots=True)
class People:
    """Which people, enrolled or not, are used for which step."""

    fit: frozenset[str]
    choose: frozenset[str]
    report: frozenset[str]


def divide(probes: Sequence[LabelledProbe], gallery: Mapping[str, Feature], seed: int) -> People:
    """Divide people: half for the report, a third of the other half to choose a form, the rest to
    fit."""
    generator = np.random.default_rng(seed)
    strangers = {p.person for p in probes} - set(gallery)
    searched = len({p.person for p in probes} & set(gallery))
    if min(searched, len(strangers)) < MIN_PEOPLE:
        reason = (
            f"{2 * MIN_PEOPLE} people with two or more photographs are needed, {MIN_PEOPLE} of them "
            f"enrolled; here are {searched} enrolled and {len(strangers)} others"
        )
        raise UsageError("calibration", reason, "give more people with two or more photographs")
    parts: tuple[set[str], ...] = (set(), set(), set())
    people = {probe.person for probe in probes}
    # Each part gets its share of enrolled people with a search, of those without, and of strangers.
    for group in (people & set(gallery), set(gallery) - people, strangers):
        names = sorted(group)
        for i, k in enumerate(generator.permutation(len(names))):
            parts[(2, 0, 2, 1, 2, 0)[i % 6]].add(names[k])
    return People(*(frozenset(p) for p in parts))


def compare(
    probes: Sequence[LabelledProbe], gallery: Mapping[str, Feature], people: frozenset[str]
) -> Comparisons:
    """Return the searches for these people, compared with the enrolled ones among them."""
    subjects = {name: i for i, name in enumerate(sorted(set(gallery) & people))}
    enrolled = np.stack([gallery[name] for name in subjects]).astype(np.float64)
    searches = [p for p in probes if p.person in people]
    cosines = {
        k: np.stack([p.features[k] for p in searches]).astype(np.float64) @ enrolled.T
        for k in kinds_of(probes)
    }
    own = np.array([subjects.get(p.person, -1) for p in searches])
    return Comparisons(cosines, own, tuple(p.person for p in searches))


def kinds_of(probes: Sequence[LabelledProbe]) -> tuple[Kind, ...]:
    """Return the kinds of probe that every search has."""
    return tuple(k for k in Kind if all(k in p.features for p in probes))


def from_probes(
    probes: Sequence[LabelledProbe],
    gallery: Mapping[str, Feature],
    provenance: Mapping[str, object],
    data: str,
    *,
    seed: int,
    bands: Sequence[tuple[int, int]] = (),
    worst_group: float = 1.0,
) -> Calibration:
    """Return a calibration for each band of face sizes, or for all sizes together without bands.

    `provenance` is that of the TrackEncoder that made the features; `data` describes the data in
    words. Thresholds are made for a group of people whose false match rate is `worst_group` times
    that of the people here.
    """
    sides = [probe.side for probe in probes]
    sizes = bands or [(min(sides), max(sides))]
    calibrated = []
    for low, high in sizes:
        in_band = [probe for probe in probes if low <= probe.side <= high]
        calibrated.append(Band(low, high, _make_scales(in_band, gallery, seed, worst_group)))
    return Calibration(
        provenance=provenance,
        data=data,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        seed=seed,
        people=len({probe.person for probe in probes} | set(gallery)),
        enrolled=len(gallery),
        searches=len(probes),
        bands=tuple(calibrated),
    )


def _make_scales(
    probes: Sequence[LabelledProbe], gallery: Mapping[str, Feature], seed: int, worst_group: float
) -> dict[str, Scale]:
    people = divide(probes, gallery, seed)
    fit, choose, held = (
        compare(probes, gallery, p) for p in (people.fit, people.choose, people.report)
    )
    both = compare(probes, gallery, people.fit | people.choose)
    everyone = compare(probes, gallery, people.fit | people.choose | people.report)
    kinds = kinds_of(probes)
    scales = [(kind,) for kind in kinds] + [f for f in FUSED if set(f) <= set(kinds)]
    return {
        scale_name(s): _make_scale(
            s, fit, choose, both, held=held, everyone=everyone, seed=seed, worst_group=worst_group
        )
        for s in scales
    }


def _make_scale(
    kinds: tuple[Kind, ...],
    fit: Comparisons,
    choose: Comparisons,
    both: Comparisons,
    *,
    held: Comparisons,
    everyone: Comparisons,
    seed: int,
    worst_group: float,
) -> Scale:
    """Choose the form of the map on some people, fit scorer, map and tail, and report on others."""
    trial = fit_scorer(kinds, fit)
    trial_scores = trial(fit.cosines)
    costs = {}
    for form in FORMS:
        trial_map = fit_map(form, fit.same(trial_scores), fit.different(trial_scores))
        ratios = trial_map(trial(choose.cosines))
        costs[form] = cllr(choose.same(ratios), choose.different(ratios))
    best_form = min(FORMS, key=lambda form: costs[form])
    scorer = fit_scorer(kinds, both)
    scores = scorer(both.cosines)
    score_map = fit_map(best_form, both.same(scores), both.different(scores))
    tail = Tail.of(both.different(scores), worst_group)
    searches = everyone.searches(scorer(everyone.cosines))
    return Scale(
        scorer=scorer,
        map=score_map,
        cllr_by_form=tuple(costs.items()),
        tail=tail,
        nearest_stranger=float(searches.wrong[~searches.mated].max()),
        nearest_pair=float(searches.wrong[searches.mated].max()),
        report=_report(held, scorer(held.cosines), score_map, tail, seed=seed),
    )


def fit_scorer(kinds: tuple[Kind, ...], on: Comparisons) -> Scorer:
    """Return the scorer of a scale: the cosine of a single kind, a logistic regression of several.

    A higher similarity must never lower the score, so no weight may be negative. While there are
    negative weights, the kind with the most negative one is left out.
    """
    if len(kinds) == 1:
        return Scorer(kinds, (1.0,), 0.0)
    weights = dict.fromkeys(kinds, 0.0)
    offset = 0.0
    used = list(kinds)
    while used:
        same, different = (
            np.column_stack([part(on.cosines[k]) for k in used]) for part in (on.same, on.different)
        )
        slopes, offset = logistic(same, different)
        if slopes.min() >= 0 or len(used) == 1:
            weights |= zip(used, slopes.clip(0).tolist(), strict=True)
            break
        del used[int(slopes.argmin())]
    return Scorer(kinds, tuple(weights.values()), offset)


def _report(
    held: Comparisons, scores: Scores, score_map: ScoreMap, tail: Tail, *, seed: int
) -> Report:
    """Measure a scale on people that nothing was fitted on."""
    searches = held.searches(scores)
    same, different = held.same(scores), held.different(scores)
    thresholds = [tail.threshold(rate, held.gallery) for rate in FPIRS]

    def measure(resampled: Searches) -> Scores:
        """Return 3×FPIRS: FPIR and FNIR at our thresholds, FNIR at the thresholds of these
        searches."""
        ours = [t.score for t in thresholds]
        own_fnir = [open_set.fnir_at(resampled, rate) for rate in FPIRS]
        return np.stack(
            (open_set.fpir(resampled, ours), open_set.fnir(resampled, ours), np.array(own_fnir))
        )

    measured = measure(searches)
    low, high = open_set.bootstrap(searches, measure, BOOTSTRAP_REPEATS, seed)
    points = []
    for i, (rate, threshold) in enumerate(zip(FPIRS, thresholds, strict=True)):
        point = _point(
            rate,
            threshold,
            measured[:, i].tolist(),
            low[:, i].tolist(),
            high=high[:, i].tolist(),
            resolved=open_set.resolves(searches, rate),
        )
        points.append(point)
    return Report(
        gallery=held.gallery,
        mated=int(searches.mated.sum()),
        non_mated=int((~searches.mated).sum()),
        ranks=tuple((k, open_set.rank_rate(searches, k)) for k in RANKS),
        auc=open_set.auc(same, different),
        cllr_raw=cllr(same, different),
        cllr=cllr(score_map(same), score_map(different)),
        cllr_least=least_cllr(same, different),
        points=tuple(points),
    )


def _point(
    rate: float,
    threshold: Threshold,
    measured: Sequence[float],
    low: Sequence[float],
    *,
    high: Sequence[float],
    resolved: bool,
) -> Point:
    """Return the three measured rates at a threshold, each with the ends of its band."""
    return Point(
        fpir=rate,
        threshold=threshold.score,
        extrapolated=threshold.extrapolated,
        observed=measured[0],
        observed_band=(low[0], high[0]),
        fnir=measured[1],
        fnir_band=(low[1], high[1]),
        fnir_at_fpir=measured[2],
        fnir_at_fpir_band=(low[2], high[2]),
        resolved=resolved,
    )


@dataclass(frozen=True, slots=True)
class Protocol:
    """How labelled photographs become searches.

    Every second person is enrolled, with one unchanged photograph. The other photographs are
    degraded, for each band of sizes, to a side drawn for the person; some as in the papers, some as
    cameras do.
    """

    bands: tuple[tuple[int, int], ...] = (
        (10, 13),
        (14, 19),
        (20, 27),
        (28, 39),
        (40, 63),
        (64, 128),
    )
    """Smallest and largest side of each band, in px."""
    camera: float = 0.5
    """Share of the searches that are degraded as cameras do."""
    auxiliaries: int = 8
    """Most photographs beside LR0."""
    people: int | None = None
    """Most people; None takes all who have two photographs or more."""
    seed: int = 0
    worst_group: float = 1.0
    """False match rate that thresholds are made for, as a multiple of the average."""

    def __post_init__(self) -> None:
        ends = [side for band in self.bands for side in band]
        if not ends or min(ends) < SMALLEST or max(ends) > CANONICAL_SIDE:
            reason = f"a face has sides of {SMALLEST} to {CANONICAL_SIDE} px"
            raise UsageError(f"sizes {self.names}", reason, "give others")
        if any(low > high for low, high in self.bands):
            raise UsageError(f"sizes {self.names}", "a band ends before it begins", "give LOW-HIGH")
        if any(before[1] >= after[0] for before, after in pairwise(self.bands)):
            raise UsageError(
                f"sizes {self.names}",
                "bands overlap, or do not rise",
                "give them from small to large",
            )

    @property
    def names(self) -> str:
        """Return the bands as text."""
        return ", ".join(f"{low}-{high} px" for low, high in self.bands)


@dataclass(frozen=True, slots=True)
class Sighting:
    """How the photographs of a person are degraded for one search."""

    side: int
    """Side of the face in px."""
    camera: bool
    """Whether it is degraded as by a camera, not as in the papers."""
    seed: int
    """Seed of the degradation and of super-resolution."""


@dataclass(frozen=True, slots=True)
class Person:
    name: str
    enrolled: bool
    photos: tuple[int, ...]
    """Indices of the faces: the one to enrol, LR0, auxiliaries."""
    sightings: tuple[Sighting, ...]
    """One for each band."""


def choose_people(faces: Faces, protocol: Protocol) -> list[Person]:
    """Return who is searched for and who is enrolled; draws for a person depend on seed and name
    only."""
    several = [
        (_number(protocol.seed, name), name) for name, rows in faces.people.items() if len(rows) > 1
    ]
    chosen = []
    for i, (number, name) in enumerate(sorted(several)[: protocol.people]):
        rows = tuple(faces.people[name][: 2 + protocol.auxiliaries])
        generator = np.random.default_rng(number)
        sightings = [
            Sighting(
                side=int(generator.integers(low, high + 1)),
                camera=bool(generator.random() < protocol.camera),
                seed=int(generator.integers(2**31)),
            )
            for low, high in protocol.bands
        ]
        chosen.append(Person(name, i % 2 == 0, rows, tuple(sightings)))
    return chosen


def _number(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8])


def probe_images(
    faces: Faces,
    encoder: TrackEncoder,
    plain: TrackEncoder,
    protocol: Protocol,
    *,
    parts: Path,
    listen: Callable[[int, int], None],
) -> tuple[list[LabelledProbe], dict[str, Feature]]:
    """Return searches and gallery made from labelled photographs.

    `plain`, an encoder without super-resolution, embeds the enrolled photographs. Features are
    stored in the folder `parts`, under a hash of models, settings and pictures, so that an
    interrupted call continues there. `listen` is called with the number of people done, and of all.
    """
    parts.mkdir(parents=True, exist_ok=True)
    people = choose_people(faces, protocol)
    settings = json.dumps([encoder.provenance(), protocol.seed], sort_keys=True).encode()
    probes = []
    gallery = {}
    for start in range(0, len(people), PEOPLE_PER_FILE):
        batch = people[start : start + PEOPLE_PER_FILE]
        file = parts / f"{_digest(settings, batch, faces)}.npz"
        if not file.exists():
            write_arrays(file, _features(batch, faces, encoder, plain))
        with np.load(file) as arrays:
            kinds = [Kind(name) for name in arrays.files if name != ENROLLED]
            for i, person in enumerate(batch):
                for j, sighting in enumerate(person.sightings):
                    features = {kind: arrays[kind][i, j] for kind in kinds}
                    probes.append(LabelledProbe(person.name, features, sighting.side))
                if person.enrolled:
                    gallery[person.name] = arrays[ENROLLED][i]
        listen(start + len(batch), len(people))
    return probes, gallery


def _digest(settings: bytes, people: Sequence[Person], faces: Faces) -> str:
    """Return a hash over everything that the features of these people depend on."""
    digest = hashlib.sha256(settings)
    for person in people:
        digest.update(f"{person.name} {person.sightings} {len(person.photos)}".encode())
        digest.update(faces.pictures[list(person.photos)].numpy().tobytes())
    return digest.hexdigest()


def _digest_all(faces: Faces) -> str:
    """Return a hash over the names and pictures of all faces."""
    digest = hashlib.sha256("\n".join(faces.paths).encode())
    digest.update(faces.pictures.numpy().data)
    return digest.hexdigest()


def _features(
    people: Sequence[Person], faces: Faces, encoder: TrackEncoder, plain: TrackEncoder
) -> dict[str, Feature]:
    """Return the feature of each person's enrolled photograph, and of searches by kind, people ×
    sightings."""
    tracks = []
    photographs = []
    for person in people:
        pictures = views(
            faces.pictures[list(person.photos)], CANONICAL_SIDE, False, torch.Generator()
        )
        photographs.append(_aligned(pictures[0]))
        tracks += [degrade(pictures[1:], sighting) for sighting in person.sightings]
    seeds = [sighting.seed for person in people for sighting in person.sightings]
    encoded = encoder.encode(tracks, seeds)
    enrolled = plain.encode([TrackFaces(p, p.picture, ()) for p in photographs], [0] * len(people))
    arrays: dict[str, Feature] = {}
    for kind in encoded[0].features:
        rows = np.stack([track.features[kind] for track in encoded])
        arrays[kind] = rows.reshape(len(people), -1, rows.shape[1])
    return arrays | {ENROLLED: np.stack([track.features[Kind.BEST] for track in enrolled])}


def degrade(pictures: Tensor, sighting: Sighting) -> TrackFaces:
    """Return degraded pictures (K×3×128×128 in [0, 1]) as the faces of a track; the first
    is LR0."""
    if sighting.camera:
        seeds = [(sighting.seed + i) % 2**31 for i in range(len(pictures))]
        small = [as_image(p) for p in camera(sighting.side).small(pictures, seeds)]
    else:
        small = [as_image(p) for p in shrink(pictures, sighting.side)]
    faces = [_aligned(p) for p in enlarge(as_tensor(small), CANONICAL_SIDE)]
    return TrackFaces(faces[0], small[0], tuple(faces[1:]))


def _aligned(picture: Tensor) -> AlignedFace:
    return AlignedFace(as_image(picture), None)


def from_images(
    sources: Sequence[Path],
    encoder: TrackEncoder,
    plain: TrackEncoder,
    protocol: Protocol,
    *,
    out: Path,
    listen: Callable[[int, int], None],
) -> tuple[Calibration, list[str]]:
    """Calibrate on aligned faces (folders or tar shards of IDENTITY/PHOTO) and write `out`.

    Return the calibration, and a line for each unusable photograph. An interrupted call continues
    where it stopped.
    """
    faces, left_out = read_faces(sources)
    parts = out.with_name(f".{out.name}-parts")
    probes, gallery = probe_images(faces, encoder, plain, protocol, parts=parts, listen=listen)
    people = len({probe.person for probe in probes})
    data = f"{people} people of {', '.join(source.name for source in sources)} "
    data += f"(sha256 of the {len(faces)} pictures {_digest_all(faces)}): "
    data += f"one photograph enrolled, up to {1 + protocol.auxiliaries} others at "
    data += f"{protocol.names}, {protocol.camera:.0%} of them as cameras see faces; "
    data += f"{count(len(left_out), 'photograph')} could not be used"
    if protocol.worst_group > 1:
        data += "; thresholds for a group whose false match rate is "
        data += f"{protocol.worst_group:g} times everybody's"
    calibration = from_probes(
        probes,
        gallery,
        encoder.provenance(),
        data,
        seed=protocol.seed,
        bands=protocol.bands,
        worst_group=protocol.worst_group,
    )
    calibration.save(out)
    shutil.rmtree(parts)
    return calibration, left_out
