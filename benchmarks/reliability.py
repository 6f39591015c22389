"""How much it takes to break: faults at every write, mutated files, and a long run.

    python benchmarks/reliability.py [--parts faults,files,long] [--every 1] [--tries 500] [--hours 4] [--files 60]

Faults: small real jobs, cut before each step that writes, or refused by the machine there (tests/faults.py). Files:
each reader with so many mutated files (tests/fuzz.py). Long: a clip over and over, in many files, through one `batch`,
whose memory, file handles and threads, with those of its workers, are read from /proc. Each part has a page of its own.
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
from archive import FASR, variant
from footage import REPO, SAMPLE, repeat, seconds_of
from processes import family, status
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
EVERY = 2.0  # seconds between samples
MARKS = 12  # rows of the long run's table
# Share by which the last third of a long run may be above the middle one, and still be called flat.
GROWTH = {"mib": 0.05, "handles": 0.02, "threads": 0.02}


def told_by(module: str, *arguments: str) -> Iterator[dict[str, Any]]:
    """The lines of JSON that a module of the tests prints, as they come."""
    command = [sys.executable, "-m", f"tests.{module}", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPO) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                yield json.loads(line)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")


def tried(job: str, every: int, keep: Path) -> list[dict[str, Any]]:
    """What came of each try at a job; kept, so that hours of it can be stopped and gone on with at the next job."""
    kept = keep / f"{job}-{every}.json"
    if not kept.exists():
        keep.mkdir(parents=True, exist_ok=True)
        told = list(told_by("faults", job, "--every", str(every)))
        kept.write_text(json.dumps(told))
        print(
            f"{job}: {len(told)} tries, {sum(not made['wrong'] for made in told)} survived",
            flush=True,
        )
    return list(json.loads(kept.read_text()))


def faults(table: Table, every: int, workers: int, keep: Path) -> None:
    """A row for each job and fault; so many jobs at a time, each with its own processes and folders."""
    tries: Counter[tuple[str, str]] = Counter()
    survived: Counter[tuple[str, str]] = Counter()
    ends: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    with ThreadPoolExecutor(workers) as pool:
        told = list(pool.map(lambda job: tried(job, every, keep), JOBS))
    for made in chain.from_iterable(told):
        key = made["job"], made["fault"]
        tries[key] += 1
        survived[key] += not made["wrong"]
        ends[key][made["ended"]] += 1
        if made["wrong"]:
            what = f"{made['job']}, {made['fault']}, step {made['step']} ({made['what']}): {made['wrong'][0][:200]}"
            table.note(f"Did not survive: {' '.join(what.split())}")
    for job, fault in tries:
        ended = ", ".join(f"{n} {how}" for how, n in sorted(ends[job, fault].items()))
        table.row([job, FAULTS[fault], tries[job, fault], survived[job, fault], ended])
    table.row(["all", "", sum(tries.values()), sum(survived.values()), ""])


def files(table: Table, tries: int) -> None:
    """A row for each reader."""
    numbers = ("tries", "read", "refused", "traceback", "crashed", "hung", "memory")
    sums: Counter[str] = Counter()
    for tally in told_by("fuzz", "all", "--tries", str(tries)):
        sums.update({name: tally[name] for name in numbers})
        more = (f"{tally['most_mib']:.0f}", f"{tally['slowest']:.1f}", f"{tally['seconds']:.0f}")
        table.row([tally["reader"], *(tally[n] for n in numbers), *more])
        for wrong in tally["wrong"][:5]:
            table.note(f"{tally['reader']}, {' '.join(wrong.split())[:300]}")
    table.row(["all", *(sums[n] for n in numbers), "", "", ""])


@dataclass(frozen=True, slots=True)
class Sample:
    """A batch and its workers, at one moment."""

    seconds: float
    done: int
    """Files."""
    mib: float
    handles: int
    threads: int


def look(pid: int, began: float, done: int) -> Sample:
    mib = handles = threads = 0.0
    for process in family(pid):
        about = status(process)
        try:
            handles += len(list(Path(f"/proc/{process}/fd").iterdir()))
        except OSError:  # it has ended
            continue
        mib += int(about.get("VmRSS", "0 kB").split()[0]) / 1024
        threads += int(about.get("Threads", 0))
    return Sample(time.monotonic() - began, done, mib, int(handles), int(threads))


def watched(command: Sequence[str]) -> list[Sample]:
    """Samples of a batch from its first finished file to its last, taken from outside."""
    done: list[str] = []

    def hear(lines: Any) -> None:
        done.extend(line for line in lines if '"event": "done"' in line)

    began, samples = time.monotonic(), []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        listener = threading.Thread(target=hear, args=(process.stdout,))
        listener.start()
        while process.poll() is None:
            samples.append(look(process.pid, began, len(done)))
            time.sleep(EVERY)
        listener.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return [s for s in samples if s.done > 0]


def long_run(table: Table, hours: float, count: int, workers: int, fps: float) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, archive = Path(name), Path(name, "archive")
        archive.mkdir()
        times = max(1, round(3600 * hours / count / seconds_of(SAMPLE)))
        film = repeat(SAMPLE, folder / "long.mp4", times)
        length = seconds_of(film) * count / 3600
        for number in range(count):
            variant(film, archive / f"clip{number:04d}.mp4", number)
        more = [
            "--workers",
            str(workers),
            "--set",
            f"sampling.fps={fps:g}",
            "--set",
            "restore.method=none",
            "--json",
        ]
        samples = watched([*FASR, "batch", str(archive), "--out", str(folder / "cases"), *more])
    if len(samples) < 3:
        raise SystemExit(
            f"the batch was over after {len(samples)} samples: give more --hours or --files"
        )
    for k in np.unique(np.linspace(0, len(samples) - 1, MARKS).round().astype(int)):
        s = samples[k]
        table.row(
            [
                f"{s.seconds:.0f}",
                s.done,
                f"{length * s.done / count:.2f}",
                f"{s.mib:.0f}",
                s.handles,
                s.threads,
            ]
        )
    table.note(verdict(samples))
    table.note(
        f"`batch` over {count} files of {length / count * 60:.1f} minutes each, {length:.2f} hours of footage together "
        f"(`{SAMPLE.name}` over and over), {workers} workers, {fps:g} frames a second looked at. Its process and its "
        f"workers are read from /proc every {EVERY:g} s; memory is resident, what they share counted for each. The "
        "summary that a batch ends with is in it."
    )


def verdict(samples: Sequence[Sample]) -> str:
    """The middle third against the last one: what loads once has loaded by then."""
    third = len(samples) // 3
    said = []
    for what, share in GROWTH.items():
        values = np.array([getattr(s, what) for s in samples], float)
        middle, last = np.median(values[third : 2 * third]), np.median(values[2 * third :])
        flat = last <= middle * (1 + share) + (1 if what != "mib" else 0)
        said.append(f"{what} {middle:.0f} → {last:.0f} ({'flat' if flat else 'GROWS'})")
    return f"Median of the middle third → of the last: **{', '.join(said)}**."


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", default="faults,files,long")
    parser.add_argument(
        "--every", type=int, default=1, help="try the faults before every so manieth step"
    )
    parser.add_argument("--tries", type=int, default=500, help="mutated files a reader")
    parser.add_argument("--hours", type=float, default=4.0, help="of footage")
    parser.add_argument("--files", type=int, default=60, help="in which the footage lies")
    parser.add_argument(
        "--workers", type=int, default=1, help="of the long run; jobs at a time that are cut"
    )
    parser.add_argument("--fps", type=float, default=1.0, help="frames a second that are looked at")
    parser.add_argument(
        "--keep",
        type=Path,
        default=REPO / "runs" / "faults",
        help="tries so far; empty it for new code",
    )
    parser.add_argument(
        "--print", action="store_true", help="show the page, and leave docs/results as it is"
    )
    args = parser.parse_args()
    parts = args.parts.split(",")
    chosen = (
        f"--every {args.every} --tries {args.tries} --hours {args.hours:g} --files {args.files}"
    )
    chosen += f" --workers {args.workers} --fps {args.fps:g}"
    made = "`python benchmarks/reliability.py --parts {} " + chosen + "`"
    tables = []
    if "faults" in parts:
        columns = ["job", "fault", "tries", "survived", "how the job ended"]
        title = "Faults at each write: tries and survivals"
        tables.append(Table("reliability_faults", title, made.format("faults"), columns))
        faults(tables[-1], args.every, args.workers, args.keep)
        tables[-1].note(FAULTS_NOTE)
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
        tables.append(Table("reliability_files", "Mutated files", made.format("files"), columns))
        files(tables[-1], args.tries)
        tables[-1].note(FILES_NOTE)
    if "long" in parts:
        columns = [
            "wall time, s",
            "files done",
            "hours of footage done",
            "memory, MiB",
            "file handles",
            "threads",
        ]
        tables.append(Table("reliability_long", "A long run", made.format("long"), columns))
        long_run(tables[-1], args.hours, args.files, args.workers, args.fps)
    for table in tables:
        if args.print:
            print(table.text())
        else:
            table.write()


FAULTS_NOTE = (
    "A try has survived when after it every database opens and holds, row by row, what was last committed, `verify` "
    "and `gallery check` find nothing, no error was more than a line, and the same command then ends with the rows and "
    "files of an undisturbed run (after a removal: with no piece of the removed vector in any file). Steps are "
    "statements that write to a database, and files opened for writing, synced, renamed and removed; what happens "
    "inside of SQLite's own commit is SQLite's to keep. Power cuts are simulated: what was not synced is taken away. "
    "Ended: killed, reported (one line), done (the job got over it), memory (one line from the command line), "
    "crashed or hung."
)
FILES_NOTE = (
    "Each try mutates a good file by its own fixed seed: flipped bits, cuts, doubled and removed blocks, absurd "
    "lengths, spliced numbers; `cells` puts one wrong value into a whole database. A process of its own reads it, with "
    "2 GiB more than it has at the start and 60 s. Read or refused by one line is right; all else is counted beside. "
    "A native decoder that crashes would end that process: in a `batch` it is a failed try of that file alone."
)


if __name__ == "__main__":
    main()
