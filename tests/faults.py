"""Small real jobs that are cut, or refused by the machine, at each single step that writes.

    python -m tests.faults run,enrol,removal,review,batch [--faults kill,full] [--every 7] [--first 0]

A step is a statement that writes to a database, a file that is opened for writing, synced, renamed or removed, or a
folder that is made, in the job's own folder. Each try is a process of its own, forked from one that holds the models;
the fault comes just before step n, so that "after step n" is the try before step n + 1. Prints a line of JSON a try.

A power cut is simulated at its worst: `power, data` takes the content of each file that was not synced and leaves its
name; `power, names` takes each new, renamed or removed name whose folder was not synced; both take what a database said
was committed without syncing it.
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
from tests.fault_jobs import GONE, JOBS, QUICK, found, prepare, problems
from tests.fault_machine import Disk, content, jump_clock

FAULTS = ("kill", "power, data", "power, names", "full", "memory", "locked", "clock")
PATIENCE = 120.0  # seconds for one try


@dataclass
class Try:
    job: str
    fault: str
    step: int
    what: str = ""
    ended: str = ""
    """How the job ended under the fault: killed, told (in one line), done, memory; crashed and hung are failures."""
    wrong: list[str] = field(default_factory=list)
    """What did not hold afterwards; empty when it survived."""


@dataclass
class Bench:
    """Holds the models, and forks a process for everything else."""

    models: Models
    ground: Path
    """A prepared folder for each job."""

    def undisturbed(self, job: str) -> tuple[list[str], dict[str, Any]]:
        """The steps of a job, and what there is after it."""
        with _copied(self.ground / job) as folder:
            code, told, said = self._in_child(lambda tell: self._work(job, folder, None, 0, tell))
            assert code == 0, said
            steps = [t["step"] for t in told if "step" in t]
            return steps, self._looked_at(folder)

    def attempt(self, job: str, fault: str, step: int, expected: Mapping[str, Any]) -> Try:
        made = Try(job, fault, step)
        with _copied(self.ground / job) as folder:
            code, told, said = self._in_child(
                lambda tell: self._work(job, folder, fault, step, tell)
            )
            made.what = next((t["cut"] for t in told if "cut" in t), "")
            made.ended = _ENDS.get(code, "crashed")
            if made.ended in {"crashed", "hung"}:
                made.wrong.append(said.strip())
            if made.ended == "told" and "\n" in said:
                made.wrong.append(f"more than a line: {said}")
            held = {t["holds"]: t["content"] for t in told if "holds" in t}
            made.wrong += self._wrong(job, folder, held, expected)
        return made

    def _wrong(
        self, job: str, folder: Path, held: dict[str, str], expected: Mapping[str, Any]
    ) -> list[str]:
        """What does not hold after the fault, and what does not after the same command was given again."""

        def look(tell: Callable[[dict[str, Any]], None]) -> None:
            for path, digest in held.items():
                if not os.path.exists(path):
                    if job != "purge" and not os.path.exists(f"{path}.new"):
                        tell({"wrong": f"{path} is gone"})
                    continue
                with tempfile.TemporaryDirectory() as aside:  # opening it to read must not mend it
                    for end in ("", "-wal", "-journal"):
                        if os.path.exists(path + end):
                            shutil.copy(path + end, Path(aside, "db" + end))
                    if content(sqlite3.connect(Path(aside, "db"))) != digest:
                        tell(
                            {"wrong": f"{os.path.basename(path)} does not hold what was committed"}
                        )
            for said in problems(folder):
                tell({"wrong": f"after the fault: {said}"})

        def again(tell: Callable[[dict[str, Any]], None]) -> None:
            JOBS[job](folder, self.models)
            for said in problems(folder):
                tell({"wrong": f"when done again: {said}"})
            now = found(folder)
            for what in expected.keys() | now.keys():
                if expected.get(what) != now.get(what):
                    tell(
                        {
                            "wrong": f"{what} is another: {_difference(expected.get(what), now.get(what))}"
                        }
                    )
            if job == "removal":
                secret = (self.ground / "secret").read_bytes()
                left = traces.find_traces(
                    [p for p in folder.rglob("*") if p.is_file() and "in" not in p.parts], [secret]
                )
                if left.pieces:
                    tell({"wrong": f"{len(left.pieces)} pieces of what was removed are left"})

        wrong = []
        for act in (look, again):
            code, told, said = self._in_child(act)
            wrong += [t["wrong"] for t in told if "wrong" in t]
            if code:
                wrong.append(f"{act.__name__}: {said.strip() or _ENDS.get(code, code)}")
        return wrong

    def _looked_at(self, folder: Path) -> dict[str, Any]:
        code, told, said = self._in_child(
            lambda tell: tell({"found": found(folder), "problems": problems(folder)})
        )
        assert code == 0 and not told[-1]["problems"], said or told
        return dict(told[-1]["found"])

    def _work(
        self,
        job: str,
        folder: Path,
        fault: str | None,
        step: int,
        tell: Callable[[dict[str, Any]], None],
    ) -> None:
        if fault == "clock":
            jump_clock()
        else:
            Disk(folder, fault, step, tell).watch()
        JOBS[job](folder, self.models)

    @staticmethod
    def _in_child(
        do: Callable[[Callable[[dict[str, Any]], None]], None],
    ) -> tuple[int, list[dict[str, Any]], str]:
        """Exit code, what it told, and its last words."""
        with tempfile.TemporaryDirectory() as place:
            told, said = Path(place, "told"), Path(place, "said")
            child = os.fork()
            if child == 0:
                _end(do, told, said)
            until = time.monotonic() + PATIENCE
            while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
                if time.monotonic() > until:
                    os.kill(child, signal.SIGKILL)
                    os.waitpid(child, 0)
                    return HUNG, [], "it hung"
                time.sleep(0.005)
            lines = told.read_text().splitlines() if told.exists() else []
            words = said.read_text() if said.exists() else ""
            return os.waitstatus_to_exitcode(ended[1]), [json.loads(line) for line in lines], words


HUNG, TOLD, CRASHED, MEMORY = 99, 3, 4, 5
_ENDS = {0: "done", -signal.SIGKILL: "killed", TOLD: "told", MEMORY: "memory", HUNG: "hung"}


def _end(do: Callable[[Callable[[dict[str, Any]], None]], None], told: Path, said: Path) -> None:
    """Act in a forked child, and leave without its parent's goodbyes."""
    out = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    words = os.open(said, os.O_WRONLY | os.O_CREAT)
    code = 0
    try:
        do(lambda line: (os.write(out, json.dumps(line).encode() + b"\n"), None)[1])
    except FasrError as error:
        code = TOLD
        os.write(words, str(error).encode())
    except MemoryError:
        code = MEMORY
    except BaseException:
        code = CRASHED
        os.write(words, traceback.format_exc().encode())
    os._exit(code)


def _difference(a: Any, b: Any) -> str:
    if isinstance(a, str) and isinstance(b, str):
        a, b = a.splitlines(), b.splitlines()
    if isinstance(a, list) and isinstance(b, list):
        return f"missing {[x for x in a if x not in b][:2]}, new {[x for x in b if x not in a][:2]}"
    return f"{a!r:.100} and {b!r:.100}"


def warm_up() -> None:
    """What each forked process would otherwise load for itself, several times a try: a third of its time."""
    importlib.import_module("faiss")
    Pictures.init()
    for name in pages._TEMPLATES.list_templates():
        pages._TEMPLATES.get_template(name)


def open_bench(folder: Path, jobs: list[str]) -> Bench:
    warm_up()
    bench = Bench(open_models(QUICK), folder)
    for job in jobs:
        code, _, said = Bench._in_child(
            lambda tell, job=job: prepare(job, folder / job, bench.models)
        )  # type: ignore[misc]
        assert code == 0, said
    if "removal" in jobs:
        with Gallery.open(folder / "removal" / "gallery", read_only=True) as gallery:
            (folder / "secret").write_bytes(gallery.features_of([GONE])[GONE].tobytes())
    return bench


class _copied:
    """A copy of a prepared folder, at the same place each time: what is stored names it."""

    def __init__(self, ground: Path) -> None:
        self._ground, self._folder = ground, ground.parent / "work" / ground.name

    def __enter__(self) -> Path:
        shutil.rmtree(self._folder, ignore_errors=True)
        shutil.copytree(self._ground, self._folder)
        return self._folder

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def tries(
    bench: Bench, jobs: list[str], faults: list[str], every: int, first: int
) -> Iterator[Try]:
    """Each fault before every so manieth step of each job. A jumping clock has no step: it is one try."""
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
    torch.set_num_threads(
        1
    )  # a process that was forked waits forever for threads that it does not have
    jobs = args.jobs.split(",")
    faults = [f for f in FAULTS if f in args.faults]
    with tempfile.TemporaryDirectory() as place:
        bench = open_bench(Path(place), jobs)
        for made in tries(bench, jobs, faults, args.every, args.first):
            print(json.dumps(asdict(made)), flush=True)


if __name__ == "__main__":
    main()
