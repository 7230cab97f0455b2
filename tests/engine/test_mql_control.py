"""mql_control: whose page it is, the latch of an end, and what a doubtful page is believed of."""

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.partition import check, door, ffi, lib

SLOT = ffi.sizeof("mql_format_end")
END = (1000, 4096, 1017)
OFFSETS = st.integers(0, 2**63 - 1)


def new_latch() -> Any:
    return ffi.new("mql_format_latch *")


def publish(latch: Any, *end: int) -> None:
    lib.mql_control_publish(latch, ffi.new("mql_control_end *", end))


def read(latch: Any) -> tuple[int, int, int]:
    out = ffi.new("mql_control_end *")
    lib.mql_control_read(latch, out)
    return out.segment, out.position, out.offset


def trusted(latch: Any, *, abandoned: bool = False) -> tuple[int, int, int] | None:
    out = ffi.new("mql_control_end *", (7, 7, 7))
    if lib.mql_control_trust(latch, abandoned, out):
        return out.segment, out.position, out.offset
    assert (out.segment, out.position, out.offset) == (7, 7, 7), (
        "written although it is not trusted"
    )
    return None


@pytest.mark.slow
# -- the latch ------------------------------------------------------------------------------------
@settings(deadline=None)
@given(st.lists(st.tuples(OFFSETS, OFFSETS, OFFSETS), min_size=1, max_size=20))
def test_who_reads_gets_what_was_published_last(ends: list[tuple[int, int, int]]):
    latch = new_latch()
    for count, end in enumerate(ends, 1):
        publish(latch, *end)
        assert read(latch) == end
        assert latch.generation == count
        current = lib.mql_control_current(latch)
        assert (current.segment, current.position, current.offset) == end


def test_a_publish_leaves_the_slot_of_the_end_before_it_whole():
    """So a death at any moment of a publish leaves the old end current."""
    latch = new_latch()
    publish(latch, *END)
    old = latch.generation
    publish(latch, 1000, 8192, 1020)
    latch.generation = old
    assert read(latch) == trusted(latch) == END


def test_half_of_the_next_end_disturbs_nobody():
    """A writer that died while it filled the other slot."""
    latch = new_latch()
    publish(latch, *END)
    other = ffi.addressof(latch.slots[(latch.generation + 1) & 1])
    ffi.memmove(other, b"\xff" * 20, 20)
    assert read(latch) == trusted(latch) == END
    publish(latch, 1000, 8192, 1020)
    assert read(latch) == trusted(latch) == (1000, 8192, 1020)


def test_the_crc_of_a_slot_is_that_of_its_24_bytes():
    latch = new_latch()
    publish(latch, *END)
    slot = latch.slots[latch.generation & 1]
    data = struct.pack("<qqq", *END)
    assert bytes(ffi.buffer(ffi.addressof(slot), 24)) == data
    assert slot.crc == lib.mql_crc32c(0, data, 24)


def test_no_flipped_bit_of_the_current_end_is_trusted():
    for at in range(28):
        for bit in range(8):
            latch = new_latch()
            publish(latch, *END)
            current = ffi.addressof(latch.slots[latch.generation & 1])
            ffi.cast("uint8_t *", current)[at] ^= 1 << bit
            assert trusted(latch) is None, (at, bit)


def test_a_flipped_low_bit_of_the_generation_costs_a_page_that_nobody_writes_nothing():
    latch = new_latch()
    publish(latch, *END)
    latch.generation ^= 1
    assert trusted(latch) is None, "there was no end before"
    latch.generation ^= 1
    publish(latch, 1000, 8192, 1020)
    latch.generation ^= 1
    assert trusted(latch) == END, "somebody may be about to publish the other one"
    assert trusted(latch, abandoned=True) == (1000, 8192, 1020)


@pytest.mark.parametrize("end", [(1017, 0, 1017), (1000, 8192, 1020)])
def test_of_a_page_that_nobody_writes_the_end_that_is_ahead_counts(end: tuple[int, int, int]):
    for first, second in ((END, end), (end, END)):
        latch = new_latch()
        publish(latch, *first)
        publish(latch, *second)
        assert trusted(latch) == second
        assert trusted(latch, abandoned=True) == end
    ffi.cast("uint8_t *", ffi.addressof(latch.slots[1]))[3] ^= 1
    assert latch.slots[1].offset == end[2]
    assert trusted(latch, abandoned=True) == END, "its CRC is wrong"


def test_an_end_that_is_set_is_in_both_slots():
    latch = new_latch()
    publish(latch, 1000, 8192, 1020)
    lib.mql_control_set(latch, ffi.new("mql_control_end *", END))
    assert trusted(latch) == trusted(latch, abandoned=True) == END
    latch.generation ^= 1
    assert trusted(latch) == END


@pytest.mark.parametrize(
    "end",
    [
        (-1, 0, 0),
        (0, -1, 0),
        (0, 2**31, 0),
        (10, 0, 9),
        (0, 0, -1),
        (0, -(2**63), 5),
        (0, 0, 2**62),
    ],
)
def test_an_end_that_cannot_be_is_not_trusted_though_its_crc_is_right(end: tuple[int, int, int]):
    latch = new_latch()
    publish(latch, *end)
    assert read(latch) == end
    assert trusted(latch) is None


def test_the_word_that_waiters_sleep_on_moves_with_every_publish():
    latch = new_latch()
    word = lib.mql_control_word(latch)
    seen = [word[0]]
    for offset in range(5):
        publish(latch, 0, 0, offset)
        seen.append(word[0])
    assert seen == [0, 1, 2, 3, 4, 5]


# -- waiting --------------------------------------------------------------------------------------
def waiters() -> Any:
    return ffi.new("mql_format_waiters *")


def test_who_waits_for_what_is_there_does_not_wait():
    latch, flag = new_latch(), waiters()
    publish(latch, 0, 100, 5)
    assert lib.mql_control_wait(flag, latch, 4, 10**9) == lib.MQL_OK
    assert flag.flag == 0


@pytest.mark.parametrize("timeout", [0, -1, 1])
def test_who_waits_for_what_does_not_come_is_told_of_the_time(timeout: int):
    latch, flag = new_latch(), waiters()
    publish(latch, 0, 100, 5)
    assert lib.mql_control_wait(flag, latch, 5, timeout) == lib.MQL_TIMEOUT


def test_a_flag_is_taken_once():
    flag = ffi.new("uint32_t *", 1)
    assert lib.mql_control_take_flag(flag)
    assert not lib.mql_control_take_flag(flag)
    assert flag[0] == 0


# -- identity -------------------------------------------------------------------------------------
def page() -> tuple[Any, Any]:
    fields = {"boot": bytes(range(16)), "device": 11, "inode": 22, "mount": 33}
    identity = ffi.new("mql_control_identity *", fields)
    memory = ffi.cast("mql_format_control *", engine_page())
    check(lib.mql_control_reset(memory, identity))
    return memory, identity


PAGES: list[Any] = []


def engine_page() -> Any:
    """A page that begins on a line, as the locks in it want."""
    memory = ffi.new("uint8_t[]", 4096 + 128)
    PAGES[:] = [memory]
    at = int(ffi.cast("uintptr_t", memory))
    return memory + (-at % 128)


def test_a_page_that_was_reset_is_its_own_and_empty():
    control, identity = page()
    assert bytes(control.magic) == b"MQLCTRL\0"
    assert lib.mql_control_is(control, identity)
    assert control.instance == 0, "not ready yet"
    out = ffi.new("mql_control_end *")
    assert not lib.mql_control_trust(ffi.addressof(control.published), True, out) or out.offset == 0
    for lock in (control.writer, control.commit, control.prepare):
        mutex = ffi.addressof(lock)
        assert lib.mql_os_mutex_try(mutex) == 0
        lib.mql_os_mutex_drop(mutex)


@pytest.mark.parametrize("field", ["device", "inode", "mount"])
def test_a_page_of_another_file_or_mount_is_not_believed(field: str):
    control, identity = page()
    setattr(identity, field, getattr(identity, field) + 1)
    assert not lib.mql_control_is(control, identity)


def test_a_page_of_another_boot_is_not_believed():
    for at in range(16):
        control, identity = page()
        identity.boot[at] ^= 0x80
        assert not lib.mql_control_is(control, identity), at


def test_no_flipped_bit_of_the_identity_is_believed():
    for at in range(0x3C):
        for bit in range(8):
            control, identity = page()
            ffi.cast("uint8_t *", control)[at] ^= 1 << bit
            assert not lib.mql_control_is(control, identity), (at, bit)


def test_another_layout_is_not_believed_though_its_crc_is_right():
    control, identity = page()
    control.layout = lib.MQL_LAYOUT + 1
    head = bytes(ffi.buffer(control, 0x38))
    control.identity_crc = lib.mql_crc32c(0, head, len(head))
    assert not lib.mql_control_is(control, identity)
    assert door.lib is lib
