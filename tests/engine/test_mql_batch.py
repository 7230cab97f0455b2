"""mql_batch: Kafka's RecordBatch v2, written, checked and walked in memory."""

import struct
import warnings
import weakref
from typing import NamedTuple

import pytest
from aiokafka.record import default_records as aiokafka_batch
from aiokafka.record import memory_records as aiokafka_memory
from hypothesis import given, settings
from hypothesis import strategies as st
from support import engine

with warnings.catch_warnings():  # kafka-python loads its schemas by a call that Python deprecates
    warnings.simplefilter("ignore", DeprecationWarning)
    from kafka.partitioner.default import murmur2
    from kafka.record import memory_records as kafka_memory

door = engine.load()
ffi, lib = door

NOW = 1_700_000_000_000
HEADER = lib.MQL_BATCH_HEADER
LIMIT = lib.MQL_BATCH_BYTES_MAX

GOLDEN_A = bytes.fromhex(
    "000000000000002a00000058000000070288da4efa0000000000020000018bcfe568000000018bcfe56805ffff"
    "ffffffffffffffffffffffff0000000314000000046b310476310024000a02010a68656c6c6f0402680278026e"
    "0110000504046b310100"
)
GOLDEN_B = bytes.fromhex(
    "0000000000000000000000380000000002d78a1d080000000000000000018bcfe568000000018bcfe56800ffff"
    "ffffffffffffffffffffffff000000010c000000010000"
)
GOLDEN_C = bytes.fromhex(
    "0000000000000064000000420000000002a1ac499f0030000000000000018bcfe568000000018bcfe568000000"
    "0000000003e80000ffffffff000000012000000008000000010c00000000000000"
)


class Record(NamedTuple):
    value: bytes | None = b""
    key: bytes | None = None
    headers: tuple[tuple[bytes, bytes | None], ...] = ()
    timestamp: int = NOW


RECORDS_A = [
    Record(b"v1", b"k1"),
    Record(b"hello", None, ((b"h", b"x"), (b"n", None)), NOW + 5),
    Record(None, b"k1", (), NOW - 3),
]


# -- to C and back --------------------------------------------------------------------------------
LENT = weakref.WeakKeyDictionary()  # what a C array points to lives as long as the array


def view(data, keep):
    if data is None:
        return (ffi.NULL, -1)
    keep.append(ffi.from_buffer("uint8_t[]", data))
    return (keep[-1], len(data))


def encoded(headers):
    out = b""
    for name, value in headers:
        length = -1 if value is None else len(value)
        size = lib.mql_batch_one_header_size(len(name), length)
        one = engine.exact(door, bytes(size))
        content = ffi.NULL if value is None else ffi.from_buffer("uint8_t[]", value)
        assert lib.mql_batch_one_header_encode(name, len(name), content, length, one) == size
        out += ffi.buffer(one, size)[:]
    return out


def c_records(records):
    keep = []
    out = ffi.new("mql_record[]", len(records))
    for one, record in zip(out, records, strict=True):
        one.key, one.value = view(record.key, keep), view(record.value, keep)
        one.headers = view(encoded(record.headers), keep)
        one.header_count = len(record.headers)
        one.timestamp = record.timestamp
    LENT[out] = keep
    return out


def c_values(values):
    keep = []
    out = ffi.new("mql_value[]", [view(value, keep) for value in values])
    LENT[out] = keep
    return out


def write(records, base_offset=0, epoch=0, now=NOW):
    """The batch that all the records make, and the maximum timestamp that the writer told."""
    given_records, size = c_records(records), ffi.new("int64_t *")
    fit = lib.mql_batch_fit_records(given_records, len(records), now, LIMIT, size)
    assert fit == len(records)
    out = engine.exact(door, b"\xaa" * size[0])
    told = lib.mql_batch_write_records(out, size[0], given_records, fit, now, base_offset, epoch)
    return ffi.buffer(out, size[0])[:], told


def write_values(values, base_offset=0, epoch=0, now=NOW):
    given_values, size = c_values(values), ffi.new("int64_t *")
    assert lib.mql_batch_fit_values(given_values, len(values), LIMIT, size) == len(values)
    out = engine.exact(door, b"\xaa" * size[0])
    told = lib.mql_batch_write_values(
        out, size[0], given_values, len(values), now, base_offset, epoch
    )
    assert told == now
    return ffi.buffer(out, size[0])[:]


def header_of(data):
    out = ffi.new("mql_batch_header *")
    lib.mql_batch_read_header(engine.exact(door, data[:HEADER]), out)
    return out


def implausible(data, room=None):
    """Why these bytes cannot be a batch, or None."""
    why = lib.mql_batch_implausible(header_of(data), len(data) if room is None else room)
    return None if why == ffi.NULL else ffi.string(why).decode()


def crc_right(data):
    return lib.mql_batch_crc_right(engine.exact(door, data), len(data))


def bytes_of(one, low, high):
    """A view's bytes; they must lie within [low, high)."""
    if one.length < 0:
        assert one.data == ffi.NULL and one.length == -1
        return None
    assert low <= one.data and one.data + one.length <= high, "outside the payload"
    return ffi.buffer(one.data, one.length)[:]


def headers_of(seen, low, high):
    rest = ffi.new("mql_value *", seen.headers)
    name, value = ffi.new("mql_value *"), ffi.new("mql_value *")
    out = []
    while (rc := lib.mql_batch_one_header_next(rest, name, value)) == lib.MQL_OK:
        out.append((bytes_of(name, low, high), bytes_of(value, low, high)))
    assert rc == lib.MQL_END and len(out) == seen.header_count
    return tuple(out)


class Damaged(Exception):
    """What the walker said, and the offsets it named."""


def start(header, payload, length):
    batch, walk = ffi.new("mql_batch *"), ffi.new("mql_walk *")
    for name in ("base_offset", "last_offset", "base_timestamp", "max_timestamp"):
        setattr(batch, name, getattr(header, name))
    batch.count, batch.attributes = header.count, header.attributes
    lib.mql_batch_walk_start(walk, batch, payload, length)
    return walk


def walk_payload(header, payload):
    """[(offset, record)], from a copy of the payload that ends where its memory ends."""
    low = engine.exact(door, payload)
    high = low + len(payload)
    walk, seen = start(header, low, len(payload)), ffi.new("mql_record_view *")
    out = []
    while (rc := lib.mql_batch_walk_next(walk, seen)) == lib.MQL_OK:
        key, value = bytes_of(seen.key, low, high), bytes_of(seen.value, low, high)
        record = Record(value, key, headers_of(seen, low, high), seen.timestamp)
        out.append((seen.offset, record))
    if rc != lib.MQL_END:
        assert lib.mql_batch_walk_next(walk, seen) == rc == lib.MQL_E_CORRUPT
        last = lib.mql_error_last()
        assert (last.code, last.position, ffi.string(last.path)) == (rc, -1, b"")
        raise Damaged(ffi.string(last.text).decode(), last.start, last.stop)
    assert lib.mql_batch_walk_next(walk, seen) == lib.MQL_END
    return out


def walk(data):
    return walk_payload(header_of(data), data[HEADER:])


def read(data):
    """As a reader of a file does: None where a check refuses the bytes."""
    if implausible(data) or header_of(data).size != len(data) or not crc_right(data):
        return None
    return walk(data)


# -- golden bytes ---------------------------------------------------------------------------------
def test_golden_batch_a_is_written_byte_for_byte():
    assert write(RECORDS_A, base_offset=42, epoch=7) == (GOLDEN_A, NOW + 5)


def test_golden_batch_a_is_built_from_its_parts_and_stamped():
    records = c_records(RECORDS_A)
    size = lib.mql_batch_records_size(records, 3, NOW)
    payload, header = engine.exact(door, bytes(size)), engine.exact(door, bytes(HEADER))
    assert lib.mql_batch_records_encode(records, 3, NOW, payload, size) == size
    rc = lib.mql_batch_header_build(records, 3, NOW, lib.MQL_NONE, payload, size, header)
    assert rc == lib.MQL_OK
    lib.mql_batch_stamp(header, 42, 7)
    assert ffi.buffer(header, HEADER)[:] + ffi.buffer(payload, size)[:] == GOLDEN_A


def test_golden_batch_b_is_written_byte_for_byte_both_ways():
    assert write([Record(b"")])[0] == GOLDEN_B
    assert write_values([b""]) == GOLDEN_B


def test_golden_batch_a_is_read():
    assert read(GOLDEN_A) == list(zip((42, 43, 44), RECORDS_A, strict=True))
    header = header_of(GOLDEN_A)
    assert (header.base_offset, header.last_offset, header.size) == (42, 44, 100)
    assert (header.base_timestamp, header.max_timestamp) == (NOW, NOW + 5)
    assert (header.epoch, header.count, header.magic, header.crc) == (7, 3, 2, 0x88DA4EFA)
    assert (header.attributes, header.producer_id) == (0, -1)


def test_golden_batch_c_a_commit_marker_is_read_like_any_other():
    assert read(GOLDEN_C) == [(100, Record(bytes(6), bytes.fromhex("00000001")))]
    header = header_of(GOLDEN_C)
    assert header.attributes & lib.MQL_BATCH_CONTROL
    assert header.producer_id == 1000


# -- writing --------------------------------------------------------------------------------------
def test_values_are_written_as_the_records_they_stand_for():
    for length in [*range(140), 255, 256, 257, 8179, 8180, 8191, 8192, 70_000]:
        value = bytes([length % 251]) * length
        for values in ([value], [value, None, value]):
            records = [Record(value) for value in values]
            assert write_values(values, 9, 3) == write(records, 9, 3)[0], length


def test_many_values_are_written_as_the_records_they_stand_for():
    values = [b"v" * (n % 90) if n % 7 else None for n in range(9000)]
    data = write_values(values, base_offset=5)
    assert data == write([Record(value) for value in values], base_offset=5)[0]
    assert read(data) == [(5 + n, Record(value)) for n, value in enumerate(values)]


def test_a_record_without_a_time_gets_the_time_of_the_call():
    records = [Record(b"a", timestamp=-(2**63)), Record(b"b", timestamp=NOW + 9)]
    data, told = write(records, now=NOW + 4)
    assert told == NOW + 9
    assert [record.timestamp for _, record in read(data)] == [NOW + 4, NOW + 9]


def test_times_as_far_apart_as_can_be_come_back():
    times = [2**63 - 1, -(2**63) + 1, 0, -1, 2**63 - 1]
    data, told = write([Record(b"", timestamp=time) for time in times])
    assert told == 2**63 - 1
    assert [record.timestamp for _, record in read(data)] == times


def test_a_batch_takes_as_many_values_as_fit_and_says_its_size():
    values, size = c_values([b"x" * 10] * 80), ffi.new("int64_t *")
    sizes = [0, *(len(write_values([b"x" * 10] * count)) for count in range(1, 81))]
    for limit in range(sizes[1], sizes[80] + 2):
        fit = lib.mql_batch_fit_values(values, 80, limit, size)
        assert size[0] == sizes[fit] <= limit
        assert fit == 80 or sizes[fit + 1] > limit


def test_a_batch_takes_as_many_records_as_fit_and_says_its_size():
    plain = [Record(b"x" * 9, b"k", ((b"h", None),), NOW + 100 * n) for n in range(40)]
    records, size = c_records(plain), ffi.new("int64_t *")
    sizes = [0, *(len(write(plain[:count])[0]) for count in range(1, 41))]
    for limit in range(sizes[1], sizes[40] + 2):
        fit = lib.mql_batch_fit_records(records, 40, NOW, limit, size)
        assert size[0] == sizes[fit] <= limit
        assert fit == 40 or sizes[fit + 1] > limit


def test_one_record_always_fits_and_the_caller_sees_its_size():
    size = ffi.new("int64_t *")
    assert lib.mql_batch_fit_values(c_values([b"x" * 500] * 2), 2, 1, size) == 1
    assert size[0] == len(write_values([b"x" * 500]))
    assert lib.mql_batch_fit_records(c_records([Record(b"x" * 500)] * 2), 2, NOW, 1, size) == 1
    assert size[0] == len(write([Record(b"x" * 500)])[0])


def test_records_that_do_not_fit_into_the_buffer_are_refused_with_both_sizes():
    records = c_records(RECORDS_A)
    out = engine.exact(door, b"\xaa" * 38)
    assert lib.mql_batch_records_encode(records, 3, NOW, out, 38) == lib.MQL_E_TOO_LARGE
    last = lib.mql_error_last()
    assert (last.code, last.start, last.stop) == (lib.MQL_E_TOO_LARGE, 39, 38)
    assert ffi.buffer(out, 38)[:] == b"\xaa" * 38


def test_no_records_take_no_bytes():
    assert lib.mql_batch_records_size(ffi.NULL, 0, NOW) == 0
    assert lib.mql_batch_records_encode(ffi.NULL, 0, NOW, ffi.NULL, 0) == 0


def test_more_than_a_batch_can_hold_is_refused():
    record = c_records([Record(b"")])
    record[0].value.length = LIMIT  # nothing reads so far
    assert lib.mql_batch_records_size(record, 1, NOW) == lib.MQL_E_TOO_LARGE
    last = lib.mql_error_last()
    assert last.start > last.stop == LIMIT


@pytest.mark.parametrize(
    ("count", "codec", "length", "code"),
    [
        (0, 0, 0, "ARGUMENT"),
        (2**31, 0, 0, "ARGUMENT"),
        (1, 5, 0, "ARGUMENT"),
        (1, -1, 0, "ARGUMENT"),
        (1, 0, LIMIT, "TOO_LARGE"),
        (1, 0, 2**64 - 1, "TOO_LARGE"),
    ],
)
def test_a_header_that_cannot_be_is_refused(count, codec, length, code):
    header = engine.exact(door, b"\xaa" * HEADER)
    records = c_records([Record()])
    rc = lib.mql_batch_header_build(records, count, NOW, codec, ffi.NULL, length, header)
    assert rc == getattr(lib, f"MQL_E_{code}")
    assert ffi.buffer(header, HEADER)[:] == b"\xaa" * HEADER


def test_a_compressed_payload_is_covered_by_the_crc_and_named_by_its_codec():
    records, payload = c_records(RECORDS_A), b"not really compressed"
    header = engine.exact(door, bytes(HEADER))
    rc = lib.mql_batch_header_build(records, 3, NOW, lib.MQL_LZ4, payload, len(payload), header)
    data = ffi.buffer(header, HEADER)[:] + payload
    assert rc == lib.MQL_OK and crc_right(data) and implausible(data) is None
    seen = header_of(data)
    assert (seen.attributes, seen.count, seen.max_timestamp) == (lib.MQL_LZ4, 3, NOW + 5)
    assert not crc_right(data[:-1] + b"?")


def test_a_stamp_moves_offset_and_epoch_and_leaves_the_crc_right():
    data = engine.exact(door, GOLDEN_A)
    lib.mql_batch_stamp(data, 2**62, -1)
    stamped = ffi.buffer(data, len(GOLDEN_A))[:]
    assert [offset for offset, _ in read(stamped)] == [2**62, 2**62 + 1, 2**62 + 2]
    assert header_of(stamped).epoch == -1
    assert stamped[16:] == GOLDEN_A[16:]


def test_a_batch_without_records_uses_up_its_offsets():
    for last in (100, 101, 100 + 2**31 - 1):
        out = engine.exact(door, b"\xaa" * HEADER)
        lib.mql_batch_write_empty(out, 100, last, 7)
        data = ffi.buffer(out, HEADER)[:]
        assert read(data) == []
        header = header_of(data)
        assert (header.base_offset, header.last_offset, header.count) == (100, last, 0)
        assert (header.base_timestamp, header.max_timestamp, header.epoch) == (-1, -1, 7)


# -- any records ----------------------------------------------------------------------------------
around_two_bytes_of_length = st.integers(8150, 8220).map(bytes)
some_bytes = st.none() | st.binary(max_size=80) | around_two_bytes_of_length
some_headers = st.lists(
    st.tuples(st.sampled_from([b"", b"a", b"\xc3\xa9", b"name" * 20]), st.none() | st.binary()),
    max_size=4,
).map(tuple)
some_records = st.lists(
    st.builds(Record, some_bytes, some_bytes, some_headers, st.integers(-1, 2**62)),
    min_size=1,
    max_size=5,
)
ANY = settings(derandomize=True, deadline=None, max_examples=40)


@given(some_records, st.integers(0, 2**62), st.integers(-1, 2**31 - 1))
@ANY
def test_any_records_come_back_as_they_were(records, base_offset, epoch):
    data, told = write(records, base_offset, epoch)
    assert told == max(record.timestamp for record in records)
    assert read(data) == [(base_offset + n, record) for n, record in enumerate(records)]
    assert header_of(data).epoch == epoch
    sized = lib.mql_batch_records_size(c_records(records), len(records), NOW)
    assert sized == len(data) - HEADER


# -- damage ---------------------------------------------------------------------------------------
def test_a_batch_cut_off_anywhere_is_no_batch():
    for length in range(HEADER, len(GOLDEN_A)):
        assert implausible(GOLDEN_A, room=length)
        assert not crc_right(GOLDEN_A[:length])
        with pytest.raises(Damaged):
            walk(GOLDEN_A[:length])
    assert not crc_right(GOLDEN_A[: HEADER - 1])


def test_values_cut_off_anywhere_are_damaged():
    data = write_values([b"v" * 20, b"v" * 70])
    for length in range(HEADER, len(data)):
        with pytest.raises(Damaged):
            walk(data[:length])


def test_a_batch_with_bytes_behind_its_last_record_is_damaged():
    with pytest.raises(Damaged, match="follow the last record"):
        walk(GOLDEN_A + b"\0")


@pytest.mark.parametrize("golden", [GOLDEN_A, GOLDEN_B, GOLDEN_C], ids="ABC")
def test_a_flipped_bit_is_found_or_says_nothing_about_the_records(golden):
    expected = [record for _, record in read(golden)]
    for bit in range(8 * len(golden)):
        data = bytearray(golden)
        data[bit // 8] ^= 1 << bit % 8
        found = read(bytes(data))
        if bit // 8 in range(8) or bit // 8 in range(12, 16):  # base offset, epoch
            assert found is None or [record for _, record in found] == expected
        else:
            assert found is None


def test_without_the_crc_a_flipped_bit_still_lets_no_read_outside():
    ended = {"damaged": 0, "whole": 0}
    for bit in range(8 * HEADER, 8 * len(GOLDEN_A)):
        data = bytearray(GOLDEN_A)
        data[bit // 8] ^= 1 << bit % 8
        try:
            assert len(walk(bytes(data))) == 3
            ended["whole"] += 1
        except Damaged:
            ended["damaged"] += 1
    assert all(ended.values())


@given(st.binary(max_size=60), st.integers(-2, 6), st.integers(-1, 8), st.booleans())
@settings(derandomize=True, deadline=None, max_examples=120)
def test_any_payload_whatever_ends_the_walk_inside_it(payload, count, last_delta, fixed):
    header = ffi.new("mql_batch_header *")
    header.base_offset, header.last_offset, header.count = 1000, 1000 + last_delta, count
    header.attributes = lib.MQL_BATCH_LOG_APPEND_TIME if fixed else 0
    try:
        offsets = [offset for offset, _ in walk_payload(header, payload)]
    except Damaged as damage:
        assert damage.args[1:] == (1000, 1000 + last_delta + 1)
        return
    assert len(offsets) == count and offsets == sorted(set(offsets))
    assert all(1000 <= offset <= 1000 + last_delta for offset in offsets)


def test_a_payload_that_changes_during_the_walk_still_lets_no_read_outside():
    for place in range(HEADER, len(GOLDEN_A)):
        for byte in (0x00, 0x01, 0x7E, 0x80, 0xFF):
            low, length = engine.exact(door, GOLDEN_A[HEADER:]), len(GOLDEN_A) - HEADER
            walk_of, seen = start(header_of(GOLDEN_A), low, length), ffi.new("mql_record_view *")
            assert lib.mql_batch_walk_next(walk_of, seen) == lib.MQL_OK
            ffi.memmove(
                low + place - HEADER, bytes([byte]) * (len(GOLDEN_A) - place), len(GOLDEN_A) - place
            )
            while (rc := lib.mql_batch_walk_next(walk_of, seen)) == lib.MQL_OK:
                bytes_of(seen.key, low, low + length)
                bytes_of(seen.value, low, low + length)
            assert rc in (lib.MQL_END, lib.MQL_E_CORRUPT)


# -- what the walker insists on -------------------------------------------------------------------
def varint(value):
    out = ffi.new("uint8_t[10]")
    return ffi.buffer(out, lib.mql_base_varint_put(out, value) - out)[:]


def body(time=0, delta=0, key=b"\x01", value=b"\x01", headers=b"\x00"):
    return b"\x00" + varint(time) + varint(delta) + key + value + headers


def record(*parts, grown=0, **fields):
    content = body(**fields) + b"".join(parts)
    return varint(len(content) + grown) + content


def batch(payload, count=1, last_delta=10, attributes=0):
    header = ffi.new("mql_batch_header *")
    header.base_offset, header.last_offset, header.count = 100, 100 + last_delta, count
    header.base_timestamp, header.max_timestamp, header.attributes = NOW, NOW + 77, attributes
    return walk_payload(header, payload)


def test_every_negative_length_of_a_key_or_value_means_null():
    for length in (-1, -2, -(2**31)):
        headers = varint(1) + varint(1) + b"n" + varint(length)
        payload = record(key=varint(length), value=varint(length), headers=headers)
        assert batch(payload) == [(100, Record(None, None, ((b"n", None),)))]


def test_a_length_in_more_bytes_than_it_needs_is_read():
    assert batch(record(value=b"\x82\x80\x80\x80\x00v")) == [(100, Record(b"v"))]


def test_the_attributes_of_a_record_say_nothing():
    payload = bytearray(record())
    payload[1] = 0xFF
    assert batch(bytes(payload)) == [(100, Record(None))]


def test_gaps_between_offsets_are_read_and_the_last_may_be_missing():
    payload = record(delta=2) + record(delta=3) + record(delta=9)
    assert [offset for offset, _ in batch(payload, 3)] == [102, 103, 109]


def test_a_batch_that_compaction_emptied_has_no_records():
    assert batch(b"", count=0) == []


def test_log_append_time_is_the_time_of_every_record():
    payload = record(time=5) + record(time=-5, delta=1)
    seen = batch(payload, 2, attributes=lib.MQL_BATCH_LOG_APPEND_TIME)
    assert [one.timestamp for _, one in seen] == [NOW + 77, NOW + 77]
    assert [one.timestamp for _, one in batch(payload, 2)] == [NOW + 5, NOW - 5]


ONE_HEADER = varint(1) + varint(1) + b"n" + varint(1) + b"v"
LONG = varint(20) + b"v" * 20  # what is as long as this and has no key is read by another way


@pytest.mark.parametrize(
    ("payload", "count"),
    [
        pytest.param(b"", 1, id="records-missing"),
        pytest.param(record(), 0, id="records-too-many"),
        pytest.param(record(), -1, id="count-negative"),
        pytest.param(record() + record(delta=1), 3, id="one-record-missing"),
        pytest.param(varint(-1) + body(), 1, id="length-negative"),
        pytest.param(varint(5) + body()[:5], 1, id="length-below-least"),
        pytest.param(record(grown=1), 1, id="length-past-payload"),
        pytest.param(record(grown=1) + record(delta=1), 2, id="length-past-record"),
        pytest.param(record(b"\0"), 1, id="byte-behind-record"),
        pytest.param(record(grown=-1), 1, id="length-short"),
        pytest.param(b"\xff" * 5 + body(), 1, id="length-malformed"),
        pytest.param(record(time=0, value=varint(2**31 - 1)), 1, id="value-past-record"),
        pytest.param(record(key=varint(3) + b"kk"), 1, id="key-past-record"),
        pytest.param(record(value=b"\x80" * 6), 1, id="value-length-malformed"),
        pytest.param(record(delta=-1), 1, id="offset-below-base"),
        pytest.param(record(delta=11), 1, id="offset-above-last"),
        pytest.param(record(delta=1) + record(delta=1), 2, id="offset-twice"),
        pytest.param(record(delta=2) + record(delta=1), 2, id="offset-falling"),
        pytest.param(record(headers=varint(-1)), 1, id="header-count-negative"),
        pytest.param(record(headers=varint(1)), 1, id="header-missing"),
        pytest.param(record(headers=varint(2**31 - 1)), 1, id="header-count-huge"),
        pytest.param(record(headers=varint(2) + ONE_HEADER[1:]), 1, id="header-too-few"),
        pytest.param(record(headers=varint(0) + ONE_HEADER[1:]), 1, id="header-too-many"),
        pytest.param(record(headers=varint(1) + varint(-1) + b"\x01"), 1, id="header-name-null"),
        pytest.param(record(headers=ONE_HEADER[:-1]), 1, id="header-value-cut"),
        pytest.param(record(headers=varint(1) + varint(9) + b"n"), 1, id="header-name-past"),
        pytest.param(record(value=LONG, headers=varint(1)), 1, id="long-header-missing"),
        pytest.param(record(b"\0", value=LONG), 1, id="long-byte-behind-record"),
        pytest.param(record(value=LONG, grown=-1), 1, id="long-length-short"),
        pytest.param(record(value=LONG, grown=1) + record(delta=1), 2, id="long-length-past"),
        pytest.param(record(value=LONG, delta=11), 1, id="long-offset-above-last"),
        pytest.param(record(value=LONG, delta=-1), 1, id="long-offset-below-base"),
        pytest.param(record(value=LONG) + record(value=LONG), 2, id="long-offset-twice"),
    ],
)
def test_a_record_that_breaks_a_rule_is_damage_with_the_offsets_of_its_batch(payload, count):
    with pytest.raises(Damaged) as damage:
        batch(payload, count)
    assert damage.value.args[1:] == (100, 111)


def test_offsets_at_the_end_of_all_numbers_do_not_wrap():
    header = ffi.new("mql_batch_header *")
    header.base_offset = header.last_offset = 2**63 - 1
    header.count = 2
    with pytest.raises(Damaged) as damage:
        walk_payload(header, record() + record(delta=1))
    assert damage.value.args[1:] == (2**63 - 1, 2**63 - 1)


def test_headers_cut_off_are_damage_and_leave_everything_as_it_was():
    for length in range(1, len(ONE_HEADER)):
        memory = engine.exact(door, ONE_HEADER[1 : 1 + length])
        rest = ffi.new("mql_value *", (memory, length))
        name, value = ffi.new("mql_value *", (ffi.NULL, 7)), ffi.new("mql_value *")
        whole = length == len(ONE_HEADER) - 1
        rc = lib.mql_batch_one_header_next(rest, name, value)
        assert rc == (lib.MQL_OK if whole else lib.MQL_E_CORRUPT)
        assert whole or (rest.data, rest.length, name.length) == (memory, length, 7)


# -- headers that cannot be -----------------------------------------------------------------------
FIELDS = {
    "base_offset": (0, "q"),
    "length": (8, "i"),
    "magic": (16, "b"),
    "attributes": (21, "h"),
    "last_delta": (23, "i"),
    "count": (57, "i"),
}


def altered(data, **fields):
    out = bytearray(data)
    for name, value in fields.items():
        struct.pack_into(">" + FIELDS[name][1], out, FIELDS[name][0], value)
    return bytes(out)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"magic": 1}, "magic"),
        ({"magic": 3}, "magic"),
        ({"attributes": 5}, "codec"),
        ({"attributes": 7}, "codec"),
        ({"length": 48}, "shorter"),
        ({"length": -1}, "shorter"),
        ({"length": -(2**31)}, "shorter"),
        ({"length": 2**31 - 1}, "longer"),
        ({"length": 89}, "end of its file"),
        ({"base_offset": -1}, "negative"),
        ({"base_offset": -(2**63)}, "negative"),
        ({"last_delta": -1}, "before its base"),
        ({"base_offset": 2**63 - 1}, "before its base"),
        ({"count": -1}, "count"),
        ({"count": 6}, "count"),
        ({"count": 2**31 - 1}, "count"),
    ],
)
def test_a_header_that_makes_no_sense_is_named(fields, word):
    assert word in implausible(altered(GOLDEN_A, **fields))


def test_a_header_that_may_be_unusual_is_let_through():
    assert implausible(GOLDEN_A) is None
    assert implausible(GOLDEN_A, room=2**40) is None
    assert implausible(altered(GOLDEN_B, count=0)) is None
    assert implausible(altered(GOLDEN_A, count=5)) is None
    assert implausible(altered(GOLDEN_A, attributes=lib.MQL_ZSTD, count=2**31 - 1)) is None
    assert implausible(altered(GOLDEN_A, attributes=0x7FF8)) is None
    assert implausible(altered(GOLDEN_A, base_offset=2**63 - 4)) is None
    assert "offset" in implausible(altered(GOLDEN_A, base_offset=2**63 - 3)), "none could follow"
    assert implausible(altered(GOLDEN_B, length=49, count=0), room=HEADER) is None


# -- independent implementations ------------------------------------------------------------------
MIXED = [
    Record(b"first", b"key", ((b"a", b"1"), (b"a", None), (b"", b"")), NOW),
    Record(None, b"", (), NOW - 1000),
    Record(b"", None, (("é".encode(), bytes(range(256))),), NOW + 70_000),
    Record(b"x" * 9000, b"y" * 64, (), NOW),
    *[Record(b"%d" % n, None, (), NOW + n) for n in range(200)],
]


def as_records(batches):
    return [
        (
            seen.offset,
            Record(
                None if seen.value is None else bytes(seen.value),
                None if seen.key is None else bytes(seen.key),
                tuple((name.encode(), value) for name, value in seen.headers),
                seen.timestamp,
            ),
        )
        for one in batches
        if one.validate_crc() or pytest.fail("CRC")
        for seen in one
    ]


def batches_of(memory_records):
    while memory_records.has_next():
        yield memory_records.next_batch()


@pytest.mark.parametrize(
    "reader",
    [kafka_memory.MemoryRecords, aiokafka_memory.MemoryRecords, aiokafka_memory._MemoryRecordsPy],
    ids=["kafka-python", "aiokafka", "aiokafka-in-python"],
)
def test_others_read_what_is_written_here(reader):
    data = write(MIXED, 1000)[0] + GOLDEN_A + write_values([b"a", None, b""], 5000)
    assert as_records(batches_of(reader(data))) == [
        *[(1000 + n, record) for n, record in enumerate(MIXED)],
        *[(42 + n, record) for n, record in enumerate(RECORDS_A)],
        *[(5000 + n, Record(value)) for n, value in enumerate([b"a", None, b""])],
    ]


def theirs_kafka(records):
    builder = kafka_memory.MemoryRecordsBuilder(2, 0, 1 << 30)
    for one in records:
        headers = [(name.decode(), value) for name, value in one.headers]
        assert builder.append(one.timestamp, one.key, one.value, headers)
    builder.close()
    return bytes(builder.buffer())


def theirs_aiokafka(builder):
    def build(records):
        made = builder(2, 0, 0, -1, -1, -1, 1 << 30)
        for offset, one in enumerate(records):
            headers = [(name.decode(), value) for name, value in one.headers]
            assert made.append(offset, one.timestamp, one.key, one.value, headers)
        return bytes(made.build())

    return build


@pytest.mark.parametrize(
    "build",
    [
        theirs_kafka,
        theirs_aiokafka(aiokafka_batch.DefaultRecordBatchBuilder),
        theirs_aiokafka(aiokafka_batch._DefaultRecordBatchBuilderPy),
    ],
    ids=["kafka-python", "aiokafka", "aiokafka-in-python"],
)
def test_what_others_write_is_read_here_and_is_the_same_bytes(build):
    data = build(MIXED)
    assert read(data) == list(enumerate(MIXED))
    mine = write(MIXED, epoch=header_of(data).epoch)[0]
    assert data == mine


def test_keys_go_to_the_partitions_that_others_send_them_to():
    keys = [b"", b"a", b"key", "schlüssel".encode(), "鍵".encode(), bytes(range(256))]
    keys += [bytes([n]) * length for length in range(40) for n in (0, 1, 0x7F, 0x80, 0xFF)]
    keys += [b"%d" % n for n in range(2000)]
    for key in keys:
        positive = murmur2(key) & 0x7FFFFFFF
        for partitions in (1, 2, 12, 10_000, 2**31 - 1):
            mine = lib.mql_batch_partition_for(engine.exact(door, key), len(key), partitions)
            assert mine == positive % partitions, key
