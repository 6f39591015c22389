"""Proposing that two tracks are one person: how often it is right and wrong, by the least cosine
that is asked for.

python benchmarks/links.py [--faces FILE.tar]

Each person's photographs are divided into two tracks, brought down to 12-32 px and pooled by the
Feature Combiner.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from results import Table

from fasr_video.datasets.faces import read_faces, views
from fasr_video.recognition.combiner import load_combiner
from fasr_video.recognition.embedder import BuiltinEmbedder
from fasr_video.sr.degradation import enlarge, shrink
from fasr_video.weights.manifest import bundled

DATA = Path(__file__).parents[2] / "shared" / "data" / "celeba" / "val-00.tar"
SIDES = (12, 16, 24, 32)
LIMITS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faces", type=Path, default=DATA)
    args = parser.parse_args()
    faces, _ = read_faces([args.faces])
    embedder, combiner = BuiltinEmbedder(), load_combiner(bundled("combiner.safetensors"))
    groups = [g for g in faces.people.values() if len(g) >= 4]
    tracks = []
    for k, rows in enumerate(groups):
        pictures = views(faces.pictures[rows], 128, False, torch.Generator())
        features, _ = embedder.embed(enlarge(shrink(pictures, SIDES[k % len(SIDES)]), 128))
        half = len(rows) // 2
        tracks.append(
            torch.stack((combiner.combine(features[:half]), combiner.combine(features[half:])))
        )
    first, second = torch.stack(tracks).unbind(1)
    cosines = first @ second.T
    same = cosines.diagonal()
    different = cosines[~torch.eye(len(cosines), dtype=torch.bool)]
    columns = (
        "least cosine",
        "pairs of one person that reach it",
        "pairs of two people that reach it",
    )
    table = Table(
        "links",
        f"Tracks of {len(groups)} people, two each",
        "`python benchmarks/links.py`",
        columns,
    )
    for limit in LIMITS:
        rates = [float((scores >= limit).double().mean()) for scores in (same, different)]
        table.add_row([limit, f"{rates[0]:.3f}", f"{rates[1]:.5f}"])
    table.add_note(
        "`link.min_similarity` is this limit. People are CelebA's validation part, never trained "
        "on."
    )
    table.write()


if __name__ == "__main__":
    main()
