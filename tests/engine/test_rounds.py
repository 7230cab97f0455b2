"""Rounds of mql_commit: one sync serves all who have appended until it began."""

import errno
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import fault
from support.fault import lib

WAIT, SYNC = lib.MQL_FAULT_WAIT, lib.MQL_FAULT_SYNC_MAP


def at_work(*calls: Callable[[], object]) -> list[threading.Thread]:
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    return threads


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline, "it does not come about"
        time.sleep(0.001)


def test_whoever_comes_while_a_sync_runs_is_served_by_the_next_one(tmp_path: Path):
    others = 7
    with fault.Store(tmp_path / "s") as store:
        log = store.log()
        log.append(b"first", flags=lib.MQL_DURABLE)
        begun, syncs = threading.Event(), 0

        def device(call: int, name: str) -> int:
            nonlocal syncs
            if call == fault.lib.MQL_FAULT_SYNC_MAP:
                syncs += 1
                begun.set()
                if syncs == 1:  # it takes until all the others have appended, and sleep
                    until(lambda: log.ends[1] == 2 + others)
                    until(lambda: log.control.waiters_rounds[(log.control.round + 1) & 1].flag == 1)
            return 0

        def append() -> None:
            log.append(b"x", flags=lib.MQL_DURABLE)

        before = log.control.round
        with fault.hooked(device):
            threads = at_work(append)
            begun.wait()
            threads += at_work(*[append] * others)
            for thread in threads:
                thread.join()
        assert log.ends == (0, 2 + others, 2 + others)
        assert (syncs, log.control.round - before) == (2, 2), "one for the first, one for the rest"


def test_a_sync_that_fails_fails_for_all_who_waited_for_it(tmp_path: Path):
    with fault.Store(tmp_path / "s") as store:
        log = store.log()
        log.append(b"first", flags=lib.MQL_DURABLE)
        begun, told = threading.Event(), list[int]()

        def device(call: int, name: str) -> int:
            if call != fault.lib.MQL_FAULT_SYNC_MAP or begun.is_set():
                return 0
            begun.set()
            until(lambda: log.ends[1] == 5)
            until(lambda: log.control.waiters_rounds[(log.control.round + 1) & 1].flag == 1)
            return -errno.EIO

        def append() -> None:
            try:
                log.append(b"x", flags=lib.MQL_DURABLE)
            except fault.Failed as failed:
                told.append(failed.code)

        with fault.hooked(device):
            threads = at_work(append)
            begun.wait()
            threads += at_work(append, append, append)
            for thread in threads:
                thread.join()
        assert told == [lib.MQL_E_DURABILITY] * 4
        assert log.ends == (0, 5, 1), "all are in the log, none is known to be on disk"


def test_whoever_is_asked_to_lead_just_before_it_sleeps_does_not_sleep(tmp_path: Path):
    """Who holds the lock finds nobody asleep; the word that is about to be slept on has moved."""
    with fault.Store(tmp_path / "s") as store:
        log = store.log()
        log.append(b"first", flags=lib.MQL_DURABLE)
        held, sleepy, moved = threading.Event(), threading.Event(), list[bool]()
        slot = log.control.waiters_rounds[(log.control.round + 1) & 1]

        def device(call: int, name: str) -> int:
            if call == fault.lib.MQL_FAULT_SYNC_DIRECTORY and not held.is_set():
                held.set()
                sleepy.wait(30)
            if call == fault.lib.MQL_FAULT_WAIT and not moved:
                before = slot.word
                sleepy.set()
                holder.join()
                moved.append(slot.word != before)
            return 0

        def hold() -> None:
            fault.check(fault.lib.mql_commit_raise(log.c, 1 << 40))

        with fault.hooked(device):
            (holder,) = at_work(hold)
            held.wait()
            log.append(b"x", flags=lib.MQL_DURABLE)
        assert (moved, log.ends) == ([True], (0, 2, 2))


# -- whom a round has served is awaited by the next one -------------------------------------------
SYNC_NS, LONG_NS = 100_000, 10**9


class Crew:
    """Threads that append while another one leads; the clock stands still but for what a test says.

    The first sync takes until all of them sleep, and wait for the next round; each takes 100 us.
    """

    def __init__(self, log: fault.Log) -> None:
        self.log, self.now = log, 10**15
        self.covered, self.waits = list[int](), list[int]()
        self.pass_time(0)
        self.append()

    def pass_time(self, ns: int) -> None:
        self.now += ns
        lib.mql_os_fault_stop_clock(self.now)

    def append(self) -> None:
        self.log.append(b"x", flags=lib.MQL_DURABLE)

    def sleep(self, count: int) -> None:
        """Returns when so many sleep."""
        until(lambda: len(set(self.waits)) >= count)
        until(lambda: all(map(sleeps, set(self.waits))))

    def work(self, lead: Callable[[], object], *others: Callable[[], object]) -> None:
        begun = threading.Event()

        def ask(call: int, name: str) -> int:
            if call == WAIT:
                self.waits.append(threading.get_native_id())
            if call == SYNC:
                self.covered.append(self.log.control.covers)
                if len(self.covered) == 1:
                    begun.set()
                    self.sleep(len(others))
                self.pass_time(SYNC_NS)
            return 0

        self.covered.clear()
        self.waits.clear()
        with fault.hooked(ask):
            threads = at_work(lead)
            begun.wait()
            threads += at_work(*others)
            for thread in threads:
                thread.join()

    def serve(self, count: int) -> None:
        """A round serves so many, and whoever led it; none of them comes back."""
        self.work(self.append, *[self.append] * count)
        assert len(self.covered) == 2

    def has_to_wait(self) -> bool:
        """Whether who appends alone sleeps, and does not lead at once. The time passes then."""
        slept = list[bool]()

        def device(call: int, name: str) -> int:
            if call == WAIT:
                slept.append(True)
                self.pass_time(LONG_NS)
            return 0

        with fault.hooked(device):
            self.append()
        return bool(slept)


def sleeps(thread: int) -> bool:
    stat = Path(f"/proc/self/task/{thread}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "S"


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    with fault.Store(tmp_path / "s") as store:
        try:
            yield Crew(store.log())
        finally:
            lib.mql_os_fault_stop_clock(0)
            lib.mql_os_fault_wait_at_least(0)


def test_the_next_round_takes_along_whom_the_last_one_has_served(crew: Crew):
    """Whoever led it among them. Nobody looks at the time here, and nobody is woken by it."""
    lib.mql_os_fault_wait_at_least(30 * 10**9)

    def append_three_times() -> None:
        for _ in range(3):
            crew.append()

    begin = time.monotonic()
    crew.work(append_three_times, *[append_three_times] * 4)
    assert crew.covered[:2] == [2, 6]
    assert crew.covered[-1] == crew.log.ends[1] == crew.log.ends[2] == 1 + 3 * 5
    assert 11 in crew.covered, "all five come back before the third round begins"
    assert len(crew.covered) in (4, 5)  # one who is not asleep yet is not counted
    assert time.monotonic() - begin < 15


def test_whoever_comes_back_alone_waits_for_the_others_and_not_for_long(crew: Crew):
    crew.serve(4)
    crew.pass_time(SYNC_NS)
    assert crew.has_to_wait()
    assert lib.mql_os_fault_last_wait() == SYNC_NS, "what is left of two syncs' time"


def test_nobody_is_awaited_for_longer_than_two_syncs_take(crew: Crew):
    crew.serve(4)
    crew.pass_time(2 * SYNC_NS)
    assert not crew.has_to_wait()


def test_whoever_does_not_come_back_is_awaited_once_in_eight_rounds(crew: Crew):
    """The round that was led in vain, by one who had been asleep for it, is one of them."""
    waited = list[bool]()
    for _ in range(16):
        crew.serve(4)
        assert crew.log.ends[1] == crew.log.ends[2]
        waited.append(crew.has_to_wait())
    assert waited == [True, *[False] * 7] * 2


def test_whoever_appends_alone_never_waits(crew: Crew):
    assert not any(crew.has_to_wait() for _ in range(10))
