"""False-positive identification rates: asked for, and observed with other people.

python benchmarks/fpir.py [--people 907] [--faces FILE.tar]

What was computed lies in runs/fpir: the same command goes on from there.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from results import Table, command_line, format_share

from fasr_video.calibration.calibrate import (
    LabelledProbe,
    Protocol,
    choose_people,
    compare,
    divide,
    fit_scorer,
    probe_images,
)
from fasr_video.datasets.faces import Faces, read_faces, views
from fasr_video.gallery.calibration import Scorer, Tail, Threshold, scale_name
from fasr_video.gallery.encoder import Feature, Kind, TrackEncoder, make_encoder
from fasr_video.gallery.search import SMALLEST_GALLERY
from fasr_video.recognition.embedder import BuiltinEmbedder

DATA = Path(__file__).parents[2] / "shared" / "data" / "celeba" / "val-00.tar"
PARTS = Path(__file__).parents[1] / "runs" / "fpir"
RATES = (0.001, 0.01, 0.05, 0.1)
WORST_GROUP = 9.0  # for which the calibration that comes with the project is made
SCALES = ((Kind.BEST,), (Kind.BEST, Kind.POOLED))
Flags = NDArray[np.bool_]
# The enrolled photograph's feature of each person.
Photographs = Mapping[str, Feature]


@dataclass(frozen=True)
class View:
    """How the probes are degraded."""

    side: int
    by_camera: bool = False

    def __str__(self) -> str:
        return f"{self.side} px{', camera' if self.by_camera else ''}"


VIEWS = (View(12), View(16), View(32), View(64), View(32, True))


@dataclass(frozen=True)
class Outcome:
    """The result of searching for people who were not used for the calibration."""

    named: Flags
    """People × RATES: somebody else is over the threshold, the person not being enrolled."""
    missed: Flags
    """People × RATES: the own photograph, enrolled, is not."""
    missed_by_worst_group: Flags
    """The same at the thresholds that are made for the worst group."""
    extrapolated: Flags
    """Of each RATES: the threshold lies beyond what the comparisons can show."""


def measure_outcome(
    probes: Sequence[LabelledProbe],
    photographs: Photographs,
    scorer: Scorer,
    limits: Sequence[Threshold],
    *,
    strict_limits: Sequence[Threshold],
) -> Outcome:
    """Search for each person among all these people, once not enrolled and once enrolled."""
    names = [probe.person for probe in probes]
    enrolled = np.stack([photographs[name] for name in names]).astype(np.float64)
    cosines = {
        k: np.stack([p.features[k] for p in probes]).astype(np.float64) @ enrolled.T
        for k in scorer.kinds
    }
    scores = scorer(cosines)
    own_scores = np.diagonal(scores).copy()
    np.fill_diagonal(scores, -np.inf)
    thresholds = np.array([limit.score for limit in limits])
    strict_thresholds = np.array([limit.score for limit in strict_limits])
    extrapolated = np.array([limit.extrapolated for limit in limits])
    named = scores.max(1)[:, None] >= thresholds
    return Outcome(
        named,
        own_scores[:, None] < thresholds,
        own_scores[:, None] < strict_thresholds,
        extrapolated,
    )


def cross_validate(
    calibrated: Sequence[LabelledProbe],
    gallery: Photographs,
    probes: Sequence[LabelledProbe],
    photographs: Photographs,
    *,
    kinds: tuple[Kind, ...],
    seed: int,
) -> Outcome:
    """Calibrate with each half of the people, search for the other; return both outcomes."""
    people = divide(calibrated, gallery, seed)
    halves = (people.fit | people.choose, people.report)
    outcomes = []
    for half, others in (halves, halves[::-1]):
        comparisons = compare(calibrated, gallery, half)
        scorer = fit_scorer(kinds, comparisons)
        strangers = comparisons.different(scorer(comparisons.cosines))
        tail = Tail.of(strangers)
        strict_tail = Tail.of(strangers, WORST_GROUP)
        size = max(SMALLEST_GALLERY, len(others) - 1)
        limits = [tail.threshold(rate, size) for rate in RATES]
        strict_limits = [strict_tail.threshold(rate, size) for rate in RATES]
        searched = [probe for probe in probes if probe.person in others]
        outcomes.append(
            measure_outcome(searched, photographs, scorer, limits, strict_limits=strict_limits)
        )
    return Outcome(
        np.concatenate([part.named for part in outcomes]),
        np.concatenate([part.missed for part in outcomes]),
        np.concatenate([part.missed_by_worst_group for part in outcomes]),
        outcomes[0].extrapolated | outcomes[1].extrapolated,
    )


def probes_in_band(probes: Sequence[LabelledProbe], side: int) -> list[LabelledProbe]:
    """Return the probes that a face of this size is calibrated with."""
    low, high = next(band for band in Protocol().bands if band[0] <= side <= band[1])
    return [probe for probe in probes if low <= probe.side <= high]


def embed_photographs(
    faces: Faces, protocol: Protocol, embedder: BuiltinEmbedder
) -> dict[str, Feature]:
    """Return the feature of everybody's first photograph, enrolled by the protocol or not."""
    people = choose_people(faces, protocol)
    pictures = views(
        faces.pictures[[person.photos[0] for person in people]], 128, False, torch.Generator()
    )
    features = torch.cat([embedder.embed(part)[0] for part in pictures.split(64)]).numpy()
    return {person.name: row for person, row in zip(people, features, strict=True)}


def compute_probes(
    faces: Faces, encoder: TrackEncoder, protocol: Protocol, label: str
) -> tuple[list[LabelledProbe], Photographs]:
    """Return the probes and the gallery of a protocol; what was computed before is read."""
    start = time.monotonic()

    def report_progress(done: int, people: int) -> None:
        print(f"{label}: {done}/{people} people, {time.monotonic() - start:.0f} s", file=sys.stderr)

    return probe_images(faces, encoder, encoder, protocol, parts=PARTS, listen=report_progress)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--faces", type=Path, default=DATA)
    parser.add_argument("--people", type=int)
    args = parser.parse_args()
    faces, _ = read_faces([args.faces])
    embedder = BuiltinEmbedder()
    encoder = make_encoder(embedder, None, 1)
    protocol = Protocol(people=args.people)
    calibrated, gallery = compute_probes(faces, encoder, protocol, "to calibrate")
    photographs = embed_photographs(faces, protocol, embedder)
    probes_by_view: dict[View, list[LabelledProbe]] = {}
    for view in VIEWS:
        view_protocol = replace(
            protocol, bands=((view.side, view.side),), camera=float(view.by_camera)
        )
        probes_by_view[view], _ = compute_probes(faces, encoder, view_protocol, str(view))
    rates = [f"asked {rate:g}" for rate in RATES]
    people = len(photographs)
    title = f"FPIR asked for and FPIR observed: {people} people"
    observed = Table("fpir", title, command_line(), ["searched by", "scale", *rates])
    missed = Table(
        "fpir",
        "Enrolled people missed at these thresholds (FNIR)",
        "",
        ["searched by", "scale", *rates],
    )
    strict = Table(
        "fpir",
        "Enrolled people missed where thresholds are made for the worst group (FMR "
        f"{WORST_GROUP:g} times the average)",
        "",
        ["searched by", "scale", *rates],
    )
    for view, probes in probes_by_view.items():
        for kinds in SCALES:
            outcome = cross_validate(
                probes_in_band(calibrated, view.side),
                gallery,
                probes,
                photographs,
                kinds=kinds,
                seed=protocol.seed,
            )
            labels = [str(view), scale_name(kinds)]
            stars = [" *" * bool(is_extrapolated) for is_extrapolated in outcome.extrapolated]
            observed.add_row(
                [
                    *labels,
                    *(format_share(c) + s for c, s in zip(outcome.named.T, stars, strict=True)),
                ]
            )
            missed.add_row(
                [
                    *labels,
                    *(format_share(c) + s for c, s in zip(outcome.missed.T, stars, strict=True)),
                ]
            )
            worst = outcome.missed_by_worst_group.T
            strict.add_row([*labels, *(format_share(c) for c in worst)])
    half = people // 2
    expected = ", ".join(
        f"{1 - (1 - rate) ** ((half - 1) / max(SMALLEST_GALLERY, half - 1)):.4f}" for rate in RATES
    )
    observed.add_note(
        "CelebA's validation people, never trained on, divided into halves as `fasr-video "
        "calibrate` divides them. Thresholds come from one half (with its default bands of sizes, "
        "half of the faces as cameras see them) for a gallery of its size, 500 people at the "
        "least; the other half is searched for, and then the reverse. Each person is searched for "
        f"once among the photographs of the rest of their half: {half - 1} people or one more, "
        f"for which these thresholds should give {expected}."
    )
    observed.add_note(
        "In brackets: 95 % bands over people (Wilson), as if each half's gallery and thresholds "
        "were given. A star: the threshold is extrapolated beyond the comparisons there were. "
        f"One of {people} searches is {1 / people:.4f}: of lower rates this says no more than "
        "that they are not far exceeded."
    )
    observed.add_note(
        "`best` is the first of a person's further photographs, `best+pooled` joins it with all "
        "of them (up to 9), and decides about a lead. `camera`: blurred, noisy, compressed, a "
        "little misaligned."
    )
    strict.add_note(
        "`fasr-video calibrate --worst-group 9` made the calibration that comes with the project: "
        "false match rates count nine times, so that the group for whom strangers pass most often "
        "(`bias_groups.md`) has the requested FPIR. The difference between the last two tables is "
        "its cost in missed people."
    )
    observed.write(missed, strict)


if __name__ == "__main__":
    main()
