"""mqlog opens a partition as Kafka leaves it and reads what kafka-python and aiokafka wrote."""

from pathlib import Path

import pytest
from interop.peers import (
    BASE,
    NAMES,
    Seen,
    awkward,
    can,
    kafka_directory,
    logs,
    read,
    seen_by_mqlog,
    write,
)

import mqlog

COMPRESSIONS = ["none", "gzip", "lz4"]

pytestmark = [
    pytest.mark.parametrize("writer", NAMES),
    pytest.mark.parametrize("compression", COMPRESSIONS),
]


@pytest.fixture(autouse=True)
def _able(writer: str, compression: str) -> None:
    if not can(writer, compression):
        pytest.skip(f"{writer} writes {compression} only with cramjam (pip install aiokafka[lz4])")


def many(first: int, count: int, size: int) -> list[Seen]:
    return [Seen(n, BASE + n, b"%d" % n, b"%07d " % n * size) for n in range(first, first + count)]


def several(writer: str, compression: str) -> tuple[list[Seen], dict[int, bytes]]:
    """Two segments of batches of several sizes, the last over several lz4 blocks."""
    groups = [awkward(), many(9, 1, 1), many(10, 100, 3), many(110, 1500, 40)]
    first = b"".join(write(writer, compression, group) for group in groups[:2])
    second = b"".join(write(writer, compression, group) for group in groups[2:])
    return [one for group in groups for one in group], {0: first, 10: second}


def test_every_record_is_read_read_only_and_nothing_is_touched(
    tmp_path: Path, writer: str, compression: str
) -> None:
    records, segments = several(writer, compression)
    directory = kafka_directory(tmp_path, "topic", segments)
    with mqlog.open(tmp_path, "r") as store:
        stream = store.stream("topic")
        assert seen_by_mqlog(stream) == records
        assert list(stream.values()) == [one.value for one in records]
        assert (stream.start_offset, stream.end_offset) == (0, len(records))
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        f"{0:020d}.log",
        f"{10:020d}.log",
        "topic-0",
    ]
    assert logs(directory) == segments[0] + segments[10]


def test_every_record_is_read_and_what_is_appended_follows(
    tmp_path: Path, writer: str, compression: str
) -> None:
    records, segments = several(writer, compression)
    directory = kafka_directory(tmp_path, "topic", segments)
    more = [Seen(len(records) + n, BASE + n, b"new", b"value-%d" % n) for n in range(10)]
    with mqlog.open(tmp_path) as store:
        stream = store.stream("topic")
        assert seen_by_mqlog(stream) == records
        for one in more:
            assert one.timestamp is not None
            offset = stream.append(one.value, key=one.key, timestamp=one.timestamp / 1000)
            assert offset == one.offset
        assert seen_by_mqlog(stream) == records + more
    assert (directory / f"{0:020d}.log").read_bytes() == segments[0]
    assert (directory / f"{10:020d}.log").read_bytes().startswith(segments[10])
    assert read(writer, logs(directory)) == records + more
    with mqlog.open(tmp_path) as store:
        assert seen_by_mqlog(store.stream("topic")) == records + more


def test_any_offset_and_any_moment_is_found(tmp_path: Path, writer: str, compression: str) -> None:
    batches = [write(writer, compression, many(n, 7, 30)) for n in range(0, 700, 7)]
    kafka_directory(tmp_path, "topic", {0: b"".join(batches)})
    with mqlog.open(tmp_path) as store:
        stream = store.stream("topic")
        for n in range(0, 700, 31):
            assert stream[n].key == b"%d" % n
            assert stream.offset_at((BASE + n) / 1000) == n
        assert stream.offset_at((BASE + 700) / 1000) == 700
