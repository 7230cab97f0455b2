"""Rounds of mql_commit: one sync serves all who have appended until it began."""

import errno
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import fault
from support.fault import lib

WAIT, YIELD, SYNC = lib.MQL_FAULT_WAIT, lib.MQL_FAULT_YIELD, lib.MQL_FAULT_SYNC_MAP


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


# -- whom a round has served may join the next one ------------------------------------------------
def works(call: int, name: str) -> int:
    return 0


class Crew:
    """Threads that append one record each, while another one leads a round without them.

    The first sync takes until all of them sleep, and wait for the next round.
    """

    def __init__(self, log: fault.Log) -> None:
        self.log, self.syncs, self.yields = log, 0, 0
        self.waiters, self.late = set[int](), list[threading.Thread]()
        self.append()

    def append(self) -> None:
        self.log.append(b"x", flags=lib.MQL_DURABLE)

    def wait_for(self, count: int) -> None:
        until(lambda: len(self.waiters) >= count)
        until(lambda: all(map(sleeps, tuple(self.waiters))))

    def work(self, *others: Callable[[], object], device: fault.Hook = works) -> None:
        """One leads, and the others come while its sync runs; so may some in `late`."""
        begun = threading.Event()
        self.syncs = self.yields = 0
        self.waiters.clear()
        self.late.clear()

        def ask(call: int, name: str) -> int:
            self.yields += call == YIELD
            self.syncs += call == SYNC
            if call == WAIT:
                self.waiters.add(threading.get_native_id())
            if call == SYNC and self.syncs == 1:
                begun.set()
                self.wait_for(len(others))
            return device(call, name)

        with fault.hooked(ask):
            threads = at_work(self.append)
            begun.wait()
            threads += at_work(*others)
            for thread in threads:
                thread.join()
            for thread in self.late:
                thread.join()


def sleeps(thread: int) -> bool:
    stat = Path(f"/proc/self/task/{thread}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "S"


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    with fault.Store(tmp_path / "s") as store:
        yield Crew(store.log())


def test_the_next_round_takes_along_whom_the_last_one_has_served(crew: Crew):
    """They append again when the leader has given way to them, and no sync has begun yet."""
    served, again, covered = 4, threading.Event(), list[int]()

    def append_twice() -> None:
        crew.append()
        again.wait()
        crew.append()

    def device(call: int, name: str) -> int:
        if call == SYNC:
            covered.append(crew.log.control.covers)
        if call == SYNC and crew.syncs == 2:  # so that there is a third round for its leader
            crew.late.extend(at_work(crew.append))
            crew.wait_for(served + 1)
        if call == YIELD or (call == SYNC and crew.syncs > 2):
            again.set()
        if call == YIELD:
            until(lambda: crew.log.ends[1] == 2 + served + 1 + served)
        return 0

    crew.work(*[append_twice] * served, device=device)
    assert covered == [2, 2 + served, 2 + served + 1 + served]
    assert crew.log.ends[2] == covered[-1]


def test_whoever_does_not_come_back_is_waited_for_once_in_five_rounds_and_not_for_long(crew: Crew):
    waited = list[bool]()
    for _ in range(11):
        crew.work(*[crew.append] * 4)
        assert crew.log.ends[1] == crew.log.ends[2]
        waited.append(crew.yields > 0)
    assert waited == [False, *[True, False, False, False, False] * 2]
