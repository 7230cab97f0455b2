"""Messages: what their holder may do, what leaving `with` does, and what a lost lock changes."""

import copy
import logging
import pickle
import sys
import time
from typing import Any

import pytest

import mqlog
from mqlog import Message, Queue, Store

# What a test leaves in hand at its end is no mistake of its own.
pytestmark = pytest.mark.filterwarnings("ignore:.*dropped without being settled:ResourceWarning")

Bytes = Queue[bytes, Any]


@pytest.fixture
def orders(store: Store) -> Bytes:
    return store.queue("orders", retry_delays=(0.0,))


def lose_lock(queue: Bytes, value: bytes = b"late") -> Message[bytes]:
    """A message whose deadline has passed, and which another consumer has."""
    queue.put(value)
    message = queue.get(lock_duration=0.001)
    again = queue.get(timeout=10)
    assert again.id == message.id
    again.accept()
    return message


# -- what it is --------------------------------------------------------------------------------


def test_a_message_is_a_record_with_its_delivery(store: Store) -> None:
    orders = store.queue("orders", partitions=2)
    offset = orders.put(b"1", key=b"k", headers=[("trace", b"1f"), ("trace", None)])
    message = orders.get()
    assert isinstance(message, mqlog.Record)
    assert (message.topic, message.offset, message.raw) == ("orders", offset, b"1")
    assert message.id == f"orders-{message.partition}:{offset}"
    assert (message.key, message.value) == (b"k", b"1")
    assert message.headers == (("trace", b"1f"), ("trace", None))
    assert message.delivery_count == 1
    assert not message.settled
    assert (message.reason, message.origin) == ("", None)
    assert abs(time.time() - (message.timestamp or 0)) < 60
    assert repr(message) == f"<mqlog.Message {message.id}>"
    message.accept()
    assert message.settled


def test_every_delivery_counts_and_has_a_greater_token(orders: Bytes) -> None:
    orders.put(b"1")
    tokens = []
    for count in range(1, 5):
        message = orders.get()
        assert message.delivery_count == count
        tokens.append(message.token)
        message.release()
    assert tokens == sorted(set(tokens))


def test_tokens_grow_across_reopening(tmp_path: Any) -> None:
    tokens = []
    for _ in range(3):
        with mqlog.open(tmp_path / "s") as store:
            orders = store.queue("orders")
            if not tokens:
                orders.put(b"1")
            with pytest.raises(KeyboardInterrupt), orders.get(timeout=10) as message:
                tokens.append(message.token)
                raise KeyboardInterrupt
    assert tokens == sorted(set(tokens))


def test_a_value_is_decoded_at_its_first_access(store: Store) -> None:
    store.stream("orders").append(b"{no json")
    orders = store.queue("orders", codec=mqlog.codecs.json)
    message = orders.get()
    with pytest.raises(ValueError):
        message.value  # noqa: B018
    assert message.raw == b"{no json"
    message.reject("no json")
    assert orders.stats().dead == 1


# -- settling --------------------------------------------------------------------------------------


def test_an_accepted_message_is_not_delivered_again(orders: Bytes) -> None:
    orders.put(b"1")
    orders.get().accept()
    with pytest.raises(mqlog.Empty):
        orders.get(timeout=0.01)
    assert orders.stats().accepted == 1


def test_accepting_durably_is_accepting(tmp_path: Any) -> None:
    with mqlog.open(tmp_path / "s") as store:
        orders = store.queue("orders")
        orders.put(b"1", durable=True)
        orders.get().accept(durable=True)
        assert orders.stats().accepted == 1


def test_a_released_message_is_delivered_again_before_newer_ones(orders: Bytes) -> None:
    orders.put_many([b"1", b"2"])
    orders.get().release()
    first, second = orders.get(), orders.get()
    assert (first.value, second.value) == (b"1", b"2")


def test_a_message_released_with_a_delay_comes_when_it_is_due(orders: Bytes) -> None:
    orders.put(b"1")
    begin = time.monotonic()
    orders.get().release(delay=0.1, reason="not now")
    assert orders.stats().delayed == 1
    with pytest.raises(mqlog.Empty):
        orders.get_nowait()
    message = orders.get(timeout=10)
    assert time.monotonic() - begin >= 0.099
    assert message.delivery_count == 2


def test_a_rejected_message_is_a_dead_letter(orders: Bytes) -> None:
    orders.put(b"1")
    orders.get().reject("no such order")
    letter = orders.dead_letters.get()
    assert (letter.value, letter.reason, letter.origin) == (b"1", "no such order", "orders-0:0")


def test_a_message_released_at_its_last_delivery_is_a_dead_letter(store: Store) -> None:
    orders = store.queue("orders", max_deliveries=2)
    orders.put(b"1")
    orders.get().release(reason="first")
    orders.get().release(reason="second")
    assert orders.dead_letters.get().reason == "second"
    assert orders.stats().dead == 1


def test_without_a_limit_a_message_is_delivered_for_ever(store: Store) -> None:
    orders = store.queue("orders", max_deliveries=None)
    orders.put(b"1")
    for _ in range(300):
        orders.get().release()
    assert orders.get().delivery_count == 255, "it counts so far"
    assert orders.stats().dead == 0


def settle_by_name(message: Message[Any], how: str) -> None:
    getattr(message, how)()


EVERY_WAY = ["accept", "release", "reject", "renew"]


@pytest.mark.parametrize("first", EVERY_WAY[:3])
@pytest.mark.parametrize("second", EVERY_WAY)
def test_settling_twice_is_an_error_and_changes_nothing(
    orders: Bytes, first: str, second: str
) -> None:
    orders.put(b"1")
    message = orders.get()
    settle_by_name(message, first)
    before = orders.stats()
    with pytest.raises(mqlog.SettledError, match=r"Message orders-0:0.* settled before"):
        settle_by_name(message, second)
    after = orders.stats()
    assert (before.ready, before.accepted, before.dead) == (
        after.ready,
        after.accepted,
        after.dead,
    )


@pytest.mark.parametrize("how", EVERY_WAY)
def test_a_lost_lock_is_told_and_nothing_is_changed(orders: Bytes, how: str) -> None:
    message = lose_lock(orders)
    with pytest.raises(mqlog.LockLostError, match="the lock on orders-0:0 is lost") as told:
        settle_by_name(message, how)
    assert told.value.messages == [message]
    assert message.settled
    stats = orders.stats()
    assert (stats.accepted, stats.ready, stats.dead, stats.acquired) == (1, 0, 0, 0)
    with pytest.raises(mqlog.LockLostError):
        settle_by_name(message, how)


def test_a_late_accept_leaves_the_new_holder_his_record(orders: Bytes) -> None:
    orders.put(b"1")
    late = orders.get(lock_duration=0.001)
    mine = orders.get(timeout=10)
    assert mine.token > late.token
    with pytest.raises(mqlog.LockLostError):
        late.accept()
    assert orders.stats().acquired == 1
    mine.accept()
    assert orders.stats().accepted == 1


def test_a_passed_deadline_that_nobody_used_is_a_lost_lock_once_seen(orders: Bytes) -> None:
    orders.put(b"1")
    late = orders.get(lock_duration=0.001)
    assert mqlog.wait([orders], 10) == [orders]
    again = orders.get(timeout=10)
    with pytest.raises(mqlog.LockLostError):
        late.accept()
    again.accept()


# -- renewing --------------------------------------------------------------------------------------


def expires_in(queue: Bytes) -> float | None:
    [held] = queue.acquired()
    return held.expires_in


def test_renewing_without_a_time_is_for_as_long_as_at_the_beginning(store: Store) -> None:
    orders = store.queue("orders", lock_duration=50)
    orders.put_many([b"1", b"2"])
    message = orders.get()
    message.renew(1000)
    assert 999 < (expires_in(orders) or 0) <= 1000
    message.renew()
    assert 49 < (expires_in(orders) or 0) <= 50
    message.accept()
    message = orders.get(lock_duration=300)
    message.renew(1)
    message.renew()
    assert 299 < (expires_in(orders) or 0) <= 300


def test_a_lock_without_an_end_stays_without_one(store: Store) -> None:
    orders = store.queue("orders", lock_duration=None)
    orders.put(b"1")
    message = orders.get()
    assert expires_in(orders) is None
    message.renew()
    assert expires_in(orders) is None
    message.renew(40)
    assert 39 < (expires_in(orders) or 0) <= 40


def test_renewing_keeps_the_message(orders: Bytes) -> None:
    orders.put(b"1")
    message = orders.get(lock_duration=1.0)
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        message.renew()
        with pytest.raises(mqlog.Empty):
            orders.get(timeout=0.1)
    message.accept()


@pytest.mark.parametrize("bad", [0, -1, float("nan"), 1e10])
def test_a_lock_duration_is_positive_seconds(orders: Bytes, bad: float) -> None:
    orders.put(b"1")
    message = orders.get()
    with pytest.raises(ValueError, match="lock_duration"):
        message.renew(bad)
    with pytest.raises(ValueError, match="lock_duration"):
        orders.get(lock_duration=bad)
    message.accept()


# -- with message ----------------------------------------------------------------------------------


def test_leaving_with_accepts(orders: Bytes) -> None:
    orders.put(b"1")
    with orders.get() as message:
        assert message.value == b"1"
    assert orders.stats().accepted == 1


@pytest.mark.parametrize("how", ["accept", "release", "reject"])
def test_what_was_settled_inside_is_left_as_it_is(orders: Bytes, how: str) -> None:
    orders.put(b"1")
    with orders.get() as message:
        settle_by_name(message, how)
    stats = orders.stats()
    assert (stats.accepted, stats.ready, stats.dead) == (
        how == "accept",
        how == "release",
        how == "reject",
    )


def test_what_was_settled_inside_is_left_by_an_exception_too(orders: Bytes) -> None:
    orders.put(b"1")
    with pytest.raises(ValueError), orders.get() as message:
        message.accept()
        raise ValueError
    assert orders.stats().accepted == 1


def test_an_exception_releases_with_the_back_off_and_goes_on(store: Store) -> None:
    orders = store.queue("orders", retry_delays=(0.0, 100.0))
    orders.put(b"1")
    with pytest.raises(ZeroDivisionError), orders.get() as message:
        message.value.index(b"1") / 0
    with pytest.raises(ZeroDivisionError), orders.get() as message:
        assert message.delivery_count == 2
        message.value.index(b"1") / 0
    stats = orders.stats()
    assert (stats.ready, stats.delayed, stats.acquired) == (0, 1, 0)


def delay_of_next(store: Store) -> float:
    """Seconds until the one delayed record is due."""
    queue = store.queue("orders")
    return queue._due_in()


def test_the_last_of_the_delays_repeats(store: Store) -> None:
    orders = store.queue("orders", retry_delays=(0.0, 50.0), max_deliveries=None)
    orders.put(b"1")
    for expected in (0, 50):
        with pytest.raises(OSError), orders.get():
            raise OSError
        assert expected - 1 < delay_of_next(store) < expected + 0.01
    store.alter("orders", group="default", retry_delays=(0.0,))
    orders.put(b"2")
    for _ in range(4):
        with pytest.raises(OSError), orders.get() as message:
            assert message.value == b"2"
            raise OSError


def test_by_default_the_first_failure_costs_a_second(store: Store) -> None:
    orders = store.queue("orders")
    orders.put(b"1")
    with pytest.raises(OSError), orders.get():
        raise OSError
    assert 0.5 < delay_of_next(store) < 1.01


def test_the_exception_at_the_last_delivery_is_the_reason(store: Store) -> None:
    orders = store.queue("orders", max_deliveries=1)
    orders.put(b"1")
    with pytest.raises(LookupError), orders.get():
        raise LookupError("no such customer")
    assert orders.dead_letters.get().reason == "LookupError: no such customer"


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interruption_is_not_counted_and_the_message_is_back_at_once(
    store: Store, kind: type[BaseException]
) -> None:
    orders = store.queue("orders", max_deliveries=1)
    orders.put(b"1")
    for _ in range(3):
        with pytest.raises(kind), orders.get(timeout=10) as message:
            assert message.delivery_count == 1
            raise kind
    assert orders.stats().ready == 1


def test_a_lost_lock_is_noted_on_the_exception_that_goes_on(
    orders: Bytes, caplog: pytest.LogCaptureFixture
) -> None:
    orders.put(b"1")
    message = orders.get(lock_duration=0.001)
    with pytest.raises(ZeroDivisionError) as raised, message:
        orders.get(timeout=10).accept()
        raise ZeroDivisionError
    [note] = raised.value.__notes__
    assert (
        "<mqlog.Message orders-0:0> could not be released: the lock on orders-0:0 is lost" in note
    )
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_leaving_with_a_lost_lock_raises(orders: Bytes) -> None:
    orders.put(b"1")
    with pytest.raises(mqlog.LockLostError), orders.get(lock_duration=0.001):
        orders.get(timeout=10).accept()


def test_a_settled_message_is_no_context(orders: Bytes) -> None:
    orders.put(b"1")
    message = orders.get()
    message.accept()
    with pytest.raises(mqlog.SettledError), message:
        raise AssertionError


# -- dropped ---------------------------------------------------------------------------------------


def test_a_dropped_message_warns_and_is_delivered_again(store: Store) -> None:
    orders = store.queue("orders", retry_delays=(0.01,))
    orders.put(b"1")
    message = orders.get()
    with pytest.warns(ResourceWarning, match="<mqlog.Message orders-0:0> was dropped without"):
        del message
    again = orders.get(timeout=10)
    assert again.delivery_count == 2
    again.accept()


def test_the_warning_names_the_line_that_dropped_the_message(store: Store) -> None:
    orders = store.queue("orders")
    orders.put(b"1")

    def drop() -> int:
        message = orders.get()
        here = sys._getframe().f_lineno + 1
        del message
        return here

    with pytest.warns(ResourceWarning) as warned:
        line = drop()
    assert (warned[0].filename, warned[0].lineno) == (__file__, line)


def test_a_message_dropped_at_its_last_delivery_is_a_dead_letter(store: Store) -> None:
    orders = store.queue("orders", max_deliveries=1)
    orders.put(b"1")
    with pytest.warns(ResourceWarning):
        orders.get()
    assert orders.dead_letters.get().reason == "dropped without being settled"


def test_a_message_dropped_with_its_queue_goes_back_too(store: Store) -> None:
    orders = store.queue("orders", retry_delays=(0.0,))
    orders.put(b"1")
    message = orders.get()
    del orders
    with pytest.warns(ResourceWarning):
        del message
    assert store.queue("orders").get(timeout=10).delivery_count == 2


def test_a_message_dropped_after_its_store_was_closed_is_silent(tmp_path: Any) -> None:
    with mqlog.open(tmp_path / "s") as store:
        orders = store.queue("orders")
        orders.put(b"1")
        message = orders.get()
    del message
    with mqlog.open(tmp_path / "s") as store, store.queue("orders").get(timeout=10) as message:
        assert message.delivery_count == 1, "closing gave it back, uncounted"


# -- where it belongs ------------------------------------------------------------------------------


def test_a_message_is_not_pickled(orders: Bytes) -> None:
    orders.put(b"1")
    with orders.get() as message:
        for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match=r"belongs to its process: send record\.raw"):
                attempt(message)


def test_nobody_makes_a_message() -> None:
    with pytest.raises(TypeError):
        Message()
    with pytest.raises(TypeError):
        Message.__new__(Message)


def test_a_message_of_a_closed_handle_can_still_be_settled(store: Store) -> None:
    for how in EVERY_WAY:
        orders = store.queue("orders", retry_delays=(0.0,))
        orders.put(b"1")
        message = orders.get()
        orders.close()
        settle_by_name(message, how)
        if how == "renew":
            message.accept()
        elif how == "release":
            store.queue("orders").get().accept()
    stats = store.queue("orders").stats()
    assert (stats.accepted, stats.dead) == (3, 1)


@pytest.mark.parametrize("how", EVERY_WAY)
def test_a_message_of_a_closed_store_cannot(tmp_path: Any, how: str) -> None:
    with mqlog.open(tmp_path / "s") as store:
        orders = store.queue("orders")
        orders.put(b"1")
        message = orders.get()
    with pytest.raises(mqlog.ClosedError, match="is closed"):
        settle_by_name(message, how)


def test_closing_one_of_two_openings_gives_back_what_it_held(tmp_path: Any) -> None:
    with mqlog.open(tmp_path / "s") as stays:
        mine = stays.queue("orders", lock_duration=None)
        mine.put_many([b"1", b"2"])
        with mqlog.open(tmp_path / "s") as goes:
            first = goes.queue("orders").get()
        second = mine.get(timeout=10)
        assert (first.value, second.value) == (b"1", b"1")
        assert second.delivery_count == 1
        assert mine.get(timeout=10).value == b"2"
        with pytest.raises(mqlog.ClosedError):
            first.accept()
        second.accept()


# -- wrong arguments -------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [-1, -0.001, float("nan"), 2e9])
def test_a_delay_is_seconds_not_negative(orders: Bytes, bad: float) -> None:
    orders.put(b"1")
    message = orders.get()
    with pytest.raises(ValueError, match="delay is seconds from 0 to 1e9"):
        message.release(delay=bad)
    with pytest.raises(ValueError, match="delay is seconds from 0 to 1e9"):
        orders.release([message], delay=bad)
    message.accept()


def test_arguments_of_the_wrong_type_are_type_errors(orders: Bytes) -> None:
    orders.put(b"1")
    message: Any = orders.get()
    for call in (
        lambda: message.release("later"),
        lambda: message.release(0, b"reason"),
        lambda: message.reject(None),
        lambda: message.renew("1"),
        lambda: message.renew(True),
    ):
        with pytest.raises(TypeError):
            call()
    assert not message.settled
    message.accept()
