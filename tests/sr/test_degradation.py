"""Degradation: exact resizing by closed forms, and a surveillance chain held against real
codecs.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from fasr_video.evaluation.codec import through_h264, through_jpeg
from fasr_video.sr.degradation import enlarge, shrink, weights
from fasr_video.sr.surveillance import CANVAS, Surveillance, h264, jpeg
from fasr_video.types import Image

SIDES = st.integers(1, 70)


def picture(side: int = CANVAS, n: int = 4) -> Tensor:
    """Soft shapes with some texture: neither flat nor noise."""
    g = torch.Generator().manual_seed(0)
    soft = F.interpolate(torch.rand(n, 3, 6, 6, generator=g), size=side, mode="bicubic").clamp(0, 1)
    fine = F.interpolate(
        torch.rand(n, 1, side // 2, side // 2, generator=g), size=side, mode="bilinear"
    )
    return (0.8 * soft + 0.2 * fine).clamp(0, 1)


# ----------------------------------------------------------------------------------------- resizing


def test_eight_to_one_is_the_triangle_of_tensorflows_antialiased_resize() -> None:
    """Inside: sixteen taps (k + ½)/64 up and down again. At the border: those inside, scaled to sum
    to one.
    """
    rise = (torch.arange(8) + 0.5).double() / 64
    table = weights(128, 16, "triangle")
    expected = torch.zeros(128).double()
    expected[36 - 8 + 0 : 36] = rise  # pixel 4 has its centre at 36
    expected[36:44] = rise.flip(0)
    assert torch.allclose(table[4], expected, atol=1e-12)
    cut = torch.zeros(128).double()
    cut[:4], cut[4:12] = rise[4:], rise.flip(0)  # pixel 0 has its centre at 4
    assert torch.allclose(table[0], cut / cut.sum(), atol=1e-12)


def test_shrinking_by_two_equals_the_calculation_by_hand() -> None:
    x = torch.tensor([0.0, 1.0, 2.0, 3.0]).double()
    # pixel 0: centre 1, taps at ½, 1½, 2½ with ¾, ¾, ¼; pixel 1: its mirror
    expected = torch.tensor(
        [(0.75 * 0 + 0.75 * 1 + 0.25 * 2) / 1.75, (0.25 * 1 + 0.75 * 2 + 0.75 * 3) / 1.75]
    )
    assert torch.allclose(weights(4, 2, "triangle") @ x, expected.double())


def test_enlarging_by_two_equals_keys_cubic_by_hand() -> None:
    """Halfway points: −0.0703125 …: Keys' kernel with a = −½ at ¼, ¾, 1¼, 1¾."""

    def keys_cubic(d: float) -> float:
        return 1.5 * d**3 - 2.5 * d**2 + 1 if d < 1 else -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2

    row = weights(8, 16, "cubic")[7]  # its centre is at 3.75: ¼ left of tap 3½+½
    taps = {k: keys_cubic(abs(k + 0.5 - 3.75)) for k in range(2, 6)}
    assert sum(taps.values()) == pytest.approx(1.0)
    assert all(float(row[k]) == pytest.approx(v) for k, v in taps.items())
    assert float(row.sum()) == pytest.approx(1.0) and int((row != 0).sum()) == 4


def test_at_the_border_the_cubics_taps_inside_sum_to_one() -> None:
    """Of twice as many pixels, the first has its centre at ¼ and the second at ¾; the taps inside
    lie at ½, 1½, 2½.
    """
    near, far = 1.5 * 0.25**3 - 2.5 * 0.25**2 + 1, 1.5 * 0.75**3 - 2.5 * 0.75**2 + 1
    last = -0.5 * 1.25**3 + 2.5 * 1.25**2 - 4 * 1.25 + 2
    # the first lies ¼, 1¼ and 2¼ away from them
    expected = torch.tensor([near, last, 0, 0]).double() / (near + last)
    assert torch.allclose(weights(4, 8, "cubic")[0], expected, atol=1e-7)
    # the second ¼, ¾ and 1¾
    end = -0.5 * 1.75**3 + 2.5 * 1.75**2 - 4 * 1.75 + 2
    expected = torch.tensor([near, far, end, 0]).double() / (near + far + end)
    assert torch.allclose(weights(4, 8, "cubic")[1], expected, atol=1e-7)


@settings(max_examples=20, deadline=None)
@given(side=SIDES, other=SIDES)
def test_a_turned_picture_is_resized_as_the_picture_is(side: int, other: int) -> None:
    x = picture(24).double()
    assert torch.allclose(shrink(x.mT, side), shrink(x, side).mT, atol=1e-12)
    assert torch.allclose(enlarge(x.flip(2, 3), other), enlarge(x, other).flip(2, 3), atol=1e-12)


@pytest.mark.parametrize("side", [4, 8, 16, 32])
def test_pytorchs_antialiased_resize_agrees(side: int) -> None:
    x = picture(128)
    pytorchs = F.interpolate(x, size=side, mode="bilinear", antialias=True)
    assert (shrink(x, side) - pytorchs).abs().max() < 1e-5


@settings(max_examples=40, deadline=None)
@given(n=SIDES, side=SIDES, kernel=st.sampled_from(["triangle", "cubic"]))
def test_weights_sum_to_one_and_are_symmetric(n: int, side: int, kernel: str) -> None:
    table = weights(n, side, kernel)
    assert table.shape == (side, n)
    assert torch.allclose(table.sum(1), torch.ones(side).double())
    assert torch.allclose(table, table.flip(0, 1), atol=1e-12)


@pytest.mark.parametrize("factor", [4, 8, 16, 32])
def test_a_flat_picture_stays_flat_and_a_ramp_a_ramp(factor: int) -> None:
    flat = torch.full((1, 3, 128, 128), 0.3)
    small = shrink(flat, 128 // factor)
    assert torch.allclose(small, torch.full_like(small, 0.3)) and torch.allclose(
        enlarge(small, 128), flat
    )
    ramp = torch.linspace(0, 1, 128).expand(1, 1, 128, 128)
    steps = shrink(ramp, 128 // factor)[0, 0, 0].diff()
    assert torch.allclose(steps[1:-1], torch.full_like(steps[1:-1], factor / 127), atol=1e-5)
    # Keys' cubic reaches two small pixels far, and takes a ramp for what it is.
    n = 128 // factor
    finer = enlarge(torch.linspace(0, 1, n, dtype=torch.float64).expand(1, 1, n, n), 128)[
        0, 0, 0
    ].diff()
    inner = finer[3 * factor // 2 : -3 * factor // 2]
    assert len(inner) and torch.allclose(inner, torch.full_like(inner, 1 / (n - 1) / factor))


def test_resizing_keeps_types_and_gradients() -> None:
    x = picture(64).double().requires_grad_()
    y = enlarge(shrink(x, 8), 64)
    y.sum().backward()
    assert y.dtype == torch.float64 and x.grad is not None and x.grad.abs().sum() > 0
    assert shrink(picture(64).bfloat16(), 8).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="0 pixels"):
        shrink(picture(64), 0)
    with pytest.raises(ValueError, match="uint8"):
        enlarge(picture(64).byte(), 128)


def test_resizing_is_exact_inside_training_too() -> None:
    x = picture(128)
    with torch.autocast("cpu", torch.bfloat16):
        inside = enlarge(shrink(x, 16), 128)
    assert torch.equal(inside, enlarge(shrink(x, 16), 128))


# ------------------------------------------------------------------------------------- surveillance


def test_a_face_depends_on_its_own_seed_alone() -> None:
    x, chain = picture(128), Surveillance()
    together = chain(x, [1, 2, 3, 4])
    assert torch.allclose(chain(x[2:3], [3]), together[2:3], atol=1e-5)
    assert torch.equal(chain(x, [1, 2, 3, 4]), together)
    assert (chain(x, [1, 2, 5, 4])[2] - together[2]).abs().max() > 0.01
    assert together.shape == x.shape and together.min() >= 0 and together.max() <= 1


CLEAN = {
    "shift": 0.0,
    "scale": 0.0,
    "turn": 0.0,
    "blur": (0.05, 0.05),
    "motion": (0.0, 0.0),
    "gamma": (1.0, 1.0),
    "contrast": (1.0, 1.0),
    "light": 0.0,
    "tint": 0.0,
    "read_noise": (0.0, 0.0),
    "shot_noise": (0.0, 0.0),
    "jpeg": 0.0,
    "h264": 0.0,
}


def test_without_damage_it_is_the_papers_degradation() -> None:
    x = picture(128)
    chain = Surveillance(side=(16, 16), **CLEAN)  # type: ignore[arg-type]
    assert (chain(x, [1, 2, 3, 4]) - enlarge(shrink(x, 16), 128)).abs().max() < 1e-4


def test_noise_in_the_small_face_has_the_given_strength() -> None:
    """Of 24,576 values the standard deviation is off by 0.5 % at 68 %."""
    grey = torch.full((32, 3, 128, 128), 0.5)
    chain = Surveillance(side=(16, 16), **(CLEAN | {"read_noise": (0.03, 0.03)}))  # type: ignore[arg-type]
    small = torch.stack(chain.small(grey, range(32)))
    assert small.shape == (32, 3, 16, 16)
    assert float((small - 0.5).std()) == pytest.approx(0.03, rel=0.02)


def test_training_pictures_are_the_small_faces_enlarged() -> None:
    x, chain = picture(128), Surveillance()
    small = chain.small(x, [1, 2, 3, 4])
    assert len({face.shape for face in small}) > 1
    enlarged_faces = torch.cat([enlarge(face[None], 128) for face in small])
    assert torch.allclose(enlarged_faces, chain(x, [1, 2, 3, 4]), atol=1e-5)


@pytest.mark.parametrize(
    "one",
    [
        {"shift": 0.05},
        {"turn": 8.0},
        {"blur": (4.0, 4.0)},
        {"motion": (14.0, 14.0)},
        {"gamma": (1.5, 1.5)},
        {"contrast": (0.6, 0.6)},
        {"light": 0.2},
        {"tint": 0.1},
        {"read_noise": (0.05, 0.05)},
        {"shot_noise": (0.1, 0.1)},
        {"jpeg": 1.0, "quality": (15, 15)},
        {"h264": 1.0, "qp": (38, 38)},
    ],
    ids=str,
)
def test_each_part_of_the_chain_changes_the_face(one: dict[str, object]) -> None:
    x = picture(128)
    base = CLEAN | {"blur": (0.5, 0.5)}
    plain = Surveillance(side=(32, 32), **base)(x, [1, 2, 3, 4])  # type: ignore[arg-type]
    poor = Surveillance(side=(32, 32), **(base | one))(x, [1, 2, 3, 4])  # type: ignore[arg-type]
    assert (poor - plain).abs().mean() > 1e-3


def root_mean_square(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


def pictures(x: Tensor) -> list[Image]:
    return [(a * 255).round().byte().permute(1, 2, 0).contiguous().numpy() for a in x]


def as_tensor(images: list[Image]) -> Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack((a.flatten(), b.flatten())))[0, 1])


@pytest.mark.parametrize("quality", [20, 50, 80, 95])
def test_jpeg_is_close_to_a_real_encoder(quality: int) -> None:
    """40 dB, and the same errors in the same places; what differs is the encoder's rounding to
    whole numbers.
    """
    x = as_tensor(pictures(picture()))
    ours = jpeg(x, torch.full((4, 1), float(quality)))
    real = as_tensor([through_jpeg(a, quality) for a in pictures(x)])
    assert root_mean_square(ours - real) < 0.01
    assert correlation(ours - x, real - x) > 0.7
    assert root_mean_square(ours - x) == pytest.approx(root_mean_square(real - x), rel=0.15)


def test_h264_loses_about_what_the_real_codec_loses() -> None:
    """Not the same errors: the real codec predicts each block from its neighbours."""
    x = as_tensor(pictures(picture(96)))
    ours, real = [], []
    for qp in (10, 22, 28, 34, 40):
        ours.append(root_mean_square(h264(x, torch.full((4, 1), float(qp))) - x))
        real.append(
            root_mean_square(as_tensor([through_h264([a], qp)[0] for a in pictures(x)]) - x)
        )
    assert ours == sorted(ours) and real == sorted(real)
    assert all(0.5 < a / b < 2 for a, b in zip(ours, real, strict=True)), (ours, real)


# -------------------------------------------------------------------------------------- real codecs


def test_h264_at_its_best_quality_keeps_colours() -> None:
    """All that is lost at QP 0 is the colours' finer half: no shift of brightness or colour on the
    way.
    """
    x = as_tensor(pictures(picture(96)))
    lost = as_tensor(through_h264(pictures(x), 0)) - x
    assert lost.mean((0, 2, 3)).abs().max() < 0.1 / 255
    assert root_mean_square(lost) < 1 / 255


def test_frames_of_a_video_come_back_in_their_order() -> None:
    frames = pictures(torch.linspace(0.1, 0.9, 8).reshape(8, 1, 1, 1).expand(8, 3, 26, 40))
    back = through_h264(frames, 20)
    assert [f.shape for f in back] == [(26, 40, 3)] * 8
    assert all(
        abs(float(a.mean()) - float(b.mean())) < 2 for a, b in zip(frames, back, strict=True)
    )
    assert through_h264([], 20) == []


def test_impossible_codec_inputs_are_refused() -> None:
    grey, odd = np.full((16, 16, 3), 128, np.uint8), np.full((15, 16, 3), 128, np.uint8)
    for quality in (0, 96):
        with pytest.raises(ValueError, match=f"not {quality}"):
            through_jpeg(grey, quality)
    for qp in (-1, 52):
        with pytest.raises(ValueError, match=f"not {qp}"):
            through_h264([grey], qp)
    for frames in ([odd], [grey, grey[:8]], [grey[..., :1]]):
        with pytest.raises(ValueError, match="one size"):
            through_h264(frames, 30)
