"""The posterior mean: one call, one picture, nearer to the truth than enlarging."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fasr_video.errors import FasrError
from fasr_video.sr.degradation import enlarge
from fasr_video.sr.networks.linear import reduce
from fasr_video.sr.networks.mean import MeanNet
from fasr_video.sr.posterior_mean import PosteriorMean
from fasr_video.sr.surveillance import camera
from fasr_video.sr.weights import load_mean, save_mean
from fasr_video.training import mean as trainer
from fasr_video.training.loop import Plan
from tests.support.mean_training import CPU, check_progress, draw_ovals, job

__all__ = ["job"]


def small_net() -> MeanNet:
    torch.manual_seed(0)
    return MeanNet(width=16, blocks=1, feature_length=512, condition=32)


def test_an_untrained_network_without_linear_maps_returns_the_enlarged_face() -> None:
    mean = PosteriorMean(small_net())
    lr = torch.rand(2, 3, 128, 128)
    out = mean(lr, torch.tensor([16.0, 24.0]), torch.zeros(2, 512))
    assert torch.equal(out, lr)


def test_size_and_feature_both_change_the_picture() -> None:
    net = small_net()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.1)
    mean = PosteriorMean(net)
    lr, nothing = torch.rand(1, 3, 128, 128), torch.zeros(1, 512)
    someone = torch.nn.functional.normalize(torch.randn(1, 512), dim=1)
    plain = mean(lr, torch.tensor([16.0]), nothing)
    assert not torch.allclose(plain, mean(lr, torch.tensor([32.0]), nothing))
    assert not torch.allclose(plain, mean(lr, torch.tensor([16.0]), someone))


def test_the_weights_file_describes_its_network(tmp_path: Path) -> None:
    mean = PosteriorMean(small_net())
    mean.band, mean.embedder = (8, 64), "a" * 64
    file = tmp_path / "mean.safetensors"
    save_mean(mean, file)
    back = load_mean(file)
    assert (back.band, back.embedder, back.feature_length) == ((8, 64), "a" * 64, 512)
    for name, tensor in mean.state_dict().items():
        assert torch.allclose(back.state_dict()[name], tensor, atol=1e-3)


def test_weights_of_another_kind_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(1)}, file)
    with pytest.raises(FasrError, match="posterior-mean"):
        load_mean(file)


def test_a_damaged_header_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mean.safetensors"
    save_mean(PosteriorMean(small_net()), file)
    save_file(load_file(file), file, {"fasr-video/mean/1": '{"width": "wide"}'})
    with pytest.raises(FasrError, match="damaged"):
        load_mean(file)


@pytest.mark.slow
def test_training_beats_bicubic(job: trainer.Job, tmp_path: Path) -> None:
    out = tmp_path / "run"
    plan = Plan(steps=60, lr=5e-3, warmup=5, bf16=False, muon=True, log_every=30, ema=0.9)
    assert trainer.run(job, out, plan, CPU, report=check_progress) == 60
    learned = load_mean(out / "mean.safetensors")
    assert trainer.gain(learned, draw_ovals(8).pictures, 16) > 1
    assert '"gain at 16 px, dB"' in (out / "manifest.json").read_text()


def test_the_initial_linear_map_beats_bicubic() -> None:
    net = small_net()
    trainer.fit_maps(net, draw_ovals(64).pictures)
    mean = PosteriorMean(net)
    for side in (8, 12, 16):
        assert trainer.gain(mean, draw_ovals(8).pictures, side) > 0.3, side


def test_the_linear_maps_fade_out_at_twice_the_largest_fitted_size() -> None:
    net = small_net()
    trainer.fit_maps(net, draw_ovals(16).pictures)
    lr = torch.rand(2, 3, 128, 128)
    assert not net.base(lr, torch.tensor([32.0, 64.0])).any()


def test_the_linear_map_recovers_the_lr_face_itself() -> None:
    low = torch.rand(2, 3, 16, 16)
    assert torch.allclose(reduce(enlarge(0.25 + 0.5 * low, 128), 16), 0.25 + 0.5 * low, atol=1e-5)


def test_cameras_do_not_change_tone_and_alignment() -> None:
    kind = trainer.in_tone(camera(32))
    face = torch.full((2, 3, 128, 128), 0.5)
    assert torch.allclose(kind(face, [1, 2]).mean(), torch.tensor(0.5), atol=0.01)


def test_misaligned_faces_are_slightly_moved() -> None:
    faces = draw_ovals(4)
    moved = trainer.misaligned(faces.pictures, 128, torch.Generator().manual_seed(0))
    straight = faces.pictures[..., 8:136, 8:136].float() / 255
    assert moved.shape == straight.shape
    assert 0 < (moved - straight).abs().mean() < 0.1


def test_a_resumed_run_keeps_its_linear_maps(
    job: trainer.Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(steps=2, lr=1e-3, warmup=1, bf16=False, log_every=1)
    trainer.run(job, tmp_path, replace(plan, seconds=0), CPU, report=check_progress)
    monkeypatch.setattr(trainer, "fit_maps", lambda *_: pytest.fail("fitted a second time"))
    assert trainer.run(job, tmp_path, plan, CPU, report=check_progress) == 2
    assert load_mean(tmp_path / "mean.safetensors").network.linear_maps()[0].weight.any()


def test_lr_twins_are_stored_in_8_bits() -> None:
    face = torch.full((1, 3, 128, 128), 100.4 / 255)
    assert torch.allclose(trainer.stored(face, 16), torch.tensor(100 / 255))


def test_a_face_without_other_photos_gets_its_own_feature() -> None:
    faces = draw_ovals(4)
    own = torch.eye(4, 512)
    data = trainer.Material(faces.pictures, own, torch.zeros(4, 512))
    recipe = trainer.Recipe(batch=64, sides=(16,), cameras=0.0, no_feature=0.0)
    batch = trainer.make_batch(data, recipe, 128, torch.Generator().manual_seed(0))
    assert torch.equal(batch.feature.sum(1), torch.ones(64))
