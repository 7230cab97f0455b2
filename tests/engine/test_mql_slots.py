"""mql_slots: the state file of a share group, its words, its slots and its two windows."""

import os
import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import share_file, turns
from support.partition import Failed, check, ffi, flip, lib

PAGE = 4096
REGION = lib.MQL_SLOTS_REGION_BYTES
OFFSETS = [0, 1, 255, 256, 1 << 20, (1 << 31) - 1, 1 << 32, (1 << 40) + 7, (1 << 54) + 3]


class File:
    """A state file opened on its own, without a group around it."""

    def __init__(self, where: Path, *, create: bool = True) -> None:
        (where / "shares").mkdir(exist_ok=True)
        self.path = where / "shares" / "g.state"
        out = ffi.new("mql_os_file *")
        assert lib.mql_os_open_root(os.fsencode(where), out) == 0
        self.root = out[0]
        self.c = ffi.new("mql_slots *")
        self.c.path = b"shares/g.state"
        self.count = ffi.new("uint32_t *")
        rc = lib.mql_slots_open(self.c, self.root, 0o600, create, self.count)
        if rc < 0:
            failed = Failed(rc)
            self.close()
            raise failed

    @property
    def pages(self) -> int:
        return self.count[0]

    def map(self, pages: int | None = None) -> None:
        check(lib.mql_slots_map(self.c, self.root, self.pages if pages is None else pages))

    def close(self) -> None:
        lib.mql_slots_close(self.c)
        lib.mql_os_close(self.root)


@contextmanager
def opened(where: Path, *, create: bool = True) -> Iterator[File]:
    file = File(where, create=create)
    try:
        yield file
    finally:
        file.close()


# -- words and slots -------------------------------------------------------------------------------
def test_every_flip_of_one_bit_of_a_word_is_found() -> None:
    bits = ffi.new("uint64_t *")
    chance = random.Random(1)
    for place in [0, 1, 511, 512, 1 << 20, (3 << 16) | 511]:
        for _ in range(40):
            said = chance.randrange(1, 1 << 48)
            word = lib.mql_slots_word(said, place)
            assert lib.mql_slots_unword(word, place, bits)
            assert bits[0] == said == share_file.content(word, place)
            for bit in range(64):
                assert not lib.mql_slots_unword(word ^ 1 << bit, place, bits)


def test_a_word_of_zero_says_nothing_and_no_flip_of_it_does() -> None:
    bits = ffi.new("uint64_t *")
    for place in range(600):
        assert lib.mql_slots_word(0, place) == 0
        assert lib.mql_slots_unword(0, place, bits) and bits[0] == 0
        assert not any(lib.mql_slots_unword(1 << bit, place, bits) for bit in range(64))


def slot_with(chance: random.Random) -> Any:
    slot = ffi.new("mql_slots_slot *")
    slot.state = chance.choice([0, 1, 2, 3, 4])
    slot.deliveries = chance.choice([0, 1, 255])
    slot.member = chance.choice([0, 447, 448])
    slot.token = chance.choice([0, 1, (1 << 32) - 1, chance.randrange(1 << 32)])
    slot.time = chance.choice([0, 1, (1 << 48) - 1, chance.randrange(1 << 48)])
    slot.clock = chance.choice([0, 1, 2, 3, 17, 20])
    return slot


def test_a_slot_is_read_as_it_was_stored_and_as_the_document_says() -> None:
    chance, at, out = random.Random(2), ffi.new("mql_format_slot *"), ffi.new("mql_slots_slot *")
    for offset in OFFSETS * 20:
        slot = slot_with(chance)
        lib.mql_slots_store(at, offset, slot)
        lib.mql_slots_load(at, offset, out)
        fields = ("state", "deliveries", "member", "token", "time", "clock")
        assert [getattr(out, name) for name in fields] == [getattr(slot, name) for name in fields]
        assert out.sound and not out.fresh
        said = share_file.slot_of(bytes(ffi.buffer(at)), 0, offset)
        assert [getattr(said, name) for name in fields] == [getattr(slot, name) for name in fields]
        assert said.sound


def test_no_flip_of_one_bit_makes_a_final_record_or_loses_one_unseen() -> None:
    chance, at, out = random.Random(3), ffi.new("mql_format_slot *"), ffi.new("mql_slots_slot *")
    for offset in OFFSETS * 20:
        slot = slot_with(chance)
        lib.mql_slots_store(at, offset, slot)
        for word in (0, 1):
            for bit in range(64):
                data = flip(bytes(ffi.buffer(at)), word * 8 + bit // 8, bit % 8)
                flipped = ffi.cast("mql_format_slot *", kept := ffi.new("uint8_t[]", data))
                lib.mql_slots_load(flipped, offset, out)
                assert not out.sound or flipped.state == 0, (offset, word, bit)
                assert kept is not None


def test_no_flip_of_one_bit_of_an_untouched_slot_makes_it_final() -> None:
    out = ffi.new("mql_slots_slot *")
    for offset in [*range(700), *OFFSETS]:
        for word in (0, 1):
            for bit in range(64):
                at = ffi.new("mql_format_slot *", {("state", "time")[word]: 1 << bit})
                lib.mql_slots_load(at, offset, out)
                assert not (out.sound and lib.mql_slots_is_final(out)), (offset, word, bit)


def test_a_time_beyond_48_bits_is_the_latest_and_one_before_1970_the_first() -> None:
    at, out = ffi.new("mql_format_slot *"), ffi.new("mql_slots_slot *")
    for given, kept in [(1 << 48, (1 << 48) - 1), ((1 << 63) - 1, (1 << 48) - 1), (-5, 0)]:
        lib.mql_slots_store(at, 7, ffi.new("mql_slots_slot *", {"time": given}))
        lib.mql_slots_load(at, 7, out)
        assert out.sound and out.time == kept


# -- the file --------------------------------------------------------------------------------------
def test_a_group_that_is_not_there_is_not_made_unless_asked(tmp_path: Path) -> None:
    with pytest.raises(Failed) as failed, opened(tmp_path, create=False):
        pass
    assert failed.value.code == lib.MQL_E_NOT_FOUND
    assert not (tmp_path / "shares" / "g.state").exists()


@pytest.mark.parametrize("left", [b"", bytes(100), bytes(PAGE), bytes(3 * PAGE)])
def test_what_a_maker_that_died_has_left_is_no_group_and_can_become_one(
    tmp_path: Path, left: bytes
) -> None:
    (tmp_path / "shares").mkdir()
    (tmp_path / "shares" / "g.state").write_bytes(left)
    with pytest.raises(Failed) as failed, opened(tmp_path, create=False):
        pass
    assert failed.value.code == lib.MQL_E_NOT_FOUND
    with opened(tmp_path) as file:
        assert file.pages == 1


def test_a_stranger_s_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "shares").mkdir()
    (tmp_path / "shares" / "g.state").write_bytes(b"not ours" * 1024)
    for create in (False, True):
        with pytest.raises(Failed) as failed, opened(tmp_path, create=create):
            pass
        assert failed.value.code == lib.MQL_E_FORMAT
    assert (tmp_path / "shares" / "g.state").read_bytes()[:16] == b"not ours" * 2


def with_window(where: Path) -> File:
    file = File(where)
    window = ffi.new("mql_format_share_window *", {"start": 7, "folding": -1})
    lib.mql_slots_set_window(file.c, window)
    return file


@pytest.mark.parametrize("bit", range(128))
def test_a_damaged_header_is_put_right_by_a_window(tmp_path: Path, bit: int) -> None:
    with_window(tmp_path).close()
    path = tmp_path / "shares" / "g.state"
    path.write_bytes(flip(path.read_bytes(), bit // 8, bit % 8))
    with opened(tmp_path, create=False) as file:
        window = ffi.new("mql_format_share_window *")
        assert lib.mql_slots_window(file.c, window) == 0
        assert window.start == 7
    assert path.read_bytes()[:8] == b"MQLSHAR\0"


def test_a_newer_layout_is_refused(tmp_path: Path) -> None:
    with_window(tmp_path).close()
    path = tmp_path / "shares" / "g.state"
    data = bytearray(path.read_bytes())
    struct.pack_into("<II", data, 8, 3, 2)
    path.write_bytes(data)
    with pytest.raises(Failed) as failed, opened(tmp_path):
        pass
    assert failed.value.code == lib.MQL_E_FORMAT


def test_pages_are_counted_whole_and_cut_where_they_end(tmp_path: Path) -> None:
    with opened(tmp_path) as file:
        assert file.pages == 1
        assert file.path.stat().st_size == 3 * PAGE
        check(lib.mql_slots_allocate(file.c, file.root, 1, 515))
        assert file.path.stat().st_size == PAGE + REGION + 4 * PAGE
    for size, pages in [
        (PAGE + REGION + 4 * PAGE, 515),
        (PAGE + REGION + 4 * PAGE - 1, 514),
        (PAGE + REGION + 2 * PAGE, 513),
        (PAGE + REGION + PAGE, 512),  # a directory that speaks of nothing
        (PAGE + REGION, 512),
        (PAGE + REGION - 1, 511),
        (3 * PAGE, 1),
        (2 * PAGE, 1),
        (PAGE, 1),
        (0, 1),
    ]:
        os.truncate(tmp_path / "shares" / "g.state", size)
        with opened(tmp_path) as file:
            assert file.pages == pages
            check(lib.mql_slots_cut(file.c, file.root, pages))
            assert file.path.stat().st_size == share_file.position(pages - 1) + PAGE


def test_each_page_and_its_name_stand_where_the_document_says(tmp_path: Path) -> None:
    with opened(tmp_path) as file:
        check(lib.mql_slots_allocate(file.c, file.root, 1, 1030))
        file.map(1030)
        for page in (0, 1, 511, 512, 1023, 1024, 1029):
            ffi.cast("uint64_t *", lib.mql_slots_page(file.c, page))[0] = 1000 + page
            lib.mql_slots_name(file.c, page)[0] = 5000 + page
    data = (tmp_path / "shares" / "g.state").read_bytes()
    for page in (0, 1, 511, 512, 1023, 1024, 1029):
        at = share_file.position(page), share_file.position_of_name(page)
        assert [struct.unpack_from("<Q", data, one)[0] for one in at] == [1000 + page, 5000 + page]


def test_names_of_pages_that_the_file_has_lost_are_forgotten(tmp_path: Path) -> None:
    with opened(tmp_path) as file:
        check(lib.mql_slots_allocate(file.c, file.root, 1, 20))
        file.map(20)
        for page in range(20):
            lib.mql_slots_name(file.c, page)[0] = lib.mql_slots_word(page + 1, page)
        lib.mql_slots_forget(file.c, 8)
        names = [lib.mql_slots_name(file.c, page)[0] for page in range(512)]
        assert all(names[:8]) and not any(names[8:])


def test_another_file_of_the_same_name_is_not_touched(tmp_path: Path) -> None:
    with opened(tmp_path) as file:
        check(lib.mql_slots_allocate(file.c, file.root, 1, 600))
        file.path.unlink()
        with opened(tmp_path) as other:
            check(lib.mql_slots_allocate(other.c, other.root, 1, 600))
            before = other.path.read_bytes()
            for rc in (
                lib.mql_slots_allocate(file.c, file.root, 600, 700),
                lib.mql_slots_cut(file.c, file.root, 1),
                lib.mql_slots_sync(file.c, file.root, False),
                lib.mql_slots_map(file.c, file.root, 600),
            ):
                assert rc == lib.MQL_E_NOT_FOUND
            assert other.path.read_bytes() == before


def test_making_pages_dirty_again_changes_none(tmp_path: Path) -> None:
    with opened(tmp_path) as file:
        check(lib.mql_slots_allocate(file.c, file.root, 1, 600))
        file.map(600)
        for page in range(600):
            ffi.buffer(lib.mql_slots_page(file.c, page), PAGE)[:] = os.urandom(PAGE)
            lib.mql_slots_name(file.c, page)[0] = page
        before = file.path.read_bytes()
        lib.mql_slots_touch_header(file.c)
        for page in range(600):
            lib.mql_slots_touch_page(file.c, page)
        assert file.path.read_bytes() == before


# -- windows ---------------------------------------------------------------------------------------
def newest(file: File) -> Any:
    window = ffi.new("mql_format_share_window *")
    check(lib.mql_slots_window(file.c, window))
    return window


def test_the_newest_sound_window_counts_and_the_other_is_written(tmp_path: Path) -> None:
    with opened(tmp_path) as file:
        assert newest(file).sequence == 0
        for start in range(1, 8):
            window = newest(file)
            window.start = start
            lib.mql_slots_set_window(file.c, window)
            assert (newest(file).sequence, newest(file).start) == (start, start)
            before = ffi.new("mql_format_share_window *")
            assert lib.mql_slots_window_before(file.c, newest(file), before) == (start > 1)
            assert start == 1 or before.start == start - 1


def test_a_damaged_window_leaves_the_other_and_two_are_an_error(tmp_path: Path) -> None:
    with opened(tmp_path) as file:
        for start in (1, 2):
            window = newest(file)
            window.start = start
            lib.mql_slots_set_window(file.c, window)
        header = ffi.buffer(file.c.header, PAGE)
        whole = bytes(header)
        for bit in range(8 * 116):
            header[:] = flip(whole, 0x80 + bit // 8, bit % 8)  # window 2: the newer one
            assert newest(file).start == 1
            assert not lib.mql_slots_window_before(file.c, newest(file), window)
        header[:] = flip(flip(whole, 0x90), 0x110)
        with pytest.raises(Failed) as failed:
            newest(file)
        assert failed.value.code == lib.MQL_E_CORRUPT
        assert failed.value.path.endswith("shares/g.state")


@pytest.mark.parametrize("wrong", [-1, lib.MQL_OFFSET_MAX + 1, -(1 << 63), (1 << 63) - 1])
@pytest.mark.parametrize("where", ["start", *range(lib.MQL_ENDS)])
def test_a_window_that_no_group_can_have_come_to_is_damaged(
    tmp_path: Path, where: str | int, wrong: int
) -> None:
    with opened(tmp_path) as file:
        for start in (1, 2, 3):
            window = newest(file)
            window.start = start
            lib.mql_slots_set_window(file.c, window)
        lib.mql_slots_set_window(file.c, window)
        if where == "start":
            window.start = wrong
        else:
            window.counts[where] = wrong
        window.crc = lib.mql_crc32c(0, window, 112)
        header = ffi.buffer(file.c.header, PAGE)
        at = 0x80 + 128 * (window.sequence & 1)
        header[at : at + 128] = ffi.buffer(window)[:]
        assert (newest(file).sequence, newest(file).start) == (3, 3)
        after, before = (ffi.new("mql_format_share_window *") for _ in range(2))
        after.sequence = window.sequence + 1
        assert not lib.mql_slots_window_before(file.c, after, before)


def three_windows(tmp_path: Path) -> None:
    """Each goes over the one that does not count, and the last one counts."""
    before = ffi.new("mql_format_share_window *")
    for start in (3, 4, 5):
        with opened(tmp_path, create=False) as file:
            window = newest(file) if start > 3 else last_of(file)
            window.start = start
            with turns.writing_the_other(file.path, turns.WINDOWS):
                lib.mql_slots_set_window(file.c, window)
            assert newest(file).start == start
            assert lib.mql_slots_window_before(file.c, newest(file), before) or start == 3
            assert start == 3 or before.start == start - 1
    with opened(tmp_path, create=False) as file:
        assert newest(file).start == 5
        assert share_file.read(file.path.read_bytes()).window.start == 5


def last_of(file: File) -> Any:
    """The newest, or an empty one where both are damaged."""
    try:
        return newest(file)
    except Failed:
        return ffi.new("mql_format_share_window *")


def two_windows(tmp_path: Path, even: int | None, odd: int | None) -> None:
    """Two of these numbers; the even one says 2, the odd one 1."""
    with opened(tmp_path) as file:
        for start in (1, 2):
            window = newest(file)
            window.start = start
            lib.mql_slots_set_window(file.c, window)
        turns.plant(file.path, turns.WINDOWS, even, odd)


@pytest.mark.parametrize(("even", "odd", "counts"), turns.GREATEST)
def test_windows_behind_the_greatest_number_count(
    tmp_path: Path, even: int | None, odd: int | None, counts: int
) -> None:
    two_windows(tmp_path, even, odd)
    with opened(tmp_path, create=False) as file:
        assert newest(file).start == (2, 1)[counts]
    three_windows(tmp_path)


@pytest.mark.parametrize(("even", "odd", "counts"), turns.ROUND + turns.STRAY)
def test_of_two_windows_the_one_with_the_later_number_counts_in_its_own_place(
    tmp_path: Path, even: int, odd: int, counts: int | None
) -> None:
    two_windows(tmp_path, even, odd)
    with opened(tmp_path, create=False) as file:
        if counts is None:
            with pytest.raises(Failed) as failed:
                newest(file)
            assert failed.value.code == lib.MQL_E_CORRUPT
        else:
            assert newest(file).start == (2, 1)[counts]
            read = share_file.read(file.path.read_bytes())
            assert read.window.start == newest(file).start
    three_windows(tmp_path)


def test_a_window_is_written_within_what_a_group_can_come_to(tmp_path: Path) -> None:
    """A count that damage has brought to the bound does not make the next window a damaged one."""
    with opened(tmp_path) as file:
        window = newest(file)
        window.counts[lib.MQL_ACCEPTED] = lib.MQL_OFFSET_MAX + 256
        lib.mql_slots_set_window(file.c, window)
        assert newest(file).sequence == 1
        assert newest(file).counts[lib.MQL_ACCEPTED] == lib.MQL_OFFSET_MAX
