"""Where reading starts and stops: offsets, moments, `EARLIEST`, `LATEST`, in one place.

An int is an offset, a float or an aware datetime is a moment: the first record whose timestamp is
not earlier. What a place means is settled once, when the call that takes it is made; records that
come later change nothing about it.
"""

from __future__ import annotations

import enum
import math
import operator
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, cast

from mqlog import _engine
from mqlog.errors import OffsetOutOfRangeError

if TYPE_CHECKING:
    from collections.abc import Callable


class _Place(enum.Enum):
    """One of the two ends of a partition."""

    EARLIEST = "EARLIEST"
    LATEST = "LATEST"

    def __repr__(self) -> str:
        return f"mqlog.{self.name}"


#: The log start: the first record that is still there.
EARLIEST: Final = _Place.EARLIEST
#: The end of what may be read at the moment of the call: only what comes later.
LATEST: Final = _Place.LATEST

#: An offset (int), a moment (float seconds since 1970, or an aware datetime), or one of the ends.
Start = int | float | datetime | _Place


def is_offset(place: Start) -> bool:
    """Whether `place` counts records of one partition; `TypeError` if it is no place at all."""
    if isinstance(place, (float, datetime, _Place)):
        return False
    _offset(place)
    return True


def check_place(place: Start) -> None:
    """`TypeError` if `place` is none at all, `ValueError` if it is a moment that is none."""
    if isinstance(place, (float, datetime)):
        moment_ms(place)
    else:
        is_offset(place)


def _offset(place: Any) -> int:
    if not isinstance(place, bool):
        try:
            return operator.index(place)
        except TypeError:
            pass
    raise TypeError(
        "a place is an offset (int), a moment (float seconds or an aware datetime), mqlog.EARLIEST "
        f"or mqlog.LATEST, not {type(place).__name__}"
    )


def moment_ms(moment: float | datetime) -> int:
    """Milliseconds since 1970; `ValueError` for a naive datetime, NaN, or milliseconds."""
    return _engine.to_ms(moment)


def resolve(log: _engine.Log, place: Start) -> int:
    """The offset that `place` stands for in one partition, now.

    Raises:
        OffsetOutOfRangeError: An int below the log start or above what may be read.
        ValueError: A moment that is none.
        TypeError: No place at all.
    """
    if place is EARLIEST:
        return log.start_offset
    if place is LATEST:
        return log.readable_offset
    if not is_offset(place):
        return min(log.offset_at(moment_ms(cast(float, place))), log.readable_offset)
    offset, first, end = _offset(place), log.start_offset, log.readable_offset
    if first <= offset <= end:
        return offset
    raise out_of_range(log, offset, first, end)


def out_of_range(log: _engine.Log, offset: int, first: int, end: int) -> OffsetOutOfRangeError:
    """The error for an offset that cannot be read; it names the range and what to do."""
    where = "below the log start" if offset < first else "above the log end"
    return OffsetOutOfRangeError(
        f"offset {offset} of {log.topic}-{log.partition} is {where}: from {first} on, up to and "
        f"without {end}, can be read; start=mqlog.EARLIEST reads from the log start",
        first,
        end,
    )


def resolve_stop(log: _engine.Log, stop: Start | None) -> int:
    """The offset before which reading ends: at most what may be read now."""
    end = log.readable_offset
    if stop is None:
        return end
    if is_offset(stop):
        offset = _offset(stop)
        if offset < 0:
            raise out_of_range(log, offset, log.start_offset, end)
        return min(offset, end)
    return min(resolve(log, stop), end)


def reader(log: _engine.Log, start: Start, stop: int | None, **how: Any) -> _engine.Reader[Any]:
    """A reader from `start` on; retention that moves the log start meanwhile is followed."""
    while True:
        first = resolve(log, start)
        try:
            return log.reader(first, None if stop is None else max(first, stop), **how)
        except OffsetOutOfRangeError:
            if is_offset(start) or log.start_offset <= first:
                raise


def check_seconds(name: str, value: float | None) -> float | None:
    """A time-out: None, or seconds from 0 on."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} is float seconds or None, not {type(value).__name__}")
    if value != value or value < 0:
        raise ValueError(f"{name} is seconds from 0 on, not {value!r}")
    return float(value)


def check_delay(name: str, value: Any) -> float:
    """Seconds from now on, not negative; a number over 1e9 was meant to be something else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} is float seconds, not {type(value).__name__}")
    if not 0 <= value <= 1e9:
        raise ValueError(f"{name} is seconds from 0 to 1e9, not {value!r}")
    return float(value)


def later_ms(delay: float, now: float) -> int:
    """Milliseconds since 1970, so many seconds from `now` on; 0 is at once."""
    return 0 if delay == 0 else math.ceil((now + delay) * 1000)


class Deadline:
    """A moment on the monotonic clock, or never."""

    __slots__ = ("_at", "_clock")

    def __init__(self, timeout: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._at = None if timeout is None else clock() + timeout

    def left(self, most: float) -> float:
        """Seconds to wait now: at most `most`; 0 once the moment has passed."""
        if self._at is None:
            return most
        return max(0.0, min(most, self._at - self._clock()))
