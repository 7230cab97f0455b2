"""What survives when a writer is killed at any moment: only processes die, the page cache lives."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from support.processes import Zygote
from support.workers import Ledger, make_value, read_value

import mqlog

pytestmark = pytest.mark.crash

KILLS = 500
ROUNDS = 25


@pytest.fixture
def rng() -> random.Random:
    return random.Random(20261122)


class Acknowledged:
    """What was acknowledged to any worker: producer and number, by offset."""

    def __init__(self, ledger: Path) -> None:
        self.ledger = ledger
        self.records: dict[int, tuple[int, int]] = {}

    def note(self, producer: int) -> None:
        """Takes over what the worker that was killed has noted."""
        for number, offset in Ledger.read(self.ledger).items():
            assert offset not in self.records, "an offset was given twice"
            self.records[offset] = (producer, number)

    def lost(self, seen: dict[int, tuple[int, int]]) -> dict[int, tuple[int, int]]:
        return {offset: what for offset, what in self.records.items() if seen.get(offset) != what}


def seconds_of_next_append(stream: mqlog.Stream[bytes], value: bytes) -> float:
    before = time.monotonic()
    stream.append(value)
    return time.monotonic() - before


def numbers_by_producer(seen: Iterable[tuple[int, int]]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for producer, number in seen:
        found.setdefault(producer, []).append(number)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["acknowledge", "acknowledge_many"])
def test_killed_appenders_lose_nothing_acknowledged_and_hold_nobody_up(
    tmp_path: Path, zygote: Zygote, verb: str, rng: random.Random
) -> None:
    """Half of the 500 kills each; a survivor has the store open and appends after each kill."""
    path, ledger = tmp_path / "store", tmp_path / "ledger"
    acknowledged = Acknowledged(ledger)
    slowest = 0.0
    with mqlog.open(path) as store:
        stream = store.stream("orders", segment_bytes=1 << 20)
        for producer in range(1, KILLS // 2 + 1):
            zygote.start(verb, path, "orders", producer, ledger).kill(rng.uniform(0, 0.01))
            slowest = max(slowest, seconds_of_next_append(stream, make_value(0, producer)))
            acknowledged.note(producer)
        assert slowest < 1.0
        seen = {record.offset: read_value(record.value) for record in stream}
        assert stream._logs[0].describe().epoch > 0, "no kill came in the middle of an append"
    assert len(acknowledged.records) > KILLS
    assert acknowledged.lost(seen) == {}
    assert list(seen) == list(range(len(seen)))
    numbers = numbers_by_producer(seen.values())
    assert numbers.pop(0) == list(range(1, KILLS // 2 + 1))
    for producer, found in numbers.items():
        assert found == list(range(len(found))), f"producer {producer} has a hole"


@pytest.mark.slow
def test_killed_with_nobody_else_alive_the_next_opener_finds_everything(
    tmp_path: Path, zygote: Zygote, rng: random.Random
) -> None:
    path, ledger = tmp_path / "store", tmp_path / "ledger"
    acknowledged = Acknowledged(ledger)
    for producer in range(1, 41):
        zygote.start("acknowledge", path, "orders", producer, ledger).kill(rng.uniform(0, 0.01))
        acknowledged.note(producer)
        if producer % 5 == 0:
            with mqlog.open(path) as store:
                assert store.recovered == []
                store.stream("orders").append(make_value(0, producer))
    with mqlog.open(path, "r") as store:
        seen = {record.offset: read_value(record.value) for record in store.stream("orders")}
    assert len(acknowledged.records) > 1000
    assert acknowledged.lost(seen) == {}


@pytest.mark.slow
def test_several_writers_killed_together_leave_whole_batches(
    tmp_path: Path, zygote: Zygote, rng: random.Random
) -> None:
    path = tmp_path / "store"
    with mqlog.open(path) as store:
        stream = store.stream("orders", segment_bytes=1 << 20)
        for round_ in range(ROUNDS):
            workers = [
                zygote.start("acknowledge_many", path, "orders", 10 * round_ + i, tmp_path / str(i))
                for i in (1, 2, 3)
            ]
            for worker in workers:
                worker.kill(rng.uniform(0, 0.005))
            assert seconds_of_next_append(stream, make_value(0, round_)) < 1.0
        numbers = numbers_by_producer(read_value(value) for value in stream.values())
    assert numbers.pop(0) == list(range(ROUNDS))
    assert len(numbers) > 2 * ROUNDS
    for producer, found in numbers.items():
        assert found == list(range(len(found))), f"producer {producer} has a hole"
        assert len(found) % 50 == 0, "a call's records were torn apart"
