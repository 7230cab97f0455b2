"""Replay: in the order of time, at its pace, and offline."""

import os
import pickle
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.damage import batches, flip

import mqlog
from mqlog import _tail


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store with one topic of two partitions whose timestamps interleave, closed."""
    path = tmp_path / "shop-data"
    with mqlog.open(path) as store:
        clicks = store.stream("clicks", partitions=2)
        for second in range(6):
            clicks.append(b"%d" % second, timestamp=1000.0 + second, partition=second % 2)
    return path


def values(records: Iterator[mqlog.Record[Any]]) -> list[int]:
    return [int(record.value) for record in records]


class Clock:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 50.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def pace(clock: Clock, speed: float) -> _tail.Pace:
    return _tail.Pace(speed, lambda: None, lambda: clock.now, clock.sleep)


# order and pace


def test_several_partitions_are_merged_by_timestamp(path: Path) -> None:
    with mqlog.open(path, "r") as store:
        assert values(store.stream("clicks").read()) == [0, 2, 4, 1, 3, 5]
        assert values(store.stream("clicks").replay()) == [0, 1, 2, 3, 4, 5]
        assert values(store.stream("clicks").replay(1002.0, 1004.0)) == [2, 3]


def test_equal_timestamps_come_in_the_order_of_partitions() -> None:
    with mqlog.temporary(clock=lambda: 1000.0) as store:
        spread = store.stream("spread", partitions=3)
        for partition in (2, 0, 1):
            spread.append_many([b"%d0" % partition, b"%d1" % partition], partition=partition)
        assert values(spread.replay()) == [0, 1, 10, 11, 20, 21]


def test_within_a_partition_the_order_is_that_of_offsets() -> None:
    with mqlog.temporary() as store:
        clicks = store.stream("clicks")
        clicks.append_many([b"0", b"1", b"2"], timestamps=[1002.0, 1000.0, 1001.0])
        assert values(clicks.replay()) == [0, 1, 2]


@pytest.mark.parametrize(("speed", "seconds"), [(1.0, 1.0), (10.0, 0.1), (0.5, 2.0)])
def test_a_record_is_due_as_long_after_the_first_as_it_was(speed: float, seconds: float) -> None:
    clock = Clock()
    timing = pace(clock, speed)
    for n in range(4):
        timing.wait(1000.0 + n)
        assert clock.now == pytest.approx(50.0 + n * seconds)
    assert max(clock.slept) <= _tail.SLICE


def test_a_reader_that_was_slow_catches_up_without_sleeping() -> None:
    clock = Clock()
    timing = pace(clock, 1.0)
    timing.wait(1000.0)
    clock.now += 10
    timing.wait(1004.0)
    assert clock.slept == []
    timing.wait(1011.0)
    assert sum(clock.slept) == pytest.approx(1.0)


def test_records_without_a_timestamp_or_out_of_order_are_due_at_once() -> None:
    clock = Clock()
    timing = pace(clock, 1.0)
    timing.wait(None)
    timing.wait(1000.0)
    timing.wait(None)
    timing.wait(900.0)
    assert clock.slept == []


@pytest.mark.parametrize("speed", [0, -1.0, float("nan"), float("inf")])
def test_a_speed_is_a_number_over_0(path: Path, speed: float) -> None:
    with pytest.raises(ValueError, match="a number over 0"):
        mqlog.replay(path, speed=speed)
    with mqlog.open(path) as store, pytest.raises(ValueError, match="a number over 0"):
        store.stream("clicks").replay(speed=speed)
    with pytest.raises(TypeError, match="speed is a number or None, not str"):
        mqlog.replay(path, speed="10x")  # type: ignore[arg-type]


def test_a_replay_that_sleeps_ends_when_its_store_is_closed() -> None:
    store = mqlog.temporary()
    clicks = store.stream("clicks")
    clicks.append_many([b"0", b"1"], timestamps=[1000.0, 9000.0])
    records = clicks.replay(speed=1.0)
    assert next(records).value == b"0"
    ends: list[BaseException] = []

    def wait() -> None:
        try:
            next(records)
        except BaseException as error:
            ends.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    store.close()
    thread.join(10)
    assert [type(error) for error in ends] == [mqlog.ClosedError]


def test_a_replay_goes_fast_when_it_may(path: Path) -> None:
    assert values(mqlog.replay(path, speed=1e6)) == [0, 1, 2, 3, 4, 5]


# offline


def test_a_store_is_replayed_without_opening_it(path: Path) -> None:
    before = sorted(file.stat().st_mtime_ns for file in path.rglob("*"))
    assert values(mqlog.replay(path)) == [0, 1, 2, 3, 4, 5]
    assert values(mqlog.replay(str(path), 1001.0, 1004.0, topic="clicks")) == [1, 2, 3]
    assert sorted(file.stat().st_mtime_ns for file in path.rglob("*")) == before


def test_a_live_store_is_replayed_up_to_now(path: Path) -> None:
    with mqlog.open(path) as store:
        store.stream("clicks").append(b"6", timestamp=1006.0, partition=0)
        records = mqlog.replay(path)
        store.stream("clicks").append(b"7", timestamp=1007.0, partition=0)
        assert values(records) == [0, 1, 2, 3, 4, 5, 6]


def test_one_partitions_directory_is_replayed(path: Path) -> None:
    assert values(mqlog.replay(path / "clicks-1")) == [1, 3, 5]
    assert values(mqlog.replay(path / "clicks-1", 1, 2)) == [3]
    assert [record.partition for record in mqlog.replay(path / "clicks-1")] == [1, 1, 1]


def test_one_partition_of_several_is_replayed_where_the_others_are_missing(path: Path) -> None:
    shutil.rmtree(path / "clicks-0")
    (path / "mqlog.json").unlink()
    assert values(mqlog.replay(path / "clicks-1")) == [1, 3, 5]


def many_segments(tmp_path: Path) -> list[Path]:
    with mqlog.open(tmp_path / "many") as store:
        clicks = store.stream("clicks", segment_bytes=4096)
        for n in range(100):
            clicks.append(b"%d" % n + bytes(200))
    return sorted((tmp_path / "many" / "clicks-0").glob("*.log"))


def test_one_segment_is_replayed(tmp_path: Path) -> None:
    segments = many_segments(tmp_path)
    assert len(segments) > 3
    found = [[record.offset for record in mqlog.replay(segment)] for segment in segments]
    assert [offsets[0] for offsets in found] == [int(segment.stem) for segment in segments]
    assert [offset for offsets in found for offset in offsets] == list(range(100))


def test_places_are_kept_inside_the_one_segment(tmp_path: Path) -> None:
    segments = many_segments(tmp_path)
    first, last = int(segments[1].stem), int(segments[2].stem)
    inside = list(range(first, last))
    assert [r.offset for r in mqlog.replay(segments[1], 0, 100)] == inside
    assert [r.offset for r in mqlog.replay(segments[1], first + 2)] == inside[2:]
    assert [r.offset for r in mqlog.replay(segments[1], stop=first + 2)] == inside[:2]
    assert list(mqlog.replay(segments[1], mqlog.LATEST)) == []
    assert list(mqlog.replay(segments[2], stop=first)) == []


def test_a_store_of_several_topics_needs_to_know_which(path: Path) -> None:
    with mqlog.open(path) as store:
        store.stream("orders")
    with pytest.raises(ValueError, match="has 2 topics: say topic=, one of clicks, orders"):
        mqlog.replay(path)
    assert values(mqlog.replay(path, topic="clicks")) == [0, 1, 2, 3, 4, 5]
    with pytest.raises(mqlog.NotFoundError, match="did you mean 'clicks'"):
        mqlog.replay(path, topic="click")


def test_a_bare_offset_needs_one_partition(path: Path) -> None:
    with pytest.raises(ValueError, match=r"has 2 partitions.*path of one partition"):
        mqlog.replay(path, 1)


@pytest.mark.parametrize("name", ["nothing", "clicks-7", "clicks-0/nothing.log"])
def test_a_path_to_nothing_is_named(path: Path, name: str) -> None:
    with pytest.raises(mqlog.NotFoundError, match=name):
        mqlog.replay(path / name)
    assert not (path / name).exists()


def test_a_path_to_something_else_says_what_it_should_be(path: Path, tmp_path: Path) -> None:
    with pytest.raises(mqlog.NotFoundError, match="no segment"):
        mqlog.replay(path / "mqlog.json")
    with pytest.raises(mqlog.NotFoundError, match="belongs to topic 'clicks', not to 'orders'"):
        mqlog.replay(path / "clicks-0", topic="orders")
    (tmp_path / "empty").mkdir()
    with pytest.raises(mqlog.NotFoundError, match="holds no store"):
        mqlog.replay(tmp_path / "empty")


def test_segments_outside_a_partitions_directory_say_how_to_be_read(
    path: Path, tmp_path: Path
) -> None:
    shutil.copytree(path / "clicks-0", tmp_path / "copied")
    with pytest.raises(mqlog.NotFoundError, match=r"not named <topic>-<partition>"):
        mqlog.replay(tmp_path / "copied")
    with pytest.raises(mqlog.NotFoundError, match=r"not named <topic>-<partition>"):
        mqlog.replay(tmp_path / "copied" / f"{0:020d}.log")
    shutil.copytree(path / "clicks-0", tmp_path / "copied-0")
    assert values(mqlog.replay(tmp_path / "copied-0")) == [0, 2, 4]


def damage(path: Path) -> None:
    """Flips a bit in the last batch."""
    [segment] = (path / "clicks-0").glob("*.log")
    data = segment.read_bytes()
    position, size, *_ = batches(data)[-1]
    segment.write_bytes(flip(data, position + size - 1))


def test_damage_is_raised_once_or_skipped(path: Path) -> None:
    damage(path)
    records = mqlog.replay(path)
    found: list[int] = []
    failed = 0
    while True:
        try:
            found.append(int(next(records).value or b""))
        except mqlog.CorruptError:
            failed += 1
        except StopIteration:
            break
    assert failed >= 1
    skipped = values(mqlog.replay(path, on_corrupt="skip"))
    assert skipped == found
    assert {1, 3, 5} <= set(found) < {0, 1, 2, 3, 4, 5}
    with pytest.raises(ValueError, match='"raise" or "skip"'):
        mqlog.replay(path, on_corrupt="ignore")  # type: ignore[arg-type]


def test_a_finished_replay_gives_its_files_back(path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    records = mqlog.replay(path)
    assert values(records) == [0, 1, 2, 3, 4, 5]
    assert list(records) == []
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_dropped_replay_gives_its_files_back_without_a_warning(path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    next(mqlog.replay(path))
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_replay_does_not_pickle(path: Path) -> None:
    records = mqlog.replay(path)
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(records)
    list(records)
