"""LPIPS and FID; the user gives the weights, which have licences of their own.

LPIPS (Zhang et al. 2018, version 0.1): torchvision's AlexNet or VGG16, and the linear weights of
the authors. FID (Heusel et al. 2017): the Inception network of 2015, in the layout that pytorch-fid
publishes.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fasr_video.checkpoint import fill, read_state
from fasr_video.errors import ModelError, UsageError
from fasr_video.evaluation.open_set import Scores
from fasr_video.files import sha256_file

LPIPS_MISSING = (
    "LPIPS: not measured; give its weights with --lpips BACKBONE LINEAR: torchvision's "
    "alexnet-owt-7be5be79.pth and alex.pth of the package lpips (or vgg16-397923af.pth and vgg.pth)"
)
FID_MISSING = (
    "FID: not measured; give Inception's weights with --fid FILE: "
    "pt_inception-2015-12-05-6726825d.pth, which pytorch-fid publishes"
)
BATCH = 16

# -------------------------------------------------------------------------------------------- LPIPS

_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
# Widths of VGG16's convolutions; 0 is a pooling.
_VGG = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)


def _alexnet() -> tuple[nn.Sequential, tuple[int, ...]]:
    layers = (
        *(nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, 1, 2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, 1, 1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, 1, 1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, 1, 1), nn.ReLU()),
    )
    return nn.Sequential(*layers), (1, 4, 7, 9, 11)


def _vgg16() -> tuple[nn.Sequential, tuple[int, ...]]:
    layers: list[nn.Module] = []
    before = 3
    for width in _VGG:
        if width:
            layers += [nn.Conv2d(before, width, 3, 1, 1), nn.ReLU()]
            before = width
        else:
            layers.append(nn.MaxPool2d(2, 2))
    return nn.Sequential(*layers), (3, 8, 15, 22, 29)


class Lpips:
    """Perceptual distance of pictures; 0 for equal ones."""

    def __init__(self, backbone: Path, linear: Path, device: torch.device | str = "cpu") -> None:
        features = {
            k.removeprefix("features."): v
            for k, v in read_state(backbone).items()
            if k.startswith("features.")
        }
        remedy = "give torchvision's weights of AlexNet or VGG16"
        if "0.weight" not in features:
            raise ModelError(backbone, "it has no tensor features.0.weight", remedy)
        net, self._ends = _alexnet() if features["0.weight"].shape[-1] == 11 else _vgg16()
        fill(net, features, backbone, remedy)
        self._net = net.eval().requires_grad_(False).to(device)
        widths = [len(net.get_parameter(f"{k - 1}.bias")) for k in self._ends]
        self._weights = [w.to(device) for w in _read_linear(linear, widths)]
        self._device = torch.device(device)
        self.provenance = {"backbone": sha256_file(backbone), "linear": sha256_file(linear)}

    @torch.no_grad()
    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Return N distances of N×3×H×W pictures in [0, 1]."""
        parts = [
            self._distance(a[i : i + BATCH], b[i : i + BATCH]) for i in range(0, len(a), BATCH)
        ]
        return torch.cat([torch.zeros(0), *parts])

    def _distance(self, a: Tensor, b: Tensor) -> Tensor:
        total = torch.zeros(len(a), device=self._device)
        for first, second, weight in zip(
            self._layers(a), self._layers(b), self._weights, strict=True
        ):
            total += ((first - second) ** 2 * weight[:, None, None]).sum(1).mean((1, 2))
        return total.cpu()

    def _layers(self, x: Tensor) -> list[Tensor]:
        """Return each layer's map, with unit length at every position."""
        shift, scale = (x.new_tensor(v)[:, None, None] for v in (_SHIFT, _SCALE))
        x = ((x * 2 - 1 - shift) / scale).to(self._device)
        maps = []
        for start, end in pairwise((-1, *self._ends)):
            x = self._net[start + 1 : end + 1](x)
            maps.append(x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10))
        return maps


def _read_linear(path: Path, widths: list[int]) -> list[Tensor]:
    state = read_state(path)
    names = [f"lin{k}.model.1.weight" for k in range(len(widths))]
    fits = set(names) == set(state) and all(
        state[n].shape == (1, w, 1, 1) for n, w in zip(names, widths, strict=True)
    )
    if not fits:
        reason = (
            f"not LPIPS's linear weights for this backbone ({', '.join(map(str, widths))} channels)"
        )
        raise ModelError(
            path, reason, "give the file of lpips, version 0.1, that belongs to the backbone"
        )
    return [state[n].float().flatten() for n in names]


# ---------------------------------------------------------------------------------------------- FID


class _Conv(nn.Module):
    def __init__(
        self, inputs: int, outputs: int, kernel: tuple[int, int], stride: int, *, pad: bool
    ) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2) if pad else 0
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


_One, _Three, _Five, _Across, _Down = (1, 1), (3, 3), (5, 5), (1, 7), (7, 1)
# Successive convolutions: name, channels, kernel. The last two, if named …a and …b, are parallel.
Branch = tuple[tuple[str, int, tuple[int, int]], ...]


class _Block(nn.Module):
    """Parallel branches, the last of them a pooling; a block halves in each branch's last step."""

    def __init__(
        self, inputs: int, branches: tuple[Branch, ...], pool: str, halves: bool = False
    ) -> None:
        super().__init__()
        self._pool, self._halves = pool, halves
        self._names = [[name for name, _, _ in branch] for branch in branches]
        for branch in branches:
            before = inputs
            for k, (name, outputs, kernel) in enumerate(branch):
                last = halves and k == len(branch) - 1
                self.add_module(
                    name, _Conv(before, outputs, kernel, 2 if last else 1, pad=not last)
                )
                before = before if name.endswith("a") else outputs

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for names in self._names:
            y = self._pooled(x) if names == ["branch_pool"] else x
            fork = names[-2:] if names[-1].endswith("b") else names[-1:]
            for name in names[: -len(fork)]:
                y = self.get_submodule(name)(y)
            outputs += [self.get_submodule(name)(y) for name in fork]
        return torch.cat([*outputs, F.max_pool2d(x, 3, 2)] if self._halves else outputs, 1)

    def _pooled(self, x: Tensor) -> Tensor:
        if self._pool == "max":
            return F.max_pool2d(x, 3, 1, 1)
        return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def _a(inputs: int, pool: int) -> _Block:
    double: Branch = (
        ("branch3x3dbl_1", 64, _One),
        ("branch3x3dbl_2", 96, _Three),
        ("branch3x3dbl_3", 96, _Three),
    )
    five: Branch = (("branch5x5_1", 48, _One), ("branch5x5_2", 64, _Five))
    return _Block(
        inputs, ((("branch1x1", 64, _One),), five, double, (("branch_pool", pool, _One),)), "mean"
    )


def _b(inputs: int) -> _Block:
    double: Branch = (
        ("branch3x3dbl_1", 64, _One),
        ("branch3x3dbl_2", 96, _Three),
        ("branch3x3dbl_3", 96, _Three),
    )
    return _Block(inputs, ((("branch3x3", 384, _Three),), double), "max", halves=True)


def _c(inputs: int, width: int) -> _Block:
    one: Branch = (
        ("branch7x7_1", width, _One),
        ("branch7x7_2", width, _Across),
        ("branch7x7_3", 192, _Down),
    )
    kernels, widths = (_One, _Down, _Across, _Down, _Across), (*[width] * 4, 192)
    two = tuple(
        (f"branch7x7dbl_{k}", w, s) for k, (w, s) in enumerate(zip(widths, kernels, strict=True), 1)
    )
    return _Block(
        inputs, ((("branch1x1", 192, _One),), one, two, (("branch_pool", 192, _One),)), "mean"
    )


def _d(inputs: int) -> _Block:
    one: Branch = (("branch3x3_1", 192, _One), ("branch3x3_2", 320, _Three))
    kernels = (_One, _Across, _Down, _Three)
    two = tuple((f"branch7x7x3_{k}", 192, s) for k, s in enumerate(kernels, 1))
    return _Block(inputs, (one, two), "max", halves=True)


def _e(inputs: int, pool: str) -> _Block:
    one: Branch = (
        ("branch3x3_1", 384, _One),
        ("branch3x3_2a", 384, (1, 3)),
        ("branch3x3_2b", 384, (3, 1)),
    )
    two: Branch = (
        *(("branch3x3dbl_1", 448, _One), ("branch3x3dbl_2", 384, _Three)),
        *(("branch3x3dbl_3a", 384, (1, 3)), ("branch3x3dbl_3b", 384, (3, 1))),
    )
    return _Block(
        inputs, ((("branch1x1", 320, _One),), one, two, (("branch_pool", 192, _One),)), pool
    )


class InceptionNet(nn.Module):
    """N×3×299×299 in [−1, 1] → N×2048. Names are the published ones."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _Conv(3, 32, _Three, 2, pad=False)
        self.Conv2d_2a_3x3 = _Conv(32, 32, _Three, 1, pad=False)
        self.Conv2d_2b_3x3 = _Conv(32, 64, _Three, 1, pad=True)
        self.Conv2d_3b_1x1 = _Conv(64, 80, _One, 1, pad=False)
        self.Conv2d_4a_3x3 = _Conv(80, 192, _Three, 1, pad=False)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _a(192, 32), _a(256, 64), _a(288, 64)
        self.Mixed_6a = _b(288)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d = _c(768, 128), _c(768, 160), _c(768, 160)
        self.Mixed_6e = _c(768, 192)
        self.Mixed_7a = _d(768)
        self.Mixed_7b = _e(1280, "mean")
        self.Mixed_7c = _e(2048, "max")  # a peculiarity of FID

    def forward(self, x: Tensor) -> Tensor:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = F.max_pool2d(x, 3, 2)
        for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"):
            x = self.get_submodule(f"Mixed_{name}")(x)
        return x.mean((2, 3))


class Inception:
    """Features of pictures for FID."""

    def __init__(self, path: Path, device: torch.device | str = "cpu") -> None:
        state = {
            k: v for k, v in read_state(path).items() if not k.startswith(("fc.", "AuxLogits."))
        }
        net = InceptionNet()
        fill(net, state, path, "give pytorch-fid's weights (pt_inception-2015-12-05)")
        self._net = net.eval().requires_grad_(False).to(device)
        self._device = torch.device(device)
        self.provenance = {"inception": sha256_file(path)}

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> Scores:
        """Return N×2048 features of N×3×H×W pictures in [0, 1]."""
        parts = []
        for start in range(0, len(pictures), BATCH):
            x = F.interpolate(
                pictures[start : start + BATCH].to(self._device), (299, 299), mode="bilinear"
            )
            parts.append(self._net(x * 2 - 1).cpu().double().numpy())
        return np.concatenate([np.zeros((0, 2048)), *parts])


def frechet(a: Scores, b: Scores) -> float:
    """Return the Fréchet distance of two sets of features, N×D each, as Gaussians."""
    if min(len(a), len(b)) < 2:
        raise UsageError(
            "FID", "fewer than two pictures", "give more: a meaningful number needs thousands"
        )
    (ma, ca), (mb, cb) = ((x.mean(0), np.atleast_2d(np.cov(x, rowvar=False))) for x in (a, b))
    # The root of ca·cb has the trace of the root of ca^½·cb·ca^½, which is symmetric.
    values, vectors = np.linalg.eigh(ca)
    half = vectors * np.sqrt(values.clip(0)) @ vectors.T
    both = np.linalg.eigvalsh(half @ cb @ half)
    return float(
        ((ma - mb) ** 2).sum() + np.trace(ca) + np.trace(cb) - 2 * np.sqrt(both.clip(0)).sum()
    )
