"""Consumers: the members of a group divide a stream's partitions among themselves.

Who reads what is settled by three things in the group's files, all of which the kernel's word on
who is alive stands behind (engine.md): the list of members, in the file of partition 0; the owner
of each partition; and its committed offset. From the list every member works out the same division,
gives up what is no longer its own, and claims the rest as it becomes free: so a partition has one
reader at a time, whoever dies when. None of it moves but inside `poll` and `next`.

Offsets of a partition, as a consumer sees them:

    committed <= given (position) <= fetched (read ahead for the loop, at most `_AHEAD` records)
"""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from threading import RLock
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from mqlog import _engine, _options
from mqlog._engine import Record
from mqlog._tail import OneThread
from mqlog._times import Deadline, Start, check_place, check_seconds, is_offset, reader, resolve
from mqlog._typing import Generic, Out
from mqlog.errors import ClosedError, Error, LockLostError, NotFoundError

if TYPE_CHECKING:
    from mqlog._ready import Signal
    from mqlog._stream import Stream

#: Seconds between two looks at who else is there.
_BALANCE: Final = 0.1
#: The longest sleep, so that a standby takes over within a second.
_SLICE: Final = 0.25
#: Records that the loop's `next` reads ahead.
_AHEAD: Final = 500

_ONE_THREAD: Final = "a consumer serves one thread at a time: make one for each thread"


class Consumer(Generic[Out]):
    """A member of a consumer group: a durable reading place that is shared. See `Stream.consumer`.

    A group's partitions are divided among its live consumers, whether threads or processes. Each
    partition has one reader at a time; a consumer too many waits, and takes over within a second of
    another's death or end. Partitions come and go only inside `poll` and `next`.

    At least once: what was given out and not committed is given again, to whoever owns the
    partition next. A commit is visible at once and survives the death of any process; with
    `durable=True`, or once the system has written it back, a power cut too.

    A consumer serves one thread at a time (`RuntimeError`); only `close` may come from another. It
    is a context manager; leaving closes it. It pickles as its stream and options and joins where it
    arrives; in a forked child it joins again, as another member, at first use.
    """

    def __init__(
        self,
        stream: Stream[Out, Any],
        group: str,
        *,
        start: Start,
        partitions: Iterable[int] | None,
        commit: Literal["auto", "manual"],
        on_assign: Callable[[Consumer[Out], Sequence[int]], object] | None,
    ) -> None:
        stream._store._writable("consumer()")
        if commit not in ("auto", "manual"):
            raise ValueError(f'commit={commit!r}: "auto" or "manual"')
        _options.check_callable("on_assign", on_assign)
        check_place(start)
        stream._check()
        self._stream = stream
        self._check = stream._check
        self._store = stream._store
        self._group = _options.check_group(group)
        self._start = start
        self._explicit = None if partitions is None else _explicit(partitions, len(stream._logs))
        self._auto = commit == "auto"
        self._on_assign = on_assign
        count = len(stream._logs) if self._explicit is None else len(self._explicit)
        if is_offset(start) and count > 1:
            raise ValueError(
                f"start={start!r}: each of the {count} partitions has offsets of its own; give a "
                "moment, or seek() in each"
            )
        self._closed = False
        self._signal: Signal | None = None
        self._begin()
        self._store._join(self)
        try:
            self._balance(tell=False)
        except BaseException:
            self.close()
            raise

    def _begin(self) -> None:
        """A new member that has nothing yet."""
        self._fork = _engine.fork_generation()
        self._turn = RLock()
        self._member = 0
        self._groups: dict[int, _engine.Group] = {}
        self._readers: dict[int, _engine.Reader[Out]] = {}
        self._assigned: tuple[int, ...] = ()
        self._wanted: tuple[int, ...] = ()
        self._told: tuple[int, ...] = ()
        self._given: dict[int, int] = {}
        self._fetched: dict[int, int] = {}
        self._ahead: deque[Record[Out]] = deque()
        self._loop: Record[Out] | None = None  # given by the loop, not committed yet
        self._next_balance = 0.0
        self._last = 0  # the partition that was read last

    def __repr__(self) -> str:
        closed = " closed" if self._closed else ""
        name, path = self._stream.name, str(self._store.path)
        return f"<mqlog.Consumer of group {self._group!r}, {name!r} of {path!r}{closed}>"

    # where it stands

    @property
    def group(self) -> str:
        """The group's name."""
        return self._group

    @property
    def position(self) -> Mapping[int, int]:
        """By partition that is its own now: the next offset that it will give out."""
        self._alive()
        return MappingProxyType(dict(self._given))

    @property
    def committed(self) -> Mapping[int, int]:
        """By partition that is its own now: the offset where a successor would go on."""
        self._alive()
        offsets = {number: self._groups[number].committed() for number in self._assigned}
        return MappingProxyType({n: offset for n, offset in offsets.items() if offset is not None})

    @property
    def lag(self) -> int:
        """How many records of its partitions can be read and were not given out yet."""
        self._alive()
        logs = {number: self._stream._logs[number] for number in self._assigned}
        return sum(
            max(0, log.readable_offset - max(self._given[number], log.start_offset))
            for number, log in logs.items()
        )

    # reading

    def __iter__(self) -> Iterator[Record[Out]]:
        """As `records(None)`."""
        return self.records()

    def records(self, timeout: float | None = None) -> Iterator[Record[Out]]:
        """Iterates over the records as they arrive, and commits them as the loop goes.

        A record is committed when the loop comes back for the next one; a `break` or an exception
        leaves the last one uncommitted. With `commit="manual"` nothing is committed here.

        Args:
            timeout: End quietly after so many seconds without a record; None goes on for ever.

        Raises:
            CorruptError: Once; the next `next()` goes on behind the damage.
            OffsetOutOfRangeError: Retention has passed the group; nothing is read until `seek`.
            ClosedError: The consumer or its store was closed.

        The iterator serves one thread at a time. It blocks in `next()`; signals are served.
        """
        return ConsumerRecords(self, check_seconds("timeout", timeout))

    def poll(self, max_records: int = 500, timeout: float | None = None) -> list[Record[Out]]:
        """Gives out the next records as soon as there is one; commits nothing.

        Args:
            max_records: At most so many.
            timeout: Seconds; [] when they are over. None waits for ever, 0 only looks.

        Returns:
            Records of one or several partitions, in order within each.

        Raises:
            CorruptError: Once; the next call goes on behind the damage.
            OffsetOutOfRangeError: Retention has passed the group; it names the range, and so does
                every further call until `seek(EARLIEST)`, or another place, is chosen.
            ClosedError: The consumer or its store was closed.
            TopicDeletedError: The topic was deleted.

        One thread at a time. It blocks; signals are served.
        """
        most = min(_options.check_index("max_records", max_records), sys.maxsize)
        if most < 1:
            raise ValueError(f"max_records={max_records}: at least 1")
        seconds = check_seconds("timeout", timeout)
        with self._mine():
            self._gather(most, seconds)
            count = min(most, len(self._ahead))
            records = [self._ahead.popleft() for _ in range(count)]
            for record in records:
                self._given[record.partition] = record.offset + 1
            self._follow_holes()
            return records

    def _next(self, timeout: float | None) -> Record[Out] | None:
        """The loop came back: the record before is done with. Once a record, so written out."""
        self._alive()
        turn = self._turn
        if not turn.acquire(False):
            raise RuntimeError(_ONE_THREAD)
        try:
            record, self._loop = self._loop, None
            if record is not None and self._auto:
                self._groups[record.partition].commit(self._member, record.offset + 1)
            if not self._ahead or time.monotonic() >= self._next_balance:
                self._gather(_AHEAD, timeout)
                if not self._ahead:
                    return None
            record = self._loop = self._ahead.popleft()
            self._given[record.partition] = record.offset + 1
            if not self._ahead:
                self._follow_holes()
            return record
        finally:
            turn.release()

    # committing and seeking

    def commit(self, upto: Record[Any] | None = None, *, durable: bool = False) -> None:
        """Commits what was given out.

        On return a successor goes on behind it, whatever dies; with `durable`, after a power cut
        too. Committing costs a store into a mapped file, and no system call.

        Args:
            upto: Up to and including this record, in its partition; None commits everything given
                out, in all partitions.
            durable: Also survive a power cut.

        Raises:
            LockLostError: The partition is not this consumer's any more; it will be read again.
            ValueError: A record of another topic.
            ClosedError: The consumer or its store was closed.

        One thread at a time. It blocks only if `durable`, for a sync.
        """
        with self._mine():
            places = dict(self._given) if upto is None else self._place(upto)
            for number, offset in places.items():
                self._groups[number].commit(self._member, offset, durable)
            self._loop = None if upto is None else self._loop

    def _place(self, upto: Record[Any]) -> dict[int, int]:
        if not isinstance(upto, _engine.Record):
            raise TypeError(f"commit() takes a record or nothing, not {type(upto).__name__}")
        if upto.topic != self._stream.name:
            raise ValueError(f"record {upto.id} is not of topic {self._stream.name!r}")
        if upto.partition not in self._assigned:
            raise LockLostError(
                f"partition {upto.partition} is not this consumer's any more: record {upto.id} was "
                "not committed, and its owner reads it again"
            )
        return {upto.partition: upto.offset + 1}

    def seek(self, to: Start, *, partition: int | None = None) -> None:
        """Moves this consumer; the next record comes from there. Commits nothing.

        Args:
            to: An offset, a moment, `EARLIEST` or `LATEST`.
            partition: Of this one alone; None: of all that are its own now. An offset needs it,
                unless there is just one.

        Raises:
            OffsetOutOfRangeError: Below the log start or above the log end; names the range.
            ValueError: Not a partition of this consumer.

        One thread at a time; it does not block.
        """
        with self._mine():
            chosen = self._assigned
            if partition is not None:
                chosen = (_options.check_index("partition", partition),)
            if not set(chosen) <= set(self._assigned):
                raise ValueError(
                    f"partition {partition} is not this consumer's; it has {list(self._assigned)}"
                )
            if is_offset(to) and len(chosen) > 1:
                raise ValueError(f"offset {to}: say which partition of {list(chosen)}")
            places = {number: resolve(self._stream._logs[number], to) for number in chosen}
            for number, offset in places.items():
                self._forget(number)
                self._given[number] = self._fetched[number] = offset
            self._show()

    # waiting, ending

    def fileno(self) -> int:
        """A descriptor for event loops: readable while `poll` has something to do.

        That is: records to give out, or a partition to take over or to hand on. It belongs to the
        consumer: do not read from it or close it. In a forked child ask again.

        One thread at a time; it does not block.
        """
        with self._mine():
            if self._signal is None or self._signal.descriptor < 0:
                self._signal = self._store._watch().signal(self)
            return self._signal.descriptor

    def close(self) -> None:
        """Leaves the group; its partitions are free at once. Commits nothing.

        Calls that wait, and all later ones, raise `ClosedError`. Calling it again does nothing.

        Any thread may call it; it does not block.
        """
        if self._closed:
            return
        self._closed = True
        core = self._store._core
        if core is None or core.closed or core.forked or self._fork != _engine.fork_generation():
            return
        if self._signal is not None:
            self._store._drop_signal(self._signal)
        with suppress(Error):  # a topic that was deleted has no group to leave
            for number in self._assigned:
                self._groups[number].drop(self._member)
            if self._member:
                self._groups[0].leave(self._member)

    def __enter__(self) -> Self:
        self._alive()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_loop"):
            self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        options = {
            "start": self._start,
            "partitions": self._explicit,
            "commit": "auto" if self._auto else "manual",
            "on_assign": self._on_assign,
        }
        return _arrive, (self._stream, self._group, options)

    # inside: one thread, one process

    def _alive(self) -> None:
        """Raises if it is closed; joins again after a fork."""
        if self._closed:
            raise ClosedError(f"{self!r}: make another with stream.consumer()")
        self._check()
        if self._fork != _engine.fork_generation():
            self._begin()
            self._signal = None
            self._balance(tell=False)

    def _mine(self) -> _Turn:
        self._alive()
        return _Turn(self._turn)

    def _gather(self, count: int, timeout: float | None) -> None:
        """Waits until something is in `_ahead`, or the time is over."""
        deadline = Deadline(timeout)
        while True:
            if time.monotonic() >= self._next_balance:
                self._balance()
            if self._ahead:
                return
            core = self._store._live()
            seen = core.bell() if len(self._assigned) > 1 else 0
            if self._fetch(count):
                return
            left = deadline.left(_SLICE if self._assigned == self._wanted else _BALANCE)
            if not left:
                return
            self._show()
            self._sleep(core, seen, left)
            self._alive()

    def _sleep(self, core: _engine.Store, seen: int, seconds: float) -> None:
        if not self._assigned:
            time.sleep(seconds)
        elif len(self._assigned) == 1:
            number = self._assigned[0]
            self._stream._logs[number].wait(self._fetched[number], seconds)
        else:
            core.wait_bell(seen, seconds)

    def _fetch(self, count: int) -> bool:
        """Reads from the next partition that has something."""
        for _ in self._assigned:
            self._last = (self._last + 1) % len(self._assigned)
            number = self._assigned[self._last]
            records = self._take(number, count)
            if records:
                self._ahead.extend(records)
                return True
        return False

    def _take(self, number: int, count: int) -> list[Record[Out]]:
        source = self._readers.get(number)
        if source is None:
            log, codec = self._stream._logs[number], self._stream._codec
            source = self._readers[number] = reader(log, self._fetched[number], None, codec=codec)
        try:
            return source.take(count)
        except Error:
            self._given[number] = source.position  # behind a damage, once it was told
            raise
        finally:
            self._fetched[number] = source.position

    def _follow_holes(self) -> None:
        """Where nothing is read ahead, what was given out ends where reading stands."""
        if not self._ahead:
            self._given.update(self._fetched)
        self._show()

    def _forget(self, number: int) -> None:
        """Drops what was read of a partition, but not the partition."""
        self._readers.pop(number, None)
        if self._loop is not None and self._loop.partition == number:
            self._loop = None
        if self._ahead:
            self._ahead = deque(record for record in self._ahead if record.partition != number)

    # inside: the group

    def _balance(self, *, tell: bool = True) -> None:
        """Gives up what is no longer its own, and claims what is and is free."""
        self._next_balance = time.monotonic() + _BALANCE
        self._wanted = self._share()
        for number in self._assigned:
            if number not in self._wanted:
                self._release(number)
        for number in self._wanted:
            if number not in self._assigned:
                self._claim(number)
        if tell and self._told != self._assigned:
            self._told = self._assigned
            if self._on_assign is not None:
                self._on_assign(self, list(self._assigned))

    def _share(self) -> tuple[int, ...]:
        """The partitions that this member should have, by who is there now."""
        members = self._of(0).members()
        if self._member not in members:
            self._member = self._join()
            members = sorted({*self._of(0).members(), self._member})
        if self._explicit is not None:
            return self._explicit
        rank, count = members.index(self._member), len(members)
        return tuple(range(rank, len(self._stream._logs), count))

    def _join(self) -> int:
        while True:
            try:
                return self._of(0).join()
            except NotFoundError:  # deleted since it was opened: it is made anew
                self._groups.clear()

    def _of(self, number: int) -> _engine.Group:
        group = self._groups.get(number)
        if group is None:
            group = self._stream._logs[number].group(self._group, True)
            self._groups[number] = group
        return group

    def _claim(self, number: int) -> None:
        group = self._of(number)
        try:
            if not group.claim(self._member):
                return
        except NotFoundError:  # being deleted by somebody who gives up, as there is a member
            return
        try:
            place = group.committed()
            if place is None:  # a new group: its place is kept from now on, whoever reads next
                place = resolve(self._stream._logs[number], self._start)
                group.commit(self._member, place)
        except BaseException:
            group.drop(self._member)
            raise
        self._given[number] = self._fetched[number] = place
        self._assigned = tuple(sorted((*self._assigned, number)))

    def _release(self, number: int) -> None:
        self._forget(number)
        self._assigned = tuple(other for other in self._assigned if other != number)
        del self._given[number], self._fetched[number]
        self._of(number).drop(self._member)

    # inside: waiting from outside

    def _unread(self) -> bool:
        """Any thread may ask: it looks at numbers only, and the owner's are replaced whole."""
        if self._closed:
            raise ClosedError(f"{self!r} was closed")
        logs, given = self._stream._logs, dict(self._given)
        if any(logs[number].readable_offset > offset for number, offset in given.items()):
            return True
        return self._unbalanced()

    def _unbalanced(self) -> bool:
        if time.monotonic() < self._next_balance:
            return False  # a poll would not look either
        members = self._groups[0].members()
        if self._member not in members:
            return True
        wanted = self._explicit
        if wanted is None:
            rank, count = members.index(self._member), len(members)
            wanted = tuple(range(rank, len(self._stream._logs), count))
        assigned = self._assigned
        if any(number not in wanted for number in assigned):
            return True
        missing = [number for number in wanted if number not in assigned]
        return any(self._of(number).owner() not in members for number in missing)

    def _due_in(self) -> float:
        """Nothing comes without a ring."""
        return math.inf

    def _noted(self) -> None:
        """Nothing to note: it is ready until it was polled."""

    def _show(self) -> None:
        if self._signal is not None:
            self._store._watch().show(self._signal)


class ConsumerRecords(OneThread, Generic[Out]):
    """The records of a consumer, committed as the loop goes; made by `Consumer.records`."""

    def __init__(self, consumer: Consumer[Out], timeout: float | None) -> None:
        super().__init__("an iterator over a consumer's records")
        self._consumer = consumer
        self._timeout = timeout
        self._done = False

    def __next__(self) -> Record[Out]:
        if self._fork != _engine.fork_generation():
            self._same_process()
        record = None if self._done else self._consumer._next(self._timeout)
        if record is None:
            self._done = True
            raise StopIteration
        return record


class _Turn:
    """Holds a consumer for one thread; its own callbacks may come in again."""

    __slots__ = ("_lock",)

    def __init__(self, lock: RLock) -> None:
        self._lock = lock

    def __enter__(self) -> None:
        if not self._lock.acquire(blocking=False):
            raise RuntimeError(_ONE_THREAD)

    def __exit__(self, *exc: object) -> None:
        self._lock.release()


def _explicit(partitions: Iterable[int], count: int) -> tuple[int, ...]:
    if not isinstance(partitions, Iterable):
        raise TypeError(f"partitions is a list of ints or None, not {type(partitions).__name__}")
    numbers = tuple(_options.check_index("a partition", number) for number in partitions)
    for number in numbers:
        if not 0 <= number < count:
            raise ValueError(f"there is no partition {number}: the topic has {count}, from 0")
    if not numbers or len(set(numbers)) != len(numbers):
        raise ValueError(f"partitions={list(numbers)}: at least one, and each once")
    return tuple(sorted(numbers))


def _arrive(stream: Stream[Out, Any], group: str, options: dict[str, Any]) -> Consumer[Out]:
    return Consumer(stream, group, **options)
