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

from fasr_video.checkpoint import load_state
from fasr_video.files import sha256_file
from fasr_video.recognition.network import LENGTH, EmbedderNet
from fasr_video.types import Image

BUILTIN = Path(__file__).parent.parent / "weights" / "embedder.safetensors"


class Embedder(Protocol):
    name: str
    sha256: str
    """Of the weights: features of other ones mean nothing beside these."""
    length: int
    device: torch.device

    licence: str

    def embed(self, faces: Tensor, marks: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """N×3×128×128 RGB in [0, 1], the canonical frame → (unit vectors N×length, their norms before that, N).

        `marks`, N×5×2 landmarks in the pictures' pixels (NaN where unknown), let an embedder with a frame of its own
        bring the faces into it.
        """
        ...


class BuiltinEmbedder:
    name = "builtin"
    length = LENGTH
    licence = "research use: trained on CelebA"

    def __init__(self, weights: Path = BUILTIN, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._net = EmbedderNet()
        load_state(self._net, weights)
        self.sha256 = sha256_file(weights)
        self._net = self._net.float().eval().to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.no_grad()
    def embed(self, faces: Tensor, marks: Tensor | None = None) -> tuple[Tensor, Tensor]:
        parts = [self._net(part.to(self.device)).float().cpu() for part in torch.split(faces, 64)]
        features = torch.cat(parts) if parts else torch.zeros(0, LENGTH)
        return F.normalize(features, dim=1), features.norm(dim=1)


def as_tensor(images: Sequence[Image]) -> Tensor:
    """RGB uint8 pictures of one size as N×3×H×W in [0, 1]."""
    block: NDArray[np.uint8] = np.stack(list(images))
    return torch.from_numpy(block).permute(0, 3, 1, 2).float() / 255
