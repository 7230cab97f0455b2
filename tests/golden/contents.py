"""What stands in the golden stores: made once by `make.py`, read for ever by `test_golden.py`."""

from __future__ import annotations

from typing import Any, NamedTuple

BASE = 1_700_000_000.0  # seconds since 1970

Headers = tuple[tuple[str, bytes | None], ...]


class Expected(NamedTuple):
    offset: int
    timestamp: float
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


#: By topic, its options.
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {"segment_bytes": 4096},
    "rich": {},
    "gzip": {"compression": "gzip"},
    "lz4": {"compression": "lz4", "batch_bytes": 262_144},
    "spread": {"partitions": 3},
    "synced": {"durability": "sync"},
    "empty": {},
    "trimmed": {"segment_bytes": 4096},
}

#: By topic and group, the committed offset of each partition.
COMMITTED = {
    ("plain", "billing"): {0: 17},
    ("plain", "audit"): {0: 60},
    ("spread", "billing"): {0: 1, 1: 2, 2: 0},
}

#: The log start of what was trimmed.
TRIMMED_TO = 40

RICH = [
    Expected(0, BASE, b"key", b"value"),
    Expected(1, BASE + 0.005, None, b"hello", (("h", b"x"), ("n", None))),
    Expected(2, BASE - 0.003, b"key", None),
    Expected(3, BASE - 86_400, None, None),
    Expected(4, BASE + 86_400, b"", b""),
    Expected(5, 0.0, b"", None, (("a", b"1"), ("a", b"2"), ("a", None), ("", b""))),
    Expected(6, BASE, bytes(range(256)), b"\x00" * 63, (("schlüssel", b"\xff"),)),
    Expected(7, BASE, b"k" * 64, b"v" * 300),
]


def counted(count: int, size: int = 60) -> list[Expected]:
    return [Expected(n, BASE + n, b"%d" % n, b"value-%06d" % n + b"." * size) for n in range(count)]


RECORDS: dict[str, list[Expected]] = {
    "plain": counted(60),
    "rich": RICH,
    "gzip": RICH,
    "lz4": counted(900, 90),  # two blocks of 64 KiB in one batch
    "synced": counted(3),
    "empty": [],
    "trimmed": counted(80),
}

#: By partition, the numbers of the users that Kafka's murmur2 sends there.
SPREAD = {0: [8], 1: [0, 4, 5, 11], 2: [1, 2, 3, 6, 7, 9, 10]}
