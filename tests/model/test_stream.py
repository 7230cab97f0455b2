"""Is any sequence of operations on a stream right? Against a log in a few lines of Python."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from support.model import Entry, Log

import mqlog

# Small enough that a few calls fill a segment, and a batch.
SMALL = {
    "segment_bytes": 4096,
    "batch_bytes": 1024,
    "max_message_bytes": 2048,
    "sync_interval": 0.001,
}
TOO_LARGE = b"x" * 2048
PATIENCE = 30.0  # seconds; only a test that fails waits so long
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # where a sync costs nothing

values = st.none() | st.builds(bytes, st.integers(0, 300)) | st.binary(max_size=20)
keys = st.none() | st.binary(max_size=6)
header = st.tuples(st.text("ab", max_size=3), st.none() | st.binary(max_size=5))
moments = st.integers(0, 50_000)
entries = st.builds(Entry, values, keys, st.lists(header, max_size=2).map(tuple), moments)
places = st.floats(-0.1, 1.1)
compressions = st.sampled_from([None, "none", "lz4", "gzip"])


def entry_of(record: mqlog.Record[Any]) -> tuple[int, Entry]:
    entry = Entry(record.value, record.key, record.headers, record.timestamp_ms)
    return record.offset, entry


class Machine(RuleBasedStateMachine):
    """A stream and its model, through two handles of their own openings, and a reader that follows.

    A place is a fraction of the log, a little before its start and behind its end too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="mqlog-model-", dir=MEMORY))
        self.stores: list[mqlog.Store] = []

    @initialize(partitions=st.sampled_from([1, 1, 3]), compression=compressions)
    def begin(self, partitions: int, compression: str | None) -> None:
        with mqlog.open(self.folder / "store") as store:
            store.stream("t", partitions=partitions, compression=compression, **SMALL)
        self.logs = [Log() for _ in range(partitions)]
        self.open()

    def open(self) -> None:
        self.stores = [mqlog.open(self.folder / "store") for _ in range(2)]
        self.streams = [store.stream("t") for store in self.stores]
        self.follow()

    def follow(self) -> None:
        """A reader that begins where the log starts, and goes on at each `look`."""
        self.tail = self.streams[0].tail(mqlog.EARLIEST)
        self.seen = [log.start for log in self.logs]

    def close(self) -> None:
        for store in self.stores:
            store.close()

    def teardown(self) -> None:
        self.close()
        shutil.rmtree(self.folder)

    def home(self, entry: Entry, otherwise: int) -> int:
        return otherwise if entry.key is None else self.streams[0].partition_for(entry.key)

    def place(self, where: float, partition: int) -> int:
        log = self.logs[partition]
        return round(log.start + where * (log.end - log.start + 1))

    # -- appending

    @rule(
        handle=st.integers(0, 1), entry=entries, partition=st.integers(0, 2), durable=st.booleans()
    )
    def append(self, handle: int, entry: Entry, partition: int, durable: bool) -> None:
        home = partition % len(self.logs)
        offset = self.streams[handle].append(
            entry.value,
            key=entry.key,
            headers=entry.headers,
            timestamp=entry.timestamp_ms / 1000,
            partition=home,
            durable=durable,
        )
        assert [offset] == list(self.logs[home].append(entry))
        assert not durable or self.streams[handle].partitions[home].durable_offset > offset

    @rule(handle=st.integers(0, 1), count=st.integers(1, 60), size=st.sampled_from([20, 300]))
    def append_plainly(self, handle: int, count: int, size: int) -> None:
        """One by one, by the shortest way that there is, where there is one partition."""
        log = self.logs[0]
        for n in range(log.end, log.end + count):
            value = b"%d:" % n + bytes(size)
            if len(self.logs) == 1:
                offset = self.streams[handle].append(value)
            else:
                offset = self.streams[handle].append(value, partition=0)
            now = self.streams[1 - handle].partitions[0][offset].timestamp_ms
            assert [offset] == list(log.append(Entry(value, None, (), now)))

    @rule(handle=st.integers(0, 1), items=st.lists(entries, max_size=40), compression=compressions)
    def append_by_key(self, handle: int, items: list[Entry], compression: str | None) -> None:
        keyed = [entry._replace(key=entry.key or b"") for entry in items]
        offsets = self.streams[handle].append_many(**columns(keyed), compression=compression)
        expected = [self.logs[self.home(entry, 0)].append(entry)[0] for entry in keyed]
        assert list(offsets) == expected

    @rule(
        handle=st.integers(0, 1),
        items=st.lists(entries, max_size=40),
        partition=st.integers(0, 2),
        durable=st.booleans(),
    )
    def append_many(self, handle: int, items: list[Entry], partition: int, durable: bool) -> None:
        home = partition % len(self.logs)
        stream = self.streams[handle]
        offsets = stream.append_many(**columns(items), partition=home, durable=durable)
        assert offsets == self.logs[home].append(*items)

    @rule(handle=st.integers(0, 1), items=st.lists(entries, max_size=5), where=places)
    def append_too_much(self, handle: int, items: list[Entry], where: float) -> None:
        """All or nothing."""
        items.insert(int(max(where, 0) * len(items)), Entry(TOO_LARGE, None, (), 0))
        with pytest.raises(mqlog.RecordTooLargeError):
            self.streams[handle].append_many(**columns(items), partition=0, compression="none")

    # -- reading

    @rule(handle=st.integers(0, 1), start=places, stop=places, partition=st.integers(0, 2))
    def read(self, handle: int, start: float, stop: float, partition: int) -> None:
        home = partition % len(self.logs)
        log, one = self.logs[home], self.streams[handle].partitions[home]
        first, last = self.place(start, home), self.place(stop, home)
        try:
            expected = list(log.read(first, last))
        except IndexError:
            with pytest.raises(mqlog.OffsetOutOfRangeError) as caught:
                one.read(first, last)
            assert (caught.value.start, caught.value.stop) == (log.start, log.end)
            return
        assert [entry_of(record) for record in one.read(first, last)] == expected
        found = self.streams[handle].values(first, last, partition=home)
        assert list(found) == [entry.value for _, entry in expected]

    @rule(handle=st.integers(0, 1), where=places, partition=st.integers(0, 2))
    def get(self, handle: int, where: float, partition: int) -> None:
        home = partition % len(self.logs)
        log, one, offset = (
            self.logs[home],
            self.streams[handle].partitions[home],
            self.place(where, home),
        )
        if log.start <= offset < log.end:
            assert entry_of(one[offset]) == (offset, log.entries[offset])
        else:
            with pytest.raises(mqlog.OffsetOutOfRangeError):
                one[offset]

    @rule(handle=st.integers(0, 1), moment=moments, partition=st.integers(0, 2))
    def offset_at(self, handle: int, moment: int, partition: int) -> None:
        home = partition % len(self.logs)
        found = self.streams[handle].partitions[home].offset_at(moment / 1000)
        assert found == self.logs[home].offset_at(moment)

    @rule()
    def look(self) -> None:
        """The tail gives what is new, each record once; it raises where the log start passed it."""
        passed = any(seen < log.start for seen, log in zip(self.seen, self.logs, strict=True))
        expected = [
            list(log.read(max(seen, log.start), None))
            for seen, log in zip(self.seen, self.logs, strict=True)
        ]
        found: list[list[tuple[int, Entry]]] = [[] for _ in self.logs]
        try:
            for _ in range(sum(map(len, expected)) + passed):
                record = next(self.tail)
                found[record.partition].append(entry_of(record))
        except mqlog.OffsetOutOfRangeError:
            assert passed
            self.follow()
        else:
            assert not passed
            assert found == expected
            self.seen = [log.end for log in self.logs]

    # -- giving up, closing

    @rule(handle=st.integers(0, 1), where=places, partition=st.integers(0, 2))
    def trim(self, handle: int, where: float, partition: int) -> None:
        home = partition % len(self.logs)
        before = self.place(where, home)
        try:
            self.logs[home].trim(before)
        except IndexError:
            with pytest.raises(mqlog.OffsetOutOfRangeError):
                self.streams[handle].partitions[home].trim(before)
            return
        self.streams[handle].partitions[home].trim(before)

    @rule(handle=st.integers(0, 1), keep=st.sampled_from([0, 5_000, 10_000]), entry=entries)
    def retain(self, handle: int, keep: int, entry: Entry) -> None:
        """Retention goes as far as it may, and no further: by whole segments, from the oldest."""
        store, stream = self.stores[handle], self.streams[1 - handle]
        store.alter("t", cleanup_policy="delete", retention_bytes=keep)
        for log, one in zip(self.logs, stream.partitions, strict=True):
            stream.append(entry.value, timestamp=entry.timestamp_ms / 1000, partition=one.partition)
            log.append(entry._replace(key=None, headers=()))
        deadline = time.monotonic() + PATIENCE
        while not all(self.retained(store, one, keep) for one in stream.partitions):
            assert time.monotonic() < deadline, "segments that may go stay"
        store.alter("t", cleanup_policy="keep", retention_bytes=None)
        self.close()  # ends the thread that may be about to give up more
        self.open()
        [topic] = self.stores[0].topics()
        for log, info in zip(self.logs, topic.partitions, strict=True):
            assert log.start <= info.start_offset
            if info.start_offset > log.start:
                log.trim(info.start_offset)
                assert info.bytes >= keep
                assert info.start_offset == min(self.segments(info.partition))
        self.follow()

    def segments(self, partition: int) -> dict[int, int]:
        """The size of each segment's file, by base offset."""
        directory = self.folder / "store" / f"t-{partition}"
        return {int(file.stem): file.stat().st_size for file in sorted(directory.glob("*.log"))}

    def retained(self, store: mqlog.Store, one: mqlog.Partition[Any], keep: int) -> bool:
        """Whether the oldest segment has to stay."""
        store.sync()  # so that files are as long as what they hold
        [before] = store.topics()
        try:
            sizes = self.segments(one.partition)
        except FileNotFoundError:
            return False  # one goes right now
        [topic] = store.topics()
        total = topic.partitions[one.partition].bytes
        oldest_stays = len(sizes) == 1 or total - sizes[min(sizes)] < keep
        return oldest_stays and before.partitions == topic.partitions

    @rule(handle=st.integers(0, 1))
    def sync(self, handle: int) -> None:
        self.stores[handle].sync()
        for log, one in zip(self.logs, self.streams[handle].partitions, strict=True):
            assert one.durable_offset == log.end

    @rule()
    def reopen(self) -> None:
        self.close()
        with mqlog.open(self.folder / "store", "r") as store:
            self.check(store.stream("t"))
        self.open()
        for store in self.stores:
            assert store.recovered == []

    @invariant()
    def all_is_there(self) -> None:
        if self.stores:
            self.check(self.streams[1])

    def check(self, stream: mqlog.Stream[Any, Any]) -> None:
        for log, one in zip(self.logs, stream.partitions, strict=True):
            assert (one.start_offset, one.end_offset) == (log.start, log.end)
            assert [entry_of(record) for record in one.read()] == list(log.read(None, None))


def columns(items: list[Entry]) -> dict[str, Any]:
    return {
        "values": [entry.value for entry in items],
        "keys": [entry.key for entry in items],
        "headers": [entry.headers for entry in items],
        "timestamps": [entry.timestamp_ms / 1000 for entry in items],
    }


def run(examples: int, steps: int, *, same: bool) -> None:
    how = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        derandomize=same,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Machine, settings=how)


@pytest.mark.slow
def test_any_sequence_of_operations_is_what_a_plain_log_would_do() -> None:
    run(40, 40, same=True)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_so_are_sequences_that_no_run_has_tried_before() -> None:
    run(10_000, 60, same=False)
