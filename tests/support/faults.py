"""Small real jobs that are killed, or get an error, just before a step that writes.

    python -m tests.support.faults run,enrol,removal,review,batch [--faults kill,full] [--every 7]

A step is a statement that writes to a database, a file that is opened for writing, synced, renamed
or removed, or a folder that is made, in the job's own folder. Each try runs in a process of its
own, forked from one that holds the models. The fault comes just before step n, so "after step n" is
the try before step n + 1. Prints a line of JSON for each try.

A power cut is simulated at its worst: `power, data` empties each file that was not synced and keeps
its name; `power, names` undoes each creation, renaming or removal of a name whose folder was not
synced; both undo what a database committed without syncing it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image as Pictures

from fasr_video.errors import FasrError
from fasr_video.gallery import traces
from fasr_video.gallery.gallery import Gallery
from fasr_video.pipeline.run import Models, open_models
from fasr_video.report import pages
from tests.support.fault_jobs import JOBS, QUICK, REMOVED, contents, prepare, problems
from tests.support.fault_machine import Disk, Send, database_hash, jump_clock

FAULTS = ("kill", "power, data", "power, names", "full", "memory", "locked", "clock")
PATIENCE = 120.0  # seconds for one try

# Exit codes of a child process.
HUNG = 99
REPORTED = 3
CRASHED = 4
MEMORY = 5
_ENDS = {
    0: "done",
    -signal.SIGKILL: "killed",
    REPORTED: "reported",
    MEMORY: "memory",
    HUNG: "hung",
}

# What a child process does; it is given a function that sends messages to its parent.
ChildWork = Callable[[Send], None]


@dataclass
class Try:
    job: str
    fault: str
    step: int
    what: str = ""
    """The step that the fault came before."""
    ended: str = ""
    """How the job ended: killed, reported (as a one-line error), done, memory; crashed and hung are
    failures."""
    wrong: list[str] = field(default_factory=list)
    """What was wrong afterwards; empty when the job survived."""


@dataclass
class Bench:
    """Holds the models, and forks a process for everything else."""

    models: Models
    prepared: Path
    """The folder with a prepared folder for each job."""

    def undisturbed(self, job: str) -> tuple[list[str], dict[str, Any]]:
        """Return the steps of a job, and the contents of its folder afterwards."""
        with _FreshCopy(self.prepared / job) as folder:
            code, messages, error = _in_child(
                lambda send: self._work(job, folder, None, 0, send=send)
            )
            assert code == 0, error
            steps = [message["step"] for message in messages if "step" in message]
            return steps, self._contents(folder)

    def attempt(self, job: str, fault: str, step: int, expected: Mapping[str, Any]) -> Try:
        """Run a job with a fault, then without it, and return what was wrong after either."""
        result = Try(job, fault, step)
        with _FreshCopy(self.prepared / job) as folder:
            code, messages, error = _in_child(
                lambda send: self._work(job, folder, fault, step, send=send)
            )
            result.what = next((message["cut"] for message in messages if "cut" in message), "")
            result.ended = _ENDS.get(code, "crashed")
            if result.ended in {"crashed", "hung"}:
                result.wrong.append(error.strip())
            if result.ended == "reported" and "\n" in error:
                result.wrong.append(f"more than a line: {error}")
            committed = {m["holds"]: m["content"] for m in messages if "holds" in m}
            result.wrong += self._wrong(job, folder, committed, expected)
        return result

    def _wrong(
        self, job: str, folder: Path, committed: dict[str, str], expected: Mapping[str, Any]
    ) -> list[str]:
        """Return what is wrong after the fault, and the job was repeated."""

        def check_fault(send: Send) -> None:
            _check_committed(job, committed, send)
            for problem in problems(folder):
                send({"wrong": f"after the fault: {problem}"})

        def repeat_job(send: Send) -> None:
            JOBS[job](folder, self.models)
            for problem in problems(folder):
                send({"wrong": f"when repeated: {problem}"})
            actual = contents(folder)
            for name in expected.keys() | actual.keys():
                if expected.get(name) != actual.get(name):
                    difference = _difference(expected.get(name), actual.get(name))
                    send({"wrong": f"{name} differs: {difference}"})
            if job == "removal":
                self._check_removed(folder, send)

        wrong = []
        for work in (check_fault, repeat_job):
            code, messages, error = _in_child(work)
            wrong += [message["wrong"] for message in messages if "wrong" in message]
            if code:
                wrong.append(f"{work.__name__}: {error.strip() or _ENDS.get(code, code)}")
        return wrong

    def _check_removed(self, folder: Path, send: Send) -> None:
        secret = (self.prepared / "secret").read_bytes()
        files = [path for path in folder.rglob("*") if path.is_file() and "in" not in path.parts]
        left = traces.find_traces(files, [secret])
        if left.pieces:
            send({"wrong": f"{len(left.pieces)} pieces of what was removed are left"})

    def _contents(self, folder: Path) -> dict[str, Any]:
        code, messages, error = _in_child(
            lambda send: send({"contents": contents(folder), "problems": problems(folder)})
        )
        assert code == 0 and not messages[-1]["problems"], error or messages
        return dict(messages[-1]["contents"])

    def _work(self, job: str, folder: Path, fault: str | None, step: int, *, send: Send) -> None:
        if fault == "clock":
            jump_clock()
        else:
            Disk(folder, fault, step, send).watch()
        JOBS[job](folder, self.models)


def _check_committed(job: str, committed: dict[str, str], send: Send) -> None:
    """Send a message for each database that does not hold what was committed before the fault."""
    for path, digest in committed.items():
        if not os.path.exists(path):
            if job != "purge" and not os.path.exists(f"{path}.new"):
                send({"wrong": f"{path} is gone"})
            continue
        # A copy, because opening a database may repair it.
        with tempfile.TemporaryDirectory() as copy:
            for end in ("", "-wal", "-journal"):
                if os.path.exists(path + end):
                    shutil.copy(path + end, Path(copy, "db" + end))
            if database_hash(sqlite3.connect(Path(copy, "db"))) != digest:
                send({"wrong": f"{os.path.basename(path)} does not hold what was committed"})


def _in_child(work: ChildWork) -> tuple[int, list[dict[str, Any]], str]:
    """Do something in a forked process; returns its exit code, its messages and its error."""
    with tempfile.TemporaryDirectory() as folder:
        messages = Path(folder, "messages")
        error = Path(folder, "error")
        child = os.fork()
        if child == 0:
            _work_and_exit(work, messages, error)
        until = time.monotonic() + PATIENCE
        while True:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                break
            if time.monotonic() > until:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return HUNG, [], "it hung"
            time.sleep(0.005)
        lines = messages.read_text().splitlines() if messages.exists() else []
        text = error.read_text() if error.exists() else ""
        return os.waitstatus_to_exitcode(status), [json.loads(line) for line in lines], text


def _work_and_exit(work: ChildWork, messages: Path, error: Path) -> None:
    """Work in a forked child, and exit without its parent's cleanup."""
    messages_file = os.open(messages, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    error_file = os.open(error, os.O_WRONLY | os.O_CREAT)

    def send(message: dict[str, Any]) -> None:
        os.write(messages_file, json.dumps(message).encode() + b"\n")

    code = 0
    try:
        work(send)
    except FasrError as raised:
        code = REPORTED
        os.write(error_file, str(raised).encode())
    except MemoryError:
        code = MEMORY
    except BaseException:
        code = CRASHED
        os.write(error_file, traceback.format_exc().encode())
    os._exit(code)


def _difference(expected: Any, actual: Any) -> str:
    if isinstance(expected, str) and isinstance(actual, str):
        expected = expected.splitlines()
        actual = actual.splitlines()
    if isinstance(expected, list) and isinstance(actual, list):
        missing = [line for line in expected if line not in actual]
        added = [line for line in actual if line not in expected]
        return f"missing {missing[:2]}, new {added[:2]}"
    return f"{expected!r:.100} and {actual!r:.100}"


def warm_up() -> None:
    """Load what each forked process would otherwise load for itself: a third of a try's time."""
    importlib.import_module("faiss")
    Pictures.init()
    for name in pages._TEMPLATES.list_templates():
        pages._TEMPLATES.get_template(name)


def open_bench(folder: Path, jobs: list[str]) -> Bench:
    warm_up()
    bench = Bench(open_models(QUICK), folder)
    for job in jobs:

        def prepare_job(send: Send, job: str = job) -> None:
            prepare(job, folder / job, bench.models)

        code, _, error = _in_child(prepare_job)
        assert code == 0, error
    if "removal" in jobs:
        with Gallery.open(folder / "removal" / "gallery", read_only=True) as gallery:
            (folder / "secret").write_bytes(gallery.features_of([REMOVED])[REMOVED].tobytes())
    return bench


class _FreshCopy:
    """A copy of a prepared folder, always at the same path: stored data contains the path."""

    def __init__(self, original: Path) -> None:
        self._original = original
        self._folder = original.parent / "work" / original.name

    def __enter__(self) -> Path:
        shutil.rmtree(self._folder, ignore_errors=True)
        shutil.copytree(self._original, self._folder)
        return self._folder

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def tries(
    bench: Bench, jobs: list[str], faults: list[str], every: int, *, first: int
) -> Iterator[Try]:
    """Try each fault before every nth step of each job. A jumping clock is one try of all steps."""
    for job in jobs:
        steps, expected = bench.undisturbed(job)
        print(f"{job}: {len(steps)} steps", file=sys.stderr)
        for fault in faults:
            chosen = [0] if fault == "clock" else range(first + 1, len(steps) + 2, every)
            if fault == "locked":
                chosen = [n for n in chosen if n <= len(steps) and steps[n - 1].startswith("BEGIN")]
            for n in chosen:
                yield bench.attempt(job, fault, n, expected)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("jobs")
    parser.add_argument(
        "--faults", default="kill,power, data,power, names,full,memory,locked,clock"
    )
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    args = parser.parse_args()
    # A forked process would wait for ever for threads that it does not have.
    torch.set_num_threads(1)
    jobs = args.jobs.split(",")
    faults = [fault for fault in FAULTS if fault in args.faults]
    with tempfile.TemporaryDirectory() as folder:
        bench = open_bench(Path(folder), jobs)
        for result in tries(bench, jobs, faults, args.every, first=args.first):
            print(json.dumps(asdict(result)), flush=True)


if __name__ == "__main__":
    main()
