"""Who holds a message dies, or hangs: when is it delivered again, and what may the late one do?"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest
from support.processes import Zygote

import mqlog

pytestmark = [pytest.mark.slow, pytest.mark.crash]

Bytes = mqlog.Queue[bytes, bytes]


@pytest.fixture
def jobs() -> Iterator[Bytes]:
    with mqlog.temporary() as store:
        yield store.queue("jobs")


class Asleep:
    """A consumer that sleeps in get(), and what it got when."""

    def __init__(self, queue: Bytes) -> None:
        self.queue = queue
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        self.message = self.queue.get(timeout=60.0)
        self.moment = time.monotonic()

    def wait(self) -> tuple[mqlog.Message[bytes], float]:
        self.thread.join()
        return self.message, self.moment


def are_within(limit: float, seconds: list[float]) -> bool:
    """But for one of them, by far not: what else the machine does."""
    return sorted(seconds)[-2] < limit and max(seconds) < 10 * limit


@pytest.mark.parametrize("consumer", ["asleep", "comes later"])
def test_a_killed_holders_message_is_delivered_again_within_a_second(
    jobs: Bytes, zygote: Zygote, consumer: str
) -> None:
    took = []
    for _ in range(5):
        jobs.put(b"1")
        with zygote.start("accept_late", jobs._store.path, "jobs", 3600.0) as holder:
            holder.expect("took")
            asleep = Asleep(jobs) if consumer == "asleep" else None
            holder.kill()
            killed = time.monotonic()
            again, moment = (asleep or Asleep(jobs)).wait()
        assert again.delivery_count == 2
        took.append(moment - killed)
        again.accept()
    assert are_within(1.0, took), took


def test_a_stuck_holders_message_is_delivered_again_at_its_deadline_and_he_is_late(
    jobs: Bytes, zygote: Zygote
) -> None:
    jobs.put(b"1")
    before = time.monotonic()
    with zygote.start("accept_late", jobs._store.path, "jobs", 1.0) as holder:
        holder.expect("took")
        os.kill(holder.pid, signal.SIGSTOP)
        asleep = Asleep(jobs)
        (info,) = jobs.acquired()
        assert 0 < (info.expires_in or 0) <= 1.0, "he lives: nothing but the deadline ends it"
        again, moment = asleep.wait()
        assert 1.0 <= moment - before < 2.0
        os.kill(holder.pid, signal.SIGCONT)
        stats = jobs.stats()
        holder.proceed()
        holder.expect("LockLostError")
        assert jobs.stats() == stats, "a late accept has changed something"
        assert [one.token for one in jobs.acquired()] == [again.token]
        holder.join()
    assert again.delivery_count == 2
    again.accept()
    assert jobs.stats().accepted == 1


def test_a_holder_that_closes_gives_its_message_back_at_once_and_uncounted(jobs: Bytes) -> None:
    took = []
    for _ in range(5):
        jobs.put(b"1")
        with mqlog.open(jobs._store.path) as other:
            other_jobs = other.queue("jobs")
            held = other_jobs.get()
            asleep = Asleep(jobs)
        closed = time.monotonic()
        again, moment = asleep.wait()
        took.append(moment - closed)
        assert again.delivery_count == 1 and again.token > held.token
        again.accept()
    assert are_within(0.25, took), took


def late(queue: Bytes, delays: list[float]) -> list[float]:
    """How late a consumer that sleeps in get() has each of these, in seconds; never early."""
    found = []
    for delay in delays:
        due = time.time() + delay
        queue.put(b"1", deliver_at=due)
        message = queue.get(timeout=60.0)
        now = time.time()
        assert now >= due, "it came before it was due"
        message.accept()
        found.append(now - due)
    return found


def test_a_delayed_message_comes_when_it_is_due_to_a_consumer_asleep(jobs: Bytes) -> None:
    jobs.put(b"far", delay=3600.0)
    lateness = sorted(late(jobs, [0.01 + 0.003 * n for n in range(30)]))
    assert lateness[len(lateness) // 2] < 0.01, lateness
    assert are_within(0.25, lateness), lateness


@pytest.mark.soak
def test_a_delayed_message_is_at_most_ten_milliseconds_late(jobs: Bytes) -> None:
    for _ in range(1000):
        jobs.put(b"far", delay=3600.0)
    rounds = []
    for _ in range(3):  # what else the machine does makes one of them late, not all
        lateness = sorted(late(jobs, [0.001 + n * 0.37 % 0.3 for n in range(100)]))
        rounds.append(lateness[len(lateness) * 99 // 100 - 1])
        shown = [f"{1000 * lateness[len(lateness) * k // 100]:.2f}" for k in (0, 50, 90, 99)]
        print(f"late by ms: least, p50, p90, p99: {shown}, most {1000 * lateness[-1]:.2f}")
    assert min(rounds) < 0.01
