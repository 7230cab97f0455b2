"""mql_crc32c: one checksum, two ways to compute it, the same answer."""

import random

import pytest
from support import engine

door = engine.load()
ffi, lib = door

READ_PDU = bytes.fromhex(
    "01c000000000000000000000000000001400000000000400"
    "000000140000001828000000000000000200000000000000"
)


@pytest.mark.parametrize("name", ["mql_crc32c", "mql_crc32c_portable"])
@pytest.mark.parametrize(
    ("data", "crc"),
    [
        (b"", 0),
        (b"a", 0xC1D04330),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(reversed(range(32))), 0x113FDB5C),
        (READ_PDU, 0xD9963A56),
    ],
    ids=["nothing", "a", "check", "zeros", "ones", "rising", "falling", "iscsi-read"],
)
def test_the_published_vectors_come_out(name, data, crc):
    assert getattr(lib, name)(0, data, len(data)) == crc


def noise(length):
    return random.Random(32).randbytes(length)


@pytest.mark.parametrize("shift", [0, 1, 3, 5, 7])
def test_both_ways_agree_on_every_length_to_5000_wherever_it_begins(shift):
    data = ffi.from_buffer(noise(5000 + shift))
    wrong = [
        length
        for length in range(5001)
        if lib.mql_crc32c(length, data + shift, length)
        != lib.mql_crc32c_portable(length, data + shift, length)
    ]
    assert wrong == []


@pytest.mark.parametrize("lane", [48, 336, 4096])
@pytest.mark.parametrize("times", [1, 2, 5])
def test_both_ways_agree_around_every_number_of_lanes(lane, times):
    data = noise(3 * lane * times + 9)
    for length in range(3 * lane * times - 9, 3 * lane * times + 10):
        mine, portable = lib.mql_crc32c(0, data, length), lib.mql_crc32c_portable(0, data, length)
        assert mine == portable, length


def test_a_crc_continues_where_another_ended():
    data = noise(3000)
    whole = lib.mql_crc32c(0, data, len(data))
    for cut in range(0, 3001, 7):
        first = lib.mql_crc32c(0, data[:cut], cut)
        assert lib.mql_crc32c(first, data[cut:], 3000 - cut) == whole
        first = lib.mql_crc32c_portable(0, data[:cut], cut)
        assert lib.mql_crc32c_portable(first, data[cut:], 3000 - cut) == whole


def test_two_words_are_the_16_bytes_that_they_lie_in():
    rnd = random.Random(33)
    words = [
        0,
        1,
        1 << 31,
        1 << 32,
        1 << 63,
        (1 << 64) - 1,
        *(rnd.getrandbits(64) for _ in "x" * 9),
    ]
    for first in words:
        for second in words:
            data = first.to_bytes(8, "little") + second.to_bytes(8, "little")
            assert lib.mql_crc32c_pair(first, second) == lib.mql_crc32c_portable(0, data, 16)


def test_nothing_behind_the_bytes_is_read():
    for length in [*range(200), 1007, 1008, 1009, 12287, 12288, 12289]:
        data = noise(length)
        exact = engine.exact(door, data)
        assert lib.mql_crc32c(0, exact, length) == lib.mql_crc32c_portable(0, exact, length)


def test_every_single_bit_matters():
    data = bytearray(noise(200))
    right = lib.mql_crc32c(0, bytes(data), 200)
    for bit in range(1600):
        data[bit // 8] ^= 1 << bit % 8
        assert lib.mql_crc32c(0, bytes(data), 200) != right
        data[bit // 8] ^= 1 << bit % 8
