"""One training loop for every model: bf16, EMA weights, a log, checkpoints to go on from, one or several devices.

All that is random in a step comes from a generator seeded by (seed, step): a resumed run sees what an unbroken one
would.
Several GPUs: start with `torchrun` or `accelerate launch`; each process takes its own batches.
"""

from __future__ import annotations

import csv
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fasr_video.checkpoint import find_device

Loss = Callable[[nn.Module, torch.Generator], Mapping[str, Tensor]]
"""One batch's terms by name; the one named `loss` is minimised, the others are logged."""


@dataclass(frozen=True, slots=True)
class Plan:
    steps: int
    lr: float
    warmup: int = 200
    floor: float = 0.02
    """The learning rate falls along a cosine to this share of itself."""
    ema: float = 0.999
    weight_decay: float = 0.01
    clip: float = 1.0
    seed: int = 0
    bf16: bool = True
    log_every: int = 50
    save_seconds: float = 120.0
    seconds: float = math.inf
    """Stop after this long, whatever the step; a later call goes on."""


@dataclass(frozen=True, slots=True)
class Progress:
    step: int
    steps: int
    terms: Mapping[str, float]
    """Means since the last report."""
    batches_per_second: float


class Ema:
    """Running means of a network's parameters and buffers, in float32."""

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {k: v.detach().clone() for k, v in net.state_dict().items()}

    @torch.no_grad()
    def update(self, net: nn.Module, step: int) -> None:
        keep = min(self.decay, (1 + step) / (10 + step))  # early weights are soon forgotten
        means, now = [], []
        for key, value in net.state_dict().items():
            if value.is_floating_point():
                means.append(self.values[key])
                now.append(value)
            else:
                self.values[key].copy_(value)
        torch._foreach_lerp_(means, now, 1 - keep)


def train(
    net: nn.Module,
    loss: Loss,
    out: Path,
    plan: Plan,
    device: torch.device,
    save: Callable[[Mapping[str, Tensor]], None],
    report: Callable[[Progress], None],
) -> int:
    """Train `net` in folder `out` up to plan.steps or plan.seconds; `save` gets the EMA weights at each checkpoint."""
    rank = join_processes(device)
    net.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    decayed = [p for p in net.parameters() if p.ndim > 1]
    plain = [p for p in net.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": plan.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=plan.lr, fused=True)
    ema = Ema(net, plan.ema)
    state_file = out / "state.pt"
    step = _resume(state_file, net, optimizer, ema, device)
    model = DistributedDataParallel(net) if torch.distributed.is_initialized() else net
    net.train()
    began = saved = reported = time.monotonic()
    sums: dict[str, Tensor] = {}
    since = 0
    while step < plan.steps and time.monotonic() - began < plan.seconds:
        for group in optimizer.param_groups:
            group["lr"] = plan.lr * rate(step, plan)
        generator = torch.Generator(device).manual_seed((plan.seed * 1_000_003 + step) * 1_009 + rank)
        with torch.autocast(device.type, torch.bfloat16, enabled=plan.bf16):
            terms = loss(model, generator)
        optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(net.parameters(), plan.clip)
        optimizer.step()
        step += 1
        since += 1
        ema.update(net, step)
        for name, value in terms.items():
            sums[name] = sums[name] + value.detach() if name in sums else value.detach()
        now = time.monotonic()
        if rank == 0 and (step % plan.log_every == 0 or step == plan.steps):
            means = {k: float(v) / since for k, v in sums.items()}
            progress = Progress(step, plan.steps, means, since / (now - reported))
            _log(out / "log.csv", progress)
            report(progress)
            sums, since, reported = {}, 0, now
        if rank == 0 and now - saved > plan.save_seconds:
            _checkpoint(state_file, net, optimizer, ema, step, save)
            saved = now
    if rank == 0:
        _checkpoint(state_file, net, optimizer, ema, step, save)
    return step


def rate(step: int, plan: Plan) -> float:
    """Share of the full learning rate at a step: up in a line, down along a cosine."""
    warm = min(1.0, (step + 1) / max(1, plan.warmup))
    return warm * (plan.floor + (1 - plan.floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / plan.steps))))


def own_device(name: str) -> torch.device:
    """The device of that name; where a launcher has started several processes, "cuda" is this one's own GPU."""
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    return find_device(name)


def join_processes(device: torch.device) -> int:
    """This process's number, 0 when it is alone; joins the others where a launcher has started several."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return 0
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return torch.distributed.get_rank()


def _resume(file: Path, net: nn.Module, optimizer: torch.optim.Optimizer, ema: Ema, device: torch.device) -> int:
    if not file.exists():
        return 0
    state = torch.load(file, map_location=device, weights_only=True)
    net.load_state_dict(state["net"])
    optimizer.load_state_dict(state["optimizer"])
    ema.values = state["ema"]
    return int(state["step"])


def _checkpoint(
    file: Path,
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: Ema,
    step: int,
    save: Callable[[Mapping[str, Tensor]], None],
) -> None:
    state = {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "ema": ema.values, "step": step}
    partial = file.with_suffix(".tmp")
    torch.save(state, partial)
    partial.replace(file)
    save(ema.values)


def _log(file: Path, progress: Progress) -> None:
    new = not file.exists()
    with file.open("a", newline="") as stream:
        writer = csv.writer(stream)
        if new:
            writer.writerow(["step", *progress.terms, "batches_per_second"])
        writer.writerow(
            [progress.step, *(f"{v:.5f}" for v in progress.terms.values()), f"{progress.batches_per_second:.3f}"]
        )
