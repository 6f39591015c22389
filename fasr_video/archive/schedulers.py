"""Where tasks run: in this process, in processes of this machine, or on a Dask cluster.

All call the same function with the same tasks. A scheduler takes tasks while it has room, and
returns how each ended. Where a worker dies, or takes more memory than it may, its task has failed
and the worker is replaced.
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

from fasr_video.archive.tasks import Outcome, RunTask, Status, Task
from fasr_video.errors import GPU_LOST, EnvironmentFailure, MissingExtra, UsageError

# Called now and then with the share of a task that is done.
OnTaskProgress = Callable[[Task, float], None]
Finished = tuple[Task, Outcome]
# Seconds between two checks of the workers' memory, and of a cluster's workers.
CHECK_INTERVAL = 0.5
# Seconds that a Dask scheduler has to answer.
ANSWER_SECONDS = 10


class Scheduler(Protocol):
    def room(self) -> int:
        """Return how many more tasks it can use now."""
        ...

    def submit(self, task: Task) -> None: ...

    def wait(self, seconds: float) -> list[Finished]:
        """Return the tasks that ended, after at most `seconds`.

        In this process it takes as long as a task does.
        """
        ...

    def close(self) -> None:
        """Stop the tasks that are running. What is done stays done."""
        ...


def unfit_error(worker: str, reason: str) -> UsageError:
    remedy = "correct that and give the same command: what is done stays done"
    return UsageError(worker, reason, remedy)


class Local:
    """Runs one task after another in this process."""

    def __init__(self, run_task: RunTask, on_progress: OnTaskProgress) -> None:
        self._run_task = run_task
        self._on_progress = on_progress
        self._tasks: list[Task] = []

    def room(self) -> int:
        return 1 - len(self._tasks)

    def submit(self, task: Task) -> None:
        self._tasks.append(task)

    def wait(self, seconds: float) -> list[Finished]:
        if not self._tasks:
            time.sleep(seconds)
            return []
        task = self._tasks.pop()
        outcome = self._run_task(task, lambda share: self._on_progress(task, share))
        if outcome.status is Status.UNFIT:
            raise unfit_error("this machine", outcome.message)
        return [(task, outcome)]

    def close(self) -> None:
        self._tasks.clear()


@dataclass
class _Worker:
    process: Any
    pipe: Any
    task: Task | None = None
    killed_for: str | None = None

    def stop(self) -> None:
        self.process.kill()
        self.process.join()


class Processes:
    """Worker processes on this machine.

    Each imports everything afresh, has one thread, and ends when this process does.
    """

    def __init__(
        self,
        run_task: RunTask,
        on_progress: OnTaskProgress,
        count: int,
        memory: int | None = None,
        *,
        gpus: Sequence[str] = (),
    ) -> None:
        """`memory` is the most that a worker may hold, in MB. The workers take `gpus` in turn."""
        self._run_task = run_task
        self._on_progress = on_progress
        self._memory = memory
        self._gpus = [gpus[k % len(gpus)] if gpus else None for k in range(count)]
        self._workers: list[_Worker | None] = [None] * count
        self._memory_checked = 0.0

    def room(self) -> int:
        return sum(worker is None or worker.task is None for worker in self._workers)

    def submit(self, task: Task) -> None:
        for k, worker in enumerate(self._workers):
            if worker is not None and worker.task is not None:
                continue  # busy, or dead and not yet noticed: `_receive` returns its task
            if worker is None or not worker.process.is_alive():
                worker = self._workers[k] = self._start(k)
            worker.task = task
            # Where the worker died just now, `_receive` notices, as of any that dies at work.
            with suppress(ConnectionError):
                worker.pipe.send(task)
            return
        raise AssertionError("no room")

    def wait(self, seconds: float) -> list[Finished]:
        until = time.monotonic() + seconds
        while True:
            busy = [w for w in self._workers if w is not None and w.task is not None]
            handles = [handle for w in busy for handle in (w.pipe, w.process.sentinel)]
            remaining = max(0.0, until - time.monotonic())
            connection.wait(handles, min(CHECK_INTERVAL, remaining))
            finished = [ended for worker in busy for ended in self._receive(worker)]
            self._limit_memory(busy)
            if finished or time.monotonic() >= until:
                return finished

    def close(self) -> None:
        for worker in filter(None, self._workers):
            worker.stop()
            worker.pipe.close()
        self._workers = [None] * len(self._workers)

    def _start(self, k: int) -> _Worker:
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(
            target=_serve, args=(theirs, self._run_task), name=f"fasr-video {k}", daemon=True
        )
        threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        variables = dict.fromkeys(threads, "1")
        gpu = self._gpus[k]
        if gpu is not None:
            variables["CUDA_VISIBLE_DEVICES"] = gpu
        with _environment(variables):
            process.start()
        theirs.close()
        return _Worker(process, ours)

    def _receive(self, worker: _Worker) -> list[Finished]:
        """Read what a busy worker sent; returns its task if that ended or the worker died."""
        task = worker.task
        assert task is not None
        try:
            while worker.pipe.poll():
                message = worker.pipe.recv()
                if isinstance(message, Outcome):
                    return self._finish(worker, task, message)
                self._on_progress(task, message)
        except (EOFError, ConnectionError):
            worker.process.join(CHECK_INTERVAL)
        if worker.process.is_alive():
            return []
        worker.task = None
        reason = worker.killed_for or f"its worker died ({_how_ended(worker.process)})"
        return [(task, Outcome(Status.FAILED, f"{task.path}: {reason}"))]

    def _finish(self, worker: _Worker, task: Task, outcome: Outcome) -> list[Finished]:
        worker.task = None
        if outcome.status is Status.UNFIT:
            raise unfit_error("this machine", outcome.message)
        if GPU_LOST in outcome.message:
            worker.stop()  # a process cannot get its GPU back; a new one does the next try
        return [(task, outcome)]

    def _limit_memory(self, busy: Sequence[_Worker]) -> None:
        if self._memory is None or time.monotonic() - self._memory_checked < CHECK_INTERVAL:
            return
        self._memory_checked = time.monotonic()
        for worker in busy:
            held = resident(worker.process.pid)
            if worker.task is not None and held > self._memory and worker.killed_for is None:
                worker.killed_for = (
                    f"its worker took {held} MB of memory; {self._memory} are allowed (--memory)"
                )
                worker.process.kill()


def _how_ended(process: Any) -> str:
    code = process.exitcode or 0
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _serve(pipe: Any, run_task: RunTask) -> None:
    """Run a worker process: receive tasks, send progress and outcomes, until its parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent decides
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        pipe.send(run_task(task, pipe.send))


def resident(pid: int) -> int:
    """Return how many MB a process holds; 0 where that cannot be found out."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    for line in lines:
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) // 1000
    return 0


def machine_memory() -> int | None:
    """Return the MB of memory of this machine, or of its control group; None if unknown."""
    sizes = []
    for path, per_mb in (("/proc/meminfo", 1000), ("/sys/fs/cgroup/memory.max", 1_000_000)):
        try:
            words = Path(path).read_text().split()
        except OSError:
            continue
        number = words[1] if path.startswith("/proc") else words[0]
        if number.isdigit():
            sizes.append(int(number) // per_mb)
    return min(sizes, default=None)


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for a process that is started within.

    Its numeric libraries read them when they are imported.
    """
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class Dask:
    """The workers of a running Dask scheduler. They may leave and join at any time.

    Each worker is first checked: a small task returns why it cannot do ours, or None.
    """

    def __init__(self, run_task: RunTask, address: str, warn: Callable[[str], None]) -> None:
        try:
            from distributed import Client
        except ImportError as error:
            raise MissingExtra("distributed", "dist", "--scheduler dask=…") from error
        # What matters of its log is in our own messages.
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        self._run_task = run_task
        self._address = address
        self._warn = warn
        try:
            self._client: Any = Client(  # type: ignore[no-untyped-call]
                address, timeout=ANSWER_SECONDS, set_as_default=False
            )
        except (OSError, TimeoutError, ValueError) as error:
            remedy = "start one (dask scheduler), or give its address as tcp://HOST:8786"
            raise UsageError(
                f"--scheduler dask={address}", "no scheduler answers there", remedy
            ) from error
        self._tasks: dict[Any, Task] = {}
        """The tasks that were submitted, by their futures."""
        self._ended: queue.Queue[Any] = queue.Queue()
        """Futures that ended, of tasks and of checks."""
        self._problems: dict[str, str | None] = {}
        """Of each worker that was checked: why it cannot do tasks."""
        self._requirements: tuple[str, str, str, str | None] | None = None
        """The arguments of a check."""
        self._checks: dict[Any, str] = {}
        """The workers that are being checked, by the futures of the checks."""
        self._threads: dict[str, int] = {}
        """The present workers and how many threads each has."""
        self._had_workers = True
        """Whether there were workers at the last check."""
        self._workers_checked = 0.0

    def room(self) -> int:
        fit = [worker for worker in self._threads if self._problems.get(worker) is None]
        threads = sum(self._threads[worker] for worker in fit)
        # One task runs and one waits for it, so that a worker never idles until we answer.
        return max(1, 2 * threads) - len(self._tasks)

    def submit(self, task: Task) -> None:
        gallery = None if task.gallery is None else str(task.gallery)
        self._requirements = (task.version, task.settings, str(task.case.parent), gallery)
        self._check_workers()
        fit = [worker for worker in self._threads if self._problems.get(worker) is None]
        options: dict[str, object] = {}
        if len(fit) < len(self._threads):
            # No more than a wish: fit workers may leave, and others join.
            options = {"workers": fit, "allow_other_workers": True}
        key = f"fasr-{os.urandom(8).hex()}"  # random: the same job may come a second time
        future: Any = self._client.submit(
            _run_on_worker, self._run_task, task, pure=False, key=key, **options
        )
        self._tasks[future] = task
        future.add_done_callback(self._ended.put)

    def wait(self, seconds: float) -> list[Finished]:
        ended = []
        with suppress(queue.Empty):
            ended.append(self._ended.get(timeout=max(seconds, 0.01)))
            while True:
                ended.append(self._ended.get_nowait())
        finished = [result for future in ended for result in self._result(future)]
        self._check_workers()
        return finished

    def close(self) -> None:
        if self._client.status == "running":
            self._client.cancel([*self._tasks, *self._checks], force=True)
        self._client.close(timeout=CHECK_INTERVAL)
        self._tasks.clear()

    def _result(self, future: Any) -> list[Finished]:
        if future in self._checks:
            self._finish_check(self._checks.pop(future), future)
            return []
        task = self._tasks.pop(future, None)
        if task is None:
            return []
        if future.cancelled():
            raise self._scheduler_gone()
        try:
            worker, outcome = future.result(timeout=ANSWER_SECONDS)
        except CancelledError as error:
            raise self._scheduler_gone() from error
        except Exception as error:
            if _is_lost(future):  # Dask runs it a second time
                self._tasks[future] = task
                future.add_done_callback(self._ended.put)
                return []
            # Its workers died too often for Dask.
            return [(task, Outcome(Status.FAILED, f"{task.path}: {_describe(error)}"))]
        if outcome.status is Status.UNFIT:
            self._exclude(worker, outcome.message)
            self.submit(task)
            return []
        return [(task, outcome)]

    def _check_workers(self) -> None:
        """Start checks of workers that are new, and forget those that left."""
        if self._client.status != "running":
            raise self._scheduler_gone()
        too_early = time.monotonic() - self._workers_checked < CHECK_INTERVAL
        if self._requirements is None or too_early:
            return
        self._workers_checked = time.monotonic()
        try:
            present = self._client.scheduler_info(n_workers=-1)["workers"]
        except (OSError, TimeoutError) as error:  # distributed's own CommClosedError is an OSError
            raise self._scheduler_gone() from error
        self._threads = {worker: info["nthreads"] for worker, info in present.items()}
        if self._had_workers and not present:
            self._warn("there are no workers: tasks wait until one joins (dask worker ADDRESS)")
        self._had_workers = bool(present)
        self._problems = {
            worker: problem for worker, problem in self._problems.items() if worker in present
        }
        for future in [f for f, worker in self._checks.items() if worker not in present]:
            del self._checks[future]
            future.cancel()
        for worker in set(present) - set(self._problems) - set(self._checks.values()):
            self._start_check(worker, self._requirements)

    def _start_check(self, worker: str, requirements: tuple[str, str, str, str | None]) -> None:
        # As a task of that worker alone: what runs beside a worker's tasks keeps it from answering
        # its scheduler.
        future = self._client.submit(
            _make_check(*requirements),
            pure=False,
            key=f"fasr-check-{os.urandom(8).hex()}",
            workers=[worker],
            priority=1,
        )
        self._checks[future] = worker
        future.add_done_callback(self._ended.put)

    def _finish_check(self, worker: str, future: Any) -> None:
        if worker not in self._threads or future.cancelled():
            return
        try:
            problem = future.result(timeout=ANSWER_SECONDS)
        except CancelledError:
            return
        except Exception as error:
            if _is_lost(future):
                return  # the worker is checked a second time if it is still there
            problem = _describe(error)
        if problem is None:
            self._problems[worker] = None
        else:
            self._exclude(worker, problem)

    def _exclude(self, worker: str, problem: str) -> None:
        """Give a worker no more tasks; raise where none is left that can do any."""
        self._problems[worker] = problem
        self._warn(f"worker {worker} gets no tasks: {problem}")
        if all(self._problems.get(present) for present in self._threads):
            raise unfit_error(f"worker {worker}", problem)

    def _scheduler_gone(self) -> EnvironmentFailure:
        return EnvironmentFailure(
            f"dask={self._address}",
            "the scheduler went away; what is done is safe",
            "start it and run the same command to continue",
        )


def _is_lost(future: Any) -> bool:
    """Return whether the answer was lost, and not the task itself failed.

    Then the worker died with its answer, or the connection broke.
    """
    return bool(future.status != "error")


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _run_on_worker(run_task: RunTask, task: Task) -> tuple[str, Outcome]:
    """Run a task on a Dask worker; returns the worker's address, too."""
    from distributed import get_worker

    return get_worker().address, run_task(task, lambda share: None)


def _make_check(
    version: str, settings: str, cases: str, gallery: str | None
) -> Callable[[], str | None]:
    """Return a function for a worker: it returns why the worker cannot do any task.

    A nested function is sent as a whole, so that it also runs where fasr-video is not installed.
    """

    def check() -> str | None:
        try:
            from fasr_video import __version__
        except ImportError:
            return "fasr-video is not installed there; install it"
        if __version__ != version:
            return (
                f"it has fasr-video {__version__}, but the batch runs {version};"
                " install the same version there"
            )
        from fasr_video.archive.worker import why_unfit

        return why_unfit(version, settings, Path(cases), None if gallery is None else Path(gallery))

    return check
