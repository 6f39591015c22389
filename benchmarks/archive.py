"""An archive of short files, and one long file: how fast, with how much memory, and the same cases whatever happens.

    python benchmarks/archive.py [--files 200] [--minutes 10] [--kills 20] [--fps 2]

Each batch is a process of its own; its memory, with that of its workers, is read from /proc. Cases are compared by
`fasr_video.archive.canonical`. The Dask scheduler and its workers run on the loopback.
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
from processes import resident
from results import Table

from fasr_video.archive.canonical import digest
from fasr_video.archive.ledger import Ledger
from fasr_video.case.case import Case

SAMPLE = REPO / "sample_videos" / "entrance.mp4"
MUGSHOTS = SAMPLE.parent / "mugshots"
EVERY = 0.5  # seconds between samples of memory
COST = (
    "<!-- cost: filled from docs/results/archive.md, which benchmarks/archive.py writes -->",
    "<!-- end of cost -->",
)
FASR = (sys.executable, "-m", "fasr_video")


@dataclass(frozen=True, slots=True)
class Measured:
    seconds: float
    mib: float
    """Most that the batch and its workers held together."""


def variant(source: Path, path: Path, number: int) -> Path:
    """The same packets with another comment: another content of the same length and work."""
    with av.open(str(source)) as given, av.open(str(path), "w") as out:
        out.metadata["comment"] = f"file {number}"
        stream = given.streams.video[0]
        target = out.add_stream_from_template(stream)
        for packet in given.demux(stream):
            if packet.size:
                packet.stream = target
                out.mux(packet)
    return path


def make_archive(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        variant(SAMPLE, folder / f"clip{number:04d}.mp4", number)
    return folder


def make_gallery(folder: Path) -> Path:
    subprocess.run([*FASR, "gallery", "create", str(folder)], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(
        [*FASR, "gallery", "add", str(folder), str(MUGSHOTS)], check=True, stdout=subprocess.DEVNULL
    )
    return folder


def command(
    archive: Path, cases: Path, gallery: Path, fps: float, more: Sequence[str]
) -> list[str]:
    place = ["--out", str(cases), "--gallery", str(gallery)]
    return [*FASR, "batch", str(archive), *place, "--set", f"sampling.fps={fps:g}", "--json", *more]


def run(given: list[str], others: Sequence[int] = ()) -> Measured:
    """A batch to its end, watched from outside, with further processes that work for it."""
    began, most = time.monotonic(), 0.0
    with subprocess.Popen(given, stdout=subprocess.PIPE, text=True) as process:
        told: list[str] = []
        reader = threading.Thread(target=lambda: told.extend(process.stdout or ()))
        reader.start()
        while process.poll() is None:
            most = max(most, sum(resident(pid) for pid in (process.pid, *others)))
            time.sleep(EVERY)
        reader.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(given)} ended with {process.returncode}: {told[-3:]}")
    return Measured(time.monotonic() - began, most)


def results(cases: Path) -> dict[str, str]:
    """A hash of each case, by its folder."""
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
    """A scheduler and workers on the loopback: its address, and their process ids."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    dask = (sys.executable, "-m")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    parts = ["scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
    started = [subprocess.Popen([*dask, f"distributed.cli.dask_{parts[0]}", *parts[1:]], **quiet)]  # type: ignore[call-overload]
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
        wait_for(port)
        yield address, [p.pid for p in started]
    finally:
        for process in started:
            process.kill()
            process.wait()


def wait_for(port: int) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise SystemExit("the Dask scheduler did not come up")


def kill_at_random(given: list[str], longest: float, dice: random.Random) -> bool:
    """Start a batch and kill it within `longest` seconds; False when it was through before."""
    with subprocess.Popen(given, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            process.wait(dice.uniform(0.5, longest))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            return True
    return False


def survive(
    given: list[str], cases: Path, kills: int, longest: float
) -> tuple[int, list[dict[str, str]]]:
    """Batches killed at random times and gone on with, until there were `kills` of them; each round's results."""
    dice, done, rounds = random.Random(0), 0, []
    while done < kills:
        shutil.rmtree(cases, ignore_errors=True)
        while done < kills and kill_at_random(given, longest, dice):
            done += 1
        run(given)
        rounds.append(results(cases))
    return done, rounds


def fill_cost(text: str) -> None:
    """Into the place that docs/operations.md keeps for it."""
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
    parser.add_argument("--fps", type=float, default=2.0, help="frames a second that are looked at")
    parser.add_argument("--schedulers", nargs="+", default=["local-1", "processes-2", "dask-2"])
    args = parser.parse_args()
    given = f"--files {args.files} --minutes {args.minutes:g} --kills {args.kills} --kill-files {args.kill_files}"
    table = Table(
        "archive",
        f"An archive of {args.files} short files, and one of {args.minutes:g} minutes",
        f"`python benchmarks/archive.py {given} --fps {args.fps:g} --schedulers {' '.join(args.schedulers)}`",
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
        place = Path(name)
        gallery = make_gallery(place / "gallery")
        rate = short_files(table, place, gallery, args.files, args.fps, args.schedulers)
        long_file(table, place, gallery, args.minutes, args.fps)
        killed(table, place, gallery, args)
    table.note(
        f"Each short file is `{SAMPLE.name}` ({seconds_of(SAMPLE):.0f} s, {size_of(SAMPLE)}, two people) with a "
        f"comment of its own, the long one the same packets over and over; {args.fps:g} frames a second are looked at. "
        "Wall time begins with the command and ends with its summary. Memory is the most that the batch and its "
        "workers (with Dask: and the scheduler) held together, sampled twice a second. Cases are compared by every row "
        "of every table, without what differs by nature."
    )
    table.write()
    hours = 1000 / rate
    fill_cost(
        f"{hours:.0f} hours of one core for 1,000 hours of footage of {size_of(SAMPLE)} with two people always in "
        f"view, {args.fps:g} frames a second looked at, reconstructions and search included "
        "([measured](results/archive.md)); money is that times what a core hour costs you. Empty footage costs less, "
        "crowds more."
    )


def short_files(
    table: Table, place: Path, gallery: Path, count: int, fps: float, schedulers: Sequence[str]
) -> float:
    """One row a scheduler; returns seconds of footage a second of one process."""
    archive = make_archive(place / "short", count)
    footage = count * seconds_of(SAMPLE)
    first: dict[str, str] | None = None
    rate = 0.0
    for chosen in schedulers:
        scheduler, workers = chosen.partition("-")[0], int(chosen.partition("-")[2])
        cases = place / chosen
        if scheduler == "dask":
            with cluster(workers) as (address, pids):
                more = ["--scheduler", f"dask={address}"]
                measured = run(command(archive, cases, gallery, fps, more), pids)
        else:
            more = [
                "--scheduler",
                scheduler,
                *(["--workers", str(workers)] if scheduler == "processes" else []),
            ]
            measured = run(command(archive, cases, gallery, fps, more))
        found = results(cases)
        first = first or found
        speed = footage / measured.seconds
        if scheduler == "local":
            rate = speed
        add_row(table, f"{count} files", scheduler, workers, measured, speed, found == first)
    return rate


def long_file(table: Table, place: Path, gallery: Path, minutes: float, fps: float) -> None:
    archive = place / "long"
    archive.mkdir()
    film = repeat(SAMPLE, archive / "long.mp4", max(1, round(60 * minutes / seconds_of(SAMPLE))))
    footage, first = seconds_of(film), None
    part = f"{max(1.0, footage / 8):g}"
    for workers, cut in ((1, False), (2, True)):
        cases = place / f"long{workers}"
        more = ["--workers", str(workers), *(["--cut", part] if cut else [])]
        measured = run(command(archive, cases, gallery, fps, more))
        found = results(cases)
        first = first or found
        what = f"one file of {footage / 60:.1f} min" + (f", --cut {part}" if cut else "")
        add_row(
            table, what, "processes", workers, measured, footage / measured.seconds, found == first
        )


def killed(table: Table, place: Path, gallery: Path, args: argparse.Namespace) -> None:
    archive = make_archive(place / "killed", args.kill_files)
    plain = command(archive, place / "unbroken", gallery, args.fps, ["--workers", "1"])
    measured = run(plain)
    unbroken = results(place / "unbroken")
    broken = command(archive, place / "broken", gallery, args.fps, ["--workers", "1"])
    kills, rounds = survive(broken, place / "broken", args.kills, measured.seconds)
    same = sum(found == unbroken for found in rounds)
    table.note(
        f"Killed: a batch of {args.kill_files} files was killed (SIGKILL) {kills} times, each at a moment drawn from "
        f"the {measured.seconds:.0f} s that an unbroken one takes, and given again until it was through, {len(rounds)} "
        f"times over. All cases were those of the unbroken batch **{same} of {len(rounds)} times**."
    )


def add_row(
    table: Table,
    what: str,
    scheduler: str,
    workers: int,
    measured: Measured,
    speed: float,
    same: bool,
) -> None:
    numbers = [f"{measured.seconds:.0f}", f"{speed:.2f}", f"{measured.mib:.0f}"]
    table.row([what, scheduler, workers, *numbers, "yes" if same else "NO"])


if __name__ == "__main__":
    main()
