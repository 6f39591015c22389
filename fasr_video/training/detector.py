"""Train the builtin detector: `python -m fasr_video.training.detector --data DIR --out RUN`.

Loss: penalty-reduced focal loss on a centre map (CornerNet, eq. 1; CenterNet) plus L1 on offset, log size and
landmarks around each centre. A run writes a checkpoint every few minutes and resumes from it. The learning rate stays
constant and falls in a line over the last fifth of the steps: a run can be given more steps while it is constant.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fasr_video.checkpoint import load_state, save_own
from fasr_video.detection.network import BASE, CONTRACT, FORMAT, LEVEL_LIMITS, STRIDES, DetectorNet, LevelOutput
from fasr_video.training.detector_data import Faces, Material, Stream

TOO_SMALL = 7.0  # px, square root of a box's area: not asked for
FALL = 0.2  # share of the steps over which the learning rate falls to nothing


@dataclass(frozen=True, slots=True)
class Target:
    """What one level should say for a batch; masks are N×H×W."""

    heat: Tensor
    ignore: Tensor
    regress: Tensor
    """N×14×H×W: offset, log size, landmark offsets, valid where `near`."""
    near: Tensor


def make_target(faces: list[Faces], stride: int, side: int) -> Target:
    """Return what the level of this stride should say for a batch of side×side pictures."""
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
        for (x1, y1, x2, y2), points, sure in zip(group.boxes, group.landmarks, group.sure, strict=True):
            w, h = x2 - x1, y2 - y1
            size = math.sqrt(w * h)
            cx, cy = (x1 + x2) / 2 / stride, (y1 + y2) / 2 / stride
            sx, sy = max(0.6, 0.12 * w / stride), max(0.6, 0.12 * h / stride)
            bump = np.exp(-((grid[None] - cx) ** 2 / (2 * sx**2) + (grid[:, None] - cy) ** 2 / (2 * sy**2)))
            if size < TOO_SMALL or not sure or not low <= size < high:
                # Not to be asked for, or another level's face: near a limit both levels may answer.
                if size < TOO_SMALL or not sure or low * 0.8 <= size < high * 1.25:
                    ignore[i] |= bump > 0.2
                continue
            ix, iy = int(cx), int(cy)
            if not (0 <= ix < cells and 0 <= iy < cells):
                continue
            heat[i] = np.maximum(heat[i], bump)
            heat[i, iy, ix] = 1.0
            around = (slice(max(0, iy - 1), min(cells, iy + 2)), slice(max(0, ix - 1), min(cells, ix + 2)))
            ys, xs = np.mgrid[around]
            near[i][around] = True
            values = [cx - (xs + 0.5), cy - (ys + 0.5)]
            values += [
                np.full(xs.shape, math.log(w / (BASE * stride))),
                np.full(xs.shape, math.log(h / (BASE * stride))),
            ]
            for px, py in points:
                values += [(px / stride - (xs + 0.5)) / BASE, (py / stride - (ys + 0.5)) / BASE]
            regress[i][(slice(None), *around)] = np.stack(values)
    return Target(*(torch.from_numpy(a) for a in (heat, ignore, regress, near)))


def level_loss(output: LevelOutput, target: Target) -> tuple[Tensor, Tensor, Tensor, int]:
    """(focal sum, box L1 sum, landmark L1 sum, number of faces) of one level."""
    logit = output.logit[:, 0].float()
    p = logit.sigmoid()
    positive = target.heat == 1.0
    hit = -F.logsigmoid(logit) * (1 - p) ** 2
    miss = -F.logsigmoid(-logit) * p**2 * (1 - target.heat) ** 4
    focal = torch.where(positive, hit, miss * ~target.ignore).sum()
    said = torch.cat((output.offset, output.log_size, output.landmarks), 1).float()
    error = (said - target.regress).abs() * target.near[:, None]
    return focal, error[:, :4].sum() / 9, error[:, 4:].sum() / 9, int(positive.sum())


def save_detector(state: Mapping[str, Tensor], path: Path) -> None:
    """A DetectorNet's tensors in float16, with its contract in the header."""
    save_own({k: v.half().contiguous() for k, v in state.items()}, path, FORMAT, CONTRACT)


@dataclass(frozen=True, slots=True)
class Plan:
    steps: int
    batch: int = 16
    side: int = 256
    lr: float = 2e-3
    shards: int = 2
    device: str = "cpu"
    bf16: bool = False
    """Compute in bfloat16: faster on GPUs, and slower on many CPUs that have it."""
    minutes: float = math.inf
    """Stop after this long, whatever the step; a later call resumes."""


def train(data: Path, out: Path, plan: Plan, begin: Path | None = None) -> int:
    """Train in folder `out`, from the weights of `begin` if given. Returns the step reached."""
    out.mkdir(parents=True, exist_ok=True)
    state_file = out / "state.pt"
    torch.manual_seed(0)
    device = torch.device(plan.device)
    net = DetectorNet()
    if begin is not None:
        load_state(net, begin, FORMAT)
    net = net.float().to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    ema = {k: v.detach().clone().float() for k, v in net.state_dict().items()}
    decay_params = [p for p in net.parameters() if p.ndim > 1]
    plain_params = [p for p in net.parameters() if p.ndim <= 1]
    groups = [{"params": decay_params, "weight_decay": 0.02}, {"params": plain_params, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=plan.lr)
    step = 0
    if state_file.exists():
        saved = torch.load(state_file, map_location=device, weights_only=True)
        net.load_state_dict(saved["net"])
        optimizer.load_state_dict(saved["optimizer"])
        ema, step = saved["ema"], saved["step"]
        print(f"resumed at step {step}", flush=True)
    net.train()
    stream = Stream(Material(data, plan.shards), plan.side, seed=step)
    loader = torch.utils.data.DataLoader(stream, plan.batch, num_workers=1, collate_fn=list, prefetch_factor=4)
    log = (out / "log.csv").open("a", newline="")
    writer = csv.writer(log)
    began, seen, sums, last_save = time.monotonic(), 0, np.zeros(3), time.monotonic()
    for items in loader:
        ended = step >= plan.steps or time.monotonic() - began > 60 * plan.minutes
        if ended or time.monotonic() - last_save > 120:
            save_run(out, net, optimizer, ema, step)
            last_save = time.monotonic()
        if ended:
            break
        for group in optimizer.param_groups:
            group["lr"] = plan.lr * rate(step, plan.steps)
        x = torch.stack([image for image, _ in items]).to(device).permute(0, 3, 1, 2).float().div(127.5).sub(1)
        targets = [make_target([faces for _, faces in items], s, plan.side) for s in STRIDES]
        with torch.autocast(device.type, torch.bfloat16, enabled=plan.bf16):
            outputs = net(x.contiguous(memory_format=torch.channels_last))
        parts = [
            level_loss(o, Target(*(getattr(t, f).to(device) for f in Target.__slots__)))
            for o, t in zip(outputs, targets, strict=True)
        ]
        count = max(1, sum(p[3] for p in parts))
        terms = torch.stack([torch.stack(p[:3]) for p in parts]).sum(0) / count
        focal, box, landmarks = terms.unbind()
        loss = focal + box + landmarks
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        step += 1
        keep = min(0.999, (1 + step) / (10 + step))
        with torch.no_grad():
            for k, v in net.state_dict().items():
                ema[k].lerp_(v.float(), 1 - keep)
        seen += len(items)
        sums += terms.detach().cpu().numpy()
        if step % 50 == 0:
            pictures_per_second = seen / (time.monotonic() - began)
            row = [step, *(round(v / 50, 4) for v in sums), round(pictures_per_second, 1)]
            writer.writerow(row)
            log.flush()
            print("step {} focal {} box {} landmarks {}  {} images/s".format(*row), flush=True)
            sums[:] = 0
    return step


def rate(step: int, steps: int) -> float:
    """Return the share of the full learning rate at a step: up in a line, constant, down in a line."""
    warm = min(1.0, (step + 1) / 200)
    return warm * max(0.01, min(1.0, (steps - step) / (FALL * steps)))


def save_run(
    out: Path, net: DetectorNet, optimizer: torch.optim.Optimizer, ema: Mapping[str, Tensor], step: int
) -> None:
    """Write the checkpoint and the weights of a run."""
    partial = out / "state.tmp"
    state = {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "ema": ema, "step": step}
    torch.save(state, partial)
    partial.replace(out / "state.pt")
    save_detector(ema, out / "detector.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with scenes/ and celeba/")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--from", dest="begin", type=Path, help="detector weights that a new run begins with")
    parser.add_argument("--steps", type=int, default=12000)
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after this long; call again to resume")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16 in place of float32")
    given = vars(parser.parse_args())
    data, out, begin = (given.pop(name) for name in ("data", "out", "begin"))
    train(data, out, Plan(**given), begin)


if __name__ == "__main__":
    main()
