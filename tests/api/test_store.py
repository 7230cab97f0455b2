"""A store: opened, found, shared, closed, pickled, forked; read-only; Kafka's own directories."""

import gc
import json
import logging
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mqlog


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shop-data"


@pytest.fixture
def store(path: Path) -> Iterator[mqlog.Store]:
    with mqlog.open(path) as store:
        yield store


def python(code: str, *words: object) -> str:
    """What a program prints that runs in an interpreter of its own."""
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.strip()


def in_child(work: Callable[[], object]) -> str:
    """What `work` gives, or raises, in a forked child."""
    end, start = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer = str(work())
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(start, answer.encode())
        os._exit(0)
    os.close(start)
    with os.fdopen(end, "rb") as pipe:
        answer = pipe.read().decode()
    assert os.waitpid(child, 0)[1] == 0
    return answer


# opening


def test_a_store_is_made_at_first_use(path: Path) -> None:
    with mqlog.open(path) as store:
        assert store.topics() == []
    document = json.loads((path / "mqlog.json").read_bytes())
    assert document == {"format": 1, "oldest_writer": 1, "store": {}, "topics": {}, "groups": {}}


def test_what_was_appended_is_there_after_closing_and_opening(path: Path) -> None:
    with mqlog.open(path) as store:
        store.stream("orders").append_many([b"a", b"b"])
    with mqlog.open(path, create=False) as store:
        assert list(store.stream("orders", create=False).values()) == [b"a", b"b"]


def test_a_path_may_be_a_str_or_pathlike_and_is_made_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with mqlog.open("shop-data") as store:
        assert store.path == tmp_path / "shop-data"


def test_an_empty_path_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        mqlog.open("")


def test_another_mode_is_refused(path: Path) -> None:
    with pytest.raises(ValueError, match='"rw" or "r"'):
        mqlog.open(path, "w")  # type: ignore[arg-type]
    assert not path.exists()


def test_without_create_a_missing_store_names_the_nearest(store: mqlog.Store) -> None:
    missing = store.path.with_name("shop-date")
    with pytest.raises(mqlog.NotFoundError, match="did you mean 'shop-data'"):
        mqlog.open(missing, create=False)
    assert not missing.exists()


def test_without_create_a_directory_that_is_no_store_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(mqlog.NotFoundError, match="holds no store"):
        mqlog.open(tmp_path, create=False)
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_a_file_where_a_directory_is_expected_is_named(path: Path) -> None:
    path.write_text("a file")
    for mode in ("rw", "r"):
        with pytest.raises(NotADirectoryError) as caught:
            mqlog.open(path, mode)
        assert caught.value.filename == str(path)
    assert path.read_text() == "a file"


def test_directories_above_a_new_store_are_made(tmp_path: Path) -> None:
    with mqlog.open(tmp_path / "not" / "yet" / "there") as store:
        assert (store.path / "mqlog.json").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_may_not_be_written_is_a_permission_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError):
        mqlog.open(tmp_path / "shop-data")


def test_opening_twice_gives_two_handles_and_the_last_close_closes(store: mqlog.Store) -> None:
    orders = store.stream("orders")
    with mqlog.open(store.path) as second:
        second.stream("orders").append(b"a")
    orders.append(b"b")
    assert list(orders.values()) == [b"a", b"b"]


def test_two_processes_see_each_others_records(store: mqlog.Store) -> None:
    orders = store.stream("orders")
    orders.append(b"from here")
    code = """
        import sys, mqlog
        with mqlog.open(sys.argv[1], create=False) as store:
            orders = store.stream("orders", create=False)
            print(list(orders.values()))
            orders.append(b"from there")
    """
    assert python(code, store.path) == "[b'from here']"
    assert list(orders.values()) == [b"from here", b"from there"]


def test_threads_open_one_new_store_at_once(path: Path) -> None:
    barrier = threading.Barrier(8)
    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            barrier.wait()
            with mqlog.open(path) as store:
                store.stream("orders").append(b"%d" % number)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    with mqlog.open(path) as store:
        assert sorted(store.stream("orders").values()) == [b"%d" % number for number in range(8)]


# topics


def test_topics_tells_what_is_there(store: mqlog.Store) -> None:
    store.stream("orders", partitions=2).append_many([b"a", b"b"], partition=1)
    store.stream("clicks")
    clicks, orders = store.topics()
    assert (clicks.name, clicks.records, orders.name, orders.records) == ("clicks", 0, "orders", 2)
    assert [part.partition for part in orders.partitions] == [0, 1]
    assert [part.records for part in orders.partitions] == [0, 2]
    assert orders.bytes == orders.partitions[1].bytes > 0
    assert orders.partitions[1].segments == 1
    assert orders.segments == sum(part.segments for part in orders.partitions)


def test_in_asks_for_a_topic(store: mqlog.Store) -> None:
    store.stream("orders")
    assert "orders" in store
    assert "order" not in store
    assert "../orders" not in store
    assert 3 not in store


def test_without_create_a_missing_topic_names_the_nearest(store: mqlog.Store) -> None:
    store.stream("orders")
    with pytest.raises(mqlog.NotFoundError, match="did you mean 'orders'"):
        store.stream("order", create=False)
    assert [topic.name for topic in store.topics()] == ["orders"]


def test_a_deleted_topic_is_gone_from_disk_and_from_every_handle(store: mqlog.Store) -> None:
    orders = store.stream("orders", partitions=2)
    orders.append(b"a")
    with mqlog.open(store.path) as other:
        other.delete_topic("orders")
    assert "orders" not in store
    assert not list(store.path.glob("orders*"))
    for call in (orders.read, lambda: orders.append(b"b"), lambda: orders.partitions):
        with pytest.raises(mqlog.TopicDeletedError):
            call()


def test_a_topic_made_again_is_another_one(store: mqlog.Store) -> None:
    old = store.stream("orders")
    old.append(b"a")
    store.delete_topic("orders")
    new = store.stream("orders")
    assert new.append(b"b") == 0
    with pytest.raises(mqlog.TopicDeletedError):
        old.append(b"c")
    assert list(new.values()) == [b"b"]


def test_deleting_what_is_not_there_names_the_nearest(store: mqlog.Store) -> None:
    store.stream("orders")
    with pytest.raises(mqlog.NotFoundError, match="did you mean 'orders'"):
        store.delete_topic("orderz")


def test_a_topic_with_the_longest_name_is_made_and_deleted(store: mqlog.Store) -> None:
    store.stream("a" * 245).append(b"x")
    store.delete_topic("a" * 245)
    assert store.topics() == []


def test_a_deleted_topic_ends_waiting_calls(store: mqlog.Store) -> None:
    waiting = store.stream("orders").tail(mqlog.EARLIEST)
    ends: list[type[BaseException]] = []

    def wait() -> None:
        try:
            next(waiting)
        except BaseException as error:
            ends.append(type(error))

    thread = threading.Thread(target=wait)
    thread.start()
    store.delete_topic("orders")
    thread.join(10)
    assert ends == [mqlog.TopicDeletedError]


# closing


def test_a_closed_store_raises_closed_error_everywhere(path: Path) -> None:
    store = mqlog.open(path)
    orders = store.stream("orders")
    orders.append(b"a")
    first, records = orders.partitions[0], orders.read()
    store.close()
    store.close()
    calls: list[Callable[[], object]] = [
        store.topics,
        store.sync,
        store.refresh,
        store.__enter__,
        lambda: store.stream("orders"),
        lambda: "orders" in store,
        lambda: store.alter("orders", maxsize=1),
        lambda: store.delete_topic("orders"),
        lambda: store.recovered,
        lambda: orders.append(b"b"),
        lambda: orders.append_many([b"b"]),
        orders.read,
        orders.tail,
        lambda: orders[0],
        lambda: orders.end_offset,
        lambda: orders.consumer("billing"),
        orders.fileno,
        lambda: first.start_offset,
        lambda: next(records),
        lambda: mqlog.wait([orders], 0),
    ]
    for call in calls:
        with pytest.raises(mqlog.ClosedError):
            call()
    orders.close()


def test_closing_ends_calls_that_wait(path: Path) -> None:
    store = mqlog.open(path)
    orders, clicks = store.stream("orders"), store.stream("clicks", partitions=2)
    consumer, standby = orders.consumer("billing"), orders.consumer("billing")
    ends: list[str] = []
    waits: list[Callable[[], object]] = [
        lambda: next(orders.tail()),
        lambda: next(clicks.tail()),
        consumer.poll,
        standby.poll,
        lambda: mqlog.wait([orders, clicks]),
    ]

    def run(wait: Callable[[], object]) -> None:
        try:
            wait()
        except BaseException as error:
            ends.append(type(error).__name__)

    threads = [threading.Thread(target=run, args=(wait,)) for wait in waits]
    for thread in threads:
        thread.start()
    store.close()
    for thread in threads:
        thread.join(10)
    assert ends == ["ClosedError"] * 5


def test_a_store_dropped_unclosed_warns_and_is_closed(path: Path) -> None:
    store = mqlog.open(path)
    store.stream("orders").append(b"a")
    with pytest.warns(ResourceWarning, match="unclosed <mqlog.Store"):
        del store
        gc.collect()
    with mqlog.open(path, "r") as again:
        assert list(again.stream("orders").values()) == [b"a"]


def test_an_open_store_is_closed_at_the_end_of_the_interpreter(path: Path) -> None:
    code = """
        import sys, mqlog
        store = mqlog.open(sys.argv[1])
        store.stream("orders").append(b"a" * 1000)
    """
    python(code, path)
    [segment] = path.glob("orders-0/*.log")
    assert segment.stat().st_size < 1100  # exact, not the pages that were prepared


def test_repr_names_the_path_and_does_no_io(path: Path) -> None:
    store = mqlog.open(path)
    stream = store.stream("orders")
    shutil.rmtree(path)
    assert repr(store) == f"<mqlog.Store {str(path)!r}>"
    assert repr(stream) == f"<mqlog.Stream 'orders' of {str(path)!r}>"
    with pytest.raises((OSError, mqlog.Error)):
        store.close()
    assert repr(store) == f"<mqlog.Store {str(path)!r} closed>"


# pickles and forks


def test_a_store_pickles_as_its_path(store: mqlog.Store) -> None:
    store.stream("orders").append(b"a")
    again = pickle.loads(pickle.dumps(store))
    assert again.path == store.path
    assert list(again.stream("orders").values()) == [b"a"]
    again.close()


def test_a_store_that_came_by_pickle_is_dropped_without_a_warning(store: mqlog.Store) -> None:
    pickle.loads(pickle.dumps(store))
    gc.collect()


def test_a_pickled_store_is_not_made_where_it_arrives(path: Path) -> None:
    with mqlog.open(path) as store:
        data = pickle.dumps(store)
    shutil.rmtree(path)
    with pytest.raises(mqlog.NotFoundError):
        pickle.loads(data)
    assert not path.exists()


def test_a_pickled_stream_is_not_another_topic_of_that_name(store: mqlog.Store) -> None:
    data = pickle.dumps(store.stream("orders"))
    store.delete_topic("orders")
    store.stream("orders")
    with pytest.raises(mqlog.TopicDeletedError, match="and made again"):
        pickle.loads(data)


def append_there(stream: "mqlog.Stream[bytes]") -> None:
    stream.append(b"from there")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_a_stream_goes_to_another_process(store: mqlog.Store, method: str) -> None:
    orders = store.stream("orders")
    context: Any = multiprocessing.get_context(method)
    process = context.Process(target=append_there, args=(orders,))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert list(orders.values()) == [b"from there"]


def test_handles_open_themselves_again_in_a_forked_child(store: mqlog.Store) -> None:
    orders = store.stream("orders")
    orders.append(b"parent")

    def work() -> object:
        orders.append(b"child")
        found = list(orders.values()), [topic.name for topic in store.topics()]
        store.close()
        return found

    assert in_child(work) == "([b'parent', b'child'], ['orders'])"
    orders.append(b"parent again")
    assert list(orders.values()) == [b"parent", b"child", b"parent again"]


def test_iterators_of_the_parent_are_refused_in_a_forked_child(store: mqlog.Store) -> None:
    orders = store.stream("orders")
    orders.append(b"a")
    records, tail = orders.read(), orders.tail()
    assert in_child(lambda: next(records)).startswith("ForkedError")
    assert in_child(lambda: next(tail)).startswith("ForkedError")
    assert next(records).value == b"a"


def test_a_forked_child_that_uses_nothing_takes_nothing_away(store: mqlog.Store) -> None:
    orders = store.stream("orders")
    assert in_child(gc.collect).isdecimal()
    assert orders.append(b"a") == 0


def test_a_store_closed_before_the_fork_stays_closed(path: Path) -> None:
    store = mqlog.open(path)
    store.close()
    assert in_child(store.topics).startswith("ClosedError")


def test_a_fork_while_other_threads_append_harms_nobody(store: mqlog.Store) -> None:
    orders = store.stream("orders")
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            orders.append(b"thread")

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            assert in_child(lambda: orders.append(b"child") >= 0) == "True"
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert list(orders.values()).count(b"child") == 5


# in memory


def test_a_temporary_store_is_gone_when_it_is_closed() -> None:
    with mqlog.temporary() as store:
        store.stream("orders").append(b"a")
        path = store.path
        assert path.exists()
    assert not path.exists()


def test_a_temporary_store_is_gone_at_the_end_of_the_interpreter() -> None:
    path = python("import mqlog; store = mqlog.temporary(); print(store.path)")
    assert path
    assert not os.path.exists(path)


def test_a_temporary_store_survives_the_end_of_a_forked_child() -> None:
    with mqlog.temporary() as store:
        orders = store.stream("orders")

        def work() -> None:
            orders.append(b"child")
            store.close()

        assert in_child(work) == "None"
        assert list(orders.values()) == [b"child"]


def test_a_temporary_store_takes_its_timestamps_from_the_clock() -> None:
    now = [1000.5]
    with mqlog.temporary(clock=lambda: now[0]) as store:
        orders = store.stream("orders")
        orders.append(b"a")
        now[0] = 2000.25
        orders.append_many([b"b", b"c"])
        orders.append(b"d", timestamp=3.0)
        assert [record.timestamp for record in orders] == [1000.5, 2000.25, 2000.25, 3.0]


# recovery


KILLED = """
    import os, signal, sys, mqlog
    store = mqlog.open(sys.argv[1])
    orders = store.stream("orders")
    orders.append(b"acknowledged")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_was_told_is_there(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), path], check=False, timeout=60
    )
    assert done.returncode == -signal.SIGKILL
    with mqlog.open(path) as store:
        assert list(store.stream("orders").values()) == [b"acknowledged"]
        assert store.recovered == []


def test_what_recovery_cut_is_told_and_logged(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with mqlog.open(path) as store:
        store.stream("orders").append(b"a")
    [segment] = path.glob("orders-0/*.log")
    with segment.open("ab") as file:
        file.write(b"torn" * 10)
    for volatile in ("control", "checkpoint"):
        (path / "orders-0" / volatile).unlink()
    with caplog.at_level(logging.WARNING, "mqlog"), mqlog.open(path) as store:
        assert list(store.stream("orders").values()) == [b"a"]
        [cut] = store.recovered
        store.stream("orders")
    assert (cut.topic, cut.partition, cut.rule, cut.bytes) == ("orders", 0, "R3", 40)
    assert caplog.text.count(str(cut)) == 1


# read-only


def snapshot(path: Path) -> dict[str, tuple[int, int]]:
    files = (file for file in path.rglob("*") if file.is_file())
    return {str(file): (file.stat().st_size, file.stat().st_mtime_ns) for file in files}


def test_read_only_reads_everything_and_writes_nothing(path: Path) -> None:
    with mqlog.open(path) as store:
        orders = store.stream("orders", partitions=2)
        orders.append_many([b"a", b"b"], partition=0)
        orders.append(b"c", partition=1)
        with orders.consumer("billing") as consumer:
            consumer.poll()
            consumer.commit()
    before = snapshot(path)
    with mqlog.open(path, "r") as store:
        orders = store.stream("orders", create=False)
        assert list(orders.values()) == [b"a", b"b", b"c"]
        assert orders.partitions[0][1].value == b"b"
        assert [topic.records for topic in store.topics()] == [3]
        [group] = store.groups("orders")
        assert sum(group.committed.values()) + group.lag == 3
        assert repr(store) == f"<mqlog.Store {str(path)!r} read-only>"
    assert snapshot(path) == before


def test_read_only_shows_a_topic_that_is_being_made_as_empty(path: Path) -> None:
    with mqlog.open(path) as store:
        store.stream("orders", partitions=2)
    shutil.rmtree(path / "orders-1")
    with mqlog.open(path, "r") as store:
        assert [part.end_offset for part in store.topics()[0].partitions] == [0, 0]


def test_read_only_refuses_what_writes_commits_or_waits(store: mqlog.Store) -> None:
    store.stream("orders").append(b"a")
    with mqlog.open(store.path, "r") as view:
        orders = view.stream("orders")
        calls: list[Callable[[], object]] = [
            view.sync,
            lambda: view.alter("orders", maxsize=1),
            lambda: view.delete_topic("orders"),
            lambda: view.delete_group("orders", "billing"),
            lambda: orders.append(b"b"),
            lambda: orders.append_many([b"b"]),
            lambda: orders.consumer("billing"),
            orders.tail,
            lambda: orders.trim(0),
            lambda: orders.wait_durable(0),
            orders.fileno,
            lambda: mqlog.wait([orders], 0),
        ]
        for call in calls:
            with pytest.raises(mqlog.ReadOnlyError):
                call()
    assert list(store.stream("orders").values()) == [b"a"]


def test_read_only_makes_neither_stores_nor_topics(store: mqlog.Store) -> None:
    missing = store.path.with_name("missing")
    with pytest.raises(mqlog.NotFoundError):
        mqlog.open(missing, "r")
    assert not missing.exists()
    with mqlog.open(store.path, "r") as view, pytest.raises(mqlog.NotFoundError):
        view.stream("orders")
    assert store.topics() == []


def test_read_only_is_a_snapshot_until_refresh(store: mqlog.Store) -> None:
    orders = store.stream("orders")
    orders.append(b"a")
    with mqlog.open(store.path, "r") as view:
        seen = view.stream("orders")
        assert list(seen.values()) == [b"a"]
        orders.append(b"b")
        assert view.topics()[0].records == 1
        assert list(view.stream("orders").values()) == [b"a"]
        view.refresh()
        assert list(seen.values()) == [b"a", b"b"]


def test_refresh_sees_new_topics_and_those_that_went(store: mqlog.Store) -> None:
    store.stream("orders").append(b"a")
    with mqlog.open(store.path, "r") as view:
        orders = view.stream("orders")
        store.delete_topic("orders")
        store.stream("clicks")
        assert "clicks" not in view
        view.refresh()
        assert "clicks" in view
        with pytest.raises(mqlog.TopicDeletedError):
            orders.read()


def test_refresh_changes_nothing_in_a_store_that_writes(store: mqlog.Store) -> None:
    records = store.stream("orders").read()
    store.refresh()
    assert list(records) == []


# Kafka's directories


def kafka_directory(path: Path, topic: str = "clicks", partitions: int = 2) -> None:
    """What Kafka leaves: partition directories with segments, and nothing of mqlog's."""
    with mqlog.temporary() as maker:
        stream = maker.stream(topic, partitions=partitions)
        for partition in range(partitions):
            stream.append_many([b"%d" % partition, b"x"], partition=partition)
        maker.sync()
        path.mkdir(exist_ok=True)
        for partition in range(partitions):
            source = maker.path / f"{topic}-{partition}" / f"{0:020d}.log"
            facts = maker.topics()[0].partitions[partition]
            directory = path / f"{topic}-{partition}"
            directory.mkdir()
            (directory / source.name).write_bytes(source.read_bytes()[: facts.bytes])


@pytest.mark.parametrize("mode", ["r", "rw"])
def test_kafkas_partition_directories_are_topics(path: Path, mode: str) -> None:
    kafka_directory(path)
    with mqlog.open(path, mode) as store:  # type: ignore[arg-type]
        [topic] = store.topics()
        assert (topic.name, len(topic.partitions), topic.id) == ("clicks", 2, None)
        assert topic.options["cleanup_policy"] == "keep"
        assert list(store.stream("clicks").values()) == [b"0", b"x", b"1", b"x"]


def test_kafkas_partition_directories_are_appended_to(path: Path) -> None:
    kafka_directory(path)
    with mqlog.open(path) as store:
        assert store.stream("clicks").append(b"new", partition=1) == 2
        store.alter("clicks", partitions=3)
        assert len(store.stream("clicks").partitions) == 3
    with mqlog.open(path, "r") as store:
        assert list(store.stream("clicks").values()) == [b"0", b"x", b"1", b"x", b"new"]


def test_kafkas_topics_are_deleted_too(path: Path) -> None:
    kafka_directory(path)
    with mqlog.open(path) as store:
        store.delete_topic("clicks")
        assert store.topics() == []
    assert not list(path.glob("clicks*"))


def test_one_partition_of_several_is_named_and_left_alone(path: Path) -> None:
    kafka_directory(path)
    shutil.rmtree(path / "clicks-0")
    with mqlog.open(path) as store:
        assert store.topics() == []
        with pytest.raises(mqlog.FormatError, match=r"partitions 1 of topic 'clicks'.*clicks-1"):
            store.stream("clicks")


@pytest.mark.parametrize("name", ["logs-2026", "clicks-00", "-0", "a b-0", "clicks-0.aa-delete"])
def test_other_directories_are_nobodys_topics(path: Path, name: str) -> None:
    kafka_directory(path)
    (path / name).mkdir()
    (path / name / "app.log").write_text("hello")
    with mqlog.open(path) as store:
        assert [topic.name for topic in store.topics()] == ["clicks"]
