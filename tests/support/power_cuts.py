"""What works on a file system while it is cut off, and what must be true of it afterwards.

Every worker notes what was acknowledged to it, at once, in a ledger that is not on that file
system. `History` holds the notes of all cuts of one image against what is found on it.

A sync that the cut meets half-way may say that all is well and have written nothing: on ext4 a
plain program sees that of msync once in 75 cuts, when the blocks were allocated and not written
before (Linux 6.18). Who lives on after its power went is an artefact of this way of cutting it, so
a promise counts if it was noted before the cut began; what was noted later may go either way.
"""

from __future__ import annotations

import mmap
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import mqlog

try:
    from workers import make_value, read_value, tell  # in the processes that are killed
except ImportError:
    from support.workers import make_value, read_value, tell

APPENDED, SYNCED, PUT, GOT, ACCEPTED, SEEN, COMMITTED, FAILED = range(1, 9)
THREADS = 4
SINGLES, TOGETHER = 20, 10  # of the "os" topic: so many one by one, then so many in one call
OPTIONS = {"segment_bytes": 1 << 18, "max_message_bytes": 1 << 16}


def value_of(producer: int, number: int) -> bytes:
    return make_value(producer, number, 40 + (number * 7919 + producer * 31) % 1500)


class Ledger:
    """Rows in a file that outlives its writers: kind, three numbers, moment; kind comes last."""

    ROWS, COLUMNS = 1 << 15, 5

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with open(path, "w+b") as file:
            file.truncate(8 * self.COLUMNS * self.ROWS)
            self._rows = memoryview(mmap.mmap(file.fileno(), 0)).cast("q")
        self._next = count()

    def note(self, kind: int, *numbers: int) -> None:
        row = self.COLUMNS * next(self._next)
        for place, number in enumerate(numbers, 1):
            self._rows[row + place] = number
        self._rows[row + 4] = time.monotonic_ns()
        self._rows[row] = kind

    @classmethod
    def read(cls, path: Path) -> Iterator[tuple[int, int, int, int, int]]:
        rows = memoryview(path.read_bytes()).cast("q") if path.exists() else memoryview(b"")
        for row in range(0, len(rows), cls.COLUMNS):
            if rows[row] != 0:
                yield tuple(rows[row : row + cls.COLUMNS])


_open: list[mqlog.Store] = []  # nobody closes them


# -- the workers ----------------------------------------------------------------------------------
def _until_the_cut(ledger: Ledger, work: Callable[[], None]) -> None:
    """What fails is noted, with its moment: before the cut nothing may."""
    try:
        work()
    except BaseException:
        now = time.monotonic_ns()
        ledger.path.with_suffix(".failed").write_text(traceback.format_exc())
        ledger.note(FAILED, now)


def _opened(path: str) -> mqlog.Store:
    store = mqlog.open(path, min_free_bytes=0)
    _open.append(store)
    return store


def _working(ledger: str, work: Callable[[Ledger], None]) -> None:
    """It is ready before it opens the store, so that recovery is cut off too."""
    notes = Ledger(ledger)
    tell("ready")
    _until_the_cut(notes, lambda: work(notes))
    while True:
        signal.pause()


def append_durably(path: str, producer: str, ledger: str) -> None:
    """Four threads, each a producer, whose every append waits for the disk."""

    def one(stream: mqlog.Stream[bytes], name: int, notes: Ledger) -> None:
        for number in count():
            notes.note(APPENDED, name, number, stream.append(value_of(name, number)))

    def all_of_them(notes: Ledger) -> None:
        stream = _opened(path).stream("sync", durability="sync", **OPTIONS)
        for name in range(int(producer), int(producer) + THREADS):
            work = lambda name=name: one(stream, name, notes)  # noqa: E731
            threading.Thread(target=_until_the_cut, args=(notes, work)).start()

    _working(ledger, all_of_them)


def append_and_sync(path: str, producer: str, ledger: str) -> None:
    """One producer whose appends wait for nothing, some many in one call; it syncs at times."""

    def work(notes: Ledger) -> None:
        store, name, number = _opened(path), int(producer), 0
        stream = store.stream("os", **OPTIONS)
        while True:
            for _ in range(SINGLES):
                notes.note(APPENDED, name, number, stream.append(value_of(name, number)))
                number += 1
            values = [value_of(name, number + n) for n in range(TOGETHER)]
            for offset in stream.append_many(values):
                notes.note(APPENDED, name, number, offset)
                number += 1
            if number % 5 == 0 and number * 7919 % 3 == 0:
                store.sync()
                notes.note(SYNCED, name, number)

    _working(ledger, work)


def put_and_accept(path: str, producer: str, ledger: str) -> None:
    """Puts, gets and accepts durably; more is put than accepted."""

    def work(notes: Ledger) -> None:
        name = int(producer)
        jobs = _opened(path).queue("jobs", durability="sync", max_deliveries=200, **OPTIONS)
        for number in count():
            notes.note(PUT, name, number, jobs.put(value_of(name, number)))
            if number % 4 == 3:
                continue
            message = jobs.get_nowait()
            assert message.value == value_of(*read_value(message.value))
            notes.note(GOT, message.offset, message.token)
            message.accept(durable=True)
            notes.note(ACCEPTED, message.offset, message.token)

    _working(ledger, work)


def consume_and_commit(path: str, producer: str, ledger: str) -> None:
    """Reads the "sync" topic as a group, and commits durably now and then."""

    def work(notes: Ledger) -> None:
        stream = _opened(path).stream("sync", durability="sync", **OPTIONS)
        with stream.consumer("readers", commit="manual") as consumer:
            while True:
                for record in consumer.poll(20, timeout=0.1):
                    notes.note(SEEN, *read_value(record.value), record.offset)
                consumer.commit(durable=True)
                for offset in consumer.committed.values():
                    notes.note(COMMITTED, offset if offset is not None else -1)

    _working(ledger, work)


VERBS = (append_durably, append_and_sync, put_and_accept, consume_and_commit)


# -- what must be true ----------------------------------------------------------------------------
class Topic:
    """What is known of one topic, over all cuts: by offset, producer and number."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.given: dict[int, tuple[int, int]] = {}  # ever acknowledged or read: O3
        self.kept: dict[int, tuple[int, int]] = {}  # promised for ever: O1
        self.done: set[int] = set()  # accepted, or perhaps: may have been freed
        self.start = 0  # where checking begins: below it all was found right, and is sampled

    def note(self, offset: int, producer: int, number: int) -> None:
        who = self.given.setdefault(offset, (producer, number))
        assert who == (producer, number), f"O3: {self.name} {offset} was {who}, now {producer}"

    def keep(self, offset: int, producer: int, number: int) -> None:
        self.note(offset, producer, number)
        self.kept[offset] = (producer, number)

    def check(self, stream: mqlog.Stream[bytes], everything: bool) -> None:
        first = max(stream.start_offset, 0 if everything else self.start)
        found = {}
        for record in stream.read(start=first):
            who = read_value(record.value)
            assert record.value == value_of(*who), f"O2: {self.name} {record.offset} is damaged"
            assert record.offset not in found
            found[record.offset] = who
        wrong = {o: who for o, who in self.kept.items() if o >= first and found.get(o) != who}
        lost = {o: who for o, who in wrong.items() if o in found or o not in self.done}
        assert lost == {}, f"O1: {self.name} lost {lost}"
        for offset, (producer, number) in found.items():
            self.keep(offset, producer, number)  # who reads it now may rely on it
        if found:
            self._check_prefixes(found)
        self.start = max(found, default=self.start)

    def _check_prefixes(self, found: dict[int, tuple[int, int]]) -> None:
        """O4 of each cycle, whose producers have names of their own; and order by producer."""
        offsets: dict[int, list[int]] = {}
        numbers: dict[int, list[int]] = {}
        for offset, (producer, number) in found.items():
            offsets.setdefault(producer // 100, []).append(offset)
            numbers.setdefault(producer, []).append(number)
        for cycle, these in offsets.items():
            gaps = set(range(these[0], these[-1] + 1)) - set(these)
            assert gaps <= self.done, f"O4: {self.name}, cut {cycle}"
        for producer, these in numbers.items():
            whole = these == list(range(these[0], these[0] + len(these)))
            assert whole or (self.done and these == sorted(set(these))), (
                f"O3: {self.name}, producer {producer} is out of order"
            )
            if these[0] == 0 and self.name == "os":
                rest = len(these) % (SINGLES + TOGETHER)
                assert rest <= SINGLES, f"O5: {rest - SINGLES} of {TOGETHER} survive"


class History:
    """Everything that the workers of one image were ever told."""

    def __init__(self) -> None:
        self.topics = {name: Topic(name) for name in ("sync", "os", "jobs")}
        self.accepted: set[int] = set()
        self.tokens: dict[int, int] = {}
        self.committed = 0
        self.acknowledged = 0  # promises that were checked

    def take_over(self, ledger: Path, topic: str, cut_at: int) -> None:
        """The notes of one worker that was killed after the cut, which began at `cut_at`."""
        rows, synced = list(Ledger.read(ledger)), 0
        for kind, a, b, c, moment in rows:
            promised = moment < cut_at
            if kind == FAILED:
                why = ledger.with_suffix(".failed").read_text()
                assert not promised, f"it failed before the cut: {why}"
            elif kind in (GOT, ACCEPTED):
                self._take_over_delivery(kind, a, b, promised)
            elif promised and kind == SYNCED:
                synced = b
            elif promised and kind == COMMITTED:
                self.committed = max(self.committed, a)
            elif promised and (kind == SEEN or topic != "os"):
                self.topics["sync" if kind == SEEN else topic].keep(c, a, b)
            self.acknowledged += promised
        for kind, producer, number, offset, _ in rows:
            if kind == APPENDED and topic == "os":
                found = self.topics[topic]
                (found.keep if number < synced else found.note)(offset, producer, number)
            elif kind in (APPENDED, PUT):
                self.topics[topic].note(offset, producer, number)

    def _take_over_delivery(self, kind: int, offset: int, token: int, promised: bool) -> None:
        self.topics["jobs"].done.add(offset)
        if kind == ACCEPTED:
            if promised:
                self.accepted.add(offset)
            return
        assert offset not in self.accepted, f"O7: {offset} was accepted durably, and comes again"
        assert token > self.tokens.get(offset, -1), f"O7: the token of {offset} did not grow"
        self.tokens[offset] = token

    def check(self, path: Path, everything: bool) -> None:
        with mqlog.open(path, min_free_bytes=0) as store:
            there = {topic.name for topic in store.topics()}
            for topic in self.topics.values():
                if topic.name in there:
                    topic.check(store.stream(topic.name), everything)
                assert topic.name in there or not topic.kept, f"O1: {topic.name} is gone"
            if "sync" in there:
                self._check_group(store.stream("sync"))
            if "jobs" in there and everything:  # each cut leaves a million offsets to look at
                self._check_queue(store.queue("jobs"))

    def _check_queue(self, jobs: mqlog.Queue[Any, Any]) -> None:
        """What was put and not accepted waits; of some of it an accept may have come through."""
        waiting = {record.offset for record in jobs.peek(1 << 20)}
        again = waiting & self.accepted
        assert not again, f"O7: accepted durably, and waiting again: {sorted(again)[:5]}"
        missing = self.topics["jobs"].kept.keys() - waiting - self.accepted - set(self.tokens)
        notes = {offset: self.topics["jobs"].kept[offset] for offset in sorted(missing)[:5]}
        assert not missing, f"O1: put, not delivered to anybody, and gone: {notes}, {jobs.stats()}"

    def _check_group(self, stream: mqlog.Stream[bytes]) -> None:
        with stream.consumer("readers", commit="manual") as consumer:
            committed = consumer.committed.get(0) or 0
        assert committed >= self.committed, "O6: a durable commit is gone"
        assert committed <= stream.end_offset, "O6: committed behind the log's end"

    def drain(self, path: Path) -> None:
        """In the end all that was put durably and not accepted is delivered, and nothing else."""
        with mqlog.open(path, min_free_bytes=0) as store:
            jobs, got = store.queue("jobs"), set()
            for message in jobs.messages(timeout=1.0):
                assert message.offset not in self.accepted, "O7: accepted durably, comes again"
                assert message.token > self.tokens.get(message.offset, -1)
                got.add(message.offset)
                message.accept()
            left = f"{jobs.stats()}, {jobs.acquired()}, peeked {[r.offset for r in jobs.peek(9)]}"
        finished = self.accepted | set(self.tokens)  # told of the accept, or perhaps not
        missing = self.topics["jobs"].kept.keys() - got - finished
        notes = {offset: self.topics["jobs"].kept[offset] for offset in sorted(missing)[:5]}
        assert not missing, f"O1: never delivered: {notes}: {left}"


def work_on(start: Callable[..., Any], path: Path, ledgers: Path, cycle: int) -> dict[Path, Any]:
    """Starts the workers of one cycle: by ledger."""
    plan = [
        (append_durably, "sync", 0),
        (append_durably, "sync", THREADS),
        (append_and_sync, "os", 20),
        (put_and_accept, "jobs", 30),
        (consume_and_commit, "sync", 40),
    ]
    started = {}
    for verb, topic, name in plan:
        ledger = ledgers / f"{topic}-{cycle}-{name}"
        started[ledger] = start(verb.__name__, path, 100 * cycle + name, ledger)
    return started
