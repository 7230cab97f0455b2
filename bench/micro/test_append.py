"""append, one by one, over pages that the store's prepare thread has made ready.

A round is fresh pages every time, never a rerun over the same bytes: 2,000 appends of 100 bytes are
340 KB. Between rounds the prepare thread gets ahead. The page faults that the table shows are the
proof: pages that were not ready would fault, 41 per 1,000 appends.
"""

from itertools import repeat
from typing import Any

import pytest
from conftest import VALUE, VALUE_BYTES, Work, put_seconds, settle

COUNT = 2000
FACTS = {"value": f"{VALUE_BYTES} B", "durability": "os", "CRC": "on", "batch": 1, "processes": 1}


def warm_up(stream: Any) -> None:
    """Small steps with pauses: the prepare thread learns the rate and is ahead of it."""
    for _ in range(40):
        for _ in repeat(None, COUNT):
            stream.append(VALUE)
        settle()


@pytest.mark.parametrize("kind", ["value", "key and value"])
def test_append(measure: Any, store: Any, kind: str) -> None:
    stream = store.stream("topic")
    append = stream.append

    def values() -> None:
        for _ in repeat(None, COUNT):
            append(VALUE)

    def keys() -> None:
        for _ in repeat(None, COUNT):
            append(VALUE, key=b"user-7")

    warm_up(stream)
    row = measure(
        Work(
            what="append" if kind == "value" else "append with a key",
            round=values if kind == "value" else keys,
            count=COUNT,
            reference="SimpleQueue.put",
            sample=lambda: put_seconds(COUNT),
            target="<= 6 (goal 4)" if kind == "value" else "",
            rounds=100,
            before=settle,
            facts=FACTS,
        )
    )
    assert row.ns > 0
