"""How many a network takes at a time: by the device and what is free of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fasr_video.batch_size import FACES, FRAMES, PICTURES, Load, batch_size_for, fitting
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


def test_a_setting_counts_before_the_device() -> None:
    assert batch_size_for(FRAMES, CPU) == 1 and batch_size_for(FRAMES, CPU, 5) == 5
    assert frame_batch_size(settings.load("cpu").detect) == 1
    assert frame_batch_size(settings.load("gpu", ["detect.batch=3"]).detect) == 3
    drawing = settings.load("gpu", ["restore.batch=64", "restore.samples=2"]).restore
    assert (
        tracks_together(drawing) == 32 and tracks_together(settings.load("cpu").restore) == TOGETHER
    )


@pytest.mark.parametrize("load", [FRAMES, FACES, PICTURES])
def test_a_gpu_takes_more_the_more_of_it_is_free_and_never_more_than_fit(load: Load) -> None:
    counts = [fitting(load, gib * GIB) for gib in (0, 1, 2, 6, 12, 24, 80, 1000)]
    assert counts == sorted(counts) and counts[0] == 1 and counts[-1] == load.most
    for gib, count in zip((2, 6, 12, 24, 80), counts[2:7], strict=True):
        assert count * load.mib * 2**20 <= gib * GIB / 2 and count & (count - 1) == 0


def test_a_little_more_or_less_of_free_memory_changes_nothing() -> None:
    assert {fitting(PICTURES, 40 * GIB + some * 2**20) for some in range(-500, 501, 100)} == {32}


def given_out(make: Callable[[], nn.Module], *sizes: tuple[int, ...]) -> float:
    """MiB that all convolutions of a network give out for one item, in float32; nothing is computed."""
    with FakeTensorMode(), torch.no_grad():
        net, total = make().eval(), [0]

        def count(_: nn.Module, __: object, out: Tensor) -> None:
            total[0] += out.nbytes

        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(count)
        net(*(torch.zeros(size) for size in sizes))
    return total[0] / 2**20


def test_the_memory_of_an_item_is_counted_with_room_to_spare() -> None:
    assert 1.5 * given_out(DetectorNet, (1, 3, 1088, 1920)) <= FRAMES.mib
    for net in (given_out(EmbedderNet, FACE), given_out(lambda: AdaFaceNet(101), (1, 3, 112, 112))):
        assert 1.5 * net <= FACES.mib
    for diffusion in (NCSNpp, CompactNet):
        assert 1.5 * given_out(diffusion, FACE, FACE, (1,), (1, 512)) <= PICTURES.mib
