"""What a store tells of itself and its topics: options, facts, and what is damaged."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import mqlog

SEGMENT = "00000000000000000000.log"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shop-data"


@pytest.fixture
def store(path: Path) -> Iterator[mqlog.Store]:
    with mqlog.open(path) as store:
        yield store


# -- options ---------------------------------------------------------------------------------------


def test_options_are_what_alter_changes(store: mqlog.Store) -> None:
    store.stream("orders", partitions=2, compression="lz4", codec=mqlog.codecs.json)
    options = store.options("orders")
    assert options["partitions"] == 2
    assert options["compression"] == "lz4"
    assert options["codec"] == "json"
    assert options["retention_age"] is None
    store.alter("orders", **{name: value for name, value in options.items() if name != "codec"})
    store.alter("orders", codec=options["codec"], partitions=3)
    assert store.options("orders") == {**options, "partitions": 3}


def test_options_without_a_topic_are_those_of_the_store(store: mqlog.Store) -> None:
    assert store.options() == {"max_bytes": 0, "min_free_bytes": None}
    store.alter(None, max_bytes=1 << 30)
    assert store.options()["max_bytes"] == 1 << 30


def test_options_are_read_only_and_stay_what_they_were(store: mqlog.Store) -> None:
    store.stream("orders")
    options = store.options("orders")
    with pytest.raises(TypeError):
        options["partitions"] = 2  # type: ignore[index]
    store.alter("orders", partitions=2)
    assert options["partitions"] == 1


def test_options_open_no_partition(store: mqlog.Store, path: Path) -> None:
    store.stream("orders")
    store.close()
    shutil.rmtree(path / "orders-0")
    with mqlog.open(path) as again:
        assert again.options("orders")["partitions"] == 1
    assert not (path / "orders-0").exists()


# -- one topic -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["rw", "r"])
def test_topic_tells_what_topics_tells(store: mqlog.Store, path: Path, mode: str) -> None:
    store.stream("clicks").append(b"/cart")
    store.stream("orders", partitions=2).append_many([b"a", b"b"], partition=1)
    with mqlog.open(path, mode) as store:  # type: ignore[arg-type]
        assert [store.topic("clicks"), store.topic("orders")] == store.topics()
        assert [part.end_offset for part in store.topic("orders").partitions] == [0, 2]


@pytest.mark.parametrize("ask", ["topic", "options", "verify"])
def test_asking_of_a_topic_that_is_not_there_names_the_nearest(
    store: mqlog.Store, ask: str
) -> None:
    store.stream("orders")
    with pytest.raises(mqlog.NotFoundError, match="did you mean 'orders'"):
        getattr(store, ask)("order")


@pytest.mark.parametrize("ask", ["topic", "options", "verify"])
def test_asking_a_closed_store_is_a_closed_error(store: mqlog.Store, ask: str) -> None:
    store.stream("orders")
    store.close()
    with pytest.raises(mqlog.ClosedError):
        getattr(store, ask)("orders")


# -- verifying -------------------------------------------------------------------------------------


def fill(store: mqlog.Store) -> None:
    for name in ("clicks", "orders"):
        stream = store.stream(name, partitions=2)
        for number in range(10):
            stream.append(b"number %d" % number, partition=number % 2, timestamp=1e9 + number)


def flip(file: Path, position: int) -> None:
    data = bytearray(file.read_bytes())
    data[position] ^= 0x40
    file.write_bytes(data)


@pytest.mark.parametrize("mode", ["rw", "r"])
def test_verify_reads_each_partition_and_finds_nothing_in_a_whole_store(
    store: mqlog.Store, path: Path, mode: str
) -> None:
    fill(store)
    with mqlog.open(path, mode) as store:  # type: ignore[arg-type]
        found = list(store.verify())
    names = [(one.topic, one.partition) for one in found]
    assert names == [("clicks", 0), ("clicks", 1), ("orders", 0), ("orders", 1)]
    assert [(one.segments, one.batches, one.records) for one in found] == [(1, 5, 5)] * 4
    assert [one.problems for one in found] == [()] * 4


def test_verify_names_the_damaged_file_by_its_full_path(store: mqlog.Store, path: Path) -> None:
    fill(store)
    store.close()
    file = path / "orders-1" / SEGMENT
    flip(file, file.read_bytes().index(b"number 3"))
    with mqlog.open(path, "r") as store:
        whole, damaged = store.verify("orders")
    assert whole.problems == ()
    [problem] = damaged.problems
    assert problem.path == str(file)
    assert file.read_bytes().rindex(b"number 1") < problem.position
    assert problem.position < file.read_bytes().index(b"number 5")
    assert str(problem) == f"{file} at byte {problem.position}: {problem.what}"
    assert "CRC" in problem.what
    assert damaged.records == 4


def test_a_partition_that_cannot_be_opened_is_a_problem_of_its_own(
    store: mqlog.Store, path: Path
) -> None:
    fill(store)
    store.close()
    shutil.rmtree(path / "clicks-0")
    (path / "clicks-0").write_bytes(b"")
    with mqlog.open(path, "r") as store:
        first, *others = store.verify()
    [problem] = first.problems
    assert problem.path == str(path / "clicks-0")
    assert (problem.position, os.strerror(20) in problem.what) == (-1, True)
    assert [other.problems for other in others] == [()] * 3


def test_verify_tells_how_far_it_is(store: mqlog.Store) -> None:
    fill(store)
    seen: list[tuple[str, int, int]] = []
    for _ in store.verify("orders", progress=lambda *what: seen.append(what)):
        pass
    assert {name for name, _, _ in seen} == {"orders-0", "orders-1"}
    assert all(done == total > 0 for _, done, total in seen[-1:])


def test_what_progress_raises_comes_out_of_verify(store: mqlog.Store) -> None:
    fill(store)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(store.verify(progress=stop))


def test_closing_the_store_ends_verifying(store: mqlog.Store) -> None:
    fill(store)
    found = store.verify()
    next(found)
    store.close()
    with pytest.raises(mqlog.ClosedError):
        next(found)
