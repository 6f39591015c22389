"""Features of faces at full resolution and of their LR twins, to train Feature Combiner and SR
networks.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fasr_video.datasets.faces import Faces, views
from fasr_video.files import atomic_write
from fasr_video.recognition.embedder import BuiltinEmbedder, Embedder, require_embedder
from fasr_video.sr.degradation import enlarge, shrink
from fasr_video.training.combiner import CombinerFeatures

# Number of faces stored together: an interrupted call resumes after the last stored part.
PART = 2048
BATCH = 256
Arrays = dict[str, NDArray[np.generic]]


def make_features(
    faces: Faces, embedder: Embedder, lr_side: int, out: Path, *, report: Callable[[int], None]
) -> None:
    """Write `out` (.npz): path, identity, hr and lr (N×length, float16), and their embedder."""
    inputs = f"{embedder.sha256} {lr_side} {len(faces)} {' '.join(faces.paths)}"
    parts = out.with_name(f".{out.name}-{hashlib.sha256(inputs.encode()).hexdigest()[:12]}")
    parts.mkdir(parents=True, exist_ok=True)
    arrays = []
    for start in range(0, len(faces), PART):
        file = parts / f"{start}.npz"
        if not file.exists():
            write_arrays(
                file, _embed(faces, slice(start, start + PART), embedder, lr_side, report=report)
            )
        with np.load(file) as part:
            arrays.append({name: part[name] for name in ("hr", "lr")})
        report(min(start + PART, len(faces)))
    both = {name: np.concatenate([part[name] for part in arrays]) for name in ("hr", "lr")}
    source = {"embedder": np.array(embedder.name), "embedder_sha256": np.array(embedder.sha256)}
    write_arrays(
        out,
        {"path": np.array(faces.paths), "identity": np.array(faces.identities), **both, **source},
    )
    shutil.rmtree(parts)


def _embed(
    faces: Faces, rows: slice, embedder: Embedder, lr_side: int, *, report: Callable[[int], None]
) -> Arrays:
    high, low = [], []
    pictures = faces.pictures[rows]
    for start in range(0, len(pictures), BATCH):
        x = views(pictures[start : start + BATCH], 128, False, torch.Generator())
        # bfloat16 is slower on many CPUs that support it.
        with torch.autocast(
            embedder.device.type, torch.bfloat16, enabled=embedder.device.type != "cpu"
        ):
            high.append(embedder.embed(x)[0].half().numpy())
            low.append(embedder.embed(enlarge(shrink(x, lr_side), 128))[0].half().numpy())
        report(rows.start + start + len(x))
    return {"hr": np.concatenate(high), "lr": np.concatenate(low)}


def embedder_of(features: Path, weights: Path | None, device: torch.device) -> BuiltinEmbedder:
    """Return the embedder with these weights (None: the bundled ones).

    Raise an error if `features` (.npz) are not its own.
    """
    embedder = BuiltinEmbedder(weights, device)
    require_embedder(features, CombinerFeatures.load(features).source.sha256, embedder.sha256)
    return embedder


def write_arrays(file: Path, arrays: Mapping[str, NDArray[np.generic]]) -> None:
    """Write arrays to an .npz file, all or nothing."""

    def write(path: Path) -> None:
        with path.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **arrays)

    atomic_write(file, write)
