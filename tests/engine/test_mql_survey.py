"""mql_survey: a share group as its file tells it, against what those say who have it open."""

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.damage import flip
from support.fault import Failed, Log, Share, Store, check, ffi, hooked, lib, put
from support.partition import DIRECTORY

SLOTS = lib.MQL_SHARE_SLOTS
FIELDS = ("ready", "delayed", "acquired", "first", "oldest", "next_ms", "bytes")
STATE = Path(DIRECTORY) / "shares/default.state"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "s") as opened:
        yield opened


@pytest.fixture
def log(store: Store) -> Log:
    return store.log()


def facts(share: Share) -> dict[str, Any]:
    info = share.info()
    return {name: getattr(info, name) for name in FIELDS} | {"ends": list(info.ends)}


def holders(share: Share, most: int = 5000) -> list[tuple[int, ...]]:
    out = ffi.new("mql_acquired[]", most)
    count = check(lib.mql_share_holders(share.c, out, most))
    return sorted(
        (one.offset, one.token, one.deliveries, one.deadline_ms, one.moving, one.holder)
        for one in out[0:count]
    )


def looked_at(path: Path, start: int | None = None) -> tuple[dict[str, Any], list[int], list[Any]]:
    """What a read-only store tells: facts, what comes next, who holds what."""
    with Store(path, read_only=1) as store:
        create = start is not None
        share = Share(store.log(create=0).c, create=create, start=start or 0)
        return facts(share), share.peek(3000), holders(share)


def said(share: Share) -> tuple[dict[str, Any], list[int], list[Any]]:
    return facts(share), share.peek(3000), holders(share)


def do_something(rng: random.Random, share: Share, log: Log, held: list[Any]) -> None:
    """One step in the life of a queue; some in bulk, so that chunks are finished and folded."""
    what = rng.choice(("put", "take", "accept", "accept", "release", "later", "delay", "archive"))
    some = rng.sample(held, min(len(held), rng.choice((1, 5, 400))))
    if what == "put":
        log.append(*[b"v"] * rng.choice((1, 10, 700)))
    elif what == "take":
        held += share.acquire(rng.choice((1, 20, 500)), lock_ms=rng.choice((-1, 1_000_000)))
        return
    elif what == "delay":
        check(lib.mql_share_make_room(log.c))
        later = int(time.time() * 1000) + rng.choice((-5, 1_000_000))
        check(lib.mql_share_delay(log.c, put(log), later))
    elif some and what == "accept":
        share.settle("accept", *some)
    elif some and what == "archive":
        share.settle("archive", *some, when=rng.choice((lib.MQL_DEAD, lib.MQL_EXPIRED)))
    elif some:
        when = int(time.time() * 1000) + 1_000_000 if what == "later" else 0
        share.settle("release", *some, when=when)
    else:
        return
    if what not in ("put", "delay"):
        gone = {one.offset for one in some}
        held[:] = [one for one in held if one.offset not in gone]


@pytest.mark.parametrize("seed", range(6))
def test_a_look_tells_what_those_tell_who_have_it_open(store: Store, log: Log, seed: int) -> None:
    rng = random.Random(seed)
    share = Share(log.c)
    held: list[Any] = []
    for step in range(120):
        do_something(rng, share, log, held)
        if step % 7 == 0:
            assert looked_at(store.path) == said(share), (seed, step)


@pytest.mark.parametrize("seed", range(3))
def test_nobody_holds_anything_in_a_closed_store(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    held: list[Any] = []
    with Store(tmp_path / "s") as store:
        log = store.log()
        share = Share(log.c)
        for _ in range(80):
            do_something(rng, share, log, held)
    seen = looked_at(tmp_path / "s")
    with Store(tmp_path / "s") as store:
        share = Share(store.log().c)
        there = said(share)
        assert there[0]["acquired"] == 0
        there[0].pop("bytes"), seen[0].pop("bytes")  # an opener makes the volatile file
        assert seen == there


def test_what_a_dead_process_held_is_to_be_delivered(store: Store, log: Log) -> None:
    share = Share(log.c)
    log.append(*[b"v"] * 6)
    share.acquire(1)
    child = os.fork()
    if child == 0:
        with Store(store.path) as other:
            Share(other.log().c).acquire(2)
            os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    seen, coming, held = looked_at(store.path)
    assert (seen["acquired"], seen["ready"], coming) == (1, 5, [1, 2, 3, 4, 5])
    assert [one[0] for one in held] == [0]


def test_a_look_ends_where_its_snapshot_ends(store: Store, log: Log) -> None:
    share = Share(log.c)
    log.append(*[b"v"] * 10)
    with Store(store.path, read_only=1) as other:
        look = Share(other.log(create=0).c)
        log.append(*[b"v"] * 500)
        share.settle("accept", *share.acquire(300))
        info = look.info()
        assert (info.ready, info.acquired, info.first) == (0, 0, 256)
        assert look.peek(100) == []
        assert Share(other.log(create=0).c).info().ready == 210


@pytest.mark.slow
def test_a_look_at_a_busy_group_finds_no_record_that_is_done(store: Store) -> None:
    """Another process puts and accepts a hundred at a time, so that chunks fold all the while."""
    Share(store.log().c)
    child = os.fork()
    if child == 0:
        with Store(store.path, threads=1) as other:
            log = other.log()
            share = Share(log.c)
            while True:
                log.append(*[b"v"] * 100)
                while got := share.acquire(100):
                    share.settle("accept", *got)
    try:
        for _ in range(2000):
            seen, coming, held = looked_at(store.path)
            assert seen["ready"] + seen["acquired"] <= 100
            assert len(coming) <= 100 and len(held) <= 100
        assert seen["first"] > 10 * SLOTS
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def use_pages_again(share: Share, log: Log, taken: list[Any]) -> None:
    """What was taken is accepted; its pages are wiped, and serve for records that come now."""
    share.settle("accept", *taken)
    share.recycle()
    log.append(*[b"v"] * 4 * SLOTS)
    share.acquire(1000), share.acquire(1000)


@pytest.mark.parametrize("spared", [0, SLOTS])
def test_a_page_that_serves_again_while_it_is_looked_at_says_nothing(
    tmp_path: Path, spared: int
) -> None:
    """It happens before each read in turn. `spared`: what keeps the window's start where it is."""
    seen = set()
    for number in range(100):
        reads, acquired = look_while_pages_serve_again(tmp_path / str(number), number, spared)
        seen.add(acquired)
        if reads <= number:
            break
    assert {spared, spared + 3 * SLOTS} <= seen


def look_while_pages_serve_again(path: Path, number: int, spared: int) -> tuple[int, int]:
    """How often the state was read, and how many records were seen acquired; none is ever ready."""
    with Store(path) as store, Store(path, read_only=1) as other:
        log = store.log()
        share = Share(log.c)
        log.append(*[b"v"] * (spared + 3 * SLOTS))
        if spared:
            share.acquire(spared)
        taken = share.acquire(1000)
        look = Share(other.log(create=0).c)
        reads = []

        def hook(call: int, name: str) -> int:
            if call == lib.MQL_FAULT_READ and name.endswith("default.state"):
                reads.append(name)
                if len(reads) == number + 1:
                    use_pages_again(share, log, taken)
            return 0

        with hooked(hook):
            info = look.info()
        assert info.ready == 0, number
        assert spared <= info.acquired <= spared + len(taken)
        return len(reads), info.acquired


def test_a_group_without_a_file_is_new_where_it_is_said_to_be(store: Store, log: Log) -> None:
    log.append(*[b"v"] * 10)
    with pytest.raises(Failed) as failed:
        looked_at(store.path)
    assert failed.value.code == lib.MQL_E_NOT_FOUND
    seen, coming, held = looked_at(store.path, start=4)
    assert (seen["ready"], seen["first"], coming) == (6, 4, [4, 5, 6, 7, 8, 9])
    assert (held, seen["bytes"]) == ([], 0)
    assert not (store.path / DIRECTORY / "shares").exists()


def test_a_look_refuses_what_changes_or_waits(store: Store, log: Log) -> None:
    share = Share(log.c)
    log.append(b"v")
    one = share.acquire()[0]
    with Store(store.path, read_only=1) as other:
        look = Share(other.log(create=0).c)
        calls = [
            look.acquire,
            lambda: look.settle("accept", one),
            lambda: check(lib.mql_share_wait(look.c, 0)),
            lambda: check(lib.mql_share_wait_final(look.c, 1, 0)),
            lambda: check(lib.mql_share_wait_room(look.log, 1, 0, 0)),
            lambda: check(lib.mql_share_skip(look.c, 0, one.token, 1)),
            lambda: check(lib.mql_share_delay(look.log, 0, 1)),
            lambda: check(lib.mql_share_make_room(look.log)),
            lambda: check(lib.mql_share_bound(look.c, 1, 0)),
            lambda: check(lib.mql_share_delete(look.c)),
            lambda: check(lib.mql_share_waiting(look.c)),
        ]
        for number, call in enumerate(calls):
            with pytest.raises(Failed) as failed:
                call()
            assert failed.value.code == lib.MQL_E_READ_ONLY, number
        assert lib.mql_share_due_in(look.c) == 0
        assert lib.mql_share_unfinished(look.c, 0, 1) == 0


# -- bytes that lie ------------------------------------------------------------------------------

KNOWN = (lib.MQL_E_FORMAT, lib.MQL_E_NOT_FOUND, lib.MQL_E_CORRUPT)


@pytest.fixture
def damaged(tmp_path: Path) -> tuple[Path, Path, dict[str, Any]]:
    """A closed store, its state file, and what a look tells: chunks, a done page, two windows."""
    with Store(tmp_path / "s") as store:
        log = store.log()
        log.append(*[b"v"] * 1500)
        share = Share(log.c)
        held = share.acquire(1000) + share.acquire(300)
        share.settle("accept", *held[SLOTS : 4 * SLOTS])  # not the first: a done page
        share.settle("archive", *held[4 * SLOTS : 4 * SLOTS + 9], when=lib.MQL_DEAD)
        share.settle("release", held[0], when=int(time.time() * 1000) + 10_000_000)
    path = tmp_path / "s"
    return path, path / STATE, looked_at(path)[0]


def is_right(seen: dict[str, Any], before: dict[str, Any]) -> bool:
    """Nothing that was unfinished counts as finished; what is lost is delivered once more."""
    left = ("ready", "delayed", "acquired")
    return sum(seen[name] for name in left) >= sum(before[name] for name in left)


def flips(data: bytes) -> list[int]:
    """Each byte that says something, and some that do not."""
    return [at for at, byte in enumerate(data) if byte != 0] + list(range(0, len(data), 997))


@pytest.mark.slow
def test_any_flipped_byte_gives_an_error_or_costs_a_delivery_at_most(
    damaged: tuple[Path, Path, dict[str, Any]],
) -> None:
    path, file, before = damaged
    data = file.read_bytes()
    told = set()
    with Store(path, read_only=1) as store:
        log = store.log(create=0)
        for at in flips(data):
            file.write_bytes(flip(data, at, at % 8))
            try:
                look = Share(log.c)
                assert is_right(facts(look), before), (at, facts(look), before)
                look.peek(100), holders(look)
            except Failed as failed:
                told.add(failed.code)
                assert at < 16, at
    assert told <= {lib.MQL_E_FORMAT, lib.MQL_E_NOT_FOUND}


@pytest.mark.parametrize("seed", range(5))
def test_rubbish_gives_an_error_or_an_answer(
    damaged: tuple[Path, Path, dict[str, Any]], seed: int
) -> None:
    path, file, _ = damaged
    rng, data = random.Random(seed), bytearray(file.read_bytes())
    for _ in range(400):
        at = rng.randrange(len(data))
        size = rng.choice((1, 8, 60, 4096))
        data[at : at + size] = rng.randbytes(len(data[at : at + size]))
        file.write_bytes(bytes(data[: rng.choice((len(data), rng.randrange(len(data))))]))
        try:
            looked_at(path)
        except Failed as failed:
            assert failed.code in KNOWN


@pytest.mark.parametrize("keep", [0, 1, 15, 127, 300, 4095, 4096, 5000, 8192, 12_288])
def test_a_file_cut_short_gives_an_error_or_costs_a_delivery_at_most(
    damaged: tuple[Path, Path, dict[str, Any]], keep: int
) -> None:
    path, file, before = damaged
    os.truncate(file, keep)
    if keep < 4096:
        try:
            assert is_right(looked_at(path)[0], before) and keep > 128
        except Failed as failed:
            assert failed.code in KNOWN
    else:
        assert is_right(looked_at(path)[0], before)


@pytest.mark.parametrize("kind", ["fifo", "directory", "symlink"])
def test_what_is_no_file_is_refused(
    damaged: tuple[Path, Path, dict[str, Any]], kind: str, tmp_path: Path
) -> None:
    path, file, _ = damaged
    file.rename(tmp_path / "real")
    {
        "fifo": lambda: os.mkfifo(file),
        "directory": file.mkdir,
        "symlink": lambda: file.symlink_to(tmp_path / "real"),
    }[kind]()
    with pytest.raises(Failed) as failed:
        looked_at(path)
    assert failed.value.code == lib.MQL_E_OS
    assert "default.state" in failed.value.path


def test_a_huge_file_of_holes_is_looked_through(damaged: tuple[Path, Path, dict[str, Any]]) -> None:
    path, file, before = damaged
    os.truncate(file, 1 << 40)
    assert {**looked_at(path)[0], "bytes": 0} == {**before, "bytes": 0}


def test_a_file_that_nobody_has_filled_is_of_a_group_that_is_new(store: Store, log: Log) -> None:
    log.append(*[b"v"] * 3)
    (store.path / STATE).parent.mkdir()
    (store.path / STATE).touch()
    with pytest.raises(Failed) as failed:
        looked_at(store.path)
    assert failed.value.code == lib.MQL_E_NOT_FOUND
    assert looked_at(store.path, start=1)[1] == [1, 2]
