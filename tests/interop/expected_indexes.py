"""A segment's .index and .timeindex as Kafka would write them, made from the .log's bytes alone.

Kafka's rules (OffsetIndex, TimeIndex, LogSegment.append): before a batch is added, if more than
4,096 bytes were added since the last entry, that batch gets an entry: its last offset, its start.
With it goes a time entry: the largest timestamp so far and the last offset of the first batch that
had it, if that timestamp is above the last time entry's. One more time entry at a roll or a close.

A log that was closed and reopened gets what Kafka's recovery would make of it: the entries of a log
that was never closed. (A broker that goes on after a clean restart counts from 0 there, and keeps
the time entry of the close: a state of the process, not of the log. Lookups find the same.)
"""

import struct

INTERVAL = 4096


class Expected:
    """The entries of one segment, batch by batch."""

    def __init__(self, base: int) -> None:
        self.base = base
        self.index = b""
        self.timeindex = b""
        self.since = 0
        self.largest, self.largest_at = -1, base
        self.last_entry = -1

    def batch(self, position: int, size: int, last_offset: int, max_timestamp: int) -> None:
        if max_timestamp > self.largest:
            self.largest, self.largest_at = max_timestamp, last_offset
        if self.since > INTERVAL:
            self.index += struct.pack(">ii", last_offset - self.base, position)
            self.time_entry()
            self.since = 0
        self.since += size

    def time_entry(self) -> None:
        if self.largest > self.last_entry:
            self.timeindex += struct.pack(">qi", self.largest, self.largest_at - self.base)
            self.last_entry = self.largest


def expected_indexes(base: int, log: bytes) -> tuple[bytes, bytes]:
    """What .index and .timeindex of the segment at `base` hold after a clean close."""
    expected, at = Expected(base), 0
    while at < len(log):
        base_offset, length = struct.unpack_from(">qi", log, at)
        last_delta, _, max_timestamp = struct.unpack_from(">iqq", log, at + 23)
        expected.batch(at, 12 + length, base_offset + last_delta, max_timestamp)
        at += 12 + length
    assert at == len(log), "the last batch reaches past the end of its file"
    expected.time_entry()
    return expected.index, expected.timeindex
