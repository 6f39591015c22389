"""Weights of a small network."""

from __future__ import annotations

import pytest

from fasr_video.recognition.combiner import FeatureCombiner
from fasr_video.recognition.combiner import save as save_combiner
from fasr_video.sr.weights import save_denoiser
from tests.support.restorers import (
    LENGTH,
    network,
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A tiny network and combiner, as options of the command."""
    folder = tmp_path_factory.mktemp("weights")
    save_denoiser(network(), folder / "sr.safetensors")
    save_combiner(FeatureCombiner(LENGTH, 0.5).eval(), folder / "combiner.safetensors")
    options = ["--model", folder / "sr.safetensors", "--combiner", folder / "combiner.safetensors"]
    return [*map(str, options), "--sampler", "dpmpp-2"]
