"""mql_sleep: nobody sleeps while there is something to do, and nobody spins while there is not."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.fault import Failed, Log, Share, Store, check, ffi, lib

LONG = 10_000_000_000
MS = 1_000_000
PATIENCE = 20.0  # seconds; only a test that fails waits so long


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "s") as opened:
        yield opened


@pytest.fixture
def log(store: Store) -> Log:
    return store.log()


@pytest.fixture
def rung() -> Iterator[None]:
    """Nothing but being woken ends a sleep in time: no sleeper comes to look by himself."""
    lib.mql_os_fault_wait_at_least(round(2 * PATIENCE * 1e9))
    yield
    lib.mql_os_fault_wait_at_least(0)


class Sleeper(threading.Thread):
    """Calls `wait` until it says that there is something, and then `take`."""

    def __init__(self, log: Log, wait: Callable[[], int], take: Callable[[], Any]) -> None:
        super().__init__()
        self.log, self.wait, self.take = log, wait, take
        self.got: Any = None
        self.start()

    def run(self) -> None:
        while not self.got:
            if check(self.wait()) == lib.MQL_OK:
                self.got = self.take()

    def is_woken(self) -> bool:
        self.join(PATIENCE)
        return bool(self.got)


def asleep(count: int) -> None:
    """Until so many threads of this process wait for a futex in a call of ours."""
    for _ in range(5000):
        states = [
            path.read_text().split(")")[1].split()[0]
            for path in Path("/proc/self/task").glob("*/stat")
        ]
        if states.count("S") >= count:
            return
        time.sleep(0.001)
    raise AssertionError("they do not sleep")


def consumer(log: Log, name: str = "default", **how: Any) -> Sleeper:
    share = Share(log.c, name)
    return Sleeper(log, lambda: lib.mql_share_wait(share.c, LONG), lambda: share.acquire(**how))


# -- consumers -------------------------------------------------------------------------------------
def test_there_is_something_at_once_when_there_is_a_backlog(log: Log) -> None:
    share = Share(log.c)
    assert lib.mql_share_wait(share.c, 0) == lib.MQL_TIMEOUT
    assert lib.mql_share_due_in(share.c) == (1 << 63) - 1
    log.append(b"v")
    assert lib.mql_share_wait(share.c, 0) == lib.MQL_OK
    assert lib.mql_share_due_in(share.c) == 0


def test_a_sleeper_wakes_when_the_next_timer_is_due(log: Log) -> None:
    share = Share(log.c)
    log.append(b"v")
    late, due_in = [], []
    for _ in range(5):  # a busy machine is late now and then, who does not look each time
        due = int(time.time() * 1000) + 60
        share.settle("release", *share.acquire(), when=due)
        due_in.append(lib.mql_share_due_in(share.c))
        while lib.mql_share_wait(share.c, LONG) != lib.MQL_OK:
            pass
        late.append(time.time() * 1000 - due)
    assert 0 < max(due_in) <= 70 * MS
    assert min(late) >= -5 and sorted(late)[1] < 100, late


@pytest.mark.usefixtures("rung")
def test_as_many_consumers_wake_as_there_are_records(log: Log) -> None:
    sleepers = [consumer(log) for _ in range(6)]
    asleep(6)
    log.append(*[b"v"] * 6)
    assert all(one.is_woken() for one in sleepers)


@pytest.mark.slow
@pytest.mark.usefixtures("rung")
def test_no_consumer_oversleeps_while_records_come_one_by_one(log: Log) -> None:
    """A ringer that is at it hides no sleeper from the next: each record is taken at once."""
    for _ in range(25):
        sleepers = [consumer(log) for _ in range(4)]
        asleep(4)
        for _ in range(4):
            log.append(b"v")
        assert all(one.is_woken() for one in sleepers)


@pytest.mark.usefixtures("rung")
def test_consumers_of_every_group_wake(log: Log) -> None:
    sleepers = [consumer(log, name) for name in ("default", "audit", "third")]
    asleep(3)
    log.append(b"v")
    assert all(one.is_woken() for one in sleepers)


def test_a_bounded_group_does_not_spin_while_as_many_are_out_as_may_be(log: Log) -> None:
    share = Share(log.c)
    log.append(*[b"v"] * 10)
    held = share.acquire(3, most=3, lock_ms=60_000)
    assert share.acquire(1, most=3) == []
    assert lib.mql_share_wait(share.c, 20 * MS) == lib.MQL_TIMEOUT
    assert lib.mql_share_due_in(share.c) > 1000 * MS
    share.settle("accept", held[0])
    assert lib.mql_share_wait(share.c, 0) == lib.MQL_OK


@pytest.mark.usefixtures("rung")
def test_the_end_of_a_lock_wakes_who_waits_for_the_bound(log: Log) -> None:
    share = Share(log.c)
    log.append(*[b"v"] * 10)
    held = share.acquire(3, most=3)
    sleeper = consumer(log, most=3)
    asleep(1)
    share.settle("accept", held[0])
    assert sleeper.is_woken()
    assert sleeper.got[0].offset == 3


def test_a_deadline_ends_the_wait_of_a_bounded_group(log: Log) -> None:
    share = Share(log.c)
    log.append(*[b"v"] * 10)
    share.acquire(3, most=3, lock_ms=30)
    while not (found := share.acquire(1, most=3)):
        check(lib.mql_share_wait(share.c, LONG))
    assert (found[0].offset, found[0].deliveries) == (0, 2)


# -- room, and the end -----------------------------------------------------------------------------
@pytest.mark.usefixtures("rung")
def test_room_comes_with_the_first_record_taken(log: Log) -> None:
    share = Share(log.c)
    lib.mql_share_bound(share.c, 2, 0)
    log.append(b"a", b"b")
    sleeper = Sleeper(log, lambda: lib.mql_share_wait_room(log.c, 1, 0, LONG), lambda: True)
    asleep(1)
    share.acquire()
    assert sleeper.is_woken()


@pytest.mark.usefixtures("rung")
def test_a_joiner_wakes_when_the_last_record_is_final(log: Log) -> None:
    share = Share(log.c)
    log.append(b"a", b"b")
    held = share.acquire(2)
    assert lib.mql_share_wait_final(share.c, 2, 0) == lib.MQL_TIMEOUT
    sleeper = Sleeper(log, lambda: lib.mql_share_wait_final(share.c, 2, LONG), lambda: True)
    share.settle("accept", held[0])
    asleep(1)
    share.settle("accept", held[1])
    assert sleeper.is_woken()
    assert lib.mql_share_wait_final(share.c, 2, 0) == lib.MQL_OK


def test_a_joiner_of_a_group_that_was_deleted_is_told(log: Log) -> None:
    share = Share(log.c)
    log.append(b"a")
    assert lib.mql_share_delete(share.c) == 0
    with pytest.raises(Failed) as failed:
        check(lib.mql_share_wait_final(share.c, 1, LONG))
    assert failed.value.code == lib.MQL_E_NOT_FOUND


@pytest.mark.usefixtures("rung")
def test_closing_ends_every_wait(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    log = store.log()
    share = Share(log.c)
    results: list[int] = []

    def wait() -> None:
        rc = 0
        while rc >= 0:
            rc = lib.mql_share_wait(share.c, LONG)
        results.append(rc)

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for _ in threads:
        lib.mql_pin(store.c)
    for thread in threads:
        thread.start()
    asleep(3)
    store.close()
    for thread in threads:
        thread.join(5)
        lib.mql_unpin(store.c)
    assert results == [lib.MQL_E_CLOSED] * 3
    store.free()


def test_a_store_that_is_closed_says_so_to_every_call(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    log = store.log()
    share = Share(log.c)
    log.append(b"a", b"b")
    one = share.acquire()[0]
    lib.mql_share_bound(share.c, 5, 0)
    store.close()
    how = ffi.new("mql_acquire *", {"slice_ns": MS})
    event = ffi.new("mql_settlement *", {"slice_ns": MS})
    item = ffi.new("mql_settle *", {"offset": one.offset, "token": one.token})
    calls: dict[str, Callable[[], int]] = {
        "acquire": lambda: lib.mql_share_acquire(
            share.c, how, ffi.new("mql_acquired *"), ffi.new("size_t *", 1)
        ),
        "settle": lambda: lib.mql_share_settle(share.c, item, 1, event),
        "skip": lambda: lib.mql_share_skip(share.c, 0, one.token, 1),
        "wait": lambda: lib.mql_share_wait(share.c, 0),
        "wait_room": lambda: lib.mql_share_wait_room(log.c, 1, 0, 0),
        "wait_final": lambda: lib.mql_share_wait_final(share.c, 1, 0),
        "describe": lambda: lib.mql_share_describe(share.c, ffi.new("mql_share_info *")),
        "waiting": lambda: lib.mql_share_waiting(share.c),
        "peek": lambda: lib.mql_share_peek(share.c, ffi.new("int64_t[2]"), 2),
        "holders": lambda: lib.mql_share_holders(share.c, ffi.new("mql_acquired[2]"), 2),
        "make_room": lambda: lib.mql_share_make_room(log.c),
        "delay": lambda: lib.mql_share_delay(log.c, 1, 5),
        "delete": lambda: lib.mql_share_delete(share.c),
        "open": lambda: lib.mql_share_open(log.c, b"x", 1, 0, ffi.new("mql_share **")),
    }
    assert {name: call() for name, call in calls.items()} == dict.fromkeys(calls, lib.MQL_E_CLOSED)
    assert lib.mql_share_due_in(share.c) == 0
    assert lib.mql_share_unfinished(share.c, 0, 5) == 0
    store.free()
