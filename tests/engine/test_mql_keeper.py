"""mql_keeper: the rounds of the two background threads, stepped by hand."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.partition import (
    PAGE,
    Log,
    Store,
    check,
    dies,
    ffi,
    headers_of,
    kafkas_indexes,
    lib,
    log_file,
    standing_still,
    take,
)

SMALL = {"segment_bytes": PAGE, "max_message_bytes": PAGE, "batch_bytes": PAGE}


def prepare(store: Store) -> int:
    return check(lib.mql_keeper_prepare(store.c))


def sync(store: Store) -> None:
    check(lib.mql_keeper_sync(store.c))


def size(log: Log, name: str = log_file(0)) -> int:
    return (log.directory / name).stat().st_size


def test_there_is_nothing_to_prepare_before_somebody_appends(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log()
        assert prepare(store) == lib.MQL_END
        assert size(log) == 0


def test_a_round_prepares_ahead_of_the_tail_and_syncs_nothing(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log(segment_bytes=1 << 24)
        log.append(b"x" * 1000)
        assert prepare(store) == lib.MQL_OK
        assert log.control.allocated == size(log) >= 200_000
        assert log.ends[2] == 0
        assert prepare(store) == lib.MQL_END, "until an append comes near its end"
        while prepare(store) == lib.MQL_END:
            before = log.control.allocated
            log.append(b"x" * 1000)
        assert log.end[1] < before < log.control.allocated


def test_more_is_prepared_when_more_is_appended(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log(segment_bytes=1 << 26, max_message_bytes=1 << 24, batch_bytes=1 << 20)
        log.append(b"x" * 10)
        prepare(store)
        little = log.control.allocated - log.end[1]
        log.append(*[b"x" * 500_000] * 6)
        prepare(store)
        assert log.control.allocated - log.end[1] > 10 * little


def test_the_next_segment_is_prepared_before_the_roll_which_then_makes_no_file(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log(segment_bytes=16 * PAGE)
        log.append(b"x" * 1000)
        prepare(store)
        assert size(log, "next.1") > 0
        inode = (log.directory / "next.1").stat().st_ino
        while log.end[0] == 0:
            log.append(b"x" * 1000)
        assert (log.directory / log_file(log.end[0])).stat().st_ino == inode


def test_a_round_syncs_what_was_appended_and_seals_what_was_rolled(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log(**SMALL)
        for _ in range(30):
            log.append(b"x" * 900)
        sync(store)
        assert log.ends == (0, 30, 30)
        for base in range(0, log.end[0], 4):
            data = log.bytes(base)
            headers_of(data)
            assert log.bytes(base, ".timeindex") == kafkas_indexes(data, base)[1]


def test_any_opening_seals_and_syncs_what_a_dead_writer_left(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log(**SMALL)

        def work() -> None:
            other = Store(tmp_path / "s").log(**SMALL)
            for _ in range(30):
                other.append(b"x" * 900)

        dies(work)
        assert log.ends == (0, 30, 0)
        began = time.monotonic()
        for _ in range(20):  # it may be woken at any time for something else
            sync(store)
        assert log.ends == (0, 30, 0) or time.monotonic() - began > 0.7, "its writer has a second"
        for _ in range(40):
            time.sleep(0.05)
            sync(store)
        assert log.ends == (0, 30, 30)
        headers_of(log.bytes(0))


def test_a_round_over_several_partitions_serves_them_all(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        logs = [store.log("t", n) for n in range(3)] + [store.log("other")]
        for log in logs:
            log.append(b"a")
        sync(store)
        assert [log.ends[2] for log in logs] == [1, 1, 1, 1]


def test_retention_is_done_by_the_round(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log(**SMALL, cleanup=lib.MQL_CLEANUP_DELETE, retention_bytes=8000)
        for _ in range(40):
            log.append(b"x" * 900)
        sync(store)
        assert log.ends[0] > 20


def test_two_rounds_at_once_in_two_processes_seal_once(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log(**SMALL)
        for _ in range(30):
            log.append(b"x" * 900)

        def work() -> None:
            other = Store(tmp_path / "s")
            other.log(**SMALL)
            for _ in range(6):
                sync(other)

        dies(work)
        sync(store)
        assert log.ends[2] == 30
        assert log.values() == [b"x" * 900] * 30


def test_threads_do_by_themselves_what_the_rounds_do(tmp_path: Path):
    with Store(tmp_path / "s", threads=1) as store:
        log = store.log(sync_interval_ns=1)
        log.append(b"a")
        for _ in range(100):
            if lib.mql_wait_durable(log.c, 1, 250_000_000) == lib.MQL_OK:
                break
        assert log.ends == (0, 1, 1)
        assert store.c != ffi.NULL


# -- who holds a lock may be stopped --------------------------------------------------------------
@contextmanager
def stopped_with(log: Log, lock: str) -> Iterator[None]:
    """Another process has the lock; should we wait for it, then for no longer than 5 s."""
    with standing_still(lambda: take(ffi.addressof(log.control, lock))) as go_on:
        watch = threading.Timer(5.0, go_on)
        watch.start()
        yield
        assert watch.is_alive(), "it was waited for"
        watch.cancel()


def test_a_round_does_not_wait_for_a_stopped_committer_and_the_next_one_syncs(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log, other = store.log(), store.log("other")
        log.append(b"a")
        other.append(b"a")
        with stopped_with(log, "commit"):
            assert lib.mql_keeper_sync(store.c) == lib.MQL_E_LATER
            assert (log.ends[2], other.ends[2]) == (0, 1)
        sync(store)
        assert log.ends[2] == 1


def test_a_round_does_not_wait_for_a_stopped_preparer_and_the_next_one_prepares(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log(segment_bytes=1 << 24)
        log.append(b"a")
        before = size(log)
        with stopped_with(log, "prepare"):
            assert prepare(store) == lib.MQL_OK, "there is still something to do"
            assert size(log) == before
        assert prepare(store) == lib.MQL_OK
        assert size(log) > before
