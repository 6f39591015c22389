"""The papers' loss of a score network, which the training's loss is compared with."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from fasr_video.sr.sde import SDE, per_item


def matching_loss(
    predicted_score: Callable[[Tensor, Tensor], Tensor],
    sde: SDE,
    clean: Tensor,
    t: Tensor,
    *,
    noise: Tensor,
) -> Tensor:
    """Return E |std · s(x(t), t) + noise|² of each item. (SDE eq. 7, weighted by std(t)²)"""
    std = per_item(sde.std(t), clean)
    x = per_item(sde.alpha(t), clean) * clean + std * noise
    return (std * predicted_score(x, t) + noise).square().flatten(1).mean(1)
