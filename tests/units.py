"""Units of work that are quick to do, for workers that are quick to start."""

from __future__ import annotations

import os
import signal
import time

from fasr_video.archive.orders import End, Order, Outcome, Tell


def copy_content(order: Order, tell: Tell) -> Outcome:
    """Writes what the file holds into its case; a file that says `bad` is no footage, `poor` fails each time, and
    `killer` takes its worker down the first time."""
    text = order.path.read_text()
    order.case.mkdir(parents=True, exist_ok=True)
    tries = order.case / "tries"
    tries.write_text(tries.read_text() + "x" if tries.exists() else "x")
    if text == "killer" and tries.read_text() == "x":
        os.kill(os.getpid(), signal.SIGKILL)
    if text == "slow":
        time.sleep(60)
    if text in {"bad", "poor"}:
        return Outcome(
            End.BAD if text == "bad" else End.FAILED, f"{order.path}: no good; give another"
        )
    (order.case / "content").write_text(text)
    return Outcome(End.DONE, facts={"frames": len(text), "tracks": 0})


def change_once(order: Order, tell: Tell) -> Outcome:
    """A file that says `early` grows while it is read."""
    if order.path.read_text() == "early":
        order.path.write_text("late, and longer")
        return Outcome(End.CHANGED, f"{order.path}: it changed while it was read; it is read again")
    return copy_content(order, tell)


def just_done(order: Order, tell: Tell) -> Outcome:
    return Outcome(End.DONE)


def change_always(order: Order, tell: Tell) -> Outcome:
    order.path.write_text(order.path.read_text() + "x")
    return Outcome(End.CHANGED, f"{order.path}: it changed while it was read; it is read again")


def environment(order: Order, tell: Tell) -> Outcome:
    """Tells what its process was given."""
    tell(0.5)
    facts = {name: os.environ.get(name, "") for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")}
    return Outcome(End.DONE, facts=facts)


def hoard(order: Order, tell: Tell) -> Outcome:
    """Takes memory without end, but for a file that says `modest`."""
    if order.path.read_text() == "modest":
        return Outcome(End.DONE)
    held = []
    while True:
        held.append(bytearray(b"x" * 20_000_000))
        time.sleep(0.02)


def never_fit(order: Order, tell: Tell) -> Outcome:
    return Outcome(End.UNFIT, "detector.safetensors: missing; bring the file back")


def lose_gpu(order: Order, tell: Tell) -> Outcome:
    """Each time, as CUDA does from then on; tells in which process."""
    return Outcome(
        End.FAILED,
        f"{order.path}: RuntimeError: CUDA error: unspecified launch failure in {os.getpid()}",
    )
