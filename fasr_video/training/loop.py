"""The training loop of all networks but the Feature Combiner: bf16, EMA, a log, checkpoints,
several devices.

All randomness of a step comes from (seed, step), so a resumed run continues like an uninterrupted
one. For several GPUs, start it with `torchrun` or `accelerate launch`; each process draws its own
batches, and the first one writes.
"""

from __future__ import annotations

import csv
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fasr_video.checkpoint import find_device, read_torch
from fasr_video.errors import FasrError, InputError, UsageError
from fasr_video.files import atomic_write
from fasr_video.training.muon import MATRICES, Muon

# Returns the terms of a batch by name: `loss` is minimised, all are logged.
Loss = Callable[[nn.Module, torch.Generator], Mapping[str, Tensor]]
# Called with the EMA weights and the step at each checkpoint.
Save = Callable[[Mapping[str, Tensor], int], None]


STATE = "state.pt"  # the checkpoint of a run, in its folder


@dataclass(frozen=True, slots=True)
class Plan:
    steps: int
    lr: float
    warmup: int = 200
    floor: float = 0.02
    """Share of the learning rate at the end; it falls along a cosine."""
    constant: bool = False
    """True: it stays constant and falls linearly in the last steps.

    While it is constant, a resumed run may have more steps.
    """
    fall: float = 0.2
    """Share of the steps, at the end, in which a constant learning rate falls; 0: it never does."""
    ema: float = 0.999
    weight_decay: float = 0.01
    clip: float = 1.0
    seed: int = 0
    bf16: bool = True
    channels_last: bool = True
    """Memory layout of weights and maps: faster, except for many narrow layers on a CPU."""
    log_every: int = 50
    save_seconds: float = 120.0
    seconds: float = math.inf
    """Stop after this time; a later call resumes."""
    muon: bool = False
    """Whether matrices are trained with Muon, not with AdamW."""


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
        decay = min(self.decay, (1 + step) / (10 + step))  # smaller for early weights
        means, now = [], []
        for key, value in net.state_dict().items():
            if value.is_floating_point():
                means.append(self.values[key])
                now.append(value)
            else:
                self.values[key].copy_(value)
        torch._foreach_lerp_(means, now, 1 - decay)


@dataclass(slots=True)
class Run:
    """The state of a training run."""

    net: nn.Module
    optimizer: torch.optim.Optimizer
    ema: Ema
    settings: dict[str, str]
    """The settings of the run; it resumes with the same ones alone."""
    step: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)
    """Sum of each term since the last report."""
    since: int = 0
    """Number of steps since the last report."""


def train(
    net: nn.Module,
    loss: Loss,
    out: Path,
    plan: Plan,
    *,
    device: torch.device,
    save: Save,
    report: Callable[[Progress], None],
    settings: Mapping[str, object] | None = None,
) -> int:
    """Train `net` in folder `out` up to plan.steps or plan.seconds, and return the step reached.

    `settings` is what else the run depends on; a run with other settings is not resumed.
    """
    rank = join_processes(device)
    net.to(device)
    if plan.channels_last:
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    run = Run(net, _optimizer(net, plan), Ema(net, plan.ema), _settings(plan, settings or {}))
    _resume(out, run, device)
    model = DistributedDataParallel(net) if torch.distributed.is_initialized() else net
    net.train()
    started = saved = reported = time.monotonic()
    with _stop_signal() as stop:
        while run.step < plan.steps and not _agreed(
            stop.is_set() or time.monotonic() - started > plan.seconds, device
        ):
            _one_step(run, model, loss, plan, device=device, rank=rank)
            now = time.monotonic()
            if run.step % plan.log_every == 0 or run.step == plan.steps:
                progress = _progress(run, plan, now - reported)
                reported = now
                if rank == 0:
                    _log(out / "log.csv", progress)
                    report(progress)
            if rank == 0 and now - saved > plan.save_seconds:
                _checkpoint(out, run, save)
                saved = now
    if rank == 0:
        _checkpoint(out, run, save)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    if stop.is_set():
        raise KeyboardInterrupt
    return run.step


def _settings(plan: Plan, of_trainer: Mapping[str, object]) -> dict[str, str]:
    """Return all that a run depends on, as text."""
    optimizer = "muon" if plan.muon else "adam"
    settings = {"seed": plan.seed, "lr": plan.lr, "optimizer": optimizer, **of_trainer}
    if not plan.constant:
        settings["steps"] = plan.steps
    return {name: str(value) for name, value in settings.items()}


def _one_step(
    run: Run, model: nn.Module, loss: Loss, plan: Plan, *, device: torch.device, rank: int
) -> None:
    number = (plan.seed * 1_000_003 + run.step) * 1_009 + rank
    torch.manual_seed(number)  # dropout's
    for group in run.optimizer.param_groups:
        group["lr"] = plan.lr * rate(run.step, plan)
    with torch.autocast(device.type, torch.bfloat16, enabled=plan.bf16):
        terms = loss(model, torch.Generator(device).manual_seed(number))
    run.optimizer.zero_grad(set_to_none=True)
    terms["loss"].backward()  # type: ignore[no-untyped-call]
    gradient_norm = torch.nn.utils.clip_grad_norm_(run.net.parameters(), plan.clip)
    run.optimizer.step()
    run.step += 1
    run.since += 1
    run.ema.update(run.net, run.step)
    for name, value in (*terms.items(), ("slope", gradient_norm)):
        run.sums[name] = run.sums[name] + value.detach() if name in run.sums else value.detach()


def _progress(run: Run, plan: Plan, seconds: float) -> Progress:
    _check_numbers(run)
    means = {k: float(v) / run.since for k, v in run.sums.items()}
    progress = Progress(run.step, plan.steps, means, run.since / max(seconds, 1e-9))
    run.sums, run.since = {}, 0
    return progress


def _check_numbers(run: Run) -> None:
    """Raise FasrError for infinite or NaN terms, before bad weights replace a good checkpoint."""
    bad = [name for name, value in run.sums.items() if not bool(value.isfinite())]
    if bad:
        reason = f"{' and '.join(bad)} became infinite or NaN before step {run.step}"
        remedy = "start again with a lower --lr; the last checkpoint is intact"
        raise FasrError("training", reason, remedy)


def rate(step: int, plan: Plan) -> float:
    """Return the factor of the learning rate at a step: it rises linearly, then falls."""
    warm = min(1.0, (step + 1) / max(1, plan.warmup))
    if plan.constant:
        left = (plan.steps - step) / (plan.fall * plan.steps) if plan.fall else 1.0
        return warm * max(plan.floor, min(1.0, left))
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / plan.steps)))
    return warm * (plan.floor + (1 - plan.floor) * cosine)


def _optimizer(net: nn.Module, plan: Plan) -> torch.optim.Optimizer:
    decayed = [p for p in net.parameters() if p.ndim > 1]
    plain = [p for p in net.parameters() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": plan.weight_decay, MATRICES: plan.muon},
        {"params": plain, "weight_decay": 0.0, MATRICES: False},
    ]
    return Muon(groups, lr=plan.lr, fused=True)


# -------------------------------------------------------------------------------- several processes


def own_device(name: str) -> torch.device:
    """Return the device of that name; under a launcher, "cuda" is this process's own GPU."""
    if name != "cuda" or "LOCAL_RANK" not in os.environ:
        return find_device(name)
    device = find_device(f"cuda:{os.environ['LOCAL_RANK']}")
    torch.cuda.set_device(device)
    return device


def unwrapped(model: nn.Module) -> Any:
    """Return the network itself; where several processes train it, it is in a wrapper."""
    return getattr(model, "module", model)


def process_number() -> int:
    """Return this process's number; process 0 writes and reports."""
    return int(os.environ.get("RANK", "0"))


def join_processes(device: torch.device) -> int:
    """Join the other processes of a launcher, if there are any, and return this one's number."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return process_number()


def _agreed(stop: bool, device: torch.device) -> bool:
    """Return whether to stop; process 0 decides for all."""
    if not torch.distributed.is_initialized():
        return stop
    flag = torch.tensor(float(stop), device=device)
    torch.distributed.broadcast(flag, 0)
    return bool(flag)


@contextmanager
def _stop_signal() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C or SIGTERM sets, so that training ends with a checkpoint."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(kind, lambda *_: stop.set()) for kind in kinds]
    try:
        yield stop
    finally:
        for kind, handler in zip(kinds, before, strict=True):
            signal.signal(kind, handler)


# -------------------------------------------------------------------------------------- checkpoints


def _checkpoint(out: Path, run: Run, save: Save) -> None:
    _check_numbers(run)
    state = {
        "net": run.net.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "ema": run.ema.values,
        "settings": run.settings,
        "step": run.step,
    }
    atomic_write(out / STATE, lambda path: torch.save(state, path))
    save(run.ema.values, run.step)


def has_checkpoint(out: Path) -> bool:
    """Return whether the folder has a checkpoint to resume from."""
    return (out / STATE).exists()


def _resume(out: Path, run: Run, device: torch.device) -> None:
    if not has_checkpoint(out):
        return
    state = read_checkpoint(out / STATE, {"net", "optimizer", "ema", "step"}, run.settings)
    run.net.load_state_dict(state["net"])
    run.optimizer.load_state_dict(state["optimizer"])
    run.ema.values = {k: v.to(device) for k, v in state["ema"].items()}
    run.step = int(state["step"])
    _cut_log(out / "log.csv", run.step)


def read_checkpoint(file: Path, parts: set[str], settings: Mapping[str, object]) -> dict[str, Any]:
    """Return the state of a run; raise UsageError if it was started with other settings."""
    state = read_torch(file)
    if not isinstance(state, dict) or not state.keys() >= {"settings", *parts}:
        raise InputError(file, "not a checkpoint of this trainer", "use an empty folder")
    stored = dict(state["settings"])
    if "steps" in stored and state["step"] >= int(stored["steps"]):
        stored["steps"] = settings.get("steps")  # a finished run may have more steps
    keys = sorted(stored.keys() | settings.keys())
    other = [
        f"{k} {stored.get(k)}, not {settings.get(k)}"
        for k in keys
        if stored.get(k) != settings.get(k)
    ]
    if other:
        raise UsageError(
            file,
            f"its run was begun with {', '.join(other)}",
            "give the same, or use an empty folder",
        )
    return state


def _log(file: Path, progress: Progress) -> None:
    new = not file.exists()
    with file.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        if new:
            writer.writerow(["step", *progress.terms, "batches_per_second"])
        numbers = (f"{v:.5f}" for v in progress.terms.values())
        writer.writerow([progress.step, *numbers, f"{progress.batches_per_second:.3f}"])


def _cut_log(file: Path, step: int) -> None:
    """Remove the log's lines after the checkpoint, since those steps run again."""
    if not file.exists():
        return
    head, *lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    done = [
        x
        for x in lines
        if x.endswith("\n") and x.count(",") == head.count(",") and int(x.split(",")[0]) <= step
    ]
    atomic_write(file, lambda path: path.write_text("".join((head, *done)), encoding="utf-8"))
