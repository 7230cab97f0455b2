"""mql_census: what a share group says of itself."""

import errno
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import fault
from support.partition import Failed, Log, Store, check, ffi, lib
from support.share import Share

SLOTS = lib.MQL_SHARE_SLOTS


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "s") as opened:
        yield opened


@pytest.fixture
def log(store: Store) -> Log:
    return store.log()


def holders(share: Share, most: int = 100) -> list[tuple[int, int, int, int, int]]:
    out = ffi.new("mql_acquired[]", most)
    count = check(lib.mql_share_holders(share.c, out, most))
    return sorted(
        (one.offset, one.token, one.deliveries, one.deadline_ms, one.moving) for one in out[0:count]
    )


def test_a_new_group_has_everything_to_deliver(log: Log) -> None:
    log.append(*[b"v"] * 10)
    info = Share(log.c, start=4).info()
    assert (info.ready, info.delayed, info.acquired) == (6, 0, 0)
    assert (info.first, info.end, info.oldest) == (4, 4, 4)
    assert info.next_ms == (1 << 63) - 1
    assert info.bytes > 0
    assert list(info.ends) == [0] * lib.MQL_ENDS


def test_every_end_is_counted_on_its_own(log: Log) -> None:
    share = Share(log.c)
    log.append(*[b"v"] * 40)
    share.settle("accept", *share.acquire(3))
    kinds = [lib.MQL_DEAD, lib.MQL_EXPIRED, lib.MQL_PASSED, lib.MQL_PURGED, lib.MQL_GONE]
    for count, kind in enumerate(kinds, 1):
        assert share.settle("archive", *share.acquire(count), when=kind) == [0] * count
    ends = list(share.info().ends)
    assert ends[lib.MQL_ACCEPTED] == 3
    assert [ends[kind] for kind in kinds] == [1, 2, 3, 4, 5]
    share.rebuild()
    assert list(share.info().ends) == ends


@pytest.mark.parametrize("kind", [-1, 0, 8, 1 << 40])
def test_an_end_that_there_is_not_is_refused(log: Log, kind: int) -> None:
    share = Share(log.c)
    log.append(b"v")
    with pytest.raises(Failed) as failed:
        share.settle("archive", *share.acquire(), when=kind)
    assert failed.value.code == lib.MQL_E_ARGUMENT
    assert share.info().acquired == 1


def test_the_next_and_the_oldest_are_told(log: Log) -> None:
    share = Share(log.c)
    log.append(*[b"v"] * 5)
    later = int(time.time() * 1000) + 100_000
    held = share.acquire(3)
    share.settle("release", held[2], when=later)
    share.settle("release", held[1], when=later + 5)
    info = share.info()
    assert (info.delayed, info.ready, info.next_ms, info.oldest) == (2, 2, later, 1)
    share.settle("accept", held[0])
    assert share.info().first == 1


def test_a_time_at_the_end_of_the_world_is_a_delay_like_any_other(log: Log) -> None:
    share = Share(log.c)
    log.append(b"a", b"b", b"c")
    held = share.acquire(3)
    for one, when in zip(held, [(1 << 48) - 1, 1 << 48, (1 << 63) - 1], strict=True):
        assert share.settle("release", one, when=when) == [0]
    info = share.info()
    assert (info.ready, info.delayed, info.next_ms) == (0, 3, (1 << 48) - 1)
    before = share.derived()
    share.rebuild()
    assert share.derived() == before
    assert len(share.acquire(5, any_=True)) == 3


def test_who_holds_what_is_told_once_and_for_each(log: Log) -> None:
    share = Share(log.c)
    log.append(*[b"v"] * 1000)
    held = share.acquire(300, lock_ms=-1) + share.acquire(5, lock_ms=50_000)
    share.settle("accept", *held[10:290])
    for _ in range(3):
        share.settle("renew", *held[:10], when=-1)
    share.settle("move", held[290], when=77)
    said = holders(share)
    left = [*held[:10], *held[290:]]
    assert [one[:3] for one in said] == [(h.offset, h.token, 1) for h in left]
    assert [one[3] for one in said[:10]] == [(1 << 63) - 1] * 10
    assert [one[3] for one in said[-5:]] == [held[-1].deadline_ms] * 5
    assert [one[4] for one in said if one[4] >= 0] == [77]
    assert len(holders(share, 7)) == 7
    assert holders(share, 1000) == said


def test_what_comes_next_is_shown_and_not_taken(log: Log) -> None:
    share, chance = Share(log.c), random.Random(5)
    log.append(*[b"v"] * 700)
    held = share.acquire(600)
    released = chance.sample(held, 50)
    share.settle("release", *released)
    expected = sorted(one.offset for one in released) + list(range(600, 700))
    for count in (0, 1, 7, 50, 51, 120, 1000):
        assert share.peek(count) == expected[:count]
    found = share.acquire(1024)
    assert sorted(one.offset for one in found) == expected


def test_unfinished_records_are_found_across_chunks(log: Log) -> None:
    share, chance = Share(log.c), random.Random(6)
    log.append(*[b"v"] * 5 * SLOTS)
    held = [one for _ in range(2) for one in share.acquire(1024)]
    left = {3, SLOTS - 1, SLOTS, 3 * SLOTS + 9}
    share.settle("accept", *(one for one in held if one.offset not in left))
    for _ in range(300):
        start = chance.randrange(6 * SLOTS)
        stop = start + chance.choice([0, 1, 10, SLOTS, 6 * SLOTS])
        there = [n for n in [*left, *range(5 * SLOTS, 13 * SLOTS)] if start <= n < stop]
        assert share.unfinished(start, stop) == min(there, default=stop), (start, stop)


def test_what_waits_is_told_without_the_lock(log: Log) -> None:
    share = Share(log.c)
    log.append(*[b"v"] * 10)
    with share.inside(changing=False):
        assert share.waiting() == 10
    share.acquire(4)
    assert share.waiting() == 6


def test_what_the_heap_has_no_room_for_is_counted_from_the_slots(tmp_path: Path) -> None:
    """A full disk keeps the heap of due times small; delayed records are delayed all the same."""
    with fault.Store(tmp_path / "full") as store:
        log = store.log()
        share = fault.Share(log.c)
        log.append(*[b"v"] * 400)
        held = share.acquire(300)
        later = int(time.time() * 1000) + 100_000
        full = fault.lib.MQL_FAULT_ALLOCATE
        with fault.hooked(lambda call, name: -errno.ENOSPC if call == full else 0):
            for number, one in enumerate(held[10:]):
                share.settle("release", one, when=later + number)
        assert share.map.timers[lib.MQL_LIVE_DUE] < 290
        info = share.info()
        assert (info.ready, info.delayed, info.acquired) == (100, 290, 10)
        assert (info.oldest, info.next_ms) == (10, later)
        share.settle("release", held[9])
        assert (share.info().ready, share.info().oldest) == (101, 9)


@pytest.mark.parametrize("full", [False, True])
def test_who_opens_goes_through_the_slots_once_and_makes_the_heap_as_long_as_it_must_be(
    tmp_path: Path, full: bool
) -> None:
    """Where the disk is full the heap has what comes first, and the rest is behind its horizon."""
    later = int(time.time() * 1000) + 100_000
    with fault.Store(tmp_path / "s") as store:
        log = store.log()
        share = fault.Share(log.c)
        log.append(*[b"v"] * 400)
        for number, one in enumerate(share.acquire(300)):
            share.settle("release", one, when=later + 299 - number)
    asked = fault.lib.MQL_FAULT_ALLOCATE

    def answer(call: int, name: str) -> int:
        return -errno.ENOSPC if full and call == asked and name.endswith(".live") else 0

    with fault.Store(tmp_path / "s") as store:
        log = store.log()
        with fault.hooked(answer):
            share = fault.Share(log.c, create=False)
        assert (share.map.rebuilds == 1) is not full
        timers, horizon = share.map.timers[lib.MQL_LIVE_DUE], share.map.horizon[lib.MQL_LIVE_DUE]
        assert (timers, horizon) == ((16, later) if full else (300, (1 << 63) - 1))
        info = share.info()
        assert (info.ready, info.delayed, info.acquired) == (100, 300, 0)
        assert (info.oldest, info.next_ms) == (0, later)


def test_a_release_that_may_not_block_does_nothing_where_the_heap_is_full(log: Log) -> None:
    share = Share(log.c)
    log.append(*[b"v"] * 400)
    held = share.acquire(400)
    later = int(time.time() * 1000) + 100_000
    how = ffi.new("mql_settlement *", {"event": lib.MQL_RELEASE, "when": later})
    results = []
    for one in held:
        item = ffi.new("mql_settle *", (one.offset, one.token, 0))
        results.append(lib.mql_share_settle(share.c, item, 1, how))
    done = results.count(lib.MQL_OK)
    assert results == [lib.MQL_OK] * done + [lib.MQL_TIMEOUT] * (400 - done)
    assert 0 < done < 400
    assert (share.info().delayed, share.info().acquired) == (done, 400 - done)
    assert share.map.horizon[lib.MQL_LIVE_DUE] == (1 << 63) - 1


# -- runs -----------------------------------------------------------------------------------------
def runs(share: Share, start: int, stop: int) -> list[tuple[int, int]]:
    """All runs of unfinished offsets, one after the other."""
    out, a, b = [], ffi.new("int64_t *", start), ffi.new("int64_t *", stop)
    while True:
        check(lib.mql_census_run(share.c, a, b))
        if a[0] >= b[0]:
            assert a[0] == stop
            return out
        if out and out[-1][1] == a[0]:
            out[-1] = (out[-1][0], b[0])
        else:
            out.append((a[0], b[0]))
        a[0], b[0] = b[0], stop


@pytest.mark.parametrize("count", [1, 255, 256, 257, 5000])
def test_what_was_never_touched_is_one_run(tmp_path: Path, count: int):
    with Store(tmp_path / "s") as store:
        log = store.log()
        share = Share(log.c)
        log.append(*[b""] * count)
        assert runs(share, 0, count) == [(0, count)]
        assert runs(share, 0, 0) == []
        assert runs(share, count // 2, count) == [(count // 2, count)]


@pytest.mark.parametrize("seed", range(5))
def test_runs_are_what_is_not_finished(tmp_path: Path, seed: int):
    chance = random.Random(seed)
    with Store(tmp_path / "s") as store:
        log = store.log()
        share = Share(log.c)
        log.append(*[b""] * 20_000)
        items = [item for _ in range(15) for item in share.acquire(1000)]
        stay = set(chance.sample(range(15_000), chance.choice([0, 1, 30, 3000])))
        stay |= set(range(4000, 4000 + chance.choice([0, 300, 1000])))
        share.settle("accept", *[item for item in items if item.offset not in stay])
        left = sorted(stay | set(range(15_000, 20_000)))
        for a, b in [(0, 20_000), (100, 5000), (4100, 4300), (14_999, 15_001)]:
            found = [n for start, stop in runs(share, a, b) for n in range(start, stop)]
            assert found == [n for n in left if a <= n < b]
        if share.recycle() == 0:
            share.give_back()
        assert [n for start, stop in runs(share, 0, 20_000) for n in range(start, stop)] == left
