"""A key goes to the partition that Kafka's own clients choose for it."""

import random

import pytest
from interop.peers import murmur2

import mqlog
from mqlog import _engine


def kafkas(key: bytes, partitions: int) -> int:
    return int((murmur2(key) & 0x7FFFFFFF) % partitions)


@pytest.mark.parametrize("partitions", [1, 2, 3, 7, 12, 100, 4096])
def test_every_key_has_the_partition_of_kafka_python(partitions: int) -> None:
    rng = random.Random(partitions)
    keys = [rng.randbytes(length) for length in range(70) for _ in range(15)]
    keys += [b"", b"key", "schlüssel".encode(), b"\x80\xff" * 3, bytes(1000)]
    keys += [b"user-%d" % n for n in range(500)]
    for key in keys:
        assert _engine.partition_for(key, partitions) == kafkas(key, partitions), key


def test_java_kafkas_own_table_of_hashes_holds() -> None:
    """UtilsTest.testMurmur2, as signed 32-bit numbers."""
    table = {
        b"21": -973932308,
        b"foobar": -790332482,
        b"a-little-bit-long-string": -985981536,
        b"a-little-bit-longer-string": -1486304829,
        b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
        b"abc": 479470107,
    }
    for key, expected in table.items():
        for partitions in (3, 1009, 4093):
            assert _engine.partition_for(key, partitions) == (expected & 0x7FFFFFFF) % partitions


def test_append_and_append_many_put_a_record_where_its_key_belongs() -> None:
    keys = [b"user-%d" % n for n in range(200)]
    with mqlog.temporary() as store:
        stream = store.stream("topic", partitions=5)
        for key in keys:
            stream.append(b"one", key=key)
        stream.append_many([b"many"] * 200, keys=keys)
        for partition in range(5):
            mine = [key for key in keys if kafkas(key, 5) == partition]
            found = [record.key for record in stream.read(partition=partition)]
            assert found == mine + mine
            assert all(stream.partition_for(key) == partition for key in mine)
