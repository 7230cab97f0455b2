"""mql_segment: walking batches over every kind of damage, finding a place, sealing."""

import os
import random
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.partition import (
    DIRECTORY,
    NOW,
    PAGE,
    Failed,
    batch,
    check,
    ffi,
    flip,
    headers_of,
    kafkas_indexes,
    lib,
    log_file,
    sized,
    stamped,
)

BASE = 1000
MOST = lib.MQL_BATCH_BYTES_MAX
BATCHES = [
    batch(1000, b"a", b"bb"),
    batch(1002, b"c" * 40),
    batch(1003, None, b"", b"d"),
    batch(1006, b"e"),
]
DATA = b"".join(BATCHES)
STARTS = [sum(map(len, BATCHES[:n])) for n in range(len(BATCHES) + 1)]
OFFSETS = [1000, 1002, 1003, 1006, 1007]


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / DIRECTORY).mkdir()
    yield tmp_path


LENT = weakref.WeakKeyDictionary()


class Segment:
    """A segment file, opened as writers have it (mapped) or as read-only stores do."""

    def __init__(self, root: Path, data: bytes | None, base: int = BASE, **how: Any) -> None:
        self.path = root / DIRECTORY / log_file(base)
        if data is not None:
            self.path.write_bytes(data)
        self.root = root
        self.base = base
        self.fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        self.directory = ffi.new("char[]", DIRECTORY.encode())
        fields = {"root": self.fd, "directory": self.directory, "writable": True} | how
        self.options = ffi.new("mql_segment_options *", fields)
        out = ffi.new("mql_segment **")
        self.c = ffi.NULL
        check(lib.mql_segment_open(self.options, base, out))
        self.c = out[0]
        self.window = ffi.new("mql_segment_window *")

    def walk(self, **fields: Any) -> Any:
        walk = ffi.new("mql_segment_walk *")
        walk.segment, walk.window = self.c, self.window
        walk.limit = self.c.length
        walk.expected, walk.max_size, walk.verify = self.base, MOST, True
        for name, value in fields.items():
            setattr(walk, name, value)
        LENT[walk] = fields
        return walk

    def seal(self, next_base: int) -> None:
        freed = ffi.new("int64_t *")
        check(lib.mql_segment_seal(self.options, self.base, next_base, 0o600, freed))
        assert freed[0] >= 0

    def close(self) -> None:
        if self.c != ffi.NULL:
            lib.mql_segment_window_free(self.window)
            lib.mql_segment_release(self.c)
        os.close(self.fd)

    def __enter__(self) -> "Segment":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


WAYS = [{"writable": True}, {"writable": False, "read_only": True}]
ways = pytest.mark.parametrize("how", WAYS, ids=["mapped", "read-only"])


def walked(walk: Any) -> tuple[list[int], int, int]:
    """Base offsets of the batches that the walk gives, how it ended, and the row."""
    out = []
    while (rc := lib.mql_segment_walk_next(walk)) == lib.MQL_OK:
        out.append(walk.header.base_offset)
        assert bytes(ffi.buffer(walk.bytes, 8)) == walk.header.base_offset.to_bytes(8, "big")
        assert walk.position == walk.at + walk.header.size
    return out, rc, walk.row


# -- walking --------------------------------------------------------------------------------------
@ways
def test_a_walk_gives_every_batch_and_ends_at_the_end_of_the_file(root: Path, how: Any):
    with Segment(root, DATA, **how) as segment:
        assert walked(segment.walk()) == (OFFSETS[:-1], lib.MQL_END, 1)


@ways
@pytest.mark.parametrize("zeros", [1, 60, 61, PAGE, 70 * PAGE])
def test_zeros_behind_the_last_batch_are_the_end(root: Path, how: Any, zeros: int):
    with Segment(root, DATA + bytes(zeros), **how) as segment:
        assert walked(segment.walk()) == (OFFSETS[:-1], lib.MQL_END, 2)


@ways
def test_every_truncation_gives_the_whole_batches_before_it(root: Path, how: Any):
    for length in range(len(DATA)):
        whole = sum(1 for end in STARTS[1:] if end <= length)
        with Segment(root, DATA[:length], **how) as segment:
            found, rc, row = walked(segment.walk())
        assert found == OFFSETS[:whole], length
        left = length - STARTS[whole]
        if left == 0:
            assert (rc, row) == (lib.MQL_END, 1), length
        elif not any(DATA[STARTS[whole] : length]):
            assert (rc, row) == (lib.MQL_END, 2), length
        else:
            assert (rc, row) == (lib.MQL_E_CORRUPT, 3 if left < 61 else 4), length


@ways
@pytest.mark.slow
def test_every_flipped_bit_is_noticed_at_its_batch_or_lies_outside_the_crc(root: Path, how: Any):
    """What no CRC covers and no offset tells (the epoch) is the caller's to compare."""
    for at in range(len(DATA)):
        hit = max(n for n, start in enumerate(STARTS[:-1]) if start <= at)
        in_epoch = 12 <= at - STARTS[hit] < 16
        for bit in range(8):
            with Segment(root, flip(DATA, at, bit), **how) as segment:
                walk = segment.walk()
                found, rc, row = walked(walk)
                if in_epoch:
                    assert found == OFFSETS[:-1], (at, bit)
                    continue
                assert found == OFFSETS[:hit], (at, bit)
                assert (rc, walk.position) == (lib.MQL_E_CORRUPT, STARTS[hit]), (at, bit)
                assert row in (4, 5)
                assert ffi.string(walk.wrong)


def test_a_batch_with_another_offset_is_refused_unless_gaps_may_be(root: Path):
    later = DATA[: STARTS[1]] + stamped(BATCHES[1], base=1010)
    earlier = DATA[: STARTS[1]] + stamped(BATCHES[1], base=1001)
    for data, gaps, count in ((later, False, 1), (later, True, 2), (earlier, True, 1)):
        with Segment(root, data) as segment:
            found, *_ = walked(segment.walk(gaps=gaps))
            assert len(found) == count
    with Segment(root, later) as segment:
        assert walked(segment.walk(expected=-1))[0] == [1000], "any only for the first"


def test_an_unverified_walk_takes_no_crcs(root: Path):
    data = flip(DATA, STARTS[2] - 1)
    with Segment(root, data) as segment:
        assert walked(segment.walk(verify=False))[0] == OFFSETS[:-1]


def test_a_walk_ends_at_its_limit_and_believes_no_batch_over_it(root: Path):
    with Segment(root, DATA) as segment:
        assert walked(segment.walk(limit=STARTS[2])) == (OFFSETS[:2], lib.MQL_END, 1)
        assert walked(segment.walk(limit=STARTS[2] + 63))[1:] == (lib.MQL_E_CORRUPT, 4)
        assert walked(segment.walk(max_size=len(BATCHES[1]) - 1))[0] == OFFSETS[:1]


def test_a_file_that_shrinks_under_a_reader_of_copies_is_damage_and_no_signal(root: Path):
    with Segment(root, DATA, **WAYS[1]) as segment:
        walk = segment.walk()
        segment.path.write_bytes(DATA[: STARTS[1]])
        found, rc, _ = walked(walk)
        assert (found, rc) == (OFFSETS[:1], lib.MQL_E_CORRUPT)


@ways
def test_random_bytes_are_survived(root: Path, how: Any):
    rng = random.Random(5)
    for _ in range(200):
        data = bytearray(rng.randbytes(rng.randrange(600)))
        for _ in range(3):  # something that looks like a header now and then
            if len(data) > 100:
                at = rng.randrange(len(data) - 60)
                data[at : at + 17] = DATA[:17]
        with Segment(root, bytes(data), **how) as segment:
            walk = segment.walk(gaps=bool(rng.getrandbits(1)))
            for _ in range(50):
                rc = lib.mql_segment_walk_next(walk)
                if rc == lib.MQL_E_CORRUPT:
                    rc = lib.mql_segment_resync(walk, rng.choice([1003, 2**62]))
                if rc != lib.MQL_OK:
                    break
            lib.mql_segment_holds_more(segment.walk())
            lib.mql_segment_find(segment.walk(verify=False), rng.randrange(999, 1010))


# -- behind damage --------------------------------------------------------------------------------
@ways
def test_behind_damage_the_next_batch_of_the_log_is_found(root: Path, how: Any):
    for hit in range(3):
        for at in (8, 13, 20, 30, 60):
            if at == 13:
                continue
            with Segment(root, flip(DATA, STARTS[hit] + at, 1), **how) as segment:
                walk = segment.walk()
                walked(walk)
                assert lib.mql_segment_resync(walk, OFFSETS[-1]) == lib.MQL_OK
                assert (walk.position, walk.expected) == (STARTS[hit + 1], OFFSETS[hit + 1])
                assert walked(walk)[0] == OFFSETS[hit + 1 : -1]


def test_behind_damage_of_the_last_batch_there_is_nothing(root: Path):
    with Segment(root, flip(DATA, STARTS[3] + 30)) as segment:
        walk = segment.walk()
        walked(walk)
        assert lib.mql_segment_resync(walk, OFFSETS[-1]) == lib.MQL_END


def nested(follows: int, **stamps: int) -> tuple[bytes, int]:
    """A log whose second batch is damaged and carries, in its value, a batch that fits the log."""
    inside = batch(stamps.get("base", 1003), *[b"forged"] * stamps.get("count", 1))
    value = b"before" * 20 + inside + b"after" * 20
    first, second = batch(1000, b"a", b"bb"), batch(1002, value)
    rest = batch(1003, b"genuine", b"genuine", b"genuine") + batch(1006, b"last")
    data = first + flip(second, 30) + rest[: len(rest) if follows else 0]
    return data, len(first) + len(second)


@ways
@pytest.mark.parametrize("base", [1002, 1003, 1004, 1005, 1006])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_batch_inside_a_value_is_never_taken_for_one_of_the_log(
    root: Path, how: Any, base: int, count: int
):
    data, behind = nested(1, base=base, count=count)
    with Segment(root, data, **how) as segment:
        walk = segment.walk()
        assert walked(walk)[0] == [1000]
        assert lib.mql_segment_resync(walk, 1007) == lib.MQL_OK
        assert (walk.position, walk.expected) == (behind, 1003)


@pytest.mark.parametrize("base", [1003, 1004, 1006])
def test_a_batch_inside_the_value_of_the_last_batch_is_never_taken_either(root: Path, base: int):
    data, _ = nested(0, base=base)
    with Segment(root, data) as segment:
        walk = segment.walk()
        assert walked(walk)[0] == [1000]
        assert lib.mql_segment_resync(walk, 1003) == lib.MQL_END


@ways
@pytest.mark.parametrize("zeros", [0, 5, 61, 200])
def test_a_batch_at_the_end_of_the_last_value_is_not_the_end_of_the_log(
    root: Path, how: Any, zeros: int
):
    """Only zeros stand behind it (the record's own last byte is one), and its offset is right."""
    value = b"before" * 20 + batch(1006, b"forged") + bytes(zeros)
    first, last = batch(1000, b"a", b"bb"), batch(1002, b"", b"", b"", b"", value)
    with Segment(root, first + flip(last, 30), **how) as segment:
        walk = segment.walk()
        assert walked(walk)[0] == [1000]
        assert lib.mql_segment_resync(walk, 1007) == lib.MQL_END


def test_a_whole_batch_anywhere_behind_is_noticed_and_torn_ones_are_not(root: Path):
    with Segment(root, b"\xff" * 100 + BATCHES[1] + b"\0" * 9) as segment:
        assert lib.mql_segment_holds_more(segment.walk())
    with Segment(root, b"\xff" * 100 + BATCHES[1][:-1]) as segment:
        assert not lib.mql_segment_holds_more(segment.walk())


# -- finding --------------------------------------------------------------------------------------
def long_segment(seed: int = 3) -> tuple[bytes, list[tuple[int, int, int]]]:
    """Some 60 KiB of batches, each as (position, base offset, last offset)."""
    rng, data, offset = random.Random(seed), b"", BASE
    while len(data) < 60_000:
        count = rng.randrange(1, 4)
        data += sized(offset, rng.randrange(200, 3000), count, timestamp=NOW + offset)
        offset += count
    return data, [(at, base, last) for at, base, last, _, _ in headers_of(data)]


def index_of(segment: Segment, data: bytes) -> Any:
    offsets, times = kafkas_indexes(data, BASE)
    (segment.root / DIRECTORY / log_file(BASE, ".index")).write_bytes(offsets)
    (segment.root / DIRECTORY / log_file(BASE, ".timeindex")).write_bytes(times)
    lib.mql_segment_open_index(segment.c, segment.options)
    assert segment.c.index_open
    return ffi.addressof(segment.c.index.offsets)


@ways
@pytest.mark.parametrize("indexed", [False, True])
def test_an_offset_is_found_in_its_batch_with_and_without_an_index(
    root: Path, how: Any, indexed: bool
):
    data, batches = long_segment()
    with Segment(root, data + bytes(PAGE), **how) as segment:
        fields = {}
        if indexed:
            file = index_of(segment, data)
            fields = {"index": file, "index_count": lib.mql_index_count_offsets(file)}
        for position, base, last in batches:
            for offset in {base, last}:
                walk = segment.walk(**fields)
                lib.mql_segment_find(walk, offset)
                assert (walk.position, walk.expected) == (position, base)
                assert walk.verify, "as it was"
        walk = segment.walk(**fields)
        lib.mql_segment_find(walk, batches[-1][2] + 1)
        assert (walk.position, walk.expected) == (len(data), batches[-1][2] + 1)


@ways
def test_an_index_that_lies_leads_nowhere_else(root: Path, how: Any):
    """Each entry is held against the batch that it names before it is used."""
    data, batches = long_segment()
    offsets, _ = kafkas_indexes(data, BASE)
    rng = random.Random(7)
    with Segment(root, data, **how) as segment:
        file = index_of(segment, data)
        count = lib.mql_index_count_offsets(file)
        for _ in range(200):
            hit = flip(offsets, rng.randrange(len(offsets)), rng.randrange(8))
            memory = ffi.new("uint8_t[]", hit)
            lying = ffi.new("mql_index_file *", {"bytes": memory, "length": len(hit)})
            position, base, last = rng.choice(batches)
            walk = segment.walk(index=lying, index_count=count)
            lib.mql_segment_find(walk, last)
            assert (walk.position, walk.expected) == (position, base)


def test_damage_before_the_offset_is_passed_over_and_damage_at_it_is_where_it_stands(root: Path):
    with Segment(root, flip(DATA, STARTS[1] + 8)) as segment:
        walk = segment.walk()
        lib.mql_segment_find(walk, 1003)
        assert (walk.position, walk.expected) == (STARTS[2], 1003)
        lib.mql_segment_find(walk := segment.walk(), 1002)
        assert (walk.position, walk.expected) == (STARTS[1], 1002)


# -- opening --------------------------------------------------------------------------------------
@ways
def test_a_missing_segment_is_not_found(root: Path, how: Any):
    segment = None
    with pytest.raises(Failed) as failed:
        segment = Segment(root, None, **how)
    assert segment is None
    assert failed.value.code == lib.MQL_E_NOT_FOUND


@ways
def test_a_segment_over_the_limit_of_kafka_is_refused(root: Path, how: Any):
    path = root / DIRECTORY / log_file(BASE)
    path.touch()
    os.truncate(path, 2**31)
    with pytest.raises(Failed) as failed:
        Segment(root, None, **how)
    assert failed.value.code == lib.MQL_E_FORMAT


@pytest.mark.parametrize("kind", ["directory", "link", "fifo"])
def test_what_is_no_regular_file_is_no_segment(root: Path, kind: str):
    path = root / DIRECTORY / log_file(BASE)
    {"directory": path.mkdir, "link": lambda: path.symlink_to("/etc/passwd")}.get(
        kind, lambda: os.mkfifo(path)
    )()
    with pytest.raises(Failed) as failed:
        Segment(root, None)
    assert failed.value.code == lib.MQL_E_OS


def test_a_mapping_lives_as_long_as_its_last_reference_and_past_its_file(root: Path):
    with Segment(root, DATA) as segment:
        held = lib.mql_segment_retain(segment.c)
        segment.path.unlink()
        with pytest.raises(Failed):
            check(lib.mql_segment_refresh(held, segment.options))
    assert bytes(ffi.buffer(held.map, len(DATA))) == DATA
    lib.mql_segment_release(held)


# -- sealing --------------------------------------------------------------------------------------
def files(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / DIRECTORY).iterdir()}


@pytest.mark.parametrize("zeros", [0, 1, 61, 5 * PAGE])
def test_sealing_leaves_exact_lengths_and_kafkas_indexes_and_may_be_done_again(
    root: Path, zeros: int
):
    data, batches = long_segment()
    with Segment(root, data + bytes(zeros)) as segment:
        for _ in range(3):
            segment.seal(batches[-1][2] + 1)
            offsets, times = kafkas_indexes(data, BASE)
            assert files(root) == {
                log_file(BASE): data,
                log_file(BASE, ".index"): offsets,
                log_file(BASE, ".timeindex"): times,
            }


def test_sealing_goes_on_from_the_indexes_that_are_there(root: Path):
    """Half written, missing, or over-long with zeros: the result is the same."""
    data, batches = long_segment()
    offsets, times = kafkas_indexes(data, BASE)
    for some in range(len(offsets) // 8):
        for zeros in (0, PAGE):
            with Segment(root, data + bytes(PAGE)) as segment:
                index = root / DIRECTORY / log_file(BASE, ".index")
                time_index = root / DIRECTORY / log_file(BASE, ".timeindex")
                index.write_bytes(offsets[: some * 8] + bytes(zeros))
                time_index.write_bytes(times[: max(0, some - zeros // PAGE) * 12] + bytes(zeros))
                segment.seal(batches[-1][2] + 1)
                found = files(root)
                assert found[log_file(BASE)] == data
                assert found[log_file(BASE, ".index")] == offsets, (some, zeros)
                assert found[log_file(BASE, ".timeindex")] == times, (some, zeros)


def test_sealing_with_damaged_indexes_leaves_the_log_exact(root: Path):
    data, batches = long_segment()
    given = dict(zip((".index", ".timeindex"), kafkas_indexes(data, BASE), strict=True))
    rng = random.Random(11)
    for suffix in (".index", ".timeindex") * 20:
        with Segment(root, data + bytes(PAGE)) as segment:
            for name, whole in given.items():
                hit = flip(whole, rng.randrange(len(whole)), rng.randrange(8))
                (root / DIRECTORY / log_file(BASE, name)).write_bytes(
                    hit if name == suffix else whole
                )
            segment.seal(batches[-1][2] + 1)
        assert files(root)[log_file(BASE)] == data


def test_sealing_a_damaged_tail_leaves_the_log_as_it_is(root: Path):
    damaged = flip(DATA, STARTS[3] + 8) + bytes(PAGE)
    with Segment(root, damaged) as segment:
        segment.seal(1007)
    assert files(root)[log_file(BASE)] == damaged


def test_sealing_leaves_what_is_not_zeros_behind_the_last_batch(root: Path):
    for behind in (bytes(PAGE) + b"\1", batch(1007, b"one more")):
        with Segment(root, DATA + behind) as segment:
            segment.seal(1007)
        assert files(root)[log_file(BASE)] == DATA + behind


def test_sealing_over_damage_in_the_middle_cuts_the_zeros_behind_the_end(root: Path):
    damaged = flip(DATA, STARTS[1] + 70)
    with Segment(root, damaged + bytes(PAGE)) as segment:
        segment.seal(1007)
    assert files(root)[log_file(BASE)] == damaged


def test_sealing_a_segment_that_retention_took_is_nothing(root: Path):
    with Segment(root, DATA) as segment:
        segment.path.unlink()
        segment.seal(1007)


def test_sealing_an_empty_segment_leaves_it_empty(root: Path):
    with Segment(root, bytes(PAGE)) as segment:
        segment.seal(BASE)
    assert files(root)[log_file(BASE)] == b""
