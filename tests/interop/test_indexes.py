"""After a clean close .index and .timeindex are, byte for byte, what Kafka makes of the .log."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from interop.expected_indexes import expected_indexes
from interop.peers import BASE, Seen, kafka_directory, split, write

import mqlog

VALUE = b"v" * 100


def check(directory: Path) -> list[Path]:
    """Compares every segment's files; gives the .log files."""
    segments = sorted(directory.glob("*.log"))
    for log in segments:
        base, data = int(log.stem), log.read_bytes()
        index, timeindex = expected_indexes(base, data)
        assert log.with_suffix(".index").read_bytes() == index, log
        assert log.with_suffix(".timeindex").read_bytes() == timeindex, log
        assert sum(map(len, split(data))) == len(data), "not a byte behind the last batch"
    return segments


def append_each(path: Path, stamps: Iterable[int], **options: Any) -> Path:
    with mqlog.open(path) as store:
        stream = store.stream("topic", **options)
        for stamp in stamps:
            stream.append(VALUE, timestamp=stamp / 1000)
    return path / "topic-0"


def test_the_example_of_kafka_for_batches_of_994_bytes(tmp_path: Path) -> None:
    """Kafka's own .index for batches of three records: 17 → 4970, 32 → 9940."""
    values = [b"x" * 300, b"x" * 300, b"x" * 306]
    with mqlog.open(tmp_path) as store:
        stream = store.stream("topic")
        for n in range(14):
            stream.append_many(values, timestamps=[(BASE + n) / 1000] * 3)
    [log] = check(tmp_path / "topic-0")
    assert log.stat().st_size == 14 * 994
    assert log.with_suffix(".index").read_bytes().hex() == "000000110000136a00000020000026d4"


def test_single_appends_with_ascending_times(tmp_path: Path) -> None:
    [log] = check(append_each(tmp_path, range(BASE, BASE + 1000)))
    assert log.with_suffix(".index").stat().st_size == 8 * (1000 // 25 - 1)
    assert log.with_suffix(".timeindex").stat().st_size == 12 * (1000 // 25)


def test_append_many_of_several_batches_a_call(tmp_path: Path) -> None:
    with mqlog.open(tmp_path) as store:
        stream = store.stream("topic", batch_bytes=1500)
        for n in range(30):
            stamps = [(BASE + n * 100 + i) / 1000 for i in range(n * 7)]
            stream.append_many([b"%d" % i * (i % 40) for i in range(n * 7)], timestamps=stamps)
            stream.append_many([VALUE] * n)
    [log] = check(tmp_path / "topic-0")
    assert log.with_suffix(".index").stat().st_size > 8 * 20


def test_batches_over_the_interval_get_an_entry_each_but_the_first(tmp_path: Path) -> None:
    with mqlog.open(tmp_path) as store:
        stream = store.stream("topic")
        for n in range(20):
            stream.append(b"v" * 5000, timestamp=(BASE + n) / 1000)
    [log] = check(tmp_path / "topic-0")
    assert log.with_suffix(".index").stat().st_size == 8 * 19
    assert log.with_suffix(".timeindex").stat().st_size == 12 * 19


@pytest.mark.parametrize("size", [4096, 4097])
def test_exactly_4096_bytes_since_the_last_entry_are_not_enough(tmp_path: Path, size: int) -> None:
    value = b"v" * (size - 61 - 9)  # the batch's header; two lengths of two bytes; five bytes
    with mqlog.open(tmp_path) as store:
        stream = store.stream("topic")
        for _ in range(3):
            stream.append(value)
    [log] = check(tmp_path / "topic-0")
    assert log.stat().st_size == 3 * size
    assert log.with_suffix(".index").stat().st_size == (0 if size == 4096 else 8) + 8


def test_the_first_of_equal_timestamps_is_the_one_named(tmp_path: Path) -> None:
    [log] = check(append_each(tmp_path, [BASE] * 500))
    assert log.with_suffix(".timeindex").read_bytes() == BASE.to_bytes(8, "big") + bytes(4)


def test_times_that_go_back_make_no_entries(tmp_path: Path) -> None:
    [log] = check(append_each(tmp_path, range(BASE, BASE - 500, -1)))
    assert log.with_suffix(".timeindex").stat().st_size == 12


def test_times_that_go_up_and_down(tmp_path: Path) -> None:
    stamps = [BASE + (n * 7919 % 1000) + n // 50 * 10 for n in range(1500)]
    check(append_each(tmp_path, stamps, segment_bytes=64 << 10))


def test_every_segment_of_a_log_that_rolled_has_exact_files(tmp_path: Path) -> None:
    directory = append_each(tmp_path, range(BASE, BASE + 2000), segment_bytes=16 << 10)
    segments = check(directory)
    assert len(segments) == -(-2000 // (16384 // 170))
    assert [int(log.stem) for log in segments[:3]] == [0, 96, 192]


def test_rolls_in_the_middle_of_calls_of_many_batches(tmp_path: Path) -> None:
    with mqlog.open(tmp_path) as store:
        stream = store.stream("topic", segment_bytes=32 << 10, batch_bytes=2048)
        for n in range(40):
            stamps = [(BASE + n + i % 3) / 1000 for i in range(80)]
            stream.append_many([VALUE] * 80, timestamps=stamps)
    assert len(check(tmp_path / "topic-0")) > 5


def test_a_log_that_was_reopened_has_the_entries_of_one_that_never_was(tmp_path: Path) -> None:
    for n in range(4):
        append_each(tmp_path, range(BASE + n * 100, BASE + n * 100 + 37))
    [log] = check(tmp_path / "topic-0")
    assert log.stat().st_size == 4 * 37 * 170


def test_a_log_that_is_reopened_and_rolls_is_exact_too(tmp_path: Path) -> None:
    for n in range(7):
        stamps = range(BASE + n * 100, BASE + n * 100 + 61)
        check(append_each(tmp_path, stamps, segment_bytes=16 << 10))
    assert len(check(tmp_path / "topic-0")) == 5


def test_a_store_that_wrote_nothing_on_reopening_changes_no_file(tmp_path: Path) -> None:
    directory = append_each(tmp_path, range(BASE, BASE + 100))
    before = {path.name: path.read_bytes() for path in directory.glob("0*")}
    with mqlog.open(tmp_path) as store:
        assert store.stream("topic").end_offset == 100
    assert {path.name: path.read_bytes() for path in directory.glob("0*")} == before


def test_a_compressed_log_has_exact_indexes(tmp_path: Path) -> None:
    with mqlog.open(tmp_path) as store:
        stream = store.stream("topic", compression="lz4", segment_bytes=16 << 10)
        for n in range(100):
            values = [b"%d:%d" % (n, i) for i in range(40 + n)]
            stamps = [(BASE + n * 5 - i) / 1000 for i in range(40 + n)]
            stream.append_many(values, timestamps=stamps)
    assert len(check(tmp_path / "topic-0")) > 2


@pytest.mark.parametrize("lost", [["index"], ["timeindex"], ["index", "timeindex"]])
def test_an_index_that_was_lost_is_made_again_as_it_was(tmp_path: Path, lost: list[str]) -> None:
    directory = append_each(tmp_path, range(BASE, BASE + 300))
    for suffix in lost:
        (directory / f"{0:020d}.{suffix}").unlink()
    append_each(tmp_path, range(BASE + 300, BASE + 400))
    check(directory)


@pytest.mark.parametrize("suffix", ["index", "timeindex"])
@pytest.mark.parametrize("zeros", [1, 12, 24, 4096])
def test_zeros_behind_an_index_go_when_the_log_goes_on(
    tmp_path: Path, suffix: str, zeros: int
) -> None:
    directory = append_each(tmp_path, range(BASE, BASE + 300))
    with (directory / f"{0:020d}.{suffix}").open("ab") as file:
        file.write(bytes(zeros))
    append_each(tmp_path, range(BASE + 300, BASE + 400))
    check(directory)


def test_indexes_of_a_kafka_directory_are_made_when_it_is_written_to(tmp_path: Path) -> None:
    records = [[Seen(n, BASE + n, b"key", VALUE)] for n in range(300)]
    data = b"".join(write("kafka-python", "none", one) for one in records)
    kafka_directory(tmp_path, "topic", {0: data})
    append_each(tmp_path, range(BASE + 300, BASE + 320))
    check(tmp_path / "topic-0")
