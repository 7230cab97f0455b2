"""Several processes, one stream: who writes, who follows, and what the kernel hears of it."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest
from support.processes import Worker, Zygote
from support.workers import read_value

import mqlog

RECORDS = 1_000_000


def follow(values: Iterable[bytes | None], expected: int) -> tuple[dict[int, int], int]:
    """By producer, how many records came; and how often the producer was another than before.

    Fails unless the numbers of each producer come once each, in order from 0.
    """
    counts: dict[int, int] = {}
    turns, last = 0, -1
    for count, value in enumerate(values, 1):
        assert value is not None
        producer, number = read_value(value)
        assert number == counts.get(producer, 0), f"producer {producer}, number {number}"
        counts[producer] = number + 1
        if producer != last:
            turns, last = turns + 1, producer
        if count == expected:
            break
    return counts, turns


@pytest.mark.slow
@pytest.mark.parametrize("segment_bytes", [1 << 30, 4 << 20], ids=["one-segment", "rolls"])
@pytest.mark.parametrize("verb", ["append", "append_many"])
def test_two_writers_and_a_tail(
    tmp_path: Path, zygote: Zygote, verb: str, segment_bytes: int
) -> None:
    """A million records each, while this process follows: all seen, each once, each in order."""
    path = tmp_path / "store"
    with mqlog.open(path) as store:
        stream = store.stream("orders", segment_bytes=segment_bytes)
        records = stream.tail(mqlog.EARLIEST, timeout=60.0)
        with (
            zygote.start(verb, path, "orders", 1, RECORDS) as first,
            zygote.start(verb, path, "orders", 2, RECORDS) as second,
        ):
            first.proceed()
            second.proceed()
            counts, turns = follow((record.value for record in records), 2 * RECORDS)
            for writer in (first, second):
                writer.expect("done")
                writer.join()
        assert counts == {1: RECORDS, 2: RECORDS}
        assert turns > 100, "the writers did not write at one time"
        assert stream.end_offset == 2 * RECORDS
        assert list(stream.tail(timeout=0)) == []
    segments = len(list((path / "orders-0").glob("*.log")))
    assert segments == 1 if segment_bytes == 1 << 30 else segments > 40


def system_calls(worker: Worker, folder: Path) -> dict[str, int]:
    """What `strace -c` counts in the worker's main thread from its `proceed` to its "done"."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    table = folder / "calls"
    command = ["strace", "-c", "-o", str(table), "-p", str(worker.pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr is not None
        said = strace.stderr.readline()
        if "attached" not in said:
            pytest.skip(f"strace cannot look at another process: {said.strip()}")
        try:
            worker.proceed()
            worker.expect("done")
        finally:
            strace.send_signal(signal.SIGINT)  # it detaches, and writes what it has counted
        strace.stderr.read()
    rows = [line.split() for line in table.read_text().splitlines()]
    counted = {row[-1]: int(row[3]) for row in rows if len(row) >= 5 and row[3].isdigit()}
    assert counted.pop("total") == sum(counted.values())
    return counted


@pytest.mark.parametrize("call", ["append", "keyed append", "append_many"])
def test_an_append_makes_no_system_call_when_nobody_waits(
    tmp_path: Path, zygote: Zygote, call: str
) -> None:
    """100,000 records: the few calls that are left fetch pages, or say that more are wanted."""
    with mqlog.open(tmp_path / "store") as store:
        store.stream("orders", partitions=4)
    with zygote.start("repeat", tmp_path / "store", "orders", call, 100_000) as worker:
        counted = system_calls(worker, tmp_path)
    assert sum(counted.values()) < 2000, counted


@pytest.mark.slow
def test_strace_would_see_a_call_per_append(tmp_path: Path, zygote: Zygote) -> None:
    """What shows that the test above can fail: appends that wait for the disk."""
    with mqlog.open(tmp_path / "store") as store:
        store.stream("orders", partitions=4)
    with zygote.start("repeat", tmp_path / "store", "orders", "durable append", 100) as worker:
        counted = system_calls(worker, tmp_path)
    assert sum(counted.values()) >= 100, counted
