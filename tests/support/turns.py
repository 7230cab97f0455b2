"""Records that are kept in two slots, written in turn: any numbers planted there, their CRCs right.

FORMAT.md, "Two slots in turn", says which of the two counts.
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from support.share_file import crc32c

LAST = 2**64 - 1
HALF = 2**63


class Record(NamedTuple):
    """Where its slots begin, and what stands where in each."""

    slots: tuple[int, int]
    sequence: int
    crc: int  # of all bytes of the slot before it


CHECKPOINT = Record((0, 512), 16, 508)
COMMITS = Record((0x90, 0xA8), 8, 16)
WINDOWS = Record((0x80, 0x100), 0, 112)

# The numbers in slot 0 and in slot 1, and the slot that counts; None: a slot of zeros. The greatest
# number belongs to slot 1, and what follows it to slot 0.
GREATEST = [
    (None, LAST, 1),
    (0, LAST, 1),
    (LAST - 1, LAST, 1),
    (LAST - 1, None, 0),
    (HALF, LAST, 1),
]
ROUND = [
    (2, LAST, 0),
    (LAST - 1, 1, 1),
    (LAST - 1, 3, 1),
    (HALF, 1, 0),
    (2, HALF + 1, 1),
    (2, HALF + 3, 0),
    (HALF + 4, 5, 0),
    (HALF + 6, 5, 1),
]
# Two that are equal or half the circle apart: the one that stands in the other's slot is none.
STRAY = [
    (7, 7, 1),
    (8, 8, 0),
    (LAST, LAST, 1),
    (HALF + 7, 7, 1),
    (7, HALF + 7, 1),
    (HALF + 8, 8, 0),
    (8, HALF + 8, 0),
    (LAST, 8, None),
]


def plant(path: Path, record: Record, *sequences: int | None) -> None:
    """Gives the slots these numbers; what else they say stays."""
    data = bytearray(path.read_bytes())
    for at, sequence in zip(record.slots, sequences, strict=True):
        if sequence is None:
            data[at : at + record.crc + 4] = bytes(record.crc + 4)
            continue
        struct.pack_into("<Q", data, at + record.sequence, sequence)
        struct.pack_into("<I", data, at + record.crc, crc32c(bytes(data[at : at + record.crc])))
    path.write_bytes(data)


def numbers(path: Path, record: Record) -> tuple[int, ...]:
    data = path.read_bytes()
    return tuple(struct.unpack_from("<Q", data, at + record.sequence)[0] for at in record.slots)


def counting(even: int, odd: int) -> int:
    """The slot that counts, if the CRCs are right; 0 where none does, as 1 is written first."""
    if even == 0 or even % 2 != 0 or odd % 2 != 1:
        return 1 if odd % 2 == 1 else 0
    return 0 if 0 < (even - odd) % 2**64 < HALF else 1


@contextmanager
def writing_the_other(path: Path, record: Record) -> Iterator[None]:
    """What is written inside goes over the slot that does not count, and counts then."""
    before = numbers(path, record)
    kept = counting(*before)
    yield
    after = numbers(path, record)
    assert after[kept] == before[kept], "it went over the slot that counts"
    assert after[1 - kept] != before[1 - kept], "nothing was written"
    assert counting(*after) == 1 - kept
