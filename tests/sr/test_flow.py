"""The rectified flow: from the posterior mean to a sharp face, along a straight line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fasr_video.errors import FasrError
from fasr_video.sr.denoiser import ResidualDenoiser
from fasr_video.sr.flow import RectifiedFlow
from fasr_video.sr.networks.compact import CompactNet
from fasr_video.sr.networks.flow import FlowNet, Head
from fasr_video.sr.networks.mean import MeanNet
from fasr_video.sr.networks.sizes import size_waves
from fasr_video.sr.posterior_mean import PosteriorMean
from fasr_video.sr.weights import load_flow, save_denoiser, save_flow, save_mean
from fasr_video.training import flow as trainer
from fasr_video.training.loop import Plan
from tests.support.mean_training import CPU, check_progress, job

__all__ = ["job"]


def small_flow() -> RectifiedFlow:
    torch.manual_seed(0)
    return RectifiedFlow(FlowNet((16, 32), head=8))


def test_the_noise_is_half_of_the_papers() -> None:
    assert small_flow().noise == 0.05  # docs/methods.md says why


def test_the_head_changes_nothing_before_training_and_sees_the_picture_after() -> None:
    torch.manual_seed(0)
    head = Head(8)
    picture, velocity, time = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16), torch.rand(1)
    assert torch.equal(head(picture, velocity, time), velocity)
    torch.nn.init.normal_(head.leave.weight)
    assert not torch.allclose(head(picture, velocity, time), head(1 - picture, velocity, time))


def test_an_untrained_flow_does_not_move() -> None:
    flow, mean, noise = small_flow(), torch.rand(2, 3, 128, 128), torch.randn(2, 3, 128, 128)
    drawn = flow.draw(mean, torch.tensor([16.0, 32.0]), noise, calls=3)
    assert torch.allclose(drawn, mean + 0.05 * noise)


def test_a_straight_flow_ends_at_the_face_with_any_number_of_calls() -> None:
    clean = torch.rand(1, 3, 128, 128)
    mean, noise = torch.rand(1, 3, 128, 128), torch.randn(1, 3, 128, 128)

    class Straight(RectifiedFlow):
        def forward(
            self, picture: torch.Tensor, time: torch.Tensor, side: torch.Tensor
        ) -> torch.Tensor:
            return clean - self.start(mean, noise)

    flow = Straight(FlowNet((16, 32), head=8))
    for calls in (1, 4):
        drawn = flow.draw(mean, torch.tensor([16.0]), noise, calls)
        assert torch.allclose(drawn, clean, atol=1e-5)


def test_close_sizes_have_close_waves() -> None:
    at_16, at_17, at_64 = size_waves(torch.tensor([16.0, 17.0, 64.0]))
    assert at_16 @ at_17 > at_16 @ at_64


def test_the_weights_file_describes_its_network(tmp_path: Path) -> None:
    flow = small_flow()
    flow.band, flow.mean = (8, 64), "b" * 64
    file = tmp_path / "flow.safetensors"
    save_flow(flow, file)
    back = load_flow(file)
    assert (back.band, back.mean, back.noise) == ((8, 64), "b" * 64, 0.05)
    picture, time, side = torch.rand(1, 3, 128, 128), torch.tensor([0.5]), torch.tensor([16.0])
    assert torch.allclose(back(picture, time, side), flow(picture, time, side), atol=1e-2)


def test_weights_of_another_kind_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(1)}, file)
    with pytest.raises(FasrError, match="rectified flow"):
        load_flow(file)


def test_a_damaged_header_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "flow.safetensors"
    save_flow(small_flow(), file)
    save_file(load_file(file), file, {"fasr-video/flow/1": '{"widths": 3}'})
    with pytest.raises(FasrError, match="damaged"):
        load_flow(file)


@pytest.mark.slow
def test_training_moves_means_towards_faces(job: trainer.mean_training.Job, tmp_path: Path) -> None:
    weights = tmp_path / "mean.safetensors"
    save_mean(PosteriorMean(MeanNet(width=16, blocks=1, feature_length=512, condition=32)), weights)
    out = tmp_path / "run"
    plan = Plan(steps=60, lr=3e-3, warmup=5, bf16=False, log_every=20, ema=0.9)
    flow_job = trainer.Job(job, weights, widths=(16, 32))
    assert trainer.run(flow_job, out, plan, CPU, report=check_progress) == 60
    lines = (out / "log.csv").read_text().splitlines()[1:]
    losses = [float(line.split(",")[1]) for line in lines]
    assert losses[-1] < 0.9 * losses[0]
    assert load_flow(out / "flow.safetensors").mean == trainer.sha256_file(weights)


def test_a_flow_starts_from_a_denoisers_layers(tmp_path: Path) -> None:
    denoiser = ResidualDenoiser(CompactNet((32, 64), feature_length=16, side=64))
    save_denoiser(denoiser, tmp_path / "sr.safetensors")
    network = FlowNet((32, 64), side=64)
    trainer.begin_with(network, tmp_path / "sr.safetensors")
    learned, taken = denoiser.network.state_dict(), network.cells.state_dict()
    assert torch.equal(taken["enter.weight"], learned["enter.weight"].half().float())
    assert not bool(taken["down.0.blocks.0.dense_f.weight"].any())
    assert not bool(taken["leave.2.weight"].any()), "an untrained flow still does not move"


def test_a_flow_does_not_start_from_a_denoiser_of_other_widths(tmp_path: Path) -> None:
    save_denoiser(ResidualDenoiser(CompactNet((32, 64), side=64)), tmp_path / "sr.safetensors")
    with pytest.raises(FasrError, match="of the same widths"):
        trainer.begin_with(FlowNet((16, 32), side=64), tmp_path / "sr.safetensors")
