"""What a program sees of the drop-in for queue.Queue; checked by mypy --strict, never run."""

import queue
from logging import Handler
from logging.handlers import QueueHandler, QueueListener
from typing import Any, assert_type

from mqlog import codecs, stdlib


class Number:
    name = "number"

    def encode(self, value: int, /) -> bytes:
        return b"%d" % value

    def decode(self, data: bytes, /) -> int:
        return int(data)


def values_in_values_out() -> None:
    with stdlib.Queue("numbers", 10, codec=Number(), done="get") as numbers:
        assert_type(numbers, stdlib.Queue[int])
        numbers.put(1, timeout=1.0)
        numbers.put_nowait(2)
        assert_type(numbers.get(False), int)
        try:
            numbers.get(timeout=0.5)
        except queue.Empty:
            numbers.maxsize = 2 * numbers.maxsize
    assert_type(stdlib.Queue("anything", codec=codecs.pickle).get(), Any)


def logging_goes_through_it(handler: Handler) -> QueueHandler:
    records = stdlib.Queue("log", codec=codecs.pickle)
    QueueListener(records, handler).start()
    return QueueHandler(records)
