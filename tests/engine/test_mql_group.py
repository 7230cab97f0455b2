"""mql_group: committed offsets in two slots, members, and who owns a partition."""

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support import turns
from support.partition import Failed, Log, Store, check, dies, ffi, flip, lib

SLOTS, SLOT = 0x90, 24


class Group:
    def __init__(self, log: Log, name: str = "billing", create: int = 1) -> None:
        out = ffi.new("mql_group **")
        check(lib.mql_group_open(log.c, name.encode(), create, out))
        self.c = out[0]
        self.path = log.directory / "groups" / f"{name}.offset"

    @property
    def committed(self) -> int:
        out = ffi.new("int64_t *", 77)
        check(lib.mql_group_committed(self.c, out))
        return out[0]

    def join(self) -> int:
        out = ffi.new("uint64_t *")
        check(lib.mql_group_join(self.c, out))
        return out[0]

    def members(self) -> list[int]:
        out = ffi.new("uint64_t[500]")
        return list(out[0 : check(lib.mql_group_members(self.c, out, 500))])

    def claim(self, member: int) -> bool:
        return check(lib.mql_group_claim(self.c, member)) == lib.MQL_OK

    def owner(self) -> int:
        return lib.mql_group_owner(self.c)

    def commit(self, member: int, offset: int, durable: int = 0) -> None:
        check(lib.mql_group_commit(self.c, member, offset, durable))


def fill(log: Log, count: int = 100) -> None:
    log.append(*[b"%d" % n for n in range(count)])


def owned(log: Log) -> tuple[Group, int]:
    group = Group(log)
    member = group.join()
    assert group.claim(member)
    return group, member


# -- committed offsets ----------------------------------------------------------------------------
def test_a_new_group_has_committed_nothing(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log()
        with pytest.raises(Failed) as failed:
            Group(log, create=0)
        assert failed.value.code == lib.MQL_E_NOT_FOUND
        assert not (log.directory / "groups").exists()
        assert Group(log).committed == lib.MQL_NO_OFFSET


@pytest.mark.parametrize("how", ["closed", "killed", "durable"])
def test_what_was_committed_last_is_what_is_committed(tmp_path: Path, how: str):
    def work(store: Store) -> None:
        log = store.log()
        fill(log)
        group, member = owned(log)
        for offset in (3, 50, 7, 9):
            group.commit(member, offset, how == "durable")
            assert group.committed == offset

    if how == "killed":
        dies(lambda: work(Store(tmp_path / "s")))
    else:
        with Store(tmp_path / "s") as store:
            work(store)
    with Store(tmp_path / "s") as store:
        assert Group(store.log(), create=0).committed == 9
    with Store(tmp_path / "s", read_only=1) as store:
        assert Group(store.log(), create=0).committed == 9


@pytest.mark.parametrize("offset", [-1, 101, 2**62])
def test_an_offset_outside_the_log_is_refused_with_the_range(tmp_path: Path, offset: int):
    with Store(tmp_path / "s") as store:
        log = store.log()
        fill(log)
        group, member = owned(log)
        group.commit(member, 100)
        with pytest.raises(Failed) as failed:
            group.commit(member, offset)
        assert (failed.value.code, failed.value.stop) == (lib.MQL_E_RANGE, 100)
        assert group.committed == 100


def test_only_the_owner_commits(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log()
        fill(log)
        group, member = owned(log)
        group.commit(member, 5)
        for other in (0, group.join(), member + 1):
            with pytest.raises(Failed) as failed:
                group.commit(other, 9)
            assert failed.value.code == lib.MQL_E_LOST
        assert group.committed == 5


def two_commits(tmp_path: Path) -> Path:
    with Store(tmp_path / "s") as store:
        log = store.log()
        fill(log)
        group, member = owned(log)
        group.commit(member, 11)
        group.commit(member, 22)
        return group.path


def committed(tmp_path: Path, **how: Any) -> int:
    with Store(tmp_path / "s", **how) as store:
        return Group(store.log(), create=0).committed


@pytest.mark.parametrize("read_only", [0, 1])
def test_a_flipped_bit_in_a_slot_gives_the_older_commit_and_never_another(
    tmp_path: Path, read_only: int
):
    path = two_commits(tmp_path)
    data = path.read_bytes()
    for at in range(SLOTS, SLOTS + 2 * SLOT):
        if at in range(SLOTS + 20, SLOTS + 24) or at >= SLOTS + SLOT + 20:
            continue  # reserved
        path.write_bytes(flip(data, at, at % 8))
        expected = 11 if at < SLOTS + SLOT else 22  # commit 2 is in slot 0
        assert committed(tmp_path, read_only=read_only) == expected, at - SLOTS


def test_both_slots_damaged_is_an_error_that_names_the_file(tmp_path: Path):
    path = two_commits(tmp_path)
    path.write_bytes(flip(flip(path.read_bytes(), SLOTS), SLOTS + SLOT))
    with Store(tmp_path / "s") as store:
        group = Group(store.log())
        with pytest.raises(Failed) as failed:
            _ = group.committed
        assert failed.value.code == lib.MQL_E_CORRUPT
        assert failed.value.path == "t-0/groups/billing.offset"
        assert failed.value.position == SLOTS
        member = group.join()
        assert group.claim(member)
        group.commit(member, 33)
        assert group.committed == 33, "committing anew puts it right"


def test_a_death_in_the_middle_of_a_commit_leaves_the_one_before(tmp_path: Path):
    path = two_commits(tmp_path)
    data = bytearray(path.read_bytes())
    data[SLOTS + SLOT : SLOTS + SLOT + 8] = (99).to_bytes(8, "little")  # half of commit 3
    path.write_bytes(data)
    assert committed(tmp_path) == 22


def commit_three(tmp_path: Path, path: Path) -> None:
    """Each goes over the slot that does not count, and the last one counts."""
    with Store(tmp_path / "s") as store:
        group, member = owned(store.log())
        for offset in (33, 44, 55):
            with turns.writing_the_other(path, turns.COMMITS):
                group.commit(member, offset, durable=1)
            assert group.committed == offset
    for read_only in (1, 0):
        assert committed(tmp_path, read_only=read_only) == 55


@pytest.mark.parametrize(("even", "odd", "counts"), turns.GREATEST)
def test_commits_behind_the_greatest_number_count(
    tmp_path: Path, even: int | None, odd: int | None, counts: int
):
    path = two_commits(tmp_path)
    turns.plant(path, turns.COMMITS, even, odd)
    assert committed(tmp_path) == (22, 11)[counts]
    commit_three(tmp_path, path)


def test_taking_a_commit_back_to_the_end_counts_behind_the_greatest_number(tmp_path: Path):
    path = two_commits(tmp_path)
    with Store(tmp_path / "shorter") as store:
        fill(store.log(), 10)
        shorter = Group(store.log()).path
    turns.plant(path, turns.COMMITS, None, turns.LAST)
    shorter.write_bytes(path.read_bytes())
    with Store(tmp_path / "shorter") as store:
        assert Group(store.log()).committed == 10
        assert turns.numbers(shorter, turns.COMMITS) == (2, turns.LAST)


@pytest.mark.parametrize("read_only", [0, 1])
@pytest.mark.parametrize(("even", "odd", "counts"), turns.ROUND + turns.STRAY)
def test_of_two_commits_the_one_with_the_later_number_counts_in_its_own_slot(
    tmp_path: Path, even: int, odd: int, counts: int | None, read_only: int
):
    path = two_commits(tmp_path)
    turns.plant(path, turns.COMMITS, even, odd)
    if counts is None:
        with pytest.raises(Failed) as failed:
            committed(tmp_path, read_only=read_only)
        assert failed.value.code == lib.MQL_E_CORRUPT
    else:
        assert committed(tmp_path, read_only=read_only) == (22, 11)[counts]
    commit_three(tmp_path, path)


HEADER = 16


@pytest.mark.parametrize("read_only", [0, 1])
def test_a_flipped_bit_in_the_header_is_damage_and_the_commits_say_whose_file_it_is(
    tmp_path: Path, read_only: int
):
    """Not "a newer mqlog", which says so in two words; a writer puts the header right."""
    path = two_commits(tmp_path)
    data = path.read_bytes()
    for at in range(HEADER):
        for bit in range(8):
            path.write_bytes(flip(data, at, bit))
            assert committed(tmp_path, read_only=read_only) == 22, (at, bit)
            if not read_only and at not in range(8, 12):  # a layout may be newer, and fit
                assert path.read_bytes()[: HEADER - 4] == data[: HEADER - 4], (at, bit)


def test_a_damaged_header_without_any_commit_is_an_error_that_names_the_file(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        group, _ = owned(store.log())
    data = group.path.read_bytes()
    for at in range(HEADER):
        for bit in range(8):
            group.path.write_bytes(flip(data, at, bit))
            for read_only in (1, 0):
                try:
                    assert committed(tmp_path, read_only=read_only) == lib.MQL_NO_OFFSET
                except Failed as failed:
                    assert failed.code == lib.MQL_E_CORRUPT
                    assert (failed.path, failed.position) == ("t-0/groups/billing.offset", 0)
                    assert group.path.read_bytes() == flip(data, at, bit)


@pytest.mark.parametrize("foreign", [b"billing", b"MQLBELL\0" + bytes(4088), b"x" * 4096])
def test_a_foreign_file_is_refused_and_left_alone(tmp_path: Path, foreign: bytes):
    path = two_commits(tmp_path)
    path.write_bytes(foreign)
    for read_only in (0, 1):
        with pytest.raises(Failed) as failed:
            committed(tmp_path, read_only=read_only)
        assert failed.value.code == lib.MQL_E_CORRUPT
        assert failed.value.path == "t-0/groups/billing.offset"
    assert path.read_bytes().startswith(foreign)


def test_a_newer_file_is_refused_and_left_alone(tmp_path: Path):
    path = two_commits(tmp_path)
    data = bytearray(path.read_bytes())
    data[8:16] = (9).to_bytes(4, "little") * 2
    path.write_bytes(data)
    for read_only in (0, 1):
        with pytest.raises(Failed) as failed:
            committed(tmp_path, read_only=read_only)
        assert failed.value.code == lib.MQL_E_FORMAT
        assert "newer" in failed.value.text
    assert path.read_bytes() == data


@pytest.mark.parametrize("length", [0, 1, 0x90, 0xA0, 4095])
def test_a_truncated_file_gives_a_commit_that_was_made_or_none(tmp_path: Path, length: int):
    path = two_commits(tmp_path)
    path.write_bytes(path.read_bytes()[:length])
    for read_only in (1, 0):
        try:
            assert committed(tmp_path, read_only=read_only) in (11, 22, lib.MQL_NO_OFFSET)
        except Failed as failed:
            assert failed.code in (lib.MQL_E_CORRUPT, lib.MQL_E_FORMAT)


# -- members --------------------------------------------------------------------------------------
def test_ids_grow_and_never_come_back(tmp_path: Path):
    seen: list[int] = []
    for _ in range(3):
        with Store(tmp_path / "s") as store:
            group = Group(store.log())
            for _ in range(4):
                member = group.join()
                seen.append(member & lib.MQL_MEMBER_COUNTER)
                lib.mql_group_leave(group.c, member)
    assert seen == sorted(set(seen))


def test_ids_grow_though_the_doorbell_was_lost(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        before = Group(store.log()).join() & lib.MQL_MEMBER_COUNTER
    (tmp_path / "s" / "doorbell").unlink()
    now = lib.mql_os_now_ms()
    while lib.mql_os_now_ms() == now:
        pass  # the coarse clock, from which lost ids go on, has moved
    with Store(tmp_path / "s") as store:
        assert Group(store.log()).join() & lib.MQL_MEMBER_COUNTER > before


def test_members_are_listed_in_the_order_in_which_they_joined(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        group = Group(store.log())
        joined = [group.join() for _ in range(10)]
        assert group.members() == joined
        lib.mql_group_leave(group.c, joined[4])
        lib.mql_group_leave(group.c, 12345)
        assert group.members() == joined[:4] + joined[5:]


def test_the_members_of_a_dead_process_are_gone(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        group = Group(store.log())
        mine = group.join()
        dies(lambda: [Group(Store(tmp_path / "s").log()).join() for _ in range(3)])
        assert group.members() == [mine]


def test_members_of_an_earlier_instance_of_the_store_are_gone(tmp_path: Path):
    dies(lambda: Group(Store(tmp_path / "s").log()).join())
    with Store(tmp_path / "s") as store:
        group = Group(store.log())
        assert group.members() == []
        assert group.members() == [group.join()] or len(group.members()) == 1


def test_a_group_holds_no_more_than_its_places(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        group = Group(store.log())
        joined = [group.join() for _ in range(lib.MQL_MEMBERS_MAX)]
        with pytest.raises(Failed):
            group.join()
        lib.mql_group_leave(group.c, joined[7])
        assert group.join() > joined[-1]


# -- ownership ------------------------------------------------------------------------------------
def test_a_partition_has_one_owner(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        group = Group(store.log())
        first, second = group.join(), group.join()
        assert group.owner() == 0
        assert group.claim(first)
        assert group.claim(first), "again"
        assert not group.claim(second)
        lib.mql_group_drop(group.c, second)
        assert group.owner() == first
        lib.mql_group_drop(group.c, first)
        assert group.claim(second)
        assert group.owner() == second


def test_a_partition_of_a_live_process_is_not_taken_from_it_and_of_a_dead_one_it_is(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log()
        fill(log)
        group = Group(log)
        mine = group.join()
        ready, go = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            other, member = owned(Store(tmp_path / "s").log())
            other.commit(member, 42)
            os.write(ready[1], b"x")
            os.read(go[0], 1)
            os._exit(0)
        os.read(ready[0], 1)
        owner = group.owner()
        assert not group.claim(mine)
        os.kill(child, 9)
        os.waitpid(child, 0)
        assert group.claim(mine)
        assert group.owner() == mine != owner
        assert group.committed == 42, "it goes on from the committed offset"
        with pytest.raises(Failed) as failed:
            group.commit(owner, 50)
        assert failed.value.code == lib.MQL_E_LOST
        for descriptor in (*ready, *go):
            os.close(descriptor)


def test_a_process_that_forked_dies_and_its_child_keeps_nothing_of_it(tmp_path: Path):
    """K8: the child shares its parent's descriptors, and must not keep its place."""
    with Store(tmp_path / "s") as store:
        group = Group(store.log())
        mine = group.join()
        alive, end = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            Group(Store(tmp_path / "s").log())
            owned(Store(tmp_path / "s").log())
            if os.fork() == 0:
                os.write(alive[1], b"x")
                os.close(end[1])
                os.read(end[0], 1)
                os._exit(0)
            os.kill(os.getpid(), 9)
        os.waitpid(child, 0)
        os.read(alive[0], 1)
        assert group.claim(mine)
        assert group.members() == [mine]
        for descriptor in (*alive, *end):
            os.close(descriptor)


def test_a_deleted_group_is_gone_and_may_be_made_again(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log()
        fill(log)
        group, member = owned(log)
        group.commit(member, 5)
        assert lib.mql_group_delete(group.c) == lib.MQL_BUSY
        lib.mql_group_drop(group.c, member)
        assert lib.mql_group_delete(group.c) == lib.MQL_BUSY, "it is a member still"
        assert group.committed == 5
        lib.mql_group_leave(group.c, member)
        check(lib.mql_group_delete(group.c))
        assert not group.path.exists()
        for call in (lambda: group.claim(member), group.join):
            with pytest.raises(Failed) as failed:
                call()
            assert failed.value.code == lib.MQL_E_NOT_FOUND
        assert Group(log).committed == lib.MQL_NO_OFFSET


def locks() -> int:
    """How many descriptors of store.lock this process has."""
    count = 0
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # listdir's own
            count += os.readlink(f"/proc/self/fd/{descriptor}").endswith("/store.lock")
    return count


def test_a_group_is_not_made_while_somebody_holds_the_gate(tmp_path: Path):
    """Who deletes it in all partitions holds it, and must meet no newcomer."""
    with Store(tmp_path / "s") as store:
        log = store.log()
        made: list[Group] = []
        check(lib.mql_gate_take(store.c, 10**9))
        before = locks()
        thread = threading.Thread(target=lambda: made.append(Group(log)))
        thread.start()
        while thread.is_alive() and locks() == before:
            pass  # it is on its way to the gate
        assert not (log.directory / "groups").exists()
        lib.mql_gate_drop(store.c)
        thread.join()
        assert made[0].path.exists()


def test_a_read_only_store_refuses_what_changes_a_group(tmp_path: Path):
    two_commits(tmp_path)
    with Store(tmp_path / "s", read_only=1) as store:
        group = Group(store.log(), create=0)
        for call in (
            group.join,
            lambda: group.claim(5),
            lambda: group.commit(5, 1),
            lambda: check(lib.mql_group_delete(group.c)),
        ):
            with pytest.raises(Failed) as failed:
                call()
            assert failed.value.code == lib.MQL_E_READ_ONLY
        assert group.owner() == 0
        assert group.members() == []


def test_an_offset_that_the_log_has_not_reached_is_taken_back_to_its_end(tmp_path: Path) -> None:
    """A file that was put back beside an older log: its readers would miss what comes there."""
    with Store(tmp_path / "s") as store:
        log = store.log()
        fill(log)
        group, member = owned(log)
        group.commit(member, 90)
        path = group.path
    ahead = path.read_bytes()
    with Store(tmp_path / "older") as store:
        log = store.log()
        fill(log, 10)
        assert Group(log).committed == lib.MQL_NO_OFFSET
        path = Group(log).path
    path.write_bytes(ahead)
    with Store(tmp_path / "older") as store:
        log = store.log()
        assert Group(log).committed == 10
        fill(log, 100)
        assert Group(log).committed == 10
