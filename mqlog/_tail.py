"""Iterators over several partitions: by column, in the order of time, and over what is yet to come.

They are classes, not generators: a generator is over after its first exception, and reading goes
on behind damage. They serve one thread at a time and stay in the process that made them.
"""

from __future__ import annotations

import heapq
import math
import threading
import time
from collections.abc import Callable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

from mqlog import _engine
from mqlog._engine import fork_generation
from mqlog._times import Deadline
from mqlog._typing import Generic, Out, T
from mqlog.errors import ForkedError

if TYPE_CHECKING:
    from mqlog._stream import Stream

#: Between two looks at what may have changed: partitions, the handle, the store.
SLICE: Final = 0.25
#: Records that are taken from one partition before the next one has its turn.
_RUN: Final = 256


class OneThread:
    """What such iterators have in common: one thread, one process."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._turn = threading.Lock()
        self._fork = fork_generation()

    def __iter__(self) -> Self:
        return self

    def _same_process(self) -> None:
        if self._fork != fork_generation():
            raise ForkedError(f"{self._what} belongs to the parent process: make one here")

    def _enter(self) -> None:
        self._same_process()
        if not self._turn.acquire(blocking=False):
            raise RuntimeError(f"{self._what} serves one thread at a time: make one for each")

    def _leave(self) -> None:
        self._turn.release()

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self._what} cannot be pickled: send the stream and the offset instead")


class Walk(chain[T]):
    """One reader after the other. In C, and on after an exception: it keeps the one it was at."""

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "an iterator over a stream cannot be pickled: send the stream and the offset"
        )


class ColumnsIterator(OneThread, Iterator[_engine.Columns]):
    """Columns of one reader after the other."""

    def __init__(self, readers: list[_engine.Reader[Any]], max_records: int) -> None:
        super().__init__("an iterator over columns")
        self._readers = readers[::-1]
        self._max_records = max_records

    def __next__(self) -> _engine.Columns:
        self._enter()
        try:
            while self._readers:
                columns = self._readers[-1].columns(self._max_records)
                if columns is not None:
                    return columns
                self._readers.pop()
            raise StopIteration
        finally:
            self._leave()


class Tail(OneThread, Generic[Out]):
    """Follows all partitions of a stream; made by `Stream.tail`."""

    def __init__(
        self,
        stream: Stream[Out, Any],
        readers: list[_engine.Reader[Out]],
        more: Callable[[int], _engine.Reader[Out]],
        timeout: float | None,
    ) -> None:
        super().__init__("an iterator that follows a stream")
        self._stream = stream
        self._readers = readers
        self._more = more  # makes the reader of a partition that came later
        self._timeout = timeout
        self._next = 0  # the partition that has its turn
        self._run: Iterator[_engine.Record[Out]] = iter(())
        self._done = False

    def __next__(self) -> _engine.Record[Out]:
        if self._fork != fork_generation():
            self._same_process()
        for record in self._run:
            return record
        self._enter()
        try:
            return self._follow()
        finally:
            self._leave()

    def _follow(self) -> _engine.Record[Out]:
        deadline = Deadline(self._timeout)
        while not self._done:
            self._stream._check()
            core = self._stream._store._live()
            seen = core.bell() if len(self._readers) > 1 else 0
            self._run = iter(self._take())
            for record in self._run:
                return record
            self._stream._note([reader.position for reader in self._readers])
            left = deadline.left(SLICE)
            if not left:
                self._done = True
            elif len(self._readers) > 1:
                core.wait_bell(seen, left)
            else:
                self._stream._logs[0].wait(self._readers[0].position, left)
        raise StopIteration

    def _take(self) -> list[_engine.Record[Out]]:
        """The next records of the next partition that has some."""
        while len(self._readers) < len(self._stream._logs):
            self._readers.append(self._more(len(self._readers)))
        for _ in self._readers:
            self._next = (self._next + 1) % len(self._readers)
            records = self._readers[self._next].take(_RUN)
            if records:
                return records
        return []


def check_speed(speed: float | None) -> float | None:
    """None, or how many times faster than it was."""
    if speed is None:
        return None
    if isinstance(speed, bool) or not isinstance(speed, (int, float)):
        raise TypeError(f"speed is a number or None, not {type(speed).__name__}")
    if not 0 < speed < math.inf:
        raise ValueError(f"speed={speed!r}: a number over 0, such as 10.0 for ten times as fast")
    return float(speed)


def paced(
    readers: list[_engine.Reader[Any]], speed: float | None, check: Callable[[], object]
) -> Iterator[_engine.Record[Any]]:
    """The records of `readers`, merged and paced; `check` raises when waiting makes no sense."""
    if speed is None and len(readers) == 1:
        return readers[0]
    return Replay(readers, None if speed is None else Pace(speed, check))


class Pace:
    """Sleeps until a record is due: the first is at once, the others as long after it as they were.

    Records without a timestamp, or with an earlier one than those before, are due at once.
    """

    def __init__(
        self,
        speed: float,
        check: Callable[[], object],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._speed = speed
        self._check = check
        self._clock = clock
        self._sleep = sleep
        self._began: tuple[float, float] | None = None  # on the clock, in the log

    def wait(self, timestamp: float | None) -> None:
        """Returns when a record with this timestamp is due."""
        if timestamp is None:
            return
        if self._began is None:
            self._began = (self._clock(), timestamp)
            return
        due = self._began[0] + (timestamp - self._began[1]) / self._speed
        while True:
            left = due - self._clock()
            if left <= 0:
                return
            self._sleep(min(left, SLICE))
            self._check()


class Replay(OneThread, Iterator[_engine.Record[Any]]):
    """Merges readers by timestamp; equal timestamps come in the order of partitions."""

    def __init__(self, readers: list[_engine.Reader[Any]], pace: Pace | None) -> None:
        super().__init__("an iterator that replays")
        self._readers = readers
        self._pace = pace
        self._next: list[tuple[int, int, _engine.Record[Any]]] = []  # heap: the head of each
        self._missing = list(range(len(readers)))  # readers whose head is not in the heap

    def __next__(self) -> _engine.Record[Any]:
        self._enter()
        try:
            while self._missing:  # a reader that raises stays, and is asked again
                place = self._missing[-1]
                for record in self._readers[place]:
                    heapq.heappush(self._next, (record.timestamp_ms, place, record))
                    break
                self._missing.pop()
            if not self._next:
                raise StopIteration
            if self._pace is not None:
                self._pace.wait(self._next[0][2].timestamp)
            _, place, record = heapq.heappop(self._next)
            self._missing.append(place)
            return record
        finally:
            self._leave()
