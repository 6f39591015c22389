"""An archive of short files, and one long file: how fast, with how much memory, and the same cases
whatever happens.

    python benchmarks/archive.py [--files 200] [--minutes 10] [--kills 20] [--fps 2]

Each batch is a process of its own; its memory, with that of its workers, is read from /proc. Cases
are compared by `fasr_video.archive.canonical`. The Dask scheduler and its workers run on the
loopback.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
from footage import REPO, repeat, seconds_of, size_of
from processes import resident_mib
from results import Table

from fasr_video.archive.canonical import digest
from fasr_video.archive.ledger import Ledger
from fasr_video.case.case import Case

SAMPLE = REPO / "sample_videos" / "entrance.mp4"
MUGSHOTS = SAMPLE.parent / "mugshots"
SAMPLE_EVERY = 0.5  # seconds between samples of memory
COST = (
    "<!-- cost: filled from docs/results/archive.md, which benchmarks/archive.py writes -->",
    "<!-- end of cost -->",
)
FASR = (sys.executable, "-m", "fasr_video")


@dataclass(frozen=True, slots=True)
class BatchCost:
    """What a batch cost."""

    seconds: float
    mib: float
    """The most memory that the batch and its workers used at one time."""


def copy_with_comment(source: Path, path: Path, number: int) -> Path:
    """Copy the video's packets under another comment, so that its hash differs; return the path."""
    with av.open(str(source)) as original, av.open(str(path), "w") as copy:
        copy.metadata["comment"] = f"file {number}"
        stream = original.streams.video[0]
        target = copy.add_stream_from_template(stream)
        for packet in original.demux(stream):
            if packet.size:
                packet.stream = target
                copy.mux(packet)
    return path


def make_archive(folder: Path, count: int) -> Path:
    """Make a folder with this many copies of the sample clip, each with its own hash."""
    folder.mkdir()
    for number in range(count):
        copy_with_comment(SAMPLE, folder / f"clip{number:04d}.mp4", number)
    return folder


def make_gallery(folder: Path) -> Path:
    """Enrol the sample mugshots into a new gallery and return its folder."""
    subprocess.run([*FASR, "gallery", "create", str(folder)], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(
        [*FASR, "gallery", "add", str(folder), str(MUGSHOTS)], check=True, stdout=subprocess.DEVNULL
    )
    return folder


def batch_command(
    archive: Path, cases: Path, gallery: Path, fps: float, *, options: Sequence[str]
) -> list[str]:
    """Return the command line of a batch."""
    folders = ["--out", str(cases), "--gallery", str(gallery)]
    return [
        *FASR,
        "batch",
        str(archive),
        *folders,
        "--set",
        f"sampling.fps={fps:g}",
        "--json",
        *options,
    ]


def run(command: list[str], other_pids: Sequence[int] = ()) -> BatchCost:
    """Run a batch to its end and measure it, with the processes `other_pids` that work for it."""
    start, peak = time.monotonic(), 0.0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        output: list[str] = []
        reader = threading.Thread(target=lambda: output.extend(process.stdout or ()))
        reader.start()
        while process.poll() is None:
            peak = max(peak, sum(resident_mib(pid) for pid in (process.pid, *other_pids)))
            time.sleep(SAMPLE_EVERY)
        reader.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}: {output[-3:]}")
    return BatchCost(time.monotonic() - start, peak)


def case_hashes(cases: Path) -> dict[str, str]:
    """Return a hash of each case by the name of its folder."""
    found = {}
    with Ledger.read(cases) as ledger:
        for job in ledger.jobs():
            if job.state != "done":
                found[job.folder] = job.state
                continue
            with Case.open(cases / job.folder, read_only=True) as case:
                found[job.folder] = digest(case)
    return found


@contextmanager
def cluster(workers: int) -> Iterator[tuple[str, list[int]]]:
    """Yield the address of a Dask scheduler on the loopback, and the ids of its processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    dask = (sys.executable, "-m")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    parts = ["scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
    scheduler = [*dask, f"distributed.cli.dask_{parts[0]}", *parts[1:]]
    started = [subprocess.Popen(scheduler, **quiet)]  # type: ignore[call-overload]
    for _ in range(workers):
        worker = [
            *dask,
            "distributed.cli.dask_worker",
            address,
            "--nthreads",
            "1",
            "--no-nanny",
            "--no-dashboard",
        ]
        started.append(subprocess.Popen(worker, **quiet))  # type: ignore[call-overload]
    try:
        wait_for_port(port)
        yield address, [p.pid for p in started]
    finally:
        for process in started:
            process.kill()
            process.wait()


def wait_for_port(port: int) -> None:
    """Wait until something listens on the port."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise SystemExit("the Dask scheduler did not start")


def kill_at_random(command: list[str], longest: float, rng: random.Random) -> bool:
    """Start a batch and kill it within `longest` seconds; return False if it ended before."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            process.wait(rng.uniform(0.5, longest))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            return True
    return False


def run_with_kills(
    command: list[str], cases: Path, kills: int, longest: float
) -> tuple[int, list[dict[str, str]]]:
    """Kill and restart batches; return the number of kills, and the cases of each batch."""
    rng, killed, results = random.Random(0), 0, []
    while killed < kills:
        shutil.rmtree(cases, ignore_errors=True)
        while killed < kills and kill_at_random(command, longest, rng):
            killed += 1
        run(command)
        results.append(case_hashes(cases))
    return killed, results


def fill_cost(text: str) -> None:
    """Write the cost into docs/operations.md."""
    path = REPO / "docs" / "operations.md"
    before, rest = path.read_text().split(COST[0])
    after = rest.split(COST[1])[1]
    path.write_text(f"{before}{COST[0]}\n{text}\n{COST[1]}{after}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=10.0, help="of the long file")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument(
        "--kill-files", type=int, default=8, help="files of the batch that is killed"
    )
    parser.add_argument("--fps", type=float, default=2.0, help="frames a second that are analysed")
    parser.add_argument("--schedulers", nargs="+", default=["local-1", "processes-2", "dask-2"])
    args = parser.parse_args()
    options = (
        f"--files {args.files} --minutes {args.minutes:g} --kills {args.kills} --kill-files "
        f"{args.kill_files}"
    )
    table = Table(
        "archive",
        f"An archive of {args.files} short files, and one of {args.minutes:g} minutes",
        f"`python benchmarks/archive.py {options} --fps {args.fps:g} --schedulers "
        f"{' '.join(args.schedulers)}`",
        [
            "footage",
            "scheduler",
            "workers",
            "wall time, s",
            "footage s/s",
            "memory, MiB",
            "cases as in the first row",
        ],
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        gallery = make_gallery(folder / "gallery")
        rate = measure_short_files(
            table, folder, gallery, args.files, fps=args.fps, schedulers=args.schedulers
        )
        measure_long_file(table, folder, gallery, args.minutes, fps=args.fps)
        add_kill_note(table, folder, gallery, args)
    table.add_note(
        f"Each short file is `{SAMPLE.name}` ({seconds_of(SAMPLE):.0f} s, {size_of(SAMPLE)}, two "
        f"people) with a comment of its own, the long one repeats its packets; {args.fps:g} "
        "frames a second are analysed. Wall time begins with the command and ends with its "
        "summary. Memory is the most that the batch, its workers and (with Dask) the scheduler "
        "used at one time, sampled twice a second. Cases are compared by every row of every "
        "table, apart from what must differ, such as times."
    )
    table.write()
    hours = 1000 / rate
    fill_cost(
        f"{hours:.0f} hours of one core for 1,000 hours of footage of {size_of(SAMPLE)} with two "
        f"people always in view, {args.fps:g} frames a second analysed, reconstructions and "
        "search included ([measured](results/archive.md)); multiply by your price of a core hour. "
        "Empty footage costs less, crowds more."
    )


def measure_short_files(
    table: Table, folder: Path, gallery: Path, count: int, *, fps: float, schedulers: Sequence[str]
) -> float:
    """Add a row for each scheduler; return the footage seconds a second of one process."""
    archive = make_archive(folder / "short", count)
    footage = count * seconds_of(SAMPLE)
    first_hashes: dict[str, str] | None = None
    rate = 0.0
    for name in schedulers:
        scheduler, workers = name.partition("-")[0], int(name.partition("-")[2])
        cases = folder / name
        if scheduler == "dask":
            with cluster(workers) as (address, pids):
                options = ["--scheduler", f"dask={address}"]
                measured = run(batch_command(archive, cases, gallery, fps, options=options), pids)
        else:
            options = [
                "--scheduler",
                scheduler,
                *(["--workers", str(workers)] if scheduler == "processes" else []),
            ]
            measured = run(batch_command(archive, cases, gallery, fps, options=options))
        hashes = case_hashes(cases)
        first_hashes = first_hashes or hashes
        speed = footage / measured.seconds
        if scheduler == "local":
            rate = speed
        add_row(
            table,
            f"{count} files",
            scheduler,
            workers,
            measured=measured,
            speed=speed,
            same=hashes == first_hashes,
        )
    return rate


def measure_long_file(
    table: Table, folder: Path, gallery: Path, minutes: float, *, fps: float
) -> None:
    """Add a row for one long file in a single process, and one for its parts in two."""
    archive = folder / "long"
    archive.mkdir()
    film = repeat(SAMPLE, archive / "long.mp4", max(1, round(60 * minutes / seconds_of(SAMPLE))))
    footage, first_hashes = seconds_of(film), None
    part = f"{max(1.0, footage / 8):g}"
    for workers, cut in ((1, False), (2, True)):
        cases = folder / f"long{workers}"
        options = ["--workers", str(workers), *(["--cut", part] if cut else [])]
        measured = run(batch_command(archive, cases, gallery, fps, options=options))
        hashes = case_hashes(cases)
        first_hashes = first_hashes or hashes
        label = f"one file of {footage / 60:.1f} min" + (f", --cut {part}" if cut else "")
        add_row(
            table,
            label,
            "processes",
            workers,
            measured=measured,
            speed=footage / measured.seconds,
            same=hashes == first_hashes,
        )


def add_kill_note(table: Table, folder: Path, gallery: Path, args: argparse.Namespace) -> None:
    """Kill a batch again and again and add a note about the cases that it ends with."""
    archive = make_archive(folder / "killed", args.kill_files)
    command = batch_command(
        archive, folder / "unbroken", gallery, args.fps, options=["--workers", "1"]
    )
    measured = run(command)
    unbroken = case_hashes(folder / "unbroken")
    killed_command = batch_command(
        archive, folder / "broken", gallery, args.fps, options=["--workers", "1"]
    )
    kills, results = run_with_kills(killed_command, folder / "broken", args.kills, measured.seconds)
    same = sum(hashes == unbroken for hashes in results)
    table.add_note(
        f"Killed: a batch of {args.kill_files} files was killed (SIGKILL) {kills} times, each at "
        f"a moment drawn from the {measured.seconds:.0f} s that an unbroken one takes, and "
        f"started again until it was done; this was repeated {len(results)} times. The cases were "
        f"the same as those of the unbroken batch **{same} of {len(results)} times**."
    )


def add_row(
    table: Table,
    label: str,
    scheduler: str,
    workers: int,
    *,
    measured: BatchCost,
    speed: float,
    same: bool,
) -> None:
    numbers = [f"{measured.seconds:.0f}", f"{speed:.2f}", f"{measured.mib:.0f}"]
    table.add_row([label, scheduler, workers, *numbers, "yes" if same else "NO"])


if __name__ == "__main__":
    main()
