"""values(): a replay of the values alone, checksums checked."""

from collections import deque
from typing import Any

from conftest import VALUE, VALUE_BYTES, Memcpy, Work, put_seconds

COUNT = 50_000
FACTS = {"durability": "os", "CRC": "checked", "batch": "128 KiB", "processes": 1, "log": "warm"}


def consume(iterator: Any) -> None:
    deque(iterator, maxlen=0)


def test_values(measure: Any, store: Any) -> None:
    stream = store.stream("topic")
    stream.append_many([VALUE] * COUNT)
    measure(
        Work(
            what="values(), per record",
            round=lambda: consume(stream.values()),
            count=COUNT,
            reference="SimpleQueue.put",
            sample=lambda: put_seconds(COUNT),
            target="goal <= 1.5",
            facts=FACTS | {"value": f"{VALUE_BYTES} B"},
        )
    )


def test_values_of_batches_of_one(measure: Any, store: Any) -> None:
    stream = store.stream("topic")
    for _ in range(COUNT):
        stream.append(VALUE)
    measure(
        Work(
            what="values() of single appends, per record",
            round=lambda: consume(stream.values()),
            count=COUNT,
            reference="SimpleQueue.put",
            sample=lambda: put_seconds(COUNT),
            target="",
            facts=FACTS | {"value": f"{VALUE_BYTES} B", "batch": 1},
        )
    )


def test_values_of_1_kib(measure: Any, store: Any) -> None:
    stream = store.stream("topic")
    stream.append_many([b"v" * 1024] * 10_000)
    copy = Memcpy(10_000 * 1024)
    measure(
        Work(
            what="values() of 1 KiB, per record",
            round=lambda: consume(stream.values()),
            count=10_000,
            reference="memcpy of as much",
            sample=copy.seconds,
            target="",
            facts=FACTS | {"value": "1 KiB"},
        )
    )
