"""Ways to merge a person's poor faces into one feature: the Feature Combiner beside means.

python benchmarks/merges.py [--faces FILE.tar]

Each person's first photo at full resolution is the gallery; the others, at 16×16, are the probe. With a stranger, one
more face of somebody else is among them, as when a tracker has mixed two people up.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from results import Table
from torch import Tensor

from fasr_video.box import boxed
from fasr_video.evaluation.open_set import rank_and_area
from fasr_video.recognition.combiner import load_combiner, mean, robust_mean, weighted_mean
from fasr_video.recognition.embedder import BuiltinEmbedder
from fasr_video.sr.degradation import enlarge, shrink
from fasr_video.training.faces import read_faces, views

DATA = Path(__file__).parents[2] / "shared" / "data" / "celeba" / "val-00.tar"
Merge = Callable[[Tensor, Tensor], Tensor]
"""(K×D features, K norms) → D."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faces", type=Path, default=DATA)
    args = parser.parse_args()
    combiner = load_combiner(boxed("combiner.safetensors"))
    merges: dict[str, Merge] = {
        "one face alone": lambda f, n: f[0],
        "mean": lambda f, n: mean(f),
        "weighted by the feature's norm": weighted_mean,
        "geometric median": lambda f, n: robust_mean(f),
        f"Feature Combiner, eta {combiner.eta:g}": lambda f, n: combiner.combine(f),
    }
    faces, _ = read_faces([args.faces])
    embedder = BuiltinEmbedder()
    pictures = views(faces.pictures, 128, False, torch.Generator())
    groups = [g for g in faces.people.values() if len(g) >= 3]
    features, norms = embedder.embed(enlarge(shrink(pictures, 16), 128))
    gallery, _ = embedder.embed(pictures[[g[0] for g in groups]])
    columns = ("merged by", "Rank-1", "AUC", "cosine to the gallery", "Rank-1 with a stranger", "AUC with a stranger")
    title = f"Merging 16×16 faces: {len(groups)} people, {sum(len(g) - 1 for g in groups) / len(groups):.1f} faces each"
    table = Table("merges", title, "`python benchmarks/merges.py`", columns)
    for name, merge in merges.items():
        cells: list[float] = []
        for mixed in (False, True):
            probes = []
            for k, g in enumerate(groups):
                rows = g[1:] + ([groups[k - 1][1]] if mixed else [])
                probes.append(merge(features[rows], norms[rows]))
            merged = torch.stack(probes)
            cells += rank_and_area((merged @ gallery.T).numpy())
            if not mixed:
                cells.append(float((merged * gallery).sum(1).mean()))
        table.row([name, f"{cells[0]:.3f}", f"{cells[1]:.4f}", f"{cells[2]:.3f}", f"{cells[3]:.3f}", f"{cells[4]:.4f}"])
    table.note("People are CelebA's validation part, never trained on.")
    table.write()


if __name__ == "__main__":
    main()
