"""Makes a golden store: python make.py DIRECTORY. Done once for each version of the format."""

from __future__ import annotations

import sys
from pathlib import Path

import mqlog

sys.path.insert(0, str(Path(__file__).parent))
from contents import BASE, COMMITTED, OPTIONS, RECORDS, TRIMMED_TO

#: Shared memory of running processes, and locks: nothing in them outlives the last close.
VOLATILE = {"control", "store.lock", "doorbell"}


def fill(store: mqlog.Store) -> None:
    for topic, options in OPTIONS.items():
        stream = store.stream(topic, **options)
        records = RECORDS.get(topic, [])
        if topic in ("plain", "synced", "trimmed"):
            for one in records:
                stream.append(one.value, key=one.key, timestamp=one.timestamp)
        elif records:
            stream.append_many(
                [one.value for one in records],
                keys=[one.key for one in records],
                headers=[one.headers for one in records],
                timestamps=[one.timestamp for one in records],
            )
    for n in range(12):
        store.stream("spread").append(b"of %d" % n, key=b"user-%d" % n, timestamp=BASE + n)
    store.stream("trimmed").trim(TRIMMED_TO)
    for (topic, group), places in COMMITTED.items():
        with store.stream(topic).consumer(group) as consumer:
            for partition, offset in places.items():
                consumer.seek(offset, partition=partition)
            consumer.commit()


def main() -> None:
    root = Path(sys.argv[1])
    with mqlog.open(root) as store:
        fill(store)
    for path in root.rglob("*"):
        if path.name in VOLATILE:
            path.unlink()


if __name__ == "__main__":
    main()
