"""Data streaming: append, follow in a group, take columns, and replay a piece of the past.

    python examples/data_stream.py

A stream is read by everybody: here a consumer group that keeps its place across restarts, a sum
over columns without a Python object a record, and a replay of one minute, sixty times as fast.
"""

import itertools
import struct
import tempfile
import threading
import time
from typing import Any

import mqlog

TICKS = 10_000
START = 1_760_000_000.0  # one tick every 10 ms from here on
PRICE = struct.Struct("<d")


def record(ticks: mqlog.Stream[Any, Any]) -> None:
    """What a market feed would do: a batch of ticks at a time."""
    for first in range(0, TICKS, 100):
        numbers = range(first, first + 100)
        ticks.append_many(
            [PRICE.pack(100 + number % 250 / 10) for number in numbers],
            timestamps=[START + number / 100 for number in numbers],
        )


def highest(ticks: mqlog.Stream[Any, Any], limit: int) -> float:
    """The highest price among the next `limit` ticks that the group "alarm" has not seen."""
    highest = 0.0
    with ticks.consumer("alarm") as consumer:  # its place is kept in the store
        for tick in itertools.islice(consumer.records(timeout=5.0), limit):
            highest = max(highest, *PRICE.unpack(tick.value))
        consumer.commit()  # the loop commits a record when it comes back for the next
    return highest


def run(path: str) -> None:
    with mqlog.open(path) as store:
        ticks = store.stream("ticks", compression="lz4")
        feed = threading.Thread(target=record, args=(ticks,))  # or another process
        feed.start()
        print(f"highest of the first half   {highest(ticks, TICKS // 2):.1f}")
        print(f"highest of the second half  {highest(ticks, TICKS // 2):.1f}")
        feed.join()

        count, total = 0, 0.0
        for columns in ticks.columns():  # .offsets and .timestamps_ms are int64 for NumPy
            count += len(columns)
            total += sum(price for (price,) in PRICE.iter_unpack(b"".join(columns.values())))
        print(f"mean of {count:,} ticks        {total / count:.2f}")

        began = time.monotonic()
        replayed = sum(1 for _ in ticks.replay(START + 30, START + 90, speed=60))
        print(f"replayed {replayed:,} ticks of one minute in {time.monotonic() - began:.1f} s")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as path:
        run(path)
