"""A really full disk: an error that says so, never a signal; reading goes on, and so do appends."""

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.damage import python
from support.disk import fill, tmpfs

import mqlog

pytestmark = pytest.mark.slow

LARGE = b"x" * 3000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with tmpfs(tmp_path / "disk") as path:
        yield path


def append_until_full(stream: mqlog.Stream[bytes, Any], value: bytes = LARGE) -> list[int]:
    """The offsets that were given; ends with ENOSPC, of which nothing is visible."""
    given = []
    for _ in range(100_000):
        end = stream.end_offset
        try:
            given.append(stream.append(value))
        except OSError as error:
            assert not isinstance(error, mqlog.Error), "a full disk is a plain OSError"
            assert error.errno == errno.ENOSPC
            assert stream.end_offset == end
            return given
    raise AssertionError("the disk is never full")


@pytest.mark.parametrize("segment_bytes", [1 << 16, 1 << 20, 1 << 28])
@pytest.mark.parametrize("min_free_bytes", [0, None])
def test_a_full_disk_is_enospc_and_everything_stays_readable(
    disk: Path, segment_bytes: int, min_free_bytes: int | None
) -> None:
    with mqlog.open(disk / "s", min_free_bytes=min_free_bytes) as store:
        orders = store.stream("orders", segment_bytes=segment_bytes)
        given = append_until_full(orders)
        assert given == list(range(len(given)))
        assert len(given) * 3000 > 4 << 20, "most of the disk was used"
        for _ in range(3):
            assert append_until_full(orders) == []
        assert list(orders.values()) == [LARGE] * len(given)
        assert orders[len(given) - 1].value == LARGE
    with mqlog.open(disk / "s", "r") as store:
        assert sum(1 for _ in store.stream("orders").values()) == len(given)


def test_appends_resume_without_reopening_when_space_is_back(disk: Path) -> None:
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(4 << 20))
    with mqlog.open(disk / "s", min_free_bytes=0) as store:
        orders = store.stream("orders")
        count = len(append_until_full(orders))
        ballast.unlink()
        more = append_until_full(orders)
        assert more[0] == count
        assert len(more) * 3000 > 3 << 20
        assert list(orders.values()) == [LARGE] * (count + len(more))


def test_appends_resume_after_a_trim_on_the_full_disk(disk: Path) -> None:
    with mqlog.open(disk / "s", min_free_bytes=0) as store:
        orders = store.stream("orders", segment_bytes=1 << 18, max_message_bytes=1 << 16)
        count = len(append_until_full(orders))
        for _ in range(5):
            orders.trim(count // 2 + orders.start_offset - orders.start_offset // 2)
            more = append_until_full(orders)
            assert more and more[0] == count
            count = more[-1] + 1
        values = list(orders.values())
        assert values == [LARGE] * len(values)


def test_calls_of_many_records_are_all_or_nothing(disk: Path) -> None:
    with mqlog.open(disk / "s", min_free_bytes=0) as store:
        orders = store.stream("orders", segment_bytes=1 << 20)
        calls = 0
        with pytest.raises(OSError) as caught:
            for _ in range(1000):
                orders.append_many([LARGE] * 50)
                calls += 1
        assert caught.value.errno == errno.ENOSPC
        assert orders.end_offset == 50 * calls == sum(1 for _ in orders.values())


@pytest.mark.parametrize("durability", ["os", "sync"])
def test_to_the_last_block_there_is_no_sigbus(disk: Path, durability: str) -> None:
    """In a process of its own, where a signal would be seen; every step with no block left.

    One stream then wants more of its segment, the other one the next segment.
    """
    code = """
        import errno, os, sys
        import mqlog
        disk, durability = sys.argv[1:]
        with mqlog.open(disk + "/s", min_free_bytes=0) as store:
            orders = store.stream("orders", segment_bytes=1 << 16, max_message_bytes=1 << 15,
                                  durability=durability)
            large = store.stream("large", segment_bytes=1 << 20, max_message_bytes=1 << 15)
            orders.append(b"first")
            large.append(b"first")
            refused = {orders: 0, large: 0}
            for n in range(20000):
                stream = (orders, large)[n % 2]
                try:
                    stream.append(b"%d" % n * 300)
                except OSError as error:
                    assert error.errno == errno.ENOSPC, error
                    refused[stream] += 1
                    if min(refused.values()) > 15:
                        break
                if n == 100:
                    with open(disk + "/ballast", "ab", buffering=0) as ballast:
                        try:
                            while True:
                                ballast.write(bytes(4096))
                        except OSError:
                            pass
            assert min(refused.values()) > 15
            for stream in (orders, large):
                assert sum(1 for _ in stream.values()) == stream.end_offset
            os.unlink(disk + "/ballast")
            for stream in (orders, large):
                end = stream.end_offset
                assert stream.append(b"again") == end
        print("ok")
    """
    done = python(code, disk, durability)
    assert (done.returncode, done.stdout) == (0, "ok\n"), (done.returncode, done.stderr)


def test_index_entries_that_find_no_space_are_left_out_and_lookups_are_right(disk: Path) -> None:
    """The log's own blocks are there, those of its indexes are not."""
    with mqlog.open(disk / "s", min_free_bytes=0) as store:
        orders = store.stream("orders", segment_bytes=1 << 22)
        orders.append(b"first" * 10, timestamp=1_700_000_000.0)
        ballast = disk / "ballast"
        count = 1
        ballast.write_bytes(bytes(1 << 20))
        fill(disk)
        try:
            for count in range(1, 3000):
                orders.append(LARGE, timestamp=1_700_000_000.0 + count)
        except OSError as error:
            assert error.errno == errno.ENOSPC
        ballast.unlink()
        for n in range(count, count + 100):
            assert orders.append(LARGE, timestamp=1_700_000_000.0 + n) == n
        for n in range(1, count + 100, 13):
            assert orders[n].value == LARGE
            assert orders.offset_at(1_700_000_000.0 + n) == n


def test_a_consumer_commits_on_a_full_disk(disk: Path) -> None:
    with mqlog.open(disk / "s", min_free_bytes=0) as store:
        orders = store.stream("orders")
        orders.append_many([b"%d" % n for n in range(100)])
        with orders.consumer("billing", commit="manual") as consumer:
            consumer.poll(10)
            consumer.commit()
            fill(disk)
            assert len(consumer.poll(20)) == 20
            consumer.commit()
            assert consumer.committed == {0: 30}
        with orders.consumer("billing") as consumer:
            assert consumer.position == {0: 30}


def test_a_new_group_on_a_full_disk_is_enospc_or_works_and_comes_later(disk: Path) -> None:
    with mqlog.open(disk / "s", min_free_bytes=0) as store:
        orders = store.stream("orders")
        orders.append_many([b"%d" % n for n in range(100)])
        ballast = fill(disk)
        with pytest.raises(OSError) as caught, orders.consumer("late") as consumer:
            consumer.poll(10)
        assert caught.value.errno == errno.ENOSPC
        ballast.unlink()
        with orders.consumer("late") as consumer:
            assert len(consumer.poll(10)) == 10


def test_topics_and_stores_that_find_no_space_are_enospc_and_come_later(disk: Path) -> None:
    with mqlog.open(disk / "s", min_free_bytes=0) as store:
        store.stream("there").append(b"a")
        ballast = fill(disk)
        for call in (
            lambda: store.stream("new").append(b"a"),
            lambda: mqlog.open(disk / "other"),
        ):
            with pytest.raises(OSError) as caught:
                call()
            assert caught.value.errno == errno.ENOSPC
        assert list(store.stream("there").values()) == [b"a"]
        ballast.unlink()
        assert store.stream("new").append(b"a") == 0
        with mqlog.open(disk / "other", min_free_bytes=0) as other:
            assert other.stream("new").append(b"a") == 0


def test_a_store_closes_on_a_full_disk_and_opens_on_it_for_reading(disk: Path) -> None:
    with mqlog.open(disk / "s", min_free_bytes=0) as store:
        orders = store.stream("orders", segment_bytes=1 << 18, max_message_bytes=1 << 16)
        count = len(append_until_full(orders))
        ballast = fill(disk)
    for mode in ("r", "rw"):
        with mqlog.open(disk / "s", mode) as store:  # type: ignore[arg-type]
            assert sum(1 for _ in store.stream("orders").values()) == count
    ballast.unlink()
    with mqlog.open(disk / "s") as store:
        assert store.stream("orders").end_offset == count


def test_after_a_kill_on_the_full_disk_nothing_acknowledged_is_lost(disk: Path) -> None:
    code = """
        import os, signal, sys
        import mqlog
        store = mqlog.open(sys.argv[1] + "/s", min_free_bytes=0)
        orders = store.stream("orders", segment_bytes=1 << 18, max_message_bytes=1 << 16)
        count = 0
        try:
            while True:
                count = orders.append(b"x" * 3000) + 1
        except OSError:
            os.write(1, b"%d" % count)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = python(code, disk)
    assert done.returncode == -9, done.stderr
    with mqlog.open(disk / "s", min_free_bytes=0) as store:
        orders = store.stream("orders")
        assert list(orders.values()) == [LARGE] * int(done.stdout)
        orders.trim(orders.end_offset)
        assert orders.append(b"again") == int(done.stdout)
