"""Where units are worked on: in this process, in processes of this machine, or on a Dask cluster.

All run the same function on the same orders. A scheduler takes orders while it has room, and gives back how each ended;
a worker that dies, or takes more memory than it may, is a failed try of its unit and is replaced.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any, Protocol

from fasr_video.archive.orders import End, Order, Outcome, Work
from fasr_video.errors import GPU_LOST, EnvironmentFailure, MissingExtra, UsageError

Tell = Callable[[Order, float], None]
Finished = tuple[Order, Outcome]
# Seconds between two looks at the workers' memory, and at a cluster's workers.
TICK = 0.5
# Seconds that a Dask scheduler has to answer.
ANSWER = 10


class Scheduler(Protocol):
    def room(self) -> int:
        """How many more orders it can use now."""
        ...

    def submit(self, order: Order) -> None: ...

    def wait(self, seconds: float) -> list[Finished]:
        """What has ended, after at most so many seconds (or the time that a unit takes, in this process)."""
        ...

    def close(self) -> None:
        """Stop whatever is at work; nothing done is lost."""
        ...


def refuse(who: str, outcome: Outcome) -> UsageError:
    return UsageError(
        who, outcome.text, "nothing done is lost: put it right and give the same command"
    )


class Local:
    """One after another, in this process."""

    def __init__(self, work: Work, tell: Tell) -> None:
        self._work, self._tell = work, tell
        self._orders: list[Order] = []

    def room(self) -> int:
        return 1 - len(self._orders)

    def submit(self, order: Order) -> None:
        self._orders.append(order)

    def wait(self, seconds: float) -> list[Finished]:
        if not self._orders:
            time.sleep(seconds)
            return []
        order = self._orders.pop()
        outcome = self._work(order, lambda share: self._tell(order, share))
        if outcome.end is End.UNFIT:
            raise refuse("this machine", outcome)
        return [(order, outcome)]

    def close(self) -> None:
        self._orders.clear()


@dataclass
class _Worker:
    process: Any
    pipe: Any
    order: Order | None = None
    killed_for: str | None = None


class Processes:
    """Workers on this machine: each imports everything afresh, with one thread, and ends when this process does."""

    def __init__(
        self,
        work: Work,
        tell: Tell,
        count: int,
        memory: int | None = None,
        gpus: Sequence[str] = (),
    ) -> None:
        """`memory` is the most that a worker may hold, in MB; worker k sees only GPU k of `gpus`, in turn."""
        self._work, self._tell, self._memory = work, tell, memory
        self._gpus = [gpus[k % len(gpus)] if gpus else None for k in range(count)]
        self._workers: list[_Worker | None] = [None] * count
        self._looked = 0.0

    def room(self) -> int:
        return sum(w is None or w.order is None for w in self._workers)

    def submit(self, order: Order) -> None:
        for k, worker in enumerate(self._workers):
            if worker is not None and worker.order is not None:
                continue  # dead or not: `_hear` says how its order ended
            if worker is None or not worker.process.is_alive():
                worker = self._workers[k] = self._start(k)
            worker.order = order
            with suppress(
                ConnectionError
            ):  # it died just now, which is heard as of any that dies at work
                worker.pipe.send(order)
            return
        raise AssertionError("no room")

    def wait(self, seconds: float) -> list[Finished]:
        until = time.monotonic() + seconds
        while True:
            busy = [w for w in self._workers if w is not None and w.order is not None]
            left = max(0.0, until - time.monotonic())
            connection.wait(
                [x for w in busy for x in (w.pipe, w.process.sentinel)], min(TICK, left)
            )
            found = [f for w in busy for f in self._hear(w)]
            self._limit_memory(busy)
            if found or time.monotonic() >= until:
                return found

    def close(self) -> None:
        for worker in filter(None, self._workers):
            worker.process.kill()
            worker.process.join()
            worker.pipe.close()
        self._workers = [None] * len(self._workers)

    def _start(self, k: int) -> _Worker:
        here, there = multiprocessing.Pipe()
        spawn = multiprocessing.get_context("spawn")
        process = spawn.Process(
            target=_serve, args=(there, self._work), name=f"fasr-video {k}", daemon=True
        )
        one = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
        with _environment(
            one | ({} if self._gpus[k] is None else {"CUDA_VISIBLE_DEVICES": str(self._gpus[k])})
        ):
            process.start()
        there.close()
        return _Worker(process, here)

    def _hear(self, worker: _Worker) -> list[Finished]:
        order = worker.order
        assert order is not None
        try:
            while worker.pipe.poll():
                said = worker.pipe.recv()
                if isinstance(said, Outcome):
                    worker.order = None
                    if said.end is End.UNFIT:
                        raise refuse("this machine", said)
                    if (
                        GPU_LOST in said.text
                    ):  # for good, in that process: a fresh one takes the next try
                        worker.process.kill()
                        worker.process.join()
                    return [(order, said)]
                self._tell(order, said)
        except (EOFError, ConnectionError):
            worker.process.join(TICK)
        if worker.process.is_alive():
            return []
        worker.order = None
        code = worker.process.exitcode or 0
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return [
            (
                order,
                Outcome(
                    End.FAILED, f"{order.path}: {worker.killed_for or f'its worker died ({how})'}"
                ),
            )
        ]

    def _limit_memory(self, busy: Sequence[_Worker]) -> None:
        if self._memory is None or time.monotonic() - self._looked < TICK:
            return
        self._looked = time.monotonic()
        for worker in busy:
            held = resident(worker.process.pid)
            if worker.order is not None and held > self._memory and worker.killed_for is None:
                worker.killed_for = (
                    f"its worker held {held} MB, and {self._memory} are allowed (--memory)"
                )
                worker.process.kill()


def _serve(pipe: Any, work: Work) -> None:
    """A worker process: orders in, shares and outcomes out, until the one who started it is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the first process decides
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    while True:
        try:
            order = pipe.recv()
        except EOFError:
            return
        pipe.send(work(order, pipe.send))


def resident(pid: int) -> int:
    """MB that a process holds; 0 where that cannot be known."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) // 1000 for line in lines if line.startswith("VmRSS:")), 0)


def machine_memory() -> int | None:
    """MB of this machine, or of the control group that it shares; None where nobody says."""
    found = []
    for path, unit in (("/proc/meminfo", 1000), ("/sys/fs/cgroup/memory.max", 1_000_000)):
        try:
            words = Path(path).read_text().split()
        except OSError:
            continue
        number = words[1] if path.startswith("/proc") else words[0]
        if number.isdigit():
            found.append(int(number) // unit)
    return min(found, default=None)


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Variables that a process started meanwhile inherits: its numeric libraries read them when they are imported."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class Dask:
    """The workers of a Dask scheduler that is there already; they may leave and join while it runs."""

    def __init__(self, work: Work, address: str, warn: Callable[[str], None]) -> None:
        try:
            from distributed import Client
        except ImportError as error:
            raise MissingExtra("distributed", "dist", "--scheduler dask=…") from error
        logging.getLogger("distributed").setLevel(
            logging.CRITICAL
        )  # what matters of it is said in our own lines
        self._work, self._address, self._warn = work, address, warn
        try:
            self._client: Any = Client(address, timeout=ANSWER, set_as_default=False)  # type: ignore[no-untyped-call]
        except (OSError, TimeoutError, ValueError) as error:
            remedy = "start one (dask scheduler), or give its address as tcp://HOST:8786"
            raise UsageError(
                f"--scheduler dask={address}", "no scheduler answers there", remedy
            ) from error
        self._orders: dict[Any, Order] = {}
        self._ended: queue.Queue[Any] = queue.Queue()
        self._problems: dict[str, str | None] = {}
        """Of the workers that were asked: why they cannot do units."""
        self._asked: tuple[str, str, str, str | None] | None = None
        self._questions: dict[Any, str] = {}
        """Workers that have not answered yet."""
        self._threads: dict[str, int] = {}
        """Of the workers that are there."""
        self._manned = True
        """Whether workers were there at the last look."""
        self._looked = 0.0

    def room(self) -> int:
        threads = sum(
            count for worker, count in self._threads.items() if self._problems.get(worker) is None
        )
        # One is at work, one waits: a worker never idles for our answer.
        return max(1, 2 * threads) - len(self._orders)

    def submit(self, order: Order) -> None:
        gallery = None if order.gallery is None else str(order.gallery)
        self._asked = (order.version, order.settings, str(order.case.parent), gallery)
        self._look_at_workers()
        fit = [w for w in self._threads if self._problems.get(w) is None]
        # Not more than a wish: those that are fit may leave, and others join.
        where = (
            {"workers": fit, "allow_other_workers": True} if len(fit) < len(self._threads) else {}
        )
        key = f"fasr-{os.urandom(8).hex()}"  # the same unit may come again
        future: Any = self._client.submit(_do, self._work, order, pure=False, key=key, **where)
        self._orders[future] = order
        future.add_done_callback(self._ended.put)

    def wait(self, seconds: float) -> list[Finished]:
        ended = []
        with suppress(queue.Empty):
            ended.append(self._ended.get(timeout=max(seconds, 0.01)))
            while True:
                ended.append(self._ended.get_nowait())
        found = [finished for future in ended for finished in self._result(future)]
        self._look_at_workers()
        return found

    def close(self) -> None:
        if self._client.status == "running":
            self._client.cancel([*self._orders, *self._questions], force=True)
        self._client.close(timeout=TICK)
        self._orders.clear()

    def _result(self, future: Any) -> list[Finished]:
        if future in self._questions:
            self._answered(self._questions.pop(future), future)
            return []
        order = self._orders.pop(future, None)
        if order is None:
            return []
        if future.cancelled():
            raise self._gone()
        try:
            worker, outcome = future.result(timeout=ANSWER)
        except CancelledError as error:
            raise self._gone() from error
        except Exception as error:
            if _is_lost(future):  # Dask has it done again
                self._orders[future] = order
                future.add_done_callback(self._ended.put)
                return []
            # Of a worker that died too often for Dask.
            text = f"{order.path}: {type(error).__name__}: {' '.join(str(error).split())}"
            return [(order, Outcome(End.FAILED, text))]
        if outcome.end is End.UNFIT:
            self._note(worker, outcome.text)
            self.submit(order)
            return []
        return [(order, outcome)]

    def _look_at_workers(self) -> None:
        """Workers that came since the last look are asked whether they can do units; those that left are forgotten."""
        if self._client.status != "running":
            raise self._gone()
        if self._asked is None or time.monotonic() - self._looked < TICK:
            return
        self._looked = time.monotonic()
        try:
            there = self._client.scheduler_info(n_workers=-1)["workers"]
        except (OSError, TimeoutError) as error:  # distributed's own CommClosedError is an OSError
            raise self._gone() from error
        self._threads = {worker: facts["nthreads"] for worker, facts in there.items()}
        if self._manned and not there:
            self._warn("no worker is there: units wait until one joins (dask worker ADDRESS)")
        self._manned = bool(there)
        self._problems = {w: p for w, p in self._problems.items() if w in there}
        for future in [f for f, w in self._questions.items() if w not in there]:
            del self._questions[future]
            future.cancel()
        for worker in set(there) - set(self._problems) - set(self._questions.values()):
            # As a task of that worker alone: what runs beside a worker's tasks keeps it from answering its scheduler.
            key = f"fasr-question-{os.urandom(8).hex()}"
            asked = self._client.submit(
                _question(*self._asked), pure=False, key=key, workers=[worker], priority=1
            )
            self._questions[asked] = worker
            asked.add_done_callback(self._ended.put)

    def _answered(self, worker: str, future: Any) -> None:
        if worker not in self._threads or future.cancelled():
            return
        try:
            problem = future.result(timeout=ANSWER)
        except CancelledError:
            return
        except Exception as error:
            if _is_lost(future):
                return  # asked again if it is still there
            problem = f"{type(error).__name__}: {' '.join(str(error).split())}"
        if problem is None:
            self._problems[worker] = None
        else:
            self._note(worker, problem)

    def _note(self, worker: str, problem: str) -> None:
        self._problems[worker] = problem
        self._warn(f"worker {worker} is left out: {problem}")
        if all(self._problems.get(w) for w in self._threads):
            raise refuse(f"worker {worker}", Outcome(End.UNFIT, problem))

    def _gone(self) -> EnvironmentFailure:
        remedy = "start it and give the same command: it goes on"
        return EnvironmentFailure(
            f"dask={self._address}", "the scheduler went away; what is done is safe", remedy
        )


def _is_lost(future: Any) -> bool:
    """Whether it is not the task that failed, but the way of its answer to us: its worker died with what it had to
    say, or the connection broke."""
    return bool(future.status != "error")


def _do(work: Work, order: Order) -> tuple[str, Outcome]:
    from distributed import get_worker

    return get_worker().address, work(order, lambda share: None)


def _question(
    version: str, settings: str, cases: str, gallery: str | None
) -> Callable[[], str | None]:
    """For a worker. A function within a function travels whole, so that it can be asked of one without fasr-video."""

    def answer() -> str | None:
        try:
            from fasr_video import __version__
        except ImportError:
            return "fasr-video is not installed there; install it"
        if __version__ != version:
            return f"it has fasr-video {__version__}, and the batch is {version}'s; install the same there"
        from fasr_video.archive.unit import unfit

        return unfit(version, settings, Path(cases), None if gallery is None else Path(gallery))

    return answer
