"""Streams: what is appended is read, from any place, by any way, and nothing else is."""

import pickle
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import mqlog
from mqlog import EARLIEST, LATEST

DAY = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def store() -> Iterator[mqlog.Store]:
    with mqlog.temporary() as store:
        yield store


@pytest.fixture
def clicks(store: mqlog.Store) -> mqlog.Stream[bytes, Any]:
    """Ten records, one a minute, from `DAY` on."""
    stream = store.stream("clicks")
    stream.append_many(
        [b"%d" % n for n in range(10)],
        timestamps=[DAY + timedelta(minutes=n) for n in range(10)],
    )
    return stream


@pytest.fixture
def spread(store: mqlog.Store) -> mqlog.Stream[bytes, Any]:
    """Three partitions of two records each."""
    stream = store.stream("spread", partitions=3)
    for partition in range(3):
        stream.append_many([b"%d-0" % partition, b"%d-1" % partition], partition=partition)
    return stream


def damage(store: mqlog.Store, topic: str, value: bytes, partition: int = 0) -> None:
    """Flips a bit of a value, where it stands in its segment."""
    store.sync()
    for segment in sorted((store.path / f"{topic}-{partition}").glob("*.log")):
        data = bytearray(segment.read_bytes())
        place = data.find(value)
        if place >= 0:
            with segment.open("r+b") as file:
                file.seek(place)
                file.write(bytes([data[place] ^ 1]))
            return
    raise AssertionError(f"no {value!r} in {topic}")


# what a record has


def test_a_record_has_all_that_was_appended(store: mqlog.Store) -> None:
    clicks = store.stream("clicks")
    headers = [("trace", b"1f"), ("trace", b"2f"), ("empty", None)]
    offset = clicks.append(b"/cart", key=b"user-7", headers=headers, timestamp=DAY)
    record = clicks[offset]
    assert (record.topic, record.partition, record.offset) == ("clicks", 0, 0)
    assert (record.id, record.key, record.raw, record.value) == (
        "clicks-0:0",
        b"user-7",
        b"/cart",
        b"/cart",
    )
    assert record.headers == tuple(headers)
    assert record.header("trace") == b"2f"
    assert record.header("none", b"default") == b"default"
    assert (record.timestamp, record.datetime) == (DAY.timestamp(), DAY)


def test_nulls_and_empty_bytes_are_not_the_same(store: mqlog.Store) -> None:
    clicks = store.stream("clicks")
    clicks.append(None)
    clicks.append(b"", key=b"")
    null, empty = clicks
    assert (null.raw, null.key) == (None, None)
    assert (empty.value, empty.key) == (b"", b"")


@pytest.mark.parametrize("value", [b"abc", bytearray(b"abc"), memoryview(b"xabcx")[1:4]])
def test_anything_with_the_buffer_protocol_is_a_value(store: mqlog.Store, value: Any) -> None:
    clicks = store.stream("clicks")
    clicks.append(value)
    clicks.append_many([value])
    assert list(clicks.values()) == [b"abc", b"abc"]


def test_a_str_is_told_to_be_encoded(store: mqlog.Store) -> None:
    with pytest.raises(TypeError, match=r"\.encode\(\) it, or give a codec="):
        store.stream("clicks").append("text")  # type: ignore[arg-type]


def test_a_value_over_the_limit_is_refused_and_nothing_is_appended(store: mqlog.Store) -> None:
    clicks = store.stream("clicks", max_message_bytes=1000)
    with pytest.raises(mqlog.RecordTooLargeError, match="1000"):
        clicks.append(bytes(2000))
    with pytest.raises(mqlog.RecordTooLargeError):
        clicks.append_many([b"small", bytes(2000)])
    assert clicks.end_offset == 0


@pytest.mark.parametrize("compression", ["lz4", "gzip"])
def test_a_compressed_topic_reads_the_same(store: mqlog.Store, compression: str) -> None:
    values = [b"/cart/%d" % (n % 7) * 20 for n in range(5000)]
    plain, packed = store.stream("plain"), store.stream("packed", compression=compression)
    plain.append_many(values)
    packed.append_many(values)
    packed.append(values[0])
    assert list(packed.values()) == [*values, values[0]]
    assert [record.offset for record in packed] == list(range(5001))
    small, large = (topic.bytes for topic in store.topics())
    assert small < large / 5


def test_a_call_may_compress_more_than_its_topic_or_not_at_all(store: mqlog.Store) -> None:
    clicks = store.stream("clicks", compression="lz4")
    for compression in (None, "none", "gzip"):
        clicks.append_many([b"abc" * 1000], compression=compression)
    assert list(clicks.values()) == [b"abc" * 1000] * 3


def test_append_many_gives_a_range_where_one_partition_was_hit(store: mqlog.Store) -> None:
    clicks = store.stream("clicks")
    assert clicks.append_many([b"a", b"b"]) == range(2)
    assert clicks.append_many([b"c", b"d"], keys=[b"k", None]) == range(2, 4)
    assert list(clicks.append_many([])) == []


# keys and partitions


def test_a_key_keeps_its_partition_and_its_order(spread: mqlog.Stream[bytes, Any]) -> None:
    keys = [b"user-%d" % (n % 5) for n in range(50)]
    offsets = spread.append_many([b"%d" % n for n in range(50)], keys=keys)
    assert len(offsets) == 50
    for key in set(keys):
        partition = spread.partition_for(key)
        found = [int(r.raw or b"") for r in spread.partitions[partition].read() if r.key == key]
        assert found == [n for n in range(50) if keys[n] == key]


def test_partition_for_is_kafkas_murmur2(store: mqlog.Store) -> None:
    stream = store.stream("spread", partitions=7)
    hashes = {b"21": -973932308, b"foobar": -790332482, b"a-little-bit-long-string": -985981536}
    for key, murmur2 in hashes.items():
        assert stream.partition_for(key) == (murmur2 & 0x7FFFFFFF) % 7


def test_several_partitions_are_read_one_after_the_other(
    spread: mqlog.Stream[bytes, Any],
) -> None:
    every = [b"0-0", b"0-1", b"1-0", b"1-1", b"2-0", b"2-1"]
    assert list(spread.values()) == every
    assert [record.value for record in spread] == every
    assert [record.id for record in spread.read(partition=2)] == ["spread-2:0", "spread-2:1"]
    assert [v for columns in spread.columns() for v in columns.values()] == every
    assert [columns.partition for columns in spread.columns()] == [0, 1, 2]


def test_a_bare_offset_needs_one_partition(spread: mqlog.Stream[bytes, Any]) -> None:
    calls: list[Callable[[], object]] = [
        lambda: spread.start_offset,
        lambda: spread.end_offset,
        lambda: spread.durable_offset,
        lambda: spread.offset_at(DAY),
        lambda: spread.trim(1),
        lambda: spread.wait_durable(1),
        lambda: spread[0],
        lambda: spread.read(1),
        lambda: spread.values(stop=1),
        lambda: spread.columns(1),
        lambda: spread.tail(1),
        lambda: spread.replay(1),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"has 3 partitions.*partitions\[n\]"):
            call()
    assert list(spread.values(1, partition=1)) == [b"1-1"]


def test_a_partition_that_is_not_there_is_named(spread: mqlog.Stream[bytes, Any]) -> None:
    for call in (lambda: spread.read(partition=3), lambda: spread.append(b"x", partition=3)):
        with pytest.raises(ValueError, match="no partition 3"):
            call()
    with pytest.raises(TypeError, match="partition is an int, not bool"):
        spread.read(partition=True)


def test_a_partition_has_what_takes_a_bare_offset(spread: mqlog.Stream[bytes, Any]) -> None:
    partition = spread.partitions[1]
    assert (partition.topic, partition.partition) == ("spread", 1)
    assert (partition.start_offset, partition.end_offset) == (0, 2)
    assert partition[1].value == b"1-1"
    assert [record.value for record in partition.read(1)] == [b"1-1"]


# where reading starts and stops


def values(records: Iterator[mqlog.Record[Any]]) -> list[int]:
    return [int(record.value) for record in records]


PLACES: list[tuple[Any, Any, list[int]]] = [
    (EARLIEST, None, list(range(10))),
    (3, None, list(range(3, 10))),
    (0, 4, list(range(4))),
    (4, 4, []),
    (7, 3, []),
    (10, None, []),
    (LATEST, None, []),
    (8, LATEST, [8, 9]),
    (8, 1000, [8, 9]),
    (EARLIEST, EARLIEST, []),
    (DAY, None, list(range(10))),
    (DAY + timedelta(minutes=3), DAY + timedelta(minutes=5), [3, 4]),
    (DAY + timedelta(minutes=2, seconds=1), 5, [3, 4]),
    ((DAY + timedelta(minutes=8)).timestamp(), None, [8, 9]),
    (0.0, None, list(range(10))),
    (DAY + timedelta(days=1), None, []),
]


@pytest.mark.parametrize(("start", "stop", "expected"), PLACES)
def test_a_place_is_an_offset_a_moment_or_an_end(
    clicks: mqlog.Stream[bytes, Any], start: Any, stop: Any, expected: list[int]
) -> None:
    assert values(clicks.read(start, stop)) == expected
    assert [int(value) for value in clicks.values(start, stop)] == expected
    assert [int(v or 0) for c in clicks.columns(start, stop) for v in c.values()] == expected
    assert values(clicks.replay(start, stop)) == expected


@pytest.mark.parametrize("place", [11, -1, 10**18])
def test_an_offset_that_cannot_be_read_names_the_range(
    clicks: mqlog.Stream[bytes, Any], place: int
) -> None:
    with pytest.raises(mqlog.OffsetOutOfRangeError, match="from 0 on, up to and without 10") as got:
        clicks.read(place)
    assert (got.value.start, got.value.stop) == (0, 10)


def test_an_offset_below_the_log_start_names_the_range(clicks: mqlog.Stream[bytes, Any]) -> None:
    clicks.trim(4)
    with pytest.raises(mqlog.OffsetOutOfRangeError, match="below the log start: from 4 on"):
        clicks.read(3)
    assert values(clicks.read()) == list(range(4, 10))


@pytest.mark.parametrize("place", [True, "yesterday", None, b"0", [0]])
def test_what_is_no_place_is_a_type_error(clicks: mqlog.Stream[bytes, Any], place: Any) -> None:
    with pytest.raises(TypeError, match="a place is an offset"):
        clicks.read(place)


@pytest.mark.parametrize(
    ("moment", "says"),
    [
        (datetime(2026, 1, 1), "time zone"),
        (float("nan"), "epoch seconds"),
        (1.7e12, "are these milliseconds"),
        (-1.0, "epoch seconds"),
    ],
)
def test_a_moment_that_is_none_is_a_value_error(
    clicks: mqlog.Stream[bytes, Any], moment: Any, says: str
) -> None:
    for call in (clicks.read, clicks.offset_at, lambda m: clicks.append(b"x", timestamp=m)):
        with pytest.raises(ValueError, match=says):
            call(moment)


def test_offset_at_gives_the_first_record_that_is_not_older(
    clicks: mqlog.Stream[bytes, Any],
) -> None:
    assert clicks.offset_at(DAY + timedelta(minutes=3)) == 3
    assert clicks.offset_at(DAY + timedelta(minutes=3, milliseconds=1)) == 4
    assert clicks.offset_at(0.0) == 0
    assert clicks.offset_at(DAY + timedelta(days=1)) == 10


def test_what_is_appended_later_is_no_part_of_an_iteration(
    clicks: mqlog.Stream[bytes, Any],
) -> None:
    records = clicks.read(8)
    clicks.append(b"10")
    assert values(records) == [8, 9]
    assert values(clicks.read(8)) == [8, 9, 10]


def test_a_place_is_settled_by_the_call_not_by_the_first_next(
    clicks: mqlog.Stream[bytes, Any],
) -> None:
    tail = clicks.tail(timeout=0)
    clicks.append(b"10")
    assert values(tail) == [10]


# one record


def test_an_index_gives_the_record_at_an_offset(clicks: mqlog.Stream[bytes, Any]) -> None:
    assert [int(clicks[n].value) for n in range(10)] == list(range(10))


def test_a_negative_index_is_told_what_to_say_instead(clicks: mqlog.Stream[bytes, Any]) -> None:
    with pytest.raises(mqlog.OffsetOutOfRangeError, match=r"read\(start=end_offset - 2\)"):
        clicks[-2]


def test_a_slice_is_told_of_read(clicks: mqlog.Stream[bytes, Any]) -> None:
    with pytest.raises(TypeError, match=r"read\(start, stop\)"):
        clicks[1:2]  # type: ignore[index]
    with pytest.raises(TypeError, match="an offset is an int, not str"):
        clicks["1"]  # type: ignore[index]
    with pytest.raises(TypeError, match="an offset is an int, not bool"):
        clicks[True]


def test_an_index_behind_the_end_names_the_range(clicks: mqlog.Stream[bytes, Any]) -> None:
    with pytest.raises(mqlog.OffsetOutOfRangeError, match="from 0 up to and without 10"):
        clicks[10]


def test_a_handle_is_true_and_has_no_length(store: mqlog.Store) -> None:
    clicks = store.stream("clicks")
    assert clicks
    with pytest.raises(TypeError):
        len(clicks)  # type: ignore[arg-type]


# iterators


def test_copy_false_gives_views_that_outlive_the_store() -> None:
    store = mqlog.temporary()
    clicks = store.stream("clicks")
    clicks.append(b"x" * 100_000)
    [record] = clicks.read(copy=False)
    lent: Any = record.raw
    store.close()
    assert isinstance(lent, memoryview)
    assert lent.readonly
    assert bytes(lent) == b"x" * 100_000


def test_columns_are_arrays_for_numpy(clicks: mqlog.Stream[bytes, Any]) -> None:
    numpy = pytest.importorskip("numpy")
    [columns] = clicks.columns()
    assert numpy.asarray(columns.offsets).tolist() == list(range(10))
    times = numpy.asarray(columns.timestamps_ms)
    assert times.dtype == numpy.int64
    assert numpy.diff(times).tolist() == [60_000] * 9
    assert (len(columns), columns.keys()) == (10, [None] * 10)


def test_columns_hold_at_most_max_records(clicks: mqlog.Stream[bytes, Any]) -> None:
    assert [len(columns) for columns in clicks.columns(max_records=4)] == [4, 4, 2]
    with pytest.raises(ValueError, match="max_records=0: at least 1"):
        clicks.columns(max_records=0)


@pytest.mark.parametrize(
    "make",
    [
        lambda s: s.read(),
        lambda s: s.values(),
        lambda s: s.columns(),
        lambda s: s.tail(),
        lambda s: s.replay(),
        lambda s: s.replay(speed=2.0),
    ],
)
@pytest.mark.parametrize("topic", ["clicks", "spread"])
def test_an_iterator_does_not_pickle(
    store: mqlog.Store, topic: str, make: Callable[[Any], Any]
) -> None:
    stream = store.stream(topic, partitions=3 if topic == "spread" else 1)
    with pytest.raises(TypeError, match="offset"):
        pickle.dumps(make(stream))


def test_an_iterator_serves_one_thread_at_a_time(store: mqlog.Store) -> None:
    tail = store.stream("clicks").tail()
    inside = threading.Thread(target=lambda: next(tail, None))
    tail._turn.acquire()  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="one thread at a time"):
        next(tail)
    tail._turn.release()  # type: ignore[attr-defined]
    inside.start()
    store.stream("clicks").append(b"x")
    inside.join(10)
    assert not inside.is_alive()


def test_damage_is_raised_once_and_reading_goes_on_behind_it(store: mqlog.Store) -> None:
    clicks = store.stream("clicks")
    for n in range(3):
        clicks.append(b"value-%d" % n)
    damage(store, "clicks", b"value-1")
    records = clicks.read()
    assert next(records).value == b"value-0"
    with pytest.raises(mqlog.CorruptError, match="offsets 1 to 1") as caught:
        next(records)
    assert (caught.value.start, caught.value.stop) == (1, 2)
    assert caught.value.path.endswith(f"clicks-0/{0:020d}.log")
    assert [record.value for record in records] == [b"value-2"]
    assert clicks.append(b"value-3") == 3


@pytest.mark.parametrize("way", ["read", "values", "columns", "replay", "tail"])
def test_every_way_of_reading_several_partitions_goes_on_behind_damage(
    store: mqlog.Store, way: str
) -> None:
    stream = store.stream("spread", partitions=2)
    for partition in range(2):
        for n in range(3):
            stream.append(b"value-%d-%d" % (partition, n), partition=partition)
    damage(store, "spread", b"value-0-1")
    how: dict[str, Any] = {"start": EARLIEST}
    if way == "tail":
        how["timeout"] = 0
    records = getattr(stream, way)(**how)
    found: list[Any] = []
    failed = 0
    while True:
        try:
            found.append(next(records))
        except mqlog.CorruptError:
            failed += 1
        except StopIteration:
            break
    assert failed == 1
    if way == "columns":
        found = [value for columns in found for value in columns.values()]
    elif way != "values":
        found = [record.value for record in found]
    assert sorted(found) == [b"value-0-0", b"value-0-2", *(b"value-1-%d" % n for n in range(3))]


def test_damage_is_skipped_on_request_and_logged(
    store: mqlog.Store, caplog: pytest.LogCaptureFixture
) -> None:
    clicks = store.stream("clicks")
    for n in range(3):
        clicks.append(b"value-%d" % n)
    damage(store, "clicks", b"value-1")
    assert [r.value for r in clicks.read(on_corrupt="skip")] == [b"value-0", b"value-2"]
    assert "skipped" in caplog.text
    with pytest.raises(ValueError, match='"raise" or "skip"'):
        clicks.read(on_corrupt="ignore")


# following


def test_tail_gives_what_comes_and_ends_after_the_timeout(store: mqlog.Store) -> None:
    clicks = store.stream("clicks")
    clicks.append(b"before")
    tail = clicks.tail(timeout=0)
    clicks.append(b"after")
    assert [record.value for record in tail] == [b"after"]
    clicks.append(b"too late")
    assert list(tail) == []


def test_tail_follows_every_partition(spread: mqlog.Stream[bytes, Any]) -> None:
    assert len(list(spread.tail(EARLIEST, 0))) == 6
    tail = spread.tail(timeout=0)
    for partition in range(3):
        spread.append(b"new-%d" % partition, partition=partition)
    assert sorted(record.value for record in tail) == [b"new-0", b"new-1", b"new-2"]


@pytest.mark.parametrize("partitions", [1, 3])
def test_tail_wakes_up_when_another_thread_appends(store: mqlog.Store, partitions: int) -> None:
    stream = store.stream("spread", partitions=partitions)
    tail = stream.tail(timeout=30)
    appender = threading.Thread(target=lambda: stream.append(b"x"))
    appender.start()
    assert next(tail).value == b"x"
    appender.join()


def test_tail_follows_partitions_that_are_added(store: mqlog.Store) -> None:
    clicks = store.stream("clicks")
    tail = clicks.tail(timeout=0)
    store.alter("clicks", partitions=3)
    clicks.append(b"x", partition=2)
    assert [record.id for record in tail] == ["clicks-2:0"]


def test_a_busy_partition_does_not_starve_the_others(spread: mqlog.Stream[bytes, Any]) -> None:
    tail = spread.tail(timeout=0)
    spread.append_many([b"busy"] * 1000, partition=0)
    spread.append(b"quiet", partition=1)
    early = [next(tail).value for _ in range(600)]
    assert b"quiet" in early


@pytest.mark.parametrize("timeout", [-1, float("nan")])
def test_a_timeout_is_seconds_from_0_on(clicks: mqlog.Stream[bytes, Any], timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout is seconds from 0 on"):
        clicks.tail(timeout=timeout)
    with pytest.raises(TypeError, match="timeout is float seconds or None, not str"):
        clicks.tail(timeout="1")  # type: ignore[arg-type]


# durability and trimming


def test_wait_durable_covers_the_record_at_the_offset(clicks: mqlog.Stream[bytes, Any]) -> None:
    offset = clicks.append(b"10")
    clicks.wait_durable(offset, 30)
    assert clicks.durable_offset > offset
    clicks.wait_durable(clicks.end_offset, 30)


def test_a_durable_append_is_durable_on_return(clicks: mqlog.Stream[bytes, Any]) -> None:
    offset = clicks.append(b"10", durable=True)
    assert clicks.durable_offset == offset + 1


def test_sync_makes_everything_durable(store: mqlog.Store, clicks: mqlog.Stream[bytes]) -> None:
    store.sync()
    assert clicks.durable_offset == clicks.end_offset == 10


def test_trim_moves_the_log_start(clicks: mqlog.Stream[bytes, Any]) -> None:
    clicks.trim(4)
    assert (clicks.start_offset, clicks.end_offset) == (4, 10)
    with pytest.raises(mqlog.OffsetOutOfRangeError):
        clicks[3]
    clicks.trim(10)
    assert values(clicks.read()) == []
    with pytest.raises(mqlog.OffsetOutOfRangeError):
        clicks.trim(11)
    with pytest.raises(TypeError, match="before is an int"):
        clicks.trim(4.0)  # type: ignore[arg-type]


# handles


def test_a_closed_stream_raises_and_its_store_goes_on(store: mqlog.Store) -> None:
    clicks = store.stream("clicks")
    clicks.append(b"a")
    other = store.stream("clicks")
    clicks.close()
    clicks.close()
    calls: list[Callable[[], object]] = [
        lambda: clicks.append(b"b"),
        lambda: clicks.append_many([b"b"]),
        clicks.read,
        clicks.tail,
        lambda: clicks.end_offset,
        lambda: clicks.partitions,
        lambda: clicks.consumer("billing"),
        clicks.fileno,
    ]
    for call in calls:
        with pytest.raises(mqlog.ClosedError, match=r"open it again with store\.stream\(\)"):
            call()
    assert "closed" in repr(clicks)
    assert other.append(b"b") == 1


def test_a_stream_is_a_context_manager(store: mqlog.Store) -> None:
    with store.stream("clicks") as clicks:
        clicks.append(b"a")
    with pytest.raises(mqlog.ClosedError):
        clicks.append(b"b")


def test_a_closed_stream_ends_a_tail_that_waits(store: mqlog.Store) -> None:
    clicks = store.stream("clicks")
    tail = clicks.tail()
    ends: list[BaseException] = []

    def wait() -> None:
        try:
            next(tail)
        except BaseException as error:
            ends.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    clicks.close()
    thread.join(10)
    assert [type(error) for error in ends] == [mqlog.ClosedError]


def test_a_stream_pickles_with_its_codec(store: mqlog.Store) -> None:
    orders = store.stream("orders", codec=mqlog.codecs.json)
    orders.append({"order": 17})
    again = pickle.loads(pickle.dumps(orders))
    assert again[0].value == {"order": 17}
    again.close()


def test_a_record_pickles(clicks: mqlog.Stream[bytes, Any]) -> None:
    again = pickle.loads(pickle.dumps(clicks[3]))
    assert (again.id, again.value, again.datetime) == ("clicks-0:3", b"3", clicks[3].datetime)


def test_generic_classes_take_types_at_run_time() -> None:
    for kind in (mqlog.Stream, mqlog.Record, mqlog.Partition, mqlog.Consumer):
        assert "bytes" in repr(kind[bytes])
    assert "str" in repr(mqlog.Stream[bytes, str])
