"""A queue on a full disk: draining goes on to its end, and it is draining that makes space."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.disk import fill, tmpfs
from support.jobs import wait_until

import mqlog

pytestmark = [
    pytest.mark.slow,
    # What a test leaves in hand at its end is no mistake of its own.
    pytest.mark.filterwarnings("ignore:.*dropped without being settled:ResourceWarning"),
]

VALUE = b"x" * 2000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with tmpfs(tmp_path / "disk") as path:
        yield path


def put_until_full(queue: mqlog.Queue[bytes, Any]) -> int:
    """How many were put; ends with ENOSPC, of which nothing is visible."""
    for count in range(100_000):
        before = queue.qsize() if count % 500 == 0 else None
        try:
            queue.put(VALUE)
        except OSError as error:
            assert not isinstance(error, mqlog.Error), "a full disk is a plain OSError"
            assert error.errno == errno.ENOSPC
            assert before is None or queue.qsize() == before
            return count
    raise AssertionError("the disk is never full")


def drain(queue: mqlog.Queue[bytes, Any], reject_every: int = 0) -> tuple[int, int]:
    """Accepts all, every seventh at its second delivery; how many were accepted and rejected."""
    accepted = rejected = 0
    while True:
        try:
            message = queue.get_nowait()
        except mqlog.Empty:
            return accepted, rejected
        assert message.value == VALUE
        if message.offset % 7 == 0 and message.delivery_count == 1:
            message.renew()
            message.release()
        elif reject_every and message.offset % reject_every == 1:
            message.reject("no good")
            rejected += 1
        else:
            message.accept()
            accepted += 1


def test_a_queue_on_a_full_disk_is_drained_and_goes_on_when_there_is_space(disk: Path) -> None:
    ballast = disk / "before"
    ballast.write_bytes(bytes(3 << 20))
    with mqlog.open(disk / "s", min_free_bytes=0) as store:
        queue = store.queue("jobs", segment_bytes=1 << 20, cleanup_policy="keep")
        count = put_until_full(queue)
        assert count * len(VALUE) > 3 << 20, "most of the disk was used"
        fill(disk)
        assert drain(queue) == (count, 0)
        assert os.statvfs(disk).f_bavail == 0, "draining took no block"
        # There may be room in the log for which there were no slots: those serve again.
        again = put_until_full(queue)
        assert again * len(VALUE) < 1 << 20, "what one segment has left"
        assert drain(queue) == (again, 0)
        ballast.unlink()
        more = put_until_full(queue)
        assert more > 500
        assert drain(queue) == (more, 0)
        stats = queue.stats()
        assert (stats.accepted, stats.dead, stats.ready) == (count + again + more, 0, 0)


@pytest.mark.parametrize("letters", ["there are none", "there are some"])
def test_what_is_rejected_on_a_full_disk_is_a_dead_letter_when_there_is_space(
    disk: Path, letters: str
) -> None:
    ballast = disk / "before"
    ballast.write_bytes(bytes(3 << 20))
    with mqlog.open(disk / "s", min_free_bytes=0) as store:
        queue = store.queue("jobs", segment_bytes=1 << 20, cleanup_policy="keep")
        there = 0
        if letters == "there are some":
            queue.put(VALUE)
            queue.get().reject("the first")
            there = 1
        count = put_until_full(queue)
        fill(disk)
        accepted, rejected = drain(queue, reject_every=10)
        assert accepted + rejected == count
        stats = queue.stats()
        assert stats.accepted == accepted
        assert stats.dead >= there  # the dead letters may have some blocks ahead
        on_their_way = stats.ready + stats.delayed
        assert stats.dead + on_their_way == there + rejected
        assert on_their_way > 0
        ballast.unlink()

        def moved() -> bool:
            assert queue.get_many(1, timeout=0.1) == [], "what is on its way is not delivered"
            return queue.stats().dead == there + rejected

        wait_until(moved, "the dead letters")
        assert queue.dead_letters.qsize() == there + rejected
        reasons = [letter.reason for letter in queue.dead_letters.get_many(there + rejected)]
        assert all(reasons)
        assert queue.put(VALUE) > 0


def test_draining_alone_makes_the_space_in_which_puts_go_on(disk: Path) -> None:
    """What is consumed is freed on the full disk, and nothing has to be reopened for it."""
    with mqlog.open(disk / "s", min_free_bytes=0) as store:
        queue = store.queue("jobs", segment_bytes=1 << 20)
        accepted = put_until_full(queue)
        fill(disk)
        assert drain(queue) == (accepted, 0)
        for _ in range(3):
            more = 0

            def goes_on() -> bool:
                nonlocal more
                more += put_until_full(queue)
                return more > 500

            wait_until(goes_on, "space")
            assert drain(queue) == (more, 0)
            accepted += more
        assert (queue.stats().accepted, queue.stats().ready) == (accepted, 0)
