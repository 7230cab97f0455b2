"""Putting: what `Queue.put` does when it is not a plain one, and `Queue.put_many`.

A plain put, of a value and nothing else into a queue without bounds, is the engine's alone. Here is
what the rest takes: room to wait for, a partition for the priority, notes in the record's headers.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from mqlog import _engine, _sharing
from mqlog._times import Deadline, check_delay, check_seconds, later_ms, moment_ms
from mqlog.errors import Full, ShutDown

if TYPE_CHECKING:
    from mqlog._queue import Queue

    AnyQueue = Queue[Any, Any]

#: Between two looks at what may have changed.
_SLICE: Final = 0.25
#: Between two looks at a bound of the whole topic: nobody rings when there is room again.
_LOOK: Final = 0.01

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
    return _put_one(queue, value, wait, how, _due_ms(how, queue._store._now()))


def _put_one(queue: AnyQueue, value: Any, wait: Deadline, how: How, due: int) -> int:
    """`due`: milliseconds since 1970; 0: at once."""
    notes = _notes(due, how.ttl, queue._store._now())
    once = _once(queue, how.dedupe)
    partition = first_of(queue, how.priority) + _among(queue, how.key or once)
    while True:
        log = queue._logs[partition]
        try:
            lack = _lack_of_room(queue, 1)
            if due:
                log.make_room()
            offset, found = _append(queue, value, how, partition, (notes, once), lack)
            if due and not found:  # enters every group's window at once, so that no get walks far
                log.delay(offset, due)
            return offset
        except Full as full:
            _wait_room(queue, partition, wait, full)


def _append(
    queue: AnyQueue,
    value: Any,
    how: How,
    partition: int,
    own: tuple[Notes, bytes | None],
    lack: str,
) -> tuple[int, bool]:
    """The offset, and whether it was put before, for which nothing is lacking.

    `own`: notes, and the key of an idempotent put.
    """
    notes, once = own
    if lack and once is None:
        raise Full(lack)
    if once is None:
        send = queue._send(value, how.key, how.headers, partition, how.durable, notes or None)
        return send, False
    window = round(queue._options["dedupe_window"] * 1000)
    notes = [*notes, (b"__mqlog.dedupe", once)]
    return queue._send_once(
        value, how.key, how.headers, partition, how.durable, notes, once, window, bool(lack)
    )


class Many(NamedTuple):
    """The records of one `put_many`, in columns; None: none has that."""

    items: tuple[Any, ...]
    keys: tuple[bytes | None, ...] | None
    headers: tuple[Any, ...] | None

    def pick(self, places: list[int]) -> Many:
        """Some of them."""
        return Many(
            tuple(self.items[place] for place in places),
            self.keys and tuple(self.keys[place] for place in places),
            self.headers and tuple(self.headers[place] for place in places),
        )


def many(values: Iterable[Any], keys: Iterable[Any] | None, headers: Iterable[Any] | None) -> Many:
    """The columns, once they are found to be of one length."""
    items = tuple(values)
    for item in items:
        _check_value(item)
    columns = [None if column is None else tuple(column) for column in (keys, headers)]
    for name, column in zip(("keys", "headers"), columns, strict=True):
        if column is not None and len(column) != len(items):
            raise ValueError(f"{len(items)} values but {len(column)} {name}: nothing was put")
    return Many(items, *columns)


def put_many(queue: AnyQueue, rows: Many, how: How) -> Sequence[int]:
    """Puts all of them, once there is room for all."""
    open_for_puts(queue)
    maxsize, count = queue._options["maxsize"], len(rows.items)
    if 0 < maxsize < count:
        raise ValueError(f"{count} values, and the queue holds maxsize={maxsize}")
    if check_delay("delay", how.delay) > 0:
        return _put_each(queue, rows, how)
    first = first_of(queue, how.priority)
    if queue._width == 1 or rows.keys is None:
        return _put_some(queue, rows, how, first, first + _among(queue, None))
    if not maxsize and not queue._options["max_bytes"]:
        return _put_some(queue, rows, how, first, None)
    # Each partition's on their own: what was put in one is not put again if the next one is full.
    offsets = [0] * count
    for partition, places in _by_partition(queue, rows.keys, first).items():
        found = _put_some(queue, rows.pick(places), how, first, partition)
        for place, offset in zip(places, found, strict=True):
            offsets[place] = offset
    return offsets


def _put_some(
    queue: AnyQueue, rows: Many, how: How, first: int, partition: int | None
) -> Sequence[int]:
    """`partition`: None: the keys say, among those from `first` on."""
    while True:
        try:
            if lack := _lack_of_room(queue, len(rows.items)):
                raise Full(lack)
            return queue._send_many(*rows, partition, first, how.durable)
        except Full as full:
            where = first if partition is None else partition
            _wait_room(queue, where, Deadline(None), full)


def _by_partition(
    queue: AnyQueue, keys: tuple[bytes | None, ...], first: int
) -> dict[int, list[int]]:
    """The places of the records that go to each partition; those without a key go to one."""
    keyless = queue._turn()
    out: dict[int, list[int]] = {}
    for place, key in enumerate(keys):
        number = keyless if key is None else _engine.partition_for(key, queue._width)
        out.setdefault(first + number, []).append(place)
    return out


def _put_each(queue: AnyQueue, rows: Many, how: How) -> list[int]:
    """One by one: a delayed record is a batch of its own."""
    due, count = later_ms(how.delay, queue._store._now()), len(rows.items)
    keys = rows.keys or (None,) * count
    headers = rows.headers or ((),) * count
    return [
        _put_one(queue, item, Deadline(None), replace(how, key=key, headers=some), due)
        for item, key, some in zip(rows.items, keys, headers, strict=True)
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


def room(queue: AnyQueue) -> int:
    """How many records more may be put by `maxsize`; the default group's are counted."""
    most = int(queue._options["maxsize"])
    return most - sum(place.waiting() for place in queue._bounds) if most else sys.maxsize


def holds_bytes(queue: AnyQueue) -> bool:
    """Whether the default group's backlog is as long as `max_bytes` says."""
    most = queue._options["max_bytes"]
    return bool(most) and sum(place.backlog() for place in queue._bounds) >= most


def _lack_of_room(queue: AnyQueue, wanted: int) -> str:
    """Why there is none by the bounds that are not of one partition; the engine holds those."""
    if len(queue._bounds) < 2:
        return ""
    if holds_bytes(queue):
        most = queue._options["max_bytes"]
        return f"topic {queue.name!r} holds as many bytes as its max_bytes={most} says"
    if room(queue) < wanted:
        most = queue._options["maxsize"]
        return f"queue {queue.name!r} holds as many records as its maxsize={most} says"
    return ""


def time_to_wait(block: bool, timeout: float | None) -> Deadline:
    """As the standard library's queue has it."""
    return Deadline(check_seconds("timeout", timeout) if block else 0.0)


def _wait_room(queue: AnyQueue, partition: int, wait: Deadline, full: Full) -> None:
    rings = len(queue._bounds) < 2
    left = wait.left(_SLICE if rings else _LOOK)
    if not left:
        raise Full(f"{queue!r} is full, and there was no time to wait any longer")
    if rings:
        queue._logs[partition].wait_room(*full._wanted, left)
    else:
        time.sleep(left)
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


def _due_ms(how: How, now: float) -> int:
    seconds, deliver_at = check_delay("delay", how.delay), how.deliver_at
    if deliver_at is None:
        return later_ms(seconds, now)
    if seconds:
        raise ValueError("delay= and deliver_at= say the same: give one of them")
    moment_ms(deliver_at)  # refuses what is no moment
    exact = deliver_at.timestamp() if isinstance(deliver_at, datetime) else deliver_at
    return math.ceil(exact * 1000) if exact > now else 0


def _notes(due: int, ttl: float | None, now: float) -> Notes:
    """What mqlog itself notes in the record's headers."""
    out = []
    if due:
        out.append((b"__mqlog.due", due.to_bytes(8, "big")))
    if ttl is not None:
        if check_delay("ttl", ttl) == 0:
            raise ValueError("ttl=0: seconds, over 0")
        out.append((b"__mqlog.expires", later_ms(ttl, now).to_bytes(8, "big")))
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
