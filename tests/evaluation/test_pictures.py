"""Measures of pictures against scikit-image and closed forms."""

from __future__ import annotations

import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from fasr_video.evaluation.pictures import consistency, psnr, sharpness, ssim
from fasr_video.sr.degradation import enlarge, shrink


def picture_pair() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    a = enlarge(torch.rand(3, 3, 16, 16, generator=g), 64)
    return a, (a + 0.05 * torch.randn(a.shape, generator=g)).clamp(0, 1)


def test_psnr_agrees_with_scikit_image() -> None:
    a, b = picture_pair()
    scikit_image = [
        peak_signal_noise_ratio(x.numpy(), y.numpy(), data_range=1.0)
        for x, y in zip(a, b, strict=True)
    ]
    torch.testing.assert_close(
        psnr(a, b), torch.tensor(scikit_image, dtype=a.dtype), rtol=1e-5, atol=1e-4
    )


def test_ssim_agrees_with_scikit_image() -> None:
    """With Wang's Gaussian window; theirs looks at the border too, so the inner part is
    compared.
    """
    a, b = picture_pair()
    for x, y in zip(a, b, strict=True):
        _, similarity_map = structural_similarity(
            x.numpy(),
            y.numpy(),
            channel_axis=0,
            data_range=1.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            full=True,
        )
        assert float(ssim(x[None], y[None])) == pytest.approx(
            float(similarity_map[:, 5:-5, 5:-5].mean()), abs=1e-5
        )


def test_a_picture_is_similar_to_itself_but_not_to_its_negative() -> None:
    a, _ = picture_pair()
    assert torch.allclose(ssim(a, a), torch.ones(3)) and (psnr(a, a) > 100).all()
    assert (ssim(a, 1 - a) < 0.1).all()


def test_consistency_is_the_error_of_the_shrunk_picture() -> None:
    a, _ = picture_pair()
    small = shrink(a, 8)
    assert consistency(a, small).max() < 1e-6
    assert torch.allclose(consistency(a, small + 0.01), torch.full((3,), 10.0), rtol=1e-3)


def test_sharpness_falls_with_blur_and_not_with_contrast() -> None:
    generator = torch.Generator().manual_seed(0)
    fine = torch.rand(2, 3, 64, 64, generator=generator)
    blurred = torch.nn.functional.avg_pool2d(fine, 5, stride=1, padding=2)
    assert bool((sharpness(blurred) < 0.6 * sharpness(fine)).all())
    assert sharpness(0.3 + 0.2 * fine) == pytest.approx(sharpness(fine), rel=1e-4)


def test_a_picture_of_one_colour_has_no_sharpness() -> None:
    assert float(sharpness(torch.full((1, 3, 32, 32), 0.4))) == pytest.approx(0, abs=1e-2)
