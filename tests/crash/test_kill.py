"""What survives when a writer is killed at any moment: only processes die, the page cache lives."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import mqlog

WORKERS = Path(__file__).parents[1] / "support" / "workers.py"
sys.path.insert(0, str(WORKERS.parent))

from workers import make_value, read_value  # noqa: E402

KILLS = 500
ROUND = 25


def start(*arguments: object) -> subprocess.Popen[str]:
    worker = subprocess.Popen(
        [sys.executable, str(WORKERS), *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )
    assert worker.stdout is not None
    assert worker.stdout.readline() == "ready\n"
    return worker


def kill_after(worker: subprocess.Popen[str], moment: float) -> list[tuple[int, int]]:
    """Kills the worker `moment` seconds from now; gives the (number, offset)s that it had told."""
    assert worker.stdout is not None
    told = [worker.stdout.readline() for _ in range(3)]
    deadline = time.monotonic() + moment
    while time.monotonic() < deadline:
        pass
    with worker:
        worker.kill()
        told += worker.stdout.readlines()
    lines = [line for line in told if line.endswith("\n")]
    return [(int(a), int(b)) for a, b in (line.split() for line in lines)]


def seconds_of_next_append(stream: mqlog.Stream[bytes], value: bytes) -> float:
    before = time.monotonic()
    stream.append(value)
    return time.monotonic() - before


@pytest.fixture
def rng() -> Iterator[random.Random]:
    yield random.Random(20261122)


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["acknowledge", "acknowledge_many"])
def test_killed_appenders_lose_nothing_acknowledged_and_hold_nobody_up(
    tmp_path: Path, verb: str, rng: random.Random
) -> None:
    """Half of the 500 kills each; a survivor has the store open and appends after each kill."""
    acknowledged: dict[int, tuple[int, int]] = {}
    slowest = 0.0
    with mqlog.open(tmp_path / "store") as store:
        stream = store.stream("orders", segment_bytes=1 << 20)
        for producer in range(1, KILLS // 2 + 1):
            worker = start(verb, tmp_path / "store", "orders", producer, 0)
            for number, offset in kill_after(worker, rng.uniform(0, 0.02)):
                acknowledged[offset] = (producer, number)
            slowest = max(slowest, seconds_of_next_append(stream, make_value(0, producer)))
        seen = {record.offset: read_value(record.value) for record in stream}
    assert slowest < 1.0
    lost = {offset: what for offset, what in acknowledged.items() if seen.get(offset) != what}
    assert not lost
    by_producer: dict[int, list[int]] = {}
    for _, (producer, number) in sorted(seen.items()):
        by_producer.setdefault(producer, []).append(number)
    for producer, numbers in by_producer.items():
        if producer != 0:
            assert numbers == list(range(len(numbers))), f"producer {producer} has a hole"
    assert by_producer[0] == list(range(1, KILLS // 2 + 1))
    assert sorted(seen) == list(range(len(seen)))


@pytest.mark.slow
def test_killed_with_nobody_else_alive_the_next_opener_finds_everything(
    tmp_path: Path, rng: random.Random
) -> None:
    acknowledged: dict[int, tuple[int, int]] = {}
    for producer in range(1, 41):
        worker = start("acknowledge", tmp_path / "store", "orders", producer, 0)
        for number, offset in kill_after(worker, rng.uniform(0, 0.02)):
            acknowledged[offset] = (producer, number)
        if producer % 5 == 0:
            with mqlog.open(tmp_path / "store") as store:
                assert store.recovered == []
                store.stream("orders").append(make_value(0, producer))
    with mqlog.open(tmp_path / "store", "r") as store:
        seen = {record.offset: read_value(record.value) for record in store.stream("orders")}
    assert {k: v for k, v in acknowledged.items() if seen.get(k) != v} == {}


@pytest.mark.slow
def test_several_writers_killed_together_leave_whole_batches(
    tmp_path: Path, rng: random.Random
) -> None:
    path = tmp_path / "store"
    with mqlog.open(path) as store:
        stream = store.stream("orders", segment_bytes=1 << 20)
        for round_ in range(ROUND):
            names = [10 * round_ + i for i in (1, 2, 3)]
            workers = [start("acknowledge_many", path, "orders", name, 0) for name in names]
            told = [kill_after(worker, rng.uniform(0, 0.005)) for worker in workers]
            assert all(told)
            seconds = seconds_of_next_append(stream, make_value(0, round_))
            assert seconds < 1.0
        counts: dict[int, int] = {}
        for record in stream:
            producer, number = read_value(record.value)
            if producer % 10:
                assert number == counts.get(producer, 0)
                counts[producer] = number + 1
        assert all(count % 50 == 0 for count in counts.values()), "a call's records were torn apart"
