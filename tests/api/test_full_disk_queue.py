"""A really full disk under queues, in memory and on ext4: it is drained, and nothing is lost."""

import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.disk import Image, fill, tmpfs

import mqlog

pytestmark = pytest.mark.slow

VALUE = b"x" * 2000


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    if request.param == "tmpfs":
        with tmpfs(tmp_path / "disk") as path:
            yield path
    else:
        with Image(tmp_path, 12 << 20) as image:
            yield image.path


def until_full(put: Callable[[int], Any]) -> int:
    """How often it went; what ended it is ENOSPC, and no error of our own."""
    for number in range(100_000):
        try:
            put(number)
        except OSError as error:
            assert not isinstance(error, mqlog.Error) and error.errno == errno.ENOSPC
            return number
    raise AssertionError("the disk is never full")


def test_a_full_disk_is_drained_and_takes_more_when_space_is_back(disk: Path) -> None:
    with mqlog.open(disk / "s", min_free_bytes=0) as store:
        (disk / "to go").write_bytes(bytes(2 << 20))
        jobs = store.queue("jobs", segment_bytes=1 << 20)
        count = until_full(lambda n: jobs.put(VALUE))
        assert count > 1000
        ballast = fill(disk)
        ends = set()
        for message in jobs.messages(timeout=0.5):
            assert message.value == VALUE
            if message.delivery_count == 1 and message.offset % 10 == 0:
                message.release()
                continue
            message.accept(durable=message.offset % 100 == 1)
            ends.add(message.offset)
        assert ends == set(range(count))
        ballast.unlink()
        (disk / "to go").unlink()
        assert until_full(lambda n: jobs.put(VALUE)) > 100
        with jobs.get(timeout=1) as message:
            assert message.offset == count


def test_what_finds_no_room_among_the_dead_letters_is_not_lost(disk: Path) -> None:
    with mqlog.open(disk / "s", min_free_bytes=0) as store:
        jobs = store.queue("jobs", retry_delays=(0.0,))
        for number in range(20):
            jobs.put(b"%d" % number)
        ballast = fill(disk)
        for message in jobs.get_many(20, timeout=1):
            try:
                message.reject("nobody wants it")
            except OSError as error:  # it is still held
                assert error.errno == errno.ENOSPC
                message.release()
        ballast.unlink()
        found = set()
        for queue in 3 * (jobs, jobs.dead_letters):  # whoever looks for more finishes some moves
            for message in queue.get_many(20, timeout=1):
                message.accept()
                found.add(message.value)
                assert queue is jobs or message.reason == "nobody wants it"
        assert found == {b"%d" % number for number in range(20)}


@pytest.mark.parametrize(
    "how", [{"delay": 3600.0}, {"dedupe": "once"}, {"priority": 9}, {"durable": True}], ids=str
)
def test_puts_of_every_kind_find_no_space_and_come_later(disk: Path, how: dict[str, Any]) -> None:
    with mqlog.open(disk / "s", min_free_bytes=0) as store:
        jobs = store.queue("jobs")
        jobs.put(b"first")
        ballast = fill(disk)
        until_full(lambda n: jobs.put(VALUE))
        with pytest.raises(OSError) as caught:
            jobs.put(VALUE, **how)
        assert caught.value.errno == errno.ENOSPC
        before = jobs.stats()
        with pytest.raises(OSError):
            jobs.put(VALUE, **how)
        assert jobs.stats().ready == before.ready and jobs.stats().delayed == before.delayed
        ballast.unlink()
        jobs.put(VALUE, **how)
        after = jobs.stats()
        assert after.ready + after.delayed == before.ready + before.delayed + 1


def test_in_a_sync_topic_a_full_disk_is_enospc_and_nothing_of_it_is_visible(disk: Path) -> None:
    with mqlog.open(disk / "s", min_free_bytes=0) as store:
        orders = store.stream("orders", durability="sync", segment_bytes=1 << 18)
        count = until_full(lambda n: orders.append(VALUE))
        fill(disk).unlink()
        assert orders.end_offset == count
        assert sum(1 for _ in orders.values()) == count
        ballast = fill(disk)
        assert until_full(lambda n: orders.append(VALUE)) < 100
        ballast.unlink()
        store.sync()
        assert orders.durable_offset == orders.end_offset
