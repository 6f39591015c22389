"""IDFSR as a specification: what is hidden, what is warped, what conditions the network, and what a fit
changes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fasr_video.errors import FasrError
from fasr_video.recognition.landmarks import usable
from fasr_video.sr import checkpoints, samplers, sampling
from fasr_video.sr.denoiser import Condition, ResidualDenoiser
from fasr_video.sr.identity import (
    Identity,
    Progress,
    References,
    fit,
    load_identity,
    save_identity,
    stranger,
)
from fasr_video.sr.idfsr import (
    ALPHA_BAR,
    FADE,
    LOG_SIGMA,
    RIM,
    SIGMAS,
    SPREAD,
    STEPS,
    FaceCondition,
    face_mask,
    identity_denoiser,
    time_of,
    warp,
    warp_field,
)
from fasr_video.sr.networks.compact import CompactNet
from fasr_video.sr.networks.idfsr import (
    COMPACT,
    PUBLISHED,
    SIZES,
    CrossAttention,
    IdfsrNet,
    Level,
    Size,
)
from fasr_video.sr.weights import load_idfsr, save_denoiser, save_idfsr
from fasr_video.training import idfsr as training
from fasr_video.weights.manifest import bundled
from tests.support.idfsr_faces import (
    ABOUT,
    FACE,
    RESIDUAL,
    SIDE,
    TINY,
    make_condition,
    make_landmarks,
    make_network,
    make_pictures,
)


@pytest.fixture(params=[TINY, RESIDUAL], ids=["noise", "residual"])
def size(request: pytest.FixtureRequest) -> Size:
    """What holds for one kind of network holds for the other."""
    return request.param


# --------------------------------------------------------------------------------------------- mask


def test_the_mask_covers_the_landmarks_and_nothing_of_the_border() -> None:
    landmarks = make_landmarks(200)
    mask = face_mask(landmarks, SIDE)
    assert mask.shape == (200, 1, SIDE, SIDE) and set(mask.unique().tolist()) == {0.0, 1.0}
    x, y = landmarks.long().unbind(2)
    assert bool((mask[torch.arange(200)[:, None], 0, y, x] == 1).all())
    for edge in (mask[..., :RIM, :], mask[..., -RIM:, :], mask[..., :RIM], mask[..., -RIM:]):
        assert not edge.any()


def test_the_mask_covers_brow_to_chin_but_not_hair_and_shoulders() -> None:
    mask = face_mask(FACE[None], SIDE)[0, 0]
    brow, chin, ears = (63, 46), (63, 120), ((24, 82), (102, 82))
    assert all(mask[y, x] == 1 for x, y in (brow, chin, *ears))
    hair, collar, beside = (63, 25), (12, 124), (8, 82)
    assert all(mask[y, x] == 0 for x, y in (hair, collar, beside))
    assert 0.3 < float(mask.mean()) < 0.55


def test_the_mask_turns_with_the_face() -> None:
    middle = torch.tensor([63.5, 63.5])
    turned = (FACE - middle) @ torch.tensor(
        [[0.0, 1.0], [-1.0, 0.0]]
    ) + middle  # a quarter: down becomes left
    upright = face_mask(FACE[None], SIDE)[0, 0]
    assert (face_mask(turned[None], SIDE)[0, 0] != upright.rot90(-1)).float().mean() < 0.005


@pytest.mark.parametrize(
    ("what", "landmarks"),
    [
        ("not found", torch.full((5, 2), float("nan"))),
        ("outside", FACE + torch.tensor([60.0, 0.0])),
        ("upside down", FACE.flip(0)),
        ("mirrored names", FACE[[1, 0, 2, 4, 3]]),
        ("all in one place", torch.full((5, 2), 60.0)),
        ("two in one place", FACE[[0, 1, 0, 3, 4]]),
    ],
)
def test_impossible_landmarks_are_not_usable(what: str, landmarks: Tensor) -> None:
    assert usable(torch.stack((FACE, landmarks))).tolist() == [True, False], what


# --------------------------------------------------------------------------------------------- warp


def test_equal_landmarks_leave_the_picture_unchanged() -> None:
    x, landmarks = make_pictures(8), make_landmarks(8)
    torch.testing.assert_close(warp(x, landmarks, landmarks), x, rtol=0, atol=1e-4)


def test_the_warp_moves_each_landmark_exactly_to_its_target() -> None:
    source, target = make_landmarks(50, seed=1), make_landmarks(50, seed=2)
    field = warp_field(source, target, SIDE)
    x, y = target.long().unbind(2)
    torch.testing.assert_close(field[torch.arange(50)[:, None], y, x], source, rtol=0, atol=1e-3)


def test_the_warp_is_continuous_and_keeps_the_border() -> None:
    field = warp_field(make_landmarks(50, seed=1), make_landmarks(50, seed=2), SIDE)
    line = torch.arange(SIDE).float()
    for edge, along in (
        (field[:, 0], 0),
        (field[:, -1], 0),
        (field[:, :, 0], 1),
        (field[:, :, -1], 1),
    ):
        torch.testing.assert_close(edge[..., along], line.expand(50, -1), rtol=0, atol=1e-3)
    steps = torch.cat((field.diff(dim=1).flatten(), field.diff(dim=2).flatten()))
    assert float(steps.abs().max()) < 6  # neighbours come from near each other


def test_symmetric_faces_have_valid_triangles() -> None:
    """Four points on one circle can be cut in two ways: one is taken, without a hole."""
    x, even = (
        make_pictures(1),
        torch.tensor([[[40.0, 60], [87, 60], [63.5, 63.5], [40, 100], [87, 100]]]),
    )
    torch.testing.assert_close(warp(x, even, even), x, rtol=0, atol=1e-4)


def test_faces_of_a_batch_are_warped_independently() -> None:
    x, source, target = make_pictures(4), make_landmarks(4, seed=1), make_landmarks(4, seed=2)
    torch.testing.assert_close(warp(x, source, target)[2:3], warp(x[2:3], source[2:3], target[2:3]))


# ------------------------------------------------------------------------------------------ network


@pytest.mark.parametrize("name", SIZES)
def test_both_sizes_work_at_128_px_with_attention_at_16(name: str) -> None:
    size = SIZES[name]
    assert size.cells[size.attention] == 16
    with torch.device("meta"):
        net = IdfsrNet(size)
        x, one = torch.zeros(2, 3, SIDE, SIDE), torch.zeros(2)
        style = net.style(x)
        assert style.shape == (2, 512)
        assert net(x, x, one, style, identity=torch.zeros(2, 512)).shape == x.shape
    attending = [name for name, module in net.named_modules() if isinstance(module, CrossAttention)]
    assert len(attending) == 2 * size.blocks and all(
        f".{size.attention}." in name for name in attending
    )


def test_both_sizes_have_the_expected_number_of_weights() -> None:
    with torch.device("meta"):
        count = {
            name: sum(p.numel() for p in IdfsrNet(size).parameters()) / 1e6
            for name, size in SIZES.items()
        }
    assert 10 < count["compact"] < 14 and 80 < count["published"] < 110
    assert PUBLISHED.widths == tuple(128 * m for m in (1, 1, 2, 2, 4, 4)) and COMPACT.block == 4


def test_attention_to_the_identity_depends_on_the_cell() -> None:
    """On a map that is the same everywhere, far from its edges all cells hear the same of a person
    but for places.
    """
    torch.manual_seed(0)
    level = Level(width=64, cells=16, size=TINY, attention=True)
    for parameter in level.attention.parameters():
        torch.nn.init.normal_(parameter)
    x, time, style, tokens = (
        torch.ones(1, 64, 16, 16),
        torch.zeros(1, 32),
        torch.zeros(1, 512),
        torch.randn(2, 1, 8, 64),
    )

    def differences() -> Tensor:
        with torch.no_grad():
            one, other = (level(x, time, style, who) for who in tokens)
        return (one - other)[0, :, 4:-4, 4:-4].flatten(1)

    assert float(differences().std(1).max()) < 1e-4
    torch.nn.init.normal_(level.places.bias)
    assert float(differences().std(1).min()) > 0.1


def test_an_untrained_published_network_predicts_no_noise() -> None:
    condition = make_condition()
    x = torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        out = identity_denoiser(IdfsrNet(TINY))(x, torch.tensor([0.01, 1.0, 50.0]), condition)
    assert torch.equal(out, x)  # D = x − σ · 0


def base_of(condition: FaceCondition) -> Tensor:
    """What an untrained compact network says of pure noise."""
    random_noise = torch.randn(condition.lr.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return identity_denoiser(IdfsrNet(RESIDUAL))(
            1e4 * random_noise, torch.full((len(random_noise),), 1e4), condition
        )


def test_the_compact_base_is_the_lr_face_with_the_reference_under_the_mask() -> None:
    condition = make_condition()
    base, hidden = base_of(condition), condition.mask.expand_as(condition.lr) == 1
    near = (
        torch.nn.functional.max_pool2d(condition.mask, 2 * FADE + 1, 1, FADE).expand_as(
            condition.lr
        )
        == 1
    )
    torch.testing.assert_close(base[hidden], condition.reference[hidden], rtol=0, atol=1e-4)
    torch.testing.assert_close(base[~near], condition.lr[~near], rtol=0, atol=1e-4)
    # From one to the other without an edge: white on black changes by a little from pixel to pixel.
    black = FaceCondition(
        torch.zeros_like(condition.lr),
        condition.feature,
        condition.mask,
        torch.ones_like(condition.lr),
    )
    edge = base_of(black)
    assert 0.05 < max(float(edge.diff(dim=d).abs().max()) for d in (2, 3)) < 0.2


def test_an_untrained_compact_network_blends_the_noisy_picture_and_its_base() -> None:
    """As E[clean | x] of pictures that are Gaussian around it."""
    condition, sigma = make_condition(), torch.tensor([0.01, 0.28, 25.0])
    x = torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        out = identity_denoiser(IdfsrNet(RESIDUAL))(x, sigma, condition)
    base, level = base_of(condition), sigma[:, None, None, None]
    torch.testing.assert_close(
        out, (base * level**2 + x * SPREAD**2) / (level**2 + SPREAD**2), rtol=0, atol=1e-4
    )


def test_the_compact_networks_loss_is_the_error_of_its_own_output() -> None:
    condition, sigma = make_condition(), torch.tensor([0.01, 0.5, 20.0])
    clean, random_noise = (
        make_pictures(3, seed=5),
        torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)),
    )
    differences: list[Tensor] = []

    class RecordingNet(IdfsrNet):
        def forward(
            self, x: Tensor, lr: Tensor, time: Tensor, style: Tensor, *, identity: Tensor
        ) -> Tensor:
            differences.append(super().forward(x, lr, time, style, identity=identity))
            return differences[-1]

    torch.manual_seed(0)
    denoiser = identity_denoiser(RecordingNet(RESIDUAL))
    last = denoiser.network.leave[2]
    assert isinstance(last, torch.nn.Conv2d)
    torch.nn.init.normal_(last.weight, std=0.1)
    level, base = sigma[:, None, None, None], base_of(condition)
    total = (level**2 + SPREAD**2).sqrt()
    residual = clean + level * random_noise - base
    wanted = (
        (clean - base - (SPREAD / total) ** 2 * residual) * total / (level * SPREAD)
    )  # EDM's F, eq. 8
    with torch.no_grad():
        out = denoiser(clean + level * random_noise, sigma, condition)
    expected = (differences[0] - wanted).square().flatten(1).mean(1)
    torch.testing.assert_close(
        denoiser.weighted(out, clean, sigma, condition), expected, rtol=1e-3, atol=1e-4
    )


def test_training_levels_are_uniform_ddpm_steps_or_log_normal() -> None:
    share = (torch.arange(STEPS) + 0.5) / STEPS
    published, compact = (identity_denoiser(IdfsrNet(size)) for size in (TINY, RESIDUAL))
    torch.testing.assert_close(published.levels(share), SIGMAS.float())
    assert published.levels(torch.tensor([0.0, 1.0])).tolist() == pytest.approx(
        [float(SIGMAS[0]), float(SIGMAS[-1])]
    )
    drawn, (mean, spread) = compact.levels(share).log(), LOG_SIGMA
    assert float(drawn.mean()) == pytest.approx(mean, abs=0.02) and float(
        drawn.std()
    ) == pytest.approx(spread, abs=0.02)
    assert compact.levels(torch.tensor([0.0, 1.0])).tolist() == pytest.approx([0.002, 30.0])


def test_the_compact_size_can_start_from_an_sr_networks_weights(tmp_path: Path) -> None:
    """Deaf to style and identity it then says what the SR network says without a feature."""
    torch.manual_seed(0)
    sr = ResidualDenoiser(CompactNet((16, 32), blocks=1, condition=32)).eval()
    for name, parameter in sr.network.named_parameters():
        if name.startswith(("layout.out", "down.1.attention", "up.1.attention")):
            torch.nn.init.zeros_(parameter)
        elif parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.05)
    sr.half().float()  # what the file can hold
    save_denoiser(sr, tmp_path / "sr.safetensors")
    net = IdfsrNet(replace(RESIDUAL, block=4))
    training.begin_with(net, tmp_path / "sr.safetensors")
    for name, parameter in net.named_parameters():
        if "dense_z" in name or ".attention." in name:
            torch.nn.init.zeros_(parameter)
    g = torch.Generator().manual_seed(0)
    x, lr, style, who = (
        torch.randn(2, *shape, generator=g)
        for shape in ((3, SIDE, SIDE), (3, SIDE, SIDE), (512,), (512,))
    )
    random_noise = torch.tensor([0.05, 5.0]).log() / 4
    with torch.no_grad():
        known = sr.network(x, lr, random_noise, torch.zeros(2, 512))
        torch.testing.assert_close(
            net.eval()(x, lr, random_noise, style, identity=who), known, rtol=1e-3, atol=1e-3
        )


def test_weights_that_do_not_fit_a_new_run_are_refused(tmp_path: Path) -> None:
    save_denoiser(
        ResidualDenoiser(CompactNet((32, 64), blocks=1, condition=32)), tmp_path / "sr.safetensors"
    )
    with pytest.raises(FasrError, match=r"sr\.safetensors: nothing in it fits"):
        training.begin_with(IdfsrNet(RESIDUAL), tmp_path / "sr.safetensors")


def test_the_output_depends_on_all_conditions_but_not_on_hidden_pixels(size: Size) -> None:
    denoiser, condition = identity_denoiser(make_network(size)), make_condition()
    x, sigma = make_pictures(3, seed=5), torch.full((3,), 0.5)
    inside, outside = condition.mask, 1 - condition.mask

    def predict(**other: Tensor) -> Tensor:
        changed = {
            name: getattr(condition, name) for name in ("lr", "feature", "mask", "reference")
        } | other
        with torch.no_grad():
            return denoiser(x, sigma, FaceCondition(**changed))

    base, random_noise = predict(), make_pictures(3, seed=9)
    assert torch.equal(predict(lr=condition.lr * outside + random_noise * inside), base)
    for other in (
        {"lr": condition.lr * inside + random_noise * outside},
        {"reference": random_noise},
        {"feature": condition.feature.flip(1)},
    ):
        assert float((predict(**other) - base).abs().max()) > 1e-4, other.keys()


def test_an_item_does_not_depend_on_the_rest_of_its_batch(size: Size) -> None:
    denoiser, condition = identity_denoiser(make_network(size)), make_condition()
    x, sigma = make_pictures(3, seed=5), torch.tensor([0.05, 0.5, 5.0])
    with torch.no_grad():
        together, alone = (
            denoiser(x, sigma, condition),
            denoiser(x[1:2], sigma[1:2], condition[1:2]),
        )
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)


def test_samplers_encode_the_reference_once_with_equal_results(size: Size) -> None:
    denoiser, condition = identity_denoiser(make_network(size)), make_condition()
    encoded: list[int] = []
    denoiser.network.style.register_forward_hook(lambda *_: encoded.append(1))
    x, sigma = make_pictures(3, seed=5), torch.full((3,), 0.5)
    with torch.no_grad():
        call = denoiser.conditioned(condition)
        first, _ = call(x, sigma), call(x, sigma)
        assert len(encoded) == 1
        assert torch.equal(first, denoiser(x, sigma, condition))


def test_bfloat16_is_close_to_float32(size: Size) -> None:
    denoiser, condition = identity_denoiser(make_network(size)), make_condition()
    x, sigma = make_pictures(3, seed=5), torch.full((3,), 0.3)
    with torch.no_grad():
        exact = denoiser(x, sigma, condition)
        denoiser.precision = torch.bfloat16
        rough = denoiser(x, sigma, condition)
    assert rough.dtype == torch.float32 and (rough - exact).norm() < 0.05 * (exact - x).norm()


def test_a_missing_mask_and_reference_is_an_error() -> None:
    condition = make_condition()
    with pytest.raises(FasrError, match="no reference"):
        identity_denoiser(make_network()).conditioned(Condition(condition.lr, condition.feature))


# ------------------------------------------------------------------------------ DDPM and our levels


def test_ddpm_steps_map_to_noise_levels_and_back() -> None:
    t = torch.arange(STEPS).double()
    torch.testing.assert_close(time_of(SIGMAS), t, rtol=0, atol=1e-9)
    torch.testing.assert_close(time_of(SIGMAS.float()), t.float(), rtol=0, atol=1e-2)
    torch.testing.assert_close(1 / (1 + 4 * SIGMAS**2), ALPHA_BAR)
    between = time_of((SIGMAS[500] * SIGMAS[501]).sqrt()[None])
    assert float(between) == pytest.approx(500.5)
    assert time_of(torch.tensor([1e-9, 1e9])).tolist() == [0, STEPS - 1]


def test_our_ddim_draws_the_same_picture_as_the_ddpms_own() -> None:
    """Pictures that are Gaussian: y ~ N(m, s²), whose noise E[ε | x_t] is known."""
    mean, spread = 0.3, 0.2  # of y = 2 · clean − 1
    t = torch.linspace(STEPS - 1, 0, 20).round().long()

    def random_noise(x: Tensor, alpha_bar: Tensor) -> Tensor:
        return (
            (1 - alpha_bar).sqrt()
            * (x - alpha_bar.sqrt() * mean)
            / (alpha_bar * spread**2 + 1 - alpha_bar)
        )

    class Gaussian(IdfsrNet):
        """Depends on the time alone, as the network does; x_t must come as a DDPM sees it."""

        def forward(
            self, x: Tensor, lr: Tensor, time: Tensor, style: Tensor, *, identity: Tensor
        ) -> Tensor:
            return random_noise(x, ALPHA_BAR[time.round().long()][:, None, None, None])

    x_t = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours = (x_t / ALPHA_BAR[t[0]].sqrt() + 1) / 2
    for now, after in zip(
        t, [*t[1:], None], strict=True
    ):  # Song, Meng and Ermon 2021, eq. 12 with η = 0
        alpha_bar, alpha_bar_after = (
            ALPHA_BAR[now],
            torch.ones(()) if after is None else ALPHA_BAR[after],
        )
        predicted = random_noise(x_t, alpha_bar)
        clean = (x_t - (1 - alpha_bar).sqrt() * predicted) / alpha_bar.sqrt()
        x_t = alpha_bar_after.sqrt() * clean + (1 - alpha_bar_after).sqrt() * predicted
    denoiser = identity_denoiser(Gaussian(replace(TINY, side=16)))
    zeros = torch.zeros(3, 3, 16, 16, dtype=torch.float64)
    condition = FaceCondition(zeros, torch.zeros(3, 512), zeros[:, :1], zeros.float())
    levels = torch.cat((SIGMAS[t], torch.zeros(1)))
    with torch.no_grad():
        ours = samplers.ddim(denoiser.conditioned(condition), ours, levels)
    torch.testing.assert_close(2 * ours - 1, x_t, rtol=0, atol=1e-4)


def test_a_seed_draws_the_same_picture_in_any_batch(size: Size) -> None:
    denoiser, condition, how = (
        identity_denoiser(make_network(size)),
        make_condition(),
        sampling.parse("ddim-4"),
    )
    together = sampling.draw(denoiser, condition, how, samplers.generators([5, 6, 7]))
    alone = sampling.draw(denoiser, condition[1:2], how, samplers.generators([6]))
    torch.testing.assert_close(together[1:2], alone, rtol=1e-3, atol=2e-4)


# -------------------------------------------------------------------------------------------- files


def test_weights_survive_saving_and_loading(tmp_path: Path, size: Size) -> None:
    denoiser, condition = (
        identity_denoiser(make_network(size).half().float()),
        make_condition(),
    )  # what a float16 file can hold
    denoiser.embedder, denoiser.band = "e" * 64, (4, 16)
    save_idfsr(denoiser, tmp_path / "idfsr.safetensors")
    back = load_idfsr(tmp_path / "idfsr.safetensors")
    x, sigma = make_pictures(3, seed=5), torch.full((3,), 0.3)
    with torch.no_grad():
        assert torch.equal(back(x, sigma, condition), denoiser(x, sigma, condition))
    assert back.network.size == size and back.embedder == "e" * 64 and back.band == (4, 16)


def test_weights_of_another_kind_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    with pytest.raises(FasrError, match="no such file"):
        load_idfsr(file)
    with pytest.raises(FasrError, match="does not name an IDFSR network"):
        load_idfsr(bundled("sr.safetensors"))
    save_idfsr(identity_denoiser(make_network()), file)
    with pytest.raises(FasrError, match="fasr-video/idfsr/2"):
        checkpoints.load(file)
    for length in (5000, 200):
        file.write_bytes(file.read_bytes()[:length])
        with pytest.raises(FasrError, match=r"weights\.safetensors"):
            load_idfsr(file)


# ------------------------------------------------------------------------------------------ fitting


def make_person(n: int = 4, seed: int = 0) -> References:
    """Photographs that are alike, with features that are, too."""
    g = torch.Generator().manual_seed(seed)
    base = make_pictures(1, seed=seed)
    shots = (base + 0.05 * (make_pictures(n, seed=seed + 1) - 0.5)).clamp(0, 1)
    features = torch.nn.functional.normalize(
        torch.ones(n, 512) + torch.randn(n, 512, generator=g), dim=1
    )
    names = tuple(f"{i}.png" for i in range(n))
    return References(
        names, tuple(f"{i:064x}" for i in range(n)), shots, make_landmarks(n, seed=seed), features
    )


@pytest.mark.slow
def test_fitting_lowers_the_loss_and_does_not_change_the_network(
    size: Size,
) -> None:
    denoiser = identity_denoiser(make_network(size))
    enrolment_defaults: list[Progress] = []
    before = {name: value.clone() for name, value in denoiser.state_dict().items()}
    vector, first, last = fit(denoiser, make_person(), 8, 0, report=enrolment_defaults.append)
    assert last < first
    assert all(torch.equal(value, before[name]) for name, value in denoiser.state_dict().items())
    assert [p.step for p in enrolment_defaults] == list(range(1, 9)) and enrolment_defaults[
        0
    ].steps == 8
    start = torch.nn.functional.normalize(make_person().features.sum(0), dim=0)
    assert vector.shape == (512,) and 0 < float((vector - start).norm()) < 2
    assert torch.equal(
        fit(denoiser, make_person(), 8, 0, report=enrolment_defaults.append)[0], vector
    )  # the same seed, the same vector


def test_a_fit_that_does_not_lower_the_loss_is_an_error() -> None:
    deaf = identity_denoiser(IdfsrNet(TINY))  # its output is zero, whoever it is told of
    with pytest.raises(FasrError, match="did not fall"):
        fit(deaf, make_person(), 1, 0, report=lambda progress: None)


def test_a_stranger_among_the_references_is_named() -> None:
    references = make_person()
    assert stranger(references) is None
    mixed = references.features.clone()
    mixed[2] = torch.nn.functional.normalize(
        torch.randn(512, generator=torch.Generator().manual_seed(9)), dim=0
    )
    doubt = stranger(replace(references, features=mixed))
    assert (
        doubt is not None and doubt.startswith("2.png") and "lowest" in doubt and "\n" not in doubt
    )


@pytest.mark.parametrize("n", [0, 1, 11])
def test_a_person_is_fitted_from_two_to_ten_photographs(n: int) -> None:
    with pytest.raises(FasrError, match=f"{n} usable, but 2 to 10"):
        make_person(n) if n else References(
            (), (), torch.zeros(0, 3, 8, 8), torch.zeros(0, 5, 2), torch.zeros(0, 512)
        )


def test_an_identity_loads_with_its_own_weights_only(tmp_path: Path) -> None:
    file, vector = tmp_path / "person.id", torch.randn(512)
    save_identity(Identity(vector, ABOUT), file)
    back = load_identity(file, "a" * 64)
    assert torch.equal(back.vector, vector) and back.about == ABOUT
    with pytest.raises(
        FasrError, match="fitted to the weights aaaaaaaaaaaa…, but ffffffffffff… are given"
    ):
        load_identity(file, "f" * 64)


def test_a_file_that_is_no_identity_gives_a_clear_error(tmp_path: Path) -> None:
    file = tmp_path / "person.id"
    save_identity(Identity(torch.randn(512), ABOUT), file)
    content = file.read_bytes()
    poisoned, short = (
        Identity(torch.full((512,), float("nan")), ABOUT),
        Identity(torch.zeros(8), ABOUT),
    )
    for write in (
        lambda: file.unlink(),
        lambda: file.write_bytes(content[:700]),
        lambda: file.write_bytes(b"no identity"),
        lambda: file.write_bytes(content.replace(b"loss_after", b"loss_other")),
        lambda: file.write_bytes(bundled("sr.safetensors").read_bytes()),
        lambda: save_identity(poisoned, file),
        lambda: save_identity(short, file),
    ):
        write()
        with pytest.raises(FasrError, match=r"person\.id") as told_error:
            load_identity(file, "a" * 64)
        assert "\n" not in str(told_error.value)
