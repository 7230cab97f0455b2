"""mql_checkpoint: which of its two slots counts, whatever numbers they have."""

import os
from pathlib import Path
from typing import Any

import pytest
from support import turns
from support.partition import DIRECTORY, Store, check, ffi, lib, reboot, unclean


class File:
    """A checkpoint on its own."""

    def __init__(self, where: Path) -> None:
        (where / DIRECTORY).mkdir(exist_ok=True)
        self.root = where
        self.path = where / DIRECTORY / "checkpoint"

    def call(self, function: Any, *arguments: Any) -> int:
        opened = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            return check(function(opened, DIRECTORY.encode(), *arguments))
        finally:
            os.close(opened)

    @property
    def offset(self) -> int | None:
        one = self.read()
        return one.offset if one.sequence else None

    def read(self) -> Any:
        one = ffi.new("mql_format_checkpoint *")
        self.call(lib.mql_checkpoint_read, one)
        return one

    def write(self, offset: int) -> None:
        """As the engine does it: what is not known better stays."""
        one = self.read()
        one.offset = offset
        self.call(lib.mql_checkpoint_write, one, 0o600)


def two(where: Path, even: int | None, odd: int | None) -> File:
    """A file with these numbers; the even one says 2, the odd one 1."""
    file = File(where)
    for offset in (1, 2):
        file.write(offset)
    turns.plant(file.path, turns.CHECKPOINT, even, odd)
    return file


def write_three(file: File) -> None:
    """Each goes over the slot that does not count, and the last one counts."""
    for offset in (3, 4, 5):
        with turns.writing_the_other(file.path, turns.CHECKPOINT):
            file.write(offset)
        assert file.offset == offset


@pytest.mark.parametrize(("even", "odd", "counts"), turns.GREATEST)
def test_checkpoints_behind_the_greatest_number_count(
    tmp_path: Path, even: int | None, odd: int | None, counts: int
) -> None:
    file = two(tmp_path, even, odd)
    assert file.offset == (2, 1)[counts]
    write_three(file)


@pytest.mark.parametrize(("even", "odd", "counts"), turns.ROUND + turns.STRAY)
def test_of_two_checkpoints_the_one_with_the_later_number_counts_in_its_own_slot(
    tmp_path: Path, even: int, odd: int, counts: int | None
) -> None:
    file = two(tmp_path, even, odd)
    assert file.offset == (None if counts is None else (2, 1)[counts])
    write_three(file)


def test_a_cut_write_behind_the_greatest_number_leaves_the_checkpoint_before(
    tmp_path: Path,
) -> None:
    file = two(tmp_path, turns.LAST - 1, turns.LAST)
    before = file.path.read_bytes()
    file.write(3)
    after = file.path.read_bytes()
    for cut in range(1, turns.CHECKPOINT.crc, 17):  # where a disk may stop within the sector
        file.path.write_bytes(after[:cut] + before[cut:])
        assert file.offset == 1
    file.path.write_bytes(after)
    assert file.offset == 3


def test_a_store_whose_checkpoint_has_the_greatest_number_keeps_what_comes_then(
    tmp_path: Path,
) -> None:
    with Store(tmp_path / "s") as store:
        store.log().append(b"a")
    file = File(tmp_path / "s")
    turns.plant(file.path, turns.CHECKPOINT, turns.LAST - 1, turns.LAST)

    def work(store: Store) -> None:
        for value in (b"b", b"c", b"d"):
            store.log().append(value)
            store.log().sync()
            lib.mql_commit_tick(store.log().c)

    with Store(tmp_path / "s") as store:
        work(store)
    assert (file.offset, file.read().clean) == (4, 1)
    unclean(tmp_path / "s", work)
    assert file.read().clean == 0
    ceiling = file.read().ceiling
    reboot(tmp_path / "s")
    with Store(tmp_path / "s") as store:
        log = store.log()
        assert log.values()[:7] == [b"a", b"b", b"c", b"d", b"b", b"c", b"d"]
        assert log.append(b"e") == ceiling, "no offset is given twice"
    with Store(tmp_path / "s") as store:
        assert store.recovered == []
        assert store.log().values()[-1] == b"e"
