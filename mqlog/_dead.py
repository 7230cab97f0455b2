"""Dead letters: how a record moves to another topic and is neither lost nor doubled.

Three steps, each of which a death may end: the record's slot says that it is moving, and where the
other topic ended then; the copy is appended there, durably, naming its origin; the slot says that
the record is final. Whoever finds a record between the first and the third looks for the copy from
the place remembered, and appends it only if it is not there.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from mqlog import _letters
from mqlog._engine import ARCHIVE, DEAD, MOVE, PARK, PASSED, Message
from mqlog.errors import CorruptError, LockLostError

if TYPE_CHECKING:
    from mqlog._queue import Queue
    from mqlog._store import Store

LOGGER: Final = logging.getLogger("mqlog")

#: Until a move that the disk had no room for is tried again.
_PAUSE: Final = 1.0
#: Of a record that was driven back: the dead letter that it was.
_REDRIVEN: Final = "__mqlog.redriven"

Settle = Callable[[list[Message[Any]], int, int, int], list[Message[Any]]]


def bury(
    letters: Queue[Any, Any], messages: list[Message[Any]], reason: str, settle: Settle
) -> list[Message[Any]]:
    """Moves messages that are held to the dead letters; those whose lock was lost."""
    lost = settle(messages, MOVE, letters._logs[0].end_offset, 0)
    held = [one for one in messages if one not in lost]
    _append(letters, held, [_letters.headers_of(one, reason) for one in held], settle)
    for one in held:
        LOGGER.info("%s went to the dead letters: %s", one.id, reason or "rejected")
    return lost


def _append(
    letters: Queue[Any, Any],
    messages: list[Message[Any]],
    headers: Sequence[list[tuple[str, bytes | None]]],
    settle: Settle,
) -> None:
    """The second and the third step; what there is no room for waits for its turn."""
    if not messages:
        return
    values = [b"" if one.raw is None else one.raw for one in messages]
    try:
        letters._send_raw(values, [one.key for one in messages], headers)
    except OSError as error:
        _park(messages, error, settle)
        return
    settle(messages, ARCHIVE, DEAD, 0)


def _park(messages: list[Message[Any]], error: OSError, settle: Settle) -> None:
    settle(messages, PARK, int((time.time() + _PAUSE) * 1000), 0)
    LOGGER.warning(
        "%d records cannot be moved to the dead letters now, and are tried again: %s",
        len(messages),
        error,
    )
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        raise error


def _settle_one(messages: list[Message[Any]], event: int, when: int, flags: int) -> list[Any]:
    for one in messages:
        try:
            one._settle(event, when, flags)
        except LockLostError:
            LOGGER.info("%r is being moved by another consumer", one)
    return []


def finish_burial(letters: Queue[Any, Any], message: Message[Any]) -> None:
    """A move that somebody began and did not end."""
    wanted = message.id
    log = letters._logs[0]
    for record in _from(log, message._is_moving):
        if (
            _letters.origin_of(record) == wanted
            and record.header(_letters.GROUP) == message._group.encode()
        ):
            log.wait_durable(record.offset + 1, None)
            _settle_one([message], ARCHIVE, DEAD, 0)
            return
    reason = "moved after its mover had died"
    _append(letters, [message], [_letters.headers_of(message, reason)], _settle_one)


def _from(log: Any, offset: int) -> Any:
    """The records from an offset on, damage passed over."""
    reader = log.reader(max(offset, log.start_offset), log.end_offset, skip_corrupt=True)
    while True:
        try:
            yield from reader
            return
        except CorruptError:
            continue


# -- back again ------------------------------------------------------------------------------------


def _target(store: Store, message: Message[Any]) -> tuple[Queue[Any, Any], int]:
    topic = (message.header(_letters.TOPIC) or b"").decode()
    group = (message.header(_letters.GROUP) or b"default").decode()
    queue = store.queue(topic, group=group, create=False)
    partition = int(message.header(_letters.PARTITION) or b"0")
    return queue, partition if partition < len(queue._logs) else 0


def redrive(store: Store, message: Message[Any]) -> None:
    """Puts one dead letter back into the queue that it came from."""
    queue, partition = _target(store, message)
    message._settle(MOVE, queue._logs[partition].end_offset)
    _drive(queue, partition, message)


def _drive(queue: Queue[Any, Any], partition: int, message: Message[Any]) -> None:
    own = _letters.own_headers(message)
    group = message.header(_letters.GROUP) or b"default"
    extra = [(b"__mqlog.group", group), (_REDRIVEN.encode(), message.id.encode())]
    queue._send_one_raw(message.raw or b"", message.key, own, partition, extra)
    message._settle(ARCHIVE, PASSED)


def finish_redrive(store: Store, message: Message[Any]) -> None:
    """A redrive that somebody began and did not end."""
    queue, partition = _target(store, message)
    log = queue._logs[partition]
    for record in _from(log, message._is_moving):
        if dict(record._all_headers()).get(_REDRIVEN) == message.id.encode():
            log.wait_durable(record.offset + 1, None)
            _settle_one([message], ARCHIVE, PASSED, 0)
            return
    _drive(queue, partition, message)
