"""The processes that tests start, kill and ask: `python workers.py VERB STORE ...`.

Every value says who put it and as what number, and carries a checksum of itself, so that whoever
reads can tell loss, duplication, reordering and invention apart. A worker tells what was
acknowledged on its standard output, one line an event, written with one system call: a line that
is there is true.
"""

from __future__ import annotations

import os
import sys
import time
import zlib
from collections.abc import Iterable, Iterator

import mqlog


def make_value(producer: int, number: int, size: int = 100) -> bytes:
    """A value of `size` bytes that says whose and which it is."""
    head = b"%d:%d:" % (producer, number)
    body = head + b"." * max(0, size - len(head) - 8)
    return body + b"%08x" % zlib.crc32(body)


def read_value(value: bytes) -> tuple[int, int]:
    """Producer and number of a value; `AssertionError` if it is not as it was put."""
    body, check = value[:-8], value[-8:]
    assert check == b"%08x" % zlib.crc32(body), f"damaged value {value!r}"
    producer, number, _ = body.split(b":", 2)
    return int(producer), int(number)


def tell(line: str) -> None:
    os.write(1, line.encode() + b"\n")


def append(path: str, topic: str, producer: int, count: int, options: dict[str, int]) -> None:
    """Appends one by one; tells every thousandth number and the last."""
    with mqlog.open(path) as store:
        stream = store.stream(topic, **options)
        tell("ready")
        for number in range(count):
            stream.append(make_value(producer, number))
        tell(f"done {count}")


def append_many(path: str, topic: str, producer: int, count: int, options: dict[str, int]) -> None:
    with mqlog.open(path) as store:
        stream = store.stream(topic, **options)
        tell("ready")
        for start in range(0, count, 1000):
            numbers = range(start, min(start + 1000, count))
            stream.append_many([make_value(producer, number) for number in numbers])
        tell(f"done {count}")


def acknowledge(path: str, topic: str, producer: int, first: int) -> None:
    """Appends from number `first` on until it is killed; tells each acknowledged number, offset."""
    store = mqlog.open(path)
    stream = store.stream(topic, segment_bytes=1 << 20)
    number = first
    tell("ready")
    while True:
        offset = stream.append(make_value(producer, number))
        tell(f"{number} {offset}")
        number += 1


def acknowledge_many(path: str, topic: str, producer: int, first: int) -> None:
    store = mqlog.open(path)
    stream = store.stream(topic, segment_bytes=1 << 20)
    number = first
    tell("ready")
    while True:
        values = [make_value(producer, n) for n in range(number, number + 50)]
        offsets = stream.append_many(values)
        tell(f"{number + 49} {offsets[-1]}")
        number += 50


def tail(path: str, topic: str, expected: int) -> None:
    """Follows until `expected` records were seen; tells what was wrong, or `seen N`."""
    with mqlog.open(path) as store:
        stream = store.stream(topic)
        tell("ready")
        tell(check_order(_until(stream.tail(mqlog.EARLIEST, timeout=60.0), expected)))


def _until(records: Iterable[mqlog.Record[bytes]], expected: int) -> Iterator[bytes]:
    for count, record in enumerate(records, 1):
        yield record.value
        if count == expected:
            return


def check_order(values: Iterable[bytes]) -> str:
    """`seen N` if each producer's numbers came once and in order from 0; else what was wrong."""
    next_number: dict[int, int] = {}
    count = 0
    for value in values:
        producer, number = read_value(value)
        expected = next_number.get(producer, 0)
        if number != expected:
            return f"wrong producer {producer}: {number} came, {expected} expected"
        next_number[producer] = number + 1
        count += 1
    return f"seen {count}"


def consume(path: str, topic: str, group: str) -> None:
    """Consumes as a member of `group` until killed; tells who owns what, and what it reads."""
    store = mqlog.open(path)

    def assigned(_: object, partitions: object) -> None:
        tell(f"assigned {time.monotonic()} {partitions}")

    consumer = store.stream(topic).consumer(group, on_assign=assigned)
    tell("ready")
    for record in consumer:
        tell(f"read {record.partition} {record.offset} {time.monotonic()}")


VERBS = {"append": append, "append_many": append_many}


def main(arguments: list[str]) -> None:
    verb, path, topic, *rest = arguments
    if verb in VERBS:
        options = {"segment_bytes": int(rest[2])} if len(rest) > 2 else {}
        VERBS[verb](path, topic, int(rest[0]), int(rest[1]), options)
    elif verb == "acknowledge":
        acknowledge(path, topic, int(rest[0]), int(rest[1]))
    elif verb == "acknowledge_many":
        acknowledge_many(path, topic, int(rest[0]), int(rest[1]))
    elif verb == "tail":
        tail(path, topic, int(rest[0]))
    elif verb == "consume":
        consume(path, topic, rest[0])
    else:
        raise SystemExit(f"no such verb: {verb}")


if __name__ == "__main__":
    main(sys.argv[1:])
