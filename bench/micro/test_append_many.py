"""append_many, per record, over prepared pages; fresh ones in every round."""

from typing import Any

import pytest
from conftest import VALUE, VALUE_BYTES, Memcpy, Work, put_seconds, settle

COUNT = 2000
FACTS = {"durability": "os", "CRC": "on", "batch": "128 KiB", "processes": 1}


def test_append_many(measure: Any, store: Any) -> None:
    stream = store.stream("topic")
    values = [VALUE] * COUNT
    for _ in range(40):
        stream.append_many(values)
        settle()
    measure(
        Work(
            what="append_many, per record",
            round=lambda: stream.append_many(values),
            count=COUNT,
            reference="SimpleQueue.put",
            sample=lambda: put_seconds(COUNT),
            target="<= 2 (goal 1)",
            rounds=100,
            before=settle,
            facts=FACTS | {"value": f"{VALUE_BYTES} B", "records a call": COUNT},
        )
    )


@pytest.mark.parametrize("count", [200])
def test_append_many_of_1_kib_values(measure: Any, store: Any, count: int) -> None:
    stream = store.stream("topic")
    values = [b"v" * 1024] * count
    for _ in range(40):
        stream.append_many(values)
        settle()
    copy = Memcpy(count * 1024)
    measure(
        Work(
            what="append_many of 1 KiB values, per record",
            round=lambda: stream.append_many(values),
            count=count,
            reference="memcpy of as much",
            sample=copy.seconds,
            target="goal <= 2.5",
            rounds=100,
            before=settle,
            facts=FACTS | {"value": "1 KiB", "records a call": count},
        )
    )
