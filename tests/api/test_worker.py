"""Queue.run in the calling process: what becomes of a message, when it ends, what is refused."""

from __future__ import annotations

import functools
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support.jobs import wait_until

import mqlog
from mqlog import Message, Queue, Reject, Retry

Jobs = Queue[bytes, Any]


@pytest.fixture
def store() -> Iterator[mqlog.Store]:
    with mqlog.temporary() as store:
        yield store


@pytest.fixture
def jobs(store: mqlog.Store) -> Jobs:
    """A queue whose back-off is none at first: a failed message is ready again at once."""
    return store.queue("jobs", retry_delays=(0.0,))


def in_thread(queue: Jobs, handler: Any, **how: Any) -> threading.Thread:
    """Runs the queue in a thread; what it raised is in `.error`."""

    def run() -> None:
        try:
            queue.run(handler, **how)
        except BaseException as error:
            thread.error = error  # type: ignore[attr-defined]

    thread = threading.Thread(target=run, daemon=True)
    thread.error = None  # type: ignore[attr-defined]
    thread.start()
    return thread


def ended(thread: threading.Thread) -> BaseException | None:
    """What the run raised, once it has ended."""
    thread.join(30.0)
    assert not thread.is_alive()
    error: BaseException | None = thread.error  # type: ignore[attr-defined]
    return error


def letters(queue: Jobs) -> list[tuple[bytes, str]]:
    """Value and reason of the dead letters."""
    found = queue.dead_letters.get_many(100, timeout=0.0)
    queue.dead_letters.release(found)
    return [(one.value, one.reason) for one in found]


# -- what becomes of a message ---------------------------------------------------------------------


def test_a_handler_that_returns_has_accepted(jobs: Jobs) -> None:
    seen: list[bytes] = []
    jobs.put_many([b"a", b"b", b"c"])
    jobs.run(lambda message: seen.append(message.value), until_empty=True)
    assert seen == [b"a", b"b", b"c"]
    assert jobs.stats().accepted == 3


def test_the_handler_runs_in_the_calling_thread(jobs: Jobs) -> None:
    seen: list[int] = []
    jobs.put(b"a")
    jobs.run(lambda _: seen.append(threading.get_ident()), until_empty=True)
    assert seen == [threading.get_ident()]


def test_a_handler_that_raises_has_released_with_back_off_and_a_traceback(
    store: mqlog.Store, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = store.queue("slow", retry_delays=(60.0,))
    jobs.put(b"a")

    def fail(message: Message[bytes]) -> None:
        raise KeyError("no such customer")

    jobs.run(fail, until_empty=True)
    stats = jobs.stats()
    assert (stats.ready, stats.delayed, stats.acquired) == (0, 1, 0)
    assert "slow-0:0: the handler failed in delivery 1" in caplog.text
    assert "delivered again in 60 s" in caplog.text
    assert "KeyError: 'no such customer'" in caplog.text
    assert "in fail" in caplog.text


def test_a_poisonous_message_is_dead_after_five_deliveries_and_the_others_are_done(
    jobs: Jobs,
) -> None:
    deliveries: list[int] = []

    def handle(message: Message[bytes]) -> None:
        if message.value == b"poison":
            deliveries.append(message.delivery_count)
            raise ValueError("poison")

    jobs.put_many([b"a", b"poison", b"b"])
    jobs.run(handle, until_empty=True)
    assert deliveries == [1, 2, 3, 4, 5]
    assert letters(jobs) == [(b"poison", "ValueError: poison")]
    assert jobs.stats().accepted == 2


def test_retry_releases_with_its_delay(store: mqlog.Store) -> None:
    jobs = store.queue("slow", retry_delays=(60.0,))
    counts: list[int] = []

    def handle(message: Message[bytes]) -> None:
        counts.append(message.delivery_count)
        if message.delivery_count == 1:
            raise Retry(0.0)
        if message.delivery_count == 2:
            raise Retry()

    jobs.put(b"a")
    jobs.run(handle, until_empty=True)
    assert counts == [1, 2]
    assert jobs.stats().delayed == 1


def test_retry_says_why_when_it_was_the_last_delivery(jobs: Jobs) -> None:
    def handle(_: Message[bytes]) -> None:
        raise Retry(0.0, "the bank is closed")

    jobs.put(b"a")
    jobs.run(handle, until_empty=True)
    assert letters(jobs) == [(b"a", "the bank is closed")]


def test_reject_sends_to_the_dead_letters_at_once(jobs: Jobs) -> None:
    def handle(_: Message[bytes]) -> None:
        raise Reject("no such article")

    jobs.put(b"a")
    jobs.run(handle, until_empty=True)
    assert letters(jobs) == [(b"a", "no such article")]
    assert jobs.stats().dead == 1


def test_retry_takes_no_delay_that_is_none() -> None:
    for delay in (-1.0, float("nan"), float("inf"), 1e10):
        with pytest.raises(ValueError, match="delay"):
            Retry(delay)
    with pytest.raises(TypeError, match="delay"):
        Retry("soon")  # type: ignore[arg-type]


def test_sys_exit_in_a_handler_is_a_failure(jobs: Jobs, caplog: pytest.LogCaptureFixture) -> None:
    def leave(_: Message[bytes]) -> None:
        sys.exit("enough")

    jobs.put(b"a")
    jobs.run(leave, until_empty=True)
    assert letters(jobs) == [(b"a", "SystemExit: enough")]


def test_what_the_handler_has_settled_is_left_as_it_is(
    jobs: Jobs, caplog: pytest.LogCaptureFixture
) -> None:
    def settle(message: Message[bytes]) -> None:
        if message.value == b"reject":
            message.reject("by hand")
        elif message.value == b"release" and message.delivery_count == 1:
            message.release()
        elif message.value == b"accept":
            message.accept()
            raise ValueError("afterwards")

    jobs.put_many([b"reject", b"release", b"accept"])
    jobs.run(settle, until_empty=True)
    assert letters(jobs) == [(b"reject", "by hand")]
    assert jobs.stats().accepted == 2
    assert "ValueError: afterwards" in caplog.text


def test_a_value_that_does_not_decode_is_rejected(store: mqlog.Store) -> None:
    store.queue("orders").put(b"no json")
    orders = store.queue("orders", codec=mqlog.codecs.json)
    orders.put({"order": 1})
    seen: list[Any] = []
    orders.run(lambda message: seen.append(message.value), until_empty=True)
    assert seen == [{"order": 1}]
    [letter] = store.queue("orders.dlq").get_many(1)
    assert letter.reason.startswith("its value does not decode: JSONDecodeError: ")
    letter.accept()


def test_dead_letters_can_be_worked_through(jobs: Jobs) -> None:
    jobs.put(b"a")
    jobs.get().reject("bad")
    seen: list[tuple[str, str | None]] = []
    jobs.dead_letters.run(lambda one: seen.append((one.reason, one.origin)), until_empty=True)
    assert seen == [("bad", "jobs-0:0")]


def test_a_lock_lost_in_a_handler_is_told_and_the_run_goes_on(
    jobs: Jobs, caplog: pytest.LogCaptureFixture
) -> None:
    def linger(message: Message[bytes]) -> None:
        message.renew(0.001)
        other = jobs.get(timeout=30.0)
        assert (other.offset, other.delivery_count) == (0, 2)
        other.accept()

    jobs.put(b"a")
    jobs.run(linger, until_empty=True)
    assert "jobs-0:0: its lock passed while the handler had it" in caplog.text
    assert jobs.stats().accepted == 1


def test_locks_of_long_jobs_are_renewed(store: mqlog.Store) -> None:
    jobs = store.queue("jobs", lock_duration=1.0)
    tokens: list[int] = []
    jobs.put(b"long")

    def handle(message: Message[bytes]) -> None:
        tokens.append(message.token)
        for _ in range(4):  # it is renewed four times: longer than the lock holds
            before = jobs.acquired()[0].expires_in or 0.0
            wait_until(lambda before=before: lasts() < before - 0.01)
            low = lasts()
            wait_until(lambda low=low: lasts() > low + 0.01)

    def lasts() -> float:
        return jobs.acquired()[0].expires_in or 0.0

    jobs.run(handle, until_empty=True)
    assert len(tokens) == 1
    assert jobs.stats().accepted == 1


def test_a_damaged_record_does_not_end_the_run(
    store: mqlog.Store, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = store.queue("jobs")
    for value in (b"first", b"second", b"third"):
        jobs.put(value)
    [segment] = store.path.glob("jobs-0/*.log")
    with open(segment, "r+b") as file:
        at = file.read().index(b"second")
        file.seek(at)
        file.write(b"S")
    seen: list[bytes] = []
    jobs.run(lambda message: seen.append(message.value), until_empty=True)
    assert seen == [b"first", b"third"]
    assert "a record of <mqlog.Queue 'jobs'" in caplog.text
    assert jobs.stats().damaged == 1


# -- threads ---------------------------------------------------------------------------------------


def test_as_many_handlers_run_at_once_as_there_are_threads(jobs: Jobs) -> None:
    together = threading.Barrier(4, timeout=30.0)
    jobs.put_many([b"x"] * 8)
    jobs.run(lambda _: together.wait(), threads=4, until_empty=True)
    assert jobs.stats().accepted == 8


def test_no_thread_takes_a_message_before_it_is_done_with_the_last_one(jobs: Jobs) -> None:
    most: list[int] = []
    jobs.put_many([b"x"] * 20)
    jobs.run(lambda _: most.append(jobs.stats().acquired), threads=3, until_empty=True)
    assert max(most) <= 3


def test_a_message_on_its_last_delivery_is_alone_in_its_process(store: mqlog.Store) -> None:
    jobs = store.queue("jobs", retry_delays=(0.0,), max_deliveries=2)
    inside: set[bytes] = set()
    company: list[set[bytes]] = []

    def handle(message: Message[bytes]) -> None:
        inside.add(message.value)
        try:
            if message.value == b"suspect" and message.delivery_count == 1:
                raise ValueError
            if message.value == b"suspect":
                company.append(set(inside))
                deadline = time.monotonic() + 5.0  # one that was taken is given back at once
                while len(jobs.acquired()) > 1 and time.monotonic() < deadline:
                    time.sleep(0.001)
                time.sleep(0.05)
                company.append({b"offset %d" % one.offset for one in jobs.acquired()})
                company.append(set(inside))
        finally:
            inside.discard(message.value)

    jobs.put_many([b"%d" % n for n in range(50)] + [b"suspect"] + [b"%d" % n for n in range(50)])
    jobs.run(handle, threads=4, until_empty=True)
    assert company == [{b"suspect"}, {b"offset 50"}, {b"suspect"}]
    assert jobs.stats().accepted == 101


def test_a_queue_with_one_delivery_has_no_suspects(store: mqlog.Store) -> None:
    jobs = store.queue("jobs", max_deliveries=1)
    together = threading.Barrier(3, timeout=30.0)
    jobs.put_many([b"x"] * 3)
    jobs.run(lambda _: together.wait(), threads=3, until_empty=True)
    assert jobs.stats().accepted == 3


# -- when it ends ----------------------------------------------------------------------------------


def test_until_empty_does_what_handlers_put_meanwhile(jobs: Jobs) -> None:
    def handle(message: Message[bytes]) -> None:
        if message.value:
            jobs.put(message.value[1:])

    jobs.put(b"four")
    jobs.run(handle, threads=3, until_empty=True)
    assert jobs.stats().accepted == 5
    assert jobs.empty()


def test_until_empty_does_not_wait_for_what_others_hold_nor_for_what_is_delayed(
    jobs: Jobs,
) -> None:
    jobs.put(b"held")
    held = jobs.get()
    jobs.put(b"later", delay=60.0)
    jobs.put(b"now")
    jobs.run(lambda _: None, until_empty=True)
    assert jobs.stats().accepted == 1
    held.accept()


def test_shutdown_ends_it_when_nothing_is_there(jobs: Jobs) -> None:
    jobs.put_many([b"a", b"b", b"c"])

    def handle(message: Message[bytes]) -> None:
        if message.value == b"a":
            jobs.shutdown()

    jobs.run(handle)
    assert jobs.stats().accepted == 3


def test_shutdown_at_once_leaves_the_rest(jobs: Jobs) -> None:
    jobs.put_many([b"a", b"b", b"c"])
    jobs.run(lambda _: jobs.shutdown(immediate=True))
    stats = jobs.stats()
    assert (stats.accepted, stats.ready) == (1, 2)


def test_shutdown_by_another_thread_ends_a_run_that_waits(jobs: Jobs) -> None:
    seen = threading.Event()
    thread = in_thread(jobs, lambda _: seen.set(), threads=2)
    jobs.put(b"a")
    assert seen.wait(30.0)
    jobs.shutdown()
    assert ended(thread) is None


def test_a_closed_handle_ends_it(store: mqlog.Store, jobs: Jobs) -> None:
    jobs.put(b"a")
    with pytest.raises(mqlog.ClosedError):
        jobs.run(lambda _: jobs.close())
    assert store.queue("jobs").stats().accepted == 1


def test_a_closed_store_ends_it(store: mqlog.Store, jobs: Jobs) -> None:
    seen = threading.Event()
    thread = in_thread(jobs, lambda _: seen.set())
    jobs.put(b"a")
    assert seen.wait(30.0)
    wait_until(lambda: jobs.stats().accepted == 1)
    store.close()
    assert isinstance(ended(thread), mqlog.ClosedError)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_deleted_queue_ends_it(store: mqlog.Store, jobs: Jobs, threads: int) -> None:
    seen = threading.Event()
    thread = in_thread(jobs, lambda _: seen.set(), threads=threads)
    jobs.put(b"a")
    assert seen.wait(30.0)
    wait_until(lambda: jobs.stats().accepted == 1)
    store.delete_topic("jobs")
    assert isinstance(ended(thread), mqlog.TopicDeletedError)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_when_the_message_in_hand_is_done(jobs: Jobs, number: int) -> None:
    before = signal.getsignal(number)
    done: list[bytes] = []

    def handle(message: Message[bytes]) -> None:
        signal.raise_signal(number)
        done.append(message.value)

    jobs.put_many([b"a", b"b"])
    jobs.run(handle)
    assert done == [b"a"]
    stats = jobs.stats()
    assert (stats.accepted, stats.ready, stats.acquired) == (1, 1, 0)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("threads", [1, 3])
def test_a_signal_ends_a_run_that_waits(jobs: Jobs, threads: int) -> None:
    def signal_when_done() -> None:
        wait_until(lambda: jobs.stats().accepted == 1)
        os.kill(os.getpid(), signal.SIGTERM)

    jobs.put(b"a")
    jobs.run(lambda _: threading.Thread(target=signal_when_done).start(), threads=threads)
    assert jobs.empty()


def test_a_second_interrupt_breaks_the_handler_and_its_message_is_not_counted(jobs: Jobs) -> None:
    def handle(_: Message[bytes]) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    jobs.put(b"a")
    with pytest.raises(KeyboardInterrupt):
        jobs.run(handle)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with jobs.get(block=False) as message:
        assert message.delivery_count == 1


def test_a_signal_that_is_ignored_stays_ignored(jobs: Jobs) -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        jobs.put_many([b"a", b"b"])
        jobs.run(lambda _: signal.raise_signal(signal.SIGTERM), until_empty=True)
        assert jobs.stats().accepted == 2
    finally:
        signal.signal(signal.SIGTERM, before)


def test_in_another_thread_it_leaves_signals_alone(jobs: Jobs) -> None:
    before = signal.getsignal(signal.SIGTERM)
    during: list[Any] = []
    jobs.put(b"a")
    thread = in_thread(
        jobs, lambda _: during.append(signal.getsignal(signal.SIGTERM)), until_empty=True
    )
    assert ended(thread) is None
    assert during == [before]


# -- what is refused -------------------------------------------------------------------------------


class Callable:
    def __call__(self, message: Message[bytes]) -> None: ...


async def coroutine(message: Message[bytes]) -> None: ...


def generator(message: Message[bytes]) -> Iterator[None]:
    yield


def test_a_handler_that_cannot_be_called_or_only_made_ready_is_refused(jobs: Jobs) -> None:
    jobs.put(b"a")
    for handler in (None, "jobs:work", 7):
        with pytest.raises(TypeError, match="handler is a function of a message, not"):
            jobs.run(handler, until_empty=True)  # type: ignore[arg-type]
    for handler in (coroutine, generator, functools.partial(coroutine)):
        with pytest.raises(TypeError, match="run\\(\\) takes a plain function"):
            jobs.run(handler, until_empty=True)
    assert jobs.qsize() == 1
    jobs.run(Callable(), until_empty=True)
    assert jobs.qsize() == 0


def test_a_handler_that_workers_cannot_import_is_refused(jobs: Jobs) -> None:
    def local(_: Message[bytes]) -> None: ...

    remedy = "Define it at the top level of a module, or run with processes=0, threads=N"
    for handler in (lambda _: None, local, functools.partial(local), threading.Lock().acquire):
        with pytest.raises(TypeError, match=remedy):
            jobs.run(handler, processes=1)


def test_a_codec_that_workers_cannot_import_is_refused(store: mqlog.Store) -> None:
    class Local:
        name = "local"

        def encode(self, value: Any, /) -> bytes:
            return bytes(value)

        def decode(self, data: bytes, /) -> Any:
            return data

    with pytest.raises(TypeError, match="its codec, and the clock of its store, must be"):
        store.queue("odd", codec=Local()).run(print, processes=1)


def test_numbers_out_of_range_are_refused(jobs: Jobs) -> None:
    for how, error in (
        ({"processes": -1}, ValueError),
        ({"processes": 1.0}, TypeError),
        ({"processes": True}, TypeError),
        ({"threads": 0}, ValueError),
        ({"threads": "4"}, TypeError),
        ({"processes": 1, "timeout": 0}, ValueError),
        ({"processes": 1, "timeout": -1.0}, ValueError),
        ({"processes": 1, "timeout": "1"}, TypeError),
    ):
        with pytest.raises(error, match=str([*how][-1])):
            jobs.run(print, **how)  # type: ignore[arg-type]


def test_a_timeout_takes_a_process_that_can_be_killed(jobs: Jobs) -> None:
    with pytest.raises(ValueError, match="timeout= takes processes=1 or more"):
        jobs.run(print, timeout=1.0)


def test_a_closed_handle_runs_nothing(jobs: Jobs) -> None:
    jobs.close()
    with pytest.raises(mqlog.ClosedError):
        jobs.run(print)


def test_retry_and_reject_are_plain_exceptions() -> None:
    assert Retry.__mro__[1] is Exception
    assert Reject.__mro__[1] is Exception
    again, no = Retry(2.5, "busy"), Reject("bad")
    assert (again.delay, again.reason, no.reason) == (2.5, "busy", "bad")
    assert (Retry().delay, Retry().reason, Reject().reason) == (None, "", "")


def test_nothing_is_left_running(jobs: Jobs) -> None:
    before = set(threading.enumerate())
    jobs.put_many([b"x"] * 10)
    jobs.run(lambda _: None, threads=3, until_empty=True)
    wait_until(lambda: {one for one in threading.enumerate() if "mqlog-" in one.name} <= before)


def test_the_log_is_that_of_mqlog(jobs: Jobs, caplog: pytest.LogCaptureFixture) -> None:
    jobs.put(b"a")
    jobs.run(lambda _: 1 / 0, until_empty=True)
    mine = [one for one in caplog.records if one.exc_info]
    assert {(one.name, one.levelno) for one in mine} == {("mqlog", logging.ERROR)}
    assert len(mine) == 5
