"""FASR++ around the posterior mean: the mean picture takes the place of the LR face."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fasr_video.errors import FasrError
from fasr_video.files import sha256_file
from fasr_video.sr.denoiser import Condition, ResidualDenoiser
from fasr_video.sr.methods import METHODS, ModelFiles, Options, open_restorer
from fasr_video.sr.networks.compact import CompactNet
from fasr_video.sr.networks.mean import MeanNet
from fasr_video.sr.posterior_mean import PosteriorMean
from fasr_video.sr.restoration import FaceInput
from fasr_video.sr.weights import load_own, save_denoiser, save_mean
from fasr_video.training import around_mean as trainer
from fasr_video.training.loop import Plan
from fasr_video.weights.manifest import bundled
from tests.support.mean_training import CPU, check_progress, job

__all__ = ["job"]

EMBEDDER = sha256_file(bundled("embedder.safetensors"))
FACE = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)


def new_denoiser(mean: str) -> ResidualDenoiser:
    """Return a denoiser that knows nothing yet: its answer at much noise is what it draws
    around.
    """
    torch.manual_seed(0)
    denoiser = ResidualDenoiser(CompactNet((16, 32)), spread=0.055)
    denoiser.band, denoiser.embedder, denoiser.mean = (8, 64), EMBEDDER, mean
    return denoiser


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Return a denoiser's file with the mean that it draws around beside it."""
    mean = PosteriorMean(MeanNet(16, 1))
    mean.band, mean.embedder = (8, 64), EMBEDDER
    assert mean.network.leave.bias is not None
    torch.nn.init.normal_(mean.network.leave.bias, std=0.5)
    save_mean(mean, tmp_path / "mean.safetensors")
    file = tmp_path / "sr.safetensors"
    save_denoiser(new_denoiser(sha256_file(tmp_path / "mean.safetensors")), file)
    return file


def test_the_file_names_the_mean_and_the_spread_around_it(weights: Path) -> None:
    back = load_own(weights)
    assert isinstance(back, ResidualDenoiser)
    assert back.mean == sha256_file(weights.with_name("mean.safetensors"))
    assert back.spread == pytest.approx(0.055)
    assert load_own(bundled("sr.safetensors")).mean == sha256_file(bundled("mean.safetensors"))


def test_an_untrained_network_draws_the_mean_picture(weights: Path) -> None:
    def draw_pictures(method: str, network: Path) -> torch.Tensor:
        files = ModelFiles(network=network)
        sampler = "dpmpp-1" if METHODS[method].supports.sampler else None
        restorer = open_restorer(METHODS[method], Options(CPU, files, sampler))
        picture = restorer.restore_all([FaceInput(FACE, (FACE,))], 1, [0])[0].picture
        return torch.from_numpy(picture).float()

    mean = draw_pictures("mean", weights.with_name("mean.safetensors"))
    assert (draw_pictures("fasr++", weights) - mean).abs().max() < 3
    bicubic = torch.from_numpy(
        open_restorer(METHODS["bicubic"], Options(CPU))
        .restore_all([FaceInput(FACE)], 1, [0])[0]
        .picture
    ).float()
    assert (bicubic - mean).abs().mean() > 5


def test_the_answer_names_the_mean_that_it_was_drawn_around(weights: Path) -> None:
    options = Options(CPU, ModelFiles(network=weights))
    provenance = open_restorer(METHODS["fasr++"], options).provenance()
    assert provenance["mean"] == sha256_file(weights.with_name("mean.safetensors"))
    bundled_one = open_restorer(METHODS["fasr++"], Options(CPU))
    assert bundled_one.provenance()["mean"] == sha256_file(bundled("mean.safetensors"))


def test_another_mean_is_refused(weights: Path) -> None:
    weights.with_name("mean.safetensors").unlink()  # so the bundled one is taken
    with pytest.raises(FasrError, match="starts from the mean"):
        open_restorer(METHODS["fasr++"], Options(CPU, ModelFiles(network=weights)))


@pytest.mark.slow
def test_it_trains_around_a_mean_and_goes_on_where_it_stopped(
    job: trainer.mean_training.Job, tmp_path: Path
) -> None:
    mean = PosteriorMean(MeanNet(16, 1))
    save_mean(mean, tmp_path / "mean.safetensors")
    around = trainer.Job(job, tmp_path / "mean.safetensors", widths=(16, 32))
    plan = Plan(steps=4, lr=1e-3, log_every=2, muon=True)
    out = tmp_path / "run"
    assert trainer.run(around, out, replace(plan, seconds=0.0), CPU, report=check_progress) < 4
    assert trainer.run(around, out, plan, CPU, report=check_progress) == 4
    learned = load_own(out / "sr.safetensors")
    assert learned.mean == sha256_file(tmp_path / "mean.safetensors")
    condition = Condition(torch.rand(1, 3, 128, 128), torch.zeros(1, 512))
    picture = learned(torch.rand(1, 3, 128, 128), torch.tensor([0.1]), condition)
    assert picture.isfinite().all()
