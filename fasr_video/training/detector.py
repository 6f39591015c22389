"""Train the builtin detector: `python -m fasr_video.training.detector --data DIR --out RUN`.

Loss: penalty-reduced focal loss on a centre map (CornerNet, eq. 1; CenterNet) plus L1 on offset,
log size and landmarks around each centre.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from fasr_video.checkpoint import load_state, save_own
from fasr_video.detection.network import (
    BASE,
    CONTRACT,
    FORMAT,
    LEVEL_LIMITS,
    STRIDES,
    DetectorNet,
    LevelOutput,
)
from fasr_video.training.detector_data import Faces, Material, Points, Stream
from fasr_video.training.loop import Loss, Plan, Progress, own_device, train

FALSE_ALARM = 2.0  # weight of a false alarm over a miss
LOWERED = (
    0.25  # logits by which saved weights score lower, for no more false alarms than the teacher
)
SCORE_BIAS = re.compile(r"head\.\d+\.bias")
TOO_SMALL = 7.0  # px, square root of a box's area; smaller faces are ignored


@dataclass(frozen=True, slots=True)
class Target:
    """The target of one level for a batch; masks are N×H×W."""

    heat: Tensor
    ignore: Tensor
    regress: Tensor
    """N×14×H×W: offset, log size, landmark offsets, valid where `near`."""
    near: Tensor

    def on(self, device: torch.device) -> Target:
        return Target(*(getattr(self, name).to(device) for name in self.__slots__))


def make_target(faces: list[Faces], stride: int, side: int) -> Target:
    """Return the target of the level with this stride for a batch of side×side pictures."""
    level = STRIDES.index(stride)
    low = 0.0 if level == 0 else LEVEL_LIMITS[level - 1]
    high = math.inf if level == len(STRIDES) - 1 else LEVEL_LIMITS[level]
    cells = side // stride
    n = len(faces)
    heat = np.zeros((n, cells, cells), np.float32)
    ignore = np.zeros((n, cells, cells), bool)
    regress = np.zeros((n, 14, cells, cells), np.float32)
    near = np.zeros((n, cells, cells), bool)
    grid = np.arange(cells) + 0.5
    for i, group in enumerate(faces):
        for (x1, y1, x2, y2), points, sure in zip(
            group.boxes, group.landmarks, group.sure, strict=True
        ):
            w, h = x2 - x1, y2 - y1
            size = math.sqrt(w * h)
            cx, cy = (x1 + x2) / 2 / stride, (y1 + y2) / 2 / stride
            sx, sy = max(0.6, 0.12 * w / stride), max(0.6, 0.12 * h / stride)
            bump = np.exp(
                -((grid[None] - cx) ** 2 / (2 * sx**2) + (grid[:, None] - cy) ** 2 / (2 * sy**2))
            )
            if size < TOO_SMALL or not sure or not low <= size < high:
                # An ignored face, or one of another level: near a limit both levels may detect it.
                if size < TOO_SMALL or not sure or low * 0.8 <= size < high * 1.25:
                    ignore[i] |= bump > 0.2
                continue
            ix, iy = int(cx), int(cy)
            if not (0 <= ix < cells and 0 <= iy < cells):
                continue
            heat[i] = np.maximum(heat[i], bump)
            heat[i, iy, ix] = 1.0
            around = (
                slice(max(0, iy - 1), min(cells, iy + 2)),
                slice(max(0, ix - 1), min(cells, ix + 2)),
            )
            ys, xs = np.mgrid[around]
            near[i][around] = True
            offsets = _offsets((cx, cy), points / stride, xs + 0.5, ys + 0.5)
            sizes = [np.full(xs.shape, math.log(side / (BASE * stride))) for side in (w, h)]
            regress[i][(slice(None), *around)] = np.stack([*offsets[:2], *sizes, *offsets[2:]])
    return Target(*(torch.from_numpy(a) for a in (heat, ignore, regress, near)))


def _offsets(centre: tuple[float, float], points: Points, xs: Points, ys: Points) -> list[Points]:
    """Return how far a face's centre and its landmarks are from each cell, in x and y by turns."""
    offsets = [centre[0] - xs, centre[1] - ys]
    for x, y in points:
        offsets += [(x - xs) / BASE, (y - ys) / BASE]
    return offsets


def level_loss(output: LevelOutput, target: Target) -> tuple[Tensor, Tensor, Tensor, int]:
    """Return (focal sum, box L1 sum, landmark L1 sum, number of faces) of one level."""
    logit = output.logit[:, 0].float()
    p = logit.sigmoid()
    positive = target.heat == 1.0
    hit = -F.logsigmoid(logit) * (1 - p) ** 2
    miss = -F.logsigmoid(-logit) * p**2 * (1 - target.heat) ** 4
    focal = torch.where(positive, hit, FALSE_ALARM * miss * ~target.ignore).sum()
    regressed = torch.cat((output.offset, output.log_size, output.landmarks), 1).float()
    error = (regressed - target.regress).abs() * target.near[:, None]
    return focal, error[:, :4].sum() / 9, error[:, 4:].sum() / 9, int(positive.sum())


def save_detector(state: Mapping[str, Tensor], path: Path) -> None:
    """Write a DetectorNet's tensors in float16 with lowered scores, its contract in the header."""
    lowered = shift_scores(state, -LOWERED)
    save_own({k: v.half().contiguous() for k, v in lowered.items()}, path, FORMAT, CONTRACT)


def shift_scores(state: Mapping[str, Tensor], logits: float) -> dict[str, Tensor]:
    """Return the tensors of a DetectorNet with all scores raised by a number of logits."""
    shifted = dict(state)
    for name, value in state.items():
        if SCORE_BIAS.fullmatch(name):
            bias = value.clone()
            bias[0] += logits
            shifted[name] = bias
    return shifted


@dataclass(frozen=True, slots=True)
class Recipe:
    """The training pictures of the network."""

    batch: int = 16
    side: int = 256
    shards: int = 2


def make_loss(data: Path, recipe: Recipe) -> Loss:
    """Return the loss of one step; a separate process makes its pictures."""
    batches: Iterator[list[tuple[Tensor, Faces]]] | None = None

    def loss(model: nn.Module, generator: torch.Generator) -> Mapping[str, Tensor]:
        nonlocal batches
        if batches is None:
            # The seed is that of the step at which training starts or resumes.
            stream = Stream(Material(data, recipe.shards), recipe.side, generator.initial_seed())
            batches = iter(
                DataLoader(stream, recipe.batch, num_workers=1, collate_fn=list, prefetch_factor=4)
            )
        images, faces = zip(*next(batches), strict=True)
        x = torch.stack(images).to(generator.device).permute(0, 3, 1, 2).float().div(127.5).sub(1)
        outputs = model(x.contiguous(memory_format=torch.channels_last))
        parts = []
        for output, stride in zip(outputs, STRIDES, strict=True):
            target = make_target(list(faces), stride, recipe.side)
            parts.append(level_loss(output, target.on(generator.device)))
        count = max(1, sum(part[3] for part in parts))
        focal, box, landmarks = (
            torch.stack([torch.stack(part[:3]) for part in parts]).sum(0) / count
        )
        return {"loss": focal + box + landmarks, "focal": focal, "box": box, "landmarks": landmarks}

    return loss


def run(
    data: Path,
    out: Path,
    recipe: Recipe,
    plan: Plan,
    *,
    device: torch.device,
    report: Callable[[Progress], None],
    begin: Path | None = None,
) -> int:
    """Train in folder `out`, from the weights `begin` if given, and return the step reached."""
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(plan.seed)
    net = DetectorNet()
    if begin is not None:
        load_state(net, begin, FORMAT)
        net.load_state_dict(shift_scores(net.state_dict(), LOWERED))

    def save(state: Mapping[str, Tensor], step: int) -> None:
        save_detector(state, out / "detector.safetensors")

    return train(
        net,
        make_loss(data, recipe),
        out,
        plan,
        device=device,
        save=save,
        report=report,
        settings={"recipe": recipe},
    )


def print_progress(progress: Progress) -> None:
    """Print the step, the losses and the speed."""
    terms = " ".join(f"{name} {value:.4f}" for name, value in progress.terms.items())
    print(f"step {progress.step}: {terms}  {progress.batches_per_second:.2f} batches/s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with scenes/ and celeba/")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument(
        "--from", dest="begin", type=Path, help="detector weights that a new run starts with"
    )
    parser.add_argument("--steps", type=int, default=12000)
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="stop after this long; call again to resume"
    )
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16, not in float32")
    args = parser.parse_args()
    plan = Plan(
        steps=args.steps,
        lr=args.lr,
        constant=True,
        floor=0.01,
        weight_decay=0.02,
        clip=5.0,
        bf16=args.bf16,
        seconds=60 * args.minutes,
    )
    recipe = Recipe(args.batch, args.side, args.shards)
    run(
        args.data,
        args.out,
        recipe,
        plan,
        device=own_device(args.device),
        report=print_progress,
        begin=args.begin,
    )


if __name__ == "__main__":
    main()
