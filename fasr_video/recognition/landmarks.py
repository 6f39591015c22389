"""A check whether five landmarks can be those of a face. (Without OpenCV: training has none.)"""

from __future__ import annotations

import torch
from torch import Tensor

SIDE = 128  # px of the canonical frame


def usable(landmarks: Tensor, side: int = SIDE) -> Tensor:
    """Return N booleans: whether landmarks can be those of a face that fills most of a picture."""
    inside = (landmarks.isfinite() & (landmarks >= 0) & (landmarks <= side - 1)).flatten(1).all(1)
    eyes, mouth = landmarks[:, :2], landmarks[:, 3:]
    apart = (eyes[:, 1, 0] - eyes[:, 0, 0] > side / 10) & (mouth[:, 1, 0] > mouth[:, 0, 0])
    upright = mouth.mean(1)[:, 1] - eyes.mean(1)[:, 1] > side / 10
    distances = torch.cdist(landmarks.double(), landmarks.double())
    to_others = distances + side * torch.eye(5, device=landmarks.device)
    distinct = (to_others > side / 64).flatten(1).all(1)
    return inside & apart & upright & distinct
