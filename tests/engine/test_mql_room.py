"""mql_room: space ahead of the tail, and the bounds on it."""

import errno
import os
from pathlib import Path

import pytest
from support import fault
from support.partition import PAGE, Failed, Log, Store, check, dies, ffi, lib, log_file, take

SMALL = {"segment_bytes": PAGE, "max_message_bytes": PAGE, "batch_bytes": PAGE}
EVERYTHING = 1 << 62


def size(log: Log, name: str = log_file(0)) -> int:
    return (log.directory / name).stat().st_size


def full(log: Log) -> str:
    """The words of the refusal of an append that needs space."""
    end = log.end
    with pytest.raises(Failed) as failed:
        for _ in range(10_000):
            log.append(b"x" * 3000)
            end = log.end
    assert (failed.value.code, failed.value.errno) == (lib.MQL_E_OS, errno.ENOSPC)
    assert log.end == end, "nothing of it is visible"
    return failed.value.text


def test_a_log_is_created_empty_and_its_first_append_allocates_16_kib(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log()
        assert size(log) == 0
        assert {name for name in log.files() if "index" in name} == set()
        log.append(b"a")
        assert size(log) == log.control.allocated == 16 << 10
        blocks = (log.directory / log_file(0)).stat().st_blocks * 512
        assert blocks >= 16 << 10, "real blocks, never sparse"


def test_an_append_allocates_what_it_needs_and_more_as_the_log_grows(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log()
        log.append(b"x" * 100_000)
        assert log.end[1] <= log.control.allocated == size(log)
        log.append(b"x" * 100_000)
        assert size(log) >= 2 * 100_000


def test_no_file_grows_over_its_segment(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log(segment_bytes=5 * PAGE)
        for _ in range(40):
            log.append(b"x" * 1000)
            check(lib.mql_keeper_prepare(store.c))
        names = [name for name in log.files() if name.endswith(".log") or "next" in name]
        assert max(size(log, name) for name in names) <= 5 * PAGE


@pytest.mark.slow
def test_the_largest_segment_is_one_that_every_process_can_open(tmp_path: Path):
    """A file is whole pages, and of 2^31 bytes it would be larger than Kafka opens."""
    with Store(tmp_path / "s") as store:
        log = store.log(segment_bytes=2**31 - 1)
        log.append(b"a")
        check(lib.mql_room_allocate(log.c, 0, log.c.segment_bytes))
        assert size(log) < 2**31
        dies(lambda: Store(tmp_path / "s").log(segment_bytes=2**31 - 1).append(b"b"))
        assert log.values() == [b"a", b"b"]


def test_over_max_bytes_an_append_is_a_full_disk_and_reading_goes_on(tmp_path: Path):
    with Store(tmp_path / "s", max_bytes=200_000) as store:
        log = store.log()
        assert "max_bytes" in full(log)
        assert len(log.values()) == log.ends[1] > 30
        counted = [name for name in log.files() if name.endswith(("log", "index"))]
        assert sum(size(log, name) for name in counted) <= 200_000


def test_a_raised_bound_takes_effect_at_once(tmp_path: Path):
    with Store(tmp_path / "s", max_bytes=100_000) as store:
        log = store.log()
        full(log)
        last = log.ends[1]
        check(lib.mql_store_limits(store.c, 0, 400_000))
        assert log.append(b"x" * 3000) == last
        full(log)


def test_trimming_gives_the_space_back(tmp_path: Path):
    with Store(tmp_path / "s", max_bytes=100_000) as store:
        log = store.log(**SMALL)
        full(log)
        log.trim(log.ends[1])
        for _ in range(5):
            log.append(b"x" * 3000)
        assert log.values() == [b"x" * 3000] * 5


@pytest.mark.slow
def test_space_that_is_trimmed_away_comes_back_however_often(tmp_path: Path):
    with Store(tmp_path / "s", max_bytes=100_000) as store:
        log = store.log(**SMALL)
        for n in range(200):
            assert log.append(b"x" * 2100) == n
            log.trim(n)


def test_space_is_counted_anew_when_a_store_is_opened(tmp_path: Path):
    with Store(tmp_path / "s", max_bytes=100_000) as store:
        full(store.log())
    with Store(tmp_path / "s", max_bytes=100_000) as store:
        full(store.log())
    with Store(tmp_path / "s", max_bytes=200_000) as store:
        log = store.log()
        log.append(b"x" * 3000)


def test_under_min_free_bytes_an_append_is_a_full_disk(tmp_path: Path):
    with Store(tmp_path / "s", min_free_bytes=EVERYTHING) as store:
        log = store.log()
        assert "min_free_bytes" in full(log)
        check(lib.mql_store_limits(store.c, 0, 0))
        assert log.append(b"a") == 0


def test_a_roll_that_finds_no_space_leaves_the_segment_active(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log(**SMALL)
        log.append(b"x" * 3000)
        check(lib.mql_store_limits(store.c, EVERYTHING, 0))
        full(log)
        assert log.end[0] == 0
        check(lib.mql_store_limits(store.c, 0, 0))
        assert log.append(b"x" * 3000) == 1
        assert log.end[0] == 1


def test_space_asked_for_a_segment_that_is_no_longer_active_lengthens_nothing(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log(**SMALL)
        for _ in range(3):
            log.append(b"x" * 3000)
        log.sync()
        before = size(log)
        check(lib.mql_room_allocate(log.c, 0, 3 * PAGE))
        assert size(log) == before


def test_a_file_size_limit_is_an_error_and_the_store_goes_on_behind_it(tmp_path: Path):
    import resource

    with Store(tmp_path / "s") as store:
        log = store.log()
        log.append(b"a")

        def work() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (32 << 10, 32 << 10))
            child = Store(tmp_path / "s").log()
            with pytest.raises(Failed) as failed:
                for _ in range(100):
                    child.append(b"x" * 3000)
            assert failed.value.errno == errno.EFBIG

        dies(work)
        log.append(b"x" * 60_000)


def test_there_is_one_next_segment_and_it_is_used_by_the_roll(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log(**SMALL)
        log.append(b"x" * 3000)
        for _ in range(3):
            check(lib.mql_room_next(log.c, PAGE))
        assert {name for name in log.files() if name.startswith("next.")} == {"next.1"}
        inode = (log.directory / "next.1").stat().st_ino
        log.append(b"x" * 3000)
        assert (log.directory / log_file(1)).stat().st_ino == inode
        check(lib.mql_room_next(log.c, PAGE))
        assert "next.2" in log.files(), "a number is never used twice"


def test_a_next_that_was_taken_away_is_made_again(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log(**SMALL)
        log.append(b"x" * 3000)
        check(lib.mql_room_next(log.c, PAGE))
        (log.directory / "next.1").unlink()
        check(lib.mql_room_next(log.c, PAGE))
        assert log.append(b"x" * 3000) == 1


def test_a_dead_owner_of_the_prepare_lock_is_no_obstacle(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log()
        dies(lambda: take(ffi.addressof(log.control.prepare)))
        assert log.append(b"a") == 0
        assert os.listdir(log.directory)


# -- in "sync" topics: blocks that are written already -------------------------------------------
def zeros_written(path: Path, durability: int, size: int, appends: int, rc: int = 0) -> list[str]:
    """The files that were written ahead of appends of that size, each of which is synced."""
    written: list[str] = []

    def hook(call: int, name: str) -> int:
        if call == fault.lib.MQL_FAULT_WRITE_ZEROS:
            written.append(os.path.basename(name))
            return rc
        return 0

    with fault.Store(path) as store, fault.hooked(hook):
        log = store.log(durability=durability, segment_bytes=1 << 24)
        for n in range(appends):
            assert log.append(b"x" * size) == n
            log.sync()
            fault.check(fault.lib.mql_keeper_prepare(store.c))
        assert log.values() == [b"x" * size] * appends
        assert bytes(log.bytes(0)[log.end[1] :]).strip(b"\0") == b""
    return written


def test_ahead_of_small_durable_appends_blocks_are_written(tmp_path: Path):
    written = zeros_written(tmp_path / "s", lib.MQL_DURABILITY_SYNC, 1000, 400)
    assert 2 < len(written) < 20
    assert set(written) == {log_file(0)}


def test_a_next_segment_too_has_its_blocks_written(tmp_path: Path):
    with fault.Store(tmp_path / "s") as store:
        log = store.log(durability=lib.MQL_DURABILITY_SYNC, segment_bytes=1 << 16)
        written: list[str] = []

        def hook(call: int, name: str) -> int:
            if call == fault.lib.MQL_FAULT_WRITE_ZEROS:
                written.append(os.path.basename(name))
            return 0

        with fault.hooked(hook):
            for _ in range(40):
                log.append(b"x" * 1000)
                fault.check(fault.lib.mql_keeper_prepare(store.c))
        assert any(name.startswith("next.") for name in written)


def test_where_bandwidth_is_what_syncs_wait_for_nothing_is_written_twice(tmp_path: Path):
    few = zeros_written(tmp_path / "large", lib.MQL_DURABILITY_SYNC, 200_000, 50)
    assert len(few) <= 3, "before it was known how large they are"
    assert zeros_written(tmp_path / "os", lib.MQL_DURABILITY_OS, 1000, 400) == []


def test_blocks_that_cannot_be_written_ahead_are_no_error(tmp_path: Path):
    written = zeros_written(tmp_path / "s", lib.MQL_DURABILITY_SYNC, 1000, 400, -errno.EIO)
    assert len(written) > 2
