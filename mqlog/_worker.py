"""What a worker does: takes a message, hands it to the handler, settles it; never two at a time.

A `Crew` is the threads of one process that do so, and one thread in the background, the keeper. It
renews the locks of what is in hand, looks how long handlers take, and hears whoever may end the
crew: the pool that this process was started by (`_pool.py`), or the handle that `run` was called
on. A crew takes from a handle of its own, so that ending it ends nothing else.

Nothing here has to run for a message to be safe: it stays acquired until it is settled, and goes
back to the queue when this process dies.
"""

from __future__ import annotations

import copy
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from mqlog._engine import Message
from mqlog._times import check_seconds, later_ms
from mqlog.errors import (
    ClosedError,
    CorruptError,
    DurabilityError,
    Empty,
    LockLostError,
    SettledError,
    ShutDown,
)

if TYPE_CHECKING:
    from mqlog._queue import Queue

LOGGER: Final = logging.getLogger("mqlog")

Handler = Callable[[Message[Any]], object]
#: Sleeps up to so many seconds, in the keeper's thread, and ends the crew if somebody says so.
Listen = Callable[[float], object]

RELEASE, RENEW = 1, 2  # mqlog.h: enum mql_settle_event
UNCOUNTED: Final = 4  # enum mql_settle_flags

#: Between two looks at what may have changed.
SLICE: Final = 0.25
_LONGEST: Final = 1e9
#: What a process gives back before it kills itself is delivered only when it is surely dead.
_LAST_BREATH: Final = 0.1


class Retry(Exception):
    """Raised by a handler of `Queue.run`: the message is to be delivered again.

    Attributes:
        delay: Seconds before which it is not; None: the group's back-off (`retry_delays`).
        reason: What the dead letters say, if this was its last delivery.
    """

    def __init__(self, delay: float | None = None, reason: str = "") -> None:
        if (check_seconds("delay", delay) or 0.0) > _LONGEST:
            raise ValueError(f"delay={delay!r}: seconds, up to {_LONGEST:g}, or None")
        super().__init__(delay, reason)
        self.delay = delay
        self.reason = reason


class Reject(Exception):
    """Raised by a handler of `Queue.run`: the message goes to the dead letters at once.

    Attributes:
        reason: What they say of it.
    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


class _Job:
    """A message in a handler's hands; the keeper looks at it."""

    __slots__ = ("message", "renewed", "started")

    def __init__(self, message: Message[Any]) -> None:
        self.message = message
        self.started = self.renewed = time.monotonic()


class Crew:
    """The threads of this process that work for `queue`. One `run`, in any thread."""

    def __init__(
        self,
        queue: Queue[Any, Any],
        handler: Handler,
        *,
        threads: int,
        timeout: float | None = None,
        until_empty: bool = False,
    ) -> None:
        self._queue = copy.copy(queue)
        self._handler = handler
        self._threads = threads
        self._timeout = timeout
        self._until_empty = until_empty
        self._over = False
        self._failure: BaseException | None = None
        self._jobs: set[_Job] = set()
        # Who may go to work. With one thread nobody ever waits for a turn.
        self._turn = threading.Condition()
        self._busy = 0  # threads with a message in hand; under _turn
        self._alone: object = None  # the thread that works, or wants to work, alone; under _turn
        self._told_idle = False  # under _turn
        self._ended = threading.Event()

    # for those who started it

    def stop(self) -> None:
        """No new message is taken; those in hand are finished. For signal handlers too."""
        self._over = True
        with suppress(ClosedError):
            self._queue.shutdown(immediate=True)

    def drain(self) -> None:
        """The crew ends when nothing is there to be delivered now."""
        with suppress(ClosedError):
            self._queue.shutdown()

    def idle(self) -> None:
        """Nothing is there now, and nothing in hand: with `until_empty`, that is the end."""
        self.stop()

    def back(self) -> None:
        """A message has come after `idle` was called."""

    def watch(self, seconds: float) -> None:
        """Sleeps in the keeper's thread, and hears who may end the crew."""
        self._ended.wait(seconds)

    def beat(self) -> None:
        """The keeper is alive."""

    def is_wanted(self) -> bool:
        """Whether another message is to be taken."""
        return not self._over

    # the threads

    def run(self) -> None:
        """Works until it was stopped. Raises what ended it, if anything did."""
        keeper = threading.Thread(target=self._keep, name="mqlog-keeper", daemon=True)
        keeper.start()
        threads: list[threading.Thread] = []
        try:
            if self._threads == 1:
                self._work()
            else:
                for number in range(self._threads):
                    name = f"mqlog-worker-{number}"
                    threads.append(threading.Thread(target=self._work, name=name, daemon=True))
                    threads[-1].start()
                for thread in threads:
                    while thread.is_alive():
                        thread.join(SLICE)  # a signal just before would not end a longer sleep
        finally:
            self._over = True
            if not any(thread.is_alive() for thread in threads):
                self._ended.set()
                keeper.join()
                self._queue.close()
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        try:
            while (message := self._next()) is not None:
                try:
                    self._handle(message)
                finally:
                    self._leave()
        except BaseException as error:
            if self._failure is None:
                self._failure = error
            self.stop()

    def _next(self) -> Message[Any] | None:
        """A message that may go to the handler; None: it is over."""
        while self.is_wanted():
            try:
                message = self._take()
            except ShutDown:
                return None
            except CorruptError as error:
                LOGGER.error("a record of %r is damaged, and left out: %s", self._queue, error)
                continue
            if message is not None and self._admits(message):
                return message
        return None

    def _take(self) -> Message[Any] | None:
        """Any message; None: look again."""
        alone = self._waits_alone()
        if not alone and not self._until_empty:
            return self._queue.get()
        try:
            return self._queue.get(block=False)
        except Empty:
            pass
        if alone:
            self._open()
            return None
        return self._queue.get() if self._waits_for_others() else None

    def _waits_for_others(self) -> bool:
        """With `until_empty`, when nothing is there: whether something may yet come."""
        with self._turn:
            if self._busy == 0 and not self._told_idle:
                self._told_idle = True
                self.idle()
        return self.is_wanted()

    # Whose turn it is. A record on its last delivery works alone: if it kills the process, as it
    # may have done before, no other record pays for it. Nobody waits for that with the record in
    # hand: it is given back, uncounted, and taken again when nobody else is busy.

    def _admits(self, message: Message[Any]) -> bool:
        """Whether the message goes to the handler now; else it was given back."""
        me = threading.get_ident()
        last = self._threads > 1 and self._is_last_chance(message)
        with self._turn:
            if self._alone in (None, me) and not (last and self._busy):
                self._alone = me if last else None
                if not last:
                    self._turn.notify_all()
                self._busy += 1
                if self._told_idle:
                    self._told_idle = False
                    self.back()
                return True
            if self._alone is None:
                self._alone = me
        message._settle(RELEASE, 0, UNCOUNTED)
        return False

    def _is_last_chance(self, message: Message[Any]) -> bool:
        """Its last delivery, and others have failed."""
        return message.delivery_count > 1 and self._queue._is_last(message)

    def _waits_alone(self) -> bool:
        """Waits while another thread works alone. True: it is this one's turn to be alone."""
        me = threading.get_ident()
        with self._turn:
            while self.is_wanted():
                if self._alone is None or (self._alone == me and self._busy == 0):
                    return self._alone == me
                self._turn.wait(SLICE)  # nobody tells of the end: a signal handler cannot
        raise ShutDown

    def _open(self) -> None:
        with self._turn:
            self._alone = None
            self._turn.notify_all()

    def _leave(self) -> None:
        """A message was settled."""
        with self._turn:
            self._busy -= 1
            if self._alone == threading.get_ident():
                self._alone = None
            self._turn.notify_all()

    # one message

    def _handle(self, message: Message[Any]) -> None:
        job = _Job(message)
        self._jobs.add(job)
        try:
            settle = self._outcome(message)
        finally:
            self._jobs.discard(job)
        if message.settled:  # by the handler itself, or the keeper has said what became of it
            return
        try:
            settle()
        except LockLostError:
            _say_lost(message)
        except (ClosedError, DurabilityError):
            raise
        except Exception as error:
            LOGGER.error("%r could not be settled, and is delivered again: %s", message, error)

    def _outcome(self, message: Message[Any]) -> Callable[[], object]:
        """Runs the handler; how the message is to be settled."""
        try:
            if self._queue._codec is not None:
                message.value  # noqa: B018 - decoded now, so that what cannot be is known
        except Exception as error:
            why = f"its value does not decode: {type(error).__name__}: {error}"
            return lambda: message.reject(why)
        try:
            self._handler(message)
        except Retry as again:
            delay = self._queue._back_off(message) if again.delay is None else again.delay
            reason = str(again.reason) or "the handler raised Retry"
            return lambda: message.release(delay, reason)
        except Reject as no:
            reason = str(no.reason)
            return lambda: message.reject(reason)
        except KeyboardInterrupt as error:
            self._queue._failed(message, error)
            raise
        except BaseException as error:
            return self._failed(message, error)
        return message.accept

    def _failed(self, message: Message[Any], error: BaseException) -> Callable[[], object]:
        delay = self._queue._back_off(message)
        reason = f"{type(error).__name__}: {error}"
        last = self._queue._is_last(message)
        then = "goes to the dead letters" if last else f"is delivered again in {delay:g} s"
        what = "%s: the handler failed in delivery %d; the message %s"
        LOGGER.error(what, message.id, message.delivery_count, then, exc_info=error)
        return lambda: message.release(delay, reason)

    # the keeper

    def _keep(self) -> None:
        while not self._ended.is_set():
            try:
                lock = self._queue._group_options["lock_duration"]
                self.watch(_tick(lock, self._timeout))
                self.beat()
                now = time.monotonic()
                for job in sorted(self._jobs, key=lambda job: job.started):
                    if self._timeout is not None and now - job.started > self._timeout:
                        self._expire(job)
                    elif lock is not None and now - job.renewed > lock / 3:
                        job.renewed = now
                        self._renew(job.message)
            except ClosedError:
                self.stop()
                self._ended.wait(SLICE)
            except Exception:
                LOGGER.exception("the keeper of %r goes on after an error", self._queue)
                self._ended.wait(SLICE)

    def _renew(self, message: Message[Any]) -> None:
        try:
            message._settle(RENEW, self._queue._lock_ms(...))
        except SettledError:
            pass
        except LockLostError:
            if any(job.message is message for job in list(self._jobs)):
                _say_lost(message)

    def _expire(self, job: _Job) -> None:
        """Kills this process, which nothing else stops a handler that does not come back."""
        if job not in self._jobs:  # it has come back just now
            return
        self.stop()
        what = "%s: the handler has not come back within timeout=%g s; worker %d is killed"
        LOGGER.error(what, job.message.id, self._timeout, os.getpid())
        when = later_ms(_LAST_BREATH, self._queue._store._now())
        for other in list(self._jobs):
            if other is not job:
                with suppress(Exception):  # it is free when this process is dead, in any case
                    other.message._settle(RELEASE, when, UNCOUNTED)
        with suppress(Exception):
            reason = f"the handler did not come back within timeout={self._timeout:g} s"
            job.message.release(_LAST_BREATH, reason)
        os.kill(os.getpid(), signal.SIGKILL)


class Here(Crew):
    """A crew in the process that called `run`: it ends with the handle that this was called on."""

    def __init__(self, queue: Queue[Any, Any], handler: Handler, **how: Any) -> None:
        super().__init__(queue, handler, **how)
        self._origin = queue
        self._drains = False

    def is_wanted(self) -> bool:
        """Looks at the handle before each message."""
        origin = self._origin
        if origin._closed or origin._store.closed or origin._halts:
            self.stop()
        elif origin.is_shutdown and not self._drains:
            self._drains = True
            self.drain()
        return super().is_wanted()

    def watch(self, seconds: float) -> None:
        """Looks at the handle while the threads sleep in `get`, too."""
        super().watch(seconds)
        self.is_wanted()


def _tick(lock: float | None, timeout: float | None) -> float:
    """How long the keeper sleeps: so that nothing is late by more than a part of what it takes."""
    longest = [SLICE]
    if lock is not None:
        longest.append(lock / 6)
    if timeout is not None:
        longest.append(timeout / 10)
    return max(0.005, min(longest))


def _say_lost(message: Message[Any]) -> None:
    LOGGER.warning(
        "%s: its lock passed while the handler had it; it is delivered again, and what this "
        "handler did with it does not count",
        message.id,
    )
