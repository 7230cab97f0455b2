"""mql_append: appends over rolls, all or nothing, and the repair of what a dead owner left."""

import os
import threading
from pathlib import Path
from typing import Any

import pytest
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
    values_of,
)
from support.share import Share

SMALL = {"segment_bytes": PAGE, "max_message_bytes": PAGE, "batch_bytes": PAGE}


def numbered(n: int, size: int = 300) -> bytes:
    return b"%d:" % n + b"." * (size - len(b"%d:" % n))


def bases(log: Log) -> list[int]:
    return sorted(int(name[:20]) for name in log.files() if name.endswith(".log"))


# -- appending ------------------------------------------------------------------------------------
def test_offsets_are_dense_and_values_come_back(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log()
        assert [log.append(b"a"), log.append(b"b", None, b""), log.append(b"c")] == [0, 1, 4]
        assert log.values() == [b"a", b"b", None, b"", b"c"]
        assert log.ends[:2] == (0, 5)


def test_appends_over_rolls_are_one_log(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log(**SMALL)
        assert [log.append(numbered(n)) for n in range(100)] == list(range(100))
        assert log.values() == [numbered(n) for n in range(100)]
        assert len(bases(log)) == 10
        assert log.control.segments_generation >= 9


def test_one_call_may_span_a_roll_and_stays_in_one_segment(tmp_path: Path):
    """Its batches become visible together, so the whole call goes into the next segment."""
    with Store(tmp_path / "s") as store:
        log = store.log(segment_bytes=2 * PAGE, batch_bytes=1000)
        log.append(*[numbered(n) for n in range(15)])
        first = log.append(*[numbered(n) for n in range(15, 30)])
        assert bases(log) == [0, first]
        assert log.values() == [numbered(n) for n in range(30)]


def test_batches_are_filled_up_to_their_bytes(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log(batch_bytes=1000)
        log.append(*[numbered(n, 100) for n in range(50)])
        sizes = [size for _, _, _, size, _ in headers_of(log.bytes()[: log.end[1]])]
        assert max(sizes) <= 1000
        assert len(sizes) == 7


def test_whole_batches_are_stamped_with_offset_and_epoch(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log()
        log.append(b"first")
        given = batch(77, b"a", b"b", epoch=9) + batch(0, b"c")
        offset = ffi.new("int64_t *")
        check(lib.mql_append_batches(log.c, given, len(given), 0, offset))
        assert offset[0] == 1
        assert log.read() == [(0, b"first"), (1, b"a"), (2, b"b"), (3, b"c")]


@pytest.mark.parametrize("cut", [1, 30, 61, 100])
def test_bytes_that_are_no_whole_batches_are_refused_and_nothing_is_appended(
    tmp_path: Path, cut: int
):
    with Store(tmp_path / "s") as store:
        log = store.log()
        log.append(b"first")
        given = batch(0, b"a" * 50) * 2
        given = given[: len(given) - cut]
        with pytest.raises(Failed) as failed:
            check(lib.mql_append_batches(log.c, given, len(given), 0, ffi.new("int64_t *")))
        assert failed.value.code == lib.MQL_E_ARGUMENT
        assert log.values() == [b"first"]


def test_a_record_over_the_limit_names_size_and_limit_and_appends_nothing(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log(max_message_bytes=1000)
        with pytest.raises(Failed) as failed:
            log.append(b"small", b"x" * 1000)
        assert failed.value.code == lib.MQL_E_TOO_LARGE
        assert failed.value.start > failed.value.stop == 1000
        assert log.ends[1] == 0


def test_a_call_over_a_segment_is_refused(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log(**SMALL)
        with pytest.raises(Failed) as failed:
            log.append(*[numbered(n) for n in range(20)])
        assert failed.value.code == lib.MQL_E_TOO_LARGE
        assert log.ends[1] == 0


def test_a_durable_append_is_durable_on_return(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log()
        log.append(b"a")
        assert log.ends == (0, 1, 0)
        log.append(b"b", flags=lib.MQL_DURABLE)
        assert log.ends == (0, 2, 2)


def test_every_append_to_a_sync_topic_is_durable(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log(durability=lib.MQL_DURABILITY_SYNC)
        log.append(b"a")
        assert log.ends == (0, 1, 1)


def test_an_append_that_must_not_wait_does_nothing_while_the_lock_is_held(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log()
        log.append(b"a")
        mutex = ffi.addressof(log.control.writer)
        take(mutex)
        keep: list[Any] = []
        given, offset = values_of([b"b"], keep), ffi.new("int64_t *", 77)
        rc = lib.mql_append_values(log.c, given, 1, NOW, lib.MQL_NOWAIT, offset)
        assert (rc, offset[0]) == (lib.MQL_BUSY, 77)
        lib.mql_os_mutex_drop(mutex)
        assert log.append(b"b", flags=lib.MQL_NOWAIT) == 1


def try_to_append(log: Log, value: bytes) -> int:
    """The result of the call, which must come soon: 50 ms, and what a busy machine adds."""
    keep: list[Any] = []
    given, results = values_of([value], keep), list[int]()

    def append() -> None:
        results.append(lib.mql_append_values(log.c, given, 1, NOW, 0, ffi.new("int64_t *")))

    thread = threading.Thread(target=append, daemon=True)
    thread.start()
    thread.join(10.0)
    assert results, "it does not come back"
    return results[0]


@pytest.mark.parametrize(
    "lock", ["writer", "prepare", "prepare for slots", "commit", "grow", "share"]
)
def test_an_append_that_waits_for_somebody_who_is_stopped_gives_up_after_a_slice(
    tmp_path: Path, lock: str
) -> None:
    """So that its caller can look for signals; it is made again then."""
    with Store(tmp_path / "s") as store:
        log = store.log()
        share = Share(log.c)
        log.append(b"a")
        log.control.slots_ready = 0  # so that share groups are looked at
        if lock == "commit":
            log.control.ceiling = 1
        value = b"b" * (1 if lock == "prepare for slots" else 100_000)  # is there room?
        mutexes = share.map if lock in ("grow", "share") else log.control
        mutex = ffi.addressof(mutexes, lock.split(maxsplit=1)[0])
        with standing_still(lambda: take(mutex)):
            assert try_to_append(log, value) == lib.MQL_TIMEOUT
            assert log.values() == [b"a"]
        assert log.append(value) == 1
        assert log.values() == [b"a", value]


def test_a_backlog_that_cannot_be_measured_now_is_not_a_full_one(tmp_path: Path) -> None:
    with Store(tmp_path / "s") as store:
        log = store.log()
        share = Share(log.c)
        log.append(b"a")
        size = ffi.new("int64_t *")
        check(lib.mql_share_backlog(share.c, size))
        lib.mql_share_bound(share.c, 0, 2 * size[0])
        assert [try_to_append(log, b"b") for _ in range(2)] == [lib.MQL_OK, lib.MQL_FULL]
        share.settle("accept", *share.acquire(2))
        with standing_still(lambda: take(ffi.addressof(share.map, "share"))):
            assert try_to_append(log, b"c") == lib.MQL_TIMEOUT
        assert try_to_append(log, b"c") == lib.MQL_OK


# -- an owner died --------------------------------------------------------------------------------
def epochs(log: Log) -> list[str]:
    return (log.directory / "leader-epoch-checkpoint").read_text().splitlines()[2:]


def die_with_dirty_bytes(log: Log, data: bytes, dirty: int) -> None:
    """A writer that stored `data` behind the end, `dirty` bytes announced, and died inside."""

    def work() -> None:
        take(ffi.addressof(log.control.writer))
        log.control.dirty = log.end[1] + dirty
        ffi.memmove(log.c.active.map + log.end[1], data, len(data))

    dies(work)


@pytest.mark.parametrize("part", ["nothing", "half a header", "a batch", "two batches and a half"])
def test_what_a_dead_writer_left_behind_the_end_is_zeroed_and_the_epoch_raised(
    tmp_path: Path, part: str
):
    with Store(tmp_path / "s") as store:
        log = store.log()
        log.append(b"a")
        log.append(b"b")
        end = log.end
        one, two = batch(2, b"never published"), batch(3, b"never either" * 20)
        data = {"nothing": b"", "half a header": one[:30], "a batch": one}.get(part, one + two[:99])
        die_with_dirty_bytes(log, data, 1000)
        assert log.end == end, "its bytes were never visible"
        assert log.append(b"c") == 2
        assert log.values() == [b"a", b"b", b"c"]
        assert log.control.epoch == 1
        assert epochs(log) == ["0 0", "1 2"]
        assert not any(log.bytes()[log.end[1] :])
        assert log.control.needs_repair == 0
    with Store(tmp_path / "s") as store:
        assert store.log().values() == [b"a", b"b", b"c"]


def test_what_is_wiped_in_a_repair_is_behind_both_slots_of_the_end(tmp_path: Path):
    """Whoever opens the store when all are dead takes the slot that is ahead."""
    with Store(tmp_path / "s") as store:
        log = store.log()
        log.append(b"a")

        data = batch(1, b"about to be published")
        ahead = ffi.new("mql_control_end *", (0, log.end[1] + len(data), 2))
        die_with_dirty_bytes(log, data, len(data))
        lib.mql_control_publish(ffi.addressof(log.control.published), ahead)
        log.control.published.generation -= 1
        out = ffi.new("mql_control_end *")
        for abandoned, end in ((True, 2), (False, 1)):
            assert lib.mql_control_trust(ffi.addressof(log.control.published), abandoned, out)
            assert out.offset == end
        check(lib.mql_append_settle(log.c))
        assert lib.mql_control_trust(ffi.addressof(log.control.published), True, out)
        assert out.offset == 1
        assert log.values() == [b"a"]


def test_what_a_dead_writer_left_does_not_come_back_after_a_reboot(tmp_path: Path):
    """The survivor's record is shorter than the dead one's batches, which lay behind it."""

    def work() -> None:
        store = Store(tmp_path / "s")
        log = store.log()
        log.append(b"a")
        stale = batch(1, b"s") + batch(2, b"stale") + batch(3, b"stale")
        die_with_dirty_bytes(log, stale, len(stale))
        assert log.append(b"s") == 1

    dies(work)
    reboot(tmp_path / "s")
    with Store(tmp_path / "s") as store:
        assert store.log().values() == [b"a", b"s"]


def test_a_writer_that_died_right_after_its_publish_has_appended(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log()
        log.append(b"a")

        def work() -> None:
            take(ffi.addressof(log.control.writer))
            segment, position, offset = log.end
            one = batch(offset, b"published")
            log.control.dirty = position + len(one)
            ffi.memmove(log.c.active.map + position, one, len(one))
            place = (segment, position + len(one), offset + 1)
            lib.mql_control_publish(
                ffi.addressof(log.control.published), ffi.new("mql_control_end *", place)
            )

        dies(work)
        assert log.append(b"b") == 2
        assert log.values() == [b"a", b"published", b"b"]
        assert log.control.epoch == 0, "nothing stood behind the end"


def roll_halfway(log: Log, *, publish: bool) -> int:
    """What a roll had done when its owner died: the rename, and perhaps the publish."""
    base = log.end[2]

    def work() -> None:
        take(ffi.addressof(log.control.writer))
        take(ffi.addressof(log.control.prepare))
        number = log.control.next_number
        (log.directory / f"next.{number}").rename(log.directory / log_file(base))
        if publish:
            place = ffi.new("mql_control_end *", (base, 0, base))
            lib.mql_control_publish(ffi.addressof(log.control.published), place)

    dies(work)
    return base


@pytest.mark.parametrize("publish", [False, True], ids=["renamed", "published"])
def test_a_roll_whose_owner_died_in_it_is_finished_by_the_next_writer(
    tmp_path: Path, publish: bool
):
    with Store(tmp_path / "s") as store:
        log = store.log(**SMALL)
        for n in range(9):
            log.append(numbered(n))
        check(lib.mql_room_next(log.c, PAGE))
        base = roll_halfway(log, publish=publish)
        assert log.append(numbered(9)) == base == 9
        assert log.end[0] == base
        for n in range(10, 40):
            log.append(numbered(n))
        assert log.values() == [numbered(n) for n in range(40)]
    with Store(tmp_path / "s") as store:
        log = store.log(**SMALL)
        assert log.values() == [numbered(n) for n in range(40)]
        assert not [name for name in log.files() if name.startswith("next.")]


@pytest.mark.parametrize("publish", [False, True], ids=["renamed", "published"])
def test_a_roll_whose_owner_died_with_nobody_else_alive_is_finished_by_the_next_opener(
    tmp_path: Path, publish: bool
):
    def work() -> None:
        log = Store(tmp_path / "s").log(**SMALL)
        for n in range(9):
            log.append(numbered(n))
        check(lib.mql_room_next(log.c, PAGE))
        roll_halfway(log, publish=publish)

    dies(work)
    with Store(tmp_path / "s") as store:
        log = store.log(**SMALL)
        assert log.values() == [numbered(n) for n in range(9)]
        assert [log.append(numbered(n)) for n in range(9, 20)] == list(range(9, 20))
        assert log.values() == [numbered(n) for n in range(20)]


def test_a_dead_owner_of_the_prepare_lock_holds_up_no_roll(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log(**SMALL)
        log.append(numbered(0))
        dies(lambda: take(ffi.addressof(log.control.prepare)))
        for n in range(1, 30):
            log.append(numbered(n))
        assert log.values() == [numbered(n) for n in range(30)]


def test_indexes_that_a_dead_writer_left_behind_are_made_again(tmp_path: Path):
    """It died after its publish, before it had noted the batch."""
    with Store(tmp_path / "s") as store:
        log = store.log()
        for n in range(30):
            log.append(numbered(n, 1500), timestamp=NOW + n)
        log.control.index_count = 3
        log.control.time_count = 1
        log.control.bytes_since_entry = 17
        dies(lambda: take(ffi.addressof(log.control.writer)))
        log.append(b"next", timestamp=NOW + 99)
        count = log.control.index_count
    with Store(tmp_path / "s") as store:
        log = store.log()
        offsets, time_index = kafkas_indexes(log.bytes(), 0)
        assert log.bytes(suffix=".index") == offsets
        assert log.bytes(suffix=".timeindex") == time_index
        assert count == len(offsets) // 8


def test_a_death_between_an_offset_entry_and_its_time_entry_loses_no_timestamp(tmp_path: Path):
    """The largest timestamp came with a batch before the one that got the entry."""
    with Store(tmp_path / "s") as store:
        log = store.log()
        for n, timestamp in enumerate([0, 1, 2, 3, 900, 4, 5]):
            log.append(numbered(n, 1300), timestamp=NOW + timestamp)
        assert (log.control.index_count, log.control.time_count) == (2, 2)
        log.control.time_count = 1
        ffi.memmove(log.c.active.tail.times.bytes + 12, bytes(12), 12)
        dies(lambda: take(ffi.addressof(log.control.writer)))
        for n in range(7, 20):
            log.append(numbered(n, 1300), timestamp=NOW + 10 + n)
        assert young(log, 800) == 4
    with Store(tmp_path / "s") as store:
        log = store.log()
        assert young(log, 800) == 4
        assert log.bytes(suffix=".timeindex") == kafkas_indexes(log.bytes(), 0)[1]


def young(log: Log, after: int) -> int:
    """The offset of the first batch that holds a record younger than that."""
    cursor, offset = log.cursor(), ffi.new("int64_t *")
    check(lib.mql_cursor_seek_time(cursor.c, NOW + after, offset))
    cursor.free()
    return offset[0]


def test_a_dead_writers_death_is_settled_by_the_last_close(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log()
        log.append(b"a")
        die_with_dirty_bytes(log, batch(1, b"never"), 500)
    data = (tmp_path / "s" / DIRECTORY / log_file(0)).read_bytes()
    assert data[:-1] and len(headers_of(data)) == 1
    with Store(tmp_path / "s") as store:
        assert store.log().values() == [b"a"]
        assert store.recovered == []


def test_a_repair_uses_the_index_that_the_dead_owner_has_written(tmp_path: Path):
    """And does not walk the log from where this process last knew of an entry."""
    with Store(tmp_path / "s") as store:
        log = store.log()
        log.append(b"first")
        assert log.c.active.tail.offsets.allocated == 0

        def work() -> None:
            peer = Store(tmp_path / "s").log()
            for n in range(50):
                peer.append(b"x" * 2000, timestamp=NOW + n)
            take(ffi.addressof(peer.control.writer))

        dies(work)
        count = log.control.index_count
        check(lib.mql_append_settle(log.c))
        assert log.c.active.tail.offsets.allocated == PAGE
        assert log.control.index_count == count > 10


def test_a_prepared_segment_that_has_two_names_is_used_once(tmp_path: Path):
    """Where renaming is a second name and the loss of the first, a roll may die in between."""
    with Store(tmp_path / "s") as store:
        log = store.log(**SMALL)
        log.append(b"x" * 3000)
        check(lib.mql_room_next(log.c, PAGE))
        prepared = log.directory / f"next.{log.control.next_number}"
        os.link(prepared, log.directory / log_file(1))
        dies(lambda: take(ffi.addressof(log.control.writer)))
        values = [bytes([n]) * 3000 for n in range(6)]
        assert [log.append(value) for value in values] == [1, 2, 3, 4, 5, 6]
        assert log.values() == [b"x" * 3000, *values]


def test_after_a_fork_a_child_opens_the_store_again(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log()
        log.append(b"parent")

        def work() -> None:
            with pytest.raises(Failed) as failed:
                log.append(b"refused")
            assert failed.value.code == lib.MQL_E_FORKED
            Store(tmp_path / "s").log().append(b"child")

        dies(work)
        log.append(b"parent again")
        assert log.values() == [b"parent", b"child", b"parent again"]
