"""Faces, landmarks and small networks for the specification of IDFSR."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fasr_video.sr.identity import About, Identity
from fasr_video.sr.idfsr import FaceCondition, assemble, identity_denoiser
from fasr_video.sr.methods.idfsr import Idfsr, IdfsrModels
from fasr_video.sr.networks.idfsr import IdfsrNet, Size

SIDE = 128
FACE = torch.tensor([[44.0, 62.0], [83.0, 62.0], [63.0, 85.0], [47.0, 103.0], [80.0, 103.0]])
TINY = Size(
    SIDE, 8, (16, 32), blocks=1, condition=32, attention=0, style_widths=(16, 32), residual=False
)
RESIDUAL = replace(TINY, residual=True)
ABOUT = About("a" * 64, "b" * 64, ("c" * 64, "d" * 64), 25, 0.9, 0.8, 0.4)


def make_landmarks(n: int, spread: float = 4.0, seed: int = 0) -> Tensor:
    """Return the landmarks of n faces, each a little different."""
    return (
        FACE + spread * torch.randn(n, 5, 2, generator=torch.Generator().manual_seed(seed))
    ).round()


def make_pictures(n: int, seed: int = 0, side: int = SIDE) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, 8, 8, generator=g)
    return torch.nn.functional.interpolate(coarse, side, mode="bicubic").clamp(0, 1)


def make_network(size: Size = TINY, seed: int = 0) -> IdfsrNet:
    """Return a network with random weights in all layers, also those that start at zero."""
    torch.manual_seed(seed)
    net = IdfsrNet(size)
    for parameter in net.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.05)
    return net.eval()


def make_condition(n: int = 3, seed: int = 0) -> FaceCondition:
    g = torch.Generator().manual_seed(seed)
    feature = torch.nn.functional.normalize(torch.randn(n, 512, generator=g), dim=1)
    return assemble(
        make_pictures(n, seed),
        make_landmarks(n, seed=seed),
        make_pictures(n, seed + 1),
        make_landmarks(n, seed=seed + 1),
        feature=feature,
    )


class Finder:
    """Landmarks where the picture is not too dark: as a detector, it finds some and not others."""

    sha256 = "dd"

    def __call__(self, face: np.ndarray) -> np.ndarray | None:
        return FACE.numpy() if face.mean() > 60 else None


class Embedder:
    """A face's feature is where its brightness lies."""

    name, sha256, length, device, licence = "fixed", "bb", 512, torch.device("cpu"), ""

    def embed(self, faces: Tensor, landmarks: Tensor | None = None) -> tuple[Tensor, Tensor]:
        features = torch.nn.functional.adaptive_avg_pool2d(
            faces.mean(1, keepdim=True), (16, 32)
        ).flatten(1)
        return torch.nn.functional.normalize(features, dim=1), features.norm(dim=1)


def restorer(identity: Identity | None = None) -> Idfsr:
    denoiser = identity_denoiser(make_network())
    models = IdfsrModels(denoiser, "aa", Embedder(), Finder(), identity, "ii" if identity else "")
    return Idfsr(models, "ddim-3", torch.device("cpu"))
