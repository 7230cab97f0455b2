"""Independent implementations of Kafka's record format, each behind the same two functions.

`READERS[name](data)` gives every batch of a segment's bytes and its records; `WRITERS[name](...)`
makes one batch. None of their code knows of mqlog.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mqlog import Record

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # theirs, while they are imported
    from aiokafka import codec as aiokafka_codec
    from aiokafka.record import default_records as aiokafka_records
    from aiokafka.record import memory_records as aiokafka_memory
    from kafka.partitioner.default import murmur2
    from kafka.record import default_records as kafka_records
    from kafka.record.memory_records import MemoryRecords
    from kafka.record.util import calc_crc32c as crc32c

__all__ = ["crc32c", "murmur2"]  # and all below; these are theirs

NAMES = ["kafka-python", "aiokafka in Python", "aiokafka in C"]
CODECS = {"none": 0, "gzip": 1, "lz4": 3}
BASE = 1_700_000_000_000  # milliseconds since 1970

Headers = tuple[tuple[str, bytes | None], ...]


class Seen(NamedTuple):
    """One record, as whoever read it says."""

    offset: int
    timestamp: int | None
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


def seen_by_mqlog(records: Iterable[Record[Any]]) -> list[Seen]:
    return [Seen(r.offset, _milliseconds(r), r.key, r.raw, r.headers) for r in records]


def _milliseconds(record: Record[Any]) -> int | None:
    return None if record.timestamp is None else round(record.timestamp * 1000)


def can(name: str, compression: str) -> bool:
    """Whether this reader can inflate here: aiokafka takes lz4 from cramjam, an extra of its."""
    return name == "kafka-python" or compression != "lz4" or aiokafka_codec.has_lz4()


# -- reading ---------------------------------------------------------------------------------------
def split(data: bytes) -> Iterator[bytes]:
    """The batches, by their lengths alone; every byte belongs to one."""
    at = 0
    while at < len(data):
        (length,) = struct.unpack_from(">i", data, at + 8)
        assert 49 <= length <= len(data) - at - 12, f"no batch of {length} bytes at {at}"
        yield data[at : at + 12 + length]
        at += 12 + length


def _kafka_batches(data: bytes) -> Iterator[Any]:
    memory = MemoryRecords(data)
    while memory.has_next():
        yield memory.next_batch()
    assert memory.valid_bytes() == len(data)


def _aiokafka_batches(data: bytes) -> Iterator[Any]:
    for one in split(data):
        yield aiokafka_records._DefaultRecordBatchPy(one)


def _aiokafka_c_batches(data: bytes) -> Iterator[Any]:
    memory = aiokafka_memory._MemoryRecordsCython(data)
    while memory.has_next():
        yield memory.next_batch()


BATCHES: dict[str, Callable[[bytes], Iterator[Any]]] = {
    "kafka-python": _kafka_batches,
    "aiokafka in Python": _aiokafka_batches,
    "aiokafka in C": _aiokafka_c_batches,
}


def read(name: str, data: bytes) -> list[Seen]:
    """Every record that the reader finds in a segment's bytes, checksums checked by it."""
    found = []
    for batch in BATCHES[name](data):
        assert batch.validate_crc()
        for record in batch:
            found.append(_seen(record))
    return found


def _seen(record: Any) -> Seen:
    stamp = None if record.timestamp == -1 else record.timestamp
    key, value = _bytes(record.key), _bytes(record.value)
    headers = tuple((name, _bytes(content)) for name, content in record.headers)
    return Seen(record.offset, stamp, key, value, headers)


def _bytes(data: Any) -> bytes | None:
    return None if data is None else bytes(data)


# -- writing ---------------------------------------------------------------------------------------
BUILDERS: dict[str, Any] = {
    "kafka-python": kafka_records.DefaultRecordBatchBuilder,
    "aiokafka in Python": aiokafka_records._DefaultRecordBatchBuilderPy,
    "aiokafka in C": aiokafka_records._DefaultRecordBatchBuilderCython,
}


def write(name: str, compression: str, records: list[Seen]) -> bytes:
    """One batch of these records, as the broker stores it: with the first one's offset."""
    builder = BUILDERS[name](
        magic=2,
        compression_type=CODECS[compression],
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1 << 24,
    )
    for number, one in enumerate(records):
        stamp = -1 if one.timestamp is None else one.timestamp
        headers = list(one.headers)
        assert builder.append(number, stamp, one.key, one.value, headers) is not None
    return stamp_offset(bytes(builder.build()), records[0].offset)


def stamp_offset(batch: bytes, base_offset: int, epoch: int = 0) -> bytes:
    """What a broker does to a producer's batch; offset and epoch are outside the checksum."""
    return struct.pack(">qii", base_offset, len(batch) - 12, epoch) + batch[16:]


def kafka_directory(root: Path, topic: str, segments: dict[int, bytes], partition: int = 0) -> Path:
    """A partition as Kafka might ship it: `.log` files and nothing else."""
    directory = root / f"{topic}-{partition}"
    directory.mkdir(parents=True)
    for base, data in segments.items():
        (directory / f"{base:020d}.log").write_bytes(data)
    return directory


def logs(directory: Path) -> bytes:
    """All segments' bytes, one behind the other."""
    return b"".join(log.read_bytes() for log in sorted(directory.glob("*.log")))


# -- what both sides must carry --------------------------------------------------------------------
def awkward(first: int = 0) -> list[Seen]:
    """Nulls, empties, repeated and null headers, times that go back, long and binary values."""
    what: list[tuple[int, bytes | None, bytes | None, Headers]] = [
        (BASE, b"key", b"value", ()),
        (BASE + 5, None, b"hello", (("h", b"x"), ("n", None))),
        (BASE - 3, b"key", None, ()),
        (BASE - 86_400_000, None, None, ()),
        (BASE + 86_400_000, b"", b"", ()),
        (0, b"", None, (("a", b"1"), ("a", b"2"), ("a", None), ("", b""))),
        (BASE, bytes(range(256)), b"\x00" * 63, (("schlüssel", b"\xff"),)),
        (BASE, b"k" * 64, b"\xff" * 64, ()),
        (BASE, b"k" * 300, b"v" * 20_000, (("long", b"l" * 5000),)),
    ]
    return [
        Seen(first + number, stamp, key, value, headers)
        for number, (stamp, key, value, headers) in enumerate(what)
    ]
