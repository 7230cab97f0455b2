"""Queues: every record goes to one of the competing consumers, and none is lost when one dies.

A `Queue` is the engine's `Taker` with the policy added: what a failure leads to, where dead letters
go, which partition a priority has. The hot calls, `put` of a plain value, `get` and `accept`, stay
in the engine's border; what they cannot do themselves they ask of the methods below.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Self

from mqlog import _dead, _engine, _facts, _options, _put, _sharing
from mqlog._catalog import Topic
from mqlog._engine import ACCEPT, ARCHIVE, DEAD, DURABLE, RELEASE, RENEW, UNCOUNTED, Message, Record
from mqlog._info import AcquiredInfo, QueueStats
from mqlog._store import Store
from mqlog._times import EARLIEST, Deadline, Start, check_delay, check_seconds, later_ms, resolve
from mqlog._typing import Generic, Headers, In, Out
from mqlog.errors import (
    ClosedError,
    Empty,
    LockLostError,
    NotFoundError,
    ShutDown,
    TopicDeletedError,
)

if TYPE_CHECKING:
    from mqlog._ready import Signal
    from mqlog.codecs import Codec

LOGGER: Final = logging.getLogger("mqlog")

#: A generation that no store ever has: a handle bound with it asks `_refresh` before every call.
_NEVER: Final = 2**32 - 1
#: Between two looks at what may have changed.
_SLICE: Final = 0.25


class Queue(_engine.Taker, Generic[Out, In]):
    """A topic whose records are shared out among competing consumers. Made by `Store.queue`.

    A record that was put is delivered to one consumer at a time, as a `Message` under a lock with a
    deadline. Its holder accepts it, and it is final; or releases it, and it is delivered again; or
    rejects it, and it goes to the dead letters. If the holder dies, or lets the deadline pass, it
    is delivered again: within a second where the death is certain.

    Any thread of any process may call any method. It pickles as its store and name; in a forked
    child it opens itself again at first use. It is a context manager and, iterated, `messages()`.
    """

    def __init__(
        self, store: Store, topic: Topic, group: str, start: Start, codec: Codec[Any] | None
    ) -> None:
        self._store = store
        self._topic = topic.name
        self._id = topic.id
        self._share_group = group
        self._start = start
        self._codec = codec
        self._logs: list[_engine.Log] = []
        self._places: list[_engine.Share] = []
        self._letters: Queue[Out, In] | None = None  # where this handle moves messages to
        self._stuck = _dead.Stuck()
        self._signal: Signal | None = None
        self._closed = False
        self._stopped = False
        self._halts = False  # as `_halt` was told
        self._turns = 0
        self._refresh()

    @property
    def name(self) -> str:
        """The topic's name."""
        return self._topic

    @property
    def group(self) -> str:
        """The share group whose consumers these are."""
        return self._share_group

    def __repr__(self) -> str:
        group = "" if self._share_group == "default" else f" group {self._share_group!r}"
        closed = " closed" if self._closed else ""
        return f"<mqlog.Queue {self._topic!r}{group} of {str(self._store.path)!r}{closed}>"

    # putting

    if TYPE_CHECKING:

        def put(
            self,
            value: In,
            block: bool = True,
            timeout: float | None = None,
            *,
            key: bytes | None = None,
            headers: Headers = (),
            delay: float = 0.0,
            deliver_at: float | datetime | None = None,
            priority: int = 4,
            ttl: float | None = None,
            dedupe: str | bytes | None = None,
            durable: bool = False,
        ) -> int:
            """Puts one record, and returns its offset in its partition.

            On return it is visible to every process and survives the death of any of them; in a
            topic with `durability="sync"`, or with `durable=True`, a power cut too. Of a call that
            raises, nothing is visible; `DurabilityError` alone leaves it in the log, and so does a
            signal (Ctrl-C) that ends the waiting for the disk, or, of a delayed record, for a
            share group; that it is not due yet the record says itself.

            Args:
                value: Anything with the buffer protocol, or what the codec encodes.
                block: Wait while the queue is full (`maxsize`, `max_bytes`).
                timeout: Seconds to wait at most; None waits for ever.
                key: Records of one key, of one priority, go to one partition.
                headers: A mapping, or pairs; names may repeat.
                delay: Seconds before which it is not delivered; by the wall clock, also across
                    restarts.
                deliver_at: The same as a moment.
                priority: 0 to 9, higher first; within one, first in, first out.
                ttl: Seconds after which it is dropped if it was not delivered until then.
                dedupe: Puts nothing if this was put within `dedupe_window`, by whichever process,
                    and returns the first one's offset. Each priority, and with several partitions
                    each of them, remembers for itself: the same `dedupe` has to come with the same
                    `priority`, and with the same `key` or without one.
                durable: Return when it is on stable storage; never weaker than the topic.

            Raises:
                Full: The queue is full, and it was not to wait, or not any longer.
                ShutDown: This handle was shut down, or the topic's `intake` is "closed".
                RecordTooLargeError: Its batch would be over the topic's `max_message_bytes`.
                DurabilityError: A sync failed: in the log, not known to be on disk.
                OSError: `ENOSPC`: the disk, or the store's own bound, is full; `EDQUOT`: a quota.
                TypeError: Not bytes-like, and no codec.
                ValueError: A negative delay, no moment, no such priority, a reserved header name.

            Any thread may call it, `__del__` and signal handlers included.
            """

        def get(
            self,
            block: bool = True,
            timeout: float | None = None,
            *,
            lock_duration: float | None = ...,
        ) -> Message[Out]:
            """Acquires the next record: what is to be delivered again first, then the oldest.

            Args:
                block: Wait for one.
                timeout: Seconds to wait at most; None waits for ever.
                lock_duration: Seconds that this delivery is locked; None: until it is settled or
                    this process ends. Left out, the group's. A second or more counts from the
                    clock's last tick, up to 10 ms ago.

            Raises:
                Empty: None came within the time.
                ShutDown: This handle was shut down, and none is there.
                CorruptError: A record was damaged; it is archived, and the next call goes on.
                ClosedError: The handle or the store was closed, also while waiting.

            Any thread may call it. It blocks, at no cost, until there is one.
            """

    def put_nowait(self, value: In, **how: Any) -> int:
        """`put(value, block=False, **how)`."""
        return self.put(value, False, **how)

    def put_many(
        self,
        values: Iterable[In],
        *,
        keys: Iterable[bytes | None] | None = None,
        headers: Iterable[Headers] | None = None,
        delay: float = 0.0,
        priority: int = _put.PRIORITY,
        durable: bool = False,
    ) -> Sequence[int]:
        """Puts many records at once, all or nothing in each partition, and returns their offsets.

        It waits while the queue has no room for all of them. With a delay they are put one by one.

        Raises:
            ValueError: More values than `maxsize`, or a column of another length.

        Otherwise as `put`.
        """
        how = _put.How(delay=delay, priority=priority, durable=durable)
        return _put.put_many(self, _put.many(values, keys, headers), how)

    def _put(self, value: Any, block: bool, timeout: float | None, **how: Any) -> int:
        """What `put` does when it is not a plain one."""
        return _put.put(self, value, _put.time_to_wait(block, timeout), _put.How(**how))

    def _turn(self) -> int:
        """The next in turn of the partitions of one priority."""
        self._turns = (self._turns + 1) % self._width
        return self._turns

    # getting

    def get_nowait(self) -> Message[Out]:
        """`get(block=False)`."""
        return self.get(False)

    def get_many(self, n: int, timeout: float | None = None) -> list[Message[Out]]:
        """Acquires up to `n` records, as soon as one is there; [] at the timeout.

        All of them are locked from now on: a worker that takes one after the other asks for one.

        Raises:
            ValueError: `n` is less than 1.
            The rest as `get`.

        Any thread may call it. It blocks.
        """
        count = _count("n", n)
        seconds = check_seconds("timeout", timeout)
        return self._gather(count, True, seconds, self._lock_ms(...), False)

    def messages(self, timeout: float | None = None) -> Iterator[Message[Out]]:
        """Iterates over messages as they come; ends quietly after `timeout` seconds without one.

        It ends too when the handle is shut down and nothing is there. It settles nothing itself.

        One thread at a time; it blocks.
        """
        seconds = check_seconds("timeout", timeout)
        while True:
            try:
                yield self.get(True, seconds)
            except (Empty, ShutDown):
                return

    def __iter__(self) -> Iterator[Message[Out]]:
        """As `messages()`."""
        return self.messages()

    def peek(self, n: int = 1) -> list[Record[Out]]:
        """The records that would be delivered next, at most `n`; they are not acquired.

        Any thread may call it; it does not block.
        """
        count = _count("n", n)
        self._check()
        out: list[Record[Out]] = []
        for place in self._places:
            out += place.peek(count - len(out))
            if len(out) >= count:
                break
        return out

    def run(
        self,
        handler: Callable[[Message[Out]], object],
        *,
        processes: int = 0,
        threads: int = 1,
        timeout: float | None = None,
        until_empty: bool = False,
    ) -> None:
        """Works: hands one message after the other to `handler`, and settles it by what that does.

        A handler that returns has accepted; `mqlog.Retry` releases, `mqlog.Reject` sends to the
        dead letters. Anything else that it raises is logged with its traceback and releases with
        the group's back-off (`retry_delays`). What it has settled itself is left as it is. A value
        that does not decode is rejected. A worker takes no message before it is done with the last
        one, and locks are renewed as long as a handler runs. On its last delivery, unless that is
        its first, a message is in its process alone.

        With worker processes, one that dies is replaced, and what it had in hand is delivered
        again within a second; that counts as a delivery. So nothing is lost to `kill -9` of a
        worker, or of this process: then its workers finish what they have in hand, and end. They
        import the handler, and the main module (keep the call under
        `if __name__ == "__main__":`), and open the store themselves; what they log with the
        logger "mqlog" comes out here.

        Args:
            handler: A function at the top level of a module; with `processes=0` any callable.
                With threads it is called by several at once.
            processes: Worker processes; 0: it runs in this one.
            threads: In each process. With one, the handler runs in that process's main thread
                (with `processes=0`, in the calling one).
            timeout: Seconds after which a handler is given up: its process is killed, its message
                released at once, or dead if that was its last delivery, and what other threads of
                the process had in hand is released uncounted. Needs `processes=1` or more.
            until_empty: Return when there is nothing to deliver now, and no message in hand here.
                Delayed messages, those that wait for their next try among them, are not waited
                for, nor what others hold.

        SIGINT and SIGTERM end it: no new message is taken, those in hand are finished, and it
        returns. A second one kills the workers, and then does what it would have done without
        `run`. Both only if the main thread calls it; from another thread, `shutdown()` of this
        handle ends it when nothing is there, `shutdown(immediate=True)` and `close()` at once.

        Raises:
            TypeError: A handler that cannot be called, or not be imported by workers; a coroutine
                function. Nothing was taken.
            ValueError: A number out of range, or `timeout` with `processes=0`.
            TopicDeletedError: The queue was deleted.
            ClosedError: The handle or the store was closed meanwhile.
            DurabilityError: A sync failed; reopen the store.

        Any thread may call it, also several at once. It blocks until one of the ends named.
        """
        from mqlog import _pool  # upwards, here alone: a queue starts its workers

        _pool.run(
            self, handler, processes, threads=threads, timeout=timeout, until_empty=until_empty
        )

    def _empty(self) -> Empty:
        return Empty(f"nothing came to queue {self._topic!r} within the time")

    def _may_wait(self, raises: bool) -> bool:
        """There is nothing now: whether something may yet come to this handle."""
        if not self._stopped:
            return True
        if raises:
            raise ShutDown(f"{self!r} was shut down, and nothing is there")
        return False

    # settling many

    def accept(self, messages: Iterable[Message[Any]], *, durable: bool = False) -> None:
        """Accepts all of them that it can.

        A signal (Ctrl-C) that ends the waiting leaves some settled, which `settled` tells; if it
        came while `durable` waited for the disk, all are, but not known to be on disk.

        Raises:
            LockLostError: The locks of `.messages` were lost; all others are accepted.
            SettledError: One was settled before; nothing was changed.
            ValueError: One is of another queue; nothing was changed.
        """
        lost = self._settled(self._own(messages), ACCEPT, 0, DURABLE if durable else 0)
        self._raise_lost(lost)

    def release(
        self, messages: Iterable[Message[Any]], delay: float = 0.0, reason: str = ""
    ) -> None:
        """Releases all of them that it can, as `Message.release`; else as `accept`."""
        later = later_ms(check_delay("delay", delay), self._store._now())
        every = self._own(messages)
        again = [one for one in every if not self._is_last(one)]
        lost = self._settled(again, RELEASE, later, 0)
        last = [one for one in every if self._is_last(one)]
        lost += self._bury_all(last, reason or "released at its last delivery")
        self._raise_lost(lost)

    def reject(self, messages: Iterable[Message[Any]], reason: str = "") -> None:
        """Rejects all of them that it can, as `Message.reject`; else as `accept`.

        On return they are dead letters, durably, with the reason; or, on a full disk, are delivered
        to nobody and become dead letters when there is room, with the reason if this handle lives
        and is the one that moves them: until then it is kept in memory alone.
        """
        self._raise_lost(self._bury_all(self._own(messages), reason))

    def renew(self, messages: Iterable[Message[Any]], lock_duration: float | None = None) -> None:
        """Renews all the locks that it can, as `Message.renew`; else as `accept`."""
        every = self._own(messages)
        by_lock: dict[int, list[Message[Any]]] = {}
        for one in every:
            lock = one._lock_ms if lock_duration is None else self._lock_ms(lock_duration)
            by_lock.setdefault(lock, []).append(one)
        lost = [self._settled(some, RENEW, lock, 0) for lock, some in by_lock.items()]
        self._raise_lost([one for some in lost for one in some])

    def _own(self, messages: Iterable[Message[Any]]) -> list[Message[Any]]:
        every = list(dict.fromkeys(messages))
        for one in every:
            if not isinstance(one, Message):
                raise TypeError(f"not a message: {type(one).__name__}; nothing was changed")
            one._check_held()
            if not self._owns(one):
                raise ValueError(f"{one!r} is of another queue: nothing was changed")
        return every

    def _settled(
        self, messages: list[Message[Any]], event: int, when: int, flags: int
    ) -> list[Message[Any]]:
        """Settles them, by partition; those that were lost."""
        by_partition: dict[int, list[Message[Any]]] = {}
        for one in messages:
            by_partition.setdefault(one.partition, []).append(one)
        lost: list[Message[Any]] = []
        for some in by_partition.values():
            lost += _engine.settle_many(some, event, when, flags)
        return lost

    def _raise_lost(self, lost: list[Message[Any]]) -> None:
        if lost:
            some = ", ".join(one.id for one in lost[:5])
            raise LockLostError(f"the locks of {len(lost)} messages are lost: {some}", lost)

    # settling one: what messages ask

    def _lock_ms(self, lock_duration: Any) -> int:
        """What the engine takes: left out, it is the group's; None: until settled."""
        if lock_duration is ...:
            lock_duration = self._group_options["lock_duration"]
        if lock_duration is None:
            return -1
        seconds = check_seconds("lock_duration", lock_duration)
        if not seconds or seconds > 1e9:
            raise ValueError(f"lock_duration={lock_duration!r}: seconds, over 0, or None")
        return max(1, round(seconds * 1000))

    def _is_last(self, message: Message[Any]) -> bool:
        most = self._group_options["max_deliveries"]
        return bool(most) and message.delivery_count >= most and not self._is_dead_letters

    def _release(self, message: Message[Any], delay: float, reason: str) -> None:
        later = later_ms(check_delay("delay", delay), self._store._now())
        if self._is_last(message):
            self._reject(message, reason or "released at its last delivery")
        else:
            message._settle(RELEASE, later)

    def _reject(self, message: Message[Any], reason: str) -> None:
        if self._bury_all([message], reason):
            message._check_held()  # says that it is lost

    def _back_off(self, message: Message[Any]) -> float:
        delays = self._group_options["retry_delays"]
        if not delays:
            return 0.0
        return float(delays[min(message.delivery_count, len(delays)) - 1])

    def _failed(self, message: Message[Any], error: BaseException) -> None:
        """The end of `with message:` by an exception, which goes on in any case."""
        try:
            if isinstance(error, Exception):
                reason = f"{type(error).__name__}: {error}"
                self._release(message, self._back_off(message), reason)
            else:
                message._settle(RELEASE, 0, UNCOUNTED)
        except Exception as also:
            LOGGER.error("%r could not be released: %s", message, also)
            error.add_note(f"{message!r} could not be released: {also}")

    def _dropped(self, message: Message[Any]) -> None:
        """A message that nobody refers to any more, and nobody has settled."""
        try:
            self._release(message, self._back_off(message), "dropped without being settled")
        except Exception as error:
            LOGGER.error("%r was dropped, and could not be released: %s", message, error)
        warnings.warn(
            f"{message!r} was dropped without being settled: it is delivered again later",
            ResourceWarning,
            source=message,
            stacklevel=2,
        )

    # dead letters

    @property
    def _is_dead_letters(self) -> bool:
        return self._topic.endswith(_options.DEAD_LETTERS)

    @property
    def dead_letters(self) -> Queue[Out, In]:
        """The queue of what was rejected, or released at its last delivery; made if need be.

        Its messages have `.reason` and `.origin`. The reason of one that could not be moved at once
        (the disk was full, its mover died) is lost if another handle or process moved it: then it
        is "moved later: ...". It has no delivery limit and no dead letters of
        its own: what is rejected there is gone.

        Raises:
            NotFoundError: There are none yet, and the store was opened with `mode="r"`.
        """
        self._check()
        if self._is_dead_letters:
            raise ValueError(f"{self._topic!r} are dead letters: they have none of their own")
        return self._open_letters()

    def _open_letters(self) -> Queue[Out, In]:
        topic = _sharing.dead_letters(self._store, self._topic)
        return Queue(self._store, topic, "default", EARLIEST, self._codec)

    def _own_letters(self) -> Queue[Out, In]:
        """Those of this handle, also when it was closed: its messages can still be settled."""
        letters = self._letters
        if letters is None or not letters._is_usable(self._options["max_message_bytes"]):
            letters = self._letters = self._open_letters()
        return letters

    def _is_usable(self, largest: int) -> bool:
        """Whether dead letters of a queue with so large messages can be put here."""
        try:
            self._check()
        except TopicDeletedError:
            return False
        return bool(self._options["max_message_bytes"] >= _sharing.size_of_letters(largest))

    def redrive(self, max_records: int | None = None) -> int:
        """Puts dead letters back into the queue that they came from, for the group that failed.

        On return they are there, durably, with a fresh delivery count, and no dead letters any
        more. Records that others put meanwhile are not waited for.

        Args:
            max_records: At most so many; None: all that are there now.

        Returns:
            How many it were.

        Raises:
            ValueError: This is no dead-letter queue.
            NotFoundError: The queue or the group that some came from was deleted: these stay, all
                others were driven back.
            Full: That queue is full. What was begun is ended when there is room.

        Any thread may call it. It blocks for syncs.
        """
        if not self._is_dead_letters:
            raise ValueError(f"{self!r} has no dead letters: queue.dead_letters.redrive()")
        self._store._writable("redrive()")
        self._check()
        most = self.qsize() if max_records is None else _count("max_records", max_records)
        return _dead.redrive(self, most)

    def _bury_all(self, messages: list[Message[Any]], reason: str) -> list[Message[Any]]:
        """Moves them to the dead letters; those whose lock was lost."""
        if not messages:
            return []
        if self._is_dead_letters:
            return self._settled(messages, ARCHIVE, DEAD, 0)
        return _dead.bury(self, messages, reason, self._settled)

    def _bury(self, message: Message[Any]) -> None:
        """One that the engine hands over: out of deliveries, or with a move to be finished."""
        if message._is_moving < 0:
            most = self._group_options["max_deliveries"]
            self._bury_all(
                [message], f"not accepted in {most} deliveries: its holders died or were late"
            )
        elif self._is_dead_letters:
            _dead.finish_redrive(self, message)
        else:
            _dead.finish_burial(self, message)

    # facts

    def qsize(self) -> int:
        """How many records are ready now: a hint, as in the standard library."""
        self._check()
        return sum(place.describe().ready for place in self._places)

    def empty(self) -> bool:
        """Whether nothing is ready now: a hint."""
        return self.qsize() == 0

    def full(self) -> bool:
        """Whether a put would wait now: a hint."""
        self._check()
        return _put.room(self) < 1 or _put.holds_bytes(self)

    def stats(self) -> QueueStats:
        """What there is, counted at one moment of the call.

        Any thread may call it; it takes the share lock of each partition for a moment.
        """
        self._check()
        return _facts.stats(self._places, self._store._now())

    def acquired(self) -> list[AcquiredInfo]:
        """What is acquired now, by whom and for how long still; by partition and offset.

        Any thread may call it; it takes the share lock of each partition for a moment.
        """
        self._check()
        return _facts.acquired(self._places)

    def purge(self) -> int:
        """Drops all that is to be delivered, delayed records included; how many it were.

        Acquired records are their holders' and stay. Nothing goes to the dead letters.

        Any thread may call it. It blocks as long as that takes.
        """
        self._store._writable("purge()")
        self._check()
        return sum(place.purge() for place in self._places)

    # waiting, ending

    def join(self, timeout: float | None = None) -> None:
        """Waits until all that was put before the call is accepted or dead, by whichever process.

        Raises:
            TimeoutError: Not within the time.

        Any thread may call it. It blocks.
        """
        self._store._writable("join()")
        deadline = Deadline(check_seconds("timeout", timeout))
        self._check()
        ends = [(place, place.log.end_offset) for place in self._places]
        for place, end in ends:
            while not place.wait_final(end, deadline.left(_SLICE)):
                self._check()
                if not deadline.left(_SLICE):
                    raise TimeoutError(f"{self!r} is not done with offset {end} yet")

    def shutdown(self, immediate: bool = False) -> None:
        """Ends this handle's puts, and its gets once nothing is there (`immediate`: at once).

        Nothing is stored and nothing discarded: other handles go on. Waiting calls end.

        Any thread may call it; it does not block.
        """
        self._stopped = True
        self._halts = self._halts or immediate
        self._halt(immediate)
        self._store._live().wake()

    @property
    def is_shutdown(self) -> bool:
        """Whether `shutdown` was called."""
        return self._stopped

    def fileno(self) -> int:
        """A descriptor for event loops: readable while `get` would return at once.

        It belongs to the handle: do not read from it or close it. In a forked child ask again.

        Any thread may call it; it does not block.
        """
        self._store._writable("fileno()")
        self._check()
        if self._signal is None or self._signal.descriptor < 0:
            self._signal = self._store._watch().signal(self)
            self._watch()
        return self._signal.descriptor

    def _show(self) -> None:
        """The descriptor follows what is there now."""
        signal = self._signal
        if signal is not None and signal.descriptor >= 0:
            self._store._watch().show(signal)

    def close(self) -> None:
        """Ends this handle; the store stays open. Messages that it gave can still be settled.

        Calls that wait, and all later ones, raise `ClosedError`. Calling it again does nothing.

        Any thread may call it; it does not block.
        """
        if self._closed:
            return
        self._closed = True
        core = self._store._core
        if core is None or core.closed or core.forked:
            return
        if self._signal is not None:
            self._store._drop_signal(self._signal)
        self._bind_to(core, _NEVER)
        core.wake()

    def __enter__(self) -> Self:
        self._check()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrive, (self._store, self._topic, self._id, self._share_group, self._codec)

    # inside

    def _refresh(self) -> None:
        """Binds to what the store and the topic are now; the engine calls it when they moved."""
        if self._closed:
            raise ClosedError(f"{self!r}: open it again with store.queue()")
        generation, topic = self._store._topic(self._topic)
        if topic is None or topic.id != self._id:
            raise TopicDeletedError(f"topic {self._topic!r} of {self._store.path} was deleted")
        core = self._store._live()
        self._logs = self._store._logs(topic)
        self._options = topic.options
        self._width = topic.spread
        self._ranks = {4: 0, **{p: rank for rank, p in enumerate(topic.priorities, 1)}}
        self._group_options = _sharing.group_options(self._store, topic.name, self._share_group)
        self._places = self._open_places()
        self._bounds = _sharing.bound(self._store, topic, self._logs)
        self._bind_to(core, generation)

    def _order(self) -> list[int]:
        """The partitions, highest priority first."""
        by_priority = sorted(self._ranks.items(), reverse=True)
        return [
            rank * self._width + number for _, rank in by_priority for number in range(self._width)
        ]

    def _open_places(self) -> list[_engine.Share]:
        """The group's places, highest priority first; where the group is new it begins at `start`.

        A group that is there in one partition is not new: in another one it begins at the log
        start, as that partition came later.
        """
        logs = [self._logs[partition] for partition in self._order()]
        found = [self._open(log, None) for log in logs]
        start = EARLIEST if any(found) else self._start
        pairs = zip(logs, found, strict=True)
        return [place or self._made(log, start) for log, place in pairs]

    def _open(self, log: _engine.Log, start: int | None) -> _engine.Share | None:
        create = start is not None
        try:
            return _engine.open_share(log, self._share_group, create, start or 0, self._codec)
        except NotFoundError:
            return None

    def _made(self, log: _engine.Log, start: Start) -> _engine.Share:
        place = self._open(log, resolve(log, start))
        assert place is not None, "it was to be made"
        return place

    def _bind_to(self, core: _engine.Store, generation: int) -> None:
        options, group = self._options, self._group_options
        self._bind(
            core,
            self._logs,
            codec=self._codec,
            compression=options["compression"],
            clock=self._store._clock,
            batch_bytes=_options.batch_bytes(options),
            max_message_bytes=options["max_message_bytes"],
            generation=generation,
            spread=self._width,
        )
        writes = self._store.mode == "rw"
        open_ = options["intake"] == "open" and not self._stopped and writes
        checked = len(self._logs) > 1 and (options["max_bytes"] or options["maxsize"])
        self._bind_shares(
            self._places,
            lock_ms=self._lock_ms(...),
            max_acquired=group["max_acquired"] or 0,
            max_deliveries=0 if self._is_dead_letters else group["max_deliveries"] or 0,
            plain=open_ and not checked,
        )

    def _alive(self) -> None:
        self._check()

    def _unread(self) -> bool:
        self._check()
        return any(place.due_in() == 0.0 for place in self._places)

    def _due_in(self) -> float:
        """Seconds until a delayed record is due."""
        return min((place.due_in() for place in self._places), default=math.inf)

    def _noted(self) -> None:
        """A queue is ready as long as there is something: nothing to note."""


def _count(what: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{what} is an int, not {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{what}={value}: at least 1")
    return value


def _arrive(
    store: Store, name: str, topic_id: str | None, group: str, codec: Codec[Any] | None
) -> Queue[Any, Any]:
    """Opens a pickled queue where it has come to; not another topic of the same name."""
    topic = store._existing(name)
    if topic.id != topic_id:
        raise TopicDeletedError(f"topic {name!r} of {store.path} was deleted, and made again")
    return Queue(store, topic, group, EARLIEST, codec)
