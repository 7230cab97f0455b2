"""mql_store: the first opener, those who join, the gate, options, bells, and who is refused."""

import os
import shutil
import signal
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.partition import (
    DIRECTORY,
    Failed,
    Store,
    check,
    dies,
    ffi,
    flip,
    lib,
    log_file,
    standing_still,
    take,
)
from support.share import Share

SECOND = 10**9


def in_child(work: Callable[[], object]) -> str:
    """What `work` gives, or raises, in a forked child."""
    end, start = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer = str(work())
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(start, answer.encode())
        os._exit(0)
    os.close(start)
    with os.fdopen(end, "rb") as pipe:
        answer = pipe.read().decode()
    os.waitpid(child, 0)
    return answer


def doorbell(path: Path) -> bytearray:
    return bytearray((path / "doorbell").read_bytes())


def instance(path: Path) -> int:
    return struct.unpack_from("<Q", doorbell(path), 0x38)[0]


# -- opening --------------------------------------------------------------------------------------
def test_a_directory_is_made_only_on_request(tmp_path: Path):
    with pytest.raises(Failed) as failed:
        Store(tmp_path / "s", create=0)
    assert failed.value.code == lib.MQL_E_NOT_FOUND
    assert not (tmp_path / "s").exists()
    with Store(tmp_path / "s"):
        assert set(os.listdir(tmp_path / "s")) == {"store.lock", "doorbell"}


def test_the_first_opener_resets_what_is_shared_and_the_second_joins(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        first = instance(tmp_path / "s")
        assert first != 0
        store.log().append(b"a")

        def join() -> int:
            second = Store(tmp_path / "s")
            assert second.log().values() == [b"a"]
            return instance(tmp_path / "s")

        assert in_child(join) == str(first)
        assert instance(tmp_path / "s") == first
    assert instance(tmp_path / "s") == 0, "nobody has it ready"
    with Store(tmp_path / "s"):
        assert instance(tmp_path / "s") not in (0, first)


def test_the_opener_after_a_death_of_all_resets_too(tmp_path: Path):
    dies(lambda: Store(tmp_path / "s").log().append(b"a"))
    dead = instance(tmp_path / "s")
    assert dead != 0
    with Store(tmp_path / "s") as store:
        assert instance(tmp_path / "s") != dead
        assert store.log().values() == [b"a"]


@pytest.mark.parametrize("lock", ["writer", "commit", "prepare"])
def test_a_lock_that_died_with_its_owner_is_made_anew_by_the_first_opener(
    tmp_path: Path, lock: str
):
    def work() -> None:
        log = Store(tmp_path / "s").log()
        log.append(b"a")
        take(ffi.addressof(log.control, lock))

    dies(work)
    with Store(tmp_path / "s") as store:
        log = store.log()
        assert log.append(b"b", flags=lib.MQL_DURABLE) == 1


@pytest.mark.parametrize("lock", ["writer", "commit", "prepare"])
def test_a_lock_that_came_along_in_a_copy_is_made_anew(tmp_path: Path, lock: str):
    """Nobody hears of the death of an owner whom the copy has never had."""

    def copy() -> None:
        log = Store(tmp_path / "s").log()
        log.append(b"a")
        take(ffi.addressof(log.control, lock))
        shutil.copytree(tmp_path / "s", tmp_path / "copy")

    def work() -> None:
        signal.alarm(10)  # who waits for such a lock does so for ever
        log = Store(tmp_path / "copy").log()
        assert log.append(b"b", flags=lib.MQL_DURABLE) > 0

    dies(copy)
    dies(work)


def test_opening_twice_in_a_process_is_one_store_counted(tmp_path: Path):
    first, second = Store(tmp_path / "s"), Store(tmp_path / "s")
    assert first.c == second.c
    log = first.log()
    second.close()
    assert log.append(b"a") == 0, "the other opening is still there"
    first.close()
    with pytest.raises(Failed) as failed:
        log.append(b"b")
    assert failed.value.code == lib.MQL_E_CLOSED
    first.free()
    second.free()


def test_a_closed_store_refuses_everything(tmp_path: Path):
    store = Store(tmp_path / "s")
    log = store.log()
    log.append(b"a")
    cursor = log.cursor(0)
    store.close()
    for call in (
        lambda: log.append(b"b"),
        log.sync,
        lambda: log.trim(0),
        lambda: log.cursor(0),
        cursor.next,
        store.log,
        lambda: check(lib.mql_wait(log.c, 5, SECOND)),
        lambda: check(lib.mql_doorbell_wait(store.c, 0, SECOND)),
        lambda: check(lib.mql_sync(store.c)),
    ):
        with pytest.raises(Failed) as failed:
            call()
        assert failed.value.code == lib.MQL_E_CLOSED
    cursor.free()
    store.free()


def mapped(path: Path) -> set[str]:
    """Names of the store's files that this process has mapped."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line.rpartition("/")[2] for line in lines if f"{path}/" in line}


def test_a_closed_store_maps_nothing_though_its_handles_are_there(tmp_path: Path):
    store = Store(tmp_path / "s")
    log = store.log()
    log.append(b"a")
    cursors = [log.cursor(0) for _ in range(3)]
    for cursor in cursors:
        assert cursor.next() == [(0, b"a")]
    group = ffi.new("mql_group **")
    check(lib.mql_group_open(log.c, b"billing", 1, group))
    assert {"doorbell", "control", "billing.offset"} < mapped(tmp_path)
    cursors.pop(1).free()
    store.close()
    assert mapped(tmp_path) == set()
    assert lib.mql_group_owner(group[0]) == 0
    for cursor in cursors:
        cursor.free()
    store.free()


def test_a_lease_keeps_its_segment_mapped_and_not_its_indexes(tmp_path: Path):
    store = Store(tmp_path / "s")
    log = store.log()
    log.append(b"a")
    cursor, one, lease = log.cursor(0), ffi.new("mql_batch *"), ffi.new("mql_lease **")
    check(lib.mql_cursor_next(cursor.c, one))
    check(lib.mql_cursor_lease(cursor.c, lease))
    assert log_file(0, ".index") in mapped(tmp_path)
    store.close()
    assert mapped(tmp_path) == {log_file(0)}
    cursor.free()
    store.free()
    lib.mql_lease_free(lease[0])
    assert mapped(tmp_path) == set()


def test_a_pinned_store_stays_mapped_until_the_last_pin_is_gone(tmp_path: Path):
    store = Store(tmp_path / "s")
    log = store.log()
    log.append(b"a")
    lib.mql_pin(store.c)
    lib.mql_pin(store.c)
    store.close()
    before = mapped(tmp_path)
    assert "control" in before
    assert log.control.published.generation > 0, "a call in flight may read it"
    lib.mql_unpin(store.c)
    assert mapped(tmp_path) == before
    lib.mql_unpin(store.c)
    assert mapped(tmp_path) == set()
    store.free()


def test_a_pin_of_a_store_that_is_open_changes_nothing(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log()
        lib.mql_pin(store.c)
        lib.mql_unpin(store.c)
        assert log.append(b"a") == 0


def take_sync(path: Path) -> None:
    """As a process of its own: who has the store open has to be reckoned with."""
    take(ffi.addressof(Share(Store(path).log().c).c.live.map, "sync"))


def test_a_close_that_gives_up_a_lock_leaves_the_store_as_it_was(tmp_path: Path):
    with Store(tmp_path / "s", threads=1) as store:
        log = store.log(sync_interval_ns=1)
        share = Share(log.c)
        log.append(b"a")
        share.acquire()
        with standing_still(lambda: take_sync(tmp_path / "s")):
            lib.mql_enter(store.c)
            assert lib.mql_close(store.c) == lib.MQL_E_LATER
            lib.mql_leave(store.c)
            assert log.append(b"b") == 1
            with Store(tmp_path / "s", threads=1) as same:  # it is the same one
                assert same.c == store.c
        assert log.append(b"c") == 2
        until = time.monotonic() + 10
        while log.ends[2] < 3:  # a thread of its own syncs
            assert time.monotonic() < until


def test_an_abandoned_store_is_closed_though_locks_of_it_are_held(tmp_path: Path):
    store = Store(tmp_path / "s")
    log = store.log()
    share = Share(log.c)
    log.append(b"a")
    share.acquire()
    with standing_still(lambda: take_sync(tmp_path / "s")):
        lib.mql_abandon(store.c)
        assert mapped(tmp_path) == set()
        store.free()
    with Store(tmp_path / "s") as again:
        assert again.recovered == []
        assert again.log().values() == [b"a"]
        assert [one.offset for one in Share(again.log().c).acquire()] == [0]


def test_nobody_is_the_first_while_calls_of_a_store_abandoned_without_the_gate_are_under_way(
    tmp_path: Path,
):
    """The first one would make the locks anew that they are under."""

    def instance() -> int:
        return Store(tmp_path / "s").log().c.home.bell.instance

    store = Store(tmp_path / "s")
    before = store.log().c.home.bell.instance
    lib.mql_pin(store.c)
    with standing_still(lambda: check(lib.mql_gate_take(Store(tmp_path / "s").c, SECOND))):
        lib.mql_abandon(store.c)
    assert in_child(instance) == str(before)
    lib.mql_unpin(store.c)
    assert in_child(instance) != str(before)
    store.free()


def test_a_forked_child_frees_the_cursors_of_its_parent(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log()
        log.append(b"a")
        cursors = [log.cursor(0) for _ in range(3)]

        def child() -> str:
            cursors[1].free()
            store.free()
            return "freed"

        assert in_child(child) == "freed"
        for cursor in cursors:
            assert cursor.next() == [(0, b"a")]
            cursor.free()


@pytest.mark.slow
def test_an_opener_that_meets_the_last_closer_waits_for_it(tmp_path: Path):
    def open_and_close() -> None:
        for _ in range(300):
            with Store(tmp_path / "s"):
                pass

    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(in_child, [open_and_close] * 3))
    assert answers == ["None"] * 3


def test_a_half_made_reset_is_made_again(tmp_path: Path):
    """A death while rebuilding is repaired by the next opener, who sees `ready` unset."""
    with Store(tmp_path / "s") as store:
        store.log().append(b"a")
    path = tmp_path / "s" / "doorbell"
    path.write_bytes(bytes(100) + bytes(doorbell(tmp_path / "s"))[100:])
    with Store(tmp_path / "s") as store:
        assert store.log().values() == [b"a"]


# -- refusals -------------------------------------------------------------------------------------
def test_a_store_of_a_newer_layout_is_refused_and_left_alone(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        store.log().append(b"a")
    path = tmp_path / "s" / "doorbell"
    newer = doorbell(tmp_path / "s")
    struct.pack_into("<II", newer, 8, 9, 9)
    path.write_bytes(newer)
    for read_only in (0, 1):
        with pytest.raises(Failed) as failed:
            Store(tmp_path / "s", read_only=read_only)
        assert failed.value.code == lib.MQL_E_FORMAT
        assert "newer" in failed.value.text
    assert path.read_bytes() == newer


@pytest.mark.parametrize("file", ["control", "checkpoint"])
def test_a_partition_of_a_newer_layout_is_refused_and_left_alone(tmp_path: Path, file: str):
    with Store(tmp_path / "s") as store:
        store.log().append(b"a")
    path = tmp_path / "s" / DIRECTORY / file
    newer = bytearray(path.read_bytes())
    for at in range(0, len(newer), 512 if file == "checkpoint" else len(newer)):
        struct.pack_into("<II", newer, at + 8, 9, 9)
        if file == "checkpoint" and any(newer[at + 16 : at + 508]):
            crc = lib.mql_crc32c(0, bytes(newer[at : at + 508]), 508)
            struct.pack_into("<I", newer, at + 508, crc)
    if file == "control":
        struct.pack_into("<I", newer, 0x38, lib.mql_crc32c(0, bytes(newer[:0x38]), 0x38))
    path.write_bytes(newer)
    with Store(tmp_path / "s") as store:
        with pytest.raises(Failed) as failed:
            store.log()
        assert failed.value.code == lib.MQL_E_FORMAT
        assert "newer" in failed.value.text
    assert path.read_bytes() == newer


@pytest.mark.slow
@pytest.mark.parametrize("file", [f"{DIRECTORY}/control", f"{DIRECTORY}/checkpoint", "doorbell"])
def test_a_flipped_bit_of_a_page_of_ours_is_never_a_newer_layout_and_costs_nothing(
    tmp_path: Path, file: str
):
    """Each is volatile or doubled: the log is as it was, and goes on without a gap."""
    with Store(tmp_path / "s") as store:
        store.log().append(b"a", b"b")
        store.log().append(b"c")
    before = {one: one.read_bytes() for one in (tmp_path / "s").rglob("*") if one.is_file()}
    path = tmp_path / "s" / file
    data = before[path]
    used = {*range(0x48), *(at for at in range(len(data)) if data[at])}
    for at in sorted(used | set(range(0, len(data), 61))):
        bit = at % 8 if at > 0x10 else None
        for n in range(8) if bit is None else (bit,):
            for one, kept in before.items():  # into the same files: a page knows its inode
                one.write_bytes(flip(kept, at, n) if one == path else kept)
            for read_only in (1, 0):
                with Store(tmp_path / "s", read_only=read_only) as store:
                    log = store.log()
                    assert log.values() == [b"a", b"b", b"c"], (at, n)
                    assert store.recovered == [], (at, n)
                    if not read_only and file != f"{DIRECTORY}/checkpoint":
                        assert log.append(b"d") == 3, (at, n)


def test_a_damaged_page_in_use_is_put_right_under_its_users(tmp_path: Path):
    """Who made it anew would take the locks away from those who hold them."""
    with Store(tmp_path / "s") as store:
        log = store.log()
        log.append(b"a")
        writer = ffi.addressof(log.control.writer)
        for at in range(0x3C):
            whole = (log.directory / "control").read_bytes()[:0x40]
            with (log.directory / "control").open("r+b") as file:
                file.write(flip(whole, at))
            assert lib.mql_os_mutex_try(writer) == 0
            dies(lambda: Store(tmp_path / "s").log())
            assert lib.mql_os_mutex_try(writer) == lib.MQL_OS_BUSY, at
            lib.mql_os_mutex_drop(writer)
            assert (log.directory / "control").read_bytes()[:0x40] == whole, at
        assert log.append(b"b") == 1


@pytest.mark.parametrize(
    ("at", "word"), [(0x20, "PID namespace"), (0x28, "time namespace"), (0x30, "C library")]
)
def test_a_process_that_cannot_share_memory_with_the_others_is_refused(
    tmp_path: Path, at: int, word: str
):
    with Store(tmp_path / "s"):
        path = tmp_path / "s" / "doorbell"
        with path.open("r+b") as file:
            file.seek(at)
            file.write(struct.pack("<Q", 12345))
        assert word in in_child(lambda: Store(tmp_path / "s"))
    with Store(tmp_path / "s"):
        pass  # nobody is there any more: it begins anew


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a b", "x" * 246, "ü", "a\n"])
def test_a_name_that_no_topic_may_have_is_refused_and_makes_nothing(tmp_path: Path, name: str):
    with Store(tmp_path / "s") as store:
        before = sorted(os.listdir(tmp_path)), sorted(os.listdir(tmp_path / "s"))
        with pytest.raises(Failed) as failed:
            store.log(name)
        assert failed.value.code == lib.MQL_E_ARGUMENT
        assert (sorted(os.listdir(tmp_path)), sorted(os.listdir(tmp_path / "s"))) == before


@pytest.mark.parametrize("kind", ["file", "link", "fifo"])
def test_what_is_no_directory_is_no_partition(tmp_path: Path, kind: str):
    with Store(tmp_path / "s") as store:
        (tmp_path / "elsewhere").mkdir()
        path = tmp_path / "s" / DIRECTORY
        if kind == "file":
            path.write_bytes(b"mine")
        elif kind == "link":
            path.symlink_to(tmp_path / "elsewhere")
        else:
            os.mkfifo(path)
        with pytest.raises(Failed) as failed:
            store.log()
        assert failed.value.code == lib.MQL_E_OS
        assert not list((tmp_path / "elsewhere").iterdir())


# -- the gate -------------------------------------------------------------------------------------
def test_the_gate_has_one_holder_among_processes_and_may_be_taken_again_by_it(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        assert lib.mql_gate_take(store.c, SECOND) == lib.MQL_OK
        assert lib.mql_gate_take(store.c, SECOND) == lib.MQL_OK
        held, go = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            lock = os.open(tmp_path / "s" / "store.lock", os.O_RDWR)
            try:
                import fcntl

                ofd = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 1, 0)
                fcntl.fcntl(lock, 37, ofd)  # F_OFD_SETLK
                os.write(held[1], b"taken")
            except OSError:
                os.write(held[1], b"refused")
            os._exit(0)
        assert os.read(held[0], 10) == b"refused"
        os.waitpid(child, 0)
        lib.mql_gate_drop(store.c)
        lib.mql_gate_drop(store.c)
        for descriptor in (*held, *go):
            os.close(descriptor)


def test_a_gate_that_another_process_holds_times_out_and_is_free_at_its_death(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        held, go = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            other = Store(tmp_path / "s")
            lib.mql_gate_take(other.c, SECOND)
            os.write(held[1], b"x")
            os.read(go[0], 1)
            os._exit(0)
        os.read(held[0], 1)
        assert lib.mql_gate_take(store.c, 1_000_000) == lib.MQL_TIMEOUT
        os.kill(child, 9)
        os.waitpid(child, 0)
        assert lib.mql_gate_take(store.c, SECOND) == lib.MQL_OK
        lib.mql_gate_drop(store.c)
        for descriptor in (*held, *go):
            os.close(descriptor)


# -- options --------------------------------------------------------------------------------------
def options(store: Store) -> bytes | None:
    data, length = ffi.new("uint8_t **"), ffi.new("size_t *")
    if check(lib.mql_options_read(store.c, data, length)) == lib.MQL_END:
        return None
    out = bytes(ffi.buffer(data[0], length[0]))
    lib.mql_bytes_free(data[0])
    return out


def test_options_are_written_whole_under_the_gate_and_move_the_generation(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        assert options(store) is None
        with pytest.raises(Failed) as failed:
            check(lib.mql_options_write(store.c, b"{}", 2))
        assert failed.value.code == lib.MQL_E_ARGUMENT
        before = lib.mql_options_generation(store.c)
        for data in (b"{}", b'{"longer": 1}', b""):
            lib.mql_gate_take(store.c, SECOND)
            check(lib.mql_options_write(store.c, data, len(data)))
            lib.mql_gate_drop(store.c)
            assert options(store) == data
        assert lib.mql_options_generation(store.c) == before + 3
        assert not (tmp_path / "s" / "mqlog.json.tmp").exists()


def test_the_options_generation_grows_over_openings(tmp_path: Path):
    seen = []
    for _ in range(3):
        with Store(tmp_path / "s") as store:
            seen.append(lib.mql_options_generation(store.c))
    assert seen == sorted(set(seen))


# -- bells ----------------------------------------------------------------------------------------
def test_the_bell_moves_with_an_append_anywhere_after_it_was_looked_at(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        logs = [store.log("t", n) for n in range(3)]
        for log in logs:
            seen = lib.mql_doorbell(store.c)
            assert lib.mql_doorbell_wait(store.c, seen, 1000) == lib.MQL_TIMEOUT
            log.append(b"a")
            assert lib.mql_doorbell_wait(store.c, seen, SECOND) == lib.MQL_OK


def test_waking_ends_waits_of_other_processes(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        seen = lib.mql_doorbell(store.c)

        def work() -> int:
            other = Store(tmp_path / "s")
            lib.mql_wake(other.c)
            return 0

        assert in_child(work) == "0"
        assert lib.mql_doorbell_wait(store.c, seen, SECOND) == lib.MQL_OK


# -- deleting -------------------------------------------------------------------------------------
def test_a_deleted_partition_is_gone_for_every_handle_and_may_be_made_again(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log()
        log.append(b"old")
        (log.directory / "groups").mkdir()
        (log.directory / "groups" / "g.offset").write_bytes(b"")
        lib.mql_gate_take(store.c, SECOND)
        check(lib.mql_partition_delete(log.c))
        lib.mql_gate_drop(store.c)
        calls: list[Callable[[], Any]] = [
            lambda: log.append(b"b"),
            lambda: log.cursor(0),
            log.sync,
        ]
        for call in calls:
            with pytest.raises(Failed) as failed:
                call()
            assert failed.value.code == lib.MQL_E_DELETED
        assert [name for name in os.listdir(tmp_path / "s") if name.startswith("t-0")] == []
        again = store.log()
        assert again.append(b"new") == 0
        assert again.values() == [b"new"]


# -- read-only ------------------------------------------------------------------------------------
def test_a_read_only_store_takes_no_lock_and_writes_nothing(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        store.log().append(b"a")
    before = {
        path: (path.stat().st_mtime_ns, path.read_bytes())
        for path in (tmp_path / "s").rglob("*")
        if path.is_file()
    }
    with Store(tmp_path / "s", read_only=1) as store:
        log = store.log()
        assert log.values() == [b"a"]
        for call in (lambda: log.append(b"b"), log.sync, lambda: log.trim(0)):
            with pytest.raises(Failed) as failed:
                call()
            assert failed.value.code == lib.MQL_E_READ_ONLY
        with Store(tmp_path / "other") as other:
            assert other.c != store.c
    after = {
        path: (path.stat().st_mtime_ns, path.read_bytes())
        for path in (tmp_path / "s").rglob("*")
        if path.is_file()
    }
    assert after == before
