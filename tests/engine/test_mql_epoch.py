"""mql_epoch: Kafka's leader-epoch-checkpoint, read, written and asked."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.partition import DIRECTORY, check, ffi, lib

FILE = "leader-epoch-checkpoint"


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    (tmp_path / DIRECTORY).mkdir()
    opened = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield opened
    os.close(opened)


class Table:
    def __init__(self, *entries: tuple[int, int]) -> None:
        self.c = ffi.new("mql_epoch_table *")
        for epoch, start in entries:
            self.add(epoch, start)

    def add(self, epoch: int, start: int) -> None:
        check(lib.mql_epoch_add(self.c, epoch, start))

    @property
    def entries(self) -> list[tuple[int, int]]:
        return [(self.c.entries[i].epoch, self.c.entries[i].start) for i in range(self.c.count)]

    def at(self, offset: int) -> tuple[int, int]:
        following = ffi.new("int64_t *")
        return lib.mql_epoch_at(self.c, offset, following), following[0]

    def save(self, root: int, durable: bool = True) -> None:
        check(lib.mql_epoch_save(root, DIRECTORY.encode(), self.c, 0o600, durable))

    def __del__(self) -> None:
        lib.mql_epoch_free(self.c)


def load(root: int) -> list[tuple[int, int]] | None:
    table = Table()
    rc = check(lib.mql_epoch_load(root, DIRECTORY.encode(), table.c))
    assert rc == (lib.MQL_OK if table.entries else lib.MQL_END)
    return table.entries or None


def test_the_file_is_kafkas_text(root: int, tmp_path: Path):
    Table((0, 0), (3, 17), (4, 2**40)).save(root)
    text = (tmp_path / DIRECTORY / FILE).read_text()
    assert text == f"0\n3\n0 0\n3 17\n4 {2**40}\n"
    assert os.listdir(tmp_path / DIRECTORY) == [FILE]


@pytest.mark.parametrize("durable", [False, True])
def test_what_was_saved_is_loaded(root: int, durable: bool):
    entries = [(epoch, 3 * epoch) for epoch in range(100)] + [(2**31 - 1, 2**62)]
    Table(*entries).save(root, durable)
    assert load(root) == entries


def test_a_missing_file_is_no_table(root: int):
    assert load(root) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "0\n",
        "1\n1\n0 0\n",
        "0\n0\n",
        "0\n2\n0 0\n",
        "0\n1\n0\n",
        "0\n1\n0 0",
        "0\n1\n0 0\n1 5\n",
        "0\n1\n0 0\n\n",
        "0\n1\n-1 0\n",
        "0\n1\n0 -1\n",
        "0\n1\n2147483648 0\n",
        "0\n1\n0 99999999999999999999\n",
        "0\n2\n1 0\n1 5\n",
        "0\n2\n2 0\n1 5\n",
        "0\n2\n0 5\n1 4\n",
        "0\n4097\n" + "".join(f"{n} {n}\n" for n in range(4097)),
        "0\n99999999999999999\n0 0\n",
        "0\n1\nzero 0\n",
        "\0" * 100,
    ],
)
def test_a_file_that_is_none_of_kafkas_is_no_table(root: int, tmp_path: Path, text: str):
    (tmp_path / DIRECTORY / FILE).write_text(text)
    assert load(root) is None


def test_any_flipped_byte_gives_a_table_in_order_or_none(root: int, tmp_path: Path):
    Table((0, 0), (3, 17), (4, 240)).save(root)
    path = tmp_path / DIRECTORY / FILE
    data = path.read_bytes()
    for at in range(len(data)):
        for bit in range(8):
            hit = bytearray(data)
            hit[at] ^= 1 << bit
            path.write_bytes(hit)
            entries = load(root) or []
            assert entries == sorted(entries)
            assert [start for _, start in entries] == sorted(start for _, start in entries)


def test_every_truncation_gives_no_table_that_is_not_whole(root: int, tmp_path: Path):
    Table((0, 0), (3, 17), (4, 240)).save(root)
    path = tmp_path / DIRECTORY / FILE
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        assert load(root) is None, length


def test_the_epoch_of_an_offset_is_that_of_the_last_start_at_or_before_it():
    table = Table((1, 10), (5, 20), (6, 30))
    assert table.at(0) == table.at(9) == (-1, 10)
    assert table.at(10) == table.at(19) == (1, 20)
    assert table.at(20) == table.at(29) == (5, 30)
    assert table.at(30) == table.at(2**62) == (6, 2**63 - 1)
    assert Table().at(0) == (-1, 2**63 - 1)


@pytest.mark.parametrize(
    ("start", "left"),
    [(35, [(1, 10), (5, 20), (6, 30)]), (30, [(1, 10), (5, 20)]), (20, [(1, 10)]), (0, [])],
)
def test_a_new_epoch_takes_the_place_of_those_that_start_at_it_or_behind(
    start: int, left: list[tuple[int, int]]
):
    table = Table((1, 10), (5, 20), (6, 30))
    table.add(7, start)
    assert table.entries == [*left, (7, start)]


def test_the_oldest_epochs_are_merged_away_over_the_limit(root: int):
    most = lib.MQL_EPOCH_MAX
    table = Table(*[(n, n) for n in range(most)])
    table.add(most, most)
    assert table.entries == [(n, n) for n in range(1, most + 1)]
    table.save(root)
    assert load(root) == table.entries
