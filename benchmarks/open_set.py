"""Open-set search with each kind of probe and their fusion, for each band of face sizes.

    python benchmarks/open_set.py [--people N] [--no-sr] [--faces FILE.tar]

It is calibrated on one half of the people and measured on the other. Without --people it takes
everyone who has two photographs. What was computed lies in runs/open_set, and the same command
continues from there.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from results import RESULTS, Table

from fasr_video.calibration.calibrate import (
    Comparisons,
    LabelledProbe,
    Protocol,
    compare,
    divide,
    fit_scorer,
    from_probes,
    probe_images,
)
from fasr_video.datasets.faces import read_faces
from fasr_video.evaluation import open_set
from fasr_video.evaluation.open_set import FPIRS, Searches
from fasr_video.gallery.calibration import Band, Calibration, Scale, Tail, Threshold
from fasr_video.gallery.encoder import Feature, make_encoder
from fasr_video.recognition.embedder import BuiltinEmbedder
from fasr_video.sr.methods import METHODS, Options, open_restorer

matplotlib.use("Agg")
from matplotlib import pyplot as plt

DATA = Path(__file__).parents[2] / "shared" / "data" / "celeba" / "val-00.tar"
PARTS = Path(__file__).parents[1] / "runs" / "open_set"
DIVISIONS = 20
# The scale whose curves are drawn.
DRAWN = "best+pooled"
Gallery = Mapping[str, Feature]
GRID = np.geomspace(0.003, 1, 60)


def format_interval(value: float, ends: tuple[float, float]) -> str:
    return f"{value:.3f} ({ends[0]:.3f}–{ends[1]:.3f})"


def all_scales(calibration: Calibration) -> list[tuple[Band, str, Scale]]:
    """Return each scale of each band of sizes, and its name."""
    return [
        (band, name, scale) for band in calibration.bands for name, scale in band.scales.items()
    ]


def probes_in_band(probes: Sequence[LabelledProbe], band: Band) -> list[LabelledProbe]:
    return [probe for probe in probes if band.low <= probe.side <= band.high]


def quality_table(
    calibration: Calibration, comparisons: Mapping[str, Comparisons], title: str, command: str
) -> Table:
    rates = [f"FNIR at FPIR {p.fpir:g}" for p in calibration.bands[0].report.points]
    columns = ("faces", "scale", "rank-1", "rank-10", "rank-50", "AUC", *rates)
    table = Table("open_set", title, command, columns)
    for band, name, scale in all_scales(calibration):
        searches = comparisons[str(band)].searches(scale.scorer(comparisons[str(band)].cosines))
        low, high = open_set.bootstrap(searches, lambda s: open_set.rank_rate(s, 1))
        ranks = dict(scale.report.ranks)
        cells = [
            format_interval(p.fnir_at_fpir, p.fnir_at_fpir_band) if p.resolved else "too few"
            for p in scale.report.points
        ]
        rank_one = format_interval(ranks[1], (float(low), float(high)))
        table.add_row(
            [
                band,
                name,
                rank_one,
                f"{ranks[10]:.3f}",
                f"{ranks[50]:.3f}",
                f"{scale.report.auc:.4f}",
                *cells,
            ]
        )
    table.add_note(
        "In brackets: 95 % bands by resampling people 1,000 times. FNIR is at the threshold that "
        "gives that FPIR on these very people. *Too few*: not one non-mated search would be that "
        "FPIR. AUC is of single comparisons."
    )
    table.add_note("![Detection error trade-off](open_set.png)")
    table.add_note(f"The curves are of `{DRAWN}`, which decides about a lead.")
    return table


def ratio_table(calibration: Calibration) -> Table:
    columns = (
        *("faces", "scale", "weights", "form", "log10 LR from", "to"),
        *(
            "Cllr of the score as it is",
            "calibrated",
            "least possible",
            "nearest stranger",
            "nearest pair",
        ),
    )
    table = Table("open_set", "Likelihood ratios", "", columns)
    for band, name, scale in all_scales(calibration):
        weights = ", ".join(f"{w:.2f}" for w in scale.scorer.weights)
        r, ends = scale.report, (f"{scale.map.values[0]:.2f}", f"{scale.map.values[-1]:.2f}")
        costs = (f"{r.cllr_raw:.3f}", f"{r.cllr:.3f}", f"{r.cllr_least:.3f}")
        near = (f"{scale.nearest_stranger:.3f}", f"{scale.nearest_pair:.3f}")
        table.add_row([band, name, weights, scale.map.form, *ends, *costs, *near])
    table.add_note(
        "Cllr: bits, 0 is perfect, 1 is a system that says nothing. *Least possible*: of the best "
        "never-falling map of the held-out scores themselves. A weight of 0: that kind added "
        "nothing to the others."
    )
    return table


def fpir_table(
    calibration: Calibration, probes: Sequence[LabelledProbe], gallery: Gallery
) -> Table:
    columns = ("faces", "scale", *(f"asked {rate:g}" for rate in FPIRS))
    title = f"FPIR asked for, and FPIR observed at {calibration.gallery_size} subjects"
    table = Table("open_set", title, "", columns)
    thresholds: list[Threshold] = []
    for band, name, scale in all_scales(calibration):
        observed = []
        own_probes = probes_in_band(probes, band)
        for seed in range(DIVISIONS):
            people = divide(own_probes, gallery, seed)
            fit, test = (
                compare(own_probes, gallery, part)
                for part in (people.fit | people.choose, people.report)
            )
            scorer = fit_scorer(scale.scorer.kinds, fit)
            tail = Tail.of(fit.different(scorer(fit.cosines)))
            thresholds = [tail.threshold(rate, test.gallery) for rate in FPIRS]
            observed.append(
                open_set.fpir(test.searches(scorer(test.cosines)), [t.score for t in thresholds])
            )
        ends = np.quantile(observed, [0.05, 0.95], axis=0).T
        cells = zip(np.mean(observed, 0), ends, thresholds, strict=True)
        table.add_row(
            [
                band,
                name,
                *(f"{m:.3f} ({a:.3f}–{b:.3f}){' *' * t.extrapolated}" for m, (a, b), t in cells),
            ]
        )
    strangers = calibration.bands[0].report.non_mated
    table.add_note(
        f"Mean of {DIVISIONS} divisions of the people into halves, and in brackets the range of "
        f"nine tenths of them: a single calibration with {strangers} non-mated searches may be "
        "off by as much. Thresholds come from the one half by FPIR(N) = 1 − (1 − FMR)^N, the "
        "observation from the other. A star: extrapolated beyond the comparisons there were."
    )
    return table


def draw_curves(searches_by_name: Mapping[str, Searches], png: Path) -> None:
    figure, axes = plt.subplots(figsize=(8, 5.5), layout="constrained")
    for name, searches in searches_by_name.items():

        def curve(s: Searches) -> list[float]:
            return [open_set.fnir_at(s, rate) for rate in GRID]

        low, high = open_set.bootstrap(searches, curve, 300)
        (line,) = axes.step(GRID, curve(searches), where="post", label=name)
        axes.fill_between(
            GRID, low, high, step="post", alpha=0.12, color=line.get_color(), linewidth=0
        )
    strangers = int((~next(iter(searches_by_name.values())).mated).sum())
    axes.axvline(
        1 / strangers, color="grey", linestyle=":", label=f"one of {strangers} non-mated searches"
    )
    axes.set(xscale="log", xlabel="FPIR", ylabel="FNIR", ylim=(0, 1), xlim=(GRID[0], 1))
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(png, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faces", type=Path, default=DATA)
    parser.add_argument("--people", type=int)
    parser.add_argument("--no-sr", action="store_true")
    args = parser.parse_args()
    faces, _ = read_faces([args.faces])
    plain = make_encoder(BuiltinEmbedder(), None, 1)
    restorer = (
        None if args.no_sr else open_restorer(METHODS["fasr++"], Options(torch.device("cpu")))
    )
    encoder = make_encoder(BuiltinEmbedder(), restorer, METHODS["fasr++"].defaults.samples)
    protocol = Protocol(people=args.people)
    start = time.monotonic()

    def report_progress(done: int, people: int) -> None:
        print(f"{done}/{people} people, {time.monotonic() - start:.0f} s", file=sys.stderr)

    probes, gallery = probe_images(
        faces, encoder, plain, protocol, parts=PARTS, listen=report_progress
    )
    calibration = from_probes(
        probes,
        gallery,
        encoder.provenance(),
        args.faces.name,
        seed=protocol.seed,
        bands=protocol.bands,
    )
    report_people = divide(probes, gallery, protocol.seed).report
    comparisons = {
        str(b): compare(probes_in_band(probes, b), gallery, report_people)
        for b in calibration.bands
    }
    report = calibration.bands[0].report
    searches = f"{report.mated} mated and {report.non_mated} non-mated searches at each size"
    title = f"Open-set search: {searches} over {report.gallery} subjects"
    options = [f"--people {args.people}"] * bool(args.people) + ["--no-sr"] * args.no_sr
    command = f"`{' '.join(['python benchmarks/open_set.py', *options])}`"
    table = quality_table(calibration, comparisons, title, command)
    table.add_note(
        "CelebA's validation people, never trained on; nobody here was used to calibrate. One "
        "photograph a person is enrolled as it is; up to 9 others are the search, once at each "
        "size, half of the searches degraded as by cameras. `best` is the first of those, "
        "`pooled` all by the Feature Combiner, `sr` the FASR++ picture (2 samples) of the first, "
        "drawn with the pooled feature."
    )
    curves = {}
    for band in calibration.bands:
        scale, band_comparisons = band.scale(DRAWN), comparisons[str(band)]
        curves[str(band)] = band_comparisons.searches(scale.scorer(band_comparisons.cosines))
    draw_curves(curves, RESULTS / "open_set.png")
    table.write(ratio_table(calibration), fpir_table(calibration, probes, gallery))


if __name__ == "__main__":
    main()
