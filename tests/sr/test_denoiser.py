"""The denoiser wrapper: one contract for the compact network and for NCSN++."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from fasr_video.errors import FasrError
from fasr_video.sr import sampling, sde
from fasr_video.sr.denoiser import Condition, Denoiser, ResidualDenoiser, ScoreDenoiser
from fasr_video.sr.networks.compact import CompactNet, Layout
from fasr_video.sr.networks.ncsnpp import NCSNpp
from fasr_video.sr.samplers import generators
from fasr_video.sr.weights import load_own, save_denoiser

SIDE, LENGTH = 16, 64


def fill_weights(net: torch.nn.Module) -> torch.nn.Module:
    """Last layers start at zero, in training: here every layer has something to say."""
    g = torch.Generator().manual_seed(0)
    for parameter in net.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.05, generator=g)
    return net.eval()


def compact_denoiser() -> Denoiser:
    torch.manual_seed(0)
    net = CompactNet((32, 64), blocks=1, feature_length=LENGTH, condition=64, side=SIDE)
    fill_weights(net)
    return ResidualDenoiser(net).eval()


def score_network() -> Denoiser:
    torch.manual_seed(0)
    net = NCSNpp(SIDE, LENGTH // 4, (1, 1, 2), attention_at=8)
    fill_weights(net)
    return ScoreDenoiser(net, 0.001, 348.0).eval()


BOTH = pytest.mark.parametrize("make", [compact_denoiser, score_network])


def make_faces(n: int = 3) -> tuple[Tensor, Condition]:
    g = torch.Generator().manual_seed(1)
    feature = torch.nn.functional.normalize(torch.randn(n, LENGTH, generator=g), dim=1)
    return torch.rand(n, 3, SIDE, SIDE, generator=g), Condition(
        torch.rand(n, 3, SIDE, SIDE, generator=g), feature
    )


@BOTH
def test_the_output_is_a_float32_picture_that_agrees_with_the_score(make: type[Denoiser]) -> None:
    denoiser = make()
    x, condition = make_faces()
    sigma = torch.tensor([0.05, 0.5, 5.0])
    with torch.no_grad():
        clean = denoiser(x, sigma, condition)
    assert clean.shape == x.shape and clean.dtype == torch.float32
    score = denoiser.score(x, condition.lr, sigma, condition.feature)
    back = x + sde.per_item(sigma, x) ** 2 * score
    torch.testing.assert_close(back, clean, rtol=1e-4, atol=1e-4)


@BOTH
def test_an_item_does_not_depend_on_the_rest_of_its_batch(make: type[Denoiser]) -> None:
    denoiser = make()
    x, condition = make_faces()
    sigma = torch.tensor([0.05, 0.5, 5.0])
    with torch.no_grad():
        together = denoiser(x, sigma, condition)
        alone = denoiser(x[1:2], sigma[1:2], condition[1:2])
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)


@BOTH
def test_both_conditions_change_the_output(make: type[Denoiser]) -> None:
    denoiser = make()
    x, condition = make_faces()
    sigma = torch.full((3,), 0.5)
    other = Condition(condition.lr.flip(0), condition.feature)
    without = Condition(condition.lr, torch.zeros_like(condition.feature))
    with torch.no_grad():
        base = denoiser(x, sigma, condition)
        assert (denoiser(x, sigma, other) - base).abs().max() > 1e-4
        assert (denoiser(x, sigma, without) - base).abs().max() > 1e-6


@BOTH
def test_bfloat16_is_close_to_float32(make: type[Denoiser]) -> None:
    denoiser = make()
    x, condition = make_faces()
    sigma = torch.full((3,), 0.3)
    with torch.no_grad():
        exact = denoiser(x, sigma, condition)
        denoiser.precision = torch.bfloat16
        rough = denoiser(x, sigma, condition)
    assert rough.dtype == torch.float32
    assert (rough - exact).norm() < 0.05 * (exact - x).norm()


@BOTH
def test_float32_is_close_to_float64(make: type[Denoiser]) -> None:
    denoiser = make()
    x, condition = make_faces()
    sigma = torch.tensor([0.02, 0.3, 4.0])
    with torch.no_grad():
        single = denoiser(x, sigma, condition)
        wide = Condition(condition.lr.double(), condition.feature.double())
        double = denoiser.double()(x.double(), sigma.double(), wide)
    assert double.dtype == torch.float64
    assert (single - double).abs().max() < 1e-4 * double.abs().max()


@BOTH
def test_a_feature_of_another_length_is_refused_with_the_expected_length(
    make: type[Denoiser],
) -> None:
    _, condition = make_faces()
    with pytest.raises(FasrError, match=str(LENGTH)):
        make().conditioned(Condition(condition.lr, condition.feature[:, :10]))


def test_an_exact_network_has_no_loss_and_all_levels_count_the_same() -> None:
    """With EDM's weight an untrained (zero) network loses 1 at every noise level, for data of the
    right spread.
    """
    denoiser = ResidualDenoiser(CompactNet((32, 64), 1, LENGTH, 64, side=SIDE)).eval()
    g = torch.Generator().manual_seed(0)
    lr = torch.full((400, 3, SIDE, SIDE), 0.5)
    clean = lr + ResidualDenoiser.WITH_LR * torch.randn(lr.shape, generator=g)
    condition = Condition(lr, torch.zeros(400, LENGTH))
    for level in (0.005, 0.085, 1.0, 20.0):
        sigma = torch.full((400,), level)
        x = clean + level * torch.randn(clean.shape, generator=g)
        with torch.no_grad():
            error = (denoiser(x, sigma, condition) - clean).square().flatten(1).mean(1)
        assert float((error * denoiser.weight(sigma, condition)).mean()) == pytest.approx(
            1.0, abs=0.02
        )


def test_a_cell_of_a_map_has_a_bias_of_its_own() -> None:
    denoiser = compact_denoiser()
    x, condition = make_faces(1)
    with torch.no_grad():
        before = denoiser(x, torch.tensor([1.0]), condition)
        cell_biases = denoiser.network.places_up[0]  # type: ignore[index]
        cell_biases.bias.view(cell_biases.shape)[:, 0, 0] = 2.0  # type: ignore[union-attr]
        moved = (denoiser(x, torch.tensor([1.0]), condition) - before).abs().mean(1)[0]
    assert moved[:4, :4].mean() > 3 * moved[12:, 12:].mean()


def test_a_trained_layout_adds_the_feature_to_the_smallest_map() -> None:
    layout, x = Layout(condition=8, width=16, cells=4), torch.zeros(2, 16, 4, 4)
    features = torch.eye(8)[:2]
    assert layout.out.bias is not None
    torch.nn.init.zeros_(layout.out.bias)
    with torch.no_grad():
        assert torch.equal(layout(x, features), x)
        torch.nn.init.normal_(layout.out.weight)
        first, second = layout(x, features)
    assert (first - second).std(dim=(1, 2)).min() > 1e-3


def test_without_an_lr_face_the_picture_is_built_around_grey() -> None:
    denoiser = ResidualDenoiser(
        CompactNet((32, 64), 1, LENGTH, 64, side=SIDE)
    ).eval()  # a zero network
    _, condition = make_faces()
    none = Condition(torch.zeros_like(condition.lr), condition.feature)
    x = 0.5 + 30.0 * torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        clean = denoiser(x, torch.full((3,), 30.0), none)
    assert (clean - 0.5).abs().max() < 0.05


@BOTH
@pytest.mark.parametrize("kind", sampling.DENOISERS)
def test_every_sampler_draws_the_same_picture_from_a_seed_in_any_batch(
    make: type[Denoiser], kind: str
) -> None:
    denoiser = make()
    _, condition = make_faces()
    how = sampling.parse(f"{kind}-3")
    together = sampling.draw(denoiser, condition, how, generators([5, 6, 7]))
    alone = sampling.draw(denoiser, condition[1:2], how, generators([6]))
    assert together.min() >= 0 and together.max() <= 1 and together.isfinite().all()
    if (
        kind == "pc-published"
    ):  # its norms are averaged over the batch: told in its name and in the methods' page
        assert (together[1:2] - alone).abs().max() > 1e-5
    else:
        torch.testing.assert_close(together[1:2], alone, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize(
    "text", ["dpmpp", "dpmpp-0", "dpmpp-x", "fast-10", "pc-10@2", "dpmpp-10@-1", "dpmpp-10@x", ""]
)
def test_an_unknown_sampler_is_refused(text: str) -> None:
    with pytest.raises(FasrError, match="sampler"):
        sampling.parse(text)


@pytest.mark.parametrize("text", ["dpmpp-15", "pc-2000", "heun-8@1.5", "dpmpp-sde-20"])
def test_a_sampler_is_written_as_it_is_read(text: str) -> None:
    assert str(sampling.parse(text)) == text


@pytest.mark.parametrize("kind", sampling.DENOISERS)
def test_samplers_make_the_stated_number_of_calls(kind: str) -> None:
    how, calls = sampling.parse(f"{kind}-6"), []

    class Counting(ResidualDenoiser):
        def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
            calls.append(1)
            return condition.lr

    _, condition = make_faces(1)
    counting = Counting(CompactNet((32, 64), 1, LENGTH, 64, side=SIDE))
    sampling.draw(counting, condition, how, generators([0]))
    assert len(calls) == how.calls


def test_fourier_angles_survive_a_float16_file(tmp_path: Path) -> None:
    """Rounded frequencies turn angles of 10³ by half a radian; all else may be rounded."""
    torch.manual_seed(0)
    net = NCSNpp(128, 16, (1, 1, 2, 2, 2, 2, 2))
    fill_weights(net)
    denoiser = ScoreDenoiser(net, 0.001, 348.0).eval()
    save_denoiser(denoiser, tmp_path / "sr.safetensors")
    back = load_own(tmp_path / "sr.safetensors")
    assert torch.equal(back.network.all_modules[0].W, denoiser.network.all_modules[0].W)  # type: ignore[index,union-attr]
    g = torch.Generator().manual_seed(0)
    x, lr, feature = (
        torch.rand(s, generator=g) for s in ((1, 3, 128, 128), (1, 3, 128, 128), (1, 64))
    )
    for level in (0.001, 0.3, 300.0):
        sigma = torch.tensor([level])
        a, b = denoiser.score(x, lr, sigma, feature), back.score(x, lr, sigma, feature)
        assert (a - b).norm() < 5e-3 * a.norm()


def test_weights_survive_saving_and_loading(tmp_path: Path) -> None:
    denoiser = compact_denoiser().half().float()  # what a float16 file can hold
    denoiser.band = (8, 32)
    save_denoiser(denoiser, tmp_path / "sr.safetensors")
    back = load_own(tmp_path / "sr.safetensors")
    x, condition = make_faces()
    sigma = torch.full((3,), 0.3)
    with torch.no_grad():
        assert torch.equal(back(x, sigma, condition), denoiser(x, sigma, condition))
    assert back.band == (8, 32) and (back.sigma_min, back.sigma_max) == (
        denoiser.sigma_min,
        denoiser.sigma_max,
    )
