"""What several photographs of a subject do to thresholds and likelihood ratios, which are
calibrated on one each.

python benchmarks/photographs.py [--people 150] [--strangers 300] [--photographs 1 2 4] [--faces
FILE.tar]

People are enrolled with their first photographs, one or more; all people and the strangers search
with their last one, at 12-32 px. Both readings are of the same scores: each template counted as one
comparison, and `search.comparison_count`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from results import Table, command_line

from fasr_video.datasets.faces import read_faces, views
from fasr_video.gallery.calibration import Calibration, scale_name
from fasr_video.gallery.encoder import Kind
from fasr_video.gallery.gallery import Gallery
from fasr_video.gallery.index import Index
from fasr_video.gallery.records import EnrolledPhoto
from fasr_video.gallery.search import (
    Answer,
    Mode,
    Searcher,
    SearchOptions,
    TrackQuery,
    comparison_count,
)
from fasr_video.recognition.embedder import BuiltinEmbedder
from fasr_video.sr.degradation import enlarge, shrink
from fasr_video.weights.manifest import bundled

DATA = Path(__file__).parents[2] / "shared" / "data" / "celeba" / "val-00.tar"
SIDES = (12, 16, 24, 32)
FPIRS = (0.3, 0.1, 0.03)
Features = NDArray[np.float32]


class LabelledFaces:
    """People with enough photographs, and their features at full size and shrunk."""

    def __init__(self, source: Path, least: int) -> None:
        faces, _ = read_faces([source])
        self._pictures = faces.pictures
        self.people = [rows for rows in faces.people.values() if len(rows) >= least]
        self._embedder = BuiltinEmbedder()

    def embed_full_size(self, rows: Sequence[int]) -> tuple[Features, NDArray[np.float32]]:
        features, norms = self._embedder.embed(
            views(self._pictures[list(rows)], 128, False, torch.Generator())
        )
        return features.numpy(), norms.numpy()

    def embed_small(self, measure_row: int) -> Features:
        """Return the features at each of the sizes."""
        picture = views(self._pictures[[measure_row]], 128, False, torch.Generator())
        embed_small = [enlarge(shrink(picture, side), 128) for side in SIDES]
        return np.asarray(self._embedder.embed(torch.cat(embed_small))[0].numpy(), np.float32)


def enrol_people(
    folder: Path, faces: LabelledFaces, people: Sequence[Sequence[int]], photographs: int
) -> Gallery:
    gallery = Gallery.create(folder, "builtin", "0" * 64, 512)
    with gallery.transaction():
        for number, rows in enumerate(people):
            features, norms = faces.embed_full_size(rows[:photographs])
            for k, (feature, norm) in enumerate(zip(features, norms, strict=True)):
                name = f"{number}-{k}"
                photo = EnrolledPhoto(
                    f"{number:032x}{k:032x}", name, feature, float(norm), 60.0, 0.9, None
                )
                gallery.add(f"p{number}", photo)
    return gallery


def measure_row(
    searcher: Searcher,
    gallery: Gallery,
    calibration: Calibration,
    probes: list[TrackQuery],
    *,
    names: list[str],
) -> list[str]:
    """Return a row: of the strangers among the probes, whose name is empty, and of the enrolled."""
    answers = searcher.answers(probes)
    strangers = [a for a, name in zip(answers, names, strict=True) if not name]
    bands = [
        calibration.band_for(p.side) for p, name in zip(probes, names, strict=True) if not name
    ]
    mates = [(a, name) for a, name in zip(answers, names, strict=True) if name]
    templates = gallery.templates_by_subject()
    ratios = np.array(
        [
            (c.ratio, np.log10(comparison_count(templates[c.subject])))
            for a in strangers
            for c in a.joined
        ]
    )
    cells = [f"{len(gallery.templates_by_subject())} × {min(templates.values())}"]
    for ratio_values in (10 ** ratios.sum(1), 10 ** ratios[:, 0]):
        cells += [f"{ratio_values.mean():.2f}", f"{(ratio_values >= 10).mean():.3f}"]
    best_scores = np.array([a.joined[0].score for a in strangers])
    for fpir in FPIRS:
        for count in (gallery.count(), sum(map(comparison_count, templates.values()))):
            limits = [
                b.threshold(scale_name([Kind.BEST]), fpir, count).score
                for b in bands
                if b is not None
            ]
            cells.append(f"{(best_scores >= np.array(limits)).mean():.3f}")
    return [*cells, f"{np.mean([first_subject(a) == name for a, name in mates]):.3f}"]


def first_subject(answer: Answer) -> str:
    return answer.joined[0].subject


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--people", type=int, default=150, help="enrolled")
    parser.add_argument("--strangers", type=int, default=300)
    parser.add_argument("--photographs", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--faces", type=Path, default=DATA)
    args = parser.parse_args()
    most_photographs = max(args.photographs)
    faces = LabelledFaces(args.faces, most_photographs + 1)
    enrolled, others = (
        faces.people[: args.people],
        faces.people[args.people : args.people + args.strangers],
    )
    embed_small = [faces.embed_small(rows[-1]) for rows in (*enrolled, *others)]
    probes = [
        TrackQuery({Kind.BEST: f}, side)
        for rows in embed_small
        for f, side in zip(rows, SIDES, strict=True)
    ]
    names = [f"p{k}" if k < len(enrolled) else "" for k in range(len(embed_small)) for _ in SIDES]
    calibration = Calibration.load(bundled("calibration.json"))
    columns = ["people × templates"]
    columns += [
        f"strangers' {measure}, {reading}"
        for reading in ("as of one", "by chances")
        for measure in ("mean LR", "LR ≥ 10")
    ]
    columns += [
        f"FPIR where {fpir:g} is asked, {reading}"
        for fpir in FPIRS
        for reading in ("as of one", "by chances")
    ]
    table = Table(
        "photographs",
        f"Several photographs of a subject: {len(others)} strangers, {len(SIDES)} sizes of face",
        command_line(),
        [*columns, "Rank-1"],
    )
    for photographs in args.photographs:
        with (
            tempfile.TemporaryDirectory() as folder,
            enrol_people(Path(folder) / "g", faces, enrolled, photographs) as gallery,
        ):
            options = SearchOptions(Mode.INVESTIGATION, len(enrolled), 0.1)
            searcher = Searcher(
                gallery, Index.open(gallery), options, calibration, calibrated=(Kind.BEST,)
            )
            table.add_row(measure_row(searcher, gallery, calibration, probes, names=names))
    table.add_note(
        "Scale `best`. *As of one*: each template counts as one comparison, and the ratio is read "
        "as that of one; *by chances*: as `docs/calibration.md` says, and as searches do it. A "
        "mean ratio of strangers above 1 overstates the evidence against them. Ratios are of "
        "strangers with all enrolled people. The people are CelebA's validation part, on whom the "
        "calibration was made: the first line, one photograph each, is the case that it was made "
        "for."
    )
    table.write()


if __name__ == "__main__":
    main()
