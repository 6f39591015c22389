"""Robustness: faults at every write, mutated files, and a long run.

    python benchmarks/reliability.py [--parts faults,files,long] [--every 1] [--tries 500]
                                     [--hours 4] [--files 60]

Faults: small real jobs get a fault before each step that writes (tests/support/faults.py). Files: each
reader reads --tries mutated files (tests/support/fuzz.py). Long: one `batch` over many files of the same
clip, with the memory, file handles and threads of it and its workers, from /proc. Each part has its
own page.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from archive import FASR, copy_with_comment
from footage import REPO, SAMPLE, repeat, seconds_of
from processes import process_tree, read_status
from results import Table

JOBS = (  # the longest first, so that the last of them does not keep everybody waiting
    *("batch", "run", "sealed", "stage", "purge", "migration", "removal", "enrol"),
    *("links", "review", "signoff", "pictures"),
)
FAULTS = {
    "kill": "kill -9",
    "power, data": "power cut, unsynced content lost",
    "power, names": "power cut, unsynced names lost",
    "full": "disk full from there on",
    "memory": "out of memory there",
    "locked": "database locked there",
    "clock": "clock jumps by days, back and forth",
}
SAMPLE_EVERY = 2.0  # seconds between samples
TABLE_ROWS = 12  # rows of the long run's table
# Share by which the last third of a long run may be above the middle one, and still be called flat.
GROWTH = {"mib": 0.05, "handles": 0.02, "threads": 0.02}


def run_module(module: str, *arguments: str) -> Iterator[dict[str, Any]]:
    """Yield the lines of JSON that a module of the tests prints."""
    command = [sys.executable, "-m", f"tests.{module}", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPO) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                yield json.loads(line)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")


def run_faults(job: str, every: int, keep: Path) -> list[dict[str, Any]]:
    """Return the result of each try at a job.

    Results are stored, so that a run of hours can be stopped and continued with the next job.
    """
    results_file = keep / f"{job}-{every}.json"
    if not results_file.exists():
        keep.mkdir(parents=True, exist_ok=True)
        results = list(run_module("faults", job, "--every", str(every)))
        results_file.write_text(json.dumps(results))
        print(
            f"{job}: {len(results)} tries, {sum(not result['wrong'] for result in results)} "
            "survived",
            flush=True,
        )
    return list(json.loads(results_file.read_text()))


def add_fault_rows(table: Table, every: int, workers: int, keep: Path) -> None:
    """Add a row for each job and fault; several jobs run at a time, each with its own folders."""
    tries: Counter[tuple[str, str]] = Counter()
    survived: Counter[tuple[str, str]] = Counter()
    ends: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    with ThreadPoolExecutor(workers) as pool:
        results = list(pool.map(lambda job: run_faults(job, every, keep), JOBS))
    for result in chain.from_iterable(results):
        key = result["job"], result["fault"]
        tries[key] += 1
        survived[key] += not result["wrong"]
        ends[key][result["ended"]] += 1
        if result["wrong"]:
            message = (
                f"{result['job']}, {result['fault']}, step {result['step']} ({result['what']}): "
                f"{result['wrong'][0][:200]}"
            )
            table.add_note(f"Did not survive: {' '.join(message.split())}")
    for job, fault in tries:
        ended = ", ".join(f"{n} {how}" for how, n in sorted(ends[job, fault].items()))
        table.add_row([job, FAULTS[fault], tries[job, fault], survived[job, fault], ended])
    table.add_row(["all", "", sum(tries.values()), sum(survived.values()), ""])


def add_file_rows(table: Table, tries: int) -> None:
    """Add a row for each reader."""
    numbers = ("tries", "read", "refused", "traceback", "crashed", "hung", "memory")
    sums: Counter[str] = Counter()
    for tally in run_module("fuzz", "all", "--tries", str(tries)):
        sums.update({name: tally[name] for name in numbers})
        more = (f"{tally['most_mib']:.0f}", f"{tally['slowest']:.1f}", f"{tally['seconds']:.0f}")
        table.add_row([tally["reader"], *(tally[n] for n in numbers), *more])
        for wrong in tally["wrong"][:5]:
            table.add_note(f"{tally['reader']}, {' '.join(wrong.split())[:300]}")
    table.add_row(["all", *(sums[n] for n in numbers), "", "", ""])


@dataclass(frozen=True, slots=True)
class Sample:
    """What a batch and its workers use at one moment."""

    seconds: float
    done: int
    """Files."""
    mib: float
    handles: int
    threads: int


def sample_processes(pid: int, start: float, done: int) -> Sample:
    """Return what a process and those that it started use now."""
    mib = handles = threads = 0.0
    for process in process_tree(pid):
        facts = read_status(process)
        try:
            handles += len(list(Path(f"/proc/{process}/fd").iterdir()))
        except OSError:  # it has ended
            continue
        mib += int(facts.get("VmRSS", "0 kB").split()[0]) / 1024
        threads += int(facts.get("Threads", 0))
    return Sample(time.monotonic() - start, done, mib, int(handles), int(threads))


def sample_batch(command: Sequence[str]) -> list[Sample]:
    """Return samples of a batch from its first finished file to its last."""
    done: list[str] = []

    def collect_finished(lines: Any) -> None:
        done.extend(line for line in lines if '"event": "done"' in line)

    start, samples = time.monotonic(), []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        listener = threading.Thread(target=collect_finished, args=(process.stdout,))
        listener.start()
        while process.poll() is None:
            samples.append(sample_processes(process.pid, start, len(done)))
            time.sleep(SAMPLE_EVERY)
        listener.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return [s for s in samples if s.done > 0]


def add_long_run_rows(table: Table, hours: float, count: int, workers: int, *, fps: float) -> None:
    """Run a batch over hours of footage and add rows of its memory, handles and threads."""
    with tempfile.TemporaryDirectory() as name:
        folder, archive = Path(name), Path(name, "archive")
        archive.mkdir()
        times = max(1, round(3600 * hours / count / seconds_of(SAMPLE)))
        film = repeat(SAMPLE, folder / "long.mp4", times)
        length = seconds_of(film) * count / 3600
        for number in range(count):
            copy_with_comment(film, archive / f"clip{number:04d}.mp4", number)
        options = [
            "--workers",
            str(workers),
            "--set",
            f"sampling.fps={fps:g}",
            "--set",
            "restore.method=none",
            "--json",
        ]
        samples = sample_batch(
            [*FASR, "batch", str(archive), "--out", str(folder / "cases"), *options]
        )
    if len(samples) < 3:
        raise SystemExit(
            f"the batch ended after {len(samples)} samples: give more --hours or --files"
        )
    for k in np.unique(np.linspace(0, len(samples) - 1, TABLE_ROWS).round().astype(int)):
        sample = samples[k]
        table.add_row(
            [
                f"{sample.seconds:.0f}",
                sample.done,
                f"{length * sample.done / count:.2f}",
                f"{sample.mib:.0f}",
                sample.handles,
                sample.threads,
            ]
        )
    table.add_note(describe_growth(samples))
    table.add_note(
        f"`batch` over {count} files of {length / count * 60:.1f} minutes each, {length:.2f} "
        f"hours of footage together (`{SAMPLE.name}` over and over), {workers} workers, {fps:g} "
        "frames a second analysed. Its process and its workers are read from /proc every "
        f"{SAMPLE_EVERY:g} s; memory is resident, and shared memory counts for each of them. The "
        "batch's final summary is included."
    )


def describe_growth(samples: Sequence[Sample]) -> str:
    """Return the medians of the middle and the last third in words.

    What is loaded once is loaded by then.
    """
    third = len(samples) // 3
    parts = []
    for what, share in GROWTH.items():
        values = np.array([getattr(s, what) for s in samples], float)
        middle, last = np.median(values[third : 2 * third]), np.median(values[2 * third :])
        flat = last <= middle * (1 + share) + (1 if what != "mib" else 0)
        parts.append(f"{what} {middle:.0f} → {last:.0f} ({'flat' if flat else 'GROWS'})")
    return f"Median of the middle third → of the last: **{', '.join(parts)}**."


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", default="faults,files,long")
    parser.add_argument("--every", type=int, default=1, help="try the faults before every nth step")
    parser.add_argument("--tries", type=int, default=500, help="mutated files a reader")
    parser.add_argument("--hours", type=float, default=4.0, help="of footage")
    parser.add_argument("--files", type=int, default=60, help="that hold the footage")
    parser.add_argument(
        "--workers", type=int, default=1, help="of the long run; jobs at a time that are cut"
    )
    parser.add_argument("--fps", type=float, default=1.0, help="frames a second that are analysed")
    parser.add_argument(
        "--keep",
        type=Path,
        default=REPO / "runs" / "faults",
        help="tries so far; empty it for new code",
    )
    parser.add_argument(
        "--print", action="store_true", help="print the page, and do not change docs/results"
    )
    args = parser.parse_args()
    parts = args.parts.split(",")
    options = (
        f"--every {args.every} --tries {args.tries} --hours {args.hours:g} --files {args.files}"
    )
    options += f" --workers {args.workers} --fps {args.fps:g}"
    command = "`python benchmarks/reliability.py --parts {} " + options + "`"
    tables = []
    if "faults" in parts:
        columns = ["job", "fault", "tries", "survived", "how the job ended"]
        title = "Faults at each write: tries and survivals"
        tables.append(Table("reliability_faults", title, command.format("faults"), columns))
        add_fault_rows(tables[-1], args.every, args.workers, args.keep)
        tables[-1].add_note(FAULTS_NOTE)
    if "files" in parts:
        columns = [
            "reader",
            "tries",
            "read",
            "refused",
            "traceback",
            "crashed",
            "hung",
            "over 2 GiB",
        ]
        columns += ["most MiB above start", "slowest, s", "all, s"]
        tables.append(Table("reliability_files", "Mutated files", command.format("files"), columns))
        add_file_rows(tables[-1], args.tries)
        tables[-1].add_note(FILES_NOTE)
    if "long" in parts:
        columns = [
            "wall time, s",
            "files done",
            "hours of footage done",
            "memory, MiB",
            "file handles",
            "threads",
        ]
        tables.append(Table("reliability_long", "A long run", command.format("long"), columns))
        add_long_run_rows(tables[-1], args.hours, args.files, args.workers, fps=args.fps)
    for table in tables:
        if args.print:
            print(table.text())
        else:
            table.write()


FAULTS_NOTE = (
    "A try has survived when after it every database opens and holds, row by row, what was last "
    "committed, `verify` and `gallery check` find nothing, no error was more than a line, and the "
    "same command then ends with the rows and files of an undisturbed run (after a removal: with "
    "no piece of the removed vector in any file). Steps are statements that write to a database, "
    "and files opened for writing, synced, renamed and removed; what happens inside of SQLite's "
    "own commit is SQLite's to keep. Power cuts are simulated: what was not synced is lost. "
    "Ended: killed, reported (one line), done (the job overcame it), memory (one line from the "
    "command line), crashed or hung."
)
FILES_NOTE = (
    "Each try mutates a good file by its own fixed seed: flipped bits, cuts, doubled and removed "
    "blocks, absurd lengths, spliced numbers; `cells` puts one wrong value into a whole database. "
    "A process of its own reads it, with 2 GiB more than it has at the start and 60 s. Read or "
    "refused by one line is right; all else is counted beside. A native decoder that crashes would "
    "end that process: in a `batch` it is a failed try of that file alone."
)


if __name__ == "__main__":
    main()
