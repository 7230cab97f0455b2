"""mql_log: a partition as one process sees it beside the others."""

import os
import threading
from pathlib import Path

import pytest
from support import fault
from support.partition import (
    PAGE,
    Failed,
    Log,
    Store,
    batch,
    check,
    dies,
    ffi,
    lib,
    log_file,
)

SMALL = {"segment_bytes": PAGE, "max_message_bytes": PAGE, "batch_bytes": PAGE}
SECOND = 10**9


def fill(log: Log, count: int, size: int = 400) -> None:
    for n in range(count):
        log.append(b"%d" % n * (size // len(b"%d" % n)))


def locate(log: Log, offset: int) -> tuple[int, int]:
    base, following = ffi.new("int64_t *"), ffi.new("int64_t *")
    check(lib.mql_log_locate(log.c, offset, base, following))
    return base[0], following[0]


def bases(log: Log) -> list[int]:
    out, count = ffi.new("int64_t **"), ffi.new("size_t *")
    check(lib.mql_log_bases(log.c, out, count))
    found = [out[0][i] for i in range(count[0])]
    lib.mql_os_free_memory(out[0])
    return found


def test_a_missing_partition_is_made_only_on_request(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        with pytest.raises(Failed) as failed:
            store.log(create=0)
        assert failed.value.code == lib.MQL_E_NOT_FOUND
        assert not (tmp_path / "s" / "t-0").exists()


def test_an_idle_empty_partition_costs_next_to_nothing(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log()
        used = sum(file.stat().st_blocks * 512 for file in log.directory.iterdir())
        assert used <= 24 << 10
        log.append(b"a")
        used = sum(file.stat().st_blocks * 512 for file in log.directory.iterdir())
        assert used <= 64 << 10


def test_every_call_of_a_process_gives_the_same_partition(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        assert store.log().c == store.log().c != store.log("other").c


def test_what_another_process_appends_and_rolls_is_seen_at_once(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log(**SMALL)
        log.append(b"first")
        dies(lambda: fill(Store(tmp_path / "s").log(**SMALL), 40))
        assert log.ends[1] == 41
        assert len(log.values()) == 41
        assert log.append(b"last") == 41
        assert bases(log) == sorted(
            int(name[:20]) for name in os.listdir(log.directory) if name.endswith(".log")
        )


def test_what_another_process_trims_is_gone_at_once(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log(**SMALL)
        fill(log, 40)
        dies(lambda: Store(tmp_path / "s").log(**SMALL).trim(30))
        assert log.ends[0] == 30
        assert [offset for offset, _ in log.read()] == list(range(30, 40))
        assert bases(log)[0] <= 30 < bases(log)[1]


def test_an_offset_lies_in_the_segment_with_the_greatest_base_at_or_below_it(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log(**SMALL)
        fill(log, 40)
        every = bases(log)
        for offset in range(45):
            at = sum(1 for base in every if base <= offset) - 1
            following = every[at + 1] if at + 1 < len(every) else 2**63 - 1
            assert locate(log, offset) == (every[at], following)
        log.trim(30)
        with pytest.raises(Failed) as failed:
            locate(log, 3)
        assert failed.value.code == lib.MQL_E_RANGE


def test_a_larger_bound_on_segments_reaches_every_process(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log(**SMALL)
        log.append(b"x" * 3000)
        larger = {"segment_bytes": 1 << 20, "max_message_bytes": 1 << 18, "batch_bytes": 1 << 16}
        dies(lambda: Store(tmp_path / "s").log(**larger).append(b"x" * 100_000))
        assert [len(one) for one in log.values()] == [3000, 100_000]
        store.log(**larger)
        assert log.append(b"x" * 50_000) == 2
        assert [len(one) for one in log.values()] == [3000, 100_000, 50_000]


def test_waiting_for_a_record_that_is_there_returns_and_for_one_that_is_not_times_out(
    tmp_path: Path,
):
    with Store(tmp_path / "s") as store:
        log = store.log()
        assert lib.mql_wait(log.c, 0, 1) == lib.MQL_TIMEOUT
        log.append(b"a")
        assert lib.mql_wait(log.c, 0, SECOND) == lib.MQL_OK
        assert lib.mql_wait(log.c, 1, 1) == lib.MQL_TIMEOUT


def test_a_waiter_is_woken_by_an_append_of_another_process(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log()
        ready = os.pipe()
        child = os.fork()
        if child == 0:
            other = Store(tmp_path / "s").log()
            os.read(ready[0], 1)
            other.append(b"a")
            os._exit(0)
        os.write(ready[1], b"x")
        while lib.mql_wait(log.c, 0, SECOND) == lib.MQL_TIMEOUT:
            pass
        assert log.values() == [b"a"]
        os.waitpid(child, 0)
        for descriptor in ready:
            os.close(descriptor)


def test_the_description_adds_up(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log(**SMALL)
        fill(log, 40)
        log.sync()
        info = ffi.new("mql_log_info *")
        check(lib.mql_log_describe(log.c, info))
        assert (info.start_offset, info.end_offset, info.durable_offset) == (0, 40, 40)
        assert info.segments == len(bases(log))
        sealed = sum(len(log.bytes(base)) for base in bases(log)[:-1])
        assert info.bytes == sealed + log.end[1]
        assert (info.epoch, info.poisoned) == (0, 0)


def test_a_misplaced_file_is_refused_by_name_and_nothing_is_changed(tmp_path: Path):
    """R7 through a store: the file is named, and other topics go on."""
    directory = tmp_path / "s" / "t-0"
    directory.mkdir(parents=True)
    data = batch(5, b"foreign")
    (directory / log_file(0)).write_bytes(data)
    with Store(tmp_path / "s") as store:
        with pytest.raises(Failed) as failed:
            store.log()
        assert failed.value.code == lib.MQL_E_FORMAT
        assert failed.value.path == f"t-0/{log_file(0)}"
        assert store.log("other").append(b"a") == 0
    assert (directory / log_file(0)).read_bytes() == data


def test_unknown_files_are_never_touched(tmp_path: Path):
    directory = tmp_path / "s" / "t-0"
    directory.mkdir(parents=True)
    mine = {
        "notes.txt": b"mine",
        "00000000000000000000.log.bak": b"mine",
        "next.x": b"mine",
        "00000000000000000007.snapshot": b"mine",
        "1.log": b"mine",
        "99999999999999999999.log": b"mine",
        "partition.metadata": b"mine",
    }
    for name, data in mine.items():
        (directory / name).write_bytes(data)
    with Store(tmp_path / "s") as store:
        log = store.log(**SMALL)
        fill(log, 40)
        log.trim(35)
    dies(lambda: Store(tmp_path / "s").log(**SMALL).append(b"a"))
    with Store(tmp_path / "s") as store:
        store.log(**SMALL)
    for name, data in mine.items():
        assert (directory / name).read_bytes() == data


def test_a_listing_that_is_older_than_what_is_known_changes_nothing(tmp_path: Path):
    """Another thread has listed the directory meanwhile, after a roll."""
    small = {"segment_bytes": 4096, "max_message_bytes": 4096, "batch_bytes": 4096}

    def roll() -> None:
        log = fault.Store(tmp_path / "s").log(**small)
        log.append(b"x" * 3000)

    with fault.Store(tmp_path / "s") as store:
        log = store.log(**small)
        log.append(b"x" * 3000)
        cursor = log.cursor(0)
        assert len(cursor.drain()) == 1

        @fault.ffi.callback("int(int, int)", error=0)
        def listed(call: int, file: int) -> int:
            if log.ends[1] == 1:
                fault.dies(roll)
                thread = threading.Thread(target=fault.lib.mql_log_forget, args=[log.c])
                thread.start()
                thread.join()
            return 0

        fault.lib.mql_os_fault_after_list(listed)
        try:
            fault.check(fault.lib.mql_log_relist(log.c))
        finally:
            fault.lib.mql_os_fault_after_list(fault.ffi.NULL)
        assert log.c.segments_seen == log.control.segments_generation
        assert log.c.count == 2
        assert [offset for offset, _ in cursor.drain()] == [1]
        cursor.free()


def test_an_old_listing_is_no_end_of_the_log(tmp_path: Path):
    """Whoever takes it for one passes over the records behind it."""

    def roll() -> None:
        Store(tmp_path / "s").log(**SMALL).append(b"x" * 3000)

    with Store(tmp_path / "s") as store:
        log = store.log(**SMALL)
        log.append(b"x" * 3000)
        cursor = log.cursor(0)
        assert len(cursor.drain()) == 1
        dies(roll)
        log.c.segments_seen = log.control.segments_generation
        assert log.c.count == 1
        assert [offset for offset, _ in cursor.drain()] == [1]
        cursor.free()


def test_a_count_of_changes_that_goes_back_hides_no_segment(tmp_path: Path):
    """A bit of the shared word has flipped: every listing looks old."""

    def fill(log: Log, count: int) -> None:
        for _ in range(count):
            log.append(b"x" * 3000)

    with Store(tmp_path / "s") as store:
        log = store.log(**SMALL)
        fill(log, 20)
        assert len(log.read(0)) == 20
        assert log.control.segments_generation & 16
        log.control.segments_generation &= ~16
        dies(lambda: fill(Store(tmp_path / "s").log(**SMALL), 4))
        assert log.ends[1] == 24
        assert len(log.read(0)) == 24
