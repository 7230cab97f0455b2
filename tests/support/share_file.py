"""shares/<group>.state as docs/FORMAT.md has it: a reader, and what the power leaves of it."""

import random
import struct
from dataclasses import dataclass, field
from typing import NamedTuple

PAGE = 4096
SLOTS = 256
REGION = 512
DONE_CHUNKS = 24_576
WINDOW = struct.Struct("<Qqq Q16s8q")
ENDS = "accepted dead expired damaged gone passed purged".split()


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = CRC_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _table() -> list[int]:
    table = []
    for n in range(256):
        for _ in range(8):
            n = n >> 1 ^ (0x82F63B78 if n & 1 else 0)
        table.append(n)
    return table


CRC_TABLE = _table()


def check16(content: int, place: int) -> int:
    crc = crc32c(struct.pack("<QQ", content, place))
    return (crc ^ crc >> 16) & 0xFFFF


def check8(word: int, offset: int) -> int:
    a, b, c, d = crc32c(struct.pack("<QQ", word, offset)).to_bytes(4, "little")
    return a ^ b ^ c ^ d


def content(word: int, place: int) -> int | None:
    """What a directory or done word says; None: it is damaged."""
    said = word & (1 << 48) - 1
    if word == 0:
        return 0
    return said if said != 0 and word >> 48 == check16(said, place) else None


def position(page: int) -> int:
    return PAGE + (page + page // REGION + 1) * PAGE


def position_of_name(page: int) -> int:
    return PAGE + page // REGION * (REGION + 1) * PAGE + page % REGION * 8


class Slot(NamedTuple):
    state: int
    deliveries: int
    member: int
    token: int
    time: int
    clock: int
    sound: bool

    @property
    def final(self) -> bool:
        return self.sound and self.state in (2, 4)


def slot_of(data: bytes, at: int, offset: int) -> Slot:
    state, time = struct.unpack_from("<QQ", data, at)
    plain = state & ~(0xFF << 45)
    sound = state == 0 or state >> 45 & 0xFF == check8(plain, offset)
    sound = sound and time & 0xFF == check8(time & ~0xFF, offset)
    if state == time == 0:
        sound = True
    return Slot(
        state >> 61,
        state >> 53 & 0xFF,
        state >> 32 & 0x1FFF,
        state & 0xFFFFFFFF,
        time >> 16,
        time >> 8 & 0xFF,
        sound and state >> 61 <= 4,
    )


@dataclass
class Window:
    sequence: int
    start: int
    folding: int
    boots: int
    boot: bytes
    counts: list[int]


def is_later(one: Window, other: Window) -> bool:
    """Numbers go round: less than half the circle ahead."""
    return 0 < (one.sequence - other.sequence) % 2**64 < 2**63


def window_of(data: bytes, at: int) -> Window | None:
    fields = WINDOW.unpack_from(data, at)
    (crc,) = struct.unpack_from("<I", data, at + 112)
    if fields[0] == 0 or crc != crc32c(data[at : at + 112]):
        return None
    if fields[0] % 2 != (at - 0x80) // 128:  # its number belongs to the other place
        return None
    return Window(*fields[:5], counts=list(fields[5:]))


@dataclass
class State:
    """What the file says."""

    window: Window
    chunks: dict[int, int] = field(default_factory=dict)  # of number: its page
    done: set[int] = field(default_factory=set)
    data: bytes = b""

    def slot(self, offset: int) -> Slot | None:
        page = self.chunks.get(offset // SLOTS)
        if page is None:
            return None
        return slot_of(self.data, position(page) + offset % SLOTS * 16, offset)

    def is_finished(self, offset: int) -> bool:
        if offset < self.window.start or offset // SLOTS in self.done:
            return True
        slot = self.slot(offset)
        return slot is not None and slot.final

    def finished(self, stop: int) -> set[int]:
        return {offset for offset in range(stop) if self.is_finished(offset)}


def read(data: bytes) -> State:
    assert data[:8] == b"MQLSHAR\0"
    first, second = window_of(data, 0x80), window_of(data, 0x100)
    counts = first if second is None or (first and is_later(first, second)) else second
    assert counts is not None
    state = State(counts, data=data)
    page = 0
    while position(page) + PAGE <= len(data):
        said = content(struct.unpack_from("<Q", data, position_of_name(page))[0], page)
        if said is not None and said & 1 << 47:
            state.done |= done_chunks(data, page, said & ~(1 << 47))
        elif said:
            state.chunks[said - 1] = page
        page += 1
    return state


def done_chunks(data: bytes, page: int, k: int) -> set[int]:
    out = set()
    for w, word in enumerate(struct.unpack_from("<512Q", data, position(page))):
        bits = content(word, k << 16 | w) or 0
        out |= {DONE_CHUNKS * k + 48 * w + b for b in range(48) if bits >> b & 1}
    return out


# -- what a machine's death leaves -----------------------------------------------------------------
def mixed(versions: list[bytes], chance: random.Random) -> bytes:
    """Each page as it was at the last sync (the first of the versions) or at any time since."""
    length = len(chance.choice(versions))
    share = chance.choice([0.02, 0.5, 0.98])  # of pages that did not get to the disk
    pages = []
    for at in range(0, length, PAGE):
        there = [version[at : at + PAGE] for version in versions if len(version) > at]
        first = there[0] if len(versions[0]) > at else bytes(PAGE)
        pages.append(first if chance.random() < share else chance.choice(there))
    return b"".join(pages)


def rebooted(data: bytes) -> bytes:
    """The same file on another boot of the machine."""
    out = bytearray(data)
    for at in (0x80, 0x100):
        if window_of(data, at) is not None:
            out[at + 32 : at + 48] = bytes(16)
            struct.pack_into("<I", out, at + 112, crc32c(bytes(out[at : at + 112])))
    return bytes(out)
