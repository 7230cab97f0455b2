"""Streams and their partitions: every consumer group, and every reader, sees every record.

A `Stream` is the engine's `Appender` with the reading half added. What depends on the store's
options (partitions, compression, durability) is bound in `_refresh`, which the appender calls by
itself whenever the options have changed, the store was closed, or the process was forked.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal, Self, cast

from mqlog import _engine, _options, _sharing
from mqlog._catalog import Topic
from mqlog._consumer import Consumer
from mqlog._engine import Columns, Record
from mqlog._options import check_index
from mqlog._store import Store
from mqlog._tail import ColumnsIterator, Tail, Walk, check_speed, paced
from mqlog._times import (
    EARLIEST,
    LATEST,
    Start,
    check_seconds,
    is_offset,
    moment_ms,
    reader,
    resolve,
    resolve_stop,
)
from mqlog._typing import Generic, Headers, In, Out
from mqlog.errors import ClosedError, OffsetOutOfRangeError, TopicDeletedError

if TYPE_CHECKING:
    from mqlog._ready import Signal
    from mqlog.codecs import Codec

#: A generation that no store ever has: a handle bound with it asks `_refresh` before every call.
_NEVER: Final = 2**32 - 1


class Partition(Generic[Out]):
    """One partition of a stream: one total order of offsets. Taken from `Stream.partitions`.

    Any thread may call any method. It lives as long as its stream is open.
    """

    def __init__(self, stream: Stream[Out, Any], partition: int) -> None:
        self._stream = stream
        self._partition = partition

    def __repr__(self) -> str:
        return f"<mqlog.Partition {self.partition} of {self._stream!r}>"

    @property
    def topic(self) -> str:
        """The topic's name."""
        return self._stream.name

    @property
    def partition(self) -> int:
        """Its number, from 0."""
        return self._partition

    @property
    def start_offset(self) -> int:
        """The log start: the first offset that is still there."""
        return self._log.start_offset

    @property
    def end_offset(self) -> int:
        """The log end: the next offset to be given."""
        return self._log.end_offset

    @property
    def durable_offset(self) -> int:
        """Every record below it is on stable storage."""
        return self._log.durable_offset

    def offset_at(self, moment: float | datetime) -> int:
        """The first offset whose record is not older than `moment`; the log end if none is.

        Args:
            moment: Seconds since 1970, or an aware datetime.

        Raises:
            ValueError: A naive datetime, NaN, or a number over 1e11 (milliseconds?).

        Any thread may call it. It may read one index and one batch.
        """
        return self._log.offset_at(moment_ms(moment))

    def read(
        self,
        start: Start = EARLIEST,
        stop: Start | None = None,
        *,
        copy: bool = True,
        verify: bool = True,
        on_corrupt: Literal["raise", "skip"] = "raise",
    ) -> Iterator[Record[Out]]:
        """Iterates over the records from `start` up to, and without, `stop`.

        Both are settled by this call: records that come later are not part of it.

        Args:
            start: An offset, a moment, `EARLIEST` or `LATEST`.
            stop: Likewise; None is the end of what can be read now. An offset behind that end
                means the end.
            copy: False lends: key and raw are read-only memoryviews that keep the log's own memory
                alive, past `close` and retention, instead of bytes.
            verify: False leaves the checksums unchecked.
            on_corrupt: `"raise"` raises `CorruptError` once, and the next `next()` goes on behind
                the damage; `"skip"` goes on by itself, and says so in the log.

        Raises:
            OffsetOutOfRangeError: `start` is an offset below the log start or above the log end.
                Also during iteration, when retention is faster.
            CorruptError: During iteration: damaged bytes.

        The iterator serves one thread at a time. It does not block.
        """
        log = self._log
        how = reader_options(copy, verify, on_corrupt)
        end = resolve_stop(log, stop)
        return cast("Iterator[Record[Out]]", reader(log, start, end, codec=self._codec, **how))

    def trim(self, before: int, *, force: bool = False) -> None:
        """Gives up all records below an offset; segments that hold nothing else go.

        On return the log start is at `before` for every process and after every crash. Readers of
        mapped bytes keep them; other readers below it get `OffsetOutOfRangeError`.

        Args:
            before: The new log start.
            force: Also past records that a share group has not finished. Consumer groups are
                passed without it: their next poll raises.

        Raises:
            ValueError: A share group has not finished a record below `before`, and it was not
                forced; nothing was changed.
            OffsetOutOfRangeError: `before` is below the log start or above the log end; nothing was
                changed.
            ReadOnlyError: The store was opened with `mode="r"`.

        Any thread may call it. It blocks for a sync.
        """
        self._stream._store._writable("trim()")
        log, offset = self._log, check_index("before", before)
        self._in_the_log(log, offset, log.end_offset)
        first = offset if force else log.unfinished(log.start_offset, offset)
        if first < offset:
            raise ValueError(
                f"a share group has not finished the record at offset {first}: finish it, trim "
                f"before={first}, or give it up with force=True"
            )
        log.trim(offset)

    def wait_durable(self, offset: int, timeout: float | None = None) -> None:
        """Waits until the record at `offset`, and all before it, are on stable storage.

        Args:
            offset: As `append` returned it. The log end, or more, means all that is there now.
            timeout: Seconds; None waits for ever.

        Raises:
            TimeoutError: Not within the time.
            DurabilityError: A sync failed: in the log, not known to be on disk.
            OffsetOutOfRangeError: A negative offset.
            ReadOnlyError: The store was opened with `mode="r"`.

        Any thread may call it. It blocks.
        """
        self._stream._store._writable("wait_durable()")
        log, offset = self._log, check_index("offset", offset)
        end = log.end_offset
        self._in_the_log(log, min(offset, end), end)
        if not log.wait_durable(min(offset + 1, end), check_seconds("timeout", timeout)):
            raise TimeoutError(
                f"offset {offset} of {self.topic}-{self.partition} is not on stable storage after "
                f"{timeout} s; it still may be later"
            )

    def __getitem__(self, offset: int) -> Record[Out]:
        """The record at an offset; it costs the same in a short log and in a long one.

        Raises:
            OffsetOutOfRangeError: Below the log start, at or above the log end, negative, or a
                hole that compaction or recovery left.
            CorruptError: Its batch is damaged.
            TypeError: A slice, or no int.

        Any thread may call it; it does not block.
        """
        place: Any = offset
        if isinstance(place, slice):
            raise TypeError("a stream has no slices: read(start, stop) iterates over a range")
        wanted = check_index("an offset", place)
        log = self._log
        if wanted < 0:
            raise OffsetOutOfRangeError(
                f"offset {wanted}: offsets are not counted from the end; for the last records use "
                f"read(start=end_offset - {-wanted})",
                log.start_offset,
                log.end_offset,
            )
        if wanted < log.readable_offset:
            found = reader(log, wanted, wanted + 1, codec=self._codec).take(1)
            if found:
                return cast("Record[Out]", found[0])
        first, end = log.start_offset, log.readable_offset
        raise OffsetOutOfRangeError(
            f"{self.topic}-{self.partition} has no record at offset {wanted}: it has offsets from "
            f"{first} up to and without {end}, perhaps with holes; read(start) begins at the next",
            first,
            end,
        )

    def _in_the_log(self, log: _engine.Log, offset: int, end: int) -> None:
        if not 0 <= offset <= end:
            first, end = log.start_offset, log.end_offset
            raise OffsetOutOfRangeError(
                f"offset {offset}: {self.topic}-{self.partition} has offsets from {first} up to "
                f"and without {end}",
                first,
                end,
            )

    @property
    def _log(self) -> _engine.Log:
        self._stream._check()
        return self._stream._logs[self._partition]

    @property
    def _codec(self) -> Codec[Any] | None:
        return self._stream._codec


class Stream(_engine.Appender, Generic[Out, In]):
    """A topic whose records every reader sees. Made by `Store.stream`.

    `append(value, *, key, headers, timestamp, partition, durable)` appends one record and returns
    its offset; `append_many(values, *, keys, headers, timestamps, partition, compression, durable)`
    appends many at once, all or nothing in each partition, and returns theirs. What they append is,
    on return, visible to every process, and survives the death of any of them; in a topic with
    `durability="sync"`, or with `durable=True`, it survives a power cut too.

    A handle is always true, has no length (offsets may have holes) and iterates as `read()`. While
    its topic has one partition it has the members of that partition itself. Any thread may call any
    method. It pickles as its store and name; in a forked child it opens itself again at first use.
    """

    def __init__(self, store: Store, topic: Topic, codec: Codec[Any] | None) -> None:
        self._store = store
        self._topic = topic.name
        self._id = topic.id
        self._codec = codec
        self._logs: list[_engine.Log] = []
        self._seen: list[int] = []  # by partition, what `tail` or `wait` has come to
        self._signal: Signal | None = None
        self._closed = False
        self._refresh()
        self._seen = [log.readable_offset for log in self._logs]

    @property
    def name(self) -> str:
        """The topic's name."""
        return self._topic

    @property
    def partitions(self) -> Sequence[Partition[Out]]:
        """The topic's partitions, as many as there are now."""
        self._check()
        return tuple(Partition(self, partition) for partition in range(len(self._logs)))

    def __repr__(self) -> str:
        closed = " closed" if self._closed else ""
        return f"<mqlog.Stream {self._topic!r} of {str(self._store.path)!r}{closed}>"

    def partition_for(self, key: bytes) -> int:
        """The partition of a key: Kafka's murmur2, so that it is the same in a cluster.

        Any thread may call it; it does not block.
        """
        self._check()
        return _engine.partition_for(key, self._width)

    if TYPE_CHECKING:

        def append(
            self,
            value: In | None,
            *,
            key: bytes | None = None,
            headers: Headers = (),
            timestamp: float | datetime | None = None,
            partition: int | None = None,
            durable: bool = False,
        ) -> int:
            """Appends one record, and returns its offset in its partition.

            On return it is visible to every process and survives the death of any of them; in a
            topic with `durability="sync"`, or with `durable=True`, a power cut too. Of a call that
            raises, nothing is visible; `DurabilityError` alone leaves it in the log, and so does a
            signal (Ctrl-C) that ends the waiting for the disk.

            Args:
                value: Anything with the buffer protocol, or what the codec encodes; None is a
                    tombstone.
                key: Records of one key go to one partition, by Kafka's murmur2. Without a key the
                    partitions take turns.
                headers: A mapping, or pairs; names may repeat.
                timestamp: A moment; None is now.
                partition: This one, whatever the key.
                durable: Return when it is on stable storage; never weaker than the topic.

            Raises:
                Full: It is a queue too, and holds as many records as its `maxsize` says.
                RecordTooLargeError: Its batch would be over the topic's `max_message_bytes`.
                DurabilityError: A sync failed: in the log, not known to be on disk.
                OSError: `ENOSPC`: the disk, or the store's own bound, is full; `EDQUOT`: a quota.
                TypeError: Not bytes-like, and no codec.
                ValueError: No such partition, no moment, or a reserved header name.

            Any thread may call it, `__del__` and signal handlers included. It blocks while others
            append to the partition, and for a sync where it is to be durable.
            """

        def append_many(
            self,
            values: Iterable[In | None],
            *,
            keys: Iterable[bytes | None] | None = None,
            headers: Iterable[Headers] | None = None,
            timestamps: Iterable[float | datetime] | None = None,
            partition: int | None = None,
            compression: str | None = None,
            durable: bool = False,
        ) -> Sequence[int]:
            """Appends many records, and returns their offsets: a range where one partition was hit.

            All or nothing in each partition: they become visible together and survive kills
            together. Without keys the whole call goes to one partition. Otherwise as `append`.

            Args:
                values: As many as there are.
                keys: As many as there are values; None for a record without.
                headers: Likewise.
                timestamps: Likewise; left out, all have the moment of the call.
                partition: This one, whatever the keys.
                compression: None is the topic's, `"none"` is none.
                durable: Return when all are on stable storage; never weaker than the topic.

            Raises:
                ValueError: A column of another length than the values; nothing was appended.

            The same errors as `append`, and the same threads and blocking.
            """

    # reading

    def read(
        self,
        start: Start = EARLIEST,
        stop: Start | None = None,
        *,
        partition: int | None = None,
        **how: Any,
    ) -> Iterator[Record[Out]]:
        """Iterates over the records, one partition after the other; see `Partition.read`.

        Args:
            start: A moment, `EARLIEST` or `LATEST`; an offset where one partition is read.
            stop: Likewise, exclusive; None is the end of what can be read now.
            partition: Only this one.
            **how: `copy`, `verify`, `on_corrupt` as in `Partition.read`.

        The iterator serves one thread at a time. It does not block.
        """
        chosen = self._chosen(partition, start, stop)
        readers = [one.read(start, stop, **how) for one in chosen]
        return readers[0] if len(readers) == 1 else Walk.from_iterable(readers)

    def __iter__(self) -> Iterator[Record[Out]]:
        """As `read()`."""
        return self.read()

    def values(
        self,
        start: Start = EARLIEST,
        stop: Start | None = None,
        *,
        raw: bool = False,
        partition: int | None = None,
    ) -> Iterator[Out]:
        """Iterates over the values alone: the fastest way through a log, checksums included.

        Args:
            start: As in `read`.
            stop: As in `read`.
            raw: Not decoded, whatever the codec.
            partition: Only this one.

        The iterator serves one thread at a time. It does not block.
        """
        readers = self._readers(partition, start, stop)
        found = [one.values(raw) for one in readers]
        return found[0] if len(found) == 1 else Walk.from_iterable(found)

    def columns(
        self,
        start: Start = EARLIEST,
        stop: Start | None = None,
        *,
        max_records: int = 65536,
        partition: int | None = None,
    ) -> Iterator[Columns]:
        """Iterates over the records by column, for NumPy and Arrow.

        Args:
            start: As in `read`.
            stop: As in `read`.
            max_records: At most so many in one `Columns`, whatever the batches on disk.
            partition: Only this one.

        The iterator serves one thread at a time. It does not block.
        """
        most = min(_at_least_one("max_records", max_records), sys.maxsize)
        return ColumnsIterator(self._readers(partition, start, stop), most)

    def tail(self, start: Start = LATEST, timeout: float | None = None) -> Iterator[Record[Out]]:
        """Follows all partitions: gives records as they arrive.

        The start is settled by this call, so what is appended right after it is not missed.
        Partitions that are added meanwhile are followed from their beginning.

        Args:
            start: A moment, `EARLIEST` or `LATEST`; an offset where the topic has one partition.
            timeout: End quietly after so many seconds without a record; None follows for ever.

        Raises:
            ReadOnlyError: The store was opened with `mode="r"`.
            ClosedError: During iteration: the stream or its store was closed.
            CorruptError: During iteration, once; the next `next()` goes on behind the damage.

        The iterator serves one thread at a time. It blocks in `next()`; signals are served.
        """
        self._store._writable("tail()")
        seconds = check_seconds("timeout", timeout)
        self._chosen(None, start, None)
        readers = [reader(log, start, None, codec=self._codec) for log in self._logs]
        self._note([one.position for one in readers])
        return Tail(self, readers, self._from_the_first, seconds)

    def replay(
        self, start: Start = EARLIEST, stop: Start | None = None, *, speed: float | None = None
    ) -> Iterator[Record[Out]]:
        """Gives the records again in the order of their timestamps, and at their pace.

        Several partitions are merged by timestamp; within one, the order is that of its offsets.

        Args:
            start: As in `read`.
            stop: As in `read`.
            speed: 1.0 takes as long as it took, 10.0 a tenth of it; None does not wait at all.

        The iterator serves one thread at a time. It blocks in `next()` until a record is due.
        """
        pace = check_speed(speed)
        readers = self._readers(None, start, stop)
        return cast("Iterator[Record[Out]]", paced(readers, pace, self._check))

    def consumer(
        self,
        group: str,
        *,
        start: Start = EARLIEST,
        partitions: Sequence[int] | None = None,
        commit: Literal["auto", "manual"] = "auto",
        on_assign: Callable[[Consumer[Out], Sequence[int]], object] | None = None,
    ) -> Consumer[Out]:
        """Joins a consumer group; see `Consumer`.

        Args:
            group: Same characters as a topic's name.
            start: Where a *new* group begins; afterwards it goes on where it committed.
            partitions: Only these, instead of a share of all.
            commit: `"auto"` commits a record when the loop comes back for the next; `"manual"`
                only when `commit` is called.
            on_assign: Called with the consumer and its new partitions, inside `poll` and `next`,
                whenever they changed. What it raises comes out of that call.

        Raises:
            OffsetOutOfRangeError: The group is new, and `start` is an offset that is not there.
            ReadOnlyError: The store was opened with `mode="r"`.

        Any thread may call it. It blocks for the store's gate when it makes the group.
        """
        return Consumer(
            self, group, start=start, partitions=partitions, commit=commit, on_assign=on_assign
        )

    # what Partition has, while there is one

    @property
    def start_offset(self) -> int:
        """`Partition.start_offset` of the only partition."""
        return self._only("start_offset").start_offset

    @property
    def end_offset(self) -> int:
        """`Partition.end_offset` of the only partition."""
        return self._only("end_offset").end_offset

    @property
    def durable_offset(self) -> int:
        """`Partition.durable_offset` of the only partition."""
        return self._only("durable_offset").durable_offset

    def offset_at(self, moment: float | datetime) -> int:
        """`Partition.offset_at` of the only partition."""
        return self._only("offset_at()").offset_at(moment)

    def trim(self, before: int, *, force: bool = False) -> None:
        """`Partition.trim` of the only partition."""
        self._only("trim()").trim(before, force=force)

    def wait_durable(self, offset: int, timeout: float | None = None) -> None:
        """`Partition.wait_durable` of the only partition."""
        self._only("wait_durable()").wait_durable(offset, timeout)

    def __getitem__(self, offset: int) -> Record[Out]:
        """The record at an offset of the only partition; see `Partition.__getitem__`."""
        return self._only("[offset]")[offset]

    # waiting, ending

    def fileno(self) -> int:
        """A descriptor for event loops: readable when records came since the last `tail`, `wait`.

        It belongs to the handle: do not read from it or close it. In a forked child ask again.

        Any thread may call it; it does not block.
        """
        self._store._writable("fileno()")
        self._check()
        if self._signal is None or self._signal.descriptor < 0:
            self._signal = self._store._watch().signal(self)
        return self._signal.descriptor

    def close(self) -> None:
        """Ends this handle; the store stays open, and so do its other handles.

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

    def __enter__(self) -> Self:
        self._check()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrive, (self._store, self._topic, self._id, self._codec)

    # inside

    def _refresh(self) -> None:
        """Binds to what the store and the topic are now; the appender calls it when they moved."""
        if self._closed:
            raise ClosedError(f"{self!r}: open it again with store.stream()")
        generation, topic = self._store._topic(self._topic)
        if topic is None or topic.id != self._id:
            raise TopicDeletedError(f"topic {self._topic!r} of {self._store.path} was deleted")
        core = self._store._live()
        self._logs = self._store._logs(topic)
        self._seen += [0] * (len(self._logs) - len(self._seen))
        if self._store.mode == "rw":
            _sharing.bound(self._store, topic, self._logs)
        self._options = topic.options
        self._width = topic.spread
        self._bind_to(core, generation)

    def _bind_to(self, core: _engine.Store, generation: int) -> None:
        self._bind(
            core,
            self._logs,
            codec=self._codec,
            compression=self._options["compression"],
            clock=self._store._clock,
            batch_bytes=_options.batch_bytes(self._options),
            max_message_bytes=self._options["max_message_bytes"],
            generation=generation,
            spread=self._width,
        )

    def _only(self, member: str) -> Partition[Out]:
        self._check()
        if len(self._logs) != 1:
            what = f"partitions[n]{member}" if member[0] == "[" else f"partitions[n].{member}"
            raise ValueError(
                f"topic {self._topic!r} has {len(self._logs)} partitions, each with offsets of its "
                f"own: use {what}"
            )
        return Partition(self, 0)

    def _chosen(
        self, partition: int | None, start: Start, stop: Start | None
    ) -> Sequence[Partition[Out]]:
        """The partitions that a call reads; a bare offset needs that to be one."""
        every = self.partitions
        if partition is not None:
            number = check_index("partition", partition)
            if not 0 <= number < len(every):
                has = f"topic {self._topic!r} has {len(every)}, from 0"
                raise ValueError(f"there is no partition {number}: {has}")
            return [every[number]]
        offsets = [place for place in (start, stop) if place is not None and is_offset(place)]
        if len(every) > 1 and offsets:
            raise ValueError(
                f"offset {offsets[0]}: topic {self._topic!r} has {len(every)} partitions, each "
                "with offsets of its own: use partitions[n].read(), or partition=n"
            )
        return every

    def _readers(
        self, partition: int | None, start: Start, stop: Start | None
    ) -> list[_engine.Reader[Any]]:
        logs = [one._log for one in self._chosen(partition, start, stop)]
        return [reader(log, start, resolve_stop(log, stop), codec=self._codec) for log in logs]

    def _from_the_first(self, partition: int) -> _engine.Reader[Out]:
        return reader(self._logs[partition], EARLIEST, None, codec=self._codec)

    def _resolve(self, partition: int, start: Start) -> int:
        return resolve(self._logs[partition], start)

    def _alive(self) -> None:
        self._check()

    def _unread(self) -> bool:
        self._check()
        pairs = zip(self._logs, self._seen, strict=False)
        return any(log.readable_offset > seen for log, seen in pairs)

    def _due_in(self) -> float:
        """Nothing comes without a ring."""
        return math.inf

    def _noted(self) -> None:
        self._note([log.readable_offset for log in self._logs])

    def _note(self, seen: list[int]) -> None:
        self._seen = seen
        if self._signal is not None:
            self._store._watch().show(self._signal)


def reader_options(copy: bool, verify: bool, on_corrupt: str) -> dict[str, bool]:
    """What the engine's reader takes."""
    if on_corrupt not in ("raise", "skip"):
        raise ValueError(f'on_corrupt={on_corrupt!r}: "raise" or "skip"')
    return {"copy": bool(copy), "verify": bool(verify), "skip_corrupt": on_corrupt == "skip"}


def _at_least_one(what: str, value: Any) -> int:
    number = check_index(what, value)
    if number < 1:
        raise ValueError(f"{what}={number}: at least 1")
    return number


def _arrive(
    store: Store, name: str, topic_id: str | None, codec: Codec[Any] | None
) -> Stream[Any, Any]:
    """Opens a pickled stream where it has come to; not another topic of the same name."""
    topic = store._existing(name)
    if topic.id != topic_id:
        raise TopicDeletedError(f"topic {name!r} of {store.path} was deleted, and made again")
    return Stream(store, topic, codec)
