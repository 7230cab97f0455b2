"""Consumers: partitions are divided, each has one reader, what is not committed comes again."""

import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import mqlog
from mqlog import EARLIEST, LATEST, Consumer, _consumer

DAY = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def store() -> Iterator[mqlog.Store]:
    with mqlog.temporary() as store:
        yield store


@pytest.fixture(autouse=True)
def always_balanced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every poll looks at the group, so that no test depends on the time."""
    monkeypatch.setattr(_consumer, "_BALANCE", 0.0)


@pytest.fixture
def clicks(store: mqlog.Store) -> mqlog.Stream[bytes, Any]:
    """Ten records, one a minute."""
    stream = store.stream("clicks")
    stream.append_many(
        [b"%d" % n for n in range(10)],
        timestamps=[DAY + timedelta(minutes=n) for n in range(10)],
    )
    return stream


@pytest.fixture
def spread(store: mqlog.Store) -> mqlog.Stream[bytes, Any]:
    """Four partitions of three records each."""
    stream = store.stream("spread", partitions=4)
    for partition in range(4):
        values = [b"%d-%d" % (partition, n) for n in range(3)]
        stream.append_many(values, partition=partition)
    return stream


def offsets(records: list[mqlog.Record[Any]]) -> list[int]:
    return [record.offset for record in records]


def settle(*consumers: Consumer[Any]) -> None:
    """Lets everybody give up, and then claim, what the division says."""
    for _ in range(2):
        for consumer in consumers:
            consumer.poll(1, timeout=0)


def drain(consumer: Consumer[Any]) -> list[str]:
    found: list[str] = []
    while records := consumer.poll(timeout=0):
        found += [record.id for record in records]
    return found


# the loop, and what it commits


def test_the_loop_commits_a_record_when_it_comes_back_for_the_next(
    clicks: mqlog.Stream[bytes, Any],
) -> None:
    with clicks.consumer("billing") as consumer:
        for record in consumer:
            assert consumer.committed == {0: record.offset}
            assert consumer.position == {0: record.offset + 1}
            if record.offset == 4:
                break
        assert consumer.committed == {0: 4}


def test_break_leaves_the_last_record_for_the_next_consumer(
    clicks: mqlog.Stream[bytes, Any],
) -> None:
    with clicks.consumer("billing") as consumer:
        for record in consumer:
            if record.offset == 4:
                break
    with clicks.consumer("billing") as consumer:
        assert next(consumer.records(0)).offset == 4


def test_an_exception_leaves_the_last_record_too(clicks: mqlog.Stream[bytes, Any]) -> None:
    with pytest.raises(ZeroDivisionError), clicks.consumer("billing") as consumer:
        for record in consumer:
            1 // (3 - record.offset)
    assert clicks.consumer("billing").committed == {0: 3}


def test_the_loop_ends_quietly_after_the_timeout_with_all_committed(
    clicks: mqlog.Stream[bytes, Any],
) -> None:
    with clicks.consumer("billing") as consumer:
        records = consumer.records(timeout=0)
        assert [record.offset for record in records] == list(range(10))
        assert (consumer.committed, consumer.position, consumer.lag) == ({0: 10}, {0: 10}, 0)
        clicks.append(b"10")
        assert list(records) == []
        assert [record.offset for record in consumer.records(0)] == [10]


def test_a_second_loop_goes_on_where_the_first_stopped(clicks: mqlog.Stream[bytes, Any]) -> None:
    with clicks.consumer("billing") as consumer:
        assert [next(consumer.records()).offset for _ in range(3)] == [0, 1, 2]


def test_manual_means_that_the_loop_commits_nothing(clicks: mqlog.Stream[bytes, Any]) -> None:
    with clicks.consumer("billing", commit="manual") as consumer:
        assert len(list(consumer.records(0))) == 10
        assert consumer.committed == {0: 0}
        consumer.commit()
        assert consumer.committed == {0: 10}
    with pytest.raises(ValueError, match='"auto" or "manual"'):
        clicks.consumer("billing", commit="sometimes")  # type: ignore[arg-type]


# poll and commit


def test_poll_commits_nothing(clicks: mqlog.Stream[bytes, Any]) -> None:
    with clicks.consumer("billing") as consumer:
        assert offsets(consumer.poll(4)) == [0, 1, 2, 3]
        assert (consumer.position, consumer.committed, consumer.lag) == ({0: 4}, {0: 0}, 6)
        assert offsets(consumer.poll()) == [4, 5, 6, 7, 8, 9]
        assert consumer.poll(timeout=0) == []
    with clicks.consumer("billing") as consumer:
        assert offsets(consumer.poll(1)) == [0]


def test_commit_covers_all_that_was_given_out(clicks: mqlog.Stream[bytes, Any]) -> None:
    with clicks.consumer("billing") as consumer:
        consumer.poll(4)
        consumer.commit()
        consumer.poll(2)
    with clicks.consumer("billing") as consumer:
        assert offsets(consumer.poll()) == [4, 5, 6, 7, 8, 9]


def test_commit_upto_a_record_covers_it(clicks: mqlog.Stream[bytes, Any]) -> None:
    with clicks.consumer("billing") as consumer:
        records = consumer.poll()
        consumer.commit(records[6], durable=True)
        assert consumer.committed == {0: 7}


def test_commit_upto_a_record_leaves_other_partitions(spread: mqlog.Stream[bytes, Any]) -> None:
    with spread.consumer("billing") as consumer:
        drain(consumer)
        consumer.commit(spread.partitions[2][1])
        assert consumer.committed == {0: 0, 1: 0, 2: 2, 3: 0}
        consumer.commit()
        assert consumer.committed == {0: 3, 1: 3, 2: 3, 3: 3}


def test_commit_takes_a_record_of_this_topic(
    clicks: mqlog.Stream[bytes, Any], spread: mqlog.Stream[bytes, Any]
) -> None:
    with clicks.consumer("billing") as consumer:
        with pytest.raises(ValueError, match="spread-1:0 is not of topic 'clicks'"):
            consumer.commit(spread.partitions[1][0])
        with pytest.raises(TypeError, match="takes a record or nothing, not int"):
            consumer.commit(3)  # type: ignore[arg-type]


def test_commit_of_a_partition_that_went_is_a_lost_lock(spread: mqlog.Stream[bytes, Any]) -> None:
    first = spread.consumer("billing")
    record = spread.partitions[1][0]
    second = spread.consumer("billing")
    settle(first, second)
    with pytest.raises(mqlog.LockLostError, match="partition 1 is not this consumer's any more"):
        first.commit(record)
    second.commit(record)


@pytest.mark.parametrize("count", [0, -1])
def test_poll_gives_at_least_one_record(clicks: mqlog.Stream[bytes, Any], count: int) -> None:
    with clicks.consumer("billing") as consumer:
        with pytest.raises(ValueError, match="at least 1"):
            consumer.poll(count)
        with pytest.raises(TypeError, match="max_records is an int, not bool"):
            consumer.poll(True)


def test_poll_wakes_up_when_another_thread_appends(store: mqlog.Store) -> None:
    for partitions in (1, 3):
        stream = store.stream(f"late-{partitions}", partitions=partitions)
        with stream.consumer("billing") as consumer:
            thread = threading.Thread(target=stream.append, args=(b"x",))
            thread.start()
            assert [record.value for record in consumer.poll(timeout=30)] == [b"x"]
            thread.join()


# where a group starts


STARTS: list[tuple[Any, int]] = [
    (EARLIEST, 0),
    (LATEST, 10),
    (4, 4),
    (DAY + timedelta(minutes=7), 7),
]


@pytest.mark.parametrize(("start", "first"), STARTS)
def test_a_new_group_begins_at_start(
    clicks: mqlog.Stream[bytes, Any], start: Any, first: int
) -> None:
    with clicks.consumer("billing", start=start) as consumer:
        assert (consumer.position, consumer.committed) == ({0: first}, {0: first})
        assert offsets(consumer.poll(timeout=0)) == list(range(first, 10))


def test_a_group_that_is_there_goes_on_where_it_committed(
    clicks: mqlog.Stream[bytes, Any],
) -> None:
    with clicks.consumer("billing", start=4):
        pass
    with clicks.consumer("billing", start=LATEST) as consumer:
        assert offsets(consumer.poll(1)) == [4]


def test_a_successor_of_a_new_group_misses_nothing(clicks: mqlog.Stream[bytes, Any]) -> None:
    with clicks.consumer("billing", start=LATEST):
        clicks.append(b"10")
    with clicks.consumer("billing", start=LATEST) as consumer:
        assert offsets(consumer.poll(timeout=0)) == [10]


def test_a_start_that_is_not_there_makes_no_consumer(clicks: mqlog.Stream[bytes, Any]) -> None:
    with pytest.raises(mqlog.OffsetOutOfRangeError, match="up to and without 10"):
        clicks.consumer("billing", start=11)
    with clicks.consumer("billing") as consumer:
        assert offsets(consumer.poll(1)) == [0]


def test_an_offset_is_a_start_for_one_partition_only(spread: mqlog.Stream[bytes, Any]) -> None:
    with pytest.raises(ValueError, match="each of the 4 partitions has offsets of its own"):
        spread.consumer("billing", start=1)
    with spread.consumer("billing", start=1, partitions=[2]) as consumer:
        assert drain(consumer) == ["spread-2:1", "spread-2:2"]


# seek


def test_seek_moves_the_consumer_and_commits_nothing(clicks: mqlog.Stream[bytes, Any]) -> None:
    with clicks.consumer("billing") as consumer:
        consumer.poll(5)
        consumer.commit()
        consumer.seek(1)
        assert (consumer.position, consumer.committed) == ({0: 1}, {0: 5})
        assert offsets(consumer.poll(1)) == [1]
        consumer.seek(LATEST)
        assert consumer.poll(timeout=0) == []
        consumer.seek(DAY + timedelta(minutes=8))
        assert offsets(consumer.poll()) == [8, 9]


def test_seek_forgets_what_the_loop_had_read_ahead(clicks: mqlog.Stream[bytes, Any]) -> None:
    with clicks.consumer("billing") as consumer:
        records = consumer.records(0)
        assert next(records).offset == 0
        consumer.seek(7)
        assert [record.offset for record in records] == [7, 8, 9]


def test_a_seek_outside_the_log_names_the_range_and_moves_nothing(
    clicks: mqlog.Stream[bytes, Any],
) -> None:
    with clicks.consumer("billing") as consumer:
        consumer.poll(5)
        with pytest.raises(mqlog.OffsetOutOfRangeError, match="from 0 on, up to and without 10"):
            consumer.seek(11)
        assert consumer.position == {0: 5}


def test_seek_takes_a_partition_of_its_own(spread: mqlog.Stream[bytes, Any]) -> None:
    with spread.consumer("billing", partitions=[1, 2]) as consumer:
        consumer.seek(2, partition=1)
        assert consumer.position == {1: 2, 2: 0}
        with pytest.raises(ValueError, match=r"say which partition of \[1, 2\]"):
            consumer.seek(2)
        with pytest.raises(
            ValueError, match=r"partition 3 is not this consumer's; it has \[1, 2\]"
        ):
            consumer.seek(2, partition=3)
        consumer.seek(LATEST)
        assert consumer.position == {1: 3, 2: 3}


def test_a_group_that_retention_has_passed_is_told_the_range_until_it_seeks(
    clicks: mqlog.Stream[bytes, Any],
) -> None:
    with clicks.consumer("billing") as consumer:
        consumer.poll(2)
        consumer.commit()
    clicks.trim(6)
    with clicks.consumer("billing") as consumer:
        for _ in range(2):
            with pytest.raises(mqlog.OffsetOutOfRangeError) as caught:
                consumer.poll(timeout=0)
            assert (caught.value.start, caught.value.stop) == (6, 10)
        assert consumer.lag == 4, "what was trimmed cannot be read"
        consumer.seek(EARLIEST)
        assert offsets(consumer.poll()) == [6, 7, 8, 9]


def test_damage_is_raised_once_and_a_commit_goes_behind_it(store: mqlog.Store) -> None:
    clicks = store.stream("clicks")
    for n in range(3):
        clicks.append(b"value-%d" % n)
    store.sync()
    [segment] = (store.path / "clicks-0").glob("*.log")
    with segment.open("r+b") as file:
        place = file.read().find(b"value-1")
        file.seek(place)
        file.write(b"V")
    with clicks.consumer("billing") as consumer:
        assert offsets(consumer.poll()) == [0]
        with pytest.raises(mqlog.CorruptError):
            consumer.poll()
        consumer.commit()
        assert consumer.committed == {0: 2}
        assert offsets(consumer.poll()) == [2]


# several consumers


def test_partitions_are_divided_among_the_consumers(spread: mqlog.Stream[bytes, Any]) -> None:
    first = spread.consumer("billing")
    assert set(first.position) == {0, 1, 2, 3}
    second = spread.consumer("billing")
    assert set(second.position) == set()
    settle(first, second)
    assert (set(first.position), set(second.position)) == ({0, 2}, {1, 3})
    third = spread.consumer("billing")
    settle(first, second, third)
    assert [set(c.position) for c in (first, second, third)] == [{0, 3}, {1}, {2}]
    second.close()
    settle(first, third)
    assert [set(c.position) for c in (first, third)] == [{0, 2}, {1, 3}]


def test_partitions_change_hands_inside_poll_only(spread: mqlog.Stream[bytes, Any]) -> None:
    first = spread.consumer("billing")
    second = spread.consumer("billing")
    second.poll(timeout=0)
    first.commit()
    assert set(first.position) == {0, 1, 2, 3}
    assert second.poll(timeout=0) == []


def test_every_record_goes_to_one_consumer_of_each_group(
    spread: mqlog.Stream[bytes, Any],
) -> None:
    every = sorted(record.id for record in spread)
    for group in ("billing", "audit"):
        first, second = spread.consumer(group), spread.consumer(group)
        first.poll(1, timeout=0)
        first.seek(EARLIEST)
        second.poll(1, timeout=0)
        if second.position:
            second.seek(EARLIEST)
        assert sorted(drain(first) + drain(second)) == every


def test_what_the_loop_has_finished_is_committed_before_a_partition_goes(
    spread: mqlog.Stream[bytes, Any],
) -> None:
    first = spread.consumer("billing")
    seen = [record.id for record in first.records(0)]
    assert len(seen) == 12
    second = spread.consumer("billing")
    settle(first, second)
    assert drain(second) == []
    assert second.committed == {1: 3, 3: 3}


def test_what_was_read_ahead_of_a_partition_that_went_is_not_given_out(
    spread: mqlog.Stream[bytes, Any],
) -> None:
    first = spread.consumer("billing")
    loop = first.records(0)
    given = [next(loop).id]
    second = spread.consumer("billing")
    given += [record.id for record in loop]
    taken = drain(second)
    given += [record.id for record in first.records(0)]
    assert sorted(given + taken) == sorted(record.id for record in spread)


def test_a_consumer_too_many_waits_and_takes_over(clicks: mqlog.Stream[bytes, Any]) -> None:
    first, spare = clicks.consumer("billing"), clicks.consumer("billing")
    first.poll(1)
    assert (spare.poll(timeout=0), spare.position, spare.lag) == ([], {}, 0)
    first.commit()
    first.close()
    assert offsets(spare.poll(timeout=0)) == list(range(1, 10))


def test_explicit_partitions_are_those_and_no_others(spread: mqlog.Stream[bytes, Any]) -> None:
    with (
        spread.consumer("billing", partitions=[3, 1]) as first,
        spread.consumer("billing", partitions=[1, 0]) as second,
    ):
        settle(first, second)
        assert (set(first.position), set(second.position)) == ({1, 3}, {0})
        first.close()
        second.poll(1, timeout=0)
        assert set(second.position) == {0, 1}


@pytest.mark.parametrize(
    ("partitions", "kind"), [([4], ValueError), ([], ValueError), ([0, 0], ValueError)]
)
def test_explicit_partitions_are_there_and_each_once(
    spread: mqlog.Stream[bytes, Any], partitions: list[int], kind: type[Exception]
) -> None:
    with pytest.raises(kind, match="partition"):
        spread.consumer("billing", partitions=partitions)
    with pytest.raises(TypeError, match="a partition is an int, not bool"):
        spread.consumer("billing", partitions=[True])


def test_on_assign_is_told_inside_poll_when_partitions_changed(
    spread: mqlog.Stream[bytes, Any],
) -> None:
    told: list[list[int]] = []
    first = spread.consumer("billing", on_assign=lambda consumer, mine: told.append(list(mine)))
    assert told == []
    first.poll(1)
    first.poll(1)
    assert told == [[0, 1, 2, 3]]
    second = spread.consumer("billing")
    assert told == [[0, 1, 2, 3]]
    first.poll(1)
    assert told == [[0, 1, 2, 3], [0, 2]]
    second.close()
    first.poll(1)
    assert told == [[0, 1, 2, 3], [0, 2], [0, 1, 2, 3]]


def test_on_assign_may_seek(spread: mqlog.Stream[bytes, Any]) -> None:
    def to_the_end(consumer: Consumer[Any], mine: object) -> None:
        consumer.seek(LATEST)

    with spread.consumer("billing", on_assign=to_the_end) as consumer:
        assert consumer.poll(timeout=0) == []


def test_what_on_assign_raises_comes_out_of_poll(spread: mqlog.Stream[bytes, Any]) -> None:
    def fail(consumer: Consumer[Any], mine: object) -> None:
        raise ZeroDivisionError

    with spread.consumer("billing", on_assign=fail) as consumer:
        with pytest.raises(ZeroDivisionError):
            consumer.poll()
        assert len(drain(consumer)) == 12


def test_partitions_that_are_added_are_divided_too(clicks: mqlog.Stream[bytes, Any]) -> None:
    with clicks.consumer("billing") as consumer:
        drain(consumer)
        clicks._store.alter("clicks", partitions=3)
        clicks.append(b"new", partition=2)
        assert drain(consumer) == ["clicks-2:0"]
        assert set(consumer.position) == {0, 1, 2}


def test_threads_share_the_work_and_lose_nothing(store: mqlog.Store) -> None:
    stream = store.stream("work", partitions=4)
    lock = threading.Lock()
    seen: list[str] = []
    done = threading.Event()

    def work() -> None:
        with stream.consumer("billing") as consumer:
            while not done.is_set():
                for record in consumer.records(0.01):
                    with lock:
                        seen.append(record.id)
                        if len(set(seen)) == 400:
                            done.set()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for n in range(400):
        stream.append(b"%d" % n, partition=n % 4)
    for thread in threads:
        thread.join(60)
    assert len(set(seen)) == 400


OWNER = """
    import sys, mqlog
    store = mqlog.open(sys.argv[1], create=False)
    consumer = store.stream("clicks", create=False).consumer("billing")
    consumer.poll(3)
    consumer.commit()
    consumer.poll(2)
    print("mine", flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_a_standby_goes_on_from_the_commit_of_an_owner_that_was_killed(
    store: mqlog.Store, clicks: mqlog.Stream[bytes, Any]
) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(OWNER), store.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"mine\n"
        with clicks.consumer("billing") as standby:
            assert standby.poll(timeout=0) == []
            owner.send_signal(signal.SIGKILL)
            assert offsets(standby.poll(timeout=30)) == list(range(3, 10))


# handles


def test_a_closed_consumer_raises_and_its_group_is_left(clicks: mqlog.Stream[bytes, Any]) -> None:
    consumer = clicks.consumer("billing")
    loop = consumer.records()
    next(loop)
    consumer.close()
    consumer.close()
    calls: list[Callable[[], object]] = [
        consumer.poll,
        consumer.commit,
        lambda: consumer.seek(0),
        lambda: next(loop),
        lambda: consumer.position,
        lambda: consumer.committed,
        lambda: consumer.lag,
        consumer.fileno,
        consumer.__enter__,
        lambda: mqlog.wait([consumer], 0),
    ]
    for call in calls:
        with pytest.raises(mqlog.ClosedError):
            call()
    [group] = clicks._store.groups("clicks")
    assert (group.members, dict(group.owners), dict(group.committed)) == ((), {}, {0: 0})
    assert "closed" in repr(consumer)


def test_a_consumer_that_is_dropped_leaves_its_group(clicks: mqlog.Stream[bytes, Any]) -> None:
    clicks.consumer("billing").poll(1)
    assert clicks._store.groups("clicks")[0].members == ()


def test_closing_a_store_leaves_its_groups_while_another_handle_is_open(
    store: mqlog.Store, clicks: mqlog.Stream[bytes, Any]
) -> None:
    with mqlog.open(store.path) as other:
        consumer = other.stream("clicks").consumer("billing")
        consumer.poll(1)
    assert store.groups("clicks")[0].members == ()


def test_a_consumer_serves_one_thread_at_a_time(clicks: mqlog.Stream[bytes, Any]) -> None:
    consumer = clicks.consumer("billing")
    failed: list[BaseException] = []

    def work() -> None:
        for call in (consumer.poll, consumer.commit, lambda: consumer.seek(0)):
            try:
                call()
            except BaseException as error:
                failed.append(error)

    with consumer._mine():
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert [type(error) for error in failed] == [RuntimeError] * 3
    assert "one thread at a time" in str(failed[0])


def test_a_consumer_pickles_as_its_stream_group_and_options(
    clicks: mqlog.Stream[bytes, Any],
) -> None:
    with clicks.consumer("billing", start=4, commit="manual") as consumer:
        data = pickle.dumps(consumer)
    again = pickle.loads(data)
    assert (again.group, again.position) == ("billing", {0: 4})
    assert [record.offset for record in again.records(0)] == list(range(4, 10))
    assert again.committed == {0: 4}
    again.close()


def test_the_iterator_of_a_consumer_does_not_pickle(clicks: mqlog.Stream[bytes, Any]) -> None:
    with (
        clicks.consumer("billing") as consumer,
        pytest.raises(TypeError, match="cannot be pickled"),
    ):
        pickle.dumps(consumer.records())


def test_a_forked_child_is_another_member(clicks: mqlog.Stream[bytes, Any]) -> None:
    consumer = clicks.consumer("billing")
    consumer.poll(3)
    end, start = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer = f"{consumer.poll(timeout=0)} {dict(consumer.position)}"
        except BaseException as error:
            answer = repr(error)
        os.write(start, answer.encode())
        os._exit(0)
    os.close(start)
    with os.fdopen(end, "rb") as pipe:
        assert pipe.read() == b"[] {}"
    os.waitpid(child, 0)
    consumer.commit()
    settle(consumer)
    assert consumer.committed == {0: 3}


def test_a_read_only_store_has_no_consumers(
    store: mqlog.Store, clicks: mqlog.Stream[bytes, Any]
) -> None:
    with (
        mqlog.open(store.path, "r") as view,
        pytest.raises(mqlog.ReadOnlyError, match=r'consumer\(\).*mode="r"'),
    ):
        view.stream("clicks").consumer("billing")


def test_a_deleted_topic_ends_its_consumers(
    store: mqlog.Store, clicks: mqlog.Stream[bytes, Any]
) -> None:
    consumer = clicks.consumer("billing")
    store.delete_topic("clicks")
    with pytest.raises(mqlog.TopicDeletedError):
        consumer.poll(timeout=0)
    consumer.close()


def test_repr_names_group_topic_and_path(clicks: mqlog.Stream[bytes, Any]) -> None:
    with clicks.consumer("billing") as consumer:
        path = str(clicks._store.path)
        assert repr(consumer) == f"<mqlog.Consumer of group 'billing', 'clicks' of {path!r}>"
