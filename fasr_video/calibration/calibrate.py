"""Making a calibration from searches whose answer is known.

People are divided, never photographs: a third of one half chooses between the forms of a map, all of that half fits
what is stored, and the other half, on which nothing was fitted, says how well it holds.
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

# Enrolled people, and people not enrolled: fewer leave parts in which there is nothing to see.
FEWEST = 12
# Of the bootstrap.
REPEATS = 1000
FUSED = ((Kind.BEST, Kind.POOLED), (Kind.BEST, Kind.POOLED, Kind.SR))
# People whose features are made safe together.
PART = 16
ENROLLED = "enrolled"
FORMS: tuple[Form, ...] = get_args(Form)
Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LabelledProbe:
    """A search whose answer is known."""

    person: str
    """A subject of the gallery, or the name of a stranger: all searches of one person bear the same."""
    features: Mapping[Kind, Feature]
    side: int
    """Of LR0 in px."""


@dataclass(frozen=True, slots=True)
class Comparisons:
    """Searches of some people over the subjects among them."""

    cosines: Mapping[Kind, Scores]
    """Searches × subjects."""
    own: NDArray[np.intp]
    """The column of each search's own subject; -1 for strangers."""
    person: tuple[str, ...]

    @property
    def gallery(self) -> int:
        return len(next(iter(self.cosines.values()))[0])

    def same(self, scores: Scores) -> Scores:
        """Those scores, of searches × subjects, that are of one person."""
        return scores[self._is_own]

    def different(self, scores: Scores) -> Scores:
        return scores[~self._is_own]

    @property
    def _is_own(self) -> NDArray[np.bool_]:
        return np.asarray(self.own[:, None] == np.arange(self.gallery))

    def searches(self, scores: Scores) -> Searches:
        return open_set.searches(scores, self.own, self.person)


@dataclass(frozen=True, slots=True)
class People:
    """Who serves for what: enrolled people and strangers alike."""

    fit: frozenset[str]
    choose: frozenset[str]
    report: frozenset[str]


def divide(probes: Sequence[LabelledProbe], gallery: Mapping[str, Feature], seed: int) -> People:
    """A half to report on, a third of the other half to choose by, the rest to fit."""
    generator = np.random.default_rng(seed)
    strangers = {p.person for p in probes} - set(gallery)
    searched = len({p.person for p in probes} & set(gallery))
    if min(searched, len(strangers)) < FEWEST:
        reason = f"{searched} enrolled people and {len(strangers)} others are searched for, {FEWEST} of each are needed"
        raise UsageError("calibration", reason, "give more people with two or more photographs")
    parts: tuple[set[str], ...] = (set(), set(), set())
    # Enrolled people without a search are divided apart: each part is to have its share of every sort.
    for group in (
        {p.person for p in probes} & set(gallery),
        set(gallery) - {p.person for p in probes},
        strangers,
    ):
        names = sorted(group)
        for i, k in enumerate(generator.permutation(len(names))):
            parts[(2, 0, 2, 1, 2, 0)[i % 6]].add(names[k])
    return People(*(frozenset(p) for p in parts))


def compare(
    probes: Sequence[LabelledProbe], gallery: Mapping[str, Feature], people: frozenset[str]
) -> Comparisons:
    """All searches of these people over those of them who are enrolled."""
    subjects = {name: i for i, name in enumerate(sorted(set(gallery) & people))}
    enrolled = np.stack([gallery[name] for name in subjects]).astype(np.float64)
    mine = [p for p in probes if p.person in people]
    cosines = {
        k: np.stack([p.features[k] for p in mine]).astype(np.float64) @ enrolled.T
        for k in kinds_of(probes)
    }
    own = np.array([subjects.get(p.person, -1) for p in mine])
    return Comparisons(cosines, own, tuple(p.person for p in mine))


def kinds_of(probes: Sequence[LabelledProbe]) -> tuple[Kind, ...]:
    """The kinds that every search has."""
    return tuple(k for k in Kind if all(k in p.features for p in probes))


def from_probes(
    probes: Sequence[LabelledProbe],
    gallery: Mapping[str, Feature],
    provenance: Mapping[str, object],
    data: str,
    seed: int,
    bands: Sequence[tuple[int, int]] = (),
    worst_group: float = 1.0,
) -> Calibration:
    """Calibrate each band of face sizes by itself, or all sizes together where none is given.

    `provenance` is that of the TrackEncoder that made the features; `data` says in words what,
    how many and how degraded. Thresholds are made for a group of people whose false match rate
    is `worst_group` times that of the people here.
    """
    sides = [probe.side for probe in probes]
    sizes = bands or [(min(sides), max(sides))]
    made = []
    for low, high in sizes:
        mine = [probe for probe in probes if low <= probe.side <= high]
        made.append(Band(low, high, _make_scales(mine, gallery, seed, worst_group)))
    return Calibration(
        provenance=provenance,
        data=data,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        seed=seed,
        people=len({probe.person for probe in probes} | set(gallery)),
        enrolled=len(gallery),
        searches=len(probes),
        bands=tuple(made),
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
    wanted = [(k,) for k in kinds] + [f for f in FUSED if set(f) <= set(kinds)]
    return {
        scale_name(w): _make_scale(w, fit, choose, both, held, everyone, seed, worst_group)
        for w in wanted
    }


def _make_scale(
    kinds: tuple[Kind, ...],
    fit: Comparisons,
    choose: Comparisons,
    both: Comparisons,
    held: Comparisons,
    everyone: Comparisons,
    seed: int,
    worst_group: float,
) -> Scale:
    trial, scored = fit_scorer(kinds, fit), {}
    for form in FORMS:
        told = fit_map(form, fit.same(trial(fit.cosines)), fit.different(trial(fit.cosines)))
        ratios = told(trial(choose.cosines))
        scored[form] = cllr(choose.same(ratios), choose.different(ratios))
    scorer = fit_scorer(kinds, both)
    scores = scorer(both.cosines)
    told = fit_map(min(FORMS, key=lambda f: scored[f]), both.same(scores), both.different(scores))
    tail = Tail.of(both.different(scores), worst_group)
    found = everyone.searches(scorer(everyone.cosines))
    return Scale(
        scorer=scorer,
        map=told,
        cllr_by_form=tuple(scored.items()),
        tail=tail,
        nearest_stranger=float(found.wrong[~found.mated].max()),
        nearest_pair=float(found.wrong[found.mated].max()),
        report=_report(held, scorer(held.cosines), told, tail, seed),
    )


def fit_scorer(kinds: tuple[Kind, ...], on: Comparisons) -> Scorer:
    """A single kind is scored by its cosine, several by logistic regression on theirs.

    No weight is below zero, as one may come out for a kind that another contains: being more alike never counts against
    a candidate. The kind with the most negative weight is left out until there is none.
    """
    if len(kinds) == 1:
        return Scorer(kinds, (1.0,), 0.0)
    weights, offset = dict.fromkeys(kinds, 0.0), 0.0
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


def _report(held: Comparisons, scores: Scores, told: ScoreMap, tail: Tail, seed: int) -> Report:
    found = held.searches(scores)
    same, different = held.same(scores), held.different(scores)
    thresholds = [tail.threshold(rate, held.gallery) for rate in FPIRS]

    def measure(drawn: Searches) -> Scores:
        """FPIR and FNIR with our thresholds, and FNIR with those that suit these very searches: 3 × FPIRS."""
        ours = [t.score for t in thresholds]
        own = [open_set.fnir_at(drawn, rate) for rate in FPIRS]
        return np.stack((open_set.fpir(drawn, ours), open_set.fnir(drawn, ours), np.array(own)))

    value = measure(found)
    low, high = open_set.bootstrap(found, measure, REPEATS, seed)
    points = []
    for i, (rate, threshold) in enumerate(zip(FPIRS, thresholds, strict=True)):
        bands = [(float(low[row, i]), float(high[row, i])) for row in range(3)]
        points.append(
            Point(
                fpir=rate,
                threshold=threshold.score,
                extrapolated=threshold.extrapolated,
                observed=float(value[0, i]),
                observed_band=bands[0],
                fnir=float(value[1, i]),
                fnir_band=bands[1],
                fnir_at_fpir=float(value[2, i]),
                fnir_at_fpir_band=bands[2],
                resolved=open_set.resolves(found, rate),
            )
        )
    return Report(
        gallery=held.gallery,
        mated=int(found.mated.sum()),
        non_mated=int((~found.mated).sum()),
        ranks=tuple((k, open_set.rank_rate(found, k)) for k in RANKS),
        auc=open_set.auc(same, different),
        cllr_raw=cllr(same, different),
        cllr=cllr(told(same), told(different)),
        cllr_least=least_cllr(same, different),
        points=tuple(points),
    )


@dataclass(frozen=True, slots=True)
class Protocol:
    """How labelled photographs become searches: one photograph of a person is enrolled as it is; the others are brought
    down once for each band of sizes, to a side drawn for the person. Half of these are as the papers degrade faces,
    half as cameras do. Every second person is not enrolled."""

    bands: tuple[tuple[int, int], ...] = (
        (10, 13),
        (14, 19),
        (20, 27),
        (28, 39),
        (40, 63),
        (64, 128),
    )
    """The smallest and the largest side of each, in px."""
    camera: float = 0.5
    """Share of the searches that are degraded as cameras do."""
    auxiliaries: int = 8
    """Photographs beside the first, at most."""
    people: int | None = None
    """At most; None takes all who have two photographs or more."""
    seed: int = 0
    worst_group: float = 1.0
    """How many times the average false match rate the thresholds are made for."""

    def __post_init__(self) -> None:
        ends = [side for band in self.bands for side in band]
        if not ends or min(ends) < SMALLEST or max(ends) > CANONICAL_SIDE:
            reason = f"a face has {SMALLEST} to {CANONICAL_SIDE} px a side"
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
        """The bands in words."""
        return ", ".join(f"{low}-{high} px" for low, high in self.bands)


@dataclass(frozen=True, slots=True)
class Sighting:
    """How a person is seen in one search."""

    side: int
    """Of the face, in px."""
    camera: bool
    """Degraded as cameras do, in place of the papers' degradation."""
    seed: int
    """Of the degradation, and of super-resolution."""


@dataclass(frozen=True, slots=True)
class Person:
    name: str
    enrolled: bool
    photos: tuple[int, ...]
    """Rows of the faces: the one to enrol, LR0, auxiliaries."""
    sightings: tuple[Sighting, ...]
    """One for each band."""


def choose_people(faces: Faces, protocol: Protocol) -> list[Person]:
    """Who is searched for and who is enrolled; all that is drawn for a person depends on seed and name alone."""
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
    parts: Path,
    tell: Callable[[int, int], None],
) -> tuple[list[LabelledProbe], dict[str, Feature]]:
    """Searches and gallery from labelled photographs; `plain`, without super-resolution, enrols.

    What is made lies in the folder `parts`, by the models, settings and pictures it comes from: a call that was stopped
    goes on there. `tell` hears how many people are done, and of how many.
    """
    parts.mkdir(parents=True, exist_ok=True)
    people = choose_people(faces, protocol)
    question = json.dumps([encoder.provenance(), protocol.seed], sort_keys=True).encode()
    probes, gallery = [], {}
    for start in range(0, len(people), PART):
        some = people[start : start + PART]
        file = parts / f"{_digest(question, some, faces)}.npz"
        if not file.exists():
            write_arrays(file, _features(some, faces, encoder, plain))
        with np.load(file) as made:
            kinds = [Kind(name) for name in made.files if name != ENROLLED]
            for i, person in enumerate(some):
                for j, sighting in enumerate(person.sightings):
                    features = {kind: made[kind][i, j] for kind in kinds}
                    probes.append(LabelledProbe(person.name, features, sighting.side))
                if person.enrolled:
                    gallery[person.name] = made[ENROLLED][i]
        tell(start + len(some), len(people))
    return probes, gallery


def _digest(question: bytes, people: Sequence[Person], faces: Faces) -> str:
    digest = hashlib.sha256(question)
    for person in people:
        digest.update(f"{person.name} {person.sightings} {len(person.photos)}".encode())
        digest.update(faces.pictures[list(person.photos)].numpy().tobytes())
    return digest.hexdigest()


def _digest_all(faces: Faces) -> str:
    digest = hashlib.sha256("\n".join(faces.paths).encode())
    digest.update(faces.pictures.numpy().data)
    return digest.hexdigest()


def _features(
    people: Sequence[Person], faces: Faces, encoder: TrackEncoder, plain: TrackEncoder
) -> dict[str, Feature]:
    """Return the enrolled photograph's feature of each person, and the searches' by kind, people × sightings."""
    tracks, photographs = [], []
    for person in people:
        pictures = views(
            faces.pictures[list(person.photos)], CANONICAL_SIDE, False, torch.Generator()
        )
        photographs.append(_aligned(pictures[0]))
        tracks += [degrade(pictures[1:], sighting) for sighting in person.sightings]
    seeds = [sighting.seed for person in people for sighting in person.sightings]
    asked = encoder.ask(tracks, seeds)
    enrolled = plain.ask([TrackFaces(p, p.picture, ()) for p in photographs], [0] * len(people))
    made: dict[str, Feature] = {}
    for kind in asked[0].features:
        rows = np.stack([answer.features[kind] for answer in asked])
        made[kind] = rows.reshape(len(people), -1, rows.shape[1])
    return made | {ENROLLED: np.stack([a.features[Kind.BEST] for a in enrolled])}


def degrade(pictures: Tensor, sighting: Sighting) -> TrackFaces:
    """Return K×3×128×128 in [0, 1] as the faces of a track that is seen so: the first is LR0."""
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
    out: Path,
    tell: Callable[[int, int], None],
) -> tuple[Calibration, list[str]]:
    """Calibrate on aligned faces (folders or tar shards of IDENTITY/PHOTO) and write `out`.

    Also a line for each photograph that could not be used. Stopped, the same call goes on where it was.
    """
    faces, left_out = read_faces(sources)
    parts = out.with_name(f".{out.name}-parts")
    probes, gallery = probe_images(faces, encoder, plain, protocol, parts, tell)
    people = len({probe.person for probe in probes})
    data = f"{people} people of {', '.join(s.name for s in sources)} (sha256 of the {len(faces)} pictures "
    data += f"{_digest_all(faces)}): one photograph enrolled, up to {1 + protocol.auxiliaries} others at "
    data += f"{protocol.names}, {protocol.camera:.0%} of them as cameras see faces; "
    data += f"{len(left_out)} photographs could not be used"
    if protocol.worst_group > 1:
        data += f"; thresholds for a group whose false match rate is {protocol.worst_group:g} times everybody's"
    made = from_probes(
        probes,
        gallery,
        encoder.provenance(),
        data,
        protocol.seed,
        protocol.bands,
        protocol.worst_group,
    )
    made.save(out)
    shutil.rmtree(parts)
    return made, left_out
