"""What a log is, in plain Python: every record that was ever appended, and where the log starts."""

from collections.abc import Iterator
from typing import NamedTuple


class Entry(NamedTuple):
    """What a record says of itself."""

    value: bytes | None
    key: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    timestamp_ms: int


class Log:
    """One partition. What it raises is what the API is to raise."""

    def __init__(self) -> None:
        self.start = 0
        self.entries: list[Entry] = []

    @property
    def end(self) -> int:
        return len(self.entries)

    def append(self, *entries: Entry) -> range:
        """The offsets that they get."""
        first = self.end
        self.entries += entries
        return range(first, self.end)

    def read(self, start: int | None, stop: int | None) -> Iterator[tuple[int, Entry]]:
        """(offset, entry) from `start` up to, and without, `stop`; None is as far as there is."""
        first = self.start if start is None else start
        last = self.end if stop is None else min(stop, self.end)
        if not self.start <= first <= self.end or last < 0:
            raise IndexError((first, last))
        return ((offset, self.entries[offset]) for offset in range(first, last))

    def offset_at(self, timestamp_ms: int) -> int:
        """The first offset whose record is not older."""
        for offset in range(self.start, self.end):
            if self.entries[offset].timestamp_ms >= timestamp_ms:
                return offset
        return self.end

    def trim(self, before: int) -> None:
        if not self.start <= before <= self.end:
            raise IndexError(before)
        self.start = before
