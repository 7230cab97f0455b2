"""After a clean close .index and .timeindex are, byte for byte, what Kafka makes of the .log."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from interop.expected_indexes import expected_indexes
from interop.peers import BASE, split

import mqlog

VALUE = b"v" * 100


def check(directory: Path, closes: dict[int, list[int]] | None = None) -> list[Path]:
    """Compares every segment's files; gives the .log files."""
    segments = sorted(directory.glob("*.log"))
    for log in segments:
        base, data = int(log.stem), log.read_bytes()
        index, timeindex = expected_indexes(base, data, (closes or {}).get(base, ()))
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
    with mqlog.open(tmp_path) as store:
        stream = store.stream("topic")
        for n in range(14):
            stream.append_many([b"x" * 300, b"x" * 300, b"x" * 303], timestamps=[(BASE + n) / 1e3] * 3)
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
    assert log.with_suffix(".timeindex").stat().st_size == 12 * 20


@pytest.mark.parametrize("size", [4096, 4097])
def test_exactly_4096_bytes_since_the_last_entry_are_not_enough(tmp_path: Path, size: int) -> None:
    value = b"v" * (size - 61 - 10)  # 61 of the batch; lengths of two bytes each; five of one; none
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


def test_the_counter_of_bytes_begins_anew_when_the_store_is_reopened(tmp_path: Path) -> None:
    closes = []
    for n in range(4):
        append_each(tmp_path, range(BASE + n * 100, BASE + n * 100 + 37))
        closes.append((n + 1) * 37 * 170)
    [log] = check(tmp_path / "topic-0", {0: closes})
    assert log.stat().st_size == closes[-1]


def test_a_log_that_is_reopened_and_rolls_is_exact_too(tmp_path: Path) -> None:
    closes: dict[int, list[int]] = {}
    for n in range(7):
        directory = append_each(
            tmp_path, range(BASE + n * 100, BASE + n * 100 + 61), segment_bytes=16 << 10
        )
        last = max(directory.glob("*.log"))
        closes.setdefault(int(last.stem), []).append(last.stat().st_size)
    assert len(check(directory, closes)) == 5


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


def test_an_index_that_was_lost_is_made_again_as_it_was(tmp_path: Path) -> None:
    directory = append_each(tmp_path, range(BASE, BASE + 300))
    for suffix in ("index", "timeindex"):
        (directory / f"{0:020d}.{suffix}").unlink()
    append_each(tmp_path, range(BASE + 300, BASE + 400))
    [log] = directory.glob("*.log")
    index, timeindex = expected_indexes(0, log.read_bytes(), [])
    found = log.with_suffix(".index").read_bytes()
    assert len(found) % 8 == 0
    entries = {found[at : at + 8] for at in range(0, len(found), 8)}
    assert len(index) - 16 <= len(found) <= len(index)
    assert entries <= {entry for entry in _every_entry(log.read_bytes())}
    assert log.with_suffix(".timeindex").read_bytes()[-12:] == timeindex[-12:]


def _every_entry(log: bytes) -> Iterable[bytes]:
    for number in range(len(log) // 170):
        yield number.to_bytes(4, "big") + (number * 170).to_bytes(4, "big")
