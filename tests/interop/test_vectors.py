"""Kafka's golden vectors, read and written through mqlog."""

from pathlib import Path

import pytest
from interop.peers import (
    BASE,
    NAMES,
    Seen,
    awkward,
    kafka_directory,
    logs,
    seen_by_mqlog,
    split,
    stamp_offset,
    write,
)

import mqlog

THREE = bytes.fromhex(
    "000000000000002a00000058000000070288da4efa0000000000020000018bcfe568000000018bcfe56805"
    "ffffffffffffffffffffffffffff0000000314000000046b310476310024000a02010a68656c6c6f040268"
    "0278026e0110000504046b310100"
)
EMPTY_VALUE = bytes.fromhex(
    "0000000000000000000000380000000002d78a1d080000000000000000018bcfe568000000018bcfe56800"
    "ffffffffffffffffffffffffffff000000010c000000010000"
)
COMMIT = bytes.fromhex(
    "0000000000000064000000420000000002a1ac499f0030000000000000018bcfe568000000018bcfe56800"
    "00000000000003e80000ffffffff000000012000000008000000010c00000000000000"
)
THREE_SEEN = [
    Seen(42, BASE, b"k1", b"v1"),
    Seen(43, BASE + 5, None, b"hello", (("h", b"x"), ("n", None))),
    Seen(44, BASE - 3, b"k1", None),
]


def test_three_records_and_a_tombstone_are_read(tmp_path: Path) -> None:
    kafka_directory(tmp_path, "topic", {42: THREE})
    with mqlog.open(tmp_path) as store:
        stream = store.stream("topic")
        assert seen_by_mqlog(stream) == THREE_SEEN
        assert (stream.start_offset, stream.end_offset) == (42, 45)


def test_a_null_key_with_an_empty_value_is_read(tmp_path: Path) -> None:
    kafka_directory(tmp_path, "topic", {0: EMPTY_VALUE})
    with mqlog.open(tmp_path, "r") as store:
        assert seen_by_mqlog(store.stream("topic")) == [Seen(0, BASE, None, b"")]


@pytest.mark.parametrize("mode", ["r", "rw"])
def test_a_commit_marker_takes_an_offset_and_is_given_to_nobody(tmp_path: Path, mode: str) -> None:
    before = stamp_offset(EMPTY_VALUE, 99)
    after = stamp_offset(EMPTY_VALUE, 101)
    kafka_directory(tmp_path, "topic", {99: before + COMMIT + after})
    with mqlog.open(tmp_path, "r" if mode == "r" else "rw") as store:
        stream = store.stream("topic")
        assert [record.offset for record in stream.read()] == [99, 101]
        assert list(stream.values()) == [b"", b""]
        [columns] = stream.columns()
        assert columns.offsets.tolist() == [99, 101]
        assert [record.offset for record in stream.read(100)] == [101]
        assert stream.end_offset == 102
        with pytest.raises(mqlog.OffsetOutOfRangeError):
            stream[100]


def test_a_log_that_ends_in_a_marker_goes_on_behind_it(tmp_path: Path) -> None:
    kafka_directory(tmp_path, "topic", {100: COMMIT})
    with mqlog.open(tmp_path) as store:
        stream = store.stream("topic")
        assert list(stream) == []
        assert stream.append(b"first") == 101
        with stream.consumer("group") as consumer:
            assert [record.offset for record in consumer.poll(timeout=0)] == [101]
            consumer.commit()
            assert consumer.lag == 0


def test_an_append_of_an_empty_value_is_the_vector_byte_for_byte(tmp_path: Path) -> None:
    with mqlog.open(tmp_path) as store:
        store.stream("topic").append(b"", timestamp=BASE / 1000)
    assert logs(tmp_path / "topic-0") == EMPTY_VALUE


def test_append_many_of_the_three_records_is_the_vector_byte_for_byte(tmp_path: Path) -> None:
    """But for what the broker stamps: base offset and leader epoch."""
    with mqlog.open(tmp_path) as store:
        store.stream("topic").append_many(
            [one.value for one in THREE_SEEN],
            keys=[one.key for one in THREE_SEEN],
            headers=[one.headers for one in THREE_SEEN],
            timestamps=[BASE / 1000, (BASE + 5) / 1000, (BASE - 3) / 1000],
        )
    assert logs(tmp_path / "topic-0") == stamp_offset(THREE, 0)


@pytest.mark.parametrize("writer", NAMES)
def test_our_batch_is_theirs_byte_for_byte(tmp_path: Path, writer: str) -> None:
    records = awkward()
    with mqlog.open(tmp_path) as store:
        store.stream("topic").append_many(
            [one.value for one in records],
            keys=[one.key for one in records],
            headers=[one.headers for one in records],
            timestamps=[one.timestamp / 1000 for one in records if one.timestamp is not None],
        )
    [ours] = split(logs(tmp_path / "topic-0"))
    assert ours == write(writer, "none", records)
