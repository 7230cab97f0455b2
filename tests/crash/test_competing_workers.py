"""Eight workers share a queue while one of them is killed every 50 ms: no job is lost or shared."""

from __future__ import annotations

import mmap
import os
import random
import signal
import struct
import time
from pathlib import Path

import pytest

import mqlog

JOBS = 200_000
WORKERS = 8
PERIOD = 0.05
# What each job takes. Sleeping, not computing: so on any machine most workers are killed while they
# hold one, and all of it lasts at least JOBS * JOB / WORKERS, five seconds.
JOB = 0.0002

# The ledger, in memory that all of them share: for each worker's seat what it holds and whether its
# death was ordered; for each job how often an accept of it has returned; and when the last one did.
SEAT = struct.Struct("<qqq")  # offset held + 1, doomed, accepts
JOBS_AT = 4096


class Ledger:
    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, JOBS_AT + JOBS)

    def hold(self, seat: int, offset: int) -> None:
        struct.pack_into("<q", self.memory, seat * SEAT.size, offset + 1)

    def doom(self, seat: int, doomed: int) -> None:
        struct.pack_into("<q", self.memory, seat * SEAT.size + 8, doomed)

    def count(self, seat: int) -> None:
        at = seat * SEAT.size + 16
        struct.pack_into("<q", self.memory, at, struct.unpack_from("<q", self.memory, at)[0] + 1)

    def seats(self) -> list[tuple[int, int, int]]:
        return [SEAT.unpack_from(self.memory, seat * SEAT.size) for seat in range(WORKERS)]

    def accepts(self) -> int:
        return sum(seat[2] for seat in self.seats())


def work(path: Path, seat: int, ledger: Ledger) -> None:
    """Takes jobs until nothing came for two seconds; leaves with 9 when a job has two holders."""
    queue = mqlog.open(path).queue("jobs", create=False)
    while True:
        try:
            message = queue.get(timeout=2.0)
        except mqlog.Empty:
            os._exit(0)
        ledger.hold(seat, message.offset)
        others = [one for other, one in enumerate(ledger.seats()) if other != seat]
        if any(held == message.offset + 1 and not doomed for held, doomed, _ in others):
            os._exit(9)
        assert message.value == b"%d" % message.offset
        time.sleep(JOB)
        ledger.hold(seat, -1)
        message.accept()
        ledger.memory[JOBS_AT + message.offset] += 1
        ledger.count(seat)


def fork(path: Path, seat: int, ledger: Ledger) -> int:
    """A worker; it is forked from a process that has no store open."""
    ledger.hold(seat, -1)
    ledger.doom(seat, 0)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work(path, seat, ledger)
        except BaseException as error:
            os.write(2, f"worker {seat}: {error!r}\n".encode())
        finally:
            os._exit(code)
    return child


def put_jobs(path: Path) -> None:
    """In a process of its own, so that this one stays free of stores."""
    child = os.fork()
    if child == 0:
        store = mqlog.open(path)
        queue = store.queue("jobs", max_deliveries=None, lock_duration=60.0)
        for start in range(0, JOBS, 1000):
            queue.put_many([b"%d" % n for n in range(start, start + 1000)])
        store.close()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.slow
@pytest.mark.crash
def test_no_job_is_lost_or_held_twice_while_workers_are_killed(tmp_path: Path) -> None:
    ledger, chance = Ledger(), random.Random(20261122)
    put_jobs(tmp_path / "s")
    pids = [fork(tmp_path / "s", seat, ledger) for seat in range(WORKERS)]
    kills, last, progressed, longest = 0, 0, time.monotonic(), 0.0
    alive = set(range(WORKERS))
    while alive:
        time.sleep(PERIOD)
        now, done = time.monotonic(), ledger.accepts()
        if done != last:
            last, progressed = done, now
        elif done < JOBS - 1000:
            longest = max(longest, now - progressed)
        for seat in list(alive):
            ended, status = os.waitpid(pids[seat], os.WNOHANG)
            if ended:
                assert os.waitstatus_to_exitcode(status) == 0, f"worker {seat}: {status}"
                alive.remove(seat)
        if done >= JOBS - 1000 or not alive:
            continue
        seat = chance.choice(sorted(alive))
        ledger.doom(seat, 1)
        os.kill(pids[seat], signal.SIGKILL)
        os.waitpid(pids[seat], 0)
        pids[seat] = fork(tmp_path / "s", seat, ledger)
        kills += 1
    with mqlog.open(tmp_path / "s") as store:
        stats = store.queue("jobs", create=False).stats()
    accepts = ledger.memory[JOBS_AT:]
    print(f"{kills} kills, {sum(accepts)} accepts that returned, longest pause {longest:.2f} s")
    assert kills >= 40
    assert longest < 1.0, "throughput was not back within a second of a kill"
    assert max(accepts) == 1, "an accept of a job that was accepted before has succeeded"
    # A worker may be killed between its accept and its note of it: one job for each kill.
    assert JOBS - kills <= sum(accepts) <= JOBS
    assert (stats.accepted, stats.dead) == (JOBS, 0)
    assert (stats.ready, stats.delayed, stats.acquired) == (0, 0, 0)
