"""read(): Record objects, checksums checked."""

from collections import deque
from typing import Any

import pytest
from conftest import VALUE, VALUE_BYTES, Work, put_seconds

COUNT = 30_000
FACTS = {"value": f"{VALUE_BYTES} B", "durability": "os", "CRC": "checked", "processes": 1}


@pytest.mark.parametrize("touch", [False, True], ids=["bare", "value and offset"])
def test_read(measure: Any, store: Any, touch: bool) -> None:
    stream = store.stream("topic")
    stream.append_many([VALUE] * COUNT)

    def bare() -> None:
        deque(stream.read(), maxlen=0)

    def touched() -> None:
        for record in stream.read():
            record.value, record.offset  # noqa: B018

    measure(
        Work(
            what="read(), with .value and .offset" if touch else "read(), per record",
            round=touched if touch else bare,
            count=COUNT,
            reference="SimpleQueue.put",
            sample=lambda: put_seconds(COUNT),
            target="" if touch else "goal <= 4",
            facts=FACTS | {"batch": "128 KiB", "log": "warm"},
        )
    )


def test_one_record_by_its_offset(measure: Any, store: Any) -> None:
    stream = store.stream("topic")
    stream.append_many([VALUE] * COUNT)
    places = list(range(0, COUNT, 101))

    def look_up() -> None:
        for place in places:
            stream[place]

    measure(
        Work(
            what="stream[offset]",
            round=look_up,
            count=len(places),
            reference="SimpleQueue.put",
            sample=lambda: put_seconds(len(places)),
            target="(flat from 1 MB to 10 GB)",
            facts=FACTS | {"batch": "128 KiB", "log": "warm"},
        )
    )
