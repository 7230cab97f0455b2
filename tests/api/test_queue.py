"""Queue handles: what get gives, what a handle knows of its queue, how it ends, what is refused."""

from __future__ import annotations

import os
import pickle
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import mqlog
from mqlog import Queue, Store

# What a test leaves in hand at its end is no mistake of its own.
pytestmark = pytest.mark.filterwarnings("ignore:.*dropped without being settled:ResourceWarning")

Bytes = Queue[bytes, Any]


@pytest.fixture
def jobs(store: Store) -> Bytes:
    return store.queue("jobs", retry_delays=(0.0,))


def values(messages: list[mqlog.Message[bytes]]) -> list[bytes]:
    return [message.value for message in messages]


def in_child(call: Callable[[], object]) -> str:
    """What a call raises in a forked child, or "done"."""
    inner, outer = os.pipe()
    child = os.fork()
    if child == 0:
        said = "done"
        try:
            call()
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(outer, said.encode())
        os._exit(0)
    os.close(outer)
    with os.fdopen(inner) as told:
        said = told.read()
    os.waitpid(child, 0)
    return said


def during(queue: Bytes, call: Callable[[], object], then: Callable[[], object]) -> BaseException:
    """What `call` raises in a thread when `then` comes to pass while it waits."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(0.05)
    assert thread.is_alive(), "it has not waited"
    then()
    thread.join(30.0)
    (error,) = raised
    return error


# -- taking --------------------------------------------------------------------------------------


def test_records_come_in_the_order_in_which_they_were_put(jobs: Bytes) -> None:
    offsets = [jobs.put(b"%d" % n) for n in range(300)]
    assert offsets == list(range(300))
    jobs.put_many([b"%d" % n for n in range(300, 600)])
    assert [int(message.value) for message in jobs.get_many(1000)] == list(range(600))


def test_get_many_gives_what_is_there_and_locks_it(jobs: Bytes) -> None:
    jobs.put_many([b"1", b"2", b"3"])
    held = jobs.get_many(2)
    assert values(held) == [b"1", b"2"]
    held += jobs.get_many(2)
    assert values(held) == [b"1", b"2", b"3"]
    assert jobs.get_many(2, timeout=0) == jobs.get_many(2, timeout=0.01) == []
    assert len(jobs.acquired()) == 3
    for bad in (0, -1):
        with pytest.raises(ValueError, match="at least 1"):
            jobs.get_many(bad)


@pytest.mark.parametrize("how", [{"block": False}, {"timeout": 0}, {"timeout": 0.01}])
def test_an_empty_queue_is_empty_as_the_standard_librarys(jobs: Bytes, how: Any) -> None:
    import queue

    assert jobs.empty()
    with pytest.raises(queue.Empty) as caught:
        jobs.get(**how)
    assert isinstance(caught.value, mqlog.Empty)


def test_iterating_ends_when_nothing_came_for_so_long(jobs: Bytes) -> None:
    jobs.put_many([b"1", b"2"])
    seen = []
    for message in jobs.messages(timeout=0.0):
        with message:
            seen.append(message.value)
            if message.value == b"1":
                jobs.put(b"3")
    assert seen == [b"1", b"2", b"3"]


def test_peek_shows_what_comes_and_takes_nothing(jobs: Bytes) -> None:
    jobs.put_many([b"1", b"2", b"3"])
    jobs.get().release()
    held = jobs.get()
    for _ in range(2):
        assert [record.value for record in jobs.peek(5)] == [b"2", b"3"]
    assert jobs.peek()[0].offset == 1
    held.release()
    assert [record.value for record in jobs.peek(5)] == [b"1", b"2", b"3"]
    assert jobs.get().delivery_count == 3


def test_share_groups_each_deliver_everything(store: Store) -> None:
    bills = store.queue("orders", group="bills")
    bills.put_many([b"1", b"2"])
    mails = store.queue("orders", group="mails")
    late = store.queue("orders", group="late", start=mqlog.LATEST)
    bills.accept(bills.get_many(2))
    assert values(mails.get_many(5)) == [b"1", b"2"]
    assert late.empty()
    late.put(b"3")
    assert [values(one.get_many(5)) for one in (bills, mails, late)] == [[b"3"]] * 3


def test_no_more_than_max_acquired_are_out(store: Store) -> None:
    queue = store.queue("jobs", max_acquired=2)
    queue.put_many([b"1", b"2", b"3"])
    held = queue.get_many(5)
    assert len(held) == 2 and queue.get_many(1, timeout=0) == []
    held[0].accept()
    assert queue.get(timeout=10).value == b"3"


def test_purge_drops_what_waits_and_leaves_what_is_held(jobs: Bytes) -> None:
    jobs.put_many([b"1", b"2", b"3"])
    jobs.put(b"later", delay=100.0)
    jobs.put(b"high", priority=9)
    held = jobs.get()
    assert jobs.purge() == 4
    assert (jobs.stats().purged, jobs.stats().dead, jobs.stats().acquired) == (4, 0, 1)
    held.accept()
    assert (held.value, jobs.purge()) == (b"high", 0)


def test_the_facts_add_up(jobs: Bytes) -> None:
    jobs.put_many([b"%d" % n for n in range(10)])
    jobs.put(b"later", delay=100.0)
    held = jobs.get_many(6)
    jobs.accept(held[:2])
    jobs.reject(held[2:3], reason="no good")
    jobs.release(held[3:4])
    stats = jobs.stats()
    assert (stats.ready, stats.delayed, stats.acquired) == (5, 1, 2)
    assert (stats.accepted, stats.dead, stats.damaged) == (2, 1, 0)
    assert stats.bytes > 0 and (stats.oldest_age or 0) >= 0
    assert jobs.qsize() == 5 and not jobs.empty() and not jobs.full()
    for info, message in zip(jobs.acquired(), held[4:], strict=True):
        assert (info.id, info.delivery_count, info.token) == (message.id, 1, message.token)
        assert 0 < (info.expires_in or 0) <= 30.0


# -- ends ----------------------------------------------------------------------------------------


def test_join_waits_for_what_was_put_before_it(jobs: Bytes) -> None:
    jobs.put_many([b"1", b"2"])
    with pytest.raises(TimeoutError):
        jobs.join(timeout=0.01)
    done = threading.Event()
    joiner = threading.Thread(target=lambda: (jobs.join(30.0), done.set()))
    joiner.start()
    jobs.get().accept()
    assert not done.wait(0.02)
    jobs.get().reject()
    joiner.join(30.0)
    assert done.is_set()
    jobs.put(b"after it")


def test_shutdown_ends_puts_and_gets_of_this_handle_alone(store: Store, jobs: Bytes) -> None:
    other = store.queue("jobs")
    jobs.put(b"1")
    jobs.shutdown()
    assert jobs.is_shutdown and not other.is_shutdown
    for call in (lambda: jobs.put(b"2"), lambda: jobs.put_many([b"2"])):
        with pytest.raises(mqlog.ShutDown):
            call()
    held = jobs.get()
    assert held.value == b"1"
    with pytest.raises(mqlog.ShutDown):
        jobs.get()
    other.put(b"3")
    jobs.shutdown(immediate=True)
    with pytest.raises(mqlog.ShutDown):
        jobs.get()
    assert b"3" in values(other.get_many(5))


def test_a_closed_intake_refuses_puts_of_every_handle_and_gets_go_on(tmp_path: Any) -> None:
    with mqlog.open(tmp_path / "s") as store:
        queue = store.queue("jobs")
        queue.put(b"1")
        store.alter("jobs", intake="closed")
        with pytest.raises(mqlog.ShutDown, match="intake='open'"):
            queue.put(b"2")
    with mqlog.open(tmp_path / "s") as store:
        queue = store.queue("jobs")
        for call in (lambda: queue.put(b"2"), lambda: queue.put_many([b"2"])):
            with pytest.raises(mqlog.ShutDown):
                call()
        assert queue.get().value == b"1"
        store.alter("jobs", intake="open")
        queue.put(b"3")


@pytest.mark.parametrize("priorities", [[4], [4, 9]])
@pytest.mark.parametrize(
    ("then", "error"),
    [
        ("shutdown", mqlog.ShutDown),
        ("close", mqlog.ClosedError),
        ("close the store", mqlog.ClosedError),
        ("delete", mqlog.TopicDeletedError),
    ],
)
def test_whoever_waits_is_told_of_the_end(
    priorities: list[int], then: str, error: type[Exception]
) -> None:
    with mqlog.temporary() as store:
        queue = store.queue("jobs", maxsize=len(priorities))
        for priority in priorities:
            queue.put(b"1", priority=priority)
        how = {
            "shutdown": queue.shutdown,
            "close": queue.close,
            "close the store": store.close,
            "delete": lambda: store.delete_topic("jobs"),
        }
        if then == "delete":  # one of a kind is enough: the queue is gone afterwards
            queue.accept(queue.get_many(5))
            assert isinstance(during(queue, queue.get, how[then]), error)
        else:
            assert isinstance(during(queue, lambda: queue.put(b"2"), how[then]), error)


@pytest.mark.parametrize("then", ["shutdown", "close", "close the store"])
def test_whoever_waits_for_a_message_is_told_of_the_end(then: str) -> None:
    with mqlog.temporary() as store:
        queue = store.queue("jobs")
        how = {"shutdown": queue.shutdown, "close": queue.close, "close the store": store.close}
        error = during(queue, queue.get, how[then])
        expected = mqlog.ShutDown if then == "shutdown" else mqlog.ClosedError
        assert isinstance(error, expected)


def test_a_put_that_waits_in_a_deleted_queue_is_told() -> None:
    with mqlog.temporary() as store, mqlog.open(store.path) as other:
        queue = store.queue("jobs", maxsize=1)
        queue.put(b"1")
        error = during(queue, lambda: queue.put(b"2"), lambda: other.delete_topic("jobs"))
        assert isinstance(error, mqlog.TopicDeletedError)
        with pytest.raises(mqlog.TopicDeletedError):
            queue.get()


def test_a_handle_of_a_deleted_queue_is_not_one_of_the_new_one(store: Store, jobs: Bytes) -> None:
    jobs.put(b"1")
    held = jobs.get()
    store.delete_topic("jobs")
    again = store.queue("jobs")
    again.put(b"2")
    for call in (jobs.get, jobs.stats, lambda: jobs.put(b"3"), held.accept, jobs.purge):
        with pytest.raises(mqlog.ClosedError):
            call()
    assert again.stats().ready == 1


@pytest.mark.parametrize(
    "call",
    [
        lambda queue: queue.put(b"1"),
        lambda queue: queue.put_many([b"1"]),
        lambda queue: queue.get(block=False),
        lambda queue: queue.get_many(1, timeout=0),
        lambda queue: queue.peek(),
        lambda queue: queue.stats(),
        lambda queue: queue.qsize(),
        lambda queue: queue.purge(),
        lambda queue: queue.acquired(),
        lambda queue: queue.join(0),
        lambda queue: queue.fileno(),
        lambda queue: queue.dead_letters,
        lambda queue: mqlog.wait([queue], 0),
    ],
)
def test_a_closed_handle_says_so(jobs: Bytes, call: Callable[[Bytes], object]) -> None:
    jobs.close()
    jobs.close()
    with pytest.raises(mqlog.ClosedError):
        call(jobs)
    assert "closed" in repr(jobs)


# -- other processes -----------------------------------------------------------------------------


def test_a_queue_pickles_as_its_place(store: Store, jobs: Bytes) -> None:
    jobs.put(b"1")
    again = pickle.loads(pickle.dumps(jobs))
    assert (again.name, again.group) == ("jobs", "default")
    again.get().accept()
    assert jobs.stats().accepted == 1
    again._store.close()
    blob = pickle.dumps(jobs)
    store.delete_topic("jobs")
    store.queue("jobs")
    with pytest.raises(mqlog.TopicDeletedError, match="made again"):
        pickle.loads(blob)


def test_a_forked_child_has_a_queue_and_none_of_its_parents_messages(jobs: Bytes) -> None:
    jobs.put_many([b"1", b"2"])
    held = jobs.get()
    iterator = jobs.messages(timeout=0.0)
    for call in (held.accept, held.release, held.reject, held.renew, held.__enter__):
        assert in_child(call).startswith("ForkedError: <mqlog.Message jobs-0:0>")
    assert in_child(lambda: jobs.accept([held])).startswith("ForkedError")

    def work() -> None:
        message = jobs.get(timeout=30.0)
        assert message.value == b"2"
        message.accept()
        jobs.put(b"3")

    assert in_child(work) == "done"
    held.accept()
    assert values(list(iterator)) == [b"3"]
    assert jobs.stats().accepted == 2


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["accept", "release", "reject", "renew"])
def test_a_message_of_another_queue_is_refused_and_nothing_changes(store: Store, how: str) -> None:
    one, other = store.queue("one"), store.queue("other")
    groups = [store.queue("one", group="a"), store.queue("other")]
    one.put(b"1")
    other.put(b"2")
    mine, theirs = one.get(), other.get()
    for wrong in ([theirs], [mine, theirs]):
        with pytest.raises(ValueError, match="is of another queue: nothing was changed"):
            getattr(one, how)(wrong)
    for queue in groups[:1]:
        with pytest.raises(ValueError, match="is of another queue"):
            getattr(queue, how)([mine])
    with pytest.raises(TypeError, match="not a message: bytes"):
        getattr(one, how)([mine, b"1"])
    assert (one.stats().acquired, other.stats().acquired) == (1, 1)
    getattr(store.queue("one"), how)([mine])  # another handle of the same queue may


def test_of_many_one_that_was_settled_is_told_and_nothing_changes(jobs: Bytes) -> None:
    jobs.put_many([b"1", b"2"])
    held = jobs.get_many(2)
    held[1].accept()
    with pytest.raises(mqlog.SettledError):
        jobs.accept(held)
    assert not held[0].settled
    jobs.accept(held[:1] * 2)  # one message named twice is one message
    assert jobs.stats().accepted == 2


def test_of_many_those_that_are_lost_are_named_and_the_others_settled(jobs: Bytes) -> None:
    jobs.put_many([b"1", b"2", b"3"])
    lost = jobs.get(lock_duration=0.001)
    held = jobs.get_many(2)
    again = jobs.get(timeout=30.0)
    with pytest.raises(mqlog.LockLostError) as caught:
        jobs.accept([held[0], lost, held[1]])
    assert caught.value.messages == [lost]
    assert jobs.stats().accepted == 2
    again.accept()


def test_a_lock_that_has_just_passed_is_anothers_at_once(jobs: Bytes) -> None:
    """Though a long lock counts from the clock's last tick, which is some ms ago."""
    for n in range(100):
        jobs.put(b"%d" % n)
        late = jobs.get(lock_duration=0.002)
        passed = time.clock_gettime(time.CLOCK_BOOTTIME) + 0.003
        while time.clock_gettime(time.CLOCK_BOOTTIME) < passed:
            pass
        jobs.get(block=False, lock_duration=30.0).accept()
        with pytest.raises(mqlog.LockLostError):
            late.accept()


def test_a_name_or_group_that_is_not_there_is_not_made_unasked(store: Store, jobs: Bytes) -> None:
    with pytest.raises(mqlog.NotFoundError, match="jobs"):
        store.queue("job", create=False)
    with pytest.raises(mqlog.NotFoundError, match="group"):
        store.queue("jobs", group="audit", create=False)
    with pytest.raises(mqlog.NotFoundError, match="no dead letters yet"):
        store.queue("jobs.dlq")
    with pytest.raises(mqlog.OptionError, match="max_deliveries"):
        store.queue("jobs", max_deliveries=3)
    with pytest.raises(ValueError):
        store.queue("jobs", group="a/b")
