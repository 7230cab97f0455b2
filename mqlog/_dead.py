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
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from mqlog import _letters
from mqlog._engine import ARCHIVE, DEAD, MOVE, PARK, PASSED, RELEASE, UNCOUNTED, Message
from mqlog._times import later_ms
from mqlog.errors import CorruptError, Full, LockLostError, NotFoundError

if TYPE_CHECKING:
    from mqlog._queue import Queue
    from mqlog._store import Store

LOGGER: Final = logging.getLogger("mqlog")

#: Until a move that the disk had no room for is tried again.
_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 60.0
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)
#: Of records that wait to be moved, in one handle; the oldest are forgotten.
_MOST_REASONS: Final = 10_000
_LONGEST_REASON: Final = 2000
_UNKNOWN: Final = "moved later: its mover died, or found no space"
#: Of what is driven back now; a sync may take long.
_LOCK_MS: Final = 60_000
#: Of a record that was driven back: the dead letter that it was.
_REDRIVEN: Final = "__mqlog.redriven"

Settle = Callable[[list[Message[Any]], int, int, int], list[Message[Any]]]


class Stuck:
    """When the disk had no room for a dead letter: until when no other is tried.

    So that who takes messages meets each that waits to be moved once, and is done. Why each is to
    be moved has no place on the disk until then, and is known to the handle that rejected it alone.
    """

    def __init__(self) -> None:
        self.pause = 0.0
        self._until = 0.0
        self._reasons = OrderedDict[str, str]()  # by id; every step on it is one call

    def __bool__(self) -> bool:
        return time.monotonic() < self._until

    def begins(self) -> None:
        """Again, if it was so before: the pauses grow."""
        self.pause = min(2 * self.pause or _PAUSE, _LONGEST_PAUSE)
        self._until = time.monotonic() + self.pause

    def ends(self) -> None:
        """There was room."""
        self.pause = self._until = 0.0

    def keep(self, messages: list[Message[Any]], reason: str) -> None:
        """Why these are to be moved, later and if by this handle."""
        if reason == _UNKNOWN:
            return
        for one in messages:
            self._reasons[one.id] = reason[:_LONGEST_REASON]
        with suppress(KeyError):
            while len(self._reasons) > _MOST_REASONS:
                self._reasons.popitem(last=False)

    def reason(self, message: Message[Any]) -> str:
        """Why it is to be moved, as far as this handle knows."""
        return self._reasons.get(message.id, _UNKNOWN)

    def forget(self, message: Message[Any]) -> None:
        """It was moved."""
        self._reasons.pop(message.id, None)


def bury(
    queue: Queue[Any, Any], messages: list[Message[Any]], reason: str, settle: Settle
) -> list[Message[Any]]:
    """Moves messages that are held to the dead letters; those whose lock was lost."""
    letters = _letters_of(queue)
    end = 0 if letters is None else letters._logs[0].end_offset
    lost = settle(messages, MOVE, end, 0)
    held = [one for one in messages if one not in lost]
    if held and _append(queue, letters, held, reason, settle):
        for one in held:
            LOGGER.info("%s went to the dead letters: %s", one.id, reason or "rejected")
    return lost


def _letters_of(queue: Queue[Any, Any]) -> Queue[Any, Any] | None:
    """Its dead letters; None while the disk has no room to make the queue for them."""
    if queue._stuck and queue._letters is None:
        return None
    try:
        return queue._own_letters()
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        queue._stuck.begins()
        LOGGER.warning("%r has no dead letters, and now none can be made: %s", queue, error)
        return None


def _append(
    queue: Queue[Any, Any],
    letters: Queue[Any, Any] | None,
    messages: list[Message[Any]],
    reason: str,
    settle: Settle,
) -> bool:
    """The second and the third step; False: the disk has no room, and it waits for its turn."""
    if letters is None or queue._stuck:
        queue._stuck.keep(messages, reason)
        _park(queue, messages, settle)
        return False
    values = [b"" if one.raw is None else one.raw for one in messages]
    headers = [_letters.headers_of(one, reason) for one in messages]
    try:
        letters._send_raw(values, [one.key for one in messages], headers)
    except BaseException as error:
        full = isinstance(error, OSError) and error.errno in _NO_ROOM
        if full:
            queue._stuck.begins()
        queue._stuck.keep(messages, reason)
        _park(queue, messages, settle, error)
        if full:
            return False
        raise
    queue._stuck.ends()
    settle(messages, ARCHIVE, DEAD, 0)
    return True


def _park(
    queue: Queue[Any, Any],
    messages: list[Message[Any]],
    settle: Settle,
    error: BaseException | None = None,
) -> None:
    """Their moves are ended by whoever takes them next."""
    pause = max(_PAUSE, queue._stuck.pause)
    settle(messages, PARK, later_ms(pause, queue._store._now()), 0)
    if error is not None:
        some = ", ".join(one.id for one in messages[:5])
        what = "%d records cannot be moved now, which is tried again: %s: %s"
        LOGGER.warning(what, len(messages), some, error)


def _settle_one(messages: list[Message[Any]], event: int, when: int, flags: int) -> list[Any]:
    for one in messages:
        try:
            one._settle(event, when, flags)
        except LockLostError:
            LOGGER.info("%r is being moved by another consumer", one)
    return []


def finish_burial(queue: Queue[Any, Any], message: Message[Any]) -> None:
    """A move that somebody began and did not end."""
    wanted, letters = message.id, _letters_of(queue)
    if letters is None or queue._stuck:
        _park(queue, [message], _settle_one)
        return
    log = letters._logs[0]
    for record in _from(log, message._is_moving):
        if (
            _letters.origin_of(record) == wanted
            and record.header(_letters.GROUP) == message._group.encode()
        ):
            log.wait_durable(record.offset + 1, None)
            _settle_one([message], ARCHIVE, DEAD, 0)
            queue._stuck.forget(message)
            return
    if _append(queue, letters, [message], queue._stuck.reason(message), _settle_one):
        queue._stuck.forget(message)


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


def redrive(letters: Queue[Any, Any], most: int) -> int:
    """Puts dead letters back into the queues that they came from; how many."""
    done, kept = 0, list[Message[Any]]()
    failure: NotFoundError | None = None
    try:
        while done + len(kept) < most:
            some = letters._gather(1, False, None, _LOCK_MS, False)
            if not some:
                break
            kept += some
            try:
                _redrive_one(letters._store, some[0])
                kept.pop()
                done += 1
            except NotFoundError as error:
                failure = error
    finally:
        stay = [one for one in kept if not one.settled]
        letters._settled(stay, RELEASE, 0, UNCOUNTED)
    if failure is not None:
        failure.add_note(f"{done} dead letters were driven back, {len(kept)} stay")
        raise failure
    return done


def _target(store: Store, message: Message[Any]) -> tuple[Queue[Any, Any], int]:
    topic = (message.header(_letters.TOPIC) or b"").decode()
    group = (message.header(_letters.GROUP) or b"default").decode()
    queue = store.queue(topic, group=group, create=False)
    partition = int(message.header(_letters.PARTITION) or b"0")
    return queue, partition if partition < len(queue._logs) else 0


def _redrive_one(store: Store, message: Message[Any]) -> None:
    queue, partition = _target(store, message)
    message._settle(MOVE, queue._logs[partition].end_offset)
    _drive(queue, partition, message)


def _drive(queue: Queue[Any, Any], partition: int, message: Message[Any]) -> None:
    own = _letters.own_headers(message)
    group = message.header(_letters.GROUP) or b"default"
    extra = [(b"__mqlog.group", group), (_REDRIVEN.encode(), message.id.encode())]
    try:
        queue._send_one_raw(message.raw or b"", message.key, own, partition, extra)
    except BaseException as error:
        _park(queue, [message], _settle_one, error)
        raise
    message._settle(ARCHIVE, PASSED)


def finish_redrive(letters: Queue[Any, Any], message: Message[Any]) -> None:
    """A redrive that somebody began and did not end."""
    try:
        queue, partition = _target(letters._store, message)
    except NotFoundError as error:
        _park(letters, [message], _settle_one, error)
        return
    log = queue._logs[partition]
    for record in _from(log, message._is_moving):
        if dict(record._all_headers()).get(_REDRIVEN) == message.id.encode():
            log.wait_durable(record.offset + 1, None)
            _settle_one([message], ARCHIVE, PASSED, 0)
            return
    with suppress(Full, OSError):  # it was parked
        _drive(queue, partition, message)
