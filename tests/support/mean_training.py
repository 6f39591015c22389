"""Made faces and a small job, for tests that train what draws faces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fasr_video.datasets.faces import Faces
from fasr_video.training import mean as trainer
from fasr_video.training.loop import Progress

CPU = torch.device("cpu")
SMALL = trainer.Recipe(batch=16, sides=(16,), cameras=0.0)


def draw_ovals(count: int) -> Faces:
    """Return smooth pictures of one kind: an oval with two dark dots, nobody's face."""
    y, x = torch.meshgrid(torch.arange(144.0), torch.arange(144.0), indexing="ij")
    pictures = []
    for i in range(count):
        g = torch.Generator().manual_seed(i)
        shift = 4 * torch.rand(2, generator=g)
        tone = 0.4 + 0.5 * torch.rand(3, 1, 1, generator=g)
        oval = (((x - 72 - shift[0]) / 45) ** 2 + ((y - 72 - shift[1]) / 60) ** 2 < 1).float()
        eyes = sum(((x - c) ** 2 + (y - 60) ** 2 < 30).float() for c in (52, 92))
        pictures.append((tone * oval * (1 - eyes) * 255).byte())
    return Faces(torch.stack(pictures), tuple(f"p{i // 2}/{i}.png" for i in range(count)))


@pytest.fixture
def job(tmp_path: Path) -> trainer.Job:
    faces = draw_ovals(24)
    g = np.random.default_rng(0)
    hr, lr = (g.standard_normal((len(faces), 512)).astype(np.float32) for _ in range(2))
    file = tmp_path / "features.npz"
    np.savez(file, path=np.array(faces.paths), identity=np.array(faces.identities), hr=hr, lr=lr)
    return trainer.Job(faces, file, None, SMALL, width=16, blocks=1, held_out=draw_ovals(8))


def check_progress(progress: Progress) -> None:
    assert progress.batches_per_second > 0
