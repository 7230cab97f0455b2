"""Queues: put, get and accept; the same with a long backlog and many delayed; two processes.

What is flat is measured as a ratio: two queues in one run, a short one and a long one, in turn.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from itertools import repeat
from typing import Any

import pytest
from conftest import VALUE, VALUE_BYTES, Row, Work, note, put_seconds, settle

import mqlog

COUNT = 2000
FACTS = {"value": f"{VALUE_BYTES} B", "durability": "os", "CRC": "on", "processes": 1}
LONG = 10_000_000
DELAYED = 1_000_000
HANDED = 200_000


def get_accept(queue: Any) -> float:
    get = queue.get
    begin = time.perf_counter()
    for _ in repeat(None, COUNT):
        get().accept()
    return time.perf_counter() - begin


def fill(queue: Any, count: int) -> None:
    values = [VALUE] * 10_000
    for _ in repeat(None, count // len(values)):
        queue.put_many(values)


def test_put(measure: Any, store: Any) -> None:
    put = store.queue("jobs").put

    def once() -> None:
        for _ in repeat(None, COUNT):
            put(VALUE)

    row = measure(
        Work(
            what="queue: put",
            round=once,
            count=COUNT,
            reference="SimpleQueue.put",
            sample=lambda: put_seconds(COUNT),
            target="",
            rounds=100,
            before=settle,
            facts=FACTS,
        )
    )
    assert row.ns > 0


@pytest.mark.parametrize("put", ["one by one", "by put_many"])
def test_get_and_accept(measure: Any, store: Any, put: str) -> None:
    queue = store.queue("jobs")

    def before() -> None:
        if put == "one by one":
            for _ in repeat(None, COUNT):
                queue.put(VALUE)
        else:
            queue.put_many([VALUE] * COUNT)

    row = measure(
        Work(
            what=f"queue: get + accept, {put}",
            round=lambda: get_accept(queue),
            count=COUNT,
            reference="SimpleQueue.put",
            sample=lambda: put_seconds(COUNT),
            target="500 ns at most",
            rounds=100,
            before=before,
            facts=FACTS,
        )
    )
    assert row.ns > 0


@pytest.mark.parametrize("delayed", [0, DELAYED])
def test_the_cost_is_flat(measure: Any, store: Any, delayed: int) -> None:
    short, long = store.queue("short"), store.queue("long")
    later = time.time() + 86_400
    for _ in repeat(None, delayed):
        long.put(VALUE, deliver_at=later)
    fill(long, LONG)

    def sample() -> float:
        short.put_many([VALUE] * COUNT)
        return get_accept(short)

    row = measure(
        Work(
            what=f"queue: {LONG:,} behind, {delayed:,} delayed",
            round=lambda: get_accept(long),
            count=COUNT,
            reference="2,000 behind",
            sample=sample,
            target="<= 1.3",
            rounds=60,
            facts=FACTS,
        )
    )
    assert row.ns > 0


@pytest.mark.parametrize("delayed", [0, DELAYED])
def test_opening(benchmark: Any, directory: str, pytestconfig: Any, delayed: int) -> None:
    """A store is opened, a queue in it, and the first message taken."""
    with mqlog.open(directory) as store:
        queue = store.queue("long", max_deliveries=None)
        later = time.time() + 86_400
        for _ in repeat(None, delayed):
            queue.put(VALUE, deliver_at=later)
        fill(queue, LONG)
    found: list[float] = []

    def once() -> None:
        begin = time.perf_counter()
        with mqlog.open(directory) as store:
            message = store.queue("long", create=False).get()
            found.append(time.perf_counter() - begin)
            message.release()

    benchmark.pedantic(once, rounds=9, iterations=1)
    low, middle, high = statistics.quantiles(found, n=4)
    row = Row(
        what=f"queue: opening, {delayed:,} delayed",
        ns=1e9 * middle,
        reference="200 ms",
        reference_ns=2e8,
        ratio=middle / 0.2,
        spread=(low / 0.2, high / 0.2),
        least=min(found) / 0.2,
        target="<= 1",
        facts=f"value {VALUE_BYTES} B, {LONG:,} behind, openings {len(found)}",
    )
    note(benchmark, pytestconfig, row)


def take(path: str, count: int, done: Any) -> None:
    with mqlog.open(path) as store:
        queue = store.queue("jobs", create=False)
        for _ in repeat(None, count):
            queue.get().accept()
        done.send(None)


def take_theirs(queue: Any, count: int, done: Any) -> None:
    for _ in repeat(None, count):
        queue.get()
    done.send(None)


def rate(put: Any, target: Any, source: Any, count: int) -> float:
    """Records a second from one process to another, its start and its end not counted."""
    spawn = multiprocessing.get_context("spawn")
    done, theirs = spawn.Pipe(duplex=False)
    process = spawn.Process(target=target, args=(source, count, theirs))
    process.start()
    time.sleep(1.0)  # it is up and waits
    begin = time.perf_counter()
    for _ in repeat(None, count):
        put(VALUE)
    done.recv()
    seconds = time.perf_counter() - begin
    process.join()
    return count / seconds


def test_two_processes(benchmark: Any, store: Any, directory: str, pytestconfig: Any) -> None:
    queue = store.queue("jobs")
    ours: list[float] = []
    theirs: list[float] = []

    def once() -> None:
        other = multiprocessing.get_context("spawn").Queue()
        theirs.append(rate(other.put, take_theirs, other, HANDED // 10))
        ours.append(rate(queue.put, take, directory, HANDED))

    benchmark.pedantic(once, rounds=5, iterations=1)
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    row = Row(
        what="queue: put here, get + accept there",
        ns=1e9 / statistics.median(ours),
        reference="multiprocessing",
        reference_ns=1e9 / statistics.median(theirs),
        ratio=1 / statistics.median(ratios),
        spread=(1 / max(ratios), 1 / min(ratios)),
        least=1 / max(ratios),
        target="<= 0.1",
        facts=f"value {VALUE_BYTES} B, durability os, CRC on, processes 2, {HANDED:,} records a "
        "run, runs 5 (quartiles: least and most)",
    )
    note(benchmark, pytestconfig, row)
