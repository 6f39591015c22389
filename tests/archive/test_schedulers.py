"""Every scheduler makes the same cases; workers that die or grow too large are replaced."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fasr_video import __version__
from fasr_video.archive import schedulers
from fasr_video.archive.canonical import digest
from fasr_video.archive.ledger import Ledger
from fasr_video.archive.schedulers import Dask, Local, Processes, machine_memory, resident
from fasr_video.archive.tasks import Task
from fasr_video.archive.worker import run_task
from fasr_video.case.case import Case
from fasr_video.case.recording import Recording
from fasr_video.configs import settings as configs
from fasr_video.errors import EnvironmentFailure, MissingExtra, UsageError
from tests.support.archives import run_batch, write_files
from tests.support.paths import ROOT
from tests.support.quick_tasks import copy_content, report_environment, report_unfit, use_memory


def ignore_progress(task: Task, share: float) -> None:
    return None


def test_several_processes_make_the_same_cases_as_one(tmp_path: Path) -> None:
    archive = write_files(tmp_path / "in", a="1", b="2", c="bad")
    scheduler = Processes(copy_content, ignore_progress, 2)
    _, jobs = run_batch(archive, tmp_path / "two", scheduler=scheduler)
    scheduler.close()
    _, alone = run_batch(archive, tmp_path / "one")
    assert [(job.folder, job.state, job.summary) for job in jobs] == [
        (job.folder, job.state, job.summary) for job in alone
    ]


def test_a_worker_that_dies_is_replaced_and_counts_as_a_try_of_its_job(tmp_path: Path) -> None:
    archive = write_files(tmp_path / "in", a="killer", b="good")
    scheduler = Processes(copy_content, ignore_progress, 1)
    events, jobs = run_batch(archive, tmp_path / "cases", scheduler=scheduler)
    scheduler.close()
    assert {job.folder[0]: (job.state, job.tries) for job in jobs} == {
        "a": ("done", 2),
        "b": ("done", 1),
    }
    assert "signal 9" in next(n.text for n in events.notes if n.event == "retry")


def task_for(folder: Path, content: str) -> Task:
    text = write_files(folder, **{content: content}) / f"{content}.mp4"
    return Task(1, text, "", 1, 1, folder / f"case of {content}", "{}", None, Recording())


def task_results(scheduler: Processes, count: int) -> dict[str, str]:
    """Return how the tasks ended: the message, or else the status, by the file's name."""
    ended: dict[str, str] = {}
    until = time.monotonic() + 60
    while len(ended) < count:
        assert time.monotonic() < until, f"only {ended} ended"
        ended |= {
            task.path.stem: outcome.message or str(outcome.status)
            for task, outcome in scheduler.wait(0.1)
        }
    return ended


def test_the_task_of_a_dead_worker_is_not_lost_when_another_task_is_submitted(
    tmp_path: Path,
) -> None:
    with closing(Processes(copy_content, ignore_progress, 2)) as scheduler:
        scheduler.submit(task_for(tmp_path, "killer"))
        (dying,) = multiprocessing.active_children()
        dying.join(60)  # as while the next large file is hashed
        scheduler.submit(task_for(tmp_path, "good"))
        ended = task_results(scheduler, 2)
    assert ended["good"] == "done" and ended["killer"].endswith("its worker died (signal 9)")


def test_a_worker_that_dies_idle_is_replaced(tmp_path: Path) -> None:
    with closing(Processes(copy_content, ignore_progress, 1)) as scheduler:
        for content in ("1", "2"):
            scheduler.submit(task_for(tmp_path, content))
            assert task_results(scheduler, 1) == {content: "done"}
            (idle,) = multiprocessing.active_children()
            idle.kill()
            idle.join(60)


def test_a_task_fails_when_its_worker_dies_just_as_it_is_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Processes(copy_content, ignore_progress, 1)) as scheduler:
        scheduler.submit(task_for(tmp_path, "1"))
        assert task_results(scheduler, 1) == {"1": "done"}
        (idle,) = multiprocessing.active_children()

        def die_after_this_check() -> bool:
            monkeypatch.undo()
            idle.kill()
            idle.join(60)
            return True

        monkeypatch.setattr(idle, "is_alive", die_after_this_check)
        scheduler.submit(task_for(tmp_path, "2"))
        assert task_results(scheduler, 1)["2"].endswith("its worker died (signal 9)")
        scheduler.submit(task_for(tmp_path, "3"))
        assert task_results(scheduler, 1) == {"3": "done"}


def test_a_worker_that_takes_too_much_memory_is_killed_with_that_reason(tmp_path: Path) -> None:
    archive = write_files(tmp_path / "in", a="greedy", b="modest")
    scheduler = Processes(use_memory, ignore_progress, 1, memory=300)
    _, jobs = run_batch(archive, tmp_path / "cases", scheduler=scheduler, retries=0)
    scheduler.close()
    assert {job.folder[0]: job.state for job in jobs} == {"a": "failed", "b": "done"}
    assert "--memory" in (jobs[0].error or "")
    assert (machine_memory() or 0) > resident(os.getpid()) > 10


def test_each_worker_has_one_thread_and_its_own_gpu(tmp_path: Path) -> None:
    shares: list[float] = []
    scheduler = Processes(
        report_environment, lambda task, share: shares.append(share), 1, gpus=["3"]
    )
    before = dict(os.environ)
    _, (job,) = run_batch(
        write_files(tmp_path / "in", a="1"), tmp_path / "cases", scheduler=scheduler
    )
    scheduler.close()
    assert job.summary["OMP_NUM_THREADS"] == "1" and job.summary["CUDA_VISIBLE_DEVICES"] == "3"
    assert shares == [0.5] and dict(os.environ) == before


def keep_busy(archive: Path, cases: Path) -> None:
    run_batch(archive, cases, scheduler=Processes(copy_content, ignore_progress, 1))


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    archive, cases = write_files(tmp_path / "in", a="slow"), tmp_path / "cases"
    owner = multiprocessing.get_context("fork").Process(target=keep_busy, args=(archive, cases))
    owner.start()
    assert owner.pid is not None
    while not list(cases.glob("a-*/tries")):
        time.sleep(0.02)
    children = Path(f"/proc/{owner.pid}/task/{owner.pid}/children").read_text().split()
    workers = [int(c) for c in children if b"spawn_main" in Path(f"/proc/{c}/cmdline").read_bytes()]
    assert workers
    owner.kill()
    owner.join()
    until = time.monotonic() + 20
    while any(_alive(pid) for pid in workers):
        assert time.monotonic() < until
        time.sleep(0.02)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_without_models_a_batch_stops_with_one_line(tmp_path: Path) -> None:
    archive = write_files(tmp_path / "in", a="1", b="2")
    with pytest.raises(UsageError, match=r"this machine: detector\.safetensors: missing"):
        run_batch(archive, tmp_path / "cases", report_unfit)
    _, jobs = run_batch(archive, tmp_path / "cases")
    assert [(job.state, job.tries) for job in jobs] == [("done", 1), ("done", 1)]


# Dask.


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        processes=False,
        dashboard_address=None,
        protocol="tcp",
        host="127.0.0.1",
    ) as started:
        yield started


@pytest.mark.slow
def test_a_cluster_makes_the_same_cases_to_the_byte(
    cluster: Any, entrance: Path, tmp_path: Path
) -> None:
    archive = write_files(tmp_path / "in", b="no film")
    shutil.copy(entrance, archive / "a.mp4")
    _, here = run_batch(archive, tmp_path / "here", scheduler=Local(run_task, ignore_progress))
    scheduler = Dask(run_task, cluster.scheduler_address, print)
    _, there = run_batch(archive, tmp_path / "there", scheduler=scheduler)
    scheduler.close()
    assert [(job.folder, job.state, job.summary, job.error) for job in there] == [
        (job.folder, job.state, job.summary, job.error) for job in here
    ]
    digests = set()
    for cases in ("here", "there"):
        with Case.open(tmp_path / cases / here[0].folder, read_only=True) as case:
            digests.add(digest(case))
    assert len(digests) == 1


def test_a_missing_dask_scheduler_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr(schedulers, "ANSWER_SECONDS", 1)
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(UsageError, match="no scheduler answers there"):
            Dask(copy_content, f"tcp://127.0.0.1:{taken.getsockname()[1]}", print)


def test_without_the_dist_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingExtra, match=r"fasr-video\[dist\]"):
        Dask(copy_content, "tcp://127.0.0.1:1", print)


@pytest.mark.parametrize(
    ("version", "cases", "weights", "expected"),
    [
        ("0.0.0", ".", "null", "the batch runs 0.0.0; install the same version there"),
        (__version__, "nowhere", "null", "mount it under the same path"),
        (__version__, ".", "not_there.safetensors", "not_there.safetensors"),
    ],
    ids=["another version", "cases not seen", "without the models"],
)
def test_a_worker_that_cannot_do_tasks_is_excluded_by_name(
    version: str, cases: str, weights: str, expected: str, cluster: Any, tmp_path: Path
) -> None:
    text = write_files(tmp_path, a="1") / "a.mp4"
    settings = configs.load(
        "cpu", ("detect.backend=builtin", f"detect.weights={weights}")
    ).model_dump_json()
    task = Task(
        1, text, "", 1, 1, tmp_path / cases / "case", settings, None, Recording(), version=version
    )
    scheduler = Dask(run_task, cluster.scheduler_address, print)
    with pytest.raises(UsageError, match=expected) as raised:
        scheduler.submit(task)
        for _ in range(600):
            scheduler.wait(0.1)
    scheduler.close()
    (worker,) = cluster.scheduler_info["workers"]
    assert worker in str(raised.value) and "what is done stays done" in str(raised.value)


def dask(*arguments: str) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        f"distributed.cli.dask_{arguments[0]}",
        *arguments[1:],
        "--no-dashboard",
    ]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.slow
def test_workers_may_leave_and_join_and_a_lost_dask_scheduler_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr(schedulers, "ANSWER_SECONDS", 2)
    archive, cases, port = (
        write_files(tmp_path / "in", a="killer", b="good"),
        tmp_path / "cases",
        free_port(),
    )
    address = f"tcp://127.0.0.1:{port}"
    dask_scheduler = dask("scheduler", "--port", str(port), "--host", "127.0.0.1")
    worker = ("worker", address, "--no-nanny", "--nthreads", "1")
    workers = [dask(*worker)]

    def another_worker() -> None:
        workers[0].wait()
        workers.append(dask(*worker))

    def kill_the_scheduler() -> None:
        while not list(cases.glob("c-*/tries")):
            time.sleep(0.02)
        dask_scheduler.kill()

    helpers = [
        threading.Thread(target=f, daemon=True) for f in (another_worker, kill_the_scheduler)
    ]
    try:
        for helper in helpers:
            helper.start()
        scheduler = connected(address)
        events, jobs = run_batch(archive, cases, scheduler=scheduler)
        assert {job.folder[0]: job.state for job in jobs} == {"a": "done", "b": "done"}
        assert workers[0].returncode == -signal.SIGKILL and events.about("failed") == []
        with pytest.raises(EnvironmentFailure, match="the scheduler went away"):
            run_batch(write_files(archive, c="slow"), cases, scheduler=scheduler)
        scheduler.close()
    finally:
        for process in (dask_scheduler, *workers):
            process.kill()
            process.wait()
    with Ledger.open(cases) as ledger:
        assert sorted((job.state, job.tries) for job in ledger.jobs()) == [
            ("done", 1),
            ("done", 1),
            ("waiting", 0),
        ]


def test_a_scheduler_that_loses_its_last_worker_is_reported_each_time(
    tmp_path: Path,
) -> None:
    distributed = pytest.importorskip("distributed")
    warnings: list[str] = []
    with distributed.LocalCluster(
        n_workers=0,
        threads_per_worker=1,
        processes=False,
        dashboard_address=None,
        protocol="tcp",
        host="127.0.0.1",
    ) as empty:
        scheduler = Dask(copy_content, empty.scheduler_address, warnings.append)

        def wait_for(count: int, workers: int) -> None:
            empty.scale(workers)
            end = time.monotonic() + 60
            while len(warnings) < count or len(scheduler._threads) != workers:
                assert time.monotonic() < end
                scheduler.wait(0.1)

        text = write_files(tmp_path, a="1") / "a.mp4"
        settings = configs.load("cpu").model_dump_json()
        scheduler.submit(Task(1, text, "", 1, 1, tmp_path / "case", settings, None, Recording()))
        wait_for(1, 0)
        wait_for(1, 1)
        wait_for(2, 0)
        scheduler.close()
    assert (
        warnings == ["there are no workers: tasks wait until one joins (dask worker ADDRESS)"] * 2
    )


def connected(address: str) -> Dask:
    """Return a connection, as soon as the scheduler is up."""
    until = time.monotonic() + 60
    while True:
        try:
            return Dask(copy_content, address, print)
        except UsageError:
            assert time.monotonic() < until
