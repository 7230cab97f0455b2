"""Workers are killed while they put, accept and free space: nothing goes that is not done with."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

import mqlog

WORKERS = 4
PERIOD = 0.1
KILLS = 60
MONTH = 30 * 86400.0
END = " ."
OPTIONS = {"segment_bytes": 1 << 16, "max_message_bytes": 1 << 14}


def value_of(seat: int, number: int) -> bytes:
    return b"%d/%d " % (seat, number) + bytes([number % 251]) * 200


class Diary:
    """Notes, each written by one system call; one whose writer was killed inside lacks its end."""

    def __init__(self, path: Path) -> None:
        self.file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def note(self, *words: object) -> None:
        os.write(self.file, ("\n" + " ".join(str(word) for word in words) + END).encode())


def work(path: Path, seat: int, every: int) -> None:
    """Puts, every so many for next month; accepts what it gets; until it is killed or told."""
    diary = Diary(path / f"diary-{seat}")
    queue = mqlog.open(path / "s").queue("jobs", lock_duration=60.0, **OPTIONS)
    number = 0
    while not (path / "stop").exists():
        number += 1
        value = value_of(seat, number)
        delay = MONTH if number % every == 0 else 0.0
        offset = queue.put(value, delay=delay)
        diary.note("put" if delay == 0.0 else "later", offset, number)
        for message in queue.get_many(2, timeout=0.0):
            diary.note("accepting", message.offset)
            message.accept()


def fork(path: Path, seat: int, every: int) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work(path, seat, every)
            code = 0
        except BaseException as error:
            os.write(2, f"worker {seat}: {error!r}\n".encode())
        finally:
            os._exit(code)
    return child


def lines(path: Path) -> list[tuple[int, list[str]]]:
    return [
        (int(file.name.removeprefix("diary-")), line.removesuffix(END).split())
        for file in path.glob("diary-*")
        for line in file.read_text().splitlines()
        if line.endswith(END)
    ]


def wait_until_freed(stream: mqlog.Stream[bytes], left: int) -> None:
    """Freeing goes on behind, in rounds, and takes no more than its share of the time."""
    until = time.monotonic() + 120
    while sum(1 for _ in stream.read()) >= left:
        assert time.monotonic() < until, "little was freed"
        time.sleep(0.5)


def work_and_die(path: Path, seed: int, every: int, kills: int, period: float) -> None:
    """Workers, of which one is killed after each period; at last they end by themselves."""
    chance = random.Random(seed)
    pids = [fork(path, seat, every) for seat in range(WORKERS)]
    for _ in range(kills):
        time.sleep(period)
        seat = chance.randrange(WORKERS)
        os.kill(pids[seat], signal.SIGKILL)
        status = os.waitpid(pids[seat], 0)[1]
        assert os.WIFSIGNALED(status), f"worker {seat}: {status}"
        pids[seat] = fork(path, seat, every)
    (path / "stop").touch()
    for pid in pids:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.slow
@pytest.mark.crash
def test_nothing_is_delivered_before_it_is_due_though_workers_are_killed(tmp_path: Path) -> None:
    """A put tells the groups of its delay when the record is there, and others are faster."""
    work_and_die(tmp_path, 0, every=2, kills=150, period=0.03)
    notes = lines(tmp_path)
    later = {int(note[1]) for _, note in notes if note[0] == "later"}
    begun = {int(note[1]) for _, note in notes if note[0] == "accepting"}
    assert len(later) > 1000 and len(begun) > 1000
    assert not (begun & later), "delivered a month early"
    with mqlog.open(tmp_path / "s") as store:
        queue = store.queue("jobs")
        while messages := queue.get_many(100, timeout=0.0):
            assert not later.intersection(message.offset for message in messages)
            queue.accept(messages)
        assert queue.stats().delayed >= len(later)


@pytest.mark.slow
@pytest.mark.crash
@pytest.mark.parametrize("seed", range(2))
def test_nothing_is_lost_while_space_is_freed_and_workers_are_killed(
    tmp_path: Path, seed: int
) -> None:
    work_and_die(tmp_path, seed, every=20, kills=KILLS, period=PERIOD)
    notes = lines(tmp_path)
    puts = {int(note[1]): value_of(s, int(note[2])) for s, note in notes if note[0] == "put"}
    later = {int(note[1]): value_of(s, int(note[2])) for s, note in notes if note[0] == "later"}
    begun = {int(note[1]) for _, note in notes if note[0] == "accepting"}
    assert not (begun & later.keys()), "delivered a month early"
    with mqlog.open(tmp_path / "s") as store:
        queue = store.queue("jobs")
        stream = store.stream("jobs")
        wait_until_freed(stream, (len(puts) + len(later)) // 2)
        segments = [part.segments for part in store.topic("jobs").partitions]
        kept = {record.offset: record.value for record in stream.read()}
        rest = {}
        while messages := queue.get_many(100, timeout=0.0):
            rest |= {message.offset: message.value for message in messages}
            queue.accept(messages)
        assert {offset: kept.get(offset) for offset in later} == later, "a delayed message is gone"
        assert {offset: rest.get(offset, puts[offset]) for offset in puts} == puts
        lost = puts.keys() - begun - rest.keys()
        assert not lost, "neither accepted nor there"
        assert not (rest.keys() & later.keys())
        assert queue.stats().delayed >= len(later)
        assert queue.stats().dead == queue.stats().damaged == 0
    print(f"{len(kept)} of {len(puts) + len(later)} records left, in {segments[0]} segments")
    with mqlog.open(tmp_path / "s", mode="r") as store:
        assert [found.problems for found in store.verify("jobs")] == [()]
