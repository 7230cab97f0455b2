"""Payloads of compressed batches: Kafka's readers take ours, and nothing hostile comes through."""

import gzip
import importlib
import sys
import tracemalloc

import lz4.frame
import pytest

from mqlog import _compression

LIMIT = 1 << 20
NAMES = ["none", "gzip", "lz4"]
BLOCK = 65536


def inflate(name: str, data: bytes, limit: int = LIMIT) -> bytes:
    return _compression.inflate(_compression.CODES[name], data, limit)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [0, 1, 100, BLOCK, BLOCK + 1, 300_000])
def test_what_is_compressed_comes_back(name: str, size: int) -> None:
    data = bytes(i * i % 251 for i in range(size))
    assert inflate(name, _compression.compress(name, data)) == data


@pytest.mark.parametrize("name", NAMES)
def test_any_buffer_is_compressed(name: str) -> None:
    data = bytearray(b"abc" * 1000)
    assert inflate(name, _compression.compress(name, memoryview(data))) == data


@pytest.mark.parametrize("size", [10, BLOCK, BLOCK + 1, 300_000])
def test_an_lz4_frame_has_the_header_that_kafka_writes(size: int) -> None:
    packed = _compression.compress("lz4", b"ab" * (size // 2))
    assert packed[:6].hex() == "04224d186040"


def test_a_linked_lz4_frame_is_read_all_the_same() -> None:
    data = b"ab" * BLOCK
    assert inflate("lz4", lz4.frame.compress(data, block_linked=True)) == data


def test_concatenated_gzip_members_are_one_payload() -> None:
    assert inflate("gzip", gzip.compress(b"one, ") + gzip.compress(b"two")) == b"one, two"


def test_a_second_lz4_frame_is_refused_as_kafka_would_lose_it() -> None:
    frame = _compression.compress("lz4", b"abc")
    with pytest.raises(ValueError, match="follow the lz4 payload"):
        inflate("lz4", frame + frame)


@pytest.mark.parametrize("name", ["gzip", "lz4"])
def test_every_way_of_being_cut_short_is_an_error(name: str) -> None:
    packed = _compression.compress(name, b"some records" * 20)
    for length in range(len(packed)):
        with pytest.raises(ValueError, match=r"cut short|damaged"):
            inflate(name, packed[:length])


@pytest.mark.parametrize("name", ["gzip", "lz4"])
def test_what_follows_the_payload_is_an_error(name: str) -> None:
    packed = _compression.compress(name, b"some records")
    with pytest.raises(ValueError, match=r"follow|damaged|cut short"):
        inflate(name, packed + b"x")


@pytest.mark.parametrize("name", ["gzip", "lz4"])
def test_a_flipped_bit_gives_an_error_or_other_bytes_but_never_another_exception(name: str) -> None:
    packed = _compression.compress(name, b"some records that repeat, some records " * 5)
    for position in range(len(packed)):
        for bit in range(8):
            flipped = bytearray(packed)
            flipped[position] ^= 1 << bit
            try:
                inflate(name, bytes(flipped))
            except ValueError:
                continue


@pytest.mark.parametrize("name", ["gzip", "lz4"])
def test_no_more_comes_out_than_is_allowed(name: str) -> None:
    packed = _compression.compress(name, bytes(1000))
    assert inflate(name, packed, 1000) == bytes(1000)
    with pytest.raises(ValueError, match="more than the 999 bytes"):
        inflate(name, packed, 999)


@pytest.mark.parametrize("name", ["gzip", "lz4"])
def test_a_bomb_takes_no_more_memory_than_is_allowed(name: str) -> None:
    bomb = _compression.compress(name, bytes(64 << 20))
    tracemalloc.start()
    with pytest.raises(ValueError, match="more than"):
        inflate(name, bomb, LIMIT)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * LIMIT + 4 * len(bomb)


def test_an_lz4_frame_that_lies_about_its_size_takes_no_memory() -> None:
    frame = bytearray(lz4.frame.compress(b"x" * 100, store_size=True, block_linked=False))
    frame[6:14] = (1 << 40).to_bytes(8, "little")
    with pytest.raises(ValueError, match="lz4"):
        inflate("lz4", bytes(frame))


@pytest.mark.parametrize("code", [5, 6, 7, -1])
def test_a_codec_that_kafka_does_not_have_is_an_error(code: int) -> None:
    with pytest.raises(ValueError, match=f"codec {code} does not exist"):
        _compression.inflate(code, b"", LIMIT)


def test_snappy_says_that_it_is_not_there() -> None:
    with pytest.raises(ValueError, match="no snappy codec"):
        inflate("snappy", b"")
    with pytest.raises(ValueError, match="use lz4, gzip or zstd"):
        _compression.compress("snappy", b"")


def test_an_unknown_name_is_told_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'lz5'; there are none, gzip, snappy, lz4, zstd"):
        _compression.compress("lz5", b"")


def has_zstd() -> bool:
    for name in ("compression.zstd", "backports.zstd"):
        try:
            importlib.import_module(name)
        except ImportError:
            continue
        return True
    return False


@pytest.mark.skipif(has_zstd(), reason="zstd is here")
def test_zstd_says_how_to_get_it() -> None:
    with pytest.raises(ValueError, match=r"from 3\.14 on; before, install backports\.zstd"):
        _compression.compress("zstd", b"")
    with pytest.raises(ValueError, match=r"backports\.zstd"):
        inflate("zstd", b"(\xb5/\xfd")


@pytest.mark.skipif(not has_zstd(), reason="needs Python 3.14 or backports.zstd")
def test_zstd_comes_back_where_it_is_there() -> None:
    data = b"some records" * 1000
    packed = _compression.compress("zstd", data)
    assert inflate("zstd", packed) == data
    assert inflate("zstd", packed + packed) == data + data
    with pytest.raises(ValueError, match="more than"):
        inflate("zstd", packed, 100)
    with pytest.raises(ValueError, match="cut short"):
        inflate("zstd", packed[:-1])


def test_importing_the_module_does_not_import_a_codec() -> None:
    assert "lz4.frame" in sys.modules  # this test's own import
    assert not {"lz4", "zstd"} & set(vars(_compression))
