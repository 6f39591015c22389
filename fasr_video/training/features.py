"""Each face's feature at full resolution and from its LR twin: what Feature Combiner and SR networks train on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from fasr_video.recognition.embedder import Embedder
from fasr_video.sr.degradation import enlarge, shrink
from fasr_video.training.faces import Faces, views


def make_features(faces: Faces, embedder: Embedder, lr_side: int, out: Path, report: Callable[[int], None]) -> None:
    """Write `out` (.npz): path, identity, hr and lr (N×length, float16), and whose features they are."""
    high, low = [], []
    for start in range(0, len(faces), 256):
        x = views(faces.pictures[start : start + 256], 128, False, torch.Generator())
        with torch.autocast(embedder.device.type, torch.bfloat16):
            high.append(embedder.embed(x)[0].half().numpy())
            low.append(embedder.embed(enlarge(shrink(x, lr_side), 128))[0].half().numpy())
        report(start + len(x))
    partial = out.with_suffix(".tmp")
    with partial.open("wb") as file:
        np.savez(
            file,
            path=np.array(faces.paths),
            identity=np.array(faces.identities),
            hr=np.concatenate(high),
            lr=np.concatenate(low),
            embedder=np.array(embedder.name),
            embedder_sha256=np.array(embedder.sha256),
        )
    partial.replace(out)
