"""What a program sees of streams; checked by mypy --strict, never run."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, assert_type

import mqlog
from mqlog import EARLIEST, LATEST, Columns, Record, Start, Store, Stream


class Order:
    number: int


class OrderCodec:
    name = "order"

    def encode(self, value: Order, /) -> bytes:
        return b"%d" % value.number

    def decode(self, data: bytes, /) -> Order:
        return Order()


def opening() -> None:
    store = mqlog.open("shop-data", durability="sync", max_bytes=1 << 30)
    assert_type(store, Store)
    with mqlog.open("shop-data", "r") as view:
        assert_type(view, Store)
    with mqlog.temporary(clock=lambda: 0.0) as memory:
        assert_type(memory.topics()[0], mqlog.TopicInfo)
        assert_type(memory.groups("orders")[0], mqlog.GroupInfo)
        assert_type("orders" in memory, bool)


def bytes_in_bytes_out(store: Store) -> None:
    clicks = store.stream("clicks", partitions=3, create=False)
    assert_type(clicks.append(b"/cart", key=b"user-7", headers={"trace": b"1f"}), int)
    clicks.append(bytearray(b"x"), headers=[("trace", None)], timestamp=datetime.now(UTC))
    clicks.append(memoryview(b"x"), timestamp=1.5, partition=2, durable=True)
    clicks.append(None)
    offsets = clicks.append_many([b"a", None], keys=[b"k", None], compression="lz4")
    assert_type(offsets, Sequence[int])
    for record in clicks:
        assert_type(record, Record[bytes])
        assert_type(record.value, bytes)
        assert_type(record.raw, bytes | None)
        assert_type(record.header("trace"), bytes | None)
        assert_type(record.datetime, datetime | None)
        assert_type(record.headers, tuple[tuple[str, bytes | None], ...])
    assert_type(clicks.partitions[2].read(5, LATEST), Iterator[Record[bytes]])
    assert_type(clicks[17], Record[bytes])
    assert_type(clicks.values(), Iterator[bytes])
    assert_type(clicks.columns(max_records=10), Iterator[Columns])
    assert_type(clicks.fileno(), int)


def values_of_a_codec(store: Store) -> None:
    orders = store.stream("orders", codec=OrderCodec())
    assert_type(orders, Stream[Order, Order])
    orders.append(Order())
    orders.append(None)
    assert_type([record.value for record in orders.read(EARLIEST, 1e9)], list[Order])
    assert_type(next(orders.tail(timeout=1.0)), Record[Order])
    assert_type(next(orders.values()), Order)
    anything = store.stream("anything", codec=mqlog.codecs.json)
    anything.append({"order": 17})
    assert_type(anything[0].value, Any)


def one_type_is_enough(stream: Stream[bytes]) -> None:
    assert_type(stream, Stream[bytes, bytes])


def places(store: Store) -> None:
    starts: list[Start] = [0, 1.5, datetime.now(UTC), EARLIEST, LATEST]
    for start in starts:
        store.stream("clicks").replay(start, stop=start, speed=10.0)
    for record in mqlog.replay("shop-data", topic="clicks", speed=2.0):
        assert_type(record.value, bytes | None)


def consumers(store: Store) -> None:
    orders = store.stream("orders", codec=OrderCodec())

    def told(consumer: mqlog.Consumer[Order], partitions: Sequence[int]) -> None:
        assert_type(consumer.position[partitions[0]], int)

    how: Literal["auto", "manual"] = "manual"
    with orders.consumer("billing", commit=how, on_assign=told, partitions=[0]) as consumer:
        for record in consumer.records(timeout=5.0):
            assert_type(record.value, Order)
        records = consumer.poll(100, 0.5)
        assert_type(records, list[Record[Order]])
        consumer.commit(records[-1], durable=True)
        consumer.seek(EARLIEST, partition=0)
        assert_type(consumer.lag, int)
        assert_type(mqlog.wait([consumer, orders], 1.0), list[Any])


def a_reader_of_any_stream_of_orders(stream: Stream[Order, Any]) -> int:
    return sum(record.value.number for record in stream)


def covariant(stream: Stream[bool, Any]) -> Stream[int, Any]:
    return stream


def what_failed() -> tuple[str, int]:
    try:
        mqlog.open("shop-data", create=False)
    except mqlog.CorruptError as error:
        return error.path, error.start
    except mqlog.OffsetOutOfRangeError as error:
        return "", error.stop
    return "", 0
