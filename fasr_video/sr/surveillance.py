"""The damage that cameras and recorders do to a face, for robust training.

    misaligned → blurred by lens and motion → few pixels → tone of the camera → noise
    → JPEG, H.264 → enlarged

Each face has its own random damage; a batch is computed at once. JPEG follows the standard, without
its lossless part. H.264 is imitated: 4×4 blocks, its step sizes and dead zone, its smoothing of
block edges, no prediction. The tests compare both with the real codecs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fasr_video.sr.degradation import weights

# Coding places each face at random in a square of at least this side, so block edges fall anywhere.
CANVAS = 48
# Codecs divide pictures into blocks of this side; a canvas has whole blocks.
BLOCK = 16
LARGEST = 128
KERNEL = 17
Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Surveillance:
    """Ranges of uniform draws, one draw a face."""

    side: tuple[int, int] = (12, 40)
    """Side of the face in the camera's pixels, at most LARGEST."""
    shift: float = 0.03
    """Misalignment, either way: shift as a share of the side; `scale`: relative change of size."""
    scale: float = 0.05
    turn: float = 4.0
    """Rotation in degrees, either way."""
    blur: Range = (0.3, 3.5)
    """Standard deviation in pixels of the full-size face, along each of two axes."""
    motion: Range = (0.0, 8.0)
    """Length of the movement during the exposure, in the same pixels."""
    gamma: Range = (0.7, 1.4)
    contrast: Range = (0.7, 1.15)
    light: float = 0.1
    tint: float = 0.05
    """Change of each colour's gain, either way."""
    read_noise: Range = (0.0, 0.03)
    shot_noise: Range = (0.0, 0.04)
    """Standard deviation of the noise: `read_noise` in the dark, `shot_noise` by full light."""
    jpeg: float = 0.5
    """Share of faces coded as JPEG; `h264`: share coded as H.264."""
    quality: Range = (20, 95)
    h264: float = 0.6
    qp: Range = (20, 38)

    def __post_init__(self) -> None:
        if not 1 <= self.side[0] <= self.side[1] <= LARGEST:
            raise ValueError(
                f"faces have from 1 to {LARGEST} pixels a side, "
                f"not {self.side[0]} to {self.side[1]}"
            )

    @property
    def canvas(self) -> int:
        """Side of the square in which the largest of these faces is coded."""
        return max(CANVAS, math.ceil(self.side[1] / BLOCK) * BLOCK)

    def __call__(self, clean: Tensor, seeds: Sequence[int]) -> Tensor:
        """Return N×3×S×S faces in [0, 1], degraded; each depends on its own seed alone."""
        draws = self._draws(clean, seeds)
        # Without autocast: bfloat16 is coarser than the codecs.
        with torch.autocast(clean.device.type, enabled=False):
            return _enlarged(_coded(clean.float(), draws), draws, clean.shape[-1]).to(clean)

    def small(self, clean: Tensor, seeds: Sequence[int]) -> list[Tensor]:
        """Return the same faces before enlarging, as the camera sees them: 3×side×side each."""
        draws = self._draws(clean, seeds)
        with torch.autocast(clean.device.type, enabled=False):
            coded = _coded(clean.float(), draws).to(clean)
        return [_cut_out(x, draw) for x, draw in zip(coded, draws, strict=True)]

    def _draws(self, clean: Tensor, seeds: Sequence[int]) -> list[_Draw]:
        if clean.shape != (len(seeds), 3, clean.shape[-1], clean.shape[-1]):
            raise ValueError(
                f"{len(seeds)} seeds are for as many square RGB pictures, "
                f"not for {tuple(clean.shape)}"
            )
        return [_Draw(self, seed) for seed in seeds]


# px: from this size on, a face is near the camera.
NEAR = 40


def camera(side: int) -> Surveillance:
    """Return the damage by cameras to faces of this size; near ones suffer less."""
    if side < NEAR:
        return Surveillance(side=(side, side))
    return Surveillance(
        side=(side, side),
        blur=(0.3, 1.5),
        motion=(0.0, 3.0),
        read_noise=(0.0, 0.02),
        shot_noise=(0.0, 0.02),
        quality=(40, 95),
        qp=(18, 32),
    )


class _Draw:
    """The random draws of one face, from its own seed."""

    def __init__(self, ranges: Surveillance, seed: int) -> None:
        g = torch.Generator().manual_seed(seed)

        def between(low: float, high: float) -> float:
            return low + (high - low) * float(torch.rand((), generator=g))

        def either(limit: float) -> float:
            return between(-limit, limit)

        r = ranges
        self.pose = (
            either(r.shift),
            either(r.shift),
            1 + either(r.scale),
            math.radians(either(r.turn)),
        )
        self.lens = (
            between(*r.blur),
            between(*r.blur),
            either(math.pi),
            between(*r.motion),
            either(math.pi),
        )
        self.side = round(between(*r.side))
        self.canvas = r.canvas
        self.offset = (
            round(between(0, r.canvas - self.side)),
            round(between(0, r.canvas - self.side)),
        )
        tints = [1 + either(r.tint) for _ in range(3)]
        self.tone = (between(*r.gamma), between(*r.contrast), either(r.light), *tints)
        self.grain = (between(*r.read_noise), between(*r.shot_noise))
        self.quality = between(*r.quality) if between(0, 1) < r.jpeg else 0.0
        self.qp = between(*r.qp) if between(0, 1) < r.h264 else 0.0
        self.noise = torch.randn(3, r.canvas, r.canvas, generator=g)


def _coded(clean: Tensor, draws: Sequence[_Draw]) -> Tensor:
    """Return N×3×C×C for N×3×S×S: the faces on their canvas (side C), after coding."""
    side, device = clean.shape[-1], clean.device

    def per_face(name: str) -> Tensor:
        return torch.tensor([getattr(d, name) for d in draws], device=device).reshape(
            len(draws), -1
        )

    x = _moved(clean, per_face("pose"))
    x = _blurred(x, per_face("lens"))
    down = torch.stack([_to_canvas(side, d) for d in draws]).to(x)
    x = down[:, None, 0] @ x @ down[:, None, 1].mT
    x = _toned(x, per_face("tone"))
    noise = torch.stack([d.noise for d in draws]).to(x)
    spread = per_face("grain")[:, :, None, None]
    x = (x + noise * (spread[:, :1] ** 2 + spread[:, 1:] ** 2 * x).sqrt()).clamp(0, 1)
    # A quality of 0 stands for a face that is not coded that way.
    quality, qp = per_face("quality"), per_face("qp")
    x = _where(quality, jpeg(x, quality.clamp_min(1)), x)
    return _where(qp, h264(x, qp.clamp_min(1)), x)


def _enlarged(coded: Tensor, draws: Sequence[_Draw], side: int) -> Tensor:
    up = torch.stack([_from_canvas(side, d) for d in draws]).to(coded)
    return (up[:, None, 0] @ coded @ up[:, None, 1].mT).clamp(0, 1)


def _cut_out(coded: Tensor, draw: _Draw) -> Tensor:
    top, left = draw.offset
    return coded[:, top : top + draw.side, left : left + draw.side]


def _where(on: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(on[:, :, None, None] > 0, a, b)


def _moved(x: Tensor, pose: Tensor) -> Tensor:
    dx, dy, scale, turn = pose.unbind(1)
    cos, sin = turn.cos() / scale, turn.sin() / scale
    matrix = torch.stack((cos, -sin, 2 * dx, sin, cos, 2 * dy), dim=1).reshape(-1, 2, 3)
    grid = F.affine_grid(matrix, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def _blurred(x: Tensor, lens: Tensor) -> Tensor:
    """Return the faces, blurred by Gaussians (the lens) averaged along a line (the motion)."""
    a, b, turn, length, way = (v[:, None, None, None] for v in lens.unbind(1))
    line = torch.arange(KERNEL, device=x.device, dtype=x.dtype) - KERNEL // 2
    v, u = torch.meshgrid(line, line, indexing="ij")
    along = torch.linspace(-0.5, 0.5, 9, device=x.device, dtype=x.dtype)[:, None, None]
    du, dv = u - length * along * way.cos(), v - length * along * way.sin()
    p, q = du * turn.cos() + dv * turn.sin(), dv * turn.cos() - du * turn.sin()
    kernel = torch.exp(-((p / a) ** 2 + (q / b) ** 2) / 2).sum(1)
    kernel = kernel / kernel.sum((1, 2), keepdim=True)
    n, c, h, w = x.shape
    edge = KERNEL // 2
    padded = F.pad(x, (edge, edge, edge, edge), mode="replicate").reshape(
        1, n * c, h + 2 * edge, w + 2 * edge
    )
    kernels = kernel.repeat_interleave(c, 0)[:, None]
    return F.conv2d(padded, kernels, groups=n * c).reshape(n, c, h, w)


def _to_canvas(full: int, draw: _Draw) -> Tensor:
    """Return 2×C×full: weights that shrink a face and place it at its offset (rows, columns).

    Beyond the face, its edge pixels are repeated.
    """
    rows, down = torch.arange(draw.canvas), weights(full, draw.side, "triangle")
    return torch.stack([down[(rows - o).clamp(0, draw.side - 1)] for o in draw.offset])


def _from_canvas(full: int, draw: _Draw) -> Tensor:
    """Return 2×full×C: weights that cut the face out of the canvas and enlarge it (bicubic)."""
    up = weights(draw.side, full, "cubic")
    return torch.stack([F.pad(up, (o, draw.canvas - draw.side - o)) for o in draw.offset])


def _toned(x: Tensor, tone: Tensor) -> Tensor:
    gamma, contrast, light = (v[:, None, None, None] for v in tone[:, :3].unbind(1))
    x = (x * tone[:, 3:, None, None]).clamp(1e-4, 1) ** gamma
    return ((x - 0.5) * contrast + 0.5 + light).clamp(0, 1)


# ------------------------------------------------------------------------------------------- codecs

# ITU T.81, annex K: the tables that every encoder starts from.
_LUMA = """16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55
14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92
49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"""
_CHROMA = """17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99
24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99
99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99
99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99"""
# BT.601, full range, as JFIF has it.
_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))

# ITU-T H.264, table 8-15: the QP of colours from a QP of 30 on; below 30, both are the same.
_COLOUR_QP_TEXT = "29 30 31 32 32 33 34 34 35 35 36 36 37 37 37 38 38 38 39 39 39 39"
_COLOUR_QP = tuple(int(qp) for qp in _COLOUR_QP_TEXT.split())


def jpeg(x: Tensor, quality: Tensor) -> Tensor:
    """Return N×3×H×W (multiples of 16) after JPEG, at qualities from 1 to 100 (N×1)."""
    scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality)
    luma, chroma = (
        ((scale * torch.tensor([float(v) for v in t.split()]).to(x) + 50) / 100)
        .floor()
        .clamp(1, 255)
        for t in (_LUMA, _CHROMA)
    )
    y, colours = _split(x)
    y = _quantised(y * 255 - 128, luma.reshape(-1, 1, 1, 1, 8, 8), 0.5)
    colours = _quantised(colours * 255, chroma.reshape(-1, 1, 1, 1, 8, 8), 0.5)
    return _joined((y + 128) / 255, colours / 255)


def h264(x: Tensor, qp: Tensor) -> Tensor:
    """Return N×3×H×W (multiples of 8) about as after an intra frame of H.264 at QPs N×1."""
    table = torch.tensor([*range(30), *_COLOUR_QP], device=qp.device)
    colour_qp = torch.where(qp < 30, qp, table[qp.round().long()])
    step, colour_step = ((0.625 * 2 ** (v / 6)).reshape(-1, 1, 1, 1, 1, 1) for v in (qp, colour_qp))
    y, colours = _split(x)
    # Intra blocks round at a third: small coefficients vanish sooner than by plain rounding.
    y = _quantised(y * 255, step, 1 / 3, 4) / 255
    colours = _quantised(colours * 255, colour_step, 1 / 3, 4) / 255
    strength = ((qp - 16) / 35).clamp(0, 1)[:, :, None, None]
    return _joined(_smoothed(y, strength), colours)


def _split(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return brightness N×1×H×W, and two colour differences at half size."""
    ycc = torch.einsum("ij,njhw->nihw", torch.tensor(_YCC).to(x), x)
    return ycc[:, :1], F.avg_pool2d(ycc[:, 1:], 2)


def _joined(y: Tensor, colours: Tensor) -> Tensor:
    full = F.interpolate(colours, scale_factor=2, mode="bilinear", align_corners=False)
    rgb = torch.linalg.inv(torch.tensor(_YCC, dtype=torch.float64)).to(y)
    return torch.einsum("ij,njhw->nihw", rgb, torch.cat((y, full), 1)).clamp(0, 1)


def _quantised(x: Tensor, step: Tensor, rounding: float, block: int = 8) -> Tensor:
    """Return the picture after rounding each block's DCT coefficients to whole steps.

    A coefficient rises to the next step at 1 − rounding.
    """
    n, c, h, w = x.shape
    blocks = x.reshape(n, c, h // block, block, w // block, block).transpose(3, 4)
    dct = _dct(block).to(x)
    coefficients = dct @ blocks @ dct.T / step
    rounded = coefficients.sign() * (coefficients.abs() + rounding).floor()
    return (dct.T @ (rounded * step) @ dct).transpose(3, 4).reshape(n, c, h, w)


def _dct(size: int) -> Tensor:
    """Return the matrix of the orthonormal DCT-II."""
    k = torch.arange(size, dtype=torch.float64)
    table = torch.cos(math.pi * (k + 0.5) * k[:, None] / size) * math.sqrt(2 / size)
    table[0] /= math.sqrt(2)
    return table


def _smoothed(x: Tensor, strength: Tensor, block: int = 4) -> Tensor:
    """Return the picture with smaller steps at block edges.

    Larger steps stay, since they are the picture's own.
    """
    for axis in (2, 3):
        line = x.movedim(axis, -1)
        before, after = line[..., block - 1 : -1 : block], line[..., block::block]
        jump = after - before
        limit = 0.4 * strength**2
        move = torch.where(jump.abs() < limit, jump / 4, 0.0)
        line = line.clone()
        line[..., block - 1 : -1 : block] = before + move
        line[..., block::block] = after - move
        x = line.movedim(-1, axis)
    return x
