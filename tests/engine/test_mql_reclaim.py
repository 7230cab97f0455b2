"""mql_reclaim: space is freed that holds only what every group has finished, and nothing else."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.partition import DIRECTORY, PAGE, Log, Store, check, dies, ffi, headers_of, lib, take
from support.partition import kafkas_indexes, reboot, unclean
from support.share import Share

SMALL = {
    "segment_bytes": 16 * PAGE,
    "max_message_bytes": PAGE,
    "batch_bytes": PAGE,
    "cleanup": lib.MQL_CLEANUP_CONSUMED,
}
VALUE = b"x" * 900


def reclaim(log: Log) -> None:
    """One round of the sync thread, which does what it can do."""
    log.sync()
    lib.mql_reclaim_round(log.c, 0, True)


def fill(log: Log, count: int) -> None:
    for _ in range(count):
        log.append(b"%d " % log.ends[1] + VALUE)


def bases(log: Log) -> list[int]:
    return sorted(int(name[:20]) for name in log.files() if name.endswith(".log"))


def log_bytes(log: Log) -> int:
    return sum((log.directory / name).stat().st_size for name in log.files() if name[0] == "0")


def accept_all(share: Share, *but: int) -> list[Any]:
    """Acquires everything and accepts all but those offsets, which it stays the holder of."""
    held = []
    while items := share.acquire(500):
        assert set(share.settle("accept", *[item for item in items if item.offset not in but])) <= {
            0
        }
        held += [item for item in items if item.offset in but]
    return held


@contextmanager
def queue(path: Path, **options: Any) -> Iterator[tuple[Log, Share]]:
    with Store(path) as store:
        log = store.log(**(SMALL | options))
        yield log, Share(log.c)


def check_log(log: Log) -> None:
    """Every batch and every index entry is right, and Kafka's rules made the indexes."""
    report = ffi.new("mql_verify_report *")
    check(lib.mql_verify(log.c, ffi.NULL, ffi.NULL, ffi.NULL, report))
    assert report.problems == 0
    for base in bases(log)[:-1]:
        data = log.bytes(base)
        wanted = kafkas_indexes(data, base)
        assert (log.bytes(base, ".index"), log.bytes(base, ".timeindex")) == wanted


# -- the front ------------------------------------------------------------------------------------
def test_segments_of_finished_records_go(tmp_path: Path):
    with queue(tmp_path / "s") as (log, share):
        fill(log, 500)
        reclaim(log)
        assert bases(log)[0] == 0, "nothing is finished"
        accept_all(share)
        reclaim(log)
        (base,) = bases(log)
        assert log.ends == (base, 500, 500)
        assert log.files() >= {f"{base:020d}.log"}
        check_log(log)
