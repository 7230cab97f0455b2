"""kafka-python and aiokafka read every record of segments that mqlog wrote."""

import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from interop.peers import (
    BASE,
    BATCHES,
    NAMES,
    Seen,
    awkward,
    can,
    logs,
    read,
    seen_by_mqlog,
    split,
)

import mqlog

COMPRESSIONS = ["none", "gzip", "lz4"]
BLOCK = 65536  # of an lz4 frame as Kafka writes it

pytestmark = pytest.mark.parametrize("reader", NAMES)


def written(path: Path, fill: Callable[[mqlog.Stream[Any, Any]], object], **options: Any) -> bytes:
    """The bytes of the segments of a topic that `fill` wrote to, after a clean close."""
    with mqlog.open(path) as store:
        fill(store.stream("topic", **options))
    return logs(path / "topic-0")


def append_each(records: list[Seen]) -> Callable[[mqlog.Stream[Any, Any]], None]:
    def fill(stream: mqlog.Stream[Any, Any]) -> None:
        for one in records:
            assert one.timestamp is not None
            at = one.timestamp / 1000
            stream.append(one.value, key=one.key, headers=one.headers, timestamp=at)

    return fill


def append_all(records: list[Seen], **how: Any) -> Callable[[mqlog.Stream[Any, Any]], object]:
    def fill(stream: mqlog.Stream[Any, Any]) -> object:
        return stream.append_many(
            [one.value for one in records],
            keys=[one.key for one in records],
            headers=[one.headers for one in records],
            timestamps=[one.timestamp / 1000 for one in records if one.timestamp is not None],
            **how,
        )

    return fill


def need(reader: str, compression: str) -> None:
    if not can(reader, compression):
        pytest.skip(f"{reader} reads {compression} only with cramjam (pip install aiokafka[lz4])")


def test_single_appends_are_batches_of_one(tmp_path: Path, reader: str) -> None:
    records = awkward()
    data = written(tmp_path, append_each(records))
    assert read(reader, data) == records
    assert len(list(BATCHES[reader](data))) == len(records)


def test_plain_values_of_every_length_up_to_a_few_pages(tmp_path: Path, reader: str) -> None:
    values = [bytes([n % 251]) * n for n in [*range(300), 4095, 4096, 8191, 8192, 16_400, 70_000]]

    def fill(stream: mqlog.Stream[bytes, Any]) -> None:
        for value in values:
            stream.append(value)

    assert [one.value for one in read(reader, written(tmp_path, fill))] == values


def test_append_many_of_values_alone(tmp_path: Path, reader: str) -> None:
    values = [b"%d" % n * (n % 9) for n in range(20_000)]
    found = read(reader, written(tmp_path, lambda stream: stream.append_many(values)))
    assert [one.value for one in found] == values
    assert [one.offset for one in found] == list(range(20_000))
    assert {one.key for one in found} == {None}


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_append_many_with_all_that_a_record_may_have(
    tmp_path: Path, reader: str, compression: str
) -> None:
    need(reader, compression)
    records = awkward()
    data = written(tmp_path, append_all(records, compression=compression))
    assert read(reader, data) == records
    assert len(list(BATCHES[reader](data))) == 1


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_single_appends_to_a_compressed_topic(
    tmp_path: Path, reader: str, compression: str
) -> None:
    need(reader, compression)
    records = awkward()
    data = written(tmp_path, append_each(records), compression=compression)
    assert read(reader, data) == records


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_batch_of_several_lz4_blocks(tmp_path: Path, reader: str, compression: str) -> None:
    need(reader, compression)
    values = [b"%06d " % n * 20 for n in range(5000)]
    data = written(
        tmp_path,
        lambda stream: stream.append_many(values, compression=compression),
        batch_bytes=1 << 20,
    )
    [batch] = split(data)
    assert sum(map(len, values)) > 8 * BLOCK
    assert [one.value for one in read(reader, data)] == values
    if compression == "lz4":
        assert batch[61:67].hex() == "04224d186040", "independent blocks, or Kafka cannot read it"
        assert lz4_blocks(batch[61:]) > 8


def lz4_blocks(frame: bytes) -> int:
    """How many blocks there are, by a walk over the frame."""
    at, blocks = 7, 0
    while (size := struct.unpack_from("<I", frame, at)[0]) != 0:
        at += 4 + (size & 0x7FFFFFFF)
        blocks += 1
    assert at + 4 == len(frame)
    return blocks


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_call_of_many_batches(tmp_path: Path, reader: str, compression: str) -> None:
    need(reader, compression)
    values = [b"%06d" % n * 10 for n in range(2000)]
    data = written(
        tmp_path,
        lambda stream: stream.append_many(values, compression=compression),
        batch_bytes=4096,
    )
    assert [one.value for one in read(reader, data)] == values
    sizes = [len(batch) for batch in split(data)]
    assert len(sizes) > 20
    assert max(sizes) <= 4096


def test_what_compression_makes_larger_is_stored_plain(tmp_path: Path, reader: str) -> None:
    value = bytes((n * n * 7 + n // 3) % 256 for n in range(8))
    data = written(tmp_path, lambda stream: stream.append_many([value], compression="gzip"))
    [batch] = BATCHES[reader](data)
    assert batch.compression_type == 0
    assert [one.value for one in read(reader, data)] == [value]


def test_segments_of_a_log_that_rolled_follow_each_other(tmp_path: Path, reader: str) -> None:
    def fill(stream: mqlog.Stream[bytes, Any]) -> None:
        for n in range(500):
            stream.append(b"%d" % n, key=b"k" * 60, timestamp=(BASE + n) / 1000)
            if n % 50 == 0:
                stream.append_many([b"more"] * 30)

    found = read(reader, written(tmp_path, fill, segment_bytes=8192))
    assert len(list((tmp_path / "topic-0").glob("*.log"))) > 5
    assert [one.offset for one in found] == list(range(800))
    assert [one.value for one in found if one.key] == [b"%d" % n for n in range(500)]


def test_a_batch_header_says_what_its_records_are(tmp_path: Path, reader: str) -> None:
    records = awkward()
    [batch] = BATCHES[reader](written(tmp_path, append_all(records)))
    stamps = [one.timestamp for one in records if one.timestamp is not None]
    assert (batch.magic, batch.attributes, batch.base_offset) == (2, 0, 0)
    assert batch.last_offset_delta == len(records) - 1
    assert batch.next_offset == len(records)
    assert (batch.first_timestamp, batch.max_timestamp) == (stamps[0], max(stamps))
    assert (batch.producer_id, batch.producer_epoch, batch.base_sequence) == (-1, -1, -1)


def test_they_read_what_is_left_of_segments_that_were_consumed(tmp_path: Path, reader: str) -> None:
    with mqlog.open(tmp_path) as store:
        queue = store.queue("topic", segment_bytes=1 << 20)
        stay = {queue.put(b"later", delay=1e6)}
        for _ in range(5):
            for _ in range(40):
                queue.put_many([b"x" * 1000] * 20)
                messages = queue.get_many(20)
                stay.add(messages[7].offset)
                queue.accept(messages[:7] + messages[8:])
                messages[7].release(delay=1e6)
        end = time.monotonic() + 30
        while (left := queue.stats().bytes) > 2 << 20:
            assert time.monotonic() < end, left
            time.sleep(0.01)
    data = logs(tmp_path / "topic-0")
    with mqlog.open(tmp_path, mode="r") as store:
        ours = seen_by_mqlog(store.stream("topic").read())
    theirs = read(reader, data)
    assert [one.offset for one in theirs] == [one.offset for one in ours]
    assert [one.value for one in theirs] == [one.value for one in ours]
    assert stay <= {one.offset for one in theirs}
    assert len(theirs) < 2500 < max(stay)
