"""A power cut takes the log's end away: no offset comes twice, and what comes after is delivered.

The cut is simulated on a copy of the store: the log is truncated to what a sync had covered, and
its control pages are made those of another boot.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support import engine  # noqa: F401  (built once, before processes are counted)
from support.partition import reboot

import mqlog


def cut(store: Path, copy: Path, position: int) -> None:
    """The store as the disk has it when the power goes after `position` bytes of its log."""
    shutil.copytree(store, copy)
    with next(copy.glob("jobs-0/*.log")).open("r+b") as file:
        file.truncate(position)
    reboot(copy)


@pytest.mark.parametrize("accepted", [0, 90, 140])
def test_no_offset_comes_twice_and_all_that_is_put_afterwards_is_delivered(
    tmp_path: Path, accepted: int
) -> None:
    with mqlog.open(tmp_path / "before") as store:
        queue = store.queue("jobs")
        for number in range(100):
            queue.put(b"durable %d" % number)
        store.sync()
        position = store.topic("jobs").bytes
        for number in range(50):
            queue.put(b"lost %d" % number)
        held = queue.get_many(150)
        seen = {message.offset for message in held}
        queue.accept(held[:accepted])
        cut(tmp_path / "before", tmp_path / "after", position)
        queue.release(held[accepted:])
    with mqlog.open(tmp_path / "after") as store:
        queue = store.queue("jobs")
        stats = queue.stats()
        left = [b"durable %d" % number for number in range(accepted, 100)]
        assert stats.ready == queue.qsize() == len(left)  # not the offsets that were used up
        assert [record.value for record in queue.peek(1000)] == left
        [state] = (tmp_path / "after" / "jobs-0" / "shares").glob("*.state")
        assert state.stat().st_size < 1 << 20
        offsets = [queue.put(b"new %d" % number) for number in range(20)]
        assert not seen & set(offsets)
        values = [message.value for message in drain(queue)]
        assert values == left + [b"new %d" % number for number in range(20)]
        assert stats.accepted == accepted


def drain(queue: mqlog.Queue[bytes, bytes]) -> list[mqlog.Message[bytes]]:
    out = []
    while True:
        try:
            message = queue.get_nowait()
        except mqlog.Empty:
            return out
        message.accept()
        out.append(message)
