"""Muon: matrices move along the orthogonal matrix nearest to their momentum; AdamW moves everything
else.

(Jordan et al. 2024; step lengths as in Liu et al. 2025, so that a learning rate for AdamW fits.)
Early in its training, the embedder reaches the same loss in about two thirds of AdamW's time.
torch.optim.Muon takes the same steps, but accepts 2-D weights only; nearly all weights here are
convolutions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

MOMENTUM = 0.95
ROUNDS = 5
# A quintic that takes singular values in (0, 1] to about 1 in ROUNDS rounds; it need not be exact.
A, B, C = 3.4445, -4.7750, 2.0315
MATRICES = "matrices"


class Muon(torch.optim.AdamW):
    """Moves parameter groups with `matrices` true by Muon; a convolution is outputs × everything
    else.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        for group in self.param_groups:
            for p in group["params"] if group[MATRICES] else ():
                if p.grad is not None:
                    self._move(p, p.grad, group)
                    p.grad = None  # AdamW skips parameters without one
        return super().step(closure)

    def _move(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        if not state:  # AdamW needs a step in every state that it loads
            state["step"], state["momentum"] = torch.zeros(()), torch.zeros_like(p)
        momentum = state["momentum"].lerp_(grad, 1 - MOMENTUM)
        direction = grad.lerp(momentum, MOMENTUM).reshape(len(p), -1)
        p.mul_(1 - group["lr"] * group["weight_decay"])
        p.add_(
            orthogonal(direction).reshape(p.shape).to(p),
            alpha=-group["lr"] * 0.2 * max(direction.shape) ** 0.5,
        )


def orthogonal(x: Tensor) -> Tensor:
    """Return about U Vᵀ of x = U S Vᵀ, by Newton-Schulz."""
    wide: Tensor = x.bfloat16() if len(x) <= x.shape[1] else x.bfloat16().T
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(ROUNDS):
        square = wide @ wide.T
        wide = A * wide + (B * square + C * square @ square) @ wide
    return wide if len(x) <= x.shape[1] else wide.T
