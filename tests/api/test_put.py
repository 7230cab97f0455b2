"""What `put` does when it is not a plain one: delays, priorities, lives, keys, bounds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support.processes import Zygote
from support.workers import make_value

import mqlog
from mqlog import Queue, Store

# What a test leaves in hand at its end is no mistake of its own.
pytestmark = pytest.mark.filterwarnings("ignore:.*dropped without being settled:ResourceWarning")

Bytes = Queue[bytes, Any]
BEGIN = 1_800_000_000.0


class Clock:
    """A wall clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = BEGIN

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def jobs(clock: Clock) -> Iterator[Bytes]:
    with mqlog.temporary(clock=clock) as store:
        yield store.queue("jobs")


def drain(queue: Bytes) -> list[bytes]:
    """The values of all that is ready, accepted."""
    out = []
    for message in queue.messages(timeout=0):
        message.accept()
        out.append(message.value)
    return out


# -- by a clock of its own -----------------------------------------------------------------------


def test_a_store_with_a_clock_goes_by_it(jobs: Bytes, clock: Clock) -> None:
    jobs.put(b"later", delay=86_400.0)
    jobs.put(b"now")
    (record,) = jobs.peek(2)
    assert (record.value, record.timestamp) == (b"now", BEGIN)
    assert drain(jobs) == [b"now"]
    clock.now += 86_399.0
    assert jobs.stats().oldest_age == 86_399.0
    assert drain(jobs) == []
    clock.now += 1.0
    assert drain(jobs) == [b"later"]


def test_a_clock_that_jumps_neither_ends_nor_lengthens_a_lock(jobs: Bytes, clock: Clock) -> None:
    jobs.put(b"1")
    held = jobs.get()
    for jump in (1e7, -2e7):
        clock.now += jump
        assert jobs.get_many(1, timeout=0) == []
    clock.now = BEGIN
    (info,) = jobs.acquired()
    assert 0 < (info.expires_in or 0) <= 30.0
    held.accept()
    assert jobs.stats().accepted == 1


def test_what_was_delivered_is_not_early_though_the_clock_was_set_back(
    jobs: Bytes, clock: Clock
) -> None:
    jobs.put(b"1", delay=60.0)
    clock.now += 60.0
    jobs.get().release()
    clock.now -= 30.0
    assert jobs.get_nowait().value == b"1"


def test_what_was_taken_before_its_put_had_delayed_it_is_early_when_its_holder_is_gone(
    jobs: Bytes, clock: Clock
) -> None:
    """The next one cannot know what the holder has seen, and goes by the record."""
    due = int((BEGIN + 60.0) * 1000).to_bytes(8, "big")
    jobs._send(b"1", None, (), 0, False, [(b"__mqlog.due", due)])  # published, and not yet delayed
    clock.now += 60.0
    held = jobs.get(lock_duration=0.001)
    clock.now = BEGIN
    time.sleep(0.01)
    for _ in range(3):
        assert jobs.get_many(1, timeout=0) == []
        assert jobs.stats().delayed == 1
    clock.now += 60.0
    message = jobs.get_nowait()
    assert (message.value, message.delivery_count) == (held.value, 2)
    message.release()
    clock.now = BEGIN
    assert jobs.get_nowait().value == b"1"  # given back by who had seen it


def test_a_consumer_that_waits_follows_the_clock(jobs: Bytes, clock: Clock) -> None:
    jobs.put(b"1", delay=3600.0)

    def turn() -> None:
        clock.now += 3600.0

    timer = threading.Timer(0.05, turn)
    timer.start()
    assert jobs.get(timeout=30.0).value == b"1"
    timer.join()


# -- delays --------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", [BEGIN + 5, datetime.fromtimestamp(BEGIN + 5, UTC)])
def test_deliver_at_is_a_delay_said_as_a_moment(jobs: Bytes, clock: Clock, moment: Any) -> None:
    jobs.put(b"later", deliver_at=moment)
    jobs.put(b"past", deliver_at=BEGIN - 5)
    assert (jobs.stats().ready, jobs.stats().delayed) == (1, 1)
    assert drain(jobs) == [b"past"]
    clock.now += 5
    assert drain(jobs) == [b"later"]


def test_delayed_records_come_in_the_order_in_which_they_are_due(jobs: Bytes, clock: Clock) -> None:
    for delay in (3.0, 1.0, 2.0):
        jobs.put(b"%d" % delay, delay=delay)
    jobs.put_many([b"4", b"5"], delay=4.0)
    clock.now += 10.0
    assert drain(jobs) == [b"1", b"2", b"3", b"4", b"5"]


@pytest.mark.parametrize(
    ("how", "error", "says"),
    [
        ({"delay": -1.0}, ValueError, "seconds from 0"),
        ({"delay": float("nan")}, ValueError, "seconds from 0"),
        ({"delay": 1_800_000_000_000}, ValueError, "seconds from 0"),
        ({"delay": "1"}, TypeError, "float seconds"),
        ({"delay": timedelta(seconds=1)}, TypeError, "float seconds"),
        ({"deliver_at": datetime(2030, 1, 1)}, ValueError, "naive"),
        ({"deliver_at": 1_800_000_000_000}, ValueError, "milliseconds"),
        ({"deliver_at": float("nan")}, ValueError, "NaN|nan"),
        ({"delay": 1.0, "deliver_at": BEGIN}, ValueError, "one of them"),
        ({"priority": 10}, ValueError, "0 to 9"),
        ({"priority": -1}, ValueError, "0 to 9"),
        ({"priority": "high"}, TypeError, "int"),
        ({"priority": True}, TypeError, "int"),
        ({"ttl": 0}, ValueError, "over 0"),
        ({"ttl": -1.0}, ValueError, "seconds from 0"),
        ({"ttl": 1_800_000_000_000}, ValueError, "seconds from 0"),
        ({"dedupe": ""}, ValueError, "empty"),
        ({"dedupe": 17}, TypeError, "str or bytes"),
        ({"headers": {"__mqlog.due": b"1"}}, ValueError, "__mqlog"),
        ({"key": "text"}, TypeError, "key"),
        ({"timeout": -1.0, "priority": 9}, ValueError, "timeout"),
    ],
)
def test_what_makes_no_sense_is_refused_and_nothing_is_put(
    jobs: Bytes, how: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        jobs.put(b"1", **how)
    assert jobs.stats().ready + jobs.stats().delayed == 0


@pytest.mark.parametrize(("value", "says"), [("text", "encode"), (None, "tombstone"), (7, "int")])
def test_a_value_that_is_no_bytes_is_refused(jobs: Bytes, value: Any, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        jobs.put(value)
    with pytest.raises(TypeError, match=says):
        jobs.put_many([b"1", value])
    assert jobs.empty()


# -- priorities and lives ------------------------------------------------------------------------


def test_higher_priorities_come_first_and_each_in_its_order(jobs: Bytes) -> None:
    for number in range(20):
        jobs.put(b"%d" % number, priority=(4, 9, 0, 4, 7)[number % 5])
    numbers = [int(value) for value in drain(jobs)]
    by_priority = [[n for n in range(20) if n % 5 in which] for which in ([1], [4], [0, 3], [2])]
    assert numbers == [n for some in by_priority for n in some]


def test_what_was_released_comes_before_what_is_new_of_its_priority(jobs: Bytes) -> None:
    jobs.put_many([b"low 1", b"low 2"])
    jobs.put_many([b"high 1", b"high 2"], priority=9)
    jobs.get().release()
    assert drain(jobs) == [b"high 1", b"high 2", b"low 1", b"low 2"]


def test_what_nobody_took_in_its_life_is_dropped_and_counted(jobs: Bytes, clock: Clock) -> None:
    jobs.put(b"short", ttl=1.0)
    jobs.put(b"long", ttl=100.0)
    jobs.put(b"taken", ttl=1.0)
    first = jobs.get()
    assert first.value == b"short"
    first.accept()
    jobs.put(b"short too", ttl=1.0)
    clock.now += 2.0
    assert drain(jobs) == [b"long"]
    assert (jobs.stats().expired, jobs.stats().dead) == (2, 0)


def test_what_was_delivered_once_does_not_expire(jobs: Bytes, clock: Clock) -> None:
    jobs.put(b"1", ttl=1.0)
    jobs.get().release()
    clock.now += 2.0
    assert drain(jobs) == [b"1"]


# -- keys of idempotent puts ---------------------------------------------------------------------


def test_a_key_is_put_once_in_its_window(jobs: Bytes, clock: Clock) -> None:
    first = jobs.put(b"1", dedupe="order-17")
    assert jobs.put(b"2", dedupe=b"order-17") == first
    assert jobs.put(b"3", dedupe="order-18") != first
    clock.now += 3600.0
    assert jobs.put(b"4", dedupe="order-17") == first
    clock.now += 1.0
    assert jobs.put(b"5", dedupe="order-17") > first
    assert drain(jobs) == [b"1", b"3", b"5"]


def test_keys_are_known_again_after_reopening(tmp_path: Any) -> None:
    with mqlog.open(tmp_path / "s") as store:
        first = store.queue("jobs").put(b"1", dedupe="a", delay=100.0)
    with mqlog.open(tmp_path / "s") as store:
        queue = store.queue("jobs")
        assert queue.put(b"2", dedupe="a") == first
        assert (queue.stats().ready, queue.stats().delayed) == (0, 1)


def test_a_clock_that_went_back_and_forth_forgets_no_key(jobs: Bytes, clock: Clock) -> None:
    before = [jobs.put(b"1", dedupe=f"before {n}") for n in range(1500)]
    clock.now -= 7200.0
    for n in range(1500):
        jobs.put(b"2", dedupe=f"back {n}")
    clock.now += 7200.0
    assert [jobs.put(b"3", dedupe=f"before {n}") for n in range(1500)] == before


@pytest.mark.parametrize("priorities", [[4], [4, 9]])
def test_a_key_that_is_there_needs_no_room(store: Store, priorities: list[int]) -> None:
    queue = store.queue("jobs", maxsize=len(priorities))
    offsets = [queue.put(b"1", dedupe="a", priority=priority) for priority in priorities]
    assert queue.full()
    again = [queue.put(b"2", False, dedupe="a", priority=priority) for priority in priorities]
    assert again == offsets
    with pytest.raises(mqlog.Full):
        queue.put(b"3", block=False, dedupe="b")


# -- bounds --------------------------------------------------------------------------------------


def in_background(call: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=call)
    thread.start()
    return thread


@pytest.mark.parametrize("priorities", [[4], [4, 9]])
def test_a_full_queue_says_so_at_once_or_at_the_timeout(
    store: Store, priorities: list[int]
) -> None:
    queue = store.queue("jobs", maxsize=2 * len(priorities))
    for priority in priorities * 2:
        queue.put(b"1", priority=priority)
    for how in ({"block": False}, {"timeout": 0.0}, {"timeout": 0.02}):
        with pytest.raises(mqlog.Full):
            queue.put(b"2", **how)
    with pytest.raises(mqlog.Full):
        queue.put_nowait(b"2")
    assert queue.full()
    held = queue.get()  # what is acquired does not count
    queue.put(b"2", block=False)
    held.release()
    assert queue.qsize() == 2 * len(priorities) + 1


def test_a_put_that_waits_goes_on_when_there_is_room(store: Store) -> None:
    queue = store.queue("jobs", maxsize=1)
    queue.put(b"1")
    waiting = in_background(lambda: queue.put(b"2", timeout=30.0))
    queue.get().accept()
    waiting.join()
    assert drain(queue) == [b"2"]


@pytest.mark.slow
def test_put_many_waits_until_there_is_room_for_all(store: Store) -> None:
    queue = store.queue("jobs", maxsize=4)
    queue.put_many([b"1"] * 3)
    before = time.process_time()
    waiting = in_background(lambda: queue.put_many([b"2"] * 4))
    waiting.join(0.5)
    assert waiting.is_alive()
    assert time.process_time() - before < 0.25, "it does not sleep"
    for _ in range(3):
        queue.get().accept()
    waiting.join(30.0)
    assert queue.qsize() == 4
    with pytest.raises(ValueError, match="maxsize=4"):
        queue.put_many([b"3"] * 5)


def backlog(store: Store) -> int:
    """Bytes of the log, of a queue that has finished nothing."""
    return store.topic("jobs").bytes


def test_a_backlog_has_at_most_max_bytes(store: Store) -> None:
    store.queue("sizes").put(b"x" * 100)
    size = store.topic("sizes").bytes
    queue = store.queue("jobs", max_bytes=10 * size)
    for _ in range(10):
        assert not queue.full()
        queue.put(b"x" * 100, block=False)
    assert queue.full() and backlog(store) == 10 * size
    for value in (b"x" * 100, b""):
        with pytest.raises(mqlog.Full):
            queue.put(value, block=False)
    with pytest.raises(mqlog.Full):
        queue.put(b"x", timeout=0.02)
    held = queue.get_many(2)
    with pytest.raises(mqlog.Full):  # what is acquired may come back
        queue.put(b"x" * 100, block=False)
    queue.accept(held[1:])
    with pytest.raises(mqlog.Full):  # the oldest is still there
        queue.put(b"x" * 100, block=False)
    queue.accept(held[:1])
    queue.put_many([b"x" * 40] * 2)
    with pytest.raises(mqlog.RecordTooLargeError, match="max_bytes"):
        queue.put(b"x" * 10 * size, block=False)


def test_a_backlog_is_measured_over_segments(store: Store) -> None:
    queue = store.queue("jobs", max_bytes=40_000, segment_bytes=8192, batch_bytes=1024)
    put = 0
    with pytest.raises(mqlog.Full):
        while True:
            queue.put(b"x" * 1000, block=False)
            put += 1
    assert 35 <= put <= 39  # with its batch header each has some more
    for _ in range(200):
        queue.get().accept()
        queue.put(b"x" * 1000, block=False)
        with pytest.raises(mqlog.Full):
            queue.put(b"x" * 1000, block=False)
    assert queue.qsize() == put


def test_appends_to_the_stream_are_bounded_too(store: Store) -> None:
    queue = store.queue("jobs", max_bytes=2000)
    stream = store.stream("jobs")
    stream.append(b"x" * 1500)
    with pytest.raises(mqlog.Full):
        stream.append(b"x" * 1500)
    queue.get().accept()
    stream.append(b"x" * 1500)


@pytest.mark.parametrize("bound", [{"max_bytes": 400}, {"maxsize": 2}])
def test_a_put_of_another_process_goes_on_when_there_is_room(
    store: Store, zygote: Zygote, bound: dict[str, int]
) -> None:
    queue = store.queue("jobs", **bound)
    with zygote.start("put", store.path, "jobs", 50) as other:
        for number in range(50):
            other.expect("put")
            assert queue.qsize() <= 2
            message = queue.get(timeout=30.0)
            assert message.value == make_value(0, number)
            message.accept()
        other.join()


@pytest.mark.parametrize("bound", [{"max_bytes": 20_000}, {"maxsize": 10}])
def test_a_bound_holds_for_writers_at_once(store: Store, bound: dict[str, int]) -> None:
    """Ten of five hundred at most are there at any moment, whoever puts."""
    queue = store.queue("jobs", **bound)
    size = 1900  # ten of them, with their headers, are just under 20,000 bytes

    def put() -> None:
        for _ in range(125):
            queue.put(b"x" * size, timeout=30.0)

    writers = [in_background(put) for _ in range(4)]
    most, taken = 0, 0
    while taken < 500:
        most = max(most, sum(place.waiting() for place in queue._places))
        queue.get(timeout=30.0).accept()
        taken += 1
    for writer in writers:
        writer.join()
    assert most <= 10
    assert queue.empty()
