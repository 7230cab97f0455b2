"""columns(): offsets and timestamps as arrays, values in one piece."""

from typing import Any

from conftest import VALUE, VALUE_BYTES, Memcpy, Work, put_seconds

COUNT = 100_000
FACTS = {"durability": "os", "CRC": "checked", "batch": "128 KiB", "processes": 1, "log": "warm"}


def test_columns(measure: Any, store: Any) -> None:
    stream = store.stream("topic")
    stream.append_many([VALUE] * COUNT)

    def walk() -> None:
        assert sum(map(len, stream.columns())) == COUNT

    measure(
        Work(
            what="columns(), per record",
            round=walk,
            count=COUNT,
            reference="SimpleQueue.put",
            sample=lambda: put_seconds(COUNT),
            target="goal <= 0.6",
            facts=FACTS | {"value": f"{VALUE_BYTES} B"},
        )
    )


def test_columns_of_1_kib_values(measure: Any, store: Any) -> None:
    stream = store.stream("topic")
    stream.append_many([b"v" * 1024] * 10_000)
    copy = Memcpy(10_000 * 1024)
    measure(
        Work(
            what="columns() of 1 KiB values, per record",
            round=lambda: sum(map(len, stream.columns())),
            count=10_000,
            reference="memcpy of as much",
            sample=copy.seconds,
            target="",
            facts=FACTS | {"value": "1 KiB"},
        )
    )
