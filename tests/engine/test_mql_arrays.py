"""mql_arrays: growable arrays that several processes map, and heaps in two of them."""

import errno
import heapq
import os
import random
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.partition import Failed, check, ffi, lib

FIRST = {"DUE": 16, "DEADLINES": 16, "PAGES": 32, "HASH": 64}
TYPES = {
    "DUE": "mql_format_timer *",
    "DEADLINES": "mql_format_timer *",
    "PAGES": "mql_format_live_page *",
    "HASH": "uint32_t *",
}
DUE, DEADLINES = lib.MQL_LIVE_DUE, lib.MQL_LIVE_DEADLINES
NEVER = (1 << 63) - 1


class Arrays:
    """A live file opened on its own; a second opening is as another process's."""

    def __init__(self, where: Path, *, reset: bool = True) -> None:
        (where / "shares").mkdir(exist_ok=True)
        self.path = where / "shares" / "g.live"
        out = ffi.new("mql_os_file *")
        assert lib.mql_os_open_root(os.fsencode(where), out) == 0
        self.root = out[0]
        self.c = ffi.new("mql_arrays *")
        self.c.path = b"shares/g.live"
        check(lib.mql_arrays_open(self.c, self.root, 0o600))
        if reset:
            check(lib.mql_arrays_reset(self.c))
            for which in (DUE, DEADLINES):
                self.map.horizon[which] = self.map.next[which] = NEVER

    @property
    def map(self) -> Any:
        return self.c.map

    def at(self, name: str, index: int) -> Any:
        array = getattr(lib, f"MQL_LIVE_{name}")
        return ffi.cast(TYPES[name], lib.mql_arrays_at(self.c, array, index))

    def capacity(self, which: int) -> int:
        return int(lib.mql_arrays_capacity(self.c, which))

    def close(self) -> None:
        lib.mql_arrays_close(self.c)
        lib.mql_os_close(self.root)


@pytest.fixture
def arrays(tmp_path: Path) -> Iterator[Arrays]:
    opened = Arrays(tmp_path)
    yield opened
    opened.close()


@contextmanager
def file_size_limit(most: int) -> Iterator[None]:
    """No file grows beyond it: what a full disk is to the engine."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# -- arrays ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", FIRST)
def test_an_array_has_room_for_some_entries_at_once(arrays: Arrays, name: str) -> None:
    assert arrays.capacity(getattr(lib, f"MQL_LIVE_{name}")) == FIRST[name]


@pytest.mark.parametrize("name", FIRST)
def test_every_entry_of_every_part_has_a_place_of_its_own(arrays: Arrays, name: str) -> None:
    array, count = getattr(lib, f"MQL_LIVE_{name}"), 20 * FIRST[name] + 3
    check(lib.mql_arrays_grow(arrays.c, array, count))
    assert count <= arrays.capacity(array) <= 2 * count
    last = arrays.capacity(array)
    for index in range(last):
        ffi.buffer(arrays.at(name, index))[:4] = index.to_bytes(4, "little")
    assert [
        int.from_bytes(ffi.buffer(arrays.at(name, index))[:4], "little") for index in range(last)
    ] == list(range(last))


def test_arrays_that_grow_in_turn_do_not_meet(arrays: Arrays) -> None:
    chance, size = random.Random(4), dict(FIRST)
    for _ in range(12):
        name = chance.choice(list(FIRST))
        size[name] *= 2
        check(lib.mql_arrays_grow(arrays.c, getattr(lib, f"MQL_LIVE_{name}"), size[name]))
    for name, count in size.items():
        for index in range(count):
            ffi.memmove(arrays.at(name, index), (f"{name}{index}" + " " * 9).encode()[:4], 4)
    for name, count in size.items():
        for index in range(count):
            assert (
                ffi.buffer(arrays.at(name, index), 4)[:]
                == (f"{name}{index}" + " " * 9)[:4].encode()
            )
    assert arrays.path.stat().st_size == arrays.map.bytes


def test_what_one_process_adds_another_maps(tmp_path: Path, arrays: Arrays) -> None:
    other = Arrays(tmp_path, reset=False)
    check(lib.mql_arrays_map(other.c))
    growth = arrays.map.growth
    check(lib.mql_arrays_grow(arrays.c, DUE, 100))
    assert other.map.growth != growth
    assert (arrays.capacity(DUE), other.capacity(DUE)) == (128, 16)
    check(lib.mql_arrays_map(other.c))
    assert other.capacity(DUE) == 128
    for index in range(128):
        arrays.at("DUE", index).offset = 7 * index
    assert [other.at("DUE", index).offset for index in range(128)] == list(range(0, 896, 7))
    other.close()


def test_a_full_disk_leaves_an_array_as_it_was(arrays: Arrays) -> None:
    check(lib.mql_arrays_grow(arrays.c, DUE, 64))
    before = arrays.path.stat().st_size
    with file_size_limit(before), pytest.raises(Failed) as failed:
        check(lib.mql_arrays_grow(arrays.c, DUE, 10_000))
    assert failed.value.errno == errno.EFBIG
    assert arrays.path.stat().st_size == before
    assert arrays.capacity(DUE) >= 64
    check(lib.mql_arrays_grow(arrays.c, DUE, 10_000))
    assert arrays.capacity(DUE) >= 10_000


def test_another_file_of_the_same_name_is_not_touched(tmp_path: Path, arrays: Arrays) -> None:
    arrays.path.unlink()
    other = Arrays(tmp_path)
    before = other.path.read_bytes()
    assert lib.mql_arrays_grow(arrays.c, DUE, 1000) == lib.MQL_E_NOT_FOUND
    assert other.path.read_bytes() == before
    other.close()


def mappings_of(path: Path) -> int:
    return Path("/proc/self/maps").read_text().count(str(path))


def test_closing_again_unmaps_nothing(arrays: Arrays) -> None:
    check(lib.mql_arrays_grow(arrays.c, DUE, 1 << 16))
    assert mappings_of(arrays.path) > 5
    parts = [arrays.c.parts[DUE][part] for part in range(lib.MQL_LIVE_PARTS)]
    lib.mql_arrays_close(arrays.c)
    assert mappings_of(arrays.path) == 0
    assert any(parts[1:])
    assert not any(arrays.c.parts[DUE][part] for part in range(1, lib.MQL_LIVE_PARTS))


# -- heaps -----------------------------------------------------------------------------------------
def top(arrays: Arrays, which: int) -> tuple[int, int] | None:
    out = ffi.new("mql_format_timer *")
    return (out.time, out.offset) if lib.mql_arrays_top(arrays.c, which, out) else None


@pytest.mark.parametrize("seed", range(6))
def test_a_heap_gives_the_earliest_first(arrays: Arrays, seed: int) -> None:
    which = (DUE, DEADLINES)[seed % 2]
    chance, model = random.Random(seed), []
    check(lib.mql_arrays_grow(arrays.c, which, 4000))
    for offset in range(6000):
        if model and (chance.random() < 0.4 or len(model) == 3999):
            assert top(arrays, which) == heapq.heappop(model)
            lib.mql_arrays_pop(arrays.c, which)
        else:
            entry = (chance.choice([0, 5, chance.randrange(1000)]), offset)
            heapq.heappush(model, entry)
            lib.mql_arrays_push(arrays.c, which, *entry)
        assert arrays.map.next[which] == (model[0][0] if model else NEVER)
    while model:
        assert top(arrays, which) == heapq.heappop(model)
        lib.mql_arrays_pop(arrays.c, which)
    assert top(arrays, which) is None
    assert arrays.map.horizon[which] == NEVER


def test_the_other_heap_is_another(arrays: Arrays) -> None:
    lib.mql_arrays_push(arrays.c, DUE, 5, 1)
    lib.mql_arrays_push(arrays.c, DEADLINES, 3, 2)
    assert (top(arrays, DUE), top(arrays, DEADLINES)) == ((5, 1), (3, 2))


def test_what_was_pushed_last_can_be_taken_back(arrays: Arrays) -> None:
    for offset, time in enumerate([5, 9, 7]):
        lib.mql_arrays_push(arrays.c, DUE, time, offset)
    lib.mql_arrays_unpush(arrays.c, DUE, 1)  # not last: it stays, and is for its reader to judge
    assert arrays.map.timers[DUE] == 3
    lib.mql_arrays_unpush(arrays.c, DUE, 2)
    assert arrays.map.timers[DUE] == 2
    lib.mql_arrays_pop(arrays.c, DUE)
    lib.mql_arrays_unpush(arrays.c, DUE, 1)
    assert top(arrays, DUE) is None
    lib.mql_arrays_unpush(arrays.c, DUE, 1)
    assert arrays.map.next[DUE] == NEVER


def test_what_does_not_fit_lowers_the_horizon(arrays: Arrays) -> None:
    for offset in range(16):
        lib.mql_arrays_push(arrays.c, DUE, 100 + offset, offset)
    assert arrays.map.horizon[DUE] == NEVER
    for time in (500, 70, 300):
        lib.mql_arrays_push(arrays.c, DUE, time, 99)
    assert arrays.map.horizon[DUE] == 70
    assert arrays.map.horizon[DEADLINES] == NEVER
    assert arrays.map.timers[DUE] == 16
    assert top(arrays, DUE) == (100, 0)


def test_filtering_keeps_what_is_valid_and_the_order(arrays: Arrays) -> None:
    check(lib.mql_arrays_grow(arrays.c, DEADLINES, 1000))
    chance = random.Random(8)
    entries = [(chance.randrange(300), offset) for offset in range(900)]
    for entry in entries:
        lib.mql_arrays_push(arrays.c, DEADLINES, *entry)

    @ffi.callback("bool(void *, mql_format_timer *)")
    def valid(_context: Any, timer: Any) -> bool:
        return bool(timer.offset % 3 == 0)

    lib.mql_arrays_filter(arrays.c, DEADLINES, valid, ffi.NULL)
    kept = []
    while (entry := top(arrays, DEADLINES)) is not None:
        kept.append(entry)
        lib.mql_arrays_pop(arrays.c, DEADLINES)
    assert kept == sorted(entry for entry in entries if entry[1] % 3 == 0)
