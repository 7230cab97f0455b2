"""What other programs do to our files: their bytes are kept, and never taken for ours."""

from pathlib import Path

import pytest
from support.partition import (
    DIRECTORY,
    PAGE,
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
