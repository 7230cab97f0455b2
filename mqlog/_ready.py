"""Waiting on several handles at once, and descriptors for event loops.

A handle is ready while it has something unread (`_unread`). For each store that has descriptors to
feed, one thread sleeps on the store's doorbell and shows on each handle's eventfd whether it is
ready; the handle itself shows it again after each call that reads. While nothing is published the
thread sleeps, and while every descriptor is readable anyway it does not even listen.
"""

from __future__ import annotations

import os
import select
import threading
import weakref
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from mqlog import _engine
from mqlog._times import Deadline, check_seconds
from mqlog.errors import Error

if TYPE_CHECKING:
    from mqlog._store import Store

#: The longest sleep: a consumer that may take over a partition is not told by any bell.
SLICE: Final = 0.25


class Waitable(Protocol):
    """What `wait` and `Watcher` ask of a handle."""

    _store: Store

    def _alive(self) -> None:
        """Raises if it was closed; opens it again after a fork. The caller's thread only."""

    def _unread(self) -> bool:
        """Whether there is something to read; any thread may ask."""

    def _due_in(self) -> float:
        """Seconds until it may become ready without anybody ringing; inf: never."""

    def _noted(self) -> None:
        """`wait` has told the caller what `_unread` said."""

    def fileno(self) -> int:
        """A descriptor that is readable while there is something to read."""


def wait(handles: Sequence[Any], timeout: float | None = None) -> list[Any]:
    """Waits until one of the handles has something to read, and returns those that have.

    A queue is ready while `get` would return at once. A consumer is ready while it has records
    that it has not given out, or partitions to take over or hand on; a stream when records have
    come since it was opened, or since its last `tail` or `wait`. A ready consumer's next `poll`
    returns at once, if need be with nothing.

    Args:
        handles: Queues, streams and consumers, of one store or several; at least one.
        timeout: Seconds; None waits for ever, 0 only looks.

    Returns:
        The ready ones, in the order given; [] at the timeout.

    Raises:
        ClosedError: One of them, or its store, was closed.
        ReadOnlyError: One of them is of a store opened with `mode="r"`.

    Any thread may call it. It blocks.
    """
    if not isinstance(handles, Iterable) or callable(getattr(handles, "_unread", None)):
        kind = type(handles).__name__
        raise TypeError(f"wait() takes a list of streams and consumers, not {kind}")
    waitable = list(handles)
    for handle in waitable:
        if not callable(getattr(handle, "_unread", None)):
            kind = type(handle).__name__
            raise TypeError(f"wait() takes queues, streams and consumers, not {kind}")
        handle._store._writable("wait()")
        handle._alive()
    if not waitable:
        raise ValueError("wait() takes at least one handle")
    deadline = Deadline(check_seconds("timeout", timeout))
    while True:
        bells = {id(core): (core, core.bell()) for core in _cores(waitable)}
        ready = [handle for handle in waitable if handle._unread()]
        if ready:
            for handle in ready:
                handle._noted()
            return ready
        left = deadline.left(SLICE)
        if not left:
            return []
        if len(bells) == 1:
            core, seen = next(iter(bells.values()))
            core.wait_bell(seen, min(left, *(handle._due_in() for handle in waitable)))
        else:
            _poll([handle.fileno() for handle in waitable], left)


def _cores(handles: list[Any]) -> list[_engine.Store]:
    return [handle._store._live() for handle in handles]


def _poll(descriptors: list[int], timeout: float) -> None:
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    poll.poll(timeout * 1000)


class Signal:
    """An eventfd that is readable while a handle is ready."""

    def __init__(self, handle: Waitable) -> None:
        self.handle = weakref.ref(handle)
        self.descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.shown = False
        self._lock = threading.Lock()  # over `shown` and what it stands for

    def show(self) -> bool:
        """Makes the descriptor say what the handle says now; True if it is readable."""
        with self._lock:
            handle = self.handle()
            if handle is None or self.descriptor < 0:
                return True
            try:
                ready = handle._unread()
            except Error:
                ready = True  # the caller's next call tells him why
            if ready and not self.shown:
                os.eventfd_write(self.descriptor, 1)
            elif self.shown and not ready:
                os.eventfd_read(self.descriptor)
            self.shown = ready
            return ready

    def close(self) -> None:
        """Gives the descriptor back."""
        with self._lock:
            self.abandon()

    def abandon(self) -> None:
        """The same in a forked child, where a lock that the parent's thread held stays held."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class Watcher:
    """Feeds the descriptors of one store's handles."""

    def __init__(self, core: _engine.Store) -> None:
        self._core = core
        self._signals: list[Signal] = []
        self._lock = threading.Lock()  # over _signals
        self._look = threading.Event()  # a signal was added, or went dark
        self._thread: threading.Thread | None = None

    def signal(self, handle: Waitable) -> Signal:
        """A new signal for a handle; the thread is there from the first one on."""
        signal = Signal(handle)
        with self._lock:
            self._signals.append(signal)
            if self._thread is None:
                name = f"mqlog-watch-{self._core.path}"
                self._thread = threading.Thread(target=self._run, name=name, daemon=True)
                self._thread.start()
        self.show(signal)
        return signal

    def show(self, signal: Signal) -> None:
        """After a call that read something: the descriptor follows, and the thread listens."""
        if not signal.show():
            self._look.set()

    def drop(self, signal: Signal) -> None:
        """The handle was closed."""
        with self._lock:
            if signal in self._signals:
                self._signals.remove(signal)
        signal.close()

    def close(self) -> None:
        """After the store was closed: the thread ends, the descriptors go."""
        self._look.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        for signal in self._signals:
            signal.close()

    def forget(self) -> None:
        """In a forked child: gives the descriptors back; there is no thread to end."""
        for signal in self._signals:
            signal.abandon()

    def _run(self) -> None:
        try:
            while True:
                self._look.clear()
                seen = self._core.bell()
                if self._show_all():
                    self._look.wait(SLICE)
                else:
                    self._core.wait_bell(seen, min(SLICE, self._due_in()))
        except Error:
            return  # the store was closed: calls on the handles say so

    def _due_in(self) -> float:
        """Seconds until the first delayed record of a queue is due."""
        with self._lock:
            handles = [signal.handle() for signal in self._signals]
        return min((handle._due_in() for handle in handles if handle is not None), default=SLICE)

    def _show_all(self) -> bool:
        """Whether every descriptor is readable, so that there is nothing to listen for."""
        with self._lock:
            signals = list(self._signals)
        dark = 0
        for signal in signals:
            if signal.handle() is None:
                self.drop(signal)
            else:
                dark += not signal.show()
        return dark == 0
