"""Ctrl-C ends every blocking call, also one that waits for a process that is stopped.

Another process has a lock, and stands still. Of each call that needs it: SIGINT is heard within
100 ms, what then is there is what the docstrings say, and all of it goes on once the other does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pytest
from support import partition
from support.partition import ffi, lib
from support.share import Share

import mqlog

pytestmark = pytest.mark.slow

TRIES = 3  # the machine may be busy: the best counts
WITHIN = 0.1
JOBS_PUT = 6
HUNG = 3.0  # the other process goes on then, so that a call which is deaf ends as well


# -- what the other process holds -----------------------------------------------------------------
def take(path: Path, lock: str) -> None:
    """`topic/word`: a lock of its partition; `topic/group/word`: of a share group; `gate`."""
    store = partition.Store(path)
    if lock == "gate":
        assert lib.mql_gate_take(store.c, 10**9) == lib.MQL_OK
        return
    topic, *group, word = lock.split("/")
    log = store.log(topic)
    of = Share(log.c, group[0]).c.live.map if group else log.control
    partition.take(ffi.addressof(of, word))


@contextlib.contextmanager
def held(path: Path, lock: str) -> Iterator[Callable[[], object]]:
    with partition.standing_still(lambda: take(path, lock)) as go_on:
        yield go_on


# -- Ctrl-C ---------------------------------------------------------------------------------------
def interrupted(call: Callable[[], object], go_on: Callable[[], object]) -> float:
    """How long after SIGINT the call ended with `KeyboardInterrupt`."""
    sent: list[float] = []
    heard = threading.Event()

    def press() -> None:
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)
        if not heard.wait(HUNG):
            go_on()

    # By then the call waits; waits of 250 ms begin anew just before.
    timer = threading.Timer(0.27, press)
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            call()
        return time.monotonic() - sent[0]
    finally:
        heard.set()
        timer.join()


class World:
    """A store with two streams and a queue, some of whose messages are taken."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = mqlog.open(path)
        self.orders = self.store.stream("orders")
        self.safe = self.store.stream("safe", durability="sync")
        self.jobs = self.store.queue("jobs")
        self.fresh = self.store.queue("jobs", group="fresh")  # it has acquired nothing yet
        for n in range(3):
            self.orders.append(b"%d" % n)
            self.safe.append(b"%d" % n)
            self.jobs.put(b"%d" % n)
        self.jobs.put_many([b"%d" % n for n in range(3, JOBS_PUT)])
        self.taken = self.jobs.get_many(TRIES)
        self.turn = iter(self.taken)
        self.store.sync()
        self.orders.append(b"3")  # not durable

    @property
    def message(self) -> mqlog.Message[bytes]:
        return self.taken[0]


class Row(NamedTuple):
    name: str
    lock: str
    call: Callable[[World], object]
    #: What the interrupted calls have left: records of "orders", "safe" and "jobs".
    left: Mapping[str, float] = MappingProxyType({})


ORDERS, SAFE, JOBS = "orders/commit", "safe/commit", "jobs/commit"
SHARE, SYNC = "jobs/default/share", "jobs/default/sync"

ROWS = [
    # durable waits: what was published stays, once for each call
    Row("append durable", ORDERS, lambda w: w.orders.append(b"x", durable=True), {"orders": 1}),
    Row(
        "append_many durable",
        ORDERS,
        lambda w: w.orders.append_many([b"x"] * 5, durable=True),
        {"orders": 5},
    ),
    Row(
        "append_many durable, compressed",
        ORDERS,
        lambda w: w.orders.append_many([b"x" * 99] * 5, compression="gzip", durable=True),
        {"orders": 5},
    ),
    Row('append, durability "sync"', SAFE, lambda w: w.safe.append(b"x"), {"safe": 1}),
    Row("put durable", JOBS, lambda w: w.jobs.put(b"x", durable=True), {"jobs": 1}),
    Row(
        "put durable, dedupe",
        JOBS,
        lambda w: w.jobs.put(b"x", dedupe=b"once", durable=True),
        {"jobs": 1 / TRIES},  # the same key each time
    ),
    Row("put_many durable", JOBS, lambda w: w.jobs.put_many([b"x"] * 2, durable=True), {"jobs": 2}),
    Row("wait_durable", ORDERS, lambda w: w.orders.wait_durable(w.orders.end_offset)),
    Row("sync", ORDERS, lambda w: w.store.sync()),
    Row("trim", ORDERS, lambda w: w.orders.trim(1)),
    # share groups
    Row("get", SHARE, lambda w: w.jobs.get()),
    Row("get_many", SHARE, lambda w: w.jobs.get_many(2)),
    Row("accept", SHARE, lambda w: w.message.accept()),
    Row("accept many", SHARE, lambda w: w.jobs.accept([w.message])),
    Row("accept durable", SYNC, lambda w: next(w.turn).accept(durable=True)),
    Row("accept many durable", SYNC, lambda w: w.jobs.accept([next(w.turn)], durable=True)),
    Row("first get", "jobs/fresh/sync", lambda w: w.fresh.get()),
    Row("release", SHARE, lambda w: w.message.release()),
    Row("release delayed", SHARE, lambda w: w.message.release(60.0)),
    Row("reject", SHARE, lambda w: w.message.reject()),
    Row("renew", SHARE, lambda w: w.message.renew()),
    Row("stats", SHARE, lambda w: w.jobs.stats()),
    Row("peek", SHARE, lambda w: w.jobs.peek()),
    Row("acquired", SHARE, lambda w: w.jobs.acquired()),
    Row("purge", SHARE, lambda w: w.jobs.purge()),
    Row("join", SHARE, lambda w: w.jobs.join()),
    Row("put delayed", SHARE, lambda w: w.jobs.put(b"x", delay=60.0)),
    Row("put delayed, grow", "jobs/default/grow", lambda w: w.jobs.put(b"x", delay=60.0)),
    # the gate and what is opened under it
    Row("stream", "gate", lambda w: w.store.stream("new")),
    Row("queue", "gate", lambda w: w.store.queue("new")),
    Row("another group", "gate", lambda w: w.store.queue("jobs", group="new")),
    Row("another group, prepare", "jobs/prepare", lambda w: w.store.queue("jobs", group="new")),
    Row("another group, writer", "jobs/writer", lambda w: w.store.queue("jobs", group="new")),
    Row("consumer", "gate", lambda w: w.orders.consumer("new").poll(timeout=0.0)),
    Row("alter", "gate", lambda w: w.store.alter("orders", retention_bytes=1 << 30)),
    Row("delete_group", "gate", lambda w: w.store.delete_group("jobs", "fresh")),
    Row("delete_group, prepare", "jobs/prepare", lambda w: w.store.delete_group("jobs", "fresh")),
    Row("delete_group, share", "jobs/fresh/share", lambda w: w.store.delete_group("jobs", "fresh")),
    Row("delete_topic", "gate", lambda w: w.store.delete_topic("orders")),
]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "store")
    yield made
    made.store.close()


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_ctrl_c_ends_a_call_that_waits_for_a_stopped_process(world: World, row: Row) -> None:
    counts = {"orders": 4, "safe": 3, "jobs": JOBS_PUT}
    best = HUNG
    with held(world.path, row.lock) as go_on:
        for _ in range(TRIES):
            best = min(best, interrupted(lambda: row.call(world), go_on))
    assert best < WITHIN
    for topic, more in row.left.items():
        counts[topic] += round(TRIES * more)
    ends = {name: world.store.stream(name).end_offset for name in counts}
    assert ends == counts, "none is lost, and none put twice"
    # All of it goes on.
    assert world.orders.append(b"after", durable=True) == counts["orders"]
    assert world.safe.append(b"after") == counts["safe"]
    world.jobs.put(b"after", durable=True)
    world.jobs.accept([one for one in world.taken if not one.settled], durable=True)
    rest = []
    while len(rest) < counts["jobs"] + 1 - TRIES:
        rest += world.jobs.get_many(100)
    assert sorted(one.offset for one in rest) == list(range(TRIES, counts["jobs"] + 1))
    world.jobs.accept(rest, durable=True)
    world.store.close()
    with mqlog.open(world.path) as store:
        assert store.recovered == []
        assert store.queue("jobs").stats().accepted == counts["jobs"] + 1


def test_ctrl_c_ends_opening_a_store_that_is_being_opened(tmp_path: Path) -> None:
    path = tmp_path / "store"
    mqlog.open(path).close()
    best = HUNG
    with held(path, "gate") as go_on:
        for _ in range(TRIES):
            best = min(best, interrupted(lambda: mqlog.open(path), go_on))
    assert best < WITHIN
    with mqlog.open(path) as store:
        assert store.stream("orders").append(b"x") == 0


@pytest.mark.parametrize("lock", [SYNC, "gate"])
def test_ctrl_c_ends_a_close_and_the_store_is_closed(tmp_path: Path, lock: str) -> None:
    """It is as if the process had ended: what it held is delivered again, nothing is lost."""
    best = HUNG
    for n in range(TRIES):
        world = World(tmp_path / str(n))
        world.message.accept()  # something to be synced
        with held(world.path, lock) as go_on:
            best = min(best, interrupted(world.store.close, go_on))
            with pytest.raises(mqlog.ClosedError):
                world.orders.append(b"x")
            world.store.close()
        with mqlog.open(world.path) as store:
            assert store.stream("orders").end_offset == 4
            found = store.queue("jobs").get_many(100)
            assert sorted(one.offset for one in found) == list(range(1, JOBS_PUT))
            assert len(found) == JOBS_PUT - 1
    assert best < WITHIN


def test_a_close_does_not_wait_for_a_sync_thread_that_waits_for_a_stopped_process(
    tmp_path: Path,
) -> None:
    world = World(tmp_path / "store")
    with held(world.path, ORDERS) as go_on:
        with pytest.raises(TimeoutError):
            world.orders.wait_durable(4, timeout=0.1)  # the thread is at it now
        watch = threading.Timer(HUNG, go_on)
        watch.start()
        began = time.monotonic()
        world.store.close()
        took = time.monotonic() - began
        watch.cancel()
    assert took < HUNG
    with mqlog.open(world.path) as store:
        assert store.stream("orders").end_offset == 4
        found = store.queue("jobs").get_many(100)
        assert sorted(one.offset for one in found) == list(range(JOBS_PUT))
