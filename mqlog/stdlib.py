"""A drop-in for the standard library's `queue.Queue` whose values outlive the process.

    from mqlog import codecs, stdlib

    jobs = stdlib.Queue("jobs", codec=codecs.json)  # a directory; any number of processes open it
    jobs.put({"resize": "cat.png"})
    job = jobs.get()                                # the value, as queue.Queue has it
    jobs.task_done()                                # done; after a crash before this it comes again

It passes the tests that CPython has for `queue.Queue`. What is different, and why:

* A codec is given, since values become bytes; `codecs.pickle` takes what `queue.Queue` takes.
* `shutdown(immediate=True)` empties this handle's view of the queue, not the store: nothing is ever
  discarded, and the next handle finds it.
* A value that was got is done when `task_done` says so; if the process dies before, it comes again.
  A program that never calls `task_done` says `done="get"`, and may lose what it was working on.
* A value whose holders died five times may be the reason: it goes to the dead letters.
* There is nothing of `queue.Queue`'s inside: no `mutex`, no `_put` or `_get` to override. There is
  no `LifoQueue` and no `PriorityQueue`: a log has one order, and `mqlog.Queue` has priorities.
* A sentinel such as None is a value like any other: it is stored, and one process gets it.

The store in the directory has one topic, `queue`, which `mqlog` and `mqlog.open` can look at.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from typing import Any, Final, Literal, Self

from mqlog._engine import Message
from mqlog._queue import Queue as _Queue
from mqlog._store import open as _open
from mqlog._typing import Generic, T
from mqlog.codecs import Codec
from mqlog.errors import Empty, Full, NotFoundError, ShutDown

__all__ = ["Empty", "Full", "Queue", "ShutDown"]

#: The topic that holds the values.
TOPIC: Final = "queue"

_SLICE: Final = 0.25  # seconds between two looks at what only this handle knows


class Queue(Generic[T]):
    """A first in, first out queue of values, in a store.

    Any thread of any process may open the directory and call any method; several handles are one
    queue. It pickles as its directory, and is a context manager that closes.

    Args:
        path: The store's directory; made, with those above it, if it is not there.
        maxsize: As in `queue.Queue`: `put` waits while so many values wait to be got. 0: what is
            stored, and at first no bound. Another than the stored one is an `OptionError`, unless
            it is assigned: `queue.maxsize = 100` changes it for every process.
        codec: Makes bytes of values, and values of them again: `mqlog.codecs.json`, `pickle`, …
        done: When a value is done. `"task_done"`: when `task_done` is called for it, so that it
            comes again if this process dies before. `"get"`: when `get` returns it, at most once.

    Raises:
        OptionError: The queue has another codec or another bound.
        The rest as `mqlog.open`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        maxsize: int = 0,
        *,
        codec: Codec[T],
        done: Literal["task_done", "get"] = "task_done",
    ) -> None:
        if done not in ("task_done", "get"):
            raise ValueError(f'done={done!r}: "task_done" or "get"')
        self._codec = codec
        self._done = done
        self._dropped = False  # by an immediate shutdown: this handle sees an empty queue
        self._held = _Held(keeps=done == "task_done")
        self._store = _open(path)
        # Whoever drops a queue.Queue need not close it; whoever drops this need not either.
        self._end = weakref.finalize(self, self._store.close)
        try:
            self._queue = self._open_queue(maxsize)
        except BaseException:
            self._end()
            raise

    def _open_queue(self, maxsize: int) -> _Queue[tuple[T], tuple[T]]:
        codec = _InTuple(self._codec)
        options: dict[str, Any] = {"maxsize": maxsize} if maxsize > 0 else {}
        try:
            return self._store.queue(TOPIC, codec=codec, create=False, **options)
        except NotFoundError:
            # A value is got until it is done or its holder dies, however long that takes.
            return self._store.queue(TOPIC, codec=codec, lock_duration=None, **options)

    def __repr__(self) -> str:
        return f"<mqlog.stdlib.Queue {str(self._store.path)!r}>"

    @property
    def maxsize(self) -> int:
        """How many values may wait; 0: no bound. Assigning changes what is stored, durably."""
        return int(self._store.options(TOPIC)["maxsize"])

    @maxsize.setter
    def maxsize(self, maxsize: int) -> None:
        self._store.alter(TOPIC, maxsize=max(0, maxsize))

    # putting and getting

    def put(self, item: T, block: bool = True, timeout: float | None = None) -> None:
        """Puts a value. On return every process sees it, and it survives the death of any.

        Raises:
            Full: The queue is full, and it was not to wait, or not any longer.
            ShutDown: This handle was shut down.
            TypeError, ValueError: Whatever the codec raises for what it cannot encode.
            RecordTooLargeError: Encoded it is over 1 MiB, or the topic's `max_message_bytes`.
            OSError: `ENOSPC`: the disk is full; `EDQUOT`: a quota.
        """
        if block:
            self._queue.put((item,), timeout=timeout)
        else:
            self._queue.put((item,), False)

    def put_nowait(self, item: T) -> None:
        """`put(item, block=False)`."""
        self.put(item, False)

    def get(self, block: bool = True, timeout: float | None = None) -> T:
        """Gives the next value: one that came back from a dead process first, then the oldest.

        A value that the codec cannot decode goes to the dead letters, and its error comes out.

        Raises:
            Empty: None came within the time.
            ShutDown: This handle was shut down, and nothing is left.
        """
        message = self._queue.get(True, timeout) if block else self._queue.get(False)
        try:
            (value,) = message.value
        except Exception as error:
            message.reject(f"{type(error).__name__}: {error}")
            raise
        if self._done == "get":
            message.accept()
        self._held.add(message)
        return value

    def get_nowait(self) -> T:
        """`get(block=False)`."""
        return self.get(False)

    # being done

    def task_done(self) -> None:
        """The oldest value that this thread got, or else any, is done: it never comes again.

        Raises:
            ValueError: It was called more often than `get`, in this process.
            LockLostError: The value was given to another process meanwhile, since somebody gave
                the share group a `lock_duration`.
        """
        self._held.finish_one()

    def join(self) -> None:
        """Waits until every value is done, those included that any process puts meanwhile.

        After an immediate shutdown: until those are done that this handle got.
        """
        while not self._dropped:
            if self.unfinished_tasks == 0:
                return
            try:
                self._queue.join(_SLICE)
            except TimeoutError:
                pass
        self._held.wait_for_none()

    @property
    def unfinished_tasks(self) -> int:
        """How many values are not done."""
        if self._dropped:
            return len(self._held)
        stats = self._queue.stats()
        return stats.ready + stats.delayed + stats.acquired

    # what there is

    def qsize(self) -> int:
        """How many values wait to be got: a hint, as in the standard library."""
        return 0 if self._dropped else self._queue.qsize()

    def empty(self) -> bool:
        """Whether none waits to be got: a hint."""
        return self.qsize() == 0

    def full(self) -> bool:
        """Whether a put would wait: a hint."""
        return not self._dropped and self._queue.full()

    # ending

    def shutdown(self, immediate: bool = False) -> None:
        """Ends this handle's puts, and its gets once nothing is left (`immediate`: at once).

        Calls that wait end with `ShutDown`. Nothing is stored and nothing discarded.
        """
        self._queue.shutdown(immediate)
        self._dropped = self._dropped or immediate

    @property
    def is_shutdown(self) -> bool:
        """Whether `shutdown` was called."""
        return self._queue.is_shutdown

    def close(self) -> None:
        """Closes the store. What was got and is not done comes again; waiting calls end.

        Dropping the handle closes it too, and so does the end of the interpreter.
        """
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrive, (str(self._store.path), self._codec, self._done)


def _arrive(path: str, codec: Codec[T], done: Literal["task_done", "get"]) -> Queue[T]:
    return Queue(path, codec=codec, done=done)


class _InTuple(Generic[T]):
    """The codec for a value in a tuple: `mqlog.Queue.put` refuses None, `queue.Queue` does not."""

    def __init__(self, codec: Codec[T]) -> None:
        self.name = codec.name
        self._codec = codec

    def encode(self, value: tuple[T], /) -> bytes:
        return self._codec.encode(value[0])

    def decode(self, data: bytes, /) -> tuple[T]:
        return (self._codec.decode(data),)


class _Held:
    """What was got and is not done: messages, by the thread that got them, or only their number.

    By thread, since in a pool the thread that got the oldest value is not the one that is done
    first. A forked child holds nothing: what its parent got is its parent's.
    """

    def __init__(self, *, keeps: bool) -> None:
        self._keeps = keeps
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition()  # over the two below
        self._got = 0  # all that were ever got; if nothing is kept, less those that are done
        self._threads: dict[int, deque[tuple[int, Message[Any]]]] = {}

    def _lock(self) -> threading.Condition:
        if self._pid != os.getpid():
            self._begin()
        return self._changed

    def __len__(self) -> int:
        with self._lock():
            return sum(map(len, self._threads.values()))

    def add(self, message: Message[Any]) -> None:
        with self._lock():
            self._got += 1
            if self._keeps:
                own = self._threads.setdefault(threading.get_ident(), deque())
                own.append((self._got, message))

    def finish_one(self) -> None:
        """Accepts the oldest of this thread, else of all.

        Raises:
            ValueError: It was called more often than `add`.
        """
        with self._lock():
            if not (self._threads if self._keeps else self._got):
                raise ValueError("task_done() called too many times")
            if not self._keeps:
                self._got -= 1
                return
            thread = threading.get_ident()
            if thread not in self._threads:
                thread = min(self._threads, key=lambda other: self._threads[other][0][0])
            _, message = self._threads[thread].popleft()
            try:
                message.accept()
            finally:
                if not self._threads[thread]:
                    del self._threads[thread]
                self._changed.notify_all()

    def wait_for_none(self) -> None:
        with self._lock():
            self._changed.wait_for(lambda: not self._threads)
