"""What other programs do to our files: their bytes are kept, and never taken for ours."""

import errno
import resource
from pathlib import Path

import pytest
from support.partition import (
    DIRECTORY,
    PAGE,
    Failed,
    Store,
    batch,
    check,
    lib,
    log_file,
    reboot,
    unclean,
)


def append_three(store: Store) -> None:
    log = store.log()
    for value in (b"a", b"b", b"c"):
        log.append(value)


def set_aside(path: Path) -> dict[str, bytes]:
    directory = path / DIRECTORY
    return {file.name: file.read_bytes() for file in directory.glob("*.cut-*")}


def closed_log(path: Path) -> Path:
    """A cleanly closed log of three records; its file has its exact length."""
    with Store(path) as store:
        append_three(store)
    return path / DIRECTORY / log_file(0)


STRANGE = {
    "text": b"not ours\n" * 3,
    "half a batch": batch(3, b"d", b"e")[:-3],
    "another offset": batch(9, b"d"),
    "zeros and a word": bytes(PAGE) + b"here",
    "much": b"\xff" * (3 << 20),
}


@pytest.mark.parametrize("rebooted", [False, True])
@pytest.mark.parametrize("what", STRANGE)
def test_what_a_stranger_appends_to_a_closed_log_is_set_aside(
    tmp_path: Path, what: str, rebooted: bool
):
    file = closed_log(tmp_path / "s")
    whole = file.read_bytes()
    with file.open("ab") as out:
        out.write(STRANGE[what])
    if rebooted:
        reboot(tmp_path / "s")
    with Store(tmp_path / "s") as store:
        log = store.log()
        assert log.read() == [(0, b"a"), (1, b"b"), (2, b"c")]
        ((row, *where, name),) = store.recovered
        assert row in (3, 4, 5)
        assert where == [0, len(whole), len(STRANGE[what])]
        assert set_aside(tmp_path / "s") == {name: STRANGE[what]}
        assert log.append(b"d") == 3
    with Store(tmp_path / "s") as store:
        assert (store.log().values(), store.recovered) == ([b"a", b"b", b"c", b"d"], [])
        assert set_aside(tmp_path / "s") == {name: STRANGE[what]}


@pytest.mark.parametrize("rebooted", [False, True])
def test_batches_that_are_the_ones_expected_are_the_log_whoever_appended_them(
    tmp_path: Path, rebooted: bool
):
    file = closed_log(tmp_path / "s")
    with file.open("ab") as out:
        out.write(batch(3, b"d", b"e") + batch(5, b"f") + b"and more")
    if rebooted:
        reboot(tmp_path / "s")
    with Store(tmp_path / "s", read_only=1) as store:
        assert store.log().values() == [b"a", b"b", b"c", b"d", b"e", b"f"]
    with Store(tmp_path / "s") as store:
        log = store.log()
        assert log.append(b"g") == 6
        assert log.values() == [b"a", b"b", b"c", b"d", b"e", b"f", b"g"]
        assert list(set_aside(tmp_path / "s").values()) == [b"and more"]


def test_what_a_stranger_appends_to_a_killed_log_is_set_aside(tmp_path: Path):
    unclean(tmp_path / "s", append_three)
    file = tmp_path / "s" / DIRECTORY / log_file(0)
    size = file.stat().st_size
    with file.open("ab") as out:
        out.write(b"not ours\n")
    with Store(tmp_path / "s") as store:
        log = store.log()
        ((row, segment, position, count, name),) = store.recovered
        assert (row, segment, position, count) == (8, 0, size, 9)
        assert set_aside(tmp_path / "s") == {name: b"not ours\n"}
        assert log.append(b"d") == 3
        log.append(b"x" * size)
        assert log.values()[:4] == [b"a", b"b", b"c", b"d"]


def test_what_a_stranger_appends_to_an_open_log_outlives_its_close(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        append_three(store)
        file = tmp_path / "s" / DIRECTORY / log_file(0)
        end, size = store.log().end[1], file.stat().st_size
        with file.open("ab") as out:
            out.write(b"not ours\n")
    with Store(tmp_path / "s") as store:
        assert store.log().append(b"d") == 3
        assert list(set_aside(tmp_path / "s").values()) == [bytes(size - end) + b"not ours\n"]
        assert store.log().values() == [b"a", b"b", b"c", b"d"]


def test_space_that_was_allocated_and_not_used_is_no_strangers(tmp_path: Path):
    """Its allocator died before it took the first offset."""
    file = closed_log(tmp_path / "s")
    whole = file.read_bytes()

    def allocate(store: Store) -> None:
        check(lib.mql_room_allocate(store.log().c, 0, len(whole) + 1))

    unclean(tmp_path / "s", allocate)
    assert file.stat().st_size > len(whole)
    with Store(tmp_path / "s") as store:
        assert (store.log().ends, store.recovered) == ((0, 3, 3), [])
        assert store.log().control.epoch == 0, "only processes died"
    assert file.read_bytes() == whole, "closing gives it its exact length"


def test_what_cannot_be_set_aside_stays_where_it_is(tmp_path: Path):
    """And no part of a copy is left, however often it is tried: the disk may be full."""
    file = closed_log(tmp_path / "s")
    strange = STRANGE["much"]
    with file.open("ab") as out:
        out.write(strange)
    before = file.read_bytes()
    bounds = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, bounds[1]))
    try:
        for _ in range(3):
            with Store(tmp_path / "s") as store, pytest.raises(Failed) as failed:
                store.log()
            assert failed.value.errno == errno.EFBIG
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, bounds)
    assert (file.read_bytes(), set_aside(tmp_path / "s")) == (before, {})
    with Store(tmp_path / "s") as store:
        assert store.log().values() == [b"a", b"b", b"c"]
        assert list(set_aside(tmp_path / "s").values()) == [strange]


@pytest.mark.parametrize("base", [2**62, 2**63 - 2, 2**63, 10**20 - 1])
def test_a_file_with_a_number_that_no_log_comes_to_is_nobodys(tmp_path: Path, base: int):
    file = closed_log(tmp_path / "s").with_name(log_file(base))
    file.write_bytes(batch(min(base, 2**63 - 9), b"x"))
    with Store(tmp_path / "s") as store:
        assert (store.log().append(b"d"), store.recovered) == (3, [])
        assert store.log().values() == [b"a", b"b", b"c", b"d"]
    assert file.exists()
