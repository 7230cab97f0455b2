"""The border between Python and the engine: converts, holds lifetimes, releases the GIL, raises.

No policy and no defaults live here. Every method may raise `ClosedError` after `Store.close`,
`ForkedError` in a forked child, `TopicDeletedError`, `DurabilityError` and `OSError`. Offsets are
ints, times milliseconds since 1970, durations float seconds (None: for ever); signals are served
in every blocking call.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from os import PathLike
from types import GenericAlias, TracebackType
from typing import Any, Generic, NamedTuple, Self, final

from typing_extensions import Buffer, TypeVar, disjoint_base

_Out = TypeVar("_Out", covariant=True)

# What `Message._settle` and `settle_many` take: an event; a flag; how a record came to its end.
ACCEPT: int
RELEASE: int  # `when`: milliseconds since 1970 before which it is not delivered again; 0: at once
RENEW: int  # `when`: milliseconds from now; -1: until settled
MOVE: int  # `when`: the end of the topic that it goes to
ARCHIVE: int  # `when`: DEAD or PASSED
PARK: int  # `when`: as for RELEASE
UNCOUNTED: int
DURABLE: int
DEAD: int
PASSED: int

class LogOptions(NamedTuple):
    """What the engine must know of a topic."""

    segment_bytes: int
    batch_bytes: int
    max_message_bytes: int
    sync_interval: float
    retention_bytes: int  # -1: no bound
    retention_age: float  # -1: no bound
    dedupe_window: float
    durability: int  # 0 "os", 1 "sync"
    cleanup: int  # 0 keep, 1 delete, 2 consumed, 3 compact

class LogInfo(NamedTuple):
    start_offset: int
    end_offset: int
    durable_offset: int
    bytes: int
    segments: int
    epoch: int
    poisoned: bool

class Recovered(NamedTuple):
    topic: str
    partition: int
    row: int
    segment: int
    position: int
    bytes: int
    file: str

class ShareInfo(NamedTuple):
    """A share group in one partition: what there is, and what has ended how."""

    ready: int
    delayed: int
    acquired: int
    first: int  # offsets below it are final
    end: int  # the first that was never acquired, put off or dropped
    oldest: int | None  # the first that is to be delivered
    next_ms: int | None  # when the next delayed one is due, since 1970
    bytes: int
    accepted: int
    dead: int
    expired: int
    damaged: int
    gone: int  # lost to retention before they were delivered
    passed: int  # another group's, or driven back
    purged: int

class Holder(NamedTuple):
    """One acquisition."""

    offset: int
    token: int
    deliveries: int
    deadline_ms: int | None  # by `Share.now_ms`
    member: int

class VerifyReport(NamedTuple):
    segments: int
    batches: int
    records: int
    bytes: int
    index_entries: int
    problems: int

@final
class Gate:
    """Context manager that holds the store's gate."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None: ...

@final
class Store:
    """One opening of a store."""

    path: str
    read_only: bool
    closed: bool
    forked: bool  # made before a fork of this process
    options_generation: int
    def __init__(
        self,
        path: str | bytes | PathLike[str] | PathLike[bytes],
        *,
        read_only: bool = False,
        create: bool = True,
        threads: bool = True,
        min_free_bytes: int | None = None,
        max_bytes: int = 0,
        file_mode: int = 0o600,
    ) -> None: ...
    def close(self) -> None: ...
    def gate(self, timeout: float = 10.0) -> Gate: ...
    def read_options(self) -> bytes | None: ...
    def write_options(self, data: bytes, /) -> None: ...
    def set_limits(self, min_free_bytes: int | None, max_bytes: int) -> None: ...
    def sync(self) -> None: ...
    def partition(self, topic: str, partition: int, create: bool, options: LogOptions) -> Log: ...
    def bell(self) -> int: ...
    def wait_bell(self, seen: int, timeout: float | None) -> bool:
        """True once the bell differs from `seen`; False at the timeout."""
    def wake(self) -> None: ...
    def recovered(self) -> list[Recovered]: ...

@final
class Log:
    """One partition."""

    topic: str
    partition: int
    store: Store
    start_offset: int
    end_offset: int
    durable_offset: int
    readable_offset: int  # what consumers may read up to
    def describe(self) -> LogInfo: ...
    def measure(self, offset: int) -> tuple[int, int]:
        """Bytes and segments of the log from the batch that holds the offset on."""
    def alter(self, options: LogOptions) -> None: ...
    def delete(self) -> None: ...
    def wait(self, offset: int, timeout: float | None) -> bool:
        """True once a record at `offset` may be read; False at the timeout."""
    def wait_room(self, records: int, bytes: int, timeout: float | None) -> bool:
        """True once a bounded queue may take so much; False at the timeout."""
    def make_room(self) -> None:
        """Before a delayed record is appended: space for it in every share group."""
    def delay(self, offset: int, due_ms: int) -> None:
        """The record just appended is not delivered before, in any share group."""
    def wait_durable(self, offset: int, timeout: float | None) -> bool: ...
    def sync(self) -> None: ...
    def trim(self, before: int) -> None: ...
    def unfinished(self, start: int, stop: int) -> int:
        """The first offset in the range that a share group has not finished; `stop`: none."""
    def offset_at(self, timestamp_ms: int) -> int:
        """The first offset whose record's timestamp is >= it; the log end if there is none."""
    def reader(
        self,
        start: int,
        stop: int | None = None,
        *,
        copy: bool = True,
        verify: bool = True,
        skip_corrupt: bool = False,
        to_end: bool = False,
        codec: Any = None,
    ) -> Reader[Any]: ...
    def group(self, name: str, create: bool) -> Group: ...
    def verify(
        self,
        found: Callable[[str, int, str], object],
        progress: Callable[[int, int], object] | None = None,
    ) -> VerifyReport:
        """Reads everything. `found(path, position, what)`; `progress(done, total)`, in bytes."""

@disjoint_base
class Record(Generic[_Out]):
    """What a user appended, as it was read. Made by the engine only."""

    topic: str
    partition: int
    offset: int
    @property
    def id(self) -> str: ...
    @property
    def timestamp(self) -> float | None: ...
    @property
    def timestamp_ms(self) -> int: ...
    @property
    def datetime(self) -> datetime | None: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def raw(self) -> bytes | None: ...
    @property
    def headers(self) -> tuple[tuple[str, bytes | None], ...]: ...
    @property
    def value(self) -> _Out: ...
    def header(self, name: str, default: bytes | None = None) -> bytes | None: ...
    def _all_headers(self) -> tuple[tuple[str, bytes | None], ...]:
        """Those of mqlog's own too."""
    @classmethod
    def __class_getitem__(cls, item: Any, /) -> GenericAlias: ...

@final
class Columns:
    partition: int
    @property
    def offsets(self) -> memoryview: ...
    @property
    def timestamps_ms(self) -> memoryview: ...
    def values(self) -> list[bytes | None]: ...
    def keys(self) -> list[bytes | None]: ...
    def __len__(self) -> int: ...

@final
class Reader(Generic[_Out]):
    """A place in one partition, and what can be read from there; one thread at a time.

    With `stop=None` it reads on as records arrive: StopIteration then means "nothing now", and a
    later call goes on. `CorruptError` is raised once, the reader then stands behind the damage.
    """

    @property
    def position(self) -> int: ...  # the next offset to be read
    @property
    def stop(self) -> int | None: ...
    def __iter__(self) -> Self: ...
    def __next__(self) -> Record[_Out]: ...
    def take(self, max_records: int) -> list[Record[_Out]]:
        """Up to that many records that are there now; [] if none.

        What was read before a damage comes first, and the next call raises.
        """
    def values(self, raw: bool = False) -> Values[_Out]: ...
    def columns(self, max_records: int) -> Columns | None: ...
    def seek(self, offset: int) -> None: ...
    @classmethod
    def __class_getitem__(cls, item: Any, /) -> GenericAlias: ...

@final
class Values(Generic[_Out]):
    """Iterates over the values of a reader, and moves it."""

    def __iter__(self) -> Self: ...
    def __next__(self) -> _Out: ...

@final
class Group:
    """The place of one consumer group in one partition."""

    name: str
    def committed(self) -> int | None: ...
    def commit(self, member: int, offset: int, durable: bool = False) -> None:
        """Raises `LockLostError` when `member` does not own the partition."""
    def join(self) -> int: ...
    def leave(self, member: int) -> None: ...
    def members(self) -> list[int]: ...
    def claim(self, member: int) -> bool: ...
    def drop(self, member: int) -> None: ...
    def owner(self) -> int: ...
    def delete(self) -> bool:
        """False, and nothing was done, while a live consumer owns the partition or is a member."""

@final
class Share:
    """The place of one share group in one partition. Any thread may call."""

    log: Log
    name: str
    def waiting(self) -> int:
        """Records to be delivered, delayed ones included."""
    def describe(self) -> ShareInfo: ...
    def peek(self, count: int) -> list[Record[Any]]: ...
    def holders(self, most: int) -> list[Holder]: ...
    def now_ms(self) -> int:
        """The clock of deadlines: milliseconds since boot."""
    def bound(self, maxsize: int, max_bytes: int) -> None:
        """Appends of this process raise `Full` before more waits, or the backlog is larger."""
    def backlog(self) -> int:
        """Bytes of the log from the first record on that is not final."""
    def wait_final(self, offset: int, timeout: float | None) -> bool:
        """True once all below `offset` is accepted or dead; False at the timeout."""
    def due_in(self) -> float:
        """Seconds until a `get` may find something if nobody puts: 0.0: now; inf: never."""
    def purge(self) -> int: ...
    def delete(self) -> bool:
        """Forgets the group here; False, and nothing done, while live processes hold records."""

def open_share(log: Log, name: str, create: bool, start: int, codec: Any) -> Share:
    """Opens a share group in a partition; a new one begins at `start`."""

@disjoint_base
class Message(Record[_Out]):
    """A record acquired by one consumer. Made by a queue's `get`."""

    token: int
    delivery_count: int
    @property
    def settled(self) -> bool: ...
    @property
    def reason(self) -> str: ...
    @property
    def origin(self) -> str | None: ...
    def accept(self, *, durable: bool = False) -> None: ...
    def release(self, delay: float = 0.0, reason: str = "") -> None: ...
    def reject(self, reason: str = "") -> None: ...
    def renew(self, lock_duration: float | None = None) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None: ...
    @property
    def _group(self) -> str: ...
    @property
    def _lock_ms(self) -> int: ...
    @property
    def _is_moving(self) -> int:
        """Where the other topic ended when a move there began that is not done; -1: none is."""
    def _check_held(self) -> None:
        """Raises what settling it would raise if this holder has it no longer."""
    def _settle(self, event: int, when: int = 0, flags: int = 0) -> None: ...

def settle_many(
    messages: list[Message[Any]], event: int, when: int, flags: int
) -> list[Message[Any]]:
    """Settles messages of one place of a share group; returns those whose lock is lost."""

@disjoint_base
class Sender:
    """What handles that append have in common.

    Calls `self._refresh()` (Python's) before anything else whenever the store was closed, forked,
    or its options generation moved since the last `_bind`; that method binds again or raises.
    """

    def _bind(
        self,
        store: Store,
        logs: Sequence[Log],
        *,
        codec: Any,
        compression: str | None,
        clock: Callable[[], float] | None,
        batch_bytes: int,
        max_message_bytes: int,
        generation: int | None = None,
        spread: int | None = None,
    ) -> None:
        """Says where appends go.

        `generation`: what `store.options_generation` was before the options were read; None: now.
        `spread`: keys are spread over the first so many partitions only.
        """
    def _refresh(self) -> None: ...
    def _check(self) -> None:
        """What every other method of a handle calls first: `_refresh()` if needed."""

class Appender(Sender):
    """The hot half of a stream handle; `mqlog.Stream` is its subclass."""

    def append(
        self,
        value: Any,
        *,
        key: bytes | None = None,
        headers: Any = (),
        timestamp: float | datetime | None = None,
        partition: int | None = None,
        durable: bool = False,
    ) -> int: ...
    def append_many(
        self,
        values: Iterable[Any],
        *,
        keys: Iterable[bytes | None] | None = None,
        headers: Iterable[Any] | None = None,
        timestamps: Iterable[float | datetime] | None = None,
        partition: int | None = None,
        compression: str | None = None,
        durable: bool = False,
    ) -> Sequence[int]: ...

@disjoint_base
class Taker(Sender):
    """The hot half of a queue handle; `mqlog.Queue` is its subclass.

    Asks of the subclass: `_put` (what is no plain put), `_lock_ms`, `_may_wait`, `_empty`, `_bury`;
    and its messages do: `_release`, `_reject`, `_failed`, `_dropped`.
    """

    def _bind_shares(
        self,
        shares: Iterable[Share],
        *,
        lock_ms: int,
        max_acquired: int,
        max_deliveries: int,
        plain: bool,
    ) -> None:
        """Says whence messages come, in the order of priority, and under which options."""
    def put(
        self,
        value: Any,
        block: bool = True,
        timeout: float | None = None,
        *,
        key: bytes | None = None,
        headers: Any = (),
        delay: float = 0.0,
        deliver_at: float | datetime | None = None,
        priority: int = 4,
        ttl: float | None = None,
        dedupe: str | bytes | None = None,
        durable: bool = False,
    ) -> int: ...
    def get(
        self,
        block: bool = True,
        timeout: float | None = None,
        *,
        lock_duration: float | None = ...,
    ) -> Message[Any]: ...
    def _send(
        self,
        value: Any,
        key: bytes | None,
        headers: Any,
        partition: int | None,
        durable: bool,
        extra: list[tuple[bytes, bytes]] | None = None,
    ) -> int:
        """Appends one record; `extra`: headers of mqlog's own."""
    def _send_once(
        self,
        value: Any,
        key: bytes | None,
        headers: Any,
        partition: int,
        durable: bool,
        extra: list[tuple[bytes, bytes]],
        once_key: bytes,
        window_ms: int,
        full: bool,
    ) -> tuple[int, bool]:
        """The same, but where that key came within the window; and whether it is that one's."""
    def _send_many(
        self, values: Any, keys: Any, headers: Any, partition: int | None, first: int, durable: bool
    ) -> Sequence[int]:
        """Appends many, all or nothing in each partition, from the `first` one on."""
    def _send_raw(self, values: Any, keys: Any, headers: Any) -> Sequence[int]:
        """Appends bytes as they are, durably."""
    def _send_one_raw(
        self,
        value: bytes,
        key: bytes | None,
        headers: Any,
        partition: int,
        extra: list[tuple[bytes, bytes]] | None,
    ) -> int: ...
    def _halt(self, immediate: bool) -> None:
        """From now on `_may_wait` is asked before each wait, and each put is `_put`."""
    def _watch(self) -> None:
        """From now on `_show` is called after each look at what is there."""
    def _owns(self, message: object) -> bool:
        """Whether it was acquired by this handle, or by another of the same queue here."""
    def _gather(
        self, count: int, block: bool, timeout: float | None, lock_ms: int, raises: bool
    ) -> list[Message[Any]]:
        """Up to so many messages, as soon as there is one."""

def partition_for(key: Buffer, partitions: int) -> int: ...
def to_ms(moment: float | datetime, /) -> int:
    """Milliseconds since 1970. `ValueError`: naive, NaN, negative, or over 1e11 (milliseconds?)."""
def fork_generation() -> int:
    """Grows by one in every forked child."""
