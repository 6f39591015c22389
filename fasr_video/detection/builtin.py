"""The detector that comes with fasr-video, for the small faces of surveillance footage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import convert_conv2d_weight_memory_format
from torch.nn.utils.fusion import fuse_conv_bn_eval

from fasr_video.batch_size import FRAMES, batch_size_for
from fasr_video.boxes import best_first
from fasr_video.checkpoint import find_device, load_state
from fasr_video.detection.network import (
    FORMAT,
    PAD_TO,
    STRIDES,
    DetectorNet,
    LevelOutput,
    decode_level,
)
from fasr_video.errors import UsageError
from fasr_video.files import sha256_file
from fasr_video.types import Detections, Image

# The network is trained on faces of 10-200 px. A second pass at a quarter of the size, for a
# sixteenth of the cost, finds the larger ones; only those are taken from it.
REDUCTION = 4
LARGE_FACE = 120.0  # px, square root of the box's area


class BuiltinDetector:
    """DetectorNet, computed by one of two engines; `name` tells which one, and the number type."""

    has_landmarks = True
    licence = "research use: trained on CelebA and web scenes, distilled from SCRFD"

    def __init__(
        self,
        weights: Path,
        min_score: float,
        device: str,
        engine: str = "torch",
        *,
        batch: int | None = None,
    ) -> None:
        net = DetectorNet()
        load_state(net, weights, FORMAT)
        self._net: Engine
        if engine == "openvino":
            self._net = _openvino_engine(net, device, batch)
        else:
            self._net = TorchNet(net, find_device(device), batch)
        self._min_score = min_score
        self.name = f"builtin ({self._net.name})"
        self.fingerprint = sha256_file(weights)

    def detect(self, frames: Sequence[Image]) -> list[Detections]:
        detections: dict[int, Detections] = {}
        for rows in _batches_of_one_size(frames, self._net.batch):
            batch = self._detect_batch([frames[i] for i in rows])
            detections |= zip(rows, batch, strict=True)
        return [detections[i] for i in range(len(frames))]

    @torch.inference_mode()
    def _detect_batch(self, frames: list[Image]) -> list[Detections]:
        """Return the detections in frames of one size."""
        full_size = decode_frames(self._net(frames), self._min_score)
        if min(frames[0].shape[:2]) < LARGE_FACE:
            return full_size
        small = decode_frames(self._net([reduced(f) for f in frames]), self._min_score)
        return [_with_large(a, b) for a, b in zip(full_size, small, strict=True)]


class Engine(Protocol):
    """What computes DetectorNet."""

    @property
    def name(self) -> str:
        """The device, and the type of number that it computes with."""
        ...

    @property
    def batch(self) -> int:
        """The number of frames that it takes at a time."""
        ...

    def __call__(self, frames: Sequence[Image]) -> list[LevelOutput]:
        """Return one LevelOutput for each stride, for frames of one size."""
        ...


class TorchNet:
    """DetectorNet by PyTorch, in bfloat16 if the machine supports it, else in float32."""

    def __init__(self, net: DetectorNet, device: torch.device, batch: int | None = None) -> None:
        self._device = device
        self._dtype = torch.bfloat16 if _has_bfloat16(device) else torch.float32
        fuse_batch_norms(net.eval())
        self._net = net.to(device, self._dtype)
        convert_conv2d_weight_memory_format(net, torch.channels_last)
        self.name = f"{device}, {str(self._dtype).removeprefix('torch.')}"
        self.batch = batch_size_for(FRAMES, device, batch)

    def __call__(self, frames: Sequence[Image]) -> list[LevelOutput]:
        levels: list[LevelOutput] = self._net(self._pixels(frames))
        return levels

    def _pixels(self, frames: Sequence[Image]) -> Tensor:
        """Return N×3×H×W in [-1, 1], channels last, padded to the network's strides."""
        if self._device.type == "cpu":
            return pixels_by_table(frames, self._dtype)
        x = torch.from_numpy(np.stack(frames)).to(self._device).permute(0, 3, 1, 2)
        return pad((x.float() / 127.5 - 1).to(self._dtype))


def _openvino_engine(net: DetectorNet, device: str, batch: int | None) -> Engine:
    from fasr_video.detection.openvino import OpenVinoNet

    if device != "cpu":
        raise UsageError(
            f"device {device}", "engine openvino computes on the CPU only", "use device cpu"
        )
    return OpenVinoNet(net, batch)


def pixels_by_table(frames: Sequence[Image], dtype: torch.dtype) -> Tensor:
    """Compute `TorchNet._pixels` with a table of the 256 values, in one pass instead of four."""
    # NumPy and OpenCV know no bfloat16: its bits are handled as int16.
    bits = np.int16 if dtype == torch.bfloat16 else np.float32
    values = (torch.arange(256).float() / 127.5 - 1).to(dtype)
    table = values.view(torch.int16 if bits is np.int16 else dtype).numpy()
    height, width = frames[0].shape[:2]
    padded = np.empty((len(frames), height + -height % PAD_TO, width + -width % PAD_TO, 3), bits)
    padded[:, height:] = 0
    padded[:, :height, width:] = 0
    for frame, row in zip(frames, padded, strict=True):
        cv2.LUT(frame, table, dst=row[:height, :width])
    return torch.from_numpy(padded).view(dtype).permute(0, 3, 1, 2)


def pad(x: Tensor) -> Tensor:
    """Pad a batch at the right and at the bottom to the network's strides."""
    height, width = x.shape[2:]
    # Zero is mid-grey: the network's own convolutions pad the other edges with it.
    return F.pad(x, (0, -width % PAD_TO, 0, -height % PAD_TO)).contiguous(
        memory_format=torch.channels_last
    )


def reduced(frame: Image) -> Image:
    """Return the mean of each REDUCTION×REDUCTION pixels.

    Pixels that are left over at the right and at the bottom are dropped.
    """
    height, width = (side // REDUCTION for side in frame.shape[:2])
    part = frame[: height * REDUCTION, : width * REDUCTION]
    return np.asarray(cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def decode_frames(outputs: list[LevelOutput], min_score: float) -> list[Detections]:
    """Return the detections in each frame of a batch, from one LevelOutput for each stride."""
    levels = [
        decode_level(output, stride, min_score)
        for output, stride in zip(outputs, STRIDES, strict=True)
    ]
    detections: list[Detections] = []
    for levels_of_frame in zip(*levels, strict=True):
        boxes, scores, landmarks = (
            torch.cat(values).cpu().numpy() for values in zip(*levels_of_frame, strict=True)
        )
        detections.append(best_first(boxes, scores, landmarks))
    return detections


def _with_large(detections: Detections, small: Detections) -> Detections:
    """Return the faces of a frame, and the large ones of its reduced picture."""
    boxes = small.boxes * REDUCTION
    large = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1)) >= LARGE_FACE
    assert detections.landmarks is not None and small.landmarks is not None
    return best_first(
        np.concatenate((detections.boxes, boxes[large])),
        np.concatenate((detections.scores, small.scores[large])),
        np.concatenate((detections.landmarks, small.landmarks[large] * REDUCTION)),
    )


def _batches_of_one_size(frames: Sequence[Image], limit: int) -> list[list[int]]:
    """Return the indexes of the frames in groups of one size, each of at most `limit`."""
    by_size: dict[tuple[int, ...], list[int]] = {}
    for i, frame in enumerate(frames):
        by_size.setdefault(frame.shape, []).append(i)
    return [rows[i : i + limit] for rows in by_size.values() for i in range(0, len(rows), limit)]


def fuse_batch_norms(net: nn.Module) -> None:
    """Fold each batch norm into the convolution before it: fewer steps, same result."""
    for block in [m for m in net.modules() if isinstance(m, nn.Sequential)]:
        for i in range(len(block) - 1):
            conv, norm = block[i], block[i + 1]
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                block[i], block[i + 1] = fuse_conv_bn_eval(conv, norm), nn.Identity()


def _has_bfloat16(device: torch.device) -> bool:
    """Return whether the hardware computes bfloat16; emulated, it is slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    cpu = Path("/proc/cpuinfo")
    return cpu.is_file() and "avx512_bf16" in cpu.read_text()
