"""What one network call costs, the published size and the compact one, and how exact each precision
is.

python benchmarks/sr_cost.py [--networks compact] [--calls 10] [--batches 1 2 8]

The whole takes some four minutes on two quiet cores, most of it the published size, and its
reference in float64. Speeds are wall time on a quiet machine; exactness is against the same weights
in float64.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from processes import read_status
from results import Table, command_line

from fasr_video.sr import sampling
from fasr_video.sr.denoiser import PRECISIONS, Condition, Denoiser, ScoreDenoiser
from fasr_video.sr.methods.diffusion import FAST
from fasr_video.sr.networks.ncsnpp import NCSNpp
from fasr_video.sr.samplers import generators
from fasr_video.sr.weights import load_own
from fasr_video.weights.manifest import bundled

SIGMAS = (0.01, 0.1, 1.0, 10.0)


def make_published() -> Denoiser:
    """Return a network of FASR's size with random weights, none of them zero."""
    torch.manual_seed(0)
    net = NCSNpp()
    for parameter in net.parameters():
        if (
            parameter.ndim > 1
            and parameter.requires_grad
            and float(parameter.detach().abs().max()) < 1e-3
        ):
            torch.nn.init.xavier_uniform_(parameter)
    return ScoreDenoiser(net, 0.001, 348.0).eval()


def open_compact() -> Denoiser:
    return load_own(bundled("sr.safetensors"))


NETWORKS: dict[str, Callable[[], Denoiser]] = {
    "NCSN++, FASR's size": make_published,
    "compact": open_compact,
}


def make_inputs(n: int, denoiser: Denoiser) -> tuple[torch.Tensor, Condition]:
    g = torch.Generator().manual_seed(0)
    feature = torch.nn.functional.normalize(
        torch.randn(n, denoiser.feature_length, generator=g), dim=1
    )
    return torch.rand(n, 3, 128, 128, generator=g), Condition(
        torch.rand(n, 3, 128, 128, generator=g), feature
    )


@torch.no_grad()
def measure_seconds(denoiser: Denoiser, n: int, times: int) -> float:
    x, condition = make_inputs(n, denoiser)
    sigma = torch.full((n,), 0.3)
    denoiser(x, sigma, condition)
    start = time.monotonic()
    for _ in range(times):
        denoiser(x, sigma, condition)
    return (time.monotonic() - start) / times


@torch.no_grad()
def largest_error(denoiser: Denoiser, precision: torch.dtype) -> float:
    """Return the largest relative difference of D − x from float64 over noise levels."""
    x, condition = make_inputs(1, denoiser)
    worst = 0.0
    for level in SIGMAS:
        sigma = torch.full((1,), level)
        denoiser.float().precision = precision
        rough = denoiser(x, sigma, condition).double() - x
        denoiser.double().precision = torch.float32
        wide = Condition(condition.lr.double(), condition.feature.double())
        exact = denoiser(x.double(), sigma.double(), wide) - x
        worst = max(worst, float((rough - exact).norm() / exact.norm()))
    denoiser.float()
    return worst


def measure_two_samples(precision: str) -> None:
    """Print seconds and memory of drawing two samples of one face, as `fasr-video sr` does.

    Runs in a process of its own.
    """
    denoiser = open_compact()
    denoiser.precision = PRECISIONS[precision]
    _, condition = make_inputs(1, denoiser)
    conditions = condition[torch.tensor([0, 0])]
    sampler = sampling.parse(FAST)
    sampling.draw(denoiser, conditions, sampler, generators([0, 1]))
    start = time.monotonic()
    sampling.draw(denoiser, conditions, sampler, generators([0, 1]))
    print(time.monotonic() - start, own_peak_mib())


def own_peak_mib() -> float:
    """Return this process's largest memory in MiB.

    The kernel's ru_maxrss may be that of the process that started it.
    """
    return int(read_status(os.getpid())["VmHWM"].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument(
        "--calls",
        type=int,
        default=10,
        help="timed, of the compact network; a fifth of the other one",
    )
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 8], help="faces a call")
    parser.add_argument("--two-samples", choices=PRECISIONS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.two_samples:
        measure_two_samples(args.two_samples)
        return
    columns = (
        "network",
        "parameters",
        "precision",
        "faces a call",
        "ms a face",
        "largest relative error",
    )
    table = Table("sr_cost", "Cost of a network call", command_line(), columns)
    for name in args.networks:
        denoiser = NETWORKS[name]()
        times = args.calls if name == "compact" else max(1, args.calls // 5)
        size = f"{sum(p.numel() for p in denoiser.network.parameters()) / 1e6:.1f} M"
        for label, precision in PRECISIONS.items():
            wrong = largest_error(denoiser, precision)
            denoiser.precision = precision
            for n in args.batches:
                ms = 1e3 * measure_seconds(denoiser, n, times) / n
                table.add_row(
                    [name, size, label, n, f"{ms:.0f}" if ms > 100 else f"{ms:.1f}", f"{wrong:.1e}"]
                )
    for label in PRECISIONS:
        alone = [sys.executable, __file__, "--two-samples", label]
        out = subprocess.run(alone, capture_output=True, text=True, check=True)
        spent, memory = map(float, out.stdout.split())
        table.add_note(
            f"Two samples of one face, compact network, {FAST}, {label}, in a process of its own: "
            f"{spent:.2f} s, {memory:.0f} MiB of memory at most, Python and torch included."
        )
    table.write()


if __name__ == "__main__":
    main()
