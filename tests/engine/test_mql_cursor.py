"""mql_cursor: a reader's place over rolls, damage, retention and moments."""

import struct
import time
from pathlib import Path
from typing import Any

import pytest
from support.partition import (
    NOW,
    PAGE,
    Failed,
    Log,
    Store,
    check,
    ffi,
    flip,
    forge_end,
    headers_of,
    lib,
    log_file,
)

SMALL = {"segment_bytes": PAGE, "max_message_bytes": PAGE, "batch_bytes": PAGE}


def fill(log: Log, count: int, size: int = 400) -> None:
    for n in range(log.ends[1], log.ends[1] + count):
        log.append(value(n, size), timestamp=NOW + n)


def value(n: int, size: int = 400) -> bytes:
    return b"%d:" % n + b"v" * (size - len(b"%d:" % n))


def bases(log: Log) -> list[int]:
    return sorted(int(name[:20]) for name in log.files() if name.endswith(".log"))


def damages(found: list[Any]) -> list[tuple[str, int, int, int]]:
    return [
        (one.path, one.position, one.start, one.stop) for one in found if isinstance(one, Failed)
    ]


def offsets(found: list[Any]) -> list[int]:
    return [one[0] for one in found if not isinstance(one, Failed)]


def poke(log: Log, base: int, at: int, bit: int = 0) -> None:
    path = log.directory / log_file(base)
    with path.open("r+b") as file:
        data = file.read()
        file.seek(at)
        file.write(flip(data, at, bit)[at : at + 1])


# -- places ---------------------------------------------------------------------------------------
def test_a_cursor_gives_the_batch_that_holds_its_offset_wherever_it_is(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log(**SMALL)
        fill(log, 60)
        for start in range(60):
            cursor = log.cursor(start)
            assert cursor.next() == [(start, value(start))]
            assert cursor.offset == start + 1
            cursor.free()


def test_a_cursor_inside_a_batch_gives_the_records_from_there_on(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log()
        log.append(*[b"%d" % n for n in range(10)])
        assert log.read(7) == [(7, b"7"), (8, b"8"), (9, b"9")]


@pytest.mark.parametrize("offset", [-1, 4, 11, 2**62, -(2**63)])
def test_a_place_outside_the_log_is_refused_with_the_range(tmp_path: Path, offset: int):
    with Store(tmp_path / "s") as store:
        log = store.log()
        fill(log, 10)
        log.trim(5)
        cursor = log.cursor(6)
        for call in (
            lambda: log.cursor(offset),
            lambda: check(lib.mql_cursor_seek(cursor.c, offset)),
        ):
            with pytest.raises(Failed) as failed:
                call()
            assert failed.value.code == lib.MQL_E_RANGE
            assert (failed.value.start, failed.value.stop) == (5, 10)
        assert cursor.next() == [(6, value(6))], "it stands where it stood"
        cursor.free()


def test_a_cursor_at_the_end_gives_what_comes_also_over_rolls(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log(**SMALL)
        cursor = log.cursor(0)
        for n in range(50):
            assert cursor.next() is None
            fill(log, 1)
            assert cursor.next() == [(n, value(n))]
            if n % 10 == 5:
                log.sync()
        cursor.free()


def test_a_cursor_of_a_sync_topic_stops_at_the_durable_end_unless_told(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log()
        log.append(b"durable", flags=lib.MQL_DURABLE)
        log.append(b"visible")
        log.c.durability = lib.MQL_DURABILITY_SYNC
        assert log.values() == [b"durable"]
        assert log.read(flags=lib.MQL_TO_END) == [(0, b"durable"), (1, b"visible")]
        log.sync()
        assert log.values() == [b"durable", b"visible"]


# -- damage ---------------------------------------------------------------------------------------
def test_damage_is_raised_once_with_its_place_and_the_cursor_then_stands_behind_it(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log()
        fill(log, 10)
        at = headers_of(log.bytes()[: log.end[1]])[4][0]
        poke(log, 0, at + 100)
        cursor = log.cursor(0)
        for n in range(4):
            assert cursor.next() == [(n, value(n))]
        with pytest.raises(Failed) as failed:
            cursor.next()
        assert failed.value.code == lib.MQL_E_CORRUPT
        assert failed.value.path == f"t-0/{log_file(0)}"
        assert (failed.value.position, failed.value.start, failed.value.stop) == (at, 4, 5)
        assert cursor.offset == 5
        assert cursor.next() == [(5, value(5))]
        cursor.free()
        assert log.append(b"goes on") == 10


def test_damage_is_told_again_to_another_reader_and_after_a_seek(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log()
        fill(log, 10)
        poke(log, 0, 100)
        for _ in range(2):
            assert len(damages(log.read())) == 1
        cursor = log.cursor(0)
        cursor.drain()
        check(lib.mql_cursor_seek(cursor.c, 0))
        assert len(damages(cursor.drain())) == 1
        cursor.free()


@pytest.mark.slow
@pytest.mark.parametrize("shared", [1, 3])
def test_damage_in_any_batch_of_any_segment_loses_its_records_and_no_others(
    tmp_path: Path, shared: int
):
    with Store(tmp_path / "s") as store:
        log = store.log(**SMALL)
        for n in range(0, 60, shared):
            log.append(*[value(m) for m in range(n, n + shared)])
        log.sync()
        for base in bases(log):
            data = log.bytes(base)
            used = data if base != log.end[0] else data[: log.end[1]]
            for position, first, last, size, _ in headers_of(used):
                for place in (0, 8, 16, 20, 21, 57, 70, size - 1):
                    poke(log, base, position + place, 1)
                    found = log.read()
                    poke(log, base, position + place, 1)
                    where = (f"t-0/{log_file(base)}", position, first, last + 1)
                    assert damages(found) == [where], (base, position, place)
                    lost = set(range(first, last + 1))
                    assert set(offsets(found)) == set(range(60)) - lost


def test_a_flipped_epoch_is_found_though_no_crc_covers_it(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log()
        fill(log, 5)
        at = headers_of(log.bytes()[: log.end[1]])[2][0]
        for place in range(12, 16):
            poke(log, 0, at + place, 3)
            found = log.read()
            poke(log, 0, at + place, 3)
            assert damages(found) == [(f"t-0/{log_file(0)}", at, 2, 3)]
            assert offsets(found) == [0, 1, 3, 4]


def test_zeros_in_the_middle_of_the_log_are_damage(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log()
        fill(log, 10)
        headers = headers_of(log.bytes()[: log.end[1]])
        start, stop = headers[3][0], headers[6][0]
        ffi.memmove(log.c.active.map + start, bytes(stop - start), stop - start)
        found = log.read()
        assert damages(found) == [(f"t-0/{log_file(0)}", start, 3, 6)]
        assert offsets(found) == [0, 1, 2, 6, 7, 8, 9]


@pytest.mark.parametrize("left", ["nothing", "one batch", "half of the last"])
def test_a_missing_tail_of_a_sealed_segment_is_told_and_the_next_segment_is_read(
    tmp_path: Path, left: str
):
    with Store(tmp_path / "s") as store:
        log = store.log(**SMALL)
        fill(log, 30)
        log.sync()
        base, following = bases(log)[1:3]
        data = log.bytes(base)
        headers = headers_of(data)
        keep = {"nothing": 0, "one batch": headers[1][0]}.get(left, headers[-1][0] + 70)
        (log.directory / log_file(base)).write_bytes(data[:keep])
        first = {"nothing": base, "one batch": base + 1}.get(left, following - 1)
        where = headers[-1][0] if left == "half of the last" else keep
        found = log.read()
        assert damages(found) == [(f"t-0/{log_file(base)}", where, first, following)]
        assert offsets(found) == [n for n in range(30) if not first <= n < following]


def test_a_missing_segment_in_the_middle_is_told_as_missing_records(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log(**SMALL)
        fill(log, 30)
    with Store(tmp_path / "s") as store:
        log = store.log(**SMALL)
        base, following = bases(log)[2:4]
        (log.directory / log_file(base)).unlink()
    with Store(tmp_path / "s") as store:
        log = store.log(**SMALL)
        found = log.read()
        assert offsets(found) == [n for n in range(30) if not base <= n < following]
        assert [(start, stop) for _, _, start, stop in damages(found)] == [(base, following)]


def test_a_reader_that_starts_behind_damage_is_not_told_of_it(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log()
        fill(log, 8)
        at = headers_of(log.bytes()[: log.end[1]])[2][0]
        for place in (8, 16, 60):
            poke(log, 0, at + place, 1)
            assert log.read(5) == [(n, value(n)) for n in range(5, 8)], place
            poke(log, 0, at + place, 1)


@pytest.mark.parametrize("filling", [b"v", b"\0"])
@pytest.mark.parametrize("place,bit", [(9, 5), (10, 0), (10, 1), (11, 3), (24, 6), (26, 1)])
def test_a_length_or_last_offset_that_lies_leads_no_reader_behind_it_astray(
    tmp_path: Path, place: int, bit: int, filling: bytes
):
    """No CRC covers the length, and a search that checked none would go wherever it leads."""
    with Store(tmp_path / "s") as store:
        log = store.log()
        values = [value(n).replace(b"v", filling) for n in range(8)]
        for one in values:
            log.append(one)
        at = headers_of(log.bytes()[: log.end[1]])[2][0]
        poke(log, 0, at + place, bit)
        assert [log.read(n) for n in range(3, 8)] == [
            list(enumerate(values))[first:] for first in range(3, 8)
        ]
        assert damages(log.read()) == [(f"t-0/{log_file(0)}", at, 2, 3)]


def claim(log: Log, n: int, last: int) -> None:
    """The batch of offset n says that it goes up to `last`, and its CRC is right."""
    data = bytearray(log.bytes()[: log.end[1]])
    at, _, _, size, _ = headers_of(bytes(data))[n]
    struct.pack_into(">i", data, at + 23, last - n)
    covered = bytes(data[at + 21 : at + size])
    struct.pack_into(">I", data, at + 17, lib.mql_crc32c(0, covered, len(covered)))
    with (log.directory / log_file(0)).open("r+b") as file:
        file.write(data)


@pytest.mark.parametrize("read_only", [0, 1])
def test_a_batch_that_claims_offsets_over_the_logs_end_is_damage(tmp_path: Path, read_only: int):
    with Store(tmp_path / "s") as store:
        fill(store.log(), 4)
        claim(store.log(), 3, 1000)
    with Store(tmp_path / "s", read_only=read_only) as store:
        found = store.log().read()
        assert (offsets(found), [one[2:] for one in damages(found)]) == ([0, 1, 2], [(3, 4)])


def test_bytes_that_are_left_when_all_offsets_are_read_are_passed(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log()
        fill(log, 4)
        claim(log, 1, 3)
        cursor = log.cursor(0)
        assert cursor.drain() == [(n, value(n)) for n in (0, 1)], "and no damage"
        assert log.append(b"new") == 4
        assert cursor.drain() == [(4, b"new")]
        cursor.free()


@pytest.mark.parametrize("read_only", [0, 1])
def test_a_missing_last_segment_is_told_not_taken_for_the_end(tmp_path: Path, read_only: int):
    with Store(tmp_path / "s") as store:
        log = store.log(**SMALL)
        fill(log, 30)
        base = bases(log)[-1]
    (tmp_path / "s" / "t-0" / log_file(base)).unlink()
    with Store(tmp_path / "s", read_only=read_only) as store:
        found = store.log(**SMALL).read()
        assert offsets(found) == list(range(base))
        assert [(start, stop) for _, _, start, stop in damages(found)] == [(base, 30)]
        assert [row for row, *_ in store.recovered] == [6]


@pytest.mark.parametrize("position", [2**31 - 1, 2**62])
def test_no_batch_is_looked_for_behind_the_file(tmp_path: Path, position: int):
    """A checkpoint that lies says how far a read-only store has to look."""
    with Store(tmp_path / "s") as store:
        fill(store.log(), 3)
    forge_end(tmp_path / "s", position, 1000)
    begin = time.process_time()
    with Store(tmp_path / "s", read_only=1) as store:
        found = store.log().read()
        assert offsets(found) == [0, 1, 2]
        assert [(start, stop) for _, _, start, stop in damages(found)] == [(3, 1000)]
    assert time.process_time() - begin < 1.0


def test_where_the_end_is_said_to_be_in_no_segment_a_cursor_opens_where_one_comes_by(
    tmp_path: Path,
):
    with Store(tmp_path / "s") as store:
        log = store.log(**SMALL)
        fill(log, 30)
        second = bases(log)[1]
        assert len(bases(log)) > 2
    forge_end(tmp_path / "s", 41, 31, segment=second - 1)
    with Store(tmp_path / "s", read_only=1) as store:
        log = store.log(**SMALL)
        found = log.read()
        assert offsets(found) == list(range(30))
        assert [(start, stop) for _, _, start, stop in damages(found)] == [(30, 31)]
        for offset in range(30):
            cursor = log.cursor(offset)
            assert cursor.next() == [(offset, value(offset))]
            cursor.free()


# -- retention ------------------------------------------------------------------------------------
def test_a_reader_whose_segment_was_taken_away_is_told_the_range(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log(**SMALL)
        fill(log, 40)
        cursor = log.cursor(0)
        assert cursor.next() == [(0, value(0))]
        log.trim(35)
        with pytest.raises(Failed) as failed:
            cursor.drain()
        assert failed.value.code == lib.MQL_E_RANGE
        assert (failed.value.start, failed.value.stop) == (35, 40)
        check(lib.mql_cursor_seek(cursor.c, 35))
        assert offsets(cursor.drain()) == list(range(35, 40))
        cursor.free()


@pytest.mark.parametrize("entered", [False, True])
def test_a_reader_inside_a_batch_that_was_trimmed_in_part_is_told_the_range(
    tmp_path: Path, entered: bool
):
    """The batch is still there, as the log start is inside it."""
    with Store(tmp_path / "s") as store:
        log = store.log()
        log.append(b"first")
        log.append(*[b"%d" % n for n in range(1, 10)])
        cursor = log.cursor(0)
        if entered:
            assert cursor.next() == [(0, b"first")]
        log.trim(5)
        for _ in range(2):
            with pytest.raises(Failed) as failed:
                cursor.next()
            assert failed.value.code == lib.MQL_E_RANGE
            assert (failed.value.start, failed.value.stop) == (5, 10)
            assert cursor.offset == int(entered), "it stands where it stood"
        check(lib.mql_cursor_seek(cursor.c, 5))
        assert cursor.drain() == [(n, b"%d" % n) for n in range(5, 10)]
        cursor.free()


def test_leased_bytes_outlive_retention_and_the_store(tmp_path: Path):
    store = Store(tmp_path / "s")
    log = store.log(**SMALL)
    fill(log, 20)
    cursor, one, lease = log.cursor(0), ffi.new("mql_batch *"), ffi.new("mql_lease **")
    check(lib.mql_cursor_next(cursor.c, one))
    check(lib.mql_cursor_lease(cursor.c, lease))
    held = bytes(ffi.buffer(one.payload, one.payload_length))
    log.trim(20)
    cursor.free()
    store.close()
    store.free()
    assert bytes(ffi.buffer(one.payload, one.payload_length)) == held
    assert value(0) in held
    lib.mql_lease_free(lease[0])


# -- moments --------------------------------------------------------------------------------------
def seek_time(log: Log, timestamp: int) -> int:
    cursor, offset = log.cursor(), ffi.new("int64_t *")
    check(lib.mql_cursor_seek_time(cursor.c, timestamp, offset))
    assert cursor.offset == offset[0]
    cursor.free()
    return offset[0]


@pytest.mark.parametrize("when", ["open", "sealed", "reopened"])
def test_a_moment_is_the_first_batch_with_a_record_that_is_not_older(tmp_path: Path, when: str):
    stamps = [NOW + (n * 7919) % 101 for n in range(80)]
    store = Store(tmp_path / "s")
    log = store.log(segment_bytes=5 * PAGE, max_message_bytes=PAGE, batch_bytes=PAGE)
    for n, stamp in enumerate(stamps):
        log.append(value(n, 600), timestamp=stamp)
    if when != "open":
        log.sync()
    if when == "reopened":
        store.close()
        store.free()
        store = Store(tmp_path / "s")
        log = store.log(segment_bytes=5 * PAGE, max_message_bytes=PAGE, batch_bytes=PAGE)
    for moment in range(NOW - 2, NOW + 103):
        expected = next((n for n, stamp in enumerate(stamps) if stamp >= moment), 80)
        assert seek_time(log, moment) == expected, moment - NOW
    store.close()
    store.free()


# -- read-only ------------------------------------------------------------------------------------
def test_a_read_only_store_reads_the_same_and_lends_nothing(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log(**SMALL)
        fill(log, 30)
        written = log.read()
    with Store(tmp_path / "s", read_only=1) as store:
        log = store.log(**SMALL)
        assert log.read() == written
        cursor, one, lease = log.cursor(0), ffi.new("mql_batch *"), ffi.new("mql_lease **")
        check(lib.mql_cursor_next(cursor.c, one))
        assert lib.mql_cursor_lease(cursor.c, lease) == lib.MQL_END
        cursor.free()
        assert seek_time(log, NOW + 17) == 17


def test_a_read_only_store_beside_a_live_one_is_a_snapshot_of_its_end(tmp_path: Path):
    with Store(tmp_path / "s") as store:
        log = store.log(**SMALL)
        fill(log, 10)
        with Store(tmp_path / "s", read_only=1) as other:
            snapshot = other.log(**SMALL)
            fill(log, 10)
            assert offsets(snapshot.read()) == list(range(10))
            assert offsets(other.log(**SMALL).read()) == list(range(20)), "looked at again"


@pytest.mark.parametrize(
    ("place", "bit"),
    [*((place, 1) for place in (0, 8, 9, 10, 11, 16, 17, 30, 57, 70, 300)), (8, 7)],
)
def test_damage_in_a_segment_that_is_not_sealed_yet_loses_its_batch_alone(
    tmp_path: Path, place: int, bit: int
):
    """Its prepared space still stands behind its last batch; a length that lies is seen through."""
    with Store(tmp_path / "s") as store:
        log = store.log(**SMALL)
        fill(log, 20)
        assert bases(log)[1] == 8
        at = headers_of(log.bytes().rstrip(b"\0") + b"\0")[1][0]
        poke(log, 0, at + place, bit)
        for _ in range(2):
            found = log.read()
            assert damages(found) == [(f"t-0/{log_file(0)}", at, 1, 2)]
            assert offsets(found) == [n for n in range(20) if n != 1]
            log.sync()  # which seals it
        headers = headers_of(flip(log.bytes(), at + place, bit))
        assert len(headers) == 8, "sealed to its exact length, damage and all"
