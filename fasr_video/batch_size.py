"""Batch sizes of networks, by the device and its free memory.

On a CPU a larger batch gains little and needs more memory. On a GPU a batch is as large as surely
fits into half of the free memory, up to a size that keeps the GPU busy. Cards with several GB of
free memory reach that size, so the same footage is computed in the same batches.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

SHARE = 0.5  # of the free memory; the other networks of a run and cuDNN need the rest


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How many items of one kind a batch may have."""

    cpu: int
    max_gpu: int
    mib_per_item: int
    """Upper bound of the GPU memory for one item: the outputs of all convolutions of the largest
    network in float32, and as much again for what is between them."""


# Frames of 1080p for the builtin detector; on a CPU it is fastest with one at a time.
FRAMES = BatchLimits(cpu=1, max_gpu=16, mib_per_item=512)
# Aligned faces for an embedder; the builtin one's values for more of them do not fit into a CPU's
# cache.
FACES = BatchLimits(cpu=8, max_gpu=512, mib_per_item=192)
# Samples of a diffusion network of the published size.
PICTURES = BatchLimits(cpu=16, max_gpu=64, mib_per_item=512)


def batch_size_for(limits: BatchLimits, device: torch.device, setting: int | None = None) -> int:
    """Return the batch size that a setting names, or else the one that suits the device."""
    if setting is not None:
        return setting
    if device.type != "cuda" or not torch.cuda.is_available():
        return limits.cpu
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return batch_size_that_fits(limits, free_bytes)


def batch_size_that_fits(limits: BatchLimits, free_bytes: int) -> int:
    """Return the largest power of two that fits, at least 1.

    A power of two does not change with a few bytes more or less of free memory.
    """
    count = int(SHARE * free_bytes / 2**20) // limits.mib_per_item
    power_of_two = 1 << max(0, count.bit_length() - 1)
    return max(1, min(limits.max_gpu, power_of_two))
