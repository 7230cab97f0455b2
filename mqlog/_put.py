"""Putting: what `Queue.put` does when it is not a plain one, and `Queue.put_many`.

A plain put, of a value and nothing else into a queue without bounds, is the engine's alone. Here is
what the rest takes: room to wait for, a partition for the priority, notes in the record's headers.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from mqlog import _engine, _sharing
from mqlog._times import Deadline, check_delay, check_seconds, later_ms, moment_ms
from mqlog.errors import Full, ShutDown

if TYPE_CHECKING:
    from mqlog._queue import Queue

    AnyQueue = Queue[Any, Any]

#: Between two looks at what may have changed.
_SLICE: Final = 0.25
#: The same where nobody rings: bytes come back when the engine reclaims them.
_SLICE_OF_BYTES: Final = 0.02

PRIORITY: Final = 4

#: Headers of mqlog's own.
Notes = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class How:
    """What one `put` says beside the value and the time to wait."""

    key: bytes | None = None
    headers: Any = ()
    delay: float = 0.0
    deliver_at: float | datetime | None = None
    priority: int = PRIORITY
    ttl: float | None = None
    dedupe: str | bytes | None = None
    durable: bool = False


def put(queue: AnyQueue, value: Any, wait: Deadline, how: How) -> int:
    """Puts one record as soon as there is room; `Full` when the time is over."""
    open_for_puts(queue)
    _check_value(value)
    return _put_one(queue, value, wait, how, _due_ms(how.delay, how.deliver_at))


def _put_one(queue: AnyQueue, value: Any, wait: Deadline, how: How, due: int) -> int:
    """`due`: milliseconds since 1970; 0: at once."""
    notes, once = _notes(due, how.ttl), _once(queue, how.dedupe)
    partition = first_of(queue, how.priority) + _among(queue, how.key or once)
    while True:
        log = queue._logs[partition]
        try:
            _check_bytes(queue)
            if due:
                log.make_room()
            offset, found = _append(queue, value, how, partition, (notes, once))
            if due and not found:  # enters every group's window at once, so that no get walks far
                log.delay(offset, due)
            return offset
        except Full:
            _wait_room(queue, partition, wait)


def _append(
    queue: AnyQueue, value: Any, how: How, partition: int, own: tuple[Notes, bytes | None]
) -> tuple[int, bool]:
    """The offset, and whether it was put before; `own`: notes, and the key of an idempotent put."""
    notes, once = own
    if once is None:
        send = queue._send(value, how.key, how.headers, partition, how.durable, notes or None)
        return send, False
    window = round(queue._options["dedupe_window"] * 1000)
    notes = [*notes, (b"__mqlog.dedupe", once)]
    return queue._send_once(
        value, how.key, how.headers, partition, how.durable, notes, once, window
    )


def put_many(
    queue: AnyQueue,
    values: Iterable[Any],
    columns: tuple[Iterable[bytes | None] | None, Iterable[Any] | None],
    how: How,
) -> Sequence[int]:
    """Puts all of them, once there is room for all; `columns`: keys and headers."""
    open_for_puts(queue)
    items = tuple(values)
    for item in items:
        _check_value(item)
    maxsize = queue._options["maxsize"]
    if 0 < maxsize < len(items):
        raise ValueError(f"{len(items)} values, and the queue holds maxsize={maxsize}")
    keys, headers = (None if column is None else tuple(column) for column in columns)
    if check_delay("delay", how.delay) > 0:
        return _put_each(queue, items, (keys, headers), how)
    first = first_of(queue, how.priority)
    spread = queue._width > 1 and keys is not None
    partition = None if spread else first + _among(queue, None)
    while True:
        try:
            _check_bytes(queue)
            return queue._send_many(items, keys, headers, partition, first, how.durable)
        except Full:
            _wait_room(queue, first, Deadline(None))


def _put_each(
    queue: AnyQueue,
    items: tuple[Any, ...],
    columns: tuple[tuple[bytes | None, ...] | None, tuple[Any, ...] | None],
    how: How,
) -> list[int]:
    """One by one: a delayed record is a batch of its own."""
    keys = (None,) * len(items) if columns[0] is None else columns[0]
    headers = ((),) * len(items) if columns[1] is None else columns[1]
    for name, column in (("keys", keys), ("headers", headers)):
        if len(column) != len(items):
            raise ValueError(f"{len(items)} values but {len(column)} {name}: nothing was put")
    due = later_ms(how.delay)
    return [
        _put_one(queue, item, Deadline(None), replace(how, key=key, headers=some), due)
        for item, key, some in zip(items, keys, headers, strict=True)
    ]


# -- whether, and when -----------------------------------------------------------------------------


def open_for_puts(queue: AnyQueue) -> None:
    """Raises what a put raises before it looks at what is to be put."""
    queue._store._writable("put()")
    queue._check()
    if queue.is_shutdown:
        raise ShutDown(f"{queue!r} was shut down")
    if queue._options["intake"] == "closed":
        name = queue.name
        raise ShutDown(f"topic {name!r} takes no more: store.alter({name!r}, intake='open')")


def _check_value(value: Any) -> None:
    if value is None:
        raise TypeError(
            "a queue takes no None: a tombstone is a stream's; put b'' for an empty value"
        )


def holds_bytes(queue: AnyQueue) -> bool:
    """Whether the topic holds as much as its `max_bytes` says."""
    most = queue._options["max_bytes"]
    return bool(most) and sum(log.describe().bytes for log in queue._logs) >= most


def _check_bytes(queue: AnyQueue) -> None:
    if holds_bytes(queue):
        most = queue._options["max_bytes"]
        raise Full(f"topic {queue.name!r} holds as many bytes as its max_bytes={most} says")


def time_to_wait(block: bool, timeout: float | None) -> Deadline:
    """As the standard library's queue has it."""
    return Deadline(check_seconds("timeout", timeout) if block else 0.0)


def _wait_room(queue: AnyQueue, partition: int, wait: Deadline) -> None:
    left = wait.left(_SLICE_OF_BYTES if queue._options["max_bytes"] else _SLICE)
    if not left:
        raise Full(f"{queue!r} is full, and there was no time to wait any longer")
    queue._logs[partition].wait_room(left)
    open_for_puts(queue)


# -- where to --------------------------------------------------------------------------------------


def first_of(queue: AnyQueue, priority: int) -> int:
    """The first partition of a priority; it is made when it is used for the first time."""
    if isinstance(priority, bool) or not isinstance(priority, int):
        raise TypeError(f"priority is an int, not {type(priority).__name__}")
    if not 0 <= priority <= 9:
        raise ValueError(f"priority={priority}: 0 to 9, higher first; 4 is the default")
    if priority not in queue._ranks:
        _sharing.add_priority(queue._store, queue.name, priority)
        queue._refresh()
    return queue._ranks[priority] * queue._width


def _among(queue: AnyQueue, key: bytes | None) -> int:
    """Which of one priority's partitions."""
    if queue._width == 1:
        return 0
    if key is None:
        return queue._turn()
    return _engine.partition_for(key, queue._width)


# -- notes in the headers --------------------------------------------------------------------------


def _due_ms(delay: float, deliver_at: float | datetime | None) -> int:
    seconds = check_delay("delay", delay)
    if deliver_at is None:
        return later_ms(seconds)
    if seconds:
        raise ValueError("delay= and deliver_at= say the same: give one of them")
    moment = moment_ms(deliver_at)
    return moment if moment > time.time() * 1000 else 0


def _notes(due: int, ttl: float | None) -> Notes:
    """What mqlog itself notes in the record's headers."""
    out = []
    if due:
        out.append((b"__mqlog.due", due.to_bytes(8, "big")))
    if ttl is not None:
        if check_delay("ttl", ttl) == 0:
            raise ValueError("ttl=0: seconds, over 0")
        out.append((b"__mqlog.expires", later_ms(ttl).to_bytes(8, "big")))
    return out


def _once(queue: AnyQueue, dedupe: str | bytes | None) -> bytes | None:
    """What names the put, if it is to be put once."""
    if dedupe is None:
        return None
    if not isinstance(dedupe, (str, bytes)):
        raise TypeError(f"dedupe is a str or bytes, not {type(dedupe).__name__}")
    if not dedupe:
        raise ValueError("dedupe is empty: it names what is put, such as 'order-17'")
    if not queue._options["dedupe_window"]:
        return None
    return dedupe.encode() if isinstance(dedupe, str) else dedupe
