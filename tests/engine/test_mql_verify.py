"""mql_verify: one damaged place is one problem, told where it is."""

import itertools
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.partition import (
    DIRECTORY,
    NOW,
    Log,
    Store,
    batch,
    check,
    dies,
    ffi,
    flip,
    headers_of,
    index_entries,
    lib,
    log_file,
    stamped,
    take,
    unclean,
)

SEGMENT = 1 << 15
EPOCHS = "leader-epoch-checkpoint"
Files = dict[str, bytes]
Problem = tuple[str, int, str]

#: What verify does not depend on: the end of a closed log is told by its files' lengths.
NOT_LOOKED_AT = {"control", "checkpoint"}


def fill(log: Log, first: int, last: int) -> None:
    for n in range(first, last):
        values = [b"%d" % n, bytes([n % 251]) * 900]
        log.append(*values, timestamp=NOW + n // 3)


def die_between(log: Log) -> None:
    """The epoch goes up: a writer died that may have stored something."""
    log.control.dirty = log.end[1] + 100
    dies(lambda: take(ffi.addressof(log.control.writer)))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A closed partition: three segments with index entries, four epochs."""
    path = tmp_path_factory.mktemp("whole") / "s"
    with Store(path) as store:
        log = store.log(segment_bytes=SEGMENT)
        for first in (0, 30, 60):
            fill(log, first, first + 30)
            die_between(log)
        fill(log, 90, 93)
    files = {file.name: file.read_bytes() for file in (path / DIRECTORY).iterdir()}
    assert len(segments(files)) == 3
    assert all(files[log_file(base, ".index")] for base in segments(files))
    assert files[EPOCHS].count(b"\n") == 6
    return files


@pytest.fixture
def path() -> Iterator[Path]:
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    made = Path(tempfile.mkdtemp(prefix="mqlog-test-", dir=memory))
    (made / DIRECTORY).mkdir()
    yield made
    shutil.rmtree(made)


def segments(files: Files) -> list[int]:
    return sorted(int(name[:20]) for name in files if name.endswith(".log"))


def put(path: Path, files: Files) -> None:
    for name, data in files.items():
        (path / DIRECTORY / name).write_bytes(data)


def verify(log: Log) -> tuple[list[Problem], Any]:
    found: list[Problem] = []

    @ffi.callback("void(void *, const char *, int64_t, const char *)")
    def one(_: Any, file: Any, position: int, what: Any) -> None:
        name = ffi.string(file).decode().removeprefix(f"{DIRECTORY}/")
        found.append((name, position, ffi.string(what).decode()))

    report = ffi.new("mql_verify_report *")
    check(lib.mql_verify(log.c, one, ffi.NULL, ffi.NULL, report))
    assert report.problems == len(found)
    return found, report


def problems(path: Path) -> list[Problem]:
    with Store(path, read_only=1) as store:
        return verify(store.log(create=0, segment_bytes=SEGMENT))[0]


def places(path: Path) -> list[tuple[str, int]]:
    return [(file, position) for file, position, _ in problems(path)]


def batch_at(data: bytes, at: int) -> int:
    return max(position for position, *_ in headers_of(data) if position <= at)


def flipped(whole: Files, path: Path, name: str, at: int) -> list[tuple[str, int]]:
    file = path / DIRECTORY / name
    file.write_bytes(flip(whole[name], at, at * 7 % 8))
    found = places(path)
    file.write_bytes(whole[name])
    return found


def test_a_whole_partition_has_no_problem_and_every_entry_is_looked_at(whole: Files, path: Path):
    put(path, whole)
    with Store(path, read_only=1) as store:
        found, report = verify(store.log(create=0, segment_bytes=SEGMENT))
    assert found == []
    assert report.segments == 3
    entries = sum(
        len(data) // size
        for name, data in whole.items()
        for suffix, size in ((".index", 8), (".timeindex", 12))
        if name.endswith(suffix)
    )
    assert report.index_entries == entries
    assert report.records == 2 * 93


# -- one byte -------------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_flipped_byte_of_a_log_is_one_problem_at_its_batch(whole: Files, path: Path):
    put(path, whole)
    for base in segments(whole):
        name = log_file(base)
        data = whole[name]
        starts = [position for position, *_ in headers_of(data)]
        near = {start + n for start in starts[:3] + starts[-2:] for n in range(64)}
        for at in sorted(near | set(range(base % 97, len(data), 97))):
            if at < len(data):
                assert flipped(whole, path, name, at) == [(name, batch_at(data, at))], at


@pytest.mark.parametrize(("suffix", "size"), [(".index", 8), (".timeindex", 12)])
def test_a_flipped_byte_of_an_index_is_one_problem_at_its_entry(
    whole: Files, path: Path, suffix: str, size: int
):
    put(path, whole)
    for base in segments(whole):
        name = log_file(base, suffix)
        for at in range(len(whole[name])):
            assert flipped(whole, path, name, at) == [(name, at // size * size)], at


def table_of(text: bytes) -> list[tuple[int, int]] | None:
    """The epochs as Kafka reads them: (start, epoch); None: it refuses the file."""
    lines = text.split(b"\n")
    if lines[0] != b"0" or lines.pop() != b"" or not lines[1:2] or not lines[1].isdigit():
        return None
    pairs = [tuple(line.split(b" ")) for line in lines[2:]]
    if int(lines[1]) != len(pairs) or not all(
        len(pair) == 2 and pair[0].isdigit() and pair[1].isdigit() for pair in pairs
    ):
        return None
    table = [(int(start), int(epoch)) for epoch, start in pairs]
    ascending = all(a[0] <= b[0] and a[1] < b[1] for a, b in itertools.pairwise(table))
    return table if ascending and all(epoch < 2**31 for _, epoch in table) else None


def batches_out_of_their_epoch(whole: Files, table: list[tuple[int, int]]) -> list[tuple[str, int]]:
    out = []
    for base in segments(whole):
        data = whole[log_file(base)]
        for position, first, *_ in headers_of(data):
            epochs = [epoch for start, epoch in table if start <= first]
            (epoch,) = struct.unpack_from(">i", data, position + 12)
            if epochs and epochs[-1] != epoch:
                out.append((log_file(base), position))
    return out


def test_a_flipped_bit_of_the_epochs_is_one_problem(whole: Files, path: Path):
    """Where many batches do not fit it is the table that is wrong; where one does not, the batch.

    None, if the border between two epochs stays between the same batches.
    """
    put(path, whole)
    for at in range(len(whole[EPOCHS])):
        for bit in range(8):
            text = flip(whole[EPOCHS], at, bit)
            (path / DIRECTORY / EPOCHS).write_bytes(text)
            table = table_of(text)
            wrong = [] if table is None else batches_out_of_their_epoch(whole, table)
            expected = [(EPOCHS, 0)] if table is None or len(wrong) > 1 else wrong
            assert places(path) == expected, text


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(NOT_LOOKED_AT))
def test_a_flipped_byte_of_what_is_derived_or_doubled_is_no_problem(
    whole: Files, path: Path, name: str
):
    put(path, whole)
    for at in range(0, len(whole[name]), 1 if name == "checkpoint" else 5):
        assert flipped(whole, path, name, at) == [], at


# -- entries --------------------------------------------------------------------------------------
def test_two_damaged_places_are_two_problems(whole: Files, path: Path):
    name, index = log_file(0), log_file(0, ".index")
    _, entry = index_entries(whole[index])[1]
    hit = flip(whole[name], entry + 100)
    put(path, whole | {name: hit, index: flip(whole[index], 4 * 8 + 3)})
    assert places(path) == [(name, entry), (index, 4 * 8)]


@pytest.mark.parametrize("suffix", [".index", ".timeindex"])
def test_swapped_doubled_and_invented_entries_are_problems(whole: Files, path: Path, suffix: str):
    name = log_file(0, suffix)
    size = 8 if suffix == ".index" else 12
    cut = [whole[name][at : at + size] for at in range(0, len(whole[name]), size)]
    for entries, wrong in (
        ([cut[1], cut[0], *cut[2:]], 1),
        ([cut[0], *cut], 1),
        ([*cut, b"\x7f" * size], len(cut)),
    ):
        put(path, whole | {name: b"".join(entries)})
        place = 0 if entries[0] == cut[1] else wrong * size
        assert places(path) == [(name, place)]


def test_entries_of_a_lost_tail_are_no_problems_of_their_own(whole: Files, path: Path):
    name = log_file(0)
    _, position = index_entries(whole[log_file(0, ".index")])[2]
    put(path, whole | {name: whole[name][: position - 10]})
    ((file, at, _),) = problems(path)
    assert (file, at) == (name, batch_at(whole[name], position - 10))
    put(path, whole | {name: whole[name][:position]})
    assert problems(path) == [(name, position, "records are missing at the end of the segment")]


def test_missing_index_files_are_no_problem(whole: Files, path: Path):
    put(path, {name: data for name, data in whole.items() if "index" not in name})
    assert problems(path) == []


def test_a_malformed_file_of_epochs_is_a_problem_and_a_missing_one_is_not(whole: Files, path: Path):
    put(path, whole | {EPOCHS: whole[EPOCHS] + b"\n"})
    assert problems(path) == [(EPOCHS, 0, "not a table of leader epochs")]
    (path / DIRECTORY / EPOCHS).unlink()
    assert problems(path) == []


def test_records_that_do_not_fit_their_header_are_a_problem(path: Path):
    wrong = bytearray(batch(0, b"a", b"b"))
    wrong[42] ^= 1  # the maximum timestamp, under the CRC
    crc = lib.mql_crc32c(0, bytes(wrong[21:]), len(wrong) - 21)
    struct.pack_into(">I", wrong, 17, crc)
    put(path, {log_file(0): bytes(wrong) + stamped(batch(2, b"c"))})
    ((file, at, what),) = problems(path)
    assert (file, at) == (log_file(0), 0)
    assert "maximum timestamp" in what


# -- stores in use --------------------------------------------------------------------------------
def test_a_log_that_is_written_to_has_no_problems(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log(segment_bytes=SEGMENT)
        for first in range(0, 90, 10):
            fill(log, first, first + 10)
            assert verify(log)[0] == []
            with Store(tmp_path / "s", read_only=1) as reader:
                assert verify(reader.log(create=0))[0] == []


def test_what_a_killed_process_leaves_has_no_problems(tmp_path: Path):
    unclean(tmp_path / "s", lambda store: fill(store.log(segment_bytes=SEGMENT), 0, 90))
    assert problems(tmp_path / "s") == []
    file = tmp_path / "s" / DIRECTORY / log_file(0, ".index")
    file.write_bytes(flip(file.read_bytes(), 3))
    assert places(tmp_path / "s") == [(log_file(0, ".index"), 0)]
