"""IDFSR: the network's conditions (mask, warped reference, identity), and the network as a
denoiser.

Landmarks are N×5×2 in a picture's pixels, whole numbers at the pixels' centres, in the order of
`types.Landmarks`.

The published network is a DDPM's: from x_t = √ᾱ_t y + √(1 − ᾱ_t) ε of a picture y in [−1, 1] it
predicts ε. Our samplers have x = clean + σ ε with clean = (y + 1) / 2. Both are the same picture
when

    x_t = √ᾱ (2x − 1)    with    σ_t = ½ √((1 − ᾱ_t) / ᾱ_t),    that is    ᾱ = 1 / (1 + 4σ²),

and D(x, σ) = x − σ ε̂(x_t, t). Between two of the thousand steps, t is linear in ln σ.

The compact network predicts the detail that its base lacks, as our FASR++ network does: a picture
drawn from pure noise is right to a tenth only if ε̂ is right to a hundredth, which training on two
cores does not reach. Its base is the warped reference where the LR face is hidden: a style code
alone needs millions of faces to describe a face.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional as F

from fasr_video.errors import UsageError
from fasr_video.sr import sde
from fasr_video.sr.denoiser import Condition, Denoiser, around, even_weight
from fasr_video.sr.networks.idfsr import IDENTITY, IdfsrNet

SIDE = 128
STEPS = 1000
BETA = torch.linspace(1e-4, 0.02, STEPS, dtype=torch.float64)
# ᾱ of each step.
ALPHA_BAR = torch.cumprod(1 - BETA, 0)
SIGMAS = ((1 - ALPHA_BAR) / ALPHA_BAR).sqrt() / 2
# Sides of the LR faces that it is for: ×32, ×16, ×8.
SIDES = (4, 8, 16)

# Mean and spread of ln(sigma) in the compact size's training: half of a face is unknown at first.
LOG_SIGMA = (-1.0, 1.4)

# Deviation of the true face from the compact size's base. It is the same everywhere, though the
# reference is farther from the truth than the LR face is: the network does not know where one ends
# and the other begins.
SPREAD = 0.16
# Pixels around the mask within which the reference fades into the LR face.
FADE = 8

# Pixels along each edge that are never hidden: the face needs some context to fit to.
RIM = 4


def time_of(sigma: Tensor) -> Tensor:
    """Return the DDPM step (0 to 999, with fractions) at which a picture has noise sigma."""
    table = SIGMAS.log().to(sigma.device)
    level = sigma.double().log().clamp(table[0], table[-1])
    after = torch.searchsorted(table, level).clamp(1, STEPS - 1)
    low, high = table[after - 1], table[after]
    return (after - 1 + (level - low) / (high - low)).to(sigma)


# ------------------------------------------------------------------------------------ mask and warp


def face_mask(landmarks: Tensor, side: int = SIDE) -> Tensor:
    """Return N×1×side×side: 1 within the oval of the face, brows to chin, ear to ear.

    The unit is the distance from the middle of the eyes to the middle of the mouth. The brows lie
    0.45 above the eyes, the chin 1.5 below, the ears 1.1 eye distances to the sides (turning a head
    brings its eyes together, but hardly narrows it).
    """
    eyes, mouth = landmarks[:, :2].mean(1), landmarks[:, 3:].mean(1)
    down = mouth - eyes
    height = down.norm(dim=1, keepdim=True)
    width = (landmarks[:, 1] - landmarks[:, 0]).norm(dim=1, keepdim=True)
    across, along = 1.1 * torch.maximum(width, 0.9 * height), 0.975 * height
    centre, unit = eyes + 0.525 * down, down / height
    offset = _pixels(side).to(landmarks) - centre[:, None]
    v = (offset * unit[:, None]).sum(2) / along
    u = (offset[..., 0] * unit[:, None, 1] - offset[..., 1] * unit[:, None, 0]) / across
    oval = (u**2 + v**2 <= 1).to(landmarks).unflatten(1, (1, side, side))
    return F.pad(oval[..., RIM:-RIM, RIM:-RIM], (RIM, RIM, RIM, RIM))


def warp(reference: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Return the N×3×S×S pictures, warped triangle by triangle from landmarks `source` to `target`.

    The corners of the triangles are the landmarks and eight fixed points of the border.
    """
    side = reference.shape[-1]
    grid = warp_field(source, target, side) * (2 / (side - 1)) - 1
    return F.grid_sample(reference, grid.to(reference), padding_mode="border", align_corners=True)


def warp_field(source: Tensor, target: Tensor, side: int) -> Tensor:
    """Return N×side×side×2: the point (x, y) of the reference that each pixel comes from."""
    # Without autocast: bfloat16 resolves pixels to a half only.
    with torch.autocast(source.device.type, enabled=False):
        border = _BORDER.to(source.device) * (side - 1)
        points, origins = (
            torch.cat(
                (landmarks.double().clamp(1, side - 2), border.expand(len(landmarks), -1, -1)), 1
            )
            for landmarks in (target, source)
        )
        triangles = _triangles(points / (side - 1))
        item = torch.arange(len(points), device=points.device)[:, None, None]
        corners, from_corners = points[item, triangles], origins[item, triangles]
        # Columns are corners (x, y, 1); the inverse gives a pixel's weights on the three corners.
        weights = torch.linalg.inv(F.pad(corners, (0, 1), value=1.0).mT)
        affine = (from_corners.mT @ weights).float()
        pixels = F.pad(_pixels(side).to(source.device), (0, 1), value=1.0)
        within = (weights.float().flatten(0, 2) @ pixels.T).unflatten(0, weights.shape[:3]).amin(2)
        chosen = within.max(1).indices
        taken: Tensor = affine[item[:, :, 0], chosen]
        return (taken * pixels[:, None]).sum(-1).reshape(-1, side, side, 2)


def _triangles(points: Tensor) -> Tensor:
    """Return N×16×3: Delaunay triangles of N×13 points (landmarks and border) in the unit square.

    These are all triples whose circle holds no other point. With 13 points, trying all is fast.
    """
    # Faces are symmetric: without a small displacement four points would lie on one circle, with
    # two possible cuts. The border's middle points move outwards, so that no flat triangle lies
    # along an edge.
    points = points + _DISPLACED.to(points.device)
    triples = _TRIPLES.to(points.device)
    corners = points[:, triples]
    a, b, c = (corners[:, :, None, k] - points[:, None] for k in range(3))
    turn = _cross(corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 0]).sign()
    lifted = (v.square().sum(-1) for v in (a, b, c))
    crossed = (_cross(b, c), _cross(c, a), _cross(a, b))
    inside = sum(x * y for x, y in zip(lifted, crossed, strict=True)) * turn[..., None]
    emptiest = torch.as_tensor(inside).amax(2).topk(_COUNT, largest=False).indices
    return triples[emptiest]


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


@lru_cache(maxsize=4)
def _pixels(side: int) -> Tensor:
    """Return side²×2: x and y of each pixel, row by row."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return torch.stack((x, y), -1).reshape(-1, 2).float()


_BORDER = torch.tensor(
    [(0, 0), (0.5, 0), (1, 0), (1, 0.5), (1, 1), (0.5, 1), (0, 1), (0, 0.5)], dtype=torch.float64
)
_TRIPLES = torch.tensor(list(combinations(range(5 + len(_BORDER)), 3)))
_COUNT = 2 * (5 + len(_BORDER)) - 2 - len(_BORDER)  # of triangles, by Euler's formula


def _displacements() -> Tensor:
    order = torch.arange(5, dtype=torch.float64)
    inner = 1e-4 * torch.stack((torch.sin(1 + 2.3 * order), torch.sin(2 + 3.7 * order)), 1)
    middles = (_BORDER == 0.5).any(1, keepdim=True)
    return torch.cat((inner, 1e-3 * middles * (_BORDER - 0.5)))


_DISPLACED = _displacements()


# --------------------------------------------------------------------------- condition and denoiser


@dataclass(frozen=True, slots=True)
class FaceCondition(Condition):
    """A masked LR face, a reference warped onto it, and an identity."""

    mask: Tensor
    """N×1×S×S: 1 where the LR face is hidden from the network."""
    reference: Tensor
    """N×3×S×S in [0, 1]."""

    def __getitem__(self, rows: Tensor | slice) -> FaceCondition:
        return FaceCondition(
            self.lr[rows], self.feature[rows], self.mask[rows], self.reference[rows]
        )


def assemble(
    lr: Tensor,
    landmarks: Tensor,
    reference: Tensor,
    reference_landmarks: Tensor,
    *,
    feature: Tensor,
) -> FaceCondition:
    """Return the network's condition for LR faces with these landmarks.

    Without a reference, give the LR face as its own reference.
    """
    return FaceCondition(
        lr,
        feature,
        face_mask(landmarks, lr.shape[-1]),
        warp(reference, reference_landmarks, landmarks),
    )


class IdentityDenoiser(Denoiser):
    """IDFSR's network as D(x, σ, condition); the condition is a FaceCondition."""

    network: IdfsrNet
    sampler: str
    """Its default sampler."""

    def __init__(self, network: IdfsrNet) -> None:
        super().__init__()
        self.network, self.side, self.feature_length = network, network.size.side, IDENTITY
        self.band = (min(SIDES), max(SIDES))

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        face = _as_face_condition(condition)
        return self._clean(x, sigma, face, self._style(face))

    def conditioned(self, condition: Condition) -> sde.Denoiser:
        """Return D(x, sigma) under one condition; its reference is encoded once for all calls."""
        self.check(condition)
        face = _as_face_condition(condition)
        style = self._style(face)
        return lambda x, sigma: self._clean(x, sigma, face, style)

    def check(self, condition: Condition) -> None:
        Denoiser.check(self, condition)
        self._check_size("reference", _as_face_condition(condition).reference)

    def weighted(self, out: Tensor, clean: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """Return the training loss of each face, from the output of D."""
        error = self.weight(sigma, condition) * (out.float() - clean).square()
        return error.flatten(1).mean(1)

    @abstractmethod
    def weight(self, sigma: Tensor, condition: Condition) -> Tensor:
        """Return the weight of each pixel's |D − clean|² in training: N×1×S×S or N×1×1×1."""

    @abstractmethod
    def levels(self, share: Tensor) -> Tensor:
        """Return the noise level below which that share of the training's draws lies."""

    @abstractmethod
    def _clean(self, x: Tensor, sigma: Tensor, condition: FaceCondition, style: Tensor) -> Tensor:
        """Return D(x, σ) with the reference's style code."""

    def _style(self, condition: FaceCondition) -> Tensor:
        with self._inside(condition.lr):
            return self.network.style(2 * condition.reference - 1)  # type: ignore[no-any-return]


def _as_face_condition(condition: Condition) -> FaceCondition:
    if not isinstance(condition, FaceCondition):
        raise UsageError(
            "IDFSR network", "no mask and no reference beside the LR face", "use method idfsr"
        )
    return condition


class PublishedIdfsr(IdentityDenoiser):
    """The published size, which predicts the noise."""

    sampler = "ddim-20"  # the paper's
    sigma_min, sigma_max = float(SIGMAS[0]), float(SIGMAS[-1])

    def weight(self, sigma: Tensor, condition: Condition) -> Tensor:
        """Return σ⁻²: the DDPM's loss |ε − ε̂|² is |D − clean|² / σ²."""
        return sde.per_item(sigma, condition.lr) ** -2

    def levels(self, share: Tensor) -> Tensor:
        return SIGMAS.to(share)[(share * STEPS).long().clamp_max(STEPS - 1)]

    def _clean(self, x: Tensor, sigma: Tensor, condition: FaceCondition, style: Tensor) -> Tensor:
        level = sde.per_item(sigma, x)
        scaled = (2 * x - 1) / (1 + 4 * level**2).sqrt()
        context = (2 * condition.lr - 1) * (1 - condition.mask)
        with self._inside(x):
            noise = self.network(scaled, context, time_of(sigma), style, identity=condition.feature)
        return torch.addcmul(x, level, noise.to(x.dtype), value=-1)


class CompactIdfsr(IdentityDenoiser):
    """The compact size, which predicts the detail that its base lacks.

    The base is the LR face, and the warped reference where the LR face is hidden.
    """

    # With the bundled weights, more steps or a start at pure noise lose colour and likeness.
    sampler = "ddim-3@1"
    sigma_min, sigma_max = 0.002, 30.0

    def weight(self, sigma: Tensor, condition: Condition) -> Tensor:
        """Return the weight at which the network's output counts evenly."""
        return even_weight(sigma.new_tensor(SPREAD), sde.per_item(sigma, condition.lr))

    def levels(self, share: Tensor) -> Tensor:
        mean, spread = LOG_SIGMA
        log_sigma = mean + spread * math.sqrt(2) * torch.erfinv(2 * share - 1)
        return log_sigma.exp().clamp(self.sigma_min, self.sigma_max)

    def _clean(self, x: Tensor, sigma: Tensor, condition: FaceCondition, style: Tensor) -> Tensor:
        base = torch.lerp(condition.lr, condition.reference, _faded(condition.mask))
        noise = sigma.clamp(self.sigma_min, self.sigma_max).log() / 4

        def network(residual: Tensor) -> Tensor:
            with self._inside(x):
                out: Tensor = self.network(
                    residual, 4 * (base - 0.5), noise, style, identity=condition.feature
                )
            return out

        return around(base, x.new_tensor(SPREAD), x, sde.per_item(sigma, x), network=network)


def _faded(mask: Tensor) -> Tensor:
    """Return the mask, fading out over FADE pixels around it, so that no edge is visible."""
    reach = FADE // 2
    wider = F.max_pool2d(mask, 2 * reach + 1, 1, reach)
    return F.avg_pool2d(wider, 2 * reach + 1, 1, reach, count_include_pad=False)


def identity_denoiser(network: IdfsrNet) -> IdentityDenoiser:
    """Return the network as a denoiser: the compact or the published kind, as its size says."""
    return CompactIdfsr(network) if network.size.residual else PublishedIdfsr(network)
