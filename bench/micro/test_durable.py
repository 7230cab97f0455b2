"""Appends that wait for the disk, beside the disk's own rate: 4 KiB overwritten and fdatasync.

Rates are told as times, as everywhere in this table: 0.9 of the device's rate is 1.11 times its
time, six appends for each of its syncs are 0.17 of it.
"""

import os
import threading
import time
from itertools import repeat
from pathlib import Path
from typing import Any

from conftest import Work

VALUE = b"v" * 256
FACTS = {"value": "256 B", "durability": "sync", "CRC": "on", "processes": 1}
BLOCK = 4096


class Device:
    """A file that was written once, so that a sync of it writes data and nothing else."""

    BLOCKS = 1024

    def __init__(self, path: Path) -> None:
        self.file = os.open(path, os.O_RDWR | os.O_CREAT)
        for at in range(self.BLOCKS):
            os.pwrite(self.file, bytes(BLOCK), at * BLOCK)
        os.fsync(self.file)
        self.at = 0

    def seconds(self, count: int) -> float:
        """Of so many blocks, each synced."""
        begin = time.perf_counter()
        for _ in repeat(None, count):
            self.at = (self.at + 1) % self.BLOCKS
            os.pwrite(self.file, self.at.to_bytes(2, "little") * (BLOCK // 2), self.at * BLOCK)
            os.fdatasync(self.file)
        return time.perf_counter() - begin


def test_append_of_one_thread(measure: Any, store: Any, directory: str) -> None:
    append = store.stream("topic", durability="sync").append
    device, count = Device(Path(directory) / "device"), 400

    def once() -> None:
        for _ in repeat(None, count):
            append(VALUE)

    measure(
        Work(
            what="durable append, 1 thread",
            round=once,
            count=count,
            reference="fdatasync of 4 KiB",
            sample=lambda: device.seconds(count),
            target="<= 1.11",
            rounds=30,
            facts=FACTS,
        )
    )


def test_append_of_sixteen_threads(measure: Any, store: Any, directory: str) -> None:
    append = store.stream("topic", durability="sync").append
    threads, each = 16, 250
    device = Device(Path(directory) / "device")
    begin, end = threading.Barrier(threads + 1), threading.Barrier(threads + 1)
    over = threading.Event()

    def work() -> None:
        while True:
            begin.wait()
            if over.is_set():
                return
            for _ in repeat(None, each):
                append(VALUE)
            end.wait()

    def once() -> None:
        begin.wait()
        end.wait()

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    try:
        measure(
            Work(
                what="durable append, 16 threads, per append",
                round=once,
                count=threads * each,
                reference="fdatasync of 4 KiB",
                sample=lambda: device.seconds(200) / 200 * threads * each,
                target="<= 0.17",
                rounds=30,
                facts=FACTS | {"threads": threads},
            )
        )
    finally:
        over.set()
        begin.wait()
        for worker in workers:
            worker.join()


def test_append_many_of_a_thousand(measure: Any, store: Any, directory: str) -> None:
    append_many = store.stream("topic", durability="sync").append_many
    values, calls = [b"v" * 100] * 1000, 20
    device = Device(Path(directory) / "device")

    def once() -> None:
        for _ in repeat(None, calls):
            append_many(values)

    row = measure(
        Work(
            what="durable append_many of 1,000, per record",
            round=once,
            count=calls * len(values),
            reference="fdatasync of 4 KiB",
            sample=lambda: device.seconds(calls),
            target="<= 1000 ns",
            rounds=30,
            facts=FACTS | {"value": "100 B", "records a call": len(values)},
        )
    )
    assert row.ns > 0
