"""The disk is full, or a quota is, where little is written: the leader epochs, a group's memory.

Each time the call says so by the system's own error, nothing of it is seen, reading and consuming
go on, and when there is space the same handles go on too.
"""

import errno
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import partition
from support.disk import fill, tmpfs
from support.fault import Failed, Log, Share, Store, check, dies, faulty, ffi, hooked, lib

import mqlog

CODES = pytest.mark.parametrize(
    "code", [errno.ENOSPC, errno.EDQUOT], ids=["disk full", "quota full"]
)
SMALL = {"segment_bytes": 1 << 16, "max_message_bytes": 4096, "batch_bytes": 4096}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "s") as opened:
        yield opened


def refuses(code: int, call: str, *ends: str) -> Callable[[int, str], int]:
    """A hook: such calls, for files of such names, find no space."""
    wanted = getattr(lib, f"MQL_FAULT_{call}")
    return lambda call, path: -code if call == wanted and path.endswith(ends) else 0


def refused(work: Callable[[], object], code: int) -> None:
    with pytest.raises(Failed) as failed:
        work()
    assert (failed.value.code, failed.value.errno) == (lib.MQL_E_OS, code)


def is_sound(log: Log) -> bool:
    report = ffi.new("mql_verify_report *")
    check(lib.mql_verify(log.c, ffi.NULL, ffi.NULL, ffi.NULL, report))
    return report.problems == 0


# -- the log ---------------------------------------------------------------------------------------
@CODES
def test_room_for_what_is_appended_is_taken_where_there_is_none_for_more(
    store: Store, code: int
) -> None:
    """A generous step finds no space, a smaller one does."""
    log = store.log(segment_bytes=1 << 22)
    log.append(b"x" * 100_000)
    asked = []

    def hook(call: int, path: str) -> int:
        if call != lib.MQL_FAULT_ALLOCATE or not path.endswith(".log"):
            return 0
        asked.append(path)
        return -code if len(asked) % 2 else 0

    with hooked(hook):
        assert [log.append(b"x" * 100_000) for _ in range(10)] == list(range(1, 11))
    assert len(asked) > 4
    assert len(log.read(0)) == 11


# -- the leader epochs -----------------------------------------------------------------------------
def epochs(log: Log) -> list[str]:
    return (log.directory / "leader-epoch-checkpoint").read_text().splitlines()[2:]


def die_in_an_append(log: Any, door: Any = faulty) -> None:
    """A writer that had stored a batch behind the end, and died before it was published."""
    never = partition.batch(log.end[2], b"never published")
    assert door.lib.mql_os_mutex_try(door.ffi.addressof(log.control.writer)) == 0
    log.control.dirty = log.end[1] + len(never)
    door.ffi.memmove(log.c.active.map + log.end[1], never, len(never))


@CODES
@pytest.mark.parametrize(
    ("call", "file"),
    [
        ("WRITE", "leader-epoch-checkpoint.tmp"),
        ("SYNC", "leader-epoch-checkpoint.tmp"),
        ("RENAME", ""),
        ("SYNC_DIRECTORY", "t-0"),
    ],
)
def test_the_next_epoch_finds_no_space(store: Store, code: int, call: str, file: str) -> None:
    log = store.log()
    share = Share(log.c)
    log.append(b"a")
    log.append(b"b")
    assert share.settle("release", *share.acquire(1)) == [0]  # what is synced once, is
    dies(lambda: die_in_an_append(log))
    with hooked(refuses(code, call, file)):
        for _ in range(3):
            refused(lambda: log.append(b"c"), code)
        assert log.values() == [b"a", b"b"]
        items = share.acquire(5)
        assert [item.offset for item in items] == [0, 1]
        assert share.settle("accept", *items) == [0, 0]
        assert log.ends[1] == 2
    assert log.append(b"c") == 2
    assert log.values() == [b"a", b"b", b"c"]
    assert epochs(log) == ["0 0", "1 2"] and log.control.epoch == 1
    assert [item.offset for item in share.acquire(5)] == [2]
    assert is_sound(log)


@CODES
@pytest.mark.parametrize("died", [False, True], ids=["a new log", "one whose writer died"])
def test_a_log_that_is_opened_finds_no_space_for_its_epochs(
    tmp_path: Path, code: int, *, died: bool
) -> None:
    def work() -> None:
        log = Store(tmp_path / "s").log()
        log.append(b"a")
        log.append(b"b")
        die_in_an_append(log)

    if died:
        dies(work)
    with Store(tmp_path / "s") as store:
        with hooked(refuses(code, "WRITE", "leader-epoch-checkpoint.tmp")):
            for _ in range(3):
                refused(store.log, code)
        log = store.log()
        kept = [b"a", b"b"] if died else []
        assert log.values() == kept
        assert log.append(b"c") == len(kept)
        assert log.values() == [*kept, b"c"]
        start = len(kept)  # a new log whose maker failed begins with whatever epoch
        assert epochs(log)[-1] == f"{log.control.epoch} {start}"
        assert is_sound(log)


# -- a group's memory: its .live file --------------------------------------------------------------
@CODES
def test_a_group_that_finds_no_space_for_its_memory_is_not_made(store: Store, code: int) -> None:
    log = store.log()
    log.append(*[b"v"] * 10)
    with hooked(refuses(code, "ALLOCATE", ".live")):
        for _ in range(3):
            refused(lambda: Share(log.c), code)
        assert len(log.values()) == 10
        log.append(b"v")
    assert len(Share(log.c).acquire(20)) == 11


@CODES
def test_a_record_that_finds_no_space_in_a_group_s_memory_is_not_put(
    store: Store, code: int
) -> None:
    """What is told of pages grows with what is unfinished."""
    log = store.log(segment_bytes=1 << 24)
    share = Share(log.c)
    log.append(b"v")
    with hooked(refuses(code, "ALLOCATE", ".live")):
        with pytest.raises(Failed) as failed:
            for _ in range(1000):
                log.append(*[b"v"] * 1000)
        assert (failed.value.code, failed.value.errno) == (lib.MQL_E_OS, code)
        end = log.ends[1]
        refused(lambda: log.append(*[b"v"] * 100_000), code)
        assert log.ends[1] == end and len(log.values()) == end
        assert share.waiting() == end
        for _ in range(5):
            assert share.settle("accept", *share.acquire(100)) == [0] * 100
    log.append(*[b"v"] * 100_000)
    done = 500
    while items := share.acquire(10_000, lock_ms=-1):
        assert set(share.settle("accept", *items)) == {0}
        done += len(items)
    assert done == end + 100_000 == share.info().first


@CODES
@pytest.mark.parametrize("how", ["deadlines", "delays"])
def test_times_that_find_no_space_in_a_group_s_memory_hold(
    store: Store, code: int, how: str
) -> None:
    """Its heaps are too small: what does not fit is found by looking."""
    log = store.log(segment_bytes=1 << 24)
    share = Share(log.c)
    log.append(*[b"v"] * 1000)
    late = lib.mql_os_wall_ms() + 3_600_000
    with hooked(refuses(code, "ALLOCATE", ".live")):
        if how == "deadlines":
            held = share.acquire(1000, lock_ms=1)
        else:
            held = share.acquire(1000, lock_ms=3_600_000)
            assert share.settle("release", *held[:500], when=late) == [0] * 500
            assert share.settle("release", *held[500:], when=1) == [0] * 500
        assert len(held) == 1000
        again: dict[int, int] = {}
        wanted = range(1000) if how == "deadlines" else range(500, 1000)
        while len(again) < len(wanted):  # a deadline may not have passed yet
            for item in share.acquire(1000, lock_ms=3_600_000):
                again[item.offset] = item.deliveries
        assert sorted(again) == list(wanted) and set(again.values()) == {2}
        assert share.acquire(10) == []
    log.append(b"v")
    assert [item.offset for item in share.acquire(10)] == [1000]


# -- a real disk -----------------------------------------------------------------------------------
@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with tmpfs(tmp_path / "disk") as path:
        yield path


@pytest.mark.slow
@pytest.mark.parametrize("survivor", [True, False], ids=["with a survivor", "all dead"])
def test_on_a_full_disk_a_dead_writer_is_repaired_when_there_is_space(
    disk: Path, *, survivor: bool
) -> None:
    def work() -> None:
        log = partition.Store(disk / "s").log("orders")
        log.append(b"b")
        die_in_an_append(log, partition.door)

    with mqlog.open(disk / "s", min_free_bytes=0) as store:
        orders = store.queue("orders")
        orders.put(b"a")
        if survivor:
            partition.dies(work)
            ballast = fill(disk)
            for _ in range(3):
                refused_by_the_disk(lambda: orders.put(b"c"))
                assert [one.value for one in orders.peek(5)] == [b"a", b"b"]
            with mqlog.open(disk / "s", "r") as view:
                assert list(view.stream("orders").values()) == [b"a", b"b"]
            with orders.get(timeout=0) as message:
                assert message.value == b"a"
            ballast.unlink()
            orders.put(b"c")
            assert [one.value for one in orders.peek(5)] == [b"b", b"c"]
    if not survivor:
        partition.dies(work)
        ballast = fill(disk)
        with mqlog.open(disk / "s", "r") as view:
            assert list(view.stream("orders").values()) == [b"a", b"b"]
        with mqlog.open(disk / "s", min_free_bytes=0) as store:
            refused_by_the_disk(lambda: store.queue("orders").put(b"c"))
            ballast.unlink()
            store.queue("orders").put(b"c")
            assert [one.value for one in store.queue("orders").peek(5)] == [b"a", b"b", b"c"]
    assert (disk / "s" / "orders-0" / "leader-epoch-checkpoint").read_text() == "0\n2\n0 0\n1 2\n"


def refused_by_the_disk(work: Callable[[], object]) -> None:
    with pytest.raises(OSError) as caught:
        work()
    assert caught.value.errno == errno.ENOSPC and not isinstance(caught.value, mqlog.Error)


@pytest.mark.slow
def test_on_a_full_disk_a_group_s_memory_is_made_and_grows_when_there_is_space(disk: Path) -> None:
    with mqlog.open(disk / "s", min_free_bytes=0) as store:
        jobs = store.queue("jobs", retry_delays=(0.0,))
        jobs.put_many([b"%d" % number for number in range(2000)])
        ballast = fill(disk)
        size = (disk / "s" / "jobs-0" / "shares" / "default.live").stat().st_size
        assert size < 2000 * 16, "its heaps have no room for all"
        refused_by_the_disk(lambda: store.queue("jobs", group="late"))
        held = jobs.get_many(2000)
        assert len(held) == 2000
        jobs.release(held, delay=0.001)
        done = 0
        while done < 2000:
            messages = jobs.get_many(500, timeout=30.0)
            jobs.accept(messages)
            done += len(messages)
        stats = jobs.stats()
        assert (stats.accepted, stats.ready, stats.delayed, stats.dead) == (2000, 0, 0, 0)
        ballast.unlink()
        late = store.queue("jobs", group="late")
        late.accept(late.get_many(3000))
        assert late.stats().accepted == 2000
        jobs.put_many([b"%d" % number for number in range(2000)], delay=0.001)
        jobs.accept(jobs.get_many(2000, timeout=30.0))
        assert jobs.stats().accepted > 2000
