"""Restorers with small networks, and faces for them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fasr_video.recognition.combiner import FeatureCombiner
from fasr_video.sr.denoiser import Denoiser, ResidualDenoiser
from fasr_video.sr.methods import METHODS, Options
from fasr_video.sr.methods.diffusion import Diffusion, Models
from fasr_video.sr.methods.features import FeatureModels
from fasr_video.sr.networks.compact import CompactNet
from fasr_video.sr.restoration import FaceInput
from fasr_video.types import Image

CPU = torch.device("cpu")


LENGTH = 512


def face(seed: int, side: int) -> Image:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def network() -> Denoiser:
    torch.manual_seed(0)
    net = CompactNet((32, 64), 1, LENGTH, 64)
    for parameter in net.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.05)
    denoiser = ResidualDenoiser(net)
    denoiser.band = (12, 32)
    return denoiser.eval()


class FixedEmbedder:
    """An embedder whose feature of a face is where its brightness lies: cheap, and different for
    different faces.
    """

    name, sha256, length, device, licence = "fixed", "bb", LENGTH, CPU, "none"

    def embed(self, faces: Tensor, landmarks: Tensor | None = None) -> tuple[Tensor, Tensor]:
        features = torch.nn.functional.adaptive_avg_pool2d(
            faces.mean(1, keepdim=True), (16, 32)
        ).flatten(1)
        return torch.nn.functional.normalize(features, dim=1), features.norm(dim=1)


def feature_models() -> FeatureModels:
    torch.manual_seed(1)
    return FeatureModels(FixedEmbedder(), FeatureCombiner(LENGTH, 0.5).eval(), "cc")


def models() -> Models:
    return Models(network(), "aa", feature_models())


def diffusion(name: str, sampler: str) -> Diffusion:
    return Diffusion(METHODS[name], models(), Options(CPU, sampler=sampler))


def three_steps(name: str) -> Diffusion:
    """The method with its own sampler, in three steps."""
    kind = METHODS[name].defaults.sampler.rpartition("-")[0]
    return diffusion(name, f"{kind}-3")


PROBE = FaceInput(face(0, 16), (face(1, 16), face(2, 20), face(3, 128)))
