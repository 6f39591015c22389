"""How near a reconstruction is to the true picture, and to the LR picture that it was made from."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fasr_video.sr.degradation import shrink

WINDOW, SIGMA = 11, 1.5  # SSIM's Gaussian window, as published


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal to noise ratio in dB of each picture, N×C×H×W in [0, 1]."""
    return -10 * (a - b).square().flatten(1).mean(1).clamp_min(1e-12).log10()


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity of each picture, the mean over colours and places. (Wang et al. 2004)"""
    c = a.shape[1]
    line = torch.exp(-((torch.arange(WINDOW, dtype=a.dtype) - WINDOW // 2) ** 2) / (2 * SIGMA**2))
    line = (line / line.sum()).to(a.device)
    kernel = torch.outer(line, line).expand(c, 1, -1, -1)

    def mean(x: Tensor) -> Tensor:
        return F.conv2d(x, kernel, groups=c)

    ma, mb = mean(a), mean(b)
    va, vb, cov = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
    c1, c2 = 0.01**2, 0.03**2
    similarity = ((2 * ma * mb + c1) * (2 * cov + c2)) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
    return similarity.flatten(1).mean(1)


def consistency(picture: Tensor, lr: Tensor) -> Tensor:
    """Mean squared error, ×10⁻⁵, between each picture brought down again and the LR face it was made from; 0 is best.

    Pictures in [0, 1]; lr N×C×s×s. (SR3, section 4)
    """
    return (shrink(picture, lr.shape[-1]) - lr).square().flatten(1).mean(1) * 1e5
