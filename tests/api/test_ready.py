"""wait() and fileno(): ready while there is something to read, and no longer."""

import gc
import os
import select
import selectors
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from support.processes import Zygote

import mqlog
from mqlog import _consumer, _ready


@pytest.fixture
def store() -> Iterator[mqlog.Store]:
    with mqlog.temporary() as store:
        yield store


@pytest.fixture(autouse=True)
def always_balanced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every poll looks at the group, so that no test depends on the time."""
    monkeypatch.setattr(_consumer, "_BALANCE", 0.0)


def readable(handle: Any, timeout: float = 0) -> bool:
    """Whether an event loop would call back; up to `timeout` seconds for the thread to show it."""
    return bool(select.select([handle], [], [], timeout)[0])


def test_wait_returns_the_handles_that_are_ready_in_the_order_given(store: mqlog.Store) -> None:
    clicks, orders, quiet = (store.stream(name) for name in ("clicks", "orders", "quiet"))
    clicks.append(b"a")
    orders.append(b"b")
    assert mqlog.wait([orders, quiet, clicks], 0) == [orders, clicks]


def test_wait_gives_nothing_at_the_timeout(store: mqlog.Store) -> None:
    assert mqlog.wait([store.stream("clicks")], 0) == []
    assert mqlog.wait([store.stream("clicks")], 0.01) == []


def test_wait_tells_of_a_streams_record_once(store: mqlog.Store) -> None:
    clicks = store.stream("clicks")
    clicks.append(b"a")
    assert mqlog.wait([clicks], 0) == [clicks]
    assert mqlog.wait([clicks], 0) == []


def test_wait_tells_of_a_consumers_records_until_they_are_polled(store: mqlog.Store) -> None:
    clicks = store.stream("clicks")
    clicks.append_many([b"a", b"b"])
    with clicks.consumer("billing") as consumer:
        for _ in range(2):
            assert mqlog.wait([consumer], 0) == [consumer]
        consumer.poll(1)
        assert mqlog.wait([consumer], 0) == [consumer]
        consumer.poll(1)
        assert mqlog.wait([consumer], 0) == []


def test_wait_wakes_up_when_another_thread_appends(store: mqlog.Store) -> None:
    clicks, orders = store.stream("clicks"), store.stream("orders", partitions=2)
    thread = threading.Thread(target=orders.append, args=(b"a",))
    thread.start()
    assert mqlog.wait([clicks, orders], 30) == [orders]
    thread.join()


def test_wait_takes_handles_of_several_stores(store: mqlog.Store) -> None:
    with mqlog.temporary() as second:
        here, there = store.stream("clicks"), second.stream("clicks")
        assert mqlog.wait([here, there], 0.01) == []
        thread = threading.Thread(target=there.append, args=(b"a",))
        thread.start()
        assert mqlog.wait([here, there], 30) == [there]
        thread.join()


def test_wait_knows_what_it_can_wait_for(store: mqlog.Store) -> None:
    with pytest.raises(TypeError, match="takes queues, streams and consumers, not Store"):
        mqlog.wait([store], 0)
    with pytest.raises(ValueError, match="at least one handle"):
        mqlog.wait([], 0)


def test_wait_tells_of_queues_that_have_a_message(store: mqlog.Store) -> None:
    first, second = store.queue("first"), store.queue("second")
    assert mqlog.wait([first, second], 0) == []
    second.put(b"1")
    assert mqlog.wait([first, second], 0) == mqlog.wait([first, second]) == [second]
    message = second.get()
    assert mqlog.wait([first, second], 0) == []
    message.release()
    first.put(b"2", delay=0.05)
    assert mqlog.wait([first, second]) == [second]
    second.get().accept()
    assert mqlog.wait([first, second], 30.0) == [first], "the delayed one is due"


def test_wait_on_queues_of_several_stores_hears_another_process(
    store: mqlog.Store, zygote: Zygote
) -> None:
    with mqlog.temporary() as other:
        queues = [store.queue("jobs"), other.queue("jobs")]
        for chosen in (queues[1], queues[0]):
            with zygote.start("put", chosen._store.path, "jobs", 1) as worker:
                worker.expect("put")
                assert mqlog.wait(queues, 30.0) == [chosen]
            chosen.get().accept()


def test_a_lock_that_passes_makes_a_queue_ready(store: mqlog.Store) -> None:
    queue = store.queue("jobs")
    queue.put(b"1")
    held = queue.get(lock_duration=0.5)
    assert mqlog.wait([queue], 0) == []
    assert mqlog.wait([queue], 30.0) == [queue]
    again = queue.get_nowait()
    assert again.token > held.token
    again.accept()
    with pytest.raises(mqlog.LockLostError):
        held.accept()


@pytest.mark.parametrize("stores", [1, 2])
@pytest.mark.slow
def test_waiting_costs_no_processor_time(store: mqlog.Store, stores: int) -> None:
    """Of many queues with delayed messages and held ones; and of their descriptors."""
    with mqlog.temporary() as other:
        queues = [store.queue(f"jobs-{n}") for n in range(8)]
        if stores == 2:
            queues.append(other.queue("jobs"))
        held = []
        for queue in queues:
            queue.put(b"held")
            held.append(queue.get())
            queue.put(b"later", delay=3600.0)
        descriptors = [queue.fileno() for queue in queues]
        calls = [
            lambda: mqlog.wait(queues, 1.0),
            lambda: queues[0].get_many(1, timeout=1.0),
            lambda: select.select(descriptors, [], [], 1.0)[0],
        ]
        for call in calls:
            before = time.process_time()
            assert call() == []
            assert time.process_time() - before < 0.05, "a second of waiting took over 5 %"
        for message in held:
            message.accept()


def test_a_queues_descriptor_is_readable_while_get_would_return(store: mqlog.Store) -> None:
    queue = store.queue("jobs")
    assert not readable(queue)
    queue.put_many([b"1", b"2"])
    assert readable(queue, 30.0)
    first = queue.get()
    assert readable(queue)
    second = queue.get()
    assert not readable(queue)
    first.release()
    assert readable(queue, 30.0)
    queue.get().accept()
    second.accept()
    assert not readable(queue)


def test_a_selector_wakes_for_a_delayed_message_when_it_is_due(store: mqlog.Store) -> None:
    queue = store.queue("jobs")
    with selectors.DefaultSelector() as selector:
        selector.register(queue, selectors.EVENT_READ)
        due = time.time() + 0.6
        queue.put(b"1", deliver_at=due)
        found, wakes = [], 0
        while not found:
            assert len(selector.select(30.0)) == 1
            found = queue.get_many(1, timeout=0)
            wakes += 1
        assert 0 <= time.time() - due < 0.5
        assert wakes <= 2, "once for the put at most, before it is known to be delayed"
        found[0].accept()
        assert selector.select(0) == []


def test_a_spare_consumer_is_ready_when_it_may_take_over(store: mqlog.Store) -> None:
    clicks = store.stream("clicks")
    first, spare = clicks.consumer("billing"), clicks.consumer("billing")
    assert mqlog.wait([spare], 0) == []
    first.close()
    assert mqlog.wait([spare], 0) == [spare]
    spare.poll(timeout=0)
    assert mqlog.wait([spare], 0) == []


OWNER = """
    import sys, mqlog
    store = mqlog.open(sys.argv[1], create=False)
    consumer = store.stream("clicks", create=False).consumer("billing")
    print("mine", flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_a_spare_consumer_is_ready_when_the_owner_was_killed(store: mqlog.Store) -> None:
    clicks = store.stream("clicks")
    command = [sys.executable, "-c", textwrap.dedent(OWNER), str(store.path)]
    owner = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"mine\n"
        with clicks.consumer("billing") as spare:
            assert not readable(spare)
            [group] = store.groups("clicks")
            assert (len(group.members), len(group.owners)) == (2, 1)
            owner.kill()
            owner.wait()
            [group] = store.groups("clicks")
            assert (len(group.members), len(group.owners)) == (1, 0)
            assert mqlog.wait([spare], 30) == [spare]
            assert readable(spare, 30)


def test_an_owner_is_ready_when_it_should_hand_on(store: mqlog.Store) -> None:
    spread = store.stream("spread", partitions=2)
    first = spread.consumer("billing")
    assert mqlog.wait([first], 0) == []
    with spread.consumer("billing"):
        assert mqlog.wait([first], 0) == [first]


def test_a_consumers_descriptor_is_readable_while_records_are_unread(store: mqlog.Store) -> None:
    clicks = store.stream("clicks")
    with clicks.consumer("billing") as consumer:
        assert not readable(consumer)
        clicks.append_many([b"a", b"b"])
        assert readable(consumer, 30)
        consumer.poll(1)
        assert readable(consumer)
        consumer.poll(1)
        assert not readable(consumer)
        clicks.append(b"c")
        assert readable(consumer, 30)
        consumer.seek(mqlog.LATEST)
        assert not readable(consumer)


def test_a_consumers_descriptor_follows_the_loop(store: mqlog.Store) -> None:
    clicks = store.stream("clicks")
    with clicks.consumer("billing") as consumer:
        clicks.append_many([b"a", b"b"])
        loop = consumer.records(0)
        next(loop)
        assert readable(consumer, 30)
        next(loop)
        assert not readable(consumer)


def test_a_streams_descriptor_is_readable_when_records_came(store: mqlog.Store) -> None:
    clicks = store.stream("clicks", partitions=2)
    assert not readable(clicks)
    clicks.append(b"a")
    assert readable(clicks, 30)
    assert list(clicks.tail(timeout=0)) == []
    assert not readable(clicks)
    clicks.append(b"b")
    assert readable(clicks, 30)
    assert mqlog.wait([clicks], 0) == [clicks]
    assert not readable(clicks)


def test_descriptors_hear_of_another_process(store: mqlog.Store) -> None:
    clicks = store.stream("clicks")
    assert not readable(clicks)
    child = os.fork()
    if child == 0:
        clicks.append(b"child")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert readable(clicks, 30)


def test_a_forked_child_has_descriptors_of_its_own(store: mqlog.Store) -> None:
    clicks = store.stream("clicks")
    clicks.append(b"a")
    assert readable(clicks, 30)
    child = os.fork()
    if child == 0:
        try:
            mine = readable(clicks, 30)  # the same records are new to it
            list(clicks.tail(timeout=0))
            os._exit(0 if mine and not readable(clicks) else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert readable(clicks)


def open_descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def eventfds() -> set[int]:
    """What belongs to handles: other descriptors come and go with the engine's threads."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # listdir's own
            if os.readlink(f"/proc/self/fd/{name}") == "anon_inode:[eventfd]":
                found.add(int(name))
    return found


def test_descriptors_and_the_thread_go_with_their_handles() -> None:
    before = open_descriptors(), threading.active_count()
    with mqlog.temporary() as store:
        clicks = store.stream("clicks")
        clicks.fileno()
        consumer = clicks.consumer("billing")
        consumer.fileno()
        inside = open_descriptors()
        consumer.close()
        assert open_descriptors() == inside - 1
    del clicks, consumer
    assert (open_descriptors(), threading.active_count()) == before


def test_closing_the_store_closes_the_descriptors_of_its_handles() -> None:
    before = open_descriptors(), threading.active_count()
    store = mqlog.temporary()
    clicks = store.stream("clicks")
    consumer = clicks.consumer("billing")
    descriptors = clicks.fileno(), consumer.fileno()
    store.close()
    for descriptor in descriptors:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
    del clicks, consumer
    assert (open_descriptors(), threading.active_count()) == before


def test_a_handle_that_was_dropped_gives_its_descriptor_back(store: mqlog.Store) -> None:
    clicks, orders = store.stream("clicks"), store.stream("orders")
    kept, dropped = clicks.fileno(), orders.fileno()
    assert {kept, dropped} <= eventfds()
    del orders
    gc.collect()
    store._watch()._show_all()  # or the thread has been faster
    assert kept in eventfds()
    assert dropped not in eventfds()


def test_a_deleted_topic_shows_on_its_descriptor_and_on_no_other(store: mqlog.Store) -> None:
    clicks, orders = store.stream("clicks"), store.stream("orders")
    deleted = clicks.fileno()
    assert not readable(deleted)
    assert not readable(orders)
    store.delete_topic("clicks")
    assert readable(deleted, 30)
    assert not readable(orders)
    orders.append(b"a")
    assert readable(orders, 30)


def test_the_thread_does_not_listen_while_every_descriptor_is_readable(
    store: mqlog.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_ready, "SLICE", 30.0)
    clicks = store.stream("clicks")
    clicks.append(b"a")
    assert readable(clicks, 30)
    for _ in range(3):
        clicks.append(b"b")
    assert list(clicks.tail(timeout=0)) == []
    assert not readable(clicks)
    clicks.append(b"c")
    assert readable(clicks, 20)
