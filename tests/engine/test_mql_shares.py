"""mql_shares: all share groups of a partition, whoever made them."""

import errno
import itertools
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fault import Failed, Log, Share, Store, check, dies, ffi, hooked, lib
from support.partition import flip, forge_end, reboot

SLOTS = lib.MQL_SHARE_SLOTS


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "s") as opened:
        yield opened


@pytest.fixture
def log(store: Store) -> Log:
    return store.log()


def offsets(found: list) -> list[int]:
    return [one.offset for one in found]


def full(call: int, path: str) -> int:
    return -errno.ENOSPC if call == lib.MQL_FAULT_ALLOCATE and "/shares/" in path else 0


# -- finding ---------------------------------------------------------------------------------------
def test_a_group_is_one_and_the_same_for_all_calls(log: Log) -> None:
    assert Share(log.c).c == Share(log.c, create=False).c
    assert Share(log.c, "other").c != Share(log.c).c


def test_a_group_that_is_not_there_is_not_found(log: Log) -> None:
    with pytest.raises(Failed) as failed:
        Share(log.c, create=False)
    assert failed.value.code == lib.MQL_E_NOT_FOUND
    assert "share group" in failed.value.text


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "x" * 246, "é"])
def test_a_name_that_is_none_is_refused(log: Log, name: str) -> None:
    with pytest.raises(Failed) as failed:
        Share(log.c, name)
    assert failed.value.code == lib.MQL_E_ARGUMENT


def test_the_longest_name_is_a_name(log: Log) -> None:
    share = Share(log.c, "x" * 245)
    log.append(b"v")
    assert offsets(share.acquire()) == [0]


def test_a_second_opener_s_start_does_not_count(log: Log) -> None:
    log.append(*[b"v"] * 10)
    Share(log.c, start=3)
    assert Share(log.c, start=7).info().first == 3
    assert Share(log.c, start=1000).info().first == 3


def test_a_group_on_a_full_disk_is_not_made_at_all(log: Log) -> None:
    log.append(*[b"v"] * 10)
    with hooked(full), pytest.raises(Failed) as failed:
        Share(log.c)
    assert failed.value.errno == errno.ENOSPC
    assert list((log.directory / "shares").iterdir()) == []
    log.append(b"v")
    assert len(Share(log.c).acquire(20)) == 11


def test_a_group_whose_backlog_has_no_space_is_not_made_at_all(log: Log) -> None:
    log.append(*[b"v"] * 5000)

    def hook(call: int, path: str) -> int:
        if call != lib.MQL_FAULT_ALLOCATE or not path.endswith(".state"):
            return 0
        return -errno.ENOSPC if os.stat(path).st_size > 0 else 0

    with hooked(hook), pytest.raises(Failed) as failed:
        Share(log.c)
    assert failed.value.errno == errno.ENOSPC
    assert list((log.directory / "shares").iterdir()) == []


def test_a_group_that_is_there_can_be_drained_on_a_full_disk(tmp_path: Path) -> None:
    with Store(tmp_path / "s") as store:
        log = store.log()
        Share(log.c)
        log.append(*[b"v"] * 5000)
    with Store(tmp_path / "s") as store:
        log = store.log()
        with hooked(full):
            share = Share(log.c, create=False)
            while found := share.acquire(1000):
                share.settle("accept", *found)
        assert share.info().first == 5000


# -- space -----------------------------------------------------------------------------------------
def test_an_append_provides_for_groups_that_others_have_made(tmp_path: Path, log: Log) -> None:
    log.append(*[b"v"] * 10)
    assert log.control.slots_ready == (1 << 63) - 1

    def other() -> None:
        theirs = Share(Store(tmp_path / "s").log().c)
        assert theirs.info().ready == 10

    dies(other)
    log.append(*[b"v"] * 3000)
    assert log.control.slots_ready >= 3010
    share = Share(log.c, create=False)
    with hooked(full):
        got = [one for _ in range(4) for one in share.acquire(1024)]
    assert len(got) == 3010


def test_a_group_whose_maker_died_before_he_told_is_provided_for(tmp_path: Path, log: Log) -> None:
    log.append(*[b"v"] * 10)

    def other() -> None:
        theirs = Share(Store(tmp_path / "s").log().c)
        theirs.map.announced = 0
        theirs.log.control.slots_ready = (1 << 63) - 1  # as it was before
        theirs.log.control.shares_generation -= 1

    dies(other)
    log.append(*[b"v"] * 5000)  # without slots in it: nobody told
    share = Share(log.c, create=False)
    assert log.control.slots_ready == 0
    assert share.map.clean >= 5010 // SLOTS
    log.append(*[b"v"] * 5000)
    with hooked(full):
        got = [one for _ in range(10) for one in share.acquire(1024)]
    assert len(got) == 10_010


@pytest.mark.parametrize("left", [b"", bytes(4096 * 3), b"someone else's file" * 300])
def test_a_file_that_is_no_group_keeps_nobody_from_putting(log: Log, left: bytes) -> None:
    (log.directory / "shares").mkdir()
    (log.directory / "shares" / "x.state").write_bytes(left)
    (log.directory / "shares" / ".state").write_bytes(left)
    (log.directory / "shares" / ("y" * 250)).write_bytes(left)
    assert log.append(b"v") == 0
    share = Share(log.c)
    assert log.append(*[b"v"] * 3000) == 1
    assert len(share.acquire(1024)) == 1024


def test_a_group_with_two_damaged_windows_keeps_nobody_from_putting(tmp_path: Path) -> None:
    with Store(tmp_path / "s") as store:
        log = store.log()
        path = Share(log.c, "broken").path
    path.write_bytes(flip(flip(path.read_bytes(), 0x88), 0x108))
    with Store(tmp_path / "s") as store:
        log = store.log()
        share = Share(log.c)
        log.append(*[b"v"] * 3000)
        assert len(share.acquire(1024)) == 1024
        assert lib.mql_shares_unfinished(log.c, 0, 10) < 0  # nothing is taken for finished


def test_two_groups_are_provided_for_alike(log: Log) -> None:
    one, other = Share(log.c), Share(log.c, "audit")
    log.append(*[b"v"] * 4000)
    with hooked(full):
        for share in (one, other):
            got = []
            while found := share.acquire(1000):
                got += offsets(found)
                share.settle("accept", *found)
            assert got == list(range(4000))


def test_what_some_group_has_not_finished_is_unfinished(log: Log) -> None:
    one, other = Share(log.c), Share(log.c, "audit", start=0)
    log.append(*[b"v"] * 10)
    one.settle("accept", *one.acquire(8))
    other.settle("accept", *other.acquire(3))
    assert lib.mql_shares_unfinished(log.c, 0, 10) == 3
    assert lib.mql_shares_unfinished(log.c, 0, 2) == 2
    check(lib.mql_share_delete(other.c))
    assert lib.mql_shares_unfinished(log.c, 0, 10) == 8


# -- used-up offsets -------------------------------------------------------------------------------
def after_a_power_cut(path: Path, count: int, held: int = 1) -> None:
    """A group, so many records that are durable, some of them held, and a boot without a close."""

    def work() -> None:
        log = Store(path).log()
        share = Share(log.c)
        for _ in range(count):
            log.append(b"v")
        log.sync()
        share.acquire(held)
        lib.mql_shares_sync(log.c)

    dies(work)
    reboot(path)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_group_with_used_up_offsets_opens_where_nothing_can_be_allocated(
    tmp_path: Path, code: int
) -> None:
    after_a_power_cut(tmp_path / "s", 10)
    with Store(tmp_path / "s") as store:
        log = store.log()
        log.append(b"new")

    def hook(call: int, path: str) -> int:
        return -code if call == lib.MQL_FAULT_ALLOCATE and "/shares/" in path else 0

    with Store(tmp_path / "s") as store, hooked(hook):
        assert len(Share(store.log().c, create=False).acquire(20)) == 11


@pytest.mark.parametrize("count", [1000, 1270, 1280])
def test_used_up_offsets_take_no_page_that_was_promised_to_a_record(
    tmp_path: Path, count: int
) -> None:
    after_a_power_cut(tmp_path / "s", count)

    def hook(call: int, path: str) -> int:
        return -errno.ENOSPC if call == lib.MQL_FAULT_ALLOCATE and "/shares/" in path else 0

    with Store(tmp_path / "s") as store, hooked(hook):
        share = Share(store.log().c, create=False)
        got = share.acquire(1000)
        assert len(got + share.acquire(count - 1000)) == count


@pytest.mark.parametrize("count", [256, 1024])
def test_a_batch_whose_count_was_flipped_to_0_is_not_taken_for_used_up_offsets(
    tmp_path: Path, count: int
) -> None:
    with Store(tmp_path / "s") as store:
        log = store.log()
        log.append(*[b"v"] * count)
        log.append(b"w")
        [path] = log.directory.glob("*.log")
        log.sync()
    data = bytearray(path.read_bytes())
    assert struct.unpack_from(">i", data, 57)[0] == count
    struct.pack_into(">i", data, 57, 0)
    path.write_bytes(data)
    with Store(tmp_path / "s") as store:
        share = Share(store.log().c)
        assert [one.offset for one in share.acquire(3)] == [0, 1, 2]
        assert share.info().ends[lib.MQL_GONE] == 0


# -- delays ----------------------------------------------------------------------------------------
def test_a_delayed_record_is_delayed_in_every_group(log: Log) -> None:
    one, other = Share(log.c), Share(log.c, "audit")
    assert lib.mql_share_make_room(log.c) == 0
    offset = log.append(b"v")
    assert lib.mql_share_delay(log.c, offset, 1 << 46) == 0
    assert one.acquire() == other.acquire() == []
    assert (one.info().delayed, other.info().delayed) == (1, 1)


@pytest.mark.parametrize("due", [-(1 << 62), -1, 0, 1])
def test_a_delay_that_is_over_is_none(log: Log, due: int) -> None:
    share = Share(log.c)
    offset = log.append(b"v")
    assert lib.mql_share_delay(log.c, offset, due) == 0
    assert offsets(share.acquire()) == [offset]


def test_a_delay_far_ahead_of_what_was_acquired_has_its_page(log: Log) -> None:
    share = Share(log.c)
    log.append(*[b"v"] * 3000)
    for offset in (2999, 1500, 0):
        assert lib.mql_share_delay(log.c, offset, 1 << 46) == 0
    assert lib.mql_share_delay(log.c, 1500, 5) == 0  # once is enough
    assert share.info().delayed == 3
    assert len(offsets(share.acquire(1024))) == 1024
    before = share.derived()
    share.rebuild()
    assert share.derived() == before


def test_a_group_that_was_made_between_a_put_and_its_delay_begins_behind_it(log: Log) -> None:
    """Its chunk has a page by then, of which that offset is no part."""
    offset = log.append(b"delayed")
    share = Share(log.c, start=1)
    log.append(*[b"v"] * (SLOTS - 1))
    held = share.acquire(SLOTS)
    assert len(held) == SLOTS - 1
    share.settle("accept", *held[:10])
    assert lib.mql_share_delay(log.c, offset, 1) == 0
    assert share.acquire() == []
    assert set(share.settle("accept", *held[10:])) == {lib.MQL_OK}
    info = share.info()
    assert (info.ready, info.acquired, info.ends[lib.MQL_ACCEPTED]) == (0, 0, SLOTS - 1)


def test_chunks_that_were_delayed_and_are_final_are_not_skipped_twice(log: Log) -> None:
    share = Share(log.c)
    log.append(*[b"v"] * 6 * SLOTS)
    first = share.acquire()[0]
    for offset in range(2 * SLOTS, 3 * SLOTS):
        assert lib.mql_share_make_room(log.c) == 0
        assert lib.mql_share_delay(log.c, offset, 1) == 0
    share.settle("accept", *share.acquire(SLOTS))
    assert lib.mql_share_skip(share.c, first.offset, first.token, 5 * SLOTS) == 0
    info = share.info()
    assert info.ends[lib.MQL_ACCEPTED] == SLOTS
    assert info.ends[lib.MQL_GONE] == 4 * SLOTS
    assert (info.ready, info.first) == (SLOTS, 5 * SLOTS)
    before = share.derived()
    share.rebuild()
    assert share.derived() == before


# -- bounds ----------------------------------------------------------------------------------------
def test_a_deleted_group_bounds_nobody(tmp_path: Path, log: Log) -> None:
    share = Share(log.c)
    lib.mql_share_bound(share.c, 2, 0)
    log.append(b"a", b"b")
    offset, value = ffi.new("int64_t *"), ffi.new("mql_record *")
    assert lib.mql_append(log.c, value, 0, offset) == lib.MQL_FULL

    def other() -> None:
        assert lib.mql_share_delete(Share(Store(tmp_path / "s").log().c).c) == 0

    dies(other)
    assert lib.mql_append(log.c, value, 0, offset) == 0
    assert lib.mql_share_wait_room(log.c, 1, 0, 0) == 0


# -- deleting --------------------------------------------------------------------------------------
def files(log: Log) -> list[str]:
    return sorted(path.name for path in (log.directory / "shares").iterdir())


def test_a_deleted_group_is_gone_for_every_process(tmp_path: Path, log: Log) -> None:
    share = Share(log.c)
    log.append(b"a", b"b")
    share.settle("accept", *share.acquire())

    def other() -> None:
        theirs = Store(tmp_path / "s").log()
        check(lib.mql_share_delete(Share(theirs.c).c))
        again = Share(theirs.c)
        assert offsets(again.acquire(5)) == [0, 1]

    dies(other)
    for call in (share.acquire, share.info, lambda: share.peek(1)):
        with pytest.raises(Failed) as failed:
            call()
        assert failed.value.code == lib.MQL_E_NOT_FOUND
    assert Share(log.c, create=False).info().acquired == 2


@pytest.mark.parametrize("done", ["nothing", "state"])
@pytest.mark.parametrize("create", [True, False])
def test_a_name_whose_deleter_died_can_be_had_again(
    tmp_path: Path, log: Log, done: str, create: bool
) -> None:
    log.append(b"a", b"b")

    def deleter() -> None:
        theirs = Share(Store(tmp_path / "s").log().c)
        theirs.settle("accept", *theirs.acquire())
        theirs.map.removed = 1
        if done == "state":
            theirs.path.unlink()

    dies(deleter)
    if create:
        assert offsets(Share(log.c).acquire(5)) == [0, 1]
        assert files(log) == ["default.live", "default.state"]
        return
    with pytest.raises(Failed) as failed:
        Share(log.c, create=False)
    assert failed.value.code == lib.MQL_E_NOT_FOUND
    log.append(*[b"v"] * 1000)
    assert "default.state" not in files(log)


def test_a_process_that_has_the_deleted_group_open_does_not_touch_the_new_one(
    tmp_path: Path, log: Log
) -> None:
    """The files have the same names; another process grows what it believes to be its own."""
    old = Share(log.c)
    log.append(b"a")
    check(lib.mql_share_delete(old.c))
    new = Share(log.c)
    assert new.c != old.c
    before = new.path.read_bytes(), new.path.with_suffix(".live").read_bytes()
    assert lib.mql_reserve_until(old.live, 1 << 20, ffi.new("int64_t *")) == lib.MQL_E_NOT_FOUND
    assert lib.mql_reserve_timers(old.live, 0, 1 << 12) == lib.MQL_E_NOT_FOUND
    lib.mql_live_end(old.live)
    assert lib.mql_reserve_sync(old.live, old.map.changes) == lib.MQL_E_NOT_FOUND
    assert (new.path.read_bytes(), new.path.with_suffix(".live").read_bytes()) == before


# -- keeping and closing ---------------------------------------------------------------------------
def test_closing_puts_everything_on_stable_storage(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    log = store.log()
    share = Share(log.c)
    log.append(*[b"v"] * 6000)
    while found := share.acquire(1024):
        share.settle("accept", *found)
    assert share.map.retired > 16
    synced = []

    def hook(call: int, path: str) -> int:
        if call == lib.MQL_FAULT_SYNC:
            synced.append(path)
        return 0

    with hooked(hook):
        store.close()
    assert str(share_path := tmp_path / "s" / "t-0" / "shares" / "default.state") in synced
    assert share_path.exists()
    store.free()


def test_closing_tells_that_it_could_not(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    log = store.log()
    share = Share(log.c)
    log.append(b"v")
    share.settle("accept", *share.acquire())

    def hook(call: int, path: str) -> int:
        return -errno.EIO if call == lib.MQL_FAULT_SYNC and path.endswith(".state") else 0

    with hooked(hook), pytest.raises(Failed) as failed:
        store.close()
    assert failed.value.code == lib.MQL_E_DURABILITY
    store.free()


def test_who_closes_gives_back_what_he_holds(tmp_path: Path, log: Log) -> None:
    share = Share(log.c)
    log.append(*[b"v"] * 100)

    def other() -> None:
        theirs = Store(tmp_path / "s")
        assert len(Share(theirs.log().c).acquire(60)) == 60
        theirs.close()

    dies(other)
    info = share.info()
    assert (info.acquired, info.ready) == (0, 100)


def test_the_sync_thread_keeps_the_state_small(log: Log, store: Store) -> None:
    share = Share(log.c)
    for _ in range(8):
        log.append(*[b"v"] * 10_000)
        while found := share.acquire(1024):
            share.settle("accept", *found)
        check(lib.mql_keeper_sync(store.c))
    assert share.map.retired < 16
    assert share.info().bytes < 1 << 20
    assert share.map.synced == share.map.changes


def test_one_delayed_record_holds_nothing_back(log: Log, store: Store) -> None:
    share = Share(log.c)
    log.append(b"later")
    check(lib.mql_share_delay(log.c, 0, 1 << 46))
    for _ in range(8):
        log.append(*[b"v"] * 10_000)
        while found := share.acquire(1024):
            share.settle("accept", *found)
        check(lib.mql_keeper_sync(store.c))
    info = share.info()
    assert (info.first, info.delayed) == (0, 1)
    assert info.ends[lib.MQL_ACCEPTED] == 80_000
    assert info.bytes < 1 << 20
    before = share.derived()
    share.rebuild()
    assert share.derived() == before


@pytest.mark.parametrize("in_order", [True, False])
def test_used_up_offsets_are_passed_over_also_where_a_done_page_is(
    tmp_path: Path, *, in_order: bool
) -> None:
    def work() -> None:
        log = Store(tmp_path / "s").log()
        share = Share(log.c)
        log.append(*[b"v"] * 1000)
        log.sync()
        held = share.acquire(1000)
        if not in_order:
            share.settle("accept", *held[SLOTS : 2 * SLOTS])
            held[SLOTS : 2 * SLOTS] = []
        share.settle("accept", *held)
        check(lib.mql_share_sync(share.c))

    dies(work)
    reboot(tmp_path / "s")
    with Store(tmp_path / "s") as store:
        log = store.log()
        assert log.ends[1] > 1_000_000
        share = Share(log.c)
        assert share.map.end == log.ends[1]
        assert share.info().ends[lib.MQL_GONE] == log.ends[1] - 1000
        assert share.map.pages < 16


def test_nobody_waits_while_offsets_without_records_are_passed_over(tmp_path: Path) -> None:
    """A thousand done words under one holding of the lock; who skips goes on from there."""
    far, at_once = 40_000_000, 1024 * lib.MQL_SHARE_WORD_BITS * lib.MQL_SHARE_SLOTS

    def work() -> None:
        log = Store(tmp_path / "s").log()
        share = Share(log.c)
        log.append(*[b"v"] * 300)
        check(lib.mql_reserve_pages(share.live, 40))
        log.sync()

    dies(work)
    forge_end(tmp_path / "s", 1 << 30, far)
    reboot(tmp_path / "s")
    with Store(tmp_path / "s") as store:
        share = Share(store.log().c)
        passed = [share.info().ends[lib.MQL_GONE]]
        assert len(share.acquire(300)) == 300
        while found := share.acquire(1):
            assert lib.mql_share_skip(share.c, found[0].offset, found[0].token, far) == 0
            passed.append(share.info().ends[lib.MQL_GONE])
        assert passed[-1] == far - 300
        steps = [after - before for before, after in itertools.pairwise([0, *passed])]
        assert max(steps) <= at_once + lib.MQL_SHARE_SLOTS
        assert len(steps) == 5 and steps[0] == 0  # opening it passes over none
        before = share.derived()
        share.rebuild()
        assert share.derived() == before


@pytest.mark.parametrize("finished", [0, 100, 300])
def test_any_number_of_offsets_without_records_costs_no_time(tmp_path: Path, finished: int) -> None:
    """Damage may claim more of them than there could ever be pages for."""
    far = 1 << 53

    def work() -> None:
        log = Store(tmp_path / "s").log()
        share = Share(log.c)
        log.append(*[b"v"] * 300)
        assert share.settle("accept", *share.acquire(finished)) == [0] * finished
        log.sync()

    dies(work)
    forge_end(tmp_path / "s", 1 << 30, far)
    reboot(tmp_path / "s")
    begin = time.monotonic()
    with Store(tmp_path / "s") as store:
        log = store.log()
        share = Share(log.c)
        assert log.end[2] == far
        assert offsets(share.acquire(300 - finished)) == list(range(finished, 300))
        [one] = share.acquire(1)
        assert lib.mql_share_skip(share.c, one.offset, one.token, far) == 0
        if finished == 300:  # else there are no pages for the slots of all that lies between
            assert log.append(b"new") == far
            assert offsets(share.acquire(2)) == [far]
            assert share.info().ends[lib.MQL_GONE] == far - 300
            before = share.derived()
            share.rebuild()
            assert share.derived() == before
    assert time.monotonic() - begin < 5.0
