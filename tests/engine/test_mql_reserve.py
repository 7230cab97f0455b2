"""mql_reserve: pages ahead of the records, pages again, and what is on stable storage."""

import errno
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import share_file
from support.fault import Failed, Log, Share, Store, check, dies, ffi, hooked, lib

SLOTS = lib.MQL_SHARE_SLOTS


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "s") as opened:
        yield opened


@pytest.fixture
def log(store: Store) -> Log:
    return store.log(segment_bytes=1 << 24)


def put_many(log: Log, count: int) -> None:
    for at in range(0, count, 10_000):
        log.append(*[b""] * min(10_000, count - at))


def reserve(share: Share, offset: int) -> int:
    until = ffi.new("int64_t *")
    check(lib.mql_reserve_until(share.live, offset, until))
    return int(until[0])


def spare(share: Share) -> int:
    return int(share.map.clean + share.map.retired)


def full(call: int, path: str) -> int:
    """A disk that has no block left for share groups."""
    return -errno.ENOSPC if call == lib.MQL_FAULT_ALLOCATE and "/shares/" in path else 0


# -- pages ahead -----------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(4))
def test_what_was_promised_can_be_acquired_and_settled_on_a_full_disk(log: Log, seed: int) -> None:
    share, chance = Share(log.c), random.Random(seed)
    for _ in range(6):
        log.append(*[b""] * chance.choice([1, 7, 255, 256, 257, 3000]))
        until = reserve(share, log.ends[1] + chance.choice([0, 1, 600]))
        assert until >= log.ends[1]
        log.append(*[b""] * (until - log.ends[1]))
        with hooked(full):
            held = []
            while len(held) < 5000 and (found := share.acquire(chance.choice([1, 50, 1000]))):
                held += found
            chance.shuffle(held)
            for one in held[: len(held) * 2 // 3]:
                assert share.settle("accept", one) == [0]
            for one in held[len(held) * 2 // 3 :]:
                assert share.settle("release", one) == [0]
    with hooked(full):
        while found := share.acquire(1000):
            share.settle("accept", *found)
    assert share.info().ends[lib.MQL_ACCEPTED] == log.ends[1]


def test_a_full_disk_is_the_putters_trouble(log: Log) -> None:
    share = Share(log.c)
    log.append(*[b"v"] * 100)
    before = share.derived()
    with hooked(full), pytest.raises(Failed) as failed:
        while True:
            log.append(*[b"v"] * 1000)
    assert failed.value.errno == errno.ENOSPC
    end = log.ends[1]
    assert share.derived()["unavailable"] == before["unavailable"]
    with hooked(full):
        while found := share.acquire(1000):
            share.settle("accept", *found)
    assert share.info().first == end
    log.append(*[b"v"] * 5000)  # there is space again


def test_there_is_no_more_room_than_is_promised(log: Log) -> None:
    """A page too few is found by arithmetic: all that a promise may need, for many sizes."""
    share = Share(log.c)
    for offset in [1, 255, 256, 257, 512, 513, 5000, 20_000]:
        until = reserve(share, offset)
        chunks = -(-until // SLOTS)
        assert spare(share) >= (1 if chunks == 1 else chunks + 1 + chunks // 24_576)


@pytest.mark.parametrize("fails", range(8))
def test_whatever_allocation_fails_nothing_has_changed(log: Log, fails: int) -> None:
    share = Share(log.c)
    put_many(log, 300)
    share.acquire(100)
    before, left = share.derived(), [fails]

    def hook(call: int, path: str) -> int:
        if call not in (lib.MQL_FAULT_ALLOCATE, lib.MQL_FAULT_MAP):
            return 0
        left[0] -= 1
        return -errno.ENOSPC if left[0] < 0 else 0

    with hooked(hook):
        rc = lib.mql_reserve_until(share.live, 400_000, ffi.new("int64_t *"))
    assert rc == lib.MQL_E_OS or fails > 5
    assert share.derived()["unavailable"] == before["unavailable"]
    share.rebuild()
    reserve(share, 400_000)
    put_many(log, 399_700)
    assert len(share.acquire(1024)) == 1024


# -- pages again -----------------------------------------------------------------------------------
def finished(share: Share, log: Log, chunks: int) -> None:
    put_many(log, chunks * SLOTS + 1)
    while found := share.acquire(1024):
        share.settle("accept", *found)


def test_a_page_serves_again_only_after_two_syncs(log: Log) -> None:
    share = Share(log.c)
    finished(share, log, 20)
    seen: list[tuple[bool, bool]] = []

    def hook(call: int, path: str) -> int:
        if call == lib.MQL_FAULT_SYNC and path.endswith(".state"):
            data = share.path.read_bytes()
            names = [page for page in range(20) if share_file_name(data, page)]
            wiped = [not any(data[share_file.position(p) :][: share_file.PAGE]) for p in names]
            seen.append((len(names) > 18, sum(wiped) > 18))
        return 0

    with hooked(hook):
        share.recycle()
    assert seen == [(True, False), (True, True)]
    assert share.map.retired == 0


def share_file_name(data: bytes, page: int) -> int:
    return int.from_bytes(data[share_file.position_of_name(page) :][:8], "little")


@pytest.mark.parametrize("which", [1, 2])
def test_a_page_stays_retired_when_a_sync_fails(log: Log, which: int) -> None:
    share = Share(log.c)
    finished(share, log, 20)
    retired, before, left = share.map.retired, share.derived(), [which]

    def hook(call: int, path: str) -> int:
        left[0] -= call == lib.MQL_FAULT_SYNC
        return -errno.EIO if call == lib.MQL_FAULT_SYNC and left[0] == 0 else 0

    with hooked(hook):
        assert lib.mql_reserve_recycle(share.live) == lib.MQL_E_OS
    assert share.map.retired == retired > 18
    assert share.derived() == before
    share.rebuild()
    assert share.derived() == before
    share.recycle()
    assert share.map.retired == 0


def test_everything_is_written_anew_after_a_sync_that_failed(log: Log) -> None:
    share = Share(log.c)
    log.append(*[b"v"] * 10)
    items = share.acquire(10)

    def failing(call: int, path: str) -> int:
        return -errno.EIO if call == lib.MQL_FAULT_SYNC else 0

    with hooked(failing), pytest.raises(Failed) as failed:
        share.settle("accept", items[0], flags=lib.MQL_DURABLE)
    assert failed.value.code == lib.MQL_E_DURABILITY
    assert failed.value.errno == errno.EIO
    assert share.map.unsure == 1
    assert share.settle("accept", items[1], flags=lib.MQL_DURABLE) == [0]
    assert share.map.unsure == 0
    assert share.info().ends[lib.MQL_ACCEPTED] == 2


def test_who_dies_in_a_sync_may_have_been_told_that_it_failed(tmp_path: Path, log: Log) -> None:
    share = Share(log.c)
    log.append(*[b"v"] * 10)
    items = share.acquire(10)

    def die() -> None:
        theirs = Share(Store(tmp_path / "s").log(segment_bytes=1 << 24).c)
        assert lib.mql_os_mutex_try(ffi.addressof(theirs.map.sync)) == 0

    dies(die)
    seen = []

    def hook(call: int, path: str) -> int:
        seen.append(share.map.unsure) if call == lib.MQL_FAULT_SYNC else None
        return 0

    with hooked(hook):
        share.settle("accept", items[0], flags=lib.MQL_DURABLE)
    assert seen == [1]
    assert share.map.unsure == 0


def test_pages_are_not_lost_when_everything_is_derived_anew_meanwhile(log: Log) -> None:
    share = Share(log.c)
    finished(share, log, 20)
    pages, before = share.map.pages, share.derived()

    def hook(call: int, path: str) -> int:
        if call == lib.MQL_FAULT_SYNC:
            share.rebuild()
        return 0

    with hooked(hook):
        share.recycle()
    named = share_file.read(share.path.read_bytes())
    assert spare(share) + len(named.chunks) + bool(named.done) >= pages - 1
    assert share.derived() == before
    share.recycle()
    assert share.map.retired == 0


def test_what_is_finished_meanwhile_is_not_wiped_before_it_is_safe(log: Log) -> None:
    """A page that retires between the first sync and the wiping is not among those wiped."""
    share = Share(log.c)
    put_many(log, 20 * SLOTS)
    held = [one for _ in range(5) for one in share.acquire(1024)]
    share.settle("accept", *held[SLOTS : 2 * SLOTS])
    share.settle("accept", *held[3 * SLOTS : 4 * SLOTS])
    syncs = [0]

    def hook(call: int, path: str) -> int:
        syncs[0] += call == lib.MQL_FAULT_SYNC
        if call == lib.MQL_FAULT_SYNC and syncs[0] == 1:
            share.settle("accept", *held[6 * SLOTS : 7 * SLOTS])
            share.rebuild()  # relinks the list of retired pages
        elif call == lib.MQL_FAULT_SYNC and syncs[0] == 2:
            state = share_file.read(share.path.read_bytes())
            assert all(state.slot(offset).final for offset in range(6 * SLOTS, 7 * SLOTS))
        return 0

    with hooked(hook):
        share.recycle()
    assert syncs[0] == 2


def test_a_recycler_that_cannot_come_back_leaves_its_pages_to_others(
    tmp_path: Path, log: Log
) -> None:
    """Its store was closed, or it died: the pages are still retired, and counted as such."""
    share = Share(log.c)
    finished(share, log, 20)

    def die() -> None:
        theirs = Share(Store(tmp_path / "s").log(segment_bytes=1 << 24).c)
        noted = ffi.new("uint32_t[]", 100)
        assert lib.mql_os_mutex_try(ffi.addressof(theirs.map.sync)) == 0
        assert lib.mql_live_note_retired(theirs.live, noted, 100) > 18

    dies(die)
    assert share.map.retired > 18
    share.recycle()
    assert share.map.retired == 0


# -- blocks given back -----------------------------------------------------------------------------
def test_blocks_of_finished_records_go_back(log: Log) -> None:
    share = Share(log.c)
    finished(share, log, 1500)
    size = share.path.stat().st_size
    share.recycle()
    share.give_back()
    assert share.path.stat().st_size < size / 4
    assert share.map.pages < 500
    assert share.path.stat().st_size == share_file.position(share.map.pages - 1) + share_file.PAGE
    before = share.derived()
    share.rebuild()
    assert share.derived() == before
    finished(share, log, 700)
    assert share.info().first == log.ends[1]


def step(share: Share, log: Log) -> None:
    """A chunk of records comes and goes."""
    log.append(*[b""] * SLOTS)
    share.settle("accept", *share.acquire(SLOTS))


def test_a_consumer_has_new_pages_rather_than_wait_for_the_disk(log: Log) -> None:
    """But not without end: where nobody recycles for it, it does so itself."""
    share = Share(log.c)
    retired: list[int] = []
    sizes: list[int] = []

    def hook(call: int, path: str) -> int:
        if call == lib.MQL_FAULT_SYNC and path.endswith(".state"):
            retired.append(share.map.retired)
        return 0

    step(share, log)
    with hooked(hook):
        for _ in range(100):
            step(share, log)
        assert retired == []
        for _ in range(1000):
            step(share, log)
            sizes.append(share.path.stat().st_size)
    assert 0 < len(retired) < 2 * 1000 / 100
    assert min(retired) > 100
    assert max(sizes) < 1 << 20


def test_a_consumer_for_whom_there_is_no_new_page_recycles(log: Log) -> None:
    share = Share(log.c)
    step(share, log)
    pages, syncs = share.map.pages, []

    def hook(call: int, path: str) -> int:
        if call == lib.MQL_FAULT_SYNC and path.endswith(".state"):
            syncs.append(path)
        return full(call, path)

    with hooked(hook):
        for _ in range(60):
            step(share, log)
    assert share.map.pages == pages
    assert len(syncs) == 2 * 60  # each chunk has the page of the one before


def test_what_the_backlog_needs_is_not_given_back(log: Log) -> None:
    share = Share(log.c)
    put_many(log, 600 * SLOTS)
    log.control.slots_ready = 0  # as when another group comes
    share.give_back()
    assert spare(share) >= 600
    with hooked(full):
        while found := share.acquire(1024):
            share.settle("accept", *found)
    assert share.info().first == 600 * SLOTS


def test_a_promise_that_is_being_made_is_taken_back(log: Log) -> None:
    share = Share(log.c)
    finished(share, log, 600)
    share.recycle()
    generation = log.control.shares_generation
    share.give_back()
    assert log.control.shares_generation != generation
    share.give_back()  # nothing more to give
    assert log.control.shares_generation == generation + 1


# -- stable storage --------------------------------------------------------------------------------
def test_one_sync_covers_all_who_wait_behind_it(log: Log) -> None:
    share = Share(log.c)
    log.append(*[b"v"] * 10)
    items = share.acquire(10)
    syncs = []
    with hooked(lambda call, path: syncs.append(call) or 0):
        share.settle("accept", *items[:5])
        changes = share.map.changes
        share.settle("accept", items[5], flags=lib.MQL_DURABLE)
        assert lib.mql_reserve_sync(share.live, changes) == 0
        assert lib.mql_reserve_sync(share.live, share.map.changes) == 0
    assert syncs == [lib.MQL_FAULT_SYNC]


def test_tokens_grow_with_each_boot_that_acquires(tmp_path: Path) -> None:
    tokens = []
    for _ in range(4):
        with Store(tmp_path / "s") as store:
            log = store.log()
            share = Share(log.c)
            log.append(b"v")
            one = share.acquire()[0]
            tokens.append(one.token)
            share.settle("release", one)
            path = share.path
        path.write_bytes(share_file.rebooted(path.read_bytes()))
    assert [token >> 32 for token in tokens] == [1, 2, 3, 4]


def test_nothing_is_acquired_before_the_boot_is_on_stable_storage(log: Log) -> None:
    share = Share(log.c)
    log.append(b"v")

    def hook(call: int, path: str) -> int:
        return -errno.EIO if call == lib.MQL_FAULT_SYNC_DIRECTORY else 0

    with hooked(hook), pytest.raises(Failed):
        share.acquire()
    assert share.info().acquired == 0
    assert share.acquire()[0].token >> 32 == 1


def test_a_disk_that_was_away_may_have_lost_tokens_so_they_go_on_above(
    tmp_path: Path, log: Log
) -> None:
    """Unmounted after a power cut of its own and mounted again, or copied, all in one boot."""
    log.append(b"a", b"b")
    share = Share(log.c)
    share.settle("release", *share.acquire())
    shutil.copytree(tmp_path / "s", tmp_path / "copy")
    before = share.acquire()[0]
    with Store(tmp_path / "copy") as store:
        after = Share(store.log().c).acquire()[0]
    assert (after.offset, before.offset) == (0, 0)
    assert after.token > before.token


@pytest.mark.parametrize("broken", ["SYNC", "SYNC_DIRECTORY"])
def test_a_boot_that_is_only_in_memory_is_synced_by_who_opens_next(
    tmp_path: Path, broken: str
) -> None:
    kinds = (lib.MQL_FAULT_SYNC, lib.MQL_FAULT_SYNC_DIRECTORY)
    synced: list[int] = []

    def fails(call: int, name: str) -> int:
        return -errno.EIO if call == getattr(lib, f"MQL_FAULT_{broken}") and "shares" in name else 0

    with Store(tmp_path / "s") as store:
        log = store.log()
        log.append(b"v")
        with hooked(fails), pytest.raises(Failed):
            Share(log.c).acquire()
    with Store(tmp_path / "s") as store:
        share = Share(store.log().c)
        with hooked(lambda call, name: synced.append(call) or 0):
            assert len(share.acquire()) == 1
    assert [call for call in synced if call in kinds][-3:] == [kinds[0], kinds[1], kinds[1]]


def test_what_a_failed_sync_left_is_written_anew_also_after_all_have_closed(
    tmp_path: Path,
) -> None:
    def fails(call: int, name: str) -> int:
        return -errno.EIO if call == lib.MQL_FAULT_SYNC and name.endswith(".state") else 0

    with Store(tmp_path / "s") as store:
        log = store.log()
        log.append(b"a", b"b")
        share = Share(log.c)
        held = share.acquire(2)
        with hooked(fails):
            share.settle("accept", held[0])
            with pytest.raises(Failed):
                share.settle("accept", held[1], flags=lib.MQL_DURABLE)
            with pytest.raises(Failed):
                store.close()
    with Store(tmp_path / "s") as store:
        assert Share(store.log().c).map.unsure == 1


def test_a_failed_sync_is_remembered_also_where_nothing_was_acquired(tmp_path: Path) -> None:
    def fails(call: int, name: str) -> int:
        return -errno.EIO if call == lib.MQL_FAULT_SYNC and name.endswith(".state") else 0

    with Store(tmp_path / "s") as store:
        log = store.log()
        log.append(b"v")
        share = Share(log.c)
        check(lib.mql_share_delay(log.c, 0, 1 << 46))
        with hooked(fails), pytest.raises(Failed):
            check(lib.mql_share_sync(share.c))
        with hooked(fails), pytest.raises(Failed):
            store.close()
    with Store(tmp_path / "s") as store:
        assert Share(store.log().c).map.unsure == 1


def syncs_of_the_state(synced: list[str]) -> Callable[[int, str], int]:
    def hook(call: int, name: str) -> int:
        if call == lib.MQL_FAULT_SYNC and name.endswith(".state"):
            synced.append(name)
        return 0

    return hook


def accept_and_die(path: Path, *, inside: bool = False) -> None:
    """A process accepts, and dies before anything has synced that; `inside`: in a change."""

    def work() -> None:
        log = Store(path).log()
        log.append(b"a", b"b")
        share = Share(log.c)
        first, second = share.acquire(2)
        share.settle("accept", first)
        if inside:
            check(lib.mql_share_sync(share.c))
            assert share.map.synced == share.map.changes
            share.settle("accept", second)
            share.map.changes, share.map.busy = share.map.synced, 1

    dies(work)


@pytest.mark.parametrize("inside", [False, True])
def test_what_the_dead_had_not_synced_is_synced_by_who_opens_next(
    tmp_path: Path, *, inside: bool
) -> None:
    accept_and_die(tmp_path / "s", inside=inside)
    synced: list[str] = []
    with Store(tmp_path / "s") as store:
        share = Share(store.log().c)
        assert share.info().ends[lib.MQL_ACCEPTED] == 1 + inside
        with hooked(syncs_of_the_state(synced)):
            check(lib.mql_share_sync(share.c))
            assert len(synced) == 1
            check(lib.mql_share_sync(share.c))
            assert len(synced) == 1


@pytest.mark.parametrize("how", ["a close", "a round"])
def test_what_the_dead_had_not_synced_is_synced_also_if_nobody_asks(
    tmp_path: Path, how: str
) -> None:
    accept_and_die(tmp_path / "s")
    synced: list[str] = []
    with hooked(syncs_of_the_state(synced)), Store(tmp_path / "s") as store:
        Share(store.log().c)
        if how == "a round":
            check(lib.mql_keeper_sync(store.c))
            assert len(synced) == 1
    assert len(synced) == 1


def rounds_until(store: Store, done: Callable[[], object], seconds: float) -> bool:
    """Background rounds of a process that settles nothing itself."""
    end = time.monotonic() + seconds
    while not done() and time.monotonic() < end:
        lib.mql_keeper_sync(store.c)  # it may fail
        time.sleep(0.05)
    return bool(done())


@pytest.mark.parametrize("fails", [False, True])
def test_what_a_dead_peer_had_not_synced_is_synced_by_who_lives(
    tmp_path: Path, *, fails: bool
) -> None:
    def accept() -> None:
        other = Share(Store(tmp_path / "s").log().c)
        other.settle("accept", *other.acquire())

    synced: list[str] = []
    failed: list[str] = []

    def fails_once(call: int, name: str) -> int:
        if call == lib.MQL_FAULT_SYNC and name.endswith(".state") and not failed:
            failed.append(name)
            return -errno.EIO
        return 0

    with Store(tmp_path / "s") as store:
        log = store.log()
        log.append(b"v")
        share = Share(log.c)
        check(lib.mql_keeper_sync(store.c))
        dies(accept)
        assert share.info().ends[lib.MQL_ACCEPTED] == 1
        assert share.map.synced < share.map.owed
        if fails:
            with hooked(fails_once):
                assert rounds_until(store, lambda: failed, 20.0)
            assert share.map.synced < share.map.owed
        with hooked(syncs_of_the_state(synced)):
            assert rounds_until(store, lambda: share.map.synced >= share.map.owed, 20.0)
            assert len(synced) == 1
            assert not rounds_until(store, lambda: len(synced) > 1, 1.5)


def test_what_is_owed_still_when_the_next_opener_dies_in_turn_is_synced(tmp_path: Path) -> None:
    synced: list[str] = []
    accept_and_die(tmp_path / "s")
    with Store(tmp_path / "s") as store:
        log = store.log()
        log.sync()
        dies(lambda: Share(Store(tmp_path / "s").log().c))
        share = Share(log.c)
        assert share.map.announced
        with hooked(syncs_of_the_state(synced)):
            assert rounds_until(store, lambda: synced, 20.0)


def test_what_was_settled_beside_a_damaged_slot_is_synced_as_well(tmp_path: Path) -> None:
    synced: list[str] = []
    with Store(tmp_path / "s") as store:
        log = store.log()
        log.append(*[b"v"] * 4)
        share = Share(log.c)
        held = share.acquire(4)
        check(lib.mql_share_sync(share.c))
        place = ffi.new("mql_live_place *")
        assert lib.mql_live_find(share.live, 3, place)
        place.slot.state ^= 1
        assert share.settle("accept", *held) == [0, 0, 0, lib.MQL_E_LOST]
        with hooked(syncs_of_the_state(synced)):
            check(lib.mql_share_sync(share.c))
        assert len(synced) == 1


def test_who_only_looks_and_acquires_has_nothing_synced(tmp_path: Path) -> None:
    synced: list[str] = []
    with Store(tmp_path / "s") as store:
        log = store.log()
        log.append(b"v")
        share = Share(log.c)
        check(lib.mql_keeper_sync(store.c))
        share.acquire()
        share.acquire()
        assert share.map.synced < share.map.changes
        with hooked(syncs_of_the_state(synced)):
            assert not rounds_until(store, lambda: synced, 1.5)


def test_what_a_close_has_synced_is_not_synced_again(tmp_path: Path) -> None:
    synced: list[str] = []
    with Store(tmp_path / "s") as store:
        log = store.log()
        log.append(b"v")
        share = Share(log.c)
        share.settle("accept", *share.acquire())
    with hooked(syncs_of_the_state(synced)), Store(tmp_path / "s") as store:
        check(lib.mql_share_sync(Share(store.log().c).c))
    assert not synced


def test_a_group_that_was_copied_is_not_known_to_be_on_the_disk(tmp_path: Path) -> None:
    with Store(tmp_path / "s") as store:
        log = store.log()
        log.append(b"v")
        share = Share(log.c)
        share.settle("accept", *share.acquire())
    shutil.copytree(tmp_path / "s", tmp_path / "copy")
    synced: list[str] = []
    with Store(tmp_path / "copy") as store, hooked(syncs_of_the_state(synced)):
        check(lib.mql_share_sync(Share(store.log().c).c))
    assert len(synced) == 1


@pytest.mark.parametrize("fails", [1, 2, 3])
def test_a_failed_sync_is_remembered_also_if_the_next_opening_fails(
    tmp_path: Path, fails: int
) -> None:
    left = [0]

    def no_sync(call: int, name: str) -> int:
        return -errno.EIO if call == lib.MQL_FAULT_SYNC and name.endswith(".state") else 0

    def no_map(call: int, name: str) -> int:
        left[0] -= call == lib.MQL_FAULT_MAP and "/shares/" in name
        return -errno.ENOMEM if call == lib.MQL_FAULT_MAP and left[0] == 0 else 0

    with Store(tmp_path / "s") as store:
        log = store.log()
        log.append(b"a")
        share = Share(log.c)
        share.settle("accept", *share.acquire())
        with hooked(no_sync), pytest.raises(Failed):
            store.close()
    left[0] = fails
    with Store(tmp_path / "s") as store, hooked(no_map), pytest.raises(Failed):
        Share(store.log().c)
    synced: list[str] = []
    with Store(tmp_path / "s") as store, hooked(syncs_of_the_state(synced)):
        share = Share(store.log().c)
        assert share.map.unsure == 1
        check(lib.mql_share_sync(share.c))
    assert len(synced) == 1
