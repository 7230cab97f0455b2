"""Hand-off between two processes whose consumer is busy: from before append to after next().

Beside it, as the reference, the same in bare shared memory: one process stores the time into a
mapping, the other spins on it; both in Python, so the interpreter's share is in both. Nothing is
sent before the last was taken, so no latency holds the wait behind another.
"""

from __future__ import annotations

import mmap
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import VALUE_BYTES, Row, note
from handoff import PATIENCE_NS, TAKEN

RECEIVER = Path(__file__).with_name("handoff.py")
COUNT = 5000
PACE_NS = 10_000  # less than a reader spins before it sleeps, so it is always awake
REST = b"v" * (VALUE_BYTES - 8)


def receive(how: str, store: str, words: memoryview, send: Callable[[], object]) -> list[int]:
    """Latencies, in order of size, of COUNT sends, one every 10 us, each after the last arrived."""
    words[0] = words[TAKEN] = 0
    command = [sys.executable, str(RECEIVER), how, store, os.path.join(store, "words"), str(COUNT)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as receiver:
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == "ready\n"
        now = time.monotonic_ns
        due = now() + 1_000_000
        for sent in range(COUNT):
            while words[TAKEN] < sent:
                assert now() < due + PATIENCE_NS, "the receiver has gone"
            due = max(due + PACE_NS, now())
            while now() < due:
                pass
            send()
        found = receiver.stdout.readline().split()
    assert len(found) == COUNT
    return sorted(map(int, found))


@pytest.fixture
def words(directory: str) -> Iterator[memoryview]:
    """Shared memory: what is handed over, and how many the receiver has taken."""
    place = Path(directory, "words")
    place.write_bytes(bytes(4096))
    with (
        place.open("r+b") as file,
        mmap.mmap(file.fileno(), 4096) as memory,
        memoryview(memory) as whole,
        whole.cast("Q") as words,
    ):
        yield words


def test_tail(
    benchmark: Any, store: Any, directory: str, words: memoryview, pytestconfig: Any
) -> None:
    stream = store.stream("topic")
    found: list[list[int]] = []
    references: list[list[int]] = []
    now = time.monotonic_ns

    def append() -> None:
        stream.append(now().to_bytes(8, "little") + REST)

    def store_word() -> None:
        words[0] = now()

    def once() -> None:
        references.append(receive("memory", directory, words, store_word))
        found.append(receive("tail", directory, words, append))

    benchmark.pedantic(once, rounds=5, iterations=1)
    for name, at, target in (("p50", 50, "goal p50 <= 1000 ns"), ("p99", 99, "")):
        ours = [one[COUNT * at // 100] for one in found]
        theirs = [one[COUNT * at // 100] for one in references]
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        row = Row(
            what=f"tail: hand-off, consumer busy, {name}",
            ns=statistics.median(ours),
            reference="spinning on a word",
            reference_ns=statistics.median(theirs),
            ratio=statistics.median(ratios),
            spread=(min(ratios), max(ratios)),
            least=min(ours) / min(theirs),
            target=target,
            facts=f"value {VALUE_BYTES} B, durability os, CRC on, processes 2, {COUNT} a run, "
            f"one every {PACE_NS // 1000} us, runs 5 (quartiles: least and most)",
        )
        note(benchmark, pytestconfig, row)
