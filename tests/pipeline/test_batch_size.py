"""Batch sizes of networks, by the device and its free memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fasr_video.batch_size import (
    FACES,
    FRAMES,
    PICTURES,
    BatchLimits,
    batch_size_for,
    batch_size_that_fits,
)
from fasr_video.configs import settings
from fasr_video.detection.network import DetectorNet
from fasr_video.pipeline.restore import TOGETHER, tracks_together
from fasr_video.pipeline.run import frame_batch_size
from fasr_video.recognition.adaface import AdaFaceNet
from fasr_video.recognition.network import EmbedderNet
from fasr_video.sr.networks.compact import CompactNet
from fasr_video.sr.networks.ncsnpp import NCSNpp

GIB = 2**30
CPU = torch.device("cpu")
FACE = (1, 3, 128, 128)


def test_a_setting_takes_precedence_over_the_device() -> None:
    assert batch_size_for(FRAMES, CPU) == 1 and batch_size_for(FRAMES, CPU, 5) == 5
    assert frame_batch_size(settings.load("cpu").detect) == 1
    assert frame_batch_size(settings.load("gpu", ["detect.batch=3"]).detect) == 3
    drawing = settings.load("gpu", ["restore.batch=64", "restore.samples=2"]).restore
    assert tracks_together(drawing) == 32
    assert tracks_together(settings.load("cpu").restore) == TOGETHER


@pytest.mark.parametrize("limits", [FRAMES, FACES, PICTURES])
def test_a_batch_on_a_gpu_grows_with_the_free_memory_and_fits(limits: BatchLimits) -> None:
    counts = [batch_size_that_fits(limits, gib * GIB) for gib in (0, 1, 2, 6, 12, 24, 80, 1000)]
    assert counts == sorted(counts) and counts[0] == 1 and counts[-1] == limits.max_gpu
    for gib, count in zip((2, 6, 12, 24, 80), counts[2:7], strict=True):
        assert count * limits.mib_per_item * 2**20 <= gib * GIB / 2
        assert count & (count - 1) == 0, "a power of two"


def test_a_little_more_or_less_free_memory_changes_nothing() -> None:
    free = [40 * GIB + mib * 2**20 for mib in range(-500, 501, 100)]
    assert {batch_size_that_fits(PICTURES, size) for size in free} == {32}


def output_mib(make: Callable[[], nn.Module], *sizes: tuple[int, ...]) -> float:
    """Return the MiB of all convolutions' outputs for one item, in float32, without computing."""
    with FakeTensorMode(), torch.no_grad():
        net, total = make().eval(), [0]

        def count(_: nn.Module, __: object, out: Tensor) -> None:
            total[0] += out.nbytes

        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(count)
        net(*(torch.zeros(size) for size in sizes))
    return total[0] / 2**20


def test_the_memory_for_an_item_is_at_least_one_and_a_half_times_the_outputs() -> None:
    assert 1.5 * output_mib(DetectorNet, (1, 3, 1088, 1920)) <= FRAMES.mib_per_item
    assert 1.5 * output_mib(EmbedderNet, FACE) <= FACES.mib_per_item
    assert 1.5 * output_mib(lambda: AdaFaceNet(101), (1, 3, 112, 112)) <= FACES.mib_per_item
    for network in (NCSNpp, CompactNet):
        mib = output_mib(network, FACE, FACE, (1,), (1, 512))
        assert 1.5 * mib <= PICTURES.mib_per_item
