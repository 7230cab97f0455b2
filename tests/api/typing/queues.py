"""What a program sees of queues; checked by mypy --strict, never run."""

import queue
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, assert_type

from typing_extensions import Buffer

import mqlog
from mqlog import EARLIEST, LATEST, Message, Queue, Record, Start, Store


class Order:
    number: int


class OrderCodec:
    name = "order"

    def encode(self, value: Order, /) -> bytes:
        return b"%d" % value.number

    def decode(self, data: bytes, /) -> Order:
        return Order()


def bytes_in_bytes_out(store: Store) -> None:
    orders = store.queue("orders", maxsize=10, lock_duration=None, retry_delays=(1, 10))
    assert_type(orders, Queue[bytes, Buffer])
    assert_type(orders.name, str)
    assert_type(orders.group, str)
    assert_type(orders.put(b"1"), int)
    orders.put(bytearray(b"2"), False)
    orders.put(memoryview(b"3"), True, 1.5, key=b"k", headers={"trace": b"1f"}, delay=2.5)
    orders.put(b"4", headers=[("trace", None)], deliver_at=datetime.now(UTC), priority=9)
    orders.put(b"5", deliver_at=1.5e9, ttl=60, dedupe="order-5", durable=True)
    orders.put(b"6", dedupe=b"order-6")
    assert_type(orders.put_nowait(b"7", priority=0), int)
    many = orders.put_many([b"8", bytearray(b"9")], keys=[b"k", None], headers=[{}, ()], delay=1)
    assert_type(many, Sequence[int])


def what_is_got(orders: Queue[bytes, Buffer]) -> None:
    message = orders.get()
    assert_type(message, Message[bytes])
    assert_type(message.value, bytes)
    assert_type(message.raw, bytes | None)
    assert_type(message.id, str)
    assert_type(message.delivery_count, int)
    assert_type(message.token, int)
    assert_type(message.settled, bool)
    assert_type(message.reason, str)
    assert_type(message.origin, str | None)
    assert_type(orders.get(False), Message[bytes])
    assert_type(orders.get(timeout=1.5, lock_duration=60), Message[bytes])
    assert_type(orders.get(True, 1.5, lock_duration=None), Message[bytes])
    assert_type(orders.get_nowait(), Message[bytes])
    assert_type(orders.get_many(10, 1.5), list[Message[bytes]])
    assert_type(orders.messages(timeout=5.0), Iterator[Message[bytes]])
    assert_type(iter(orders), Iterator[Message[bytes]])
    assert_type(orders.peek(), list[Record[bytes]])
    record: Record[bytes] = message
    del record


def settling(orders: Queue[bytes, Buffer]) -> None:
    with orders.get(timeout=5.0) as message:
        assert_type(message, Message[bytes])
    message.accept(durable=True)
    message.release(2.5, "not now")
    message.release(delay=2.5)
    message.reject("no such order")
    message.renew()
    message.renew(60.0)
    every = orders.get_many(10)
    orders.accept(every, durable=True)
    orders.release(every, 2.5, "not now")
    orders.reject(iter(every), reason="no such order")
    orders.renew(every, lock_duration=60)
    try:
        orders.accept(every)
    except mqlog.LockLostError as error:
        assert_type(error.messages, list[Any])


def values_of_a_codec(store: Store) -> None:
    orders = store.queue("orders", codec=OrderCodec())
    assert_type(orders, Queue[Order, Order])
    orders.put(Order())
    orders.put_many([Order()])
    assert_type(orders.get().value, Order)
    assert_type([message.value.number for message in orders], list[int])
    assert_type(orders.dead_letters, Queue[Order, Order])
    anything = store.queue("anything", codec=mqlog.codecs.json)
    anything.put({"order": 17})
    assert_type(anything.get().value, Any)


def facts(orders: Queue[bytes, Buffer], store: Store) -> None:
    stats = orders.stats()
    assert_type(stats, mqlog.QueueStats)
    assert_type(stats.ready + stats.delayed + stats.acquired + stats.dead, int)
    assert_type(stats.oldest_age, float | None)
    assert_type(orders.acquired()[0], mqlog.AcquiredInfo)
    assert_type(orders.acquired()[0].expires_in, float | None)
    assert_type(orders.qsize(), int)
    assert_type(orders.empty() or orders.full(), bool)
    assert_type(orders.purge(), int)
    assert_type(orders.dead_letters.redrive(10), int)
    store.alter("orders", intake="closed")
    store.alter("orders", group="audit", max_deliveries=None)
    store.delete_group("orders", "audit")


def groups_and_places(store: Store) -> None:
    starts: list[Start] = [0, 1.5, datetime.now(UTC), EARLIEST, LATEST]
    for start in starts:
        audit = store.queue("orders", group="audit", start=start, create=False)
        assert_type(audit, Queue[bytes, Buffer])


def ends(orders: Queue[bytes, Buffer]) -> None:
    orders.join()
    orders.join(timeout=1.5)
    orders.shutdown()
    orders.shutdown(immediate=True)
    assert_type(orders.is_shutdown, bool)
    assert_type(orders.fileno(), int)
    assert_type(mqlog.wait([orders, orders], 1.0), list[Any])
    with orders as same:
        assert_type(same, Queue[bytes, Buffer])
    orders.close()


def as_the_standard_library_has_it(orders: Queue[bytes, Buffer]) -> None:
    try:
        orders.get_nowait()
    except queue.Empty as error:
        print(error)
    try:
        orders.put_nowait(b"1")
    except (queue.Full, mqlog.ShutDown) as error:
        print(error)


def a_worker_of_any_queue_of_orders(orders: Queue[Order, Any]) -> int:
    return sum(message.value.number for message in orders.messages(timeout=0.0))


def who_puts_only(orders: Queue[object, Order]) -> None:
    orders.put(Order())


def covariant(orders: Queue[bool, Any]) -> Queue[int, Any]:
    return orders


def one_type_is_enough(orders: Queue[bytes]) -> None:
    assert_type(orders, Queue[bytes, bytes])


def it_is_opened_where_it_is(path: Path) -> None:
    with mqlog.open(path) as store, store.queue("orders").get() as message:
        print(message.value)
