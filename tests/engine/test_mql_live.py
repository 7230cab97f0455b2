"""mql_live: what is derived from the slots of a share group, and what a death leaves of it."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import share_file
from support.partition import Failed, Log, Store, check, dies, ffi, flip, lib
from support.share import Share

SLOTS = lib.MQL_SHARE_SLOTS
WORD = lib.MQL_SHARE_WORD_BITS  # chunks of which one word speaks


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "s") as opened:
        yield opened


@pytest.fixture
def log(store: Store) -> Log:
    return store.log(segment_bytes=1 << 24)


def accept_all(share: Share) -> None:
    while found := share.acquire(1024):
        assert share.settle("accept", *found) == [0] * len(found)


def put_many(log: Log, count: int) -> None:
    for at in range(0, count, 10_000):
        log.append(*[b""] * min(10_000, count - at))


def find(share: Share, offset: int) -> int | None:
    """The page that holds the offset's chunk."""
    place = ffi.new("mql_live_place *")
    return place.page if lib.mql_live_find(share.live, offset, place) else None


def make(share: Share, offset: int) -> Any:
    place = ffi.new("mql_live_place *")
    assert lib.mql_live_make(share.live, offset, place) == 0
    return place


def make_held(share: Share, offset: int) -> Any:
    slot = ffi.new("mql_slots_slot *", {"state": 1, "clock": lib.MQL_CLOCK_NONE, "member": 0})
    with share.inside():
        place = make(share, offset)
        lib.mql_slots_store(place.slot, offset, slot)
    share.rebuild()
    return place


def window(share: Share) -> Any:
    out = ffi.new("mql_format_share_window *")
    check(lib.mql_slots_window(ffi.addressof(share.live.slots), out))
    return out


def finish_chunk(share: Share, number: int, kind: int) -> None:
    slot = ffi.new("mql_slots_slot *", {"state": 4, "clock": lib.MQL_CLOCK_KIND + kind})
    for offset in range(number * SLOTS, (number + 1) * SLOTS):
        place = make(share, offset)
        lib.mql_slots_store(place.slot, offset, slot)
        lib.mql_live_finish(share.live, place, kind)


# -- chunks ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(4))
def test_chunks_that_come_and_go_are_found_as_a_model_says(log: Log, seed: int) -> None:
    share, chance = Share(log.c), random.Random(seed)
    check(lib.mql_reserve_until(share.live, 600 * SLOTS, ffi.new("int64_t *")))
    there: dict[int, int] = {}
    gone: set[int] = set()
    with share.inside():
        for _ in range(700):
            number = chance.choice([chance.randrange(1, 40_000), chance.randrange(1, 300)])
            if number in gone:
                continue
            if number in there and chance.random() < 0.7:
                finish_chunk(share, number, lib.MQL_EXPIRED)
                del there[number]
                gone.add(number)
            elif len(there) + len(gone) < 500:
                there[number] = make(share, number * SLOTS).page
            for one in chance.sample(sorted(there), min(5, len(there))):
                assert find(share, one * SLOTS + chance.randrange(SLOTS)) == there[one]
            for one in chance.sample(sorted(gone), min(5, len(gone))):
                assert find(share, one * SLOTS) is None
                assert lib.mql_live_is_past(share.live, one * SLOTS)
        assert {n: find(share, n * SLOTS) for n in there} == there
    assert share.info().ends[lib.MQL_EXPIRED] == len(gone) * SLOTS
    share.rebuild()
    assert {n: find(share, n * SLOTS) for n in there} == there
    assert share.info().ends[lib.MQL_EXPIRED] == len(gone) * SLOTS


@pytest.mark.parametrize("again", ["not at all", "by the next holder", "by the next opener"])
@pytest.mark.parametrize("archived", [0, 1])
def test_a_finished_chunk_is_counted_as_its_records_ended(
    tmp_path: Path, again: str, archived: int
) -> None:
    """Also one in which the group begins; derived anew between the ends or not."""
    store = Store(tmp_path / "s")
    log = store.log(segment_bytes=1 << 24)
    put_many(log, 2 * SLOTS)
    share = Share(log.c, start=100)
    held = share.acquire(2 * SLOTS)
    if archived:
        for number, one in enumerate((held[3], held[-5])):
            when = (lib.MQL_DEAD, lib.MQL_PURGED)[number]
            assert share.settle("archive", one, when=when) == [lib.MQL_OK]
            held.remove(one)
    share.settle("accept", *held[:7])
    if again == "by the next holder":
        share.rebuild()
    elif again == "by the next opener":
        store.close()
        store.free()
        store, share = reopened(tmp_path / "s")
        held = [*held[:7], *share.acquire(2 * SLOTS)]
    share.settle("accept", *held[7:])
    seen = window(share)
    ends = list(seen.counts)
    assert seen.start == 2 * SLOTS
    assert (ends[lib.MQL_DEAD], ends[lib.MQL_PURGED]) == (archived, archived)
    assert ends[lib.MQL_ACCEPTED] == 2 * SLOTS - 100 - 2 * archived
    assert list(share.info().ends) == ends
    store.close()
    store.free()


def test_the_start_goes_over_chunks_that_were_finished_before_it(log: Log) -> None:
    share = Share(log.c)
    put_many(log, 6 * SLOTS)
    held = share.acquire(1024) + share.acquire(1024)
    share.settle("accept", *held[SLOTS : 4 * SLOTS])
    window = ffi.new("mql_format_share_window *")
    lib.mql_slots_window(ffi.addressof(share.live.slots), window)
    assert (window.start, share.map.retired) == (0, 3)
    share.settle("accept", *held[:SLOTS])
    lib.mql_slots_window(ffi.addressof(share.live.slots), window)
    assert (window.start, share.map.retired) == (4 * SLOTS, 4)
    assert window.counts[lib.MQL_ACCEPTED] == 4 * SLOTS


def finish_untouched(share: Share, number: int, stop: int) -> int:
    """Chunks [number, stop) that hold nothing are finished; by how many stores."""
    stores = 0
    while number < stop:
        behind = lib.mql_live_untouched(share.live, number, stop)
        check(lib.mql_live_finish_chunks(share.live, number, behind, lib.MQL_GONE))
        number, stores = behind, stores + 1
    return stores


def test_a_done_page_that_the_start_has_passed_goes(log: Log) -> None:
    share = Share(log.c)
    put_many(log, 3 * SLOTS)
    held = share.acquire(1024)
    share.settle("accept", *held[SLOTS:])
    check(lib.mql_reserve_until(share.live, 20 * SLOTS, ffi.new("int64_t *")))
    with share.inside():
        last = lib.MQL_SHARE_DONE_CHUNKS + 2
        assert finish_untouched(share, 3, last) == -(-last // WORD)
    before = share.map.retired
    share.settle("accept", *held[:SLOTS])
    assert share.map.retired == before + 2  # the first chunk's page, and the first done page
    retired = share.map.retired
    for _ in range(2):
        assert share.info().ends[lib.MQL_GONE] == (lib.MQL_SHARE_DONE_CHUNKS - 1) * SLOTS
        assert share.map.retired == retired
        share.rebuild()


def test_a_page_beyond_the_end_of_the_file_is_not_looked_at(log: Log) -> None:
    """It was looked up last, and then another process gave its blocks back."""
    share = Share(log.c)
    put_many(log, 700 * SLOTS)
    late = []
    while found := share.acquire(1024):
        late.append(found[-1])
        share.settle("accept", *found)
    stale = next(one for one in late if share.live.last_page >= 512 or one.offset > 600 * SLOTS)
    share.recycle()
    share.give_back()
    assert share.map.pages < 512
    share.live.last_number, share.live.last_page = stale.offset // SLOTS, 600
    share.live.last_word = lib.mql_slots_word(stale.offset // SLOTS + 1, 600)
    assert share.settle("accept", stale) == [lib.MQL_E_LOST]


# -- counting --------------------------------------------------------------------------------------
def unmark(share: Share, number: int, count: int = 1) -> None:
    """As if who folded `count` chunks up to this one had died before he marked them."""
    state = share_file.read(share.path.read_bytes())
    assert state.window.folding == number and number in state.done
    (page,) = [p for p in range(share.map.pages) if is_done_page(share, p)]
    words = ffi.cast("uint64_t *", lib.mql_slots_page(ffi.addressof(share.live.slots), page))
    index, first = number // WORD, number - count + 1
    marks = ((1 << count) - 1) << first % WORD
    bits = share_file.content(words[index], index)
    assert bits & marks == marks
    words[index] = lib.mql_slots_word(bits & ~marks, index)
    share.map.busy = 1


def is_done_page(share: Share, page: int) -> bool:
    word = lib.mql_slots_name(ffi.addressof(share.live.slots), page)[0]
    return bool(word & lib.MQL_SHARE_DONE)


def test_a_chunk_that_was_counted_and_not_marked_is_counted_once(log: Log) -> None:
    share = Share(log.c)
    put_many(log, 5 * SLOTS)
    held = share.acquire(1024)
    share.settle("accept", *held[2 * SLOTS : 3 * SLOTS])
    before = share.derived()
    for _ in range(3):
        unmark(share, 2)
        assert share.derived() == before
    share.settle("accept", *held[SLOTS : 2 * SLOTS])
    share.rebuild()
    assert share.info().ends[lib.MQL_ACCEPTED] == 2 * SLOTS


def test_a_chunk_that_was_skipped_and_not_marked_is_counted_once(log: Log) -> None:
    share = Share(log.c)
    put_many(log, 5 * SLOTS)
    first, *_ = share.acquire(SLOTS + 1)[::-1]
    assert lib.mql_share_skip(share.c, first.offset, first.token, 3 * SLOTS) == 0
    assert share.info().ends[lib.MQL_GONE] == 2 * SLOTS
    unmark(share, 2)
    assert share.info().ends[lib.MQL_GONE] == SLOTS
    found = share.acquire()[0]
    assert found.offset == 2 * SLOTS
    assert lib.mql_share_skip(share.c, found.offset, found.token, 3 * SLOTS) == 0
    assert share.info().ends[lib.MQL_GONE] == 2 * SLOTS


def test_chunks_that_one_word_speaks_of_are_skipped_together_or_not_at_all(log: Log) -> None:
    share = Share(log.c)
    put_many(log, 99 * SLOTS)
    first, *_ = share.acquire(SLOTS + 1)[::-1]
    busy = make_held(share, 60 * SLOTS)
    before = window(share).sequence
    assert lib.mql_share_skip(share.c, first.offset, first.token, 98 * SLOTS) == 0
    # Chunk 1, slot by slot; up to the word's end; up to the one held, and behind it; the last word.
    assert window(share).sequence == before + 5
    assert share.info().ends[lib.MQL_GONE] == 97 * SLOTS - 1
    assert find(share, 60 * SLOTS) == busy.page
    unmark(share, 97, 2)
    assert share.info().ends[lib.MQL_GONE] == 95 * SLOTS - 1
    while (found := share.acquire()[0]).offset < 96 * SLOTS:
        pass
    assert lib.mql_share_skip(share.c, found.offset, found.token, 98 * SLOTS) == 0
    assert share.info().ends[lib.MQL_GONE] == 97 * SLOTS - 1
    before = share.derived()
    share.rebuild()
    assert share.derived() == before


def test_a_damaged_mark_costs_deliveries_and_not_the_count(log: Log) -> None:
    share = Share(log.c)
    put_many(log, 5 * SLOTS)
    held = share.acquire(1024)
    share.settle("accept", *held[2 * SLOTS : 3 * SLOTS])
    share.recycle()
    unmark(share, 2)
    info = share.info()
    assert info.ends[lib.MQL_ACCEPTED] == 0
    assert info.ready + info.acquired == 5 * SLOTS
    assert [one.offset for one in share.acquire(300)][:SLOTS] == list(range(2 * SLOTS, 3 * SLOTS))


# -- deaths ----------------------------------------------------------------------------------------
def child(path: Path) -> Share:
    return Share(Store(path).log(segment_bytes=1 << 24).c)


def test_who_dies_inside_the_lock_between_changes_leaves_nothing_to_repair(
    tmp_path: Path, log: Log
) -> None:
    share = Share(log.c)
    log.append(*[b"v"] * 10)
    share.acquire(3)
    rebuilds = share.map.rebuilds

    def die() -> None:
        check(lib.mql_share_enter(child(tmp_path / "s").c, 0))

    dies(die)
    assert share.info().acquired == 3
    assert share.map.rebuilds == rebuilds


def test_who_dies_in_a_change_is_followed_by_one_who_derives_everything(
    tmp_path: Path, log: Log
) -> None:
    share = Share(log.c)
    log.append(*[b"v"] * 1000)
    share.settle("accept", *share.acquire(400))
    share.acquire(100)
    before = share.derived()
    rebuilds = share.map.rebuilds

    def die() -> None:
        theirs = child(tmp_path / "s")
        check(lib.mql_share_enter(theirs.c, 0))
        lib.mql_live_begin(theirs.live)
        for name in ("unavailable", "acquired", "available", "end"):
            setattr(theirs.map, name, 77)
        theirs.map.clean_list = theirs.map.retired_list = theirs.map.named = 0
        theirs.map.hash_size = 64
        for at in range(16):
            theirs.map.first_due[at].time = -5
        for at in range(64):
            theirs.map.first_hash[at] = 0

    dies(die)
    assert share.derived() == before
    assert share.map.rebuilds == rebuilds + 1
    assert [one.offset for one in share.acquire()] == [500]


def test_pages_whose_maker_died_before_he_told_are_mapped_before_they_are_used(
    tmp_path: Path, log: Log
) -> None:
    share = Share(log.c)
    log.append(b"v")
    assert share.map.pages < 100

    def die() -> None:
        theirs = child(tmp_path / "s")
        check(lib.mql_reserve_until(theirs.live, 3000 * SLOTS, ffi.new("int64_t *")))
        check(lib.mql_share_enter(theirs.c, 0))
        theirs.map.busy = 1  # he was about to move `growth`, as often as he has
        theirs.map.growth = share.live.seen

    dies(die)
    assert share.map.pages > 3000
    assert share.info().ready == 1
    put_many(log, 2000 * SLOTS)
    assert share.peek(3) == [0, 1, 2]


def test_parts_whose_maker_died_before_he_told_are_mapped_before_they_are_used(
    tmp_path: Path, log: Log
) -> None:
    share = Share(log.c)
    log.append(*[b"v"] * 100)

    def die() -> None:
        theirs = child(tmp_path / "s")
        growth = theirs.map.growth
        assert lib.mql_os_mutex_try(ffi.addressof(theirs.map.grow)) == 0
        arrays = ffi.addressof(theirs.live.arrays)
        check(lib.mql_arrays_grow(arrays, lib.MQL_LIVE_DUE, 1 << 16))
        theirs.map.growth = growth

    dies(die)
    growth = share.map.growth
    check(lib.mql_reserve_timers(share.live, lib.MQL_LIVE_DUE, 1 << 10))
    assert share.map.growth > growth  # so that all others look


def test_a_thread_s_mapping_is_believed_only_when_all_of_it_is_there(log: Log) -> None:
    share = Share(log.c)
    check(lib.mql_live_map(share.live))
    assert share.live.seen == share.map.growth
    share.map.growth += 1
    path, aside = share.path, share.path.with_suffix(".aside")
    path.rename(aside)  # so that nothing can be mapped any more
    share.map.pages += 512
    assert lib.mql_live_map(share.live) == lib.MQL_E_NOT_FOUND
    assert share.live.seen != share.map.growth
    with pytest.raises(Failed):
        share.info()
    share.map.pages -= 512
    aside.rename(path)


# -- opening ---------------------------------------------------------------------------------------
def reopened(path: Path, *, create: bool = False) -> Any:
    store = Store(path)
    return store, Share(store.log(segment_bytes=1 << 24).c, create=create)


def test_a_new_group_survives_damage_to_one_of_its_windows(tmp_path: Path) -> None:
    with Store(tmp_path / "s") as store:
        log = store.log()
        log.append(*[b"v"] * 10)
        path = Share(log.c, start=4).path
    whole = path.read_bytes()
    for at in (0x80, 0x100):
        path.write_bytes(flip(whole, at + 9))
        store, share = reopened(tmp_path / "s")
        assert share.info().first == 4
        store.close()
        store.free()
    path.write_bytes(flip(flip(whole, 0x89), 0x109))
    store = Store(tmp_path / "s")
    with pytest.raises(Failed) as failed:
        Share(store.log().c)
    assert failed.value.code == lib.MQL_E_CORRUPT
    assert store.log().append(b"v") == 10  # the log goes on
    store.close()
    store.free()


@pytest.mark.parametrize("start", [-1, 11, 1 << 40])
def test_a_group_cannot_begin_where_there_is_no_log(log: Log, start: int) -> None:
    log.append(*[b"v"] * 10)
    with pytest.raises(Failed) as failed:
        Share(log.c, start=start)
    assert failed.value.code == lib.MQL_E_RANGE
    assert (failed.value.start, failed.value.stop) == (0, 10)
    assert list(Path(log.directory).glob("shares/*")) == []


def test_a_name_whose_page_the_file_has_lost_is_forgotten(tmp_path: Path) -> None:
    with Store(tmp_path / "s") as store:
        log = store.log()
        share = Share(log.c)
        put_many(log, 30 * SLOTS)
        share.settle("accept", *share.acquire(1024)[SLOTS:])
        for _ in range(4):
            share.acquire(1024)
        path = share.path
    data = path.read_bytes()
    pages = len(share_file.read(data).chunks)
    assert pages > 10
    path.write_bytes(data[: share_file.position(3)])
    store, share = reopened(tmp_path / "s")
    share.rebuild()
    spare = share.map.clean + share.map.retired
    assert spare + len(share_file.read(path.read_bytes()).chunks) == share.map.pages
    delivered = set()
    while found := share.acquire(1024):
        delivered |= {one.offset for one in found}
    assert delivered >= set(range(30 * SLOTS)) - set(range(SLOTS, 1024))
    store.close()
    store.free()


def test_horizons_of_both_heaps_hold_when_what_is_due_does_not_fit(log: Log) -> None:
    """On a full disk a heap of released records must not cost the others their deadlines."""
    share = Share(log.c)
    log.append(*[b"v"] * 500)
    held = share.acquire(500, lock_ms=3_600_000)
    share.settle("release", *held[:300])
    with share.inside():
        usable = share.live.arrays.usable
        for which in (lib.MQL_LIVE_DUE, lib.MQL_LIVE_DEADLINES):
            usable[which] = 16
        check(lib.mql_live_rebuild(share.live, False))
        deadline = held[300].deadline_ms
        assert share.map.horizon[lib.MQL_LIVE_DUE] == 0
        assert share.map.next[lib.MQL_LIVE_DEADLINES] == deadline
        assert share.map.horizon[lib.MQL_LIVE_DEADLINES] == deadline
        assert share.map.timers[lib.MQL_LIVE_DEADLINES] == 16
        check(lib.mql_live_map(share.live))


def nameless(path: Path, records: int, held: int) -> None:
    """As after a power cut: a page is as it was, and the directory has not got its name."""
    with Store(path) as store:
        log = store.log(segment_bytes=1 << 24)
        put_many(log, records)
        share = Share(log.c)
        share.acquire(held)
        state, page = share.path, find(share, 0)
    assert page is not None
    data = bytearray(state.read_bytes())
    at = lib.MQL_PAGE + 8 * page  # in the directory, before the pages
    assert any(data[at : at + 8])
    data[at : at + 8] = bytes(8)
    state.write_bytes(data)


@pytest.mark.parametrize("died", [False, True])
def test_a_page_that_lost_its_name_to_a_power_cut_is_no_clean_one(
    tmp_path: Path, died: bool
) -> None:
    """What is left in it would be taken for records that others have: nobody would get them."""
    nameless(tmp_path / "s", records=2, held=2)
    with Store(tmp_path / "s") as store:
        again = Share(store.log().c)
        if died:  # inside, before the page is wiped
            again.rebuild()
        assert [one.offset for one in again.acquire(2)] == [0, 1]


def test_a_page_that_is_to_be_wiped_is_not_given_back_or_out_before(tmp_path: Path) -> None:
    nameless(tmp_path / "s", records=200 * SLOTS, held=1)
    with Store(tmp_path / "s") as store:
        again = Share(store.log(segment_bytes=1 << 24).c)
        assert again.map.retired == 1
        pages = again.map.pages
        again.map.end = 200 * SLOTS  # so that all but a few pages are to spare
        again.give_back()
        assert again.map.pages < pages
        assert again.map.clean + again.map.retired == again.map.pages
        assert again.map.retired == 1


def test_a_file_that_a_copy_made_sparse_gets_its_blocks(tmp_path: Path) -> None:
    """Else a full disk would end who touches it, by a signal."""
    with Store(tmp_path / "s") as store:
        log = store.log(segment_bytes=1 << 24)
        put_many(log, 100 * SLOTS)
        share = Share(log.c)
        share.acquire(1)
        path = share.path
    data = path.read_bytes()
    path.unlink()
    with path.open("wb") as file:
        file.write(data.rstrip(b"\0"))
        file.truncate(len(data))
    assert path.stat().st_blocks * 512 < len(data)
    with Store(tmp_path / "s") as store:
        again = Share(store.log(segment_bytes=1 << 24).c)
        assert again.path.stat().st_blocks * 512 >= again.path.stat().st_size
        assert again.map.pages > 100


@pytest.mark.parametrize("left", [0, 1])
def test_a_file_that_is_far_too_long_is_shortened(tmp_path: Path, left: int) -> None:
    with Store(tmp_path / "s") as store:
        log = store.log()
        log.append(b"a", b"b")
        share = Share(log.c)
        share.settle("accept", *share.acquire(2 - left))
        path = share.path
    with path.open("r+b") as file:
        file.truncate(1 << 30)
    with Store(tmp_path / "s") as store:
        again = Share(store.log().c)
        assert path.stat().st_size < 1 << 16
        assert again.info().ready == left
