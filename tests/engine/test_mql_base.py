"""mql_base: results with their detail, big-endian bytes, varints, rounding."""

import struct
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import engine
from support.turns import HALF, LAST

door = engine.load()
ffi, lib = door

INT32 = (-(2**31), 2**31 - 1)
INT64 = (-(2**63), 2**63 - 1)
EDGES = sorted(
    {sign * (2**power) + near for power in range(63) for sign in (1, -1) for near in (-1, 0, 1)}
    | {0, *INT32, *INT64}
)


def reference(value):
    """The varint of a 64-bit number, in the words of the format."""
    rest, out = (value << 1) ^ (value >> 63), bytearray()
    rest &= 2**64 - 1
    while rest >= 0x80:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([*out, rest])


def get(data, most):
    """The number and how many bytes it took, or None."""
    exact = engine.exact(door, data)
    out = ffi.new("int64_t *", 77)
    end = lib.mql_base_varint_get(exact, exact + len(data), most, out)
    if end == ffi.NULL:
        assert out[0] == 77, "written although it failed"
        return None
    return out[0], end - exact


def test_a_varint_comes_back_from_its_bytes():
    out = ffi.new("uint8_t[10]")
    for value in EDGES:
        written = bytes(ffi.buffer(out, lib.mql_base_varint_put(out, value) - out))
        assert written == reference(value)
        assert lib.mql_base_varint_size(value) == len(written)
        assert get(written + b"\xff", 10) == (value, len(written))
        assert lib.mql_base_unzigzag(lib.mql_base_zigzag(value)) == value


def test_an_int32_takes_at_most_five_bytes():
    for value in (value for value in EDGES if INT32[0] <= value <= INT32[1]):
        assert get(reference(value), 5) == (value, len(reference(value)))


@pytest.mark.parametrize("most", [5, 10])
def test_a_varint_that_never_ends_is_refused(most):
    assert get(b"\x80" * most + b"\x00", most) is None
    assert get(b"\xff" * 20, most) is None
    assert get(b"\x80" * (most - 1) + b"\x00", most) == (0, most)


def test_a_number_above_32_bits_is_no_int32():
    assert get(b"\xff\xff\xff\xff\x0f", 5) == (INT32[0], 5)
    assert get(b"\xff\xff\xff\xff\x10", 5) is None
    assert get(b"\xff\xff\xff\xff\x7f", 5) is None


def test_a_varint_cut_off_anywhere_is_refused():
    for data in map(reference, EDGES):
        for length in range(len(data)):
            assert get(data[:length], 10) is None


@given(st.integers(*INT64))
@settings(derandomize=True, deadline=None, max_examples=100)
def test_any_number_survives_the_trip(value):
    assert get(reference(value), 10) == (value, len(reference(value)))


def test_numbers_are_stored_big_endian_wherever_they_stand():
    for place in range(8):
        out = ffi.new("uint8_t[16]")
        lib.mql_base_put64(out + place, 0x0102030405060708)
        lib.mql_base_put32(out + place, 0xFFFE0304)
        assert bytes(out)[place : place + 8] == bytes.fromhex("fffe030405060708")
        lib.mql_base_put16(out + place, 0xABCD)
        assert lib.mql_base_get16(out + place) == 0xABCD
        assert lib.mql_base_get32(out + place) == 0xABCD0304
        assert lib.mql_base_get64(out + place) == struct.unpack_from(">Q", bytes(out), place)[0]


def test_rounding_goes_to_whole_units():
    assert [lib.mql_base_round_up(v, 4096) for v in (0, 1, 4096, 4097)] == [0, 4096, 4096, 8192]
    assert [lib.mql_base_round_down(v, 4096) for v in (0, 1, 4096, 8191)] == [0, 0, 4096, 4096]


# -- failures -------------------------------------------------------------------------------------
def error():
    last = lib.mql_error_last()
    detail = (last.code, last.os_errno, last.position, last.start, last.stop)
    return detail, ffi.string(last.path).decode(), ffi.string(last.text).decode()


def test_a_failure_leaves_its_code_its_file_and_a_sentence():
    words = ffi.new("char[]", b"seven"), ffi.cast("int", 9)
    assert lib.mql_base_fail(lib.MQL_E_LOST, b"dir/file", b"%s of %d", *words) == lib.MQL_E_LOST
    assert error() == ((lib.MQL_E_LOST, 0, -1, -1, -1), "dir/file", "seven of 9")


def test_a_refusal_by_the_system_leaves_its_errno():
    assert lib.mql_base_fail_os(-28, ffi.NULL, b"writing") == lib.MQL_E_OS
    assert error() == ((lib.MQL_E_OS, 28, -1, -1, -1), "", "writing")


def test_damage_leaves_its_place_and_the_offsets_lost():
    assert lib.mql_base_fail_corrupt(b"f", 10, 20, 30, b"broken") == lib.MQL_E_CORRUPT
    assert error() == ((lib.MQL_E_CORRUPT, 0, 10, 20, 30), "f", "broken")


def test_an_offset_outside_leaves_both_ends():
    assert lib.mql_base_fail_range(5, 10, 20) == lib.MQL_E_RANGE
    detail, path, text = error()
    assert (detail, path) == ((lib.MQL_E_RANGE, 0, -1, 10, 20), "")
    assert all(number in text for number in ("5", "10", "20"))


def test_nothing_of_an_earlier_failure_stays_behind():
    lib.mql_base_fail_os(-5, b"path", b"reading")
    lib.mql_base_fail_corrupt(b"other", 1, 2, 3, b"broken")
    lib.mql_base_fail(lib.MQL_E_CLOSED, ffi.NULL, b"closed")
    assert error() == ((lib.MQL_E_CLOSED, 0, -1, -1, -1), "", "closed")


def test_a_text_that_is_too_long_is_cut_and_ended():
    lib.mql_base_fail_corrupt(b"p" * 9999, -1, -1, -1, b"t" * 9999)
    assert error()[1:] == ("p" * 4095, "t" * 255)


def test_a_thread_has_failures_of_its_own():
    lib.mql_base_fail(lib.MQL_E_CLOSED, ffi.NULL, b"mine")
    others = []
    thread = threading.Thread(target=lambda: others.append(error()))
    thread.start()
    thread.join()
    assert others == [((0, 0, -1, -1, -1), "", "")]
    assert error()[2] == "mine"


# -- turns -----------------------------------------------------------------------------------------
def test_numbers_of_two_slots_go_round_and_stay_in_turn():
    for turn in (0, 1, 2, HALF - 1, HALF, LAST - 1):
        assert lib.mql_base_next_turn(turn) == turn + 1
    turn = LAST - 3
    for expected in (LAST - 2, LAST - 1, LAST, 2, 3, 4):
        after = lib.mql_base_next_turn(turn)
        assert after == expected
        assert lib.mql_base_is_turn(after)
        assert after % 2 != turn % 2, "it goes to the other slot"
        assert lib.mql_base_is_later_turn(after, turn)
        assert not lib.mql_base_is_later_turn(turn, after)
        turn = after


def test_any_number_comes_after_none():
    assert not lib.mql_base_is_turn(0)
    assert not lib.mql_base_is_later_turn(0, 0)
    for turn in (1, 2, HALF - 1, HALF, HALF + 1, LAST):
        assert lib.mql_base_is_turn(turn)
        assert lib.mql_base_is_later_turn(turn, 0)
        assert not lib.mql_base_is_later_turn(0, turn)


@given(st.integers(1, LAST), st.integers(1, LAST))
def test_of_two_numbers_one_is_later_unless_they_are_equal_or_half_the_circle_apart(a, b):
    later = lib.mql_base_is_later_turn(a, b)
    assert later == (0 < (a - b) % 2**64 < HALF)
    assert later != lib.mql_base_is_later_turn(b, a) or (a - b) % HALF == 0
    for same in (a, a ^ HALF):
        assert not lib.mql_base_is_later_turn(a, same)
        assert not lib.mql_base_is_later_turn(same, a)


def test_a_segment_file_is_named_by_twenty_digits():
    out = ffi.new("char[]", lib.MQL_PATH_MAX)
    lib.mql_base_file_name(out, b"topic-0", 42, b".log")
    assert ffi.string(out) == b"topic-0/00000000000000000042.log"
