"""Queues of a store that was opened with `mode="r"`: they are looked at, and nothing else."""

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from support.damage import flip, snapshot

import mqlog

STATE = "orders-0/shares/default.state"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A closed store: of ten orders two are done, one is dead, one waits for its time."""
    with mqlog.open(tmp_path / "shop") as store:
        orders = store.queue("orders", max_deliveries=1)
        for number in range(9):
            orders.put(b"order %d" % number, timeout=0)
        orders.put(b"later", delay=3600.0)
        orders.accept(orders.get_many(2))
        orders.get().reject("no such customer")
    return tmp_path / "shop"


def test_a_queue_is_looked_at_and_no_file_is_touched(path: Path) -> None:
    before = {file: (path / file).stat().st_mtime_ns for file in snapshot(path)}, snapshot(path)
    with mqlog.open(path, "r") as view:
        orders = view.queue("orders")
        stats = orders.stats()
        assert (stats.ready, stats.delayed, stats.acquired) == (6, 1, 0)
        assert (stats.accepted, stats.dead) == (2, 1)
        assert stats.oldest_age is not None and stats.oldest_age >= 0
        assert orders.qsize() == 6 and not orders.empty() and not orders.full()
        assert [one.value for one in orders.peek(3)] == [b"order 3", b"order 4", b"order 5"]
        assert [one.value for one in orders.peek(100)][-1] == b"order 8"
        assert orders.acquired() == []
        [dead] = orders.dead_letters.peek(5)
        assert dead.value == b"order 2"
        assert dead.header("__dlq.errors.message") == b"no such customer"
        [group] = view.groups("orders")
        assert (group.kind, group.lag, dict(group.committed)) == ("share", 7, {0: 3})
        assert group.stats is not None and group.stats.dead == 1
    after = {file: (path / file).stat().st_mtime_ns for file in snapshot(path)}, snapshot(path)
    assert after == before


def test_a_live_store_tells_the_same_to_both(store: mqlog.Store) -> None:
    orders = store.queue("orders")
    orders.put_many([b"%d" % n for n in range(700)])
    orders.put(b"urgent", priority=9)
    orders.accept(orders.get_many(300))
    held = orders.get()
    with mqlog.open(store.path, "r") as view:
        seen = view.queue("orders")
        ages = seen.stats().oldest_age, orders.stats().oldest_age
        assert None not in ages
        there, here = seen.stats(), orders.stats()
        for name in ("ready", "delayed", "acquired", "accepted", "dead", "bytes"):
            assert getattr(there, name) == getattr(here, name), name
        [mine], [theirs] = orders.acquired(), seen.acquired()
        assert (theirs.id, theirs.token, theirs.member) == (mine.id, mine.token, mine.member)
        assert [one.id for one in seen.peek(5)] == [one.id for one in orders.peek(5)]
        assert view.groups("orders")[0].members == store.groups("orders")[0].members
        held.accept()
        assert seen.acquired() == [] and seen.stats().accepted == here.accepted + 1


def test_the_end_is_the_snapshots_until_refresh(store: mqlog.Store) -> None:
    orders = store.queue("orders")
    orders.put(b"a")
    with mqlog.open(store.path, "r") as view:
        seen = view.queue("orders")
        orders.put(b"b")
        assert (seen.qsize(), [one.value for one in seen.peek(9)]) == (1, [b"a"])
        view.refresh()
        assert (seen.qsize(), [one.value for one in seen.peek(9)]) == (2, [b"a", b"b"])


def test_what_acquires_puts_or_waits_is_refused(path: Path) -> None:
    with mqlog.open(path, "r") as view:
        orders = view.queue("orders")
        calls: list[Callable[[], object]] = [
            lambda: orders.put(b"a"),
            lambda: orders.put(b"a", key=b"k", delay=1.0),
            lambda: orders.put_many([b"a"]),
            orders.get,
            orders.get_nowait,
            lambda: orders.get_many(2),
            lambda: next(orders.messages()),
            lambda: orders.run(print),
            lambda: orders.run(print, processes=1),
            orders.purge,
            orders.dead_letters.redrive,
            lambda: orders.join(0),
            orders.fileno,
            lambda: mqlog.wait([orders], 0),
            lambda: view.alter("orders", group="default", max_deliveries=2),
            lambda: view.delete_group("orders", "default"),
        ]
        for number, call in enumerate(calls):
            with pytest.raises(mqlog.ReadOnlyError):
                call()
                pytest.fail(f"call {number} was not refused")


def test_nothing_is_made(path: Path) -> None:
    with mqlog.open(path) as store:
        store.queue("mails").put(b"a")
    with mqlog.open(path, "r") as view:
        with pytest.raises(mqlog.NotFoundError, match="orders"):
            view.queue("order")
        with pytest.raises(mqlog.NotFoundError, match="default"):
            view.queue("orders", group="defalt")
        with pytest.raises(mqlog.NotFoundError, match="no dead letters yet"):
            _ = view.queue("mails").dead_letters
        with pytest.raises(mqlog.OptionError, match="max_deliveries"):
            view.queue("orders", max_deliveries=7)


def test_a_partition_that_came_after_the_group_is_seen_as_the_group_will_see_it(
    path: Path,
) -> None:
    with mqlog.open(path) as store:
        store.alter("orders", partitions=2)
        store.stream("orders").append(b"new", partition=1)
    with mqlog.open(path, "r") as view:
        assert view.queue("orders").qsize() == 7
        assert [one.value for one in view.queue("orders").peek(50)][-1] == b"new"
        assert view.groups("orders")[0].lag == 8


def test_groups_tell_what_they_pin(store: mqlog.Store) -> None:
    orders = store.queue("orders", segment_bytes=4096, batch_bytes=1024)
    audit = store.queue("orders", group="audit")
    for number in range(64):
        orders.put(b"%0500d" % number)
    whole = store.topic("orders").bytes
    orders.accept(orders.get_many(40))
    for mode in ("rw", "r"):
        with mqlog.open(store.path, mode) as view:
            lazy, busy = view.groups("orders")
            assert (lazy.name, lazy.pinned_bytes) == ("audit", whole)
            assert lazy.pinned_segments == view.topic("orders").segments > 2
            assert 24 * 500 < busy.pinned_bytes < 27 * 600
            assert busy.pinned_segments < lazy.pinned_segments
    orders.accept(orders.get_many(24))
    audit.purge()
    assert [group.pinned_bytes for group in store.groups("orders")] == [0, 0]
    assert [group.pinned_segments for group in store.groups("orders")] == [0, 0]


@pytest.mark.parametrize("seed", range(4))
def test_any_damage_gives_an_error_or_an_answer(path: Path, seed: int) -> None:
    rng, good = random.Random(seed), (path / STATE).read_bytes()
    for _ in range(150):
        at = rng.choice((rng.randrange(512), rng.randrange(len(good))))
        (path / STATE).write_bytes(flip(good, at, rng.randrange(8)))
        with mqlog.open(path, "r") as view:
            try:
                orders = view.queue("orders")
                assert orders.stats().ready + orders.stats().delayed >= 7
                assert len(orders.peek(20)) >= 6
            except (mqlog.CorruptError, mqlog.FormatError, mqlog.NotFoundError) as error:
                assert at < 16 and STATE in str(error)


def test_what_is_no_file_is_named(path: Path) -> None:
    (path / STATE).unlink()
    os.mkfifo(path / STATE)
    with mqlog.open(path, "r") as view, pytest.raises(OSError, match=r"default\.state"):
        view.queue("orders")
