"""Share groups: what is acquired, settled, released and forgotten, against a model in Python."""

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.partition import Failed, Log, Store, dies, ffi, lib
from support.share import Share, put


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "s") as opened:
        yield opened


@pytest.fixture
def log(store: Store) -> Log:
    return store.log()


def offsets(found: list[Any]) -> list[int]:
    return [one.offset for one in found]


def test_records_are_acquired_in_order_and_once(log: Log) -> None:
    share = Share(log.c)
    log.append(*[b"v"] * 1000)
    assert offsets(share.acquire(600)) == list(range(600))
    assert offsets(share.acquire(600)) == list(range(600, 1000))
    assert share.acquire() == []


def test_an_accepted_record_is_final(log: Log) -> None:
    share = Share(log.c)
    log.append(b"a", b"b")
    one = share.acquire()[0]
    assert (one.deliveries, one.moving) == (1, -1)
    assert share.settle("accept", one) == [0]
    assert share.settle("accept", one) == [lib.MQL_E_LOST]
    assert share.settle("release", one) == [lib.MQL_E_LOST]
    assert share.info().ends[lib.MQL_ACCEPTED] == 1
    assert share.info().first == 1
    assert share.waiting() == 1


def test_a_released_record_comes_first_and_counts_its_deliveries(log: Log) -> None:
    share = Share(log.c)
    log.append(b"a", b"b", b"c")
    first, second = share.acquire(2)
    share.settle("release", second)
    share.settle("release", first)
    again = share.acquire(3)
    assert offsets(again) == [0, 1, 2]
    assert [one.deliveries for one in again] == [2, 2, 1]
    assert again[0].token > first.token
    assert share.settle("accept", first) == [lib.MQL_E_LOST]


def test_an_uncounted_release_gives_its_delivery_back(log: Log) -> None:
    share = Share(log.c)
    log.append(b"a")
    share.settle("release", *share.acquire(), flags=lib.MQL_UNCOUNTED)
    assert share.acquire()[0].deliveries == 1


def test_a_record_released_for_later_is_not_given_before(log: Log) -> None:
    share = Share(log.c)
    log.append(b"a")
    due = int(time.time() * 1000) + 80
    share.settle("release", *share.acquire(), when=due)
    assert share.acquire() == []
    assert share.info().delayed == 1
    while not (found := share.acquire()):
        lib.mql_share_wait(share.c, 10_000_000)
    assert offsets(found) == [0]
    assert time.time() * 1000 >= due - 10


def test_a_lock_whose_deadline_has_passed_is_another_consumers(log: Log) -> None:
    share = Share(log.c)
    log.append(b"a")
    late = share.acquire(lock_ms=1)[0]
    while not (found := share.acquire()):
        lib.mql_share_wait(share.c, 5_000_000)
    assert found[0].deliveries == 2
    assert share.settle("accept", late) == [lib.MQL_E_LOST]
    assert share.settle("accept", found[0]) == [0]


def test_whoever_takes_what_was_abandoned_is_told(tmp_path: Path) -> None:
    """By a deadline, a death, the end of all; not what was given back."""
    with Store(tmp_path / "s") as store:
        log = store.log()
        share = Share(log.c)
        log.append(b"a")

        def take(lock_ms: int = 30_000) -> Any:
            while not (found := share.acquire(lock_ms=lock_ms)):
                lib.mql_share_wait(share.c, 5_000_000)
            return found[0]

        def other() -> None:
            theirs = Store(tmp_path / "s")
            assert Share(theirs.log().c).acquire()[0].abandoned == 0

        found = [take(lock_ms=1), take()]
        assert [(one.deliveries, one.abandoned) for one in found] == [(1, 0), (2, 1)]
        share.settle("release", found[1])
        dies(other)
        found = [take()]
        share.settle("release", found[0])
        found.append(take())
        assert [(one.deliveries, one.abandoned) for one in found] == [(4, 1), (5, 0)]

    def another() -> None:
        theirs = Store(tmp_path / "s")
        assert Share(theirs.log().c).acquire()[0].abandoned == 1

    dies(another)
    with Store(tmp_path / "s") as store:
        (one,) = Share(store.log().c).acquire()
        assert (one.deliveries, one.abandoned) == (7, 1)


def test_a_renewed_lock_holds(log: Log) -> None:
    share = Share(log.c)
    log.append(b"a")
    one = share.acquire(lock_ms=20)[0]
    assert share.settle("renew", one, when=60_000) == [0]
    time.sleep(0.03)
    assert share.acquire() == []
    assert share.settle("accept", one) == [0]


def test_no_more_than_max_acquired_are_out(log: Log) -> None:
    share = Share(log.c)
    log.append(*[b"v"] * 10)
    held = share.acquire(10, most=3)
    assert len(held) == 3
    assert share.acquire(1, most=3) == []
    share.settle("accept", held[0])
    assert offsets(share.acquire(10, most=3)) == [3]


def test_a_delayed_record_waits_and_does_not_hold_up_the_others(log: Log) -> None:
    share = Share(log.c)
    log.append(*[b"v"] * 3)
    assert lib.mql_share_make_room(log.c) == 0
    assert lib.mql_share_delay(log.c, 1, int(time.time() * 1000) + 60_000) == 0
    assert offsets(share.acquire(5)) == [0, 2]
    assert share.waiting() == 1
    assert offsets(share.acquire(5, any_=True)) == [1]


def test_a_move_is_taken_up_again_when_its_mover_gave_up(log: Log) -> None:
    share = Share(log.c)
    log.append(b"poison", b"b")
    one = share.acquire()[0]
    assert share.settle("move", one, when=77) == [0]
    assert share.settle("accept", one) == [lib.MQL_E_LOST]
    assert share.settle("park", one) == [0]
    again = share.acquire()[0]
    assert (again.offset, again.moving) == (0, 77)
    assert share.settle("archive", again, when=lib.MQL_DEAD) == [0]
    assert share.info().ends[lib.MQL_DEAD] == 1


def test_offsets_without_records_are_skipped_whole_chunks_at_once(log: Log) -> None:
    share = Share(log.c)
    log.append(*[b"v"] * 5000)
    one = share.acquire()[0]
    assert lib.mql_share_skip(share.c, one.offset, one.token, 4999) == 0
    info = share.info()
    assert (info.ends[lib.MQL_GONE], info.first, info.end) == (4999, 4999, 4999)
    assert offsets(share.acquire(5)) == [4999]
    before = share.derived()
    share.rebuild()
    assert share.derived() == before


def test_a_bounded_queue_is_full_at_exactly_its_size(log: Log) -> None:
    share = Share(log.c)
    lib.mql_share_bound(share.c, 3, 0)
    log.append(b"a", b"b", b"c")
    assert put(log) == lib.MQL_FULL
    assert lib.mql_share_wait_room(log.c, 1, 0, 0) == lib.MQL_TIMEOUT
    share.acquire()
    assert lib.mql_share_wait_room(log.c, 1, 0, 0) == 0
    assert put(log) == lib.MQL_OK
    assert put(log) == lib.MQL_FULL


def backlog(share: Share) -> int:
    size = ffi.new("int64_t *")
    assert lib.mql_share_backlog(share.c, size) == lib.MQL_OK
    return int(size[0])


def test_a_backlog_is_the_same_when_the_log_has_just_rolled(log: Log) -> None:
    """All is durable then, and what was rolled is as long as it was prepared."""
    share = Share(log.c)
    log.append(b"a", b"b")
    size = backlog(share)
    log.sync()
    assert lib.mql_append_roll(log.c, 0) == lib.MQL_OK
    assert backlog(share) == size


def test_a_bounded_backlog_is_full_at_exactly_its_bytes(log: Log) -> None:
    share = Share(log.c)
    assert backlog(share) == 0
    assert put(log) == lib.MQL_OK
    size = backlog(share)
    lib.mql_share_bound(share.c, 0, 2 * size)
    assert (put(log), put(log)) == (lib.MQL_OK, lib.MQL_FULL)
    wanted = lib.mql_error_last()
    assert (wanted.start, wanted.stop) == (1, size)
    assert backlog(share) == 2 * size
    held = share.acquire(2)
    share.settle("accept", held[1])
    assert lib.mql_share_wait_room(log.c, 1, size, 0) == lib.MQL_TIMEOUT
    share.settle("accept", held[0])
    assert backlog(share) == 0
    assert lib.mql_share_wait_room(log.c, 2, 2 * size, 0) == lib.MQL_OK
    assert lib.mql_share_wait_room(log.c, 3, 3 * size, 0) == lib.MQL_TIMEOUT
    assert (put(log), put(log), put(log)) == (lib.MQL_OK, lib.MQL_OK, lib.MQL_FULL)


def test_a_wall_clock_that_is_set_is_gone_by(log: Log, store: Store) -> None:
    share, later = Share(log.c), 10_000_000
    lib.mql_set_wall(store.c, later)
    assert lib.mql_wall(store.c) == later
    lib.mql_share_make_room(log.c)
    lib.mql_share_delay(log.c, log.append(b"v"), later + 1)
    assert share.acquire() == []
    assert lib.mql_share_due_in(share.c) > 0
    assert (share.info().ready, share.info().delayed) == (0, 1)
    lib.mql_set_wall(store.c, later + 1)
    assert lib.mql_share_due_in(share.c) == 0
    assert offsets(share.acquire()) == [0]
    lib.mql_set_wall(store.c, 0)
    assert abs(lib.mql_wall(store.c) / 1000 - time.time()) < 60


def test_a_parked_move_is_not_taken_up_at_once_when_all_is_derived_anew(log: Log) -> None:
    share = Share(log.c)
    log.append(b"v")
    held = share.acquire()
    share.settle("move", *held)
    share.settle("park", *held, when=int(time.time() * 1000) + 3_600_000)
    share.rebuild()
    assert share.acquire() == []
    assert (share.info().ready, share.info().delayed) == (0, 1)


def test_a_delayed_record_at_the_end_is_nothing_new(log: Log) -> None:
    share = Share(log.c)
    lib.mql_share_make_room(log.c)
    far = int(time.time() * 1000) + 3_600_000
    for offset in reversed([log.append(b"v") for _ in range(3)]):
        lib.mql_share_delay(log.c, offset, far)
    assert lib.mql_share_due_in(share.c) > 10**9
    assert share.acquire() == []


def test_what_a_dead_process_held_is_released(tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    log = store.log()
    share = Share(log.c)
    log.append(*[b"v"] * 10)

    def other() -> None:
        theirs = Store(tmp_path / "s")
        assert len(Share(theirs.log().c).acquire(4)) == 4

    dies(other)
    assert share.info().acquired == 4
    found: list[int] = []
    for _ in range(100):
        found += offsets(share.acquire(10))
        if len(found) == 10:
            break
        time.sleep(0.01)
    assert sorted(found) == list(range(10))
    store.close()


def test_two_groups_do_not_know_of_each_other(log: Log) -> None:
    log.append(b"a", b"b")
    one, other = Share(log.c), Share(log.c, "audit", start=1)
    assert offsets(one.acquire(5)) == [0, 1]
    assert offsets(other.acquire(5)) == [1]


def test_a_deleted_group_is_gone_and_begins_anew(log: Log) -> None:
    share = Share(log.c)
    log.append(b"a", b"b")
    held = share.acquire()[0]
    assert lib.mql_share_delete(share.c) == lib.MQL_BUSY
    share.settle("accept", held)
    assert lib.mql_share_delete(share.c) == 0
    with pytest.raises(Failed) as failed:
        share.acquire()
    assert failed.value.code == lib.MQL_E_NOT_FOUND
    assert offsets(Share(log.c).acquire(5)) == [0, 1]


def test_everything_is_found_again_after_the_store_was_closed(tmp_path: Path) -> None:
    with Store(tmp_path / "s") as store:
        log = store.log()
        share = Share(log.c)
        log.append(*[b"v"] * 3000)
        held = share.acquire(1000) + share.acquire(1000)
        share.settle("accept", *held[:1990])
        share.settle("release", held[1995])
    with Store(tmp_path / "s") as store:
        share = Share(store.log().c, create=False)
        found = share.acquire(1024)
        assert offsets(found) == [*range(1990, 2000), *range(2000, 3000)]
        assert [one.deliveries for one in found[:11]] == [2] * 10 + [1]


class Pair:
    """A share group, and beside it what it should be in plain Python."""

    def __init__(self, log: Log, seed: int) -> None:
        self.log, self.share = log, Share(log.c)
        self.chance = random.Random(seed)
        self.far = int(time.time() * 1000) + 3_600_000
        self.end = 0
        self.ready: set[int] = set()
        self.later: set[int] = set()
        self.held: dict[int, Any] = {}
        self.final: set[int] = set()

    def put(self) -> None:
        count = self.chance.choice([1, 1, 2, 50, 700])
        self.log.append(*[b"v"] * count)
        self.ready |= set(range(self.end, self.end + count))
        self.end += count

    def put_later(self) -> None:
        lib.mql_share_make_room(self.log.c)
        offset = self.log.append(b"later")
        assert lib.mql_share_delay(self.log.c, offset, self.far) == 0
        self.end += 1
        self.later.add(offset)

    def acquire(self) -> None:
        wanted = self.chance.choice([1, 1, 3, 100, 800])
        found = self.share.acquire(wanted)
        expected = sorted(self.ready)[:wanted]
        assert sorted(offsets(found)) == expected
        self.ready -= set(expected)
        self.held.update((one.offset, one) for one in found)

    def settle(self, event: str, into: set[int], when: int = 0) -> None:
        count = min(len(self.held), self.chance.choice([1, 1, 5, 200]))
        some = self.chance.sample(sorted(self.held), count)
        if self.chance.random() < 0.5:
            some = sorted(self.held)[:count]
        items = [self.held.pop(offset) for offset in some]
        assert self.share.settle(event, *items, when=when) == [0] * count
        assert self.share.settle("accept", *items) == [lib.MQL_E_LOST] * count
        into.update(some)

    def rebuild(self) -> None:
        before = self.share.derived()
        self.share.rebuild()
        assert self.share.derived() == before

    def step(self) -> None:
        actions: dict[str, Callable[[], object]] = {
            "p": self.put,
            "l": self.put_later,
            "a": self.acquire,
            "s": lambda: self.settle("accept", self.final),
            "r": lambda: self.settle("release", self.ready),
            "d": lambda: self.settle("release", self.later, self.far),
            "x": self.rebuild,
            "b": self.share.recycle,
            "c": self.share.give_back,
        }
        actions[self.chance.choice("ppppaaaaaasssssrrrldxbc")]()

    def agree(self) -> None:
        info = self.share.info()
        assert self.share.waiting() == len(self.ready) + len(self.later)
        assert (info.ready, info.delayed) == (len(self.ready), len(self.later))
        assert info.acquired == len(self.held)
        assert info.ends[lib.MQL_ACCEPTED] == len(self.final)
        assert info.first == min(self.ready | self.later | set(self.held), default=self.end)
        assert info.oldest == min(self.ready | self.later, default=-1)
        assert self.share.peek(5) == sorted(self.ready)[:5]


@pytest.mark.parametrize("seed", range(12))
def test_any_sequence_of_calls_agrees_with_the_model(log: Log, seed: int) -> None:
    pair = Pair(log, seed)
    lib.mql_share_make_room(log.c)
    for _ in range(700):
        pair.step()
        pair.agree()
    assert pair.share.info().ends[lib.MQL_DAMAGED] == 0
