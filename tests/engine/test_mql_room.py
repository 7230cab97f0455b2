"""mql_room: space ahead of the tail, and the bounds on it."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from support import fault, turns
from support.disk import tmpfs
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


def test_a_prepared_segment_has_a_number_behind_the_greatest_too(tmp_path: Path):
    """0 would mean that there is none: its file would be left behind."""
    with Store(tmp_path / "s") as store:
        log = store.log(**SMALL)
        log.append(b"x" * 3900)
    path = log.directory / "checkpoint"
    data = bytearray(path.read_bytes())
    for at in turns.CHECKPOINT.slots:
        data[at + 88 : at + 96] = turns.LAST.to_bytes(8, "little")
    path.write_bytes(data)
    turns.plant(path, turns.CHECKPOINT, 2, 1)
    with Store(tmp_path / "s") as store:
        log = store.log(**SMALL)
        for number in (2, 3):
            check(lib.mql_room_next(log.c, PAGE))
            assert {name for name in log.files() if "next" in name} == {f"next.{number}"}
            assert log.control.next_number == number
            log.append(b"x" * 3900)  # which goes on there
        assert len(log.values()) == 3
    with Store(tmp_path / "s") as store:
        assert store.log(**SMALL).control.last_number == 3


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


# -- what is written ahead ------------------------------------------------------------------------
def zeros_written(path: Path, size: int, appends: int, rc: int = 0, **how: int) -> list[str]:
    """The files that were written ahead of appends of that size, each of which is synced."""
    written: list[str] = []

    def hook(call: int, name: str) -> int:
        if call == fault.lib.MQL_FAULT_WRITE_ZEROS:
            written.append(os.path.basename(name))
            return rc
        return 0

    with fault.Store(path) as store, fault.hooked(hook):
        log = store.log(**how)
        for n in range(appends):
            assert log.append(b"x" * size) == n
            log.sync()
            fault.check(fault.lib.mql_keeper_prepare(store.c))
        assert log.values() == [b"x" * size] * appends
        assert bytes(log.bytes(log.end[0])[log.end[1] :]).strip(b"\0") == b""
    return written


DURABILITIES = [lib.MQL_DURABILITY_OS, lib.MQL_DURABILITY_SYNC]


@pytest.mark.parametrize("durability", DURABILITIES)
def test_the_background_writes_zeros_ahead_of_the_tail(tmp_path: Path, durability: int):
    written = zeros_written(tmp_path / "s", 1000, 400, durability=durability, segment_bytes=1 << 24)
    assert 2 < len(written) < 20
    assert set(written) == {log_file(0)}


def test_a_next_segment_too_is_written_ahead(tmp_path: Path):
    written = zeros_written(tmp_path / "s", 1000, 100, segment_bytes=1 << 15)
    assert any(name.startswith("next.") for name in written)


@pytest.mark.parametrize("durability", DURABILITIES)
def test_that_nothing_can_be_written_ahead_is_no_error(tmp_path: Path, durability: int):
    written = zeros_written(
        tmp_path / "s", 1000, 400, -errno.EIO, durability=durability, segment_bytes=1 << 24
    )
    assert len(written) > 2


def test_no_zeros_go_where_records_are_though_less_is_known_to_have_blocks(tmp_path: Path):
    """As a roll leaves it that dies when it has told of the next segment's blocks."""
    with Store(tmp_path / "s") as store:
        log = store.log(segment_bytes=1 << 24)
        for _ in range(500):
            log.append(b"x" * 1000)
            check(lib.mql_keeper_prepare(store.c))
        while check(lib.mql_keeper_prepare(store.c)) == lib.MQL_END:
            allocated = log.control.allocated
            log.append(b"x" * 1000)
        count = log.end[2]
        log.append(b"x" * 200_000)  # so that preparation is asked for again
        log.control.allocated = PAGE
        check(lib.mql_keeper_prepare(store.c))
        log.control.allocated = max(allocated, log.end[1])
        assert log.values() == [b"x" * 1000] * count + [b"x" * 200_000]


def test_no_zeros_go_to_a_topic_that_was_made_again_meanwhile(tmp_path: Path):
    path = tmp_path / "s"
    with fault.Store(path) as store, fault.Store(path) as other, fault.Store(path) as third:
        log = store.log(segment_bytes=1 << 24)
        log.append(b"x" * 1000)
        again: list[Any] = []

        def make_again(call: int, name: str) -> int:
            if call == fault.lib.MQL_FAULT_FREE_BYTES and not again:
                # Whoever prepares has the lock, and has seen that its topic was there.
                fault.check(fault.lib.mql_partition_delete(other.log().c))
                again.append(third.log(segment_bytes=1 << 24))
                for _ in range(200):
                    again[0].append(b"y" * 1000)
            return 0

        with fault.hooked(make_again):
            fault.lib.mql_keeper_prepare(store.c)
        assert again[0].values() == [b"y" * 1000] * 200


def test_all_that_the_background_takes_at_once_is_a_small_part_of_the_free_space(tmp_path: Path):
    with tmpfs(tmp_path / "disk", "32m") as disk, Store(disk / "s", min_free_bytes=0) as store:
        log, other = store.log(segment_bytes=1 << 28), store.log("other")
        for _ in range(20):
            log.append(b"x" * 250_000)
        free = os.statvfs(disk).f_bavail * PAGE
        before = log.control.allocated
        assert check(lib.mql_keeper_prepare(store.c)) == lib.MQL_OK
        assert log.control.allocated - before <= free // 64 + PAGE
        other.append(b"x" * 250_000)


def test_of_a_next_segment_that_does_not_fit_the_background_takes_nothing(tmp_path: Path):
    with Store(tmp_path / "s", max_bytes=16 << 20) as store:
        log = store.log(segment_bytes=9 << 20)
        for _ in range(32):
            log.append(b"x" * 250_000)
        check(lib.mql_keeper_prepare(store.c))
        assert log.control.next_allocated == 0
        assert [name for name in log.files() if name.startswith("next.")] == []


# -- what is behind the tail ----------------------------------------------------------------------
def test_page_tables_are_let_go_of_within_the_mapping_alone(tmp_path: Path):
    """The end may be that of a peer's longer segments, or damaged."""
    with fault.Store(tmp_path / "s") as store:
        log = store.log(segment_bytes=1 << 16)
        log.append(b"x" * 1000)
        end = fault.ffi.new("mql_control_end *", (0, 1 << 20, 1))
        log.control.allocated = 1 << 24
        fault.lib.mql_control_publish(fault.ffi.addressof(log.control, "published"), end)
        fault.check(fault.lib.mql_keeper_prepare(store.c))
        log.control.state = lib.MQL_STATE_DELETED  # nobody is to make anything of it


def test_what_is_behind_the_tail_is_let_go_of_and_read_all_the_same(tmp_path: Path):
    with fault.Store(tmp_path / "s") as store:
        log = store.log(segment_bytes=1 << 24)
        for _ in range(300):
            log.append(b"x" * 1000)
            fault.check(fault.lib.mql_keeper_prepare(store.c))
        assert log.values() == [b"x" * 1000] * 300
