"""A small untrained denoiser that draws faces of all sizes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from fasr_video.sr.denoiser import ResidualDenoiser
from fasr_video.sr.networks.compact import CompactNet
from fasr_video.sr.weights import save_denoiser


def small_denoiser(file: Path) -> Path:
    """Write the weights to this file; return it."""
    torch.manual_seed(0)
    denoiser = ResidualDenoiser(CompactNet((32, 64), blocks=1, condition=32))
    denoiser.band = (8, 128)
    save_denoiser(denoiser, file)
    return file


_FOLDER = tempfile.TemporaryDirectory(prefix="denoiser-")
WEIGHTS = small_denoiser(Path(_FOLDER.name) / "small.safetensors")
# Settings that draw two samples of each face.
TWO_SAMPLES = ("restore.method=fasr++", f"restore.weights={WEIGHTS}", "restore.sampler=dpmpp-4")
NOTHING_DRAWN = ("restore.method=none", "restore.weights=null")
