"""mql_index: the sparse rule of .index and .timeindex, lookups, and what of a file is sound."""

import os
import random
import struct
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import engine
from support.partition import (
    DIRECTORY,
    NOW,
    PAGE,
    check,
    door,
    ffi,
    index_entries,
    kafkas_indexes,
    lib,
    log_file,
    sized,
    time_entries,
)

BASE = 5000
SEGMENT = 1 << 23


class Index:
    """The indexes of one active segment, with a tail state of its own."""

    def __init__(self, root: Path, base: int = BASE, segment_bytes: int = SEGMENT) -> None:
        self.root = root
        self.base = base
        self.fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        self.directory = ffi.new("char[]", DIRECTORY.encode())
        self.c = ffi.new("mql_index *")
        args = (self.fd, self.directory, base, segment_bytes, 0o600)
        check(lib.mql_index_open_active(self.c, *args))
        self.place = ffi.new("mql_index_place *", (self.fd, self.directory, base))
        self.control = ffi.new("mql_format_control *")
        self.tail = ffi.new("mql_index_tail *", lib.mql_index_tail_of(self.control))
        lib.mql_index_tail_reset(self.tail)
        self.position = 0

    def note(self, last_offset: int, size: int, timestamp: int = NOW) -> None:
        lib.mql_index_note(
            self.c, self.tail, self.place, last_offset, self.position, size, timestamp
        )
        self.position += size

    def end(self) -> None:
        lib.mql_index_note_end(self.c, self.tail, self.place)

    @property
    def counts(self) -> tuple[int, int]:
        return self.control.index_count, self.control.time_count

    def files(self) -> tuple[bytes, bytes]:
        """What the files hold once they are cut."""
        check(lib.mql_index_cut(self.fd, self.directory, self.base, *self.counts))
        directory = self.root / DIRECTORY
        offsets = (directory / log_file(self.base, ".index")).read_bytes()
        return offsets, (directory / log_file(self.base, ".timeindex")).read_bytes()

    def close(self) -> None:
        lib.mql_index_close(self.c)
        os.close(self.fd)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    (tmp_path / DIRECTORY).mkdir()
    made = Index(tmp_path)
    yield made
    made.close()


LENT = weakref.WeakKeyDictionary()  # what a C struct points to lives as long as the struct


def memory(data: bytes) -> Any:
    """An index file in memory that ends where its memory ends."""
    file = ffi.new("mql_index_file *")
    LENT[file] = engine.exact(door, data) if data else ffi.NULL
    file.bytes = LENT[file]
    file.length = file.allocated = len(data)
    file.is_private = True
    return file


def offsets_of(*entries: tuple[int, int]) -> Any:
    return memory(b"".join(struct.pack(">ii", *entry) for entry in entries))


def times_of(*entries: tuple[int, int]) -> Any:
    return memory(b"".join(struct.pack(">qi", *entry) for entry in entries))


# -- the sparse rule ------------------------------------------------------------------------------
def test_entries_are_those_that_kafka_wrote_for_the_same_batches(index: Index):
    """format.md 2.3: 994-byte batches of three records."""
    for n in range(25):
        index.note(BASE + 3 * n + 2, 994)
    offsets, _ = index.files()
    assert index_entries(offsets)[:2] == [(17, 4970), (32, 9940)]
    assert offsets[:16].hex() == "000000110000136a" + "00000020000026d4"


def test_the_first_batch_of_a_segment_has_no_entry_however_large(index: Index):
    index.note(BASE, 100_000)
    assert index.counts == (0, 0)


def test_exactly_4096_bytes_are_not_enough_and_one_more_is(index: Index):
    index.note(BASE, 4096)
    index.note(BASE + 1, 100)
    assert index.counts == (0, 0), "not more than 4,096 bytes stood before it"
    index.note(BASE + 2, 100)
    assert index.counts == (1, 1)
    offsets, times = index.files()
    assert index_entries(offsets) == [(2, 4196)]
    assert time_entries(times) == [(NOW, 0)], "the earliest batch that has the largest timestamp"


def test_the_count_starts_again_with_the_batch_that_got_the_entry(index: Index):
    index.note(BASE, 5000)
    index.note(BASE + 1, 4097)
    index.note(BASE + 2, 10)
    index.note(BASE + 3, 4090)
    index.note(BASE + 4, 10)
    index.note(BASE + 5, 10)
    offsets, _ = index.files()
    assert [relative for relative, _ in index_entries(offsets)] == [1, 2, 4]


def test_a_time_entry_names_the_largest_timestamp_so_far_and_its_earliest_batch(index: Index):
    stamps = [NOW + 5, NOW + 9, NOW + 9, NOW + 1, NOW + 9, NOW + 12]
    for n, stamp in enumerate(stamps):
        index.note(BASE + n, 4100, stamp)
    assert time_entries(index.files()[1]) == [(NOW + 9, 1), (NOW + 12, 5)]


def test_the_end_forces_one_more_time_entry_and_only_a_greater_one(index: Index):
    for n in range(3):
        index.note(BASE + n, 4100, NOW + n)
    index.note(BASE + 3, 10, NOW + 50)
    index.note(BASE + 4, 10, NOW + 40)
    index.end()
    index.end()
    assert time_entries(index.files()[1]) == [(NOW + 1, 1), (NOW + 2, 2), (NOW + 50, 3)]


def test_batches_without_a_timestamp_make_no_time_entries(index: Index):
    for n in range(5):
        index.note(BASE + n, 4100, -1)
    index.end()
    assert index.counts == (4, 0)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([130, 994, 2048, 4096, 4097, 9000]),
            st.integers(1, 3),
            st.integers(-5, 5),
        ),
        max_size=40,
    )
)
def test_files_of_any_segment_are_what_kafkas_rules_make_of_it(
    tmp_path_factory: pytest.TempPathFactory, batches: list[tuple[int, int, int]]
):
    root = tmp_path_factory.mktemp("index")
    (root / DIRECTORY).mkdir()
    index, data, offset = Index(root), b"", BASE
    for size, count, drift in batches:
        data += sized(offset, size, count, timestamp=NOW + drift)
        offset += count
        index.note(offset - 1, size, NOW + drift)
    index.end()
    assert index.files() == kafkas_indexes(data, BASE)
    index.close()


# -- files ----------------------------------------------------------------------------------------
def test_files_grow_by_whole_pages_and_are_cut_to_their_entries(index: Index, tmp_path: Path):
    offsets = tmp_path / DIRECTORY / log_file(BASE, ".index")
    assert offsets.stat().st_size == 0, "nothing is allocated before the first entry"
    for n in range(515):
        index.note(BASE + n, 4097, NOW + n)
    assert offsets.stat().st_size == 2 * PAGE
    assert offsets.stat().st_blocks * 512 >= 2 * PAGE, "real blocks, never sparse"
    assert len(index.files()[0]) == 514 * 8
    assert len(index.files()[1]) == 514 * 12


def test_a_full_capacity_holds_the_smallest_batches_that_get_entries(tmp_path: Path):
    (tmp_path / DIRECTORY).mkdir()
    index = Index(tmp_path, segment_bytes=3 * 4096)
    while index.position + 4097 <= 3 * 4096:
        index.note(BASE + index.position, 4097, NOW + index.position)
    index.end()
    offsets, times = index.files()
    assert len(index_entries(offsets)) == 1
    assert len(time_entries(times)) == 1
    index.close()


def test_entries_over_the_capacity_are_left_out_and_harm_nothing(tmp_path: Path):
    (tmp_path / DIRECTORY).mkdir()
    index = Index(tmp_path, segment_bytes=4096)
    for n in range(2000):
        index.note(BASE + n, 4097, NOW + n)
    assert index.counts[0] == index.c.times.length // 12  # both entries, or none
    index.close()


@pytest.mark.parametrize("private", [False, True])
def test_a_sealed_segments_files_are_looked_at_as_they_are(index: Index, private: bool):
    for n in range(20):
        index.note(BASE + n, 4100, NOW + n)
    offsets, times = index.files()
    seen = ffi.new("mql_index *")
    check(lib.mql_index_open_sealed(seen, index.fd, index.directory, BASE, private))
    assert bytes(ffi.buffer(seen.offsets.bytes, seen.offsets.length)) == offsets
    assert bytes(ffi.buffer(seen.times.bytes, seen.times.length)) == times
    lib.mql_index_close(seen)


@pytest.mark.parametrize("private", [False, True])
def test_missing_and_empty_files_have_no_entries(index: Index, private: bool):
    for base in (BASE, BASE + 1):
        seen = ffi.new("mql_index *")
        check(lib.mql_index_open_sealed(seen, index.fd, index.directory, base, private))
        for file, count in (
            (seen.offsets, lib.mql_index_count_offsets),
            (seen.times, lib.mql_index_count_times),
        ):
            assert count(ffi.addressof(file)) == 0
        lib.mql_index_close(seen)


def test_cutting_files_that_are_not_there_or_shorter_changes_nothing(index: Index, tmp_path: Path):
    check(lib.mql_index_cut(index.fd, index.directory, BASE + 1, 3, 3))
    check(lib.mql_index_cut(index.fd, index.directory, BASE, 3, 3))
    assert (tmp_path / DIRECTORY / log_file(BASE, ".index")).stat().st_size == 0


# -- counting -------------------------------------------------------------------------------------
@pytest.mark.parametrize("zeros", [0, 1, 7, 8, 11, 12, PAGE])
def test_zeros_at_the_end_are_no_entries(zeros: int):
    data = struct.pack(">ii", 3, 100) + struct.pack(">ii", 9, 300)
    assert lib.mql_index_count_offsets(memory(data + bytes(zeros))) == 2
    data = struct.pack(">qi", NOW, 3) + struct.pack(">qi", NOW + 1, 9)
    assert lib.mql_index_count_times(memory(data + bytes(zeros))) == 2


def test_a_torn_entry_at_the_end_is_none():
    data = struct.pack(">ii", 3, 100)
    for left in range(1, 8):
        assert lib.mql_index_count_offsets(memory(data + b"\xff" * left)) == 1


def sound_offsets(*entries: tuple[int, int], end: int = 1000, limit: int = 10_000) -> int:
    return lib.mql_index_sound_offsets(offsets_of(*entries), len(entries), end, limit)


def sound_times(*entries: tuple[int, int], end: int = 1000) -> int:
    return lib.mql_index_sound_times(times_of(*entries), len(entries), end)


def test_sound_entries_are_those_before_the_first_that_cannot_be():
    assert sound_offsets((3, 100), (9, 300), (20, 900)) == 3
    assert sound_offsets() == 0
    assert sound_offsets((3, 100), (3, 300)) == 1, "offsets strictly increase"
    assert sound_offsets((3, 100), (9, 100)) == 1, "positions strictly increase"
    assert sound_offsets((3, 0)) == 0, "the first batch has no entry"
    assert sound_offsets((-1, 100)) == 0
    assert sound_offsets((3, 100), (1000, 300)) == 1, "behind the end of the log"
    assert sound_offsets((3, 100), (9, 10_000)) == 1, "behind the bytes of the log"
    assert sound_offsets((3, -100)) == 0


def test_sound_time_entries_are_those_before_the_first_that_cannot_be():
    assert sound_times((NOW, 3), (NOW + 1, 3), (NOW + 2, 9)) == 3, "offsets may repeat"
    assert sound_times((NOW, 3), (NOW, 9)) == 1
    assert sound_times((NOW, 3), (NOW + 1, 2)) == 1
    assert sound_times((NOW, 3), (NOW + 1, 1000)) == 1
    assert sound_times((NOW, -1)) == 0


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_counting_what_is_sound_of_random_bytes_stays_inside_them(data: bytes):
    file = memory(data)
    count = lib.mql_index_count_offsets(file)
    assert count <= len(data) // 8
    sound = lib.mql_index_sound_offsets(file, count, 1000, 10_000)
    entries = index_entries(data)[:sound]
    assert entries == sorted(set(entries))
    count = lib.mql_index_count_times(file)
    assert lib.mql_index_sound_times(file, count, 1000) <= count <= len(data) // 12


# -- lookups --------------------------------------------------------------------------------------
def floor(file: Any, count: int, relative: int) -> tuple[int, int]:
    entry = ffi.new("int64_t *", 77)
    return lib.mql_index_floor(file, count, relative, entry), entry[0]


def test_a_lookup_gives_the_greatest_entry_at_or_below_the_offset():
    file = offsets_of((17, 4970), (32, 9940), (47, 14910))
    assert floor(file, 3, 0) == floor(file, 3, 16) == (0, -1)
    assert floor(file, 3, 17) == floor(file, 3, 31) == (4970, 0)
    assert floor(file, 3, 32) == (9940, 1)
    assert floor(file, 3, 10**9) == floor(file, 3, 2**40) == (14910, 2)
    assert floor(file, 2, 10**9) == (9940, 1), "only the entries that count"
    assert floor(file, 0, 10**9) == (0, -1)


def test_a_lookup_by_time_gives_the_greatest_entry_below_it():
    file = times_of((NOW, 3), (NOW + 10, 9))
    assert lib.mql_index_time_before(file, 2, NOW) == -1
    assert lib.mql_index_time_before(file, 2, NOW + 1) == 0
    assert lib.mql_index_time_before(file, 2, NOW + 10) == 0
    assert lib.mql_index_time_before(file, 2, NOW + 11) == 1
    assert lib.mql_index_time_before(file, 1, NOW + 11) == 0
    assert lib.mql_index_time_before(file, 0, NOW + 11) == -1


def test_lookups_among_many_entries_are_those_of_a_plain_search():
    rng = random.Random(1)
    entries = sorted({rng.randrange(1, 5000): 0 for _ in range(300)})
    file = offsets_of(*[(relative, 10 * n + 1) for n, relative in enumerate(entries)])
    for relative in range(-5, 5010):
        best = sum(1 for one in entries if one <= relative) - 1
        expected = (0, -1) if best < 0 else (10 * best + 1, best)
        assert floor(file, len(entries), relative) == expected
