"""Group commit at random: threads of several processes append durably, leaders die, syncs fail.

Those who append to a "sync" topic share its syncs: one of them leads a round, the others sleep
until it has served them. Here a sync takes up to two milliseconds, so that many come meanwhile.
Workers die in the midst of one, just before they sleep, or at any moment; and a sync may fail,
which all who waited for it are told. What each thread was told is in a ledger that outlives its
process. What it may have been told, syncs say: they are counted as they begin and as they end.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import random
import select
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from support.fault import Failed, Log, Store, check, ffi, lib
from support.partition import NOW
from support.tiers import FULL, in_memory
from support.workers import Ledger, make_value, read_value

pytestmark = [pytest.mark.crash, pytest.mark.slow, pytest.mark.timeout(1200 if FULL else 120)]

KILLS = 400 if FULL else 60
WORKERS, THREADS = 3, 4
PR_SET_PDEATHSIG = 1
PATIENCE = 30.0  # seconds; only a test that fails waits so long
OPTIONS = {
    "segment_bytes": 1 << 16,
    "max_message_bytes": 4096,
    "batch_bytes": 4096,
    "durability": lib.MQL_DURABILITY_SYNC,
}
SYNCS = (lib.MQL_FAULT_SYNC, lib.MQL_FAULT_SYNC_MAP)
#: In a ledger, behind the numbers: how often something acknowledged was not below the durable end;
#: had not been synced since it was given; had waited about as long as who is woken by nobody.
EARLY, UNSYNCED, LATE = range(Ledger.NUMBERS - 3, Ledger.NUMBERS)
LONG = 0.2
#: Shared by all: how many syncs have begun, and the last of them that has ended well.
BEGUN, DONE = range(2)
syncs = ffi.from_buffer("int64_t[]", mmap.mmap(-1, 16))


def append(log: Log, value: bytes) -> int:
    given = ffi.new("mql_value *", (ffi.from_buffer("uint8_t[]", value), len(value)))
    offset = ffi.new("int64_t *")
    while check(lib.mql_append_values(log.c, given, 1, NOW, 0, offset)) == lib.MQL_TIMEOUT:
        pass
    return int(offset[0])


# -- a worker --------------------------------------------------------------------------------------
def die(after: float) -> None:
    time.sleep(after)
    os.kill(os.getpid(), signal.SIGKILL)


class Device:
    """Syncs take a while, fail now and then, and one of them, or of the sleeps, is the last."""

    def __init__(self, seed: int, failing: float) -> None:
        self.chance = random.Random(seed)
        self.failing = failing
        self.left = self.chance.choice([self.chance.randrange(1, 80), 1 << 30])

    def __call__(self, call: int, file: int) -> int:
        if call not in (*SYNCS, lib.MQL_FAULT_WAIT):
            return 0
        self.left -= 1
        if self.left == 0:
            after = self.chance.choice([0.0, self.chance.uniform(0.0, 0.004)])
            threading.Thread(target=die, args=[after]).start()
        if call in SYNCS:
            time.sleep(self.chance.uniform(0.0, 0.002))
            return -errno.EIO if self.chance.random() < self.failing else 0
        return 0


def go_on(log: Log, slots: Any, producer: int, number: int) -> None:
    """Appends until the end, every so many numbers; notes what is acknowledged."""
    try:
        for mine in range(number, EARLY, THREADS):
            begun, before = syncs[BEGUN], time.monotonic()
            try:
                offset = append(log, make_value(producer, mine))
            except Failed as failed:
                if failed.code != lib.MQL_E_DURABILITY:
                    raise
                continue
            slots[mine] = 1 + offset
            took = time.monotonic() - before
            # Set, not counted: four threads do.
            if log.ends[2] <= offset:
                slots[EARLY] = 1
            if syncs[DONE] <= begun:
                slots[UNSYNCED] = 1
            if took > LONG:
                slots[LATE] += 1
    except BaseException:
        os.write(2, traceback.format_exc().encode())
        os._exit(1)


def work(path: Path, producer: int, ledger: Path, failing: float) -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # it goes with a test that is ended
    slots = Ledger(ledger).slots
    ask = ffi.callback("int(int, int)", Device(producer, failing), error=0)
    lib.mql_os_fault_set(ask)
    log = Store(path).log(**OPTIONS)
    arguments = [(log, slots, producer, number) for number in range(THREADS)]
    for thread in [threading.Thread(target=go_on, args=some) for some in arguments]:
        thread.start()
    signal.pause()


class Worker:
    """A process of four threads that append."""

    def __init__(self, path: Path, producer: int, ledger: Path, failing: float) -> None:
        self.producer, self.ledger, self.late = producer, ledger, 0
        self.slots = Ledger(ledger).slots
        self.slots.release()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                work(path, producer, ledger, failing)
            except BaseException:
                os.write(2, traceback.format_exc().encode())
            finally:
                os._exit(1)
        self.handle = os.pidfd_open(self.pid)

    def acknowledged(self) -> dict[int, int]:
        found = Ledger.read(self.ledger)
        assert found.pop(EARLY, -1) == -1, "acknowledged, and not below the durable end"
        assert found.pop(UNSYNCED, -1) == -1, "acknowledged, and not synced"
        self.late = 1 + found.pop(LATE, -1)
        return found

    def places(self) -> list[int]:
        """How far each thread has come."""
        numbers = self.acknowledged()
        return [max((n for n in numbers if n % THREADS == t), default=-1) for t in range(THREADS)]

    def is_dead(self, within: float = 0.0) -> bool:
        return bool(select.select([self.handle], [], [], within)[0])

    def bury(self) -> None:
        signal.pidfd_send_signal(self.handle, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        os.close(self.handle)
        assert os.WIFSIGNALED(status), f"a worker has ended with status {status}"

    def goes_on(self) -> bool:
        """Waits until each thread has got something acknowledged, or the process is dead."""
        before, until = self.places(), time.monotonic() + PATIENCE
        while not all(now > then for now, then in zip(self.places(), before, strict=True)):
            if self.is_dead(0.001):
                return True
            if time.monotonic() > until:
                return False
        return True


# -- the survivor ----------------------------------------------------------------------------------
def seconds_of_next_append(log: Log, numbers: Iterator[int]) -> float:
    """Until one is acknowledged: another's sync may fail under it."""
    before = time.monotonic()
    while True:
        try:
            offset = append(log, make_value(0, next(numbers)))
            break
        except Failed as failed:
            assert failed.code == lib.MQL_E_DURABILITY
    assert log.ends[2] > offset
    return time.monotonic() - before


def read(log: Log) -> list[tuple[int, bytes | None]]:
    """Everything; damage is raised."""
    cursor, found = log.cursor(0), []
    while (some := cursor.next()) is not None:
        found += some
    cursor.free()
    return found


def next_to_die(workers: list[Worker], chance: random.Random) -> Worker:
    """One that dies by itself, or is killed at any moment."""
    if chance.random() < 0.5:
        handles = {worker.handle: worker for worker in workers}
        dead = select.select(list(handles), [], [], 0.1)[0]
        if dead:
            return handles[dead[0]]
    victim = chance.choice(workers)
    victim.is_dead(chance.uniform(0.0, 0.02))
    return victim


@pytest.fixture
def place() -> Iterator[Path]:
    lib.mql_os_fault_count_syncs(syncs)
    with in_memory() as directory:
        yield directory
    lib.mql_os_fault_count_syncs(ffi.NULL)


def all_are_there(found: list[tuple[int, bytes | None]], told: dict[int, tuple[int, int]]) -> None:
    seen = {offset: read_value(value) for offset, value in found if value is not None}
    assert [offset for offset, _ in found] == list(range(len(found)))
    assert {offset: seen.get(offset) for offset in told} == told
    assert len(set(seen.values())) == len(seen), "a value stands twice in the log"


@pytest.mark.parametrize("failing", [0.0, 0.1], ids=["leaders die", "and syncs fail"])
def test_nothing_acknowledged_is_lost_or_early_and_nobody_hangs(
    place: Path, failing: float, capsys: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(20261130)
    told: dict[int, tuple[int, int]] = {}
    producer, late, numbers = 0, 0, count()
    took: list[float] = []

    def hire() -> Worker:
        nonlocal producer
        producer += 1
        return Worker(place / "s", producer, place / f"ledger-{producer}", failing)

    def dismiss(worker: Worker) -> None:
        nonlocal late
        worker.bury()
        for number, offset in worker.acknowledged().items():
            assert offset not in told, "an offset was given twice"
            told[offset] = worker.producer, number
        late += worker.late

    with Store(place / "s") as store:
        log = store.log(**OPTIONS)
        workers = [hire() for _ in range(WORKERS)]
        try:
            for _ in range(KILLS):
                victim = next_to_die(workers, chance)
                workers.remove(victim)
                dismiss(victim)
                if chance.random() < 0.5:  # whom else an append from outside would wake
                    assert all(worker.goes_on() for worker in workers), "somebody sleeps for ever"
                took.append(seconds_of_next_append(log, numbers))
                assert all(worker.goes_on() for worker in workers), "somebody sleeps for ever"
                workers.append(hire())
        finally:
            for worker in workers:
                dismiss(worker)
        seconds_of_next_append(log, numbers)
        found = read(log)
    with capsys.disabled():
        print(
            f"\ngroup commit: {KILLS} kills, {len(told):,} appends, {late} of them late, "
            f"the next in {max(took):.3f} s"
        )
    all_are_there(found, told)
    assert len(told) > 10 * KILLS
    # What else the machine does holds up two of them.
    assert sorted(took)[-3] < 1.0 and max(took) < 10.0
    # At most one for each death where all is well, twelve where those who were served sleep on.
    assert late <= 5 * KILLS, "a death may leave some of those who wait asleep; nothing else may"
