"""mql_commit: the durable end, the offset ceiling, trimming, exact lengths at the last close."""

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import fault
from support.partition import (
    DIRECTORY,
    NOW,
    PAGE,
    Failed,
    Log,
    Store,
    batch,
    check,
    dies,
    ffi,
    headers_of,
    kafkas_indexes,
    lib,
    log_file,
    reboot,
    standing_still,
    take,
    unclean,
    values_of,
)

SMALL = {"segment_bytes": PAGE, "max_message_bytes": PAGE, "batch_bytes": PAGE}
STEP = 1 << 20


def checkpoint(path: Path) -> Any:
    opened = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    out = ffi.new("mql_format_checkpoint *")
    try:
        assert check(lib.mql_checkpoint_read(opened, DIRECTORY.encode(), out)) == lib.MQL_OK
    finally:
        os.close(opened)
    return out


def logs_of(log: Log) -> list[int]:
    return sorted(int(name[:20]) for name in log.files() if name.endswith(".log"))


# -- the durable end ------------------------------------------------------------------------------
def test_the_durable_end_follows_by_a_sync(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log()
        for n in range(3):
            log.append(b"%d" % n)
        assert log.ends == (0, 3, 0)
        log.sync()
        assert log.ends == (0, 3, 3)
        log.append(b"3")
        assert log.ends == (0, 4, 3)
        check(lib.mql_commit_until(log.c, 3))
        assert log.ends == (0, 4, 3), "nothing to do"
        check(lib.mql_commit_until(log.c, 4))
        assert log.ends == (0, 4, 4)


def test_the_durable_end_passes_no_roll_before_its_seal(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log(**SMALL)
        for _ in range(30):
            log.append(b"x" * 900)
        log.sync()
        assert log.ends[2] == 30
        *sealed, _ = logs_of(log)
        assert len(sealed) > 5
        for base in sealed:
            data = log.bytes(base)
            headers_of(data)  # exact
            assert (log.bytes(base, ".index"), log.bytes(base, ".timeindex")) == kafkas_indexes(
                data, base
            )
        assert log.control.sealed == log.end[0]


def test_waiting_for_what_is_durable_returns_at_once(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log()
        log.append(b"a", flags=lib.MQL_DURABLE)
        assert lib.mql_wait_durable(log.c, 1, 10**9) == lib.MQL_OK


@contextmanager
def slow_device(log: Log) -> Iterator[None]:
    """A sync of another thread is under way and does not end; it gives up after two seconds."""
    held, done = threading.Event(), threading.Event()
    commit = ffi.addressof(log.control.commit)

    def hold() -> None:
        assert lib.mql_os_mutex_take(commit, -1) == 0
        held.set()
        done.wait(2)
        lib.mql_os_mutex_drop(commit)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    try:
        yield
        assert thread.is_alive(), "it waited for the device"
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("timeout", [-1, 0, 1, 20_000_000])
def test_waiting_for_what_is_not_durable_ends_with_its_time_and_the_sync_goes_on(
    tmp_path: Path, timeout: int
):
    with Store(tmp_path / "s", threads=1) as store:
        log = store.log(sync_interval_ns=3600 * 10**9)
        log.append(b"a")
        with slow_device(log):
            assert lib.mql_wait_durable(log.c, 1, timeout) == lib.MQL_TIMEOUT
            assert log.ends == (0, 1, 0)
        if timeout > 0:  # it was asked for: it comes, though the interval is an hour
            for _ in range(500):
                if lib.mql_wait_durable(log.c, 1, 0) == lib.MQL_OK:
                    break
                lib.mql_wait(log.c, 1, 10_000_000)
            assert log.ends == (0, 1, 1)


def test_waiting_syncs_at_once_where_nobody_else_does(tmp_path: Path):
    for threads in (0, 1):
        with Store(tmp_path / "s", threads=threads) as store:
            log = store.log(sync_interval_ns=3600 * 10**9)
            end = log.append(b"a") + 1
            results = [lib.mql_wait_durable(log.c, end, 250_000_000) for _ in range(100 * threads)]
            assert lib.MQL_OK in (results or [lib.mql_wait_durable(log.c, end, 1)])
            assert log.ends[2] == end


def test_a_dead_committer_is_no_obstacle_and_its_range_is_synced_again(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log()
        log.append(b"x" * 20_000)
        dies(lambda: take(ffi.addressof(log.control.commit)))
        log.sync()
        assert log.ends == (0, 1, 1)


def pretend_synced(log: Log) -> None:
    """What a sync that failed leaves: clean pages, and no word of it. A write moves the time."""
    for base in logs_of(log):
        file = log.directory / log_file(base)
        with file.open("rb") as opened:
            os.fsync(opened)
        os.utime(file, (1, 1))


def written_again(log: Log) -> list[int]:
    return [b for b in logs_of(log) if (log.directory / log_file(b)).stat().st_mtime != 1]


def fill_whole_segments(store: Store) -> Log:
    """Five segments that sealing makes no shorter."""
    log = store.log(**SMALL)
    size = next(n for n in range(PAGE) if len(batch(0, bytes(n))) == PAGE)
    for _ in range(5):
        log.append(b"x" * size)
    assert logs_of(log) == [0, 1, 2, 3, 4]
    return log


def test_every_segment_that_a_dead_committer_may_have_lost_is_written_again(tmp_path: Path):
    """It may have been told of a failed sync of any of them, and nobody else ever will be."""
    with Store(tmp_path / "s") as store:
        log = fill_whole_segments(store)
        pretend_synced(log)
        dies(lambda: take(ffi.addressof(log.control.commit)))
        log.sync()
        assert written_again(log) == [0, 1, 2, 3, 4]
        assert (log.ends, log.control.needs_resync) == ((0, 5, 5), 0)


def test_what_was_not_durable_when_all_died_is_written_again(tmp_path: Path):
    unclean(tmp_path / "s", fill_whole_segments)
    with Store(tmp_path / "s") as store:
        log = store.log(**SMALL)
        assert log.ends == (0, 5, 0)
        pretend_synced(log)
        log.sync()
        assert written_again(log) == [0, 1, 2, 3, 4]


def test_a_committer_that_lives_writes_nothing_again(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = fill_whole_segments(store)
        pretend_synced(log)
        log.sync()
        assert (written_again(log), log.ends) == ([], (0, 5, 5))


# -- after a sync has failed ----------------------------------------------------------------------
def fails_once(at: int, code: int = errno.EIO) -> Callable[[int, str], int]:
    calls = 0

    def device(call: int, name: str) -> int:
        nonlocal calls
        if call not in (fault.lib.MQL_FAULT_SYNC_MAP, fault.lib.MQL_FAULT_SYNC):
            return 0
        calls += 1
        return -code if calls == at else 0

    return device


def poison(log: Any, code: int = errno.EIO) -> None:
    with fault.hooked(fails_once(1, code)), pytest.raises(fault.Failed) as failed:
        log.sync()
    assert (failed.value.code, failed.value.errno) == (lib.MQL_E_DURABILITY, code)
    assert log.control.state == lib.MQL_STATE_POISONED


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_the_next_append_writes_again_what_a_failed_sync_may_have_lost(tmp_path: Path, code: int):
    with fault.Store(tmp_path / "s") as store:
        log = store.log(**SMALL)
        for n in range(30):
            log.append(b"%d" % n * 300)
        poison(log, code)
        pretend_synced(log)
        assert log.append(b"next") == 30
        assert set(written_again(log)) >= set(logs_of(log)[:-1])
        assert (log.ends, log.control.state) == ((0, 31, 30), 0)
        log.sync()
        assert log.ends[2] == 31


@pytest.mark.parametrize("code", [errno.ENODATA, errno.ENOLINK, errno.EROFS, errno.ENOMEM])
def test_what_a_sync_may_have_lost_is_written_again_whatever_it_failed_with(
    tmp_path: Path, code: int
):
    """The kernel tells the device's own word for it, and only once; nobody is told of success."""
    with fault.Store(tmp_path / "s") as store:
        log = store.log(**SMALL)
        for n in range(30):
            log.append(b"%d" % n * 300)
        with fault.hooked(fails_once(1, code)), pytest.raises(fault.Failed) as failed:
            log.append(b"x", flags=lib.MQL_DURABLE)
        assert (failed.value.code, failed.value.errno) == (lib.MQL_E_DURABILITY, code)
        assert log.ends[1:] == (31, 0), "in the log, not known to be on disk"
        pretend_synced(log)
        log.sync()
        assert set(written_again(log)) >= set(logs_of(log)[:-1])
        assert (log.ends, log.control.needs_resync) == ((0, 31, 31), 0)


@pytest.mark.parametrize("call", ["sync", "wait", "until", "trim", "close"])
def test_every_call_that_needs_the_disk_writes_again_first(tmp_path: Path, call: str):
    with fault.Store(tmp_path / "s") as store:
        log = store.log()
        log.append(b"x" * 9000)
        log.append(b"y")
        poison(log)
        pretend_synced(log)
        if call == "sync":
            log.sync()
        elif call == "wait":
            assert fault.lib.mql_wait_durable(log.c, 2, 10**9) == lib.MQL_OK
        elif call == "until":
            fault.check(fault.lib.mql_commit_until(log.c, 2))
        elif call == "trim":
            log.trim(1)
        if call != "close":
            assert (log.ends[2], log.control.state) == (2, 0)
            assert written_again(log) == [0]
    assert checkpoint(tmp_path / "s").clean == 1, "closed as ever"
    with Store(tmp_path / "s") as store:
        assert store.log().ends[1:] == (2, 2)


def test_while_the_device_goes_on_failing_nothing_is_appended_and_all_is_readable(tmp_path: Path):
    with fault.Store(tmp_path / "s") as store:
        log = store.log()
        log.append(b"a")
        poison(log)
        with fault.hooked(lambda call, name: -errno.EIO):
            for _ in range(3):
                with pytest.raises(fault.Failed, match="nothing was appended") as failed:
                    log.append(b"b")
                assert (failed.value.code, failed.value.errno) == (lib.MQL_E_DURABILITY, errno.EIO)
                with pytest.raises(fault.Failed, match="a sync failed"):
                    log.sync()
            assert log.values() == [b"a"]
            assert log.ends == (0, 1, 0)
        assert log.append(b"b") == 1


def test_a_poisoned_log_is_not_revived_behind_everybodys_back(tmp_path: Path):
    with fault.Store(tmp_path / "s") as store:
        log = store.log(sync_interval_ns=0)
        log.append(b"a")
        poison(log)
        fault.check(fault.lib.mql_keeper_sync(store.c))
        assert log.control.state == lib.MQL_STATE_POISONED
        assert log.ends == (0, 1, 0)


def test_what_the_kernel_has_lost_meanwhile_is_not_called_durable(tmp_path: Path):
    """A page that could not be written may be read back from the disk, as it was there."""
    store = fault.Store(tmp_path / "s")
    log = store.log()
    log.append(b"a" * 100)
    log.sync()
    position = log.end[1]
    log.append(b"b" * 100)
    poison(log)
    with (log.directory / log_file(0)).open("r+b") as file:
        file.seek(position + 80)
        file.write(b"older")
    for call in (log.sync, lambda: log.append(b"c"), store.close):
        with pytest.raises(fault.Failed) as failed:
            call()
        assert failed.value.code == lib.MQL_E_DURABILITY
    store.free()
    with Store(tmp_path / "s") as store:
        (first, damage) = store.log().read()
        assert (first, damage.code, damage.start) == ((0, b"a" * 100), lib.MQL_E_CORRUPT, 1)


def test_what_a_dead_committer_has_lost_is_not_called_durable(tmp_path: Path):
    """It was told of a failed sync and died; the page was dropped and read back as it was."""
    store = Store(tmp_path / "s")
    log = store.log()
    log.append(b"a" * 100)
    log.sync()
    position = log.end[1]
    log.append(b"b" * 100)
    dies(lambda: take(ffi.addressof(log.control.commit)))
    with (log.directory / log_file(0)).open("r+b") as file:
        file.seek(position + 80)
        file.write(b"older")
    for call in (log.sync, lambda: log.append(b"c"), store.close):
        with pytest.raises(Failed) as failed:
            call()
        assert failed.value.code == lib.MQL_E_DURABILITY
    store.free()


def test_a_reviver_that_dies_leaves_it_to_the_next(tmp_path: Path):
    with fault.Store(tmp_path / "s") as store:
        log = store.log()
        log.append(b"x" * 9000)
        poison(log)

        def die() -> None:
            with fault.hooked(lambda call, name: os.kill(os.getpid(), 9) or 0):
                fault.Store(tmp_path / "s").log().append(b"y")

        fault.dies(die)
        assert log.control.state == lib.MQL_STATE_POISONED
        pretend_synced(log)
        assert log.append(b"y") == 1
        assert (written_again(log), log.ends) == ([0], (0, 2, 1))


# -- the checkpoint -------------------------------------------------------------------------------
def test_in_a_sync_topic_the_watermark_follows_what_is_acknowledged(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log(durability=lib.MQL_DURABILITY_SYNC)
        for _ in range(3):
            log.append(b"x")
        assert log.ends[2] == 3
        assert checkpoint(store.path).offset == 0
        check(lib.mql_keeper_sync(store.c))
        assert checkpoint(store.path).offset == 3
        sequence = checkpoint(store.path).sequence
        check(lib.mql_keeper_sync(store.c))
        assert checkpoint(store.path).sequence == sequence, "nothing has moved"


# -- the ceiling ----------------------------------------------------------------------------------
def test_no_offset_is_given_out_before_a_ceiling_above_it_is_on_disk(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log()
        assert not (log.directory / "checkpoint").exists()
        log.append(b"a")
        assert checkpoint(store.path).ceiling == log.control.ceiling == 1 + STEP
        log.append(b"b")
        assert checkpoint(store.path).ceiling == 1 + STEP, "not at every append"
        check(lib.mql_commit_raise(log.c, 3 * STEP))
        assert checkpoint(store.path).ceiling == log.control.ceiling == 4 * STEP
        check(lib.mql_commit_raise(log.c, 5))
        assert checkpoint(store.path).ceiling == 4 * STEP, "it only rises"


def test_an_append_over_the_ceiling_raises_it_first(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log()
        log.append(b"a")
        log.control.ceiling = 2
        log.append(b"b")
        assert log.control.ceiling == 2
        log.append(b"c")
        assert checkpoint(store.path).ceiling == log.control.ceiling == 3 + STEP


def test_a_sync_moves_a_low_ceiling_ahead_of_the_log(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log()
        log.append(b"a")
        log.control.ceiling = 1000
        log.sync()
        assert checkpoint(store.path).ceiling == log.control.ceiling == 1 + STEP


# -- trimming -------------------------------------------------------------------------------------
def test_trimming_moves_the_log_start_and_unlinks_whole_segments_below_it(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log(**SMALL)
        for n in range(30):
            log.append(b"%d" % n * 400)
        bases = logs_of(log)
        before = bases[3] + 1
        log.trim(before)
        assert log.ends[0] == before
        assert logs_of(log) == bases[3:]
        assert {int(name[:20]) for name in log.files() if "index" in name} <= set(bases[3:])
        assert [offset for offset, _ in log.read()] == list(range(before, 30))
        with pytest.raises(Failed) as failed:
            log.cursor(before - 1)
        assert (failed.value.code, failed.value.start) == (lib.MQL_E_RANGE, before)
    with Store(tmp_path / "s") as store:
        assert store.log(**SMALL).ends[:2] == (before, 30)


@pytest.mark.parametrize("how", ["closed", "killed", "rebooted"])
def test_a_log_start_stays_where_it_was_trimmed_to(tmp_path: Path, how: str):
    def work(store: Store) -> None:
        log = store.log(**SMALL)
        for n in range(20):
            log.append(b"%d" % n * 400)
        log.trim(7)

    if how == "closed":
        with Store(tmp_path / "s") as store:
            work(store)
    else:
        dies(lambda: work(Store(tmp_path / "s")))
    if how == "rebooted":
        reboot(tmp_path / "s")
    with Store(tmp_path / "s") as store:
        log = store.log(**SMALL)
        assert log.ends[0] == 7
        assert [offset for offset, _ in log.read()] == list(range(7, 20))


@pytest.mark.parametrize("before", [-1, 2, 11, 2**62])
def test_trimming_outside_the_log_names_the_range_and_changes_nothing(tmp_path: Path, before: int):
    with Store(tmp_path / "s") as store:
        log = store.log()
        for n in range(10):
            log.append(b"%d" % n)
        log.trim(5)
        with pytest.raises(Failed) as failed:
            log.trim(before)
        assert failed.value.code == lib.MQL_E_RANGE
        assert (failed.value.start, failed.value.stop) == (5, 10)
        assert log.ends[:2] == (5, 10)


def test_everything_may_be_trimmed_and_offsets_go_on(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log(**SMALL)
        for n in range(20):
            log.append(b"%d" % n * 400)
        log.trim(20)
        log.trim(20)
        assert (log.ends[:2], log.values()) == ((20, 20), [])
        assert log.append(b"next") == 20
    with Store(tmp_path / "s") as store:
        assert store.log().read() == [(20, b"next")]


# -- retention ------------------------------------------------------------------------------------
def deleting(**how: int) -> dict[str, int]:
    return {**SMALL, "cleanup": lib.MQL_CLEANUP_DELETE, **how}


def test_retention_by_bytes_keeps_at_least_that_much(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log(**deleting(retention_bytes=10_000))
        for n in range(40):
            log.append(b"%d" % n * 400)
        log.sync()
        check(lib.mql_commit_retain(log.c))
        kept = sum(len(log.bytes(base)) for base in logs_of(log)[:-1]) + log.end[1]
        assert 10_000 <= kept < 10_000 + PAGE
        assert log.ends[0] == logs_of(log)[0]


def test_retention_by_age_takes_segments_whose_youngest_record_is_too_old(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log(**deleting(retention_age_ms=1000))
        for n in range(9):
            log.append(b"%d" % n * 1000, timestamp=NOW)
        for n in range(9, 18):
            log.append(b"%d" % n * 1000, timestamp=2**42)
        log.sync()
        check(lib.mql_commit_retain(log.c))
        assert 0 < log.ends[0] <= 9
        assert log.ends[0] == logs_of(log)[0]


def age(path: Path, damage: Callable[[bytes], bytes]) -> int:
    """Log start after retention by age of segments whose records are young, but their files old."""
    young = time.time_ns() // 1_000_000
    with Store(path) as store:
        log = store.log(**deleting(retention_age_ms=3_600_000))
        for n in range(12):
            log.append(b"x" * 900, timestamp=young + n)
        log.sync()
        for base in logs_of(log)[:-1]:
            times = log.directory / log_file(base, ".timeindex")
            times.write_bytes(damage(times.read_bytes()))
            os.utime(log.directory / log_file(base), (1, 1))
        check(lib.mql_commit_retain(log.c))
        return log.ends[0]


@pytest.mark.parametrize("place", range(12))
def test_a_damaged_time_index_takes_no_young_segment(tmp_path: Path, place: int):
    """What it says is borne out by the log, or the log is asked."""

    def damage(data: bytes) -> bytes:
        at = len(data) - 12 + place
        return data[:at] + bytes(1) + data[at + 1 :]

    assert age(tmp_path / "s", damage) == 0


def test_a_missing_time_index_takes_no_young_segment(tmp_path: Path):
    assert age(tmp_path / "s", lambda data: b"") == 0


def test_an_index_that_lacks_its_last_entry_takes_no_young_segment(tmp_path: Path):
    """The entry before it is right, and old: what comes behind it is looked at."""
    with Store(tmp_path / "s") as store:
        log = store.log(**deleting(retention_age_ms=3_600_000, segment_bytes=4 * PAGE))
        for n in range(20):
            log.append(b"x" * 1500, timestamp=NOW if n % 10 < 9 else time.time_ns() // 1_000_000)
        log.sync()
        for base in logs_of(log)[:-1]:
            times = log.directory / log_file(base, ".timeindex")
            times.write_bytes(times.read_bytes()[:-12])
        check(lib.mql_commit_retain(log.c))
        assert log.ends[0] == 0


def test_a_topic_that_keeps_loses_nothing_to_retention(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log(**SMALL, retention_bytes=0, retention_age_ms=0)
        for _ in range(20):
            log.append(b"x" * 900)
        log.sync()
        check(lib.mql_commit_retain(log.c))
        assert log.ends[0] == 0


# -- the last close -------------------------------------------------------------------------------
@pytest.mark.parametrize("options", [{}, SMALL], ids=["one segment", "several"])
def test_a_clean_close_leaves_exact_lengths_everywhere(tmp_path: Path, options: dict[str, int]):
    with Store(tmp_path / "s") as store:
        log = store.log(**options)
        for n in range(50):
            log.append(b"%d" % n * 300, timestamp=NOW + n % 7)
        if options:
            check(lib.mql_room_next(log.c, PAGE))
    directory = tmp_path / "s" / DIRECTORY
    bases = [int(file.name[:20]) for file in directory.glob("*.log")]
    for base in bases:
        data = (directory / log_file(base)).read_bytes()
        headers_of(data)
        offsets, times = kafkas_indexes(data, base)
        assert (directory / log_file(base, ".index")).read_bytes() == offsets
        assert (directory / log_file(base, ".timeindex")).read_bytes() == times
    assert not list(directory.glob("next.*"))
    one = checkpoint(tmp_path / "s")
    assert (one.clean, one.offset, one.ceiling) == (1, 50, 50)


def test_a_store_that_was_only_looked_into_is_left_as_it_was(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        store.log().append(b"a")
    directory = tmp_path / "s" / DIRECTORY
    own = "control"  # memory, not data

    def look() -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in directory.iterdir() if file.name != own}

    before = look()
    with Store(tmp_path / "s") as store:
        assert store.log().values() == [b"a"]
    assert look() == before


def test_another_opening_keeps_the_store_open(tmp_path: Path):
    with Store(tmp_path / "s") as first:
        log = first.log()
        with Store(tmp_path / "s") as second:
            second.log().append(b"a")
        log.append(b"b")
        assert log.bytes()[log.end[1] :], "prepared space: not closed yet"
    assert checkpoint(tmp_path / "s").clean == 1


def test_the_last_closer_ends_partitions_that_it_never_opened(tmp_path: Path):
    with Store(tmp_path / "s"):

        def work() -> None:
            Store(tmp_path / "s").log().append(b"a")

        dies(work)
    one = checkpoint(tmp_path / "s")
    assert (one.clean, one.offset) == (1, 1)
    headers_of((tmp_path / "s" / DIRECTORY / log_file(0)).read_bytes())


def test_a_ceiling_whose_sync_failed_is_raised_again_by_who_opens_next(tmp_path: Path) -> None:
    """The file says it, in memory; a power cut may still take it, and offsets would come twice."""

    def broken(call: int, name: str) -> int:
        return -errno.EIO if call == fault.lib.MQL_FAULT_SYNC else 0

    with fault.Store(tmp_path / "s") as store:
        log = store.log()
        with fault.hooked(broken):
            with pytest.raises(fault.Failed):
                log.append(b"not acknowledged")
            with pytest.raises(fault.Failed):
                store.close()
    synced: list[str] = []
    with (
        fault.Store(tmp_path / "s") as store,
        fault.hooked(lambda call, name: synced.append(Path(name).name) or 0),
    ):
        assert store.log().append(b"first") == 0
        assert "checkpoint" in synced


# -- who holds the lock may be stopped ------------------------------------------------------------
@contextmanager
def entered(store: Store) -> Iterator[None]:
    lib.mql_enter(store.c)
    try:
        yield
    finally:
        lib.mql_leave(store.c)


def test_a_durable_append_says_that_it_is_done_when_the_committer_is_stopped(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log()
        log.append(b"a", flags=lib.MQL_DURABLE)
        with standing_still(lambda: take(ffi.addressof(log.control, "commit"))):
            keep: list[Any] = []
            values, offset = values_of([b"b"], keep), ffi.new("int64_t *")
            with entered(store):
                rc = lib.mql_append_values(log.c, values, 1, NOW, lib.MQL_DURABLE, offset)
            assert (rc, offset[0]) == (lib.MQL_UNSYNCED, 1)
            assert log.values() == [b"a", b"b"]
            with entered(store):
                assert lib.mql_log_sync_until(log.c, 2) == lib.MQL_UNSYNCED
                assert lib.mql_log_sync(log.c) == lib.MQL_E_LATER
                assert lib.mql_trim(log.c, 1) == lib.MQL_E_LATER
            assert log.ends == (0, 2, 1)
        assert lib.mql_log_sync_until(log.c, 2) == lib.MQL_OK
        assert log.ends == (0, 2, 2)
        assert log.values() == [b"a", b"b"]
