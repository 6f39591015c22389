"""Where units are worked on changes nothing in what they make; workers that die or grow too large are replaced."""

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
from fasr_video.archive.orders import Order
from fasr_video.archive.schedulers import Dask, Local, Processes, machine_memory, resident
from fasr_video.archive.unit import work
from fasr_video.case.case import Case
from fasr_video.case.recording import Recording
from fasr_video.configs import settings as configs
from fasr_video.errors import EnvironmentFailure, MissingExtra, UsageError
from tests.archives import Told, files, work_off
from tests.units import copy_content, environment, hoard, never_fit

ROOT = Path(__file__).parents[1]


def silent(order: Order, share: float) -> None:
    return None


def test_processes_make_what_one_process_makes(tmp_path: Path) -> None:
    archive = files(tmp_path / "in", a="1", b="2", c="bad")
    scheduler = Processes(copy_content, silent, 2)
    _, units = work_off(archive, tmp_path / "two", scheduler=scheduler)
    scheduler.close()
    _, alone = work_off(archive, tmp_path / "one")
    assert [(u.folder, u.state, u.facts) for u in units] == [
        (u.folder, u.state, u.facts) for u in alone
    ]


def test_a_worker_that_dies_is_a_try_of_its_unit_and_is_replaced(tmp_path: Path) -> None:
    archive = files(tmp_path / "in", a="killer", b="good")
    scheduler = Processes(copy_content, silent, 1)
    told, units = work_off(archive, tmp_path / "cases", scheduler=scheduler)
    scheduler.close()
    assert {u.folder[0]: (u.state, u.tries) for u in units} == {"a": ("done", 2), "b": ("done", 1)}
    assert "signal 9" in next(n.text for n in told.notes if n.event == "again")


def ordered(folder: Path, content: str) -> Order:
    text = files(folder, **{content: content}) / f"{content}.mp4"
    return Order(1, text, "", 1, 1, folder / f"case of {content}", "{}", None, Recording())


def ends(scheduler: Processes, count: int) -> dict[str, str]:
    """How so many orders ended: what is in their files, and what was said."""
    found: dict[str, str] = {}
    until = time.monotonic() + 60
    while len(found) < count:
        assert time.monotonic() < until, f"only {found} were heard of"
        found |= {
            order.path.stem: outcome.text or str(outcome.end)
            for order, outcome in scheduler.wait(0.1)
        }
    return found


def test_a_worker_that_dies_before_its_end_is_heard_keeps_its_order_beside_the_next(
    tmp_path: Path,
) -> None:
    with closing(Processes(copy_content, silent, 2)) as scheduler:
        scheduler.submit(ordered(tmp_path, "killer"))
        (dying,) = multiprocessing.active_children()
        dying.join(60)  # as while the next large file is hashed
        scheduler.submit(ordered(tmp_path, "good"))
        found = ends(scheduler, 2)
    assert found["good"] == "done" and found["killer"].endswith("its worker died (signal 9)")


def test_a_worker_that_dies_idle_is_replaced(tmp_path: Path) -> None:
    with closing(Processes(copy_content, silent, 1)) as scheduler:
        for content in ("1", "2"):
            scheduler.submit(ordered(tmp_path, content))
            assert ends(scheduler, 1) == {content: "done"}
            (idle,) = multiprocessing.active_children()
            idle.kill()
            idle.join(60)


def test_a_worker_that_dies_while_it_is_given_an_order_fails_that_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Processes(copy_content, silent, 1)) as scheduler:
        scheduler.submit(ordered(tmp_path, "1"))
        assert ends(scheduler, 1) == {"1": "done"}
        (idle,) = multiprocessing.active_children()

        def alive_for_the_last_time() -> bool:
            monkeypatch.undo()
            idle.kill()
            idle.join(60)
            return True

        monkeypatch.setattr(idle, "is_alive", alive_for_the_last_time)
        scheduler.submit(ordered(tmp_path, "2"))
        assert ends(scheduler, 1)["2"].endswith("its worker died (signal 9)")
        scheduler.submit(ordered(tmp_path, "3"))
        assert ends(scheduler, 1) == {"3": "done"}


def test_a_worker_that_takes_too_much_memory_is_stopped_and_says_so(tmp_path: Path) -> None:
    archive = files(tmp_path / "in", a="greedy", b="modest")
    scheduler = Processes(hoard, silent, 1, memory=300)
    _, units = work_off(archive, tmp_path / "cases", scheduler=scheduler, retries=0)
    scheduler.close()
    assert {u.folder[0]: u.state for u in units} == {"a": "failed", "b": "done"}
    assert "--memory" in (units[0].error or "")
    assert (machine_memory() or 0) > resident(os.getpid()) > 10


def test_workers_have_one_thread_and_the_gpu_that_is_theirs(tmp_path: Path) -> None:
    shares: list[float] = []
    scheduler = Processes(environment, lambda order, share: shares.append(share), 1, gpus=["3"])
    before = dict(os.environ)
    _, (unit,) = work_off(files(tmp_path / "in", a="1"), tmp_path / "cases", scheduler=scheduler)
    scheduler.close()
    assert unit.facts["OMP_NUM_THREADS"] == "1" and unit.facts["CUDA_VISIBLE_DEVICES"] == "3"
    assert shares == [0.5] and dict(os.environ) == before


def keep_busy(archive: Path, cases: Path) -> None:
    work_off(archive, cases, scheduler=Processes(copy_content, silent, 1))


def test_workers_end_with_the_one_who_started_them(tmp_path: Path) -> None:
    archive, cases = files(tmp_path / "in", a="slow"), tmp_path / "cases"
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


def test_without_models_nothing_is_worked_on_and_one_line_says_why(tmp_path: Path) -> None:
    archive = files(tmp_path / "in", a="1", b="2")
    with pytest.raises(UsageError, match=r"this machine: detector\.safetensors: missing"):
        work_off(archive, tmp_path / "cases", never_fit)
    _, units = work_off(archive, tmp_path / "cases")
    assert [(u.state, u.tries) for u in units] == [("done", 1), ("done", 1)]


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
    ) as found:
        yield found


def test_a_cluster_makes_the_same_cases_to_the_byte(
    cluster: Any, entrance: Path, tmp_path: Path
) -> None:
    archive, told = files(tmp_path / "in", b="no film"), Told()
    shutil.copy(entrance, archive / "a.mp4")
    _, here = work_off(archive, tmp_path / "here", scheduler=Local(work, silent))
    scheduler = Dask(work, cluster.scheduler_address, print)
    _, there = work_off(archive, tmp_path / "there", scheduler=scheduler)
    scheduler.close()
    assert [(u.folder, u.state, u.facts, u.error) for u in there] == [
        (u.folder, u.state, u.facts, u.error) for u in here
    ]
    assert told.notes == []
    digests = set()
    for cases in ("here", "there"):
        with Case.open(tmp_path / cases / here[0].folder, read_only=True) as case:
            digests.add(digest(case))
    assert len(digests) == 1


def test_no_scheduler_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr(schedulers, "ANSWER", 1)
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(UsageError, match="no scheduler answers there"):
            Dask(copy_content, f"tcp://127.0.0.1:{taken.getsockname()[1]}", print)


def test_without_the_extra_its_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingExtra, match=r"fasr-video\[dist\]"):
        Dask(copy_content, "tcp://127.0.0.1:1", print)


@pytest.mark.parametrize(
    ("version", "cases", "weights", "says"),
    [
        ("0.0.0", ".", "null", "the batch is 0.0.0's; install the same there"),
        (__version__, "nowhere", "null", "mount them under the same paths?"),
        (__version__, ".", "not_there.safetensors", "not_there.safetensors"),
    ],
    ids=["another version", "cases not seen", "without the models"],
)
def test_a_worker_that_cannot_do_units_is_left_out_by_name(
    version: str, cases: str, weights: str, says: str, cluster: Any, tmp_path: Path
) -> None:
    text = files(tmp_path, a="1") / "a.mp4"
    settings = configs.load(
        "cpu", ("detect.backend=builtin", f"detect.weights={weights}")
    ).model_dump_json()
    asked = Order(
        1, text, "", 1, 1, tmp_path / cases / "case", settings, None, Recording(), version=version
    )
    scheduler = Dask(work, cluster.scheduler_address, print)
    with pytest.raises(UsageError, match=says) as told:
        scheduler.submit(asked)
        for _ in range(600):
            scheduler.wait(0.1)
    scheduler.close()
    (worker,) = cluster.scheduler_info["workers"]
    assert worker in str(told.value) and "nothing done is lost" in str(told.value)


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
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def test_workers_may_be_lost_and_join_and_a_scheduler_that_goes_away_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr(schedulers, "ANSWER", 2)
    archive, cases, port = (
        files(tmp_path / "in", a="killer", b="good"),
        tmp_path / "cases",
        free_port(),
    )
    address = f"tcp://127.0.0.1:{port}"
    boss = dask("scheduler", "--port", str(port), "--host", "127.0.0.1")
    worker = ("worker", address, "--no-nanny", "--nthreads", "1")
    workers = [dask(*worker)]

    def another_worker() -> None:
        workers[0].wait()
        workers.append(dask(*worker))

    def end_of_the_boss() -> None:
        while not list(cases.glob("c-*/tries")):
            time.sleep(0.02)
        boss.kill()

    helpers = [threading.Thread(target=f, daemon=True) for f in (another_worker, end_of_the_boss)]
    try:
        for helper in helpers:
            helper.start()
        scheduler = connected(address)
        told, units = work_off(archive, cases, scheduler=scheduler)
        assert {u.folder[0]: u.state for u in units} == {"a": "done", "b": "done"}
        assert workers[0].returncode == -signal.SIGKILL and told.about("failed") == []
        with pytest.raises(EnvironmentFailure, match="the scheduler went away"):
            work_off(files(archive, c="slow"), cases, scheduler=scheduler)
        scheduler.close()
    finally:
        for process in (boss, *workers):
            process.kill()
            process.wait()
    with Ledger.open(cases) as ledger:
        assert sorted((u.state, u.tries) for u in ledger.units()) == [
            ("done", 1),
            ("done", 1),
            ("waiting", 0),
        ]


def test_a_scheduler_without_workers_is_told_of_each_time_that_it_is_left_alone(
    tmp_path: Path,
) -> None:
    distributed = pytest.importorskip("distributed")
    said: list[str] = []
    with distributed.LocalCluster(
        n_workers=0,
        threads_per_worker=1,
        processes=False,
        dashboard_address=None,
        protocol="tcp",
        host="127.0.0.1",
    ) as empty:
        scheduler = Dask(copy_content, empty.scheduler_address, said.append)

        def until(told: int, workers: int) -> None:
            empty.scale(workers)
            end = time.monotonic() + 60
            while len(said) < told or len(scheduler._threads) != workers:
                assert time.monotonic() < end
                scheduler.wait(0.1)

        text = files(tmp_path, a="1") / "a.mp4"
        settings = configs.load("cpu").model_dump_json()
        scheduler.submit(Order(1, text, "", 1, 1, tmp_path / "case", settings, None, Recording()))
        until(1, 0)
        until(1, 1)
        until(2, 0)
        scheduler.close()
    assert said == ["no worker is there: units wait until one joins (dask worker ADDRESS)"] * 2


def connected(address: str) -> Dask:
    """Once the scheduler is up."""
    until = time.monotonic() + 60
    while True:
        try:
            return Dask(copy_content, address, print)
        except UsageError:
            assert time.monotonic() < until
