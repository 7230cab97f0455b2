"""Damaged and hostile batches are `CorruptError`, in bounded memory; the rest is read."""

import gzip
import struct
import tracemalloc
from pathlib import Path

import lz4.frame
import pytest
from interop.peers import BASE, Seen, crc32c, kafka_directory, stamp_offset, write

import mqlog

MIB = 1 << 20


def one(offset: int) -> bytes:
    return write("kafka-python", "none", [Seen(offset, BASE, b"key", b"good-%d" % offset)])


def batch(offset: int, codec: int, payload: bytes, count: int = 1) -> bytes:
    """A batch whose checksum is right, whatever its payload is."""
    covered = struct.pack(">hiqqqhii", codec, count - 1, BASE, BASE, -1, -1, -1, count) + payload
    head = struct.pack(">qiiBI", offset, 49 + len(payload), 0, 2, crc32c(covered))
    return head + covered


def read_around(path: Path, bad: bytes) -> mqlog.CorruptError:
    """Reads a log with a bad batch between two good ones; gives what was raised for it.

    It is not in the last segment: there, what is not a whole batch is the end of the log.
    """
    kafka_directory(path, "topic", {0: one(0) + bad, 2: one(2)})
    with mqlog.open(path, "r") as store:
        records = store.stream("topic").read()
        assert next(records).value == b"good-0"
        with pytest.raises(mqlog.CorruptError) as caught:
            next(records)
        assert next(records).value == b"good-2"
        assert next(records, None) is None
        with pytest.raises(mqlog.CorruptError):
            list(store.stream("topic").values())
        with pytest.raises(mqlog.CorruptError):
            list(store.stream("topic").columns())
    error = caught.value
    assert error.path.endswith(f"topic-0/{0:020d}.log")
    assert (error.position, error.start, error.stop) == (len(one(0)), 1, 2)
    return error


def plain(value: bytes = b"v" * 1000) -> bytes:
    """One record as it stands in a batch."""
    return write("kafka-python", "none", [Seen(0, BASE, None, value)])[61:]


PACK = {
    1: gzip.compress,
    3: lambda data: lz4.frame.compress(data, block_linked=False, store_size=False),
}


@pytest.mark.parametrize("codec", PACK)
def test_a_batch_made_here_is_read_when_nothing_is_wrong_with_it(
    tmp_path: Path, codec: int
) -> None:
    kafka_directory(tmp_path, "topic", {0: batch(0, codec, PACK[codec](plain()))})
    with mqlog.open(tmp_path, "r") as store:
        assert list(store.stream("topic").values()) == [b"v" * 1000]


@pytest.mark.parametrize("codec", PACK)
@pytest.mark.parametrize(
    "harm",
    [
        lambda data: data[:-5],
        lambda data: data[: len(data) // 2],
        lambda data: data[:4],
        lambda data: b"",
        lambda data: b"\x00" + data[1:],
        lambda data: data + b"behind",
        lambda data: data[:12] + bytes(8) + data[20:],
    ],
    ids=["cut", "half", "magic only", "empty", "no magic", "bytes behind", "zeros inside"],
)
def test_a_damaged_payload_under_a_right_checksum_is_corrupt(
    tmp_path: Path, codec: int, harm: object
) -> None:
    assert callable(harm)
    read_around(tmp_path, batch(1, codec, harm(PACK[codec](plain()))))


@pytest.mark.parametrize("codec", [*PACK, 0])
@pytest.mark.parametrize(
    "records",
    [plain()[:-1], b"", b"\xff" * 20, b"\xfe\xff\xff\xff\x0f" + bytes(9)],
    ids=["cut", "none", "varint too long", "length over the end"],
)
def test_records_that_do_not_fill_their_batch_are_corrupt(
    tmp_path: Path, codec: int, records: bytes
) -> None:
    read_around(tmp_path, batch(1, codec, PACK[codec](records) if codec else records))


@pytest.mark.parametrize("codec", [*PACK, 0])
@pytest.mark.parametrize("behind", [b"x", plain()], ids=["a byte", "a record"])
def test_what_stands_behind_the_last_record_is_corrupt_as_in_kafkas_reader(
    tmp_path: Path, codec: int, behind: bytes
) -> None:
    payload = plain() + behind
    bad = batch(1, codec, PACK[codec](payload) if codec else payload)
    kafka_directory(tmp_path, "topic", {0: one(0) + bad, 2: one(2)})
    with mqlog.open(tmp_path, "r") as store:
        records = store.stream("topic").read()
        assert [next(records).offset for _ in range(2)] == [0, 1]
        with pytest.raises(mqlog.CorruptError, match="bytes follow the last record"):
            next(records)
        assert [record.offset for record in records] == [2]


@pytest.mark.parametrize("codec", [2, 4])
def test_a_payload_of_a_codec_that_is_not_here_is_an_error_and_not_data(
    tmp_path: Path, codec: int
) -> None:
    read_around(tmp_path, batch(1, codec, b"\x07" * 50))


def test_a_flipped_bit_in_a_compressed_payload_fails_the_checksum(tmp_path: Path) -> None:
    bad = bytearray(write("kafka-python", "gzip", [Seen(1, BASE, b"key", b"v" * 1000)]))
    bad[80] ^= 4
    read_around(tmp_path, bytes(bad))


def gzip_bomb(megabytes: int) -> bytes:
    return gzip.compress(bytes(16 * MIB)) * (megabytes // 16)


def lz4_bomb(megabytes: int) -> bytes:
    """One frame of 4 MiB blocks, each of zeros."""
    frame = lz4.frame.compress(
        bytes(4 * MIB), block_size=lz4.frame.BLOCKSIZE_MAX4MB, block_linked=False, store_size=False
    )
    return frame[:7] + frame[7:-4] * (megabytes // 4) + frame[-4:]


@pytest.mark.slow
@pytest.mark.parametrize("codec,bomb", [(1, gzip_bomb), (3, lz4_bomb)], ids=["gzip", "lz4"])
def test_a_payload_that_inflates_to_gigabytes_is_corrupt_in_bounded_memory(
    tmp_path: Path, codec: int, bomb: object
) -> None:
    assert callable(bomb)
    payload = bomb(1024)
    assert len(payload) < 8 * MIB
    kafka_directory(tmp_path, "topic", {0: one(0) + batch(1, codec, payload), 2: one(2)})
    with mqlog.open(tmp_path, "r") as store:
        records = store.stream("topic").read()
        assert next(records).value == b"good-0"
        tracemalloc.start()
        try:
            with pytest.raises(mqlog.CorruptError, match="holds more than"):
                next(records)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 600 * MIB, peak / MIB
        assert next(records).value == b"good-2"


def test_a_bomb_does_not_hinder_appends(tmp_path: Path) -> None:
    bad = batch(1, 1, PACK[1](plain())[:-3])
    kafka_directory(tmp_path, "topic", {0: one(0) + bad + one(2)})
    with mqlog.open(tmp_path) as store:
        stream = store.stream("topic")
        assert stream.append(b"new") == 3
        assert [r.value for r in stream.read(on_corrupt="skip")] == [b"good-0", b"good-2", b"new"]
    assert stamp_offset(bad, 1) == bad
