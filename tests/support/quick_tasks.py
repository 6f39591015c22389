"""Stand-ins for `run_task` that are quick to do, for workers that are quick to start."""

from __future__ import annotations

import os
import signal
import time

from fasr_video.archive.tasks import OnProgress, Outcome, Status, Task


def copy_content(task: Task, on_progress: OnProgress) -> Outcome:
    """Write the file's content into its case.

    A file that says `bad` is no footage, `poor` fails each time, and `killer` kills its worker at
    the first try.
    """
    text = task.path.read_text()
    task.case.mkdir(parents=True, exist_ok=True)
    tries = task.case / "tries"
    tries.write_text(tries.read_text() + "x" if tries.exists() else "x")
    if text == "killer" and tries.read_text() == "x":
        os.kill(os.getpid(), signal.SIGKILL)
    if text == "slow":
        time.sleep(60)
    if text in {"bad", "poor"}:
        status = Status.BAD if text == "bad" else Status.FAILED
        return Outcome(status, f"{task.path}: no good; give another")
    (task.case / "content").write_text(text)
    return Outcome(Status.DONE, summary={"frames": len(text), "tracks": 0})


def change_once(task: Task, on_progress: OnProgress) -> Outcome:
    """Let a file that says `early` grow while it is read; copy any other."""
    if task.path.read_text() == "early":
        task.path.write_text("late, and longer")
        return _changed(task)
    return copy_content(task, on_progress)


def change_always(task: Task, on_progress: OnProgress) -> Outcome:
    task.path.write_text(task.path.read_text() + "x")
    return _changed(task)


def _changed(task: Task) -> Outcome:
    message = f"{task.path}: it changed while it was read; it will be read again"
    return Outcome(Status.CHANGED, message)


def report_done(task: Task, on_progress: OnProgress) -> Outcome:
    return Outcome(Status.DONE)


def report_environment(task: Task, on_progress: OnProgress) -> Outcome:
    """Return the environment of the worker's process."""
    on_progress(0.5)
    names = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
    return Outcome(Status.DONE, summary={name: os.environ.get(name, "") for name in names})


def use_memory(task: Task, on_progress: OnProgress) -> Outcome:
    """Use more and more memory, unless the file's text is `modest`."""
    if task.path.read_text() == "modest":
        return Outcome(Status.DONE)
    held = []
    while True:
        held.append(bytearray(b"x" * 20_000_000))
        time.sleep(0.02)


def report_unfit(task: Task, on_progress: OnProgress) -> Outcome:
    return Outcome(Status.UNFIT, "detector.safetensors: missing; put the weights back")


def lose_gpu(task: Task, on_progress: OnProgress) -> Outcome:
    """Fail each time, as CUDA does after the first failure, and name the process."""
    return Outcome(
        Status.FAILED,
        f"{task.path}: RuntimeError: CUDA error: unspecified launch failure in {os.getpid()}",
    )
