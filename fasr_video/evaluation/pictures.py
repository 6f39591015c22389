"""The distance of a reconstruction to the true picture, and to the LR picture it was made from."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fasr_video.errors import UsageError
from fasr_video.sr.degradation import shrink

WINDOW, SIGMA = 11, 1.5  # SSIM's Gaussian window, as published
LUMA = (0.299, 0.587, 0.114)  # weights of red, green and blue in brightness
# Weights of MS-SSIM's scales, the finest first, as published.
SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Return the peak signal to noise ratio in dB of each picture, N×C×H×W in [0, 1]."""
    return -10 * (a - b).square().flatten(1).mean(1).clamp_min(1e-12).log10()


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Return the structural similarity of each picture. (Wang et al. 2004)"""
    brightness, structure = _parts(a, b)
    return (brightness * structure).flatten(1).mean(1)


def ms_ssim(a: Tensor, b: Tensor) -> Tensor:
    """Return the multi-scale structural similarity of each picture. (Wang et al. 2003)

    Five scales need 176 px. Smaller pictures have fewer scales (four at 128 px), as the window must
    fit; their weights are scaled to sum to one.
    """
    fitting = [k for k in range(len(SCALES)) if min(a.shape[-2:]) >> k >= WINDOW]
    if not fitting:
        reason = f"{a.shape[-1]}×{a.shape[-2]} px, smaller than the window of {WINDOW}"
        raise UsageError("pictures", reason, "give larger ones")
    shares = torch.tensor(SCALES[: len(fitting)], dtype=a.dtype, device=a.device)
    product = torch.ones(len(a), dtype=a.dtype, device=a.device)
    for k, share in enumerate(shares / shares.sum()):
        brightness, structure = _parts(a, b)
        part = brightness * structure if k == fitting[-1] else structure
        # A negative part has no root; as in other implementations, it counts as zero.
        product = product * part.flatten(1).mean(1).clamp_min(0) ** share
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return product


def _parts(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return maps of the similarity of brightness, and of contrast and structure."""
    c = a.shape[1]
    kernel = _gaussian(WINDOW, SIGMA, a).expand(c, 1, -1, -1)

    def mean(x: Tensor) -> Tensor:
        return F.conv2d(x, kernel, groups=c)

    ma, mb = mean(a), mean(b)
    va, vb, cov = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
    c1, c2 = 0.01**2, 0.03**2
    return (2 * ma * mb + c1) / (ma**2 + mb**2 + c1), (2 * cov + c2) / (va + vb + c2)


def _gaussian(width: int, sigma: float, like: Tensor) -> Tensor:
    """Return the width×width weights of a Gaussian, which sum to one."""
    line = torch.exp(-((torch.arange(width, dtype=like.dtype) - width // 2) ** 2) / (2 * sigma**2))
    line = (line / line.sum()).to(like.device)
    return torch.outer(line, line)


def sharpness(pictures: Tensor) -> Tensor:
    """Return the share of each picture's contrast that is finer than a Gaussian of 1 px.

    It needs no true picture, and does not depend on contrast. Noise counts as detail, too.
    """
    weights = torch.tensor(LUMA, dtype=pictures.dtype, device=pictures.device)
    grey = (pictures * weights[:, None, None]).sum(1, keepdim=True)
    kernel = _gaussian(7, 1.0, pictures)[None, None]
    fine = grey - F.conv2d(F.pad(grey, (3, 3, 3, 3), mode="replicate"), kernel)
    return fine.flatten(1).std(1) / grey.flatten(1).std(1).clamp_min(1e-6)


def consistency(picture: Tensor, lr: Tensor) -> Tensor:
    """Return the mean squared error, ×10⁻⁵, of each shrunk picture and its LR face.

    Pictures are in [0, 1], lr is N×C×s×s. 0 is best.
    """
    return (shrink(picture, lr.shape[-1]) - lr).square().flatten(1).mean(1) * 1e5
