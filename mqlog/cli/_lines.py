"""Lines in files, gzip files and standard input, as they come."""

import errno
import gzip
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from mqlog.cli._screen import Screen

CHUNK_BYTES = 256 * 1024
DECODE = json.JSONDecoder().decode


class BadLine(Exception):
    """A line that is not what it should be."""


class LineTooLongError(Exception):
    """A line that no topic could take; `line` counts from 1."""

    def __init__(self, line: int) -> None:
        super().__init__(line)
        self.line = line


@dataclass(frozen=True)
class Source:
    """An open file of lines; `done` is how many of its `size` bytes were read."""

    name: str
    file: BinaryIO
    size: int | None
    done: Callable[[], int]


def check_source(path: str) -> None:
    """`OSError` if `open_source` would fail; takes nothing out of a pipe."""
    if path == "-":
        return
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if stat.S_ISREG(mode):
        open(path, "rb").close()


@contextmanager
def open_source(path: str, screen: Screen) -> Iterator[Source]:
    """Opens a file, or standard input for `-`; gzip is recognised by its first bytes.

    Raises:
        OSError: It is not there, cannot be read, or is a directory.
    """
    if path == "-":
        yield Source("standard input", screen.bytes_in, None, lambda: 0)
        return
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        whole = stat.S_ISREG(status.st_mode)
        size = status.st_size if whole else None
        done = file.tell if whole else lambda: 0
        if file.peek(2)[:2] != b"\x1f\x8b":
            yield Source(path, cast(BinaryIO, file), size, done)
            return
        with gzip.open(file, "rb") as unpacked:
            yield Source(path, cast(BinaryIO, unpacked), size, done)


def line_groups(file: BinaryIO, delimiter: bytes, limit: int) -> Iterator[list[bytes]]:
    """The lines of `file` without their delimiter, as many at a time as one read brings.

    A reader of a slow pipe so gets each line at once, and a reader of a file thousands together.

    Raises:
        LineTooLongError: A line has more than `limit` bytes; the lines before it were given.
    """
    rest, given = bytearray(), 0
    while chunk := file.read1(CHUNK_BYTES):  # type: ignore[attr-defined]
        unseen = max(0, len(rest) - len(delimiter) + 1)
        rest += chunk
        if rest.find(delimiter, unseen) >= 0:
            lines = bytes(rest).split(delimiter)
            rest = bytearray(lines.pop())
            given += len(lines)
            yield lines
        if len(rest) > limit:
            raise LineTooLongError(given + 1)
    if rest:
        yield [bytes(rest)]


def json_object(line: bytes) -> dict[str, Any]:
    """The object that a line of NDJSON is.

    Raises:
        BadLine: It is none.
    """
    try:
        document = DECODE(str(line, "utf-8"))
    except json.JSONDecodeError as error:
        raise BadLine(f"not JSON: {error.msg} at column {error.colno}") from None
    except UnicodeDecodeError as error:
        raise BadLine(f"not JSON: byte {error.start + 1} is not {error.encoding}") from None
    except (ValueError, RecursionError) as error:  # a number too long, a nesting too deep
        raise BadLine(f"not JSON: {error}") from None
    if not isinstance(document, dict):
        raise BadLine(f"not a JSON object but {json_type(document)}")
    return document


def json_type(value: Any) -> str:
    """What JSON calls it, with its article."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return names.get(type(value), "null" if value is None else "a number")
