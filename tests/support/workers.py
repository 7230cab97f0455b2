"""The processes that tests start, kill and ask, and the values that they append.

Every value says who put it and as what number, and carries a checksum of itself, so that whoever
reads can tell loss, duplication, reordering and invention apart. A worker tells what happens on its
standard output, one line an event, written with one system call: a line that is there is true. Its
first line is "ready"; verbs that `proceed()` then wait for a line themselves. What is acknowledged
to it faster than lines can be written it notes in a `Ledger`.

`support.processes` starts them. `python workers.py zygote FD` is where they are forked: it imports
mqlog once, and never opens a store.
"""

from __future__ import annotations

import array
import ctypes
import mmap
import os
import signal
import socket
import sys
import time
import traceback
import zlib
from pathlib import Path

import mqlog
from mqlog._store import Store

LARGEST_SEGMENT = 2**31 - 1


def make_value(producer: int, number: int, size: int = 100) -> bytes:
    """A value of `size` bytes that says whose and which it is."""
    head = b"%d:%d:" % (producer, number)
    body = head + b"." * (size - len(head) - 8)
    return body + b"%08x" % zlib.crc32(body)


def read_value(value: bytes) -> tuple[int, int]:
    """Producer and number of a value; `AssertionError` if it is not as it was put."""
    body, check = value[:-8], value[-8:]
    assert check == b"%08x" % zlib.crc32(body), f"damaged value {value!r}"
    producer, number, _ = body.split(b":", 2)
    return int(producer), int(number)


def tell(line: str) -> None:
    os.write(1, line.encode() + b"\n")


def proceed() -> None:
    """Waits for a line; the end of input ends the worker."""
    if not sys.stdin.readline():
        raise SystemExit


# -- appending ------------------------------------------------------------------------------------
def append(path: str, topic: str, producer: str, count: str) -> None:
    """Appends one by one, from number 0 on."""
    with mqlog.open(path) as store:
        stream = store.stream(topic)
        tell("ready")
        proceed()
        for number in range(int(count)):
            stream.append(make_value(int(producer), number))
        tell("done")


def append_many(path: str, topic: str, producer: str, count: str) -> None:
    """The same, a thousand a call."""
    with mqlog.open(path) as store:
        stream = store.stream(topic)
        tell("ready")
        proceed()
        for start in range(0, int(count), 1000):
            numbers = range(start, min(start + 1000, int(count)))
            stream.append_many([make_value(int(producer), number) for number in numbers])
        tell("done")


class Ledger:
    """A file that outlives its writer: the offset of each number that was acknowledged to it."""

    NUMBERS = 1 << 16

    def __init__(self, path: str | Path) -> None:
        with open(path, "w+b") as file:
            file.truncate(8 * self.NUMBERS)
            self.slots = memoryview(mmap.mmap(file.fileno(), 0)).cast("q")

    @staticmethod
    def read(path: str | Path) -> dict[int, int]:
        """By number, the offset."""
        slots = array.array("q", Path(path).read_bytes())
        return {number: offset - 1 for number, offset in enumerate(slots) if offset}


def acknowledge(path: str, topic: str, producer: str, ledger: str) -> None:
    """Appends until it is killed; notes each number that was acknowledged."""
    stream = mqlog.open(path).stream(topic, segment_bytes=1 << 20)
    slots, name = Ledger(ledger).slots, int(producer)
    tell("ready")
    for number in range(Ledger.NUMBERS):
        slots[number] = 1 + stream.append(make_value(name, number))
    signal.pause()


def acknowledge_many(path: str, topic: str, producer: str, ledger: str) -> None:
    """The same, fifty large ones a call; of each call it notes the last."""
    stream = mqlog.open(path).stream(topic, segment_bytes=1 << 20)
    slots, name = Ledger(ledger).slots, int(producer)
    tell("ready")
    for number in range(0, Ledger.NUMBERS, 50):
        values = [make_value(name, n, 1000) for n in range(number, number + 50)]
        slots[number + 49] = 1 + stream.append_many(values)[-1]
    signal.pause()


def fill(path: str, topic: str, size: str) -> None:
    """Appends until the log has `size` bytes, says "filled", and goes on until it is killed."""
    stream = mqlog.open(path).stream(topic, segment_bytes=LARGEST_SEGMENT)
    values = [make_value(0, n) for n in range(1000)]
    tell("ready")
    left = int(size) - stream.end_offset * len(values[0])
    while left > 0:
        stream.append_many(values)
        left -= len(values) * len(values[0])
    tell("filled")
    while True:
        stream.append(values[0])


def hold(path: str, topic: str) -> None:
    """Has the topic open, appends nothing, and waits to be killed."""
    store = mqlog.open(path)
    stream = store.stream(topic)
    tell("ready")
    proceed()
    del store, stream


CALLS = {
    "append": lambda stream, value: [stream.append(value)],
    "keyed append": lambda stream, value: [stream.append(value, key=value[:8])],
    "append_many": lambda stream, value: stream.append_many([value] * 100),
    "durable append": lambda stream, value: [stream.append(value, durable=True)],
}


PR_SET_PTRACER, ANYBODY = 0x59616D61, ctypes.c_ulong(-1)


def repeat(path: str, topic: str, call: str, records: str) -> None:
    """One of CALLS, again and again, until so many records are appended; anybody may trace it."""
    ctypes.CDLL(None).prctl(PR_SET_PTRACER, ANYBODY)
    with mqlog.open(path) as store:
        stream = store.stream(topic)
        work, value, left = CALLS[call], make_value(1, 1), int(records)
        work(stream, value)
        tell("ready")
        proceed()
        while left > 0:
            left -= len(work(stream, value))
        tell("done")
        proceed()


# -- consuming ------------------------------------------------------------------------------------
def consume(path: str, topic: str, group: str, ledger: str) -> None:
    """Consumes as a member of `group` until it is killed; writes to a file what it reads when.

    "PARTITION OFFSET SECONDS" when the loop has a record, "SECONDS" right before it asks for the
    next: between the two it has the partition in its hands.
    """
    stream = mqlog.open(path).stream(topic)
    file = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    tell("ready")
    for record in stream.consumer(group):
        os.write(file, b"%d %d %.9f\n" % (record.partition, record.offset, time.monotonic()))
        os.write(file, b"%.9f\n" % time.monotonic())


def take(path: str, topic: str, most: str, clock: str) -> None:
    """Takes what a queue has, at most so many, by a wall clock that stands; holds it until killed.

    For each "PARTITION OFFSET COUNT TOKEN", then "taken".
    """
    store = Store(Path(path), "rw", "os", clock=lambda: float(clock))
    store._open(False, {})
    queue = store.queue(topic, create=False)
    tell("ready")
    held = queue.get_many(int(most), timeout=0)
    for one in held:
        tell(f"{one.partition} {one.offset} {one.delivery_count} {one.token}")
    tell("taken")
    signal.pause()


def put(path: str, topic: str, count: str) -> None:
    """Puts into a queue, waiting while it is full; tells "put" after each."""
    with mqlog.open(path) as store:
        queue = store.queue(topic, create=False)
        tell("ready")
        for number in range(int(count)):
            queue.put(make_value(0, number))
            tell("put")


def accept_late(path: str, topic: str, lock: str) -> None:
    """Takes a message, says "took", and accepts it when it is told to; tells how that ended."""
    queue = mqlog.open(path).queue(topic, create=False)
    tell("ready")
    message = queue.get(timeout=60.0, lock_duration=float(lock))
    tell("took")
    proceed()
    try:
        message.accept()
        tell("accepted")
    except mqlog.Error as error:
        tell(type(error).__name__)


VERBS = {
    verb.__name__: verb
    for verb in (
        *(append, append_many, acknowledge, acknowledge_many, fill, hold, repeat, consume),
        *(take, put, accept_late),
    )
}


# -- the zygote -----------------------------------------------------------------------------------
def zygote(door: socket.socket) -> None:
    """Forks a worker for each message: its words, and two descriptors. Answers with its pid."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody has to wait for them
    while True:
        message, descriptors, _, _ = socket.recv_fds(door, 1 << 16, 2)
        if not message:
            return
        child = os.fork()
        if child == 0:
            door.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            work(message.decode().split("\0"), descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        door.send(b"%d" % child)


def work(words: list[str], descriptors: list[int]) -> None:
    status = 1
    try:
        for name, descriptor in enumerate(descriptors):
            os.dup2(descriptor, name)
            os.close(descriptor)
        verb, *arguments = words
        VERBS[verb](*arguments)
        status = 0
    except SystemExit:
        status = 0
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)


if __name__ == "__main__":
    import power_cuts  # type: ignore[import-not-found]  # which puts values made here

    VERBS |= {verb.__name__: verb for verb in power_cuts.VERBS}
    zygote(socket.socket(fileno=int(sys.argv[2])))
