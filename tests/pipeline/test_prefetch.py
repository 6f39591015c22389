"""Decoding ahead: the same frames in the same order, and nothing left running."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Generator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fasr_video.pipeline.prefetch import prefetch


class Source:
    """Counts up to `count`, then ends or fails; records progress, threads, and its closing."""

    def __init__(self, count: int, failure: BaseException | None = None) -> None:
        self.count, self.failure = count, failure
        self.made = 0
        self.threads: set[threading.Thread] = set()
        self.closed = False

    def items(self) -> Generator[int]:
        try:
            for k in range(self.count):
                self.made += 1
                self.threads.add(threading.current_thread())
                yield k
            if self.failure is not None:
                raise self.failure
        finally:
            self.closed = True

    def running(self) -> bool:
        return any(t.is_alive() for t in self.threads)


def until(condition: Callable[[], bool], seconds: float = 5) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.002)
    return condition()


@given(count=st.integers(0, 50), ahead=st.integers(1, 8))
@settings(deadline=None, max_examples=50)
def test_items_come_in_order_and_the_thread_ends(count: int, ahead: int) -> None:
    source = Source(count)
    assert list(prefetch(source.items(), ahead)) == list(range(count))
    assert source.closed and not source.running()


def test_items_are_produced_in_another_thread() -> None:
    source = Source(3)
    list(prefetch(source.items(), 2))
    assert len(source.threads) == 1
    assert threading.current_thread() not in source.threads


@pytest.mark.parametrize("failure", [ValueError("damaged"), KeyboardInterrupt()])
@pytest.mark.parametrize("count", [0, 1, 20])
def test_a_failure_is_raised_after_the_items_before_it(failure: BaseException, count: int) -> None:
    source, came = Source(count, failure), []
    with pytest.raises(type(failure)) as caught:
        for item in prefetch(source.items(), 3):
            came.append(item)
    assert caught.value is failure
    assert came == list(range(count))
    assert source.closed and not source.running()


@pytest.mark.parametrize("used", [1, 2, 10])
def test_closing_early_stops_the_producer(used: int) -> None:
    source = Source(10**9)
    items = source.items()  # whoever else holds it, it is closed
    frames = prefetch(items, 4)
    assert [next(frames) for _ in range(used)] == list(range(used))
    begin = time.monotonic()
    frames.close()
    assert time.monotonic() - begin < 1
    assert source.closed and not source.running()
    assert source.made <= used + 4 + 2


def test_failure_of_the_consumer_stops_the_producer() -> None:
    source = Source(10**9)

    def consume() -> None:
        for item in prefetch(source.items(), 4):
            if item == 5:
                raise RuntimeError("no more room")

    with pytest.raises(RuntimeError, match="no more room"):
        consume()
    gc.collect()
    assert until(lambda: source.closed and not source.running(), 1)


def test_a_failure_after_closing_is_ignored() -> None:
    """What a closed producer still trips over is neither raised nor waited for."""
    source = Source(3, ValueError("damaged"))
    frames = prefetch(source.items(), 1)
    assert next(frames) == 0
    frames.close()
    assert source.closed and not source.running()


@pytest.mark.parametrize("ahead", [1, 4, 16])
def test_producer_runs_ahead_but_not_far(ahead: int) -> None:
    source = Source(200)
    for used, _ in enumerate(prefetch(source.items(), ahead), 1):
        assert source.made <= used + ahead + 2
        if used == 100:
            assert until(lambda: source.made >= 100 + ahead), (
                "it works while the consumer does something else"
            )
            time.sleep(0.25)  # longer than one try to hand an item over
            assert source.made <= 100 + ahead + 2


def test_nothing_is_produced_before_the_first_item_is_needed() -> None:
    source = Source(10)
    frames = prefetch(source.items(), 4)
    frames.close()
    assert source.made == 0
