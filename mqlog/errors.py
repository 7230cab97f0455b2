"""Every exception that mqlog raises on purpose; all of them are under `Error`.

A plain `OSError` (a full disk, missing permission) and a plain `TypeError` (a value of the wrong
type) are not: they mean here what they mean everywhere. Each class is also the built-in class that
fits, so that code which knows nothing of mqlog can catch it, and each pickles with its attributes.
"""

from __future__ import annotations

import errno
import io
import queue
import sys
from typing import Any

__all__ = [
    "ClosedError",
    "CorruptError",
    "DurabilityError",
    "Empty",
    "Error",
    "ForkedError",
    "FormatError",
    "Full",
    "LockLostError",
    "NotFoundError",
    "OffsetOutOfRangeError",
    "OptionError",
    "ReadOnlyError",
    "RecordTooLargeError",
    "SettledError",
    "ShutDown",
    "TopicDeletedError",
]


class Error(Exception):
    """Something that mqlog itself reports."""


class Empty(Error, queue.Empty):
    """Nothing came within the time given; nothing was acquired."""


class Full(Error, queue.Full):
    """The queue's own bound (`maxsize`, `max_bytes`) is reached; nothing was put.

    A full disk is never this: it is `OSError` with `ENOSPC`, or `EDQUOT` where a quota is full.
    """

    _wanted: tuple[int, int] = (1, 0)  # records, and their bytes if they are known


if sys.version_info >= (3, 13):

    class ShutDown(Error, queue.ShutDown):
        """The queue takes no more, or this handle was shut down; nothing was put or acquired."""

else:

    class ShutDown(Error):
        """The queue takes no more, or this handle was shut down; nothing was put or acquired."""


class ClosedError(Error, ValueError):
    """The handle, or the store behind it, was closed; waiting calls end with this too."""


class TopicDeletedError(ClosedError):
    """The topic was deleted, perhaps by another process; its records are gone."""


class CorruptError(Error, OSError):
    """Damaged bytes in a segment (`errno.EBADMSG`); none of them was handed out.

    A reader raises it once and then stands at `stop`: its next call goes on behind the damage. An
    append that meets it has appended nothing.

    Attributes:
        path: The segment file, in full; `filename` too.
        position: The first damaged byte in it; -1 if that is not known.
        start: The first offset that is lost.
        stop: The first offset behind the damage.
    """

    path: str
    position: int
    start: int
    stop: int

    def __init__(
        self,
        message: str = "damaged bytes",
        path: str = "",
        position: int = -1,
        start: int = -1,
        stop: int = -1,
    ) -> None:
        super().__init__(errno.EBADMSG, message, path or None)
        self.path = path
        self.position = position
        self.start = start
        self.stop = stop

    def __str__(self) -> str:
        parts = [str(self.strerror)]
        if self.path:
            parts.append(f" in {self.path}")
        if self.position >= 0:
            parts.append(f" at byte {self.position}")
        if 0 <= self.start < self.stop:
            lost = f"offsets {self.start} to {self.stop - 1}"
            parts.append(f": {lost} cannot be read; reading goes on at offset {self.stop}")
        return "".join(parts)

    def __reduce__(self) -> tuple[Any, ...]:
        place = (self.path, self.position, self.start, self.stop)
        state = {name: self.__dict__[name] for name in self.__dict__ if name == "__notes__"}
        return type(self), (str(self.strerror), *place), state


class DurabilityError(Error, OSError):
    """A sync failed (`errno.EIO`, or what the device said).

    The outcome is open: the records are in the log, but they are not known to be on disk. Nothing
    that comes later is acknowledged as durable until the store was opened again.
    """


class OffsetOutOfRangeError(Error, IndexError):
    """The offset cannot be read: retention has passed it, or it was not yet given.

    Attributes:
        start: The log start offset at that moment; -1 if it is not known.
        stop: The log end offset at that moment; -1 if it is not known.
    """

    start: int
    stop: int

    def __init__(self, message: str = "", start: int = -1, stop: int = -1) -> None:
        super().__init__(message)
        self.start = start
        self.stop = stop


class NotFoundError(Error, LookupError):
    """No such store, topic or group, and it was not to be made; the message names the nearest."""


class OptionError(Error, ValueError):
    """An option that does not exist, is out of range, or differs from what is stored.

    Nothing was changed. Where a stored value differs, the message names both values and the call
    that changes it.
    """


class RecordTooLargeError(Error, ValueError):
    """The record's batch would be over the topic's `max_message_bytes`; nothing was appended."""


class FormatError(Error, ValueError):
    """The store was written by a newer mqlog, or by something else; nothing was touched."""


class LockLostError(Error):
    """What this call settles or commits has gone to another consumer meanwhile.

    Attributes:
        messages: The messages of the call that were lost; empty where none are concerned.
    """

    messages: list[Any]

    def __init__(self, message: str = "", messages: list[Any] | None = None) -> None:
        super().__init__(message)
        self.messages = [] if messages is None else messages


class SettledError(Error, ValueError):
    """This holder has settled the message before; nothing was changed."""


class ForkedError(Error, RuntimeError):
    """An iterator or a message of the parent process was used in a forked child."""


class ReadOnlyError(Error, io.UnsupportedOperation):
    """The store was opened with `mode="r"`, and this call writes, commits or waits."""
