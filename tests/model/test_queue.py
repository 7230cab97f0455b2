"""Is any sequence of operations on a queue right? Against a queue in a hundred lines of Python.

The wall clock is the test's, and jumps; locks go by the time since boot, so a jump expires none.
One handle is ours; another process holds messages and is killed.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from support.processes import Worker, Zygote
from support.queue_model import DEFAULT, Entry, Model

import mqlog
from mqlog._store import Store

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # where a sync costs nothing
BEGIN = 1_800_000_000.0
PATIENCE = 30.0  # seconds; only a test that fails waits so long
MAX_DELIVERIES = 3
RETRY_DELAYS = (0.0, 7.0)
DEDUPE_WINDOW = 100

priorities = st.sampled_from([DEFAULT, DEFAULT, 0, 9])
which = st.integers(0, 1 << 16)


class Machine(RuleBasedStateMachine):
    """A queue and its model."""

    zygote: Zygote

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="mqlog-model-", dir=MEMORY))
        self.clock = BEGIN
        self.number = 0
        self.messages: dict[tuple[int, int], mqlog.Message[bytes]] = {}
        self.keys: dict[tuple[int, str], list[tuple[int, int]]] = {}
        self.them: Worker | None = None
        self.store: Store | None = None

    @initialize(maxsize=st.sampled_from([0, 6, 40]))
    def begin(self, maxsize: int) -> None:
        self.model = Model(self.now_ms, MAX_DELIVERIES, maxsize or 1 << 30)
        with mqlog.open(self.folder / "store") as store:
            store.queue(
                "jobs",
                maxsize=maxsize,
                dedupe_window=DEDUPE_WINDOW,
                max_deliveries=MAX_DELIVERIES,
                retry_delays=RETRY_DELAYS,
                lock_duration=86_400.0,
            )
        self.open()

    def now_ms(self) -> int:
        return round(self.clock * 1000)

    def open(self) -> None:
        path = self.folder / "store"
        self.store = Store(path, "rw", "os", clock=lambda: self.clock)
        self.store._open(False, {})
        self.queue = self.store.queue("jobs", create=False)
        self.letters = self.queue.dead_letters

    def teardown(self) -> None:
        if self.them is not None:
            self.them.kill()
        if self.store is not None:
            self.store.close()
        shutil.rmtree(self.folder)

    def value(self) -> bytes:
        self.number += 1
        return b"%d" % self.number

    # -- putting

    @rule(
        priority=priorities,
        delay=st.sampled_from([0.0, 0.0, 0.0, 1.0, 60.0]),
        absolute=st.booleans(),
        ttl=st.sampled_from([None, None, None, 1.0, 60.0]),
    )
    def put(self, priority: int, delay: float, absolute: bool, ttl: float | None) -> None:
        value = self.value()
        due = {"deliver_at": self.clock + delay} if absolute else {"delay": delay}
        if self.model.room() < 1:
            self.model.rank(priority)
            with pytest.raises(mqlog.Full):
                self.queue.put(value, block=False, priority=priority, ttl=ttl, **due)
            return
        offset = self.queue.put(value, block=False, priority=priority, ttl=ttl, **due)
        due_ms = self.now_ms() + round(delay * 1000) if delay else 0
        ttl_ms = None if ttl is None else round(ttl * 1000)
        assert self.model.put(value, priority, due_ms, ttl_ms).offset == offset

    @rule(priority=priorities, count=st.integers(1, 9), delay=st.sampled_from([0.0, 0.0, 5.0]))
    def put_many(self, priority: int, count: int, delay: float) -> None:
        values = [self.value() for _ in range(count)]
        if count > self.model.maxsize:
            with pytest.raises(ValueError, match="maxsize"):
                self.queue.put_many(values, priority=priority, delay=delay)
        elif count <= self.model.room():
            offsets = self.queue.put_many(values, priority=priority, delay=delay)
            due = self.now_ms() + round(delay * 1000) if delay else 0
            made = [self.model.put(value, priority, due) for value in values]
            assert list(offsets) == [one.offset for one in made]

    @rule(priority=priorities, key=st.sampled_from("ab"))
    def put_once(self, priority: int, key: str) -> None:
        earlier = self.keys.setdefault((priority, key), [])
        since = self.now_ms() - DEDUPE_WINDOW * 1000
        within = [offset for offset, moment in earlier if moment >= since]
        value = self.value()
        if not within and self.model.room() < 1:
            self.model.rank(priority)
            with pytest.raises(mqlog.Full):
                self.queue.put(value, block=False, priority=priority, dedupe=key)
            return
        offset = self.queue.put(value, block=False, priority=priority, dedupe=key)
        if within:
            assert offset in within
        else:
            assert self.model.put(value, priority).offset == offset
            earlier.append((offset, self.now_ms()))

    # -- taking

    @rule(most=st.integers(1, 8))
    def get_many(self, most: int) -> None:
        expected = self.model.take(most, "us")
        self.hold(self.queue.get_many(most, timeout=0), expected)

    @rule()
    def get(self) -> None:
        expected = self.model.take(1, "us")
        try:
            self.hold([self.queue.get(block=False)], expected)
        except mqlog.Empty:
            assert expected == []

    @rule()
    def get_and_be_late(self) -> None:
        """The deadline passes, and so far nobody has looked."""
        expected = self.model.take(1, "late")
        with suppress(mqlog.Empty):
            self.hold([self.queue.get(block=False, lock_duration=0.001)], expected)
            key = (expected[0].partition, expected[0].offset)
            deadline = time.monotonic() + PATIENCE
            while not any(
                (one.partition, one.offset) == key and (one.expires_in or 1) <= 0
                for one in self.queue.acquired()
            ):
                assert time.monotonic() < deadline

    def hold(self, found: list[mqlog.Message[bytes]], expected: list[Entry]) -> None:
        assert [(one.partition, one.offset, one.value) for one in found] == [
            (one.partition, one.offset, one.value) for one in expected
        ]
        for message, one in zip(found, expected, strict=True):
            assert message.delivery_count == one.count
            assert message.token > one.token, "a token has not grown"
            one.token = message.token
            lost = self.messages.pop((one.partition, one.offset), None)
            if lost is not None and not lost.settled:  # its lock has passed to this delivery
                self.is_lost(lost)
            self.messages[one.partition, one.offset] = message

    def is_lost(self, message: mqlog.Message[bytes]) -> None:
        """Whatever its holder says changes nothing."""
        with pytest.raises(mqlog.LockLostError):
            message.accept()
        with pytest.raises(mqlog.LockLostError):
            message.reject()

    # -- settling

    def any_held(self, which: int) -> tuple[Entry, mqlog.Message[bytes]] | None:
        """One that is in our hands; its lock may have passed, and be with somebody else."""
        if not self.messages:
            return None
        key = sorted(self.messages)[which % len(self.messages)]
        one, message = self.model.partitions[key[0]][key[1]], self.messages.pop(key)
        ours = one.state == "held" and one.holder != "them"
        if ours and message.token == one.token:
            return one, message
        self.is_lost(message)
        return None

    @rule(which=which)
    def accept(self, which: int) -> None:
        if held := self.any_held(which):
            held[1].accept()
            held[0].state = "accepted"
            with pytest.raises(mqlog.SettledError):
                held[1].release()

    @rule(which=which, delay=st.sampled_from([0.0, 0.0, 3.0, 600.0]))
    def release(self, which: int, delay: float) -> None:
        if held := self.any_held(which):
            held[1].release(delay)
            due = self.now_ms() + round(delay * 1000) if delay else 0
            self.model.settle_release(held[0], due)

    @rule(which=which)
    def reject(self, which: int) -> None:
        if held := self.any_held(which):
            held[1].reject("no good")
            self.model.bury(held[0])

    @rule(which=which, error=st.sampled_from([ValueError, KeyboardInterrupt]))
    def fail(self, which: int, error: type[BaseException]) -> None:
        if held := self.any_held(which):
            with pytest.raises(error), held[1]:
                raise error
            if error is KeyboardInterrupt:
                self.model.release(held[0], counted=False)
            else:
                delay = RETRY_DELAYS[min(held[0].count, len(RETRY_DELAYS)) - 1]
                due = self.now_ms() + round(delay * 1000) if delay else 0
                self.model.settle_release(held[0], due)

    @rule(which=which)
    def renew(self, which: int) -> None:
        if held := self.any_held(which):
            held[1].renew(86_400.0)
            held[0].holder = "us"
            self.messages[held[0].partition, held[0].offset] = held[1]

    # -- all of them

    @rule()
    def purge(self) -> None:
        expected = self.model.purge()
        assert self.queue.purge() == expected

    @rule(most=st.none() | st.integers(1, 3))
    def redrive(self, most: int | None) -> None:
        count = len(self.model.letters) if most is None else most
        if min(count, len(self.model.letters)) <= self.model.room():
            expected = list(self.model.redrive(count))
            assert self.letters.redrive(most) == len(expected)

    # -- what happens

    @rule(seconds=st.sampled_from([0.5, 3.0, 61.0, 7200.0, -0.5, -30.0, -7200.0]))
    def jump(self, seconds: float) -> None:
        """The wall clock goes, or is set: no lock passes, none lasts longer."""
        self.clock += seconds

    @precondition(lambda self: self.them is None)
    @rule(most=st.integers(1, 4))
    def others_take(self, most: int) -> None:
        expected = self.model.take(most, "them")
        arguments = (self.folder / "store", "jobs", most, self.clock)
        self.them = self.zygote.start("take", *arguments)
        for one in expected:
            said = self.them.told.readline().split()
            assert said[:3] == [str(one.partition), str(one.offset), str(one.count)]
            assert int(said[3]) > one.token
            one.token = int(said[3])
        self.them.expect("taken")

    @precondition(lambda self: self.them is not None)
    @rule()
    def kill_the_others(self) -> None:
        assert self.them is not None
        self.them.kill()
        self.them = None
        self.queue.acquired()  # looks for dead holders at once
        self.model.lose("them", counted=True)

    @rule()
    def reopen(self) -> None:
        assert self.store is not None
        self.store.close()
        for message in self.messages.values():
            if not message.settled:
                with pytest.raises(mqlog.ClosedError):
                    message.accept()
        self.messages = {}
        self.model.lose("us", counted=False)
        self.model.lose("late", counted=False)
        self.open()
        assert self.store.recovered == []

    # -- what must be true after each step

    @invariant()
    def all_agrees(self) -> None:
        if self.store is None:
            return
        stats, now = self.queue.stats(), self.now_ms()
        waiting = self.model.entries("waiting")
        ready = [one for one in waiting if one.due is None or one.due <= now]
        assert (stats.ready, stats.delayed) == (len(ready), len(waiting) - len(ready))
        assert self.queue.qsize() == len(ready)
        for state in ("accepted", "dead", "expired", "purged"):
            assert getattr(stats, state) == len(self.model.entries(state)), state
        held = self.model.entries("held")
        assert stats.acquired == len(held)
        ends = stats.accepted + stats.dead + stats.expired + stats.purged + stats.damaged
        assert stats.damaged == 0
        assert ends + stats.ready + stats.delayed + stats.acquired == self.put_in_all()
        assert self.letters.qsize() == len(self.model.letters)
        assert self.queue.full() == (self.model.room() < 1)

    @invariant()
    def holders_agree(self) -> None:
        if self.store is None:
            return
        held = sorted(self.model.entries("held"), key=lambda one: (one.partition, one.offset))
        found = self.queue.acquired()
        assert [(one.partition, one.offset, one.delivery_count, one.token) for one in found] == [
            (one.partition, one.offset, one.count, one.token) for one in held
        ]

    def put_in_all(self) -> int:
        assert self.store is not None
        return sum(one.end_offset for one in self.store.topic("jobs").partitions)


def run(zygote: Zygote, examples: int, steps: int, *, same: bool) -> None:
    how = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        derandomize=same,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )

    class WithZygote(Machine):
        pass

    WithZygote.zygote = zygote
    run_state_machine_as_test(WithZygote, settings=how)


@pytest.mark.slow
def test_any_sequence_of_operations_is_what_a_plain_queue_would_do(zygote: Zygote) -> None:
    run(zygote, 100, 50, same=True)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_so_are_sequences_that_no_run_has_tried_before(zygote: Zygote) -> None:
    run(zygote, 5_000, 80, same=False)
