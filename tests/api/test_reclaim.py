"""cleanup_policy "consumed": what everybody has finished is freed, wherever it stands."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.disk import tmpfs

import mqlog

SEGMENT = 4 << 20
MONTH = 30 * 86400.0


def disk_use(path: Path) -> int:
    """Bytes of blocks."""
    total = 0
    for file in path.rglob("*"):
        try:
            total += file.stat().st_blocks * 512
        except FileNotFoundError:
            continue  # gone meanwhile
    return total


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def pour(queue: mqlog.Queue[bytes, Any], size: int, total: int) -> int:
    """Puts `total` bytes in values of `size`, and accepts what it gets; how many."""
    value, count = bytes(size), 0
    while count * size < total:
        queue.put_many([value] * 100)
        queue.accept(queue.get_many(100))
        count += 100
    return count


@pytest.mark.slow
def test_one_message_delayed_by_a_month_keeps_itself_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with mqlog.open(path) as store:
        queue = store.queue("jobs", segment_bytes=SEGMENT)
        queue.put(b"in a month", delay=MONTH)
        count = pour(queue, 20_000, 200_000_000)
        until(lambda: disk_use(path / "jobs-0") < 2 * SEGMENT)
        assert disk_use(path / "jobs-0" / "shares") < 1 << 20
        assert queue.stats().delayed == 1
        assert queue.stats().accepted == count
        assert store.stream("jobs")[0].value == b"in a month"
    with mqlog.open(path) as store:
        assert disk_use(path / "jobs-0") < 2 * SEGMENT
        queue = store.queue("jobs")
        assert queue.stats().delayed == 1
        assert next(iter(store.stream("jobs").read())).value == b"in a month"
        assert queue.empty()


@pytest.mark.soak
def test_ten_gigabytes_behind_one_message_that_is_delayed_by_a_month(tmp_path: Path) -> None:
    path, segment = tmp_path / "s", 256 << 20
    with mqlog.open(path) as store:
        queue = store.queue("jobs")
        queue.put(b"in a month", delay=MONTH)
        for _ in range(10):
            pour(queue, 20_000, 1_000_000_000)
            until(lambda: disk_use(path) < 2 * segment)
        assert disk_use(path / "jobs-0" / "shares") < 1 << 20
        assert queue.stats().delayed == 1
        assert store.stream("jobs")[0].value == b"in a month"


@pytest.mark.slow
@pytest.mark.parametrize("durability", ["os", "sync"])
def test_the_disk_use_of_an_emptied_queue_is_small_again(tmp_path: Path, durability: Any) -> None:
    path = tmp_path / "s"
    with mqlog.open(path) as store:
        queue = store.queue("jobs", durability=durability)
        queue.put_many([bytes(10_000)] * 1000)
        assert disk_use(path) > 10_000_000
        for _ in range(10):
            queue.accept(queue.get_many(100))
        until(lambda: queue.stats().bytes == 0)
        stream = store.stream("jobs")
        assert stream.start_offset == stream.end_offset == 1000
        assert queue.put(b"on") == 1000
        queue.get().accept()


@pytest.mark.slow
def test_a_stream_that_nobody_has_consumed_keeps_all(tmp_path: Path) -> None:
    with mqlog.open(tmp_path / "s") as store:
        stream = store.stream("events", cleanup_policy="consumed", segment_bytes=1 << 20)
        for _ in range(500):
            stream.append(bytes(10_000))
        with stream.consumer("slow") as slow:
            assert len(slow.poll(10)) == 10
            with stream.consumer("fast") as fast:
                while records := fast.poll(100, timeout=0.0):
                    assert records
                    fast.commit()
                store.sync()
                assert stream.start_offset == 0
            while slow.poll(100, timeout=0.0):
                slow.commit()
            until(lambda: stream.start_offset > 300)


@pytest.mark.slow
def test_a_stream_reader_skips_what_is_gone_from_the_middle(tmp_path: Path) -> None:
    with mqlog.open(tmp_path / "s") as store:
        queue = store.queue("jobs", segment_bytes=1 << 20)
        stream = store.stream("jobs")
        delayed = {queue.put(b"later", delay=MONTH)}
        for _ in range(5):
            pour(queue, 10_000, 3_000_000)
            delayed.add(queue.put(b"later", delay=MONTH))
        early = iter(stream.read())
        assert next(early).offset == 0
        until(lambda: queue.stats().bytes < 3 << 20)
        kept = [record.offset for record in stream.read()]
        assert delayed <= set(kept)
        assert kept == sorted(kept)
        assert delayed <= {0, *(record.offset for record in early)}
        gone = next(n for n in range(1, 2000) if n not in kept)
        with pytest.raises(mqlog.OffsetOutOfRangeError):
            stream[gone]
        columns = [offset for part in stream.columns() for offset in part.offsets]
        assert columns == kept
        assert stream.offset_at(0.0) == 0


# trim


def test_trimming_past_what_a_share_group_has_not_finished_needs_force(store: mqlog.Store) -> None:
    queue = store.queue("jobs")
    for value in (b"a", b"b", b"c", b"d"):
        queue.put(value)
    queue.accept(queue.get_many(2))
    stream = store.stream("jobs")
    with pytest.raises(ValueError, match=r"offset 2.*force=True"):
        stream.trim(3)
    assert stream.start_offset == 0
    stream.trim(2)
    assert stream.start_offset == 2
    stream.trim(3, force=True)
    assert stream.start_offset == 3
    with queue.get() as message:
        assert message.value == b"d"


def test_trimming_asks_groups_that_others_have_made(tmp_path: Path) -> None:
    with mqlog.open(tmp_path / "s") as store:
        stream = store.stream("events")
        stream.append_many([b"a", b"b"])
        store.queue("events", group="audit")
    with mqlog.open(tmp_path / "s") as store:
        stream = store.stream("events")
        with pytest.raises(ValueError, match="force=True"):
            stream.trim(1)
        store.delete_group("events", "audit")
        stream.trim(1)


# idempotent puts


@pytest.mark.slow
def test_a_key_counts_although_its_message_was_accepted_long_ago(tmp_path: Path) -> None:
    with mqlog.open(tmp_path / "s") as store:
        queue = store.queue("jobs", segment_bytes=1 << 20)
        first = queue.put(b"once", dedupe="order-17")
        pour(queue, 10_000, 5_000_000)
        store.sync()
        assert queue.put(b"once", dedupe="order-17") == first
    for table in (tmp_path / "s").glob("*/dedupe"):
        table.write_bytes(bytes(table.stat().st_size))  # as another boot finds it
    with mqlog.open(tmp_path / "s") as store:
        assert store.queue("jobs").put(b"once", dedupe="order-17") == first


# a full disk


@pytest.mark.slow
def test_draining_a_full_disk_makes_space(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", "16m") as disk, mqlog.open(disk / "s", min_free_bytes=0) as store:
        queue = store.queue("jobs", segment_bytes=1 << 20)
        delayed = queue.put(b"later", delay=MONTH)
        count = 0
        with pytest.raises(OSError, match=r"space|full"):
            while True:
                queue.put(bytes(5_000))
                count += 1
        for _ in range(count):
            queue.get_nowait().accept()
        until(lambda: disk_use(disk) < 4 << 20)
        assert queue.put(b"again") > count
        queue.get_nowait().accept()
        assert store.stream("jobs")[delayed].value == b"later"
