"""How many items a network takes at a time: one rule for all, by the device and by what is free of its memory.

On a CPU more at a time gain little and hold more. A GPU takes as many as surely fit into half of what is free, up to a
number from which on it is busy anyway: on cards with several GB to spare that number is reached, and the same footage
goes through in the same batches.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

SHARE = 0.5  # of the free memory: the other networks of a run, and cuDNN's own, need some


@dataclass(frozen=True, slots=True)
class Load:
    """One kind of item."""

    cpu: int
    most: int
    """On a GPU."""
    mib: int
    """Of GPU memory for one, at most: what all convolutions of its largest network give out, in float32, and the like
    of that again for what is between them."""


# Frames of 1080p for the builtin detector; one by one they are faster on a CPU.
FRAMES = Load(cpu=1, most=16, mib=512)
# Aligned faces for an embedder; few of them fit into a CPU's cache with all that the builtin one
# makes of them.
FACES = Load(cpu=8, most=512, mib=192)
# Samples of a diffusion network of the published size.
PICTURES = Load(cpu=16, most=64, mib=512)


def batch_size_for(load: Load, device: torch.device, chosen: int | None = None) -> int:
    """As many as a setting says, else as many as suit the device."""
    if chosen is not None:
        return chosen
    if device.type != "cuda" or not torch.cuda.is_available():
        return load.cpu
    return fitting(load, torch.cuda.mem_get_info(device)[0])


def fitting(load: Load, free: int) -> int:
    """A power of two, so that a few bytes more or less free do not change it; at least one."""
    several = int(SHARE * free / 2**20) // load.mib
    return max(1, min(load.most, 1 << max(0, several.bit_length() - 1)))
