"""mql_reclaim: space is freed that holds only what every group has finished, and nothing else."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.partition import (
    PAGE,
    Log,
    Store,
    check,
    dies,
    ffi,
    flip,
    headers_of,
    kafkas_indexes,
    lib,
    standing_still,
    take,
)
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


def test_with_no_group_nothing_goes(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log(**SMALL)
        fill(log, 200)
        reclaim(log)
        assert bases(log)[0] == 0
        assert log.ends == (0, 200, 200)


@pytest.mark.parametrize("cleanup", ["KEEP", "DELETE"])
def test_other_policies_free_nothing_of_what_is_consumed(tmp_path: Path, cleanup: str):
    with queue(tmp_path / "s", cleanup=getattr(lib, f"MQL_CLEANUP_{cleanup}")) as (log, share):
        fill(log, 200)
        accept_all(share)
        reclaim(log)
        assert log.ends[0] == 0


def test_every_share_group_has_a_say(tmp_path: Path):
    with queue(tmp_path / "s") as (log, share):
        audit = Share(log.c, "audit")
        fill(log, 200)
        accept_all(share)
        reclaim(log)
        assert log.ends[0] == 0
        audit.settle("accept", *audit.acquire(100))
        reclaim(log)
        assert 0 < log.ends[0] <= 100
        assert next(base for base in reversed(bases(log)) if base <= 100) == log.ends[0]


def test_a_group_of_another_process_that_is_not_open_here_has_a_say(tmp_path: Path):
    path = tmp_path / "s"

    def other() -> None:
        store = Store(path)
        Share(store.log(create=0, **SMALL).c, "audit")

    with queue(path) as (log, share):
        dies(other)
        fill(log, 200)
        accept_all(share)
        reclaim(log)
        assert log.ends[0] == 0


def consumer(log: Log, name: str, committed: int | None) -> tuple[Any, int]:
    group, member = ffi.new("mql_group **"), ffi.new("uint64_t *")
    check(lib.mql_group_find(log.c, name.encode(), True, group))
    check(lib.mql_group_enter(group[0], member))
    check(lib.mql_group_take(group[0], member[0]))
    if committed is not None:
        check(lib.mql_group_store(group[0], member[0], committed, False))
    return group[0], member[0]


def test_every_consumer_group_has_a_say(tmp_path: Path):
    with queue(tmp_path / "s") as (log, share):
        fill(log, 200)
        consumer(log, "fast", 200)
        slow, member = consumer(log, "slow", None)
        accept_all(share)
        reclaim(log)
        assert log.ends[0] == 0, "it has committed nothing"
        check(lib.mql_group_store(slow, member, 100, False))
        reclaim(log)
        assert 0 < log.ends[0] <= 100


def test_consumer_groups_alone_are_asked(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log(**SMALL)
        fill(log, 200)
        group, member = consumer(log, "g", 100)
        reclaim(log)
        assert 0 < log.ends[0] <= 100
        check(lib.mql_group_store(group, member, 200, False))
        reclaim(log)
        assert log.ends[0] == bases(log)[0] == log.end[0]


def test_a_group_that_has_not_come_to_this_partition_yet_keeps_it(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        zero, log = store.log(**SMALL), store.log(partition=1, **SMALL)
        share = Share(log.c)
        consumer(zero, "g", None)
        fill(log, 200)
        accept_all(share)
        reclaim(log)
        assert log.ends[0] == 0
        consumer(log, "g", 200)
        reclaim(log)
        assert log.ends[0] > 0


def test_what_retention_keeps_stays(tmp_path: Path):
    with queue(tmp_path / "s", retention_bytes=64 * PAGE) as (log, share):
        fill(log, 500)
        accept_all(share)
        reclaim(log)
        assert 0 < log.ends[0] < 400
        assert 64 * PAGE <= log_bytes(log) <= 96 * PAGE


def test_what_is_younger_than_retention_age_stays(tmp_path: Path):
    with queue(tmp_path / "s", retention_age_ms=3_600_000) as (log, share):
        now = lib.mql_os_now_ms()
        for n in range(200):
            log.append(VALUE, timestamp=now - (7_200_000 if n < 100 else 0))
        accept_all(share)
        reclaim(log)
        assert 0 < log.ends[0] <= 100


def test_what_was_rewritten_is_as_old_as_its_records(tmp_path: Path):
    with queue(tmp_path / "s", retention_age_ms=3_600_000) as (log, share):
        long_ago = lib.mql_os_now_ms() - 7_200_000
        for _ in range(300):
            log.append(VALUE, timestamp=long_ago)
        stay = set(range(30, 60))  # the first segment has too many to be rewritten with others
        accept_all(share, *stay)
        reclaim(log)
        assert len(bases(log)) == 3
        assert len(log.bytes(bases(log)[1])) == 61
        for _ in range(300):
            log.append(VALUE, timestamp=long_ago)
        accept_all(share)
        reclaim(log)
        assert len(bases(log)) == 3


def test_the_keys_of_idempotent_puts_stay_as_long_as_they_count(tmp_path: Path):
    with queue(tmp_path / "s", dedupe_ms=3_600_000) as (log, share):
        for _ in range(200):
            log.append(VALUE, timestamp=lib.mql_os_now_ms())
        accept_all(share)
        (log.directory / "dedupe").touch()
        reclaim(log)
        assert log.ends[0] == 0
        (log.directory / "dedupe").unlink()
        reclaim(log)
        assert log.ends[0] > 0


# -- the active segment ---------------------------------------------------------------------------
def test_an_active_segment_of_over_a_mebibyte_is_rolled_and_goes(tmp_path: Path):
    large = {"segment_bytes": 8 << 20, "max_message_bytes": 1 << 20}
    with queue(tmp_path / "s", **large) as (log, share):
        for _ in range(12):
            log.append(bytes(100_000))
        reclaim(log)
        assert log.end[0] == 0, "nothing is finished"
        accept_all(share)
        reclaim(log)
        assert log.end == (12, 0, 12)
        assert log.ends == (12, 12, 12)
        assert bases(log) == [12]
        assert log_bytes(log) == 0
        log.append(b"goes on")
        assert log.read() == [(12, b"goes on")]
        log.append(bytes(900_000))
        accept_all(share)
        reclaim(log)
        assert log.end[0] == 12, "it is small"


def test_a_reader_at_the_end_of_a_segment_that_goes_reads_on_in_the_next(tmp_path: Path):
    large = {"segment_bytes": 8 << 20, "max_message_bytes": 1 << 20}
    with queue(tmp_path / "s", **large) as (log, share):
        for _ in range(12):
            log.append(bytes(100_000))
        reader = log.cursor(0)
        assert len(reader.drain()) == 12
        accept_all(share)
        reclaim(log)
        assert log.ends[0] == 12
        assert reader.drain() == []
        log.append(b"goes on")
        assert reader.drain() == [(12, b"goes on")]
        reader.free()


def test_what_a_dead_process_freed_is_counted_also_if_it_cannot_be_at_once(tmp_path: Path):
    with queue(tmp_path / "s") as (log, _):
        fill(log, 100)
        log.sync()
        used = log.c.home.bell.used_bytes

        def die() -> None:
            take(ffi.addressof(log.control.reclaim))
            log.c.home.bell.used_bytes += 1 << 30  # freed, and not told

        dies(die)
        with standing_still(lambda: take(ffi.addressof(log.control.commit))):
            lib.mql_base_hurry(True)
            lib.mql_reclaim_round(log.c, 0, True)
            lib.mql_base_hurry(False)
        assert log.c.home.bell.used_bytes > 1 << 30, "else it shows nothing"
        reclaim(log)
        assert log.c.home.bell.used_bytes < used + (1 << 20)


# -- stragglers -----------------------------------------------------------------------------------
def test_one_straggler_keeps_itself_and_nothing_else(tmp_path: Path):
    with queue(tmp_path / "s") as (log, share):
        fill(log, 1000)
        (held,) = accept_all(share, 3)
        reclaim(log)
        assert log.ends == (0, 1000, 1000)
        assert log_bytes(log) < 3 * SMALL["segment_bytes"]
        assert len(bases(log)) == 2
        assert log.read(0)[0] == (3, b"3 " + VALUE)
        check_log(log)
        data = log.bytes(0)
        assert [(first, last) for _, first, last, _, _ in headers_of(data)] == [
            (0, 2),
            (3, 3),
            (4, bases(log)[1] - 1),
        ]
        share.settle("accept", held)
        reclaim(log)
        assert bases(log) == [log.end[0]]


def test_segments_behind_a_straggler_join_it_as_they_are_finished(tmp_path: Path):
    with queue(tmp_path / "s") as (log, share):
        late = []
        for _ in range(20):
            fill(log, 100)
            late += accept_all(share, log.ends[1] - 50)
            reclaim(log)
            assert log_bytes(log) < 3 * SMALL["segment_bytes"]
        stay = [item.offset for item in late]
        found = [offset for offset, _ in log.read(0)]
        assert [offset for offset in found if offset < log.end[0]] == [
            offset for offset in stay if offset < log.end[0]
        ]
        assert set(found) >= set(stay)
        check_log(log)
        assert share.settle("accept", *late) == [0] * len(late)
        reclaim(log)
        assert bases(log) == [log.end[0]]


def test_of_a_batch_of_many_records_the_unfinished_stay(tmp_path: Path):
    with queue(tmp_path / "s") as (log, share):
        for n in range(100):
            log.append(*[b"%d %d " % (n, i) + b"y" * 100 for i in range(20)])
        stay = {7, 8, 45, 1001}
        accept_all(share, *stay)
        reclaim(log)
        kept = [one for one in log.read(0) if one[0] < log.end[0]]
        assert kept == [(n, b"%d %d " % (n // 20, n % 20) + b"y" * 100) for n in sorted(stay)]
        check_log(log)


def test_what_another_group_has_not_finished_is_kept_too(tmp_path: Path):
    with queue(tmp_path / "s") as (log, share):
        audit = Share(log.c, "audit")
        fill(log, 600)
        accept_all(share, 5, 300)
        accept_all(audit, 301, 302)
        reclaim(log)
        found = [offset for offset, _ in log.read(0) if offset < log.end[0]]
        assert found == [5, 300, 301, 302]
        check_log(log)


def test_segments_with_much_that_is_unfinished_are_left_alone(tmp_path: Path):
    with queue(tmp_path / "s") as (log, share):
        fill(log, 300)
        accept_all(share, *range(0, 300, 2))
        log.sync()
        before = {base: log.bytes(base) for base in bases(log)[:-1]}
        reclaim(log)
        assert {base: log.bytes(base) for base in bases(log)[:-1]} == before


def test_where_a_group_is_still_at_it_nothing_is_rewritten(tmp_path: Path):
    """It would be rewritten again and again while a backlog is worked off."""
    with queue(tmp_path / "s") as (log, share):
        fill(log, 300)
        first, second, *_ = bases(log)
        held = share.acquire(second - 10)
        assert held[-1].offset > first + (second - first) * 3 // 4
        assert set(share.settle("accept", *held[:3], *held[4:])) == {0}
        log.sync()
        before = log.bytes(first)
        reclaim(log)
        assert log.bytes(first) == before
        share.settle("accept", *share.acquire(11))
        reclaim(log)
        assert len(log.bytes(first)) < len(before) // 4
        assert log.read(0)[0][0] == 3
        check_log(log)


def test_a_damaged_record_that_is_not_finished_keeps_its_segment(tmp_path: Path):
    with queue(tmp_path / "s") as (log, share):
        fill(log, 400)
        accept_all(share, 3)
        log.sync()
        position = headers_of(log.bytes(0))[3][0]
        data = flip(log.bytes(0), position + 100)
        with (log.directory / f"{0:020d}.log").open("r+b") as file:
            file.write(data)
        reclaim(log)
        assert log.bytes(0) == data
        assert len(bases(log)) == 3, "those behind it have become one"


# -- readers --------------------------------------------------------------------------------------
def test_a_reader_in_an_old_segment_goes_on_in_it_and_then_finds_its_way(tmp_path: Path):
    with queue(tmp_path / "s") as (log, share):
        fill(log, 600)
        accept_all(share, 3, 400)
        reader, late = log.cursor(0), log.cursor(0)
        first = [reader.next() for _ in range(10)]
        reclaim(log)
        rest = reader.drain()
        reader.free()
        offsets = [one[0][0] for one in first] + [offset for offset, _ in rest]
        assert offsets == sorted(set(offsets))
        assert {3, 400} <= set(offsets)
        assert offsets[-1] == 599
        assert [offset for offset, _ in late.drain()][:2] == [3, 400]
        late.free()


@pytest.mark.parametrize("at", [0, 3, 4, 60, 200, 399, 400, 401, 500])
def test_a_reader_is_placed_anywhere(tmp_path: Path, at: int):
    with queue(tmp_path / "s") as (log, share):
        fill(log, 600)
        accept_all(share, 3, 400)
        reclaim(log)
        active = list(range(log.end[0], 600))
        wanted = [offset for offset in (3, 400, *active) if offset >= at]
        assert [offset for offset, _ in log.read(at)] == wanted


def test_a_reader_of_another_process_goes_on(tmp_path: Path):
    path = tmp_path / "s"
    with queue(path) as (log, share):
        fill(log, 600)
        accept_all(share, 3, 400)
        go, went = os.pipe(), os.pipe()

        def other() -> None:
            there = Store(path).log(create=0, **SMALL)
            cursor = there.cursor(0)
            for _ in range(10):
                cursor.next()
            os.write(went[1], b".")
            os.read(go[0], 1)
            offsets = [offset for offset, _ in cursor.drain()]
            assert offsets[-1] == 599
            assert 400 in offsets
            assert [offset for offset, _ in there.read(0)][:2] == [3, 400]

        child = os.fork()
        if child == 0:
            code = 1
            try:
                other()
                code = 0
            finally:
                os._exit(code)
        os.read(went[0], 1)
        reclaim(log)
        os.write(go[1], b".")
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_reader_that_was_slow_to_open_the_last_segment_is_given_what_is_left_of_it(
    tmp_path: Path,
):
    """It has asked for the end; before it looks for the file that is rolled, and rewritten."""
    path = tmp_path / "s"
    with queue(path) as (log, _):
        fill(log, 40)
        cursor, found = log.cursor(0), []
        assert log.end[0] == 0
        reader = threading.Thread(target=lambda: found.extend(cursor.drain()))

        def others() -> None:
            there = Store(path).log(create=0, **SMALL)
            fill(there, 560)
            accept_all(Share(there.c), 3, 400)
            reclaim(there)
            assert bases(there) == [0, there.end[0]]

        table = ffi.addressof(log.c.table)
        lib.mql_os_mutex_take(table, -1)
        reader.start()
        time.sleep(0.2)  # it waits for the table, to find the segment
        try:
            dies(others)
        finally:
            lib.mql_os_mutex_drop(table)
        reader.join()
        cursor.free()
        assert [offset for offset, _ in found] == [3, 400, *range(log.end[0], 600)]


# What a snapshot ends in: the first segment, which is rewritten under its name; a later one, which
# goes; one that stays; the active one.
@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("count", [1, 4, 40, 66, 67, 100, 300, 400, 401, 599])
def test_a_read_only_store_goes_on_though_what_it_ends_in_was_rewritten(
    tmp_path: Path, count: int, begun: bool
):
    path = tmp_path / "s"
    with queue(path) as (log, share), Store(path, read_only=1) as other:
        fill(log, count)
        snapshot = other.log(create=0, **SMALL)
        cursor = snapshot.cursor(0)
        before = cursor.next() or [] if begun else []
        fill(log, 600 - count)
        accept_all(share, 3, 400)
        reclaim(log)
        assert bases(log) == [0, log.end[0]]
        left = [3, 400, *range(log.end[0], 600)]
        offsets = [offset for offset, _ in before + cursor.drain()]
        assert {n for n in left if n < count} <= set(offsets) <= set(range(count))
        assert begun or offsets == [n for n in left if n < count]  # else it has the old file
        other.log(create=0, **SMALL)  # looks again
        assert [offset for offset, _ in snapshot.read(0)] == left
        offsets += [offset for offset, _ in cursor.drain()]
        assert offsets == sorted(set(offsets))
        assert set(left) <= set(offsets)
        cursor.free()
