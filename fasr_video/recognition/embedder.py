"""Embedders: aligned faces → unit vectors and a quality norm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from fasr_video.batch_size import FACES, batch_size_for
from fasr_video.checkpoint import load_state
from fasr_video.errors import ModelError
from fasr_video.files import sha256_file
from fasr_video.recognition.network import FORMAT, LENGTH, EmbedderNet
from fasr_video.types import Image
from fasr_video.weights.manifest import bundled


class Embedder(Protocol):
    """Makes a feature of each face."""

    name: str
    sha256: str
    """Hash of the weights: features made with other weights cannot be compared."""
    length: int
    device: torch.device
    licence: str
    """The terms of the model in one line."""

    def embed(self, faces: Tensor, landmarks: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return unit vectors, N×length, and their norms before normalisation, N.

        Faces are N×3×128×128 RGB in [0, 1], in the canonical frame. `landmarks`, N×5×2 in the
        pictures' pixels (NaN where unknown), are for embedders with a frame of their own.
        """
        ...


class BuiltinEmbedder:
    """The embedder that comes with fasr-video."""

    name = "builtin"
    length = LENGTH
    licence = "research use: trained on CelebA, FairFace and web scenes"

    def __init__(self, weights: Path | None = None, device: torch.device | str = "cpu") -> None:
        weights = weights or bundled("embedder.safetensors")
        self.device = torch.device(device)
        self.net = EmbedderNet()
        load_state(self.net, weights, FORMAT)
        self.sha256 = sha256_file(weights)
        self.net.float().eval().requires_grad_(False).to(self.device)
        self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.no_grad()
    def embed(self, faces: Tensor, landmarks: Tensor | None = None) -> tuple[Tensor, Tensor]:
        batch = batch_size_for(FACES, self.device)
        starts = range(0, len(faces), batch)
        parts = [self.net(faces[i : i + batch].to(self.device)).float().cpu() for i in starts]
        features = torch.cat([torch.zeros(0, LENGTH), *parts])
        return F.normalize(features, dim=1), features.norm(dim=1)


def as_tensor(images: Sequence[Image]) -> Tensor:
    """Return RGB uint8 pictures of one size as N×3×H×W in [0, 1]."""
    block: NDArray[np.uint8] = np.stack(list(images))
    return torch.from_numpy(block).permute(0, 3, 1, 2).float() / 255


def require_embedder(file: Path, needed: str, given: str) -> None:
    """Raise if a file needs another embedder than the given one.

    Both are SHA-256 of weights; `needed` is empty if it is not known.
    """
    if needed not in ("", given):
        reason = f"it was made with the embedder {needed[:12]}…, not with {given[:12]}…"
        remedy = "use the same embedder throughout, or make the file again with this one"
        raise ModelError(file, reason, remedy)
