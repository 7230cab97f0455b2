"""The receiving process of test_tail.py: python handoff.py tail|memory STORE WORDS COUNT.

What it is handed carries the monotonic time at which it was sent, in nanoseconds; it prints the
latency of each on one line. In the file WORDS it counts, in the ninth word, what it has taken.
"""

from __future__ import annotations

import mmap
import sys
import time

import mqlog

TAKEN = 8  # a cache line behind the word that is handed over
PATIENCE_NS = 10_000_000_000


def from_tail(path: str, words: memoryview, count: int) -> list[int]:
    found: list[int] = []
    now = time.monotonic_ns
    with mqlog.open(path) as store:
        tail = store.stream("topic").tail(timeout=10.0)
        print("ready", flush=True)
        for record in tail:
            found.append(now() - int.from_bytes(record.raw[:8], "little"))
            words[TAKEN] = len(found)
            if len(found) == count:
                break
    return found


def from_memory(path: str, words: memoryview, count: int) -> list[int]:
    found: list[int] = []
    now = time.monotonic_ns
    seen, deadline = 0, now() + PATIENCE_NS
    print("ready", flush=True)
    while len(found) < count and (found or now() < deadline):
        sent = words[0]
        if sent != seen:
            found.append(now() - sent)
            seen = sent
            words[TAKEN] = len(found)
    return found


def main() -> None:
    how, store, place, count = sys.argv[1:]
    receive = {"tail": from_tail, "memory": from_memory}[how]
    with (
        open(place, "r+b") as file,
        mmap.mmap(file.fileno(), 4096) as memory,
        memoryview(memory) as whole,
        whole.cast("Q") as words,
    ):
        print(*receive(store, words, int(count)))


if __name__ == "__main__":
    main()
